//! What surrounds the experts of a model: attention, dense networks, embeddings.
//!
//! Invariant: it is said whole or not at all, so that whoever counts a model counts all of it.

use super::Model;

/// The layers around the experts, without heads for multi-token prediction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// Of every layer.
    pub attention: Attention,
    /// Layers that are an encoder, whose tokens see all others; each layer after them is of a decoder, which attends to what the encoder
    /// gives with an attention of the same form beside its own.
    pub encoder_layers: u32,
    /// Rows that a layer passes on of each token: more than one are mixed before and after attention and network (hyper-connections).
    pub streams: u32,
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

    /// Layers that attend to an encoder, of so many.
    pub fn cross_layers(&self, layers: u32) -> u32 {
        if self.encoder_layers > 0 { layers.saturating_sub(self.encoder_layers) } else { 0 }
    }

    /// Parameters of attention, of norms and of what mixes streams, in all `layers`.
    pub fn attention_parameters(&self, hidden: u32, layers: u32) -> u64 {
        let h = u64::from(hidden);
        let heads = self.attention.heads;
        let each = heads.parameters(hidden) + 2 * h + 2 * self.mixing_parameters(hidden);
        let cross = heads.parameters(hidden) + h;
        let compressed = self.attention.local.iter().filter_map(|local| match local.reach {
            Reach::Compressed(compression) => Some(u64::from(local.layers) * compression.parameters(hidden, heads)),
            Reach::Window(_) | Reach::Chunk(_) => None,
        });
        u64::from(layers) * each + u64::from(self.cross_layers(layers)) * cross + compressed.sum::<u64>()
    }

    /// What mixes the streams around one attention or network: from all of them, the weights with which they are read, written and mixed.
    fn mixing_parameters(&self, hidden: u32) -> u64 {
        let streams = u64::from(self.streams);
        let weights = (2 + streams) * streams;
        if streams > 1 { weights * streams * u64::from(hidden) + weights + 3 } else { 0 }
    }

    /// What makes one row of the streams after the last layer.
    pub fn joining_parameters(&self, hidden: u32) -> u64 {
        let streams = u64::from(self.streams);
        if streams > 1 { streams * streams * u64::from(hidden) + streams + 1 } else { 0 }
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
    /// Layers that do not look at the whole sequence: together at most all, without those of an encoder.
    pub local: Vec<Local>,
}

/// The heads of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heads {
    /// Multi-head latent attention.
    Latent {
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
        heads: u32,
        /// Heads of keys and values.
        key_value_heads: u32,
        /// Width of a head.
        head: u32,
    },
    /// All heads share one key of each token, which is its value too.
    Single {
        heads: u32,
        /// Width of the compressed query; queries are not compressed when it is not said.
        query_rank: Option<u32>,
        /// Width of a head, and of the key.
        head: u32,
        /// Width of the compressed output of each group; outputs are not compressed when it is not said.
        output_rank: Option<u32>,
        /// Groups of heads whose outputs are compressed together.
        output_groups: u32,
    },
}

/// Layers in which a token does not see every token before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// Which tokens it sees.
    pub reach: Reach,
    pub layers: u32,
}

/// The tokens that a token sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The last so many.
    Window(u32),
    /// Those before it in its piece of the sequence; pieces are so long.
    Chunk(u32),
    /// All, but several as one.
    Compressed(Compression),
}

/// Keys that stand for several tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compression {
    /// There is one for so many tokens.
    pub ratio: u32,
    /// Each is made of so many pieces of `ratio` tokens, with weights of their own.
    pub pieces: u32,
    /// Tokens whose own keys are seen beside them, the last ones.
    pub near: Option<u32>,
    /// What chooses among them; all are seen where nothing does.
    pub index: Option<Index>,
}

/// What chooses which keys a token sees, by scores of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Index {
    /// Heads, whose scores are added.
    pub heads: u32,
    /// Width of a head, and of the key that it is compared with.
    pub head: u32,
    /// How many are seen.
    pub top: u32,
}

impl Compression {
    /// Parameters of a layer, beside those of its heads.
    pub fn parameters(self, hidden: u32, heads: Heads) -> u64 {
        let (h, pieces) = (u64::from(hidden), u64::from(self.pieces));
        // Of each piece a value and a weight, and a weight of each place in it; a norm at the end.
        let compressor = |width: u64| pieces * (2 * h * width + u64::from(self.ratio) * width) + width;
        let index = self.index.map_or(0, |index| {
            let [count, width] = [index.heads, index.head].map(u64::from);
            heads.query_source(hidden) * count * width + h * count + compressor(width)
        });
        compressor(u64::from(heads.key_width())) + index
    }
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
            Heads::Single { heads, query_rank, head, output_rank, output_groups } => {
                let [heads, head, groups] = [heads, head, output_groups].map(u64::from);
                let all = heads * head;
                let queries = query_rank.map(u64::from).map_or(h * all, |rank| h * rank + rank * all + rank);
                let outputs = output_rank.map(u64::from).map_or(all * h, |rank| all * rank + groups * rank * h);
                queries + h * head + head + outputs
            }
        }
    }

    /// Width of what queries are computed from.
    fn query_source(self, hidden: u32) -> u64 {
        let rank = match self {
            Heads::Latent { query_rank, .. } | Heads::Single { query_rank, .. } => query_rank,
            Heads::Grouped { .. } => None,
        };
        u64::from(rank.unwrap_or(hidden))
    }

    /// Elements of a token that other tokens see: keys and values, compressed where they are.
    pub fn key_width(self) -> u32 {
        match self {
            Heads::Latent { key_value_rank, rope, .. } => key_value_rank + rope,
            Heads::Grouped { key_value_heads, head, .. } => 2 * key_value_heads * head,
            Heads::Single { head, .. } => head,
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
