//! The tests are tested: whatever a gate kernel orders is taken from it, one instruction at a time, and each such kernel must be caught, by
//! what comes out or by the judge of memory order.

#[path = "common/gate_trials.rs"]
mod gate_trials;
#[path = "common/host.rs"]
mod host;
#[path = "common/mutants.rs"]
mod mutants;
#[path = "../../compiler/gate/tests/common/programs.rs"]
#[allow(dead_code)]
mod programs;
#[path = "common/run.rs"]
mod run;
#[path = "common/virtual_gpu.rs"]
mod virtual_gpu;

mod common;

use gate_trials::{Subject, TRIALS, backward, derivative_of, forward};
use moe_gate::ir::Gate;
use mutants::mutants;
use run::Schedule;
use virtual_gpu::Virtual;

/// What a kernel does wrong, in the first run that shows it.
fn caught(subject: &Subject<'_>, kernel: &Virtual<'_>) -> Option<String> {
    let schedules = (1..4).flat_map(|seed| [Schedule::random(seed), Schedule::adversarial(seed)]);
    for schedule in schedules.chain([Schedule::IN_TURN]).map(Schedule::judged) {
        for trial in TRIALS {
            if let Err(problem) = trial(subject, kernel, schedule).fine() {
                return Some(format!("{schedule}: {}", problem.lines().next().unwrap_or_default()));
            }
        }
    }
    None
}

/// Every mutant of a kernel is caught.
fn each_is_caught(name: &str, subject: &Subject<'_>) {
    let kernel = &subject.kernel;
    assert_eq!(caught(subject, kernel), None, "{name}: nothing is wrong yet");
    let mutants = mutants(&kernel.ptx).unwrap_or_else(|unknown| panic!("{name}, {unknown}"));
    assert!(!mutants.is_empty(), "{name} has something to take out");
    for mutant in mutants {
        let found = caught(subject, &kernel.with(mutant.text));
        let (kind, line, what) = (mutant.kind.name(), mutant.line, mutant.what);
        println!("{name:28} {kind:12} line {line:3}: {what}: {}", found.as_deref().unwrap_or("SURVIVES"));
        assert!(found.is_some(), "{name}: nothing notices {what} in line {line}\n{}", kernel.ptx);
    }
}

fn both_ways(name: &str, gate: &Gate) {
    each_is_caught(&format!("{name}, forward"), &forward(gate));
    each_is_caught(&format!("{name}, backward"), &backward(&derivative_of(gate)));
}

#[test]
fn every_order_of_every_example() {
    let gates = common::examples();
    assert!(gates.len() >= 15, "examples are missing");
    gates.iter().for_each(|(name, gate)| both_ways(name, gate));
}

/// Many tokens in a warp, groups within a lane and on several, the last of them full or not, one expert on a lane, few and many.
#[test]
fn every_order_of_odd_shapes() {
    let shapes = [
        (4, Some(2), 1),
        (5, None, 2),
        (8, None, 2),
        (16, Some(4), 3),
        (60, Some(4), 4),
        (64, None, 6),
        (96, Some(3), 3),
        (256, None, 8),
        (185, Some(5), 8),
        (1024, None, 32),
    ];
    for (experts, groups, top_k) in shapes {
        both_ways(&format!("{experts} in {groups:?}"), &common::group_limited(experts, groups, top_k));
    }
}
