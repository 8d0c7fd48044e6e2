//! The gradients of dispatch and of combine.

use moe_contract::codec::canonical;
use moe_contract::{Exchange, Format};

use super::combine::{Weighting, combine};
use super::dispatch::Handle;
use crate::rows::Rows;

/// Gradient of dispatch: the gradients of the experts' input, summed over the copies of each token. It has no weights.
pub fn dispatch_backward(exchange: &Exchange, handles: &[Handle], gradients: &[Rows]) -> Vec<Rows> {
    combine(exchange, handles, gradients, Weighting::Unweighted)
}

/// Gradients of combine on one rank.
#[derive(Clone, Debug, PartialEq)]
pub struct CombineGradient {
    /// Of the experts' output; zero in padding rows.
    pub expert_output: Rows,
    /// `[tokens, top_k]`, of this rank's weights; 0 for a pick that was sent nowhere. `None` when combine does not weigh.
    pub weights: Option<Vec<f32>>,
}

/// Gradient of combine, given the gradient of its result on every rank.
///
/// # Panics
/// When there is not one of everything per rank.
pub fn combine_backward(
    exchange: &Exchange,
    handles: &[Handle],
    outputs: &[Rows],
    gradients: &[Rows],
) -> Vec<CombineGradient> {
    let k = exchange.top_k as usize;
    let mut weights: Vec<Vec<f32>> = handles.iter().map(|handle| vec![0.0; handle.tokens * k]).collect();
    let mut rows = Vec::new();
    for (handle, output) in handles.iter().zip(outputs) {
        let mut of_rank = Rows::zeros(exchange.combine, exchange.hidden, handle.rows);
        for copy in &handle.copies {
            let gradient = &gradients[copy.source.index()];
            for (pick, row) in copy.rows.iter().enumerate() {
                let Some(row) = *row else { continue };
                if !exchange.weighted {
                    of_rank.copy(row, gradient, copy.token);
                    continue;
                }
                let elements = gradient.elements(copy.token);
                let weighted: Vec<f32> =
                    elements.iter().map(|element| canonical(copy.weights[pick] * element)).collect();
                of_rank.set(row, &weighted);
                weights[copy.source.index()][copy.token * k + pick] =
                    weight_gradient(exchange.combine, &output.elements(row), &elements);
            }
        }
        rows.push(of_rank);
    }
    let together =
        |(expert_output, weights)| CombineGradient { expert_output, weights: exchange.weighted.then_some(weights) };
    rows.into_iter().zip(weights).map(together).collect()
}

/// Σ output × gradient, in the order in which 32 lanes with 16-byte loads take it.
pub fn weight_gradient(format: Format, output: &[f32], gradient: &[f32]) -> f32 {
    let chunk = 16 / format.element.bytes() as usize;
    let mut lanes = [0.0f32; 32];
    for (place, (output, gradient)) in output.chunks(chunk).zip(gradient.chunks(chunk)).enumerate() {
        for (output, gradient) in output.iter().zip(gradient) {
            lanes[place % 32] = canonical(lanes[place % 32] + output * gradient);
        }
    }
    for distance in [16, 8, 4, 2, 1] {
        lanes = std::array::from_fn(|lane| canonical(lanes[lane] + lanes[lane ^ distance]));
    }
    lanes[0]
}
