//! Tensors of a communicator: one on each of its ranks, with the same row and any number of rows.
//!
//! Invariant: a tensor knows its device, its ranks and what it consists of, so that a call can refuse one that is not for it before it
//! launches anything.

use std::sync::Arc;

use moe_contract::{Number, RankId, Tensor};

use crate::buffers::HandleBuffers;
use crate::device::{Address, Device, Memory};
use crate::error::{Error, Result};

/// A tensor on every rank of a communicator. Cloning shares the memory.
#[derive(Clone)]
pub struct Distributed {
    pub(crate) shape: Shape,
    pub(crate) parts: Arc<[Part]>,
    /// Of a tensor of experts: whose counts say which rows are written.
    pub(crate) arrivals: Option<Arc<HandleBuffers>>,
}

/// What all parts of a tensor have in common.
#[derive(Clone)]
pub(crate) struct Shape {
    pub device: Arc<dyn Device>,
    pub kind: Tensor,
    pub number: Number,
    pub row_bytes: u64,
    pub first: RankId,
}

#[derive(Debug)]
pub(crate) struct Part {
    pub memory: Memory,
    pub rows: u64,
}

/// The part of a tensor that a caller has on one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallerPart {
    /// Where it begins, aligned to 16 bytes.
    pub address: Address,
    /// Rows, one behind the other.
    pub rows: u64,
    /// What they consist of.
    pub number: Number,
}

impl Distributed {
    /// Which tensor it is.
    pub fn kind(&self) -> Tensor {
        self.shape.kind
    }

    /// What it consists of.
    pub fn number(&self) -> Number {
        self.shape.number
    }

    /// Rows on a rank; none on one that is not of its communicator.
    pub fn rows(&self, rank: RankId) -> u64 {
        self.part(rank).map_or(0, |part| part.rows)
    }

    /// Where it is on a rank; null without rows.
    pub fn address(&self, rank: RankId) -> Address {
        self.part(rank).map_or(Address::NULL, |part| part.memory.address())
    }

    /// Rows on every rank.
    pub fn all_rows(&self) -> Vec<u64> {
        self.parts.iter().map(|part| part.rows).collect()
    }

    fn part(&self, rank: RankId) -> Option<&Part> {
        let place = rank.0.checked_sub(self.shape.first.0)?;
        self.parts.get(place as usize)
    }

    /// Refuses other numbers of rows.
    pub(crate) fn expect_rows(&self, rows: &[u64]) -> Result<()> {
        for ((rank, part), &expected) in (self.shape.first.0..).map(RankId).zip(self.parts.iter()).zip(rows) {
            if part.rows != expected {
                return Err(Error::Rows { rank, what: self.shape.kind.name().into(), found: part.rows, expected });
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Distributed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Distributed").field("kind", &self.shape.kind).field("parts", &self.parts).finish()
    }
}
