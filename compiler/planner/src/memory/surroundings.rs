//! What surrounds the experts, which a `.moe` file does not say: attention, dense layers, embeddings.
//!
//! Invariant: a count is of every parameter that the checkpoint holds for one forward model, without multi-token prediction heads.

use std::collections::BTreeMap;

use moe_compiler::spec::Model;
use serde::{Deserialize, Serialize};

/// The layers around the experts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Surroundings {
    /// Where these numbers are published.
    pub source: String,
    /// Of every layer.
    pub attention: Attention,
    /// Layers with a dense network in the place of experts.
    pub dense_layers: u32,
    /// Inner width of those.
    pub dense_ffn: u32,
    /// Rows of the embedding.
    pub vocabulary: u32,
    /// Whether the output projection is the embedding.
    pub tied_embeddings: bool,
    /// Whether the gate has a bias per expert.
    pub gate_bias: bool,
}

/// The attention of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Attention {
    /// Multi-head latent attention.
    Latent {
        /// Heads.
        heads: u32,
        /// Width of the compressed query.
        query_rank: u32,
        /// Width of the compressed key and value.
        key_value_rank: u32,
        /// Width of the part of a key with rotary positions, shared by the heads.
        rope: u32,
        /// Width of the other part, of each head.
        nope: u32,
        /// Width of a value, of each head.
        value: u32,
    },
    /// Grouped-query attention.
    Grouped {
        /// Heads.
        heads: u32,
        /// Heads of keys and values.
        key_value_heads: u32,
        /// Width of a head.
        head: u32,
    },
}

impl Attention {
    /// Parameters of a layer, norms of compressed vectors included.
    pub fn parameters(self, hidden: u32) -> u64 {
        let h = u64::from(hidden);
        match self {
            Attention::Latent { heads, query_rank, key_value_rank, rope, nope, value } => {
                let [heads, query, compressed, rope, nope, value] =
                    [heads, query_rank, key_value_rank, rope, nope, value].map(u64::from);
                let queries = h * query + query * heads * (nope + rope);
                let keys = h * (compressed + rope) + compressed * heads * (nope + value);
                queries + keys + heads * value * h + query + compressed
            }
            Attention::Grouped { heads, key_value_heads, head } => {
                let [heads, shared, head] = [heads, key_value_heads, head].map(u64::from);
                2 * h * heads * head + 2 * h * shared * head
            }
        }
    }

    /// Operations of scores and sums of one token, forward, with `context` tokens before it.
    pub fn score_operations(self, context: f64) -> f64 {
        let width = match self {
            Attention::Latent { heads, rope, nope, value, .. } => heads * (rope + nope + value),
            Attention::Grouped { heads, head, .. } => 2 * heads * head,
        };
        2.0 * context * f64::from(width)
    }

    /// Elements of a token that the backward pass needs: what goes into the scores, compressed where it is, and what comes out.
    pub fn kept_elements(self) -> u64 {
        let elements = match self {
            Attention::Latent { heads, query_rank, key_value_rank, rope, value, .. } => {
                query_rank + key_value_rank + rope + heads * value
            }
            Attention::Grouped { heads, key_value_heads, head } => (2 * heads + 2 * key_value_heads) * head,
        };
        u64::from(elements)
    }
}

impl Surroundings {
    /// Of a model that is known by its name.
    ///
    /// # Panics
    /// Never: the file is part of the program, and a test reads it.
    pub fn known(model: &str) -> Option<Surroundings> {
        let known: BTreeMap<String, Surroundings> = serde_json::from_str(include_str!("../../data/surroundings.json"))
            .expect("the list in the program is valid");
        known.get(model).cloned()
    }
}

/// Parameters by part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Parameters {
    /// One expert.
    pub expert: u64,
    /// Routed experts of one layer, those that compute.
    pub routed_layer: u64,
    /// Gate and shared experts of one layer.
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
}

impl Parameters {
    /// Of a model. Without surroundings, only what the file says is counted.
    pub fn of(model: &Model, surroundings: Option<&Surroundings>) -> Parameters {
        let h = u64::from(model.hidden);
        let expert = 3 * h * u64::from(model.expert_ffn.unwrap_or(0));
        let bias = surroundings.is_some_and(|around| around.gate_bias);
        let gate = u64::from(model.experts) * (h + u64::from(bias));
        Parameters {
            expert,
            routed_layer: u64::from(model.stored_experts()) * expert,
            gate_and_shared_layer: gate + u64::from(model.shared) * expert,
            attention_layer: surroundings.map_or(0, |around| around.attention.parameters(model.hidden) + 2 * h),
            dense_layer: surroundings.map_or(0, |around| 3 * h * u64::from(around.dense_ffn)),
            embeddings: surroundings
                .map_or(0, |around| u64::from(around.vocabulary) * h * if around.tied_embeddings { 1 } else { 2 } + h),
            moe_layers: model.moe_layers,
            dense_layers: surroundings.map_or(0, |around| around.dense_layers),
            picks: model.top_k(),
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
        u64::from(self.moe_layers) * u64::from(self.picks) * self.expert + self.other() - self.embeddings / 2
    }
}
