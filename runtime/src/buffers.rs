//! The arrays of a handle.
//!
//! Invariant: each is on every rank of one communicator, for as long as anything that its kernels fill is held.

use std::collections::BTreeMap;
use std::ops::Range;

use moe_contract::{Buffer, RankId};

use crate::device::{Address, Memory};
use crate::error::Result;

/// The arrays of a handle, on every rank of its communicator.
#[derive(Debug)]
pub(crate) struct HandleBuffers {
    pub first: RankId,
    pub of_ranks: Vec<BTreeMap<Buffer, Memory>>,
}

impl HandleBuffers {
    fn memory(&self, rank: RankId, buffer: Buffer) -> Option<&Memory> {
        let place = rank.0.checked_sub(self.first.0)?;
        self.of_ranks.get(place as usize)?.get(&buffer)
    }

    pub fn address(&self, rank: RankId, buffer: Buffer) -> Address {
        self.memory(rank, buffer).map_or(Address::NULL, Memory::address)
    }

    /// Elements of an array, as they are now; none of an array that there is not.
    pub fn read<T: bytemuck::Pod>(&self, rank: RankId, buffer: Buffer, elements: Range<usize>) -> Result<Vec<T>> {
        match self.memory(rank, buffer) {
            Some(memory) => Ok(memory.read(elements)?),
            None => Ok(vec![]),
        }
    }
}
