//! What a model counts, from what its file says of it.
//!
//! Invariant: a count is of every parameter that the checkpoint holds for one forward model, without multi-token prediction heads; of a
//! model whose file does not say what surrounds the experts, only experts and gate.

use moe_compiler::spec::{Heads, Model, Reach, Surroundings};
use schemars::JsonSchema;
use serde::Serialize;

/// Operations of scores and sums of one token in all `layers`, forward, in a sequence of so many tokens.
pub fn score_operations(around: &Surroundings, layers: u32, sequence: f64) -> f64 {
    let width = match around.attention.heads {
        Heads::Latent { heads, rope, nope, value, .. } => heads * (rope + nope + value),
        Heads::Grouped { heads, head, .. } => 2 * heads * head,
    };
    let local = &around.attention.local;
    let near: f64 = local.iter().map(|local| f64::from(local.layers) * seen(Some(local.reach), sequence)).sum();
    let whole = layers.saturating_sub(local.iter().map(|local| local.layers).sum());
    2.0 * f64::from(width) * (near + f64::from(whole) * seen(None, sequence))
}

/// Tokens that a token of a sequence sees, on average.
fn seen(reach: Option<Reach>, sequence: f64) -> f64 {
    match reach {
        // Of a window, the first tokens see fewer.
        Some(Reach::Window(tokens)) if f64::from(tokens) < sequence => {
            let window = f64::from(tokens);
            window - window * window / (2.0 * sequence)
        }
        Some(Reach::Chunk(tokens)) if f64::from(tokens) < sequence => f64::from(tokens) / 2.0,
        _ => sequence / 2.0,
    }
}

/// Elements of a token that the backward pass of attention needs: what goes into the scores, compressed where it is, and what comes out.
pub(super) fn kept_elements(heads: Heads) -> u32 {
    match heads {
        Heads::Latent { heads, query_rank, key_value_rank, rope, nope, value } => {
            query_rank.unwrap_or(heads * (rope + nope)) + key_value_rank + rope + heads * value
        }
        Heads::Grouped { heads, key_value_heads, head } => (2 * heads + 2 * key_value_heads) * head,
    }
}

/// Parameters by part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Parameters {
    /// One expert.
    pub expert: u64,
    /// Routed experts of one layer, those that compute.
    pub routed_layer: u64,
    /// Gate, shared experts and a dense network beside them, of one layer.
    pub gate_and_shared_layer: u64,
    /// Attention and norms of one layer.
    pub attention_layer: u64,
    /// The network of one dense layer.
    pub dense_layer: u64,
    /// Embedding and output projection.
    pub embeddings: u64,
    /// Layers with experts.
    pub moe_layers: u32,
    /// Layers without.
    pub dense_layers: u32,
    /// Picks of a token that an expert computes, at most.
    pub picks: u32,
    /// Of the embeddings, what a token looks up and does not multiply with.
    #[serde(skip)]
    pub looked_up: u64,
}

impl Parameters {
    /// Of a model.
    pub fn of(model: &Model) -> Parameters {
        let h = u64::from(model.hidden);
        let expert = model.expert_parameters().unwrap_or(0);
        let counted = Parameters {
            expert,
            routed_layer: u64::from(model.stored_experts()) * expert,
            gate_and_shared_layer: gate(model) + u64::from(model.shared) * expert,
            moe_layers: model.moe_layers,
            picks: model.top_k(),
            ..Parameters::default()
        };
        let Some(around) = &model.surroundings else { return counted };
        let dense = around.dense.map_or(0, |dense| model.network_parameters(dense.ffn));
        let beside = if around.dense.is_some_and(|dense| dense.beside_experts) { dense } else { 0 };
        let embedding = u64::from(around.vocab) * h;
        let (output, looked_up) = if around.tied_embeddings { (0, 0) } else { (embedding, embedding) };
        Parameters {
            gate_and_shared_layer: counted.gate_and_shared_layer + beside,
            attention_layer: around.attention.heads.parameters(model.hidden) + 2 * h,
            dense_layer: dense,
            embeddings: embedding + output + h,
            dense_layers: around.dense_layers(),
            looked_up,
            ..counted
        }
    }

    /// All layers.
    pub fn layers(&self) -> u32 {
        self.moe_layers + self.dense_layers
    }

    /// Of all routed experts.
    pub fn routed(&self) -> u64 {
        u64::from(self.moe_layers) * self.routed_layer
    }

    /// Of everything that is not a routed expert.
    pub fn other(&self) -> u64 {
        u64::from(self.moe_layers) * self.gate_and_shared_layer
            + u64::from(self.layers()) * self.attention_layer
            + u64::from(self.dense_layers) * self.dense_layer
            + self.embeddings
    }

    /// All.
    pub fn total(&self) -> u64 {
        self.routed() + self.other()
    }

    /// Those that one token multiplies with; of the embeddings, only the output projection.
    pub fn active(&self) -> u64 {
        u64::from(self.moe_layers) * u64::from(self.picks) * self.expert + self.other() - self.looked_up
    }
}

/// The router's matrix, and what else the gate reads that is the same for all tokens.
fn gate(model: &Model) -> u64 {
    u64::from(model.experts) * u64::from(model.hidden) + model.gate.facts().learned
}
