//! Every file of instruction expectations, through a cluster.

#[path = "instructions/cases.rs"]
mod cases;
#[path = "instructions/lanes.rs"]
mod lanes;

use moe_vgpu::{Cluster, Config, Launch, Module, RankId};

fn run(name: &str, file: &str) {
    let cases = cases::Case::parse(file);
    let module = Module::parse(&cases::kernel(&cases)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let kernel = module.kernel("cases").expect("the kernel of the test");
    let bytes = cases.iter().map(|case| case.results.len() * 8).sum::<usize>();
    let mut cluster = Cluster::new(Config { ranks: 1, ..Config::default() }).expect("a cluster of one");
    let out = cluster.allocate(RankId(0), bytes as u64, "out").expect("memory");
    let stream = cluster.stream(RankId(0)).expect("a stream");
    cluster.launch(stream, &kernel, Launch::linear(1, 32, vec![out.into()])).expect("a launch");
    cluster.run().unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut found = vec![0; bytes];
    cluster.read(out, &mut found).expect("results");
    let found: Vec<u64> = found.as_chunks().0.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect();
    let differences = cases::differences(&cases, &found);
    assert!(differences.is_empty(), "{name}: {} differ:\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn integer() {
    run("integer", include_str!("instructions/integer.txt"));
}

#[test]
fn bits() {
    run("bits", include_str!("instructions/bits.txt"));
}

#[test]
fn floating() {
    run("floating", include_str!("instructions/floating.txt"));
}

#[test]
fn conversion() {
    run("conversion", include_str!("instructions/conversion.txt"));
}

#[test]
fn moves() {
    run("moves", include_str!("instructions/moves.txt"));
}

/// Instructions whose result depends on the other lanes, or on memory: one kernel and one warp per line.
fn run_warps(name: &str, file: &str) {
    let mut differences = Vec::new();
    for case in lanes::Case::parse(file) {
        let module = Module::parse(&case.kernel()).unwrap_or_else(|error| panic!("{name}: {}\n{error}", case.text));
        let kernel = module.kernel("case").expect("the kernel of the test");
        let mut cluster = Cluster::new(Config { ranks: 1, ..Config::default() }).expect("a cluster of one");
        let input = case.input();
        let results = case.results.len() * 256;
        let from = cluster.allocate(RankId(0), input.len().max(8) as u64, "input").expect("memory");
        let to = cluster.allocate(RankId(0), results as u64, "output").expect("memory");
        let memory = cluster.allocate(RankId(0), 256, "memory").expect("memory");
        cluster.write(from, &input).expect("input");
        cluster.write(memory, &(0..=255).collect::<Vec<u8>>()).expect("input");
        let stream = cluster.stream(RankId(0)).expect("a stream");
        let arguments = vec![from.into(), to.into(), memory.into()];
        cluster.launch(stream, &kernel, Launch::linear(1, 32, arguments)).expect("a launch");
        cluster.run().unwrap_or_else(|error| panic!("{name}: {}\n{error}", case.text));
        let mut found = vec![0; results];
        cluster.read(to, &mut found).expect("results");
        let found: Vec<u64> = found.as_chunks().0.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect();
        differences.extend(case.differences(&found));
    }
    assert!(differences.is_empty(), "{name}: {} differ:\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn warp() {
    run_warps("warp", include_str!("instructions/warp.txt"));
}

#[test]
fn memory() {
    run_warps("memory", include_str!("instructions/memory.txt"));
}
