//! The derivative against central finite differences of an evaluator in f64 that shares no code with the interpreter.
//!
//! Both programs run in f64, so that what is tested is the derivation and not the rounding. Choices and masks are those at the point
//! itself. Where the two one-sided differences disagree there is a corner, and the component is left out.

#[path = "common/programs.rs"]
#[allow(dead_code)]
mod programs;

use std::cell::Cell;

use moe_gate::derivative::derivative;
use moe_gate::ir::{Binary, Gate, InputKind, Masked, Op, Program, Reduction, Type, Unary};
use moe_random::Random;
use programs::Draws;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Numbers of each operation; of a choice, the ids.
type Values = Vec<Vec<f64>>;

/// The positions of the largest, ties to the lowest.
fn largest(numbers: &[f64], count: u32) -> Vec<usize> {
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    // Adding 0 makes the two zeros equal.
    order.sort_by(|&a, &b| (numbers[b] + 0.0).total_cmp(&(numbers[a] + 0.0)));
    order.truncate(count as usize);
    order.sort_unstable();
    order
}

fn unary(function: Unary, x: f64) -> f64 {
    match function {
        Unary::Negate => -x,
        Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Unary::Exp => x.exp(),
        Unary::Log => x.ln(),
        Unary::Sqrt => x.sqrt(),
        Unary::Softplus => x.exp().ln_1p(),
        Unary::Relu => x.max(0.0),
        Unary::Tanh => x.tanh(),
        Unary::Abs => x.abs(),
        Unary::IsPositive => f64::from(x > 0.0),
        Unary::Sign => f64::from(x > 0.0) - f64::from(x < 0.0),
    }
}

fn binary(function: Binary, a: f64, b: f64) -> f64 {
    match function {
        Binary::Add => a + b,
        Binary::Subtract => a - b,
        Binary::Multiply => a * b,
        Binary::Divide => a / b,
        Binary::Min => a.min(b),
        Binary::Max => a.max(b),
        Binary::AtLeast => f64::from(a >= b),
    }
}

fn reduce(reduction: Reduction, numbers: &[f64]) -> f64 {
    match reduction {
        Reduction::Sum => numbers.iter().sum(),
        Reduction::Mean => numbers.iter().sum::<f64>() / numbers.len() as f64,
        Reduction::Max => numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    }
}

fn mask(numbers: &[f64], count: u32) -> Vec<f64> {
    let chosen = largest(numbers, count);
    (0..numbers.len()).map(|place| f64::from(chosen.contains(&place))).collect()
}

/// Evaluates for one token. `at` are the values at the point from which choices and masks are taken, if it is another.
fn evaluate(program: &Program, inputs: &[Vec<f64>], at: Option<&Values>) -> Values {
    let mut values: Values = Vec::new();
    let size = program.group_size().unwrap_or(1) as usize;
    for (id, op) in program.ops() {
        let of = |value: &moe_gate::ir::ValueId| values[value.0 as usize].clone();
        let length = program.length(program.type_of(id)) as usize;
        let is_discrete = matches!(
            op,
            Op::ChooseGroups { .. } | Op::ChooseExperts { .. } | Op::LargestMask { .. } | Op::GroupLargestMask { .. }
        );
        let fixed = at.filter(|_| is_discrete).map(|at| at[id.0 as usize].clone());
        let ids = |chosen: Vec<usize>| chosen.into_iter().map(|place| place as f64).collect::<Vec<f64>>();
        let value = fixed.unwrap_or_else(|| match op {
            Op::Input(input) => inputs[input.0 as usize].clone(),
            Op::Constant(number) => vec![f64::from(*number)],
            Op::Unary(function, x) => of(x).into_iter().map(|x| unary(*function, x)).collect(),
            Op::Binary(function, a, b) => {
                let (a, b) = (of(a), of(b));
                (0..length).map(|n| binary(*function, a[n % a.len()], b[n % b.len()])).collect()
            }
            Op::Softmax(x) => {
                let largest = reduce(Reduction::Max, &of(x));
                let powers: Vec<f64> = of(x).iter().map(|x| (x - largest).exp()).collect();
                powers.iter().map(|power| power / powers.iter().sum::<f64>()).collect()
            }
            Op::Reduce(reduction, x) => vec![reduce(*reduction, &of(x))],
            Op::GroupReduce { of: x, top, reduction } => of(x)
                .chunks(size)
                .map(|group| {
                    let chosen = largest(group, top.unwrap_or(size as u32));
                    reduce(*reduction, &chosen.iter().map(|&place| group[place]).collect::<Vec<f64>>())
                })
                .collect(),
            Op::ChooseGroups { by, count } => ids(largest(&of(by), *count)),
            Op::ChooseExperts { by, count, within } => {
                let mut keys = of(by);
                if let Some((groups, masked)) = within {
                    let inside = of(groups);
                    let fill = match masked {
                        Masked::Infinity => f64::NEG_INFINITY,
                        Masked::Fill(fill) => f64::from(*fill),
                    };
                    for (expert, key) in keys.iter_mut().enumerate() {
                        if !inside.contains(&((expert / size) as f64)) {
                            *key = fill;
                        }
                    }
                }
                ids(largest(&keys, *count))
            }
            Op::LookUp { table, token } => {
                let InputKind::Table { k, .. } = program.input(*table).kind else { unreachable!("it is a table") };
                let row = inputs[token.0 as usize][0] as usize * k as usize;
                let mut experts = inputs[table.0 as usize][row..][..k as usize].to_vec();
                experts.sort_by(f64::total_cmp);
                experts
            }
            Op::Gather { of: x, at } => of(at).iter().map(|&expert| of(x)[expert as usize]).collect(),
            Op::Scatter { of: x, at } => {
                let mut all = vec![0.0; length];
                of(at).iter().zip(of(x)).for_each(|(&expert, number)| all[expert as usize] = number);
                all
            }
            Op::Spread(x) => of(x).iter().flat_map(|&number| vec![number; size]).collect(),
            Op::LargestMask { of: x, count } => mask(&of(x), *count),
            Op::GroupLargestMask { of: x, count } => of(x).chunks(size).flat_map(|group| mask(group, *count)).collect(),
        });
        values.push(value);
    }
    values
}

/// Random numbers without ties, away from the corner at 0.
fn draw(program: &Program, seed: u32) -> Vec<Vec<f64>> {
    let mut random = Random::new(u64::from(seed));
    // 31 bits.
    let mut next = || (random.bits() >> 33) as u32;
    let numbers = |index: usize| program.length_of_input(moe_gate::ir::InputId(index as u32));
    let input = |(index, input): (usize, &moe_gate::ir::Input)| {
        (0..numbers(index))
            .map(|place| match input.kind {
                InputKind::TokenId => f64::from(next() % 5),
                InputKind::Table { k, .. } => (place % u64::from(k)) as f64,
                _ => f64::from(next()) / f64::from(1u32 << 30) - 1.0,
            })
            .collect()
    };
    program.inputs().iter().enumerate().map(input).collect()
}

/// Compares one gate at one point; returns how many components were compared and were not zero.
fn compare(gate: &Gate, seed: u32) -> Result<u32, TestCaseError> {
    const H: f64 = 1e-6;
    let backward = derivative(gate).expect("it has logits");
    let inputs = draw(&backward.program, seed);
    let gradient = evaluate(&backward.program, &inputs, None).swap_remove(backward.logits.0 as usize);
    let grad_weights = inputs.last().expect("the last input is the gradient of the weights").clone();
    let here = evaluate(&gate.program, &inputs, None);
    let objective = |expert: usize, by: f64| {
        let mut inputs = inputs.clone();
        inputs[0][expert] += by;
        let values = evaluate(&gate.program, &inputs, Some(&here));
        values[gate.weights.0 as usize].iter().zip(&grad_weights).map(|(a, b)| a * b).sum::<f64>()
    };
    // Outside of the domain of a function there is no derivative, and at the square root of 0 it is infinite.
    let is_finite = |numbers: &[f64]| numbers.iter().all(|number| number.is_finite());
    if !here.iter().all(|numbers| is_finite(numbers)) || !is_finite(&gradient) {
        return Ok(0);
    }
    let scale = gradient.iter().fold(1e-3f64, |scale, number| scale.max(number.abs()));
    // Near a pole neither the difference nor the objective is of use.
    if scale > 1e4 || objective(0, 0.0).abs() > 1e4 {
        return Ok(0);
    }
    let mut compared = 0;
    for (expert, &found) in gradient.iter().enumerate() {
        let (low, middle, high) = (objective(expert, -H), objective(expert, 0.0), objective(expert, H));
        let (left, right) = ((middle - low) / H, (high - middle) / H);
        if !(left - right).is_finite() || (left - right).abs() > 1e-3 * scale {
            continue;
        }
        let expected = (high - low) / (2.0 * H);
        prop_assert!(
            (found - expected).abs() <= 1e-4 * scale,
            "expert {}: {} instead of {}\n{}\n{}",
            expert,
            found,
            expected,
            gate,
            backward
        );
        compared += u32::from(expected.abs() > 1e-3 * scale);
    }
    Ok(compared)
}

#[test]
fn finite_differences_of_random_gates() {
    let mut runner = TestRunner::new(Config { cases: 2500, failure_persistence: None, ..Config::default() });
    let compared = Cell::new(0);
    let strategy = (prop::collection::vec(any::<u32>(), 120), 1u32..16, any::<u32>());
    let outcome = runner.run(&strategy, |(draws, steps, seed)| {
        let gate = programs::gate(&mut Draws(draws.iter()), steps);
        compared.set(compared.get() + compare(&gate, seed)?);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    // Of 1500 gates, 200 runs compared 1800 to 4050 components.
    assert!(compared.get() > 2000, "only {} components were compared", compared.get());
}

/// Every operation with a derivative, alone between the logits and the weights.
#[test]
fn finite_differences_of_every_operation() {
    use Binary::{Add, Divide, Max, Min, Multiply, Subtract};
    use Unary::{Abs, Exp, Log, Negate, Relu, Sigmoid, Softplus, Sqrt, Tanh};
    type Make = Box<dyn Fn(&mut Program, [moe_gate::ir::ValueId; 4]) -> Op>;
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
        let compared: u32 = (0..40).map(|seed| compare(&gate, seed).expect(&name)).sum();
        assert!(compared >= 8, "{name}: only {compared} components were compared");
    }
}
