//! The experts of a run: cheap, different from each other, and sensitive to a row in the wrong place.
//!
//! Expert e multiplies a row by its own power-of-two-free factor and rotates it by its own distance. The gradient is the transposed map.

use moe_bundle::{Exchange, ExpertId, Payload, RowLayout};
use moe_judge::reference::{Handle, Rows};

/// A factor in [0.5, 2) that most experts have for themselves.
fn factor(expert: ExpertId) -> f32 {
    0.5 + (expert.0 * 37 % 97) as f32 / 65.0
}

fn distance(expert: ExpertId, hidden: usize) -> usize {
    (expert.0 as usize * 29 + 1) % hidden
}

/// What an expert makes of a row.
pub fn expert(expert: ExpertId, input: &[f32], output: &mut [f32]) {
    let (front, back) = input.split_at(distance(expert, input.len()));
    let factor = factor(expert);
    output.iter_mut().zip(back.iter().chain(front)).for_each(|(output, input)| *output = factor * input);
}

/// The gradient of [`expert`]'s input, given that of its output.
pub fn transposed(expert: ExpertId, gradient: &[f32], output: &mut [f32]) {
    let (front, back) = gradient.split_at(gradient.len() - distance(expert, gradient.len()));
    let factor = factor(expert);
    output.iter_mut().zip(back.iter().chain(front)).for_each(|(output, gradient)| *output = factor * gradient);
}

/// The experts' output on one rank, from what the reference dispatched there.
pub fn forward(exchange: &Exchange, handle: &Handle, input: &Rows, before_experts: bool) -> Rows {
    each_row(exchange, handle, |copy_pick| {
        let CopyPick { expert: id, weight, row } = copy_pick;
        let mut values = input.values(row);
        let weighs = exchange.layout == RowLayout::RankMajor;
        if before_experts {
            values.iter_mut().for_each(|value| *value *= weight);
        }
        let mut output = vec![0.0; values.len()];
        expert(id, &values, &mut output);
        if weighs && !before_experts {
            output.iter_mut().for_each(|value| *value *= weight);
        }
        output
    })
}

/// The gradient of the experts' input on one rank, from that of their output.
pub fn backward(exchange: &Exchange, handle: &Handle, gradient: &Rows, before_experts: bool) -> Rows {
    each_row(exchange, handle, |CopyPick { expert, weight, row }| {
        let mut output = vec![0.0; exchange.hidden as usize];
        transposed(expert, &gradient.elements(row), &mut output);
        if before_experts || exchange.layout == RowLayout::RankMajor {
            output.iter_mut().for_each(|value| *value *= weight);
        }
        output
    })
}

/// A pick of a copy, by an expert of this rank.
struct CopyPick {
    expert: ExpertId,
    weight: f32,
    row: usize,
}

/// Every row is the sum over its picks in ascending expert, rounded once; padding is zero.
fn each_row(exchange: &Exchange, handle: &Handle, mut of_pick: impl FnMut(CopyPick) -> Vec<f32>) -> Rows {
    let row_bytes = exchange.row_bytes(exchange.combine) as usize;
    let mut bytes = vec![0; handle.rows * row_bytes];
    for copy in &handle.copies {
        let mut sums: Vec<(usize, Vec<f32>)> = Vec::new();
        for ((&pick, &weight), &row) in copy.picks.iter().zip(&copy.weights).zip(&copy.rows) {
            let (Some(row), Ok(expert)) = (row, u32::try_from(pick)) else { continue };
            let term = of_pick(CopyPick { expert: ExpertId(expert), weight, row });
            match sums.last_mut() {
                Some((last, sum)) if *last == row => sum.iter_mut().zip(term).for_each(|(sum, term)| *sum += term),
                _ => sums.push((row, term)),
            }
        }
        for (row, values) in sums {
            let rounded = Rows::from_values(exchange.combine, exchange.hidden, &values);
            bytes[row * row_bytes..(row + 1) * row_bytes].copy_from_slice(rounded.bytes());
        }
    }
    Rows::from_memory(exchange.combine, exchange.hidden, bytes, vec![])
}

/// How far fp8 rows are from what was sent: the largest error over what the format allows. Below 1 all is well.
pub fn quantisation_error(exchange: &Exchange, handle: &Handle, input: &Rows, sent: &[Rows]) -> Option<f64> {
    /// Half a step of 3 mantissa bits.
    const RELATIVE: f64 = 1.0 / 16.0;
    /// Half the smallest step, in units of the scale.
    const SMALLEST: f64 = 1.0 / 1024.0;
    /// The scale, the multiplier and the product are rounded to f32.
    const ROUNDING: f64 = 1.0 + 1e-6;
    (exchange.dispatch == Payload::Fp8E4m3ScaleF32Per128).then(|| {
        let per_row = exchange.dispatch.scales(exchange.hidden) as usize;
        let mut worst = 0.0f64;
        for copy in &handle.copies {
            let source = sent[copy.source.index()].elements(copy.token);
            // Copies of a row are equal, bit for bit.
            let Some(&row) = copy.rows.iter().flatten().next() else { continue };
            let scales = &input.scales()[row * per_row..(row + 1) * per_row];
            for (place, (found, wanted)) in input.values(row).into_iter().zip(source).enumerate() {
                let (wanted, scale) = (f64::from(wanted), f64::from(scales[place / 128]));
                let allowed = (wanted.abs() * RELATIVE).max(scale * SMALLEST) * ROUNDING;
                worst = worst.max((f64::from(found) - wanted).abs() / allowed);
            }
        }
        worst
    })
}
