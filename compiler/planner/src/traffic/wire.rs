//! What travels, for a report: the items of the contract's table of kernels.

use moe_contract::wire::FLAG_BYTES;
use moe_contract::{Call, Exchange, Item, Per};
use schemars::JsonSchema;
use serde::Serialize;

/// Bytes of everything that a kernel writes to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Wire {
    /// A row on the way to the experts, with its scales.
    pub dispatch_row: u64,
    /// Source token, ordinal, picks and weights.
    pub record: u64,
    /// A row on the way back.
    pub combine_row: u64,
    /// The gradient of one weight; 0 where combine does not weigh.
    pub weight_gradient: u64,
    /// The number of copies from one source.
    pub count: u64,
    /// What a sending kernel adds to the flag of one peer.
    pub flag: u64,
}

impl Wire {
    /// Of the kernels of an exchange.
    pub fn of(exchange: &Exchange) -> Wire {
        Wire {
            dispatch_row: Call::DispatchCached.bytes_per(Per::CopySent, exchange),
            record: Item::Record.bytes(exchange),
            combine_row: Call::Combine.bytes_per(Per::CopyReceived, exchange),
            weight_gradient: Call::CombineBackward.bytes_per(Per::PickReceived, exchange),
            count: Call::Dispatch.bytes_per(Per::Source, exchange),
            flag: FLAG_BYTES * u64::from(exchange.ctas_link),
        }
    }

    /// A copy of a plain dispatch.
    pub fn dispatch_copy(&self) -> u64 {
        self.dispatch_row + self.record
    }
}
