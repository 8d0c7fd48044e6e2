//! Every kernel of every example, with a judge of memory order: gate, dispatch, combine and all gradients, on a few tokens.

mod support;

use serde_json::Value;
use support::{Folder, workspace};

/// Elements of a row: whole blocks of scales, several rounds of a warp, and an incomplete one.
const HIDDEN: u32 = 384;

/// An example with short rows, and groups of experts' rows that need little padding: its kernels have other numbers, and order the same.
fn short(text: &str) -> String {
    let line = |line: &str| match line.trim_start().split_once(char::is_whitespace) {
        Some(("hidden", _)) => format!("hidden {HIDDEN}"),
        _ => line.replace("align 128", "align 4"),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// The first examples, or the last: two tests, which run at the same time.
fn judged(first_half: bool) {
    let examples = std::fs::read_dir(workspace().join("dsl-examples")).expect("it is there");
    let mut examples: Vec<_> = examples.map(|entry| entry.expect("it can be listed").path()).collect();
    examples.sort();
    assert!(examples.len() >= 15, "examples are missing");
    let (first, last) = examples.split_at(examples.len() / 2);
    let folder = Folder::new();
    // What runs here needs no machine code, which takes the longest.
    folder.write("no_tools", "");
    for path in if first_half { first } else { last } {
        let text = short(&std::fs::read_to_string(path).expect("it can be read"));
        assert!(text.contains(&format!("hidden {HIDDEN}")) && text.contains("align 4"), "{}", path.display());
        folder.write("example.moe", text);
        let shape = ["--deploy", "one_node", "--gpus-per-node", "2", "--tokens", "2", "--schedule", "random"];
        let mut run = folder.command(&[&["run", "example.moe", "--judge", "--format", "json"][..], &shape].concat());
        let output = run.env("MOE_CUDA_TOOLS", folder.path("no_tools")).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", path.display());
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let found = (&report["verified"], &report["memory_order"]);
        assert_eq!(found, (&true.into(), &serde_json::json!([])), "{}", path.display());
    }
}

#[test]
fn no_kernel_of_the_first_examples_leaves_accesses_without_order() {
    judged(true);
}

#[test]
fn no_kernel_of_the_last_examples_leaves_accesses_without_order() {
    judged(false);
}

#[test]
fn a_run_says_that_nothing_was_found() {
    let folder = Folder::with_small();
    for schedule in ["round-robin", "random", "adversarial", "weak"] {
        let said = folder.succeeds(&["run", "small.moe", "--tokens", "5", "--judge", "--schedule", schedule]);
        assert!(said.contains("memory order: no finding"), "{said}");
    }
    assert!(!folder.succeeds(&["run", "small.moe", "--tokens", "5"]).contains("memory order"));
}
