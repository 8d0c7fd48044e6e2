//! `moec place`: from counts to a placement, and back in as the current one.

mod support;

use insta::assert_snapshot;
use support::Folder;

/// 8 experts: one takes as much as six others.
const LOAD: &str = "layer,expert,count\n4,0,60\n4,1,10\n4,2,10\n4,3,10\n4,4,10\n4,5,10\n4,6,10\n4,7,10\n";

fn folder() -> Folder {
    let folder = Folder::with_small();
    folder.write("load.csv", LOAD);
    folder
}

#[test]
fn a_placement_is_printed_written_and_read_again() {
    let folder = folder();
    let place = ["place", "small.moe", "--load", "load.csv"];
    let table = folder.succeeds(&[&place[..], &["-o", "placement.json"]].concat());
    assert!(table.starts_with("8 experts in 12 slots on 1 nodes × 4 GPUs, 3 per GPU"), "{table}");
    let written = std::fs::read_to_string(folder.path("placement.json")).expect("it was written");
    assert_eq!(written, folder.succeeds(&[&place[..], &["--format", "json"]].concat()));
    let json: serde_json::Value = serde_json::from_str(&written).expect("it is JSON");
    let layer = &json["layers"][0];
    // 130 picks, 32.5 on average. Three copies of the hot expert and three of another: 20 + 10 + 10/3 on three GPUs, 30 on the fourth.
    assert_eq!(layer["layer"].as_u64(), Some(4));
    assert!(layer["after"]["max"].as_f64().is_some_and(|max| (max - 100.0 / 3.0).abs() < 1e-9), "{layer}");
    assert_eq!(layer["before"]["max"].as_f64(), Some(70.0));
    assert_eq!(layer["moves"], serde_json::Value::Null);
    let again = folder.succeeds(&[&place[..], &["--current", "placement.json", "--format", "json"]].concat());
    let again: serde_json::Value = serde_json::from_str(&again).expect("it is JSON");
    assert_eq!(again["layers"][0]["moves"].as_u64(), Some(0));
}

#[test]
fn what_cannot_be_placed_is_said() {
    let folder = folder();
    folder.write("negative.csv", LOAD.replace("4,3,10", "4,3,-10"));
    folder.write("column.csv", LOAD.replace("count", "picks"));
    folder.write("few.json", "[[1, 2, 3]]");
    folder.write("nan.json", "[[1, 2,\n 3, NaN]]");
    folder.write("current.json", "{}");
    let mut said = String::new();
    for arguments in [
        vec!["--load", "negative.csv"],
        vec!["--load", "column.csv"],
        vec!["--load", "few.json"],
        vec!["--load", "nan.json"],
        vec!["--load", "none.csv"],
        vec!["--load", "load.csv", "--replicas", "9"],
        vec!["--load", "load.csv", "--nodes", "3", "--policy", "hierarchical"],
        vec!["--load", "load.csv", "--slack=-1"],
        vec!["--load", "load.csv", "--current", "current.json"],
        vec!["--load", "load.csv", "--expert-bytes", "1000", "--memory", "2500"],
        vec!["--load", "load.csv", "--deploy", "huge"],
    ] {
        let all = [&["place", "small.moe", "-o", "out.json"][..], &arguments].concat();
        said.push_str(&format!("{}\n  {}", arguments.join(" "), folder.fails(&all)));
    }
    assert_snapshot!(said);
}
