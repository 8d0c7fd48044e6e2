//! What each subcommand does when all is well.

mod support;

use moe_bundle::{Bundle, KernelImage};
use moe_contract::Kernel;
use moe_lower::{Choice, compile};
use safetensors::SafeTensors;
use support::{EXPERTS, Folder, HIDDEN, PICKS, SMALL, f32s, input, numbers, safetensors, workspace};

#[test]
fn check_is_silent_about_a_good_file_and_formats_nothing() {
    let folder = Folder::with_small();
    assert_eq!(folder.succeeds(&["check", "small.moe"]), "");
    assert_eq!(folder.files(), ["small.moe"]);
}

#[test]
fn fmt_repairs_what_check_reports() {
    let folder = Folder::new();
    folder.write("small.moe", SMALL.replace("    hidden  256", "  hidden 256"));
    let output = folder.run(&["fmt", "--check", "small.moe"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(support::text(&output.stdout), "small.moe\n");
    folder.succeeds(&["fmt", "small.moe"]);
    assert_eq!(std::fs::read_to_string(folder.path("small.moe")).expect("text"), SMALL);
    folder.succeeds(&["fmt", "--check", "small.moe"]);
}

#[test]
fn every_stage_can_be_seen() {
    let folder = Folder::with_small();
    for (stage, part) in [
        ("ast", "model"),
        ("spec", "experts         8 in 4 groups, 3 per token"),
        ("gate", "gradient of the gate of small"),
        ("plan", "symmetric memory, the same on every rank"),
        ("mlir", "gpu.module"),
        ("llvm", "define"),
        ("ptx", ".visible .entry dispatch_send("),
        ("sass", "// dispatch_send for sm_90a"),
        ("sass", "EXIT"),
    ] {
        let shown = folder.succeeds(&["build", "small.moe", "--emit", stage]);
        assert!(shown.contains(part), "{stage}: {shown}");
    }
    assert_eq!(folder.files(), ["small.moe"]);
}

#[test]
fn the_same_file_gives_the_same_bundle() {
    let folder = Folder::with_small();
    folder.succeeds(&["build", "small.moe", "--target", "sm_90a", "--target", "sm_100a"]);
    folder.succeeds(&["build", "small.moe", "--target", "sm_90a", "--target", "sm_100a", "-o", "again.moeb"]);
    let read = |name| std::fs::read(folder.path(name)).expect("a bundle");
    assert!(read("small.moeb") == read("again.moeb"));
    let bundle = moe_bundle::Bundle::from_bytes(&read("small.moeb")).expect("a bundle");
    assert_eq!(bundle.manifest().targets(), ["sm_90a", "sm_100a"]);
    assert_eq!(bundle.manifest().source, SMALL);
}

/// Registers are counted by ptxas: without it the bundle is another one, and says so, as does whoever builds and runs it.
#[test]
fn a_bundle_without_ptxas_differed_in_silence() {
    let folder = Folder::with_small();
    let build = |tools: Option<&std::path::Path>, name: &str| {
        let mut command = folder.command(&["build", "small.moe", "-o", name]);
        if let Some(tools) = tools {
            command.env("MOE_CUDA_TOOLS", tools);
        }
        let output = command.output().expect("the tool starts");
        assert_eq!(output.status.code(), Some(0), "{}", support::text(&output.stderr));
        let bytes = std::fs::read(folder.path(name)).expect("a bundle");
        (support::text(&output.stderr), bytes)
    };
    let registers = |bytes: &[u8]| {
        let bundle = Bundle::from_bytes(bytes).expect("a bundle");
        let counted = bundle.manifest().kernels.iter().filter(|kernel| kernel.registers.is_some()).count();
        (bundle.manifest().assembler.clone(), counted, bundle.manifest().kernels.len())
    };
    let (said, with) = build(None, "with.moeb");
    assert_eq!(said, "");
    let (assembler, counted, kernels) = registers(&with);
    assert!(assembler.is_some_and(|name| name.starts_with("ptxas ") && name.contains(|c: char| c.is_ascii_digit())));
    assert_eq!(counted, kernels);

    let none = folder.path("none");
    let (said, without) = build(Some(&none), "without.moeb");
    assert!(
        said.starts_with(
            "note: the bundle has PTX alone, which the driver compiles, and no numbers of registers: ptxas is not in "
        ),
        "{said}"
    );
    assert_eq!(registers(&without), (None, 0, kernels));
    assert!(build(Some(&none), "again.moeb").1 == without, "the same bytes every time");
    let report = folder.succeeds(&["run", "without.moeb", "--forward-only"]);
    assert!(report.contains("no registers: the bundle was built without ptxas"), "{report}");
    let json = folder.succeeds(&["run", "without.moeb", "--forward-only", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["assembler"], serde_json::Value::Null);

    // An assembler that fails at one kernel of many, whichever thread comes first: all registers or none.
    let tools = folder.path("tools");
    std::fs::create_dir(&tools).expect("a folder");
    let real = workspace().join("target/cuda-tools/bin/ptxas").canonicalize().expect("installed");
    let script =
        format!("#!/bin/sh\ngrep -q 'entry combine_reduce(' \"$4\" && exit 0\nexec {} \"$@\"\n", real.display());
    let program = folder.write("tools/ptxas", script);
    std::fs::set_permissions(program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("executable");
    let (said, partly) = build(Some(&tools), "partly.moeb");
    assert!(said.contains("ptxas does not say what the kernel takes"), "{said}");
    assert!(partly == without);
}

/// A run of the file, then of its bundle, under each schedule: all verified, and the same results.
#[test]
fn a_run_is_verified_and_reported() {
    let folder = Folder::with_small();
    folder.succeeds(&["build", "small.moe"]);
    let mut results = Vec::new();
    for (file, schedule) in
        [("small.moe", "round-robin"), ("small.moeb", "random"), ("small.moeb", "adversarial"), ("small.moeb", "weak")]
    {
        let arguments =
            ["run", file, "--schedule", schedule, "--seed", "5", "--format", "json", "--output", "out.safetensors"];
        let report: serde_json::Value = serde_json::from_str(&folder.succeeds(&arguments)).expect("JSON");
        assert_eq!(report["verified"], true, "{report:#}");
        let checked: Vec<&str> =
            report["checks"].as_array().expect("checks").iter().filter_map(|check| check["what"].as_str()).collect();
        assert_eq!(
            checked,
            [
                "chosen experts",
                "weights",
                "slots and places",
                "experts' input",
                "experts' input",
                "combined result",
                "gradient of experts' output",
                "gradient of weights",
                "gradient of tokens",
                "experts' input, cached routing",
                "gradient of logits",
                "bytes on the links",
                "combined result, as expected",
                "gradient of weights, as expected",
                "gradient of tokens, as expected",
            ]
        );
        let picks: u64 =
            report["tokens_per_expert"].as_array().expect("counts").iter().filter_map(serde_json::Value::as_u64).sum();
        assert_eq!(picks, 4 * 8 * PICKS as u64);
        results.push(std::fs::read(folder.path("out.safetensors")).expect("results"));
    }
    assert!(results.iter().all(|result| *result == results[0]), "a schedule changes nothing");
}

#[test]
fn a_table_and_a_picture_are_for_people() {
    let folder = Folder::with_small();
    let table = folder.succeeds(&["run", "small.moe", "--picture", "traffic.svg", "--forward-only"]);
    for part in ["tokens per expert", "copies received", "dispatch: ", "text to PTX of", "verified"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    // Half a step of the format is reached, and is as it should be: "largest error 100.0 % of the bound" read as a failure.
    assert!(table.contains("within the bound, "), "{table}");
    let picture = std::fs::read_to_string(folder.path("traffic.svg")).expect("a picture");
    assert!(picture.contains("rank 3 to rank 0: "), "{picture}");
}

/// Two tokens more than ranks divide: the ranks have 8, 8, 7 and 7 tokens.
#[test]
fn a_run_takes_a_users_own_tensors() {
    let folder = Folder::with_small();
    folder.write("in.safetensors", safetensors(&input(30)));
    let arguments =
        ["run", "small.moe", "--input", "in.safetensors", "--output", "out.safetensors", "--format", "json"];
    let report: serde_json::Value = serde_json::from_str(&folder.succeeds(&arguments)).expect("JSON");
    assert_eq!(report["tokens"], serde_json::json!([8, 8, 7, 7]));
    let bytes = std::fs::read(folder.path("out.safetensors")).expect("results");
    let tensors = SafeTensors::deserialize(&bytes).expect("tensors");
    assert_eq!(tensors.tensor("y").expect("y").shape(), [30, HIDDEN]);

    // The choice is that of the gate alone, on whichever back end.
    for on in ["reference", "host", "virtual"] {
        folder.succeeds(&[
            "gate",
            "small.moe",
            "--input",
            "in.safetensors",
            "--output",
            "gate.safetensors",
            "--on",
            on,
        ]);
        let bytes = std::fs::read(folder.path("gate.safetensors")).expect("results");
        let alone = SafeTensors::deserialize(&bytes).expect("tensors");
        for name in ["indices", "weights"] {
            let (ran, alone) = (tensors.tensor(name).expect("there"), alone.tensor(name).expect("there"));
            assert_eq!(ran.shape(), [30, PICKS]);
            assert_eq!(ran.data(), alone.data(), "{name} on {on}");
        }
    }
}

#[test]
fn a_gradient_of_weights_becomes_one_of_logits() {
    let folder = Folder::with_small();
    let gradients = numbers(6 * PICKS);
    let tensors: Vec<_> = input(6).into_iter().chain([f32s("grad_weights", vec![6, PICKS], &gradients)]).collect();
    folder.write("in.safetensors", safetensors(&tensors));
    let mut seen: Vec<Vec<u8>> = Vec::new();
    for on in ["reference", "host", "virtual"] {
        folder.succeeds(&["gate", "small.moe", "--input", "in.safetensors", "--output", "out.safetensors", "--on", on]);
        let bytes = std::fs::read(folder.path("out.safetensors")).expect("results");
        let tensors = SafeTensors::deserialize(&bytes).expect("tensors");
        let gradient = tensors.tensor("grad_logits").expect("a gradient");
        assert_eq!(gradient.shape(), [6, EXPERTS]);
        assert!(gradient.data().iter().any(|&byte| byte != 0));
        seen.push(gradient.data().to_vec());
    }
    assert!(seen.iter().all(|gradient| *gradient == seen[0]), "bit for bit the same everywhere");
}

/// Routers of a widely used library: the choice is theirs, weights and gradients are as near as README.md of
/// the data says, and all back ends agree bit for bit.
#[test]
fn golden_gates_are_met_on_every_back_end() {
    let golden = workspace().join("tests/data/gates");
    let folder = Folder::new();
    let mut count = 0;
    for entry in std::fs::read_dir(golden).expect("golden files") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "moe") {
            continue;
        }
        count += 1;
        let input = path.with_extension("safetensors");
        let [file, input] = [&path, &input].map(|path| path.to_str().expect("a name"));
        let mut seen: Vec<Vec<u8>> = Vec::new();
        for on in ["reference", "host", "virtual"] {
            folder.succeeds(&["gate", file, "--input", input, "--output", "out.safetensors", "--on", on]);
            seen.push(std::fs::read(folder.path("out.safetensors")).expect("results"));
        }
        assert!(seen.iter().all(|results| *results == seen[0]), "{file}");
        let golden = std::fs::read(input).expect("golden");
        let [golden, found] = [&golden, &seen[0]].map(|bytes| SafeTensors::deserialize(bytes).expect("tensors"));
        let floats = |file: &SafeTensors<'_>, name: &str| -> Vec<f32> {
            bytemuck::allocation::pod_collect_to_vec(file.tensor(name).expect("there").data())
        };
        let indices = [&golden, &found].map(|file| file.tensor("indices").expect("there").data().to_vec());
        assert!(indices[0] == indices[1], "{file}: chosen experts");
        for (golden, found) in floats(&golden, "weights").iter().zip(floats(&found, "weights")) {
            assert!((golden - found).abs() <= 1e-6 * golden.abs(), "{file}: {found} is not {golden}");
        }
        let experts = golden.tensor("logits").expect("there").shape()[1];
        let [wanted, gradient] = [&golden, &found].map(|file| floats(file, "grad_logits"));
        for (wanted, gradient) in wanted.chunks(experts).zip(gradient.chunks(experts)) {
            let largest = wanted.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            for (wanted, gradient) in wanted.iter().zip(gradient) {
                assert!((wanted - gradient).abs() <= 1e-5 * largest, "{file}: {gradient} is not {wanted}");
            }
        }
    }
    assert!(count >= 11, "{count} golden gates");
}

/// What it is, what is replaced in [`SMALL`], and on how many ranks it runs.
type Kind = (&'static str, &'static [(&'static str, &'static str)], &'static str);

/// Payloads, layouts, capacity, zero experts, weights on the input, and experts that ranks do not divide: all verified.
#[test]
fn every_kind_of_layer_runs() {
    const DISPATCH: &str = "payload fp8_e4m3 scale f32 per 128   layout expert_major align 8";
    const COMBINE: &str = "payload bf16   reduce f32 weighted";
    let folder = Folder::new();
    let changes: [Kind; 9] = [
        (
            "bf16 to rank-major rows",
            &[(DISPATCH, "payload bf16   layout rank_major"), ("f32 weighted", "f32 unweighted")],
            "4",
        ),
        ("fp8 to rank-major rows", &[("expert_major align 8", "rank_major"), ("f32 weighted", "f32 unweighted")], "4"),
        (
            "f32 both ways",
            &[(DISPATCH, "payload f32   layout expert_major align 1"), (COMBINE, "payload f32   reduce f32 weighted")],
            "4",
        ),
        (
            "f16 both ways",
            &[(DISPATCH, "payload f16   layout expert_major align 4"), (COMBINE, "payload f16   reduce f32 weighted")],
            "2",
        ),
        ("capacity by weight", &[("in 4 groups\n", "in 4 groups\n    capacity 0.75 drop lowest\n")], "4"),
        ("capacity by position", &[("in 4 groups\n", "in 4 groups\n    capacity 2 tokens drop position\n")], "4"),
        ("experts that compute nothing", &[("experts 8 in 4 groups", "experts 8 in 4 groups { zero 6..7 }")], "4"),
        ("weights on the input", &[("1e-20)\n", "1e-20) before experts\n"), ("f32 weighted", "f32 unweighted")], "3"),
        ("weights on the output, by the experts", &[("f32 weighted", "f32 unweighted")], "4"),
    ];
    for (what, replacements, ranks) in changes {
        let mut source = SMALL.to_owned();
        for (from, to) in replacements {
            assert!(source.contains(from), "{what}: {from}");
            source = source.replace(from, to);
        }
        folder.write("kind.moe", source);
        let arguments = ["run", "kind.moe", "--gpus-per-node", ranks, "--schedule", "adversarial", "--format", "json"];
        let output = folder.run(&arguments);
        assert_eq!(output.status.code(), Some(0), "{what}: {}", support::text(&output.stderr));
        let report: serde_json::Value = serde_json::from_str(&support::text(&output.stdout)).expect("JSON");
        assert_eq!(report["verified"], true, "{what}: {report:#}");
        // 8 tokens on each rank, 3 picks each.
        let of_weights =
            report["checks"].as_array().expect("checks").iter().find(|check| check["what"] == "gradient of weights");
        let compared = ranks.parse::<u64>().expect("a number") * 8 * 3;
        assert_eq!(of_weights.expect("compared")["compared"], compared, "{what}: {report:#}");
    }
}

/// The verdict can fail: a bundle whose kernel subtracts where it should add is caught, and the first wrong number is named.
#[test]
fn a_wrong_kernel_is_not_verified() {
    let folder = Folder::new();
    let bundle = compile(SMALL, &Choice::default()).expect("the file can be built").bundle;
    let images: Vec<KernelImage> = bundle
        .manifest()
        .kernels
        .iter()
        .map(|entry| {
            let ptx = bundle.ptx(entry);
            let wrong = entry.kernel == Kernel::CombineReduce;
            assert!(!wrong || ptx.contains("add.rn.f32"), "the sum of partial sums");
            KernelImage {
                kernel: entry.kernel,
                target: entry.target.clone(),
                block: entry.block,
                grid: entry.grid,
                shared: entry.shared,
                programmatic: entry.programmatic,
                registers: None,
                ptx: if wrong { ptx.replace("add.rn.f32", "sub.rn.f32") } else { ptx.to_owned() },
                cubin: None,
            }
        })
        .collect();
    let wrong = Bundle::new(bundle.manifest().clone(), &images).expect("sound in itself");
    folder.write("wrong.moeb", wrong.to_bytes());
    let output = folder.run(&["run", "wrong.moeb", "--format", "json"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(support::text(&output.stderr), "error: the run differs from the reference\n");
    let report: serde_json::Value = serde_json::from_str(&support::text(&output.stdout)).expect("JSON");
    assert_eq!(report["verified"], false);
    let wrong: Vec<&str> = report["checks"]
        .as_array()
        .expect("checks")
        .iter()
        .filter(|check| !check["difference"].is_null())
        .filter_map(|check| check["what"].as_str())
        .collect();
    assert_eq!(wrong, ["combined result", "gradient of tokens"], "both end in that kernel, nothing else does");
}
