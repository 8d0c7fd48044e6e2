//! The judge of memory order is judged: every release and every acquire of the kernels loses its order, or some of its scope, one at a time,
//! and the judge must tell of each such kernel.
//!
//! Left out are relaxed instructions, which have a scope and no order.

use moe_contract::{Exchange, Kernel};
use moe_vgpu::{Launch, Module, Policy};

use crate::scenario::{Picks, Scenario, Tokens, USUAL, request, run};
use crate::world::{Loaded, Passed, Schedule, World, texts};

/// The one schedule that is judged, see [`crate::world::World::new`].
const JUDGED: Schedule = Schedule { policy: Policy::Adversarial, seed: 1 };

/// What an instruction is weakened to: one order, or one scope, less.
const WEAKER: [(&str, &[&str]); 3] = [
    ("red.release.sys", &["red.relaxed.sys", "red.release.gpu"]),
    ("ld.acquire.sys", &["ld.relaxed.sys", "ld.acquire.gpu"]),
    ("atom.acq_rel.gpu", &["atom.relaxed.gpu", "atom.acquire.gpu", "atom.release.gpu", "atom.acq_rel.cta"]),
];

/// Whether an instruction orders something.
fn orders(line: &str) -> bool {
    [".release", ".acquire", ".acq_rel", ".sc.", "fence.", "membar."].iter().any(|word| line.contains(word))
}

/// Every kernel with one of its instructions weakened: its name, what is done, and the text.
fn weakened(kernel: Kernel, text: &str) -> Vec<(Kernel, String, String)> {
    let mut mutants = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let is_known = WEAKER.iter().any(|(strong, _)| line.contains(strong));
        assert!(is_known || !orders(line), "{kernel:?}, line {}: how is this weakened? {line}", number + 1);
        for (strong, weaker) in WEAKER.iter().filter(|(strong, _)| line.contains(strong)) {
            for weak in *weaker {
                let edit = |(at, line): (usize, &str)| {
                    if at == number { line.replace(strong, weak) } else { line.to_owned() }
                };
                let lines: Vec<String> = text.lines().enumerate().map(edit).collect();
                mutants.push((kernel, format!("line {}: {strong} -> {weak}", number + 1), lines.join("\n")));
            }
        }
    }
    mutants
}

/// What callers exchange through a barrier: each rank puts a word into the memory of the next, and takes its own behind the barrier.
const AROUND: &str = "
.version 8.6
.target sm_90a
.address_size 64
.visible .entry put(.param .u64 cell) {
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [cell];
    st.global.u32 [%rd1], 7;
    ret;
}
.visible .entry take(.param .u64 cell) {
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [cell];
    ld.global.u32 %r1, [%rd1];
    ret;
}";

/// What is said of a barrier with something on both sides of it.
fn around_a_barrier(loaded: &Loaded) -> Result<(), String> {
    let module = Module::parse(AROUND).expect("the text above");
    let mut world = World::new(loaded, JUDGED);
    let cells = world.everywhere("cell", |_| 4);
    let ranks = cells.len();
    let each = |world: &mut World<'_>, name: &str, ahead: usize| {
        for rank in 0..ranks {
            let cell = cells[(rank + ahead) % ranks];
            world.launch_alone(
                rank,
                &module.kernel(name).expect("it is there"),
                Launch::linear(1, 1, vec![cell.into()]),
            );
        }
    };
    each(&mut world, "put", 1);
    world.launch(Kernel::Barrier, &Passed::default());
    each(&mut world, "take", 0);
    world.run().map_err(|error| error.to_string())?;
    world.conflict().map_or(Ok(()), |conflict| Err(conflict.to_string()))
}

/// The barrier is one CTA, whose count of calls nobody else sees.
fn is_needed(kernel: Kernel, what: &str) -> bool {
    !(kernel == Kernel::Barrier && what.contains("atom.acq_rel.gpu"))
}

#[test]
fn every_release_and_every_acquire_is_needed() {
    let shape = Exchange { max_tokens: 40, threads: 64, hidden: 8, ctas: 3, ..request() };
    let exchange = shape.checked().expect("it keeps its limits");
    let texts = texts(&exchange);
    let loaded = Loaded::of(&exchange, &texts).expect("our own PTX parses");
    let scenario = Scenario { picks: Picks::Even, tokens: Tokens::All, rounds: 2, ..USUAL };
    let judged = |loaded: &Loaded| run(loaded, scenario, JUDGED).and_then(|()| around_a_barrier(loaded));
    assert_eq!(judged(&loaded), Ok(()), "nothing is wrong yet");
    let mut survivors = Vec::new();
    for (kernel, what, text) in texts.iter().flat_map(|(&kernel, text)| weakened(kernel, text)) {
        let mutated = loaded.with(kernel, &text).unwrap_or_else(|error| panic!("{kernel:?}, {what}: {error}"));
        match judged(&mutated) {
            Err(problem) => println!("{:24} {what:56} {problem}", kernel.name()),
            Ok(()) if !is_needed(kernel, &what) => {}
            Ok(()) => survivors.push(format!("{} {what}", kernel.name())),
        }
    }
    assert!(survivors.is_empty(), "nothing notices:\n{}", survivors.join("\n"));
}
