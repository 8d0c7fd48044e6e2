//! The derivative against central finite differences in f64 of an evaluator that shares no code with interpreter and derivative.
//!
//! Choices and masks are those at the point itself. Two things are compared with the differences: the backward gate evaluated in f64,
//! closely, and what the interpreter computes. Where the one-sided differences disagree there is a corner, and where differences over
//! different distances disagree the function is too steep for them: such a component must be a number, and is not compared.
//!
//! A component that cannot be reached (an expert that was not chosen, or whose logit is masked) is judged by its bits: +0.

#[path = "common/exact.rs"]
mod exact;
#[path = "common/golden.rs"]
#[allow(dead_code)]
mod golden;
#[path = "common/programs.rs"]
#[allow(dead_code)]
mod programs;

use std::cell::Cell;

use exact::{Values, evaluate};
use moe_gate::derivative::derivative;
use moe_gate::inputs::{Inputs, Tensor};
use moe_gate::interpret::{self, Value};
use moe_gate::ir::{Backward, Binary, Gate, InputId, InputKind, Op, Program, Reduction, Type, Unary, ValueId};
use moe_random::Random;
use programs::Draws;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// What the logits of a token are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Logits {
    /// Random, without ties.
    Any,
    /// So many of eight are masked, by −1e9, by −∞, or by either.
    Masked(u32, Mask),
    /// Few different numbers.
    Ties,
    Equal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mask {
    Large,
    Infinite,
    Either,
}

const LOGITS: [Logits; 9] = [
    Logits::Any,
    Logits::Masked(1, Mask::Large),
    Logits::Masked(1, Mask::Infinite),
    Logits::Masked(4, Mask::Either),
    Logits::Masked(7, Mask::Large),
    Logits::Masked(7, Mask::Infinite),
    Logits::Masked(8, Mask::Large),
    Logits::Ties,
    Logits::Equal,
];

struct Draw(Random);

impl Draw {
    fn new(seed: u32) -> Draw {
        Draw(Random::new(seed.into()))
    }

    /// 31 of them.
    fn bits(&mut self) -> u32 {
        (self.0.bits() >> 33) as u32
    }

    /// From −1 to 1.
    fn number(&mut self) -> f32 {
        self.bits() as f32 / (1u32 << 30) as f32 - 1.0
    }

    fn logit(&mut self, logits: Logits) -> f32 {
        match logits {
            Logits::Masked(of_eight, mask) if self.bits() % 8 < of_eight => match (mask, self.bits() % 2) {
                (Mask::Large, _) | (Mask::Either, 0) => -1e9,
                _ => f32::NEG_INFINITY,
            },
            // Not 0, where some functions have a corner.
            Logits::Ties => [-1.5, -0.25, 0.5, 2.0][self.bits() as usize % 4],
            Logits::Equal => 0.75,
            _ => 2.0 * self.number(),
        }
    }
}

/// The inputs of one token of a backward gate, as f32 that f64 holds.
fn draw(program: &Program, logits: Logits, seed: u32) -> Vec<Vec<f64>> {
    let mut random = Draw::new(seed);
    let input = |(index, input): (usize, &moe_gate::ir::Input)| {
        (0..program.length_of_input(InputId(index as u32)))
            .map(|place| match input.kind {
                InputKind::TokenId => f64::from(random.bits() % 5),
                // Rows of neighbours; every expert is in one.
                InputKind::Table { k, vocabulary } => {
                    let (row, place) = (place / u64::from(k), place % u64::from(k));
                    let first = row * u64::from(program.experts()) / u64::from(vocabulary);
                    ((first + place) % u64::from(program.experts())) as f64
                }
                InputKind::Logits => f64::from(random.logit(logits)),
                _ => f64::from(random.number()),
            })
            .collect()
    };
    program.inputs().iter().enumerate().map(input).collect()
}

/// What the interpreter computes with those inputs: the gradient, and choices and masks of the gate. Nothing if the token has a fault.
fn interpreted(gate: &Gate, backward: &Backward, inputs: &[Vec<f64>]) -> Option<(Vec<f32>, Values)> {
    let floats: Vec<Vec<f32>> =
        inputs.iter().map(|input| input.iter().map(|&number| number as f32).collect()).collect();
    let integers: Vec<Vec<i32>> =
        inputs.iter().map(|input| input.iter().map(|&number| number as i32).collect()).collect();
    let tensors = |program: &Program| -> Vec<Tensor<'_>> {
        let place = |(place, input): (usize, &moe_gate::ir::Input)| match input.kind.is_integer() {
            true => Tensor::I32(&integers[place]),
            false => Tensor::F32(&floats[place]),
        };
        program.inputs().iter().enumerate().map(place).collect()
    };
    let forward = Inputs::new(&gate.program, 1, tensors(&gate.program)).expect("they fit");
    interpret::route_token(gate, &forward, 0).ok()?;
    let values = interpret::evaluate(&gate.program, &forward, 0).expect("it was routed");
    let numbers = |value: Value| match value {
        Value::Numbers(numbers) => numbers.into_iter().map(f64::from).collect(),
        Value::Choice(ids) => ids.into_iter().map(f64::from).collect(),
    };
    let all = Inputs::new(&backward.program, 1, tensors(&backward.program)).expect("they fit");
    let gradient = interpret::differentiate_token(backward, &all, 0).expect("its gate was routed");
    Some((gradient, values.into_iter().map(numbers).collect()))
}

/// Σ weights · `grad_weights` as a function of one logit, everything else being fixed.
struct Objective<'a> {
    gate: &'a Gate,
    inputs: &'a [Vec<f64>],
    fixed: &'a Values,
    logits: usize,
}

impl Objective<'_> {
    fn values(&self, expert: usize, logit: f64) -> Values {
        let mut inputs = self.inputs.to_vec();
        inputs[self.logits][expert] = logit;
        evaluate(&self.gate.program, &inputs, Some(self.fixed))
    }

    fn at(&self, expert: usize, logit: f64) -> f64 {
        let grad_weights = self.inputs.last().expect("the last input is the gradient of the weights");
        let weights = self.values(expert, logit).swap_remove(self.gate.weights.0 as usize);
        weights.iter().zip(grad_weights).map(|(a, b)| a * b).sum()
    }

    fn logit(&self, expert: usize) -> f64 {
        self.inputs[self.logits][expert]
    }

    /// The derivative and how well it is known, where differences agree on it.
    fn slope(&self, expert: usize) -> Option<(f64, f64)> {
        let at = self.logit(expert);
        let middle = self.at(expert, at);
        // Neighbours of −1e9 are 1e-7 apart.
        let (steps, relative) = if at.abs() < 1e6 { ([1e-5, 1e-6], 5e-5) } else { ([2e-3, 1e-3], 2e-3) };
        let differences = steps.map(|step| {
            let (low, high) = (self.at(expert, at - step), self.at(expert, at + step));
            [(middle - low) / step, (high - middle) / step, (high - low) / (2.0 * step)]
        });
        let expected = differences[0][2];
        let error = relative * expected.abs() + 1e-7;
        let agree = |found: &f64| (found - expected).abs() <= error;
        differences.as_flattened().iter().all(agree).then_some((expected, 2.0 * error))
    }

    /// Whether nothing that the logit could be changes what the weights are computed from, or, of one that is masked, nothing near.
    fn is_out_of_reach(&self, expert: usize) -> bool {
        let program = &self.gate.program;
        let at = self.logit(expert);
        let others = match at {
            f64::NEG_INFINITY => vec![-1e9, -1e30],
            _ if at <= -1e9 => vec![2.0 * at, 0.5 * at, at - 1.0, at + 1.0],
            _ => [-1e9, -30.0, -1.0, -1e-3, 1e-3, 1.0, 30.0].map(|change| at + change).to_vec(),
        };
        let mut needed = vec![false; program.ops().len()];
        needed[self.gate.weights.0 as usize] = true;
        let operations: Vec<_> = program.ops().collect();
        for (id, op) in operations.iter().rev().filter(|(_, op)| !exact::is_discrete(op)) {
            if needed[id.0 as usize] {
                op.operands().for_each(|operand| needed[operand.0 as usize] = true);
            }
        }
        let here = self.values(expert, at);
        let is_read = operations.iter().filter(|(id, _)| needed[id.0 as usize]).any(|(_, op)| match op {
            Op::Gather { at, .. } => here[at.0 as usize].contains(&(expert as f64)),
            _ => false,
        });
        if is_read && at > -1e9 {
            return false;
        }
        others.iter().all(|&other| {
            let there = self.values(expert, other);
            // Numbers of this expert may change, as long as nobody reads them; the logit does.
            let same = |(id, here, there): (&ValueId, &Vec<f64>, &Vec<f64>)| {
                let may_change =
                    program.type_of(*id) == Type::Experts && (!is_read || matches!(program.op(*id), Op::Input(_)));
                let is_own = |place| may_change && place == expert;
                here.iter().zip(there).enumerate().all(|(place, (a, b))| is_own(place) || a.to_bits() == b.to_bits())
            };
            // Somebody who adds it up reads it, even where rounding hides that: an exponential that is not 0, a term of a sum.
            let changes = |of: &ValueId| {
                let place = of.0 as usize;
                program.type_of(*of) == Type::Experts && here[place][expert].to_bits() != there[place][expert].to_bits()
            };
            let is_added = |(id, op): &(ValueId, &Op)| match op {
                Op::Softmax(of) => changes(of) && here[id.0 as usize][expert] != 0.0,
                Op::Reduce(Reduction::Sum | Reduction::Mean, of)
                | Op::GroupReduce { of, top: None, reduction: Reduction::Sum | Reduction::Mean } => changes(of),
                _ => false,
            };
            let mut of_weights = operations.iter().filter(|(id, _)| needed[id.0 as usize]);
            !of_weights.clone().any(is_added)
                && of_weights.all(|(id, _)| same((id, &here[id.0 as usize], &there[id.0 as usize])))
        })
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Compared {
    tokens: u32,
    /// Components that are not near 0.
    slopes: u32,
    /// Components of what the interpreter computes, zero or not.
    computed: u32,
    /// Components that cannot be reached.
    zeros: u32,
}

impl std::ops::AddAssign for Compared {
    fn add_assign(&mut self, other: Compared) {
        self.tokens += other.tokens;
        self.slopes += other.slopes;
        self.computed += other.computed;
        self.zeros += other.zeros;
    }
}

/// Whether f32 holds a number as f64 does: neither overflows nor underflows.
fn is_ordinary(number: f64) -> bool {
    number == 0.0 || !number.is_finite() || (1e-30..1e30).contains(&number.abs())
}

/// Whether two infinite slopes cancel on the way, as those of √(x − x) do: there the chain rule says nothing.
fn cancels(program: &Program, values: &Values) -> bool {
    program.ops().any(|(id, op)| {
        let is_sum = matches!(
            op,
            Op::Binary(Binary::Add | Binary::Subtract, ..)
                | Op::Reduce(Reduction::Sum, _)
                | Op::GroupReduce { reduction: Reduction::Sum, .. }
        );
        let is_nan = |value: ValueId| values[value.0 as usize].iter().any(|number| number.is_nan());
        is_sum && is_nan(id) && !op.operands().any(is_nan)
    })
}

/// Judges a derivative at one point, in at most `most` components.
fn judge(gate: &Gate, logits: Logits, seed: u32, most: usize) -> Result<Compared, TestCaseError> {
    let mut compared = Compared::default();
    let backward = derivative(gate).expect("it has logits");
    let inputs = draw(&backward.program, logits, seed);
    let Some((gradient, fixed)) = interpreted(gate, &backward, &inputs) else { return Ok(compared) };
    let place = gate.program.inputs().iter().position(|input| input.kind == InputKind::Logits).expect("logits");
    let exactly = evaluate(&gate.program, &inputs, None);
    let exactly_back = evaluate(&backward.program, &inputs, None);
    let weights = &exactly[gate.weights.0 as usize];
    if !weights.iter().all(|weight| weight.abs() < 1e4) || cancels(&backward.program, &exactly_back) {
        return Ok(compared);
    }
    let of_backward = &exactly_back[backward.logits.0 as usize];
    // Where f32 overflows or underflows on the way, it can be anything.
    let is_ordinary = exactly.iter().chain(&exactly_back).flatten().all(|&number| is_ordinary(number));
    let in_f64 = Objective { gate, inputs: &inputs, fixed: &exactly, logits: place };
    let in_f32 = Objective { fixed: &fixed, ..in_f64 };
    let is_near = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-4 * b.abs();
    let same_values = fixed.iter().flatten().zip(exactly.iter().flatten()).all(|(&a, &b)| is_near(a, b));

    // Spread over all of them, and those of the chosen experts.
    let experts = gradient.len();
    let step = experts.div_ceil(most).max(1);
    let chosen = fixed[gate.choice.0 as usize].iter().map(|&expert| expert as usize);
    let mut components: Vec<usize> = (seed as usize % step..experts).step_by(step).chain(chosen.take(most)).collect();
    components.sort_unstable();
    components.dedup();

    let expected: Vec<Option<(f64, f64)>> = components.iter().map(|&expert| in_f64.slope(expert)).collect();
    let scale = expected.iter().flatten().fold(1e-3f64, |scale, (number, _)| scale.max(number.abs()));
    let told = |what: &str, expert: usize, found: f64, expected: &dyn std::fmt::Debug| {
        format!(
            "{what}: expert {expert}: {found:?} instead of {expected:?}\n{logits:?}, seed {seed}\n{inputs:?}\n{gate}\n{backward}"
        )
    };
    for (&expert, expected) in components.iter().zip(expected) {
        let found = of_backward[expert];
        if let Some((expected, error)) = expected
            && scale < 1e4
        {
            prop_assert!(
                (found - expected).abs() <= error.max(1e-6 * scale),
                "{}",
                told("in f64", expert, found, &expected)
            );
            compared.slopes += u32::from(expected.abs() > 1e-3 * scale);
            if is_ordinary && same_values {
                compared.computed += 1;
                let found = f64::from(gradient[expert]);
                prop_assert!((found - expected).abs() <= 1e-2 * scale, "{}", told("in f32", expert, found, &expected));
            }
        }
        if is_ordinary && in_f64.is_out_of_reach(expert) {
            prop_assert!(found.to_bits() == 0, "{}", told("in f64", expert, found, &"+0"));
        }
        if is_ordinary && in_f32.is_out_of_reach(expert) {
            let found = gradient[expert];
            prop_assert!(found.to_bits() == 0, "{}", told("in f32", expert, f64::from(found), &"+0"));
            compared.zeros += 1;
        }
    }
    if is_ordinary {
        for (expert, found) in gradient.iter().enumerate() {
            prop_assert!(!found.is_nan(), "{}", told("in f32", expert, f64::from(*found), &"a number"));
        }
    }
    compared.tokens += 1;
    Ok(compared)
}

#[test]
fn finite_differences_of_random_gates() {
    let mut runner = TestRunner::new(Config { cases: 2500, failure_persistence: None, ..Config::default() });
    let compared = Cell::new(Compared::default());
    let strategy = (prop::collection::vec(any::<u32>(), 120), 1u32..16, 0..LOGITS.len(), any::<u32>());
    let outcome = runner.run(&strategy, |(draws, steps, logits, seed)| {
        let gate = programs::gate(&mut Draws(draws.iter()), steps);
        let mut sum = compared.get();
        sum += judge(&gate, LOGITS[logits], seed, 40)?;
        compared.set(sum);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    let compared = compared.get();
    println!("{compared:?}");
    assert!(compared.slopes > 2000 && compared.computed > 2000 && compared.zeros > 2000, "{compared:?}");
}

/// Every example, with logits of every kind.
#[test]
fn finite_differences_of_every_example() {
    let paths = golden::files("dsl-examples", "moe");
    assert!(paths.len() >= 15, "examples are missing");
    let mut wrong = Vec::new();
    for path in paths {
        for (name, gate) in golden::gates(&path) {
            let mut compared = Compared::default();
            for logits in LOGITS {
                for seed in 0..3 {
                    match judge(&gate, logits, seed, 24) {
                        Ok(more) => compared += more,
                        Err(error) => {
                            let text = error.to_string();
                            wrong.push(format!("{name} {logits:?}: {}", text.lines().next().unwrap_or_default()));
                        }
                    }
                }
            }
            println!("{name}: {compared:?}");
            if compared.tokens < 24 || compared.slopes < 20 || compared.computed < 200 || compared.zeros < 40 {
                wrong.push(format!("{name}: only {compared:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every function of every function, where it saturates, overflows and leaves its domain: cut off there or not, and read by chosen
/// experts, or by all in every way that there is.
#[test]
fn finite_differences_at_every_edge() {
    let functions: Vec<Unary> = Unary::ALL.iter().copied().filter(|function| function.is_call()).collect();
    let mut compared = Compared::default();
    let mut seed = 0;
    for &inner in &functions {
        for &outer in &functions {
            for cut in 0..5 {
                for reader in 0..8 {
                    let gate = edge(inner, outer, cut, reader);
                    for _ in 0..5 {
                        let logits = LOGITS[seed as usize % LOGITS.len()];
                        let judged = judge(&gate, logits, seed, 12);
                        compared +=
                            judged.unwrap_or_else(|error| panic!("{inner:?} {outer:?} {cut} {reader}: {error}"));
                        seed += 1;
                    }
                }
            }
        }
    }
    println!("{compared:?}");
    assert!(compared.slopes > 20_000 && compared.computed > 60_000 && compared.zeros > 30_000, "{compared:?}");
}

fn edge(inner: Unary, outer: Unary, cut: u32, reader: u32) -> Gate {
    let mut program = Program::new(12, Some(3));
    let logits = program.declare("logits", InputKind::Logits);
    let mut push = |op| program.push(op).expect("legal");
    let logits = push(Op::Input(logits));
    let choice = push(Op::ChooseExperts { by: logits, count: 4, within: None });
    let inside = push(Op::Unary(inner, logits));
    let mut value = push(Op::Unary(outer, inside));
    let limit = push(Op::Constant(0.375));
    value = match cut {
        0 => value,
        1 => push(Op::Binary(Binary::Max, value, limit)),
        2 => push(Op::Binary(Binary::Min, limit, value)),
        3 => push(Op::Unary(Unary::Relu, value)),
        // What is not finite for some is divided by.
        _ => push(Op::Binary(Binary::Divide, limit, value)),
    };
    let reduce = |reduction| Op::Reduce(reduction, value);
    let group_reduce = |top, reduction| Op::GroupReduce { of: value, top, reduction };
    let read = match reader {
        0 => value,
        1 => push(Op::Softmax(value)),
        2 => push(reduce(Reduction::Sum)),
        3 => push(reduce(Reduction::Max)),
        4 => push(group_reduce(None, Reduction::Sum)),
        5 => push(group_reduce(None, Reduction::Max)),
        6 => push(group_reduce(Some(2), Reduction::Mean)),
        _ => {
            let largest = push(reduce(Reduction::Max));
            push(Op::Binary(Binary::Subtract, value, largest))
        }
    };
    let read = if matches!(reader, 4..=6) { push(Op::Spread(read)) } else { read };
    let score = push(Op::Unary(Unary::Sigmoid, logits));
    let product = push(Op::Binary(Binary::Multiply, score, read));
    let weights = push(Op::Gather { of: product, at: choice });
    Gate { program, choice, weights, before_experts: false }
}

/// Every operation with a derivative, alone between the logits and the weights.
#[test]
fn finite_differences_of_every_operation() {
    use Binary::{Add, Divide, Max, Min, Multiply, Subtract};
    use Unary::{Abs, Exp, Log, Negate, Relu, Sigmoid, Softplus, Sqrt, Tanh};
    type Make = Box<dyn Fn(&mut Program, [ValueId; 4]) -> Op>;
    let mut makers: Vec<(String, Make)> = Vec::new();
    for function in [Negate, Sigmoid, Exp, Log, Sqrt, Softplus, Relu, Tanh, Abs] {
        let positive = matches!(function, Log | Sqrt);
        makers.push((
            format!("{function:?}"),
            Box::new(move |program, [logits, ..]| {
                let exp = Op::Unary(Exp, logits);
                let of = if positive { program.push(exp).expect("legal") } else { logits };
                Op::Unary(function, of)
            }),
        ));
    }
    for function in [Add, Subtract, Multiply, Divide, Min, Max] {
        makers.push((format!("{function:?} first"), Box::new(move |_, [x, bias, ..]| Op::Binary(function, x, bias))));
        makers.push((format!("{function:?} second"), Box::new(move |_, [x, bias, ..]| Op::Binary(function, bias, x))));
        makers.push((format!("{function:?} scalar"), Box::new(move |_, [x, _, sum, _]| Op::Binary(function, x, sum))));
    }
    makers.push(("softmax".into(), Box::new(|_, [x, ..]| Op::Softmax(x))));
    for reduction in [Reduction::Sum, Reduction::Max, Reduction::Mean] {
        makers.push((format!("{reduction:?}"), Box::new(move |_, [x, ..]| Op::Reduce(reduction, x))));
        for top in [None, Some(1), Some(3)] {
            makers.push((
                format!("group {reduction:?} {top:?}"),
                Box::new(move |program, [of, ..]| {
                    Op::Spread(program.push(Op::GroupReduce { of, top, reduction }).expect("legal"))
                }),
            ));
        }
    }
    makers.push((
        "scatter".into(),
        Box::new(|program, [of, _, _, at]| Op::Scatter { of: program.push(Op::Gather { of, at }).expect("legal"), at }),
    ));
    for (name, make) in makers {
        let mut program = Program::new(12, Some(3));
        let logits = program.declare("logits", InputKind::Logits);
        let bias = program.declare("bias", InputKind::ExpertParameter);
        let logits = program.push(Op::Input(logits)).expect("legal");
        let bias = program.push(Op::Input(bias)).expect("legal");
        let sum = program.push(Op::Reduce(Reduction::Sum, logits)).expect("legal");
        let choice = program.push(Op::ChooseExperts { by: logits, count: 4, within: None }).expect("legal");
        let op = make(&mut program, [logits, bias, sum, choice]);
        let mut result = program.push(op).expect("legal");
        if program.type_of(result) == Type::Scalar {
            result = program.push(Op::Binary(Multiply, result, logits)).expect("legal");
        }
        let weights = program.push(Op::Gather { of: result, at: choice }).expect("legal");
        let gate = Gate { program, choice, weights, before_experts: false };
        let mut compared = Compared::default();
        for seed in 0..40 {
            compared += judge(&gate, LOGITS[seed as usize % LOGITS.len()], seed, 12).expect(&name);
            compared += judge(&gate, Logits::Any, seed, 12).expect(&name);
        }
        assert!(compared.slopes >= 8, "{name}: only {compared:?}");
    }
}
