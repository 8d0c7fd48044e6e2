//! `cargo bench -p moe-planner [-- WORD]`: tokens sampled per second, the time of a plan, of a search, and of a simulation.

use std::time::Instant;

use moe_compiler::spec::Spec;
use moe_compiler::units::{Bytes, BytesPerSecond, Microseconds};
use moe_planner::simulate::{self, Demand, Network, Scenario, Spine, simulate};
use moe_planner::{Change, Logits, Options, Planner, Sample};

fn main() {
    let word = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../dsl-examples/deepseek_v3.moe");
    let source = std::fs::read(path).expect("the example is there");
    let parts: [(&str, &dyn Fn()); 3] =
        [("plan", &|| plan(&source)), ("sampling", &|| sampling(&check(&source))), ("simulation", &simulation)];
    parts.iter().filter(|(name, _)| name.contains(&word)).for_each(|(_, measure)| measure());
}

fn check(source: &[u8]) -> Spec {
    moe_compiler::check_source(source).spec.expect("the example has no error")
}

fn plan(source: &[u8]) {
    let start = Instant::now();
    let spec = check(source);
    let (deploy, _) = spec.deploys.iter().next().expect("the example has a deploy");
    let mut planner = Planner::new(&spec, deploy, Options::default()).expect("a planner");
    let parallel = planner.parallel(Change::default());
    let report = planner.report(&parallel).expect("a report");
    let seconds = start.elapsed().as_secs_f64();
    let remote = report.gate.expected.remote_nodes;
    println!(
        "plan of one deploy, deepseek_v3, from text to report: {:.0} ms, remote nodes ± {:.2} %",
        seconds * 1e3,
        remote.half_width / remote.mean * 100.0
    );

    let start = Instant::now();
    let found = planner.search().expect("plans that fit");
    println!("search: {} plans in {:.0} ms", found.tried, start.elapsed().as_secs_f64() * 1e3);
}

fn sampling(spec: &Spec) {
    let (_, model) = spec.models.iter().next().expect("the example has a model");
    let rates = (0..21).map(|seed| {
        let start = Instant::now();
        let sample = Sample::of(&model.gate, &Logits::Independent, 1 << 18, seed).expect("a sample");
        sample.tokens() as f64 / start.elapsed().as_secs_f64() / 1e6
    });
    let mut rates: Vec<f64> = rates.collect();
    rates.sort_by(f64::total_cmp);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    println!(
        "sampling deepseek_v3, random logits and gate, {threads} threads: {:.2} M tokens/s (best run {:.2})",
        rates[rates.len() / 2],
        rates[rates.len() - 1]
    );
}

/// 4096 tokens a GPU in groups of 64, each alone, and joined by a spine whose pods no group fits.
fn simulation() {
    let joined = Spine { nodes_per_pod: 17, oversubscription: 2.0, latency: Microseconds(1.0) };
    for spine in [None, Some(joined)] {
        for nodes in [32, 128, 512, 2048] {
            let scenario = Scenario {
                network: Network {
                    nodes,
                    gpus_per_node: 8,
                    nvlink: BytesPerSecond(160_000_000_000),
                    nic: BytesPerSecond(50_000_000_000),
                    nvlink_latency: Microseconds(1.0),
                    nic_latency: Microseconds(5.0),
                    spine: spine.clone(),
                },
                demand: Demand {
                    group_ranks: 64,
                    tokens_per_gpu: 4096,
                    nodes_per_token: 3.97,
                    ranks_per_copy: 1.89,
                    dispatch_bytes: Bytes(7464),
                    combine_bytes: Bytes(14_336),
                    rank_load: Vec::new(),
                    expert_time: Microseconds(500.0),
                },
                faults: Vec::new(),
                options: simulate::Options::default(),
            };
            let start = Instant::now();
            let outcome = simulate(&scenario).expect("a scenario that makes sense");
            let seconds = start.elapsed().as_secs_f64();
            println!(
                "simulation, {} GPUs{}: {seconds:.2} s, {:.0} ns an event",
                outcome.gpus,
                if spine.is_some() { ", joined by a spine" } else { "" },
                seconds * 1e9 / outcome.events as f64
            );
        }
    }
}
