//! Every number that a person can give: whatever it is, there is an answer in finite numbers or one clear sentence, never a panic.
//!
//! Tests are built with overflow checks, so that a product that wraps is a panic.

use std::ops::Range;

use moe_contract::placement::Placement;
use moe_front::spec::Spec;
use moe_front::units::{Bytes, Microseconds};
use moe_planner::calibrate::{self, Hardware};
use moe_planner::cost::Placed;
use moe_planner::cost::memory::Recompute;
use moe_planner::cost::parallel::Schedule;
use moe_planner::page::compare_table;
use moe_planner::page::picture::Page;
use moe_planner::placement::{self, Load, Policy, Shape};
use moe_planner::simulate::{self, Conditions, Fault, GpuId, Order, Spine};
use moe_planner::time::Profile;
use moe_planner::{Change, Logits, Options, Planner};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

/// Three models on three clusters: groups, none, and experts that compute nothing; nodes without RDMA; latency mode; one multiprocessor.
const FILE: &str = "
    model grouped {
        hidden 256   experts 8 in 4 groups   expert_ffn 512   shared 1   moe_layers 6
        gate(logits: f32[experts]) {
            let score  = sigmoid(logits)
            let best   = top(2, groups, by: max(group(score)))
            let chosen = top(3, experts in best, by: score)
            weights normalize(score[chosen], eps: 1e-20)
        }
        dispatch { payload fp8_e4m3 scale f32 per 128   layout expert_major align 8 }
        combine  { payload bf16   reduce f32 weighted }
    }
    model free {
        hidden 128   experts 16 { zero 12..15 }   moe_layers 1000
        gate(logits: f32[experts]) { let chosen = top(2, experts, by: logits)   weights softmax(logits)[chosen] }
        dispatch { payload bf16   layout expert_major align 8 }
        combine  { payload bf16   reduce f32 weighted }
    }
    cluster pods {
        nodes 64   gpus 4 per node
        gpu \"H800\" { target sm_90a   sms 132   memory 80 GB }
        nvlink 160 GB/s   rdma 50 GB/s per gpu
    }
    cluster huge {
        nodes 1048576   gpus 64 per node
        gpu \"H800\" { target sm_90a   sms 132   memory 100 TB }
        nvlink 160 GB/s   rdma 50 GB/s per gpu
    }
    cluster apart {
        nodes 4   gpus 2 per node
        gpu \"H800\" { target sm_90a   sms 2   memory 1 MB }
        nvlink 160 GB/s
    }
    deploy wide of grouped on pods { ep 8   pp 2   dp 128   tokens 4096 per gpu   sms 20 }
    deploy open of grouped on huge { ep 8   tokens 16777216 per gpu }
    deploy quick of grouped on pods { ep 8   tokens 8 per gpu   mode latency }
    deploy alone of free on apart { ep 2   tokens 64 per gpu }
";

fn spec() -> Spec {
    let checked = moe_front::check_source(FILE.as_bytes());
    checked.spec.unwrap_or_else(|| panic!("{:?}", checked.diagnostics))
}

/// Numbers at which something ends, and any others.
fn count() -> impl Strategy<Value = u32> {
    let edges = vec![
        0,
        1,
        2,
        3,
        4,
        8,
        63,
        64,
        128,
        1000,
        4096,
        65_535,
        65_536,
        1 << 20,
        1 << 24,
        (1 << 24) + 1,
        1 << 31,
        u32::MAX,
    ];
    prop_oneof![3 => select(edges), 1 => any::<u32>(), 2 => 0..20_u32]
}

fn real() -> impl Strategy<Value = f64> {
    let edges = vec![
        0.0,
        -0.0,
        -1.0,
        1e-300,
        0.001,
        0.01,
        0.5,
        1.0,
        1.5,
        100.0,
        1e6,
        1e9,
        1e300,
        f64::MAX,
        f64::MIN_POSITIVE,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
    ];
    prop_oneof![2 => select(edges), 1 => any::<f64>(), 1 => 0.0..2.0_f64]
}

fn change() -> impl Strategy<Value = Change> {
    let number = || option::weighted(0.4, count());
    (number(), number(), number(), option::weighted(0.4, any::<u8>()), number(), number())
        .prop_map(|(ep, pp, dp, zero, sms, tokens)| Change { ep, pp, dp, zero, sms, tokens })
}

fn options() -> impl Strategy<Value = Options> {
    let logits = prop_oneof![
        3 => Just(Logits::Independent),
        1 => real().prop_map(|deviation| Logits::Skewed(deviation as f32)),
        1 => vec(real(), 16).prop_map(Logits::Counted),
    ];
    let schedule = option::of(select(Schedule::ALL.to_vec()));
    let recompute = option::of(select(vec![Recompute::Selective, Recompute::Full]));
    // More tokens take longer and change nothing here.
    let sample = select(vec![0_usize, 1, 2, 100, (1 << 24) + 1]);
    let efficiency = prop_oneof![3 => Just(0.5), 1 => real()];
    (
        logits,
        schedule,
        recompute,
        option::weighted(0.3, count()),
        efficiency,
        sample,
        prop_oneof![3 => Just(4096), 1 => count()],
    )
        .prop_map(|(logits, schedule, recompute, micro_batches, efficiency, sampled_tokens, sequence)| Options {
            logits,
            schedule,
            recompute,
            micro_batches,
            efficiency,
            sampled_tokens,
            sequence,
            ..Options::default()
        })
}

fn conditions() -> impl Strategy<Value = Conditions> {
    let us = || prop_oneof![2 => Just(1.0), 1 => real()].prop_map(Microseconds);
    let fault = (0..4, prop_oneof![2 => 0..8_u32, 1 => count()], real()).prop_map(|(kind, gpu, number)| match kind {
        0 => Fault::SlowNic { gpu: GpuId(gpu), rate: number },
        1 => Fault::SlowNvlink { gpu: GpuId(gpu), rate: number },
        2 => Fault::Late { gpu: GpuId(gpu), by: Microseconds(number) },
        _ => Fault::SlowExperts { gpu: GpuId(gpu), factor: number },
    });
    let spine = (count(), prop_oneof![2 => Just(2.0), 1 => real()], us())
        .prop_map(|(nodes_per_pod, oversubscription, latency)| Spine { nodes_per_pod, oversubscription, latency });
    let options =
        (prop_oneof![2 => Just(64), 1 => count()], prop_oneof![2 => Just(16), 1 => count()], any::<u64>()).prop_map(
            |(chunk_tokens, window, seed)| simulate::Options { chunk_tokens, window, order: Order::Shuffled, seed },
        );
    (
        option::of(count()),
        us(),
        us(),
        option::of(spine),
        option::of(us()),
        vec(fault, Range { start: 0, end: 4 }),
        options,
    )
        .prop_map(|(gpus, nvlink_latency, nic_latency, spine, expert_time, faults, options)| Conditions {
            gpus,
            nvlink_latency,
            nic_latency,
            spine,
            expert_time,
            faults,
            options,
        })
}

/// That a text for people has no number that is none.
#[track_caller]
fn finite(text: &str) {
    let words = text.split(|c: char| !c.is_alphanumeric());
    let wrong: Vec<&str> = words.filter(|word| matches!(*word, "NaN" | "inf" | "Infinity")).collect();
    assert!(wrong.is_empty(), "{wrong:?} in {text}");
}

/// Names that `docs/json.md` allows to be null; a number that is none would be null too.
const NULL: [&str; 17] = [
    "half_width",
    "groups",
    "closed_form_nodes",
    "enough_sms",
    "parameters",
    "of_gpu",
    "recompute",
    "memory",
    "fits",
    "replicas",
    "step",
    "decode",
    "expert_time",
    "spine",
    "without_faults",
    "total",
    "moves",
];

#[track_caller]
fn no_null(value: &serde_json::Value, name: &str) {
    match value {
        serde_json::Value::Null => assert!(NULL.contains(&name), "{name} is null"),
        serde_json::Value::Array(all) => all.iter().for_each(|one| no_null(one, name)),
        serde_json::Value::Object(all) => all.iter().for_each(|(name, one)| no_null(one, name)),
        _ => {}
    }
}

/// That it is a sentence that says what was wrong.
#[track_caller]
fn sentence(said: &str) {
    assert!(said.len() > 10 && said.contains(' '), "{said}");
}

/// Plans, shown in every way, or a sentence.
fn planned(
    spec: &Spec,
    deploy: usize,
    options: Options,
    changes: &[Change],
    conditions: Option<&Conditions>,
) -> Result<(), Box<dyn std::error::Error>> {
    let (id, _) = spec.deploys.iter().nth(deploy).expect("there are so many");
    let mut planner = Planner::new(spec, id, options)?;
    let mut reports = Vec::new();
    for &change in changes {
        let parallel = planner.parallel(change)?;
        let report = planner.report(&parallel)?;
        finite(&report.to_string());
        no_null(&serde_json::to_value(&report).expect("JSON"), "");
        if let Some(conditions) = conditions {
            let scenario = planner.scenario(&report, conditions)?;
            scenario.check()?;
            if scenario.chunks() < 20_000 {
                let simulation = planner.simulate(&report, conditions, &|_| {})?;
                finite(&simulation.to_string());
                no_null(&serde_json::to_value(&simulation).expect("JSON"), "");
                finite(&Page { simulation: Some(&simulation), ..Page::default() }.svg());
            }
        }
        reports.push(report);
    }
    finite(&compare_table(&reports).to_string());
    // Pictures of many ranks are large, and their numbers are the same.
    if reports.iter().all(|report| report.parallel.ep <= 64) {
        let page = Page { plans: &reports, ..Page::default() };
        finite(&page.svg());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_numbers_of_a_plan(deploy in 0..4_usize, options in options(), changes in vec(change(), 1..3)) {
        if let Err(error) = planned(&spec(), deploy, options, &changes, None) {
            sentence(&error.to_string());
        }
    }

    #[test]
    fn any_numbers_of_a_simulation(deploy in 0..4_usize, change in change(), tokens in 1..300_u32, conditions in conditions()) {
        let options = Options { sampled_tokens: 64, ..Options::default() };
        let change = Change { tokens: Some(tokens), ..change };
        if let Err(error) = planned(&spec(), deploy, options, &[change], Some(&conditions)) {
            sentence(&error.to_string());
        }
    }

    /// Most changes of the tests above make no plan; these mostly do.
    #[test]
    fn likely_numbers_of_a_simulation(
        deploy in 0..2_usize, ep in select(vec![1, 2, 4, 8]), sms in 1..131_u32, tokens in 1..3000_u32, conditions in conditions(),
    ) {
        let options = Options { sampled_tokens: 64, ..Options::default() };
        let change = Change { ep: Some(ep), pp: Some(1), dp: Some(8), sms: Some(sms), tokens: Some(tokens), ..Change::default() };
        if let Err(error) = planned(&spec(), deploy, options, &[change], Some(&conditions)) {
            sentence(&error.to_string());
        }
    }

    #[test]
    fn any_numbers_of_a_placement(
        counts in vec(vec(prop_oneof![3 => 0.0..1e4_f64, 1 => real()], 8), 1..4),
        shape in (prop_oneof![2 => 1..4_u32, 1 => count()], prop_oneof![2 => 1..4_u32, 1 => count()], prop_oneof![2 => 1..9_u32, 1 => count()], prop_oneof![2 => 8..40_u32, 1 => count()]),
        global in any::<bool>(),
        top_k in prop_oneof![3 => 1..4_u32, 1 => count()],
        slack in prop_oneof![2 => Just(0.0), 1 => real()],
        bytes in (option::of(any::<u64>()), option::of(any::<u64>())),
    ) {
        let (nodes, gpus_per_node, groups, replicas) = shape;
        let shape = Shape { nodes, gpus_per_node, groups, replicas };
        let load = match Load::new(counts) {
            Ok(load) => load,
            Err(error) => {
                sentence(&error.to_string());
                return Ok(());
            }
        };
        let options = placement::Options {
            policy: if global { Policy::Global } else { Policy::Hierarchical },
            top_k,
            slack,
            expert_bytes: bytes.0.map(Bytes),
            gpu_memory: bytes.1.map(Bytes),
            rounds: 2,
            work: 1 << 16,
            ..placement::Options::default()
        };
        match placement::place(&load, &shape, &options) {
            Ok(placed) => {
                finite(&placed.page().to_string());
                no_null(&serde_json::from_str(&placed.to_json()).expect("JSON"), "");
                finite(&Page { placement: Some((&load, &placed)), ..Page::default() }.html());
            }
            Err(error) => sentence(&error.to_string()),
        }
    }

    /// A table of measurements, whatever its cells are, and a plan with what was fitted to it.
    #[test]
    fn any_numbers_of_a_table(
        latency in any::<bool>(),
        rows in vec(vec(prop_oneof![
            6 => (1..9_u32).prop_map(|number| number.to_string()),
            1 => count().prop_map(|number| number.to_string()),
            1 => real().prop_map(|number| number.to_string()),
            1 => Just("x".to_owned()),
        ], 11), 0..4),
    ) {
        let head = "node_num,hidden_size,num_token,num_topk,num_experts";
        let (times, columns) = if latency {
            ("dispatch_avg_t_us,combine_avg_t_us", 7)
        } else {
            ("dispatch_sms,dispatch_transmit_us,dispatch_notify_us,combine_sms,combine_transmit_us,combine_notify_us", 11)
        };
        let lines = rows.iter().map(|row| row[..columns].join(",") + "\n").collect::<String>();
        let hardware = Hardware { gpus_per_node: 4, ..Hardware::H100 };
        let table = match calibrate::read(format!("{head},{times}\n{lines}").as_bytes(), &hardware) {
            Ok(table) => table,
            Err(error) => {
                sentence(&error.to_string());
                return Ok(());
            }
        };
        let mut profile = Profile::deepep_v1_h100();
        if let Err(error) = calibrate::refit(&mut profile, &table) {
            sentence(&error.to_string());
            return Ok(());
        }
        let options = Options { profile: Some(profile), sampled_tokens: 64, ..Options::default() };
        planned(&spec(), if latency { 2 } else { 0 }, options, &[Change::default()], None).expect("a plan");
    }

    /// A file of counts, and a placement, whatever their numbers are.
    #[test]
    fn any_numbers_of_files(
        cells in vec((count(), 0..8_u32, real()), 1..12),
        placement in (count(), count(), count(), option::of(count())),
        slots in vec(prop_oneof![6 => 0..8_u32, 1 => count()], 0..20),
        layer in count(),
    ) {
        let rows = cells.iter().map(|(layer, expert, count)| format!("{layer},{expert},{count}\n")).collect::<String>();
        if let Err(error) = Load::parse(format!("layer,expert,count\n{rows}").as_bytes()) {
            sentence(&error.to_string());
        }
        let (nodes, gpus_per_node, slots_per_gpu, experts) = placement;
        let text = serde_json::json!({
            "nodes": nodes, "gpus_per_node": gpus_per_node, "slots_per_gpu": slots_per_gpu, "experts": experts,
            "layers": [{ "layer": layer, "experts_by_slot": slots }],
        });
        let placement = match Placement::from_json(text.to_string().as_bytes()) {
            Ok(placement) => placement,
            Err(error) => {
                sentence(&error.to_string());
                return Ok(());
            }
        };
        let options = Options { placed: Some(Placed { placement, layer }), sampled_tokens: 64, ..Options::default() };
        if let Err(error) = planned(&spec(), 0, options, &[Change::default()], None) {
            sentence(&error.to_string());
        }
    }
}

/// What a person saw: a panic for `pp=0`, NaN for `dp=0`, and products that wrapped around.
#[test]
fn nothing_of_something_is_refused_by_name() {
    let spec = spec();
    let said = |change: Change| {
        planned(&spec, 0, Options { sampled_tokens: 64, ..Options::default() }, &[change], None)
            .unwrap_err()
            .to_string()
    };
    let none = Some(0);
    for (change, name) in [
        (Change { ep: none, ..Change::default() }, "ep"),
        (Change { pp: none, ..Change::default() }, "pp"),
        (Change { dp: none, ..Change::default() }, "dp"),
        (Change { sms: none, ..Change::default() }, "sms"),
        (Change { tokens: none, ..Change::default() }, "tokens"),
    ] {
        assert_eq!(said(change), format!("{name} is `0`: give a whole number from 1 to 16777216"));
    }
    // 2^24 × 2^24: 0 in 32 bits, and within 64.
    let most = Some(1 << 24);
    assert_eq!(
        said(Change { pp: most, dp: most, ep: Some(1), ..Change::default() }),
        "pp 16777216 × dp 16777216 × tp 1 is 281474976710656 GPUs, and the cluster has 256: lower one of them"
    );
}

/// A network of a megabyte per second: nothing is simulated for years.
#[test]
fn a_mistyped_rate_is_said() {
    let file = FILE.replace("rdma 50 GB/s per gpu", "rdma 1 MB/s per gpu");
    let spec = moe_front::check_source(file.as_bytes()).spec.expect("a file");
    let options = Options { sampled_tokens: 64, ..Options::default() };
    let coarse = simulate::Options { chunk_tokens: 1 << 20, ..simulate::Options::default() };
    let conditions = Conditions { gpus: Some(8), options: coarse, ..Conditions::default() };
    let change = Change { tokens: Some(1 << 24), ..Change::default() };
    let said = planned(&spec, 0, options, &[change], Some(&conditions)).unwrap_err().to_string();
    assert!(said.starts_with("the busiest link, NIC "), "{said}");
    assert!(said.ends_with("give its rate as it can be achieved, or fewer tokens"), "{said}");
}
