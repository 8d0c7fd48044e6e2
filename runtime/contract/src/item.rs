//! What a kernel writes to a peer beside flags: what, how often, and for which exchanges.

use crate::exchange::Exchange;
use crate::memory::{RECORD_HEAD_BYTES, Region};

/// For which exchanges a kernel, or something it does, exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Need {
    /// All of them.
    Always,
    /// Those that drop picks.
    Capacity,
    /// Those whose combine applies the weights.
    CombineWeighs,
    /// Those whose experts weigh, so that gradients of weights come from them.
    ExpertsWeigh,
}

impl Need {
    /// Whether an exchange is one of them.
    pub fn of(self, exchange: &Exchange) -> bool {
        match self {
            Need::Always => true,
            Need::Capacity => exchange.drop.is_some(),
            Need::CombineWeighs => exchange.weighted,
            Need::ExpertsWeigh => !exchange.weighted,
        }
    }
}

/// Something that a kernel writes to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Item {
    /// A row in the dispatch format.
    DispatchRow,
    /// The scales of one row, where the format has any.
    DispatchScales,
    /// Source token, ordinal, picks and weights.
    Record,
    /// How many copies come.
    Count,
    /// A row in the combine format: a partial sum, or a gradient.
    CombineRow,
    /// The derivative of one weight of a token, back at its rank.
    WeightGradient,
}

impl Item {
    /// Of one item, as it crosses the link.
    pub fn bytes(self, exchange: &Exchange) -> u64 {
        match self {
            Item::DispatchRow => exchange.row_bytes(exchange.dispatch),
            Item::DispatchScales => exchange.dispatch.scale_bytes(exchange.hidden),
            Item::Record => RECORD_HEAD_BYTES + 8 * u64::from(exchange.top_k),
            Item::Count => Region::Counts.shape(exchange).stride,
            Item::CombineRow => exchange.row_bytes(exchange.combine),
            Item::WeightGradient => 4,
        }
    }
}

/// What an item is sent once for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Per {
    /// For each token of the writing rank that goes to the peer.
    CopySent,
    /// For each token that came from the peer.
    CopyReceived,
    /// For each pick of a token that came from the peer that is of the writing rank.
    PickReceived,
    /// Once for each rank whose copies the writer hands to the peer: of its rail to a rank of its domain, else itself.
    Source,
    /// Once for each peer.
    Peer,
}

/// What a kernel writes to a peer, beside flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sends {
    /// What is sent.
    pub item: Item,
    /// What it is sent once for.
    pub per: Per,
    /// For which exchanges it is sent.
    pub when: Need,
}
