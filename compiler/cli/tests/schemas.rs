//! Every JSON output has a schema: the files in docs/schemas are what the tool prints, and what commands print is as they say.
//! `BLESS_SCHEMAS=1` writes the files.

mod support;

use jsonschema::Validator;
use serde_json::{Value, json};
use support::{Folder, text, workspace};

const NAMES: [&str; 10] = [
    "diagnostic",
    "run",
    "plan",
    "plan-comparison",
    "plan-search",
    "simulation",
    "placement",
    "bundle",
    "ptx-check",
    "ptx-run",
];

fn schema(name: &str) -> Value {
    serde_json::from_str(&Folder::new().succeeds(&["schema", name])).expect("JSON")
}

/// Allows no name that a schema does not know: tools must live with new names, this test must not.
fn close(schema: &mut Value, part_of_object: bool) {
    if let Value::Array(entries) = schema {
        entries.iter_mut().for_each(|entry| close(entry, part_of_object));
        return;
    }
    let Value::Object(entries) = schema else { return };
    let object = entries.contains_key("properties");
    for (key, value) in entries.iter_mut() {
        match (key.as_str(), value) {
            ("properties" | "$defs", Value::Object(named)) => named.values_mut().for_each(|one| close(one, false)),
            // Forms of the same object.
            ("oneOf", forms) => close(forms, object),
            (_, value) => close(value, false),
        }
    }
    if object && !part_of_object {
        entries.insert("unevaluatedProperties".into(), false.into());
    }
}

fn closed(name: &str) -> Validator {
    let mut schema = schema(name);
    close(&mut schema, false);
    jsonschema::validator_for(&schema).expect("a schema of the draft that it names")
}

fn assert_valid(name: &str, documents: &[Value]) {
    let validator = closed(name);
    for document in documents {
        let wrong: Vec<String> =
            validator.iter_errors(document).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(wrong.is_empty(), "{name}: {wrong:#?}");
    }
}

/// What commands print with `--format json`; a plan that does not fit is printed too, with status 1.
fn printed(folder: &Folder, runs: &[&[&str]]) -> Vec<Value> {
    let print = |arguments: &&[&str]| {
        let output = folder.run(&[*arguments, &["--format", "json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{arguments:?}: {}", text(&output.stderr)))
    };
    runs.iter().map(print).collect()
}

fn path(name: &str) -> String {
    workspace().join(name).to_string_lossy().into_owned()
}

#[test]
fn the_files_are_what_the_tool_prints() {
    let folder = workspace().join("docs/schemas");
    for name in NAMES {
        let printed = Folder::new().succeeds(&["schema", name]);
        let file = folder.join(name).with_extension("json");
        if std::env::var_os("BLESS_SCHEMAS").is_some() {
            std::fs::write(&file, &printed).expect("written");
        }
        let stored = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(stored == printed, "{} is not what `moec schema {name}` prints: BLESS_SCHEMAS=1", file.display());
        jsonschema::draft202012::meta::validate(&schema(name)).expect("a schema of draft 2020-12");
    }
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .expect("the folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    files.sort();
    let mut expected = NAMES.map(|name| format!("{name}.json"));
    expected.sort();
    assert_eq!(files, expected);
    let page = std::fs::read_to_string(workspace().join("docs/json.md")).expect("the page");
    for name in NAMES {
        assert!(page.contains(&format!("(schemas/{name}.json)")), "{name} is not on the page");
    }
    let help = Folder::new().succeeds(&["schema", "--help"]);
    let listed = help.lines().filter(|line| line.trim_start().starts_with("- ")).count();
    assert_eq!(listed, NAMES.len(), "the tool knows other names: {help}");
}

#[test]
fn diagnostics_are_as_their_schema_says() {
    let folder = Folder::with_small();
    folder.write("wrong.moe", support::SMALL.replace("hidden  256", "hiden  256"));
    let unused = "let score  = sigmoid(logits)\n        let unused = exp(logits)";
    folder.write("costly.moe", support::SMALL.replace("let score  = sigmoid(logits)", unused));
    let said = |arguments: &[&str]| {
        let stderr = text(&folder.run(&[&["--message-format", "json"], arguments].concat()).stderr);
        stderr.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect::<Vec<Value>>()
    };
    let warnings = said(&["check", "costly.moe"]);
    assert!(warnings.iter().any(|line| line["severity"] == "warning"), "{warnings:?}");
    let (of_file, missing) = (said(&["check", "wrong.moe"]), said(&["check", "nowhere.moe"]));
    assert!(of_file.iter().any(|line| line["fix"].is_object()), "one has a fix: {of_file:?}");
    assert_eq!(missing.len(), 1, "a sentence without a place");
    assert!(missing[0].get("code").is_none());
    assert_valid("diagnostic", &of_file);
    assert_valid("diagnostic", &warnings);
    assert_valid("diagnostic", &missing);
}

/// Whatever goes wrong, each line on standard error is as the schema says.
#[test]
fn failures_of_every_command_are_as_the_schema_says() {
    let folder = Folder::with_small();
    folder.write("wrong.moe", "model m { hiden 64 }");
    folder.write("junk", "junk");
    let v3 = path("dsl-examples/deepseek_v3.moe");
    let calls: [&[&str]; 18] = [
        &["inspect", "small.moe"],
        &["check", "wrong.moe"],
        &["check", "missing.moe"],
        &["fmt", "wrong.moe", "missing.moe"],
        &["fmt", "--check", "wrong.moe"],
        &["build", "wrong.moe"],
        &["build", &v3],
        &["build", &v3, "--deploy", "pretrain"],
        &["run", "junk"],
        &["run", "small.moe", "--tokens", "100000"],
        &["gate", "small.moe", "--input", "junk", "--output", "out"],
        &["plan", "small.moe", "--set", "ep=3"],
        &["plan", &v3, "--deploy", "pretrain", "--sample", "512", "--set", "ep=8"],
        &["simulate", "small.moe", "--slow-nic", "99=0.5"],
        &["place", "small.moe", "--load", "junk"],
        &["explain", "M9999"],
        &["man", "frobnicate"],
        &["init", "small.moe"],
    ];
    for arguments in calls {
        let output = folder.run(&[&["--message-format", "json"], arguments].concat());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert!(lines.iter().any(|line| line["severity"] == "error"), "{arguments:?}: {said}");
        assert_valid("diagnostic", &lines);
    }
}

#[test]
fn runs_are_as_their_schema_says() {
    let folder = Folder::with_small();
    folder.succeeds(&["build", "small.moe"]);
    let runs = printed(&folder, &[&["run", "small.moe"], &["run", "small.moeb", "--forward-only"]]);
    assert!(runs[0]["compiled"].is_object() && runs[1]["compiled"].is_null());
    assert_valid("run", &runs);
}

#[test]
fn plans_are_as_their_schemas_say() {
    let folder = Folder::new();
    let (v3, qwen3) = (path("dsl-examples/deepseek_v3.moe"), path("dsl-examples/qwen3_moe.moe"));
    let golden = path("tests/data/gates/deepseek_v3_256_8_4_8.safetensors");
    let pretrain = ["plan", &v3, "--deploy", "pretrain"];
    let with = |more: &[&'static str]| -> Vec<Value> { printed(&folder, &[&[&pretrain[..], more].concat()]) };
    let plans = printed(
        &folder,
        &[
            &pretrain,
            &[&pretrain[..], &["--input", &golden]].concat(),
            &[&pretrain[..], &["--skew", "1"]].concat(),
            &["plan", &qwen3, "--deploy", "serve"],
        ],
    );
    assert!(plans[0]["step"].is_object() && plans[3]["step"].is_null(), "both modes");
    assert_valid("plan", &plans);
    let narrow = printed(&folder, &[&[&pretrain[..], &["--set", "ep=8"]].concat()]);
    assert_eq!(narrow[0]["fits"], false, "what does not fit is printed too");
    assert_valid("plan", &narrow);
    let silent = support::without_attention(&folder.path("."));
    let silent = silent.to_string_lossy();
    let withheld = printed(&folder, &[&["plan", &silent, "--deploy", "train"]]);
    assert!(withheld[0]["memory"].is_null(), "what is not known is null");
    assert_valid("plan", &withheld);
    assert_valid("plan-comparison", &with(&["--compare", "ep=32,64"]));
    assert_valid("plan-search", &with(&["--search"]));
}

#[test]
fn simulations_are_as_their_schema_says() {
    let v3 = path("dsl-examples/deepseek_v3.moe");
    let simulate = ["simulate", &v3, "--deploy", "pretrain"];
    let faults = ["--slow-nic", "13=0.5", "--slow-nvlink", "2=0.5", "--straggler", "7=100", "--slow-experts", "5=2"];
    let spine = ["--nodes-per-pod", "12", "--oversubscription", "2"];
    let with = |more: &[&'static str]| [&simulate[..], more].concat();
    let simulations = printed(&Folder::new(), &[&simulate, &with(&faults), &with(&spine)]);
    assert_eq!(simulations[1]["scenario"]["faults"].as_array().map(Vec::len), Some(4));
    assert_valid("simulation", &simulations);
}

#[test]
fn placements_are_as_their_schema_says() {
    let folder = Folder::new();
    let (v3, counts) = (path("dsl-examples/deepseek_v3.moe"), path("tests/data/planner/counts.csv"));
    let place = ["place", &v3, "--deploy", "pretrain", "--load", &counts];
    let first = printed(&folder, &[&[&place[..], &["-o", "placement.json"]].concat()]);
    let written = std::fs::read_to_string(folder.path("placement.json")).expect("the file");
    let second = printed(&folder, &[&[&place[..], &["--current", "placement.json"]].concat()]);
    assert!(first[0]["layers"][0]["moves"].is_null() && second[0]["layers"][0]["moves"].is_number());
    assert_valid("placement", &first);
    assert_valid("placement", &[serde_json::from_str(&written).expect("JSON")]);
    assert_valid("placement", &second);
}

#[test]
fn bundles_are_as_their_schema_says() {
    let folder = Folder::with_small();
    folder.succeeds(&["build", "small.moe", "-o", "with.moeb", "--target", "sm_90a", "--target", "sm_100a"]);
    let without = folder.command(&["build", "small.moe", "-o", "without.moeb"]).env("MOE_CUDA_TOOLS", "none").output();
    assert!(without.expect("the tool starts").status.success());
    let bundles = printed(&folder, &[&["inspect", "with.moeb"], &["inspect", "without.moeb"]]);
    assert!(bundles[0]["kernels"][0]["cubin"].is_object() && bundles[1]["kernels"][0]["cubin"].is_null());
    assert_valid("bundle", &bundles);
}

#[test]
fn ptx_is_told_as_its_schemas_say() {
    let folder = Folder::new();
    folder.write("unknown.ptx", ".version 8.6\n.target sm_90a\n.visible .entry k() { frobnicate; ret; }\n");
    let data = |name: &str| path(&format!("tests/data/ptx/{name}"));
    let checked = printed(&folder, &[&["ptx", "check", &data("exchange.ptx")], &["ptx", "check", "unknown.ptx"]]);
    assert!(checked[1]["kernels"][0]["refused"].is_object());
    assert_valid("ptx-check", &checked);
    let jobs = [data("exchange.toml"), data("mended.toml")];
    let ran = printed(&folder, &[&["ptx", "run", &jobs[0], "--seeds", "1"], &["ptx", "run", &jobs[1], "--seeds", "1"]]);
    assert!(ran[0]["holds"] == false && ran[1]["holds"] == true);
    assert_valid("ptx-run", &ran);
}

#[test]
fn a_wrong_document_is_refused() {
    let folder = Folder::with_small();
    let v3 = path("dsl-examples/deepseek_v3.moe");
    folder.succeeds(&["build", "small.moe"]);
    let job = path("tests/data/ptx/exchange.toml");
    let outputs = [
        ("run", &["run", "small.moe"][..], "/checks/0/compared"),
        ("plan", &["plan", &v3, "--deploy", "pretrain"], "/phases/0/time/bottleneck"),
        ("plan-comparison", &["plan", &v3, "--deploy", "pretrain", "--compare", "ep=32,64"], "/plans/1/source"),
        ("simulation", &["simulate", &v3, "--deploy", "pretrain"], "/outcome/dispatch/busiest/0/link"),
        ("bundle", &["inspect", "small.moeb"], "/kernels/0/grid"),
        ("ptx-run", &["ptx", "run", &job, "--seeds", "1"], "/found/0/seed"),
    ];
    for (name, arguments, inside) in outputs {
        // As it is given to users: what the file says, new names allowed.
        let validator = jsonschema::validator_for(&schema(name)).expect("a schema");
        let right = printed(&folder, &[arguments]).remove(0);
        assert!(validator.is_valid(&right), "{name}");
        let mut later = right.clone();
        later["new"] = json!(1);
        assert!(validator.is_valid(&later), "{name}: new names may be added");
        assert!(!closed(name).is_valid(&later), "{name}: the other tests see names without a schema");
        for first in right.as_object().expect("an object").keys() {
            let mut without = right.clone();
            without.as_object_mut().expect("an object").remove(first);
            // Given only with an input.
            assert_eq!(validator.is_valid(&without), first == "given", "{name} without {first}");
        }
        let mut wrong = right.clone();
        *wrong.pointer_mut(inside).expect("it is there") = json!("banana");
        assert!(!validator.is_valid(&wrong), "{name}: {inside} is a banana");
    }
    let diagnostic = jsonschema::validator_for(&schema("diagnostic")).expect("a schema");
    assert!(diagnostic.is_valid(&json!({ "severity": "error", "title": "no" })));
    assert!(!diagnostic.is_valid(&json!({ "severity": "fatal", "title": "no" })));
    assert!(!diagnostic.is_valid(&json!({ "severity": "error" })));
    let plan = jsonschema::validator_for(&schema("plan")).expect("a schema");
    assert!(!plan.is_valid(&json!({})) && !plan.is_valid(&json!([])));
}
