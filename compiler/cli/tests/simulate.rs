//! `moec simulate` as a user types it.

mod support;

use insta::assert_snapshot;
use serde_json::Value;
use support::{Folder, text, workspace};

/// A pod of two nodes, so that there is a network.
fn folder() -> Folder {
    let folder = Folder::with_small();
    let two = "\ncluster pair {\n    nodes 2   gpus 2 per node\n    gpu    \"H800\" { target sm_90a   sms 132   memory 80 GB }\n    \
               nvlink 160 GB/s\n    rdma   50 GB/s per gpu\n}\n\ndeploy wide of small on pair { ep 4   tokens 4096 per gpu   sms 20 }\n\ndeploy quick \
               of small on pair { ep 4   tokens 8 per gpu   mode latency }\n";
    folder.write("pair.moe", support::SMALL.to_owned() + two);
    folder
}

fn v3() -> String {
    workspace().join("dsl-examples/deepseek_v3.moe").to_str().expect("text").to_owned()
}

fn json(arguments: &[&str]) -> Value {
    let shown = Folder::new()
        .succeeds(&[&["simulate", &v3(), "--deploy", "pretrain", "--format", "json"][..], arguments].concat());
    serde_json::from_str(&shown).expect("JSON")
}

#[track_caller]
fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} is no number"))
}

#[test]
fn a_deploy_is_simulated_in_words_and_numbers() {
    assert_snapshot!(folder().succeeds(&["simulate", "pair.moe", "--deploy", "wide", "--slow-nic", "1=0.5"]));
}

/// The bound is counted from the demand, the plan's time from the sampled tokens: two ways to the same bytes at the same rate. The plan adds
/// what the sample shows of uneven nodes beyond its noise.
#[test]
fn the_busiest_link_is_what_the_plan_says() {
    let shown = json(&["--gpus", "128"]);
    assert_eq!(shown["schema"], 2);
    assert_eq!(number(&shown, "/outcome/gpus"), 128.0);
    for (place, phase) in ["dispatch", "combine"].into_iter().enumerate() {
        let bound = number(&shown, &format!("/outcome/bounds/{phase}/time"));
        let planned = number(&shown, &format!("/planned/{place}/links"));
        assert!((bound / planned - 1.0).abs() < 0.01, "{phase}: {bound} and {planned}");
        let slowest = number(&shown, &format!("/outcome/{phase}/time/max"));
        assert!((0.99..1.3).contains(&(slowest / bound)), "{phase}: {slowest} and {bound}");
    }
    // 64 ranks on 8 nodes of 8; tokens and bytes of the file.
    let scenario = &shown["scenario"];
    assert_eq!(number(scenario, "/network/gpus_per_node"), 8.0);
    assert_eq!(number(scenario, "/demand/dispatch_bytes"), 7464.0);
    assert_eq!(number(scenario, "/demand/tokens_per_gpu"), 4096.0);
}

#[test]
fn the_same_seed_gives_the_same_answer() {
    let answer = |seed| json(&["--gpus", "64", "--tokens", "512", "--seed", seed]);
    assert_eq!(answer("7"), answer("7"));
    assert_ne!(answer("7")["outcome"]["dispatch"], answer("8")["outcome"]["dispatch"]);
}

#[test]
fn a_slow_nic_a_straggler_and_a_narrow_spine_cost_what_they_must() {
    let slow = json(&["--gpus", "64", "--slow-nic", "13=0.5"]);
    assert_eq!(number(&slow, "/outcome/bounds/dispatch/bottleneck/gpu"), 13.0);
    let ratio = number(&slow, "/outcome/dispatch/time/max") / number(&slow, "/without_faults/dispatch");
    assert!((1.7..2.1).contains(&ratio), "half the rate: {ratio}");

    let late = json(&["--gpus", "64", "--straggler", "3=5000"]);
    let cost = number(&late, "/outcome/total") - number(&late, "/without_faults/total");
    assert!(cost > 4000.0, "everyone waits for the last: {cost}");

    // 4 nodes below a leaf: of the 3.97 nodes of a token half are beyond it, and 4 NICs of a rail share one uplink of a quarter of them.
    let spine = json(&["--gpus", "64", "--oversubscription", "4", "--nodes-per-pod", "4"]);
    assert_eq!(spine.pointer("/outcome/bounds/dispatch/bottleneck/link").and_then(Value::as_str), Some("spine"));
    let nodes = number(&spine, "/scenario/demand/nodes_per_token");
    let nic = number(&spine, "/scenario/network/nic");
    let expected = 4.0 * 4096.0 * (nodes / 2.0) * 7464.0 / nic * 1e6;
    assert!((number(&spine, "/outcome/bounds/dispatch/time") / expected - 1.0).abs() < 1e-6, "{expected}");
}

#[test]
fn liked_experts_make_a_rank_late() {
    let even = json(&["--gpus", "64"]);
    let skewed = json(&["--gpus", "64", "--skew", "1"]);
    let slowest = |shown: &Value| number(shown, "/outcome/dispatch/time/max");
    assert!(slowest(&skewed) > 1.2 * slowest(&even), "{} and {}", slowest(&skewed), slowest(&even));
}

#[test]
fn pictures_stand_alone() {
    for format in ["svg", "html"] {
        let picture = folder().succeeds(&["simulate", "pair.moe", "--deploy", "wide", "--format", format]);
        assert!(picture.contains("Time of each GPU, combine"), "{format}");
        assert!(picture.contains("Simulation of wide of small on pair"), "{format}");
        assert_eq!(picture.matches("http").count(), picture.matches("http://www.w3.org/").count(), "{format}");
    }
}

#[test]
fn what_cannot_be_simulated_is_said() {
    let folder = folder();
    let mut said = String::new();
    for arguments in [
        vec!["--slow-nic", "4=0.5"],
        vec!["--slow-nic", "1=2"],
        vec!["--straggler", "1=-5"],
        vec!["--slow-experts", "1=0.5"],
        vec!["--gpus", "6"],
        vec!["--chunk-tokens", "0"],
        vec!["--oversubscription", "0.5", "--nodes-per-pod", "1"],
        vec!["--set", "ep=3"],
        vec!["--set", "tokens=2000000000", "--chunk-tokens", "1"],
        vec!["--deploy", "quick"],
        vec!["--deploy", "huge"],
    ] {
        let wide = if arguments.contains(&"--deploy") { vec![] } else { vec!["--deploy", "wide"] };
        let all = [&["simulate", "pair.moe"][..], &wide, &arguments].concat();
        said.push_str(&format!("{}\n  {}", arguments.join(" "), folder.fails(&all)));
    }
    assert_snapshot!(said);
    // Misuse of the command line.
    for arguments in [["--slow-nic", "half"], ["--oversubscription", "2"]] {
        let output = folder.run(&[&["simulate", "pair.moe", "--deploy", "wide"][..], &arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    }
}
