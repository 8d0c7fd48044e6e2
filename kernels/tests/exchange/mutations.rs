//! The tests are tested: every barrier and every wait is taken out of the PTX, one at a time, and each such kernel must be caught.
//!
//! Here what is gone is gone. Orders and scopes that are only *weakened* are in `orders.rs`.

use moe_contract::{Drop, Exchange, Format, Kernel, RowLayout};
use moe_vgpu::Policy;

use crate::scenario::{Picks, Scenario, Tokens, USUAL, request, run};
use crate::world::{Loaded, Passed, Schedule, World, texts};

/// A kernel with something taken out.
struct Mutant {
    kernel: Kernel,
    what: String,
    text: String,
}

/// All mutants of a kernel.
fn mutants(kernel: Kernel, text: &str) -> Vec<Mutant> {
    let lines: Vec<&str> = text.lines().collect();
    let edited = |what: String, edit: &dyn Fn(usize, &str) -> Option<String>| {
        let text: Vec<String> = lines
            .iter()
            .enumerate()
            .map(|(number, line)| edit(number, line).unwrap_or_else(|| (*line).to_owned()))
            .collect();
        Mutant { kernel, what, text: text.join("\n") }
    };
    let mut mutants = Vec::new();
    for (place, line) in lines.iter().enumerate() {
        let instruction = line.trim();
        let what = || format!("line {}: {instruction}", place + 1);
        let only =
            |replacement: String| edited(what(), &move |number, _| (number == place).then(|| replacement.clone()));
        let orders = ["bar.sync", "bar.warp.sync", "barrier.", "fence.", "membar.", "red.release"];
        if orders.iter().any(|name| instruction.starts_with(name)) {
            mutants.push(only(String::new()));
        } else if let Some(operands) = instruction.strip_prefix("bar.red.or.pred") {
            // The predicate of each thread stays its own.
            let [to, _, from] = operands.split(',').collect::<Vec<_>>()[..] else { panic!("{instruction}") };
            mutants.push(only(format!("mov.pred {to}, {from}")));
        }
    }
    if text.contains("ld.acquire.sys") {
        // Every look at a flag finds that all have arrived.
        mutants.push(edited("the wait".into(), &|_, line| {
            let operands = line.trim().strip_prefix("ld.acquire.sys.global.u64")?;
            let register = operands.split(',').next()?;
            Some(format!("mov.b64 {register}, -1;"))
        }));
    }
    mutants
}

/// What a mutant does wrong, in the first run that shows it.
fn caught(loaded: &Loaded) -> Option<String> {
    let round_robin = Schedule { policy: Policy::RoundRobin, seed: 0 };
    let all = Scenario { picks: Picks::Even, tokens: Tokens::All, rounds: 2, ..USUAL };
    let schedules = [round_robin]
        .into_iter()
        .chain((1..25).map(|seed| Schedule { policy: Policy::Adversarial, seed }))
        .chain((1..25).map(|seed| Schedule { policy: Policy::Random, seed }));
    for schedule in schedules {
        if let Err(problem) = run(loaded, all, schedule) {
            return Some(format!("{}, seed {}: {problem}", schedule.policy, schedule.seed));
        }
    }
    // A barrier that a rank does not reach must hold the others.
    let mut world = World::new(loaded, round_robin);
    world.launch(Kernel::Barrier, &Passed { absent: Some(1), ..Passed::default() });
    world.run().is_ok().then(|| "a rank left the barrier before all had arrived".into())
}

/// A barrier is missed when a warp that does not publish is late: there should be many such warps, and no other CTA to wait for.
fn each_is_caught(exchange: &Exchange) {
    let texts = texts(exchange);
    let loaded = Loaded::of(exchange, &texts).expect("our own PTX parses");
    assert_eq!(caught(&loaded), None, "nothing is wrong yet");
    let mut survivors = Vec::new();
    let mutants: Vec<Mutant> = texts.iter().flat_map(|(&kernel, text)| mutants(kernel, text)).collect();
    assert!(mutants.len() > texts.len(), "every kernel has something to take out, and some have several");
    for mutant in mutants {
        let Mutant { kernel, what, text } = mutant;
        let mutated = loaded.with(kernel, &text).unwrap_or_else(|error| panic!("{kernel:?}, {what}: {error}"));
        match caught(&mutated) {
            Some(problem) => {
                let problem = problem.lines().next().unwrap_or_default();
                println!("{:24} without {what:56} {problem}", kernel.name());
            }
            None => survivors.push(format!("{} without {what}", kernel.name())),
        }
    }
    assert!(survivors.is_empty(), "nothing notices:\n{}", survivors.join("\n"));
}

#[test]
fn expert_major_weighted_with_capacity_by_weight() {
    let shape = Exchange { drop: Some(Drop::Lowest), max_tokens: 70, threads: 256, hidden: 8, ctas: 1, ..request() };
    each_is_caught(&shape.checked().expect("it keeps its limits"));
}

#[test]
fn rank_major_fp8_with_capacity_by_position() {
    let shape = Exchange {
        drop: Some(Drop::Position),
        layout: RowLayout::RankMajor,
        weighted: false,
        dispatch: Format::FP8_F32_128,
        hidden: 128,
        max_tokens: 40,
        threads: 256,
        ctas: 1,
        ..request()
    };
    each_is_caught(&shape.checked().expect("it keeps its limits"));
}

#[test]
fn batched_mxfp8_weighted() {
    let shape = Exchange {
        layout: RowLayout::Batched,
        dispatch: Format::MXFP8,
        hidden: 96,
        max_tokens: 40,
        threads: 256,
        ctas: 1,
        ..request()
    };
    each_is_caught(&shape.checked().expect("it keeps its limits"));
}
