//! State of a warp: its register file and its splits.
//!
//! Invariants: the masks of a warp's splits are disjoint and together are the lanes that have not exited; `file` and
//! `predicates` have the sizes that the decoder computed, which is what the register instructions' `unsafe` code needs.

use std::sync::Arc;

use super::addresses::Addresses;
use super::copies::LaneCopies;
use super::file::RegisterFile;
use super::frames::Stacks;
use super::late::Late;
use super::probe::Probe;
use super::report::FaultKind;
use super::stored::Stored;
use super::undefined::Undefined;
use crate::decode::op::{Place, Reg};
use crate::ids::{LaunchId, RankId, ThreadId};
use crate::memory::segment::Segment;
use crate::memory::{Address, MemoryFault};
use crate::module::Kernel;
use crate::semantics::wide::{add_to_longs, add_to_words};

/// Lanes that execute together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Split {
    pub pc: u32,
    pub mask: u32,
    pub state: SplitState,
}

/// Whether a split can go on, and otherwise what it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SplitState {
    Ready,
    /// At a warp instruction with these members.
    Members(u32),
    /// At a CTA barrier.
    Barrier(u32),
    /// At the barrier of its cluster.
    Cluster,
    /// For the end of the launch before its own in the stream.
    Grid,
    /// A loop that goes on when a watched location changes: the ticket of the watch.
    Watch(u64),
    Sleep(u64),
    /// Bulk groups: at most so many may be pending, reads only or whole.
    BulkGroups {
        groups: u32,
        read: bool,
    },
    /// Groups of small copies.
    CopyGroups {
        groups: u32,
    },
}

/// A fault of one lane, without its place.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub lane: u32,
    pub kind: FaultKind,
}

pub(crate) type Outcome<T> = Result<T, Box<Trouble>>;

#[cold]
pub(crate) fn undefined<T>(mask: u32, what: impl Into<String>) -> Outcome<T> {
    Err(Box::new(Trouble { lane: mask.trailing_zeros() & 31, kind: FaultKind::Undefined(what.into()) }))
}

#[cold]
pub(crate) fn bad_access(lane: u32, address: u64, bytes: u32, fault: MemoryFault) -> Box<Trouble> {
    Box::new(Trouble { lane, kind: FaultKind::Memory { address: Address(address), bytes, fault } })
}

pub(crate) struct Warp {
    pub slot: u32,
    pub kernel: Kernel,
    pub rank: u32,
    /// Slot of the launch.
    pub launch: u32,
    pub launch_id: LaunchId,
    /// Slot of the CTA.
    pub cta: u32,
    /// Linear index of the CTA in its grid.
    pub cta_index: u32,
    /// Number in the CTA.
    pub number: u32,
    /// Lanes that are threads of the CTA.
    pub existing: u32,
    /// Lanes that have not exited.
    pub live: u32,
    pub splits: Vec<Split>,
    /// Turns so far: now and then another split than the lowest gets one.
    pub turns: u32,
    /// In the queue of warps that can run.
    pub queued: bool,
    /// Turn of the machine before which it does not start.
    pub held_until: u64,
    pub sm: u32,
    /// Empty before the first turn.
    pub file: RegisterFile,
    pub predicates: Vec<u32>,
    /// What is not defined of them; nothing nearly always.
    pub undefined: Option<Box<Undefined>>,
    /// What calls keep that may come back to their caller.
    pub stacks: Option<Box<Stacks>>,
    pub local: Segment,
    /// What it stored in local memory that is undefined.
    pub stored: Stored,
    pub local_bytes: u32,
    pub parameters: Arc<[u8]>,
    /// Steps that other threads could notice, or that change what is not in registers; barriers apart.
    pub effects: u64,
    /// Arrivals at barriers.
    pub arrivals: u64,
    /// The warps that it meets at barriers, a bit for each of its CTA, or those of its cluster.
    pub group: u64,
    /// Meetings with a part of them since the last one with all.
    pub narrower: u32,
    pub probe: Box<Probe>,
    pub copies: Option<Box<[LaneCopies; 32]>>,
    /// Accesses that have not been carried out yet, where memory is weak.
    pub late: Vec<Late>,
    /// Its turn is over.
    pub yields: bool,
    /// Number of its CTA in the cluster's history, and its own in that.
    pub serial: u64,
}

impl Warp {
    #[inline(always)]
    pub fn registers(&mut self) -> *mut u8 {
        self.file.as_mut_ptr()
    }

    /// The bytes of a register in all lanes.
    #[inline(always)]
    pub fn row(&self, row: u32, bytes: u32) -> &[u8] {
        &self.file.bytes()[row as usize..][..bytes as usize * 32]
    }

    /// The bytes of a register in all lanes, to be written.
    #[inline(always)]
    pub fn row_mut(&mut self, row: u32, bytes: u32) -> &mut [u8] {
        &mut self.file.bytes_mut()[row as usize..][..bytes as usize * 32]
    }

    #[inline]
    pub fn u32(&self, row: u32, lane: u32) -> u32 {
        let at = row as usize + lane as usize * 4;
        let bytes = &self.file.bytes()[at..at + 4];
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    #[inline]
    pub fn set_u32(&mut self, row: u32, lane: u32, value: u32) {
        let at = row as usize + lane as usize * 4;
        self.file.bytes_mut()[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// A 32-bit register in all lanes.
    #[inline(always)]
    pub fn words(&self, row: u32) -> [u32; 32] {
        let mut words = [0; 32];
        for (word, bytes) in words.iter_mut().zip(self.row(row, 4).as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        words
    }

    /// Sets a 32-bit register in all lanes.
    #[inline(always)]
    pub fn set_words(&mut self, row: u32, values: &[u32; 32]) {
        let words = self.row_mut(row, 4).as_chunks_mut::<4>().0;
        for (word, value) in words.iter_mut().zip(values) {
            *word = value.to_le_bytes();
        }
    }

    /// The value of a 32-bit register in these lanes, if it is the same in all of them.
    #[inline]
    pub fn common_word(&self, row: u32, mask: u32) -> Option<u32> {
        let first = self.u32(row, mask.trailing_zeros());
        let same = if mask == u32::MAX {
            self.words(row).iter().fold(0, |different, value| different | (value ^ first)) == 0
        } else {
            lanes(mask).all(|lane| self.u32(row, lane) == first)
        };
        same.then_some(first)
    }

    /// One lane of a register, zero-extended.
    #[inline]
    pub fn value(&self, reg: Reg, lane: u32) -> u128 {
        let at = reg.row as usize + (lane * reg.bytes) as usize;
        zero_extended(&self.file.bytes()[at..at + reg.bytes as usize])
    }

    /// Sets one lane of a register to the low bytes of a value.
    #[inline]
    pub fn set_value(&mut self, reg: Reg, lane: u32, value: u128) {
        let at = reg.row as usize + (lane * reg.bytes) as usize;
        put_low_bytes(&mut self.file.bytes_mut()[at..at + reg.bytes as usize], value);
    }

    /// The bytes of one lane of a register.
    #[inline(always)]
    pub fn lane(&self, reg: Reg, lane: u32) -> &[u8] {
        &self.file.bytes()[(reg.row + lane * reg.bytes) as usize..][..reg.bytes as usize]
    }

    /// The bytes of one lane of a register, to be written.
    #[inline(always)]
    pub fn lane_mut(&mut self, reg: Reg, lane: u32) -> &mut [u8] {
        &mut self.file.bytes_mut()[(reg.row + lane * reg.bytes) as usize..][..reg.bytes as usize]
    }

    #[inline]
    pub fn predicate(&self, index: u32) -> u32 {
        self.predicates[index as usize]
    }

    #[inline]
    pub fn set_predicate(&mut self, index: u32, mask: u32, bits: u32) {
        let predicate = &mut self.predicates[index as usize];
        *predicate = *predicate & !mask | bits & mask;
    }

    /// The value of a uniform 32-bit operand, or a fault if the lanes differ.
    pub fn uniform(&self, row: u32, mask: u32, what: &str) -> Outcome<u32> {
        let value = self.u32(row, mask.trailing_zeros());
        if lanes(mask).any(|lane| self.u32(row, lane) != value) {
            return undefined(mask, format!("{what} differs between the lanes of a warp"));
        }
        Ok(value)
    }

    #[inline]
    pub fn address(&self, place: &Place, lane: u32) -> u64 {
        let base = place.base.map_or(0, |reg| self.value(reg, lane) as u64);
        base.wrapping_add(place.offset.cast_unsigned())
    }

    /// How the lanes' addresses follow each other, without the offset of the place.
    #[inline(always)]
    pub fn addresses(&self, place: &Place, size: u32, mask: u32) -> Option<Addresses> {
        let Some(reg) = place.base else { return Some(Addresses::Same(0)) };
        if reg.bytes == 8 {
            let row = self.row(reg.row, 8).as_chunks::<8>().0.first_chunk()?;
            return Some(Addresses::of(row, size.into(), mask));
        }
        let mut row = [[0; 8]; 32];
        for (long, word) in row.iter_mut().zip(self.words(reg.row)) {
            *long = u64::from(word).to_le_bytes();
        }
        Some(Addresses::of(&row, size.into(), mask))
    }

    /// The addresses of all lanes, plus a number.
    #[inline(always)]
    pub fn addresses_plus(&self, place: &Place, number: u64) -> [u64; 32] {
        let number = number.wrapping_add(place.offset.cast_unsigned());
        let Some(reg) = place.base else { return [number; 32] };
        let row = self.row(reg.row, reg.bytes);
        if let (8, Some(row)) = (reg.bytes, row.as_chunks::<8>().0.first_chunk()) {
            add_to_longs(row, number)
        } else if let Some(row) = row.as_chunks::<4>().0.first_chunk() {
            add_to_words(row, number)
        } else {
            [number; 32]
        }
    }

    pub fn thread(&self, lane: u32) -> ThreadId {
        ThreadId { rank: RankId(self.rank), launch: self.launch_id, cta: self.cta_index, warp: self.number, lane }
    }

    pub fn is_ready(&self) -> bool {
        self.splits.iter().any(|split| split.state == SplitState::Ready)
    }
}

/// Copies one element of an access. The usual widths need no call.
#[inline(always)]
pub(crate) fn copy_element(to: &mut [u8], from: &[u8]) {
    #[inline(always)]
    fn fixed<const N: usize>(to: &mut [u8], from: &[u8]) {
        if let (Some(to), Some(from)) = (to.first_chunk_mut::<N>(), from.first_chunk::<N>()) {
            *to = *from;
        }
    }
    match (to.len(), from.len()) {
        (4, 4) => fixed::<4>(to, from),
        (8, 8) => fixed::<8>(to, from),
        (16, 16) => fixed::<16>(to, from),
        (2, 2) => fixed::<2>(to, from),
        (1, 1) => fixed::<1>(to, from),
        _ => to.copy_from_slice(from),
    }
}

/// The little-endian value of at most 16 bytes. The usual widths need no call.
#[inline]
pub(crate) fn zero_extended(bytes: &[u8]) -> u128 {
    match *bytes {
        [a, b, c, d] => u32::from_le_bytes([a, b, c, d]).into(),
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]).into(),
        [a, b] => u16::from_le_bytes([a, b]).into(),
        [a] => a.into(),
        _ => {
            let mut out = [0; 16];
            out[..bytes.len()].copy_from_slice(bytes);
            u128::from_le_bytes(out)
        }
    }
}

/// Fills at most 16 bytes with the low bytes of a value.
#[inline]
pub(crate) fn put_low_bytes(bytes: &mut [u8], value: u128) {
    match bytes.len() {
        4 => bytes.copy_from_slice(&(value as u32).to_le_bytes()),
        8 => bytes.copy_from_slice(&(value as u64).to_le_bytes()),
        2 => bytes.copy_from_slice(&(value as u16).to_le_bytes()),
        1 => bytes[0] = value as u8,
        count => bytes.copy_from_slice(&value.to_le_bytes()[..count]),
    }
}

/// The lanes of a mask, ascending.
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = u32> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        let lane = (rest != 0).then(|| rest.trailing_zeros())?;
        rest &= rest - 1;
        Some(lane)
    })
}
