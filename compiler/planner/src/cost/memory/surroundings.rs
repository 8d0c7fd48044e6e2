//! What a model counts, from what its file says of it.
//!
//! Invariant: a count is of every parameter that the checkpoint holds for one forward model, without multi-token prediction heads; of a
//! model whose file does not say what surrounds the experts, only experts and gate, which is why nothing of it is told then.

use moe_front::spec::{Compression, Heads, Model, Reach, Surroundings};
use schemars::JsonSchema;
use serde::Serialize;

/// Operations of scores and sums of one token in all `layers`, forward, in a sequence of so many tokens. With an encoder, both sequences are
/// so long, and a token is one of each.
pub fn score_operations(around: &Surroundings, layers: u32, sequence: f64) -> f64 {
    let width = match around.attention.heads {
        Heads::Latent { heads, rope, nope, value, .. } => heads * (rope + nope + value),
        Heads::Grouped { heads, head, .. } | Heads::Single { heads, head, .. } => 2 * heads * head,
    };
    let local = &around.attention.local;
    let near: f64 = local.iter().map(|local| f64::from(local.layers) * seen(local.reach, sequence)).sum();
    let chosen: f64 = local.iter().map(|local| f64::from(local.layers) * choosing(local.reach, sequence)).sum();
    let encoder = around.encoder_layers.min(layers);
    let whole = (layers - encoder).saturating_sub(local.iter().map(|local| local.layers).sum());
    let all = f64::from(encoder) + f64::from(around.cross_layers(layers));
    2.0 * (f64::from(width) * (near + f64::from(whole) * sequence / 2.0 + all * sequence) + chosen)
}

/// Keys that a token of a sequence sees, on average.
fn seen(reach: Reach, sequence: f64) -> f64 {
    match reach {
        Reach::Window(tokens) => last(f64::from(tokens), sequence),
        Reach::Chunk(tokens) => sequence.min(f64::from(tokens)) / 2.0,
        Reach::Compressed(Compression { ratio, near, index, .. }) => {
            let ratio = f64::from(ratio);
            let compressed = index.map_or(sequence / 2.0, |index| last(ratio * f64::from(index.top), sequence)) / ratio;
            near.map_or(0.0, |near| last(f64::from(near), sequence)) + compressed
        }
    }
}

/// Tokens that a token sees of the last so many, on average: the first tokens see fewer.
fn last(window: f64, sequence: f64) -> f64 {
    if window < sequence { window - window * window / (2.0 * sequence) } else { sequence / 2.0 }
}

/// Products of numbers that choose among the keys of a layer, of one token.
fn choosing(reach: Reach, sequence: f64) -> f64 {
    match reach {
        Reach::Compressed(Compression { ratio, index: Some(index), .. }) => {
            f64::from(index.heads) * f64::from(index.head) * sequence / (2.0 * f64::from(ratio))
        }
        Reach::Compressed(_) | Reach::Window(_) | Reach::Chunk(_) => 0.0,
    }
}

/// Elements of a token that the backward pass of the attention of a layer needs, in the mean of all `layers`: what goes into the scores,
/// compressed where it is, and what comes out; of several streams, all.
pub(super) fn kept_elements(around: &Surroundings, hidden: u32, layers: u32) -> f64 {
    let heads = around.attention.heads;
    let compressed = around.attention.local.iter().map(|local| match local.reach {
        // Values and weights before they are summed.
        Reach::Compressed(Compression { pieces, index, .. }) => {
            let width = heads.key_width() + index.map_or(0, |index| index.head);
            f64::from(local.layers) * 2.0 * f64::from(pieces) * f64::from(width)
        }
        Reach::Window(_) | Reach::Chunk(_) => 0.0,
    });
    let streams = if around.streams > 1 { f64::from(around.streams) * f64::from(hidden) } else { 0.0 };
    attentions(around, layers) * f64::from(kept_of(heads))
        + compressed.sum::<f64>() / f64::from(layers.max(1))
        + streams
}

/// Attentions of a layer, in the mean: one that attends to an encoder has two.
pub(super) fn attentions(around: &Surroundings, layers: u32) -> f64 {
    1.0 + f64::from(around.cross_layers(layers)) / f64::from(layers.max(1))
}

fn kept_of(heads: Heads) -> u32 {
    match heads {
        Heads::Latent { heads, query_rank, key_value_rank, rope, nope, value } => {
            query_rank.unwrap_or(heads * (rope + nope)) + key_value_rank + rope + heads * value
        }
        Heads::Grouped { heads, key_value_heads, head } => (2 * heads + 2 * key_value_heads) * head,
        Heads::Single { heads, query_rank, head, output_rank, output_groups } => {
            let outputs = output_rank.map_or(0, |rank| rank * output_groups);
            query_rank.unwrap_or(heads * head) + head + heads * head + outputs
        }
    }
}

/// Elements of a token that are computed from compressed ones before the scores: what is not among the kept ones.
pub(super) fn up_projected_elements(heads: Heads) -> u32 {
    match heads {
        Heads::Latent { heads, query_rank, rope, nope, value, .. } => {
            let queries = query_rank.map_or(0, |_| heads * (rope + nope));
            queries + heads * (nope + value)
        }
        Heads::Single { heads, query_rank, head, .. } => query_rank.map_or(0, |_| heads * head),
        Heads::Grouped { .. } => 0,
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
    /// Attention and norms of all layers.
    pub attention: u64,
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
            attention: around.attention_parameters(model.hidden, model.moe_layers + around.dense_layers()),
            dense_layer: dense,
            embeddings: embedding + output + h + around.joining_parameters(model.hidden),
            dense_layers: around.dense_layers(),
            looked_up,
            ..counted
        }
    }

    /// Attention and norms of a layer, in the mean.
    pub fn attention_layer(&self) -> f64 {
        self.attention as f64 / f64::from(self.layers().max(1))
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
            + self.attention
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
