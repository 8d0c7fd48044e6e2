//! What a run must give.
//!
//! Invariant: it is computed from what is given alone, by [`moe_gate::interpret`] and [`crate::reference`]; nothing that a device has
//! produced has a part in it. It is held against the layer computed directly ([`crate::layer`]) before anything is held against it.

use moe_bundle::Manifest;
use moe_contract::{Call, Exchange, Flow, LinkBytes, RankId};
use moe_gate::derivative::derivative;
use moe_gate::interpret;
use moe_gate::ir::Gate;

use crate::check::Check;
use crate::error::JudgeError;
use crate::given::{Given, GivenBackward};
use crate::layer::Layer;
use crate::reference::{self, Handle, Input, Weighting, combine_backward, dispatch_backward, dispatch_cached};
use crate::rows::Rows;
use crate::{direct, experts};

/// What a run must give, on every rank.
pub struct Expected {
    /// Of the layer.
    pub exchange: Exchange,
    /// `[tokens, hidden]` in the source format, as given.
    pub sent: Vec<Rows>,
    /// Sorted picks.
    pub indices: Vec<Vec<i32>>,
    /// Of the picks.
    pub weights: Vec<Vec<f32>>,
    /// What dispatch keeps.
    pub handles: Vec<Handle>,
    /// The experts' input.
    pub input: Vec<Rows>,
    /// The result.
    pub combined: Vec<Rows>,
    pub traffic: Vec<(Call, LinkBytes)>,
    /// Of the backward pass.
    pub backward: Option<ExpectedBackward>,
    /// The above against the layer computed directly.
    pub direct: Vec<Check>,
}

/// What a backward pass must give, on every rank.
pub struct ExpectedBackward {
    /// The experts' input of the second dispatch.
    pub again: Vec<Rows>,
    /// Gradients of the experts' output.
    pub output: Vec<Rows>,
    /// Gradients of the weights, `[tokens, top_k]`: from combine, or from the experts where they weigh.
    pub weights: Vec<Vec<f32>>,
    /// Gradients of the tokens.
    pub tokens: Vec<Rows>,
    /// Gradients of the logits, where the gate has a gradient.
    pub logits: Option<Vec<Vec<f32>>>,
}

impl Expected {
    /// Computes everything in the plainest way.
    ///
    /// # Errors
    /// When what is given does not fit the layer, or the gate cannot route a token.
    pub fn compute(manifest: &Manifest, gate: &Gate, given: &Given) -> Result<Expected, JudgeError> {
        given.check(manifest)?;
        let exchange = &manifest.exchange;
        let (mut indices, mut weights) = (vec![], vec![]);
        for rank in (0..exchange.ranks).map(RankId) {
            let routing = route(manifest, gate, given, rank)?;
            indices.push(routing.indices);
            weights.push(routing.weights);
        }
        let inputs = given.activations.iter().zip(&indices).zip(&weights);
        let inputs: Vec<Input> = inputs
            .map(|((tokens, indices), weights)| Input {
                tokens: tokens.clone(),
                indices: indices.clone(),
                weights: weights.clone(),
            })
            .collect();
        let (handles, input): (Vec<Handle>, Vec<Rows>) = reference::dispatch(exchange, &inputs)?.into_iter().unzip();
        drop(inputs);
        let forward = |(handle, input)| experts::forward(exchange, handle, input, gate.before_experts);
        let outputs: Vec<Rows> = handles.iter().zip(&input).map(forward).collect();
        let combined = reference::combine(exchange, &handles, &outputs, Weighting::of(exchange));
        let picks: Vec<&[i32]> = indices.iter().map(Vec::as_slice).collect();
        let flow = Flow::of(exchange, &picks);
        let mut calls = vec![Call::Dispatch, Call::Combine];
        let mut backward = None;
        if let Some(of_result) = &given.backward {
            calls.push(Call::CombineBackward);
            calls.extend((!exchange.weighted).then_some(Call::WeightsBackward));
            calls.extend([Call::DispatchBackward, Call::DispatchCached, Call::Barrier]);
            let forward = Forward { handles: &handles, input: &input, outputs: &outputs };
            backward = Some(ExpectedBackward::compute(exchange, gate, given, of_result, &forward)?);
        }
        let traffic = calls.into_iter().map(|call| (call, LinkBytes::of(call, exchange, &flow))).collect();
        drop(outputs);
        let layer = Layer::new(exchange, gate.before_experts, &given.activations, &indices, &weights);
        let of_backward = given.backward.as_ref().zip(backward.as_ref());
        let of_backward = of_backward.map(|(given, expected)| direct::Backward {
            given,
            weights: &expected.weights,
            tokens: &expected.tokens,
        });
        let direct = direct::checks(&layer, &combined, of_backward.as_ref());
        let (exchange, sent) = (*exchange, given.activations.clone());
        Ok(Expected { exchange, sent, indices, weights, handles, input, combined, traffic, backward, direct })
    }
}

/// The gate and the limit of capacity on one rank.
fn route(manifest: &Manifest, gate: &Gate, given: &Given, rank: RankId) -> Result<interpret::Routing, JudgeError> {
    let inputs = given.inputs(&gate.program, rank, &[])?;
    let mut routing = interpret::route(gate, &inputs).map_err(|error| JudgeError::Gate { rank, error })?;
    let tokens = u32::try_from(given.tokens[rank.index()]).unwrap_or(u32::MAX);
    limit_capacity(&manifest.exchange, manifest.capacity(tokens), &mut routing);
    Ok(routing)
}

/// Marks the picks that experts cannot keep, where there is a capacity.
pub fn limit_capacity(exchange: &Exchange, capacity: Option<u32>, routing: &mut interpret::Routing) {
    if let (Some(rule), Some(capacity)) = (exchange.drop, capacity) {
        reference::keep_within_capacity(exchange, rule, capacity as usize, &mut routing.indices, &routing.weights);
    }
}

/// What the backward pass needs of the forward pass.
struct Forward<'f> {
    handles: &'f [Handle],
    input: &'f [Rows],
    outputs: &'f [Rows],
}

impl ExpectedBackward {
    fn compute(
        exchange: &Exchange,
        gate: &Gate,
        given: &Given,
        of_result: &GivenBackward,
        forward: &Forward,
    ) -> Result<ExpectedBackward, JudgeError> {
        let (handles, before) = (forward.handles, gate.before_experts);
        let of_combine = combine_backward(exchange, handles, forward.outputs, &of_result.combined);
        let of_weights: Option<Vec<Vec<f32>>> = of_combine.iter().map(|gradient| gradient.weights.clone()).collect();
        let output: Vec<Rows> = of_combine.into_iter().map(|gradient| gradient.expert_output).collect();
        let weights =
            of_weights.unwrap_or_else(|| experts::weight_gradients(exchange, handles, forward.input, &output, before));
        let of_input = |(handle, gradient)| experts::backward(exchange, handle, gradient);
        let of_input: Vec<Rows> = handles.iter().zip(&output).map(of_input).collect();
        let tokens = dispatch_backward(exchange, handles, &of_input);
        let again = dispatch_cached(exchange, handles, &of_result.again.iter().collect::<Vec<_>>());
        let mut logits = None;
        if let Some(backward) = derivative(gate) {
            let mut of_ranks = Vec::new();
            for (rank, weights) in (0..).map(RankId).zip(&weights) {
                let inputs = given.inputs(&backward.program, rank, weights)?;
                let found = interpret::differentiate(&backward, &inputs);
                of_ranks.push(found.map_err(|error| JudgeError::Gate { rank, error })?);
            }
            logits = Some(of_ranks);
        }
        Ok(ExpectedBackward { again, output, weights, tokens, logits })
    }
}
