//! The experts of a run: cheap, different from each other, and sensitive to a row in the wrong place.
//!
//! Expert e multiplies a row by a factor of its own and rotates it by a distance of its own. The gradient is the transposed map. What is
//! here for all rows of a rank is this module's own: the runtime's way to call an expert is judged by it.

use std::ops::Mul;

use moe_contract::codec::canonical;
use moe_contract::{Exchange, ExpertId};

use crate::reference::Handle;
use crate::rows::Rows;

/// A factor in [0.5, 2) that most experts have for themselves.
fn factor(expert: ExpertId) -> f32 {
    0.5 + (expert.0 * 37 % 97) as f32 / 65.0
}

fn distance(expert: ExpertId, hidden: usize) -> usize {
    (expert.0 as usize * 29 + 1).checked_rem(hidden).unwrap_or(0)
}

/// `output[i] = factor × input[i + distance]`, around the end.
fn rotate<T: Copy + Mul<Output = T>>(factor: T, distance: usize, input: &[T], output: &mut [T]) {
    let (front, back) = input.split_at(distance);
    output.iter_mut().zip(back.iter().chain(front)).for_each(|(output, &input)| *output = factor * input);
}

/// What an expert makes of a row.
pub fn expert(expert: ExpertId, input: &[f32], output: &mut [f32]) {
    rotate(factor(expert), distance(expert, input.len()), input, output);
}

/// The gradient of [`expert`]'s input, given that of its output.
pub fn transposed(expert: ExpertId, gradient: &[f32], output: &mut [f32]) {
    rotate(factor(expert), gradient.len() - distance(expert, gradient.len()), gradient, output);
}

/// [`expert`] without its rounding.
pub fn exact(expert: ExpertId, input: &[f64]) -> Vec<f64> {
    let mut output = vec![0.0; input.len()];
    rotate(factor(expert).into(), distance(expert, input.len()), input, &mut output);
    output
}

/// [`transposed`] without its rounding.
pub fn exact_transposed(expert: ExpertId, gradient: &[f64]) -> Vec<f64> {
    let mut output = vec![0.0; gradient.len()];
    rotate(factor(expert).into(), gradient.len() - distance(expert, gradient.len()), gradient, &mut output);
    output
}

/// The experts' output on one rank, from what the reference dispatched there. Where combine does not weigh they do: their input, or else
/// their output.
pub fn forward(exchange: &Exchange, handle: &Handle, input: &Rows, before_experts: bool) -> Rows {
    each_row(exchange, handle, |CopyPick { expert: id, weight, row }| {
        let mut values = input.values(row);
        if !exchange.weighted && before_experts {
            weigh(&mut values, weight);
        }
        let mut output = vec![0.0; values.len()];
        expert(id, &values, &mut output);
        if !exchange.weighted && !before_experts {
            weigh(&mut output, weight);
        }
        output
    })
}

/// The gradient of the experts' input on one rank, from that of their output.
pub fn backward(exchange: &Exchange, handle: &Handle, gradient: &Rows) -> Rows {
    each_row(exchange, handle, |CopyPick { expert, weight, row }| {
        let mut output = vec![0.0; exchange.hidden as usize];
        transposed(expert, &gradient.elements(row), &mut output);
        if !exchange.weighted {
            weigh(&mut output, weight);
        }
        output
    })
}

/// Gradients of the weights that the experts applied, `[tokens, top_k]` on every rank: of what a weight multiplied with the gradient of
/// the product, in f64, rounded once. 0 for a pick that was sent nowhere.
pub fn weight_gradients(
    exchange: &Exchange,
    handles: &[Handle],
    inputs: &[Rows],
    gradients: &[Rows],
    before_experts: bool,
) -> Vec<Vec<f32>> {
    let k = exchange.top_k as usize;
    let mut weights: Vec<Vec<f32>> = handles.iter().map(|handle| vec![0.0; handle.tokens * k]).collect();
    for ((handle, input), gradient) in handles.iter().zip(inputs).zip(gradients) {
        for copy in &handle.copies {
            for (pick, (&id, &row)) in copy.picks.iter().zip(&copy.rows).enumerate() {
                let (Some(row), Ok(id)) = (row, u32::try_from(id)) else { continue };
                let (mut factor, mut gradient) = (input.values(row), gradient.elements(row));
                let mut mapped = vec![0.0; factor.len()];
                if before_experts {
                    transposed(ExpertId(id), &gradient, &mut mapped);
                    gradient = mapped;
                } else {
                    expert(ExpertId(id), &factor, &mut mapped);
                    factor = mapped;
                }
                let product = |(a, b): (&f32, &f32)| f64::from(*a) * f64::from(*b);
                let sum: f64 = factor.iter().zip(&gradient).map(product).sum();
                weights[copy.source.index()][copy.token * k + pick] = canonical(sum as f32);
            }
        }
    }
    weights
}

fn weigh(values: &mut [f32], weight: f32) {
    values.iter_mut().for_each(|value| *value *= weight);
}

/// A pick of a copy, by an expert of this rank.
struct CopyPick {
    expert: ExpertId,
    weight: f32,
    row: usize,
}

/// Every row is the sum over its picks in ascending expert, rounded once; padding is zero.
fn each_row(exchange: &Exchange, handle: &Handle, mut of_pick: impl FnMut(CopyPick) -> Vec<f32>) -> Rows {
    let mut rows = Rows::zeros(exchange.combine, exchange.hidden, handle.rows);
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
            let values: Vec<f32> = values.into_iter().map(canonical).collect();
            rows.set(row, &values);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ⟨E(x), g⟩ = ⟨x, Eᵀ(g)⟩ for every x and g: small whole numbers times a factor, so that all sums are exact in f64.
    #[test]
    fn the_gradient_is_the_transposed_map() {
        const HIDDEN: usize = 48;
        let x: Vec<f64> = (0..HIDDEN).map(|place| (place * 7 % 11) as f64 - 5.0).collect();
        let g: Vec<f64> = (0..HIDDEN).map(|place| (place * 5 % 13) as f64 - 6.0).collect();
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        for id in (0..300).map(ExpertId) {
            assert_eq!(product(&exact(id, &x), &g), product(&x, &exact_transposed(id, &g)), "{id}");
            let single = |values: &[f64]| values.iter().map(|&value| value as f32).collect::<Vec<f32>>();
            let (mut output, mut gradient) = (vec![0.0; HIDDEN], vec![0.0; HIDDEN]);
            expert(id, &single(&x), &mut output);
            transposed(id, &single(&g), &mut gradient);
            assert_eq!(output, single(&exact(id, &x)), "{id}");
            assert_eq!(gradient, single(&exact_transposed(id, &g)), "{id}");
        }
    }

    #[test]
    fn no_two_experts_of_a_layer_are_the_same_map() {
        let row: Vec<f64> = (1..=128).map(f64::from).collect();
        let mut seen: Vec<Vec<u64>> =
            (0..256).map(|id| exact(ExpertId(id), &row).into_iter().map(f64::to_bits).collect()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 256);
    }
}
