//! `cargo bench -p moe-planner`: tokens sampled per second, the time of a plan, and of a search.

use std::time::Instant;

use moe_planner::{Change, Logits, Options, Planner, Sample};

fn main() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../dsl-examples/deepseek_v3.moe");
    let source = std::fs::read(path).expect("the example is there");

    let start = Instant::now();
    let spec = moe_front::check_source(&source).spec.expect("the example has no error");
    let (deploy, _) = spec.deploys.iter().next().expect("the example has a deploy");
    let mut planner = Planner::new(&spec, deploy, Options::default()).expect("a planner");
    let parallel = planner.parallel(Change::default()).unwrap();
    let report = planner.report(&parallel).expect("a report");
    let seconds = start.elapsed().as_secs_f64();
    let remote = report.gate.expected.remote_nodes;
    println!(
        "plan of one deploy, deepseek_v3, from text to report: {:.0} ms, remote nodes ± {:.2} %",
        seconds * 1e3,
        remote.half_width.unwrap() / remote.mean * 100.0
    );

    let start = Instant::now();
    let found = planner.search().expect("plans that fit");
    println!("search: {} plans in {:.0} ms", found.tried, start.elapsed().as_secs_f64() * 1e3);

    let (_, model) = spec.models.iter().next().expect("the example has a model");
    let rates = (0..7).map(|seed| {
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
