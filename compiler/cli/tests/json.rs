//! The page of the planner's JSON is what the tool prints: no name is missing there, and none is made up.

mod support;

use std::collections::BTreeSet;

use serde_json::Value;
use support::{Folder, text, workspace};

/// All names of a value, with `[]` for each entry of a list; what has no entries is a name itself.
fn names(value: &Value, name: &str, all: &mut BTreeSet<String>) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                names(value, &if name.is_empty() { key.clone() } else { format!("{name}.{key}") }, all);
            }
        }
        Value::Array(entries) => {
            if entries.is_empty() {
                all.insert(format!("{name}[]"));
            }
            entries.iter().for_each(|entry| names(entry, &format!("{name}[]"), all));
        }
        _ => {
            all.insert(name.to_owned());
        }
    }
}

/// Writes out the first braces, and so on.
fn expand(pattern: &str) -> Vec<String> {
    let Some((before, rest)) = pattern.split_once('{') else { return vec![pattern.to_owned()] };
    let (inside, after) = rest.split_once('}').expect("braces are closed");
    inside.split(',').flat_map(|one| expand(&format!("{before}{one}{after}"))).collect()
}

/// The names in the first column of the tables below a heading.
fn documented(page: &str, heading: &str) -> BTreeSet<String> {
    let part = page.split("\n## ").find(|part| part.starts_with(heading)).expect("the page has the heading");
    let names = part.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    names.flat_map(|(pattern, _)| expand(pattern)).collect()
}

fn assert_same(page: &str, heading: &str, runs: &[&[&str]]) {
    let folder = Folder::new();
    let mut printed = BTreeSet::new();
    for arguments in runs {
        // What does not fit is printed too, and said on standard error.
        let output = folder.run(&[*arguments, &["--format", "json"]].concat());
        assert!(output.status.code().is_some_and(|code| code < 2), "{arguments:?}: {}", text(&output.stderr));
        let mut json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        // Each of several plans has the names of one.
        if let Some(Value::Array(plans)) = json.as_object_mut().and_then(|json| json.remove("plans")) {
            plans.iter().for_each(|plan| names(plan, "", &mut printed));
        }
        names(&json, "", &mut printed);
    }
    let documented = documented(page, heading);
    let missing: Vec<_> = printed.difference(&documented).collect();
    assert!(missing.is_empty(), "{heading}: not on the page: {missing:#?}");
    let made_up: Vec<_> = documented.difference(&printed).collect();
    assert!(made_up.is_empty(), "{heading}: on the page only: {made_up:#?}");
}

#[test]
fn every_name_is_on_the_page() {
    let page = std::fs::read_to_string(workspace().join("docs/json.md")).expect("the page");
    let path = |name: &str| workspace().join(name).to_string_lossy().into_owned();
    let golden = path("tests/data/gates/deepseek_v3_256_8_4_8.safetensors");
    let (v3, qwen3) = (path("dsl-examples/deepseek_v3.moe"), path("dsl-examples/qwen3_moe.moe"));
    let folder = tempfile::tempdir().expect("a folder");
    let silent = support::without_attention(folder.path()).to_string_lossy().into_owned();
    let plans: [&[&str]; 7] = [
        &["plan", &v3, "--deploy", "pretrain"],
        &["plan", &v3, "--deploy", "pretrain", "--input", &golden],
        &["plan", &v3, "--deploy", "pretrain", "--search"],
        &["plan", &v3, "--deploy", "pretrain", "--compare", "ep=64,128"],
        &["plan", &qwen3, "--deploy", "serve"],
        &["plan", &silent, "--deploy", "train"],
        &["plan", &v3, "--deploy", "one_node"],
    ];
    assert_same(&page, "`moec plan FILE`", &plans);
    let simulations: [&[&str]; 3] = [
        &[
            "simulate",
            &v3,
            "--deploy",
            "pretrain",
            "--slow-nic",
            "13=0.5",
            "--straggler",
            "7=100",
            "--slow-experts",
            "5=2",
            "--skew",
            "1",
        ],
        &["simulate", &v3, "--deploy", "pretrain"],
        &["simulate", &v3, "--deploy", "pretrain", "--nodes-per-pod", "12", "--oversubscription", "2"],
    ];
    assert_same(&page, "`moec simulate FILE`", &simulations);
}
