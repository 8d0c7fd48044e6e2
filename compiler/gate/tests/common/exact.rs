//! Programs in f64, written from what docs/language.md and the Gate IR say and sharing no code with the interpreter or the derivative:
//! what rounding hides from, and what finite differences are taken of.

use moe_gate::ir::{Binary, InputKind, Masked, Op, Program, Reduction, Unary, ValueId};

/// Numbers of each operation; of a choice, the ids.
pub type Values = Vec<Vec<f64>>;

/// The positions of the largest, ties to the lowest; a NaN is behind all others.
pub fn largest(numbers: &[f64], count: u32) -> Vec<usize> {
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    // Adding 0 makes the two zeros equal.
    let key = |place: usize| if numbers[place].is_nan() { f64::NEG_INFINITY } else { numbers[place] + 0.0 };
    order.sort_by(|&a, &b| key(b).total_cmp(&key(a)));
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
        Unary::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p() + if x.is_nan() { x } else { 0.0 },
        Unary::Relu if x < 0.0 => 0.0,
        Unary::Relu => x,
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
        Binary::Min => [b, a][usize::from(a <= b)],
        Binary::Max => [b, a][usize::from(a >= b)],
        Binary::AtLeast => f64::from(a >= b),
        Binary::Where if b == 0.0 => 0.0,
        Binary::Where => a,
    }
}

fn reduce(reduction: Reduction, numbers: &[f64]) -> f64 {
    match reduction {
        Reduction::Sum => numbers.iter().sum(),
        Reduction::Mean => numbers.iter().sum::<f64>() / numbers.len() as f64,
        // A NaN is skipped.
        Reduction::Max => numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    }
}

fn mask(numbers: &[f64], count: u32) -> Vec<f64> {
    if numbers.iter().any(|number| number.is_nan()) {
        return vec![f64::NAN; numbers.len()];
    }
    let chosen = largest(numbers, count);
    (0..numbers.len()).map(|place| f64::from(chosen.contains(&place))).collect()
}

/// Whether the operation says which, and changes nowhere continuously.
pub fn is_discrete(op: &Op) -> bool {
    matches!(
        op,
        Op::ChooseGroups { .. } | Op::ChooseExperts { .. } | Op::LargestMask { .. } | Op::GroupLargestMask { .. }
    )
}

/// Evaluates for one token; `fixed` are the results that choices and masks shall have, by operation.
pub fn evaluate(program: &Program, inputs: &[Vec<f64>], fixed: Option<&Values>) -> Values {
    let mut values: Values = Vec::new();
    let size = program.group_size().unwrap_or(1) as usize;
    for (id, op) in program.ops() {
        let of = |value: &ValueId| values[value.0 as usize].clone();
        let length = program.length(program.type_of(id)) as usize;
        let fixed = fixed.filter(|_| is_discrete(op)).map(|fixed| fixed[id.0 as usize].clone());
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
