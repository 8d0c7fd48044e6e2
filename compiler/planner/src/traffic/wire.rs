//! What travels: the sizes that "Bytes on the links" of [`moe_contract`] defines.

use moe_compiler::spec::{Combine, Dispatch, Model};
use schemars::JsonSchema;
use serde::Serialize;

/// Bytes of everything that a kernel writes to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Wire {
    /// A row on the way to the experts, with its scales.
    pub dispatch_row: u64,
    /// Source token, ordinal, picks and weights: 8 + 8 × top_k.
    pub record: u64,
    /// A row on the way back.
    pub combine_row: u64,
    /// The gradient of one weight; 0 where combine does not weigh.
    pub weight_gradient: u64,
    /// The number of copies from one source.
    pub count: u64,
    /// What a sending kernel adds to the flag of one peer: 8 bytes for each CTA.
    pub flag: u64,
}

impl Wire {
    /// Of a model whose sending kernels have `ctas` CTAs.
    pub fn of(model: &Model, ctas: u32) -> Wire {
        Wire::new(model.hidden, model.top_k(), model.dispatch, model.combine, ctas)
    }

    /// Of rows of `hidden` elements.
    pub fn new(hidden: u32, top_k: u32, dispatch: Dispatch, combine: Combine, ctas: u32) -> Wire {
        Wire {
            dispatch_row: dispatch.payload.row_bytes(hidden).0 + dispatch.payload.scale_bytes(hidden).0,
            record: 8 + 8 * u64::from(top_k),
            combine_row: combine.payload.row_bytes(hidden).0,
            weight_gradient: if combine.weighted { 4 } else { 0 },
            count: 4,
            flag: 8 * u64::from(ctas),
        }
    }

    /// A copy of a plain dispatch.
    pub fn dispatch_copy(&self) -> u64 {
        self.dispatch_row + self.record
    }
}
