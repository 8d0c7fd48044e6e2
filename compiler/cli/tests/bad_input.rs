//! Whatever is wrong with a file, there is one clear sentence, status 1, and no file that was not there before.

mod support;

use insta::assert_snapshot;
use safetensors::Dtype;
use support::{EXPERTS, Folder, HIDDEN, Named, PICKS, SMALL, f32s, input, numbers, safetensors, text};

fn run_with(tensors: &[Named<'_>]) -> String {
    let folder = Folder::with_small();
    folder.write("in.safetensors", safetensors(tensors));
    folder.fails(&[
        "run",
        "small.moe",
        "--input",
        "in.safetensors",
        "--output",
        "out.safetensors",
        "--picture",
        "p.svg",
    ])
}

fn gate_with(on: &str, tensors: &[Named<'_>]) -> String {
    let folder = Folder::with_small();
    folder.write("in.safetensors", safetensors(tensors));
    folder.fails(&["gate", "small.moe", "--input", "in.safetensors", "--output", "out.safetensors", "--on", on])
}

fn replaced(name: &str, by: Named<'static>) -> Vec<Named<'static>> {
    input(6).into_iter().filter(|tensor| tensor.0 != name).chain([by]).collect()
}

#[test]
fn a_wrong_tensor_is_named_with_what_it_should_be() {
    let mut said = String::new();
    let mut case = |title: &str, tensors: &[Named<'_>]| {
        said.push_str(&format!("{title}\n  {}", run_with(tensors)));
    };
    case("no logits", &replaced("logits", f32s("logit", vec![6, EXPERTS], &numbers(48))));
    case("no bias", &input(6).into_iter().filter(|tensor| tensor.0 != "bias").collect::<Vec<_>>());
    case("experts missing", &replaced("logits", f32s("logits", vec![6, 7], &numbers(42))));
    case("one dimension", &replaced("logits", f32s("logits", vec![48], &numbers(48))));
    case("logits of integers", &replaced("logits", Named("logits", Dtype::I32, vec![6, EXPERTS], vec![0; 192])));
    case("activations of f32", &replaced("x", f32s("x", vec![6, HIDDEN], &numbers(6 * HIDDEN))));
    case("other tokens", &replaced("x", Named("x", Dtype::BF16, vec![5, HIDDEN], vec![0; 10 * HIDDEN])));
    case("other hidden size", &replaced("x", Named("x", Dtype::BF16, vec![6, 8], vec![0; 96])));
    case("too many tokens", &input(33));
    assert_snapshot!(said);
}

#[test]
fn a_nan_is_named_by_its_place_in_the_file() {
    let mut logits = numbers(6 * EXPERTS);
    logits[5 * EXPERTS + 3] = f32::NAN;
    let tensors = || replaced("logits", f32s("logits", vec![6, EXPERTS], &logits));
    let mut said = format!("run\n  {}", run_with(&tensors()));
    for on in ["reference", "host", "virtual"] {
        said.push_str(&format!("gate --on {on}\n  {}", gate_with(on, &tensors())));
    }
    assert_snapshot!(said);
}

/// Every tensor of the gate that is read, on every back end. A NaN in `grad_weights` went through in silence.
#[test]
fn a_nan_in_a_parameter_or_a_gradient_is_named() {
    let gradients = |number: f32| {
        let mut numbers = numbers(6 * PICKS);
        numbers[4 * PICKS + 1] = number;
        input(6).into_iter().chain([f32s("grad_weights", vec![6, PICKS], &numbers)]).collect::<Vec<_>>()
    };
    let bias = |number: f32| {
        let mut numbers = [0.0; EXPERTS];
        numbers[7] = number;
        replaced("bias", f32s("bias", vec![EXPERTS], &numbers))
    };
    for on in ["reference", "host", "virtual"] {
        for (number, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
            assert_eq!(
                gate_with(on, &gradients(number)),
                format!("error: in.safetensors: tensor `grad_weights` is {shown} at [4, 1], and must be finite\n")
            );
        }
        let said = gate_with(on, &bias(f32::NAN));
        assert_eq!(said, "error: in.safetensors: tensor `bias` is NaN at [7], and must be a number\n");
    }
    let said = run_with(&bias(f32::NAN));
    assert_eq!(said, "error: in.safetensors: tensor `bias` is NaN at [7], and must be a number\n");
    // An expert that is switched off is not wrong.
    let folder = Folder::with_small();
    folder.write("in.safetensors", safetensors(&bias(f32::NEG_INFINITY)));
    folder.succeeds(&["run", "small.moe", "--input", "in.safetensors"]);
    folder.succeeds(&["gate", "small.moe", "--input", "in.safetensors", "--output", "out"]);
}

#[test]
fn a_nan_that_a_planner_is_given_is_named() {
    let folder = Folder::with_small();
    let mut logits = numbers(6 * EXPERTS);
    logits[5 * EXPERTS + 3] = f32::NAN;
    folder.write("in.safetensors", safetensors(&replaced("logits", f32s("logits", vec![6, EXPERTS], &logits))));
    for command in ["plan", "simulate"] {
        let said = folder.fails(&[command, "small.moe", "--input", "in.safetensors"]);
        assert!(said.contains("NaN"), "{command}: {said}");
    }
}

/// Tokens are data: what is in them does not matter to who moves them.
#[test]
fn a_nan_in_the_tokens_is_data() {
    let folder = Folder::with_small();
    let mut x = numbers(6 * HIDDEN);
    (x[0], x[HIDDEN + 1], x[2 * HIDDEN + 5]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
    let x: Vec<half::bf16> = x.into_iter().map(half::bf16::from_f32).collect();
    let x = || Named("x", Dtype::BF16, vec![6, HIDDEN], bytemuck::cast_slice(&x).to_vec());
    folder.write("in.safetensors", safetensors(&replaced("x", x())));
    folder.write("bf16.moe", SMALL.replace("payload fp8_e4m3 scale f32 per 128", "payload bf16"));
    for file in ["small.moe", "bf16.moe"] {
        assert!(folder.succeeds(&["run", file, "--input", "in.safetensors", "--forward-only"]).contains("verified"));
    }
}

#[test]
fn a_damaged_file_of_tensors_is_no_file_of_tensors() {
    let folder = Folder::with_small();
    let whole = safetensors(&input(6));
    let mut hostile = u64::MAX.to_le_bytes().to_vec();
    hostile.extend_from_slice(b"{}");
    let overlapping = br#"{"logits":{"dtype":"F32","shape":[6,8],"data_offsets":[0,999999999999]}}"#;
    let mut liar = (overlapping.len() as u64).to_le_bytes().to_vec();
    liar.extend_from_slice(overlapping);
    let mut said = String::new();
    for (name, bytes) in [
        ("empty", vec![]),
        ("cut in the header", whole[..20].to_vec()),
        ("cut in the data", whole[..whole.len() - 1].to_vec()),
        ("a header longer than the file", hostile),
        ("offsets beyond the end", liar),
        ("text", b"hello".to_vec()),
    ] {
        folder.write("in.safetensors", bytes);
        let arguments = ["gate", "small.moe", "--input", "in.safetensors", "--output", "out.safetensors"];
        said.push_str(&format!("{name}\n  {}", folder.fails(&arguments)));
    }
    assert_snapshot!(said);
}

#[test]
fn a_bundle_that_is_none_is_refused() {
    let folder = Folder::with_small();
    folder.succeeds(&["build", "small.moe", "-o", "small.moeb"]);
    let whole = std::fs::read(folder.path("small.moeb")).expect("a bundle");
    let mut other_version = whole.clone();
    other_version[8] = 9;
    let mut damaged = whole.clone();
    *damaged.last_mut().expect("bytes") ^= 1;
    let mut said = String::new();
    for (name, bytes) in
        [("cut", whole[..whole.len() / 2].to_vec()), ("another version", other_version), ("one bit", damaged)]
    {
        folder.write("bad.moeb", bytes);
        let sentence = folder.fails(&["run", "bad.moeb"]);
        // The hash is that of the bytes, which contain PTX: it changes with every kernel.
        let sentence = sentence.split("its hash is").next().expect("a beginning").trim_end().to_owned();
        let sentence = if name == "cut" {
            sentence
                .split(" bytes of")
                .next()
                .expect("a beginning")
                .split("has")
                .next()
                .expect("a beginning")
                .trim_end()
                .to_owned()
        } else {
            sentence
        };
        said.push_str(&format!("{name}\n  {sentence}\n"));
    }
    said.push_str(&format!("other ranks\n  {}", folder.fails(&["run", "small.moeb", "--gpus-per-node", "8"])));
    said.push_str(&format!("other deploy\n  {}", folder.fails(&["run", "small.moeb", "--deploy", "large"])));
    said.push_str(&format!("too many tokens\n  {}", folder.fails(&["run", "small.moeb", "--tokens", "9"])));
    assert_snapshot!(said);
}

#[test]
fn what_the_deploy_does_not_allow_is_said() {
    let folder = Folder::with_small();
    let mut said = String::new();
    let mut case = |title: &str, arguments: &[&str]| {
        said.push_str(&format!("{title}\n  {}", folder.fails(arguments)));
    };
    case("too many tokens", &["run", "small.moe", "--tokens", "9"]);
    case("two nodes", &["run", "small.moe", "--nodes", "2"]);
    case("no such deploy", &["run", "small.moe", "--deploy", "huge"]);
    case("no file", &["run", "missing.moe"]);
    case("a folder", &["run", "."]);
    case("no such model", &["gate", "small.moe", "--model", "large", "--input", "x", "--output", "y"]);
    case("no such code", &["explain", "M9999"]);
    assert_snapshot!(said);
}

#[test]
fn several_nodes_are_not_there_yet() {
    let folder = Folder::new();
    folder.write(
        "small.moe",
        SMALL
            .replace("nodes 1", "nodes 2")
            .replace("nvlink 160 GB/s", "nvlink 160 GB/s\n    rdma   50 GB/s per gpu")
            .replace("ep     4", "ep     8"),
    );
    assert_snapshot!(folder.fails(&["run", "small.moe"]));
    assert!(folder.succeeds(&["run", "small.moe", "--nodes", "1", "--tokens", "2"]).contains("verified"));
}

#[test]
fn an_output_that_cannot_be_written_is_said() {
    let folder = Folder::with_small();
    folder.write("in.safetensors", safetensors(&input(6)));
    let mut said = String::new();
    let mut case = |title: &str, arguments: &[&str]| {
        said.push_str(&format!("{title}\n  {}", folder.fails(arguments)));
    };
    case("build", &["build", "small.moe", "-o", "missing/small.moeb"]);
    case("run", &["run", "small.moe", "--output", "missing/out.safetensors"]);
    case("picture", &["run", "small.moe", "--picture", "missing/p.svg"]);
    case("gate", &["gate", "small.moe", "--input", "in.safetensors", "--output", "missing/out.safetensors"]);
    assert_snapshot!(said);
}

#[test]
fn without_a_driver_cuda_says_what_to_do() {
    let folder = Folder::with_small();
    let output = folder.run(&["run", "small.moe", "--device", "cuda"]);
    // A machine with GPUs runs it.
    if output.status.code() != Some(0) {
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output.stderr);
        assert!(said.starts_with("error: "), "{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[test]
fn misuse_of_the_command_line_is_status_2() {
    let folder = Folder::with_small();
    for arguments in [
        &["frobnicate"][..],
        &["run"],
        &["run", "small.moe", "--tokens", "many"],
        &["run", "small.moe", "--gpus-per-node", "0"],
        &["run", "small.moe", "--input", "a", "--tokens", "3"],
        &["build", "small.moe", "--target", "sm_12"],
        &[],
    ] {
        assert_eq!(folder.run(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn an_error_for_tools_is_json() {
    let folder = Folder::with_small();
    folder.write("wrong.moe", SMALL.replace("sigmoid", "sigmod"));
    for arguments in [&["run", "small.moe", "--tokens", "9"][..], &["check", "wrong.moe"], &["fmt", "missing.moe"]] {
        let arguments = [&["--message-format", "json"][..], arguments].concat();
        for line in folder.fails(&arguments).lines() {
            let message: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert_eq!(message["severity"], "error", "{line}");
            assert!(message["title"].as_str().is_some_and(|title| !title.is_empty()), "{line}");
        }
    }
}
