//! What is tried with a gate kernel that may be wrong: the right numbers, numbers that are none beside a host that watches, and a host that
//! stops. Each trial passes with the kernels as they are.

use moe_contract::{Kernel, status};
use moe_gate::derivative::derivative;
use moe_gate::inputs::Inputs;
use moe_gate::interpret;
use moe_gate::ir::{Backward, Gate, Program};
use moe_kernels::gate;

use crate::host::Host;
use crate::programs::{Mood, Numbers};
use crate::run::{Outcome, Schedule};
use crate::virtual_gpu::Virtual;

/// Every warp of one CTA takes at least two turns, however many tokens it holds.
const TOKENS: usize = 70;

/// A kernel of a gate, and what it must give.
pub struct Subject<'g> {
    pub kernel: Virtual<'g>,
    program: &'g Program,
    numbers: Numbers,
    faulty: Numbers,
    widths: Vec<usize>,
    rows: Vec<Vec<u32>>,
}

/// The gate itself.
pub fn forward(gate: &Gate) -> Subject<'_> {
    let program = &gate.program;
    let route = |numbers: &Numbers| {
        let inputs = Inputs::new(program, TOKENS, numbers.tensors(program)).expect("they fit");
        let routing = interpret::route(gate, &inputs).ok()?;
        let indices = routing.indices.iter().map(|&expert| expert.cast_unsigned()).collect();
        Some(vec![indices, routing.weights.iter().map(|weight| weight.to_bits()).collect()])
    };
    let k = gate.top_k() as usize;
    let kernel = Virtual::new(Kernel::Gate, program, gate::device_code(gate).expect("it fits"));
    subject(kernel, program, vec![k, k], route)
}

/// Its derivative.
pub fn backward(derivative: &Backward) -> Subject<'_> {
    let program = &derivative.program;
    let differentiate = |numbers: &Numbers| {
        let inputs = Inputs::new(program, TOKENS, numbers.tensors(program)).expect("they fit");
        let gradient = interpret::differentiate(derivative, &inputs).ok()?;
        Some(vec![gradient.iter().map(|number| number.to_bits()).collect()])
    };
    let kernel = gate::backward_device_code(derivative).expect("its gate has a kernel");
    let widths = vec![program.experts() as usize];
    subject(Virtual::new(Kernel::GateBackward, program, kernel), program, widths, differentiate)
}

/// What the interpreter makes of numbers; none if it finds a fault.
fn subject<'g>(
    kernel: Virtual<'g>,
    program: &'g Program,
    widths: Vec<usize>,
    interpret: impl Fn(&Numbers) -> Option<Vec<Vec<u32>>>,
) -> Subject<'g> {
    let numbers = Numbers::draw(program, TOKENS, Mood::Ties, 5);
    let rows = interpret(&numbers).expect("no fault");
    let mut faulty = (1..).map(|seed| Numbers::draw(program, TOKENS, Mood::Faulty, seed));
    let faulty = faulty.find(|numbers| interpret(numbers).is_none()).expect("now and then a number is none");
    Subject { kernel, program, numbers, faulty, widths, rows }
}

/// The derivative of a gate.
pub fn derivative_of(gate: &Gate) -> Backward {
    derivative(gate).expect("it has logits")
}

/// A trial of a kernel that stands in for that of the subject.
pub type Trial = fn(&Subject<'_>, &Virtual<'_>, Schedule) -> Outcome;

/// All that there are, the most telling first.
pub const TRIALS: [Trial; 3] = [right_numbers, numbers_that_are_none, a_host_that_stops];

fn right_numbers(subject: &Subject<'_>, kernel: &Virtual<'_>, schedule: Schedule) -> Outcome {
    let check = |outcome: &crate::virtual_gpu::Outcome| match outcome.status {
        _ if outcome.results != subject.rows => Err("wrong numbers".into()),
        [status::FINE, ..] => Ok(()),
        other => Err(format!("status {other:?}")),
    };
    run(subject, kernel, schedule, None, &subject.numbers, check)
}

fn numbers_that_are_none(subject: &Subject<'_>, kernel: &Virtual<'_>, schedule: Schedule) -> Outcome {
    let check = |outcome: &crate::virtual_gpu::Outcome| match outcome.status {
        [status::FINE, ..] => Err("nothing is reported".into()),
        _ => Ok(()),
    };
    run(subject, kernel, schedule, Some(Host::Watches), &subject.faulty, check)
}

fn a_host_that_stops(subject: &Subject<'_>, kernel: &Virtual<'_>, schedule: Schedule) -> Outcome {
    let check = |outcome: &crate::virtual_gpu::Outcome| match outcome.status {
        [status::STOPPED, ..] => Ok(()),
        other => Err(format!("status {other:?}")),
    };
    run(subject, kernel, schedule, Some(Host::Stops { after: 1 }), &subject.numbers, check)
}

fn run(
    subject: &Subject<'_>,
    kernel: &Virtual<'_>,
    schedule: Schedule,
    host: Option<Host>,
    numbers: &Numbers,
    check: impl Fn(&crate::virtual_gpu::Outcome) -> Result<(), String>,
) -> Outcome {
    let tensors = numbers.tensors(subject.program);
    let (outcome, judge) = kernel.run_watched(schedule, host, TOKENS, &tensors, &subject.widths);
    let executed = outcome.map_err(|error| error.to_string()).and_then(|outcome| check(&outcome));
    Outcome { executed, conflict: judge.and_then(|judge| judge.found().into_iter().next()) }
}
