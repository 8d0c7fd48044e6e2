//! What a run must give.

use moe_bundle::Manifest;
use moe_contract::{Call, Exchange, Flow, LinkBytes, RankId, Tensor};
use moe_gate::derivative::derivative;
use moe_gate::interpret;
use moe_gate::ir::Gate;
use moe_judge::reference::{
    self, CombineGradient, Handle, Input, Weighting, combine_backward, dispatch_backward, dispatch_cached,
};
use moe_judge::{Rows, experts};

use super::Scope;
use crate::failure::Failure;
use crate::given::Given;
use crate::synthetic::{Stream, generator, normal};

/// What a run must give, on every rank.
pub struct Expected {
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
    /// Bytes of each call.
    pub traffic: Vec<(Call, LinkBytes)>,
    /// Of the backward pass.
    pub backward: Option<ExpectedBackward>,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// What a backward pass must give, on every rank.
pub struct ExpectedBackward {
    /// The experts' input of the second dispatch.
    pub again: Vec<Rows>,
    /// Gradients of the experts' output, and of the weights where combine weighs.
    pub combine: Vec<CombineGradient>,
    /// Gradients of the tokens.
    pub tokens: Vec<Rows>,
    /// Gradients of the logits, where the gate has a gradient.
    pub logits: Option<Vec<Vec<f32>>>,
}

impl Expected {
    /// Computes everything in the plainest way.
    pub fn compute(manifest: &Manifest, gate: &Gate, given: &Given, scope: Scope) -> Result<Expected, Failure> {
        let start = std::time::Instant::now();
        let exchange = &manifest.exchange;
        let (mut indices, mut weights) = (vec![], vec![]);
        for rank in 0..given.tokens.len() {
            let routing = route(manifest, gate, given, rank)?;
            indices.push(routing.indices);
            weights.push(routing.weights);
        }
        let inputs: Vec<Input> = given
            .activations
            .iter()
            .zip(&indices)
            .zip(&weights)
            .map(|((tokens, indices), weights)| Input {
                tokens: tokens.clone(),
                indices: indices.clone(),
                weights: weights.clone(),
            })
            .collect();
        let dispatched = reference::dispatch(exchange, &inputs).map_err(|error| Failure::Message(error.to_string()))?;
        let (handles, input): (Vec<Handle>, Vec<Rows>) = dispatched.into_iter().unzip();
        drop(inputs);
        let before = manifest.gate.before_experts;
        let outputs: Vec<Rows> = handles
            .iter()
            .zip(&input)
            .map(|(handle, input)| experts::forward(exchange, handle, input, before))
            .collect();
        let combined = reference::combine(exchange, &handles, &outputs, Weighting::of(exchange));
        let picks: Vec<&[i32]> = indices.iter().map(Vec::as_slice).collect();
        let flow = Flow::of(exchange, &picks);
        let backward =
            scope.backward.then(|| backward(exchange, gate, given, &handles, &outputs, scope.seed)).transpose()?;
        let backward_calls = [Call::CombineBackward, Call::DispatchBackward, Call::DispatchCached, Call::Barrier];
        let calls = [Call::Dispatch, Call::Combine].into_iter();
        let calls = calls.chain(backward_calls.into_iter().filter(|_| scope.backward));
        let traffic = calls.map(|call| (call, LinkBytes::of(call, exchange, &flow))).collect();
        let seconds = start.elapsed().as_secs_f64();
        Ok(Expected { indices, weights, handles, input, combined, traffic, backward, seconds })
    }
}

/// The gate and the limit of capacity on one rank.
fn route(manifest: &Manifest, gate: &Gate, given: &Given, rank: usize) -> Result<interpret::Routing, Failure> {
    let inputs = given.inputs(&gate.program, rank, &[])?;
    let mut routing = interpret::route(gate, &inputs)
        .map_err(|error| Failure::Message(format!("{}, {error}", RankId(rank as u32))))?;
    let tokens = u32::try_from(given.tokens[rank]).unwrap_or(u32::MAX);
    limit_capacity(&manifest.exchange, manifest.capacity(tokens), &mut routing);
    Ok(routing)
}

/// Marks the picks that experts cannot keep, where there is a capacity.
pub fn limit_capacity(exchange: &Exchange, capacity: Option<u32>, routing: &mut interpret::Routing) {
    if let (Some(rule), Some(capacity)) = (exchange.drop, capacity) {
        reference::keep_within_capacity(exchange, rule, capacity as usize, &mut routing.indices, &routing.weights);
    }
}

fn backward(
    exchange: &Exchange,
    gate: &Gate,
    given: &Given,
    handles: &[Handle],
    outputs: &[Rows],
    seed: u64,
) -> Result<ExpectedBackward, Failure> {
    let gradients = gradients(exchange, given, seed);
    let combine = combine_backward(exchange, handles, outputs, &gradients);
    let of_input: Vec<Rows> = handles
        .iter()
        .zip(&combine)
        .map(|(handle, gradient)| experts::backward(exchange, handle, &gradient.expert_output, gate.before_experts))
        .collect();
    let tokens = dispatch_backward(exchange, handles, &of_input);
    let second = second_activations(exchange, given, seed);
    let again = dispatch_cached(exchange, handles, &second.iter().collect::<Vec<_>>());
    let logits = match derivative(gate) {
        None => None,
        Some(backward) => {
            let mut of_ranks = Vec::new();
            for (rank, gradient) in combine.iter().enumerate() {
                let invented = weight_gradients(exchange, given, rank, seed);
                let weights = gradient.weights.as_ref().unwrap_or(&invented);
                let inputs = given.inputs(&backward.program, rank, weights)?;
                let found = interpret::differentiate(&backward, &inputs);
                of_ranks.push(found.map_err(|error| Failure::Message(format!("{}, {error}", RankId(rank as u32))))?);
            }
            Some(of_ranks)
        }
    };
    Ok(ExpectedBackward { again, combine, tokens, logits })
}

/// Gradients of the result.
pub fn gradients(exchange: &Exchange, given: &Given, seed: u64) -> Vec<Rows> {
    rows(exchange, given, Tensor::CombinedGradient, seed, Stream::Gradients)
}

/// Activations of the second dispatch.
pub fn second_activations(exchange: &Exchange, given: &Given, seed: u64) -> Vec<Rows> {
    rows(exchange, given, Tensor::Tokens, seed, Stream::Again)
}

/// Gradients of the weights, for a combine that gives none.
pub fn weight_gradients(exchange: &Exchange, given: &Given, rank: usize, seed: u64) -> Vec<f32> {
    let random = &mut generator(seed, Stream::WeightGradients, rank as u32);
    normal(random, given.tokens[rank] * exchange.top_k as usize)
}

fn rows(exchange: &Exchange, given: &Given, tensor: Tensor, seed: u64, stream: Stream) -> Vec<Rows> {
    let payload = if tensor == Tensor::Tokens { exchange.dispatch.source() } else { exchange.combine };
    let of_rank = |(rank, tokens): (u32, &usize)| {
        let values = normal(&mut generator(seed, stream, rank), tokens * exchange.hidden as usize);
        Rows::from_values(payload, exchange.hidden, &values)
    };
    (0..).zip(&given.tokens).map(of_rank).collect()
}
