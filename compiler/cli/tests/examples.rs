//! Every example of the language, as its reader would try it: built for both targets, and run on virtual GPUs with every call verified.

mod support;

use std::path::Path;

use support::{Folder, workspace};

#[test]
fn every_example_is_checked_built_and_runs_verified() {
    let folder = Folder::new();
    let mut examples: Vec<_> = std::fs::read_dir(workspace().join("dsl-examples"))
        .expect("the examples are in the project")
        .map(|entry| entry.expect("the folder can be read").path().to_string_lossy().into_owned())
        .filter(|path| Path::new(path).extension().is_some_and(|extension| extension == "moe"))
        .collect();
    examples.sort();
    assert!(examples.len() >= 15, "{examples:?}");
    for example in examples {
        assert_eq!(folder.succeeds(&["check", &example]), "", "{example}");
        let build = ["build", &example, "--deploy", "one_node", "--target", "sm_90a", "--target", "sm_100a"];
        folder.succeeds(&[&build[..], &["-o", "layer.moeb"]].concat());
        let run = ["run", &example, "--deploy", "one_node", "--tokens", "4", "--format", "json"];
        let report: serde_json::Value = serde_json::from_str(&folder.succeeds(&run)).expect("JSON");
        assert_eq!(report["verified"], true, "{example}: {report:#}");
        let checks = report["checks"].as_array().expect("checks");
        assert!(checks.len() >= 10, "{example}: {report:#}");
        assert!(checks.iter().all(|check| check["difference"].is_null()), "{report:#}");
        assert!(
            checks.iter().all(|check| check["compared"].as_u64().is_some_and(|compared| compared > 0)),
            "{report:#}"
        );
    }
}
