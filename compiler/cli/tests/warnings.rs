//! Warnings: those of what is used and no others, and what `--deny-warnings` makes of them.

mod support;

use support::{Folder, SMALL, input, safetensors, text};

/// Two models, two clusters and four deploys, each of them with one warning of its own but for `quiet` and what it uses.
fn several() -> String {
    let second = SMALL
        .replace("model small", "model idle")
        .replace("let score  = sigmoid(logits)", "let score  = sigmoid(logits)\n        let unused = exp(logits)")
        .replace("cluster node", "cluster swapped")
        .replace("nodes 1 ", "nodes 2 ")
        .replace("nvlink 160 GB/s", "nvlink 40 GB/s\n    rdma   50 GB/s per gpu")
        .replace("deploy tiny of small on node", "deploy of_idle of idle on node");
    let zeroed = "\ndeploy zeroed of small on node { ep 4   tokens 8 per gpu   sms 2   zero 1 }\n";
    let on_swapped = "\ndeploy on_swapped of small on swapped { ep 4   tokens 8 per gpu   sms 2 }\n";
    [&SMALL.replace("deploy tiny", "deploy quiet"), &second, zeroed, on_swapped].concat()
}

/// The codes that are said, in order.
fn codes(said: &str) -> Vec<&str> {
    said.lines().filter_map(|line| line.strip_prefix("warning[")?.split(']').next()).collect()
}

const IDLE_MODEL: &str = "M0220";
const SWAPPED_CLUSTER: &str = "M0618";
const ZEROED_DEPLOY: &str = "M0608";

#[test]
fn warnings_of_other_deploys_preceded_every_answer() {
    let folder = Folder::new();
    folder.write("several.moe", several());
    folder.write("in.safetensors", safetensors(&input(6)));
    let counts: String = (0..8).map(|expert| format!("0,{expert},{}\n", 10 + expert)).collect();
    folder.write("counts.csv", format!("layer,expert,count\n{counts}"));
    let said = |arguments: &[&str]| {
        let output = folder.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stderr)
    };
    let all = said(&["check", "several.moe"]);
    for code in [IDLE_MODEL, SWAPPED_CLUSTER, ZEROED_DEPLOY] {
        assert!(codes(&all).contains(&code), "{code}: {all}");
    }
    for (deploy, expected) in [
        ("quiet", None),
        ("of_idle", Some(IDLE_MODEL)),
        ("zeroed", Some(ZEROED_DEPLOY)),
        ("on_swapped", Some(SWAPPED_CLUSTER)),
    ] {
        for command in [
            &["build", "several.moe", "-o", "out.moeb"][..],
            &["build", "several.moe", "--emit", "plan"],
            &["run", "several.moe", "--forward-only"],
            &["plan", "several.moe"],
            &["simulate", "several.moe"],
            &["place", "several.moe", "--load", "counts.csv"],
        ] {
            let arguments = [command, &["--deploy", deploy]].concat();
            let said = said(&arguments);
            assert_eq!(codes(&said), Vec::from_iter(expected), "{arguments:?}: {said}");
        }
    }
    for (model, expected) in [("small", None), ("idle", Some(IDLE_MODEL))] {
        let arguments =
            ["gate", "several.moe", "--model", model, "--input", "in.safetensors", "--output", "out.safetensors"];
        assert_eq!(codes(&said(&arguments)), Vec::from_iter(expected), "{model}");
    }
    for stage in ["spec", "gate"] {
        assert_eq!(codes(&said(&["build", "several.moe", "--emit", stage])), codes(&all), "all of the file is shown");
    }
}

#[test]
fn denied_warnings_fail_before_anything_is_made() {
    let folder = Folder::new();
    folder.write("several.moe", several());
    folder.write("in.safetensors", safetensors(&input(6)));
    let counts: String = (0..8).map(|expert| format!("0,{expert},{}\n", 10 + expert)).collect();
    folder.write("counts.csv", format!("layer,expert,count\n{counts}"));
    for (command, option) in [
        (&["build", "several.moe", "-o", "out.moeb"][..], "--deploy"),
        (&["build", "several.moe", "--emit", "ptx"], "--deploy"),
        (&["run", "several.moe", "--output", "out"], "--deploy"),
        (&["plan", "several.moe"], "--deploy"),
        (&["simulate", "several.moe"], "--deploy"),
        (&["place", "several.moe", "--load", "counts.csv", "-o", "out"], "--deploy"),
        (&["gate", "several.moe", "--input", "in.safetensors", "--output", "out"], "--model"),
    ] {
        let (loud, quiet) = if option == "--deploy" { ("of_idle", "quiet") } else { ("idle", "small") };
        let said = folder.fails(&[command, &[option, loud, "--deny-warnings"]].concat());
        assert_eq!(codes(&said), [IDLE_MODEL], "{command:?}");
        assert!(said.ends_with("error: several.moe: a warning, and `--deny-warnings` is given\n"), "{said}");
        folder.succeeds(&[command, &[option, quiet, "--deny-warnings"]].concat());
        for name in ["out", "out.moeb"] {
            let _ = std::fs::remove_file(folder.path(name));
        }
    }
    let said = folder.fails(&["check", "several.moe", "--deny-warnings"]);
    assert!(said.contains("warnings, and `--deny-warnings` is given"), "{said}");
    folder.write("small.moe", SMALL);
    folder.succeeds(&["check", "small.moe", "--deny-warnings"]);
}
