//! What surrounds the experts of a model: attention, dense networks, embeddings.
//!
//! Invariant: it is said whole or not at all, so that whoever counts a model counts all of it.

use super::Model;

/// The layers around the experts, without heads for multi-token prediction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// Of every layer.
    pub attention: Attention,
    /// Networks that every token passes, where there are such.
    pub dense: Option<Dense>,
    /// Rows of the embedding.
    pub vocab: u32,
    /// Whether the output projection is the embedding.
    pub tied_embeddings: bool,
}

impl Surroundings {
    /// Layers with a dense network in the place of experts.
    pub fn dense_layers(&self) -> u32 {
        self.dense.map_or(0, |dense| dense.layers)
    }
}

/// Dense feed-forward networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dense {
    /// Layers with one in the place of experts.
    pub layers: u32,
    /// Inner width.
    pub ffn: u32,
    /// Whether each layer with experts has one too, beside them.
    pub beside_experts: bool,
}

/// The attention of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attention {
    /// Its matrices.
    pub heads: Heads,
    /// Layers that do not look at the whole sequence: together at most all.
    pub local: Vec<Local>,
}

/// The heads of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heads {
    /// Multi-head latent attention.
    Latent {
        /// Heads.
        heads: u32,
        /// Width of the compressed query; queries are not compressed when it is not said.
        query_rank: Option<u32>,
        /// Width of the compressed key and value.
        key_value_rank: u32,
        /// Width of the part of a key with rotary positions, shared by the heads.
        rope: u32,
        /// Width of the other part, of each head.
        nope: u32,
        /// Width of a value, of each head.
        value: u32,
    },
    /// Grouped-query attention; multi-head attention where each head has its own keys and values.
    Grouped {
        /// Heads.
        heads: u32,
        /// Heads of keys and values.
        key_value_heads: u32,
        /// Width of a head.
        head: u32,
    },
}

/// Layers in which a token sees only tokens that are near.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// Which tokens it sees.
    pub reach: Reach,
    /// How many layers.
    pub layers: u32,
}

/// The tokens that a token sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The last so many.
    Window(u32),
    /// Those before it in its piece of the sequence; pieces are so long.
    Chunk(u32),
}

impl Heads {
    /// Parameters of a layer, norms of compressed vectors included.
    pub fn parameters(self, hidden: u32) -> u64 {
        let h = u64::from(hidden);
        match self {
            Heads::Latent { heads, query_rank, key_value_rank, rope, nope, value } => {
                let [heads, compressed, rope, nope, value] = [heads, key_value_rank, rope, nope, value].map(u64::from);
                let query = heads * (nope + rope);
                let queries = match query_rank.map(u64::from) {
                    Some(rank) => h * rank + rank * query + rank,
                    None => h * query,
                };
                let keys = h * (compressed + rope) + compressed * heads * (nope + value) + compressed;
                queries + keys + heads * value * h
            }
            Heads::Grouped { heads, key_value_heads, head } => {
                let [heads, shared, head] = [heads, key_value_heads, head].map(u64::from);
                2 * h * heads * head + 2 * h * shared * head
            }
        }
    }
}

impl Model {
    /// Parameters of a feed-forward network of this inner width.
    pub fn network_parameters(&self, ffn: u32) -> u64 {
        let matrices = if self.gated { 3 } else { 2 };
        matrices * u64::from(self.hidden) * u64::from(ffn)
    }

    /// Parameters of an expert, where its width is known.
    pub fn expert_parameters(&self) -> Option<u64> {
        self.expert_ffn.map(|ffn| self.network_parameters(ffn))
    }
}
