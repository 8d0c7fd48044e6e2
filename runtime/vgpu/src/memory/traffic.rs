//! Bytes on every link. Invariant: every access of a kernel to device memory is counted once, where its bounds are checked.

use crate::ids::RankId;

/// Bytes moved from rank to rank. `[a][b]`: kernels of rank a on memory of rank b.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traffic {
    ranks: usize,
    read: Vec<u64>,
    written: Vec<u64>,
}

impl Traffic {
    pub(crate) fn new(ranks: u32) -> Traffic {
        let ranks = ranks as usize;
        Traffic { ranks, read: vec![0; ranks * ranks], written: vec![0; ranks * ranks] }
    }

    #[inline]
    pub(crate) fn add_read(&mut self, by: u32, from: u32, bytes: u64) {
        self.read[by as usize * self.ranks + from as usize] += bytes;
    }

    #[inline]
    pub(crate) fn add_written(&mut self, by: u32, to: u32, bytes: u64) {
        self.written[by as usize * self.ranks + to as usize] += bytes;
    }

    /// Bytes that kernels of `by` read from memory of `from`.
    pub fn read(&self, by: RankId, from: RankId) -> u64 {
        self.read[by.0 as usize * self.ranks + from.0 as usize]
    }

    /// Bytes that kernels of `by` wrote to memory of `to`; an atomic counts as one write of its size.
    pub fn written(&self, by: RankId, to: RankId) -> u64 {
        self.written[by.0 as usize * self.ranks + to.0 as usize]
    }

    pub fn ranks(&self) -> u32 {
        self.ranks as u32
    }
}
