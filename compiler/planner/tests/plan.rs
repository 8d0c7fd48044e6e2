//! Whole reports: the question that the planner must answer first, and that it is answered from the file.

use moe_front::spec::Spec;
use moe_planner::page::compared;
use moe_planner::page::{compare_table, front_table};
use moe_planner::{Change, Options, Planner};

fn spec(name: &str) -> Spec {
    let path = format!("{}/../../dsl-examples/{name}.moe", env!("CARGO_MANIFEST_DIR"));
    moe_front::check_source(&std::fs::read(path).unwrap()).spec.unwrap()
}

fn planner<'a>(spec: &'a Spec, deploy: &str) -> Planner<'a> {
    Planner::new(spec, spec.deploy(deploy).unwrap(), Options::default()).unwrap()
}

#[test]
fn deepseek_v3_keeps_ep_64() {
    let spec = spec("deepseek_v3");
    let mut planner = planner(&spec, "pretrain");
    let reports: Vec<_> = [64, 128]
        .map(|ep| planner.parallel(Change { ep: Some(ep), ..Change::default() }).unwrap())
        .iter()
        .map(|parallel| planner.report(parallel).unwrap())
        .collect();
    println!("{}", reports[0]);
    println!("{}", compare_table(&reports));
    let words = compared(&reports).words;
    println!("{words:#?}\n{:#?}", reports[1].explanation);
    // Published: ×1.54; a sample says that or a hundredth more.
    assert!(
        words[0].contains("RDMA ×1.54 on average, ×2 at worst")
            || words[0].contains("RDMA ×1.55 on average, ×2 at worst"),
        "{}",
        words[0]
    );
    assert!(
        reports[1].explanation[1].contains("keep ep 64, or give the gate 16 groups"),
        "{:?}",
        reports[1].explanation
    );
    assert!(words.last().unwrap().starts_with("keep ep 64"), "{words:?}");
    assert_eq!(reports[0].share.expert_replicas, 2);
    assert_eq!(reports[1].replicas.unwrap().expert_bytes, 0.0);
}

/// "One prediction by hand" of `docs/planner.md`, with its rounded parameters and means.
#[test]
fn the_prediction_by_hand_is_the_prediction() {
    let spec = spec("deepseek_v3");
    let mut planner = planner(&spec, "pretrain");
    let parallel = planner.parallel(Change::default()).unwrap();
    let dispatch = planner.report(&parallel).unwrap().phases[0].time;
    let volume = 4096.0 * 7464.0 / 1e3;
    let moved = 4096.0 * (7464.0 + 11_369.0) / 1e3;
    let copy = moved * (7.500 + 0.8339 * 3.967) / (21.64 * 20.0);
    let nvlink = volume * 6.563 / (0.8911 * 160.0);
    let network = volume * 3.471 / (0.9704 * 50.0);
    let power = 10.81;
    let steady = f64::powf(f64::powf(copy, power) + f64::powf(nvlink, power) + f64::powf(network, power), 1.0 / power);
    let filling = 0.4710 * (copy + nvlink + network - steady) * 384.2 / (4096.0 + 384.2);
    let time = 27.5 + 9.46 * 2.0 + filling + steady;
    let notify = 30.4 + 16.7 * 3.0 + 4096.0 / 20.0 * 0.0018;
    for (by_hand, predicted) in [
        (copy, dispatch.copy.0),
        (nvlink, dispatch.nvlink.0),
        (network, dispatch.network.0),
        (time, dispatch.transfer.0),
        (notify, dispatch.notify.0),
        (2495.0, dispatch.total().0),
    ] {
        assert!((by_hand / predicted - 1.0).abs() < 0.002, "{by_hand} by hand, {predicted} predicted");
    }
}

/// Without groups, reaching more nodes costs less, since a token already reaches most of them; the steps are as fast, and receive regions of
/// 64 ranks are smaller.
#[test]
fn kimi_k2_answers_differently() {
    let spec = spec("kimi_k2");
    let mut planner = planner(&spec, "pretrain");
    let mut report = |ep| {
        let parallel = planner.parallel(Change { ep: Some(ep), ..Change::default() }).unwrap();
        planner.report(&parallel).unwrap()
    };
    let (few, many) = (report(64), report(128));
    let words = compared(&[few.clone(), many.clone()]).words;
    println!("{}\n{words:#?}", compare_table(&[few.clone(), many.clone()]));
    assert!(few.gate.groups.is_none());
    let ratio = many.gate.expected.remote_nodes.mean / few.gate.expected.remote_nodes.mean;
    // 6.53 × 15/16 over 5.31 × 7/8 by the closed form of 384 experts in 8 and 16 parts.
    let closed = |nodes: f64, form: Option<f64>| form.unwrap() * (1.0 - 1.0 / nodes);
    let expected = closed(16.0, many.gate.closed_form_nodes) / closed(8.0, few.gate.closed_form_nodes);
    assert!((ratio / expected - 1.0).abs() < 0.01, "{ratio} {expected}");
    assert!(ratio < 1.4, "{ratio}");
    assert!(words.last().unwrap().starts_with("keep ep 64"), "{words:?}");
}

#[test]
fn a_search_tries_a_thousand_plans_and_its_front_is_one() {
    let spec = spec("deepseek_v3");
    let mut planner = planner(&spec, "pretrain");
    let start = std::time::Instant::now();
    let found = planner.search().unwrap();
    println!("{} s\n{}", start.elapsed().as_secs_f64(), front_table(&found));
    assert!(found.tried >= 1000, "{}", found.tried);
    for (place, one) in found.front.iter().enumerate() {
        assert!(one.fits);
        // Found again the slow way.
        let beaten = |other: &&moe_planner::cost::search::Candidate| {
            other.fits
                && other.step_us <= one.step_us
                && other.memory <= one.memory
                && (other.step_us, other.memory) != (one.step_us, one.memory)
        };
        assert!(found.all.iter().find(beaten).is_none(), "{place}: {one:?}");
    }
    assert!(found.all.iter().all(|one| one.parallel.pp * one.parallel.dp * one.parallel.tp == 2048));
}

#[test]
fn every_deploy_of_every_example_is_reported() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../dsl-examples");
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "moe") {
            continue;
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let spec = spec(&name);
        for (deploy, _) in spec.deploys.iter() {
            let options = Options { sampled_tokens: 2048, ..Options::default() };
            let mut planner = Planner::new(&spec, deploy, options).unwrap();
            let parallel = planner.parallel(Change::default()).unwrap();
            let report = planner.report(&parallel).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(
                report.phases.iter().all(|phase| phase.time.total().0.is_finite() && phase.time.total().0 > 0.0),
                "{name}"
            );
            let json = serde_json::to_value(&report).unwrap();
            assert_eq!(json["schema"], 2);
        }
    }
}

#[test]
fn plans_that_cannot_be_say_what_to_write() {
    let spec = spec("deepseek_v3");
    let planner = planner(&spec, "pretrain");
    let refused = |change: Change, expected: &str| {
        let error = planner.parallel(change).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(Change { ep: Some(12), dp: Some(132), ..Change::default() }, "lower one of them");
    refused(Change { ep: Some(12), ..Change::default() }, "does not divide dp 128 × tp 1");
    refused(Change { ep: Some(0), ..Change::default() }, "ep is `0`: give a whole number from 1 to 16777216");
    refused(Change { pp: Some(0), ..Change::default() }, "pp is `0`");
    refused(Change { dp: Some(0), ..Change::default() }, "dp is `0`");
    refused(Change { tokens: Some(0), ..Change::default() }, "tokens is `0`");
    refused(Change { pp: Some(64), ep: Some(32), ..Change::default() }, "use at most pp 58");
    refused(Change { sms: Some(132), ..Change::default() }, "132 SMs for communication of 132 leave none to compute");
    refused(Change { zero: Some(4), ..Change::default() }, "zero is `4`: give a whole number from 0 to 3");
}
