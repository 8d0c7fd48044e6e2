//! The gate kernels on the virtual GPU: bit by bit what the interpreter says, for the golden gates, the examples and random programs.

#[path = "../../compiler/gate/tests/common/golden.rs"]
#[allow(dead_code)]
mod golden;
#[path = "common/host.rs"]
mod host;
#[path = "../../compiler/gate/tests/common/programs.rs"]
#[allow(dead_code)]
mod programs;
#[path = "common/run.rs"]
mod run;
#[path = "common/virtual_gpu.rs"]
mod virtual_gpu;

mod common;

use golden::Golden;
use moe_contract::{Kernel, status};
use moe_gate::derivative::derivative;
use moe_gate::inputs::Inputs;
use moe_gate::interpret::{self, Fault};
use moe_gate::ir::{Backward, Gate};
use moe_kernels::gate::{self, GateLimit};
use moe_vgpu::Policy;
use programs::{Draws, Mood, Numbers};
use proptest::prelude::*;
use virtual_gpu::{Outcome, UNTOUCHED, Virtual};

/// Which NaN a NaN is, is not specified.
fn bits(number: f32) -> u32 {
    if number.is_nan() { 0x7fc0_0000 } else { number.to_bits() }
}

fn number_bits(bits: u32) -> u32 {
    self::bits(f32::from_bits(bits))
}

/// The first three words of the status that a token's fault leaves, and what is known of the fourth.
fn words_of(token: usize, fault: Fault, row: impl Fn() -> Vec<i32>) -> [u64; 4] {
    let token = token as u64;
    match fault {
        Fault::NanLogit { expert } => [moe_contract::Fault::GateNan.code(), token, u64::from(expert), 0],
        Fault::NanKey { .. } | Fault::NanGroupKey { .. } | Fault::NanWeight { .. } => {
            [moe_contract::Fault::GateNan.code(), token, u64::MAX, 0]
        }
        Fault::TokenId { id, vocabulary } => {
            [moe_contract::Fault::TokenIdOutOfRange.code(), token, u64::from(vocabulary), u64::from(id as u32)]
        }
        Fault::NoSuchExpert { found, .. } => {
            let position = row().iter().position(|&pick| pick == found).expect("it is in the row");
            [moe_contract::Fault::PickOutOfRange.code(), token, position as u64, u64::from(found as u32)]
        }
        Fault::ExpertTwice { expert } => {
            let picks: Vec<usize> =
                (0..).zip(row()).filter(|(_, pick)| *pick == expert as i32).map(|(at, _)| at).collect();
            [moe_contract::Fault::PickTwice.code(), token, picks[1] as u64, u64::from(expert)]
        }
    }
}

/// The row of the table that a token reads.
fn table_row(program: &moe_gate::ir::Program, inputs: &Inputs, token: usize) -> Vec<i32> {
    use moe_gate::ir::{InputId, InputKind};
    let find = |wanted: fn(InputKind) -> bool| {
        let place = program.inputs().iter().position(|input| wanted(input.kind)).expect("declared");
        InputId(place as u32)
    };
    let table = find(|kind| matches!(kind, InputKind::Table { .. }));
    let InputKind::Table { k, .. } = program.input(table).kind else { unreachable!("this is a table") };
    let row = inputs.integers(find(|kind| kind == InputKind::TokenId))[token] as usize;
    inputs.integers(table)[row * k as usize..][..k as usize].to_vec()
}

/// Each row of a launch is that of the interpreter; where tokens have faults, one of them is in the status, those rows are as before,
/// and the others are right or, as the launch may stop early, as before.
fn check(
    outcome: &Outcome,
    program: &moe_gate::ir::Program,
    inputs: &Inputs,
    expected: &[Result<Vec<Vec<u32>>, Fault>],
) {
    let [code, token, ..] = outcome.status;
    let faulty = expected.iter().any(Result::is_err);
    assert_eq!(code != status::FINE, faulty, "status {:x?}\n{program}", outcome.status);
    if faulty {
        let token = token as usize;
        let fault = expected[token].as_ref().expect_err("the status names a token with a fault");
        assert_eq!(outcome.status, words_of(token, *fault, || table_row(program, inputs, token)), "{fault}\n{program}");
    }
    for (token, expected) in expected.iter().enumerate() {
        for (result, found) in outcome.results.iter().enumerate() {
            let width = found.len() / inputs.tokens();
            let found = &found[token * width..][..width];
            let untouched = found.iter().all(|&word| word == UNTOUCHED);
            match expected {
                Err(fault) => assert!(untouched, "token {token} has a fault ({fault}) and was written\n{program}"),
                Ok(_) if faulty && untouched => {}
                Ok(rows) => {
                    let found: Vec<u32> = found.iter().map(|&word| number_bits(word)).collect();
                    assert_eq!(found, rows[result], "token {token}, result {result}\n{program}");
                }
            }
        }
    }
}

fn forward(gate: &Gate) -> Result<Virtual<'_>, GateLimit> {
    Ok(Virtual::new(Kernel::Gate, &gate.program, gate::device_code(gate)?))
}

fn backward(backward: &Backward) -> Virtual<'_> {
    let kernel = gate::backward_device_code(backward).expect("its gate has a kernel");
    Virtual::new(Kernel::GateBackward, &backward.program, kernel)
}

fn compare_forward(gate: &Gate, kernel: &Virtual, tokens: usize, mood: Mood, seed: u32) -> Outcome {
    let numbers = Numbers::draw(&gate.program, tokens, mood, seed);
    let tensors = numbers.tensors(&gate.program);
    let inputs = Inputs::new(&gate.program, tokens, tensors.clone()).expect("they fit");
    let k = gate.top_k() as usize;
    let outcome = kernel.run(tokens, &tensors, &[k, k]);
    let expected = |token| {
        let (experts, weights) = interpret::route_token(gate, &inputs, token)?;
        Ok(vec![experts, weights.into_iter().map(bits).collect()])
    };
    check(&outcome, &gate.program, &inputs, &(0..tokens).map(expected).collect::<Vec<_>>());
    outcome
}

fn compare_backward(backward: &Backward, kernel: &Virtual, tokens: usize, mood: Mood, seed: u32) -> Outcome {
    let program = &backward.program;
    let numbers = Numbers::draw(program, tokens, mood, seed);
    let tensors = numbers.tensors(program);
    let inputs = Inputs::new(program, tokens, tensors.clone()).expect("they fit");
    let outcome = kernel.run(tokens, &tensors, &[program.experts() as usize]);
    let expected = |token| {
        let gradient = interpret::differentiate_token(backward, &inputs, token)?;
        Ok(vec![gradient.into_iter().map(bits).collect()])
    };
    check(&outcome, program, &inputs, &(0..tokens).map(expected).collect::<Vec<_>>());
    outcome
}

const MOODS: [Mood; 4] = [Mood::Tame, Mood::Ties, Mood::Extreme, Mood::Faulty];

/// Forward and backward, with these numbers of tokens, in every mood.
fn compare(gate: &Gate, counts: &[usize]) {
    let derivative = derivative(gate).expect("it has logits");
    let (forward, backward) = (forward(gate).expect("it fits"), backward(&derivative));
    for &tokens in counts {
        for mood in MOODS {
            compare_forward(gate, &forward, tokens, mood, 7);
            compare_backward(&derivative, &backward, tokens, mood, 7);
        }
    }
}

#[test]
fn kernels_route_as_the_models_do() {
    for golden in Golden::all() {
        let program = &golden.gate.program;
        let tensors = golden.tensors(program.inputs());
        let k = golden.gate.top_k() as usize;
        let outcome = forward(&golden.gate).expect("it fits").run(golden.tokens, &tensors, &[k, k]);
        assert_eq!(outcome.status, [0; 4], "{}", golden.name);
        let indices: Vec<i32> = outcome.results[0].iter().map(|&word| word as i32).collect();
        let weights: Vec<f32> = outcome.results[1].iter().copied().map(f32::from_bits).collect();
        golden.check_routing(&indices, &weights);
        let inputs = Inputs::new(program, golden.tokens, tensors).expect("they fit");
        let reference = interpret::route(&golden.gate, &inputs).expect("no fault");
        assert_eq!(indices, reference.indices, "{}", golden.name);
        let reference: Vec<u32> = reference.weights.iter().map(|weight| weight.to_bits()).collect();
        assert_eq!(outcome.results[1], reference, "{}", golden.name);
    }
}

#[test]
fn kernels_give_the_gradients_of_the_models() {
    for golden in Golden::all() {
        let derivative = derivative(&golden.gate).expect("it has logits");
        let tensors = golden.tensors(derivative.program.inputs());
        let experts = derivative.program.experts() as usize;
        let outcome = backward(&derivative).run(golden.tokens, &tensors, &[experts]);
        assert_eq!(outcome.status, [0; 4], "{}", golden.name);
        let gradient: Vec<f32> = outcome.results[0].iter().copied().map(f32::from_bits).collect();
        golden.check_gradient(&gradient);
        let inputs = Inputs::new(&derivative.program, golden.tokens, tensors).expect("they fit");
        let reference = interpret::differentiate(&derivative, &inputs).expect("no fault");
        let reference: Vec<u32> = reference.iter().map(|number| number.to_bits()).collect();
        assert_eq!(outcome.results[0], reference, "{}", golden.name);
    }
}

#[test]
fn examples_with_any_number_of_tokens() {
    let gates = common::examples();
    assert!(gates.len() >= 15, "examples are missing");
    for (_, gate) in gates {
        compare(&gate, &[0, 1, 7, 33]);
    }
}

/// Warp instructions of the examples for each token: `-- --nocapture` prints them.
#[test]
fn examples_with_many_tokens() {
    for (name, gate) in common::examples() {
        let derivative = derivative(&gate).expect("it has logits");
        let (forward, backward) = (forward(&gate).expect("it fits"), backward(&derivative));
        let there = compare_forward(&gate, &forward, 129, Mood::Tame, 1).instructions;
        let back = compare_backward(&derivative, &backward, 129, Mood::Tame, 1).instructions;
        println!("{name:22} {:6.1} {:6.1} warp instructions per token", there as f64 / 129.0, back as f64 / 129.0);
    }
}

/// Experts that fill no warp, groups that fill no lane, groups of three lanes, groups of one expert, groups that fill all but the last of
/// their lanes, many experts on a lane.
#[test]
fn odd_shapes() {
    let shapes = [
        (1, None, 1),
        (4, Some(2), 1),
        (5, None, 2),
        (5, None, 5),
        (6, Some(2), 2),
        (24, Some(3), 3),
        (60, Some(4), 4),
        (60, None, 7),
        (96, Some(3), 3),
        (160, Some(8), 6),
        (384, None, 8),
        (768, Some(24), 12),
        (1000, Some(8), 9),
        (1020, Some(12), 32),
        (1021, Some(1), 5),
        (1023, Some(33), 8),
        (1024, None, 32),
        (1024, Some(32), 8),
    ];
    for (experts, groups, top_k) in shapes {
        compare(&common::group_limited(experts, groups, top_k), &[7]);
    }
}

/// Weights from the largest of each group, whose derivative asks which those are: groups on a whole warp, on parts of it, within a lane,
/// and on lanes of which the last is not full.
#[test]
fn groups_of_any_size() {
    use moe_gate::ir::{Binary, InputKind, Op, Program, Reduction};
    for (experts, groups) in
        [(64, 1), (64, 2), (60, 4), (96, 3), (96, 24), (12, 6), (30, 5), (37, 1), (74, 2), (185, 5)]
    {
        for (top, reduction) in [(Some(2), Reduction::Sum), (None, Reduction::Max), (None, Reduction::Mean)] {
            let mut program = Program::new(experts, Some(groups));
            let logits = program.declare("logits", InputKind::Logits);
            let mut push = |op| program.push(op).expect("well-formed");
            let logits = push(Op::Input(logits));
            let best = push(Op::GroupReduce { of: logits, top, reduction });
            let best = push(Op::Spread(best));
            let product = push(Op::Binary(Binary::Multiply, best, logits));
            let choice = push(Op::ChooseExperts { by: logits, count: 3, within: None });
            let weights = push(Op::Gather { of: product, at: choice });
            compare(&Gate { program, choice, weights, before_experts: false }, &[9]);
        }
    }
}

/// Fewer CTAs than tokens ask for: they stride.
#[test]
fn any_grid_is_right() {
    for (experts, groups) in [(256, Some(8)), (8, None)] {
        let gate = common::group_limited(experts, groups, 2);
        let kernel = forward(&gate).expect("it fits");
        let numbers = Numbers::draw(&gate.program, 129, Mood::Ties, 3);
        let tensors = numbers.tensors(&gate.program);
        let all = kernel.run(129, &tensors, &[2, 2]);
        assert_eq!(all.status, [0; 4]);
        for ctas in [1, 3, 200] {
            assert_eq!(kernel.run_from([0; 4], ctas, 129, &tensors, &[2, 2]).results, all.results, "{ctas} CTAs");
        }
    }
}

/// Lanes that are not kept together by a barrier run apart.
#[test]
fn any_schedule_is_right() {
    for (experts, groups) in [(256, Some(8)), (60, Some(4)), (8, None)] {
        let gate = common::group_limited(experts, groups, 2);
        let derivative = derivative(&gate).expect("it has logits");
        let numbers = Numbers::draw(&derivative.program, 21, Mood::Ties, 3);
        let tensors = numbers.tensors(&derivative.program);
        let (forward, backward) = (forward(&gate).expect("it fits"), backward(&derivative));
        // The derivative has the gate's inputs and one more.
        let (routed, gradient) = (forward.run(21, &tensors, &[2, 2]), backward.run(21, &tensors, &[experts as usize]));
        assert_eq!((routed.status, gradient.status), ([0; 4], [0; 4]));
        for policy in [Policy::Random, Policy::Adversarial] {
            for seed in 0..6 {
                let schedule = (policy, seed);
                let found = forward.run_scheduled(schedule, 21, &tensors, &[2, 2]);
                assert_eq!(found.results, routed.results, "{policy}, seed {seed}");
                let found = backward.run_scheduled(schedule, 21, &tensors, &[experts as usize]);
                assert_eq!(found.results, gradient.results, "{policy}, seed {seed}");
            }
        }
    }
}

#[test]
fn after_an_error_nothing_is_done() {
    let gate = common::group_limited(64, Some(8), 4);
    let numbers = Numbers::draw(&gate.program, 9, Mood::Tame, 3);
    let earlier = [moe_contract::Fault::PickTwice.code(), 3, 1, 9];
    let outcome = forward(&gate).expect("it fits").run_from(earlier, 3, 9, &numbers.tensors(&gate.program), &[4, 4]);
    assert_eq!(outcome.status, earlier);
    assert!(outcome.results.iter().flatten().all(|&word| word == UNTOUCHED));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_gates(draws in prop::collection::vec(any::<u32>(), 150), steps in 1u32..24, mood in 0usize..4, seed: u32) {
        let gate = programs::gate(&mut Draws(draws.iter()), steps);
        match forward(&gate) {
            Ok(kernel) => {
                compare_forward(&gate, &kernel, 7, MOODS[mood], seed);
                let derivative = derivative(&gate).expect("it has logits");
                compare_backward(&derivative, &backward(&derivative), 7, MOODS[mood], seed);
            }
            Err(limit) => prop_assert!(matches!(limit, GateLimit::Picks { picks: 33.. }), "{limit}"),
        }
    }
}
