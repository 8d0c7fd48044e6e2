//! The tests are tested: every barrier is taken out of the PTX of gates, one at a time, and each such kernel must be caught.

#[path = "../../compiler/gate/tests/common/programs.rs"]
#[allow(dead_code)]
mod programs;
#[path = "common/virtual_gpu.rs"]
mod virtual_gpu;

mod common;

use moe_contract::{Kernel, status};
use moe_gate::derivative::derivative;
use moe_gate::inputs::{Inputs, Tensor};
use moe_gate::interpret;
use moe_gate::ir::{Gate, Program};
use moe_kernels::gate;
use moe_vgpu::Policy;
use programs::{Mood, Numbers};
use virtual_gpu::Virtual;

/// Every warp of one CTA takes at least two turns, however many tokens it holds.
const TOKENS: usize = 70;

/// What a kernel must give.
struct Expected<'t> {
    tensors: &'t [Tensor<'t>],
    widths: Vec<usize>,
    rows: Vec<Vec<u32>>,
}

impl Expected<'_> {
    /// What a run does wrong, the first time that one shows it.
    fn caught(&self, kernel: &Virtual) -> Option<String> {
        let random = (1..4).map(|seed| (Policy::Random, seed));
        let schedules = random.chain((1..4).map(|seed| (Policy::Adversarial, seed))).chain([(Policy::RoundRobin, 0)]);
        for schedule in schedules {
            let (outcome, judge) = kernel.run_watched(schedule, TOKENS, self.tensors, &self.widths);
            let problem = match outcome {
                Err(error) => Some(error.to_string()),
                Ok(outcome) if outcome.status != [status::FINE; 4] => Some(format!("status {:?}", outcome.status)),
                Ok(outcome) if outcome.results != self.rows => Some("wrong numbers".into()),
                Ok(_) => judge.found().first().map(ToString::to_string),
            };
            if let Some(problem) = problem {
                let problem = problem.lines().next().unwrap_or_default();
                return Some(format!("{}, seed {}: {problem}", schedule.0, schedule.1));
            }
        }
        None
    }
}

/// The instructions that order something.
fn barriers(ptx: &str) -> Vec<usize> {
    let orders =
        |line: &str| ["bar.", "barrier.", "fence.", "membar."].iter().any(|name| line.trim().starts_with(name));
    ptx.lines().enumerate().filter(|(_, line)| orders(line)).map(|(number, _)| number).collect()
}

fn without(ptx: &str, removed: usize) -> String {
    ptx.lines()
        .enumerate()
        .map(|(number, line)| if number == removed { "\n" } else { line })
        .collect::<Vec<_>>()
        .join("\n")
}

/// Every mutant is caught. Gives how many there are.
fn each_is_caught(name: &str, kernel: &Virtual, expected: &Expected) -> usize {
    assert_eq!(expected.caught(kernel), None, "{name}: nothing is wrong yet");
    let barriers = barriers(&kernel.ptx);
    for &barrier in &barriers {
        let line = kernel.ptx.lines().nth(barrier).unwrap_or_default().trim();
        let found = expected.caught(&kernel.with(without(&kernel.ptx, barrier)));
        println!("{name:28} without line {:4}: {line} {}", barrier + 1, found.as_deref().unwrap_or("SURVIVES"));
        assert!(found.is_some(), "{name}: nothing notices that line {}, {line}, is gone\n{}", barrier + 1, kernel.ptx);
    }
    barriers.len()
}

fn numbers(program: &Program) -> Numbers {
    Numbers::draw(program, TOKENS, Mood::Ties, 5)
}

fn forward(name: &str, gate: &Gate) -> usize {
    let numbers = numbers(&gate.program);
    let tensors = numbers.tensors(&gate.program);
    let inputs = Inputs::new(&gate.program, TOKENS, tensors.clone()).expect("they fit");
    let routing = interpret::route(gate, &inputs).expect("no fault");
    let rows = vec![
        routing.indices.iter().map(|&expert| expert.cast_unsigned()).collect(),
        routing.weights.iter().map(|weight| weight.to_bits()).collect(),
    ];
    let k = gate.top_k() as usize;
    let kernel = Virtual::new(Kernel::Gate, &gate.program, gate::device_code(gate).expect("it fits"));
    each_is_caught(&format!("{name}, forward"), &kernel, &Expected { tensors: &tensors, widths: vec![k, k], rows })
}

fn backward(name: &str, gate: &Gate) -> usize {
    let derivative = derivative(gate).expect("it has logits");
    let program = &derivative.program;
    let numbers = numbers(program);
    let tensors = numbers.tensors(program);
    let inputs = Inputs::new(program, TOKENS, tensors.clone()).expect("they fit");
    let gradient = interpret::differentiate(&derivative, &inputs).expect("no fault");
    let rows = vec![gradient.iter().map(|number| number.to_bits()).collect()];
    let kernel = gate::backward_device_code(&derivative).expect("its gate has a kernel");
    let widths = vec![program.experts() as usize];
    let kernel = Virtual::new(Kernel::GateBackward, program, kernel);
    each_is_caught(&format!("{name}, backward"), &kernel, &Expected { tensors: &tensors, widths, rows })
}

#[test]
fn every_barrier_of_every_example() {
    let gates = common::examples();
    assert!(gates.len() >= 15, "examples are missing");
    for (name, gate) in gates {
        assert!(forward(&name, &gate) > 0, "{name} has no barriers");
        assert!(backward(&name, &gate) > 0, "{name} has no barriers");
    }
}

/// Many tokens in a warp, groups within a lane and on several, the last of them full or not, one expert on a lane, few and many.
#[test]
fn every_barrier_of_odd_shapes() {
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
        let name = format!("{experts} in {groups:?}");
        let gate = common::group_limited(experts, groups, top_k);
        assert!(forward(&name, &gate) > 0, "{name} has no barriers");
        assert!(backward(&name, &gate) > 0, "{name} has no barriers");
    }
}
