//! `moec plan` as a user types it: what it answers, its exit status, and what it says of bad input.

mod support;

use std::process::{Command, Output};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

fn moec(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_moec"))
        .env("COLUMNS", "100000")
        .current_dir(ROOT)
        .arg("plan")
        .args(arguments)
        .output()
        .expect("moec starts")
}

#[track_caller]
fn answers(arguments: &[&str]) -> String {
    let output = moec(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The message of a failure, which has status 1.
#[track_caller]
fn fails(arguments: &[&str]) -> String {
    let output = moec(arguments);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).expect("text")
}

const V3: &str = "dsl-examples/deepseek_v3.moe";

/// The pages hold the verdict and the numbers of the same report as JSON, and ask nothing of the network.
#[test]
fn a_comparison_is_a_page_and_a_picture() {
    let arguments = [V3, "--deploy", "pretrain", "--compare", "ep=64,128", "--format"];
    let page = answers(&[&arguments[..], &["html"]].concat());
    assert!(page.starts_with("<!DOCTYPE html>") && page.trim_end().ends_with("</html>"), "{}", &page[..200]);
    assert!(page.contains("keep ep 64 pp 16"), "the verdict");
    let picture = answers(&[&arguments[..], &["svg"]].concat());
    assert!(picture.contains("<svg") && picture.trim_end().ends_with("</svg>"), "{}", &picture[..200]);
    for text in [&page, &picture] {
        let links = text.matches("http").count();
        assert_eq!(links, text.matches("http://www.w3.org/").count(), "only names of formats look like addresses");
    }
}

#[test]
fn the_first_question_is_answered_in_words() {
    let text = answers(&[V3, "--deploy", "pretrain", "--compare", "ep=64,128"]);
    for expected in
        ["each of the 8 groups spans up to 2 nodes", "×2 at worst", "• keep ep 64 pp 16", "or give the gate 16 groups"]
    {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let kimi = answers(&["dsl-examples/kimi_k2.moe", "--deploy", "pretrain", "--compare", "ep=64,128"]);
    assert!(kimi.contains("nothing limits the nodes of a token but its 8 picks"), "{kimi}");
    assert!(kimi.contains("• keep ep 64 pp 16"), "{kimi}");
}

#[test]
fn json_holds_what_the_table_says() {
    let json: serde_json::Value =
        serde_json::from_str(&answers(&[V3, "--deploy", "pretrain", "--format", "json"])).expect("JSON");
    assert_eq!(json["schema"], 2);
    assert_eq!(json["deploy"], "pretrain");
    assert_eq!(json["nodes"], 8);
    let remote = json["gate"]["expected"]["remote_nodes"]["mean"].as_f64().expect("a number");
    assert!((remote / 3.47 - 1.0).abs() < 0.01, "{remote}");
    assert_eq!(json["phases"][0]["time"]["bottleneck"], "network");
    // Bytes of a call: tokens × remote nodes × (7168 + 56 × 4 + 8 + 8 × 8).
    let bytes = json["phases"][0]["rdma_bytes"].as_f64().expect("a number");
    assert!((bytes / (4096.0 * remote * 7464.0) - 1.0).abs() < 1e-9, "{bytes}");

    let both = answers(&[V3, "--deploy", "pretrain", "--compare", "ep=64,128", "--set", "zero=2", "--format", "json"]);
    let both: serde_json::Value = serde_json::from_str(&both).expect("JSON");
    assert_eq!(both["plans"].as_array().map(Vec::len), Some(2));
    assert_eq!(both["plans"][1]["parallel"]["zero"], 2);
}

#[test]
fn a_search_prints_a_front() {
    let json: serde_json::Value =
        serde_json::from_str(&answers(&[V3, "--deploy", "pretrain", "--search", "--format", "json"])).expect("JSON");
    assert!(json["search"]["tried"].as_u64() > Some(1000));
    assert!(json["search"]["front"].as_array().is_some_and(|front| !front.is_empty()));
}

#[test]
fn recorded_logits_are_used() {
    let file = "tests/data/gates/deepseek_v3_256_8_4_8.safetensors";
    let json = answers(&[V3, "--deploy", "pretrain", "--input", file, "--sample", "64", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["source"], "observed");
    assert_eq!(json["gate"]["expected"]["tokens"], 64);
}

/// The golden file says which experts each token goes to: four to a rank, eight ranks to a node, tokens split over 64 ranks.
#[test]
fn recorded_logits_give_exact_bytes() {
    let file = "tests/data/gates/deepseek_v3_256_8_4_8.safetensors";
    let bytes = std::fs::read(format!("{ROOT}/{file}")).expect("a golden file");
    let golden = safetensors::SafeTensors::deserialize(&bytes).expect("tensors");
    let indices = golden.tensor("indices").expect("chosen experts");
    let indices: Vec<i32> = indices.data().as_chunks().0.iter().map(|chunk| i32::from_le_bytes(*chunk)).collect();
    let (tokens, mut copies, mut first) = (indices.len() / 8, 0u64, 0);
    for rank in 0..64 {
        let own = tokens / 64 + usize::from(rank < tokens % 64);
        for picks in indices[first * 8..(first + own) * 8].chunks(8) {
            let nodes: std::collections::BTreeSet<i32> = picks.iter().map(|expert| expert / 32).collect();
            copies += nodes.iter().filter(|&&node| node != rank as i32 / 8).count() as u64;
        }
        first += own;
    }

    let json: serde_json::Value =
        serde_json::from_str(&answers(&[V3, "--deploy", "pretrain", "--input", file, "--format", "json"]))
            .expect("JSON");
    let number = |value: &serde_json::Value| value.as_u64().expect("a number");
    assert_eq!(number(&json["given"]["tokens"]), tokens as u64);
    let dispatch = &json["given"]["phases"][0];
    assert_eq!(dispatch["name"], "dispatch");
    let rows = dispatch["rdma"].as_array().expect("ranks").iter().map(|row| row.as_array().expect("nodes"));
    let sent: u64 = rows.flatten().map(number).sum();
    let once = number(&json["wire"]["count"]) + number(&json["wire"]["flag"]);
    assert_eq!(sent, copies * 7464 + 64 * 7 * once);
    let table = answers(&[V3, "--deploy", "pretrain", "--input", file]);
    assert!(
        table.contains(&format!("exactly, the {tokens} recorded tokens split over 64 ranks, each once")),
        "{table}"
    );
}

#[test]
fn a_deploy_that_does_not_fit_says_where_and_what_to_change() {
    let said = fails(&[V3, "--deploy", "pretrain", "--set", "pp=1"]);
    for expected in
        ["error[M0607]", "deepseek_v3.moe:", "the memory of a GPU", "help: it fits with `zero=3` (", ", or `zero=2` ("]
    {
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

/// "Exit status 1 when a plan cannot be or does not fit the memory": of several plans, when one cannot be or none fits.
#[test]
fn the_exit_status_is_as_documented() {
    let status = |arguments: &[&str]| moec(arguments).status.code();
    let v3 = |more: &[&str]| status(&[&[V3, "--deploy", "pretrain"][..], more].concat());
    assert_eq!(v3(&[]), Some(0));
    assert_eq!(v3(&["--set", "pp=1"]), Some(1), "one plan that does not fit");
    assert_eq!(v3(&["--set", "pp=0"]), Some(1), "one plan that cannot be");
    assert_eq!(v3(&["--compare", "pp=1,16"]), Some(0), "one of two fits");
    assert_eq!(v3(&["--compare", "pp=1,2"]), Some(1), "none of two fits");
    assert_eq!(v3(&["--compare", "ep=64,12"]), Some(1), "one of two cannot be");
    assert_eq!(v3(&["--search"]), Some(0));
    assert_eq!(status(&[V3, "--deploy", "one_node", "--search"]), Some(1), "nothing fits");
    // What is withheld is not refused; a search has nothing else to say.
    let folder = tempfile::tempdir().expect("a folder");
    let silent = support::without_attention(folder.path());
    let silent = silent.to_str().expect("a path in UTF-8");
    assert_eq!(status(&[silent, "--deploy", "train"]), Some(0));
    assert_eq!(status(&[silent, "--deploy", "train", "--compare", "ep=4,8"]), Some(0));
    assert_eq!(status(&[silent, "--deploy", "train", "--search"]), Some(1));
    assert_eq!(v3(&["--set"]), Some(2), "misuse of the command line");

    let said = fails(&[V3, "--deploy", "pretrain", "--compare", "pp=1,2"]);
    assert!(said.contains("none of 2 plans fits the memory: ep 64 pp 1 dp 2048 zero 1 needs least"), "{said}");
    let said = fails(&[V3, "--deploy", "pretrain", "--compare", "ep=64,12"]);
    assert!(said.contains("deploy `pretrain`: with ep=12: ep 12 does not divide dp 128"), "{said}");
    let said = fails(&[silent, "--deploy", "train", "--search"]);
    assert!(said.contains("the search for a plan is withheld: model `mixtral` does not say what surrounds"), "{said}");
}

#[test]
fn bad_input_is_one_clear_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.to_str().expect("text").to_owned()
    };
    let negative = write(
        "negative.csv",
        "node_num,hidden_size,num_token,num_topk,num_experts,dispatch_avg_t_us,combine_avg_t_us\n1,7168,8,8,256,20,-3\n",
    );
    let column = write("column.csv", "node_num,hidden_size\n1,7168\n");
    let empty =
        write("empty.csv", "node_num,hidden_size,num_token,num_topk,num_experts,dispatch_avg_t_us,combine_avg_t_us\n");
    let damaged = write("damaged.safetensors", "no tensors");
    for (arguments, expected) in [
        (
            vec![V3, "--deploy", "pretrain", "--calibrate", &negative],
            "line 2, column `combine_avg_t_us`: -3 is not possible; it must be a number from 0.001 to 1000000000 µs",
        ),
        (vec![V3, "--deploy", "pretrain", "--calibrate", &column], "there is no column `num_token`"),
        (vec![V3, "--deploy", "pretrain", "--calibrate", &empty], "0 usable measurements"),
        (vec![V3, "--deploy", "pretrain", "--input", &damaged], "damaged.safetensors is not a valid safetensors file"),
        (vec![V3, "--deploy", "pretrain", "--set", "ep=12"], "ep 12 does not divide dp 128"),
        (vec![V3, "--deploy", "pretrain", "--set", "ep"], "`--set ep` is not NAME=NUMBER"),
        (vec![V3, "--deploy", "pretrain", "--set", "ep=64,128"], "use `--compare ep=64,128`"),
        (vec![V3, "--deploy", "pretrain", "--set", "experts=64"], "`experts` cannot be changed"),
        (vec![V3, "--deploy", "nowhere"], "it has `pretrain`, `one_node`"),
        (vec![V3], "the file has 2 deploys: choose one with `--deploy`, `pretrain`, `one_node`"),
        (vec![V3, "--deploy", "one_node", "--search"], "no plan of"),
        (vec![V3, "--deploy", "pretrain", "--efficiency", "2"], "efficiency is `2`: give a number from 0.01 to 1"),
        (vec![V3, "--deploy", "pretrain", "--skew", "nan"], "skew is `NaN`: give a number from 0 to 100"),
    ] {
        let said = fails(&arguments);
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

/// 256 experts of layer 3, the most picked of them nine times as often as the least.
fn counts() -> String {
    let row = |expert: u32| format!("3,{expert},{}\n", 1000 + expert * 37 % 256 * 32);
    "layer,expert,count\n".to_owned() + &(0..256).map(row).collect::<String>()
}

/// The largest load of a rank over the mean: `moec place` computes it from the counts, `moec plan` from a gate whose picks follow them.
#[test]
fn a_plan_knows_load_and_placement() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    let (load, placed) = (path("load.csv"), path("placement.json"));
    std::fs::write(&load, counts()).expect("a file");
    let output = Command::new(env!("CARGO_BIN_EXE_moec"))
        .env("COLUMNS", "100000")
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .args(["place", V3, "--deploy", "pretrain", "--load", &load, "--policy", "global", "-o", &placed])
        .output()
        .expect("moec starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let written: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&placed).expect("it was written")).expect("JSON");
    let layer = &written["layers"][0];
    let plan = |arguments: &[&str]| -> serde_json::Value {
        let all =
            [&[V3, "--deploy", "pretrain", "--load", &load, "--sample", "131072", "--format", "json"][..], arguments]
                .concat();
        serde_json::from_str(&answers(&all)).expect("JSON")
    };
    for (arguments, balance) in [(&[][..], "before"), (&["--placement", &placed], "after")] {
        let report = plan(arguments);
        let picks: Vec<f64> = report["gate"]["expected"]["picks_by_rank"]
            .as_array()
            .expect("by rank")
            .iter()
            .filter_map(serde_json::Value::as_f64)
            .collect();
        let found = picks.iter().copied().fold(0.0, f64::max) * picks.len() as f64 / picks.iter().sum::<f64>();
        let expected = layer[balance]["max_over_mean"].as_f64().expect("a number");
        assert!((found / expected - 1.0).abs() < 0.05, "{balance}: {found} and {expected}");
    }
    let report = plan(&["--placement", &placed]);
    // 256 experts and one further copy on each of 64 GPUs: all of them take memory.
    assert_eq!(report["share"]["experts_per_layer"], 5);
    let before = layer["before"]["max_over_mean"].as_f64().expect("a number");
    assert!(before > 1.1, "{before}: nothing to balance");

    let page = answers(&[V3, "--deploy", "pretrain", "--load", &load, "--placement", &placed, "--format", "html"]);
    for expected in ["Load per copy of an expert, layer 3", "Load per GPU, layer 3"] {
        assert!(page.contains(expected), "{expected}");
    }
    let text = answers(&[V3, "--deploy", "pretrain", "--load", &load, "--placement", &placed]);
    assert!(text.contains("experts lie as the placement of layer 3 says, 5 slots on a GPU"), "{text}");
    assert!(text.contains("so that picks are those of the given counts"), "{text}");

    let damaged = path("damaged.json");
    let write = |from: &str, to: &str| {
        let text = std::fs::read_to_string(&placed).expect("it is there");
        assert!(text.contains(from), "{from}");
        std::fs::write(&damaged, text.replacen(from, to, 1)).expect("a file");
    };
    let refused =
        |arguments: &[&str]| fails(&[&[V3, "--deploy", "pretrain", "--placement", &damaged][..], arguments].concat());
    write("\"nodes\": 8", "\"nodes\": 4");
    assert!(refused(&[]).contains("damaged.json: layer 3 has 320 slots, and 4 nodes × 8 GPUs × 5 slots are 160"));
    write("\"experts\": 256", "\"experts\": 300");
    assert!(refused(&[]).contains("damaged.json: layer 3 has no slot of expert 256"));
    write("\"version\": 1", "\"version\": 9");
    assert!(refused(&[]).contains("its version is 9"));
    std::fs::copy(&placed, &damaged).expect("a file");
    assert!(refused(&["--set", "ep=128"]).contains("place for these ranks with `moec place`, or plan `ep=64`"));
    assert!(refused(&["--layer", "4"]).contains("damaged.json: there is no layer 4; it has 3"));
    assert_eq!(
        fails(&[V3, "--deploy", "pretrain", "--layer", "4"]),
        "error: `--layer 4` chooses among the layers of `--load` or `--placement`: give one of them, or leave `--layer` out\n"
    );
    let other = fails(&["dsl-examples/kimi_k2.moe", "--deploy", "pretrain", "--placement", &damaged]);
    assert!(other.contains("the placement is of 256 experts, and the model has 384"), "{other}");
}

/// What stands behind a word in the text of a build's plan.
#[track_caller]
fn number_behind(text: &str, word: &str) -> u64 {
    let rest = text.split_once(word).unwrap_or_else(|| panic!("{word} in {text}")).1.trim_start();
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("{word} in {text}"))
}

/// Every deploy of the examples, and some of latency mode: where `build` has a plan, `plan` has its SMs, and room for its memory; where
/// `build` refuses, `plan` says it with the same code.
#[test]
fn what_is_planned_is_what_is_built() {
    let temporary = tempfile::tempdir().expect("a folder");
    let latency = temporary.path().join("latency.moe");
    let v3 = std::fs::read_to_string(format!("{ROOT}/{V3}")).expect("an example");
    let v3 = v3.replace("mode   throughput", "mode   latency").replace("128 per gpu", "128 per gpu   mode latency");
    std::fs::write(&latency, v3).expect("written");
    let examples = std::fs::read_dir(format!("{ROOT}/dsl-examples")).expect("the examples");
    let mut files: Vec<_> = examples.map(|file| file.expect("a file").path()).collect();
    files.push(latency);
    let (mut built, mut refused) = (0, 0);
    for file in files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "moe")) {
        let source = std::fs::read(file).expect("a file");
        let spec = moe_front::check_source(&source).spec.expect("a legal file");
        let file = file.to_str().expect("a name");
        for (_, deploy) in spec.deploys.iter() {
            let which = format!("{} of {file}", deploy.name);
            let arguments = [file, "--deploy", &deploy.name, "--sample", "64", "--format", "json"];
            let output = moec(&arguments);
            let plan: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON, fitting or not");
            let codes: Vec<&str> = plan["not_built"]
                .as_array()
                .expect("a list")
                .iter()
                .map(|one| one["code"].as_str().expect("a code"))
                .collect();
            let build = Command::new(env!("CARGO_BIN_EXE_moec"))
                .current_dir(ROOT)
                .args(["build", file, "--deploy", &deploy.name, "--emit", "plan"])
                .output()
                .expect("moec starts");
            if !build.status.success() {
                let said = String::from_utf8_lossy(&build.stderr);
                assert!(
                    !codes.is_empty() && codes.iter().all(|code| said.contains(code)),
                    "{which}: {codes:?} and {said}"
                );
                refused += 1;
                continue;
            }
            assert!(codes.iter().all(|&code| code == "M0705"), "{which}: {codes:?}, and it is built");
            let text = String::from_utf8(build.stdout).expect("text");
            assert_eq!(plan["parallel"]["sms"], number_behind(&text, "launches"), "{which}");
            assert_eq!(plan["protocol"], "direct", "{which}");
            let parts = plan["memory"]["parts"].as_array().expect("parts");
            let part = parts.iter().find(|part| part["kind"] == "communication").expect("a part");
            let handle = number_behind(&text, "arrays of a handle, on every rank:");
            let needed = number_behind(&text, "the same on every rank:") + handle;
            assert!(part["bytes"].as_u64() >= Some(needed), "{which}: {part} and {needed}");
            built += 1;
        }
    }
    assert!(built >= 10 && refused >= 5, "{built} built, {refused} refused");
}
