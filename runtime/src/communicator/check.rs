//! Whether what a caller passes is for this communicator: device, ranks, type, width, rows, owner. Nothing is launched here.

use std::sync::Arc;

use moe_contract::{Exchange, Number, RankId, Tensor};

use super::{Communicator, Handle, Routing};
use crate::error::{Error, Result};
use crate::tensor::Distributed;

impl Communicator {
    /// Refuses a tensor of another kind, device, ranks, type or width.
    pub(crate) fn expect(&self, tensor: &Distributed, kind: Tensor) -> Result<()> {
        let (what, shape) = (kind.name(), &tensor.shape);
        if shape.kind != kind {
            return Err(Error::WrongTensor { found: shape.kind.name(), expected: what });
        }
        if !Arc::ptr_eq(&shape.device, &self.world.device) {
            return Err(Error::Foreign { what, why: "it is on another device" });
        }
        if shape.first != self.first() || tensor.parts.len() != self.ranks.len() {
            return Err(Error::Foreign { what, why: "it is of other ranks" });
        }
        let number = self.number(kind)?;
        if shape.number != number {
            return Err(Error::Type { what, found: shape.number.name(), expected: number.name() });
        }
        let expected = self.exchange().tensor_row_bytes(kind);
        if shape.row_bytes != expected {
            return Err(Error::RowWidth { what, found: shape.row_bytes, expected });
        }
        Ok(())
    }

    /// [`Communicator::expect`], with so many rows on each rank.
    pub(super) fn expect_with(&self, tensor: &Distributed, kind: Tensor, rows: &[u64]) -> Result<()> {
        self.expect(tensor, kind)?;
        tensor.expect_rows(rows)
    }

    /// [`Communicator::expect`], with no more rows than were planned for; how many on each rank.
    pub(super) fn expect_tokens(&self, tensor: &Distributed, kind: Tensor) -> Result<Vec<u64>> {
        self.expect(tensor, kind)?;
        let rows = tensor.all_rows();
        let most = self.exchange().max_tokens;
        for (rank, &tokens) in self.ranks().zip(&rows) {
            if tokens > u64::from(most) {
                return Err(Error::Tokens { rank, tokens, most });
            }
        }
        Ok(rows)
    }

    pub(super) fn expect_routing(&self, routing: &Routing, tokens: &[u64]) -> Result<()> {
        self.expect_with(&routing.indices, Tensor::Indices, tokens)?;
        self.expect_with(&routing.weights, Tensor::Weights, tokens)
    }

    /// Refuses a handle of another communicator, or from before a recovery.
    pub(super) fn expect_handle(&self, handle: &Handle) -> Result<()> {
        self.world.expect_owner("the handle", handle.0.owner, self.first())
    }

    /// What a tensor of this bundle consists of.
    pub(super) fn number(&self, kind: Tensor) -> Result<Number> {
        let missing = || Error::NoTensor { what: kind.name(), why: "the format of dispatch has no scales" };
        self.exchange().tensor_number(kind).ok_or_else(missing)
    }

    /// Room for everything that can arrive, on each rank.
    pub(super) fn most_rows(&self) -> Vec<u64> {
        vec![self.exchange().output_rows_max(); self.ranks.len()]
    }
}

/// Rows of so many bytes.
pub(super) fn whole_rows(rank: RankId, kind: Tensor, bytes: u64, exchange: &Exchange) -> Result<u64> {
    let row = exchange.tensor_row_bytes(kind);
    if row == 0 || !bytes.is_multiple_of(row) {
        return Err(Error::RowBytes { rank, what: kind.name().into(), found: bytes, row });
    }
    Ok(bytes / row)
}
