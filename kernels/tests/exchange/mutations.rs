//! The tests are tested: whatever a kernel orders is taken from it, one instruction at a time, and each such kernel must be caught, by what
//! comes out or by the judge of memory order. Here for some exchanges; `make judge` does it for the kernels of all examples.

use moe_contract::{Drop, Exchange, Format, Kernel, RowLayout};

use crate::mutants::mutants;
use crate::scenario::request;
use crate::trials::trials;
use crate::world::{Loaded, Schedule, texts};

/// What a kernel does wrong, in the first run that shows it.
fn caught(loaded: &Loaded, kernel: Kernel) -> Option<String> {
    let judged = [Schedule::adversarial(1), Schedule::random(1), Schedule::IN_TURN].map(Schedule::judged);
    let more = (2..8).flat_map(|seed| [Schedule::adversarial(seed), Schedule::random(seed)].map(Schedule::judged));
    for schedule in judged.into_iter().chain(more) {
        for trial in trials(kernel, loaded) {
            if let Err(problem) = trial(loaded, kernel, schedule).fine() {
                return Some(format!("{schedule}: {problem}"));
            }
        }
    }
    None
}

/// Of all kernels of an exchange, or of some.
fn each_is_caught(request: &Exchange, kernels: &[Kernel]) {
    let exchange = request.checked().expect("it keeps its limits");
    let texts = texts(&exchange);
    let loaded = Loaded::of(&exchange, &texts).expect("our own PTX parses");
    let mut survivors = Vec::new();
    for (&kernel, text) in texts.iter().filter(|(kernel, _)| kernels.contains(kernel)) {
        let name = kernel.name();
        assert_eq!(caught(&loaded, kernel), None, "{name}: nothing is wrong yet");
        let mutants = mutants(text).unwrap_or_else(|unknown| panic!("{name}, {unknown}"));
        assert!(!mutants.is_empty(), "{name} has something to take out");
        for mutant in mutants {
            let (kind, line, what) = (mutant.kind.name(), mutant.line, mutant.what);
            let mutated = loaded.with(kernel, &mutant.text).unwrap_or_else(|error| panic!("{name}, {what}: {error}"));
            let said = caught(&mutated, kernel);
            println!("{name:24} {kind:12} line {line:3}: {what}\n    {}", said.as_deref().unwrap_or("SURVIVES"));
            if said.is_none() {
                survivors.push(format!("{name}, {kind}, line {line}: {what}"));
            }
        }
    }
    assert!(survivors.is_empty(), "nothing notices:\n{}", survivors.join("\n"));
}

/// A barrier is missed when a warp that does not publish is late: there should be several such warps.
const SHAPE: Exchange = Exchange { hidden: 8, max_tokens: 44, threads: 64, ctas_link: 2, ctas_local: 2, ..request() };

#[test]
fn expert_major_weighted() {
    let shape = Exchange { max_tokens: 12, ..SHAPE };
    let others: Vec<Kernel> = Kernel::ALL.iter().copied().filter(|kernel| !SUMS.contains(kernel)).collect();
    each_is_caught(&shape, &others);
}

/// They read through rings: there have to be more units for a warp than it has buffers.
const SUMS: [Kernel; 3] = [Kernel::CombineSend, Kernel::CombineSendUnweighted, Kernel::CombineReduce];

#[test]
fn sums() {
    each_is_caught(&Exchange { max_tokens: 32, ..SHAPE }, &SUMS);
}

#[test]
fn capacity_by_weight() {
    each_is_caught(&Exchange { drop: Some(Drop::Lowest), ..SHAPE }, &[Kernel::Capacity]);
}

/// Also the kernels that are only there where experts weigh, and epochs that a single CTA ends.
#[test]
fn rank_major_with_capacity_by_position() {
    let shape = Exchange {
        layout: RowLayout::RankMajor,
        drop: Some(Drop::Position),
        weighted: false,
        ctas_link: 1,
        ctas_local: 1,
        ..SHAPE
    };
    let kernels = [Kernel::Capacity, Kernel::DispatchPlace, Kernel::WeightGradientSend, Kernel::WeightGradientCollect];
    each_is_caught(&shape, &kernels);
}

#[test]
fn mxfp8_on_a_single_rank() {
    let shape = Exchange { ranks: 1, layout: RowLayout::Batched, dispatch: Format::MXFP8, hidden: 96, ..SHAPE };
    each_is_caught(&shape, &[Kernel::Route, Kernel::DispatchSend, Kernel::DispatchPlaceCached]);
}
