//! Every kernel of some examples, with a judge of memory order: dispatch, experts, combine and all gradients, on a few tokens.

mod support;

use serde_json::Value;
use support::{Folder, workspace};

/// The examples with the fewest experts and the shortest rows: a judge sees every access of every lane.
const EXAMPLES: [&str; 3] = ["llama4", "mixtral", "switch"];

#[test]
fn no_kernel_of_an_example_leaves_accesses_without_order() {
    let folder = Folder::new();
    for example in EXAMPLES {
        let path = workspace().join("dsl-examples").join(example).with_extension("moe");
        let path = path.to_str().expect("text");
        let shape = ["--deploy", "one_node", "--gpus-per-node", "2", "--tokens", "3", "--schedule", "random"];
        let said = folder.succeeds(&[&["run", path, "--judge", "--format", "json"][..], &shape].concat());
        let report: Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!((&report["verified"], &report["memory_order"]), (&true.into(), &serde_json::json!([])), "{example}");
    }
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
