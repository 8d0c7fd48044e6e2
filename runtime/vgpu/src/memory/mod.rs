//! Device memory of all ranks. Invariant: an allocation's number is never used again, so an address outlives nothing.
//!
//! The buffer of a freed allocation may serve a later one of the same size, which saves the host the first touch of its
//! pages. Its bytes are then uninitialised as in a new one; without that check buffers are not used again.

pub(crate) mod access;
pub(crate) mod address;
mod initialised;
mod races;
pub(crate) mod segment;

use std::collections::VecDeque;

use crate::memory::address::{MAX_ALLOCATION_BYTES, MAX_ALLOCATIONS, Target, device_base, target};
pub use access::{Access, AccessKind, Event, Fence, Location, Observer, Order, Proxy, Scope, ThreadId};
pub use address::{Address, RankId};
pub use races::{Race, Races, Side};
use segment::Segment;

/// What is wrong with an access.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryFault {
    /// The address points to nothing.
    NotAnAddress,
    /// The address names a rank that the cluster does not have, or memory that only its owner may touch.
    WrongRank {
        /// Rank in the address.
        owner: RankId,
        /// Why it is wrong.
        reason: String,
    },
    /// Beyond the ends of an allocation.
    OutOfBounds {
        /// Name of the allocation and its rank, or of another place.
        symbol: String,
        /// First byte of the access relative to the allocation; may be negative.
        offset: i64,
        /// Size of the allocation.
        size: u64,
    },
    /// The allocation was freed.
    UseAfterFree {
        /// Name of the allocation and its rank, or of another place.
        symbol: String,
    },
    /// Not a multiple of the access size.
    Misaligned {
        /// Required alignment.
        align: u32,
    },
    /// These bytes were never written.
    Uninitialised {
        /// First such byte, as symbol and offset.
        symbol: String,
    },
    /// A store to constant memory.
    ReadOnly {
        /// Name of the allocation and its rank, or of another place.
        symbol: String,
    },
    /// An address of another state space than the instruction says.
    WrongSpace {
        /// State space of the instruction.
        expected: &'static str,
        /// State space of the address.
        found: &'static str,
    },
    /// A generic address of another CTA's shared memory or another thread's local memory.
    WrongOwner,
    /// An object in memory is not what the instruction wants.
    BadObject(String),
}

impl std::fmt::Display for MemoryFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MemoryFault::NotAnAddress => write!(f, "the address points to no memory"),
            MemoryFault::WrongRank { owner, reason } => write!(f, "wrong rank: {owner} {reason}"),
            MemoryFault::OutOfBounds { symbol, offset, size } => {
                write!(f, "out of bounds: byte {offset} of {symbol}, which has {size} bytes")
            }
            MemoryFault::UseAfterFree { symbol } => write!(f, "use after free: {symbol} was freed"),
            MemoryFault::Misaligned { align } => write!(f, "misaligned: the address is not a multiple of {align}"),
            MemoryFault::Uninitialised { symbol } => write!(f, "use before initialisation: {symbol} was never written"),
            MemoryFault::ReadOnly { symbol } => write!(f, "write to constant memory {symbol}"),
            MemoryFault::WrongSpace { expected, found } => {
                write!(f, "wrong state space: the instruction accesses .{expected}, the address is in .{found}")
            }
            MemoryFault::WrongOwner => {
                write!(f, "the address belongs to another CTA's shared or another thread's local memory")
            }
            MemoryFault::BadObject(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for MemoryFault {}

#[derive(Debug)]
pub(crate) struct NamedRange {
    pub start: u64,
    pub end: u64,
    pub name: String,
    pub writer: Option<RankId>,
}

#[derive(Debug)]
pub(crate) struct Allocation {
    pub name: String,
    pub segment: Segment,
    pub size: u64,
    pub live: bool,
    pub read_only: bool,
    pub private: bool,
    pub ranges: Vec<NamedRange>,
}

impl Allocation {
    /// Name of a place inside: the innermost named range, and what is left as an offset.
    pub fn symbol(&self, offset: i64) -> String {
        let inside = self
            .range(offset)
            .map_or((self.name.clone(), offset), |range| (range.name.clone(), offset - range.start.cast_signed()));
        match inside {
            (name, 0) => name,
            (name, rest) if rest < 0 => format!("{name}{rest}"),
            (name, rest) => format!("{name}+{rest}"),
        }
    }

    pub fn add_range(&mut self, start: u64, end: u64, name: &str, writer: Option<RankId>) {
        self.ranges.push(NamedRange { start, end, name: name.to_owned(), writer });
    }

    pub fn range(&self, offset: i64) -> Option<&NamedRange> {
        self.ranges
            .iter()
            .filter(|range| (range.start.cast_signed()..range.end.cast_signed()).contains(&offset))
            .min_by_key(|range| range.end - range.start)
    }
}

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

    /// Number of ranks.
    pub fn ranks(&self) -> u32 {
        self.ranks as u32
    }
}

/// Smaller buffers are not kept: the host's allocator has them at hand.
const LEAST_SPARE: u64 = 1 << 16;
/// Bytes of freed buffers that are kept.
const MOST_SPARE: u64 = 1 << 28;

#[derive(Debug)]
pub(crate) struct Memory {
    ranks: Vec<Vec<Allocation>>,
    /// Buffers of freed allocations, oldest first.
    spare: VecDeque<Segment>,
    spare_bytes: u64,
    pub traffic: Traffic,
    /// Tickets of parked splits that a write has woken.
    pub woken: Vec<u64>,
    pub check_initialised: bool,
}

impl Memory {
    pub fn new(ranks: u32, check_initialised: bool) -> Memory {
        Memory {
            ranks: (0..ranks).map(|_| Vec::new()).collect(),
            spare: VecDeque::new(),
            spare_bytes: 0,
            traffic: Traffic::new(ranks),
            woken: Vec::new(),
            check_initialised,
        }
    }

    pub fn allocate(&mut self, rank: RankId, size: u64, name: &str, private: bool) -> Result<Address, String> {
        let Some(list) = self.ranks.get_mut(rank.0 as usize) else {
            return Err(format!("there is no {rank}"));
        };
        if size > MAX_ALLOCATION_BYTES {
            return Err(format!("`{name}`: {size} bytes are more than the 8 GiB that one allocation may have"));
        }
        if list.len() == MAX_ALLOCATIONS {
            return Err(format!("{rank} has made {MAX_ALLOCATIONS} allocations, the most a cluster can name"));
        }
        let base = device_base(rank.0, list.len());
        let segment = match self.spare.iter().rposition(|spare| spare.len() == size) {
            Some(at) => {
                self.spare_bytes -= size;
                self.spare.remove(at).unwrap_or_default()
            }
            None => Segment::new(size as usize),
        };
        list.push(Allocation {
            name: name.to_owned(),
            segment,
            size,
            live: true,
            read_only: false,
            private,
            ranges: Vec::new(),
        });
        Ok(Address(base))
    }

    pub fn allocation(&self, rank: u32, allocation: u32) -> Option<&Allocation> {
        self.ranks.get(rank as usize)?.get(allocation as usize)
    }

    pub fn allocation_mut(&mut self, rank: u32, allocation: u32) -> Option<&mut Allocation> {
        self.ranks.get_mut(rank as usize)?.get_mut(allocation as usize)
    }

    /// Finds the allocation of a device access by `accessor` (`None`: the host) and checks everything but initialisation.
    #[inline]
    pub fn locate(
        &self,
        accessor: Option<u32>,
        address: u64,
        size: u64,
        write: bool,
    ) -> Result<(u32, u32, u64), MemoryFault> {
        self.find(accessor, address, size, write).ok_or_else(|| self.explain(accessor, address))
    }

    /// As [`Memory::locate`], without the reason why not.
    #[inline]
    fn find(&self, accessor: Option<u32>, address: u64, size: u64, write: bool) -> Option<(u32, u32, u64)> {
        if let Target::Device { rank, allocation, offset } = target(address)
            && let Some(found) = self.allocation(rank, allocation)
            && found.live
            && found.segment.holds(offset, size)
            && (!found.private || accessor.is_none_or(|accessor| accessor == rank))
            && !(write && found.read_only && accessor.is_some())
        {
            return Some((rank, allocation, offset.cast_unsigned()));
        }
        None
    }

    #[cold]
    fn explain(&self, accessor: Option<u32>, address: u64) -> MemoryFault {
        match target(address) {
            Target::Nothing => MemoryFault::NotAnAddress,
            Target::Shared { .. } => MemoryFault::WrongSpace { expected: "global", found: "shared" },
            Target::Local { .. } => MemoryFault::WrongSpace { expected: "global", found: "local" },
            Target::Param { .. } => MemoryFault::WrongSpace { expected: "global", found: "param" },
            Target::Device { rank, allocation, offset } => {
                let owner = RankId(rank);
                if rank as usize >= self.ranks.len() {
                    let reason = format!("does not exist, the cluster has {} ranks", self.ranks.len());
                    return MemoryFault::WrongRank { owner, reason };
                }
                let Some(found) = self.allocation(rank, allocation) else { return MemoryFault::NotAnAddress };
                let symbol = format!("`{}` of {owner}", found.name);
                if !found.live {
                    return MemoryFault::UseAfterFree { symbol };
                }
                if found.private && accessor.is_some_and(|accessor| accessor != rank) {
                    let reason = format!("has not opened `{}` to its peers", found.name);
                    return MemoryFault::WrongRank { owner, reason };
                }
                if found.read_only && offset >= 0 && offset.cast_unsigned() < found.size {
                    return MemoryFault::ReadOnly { symbol };
                }
                MemoryFault::OutOfBounds { symbol, offset, size: found.size }
            }
        }
    }

    pub fn symbol(&self, address: u64) -> String {
        match target(address) {
            Target::Device { rank, allocation, offset } => match self.allocation(rank, allocation) {
                Some(found) => format!("`{}` of rank {rank}", found.symbol(offset)),
                None => format!("address {address:#x}"),
            },
            _ => format!("address {address:#x}"),
        }
    }

    /// Bytes to be read by a kernel of rank `accessor`, or by the host.
    #[inline]
    pub fn read_device(&mut self, accessor: Option<u32>, address: u64, size: u64) -> Result<&[u8], MemoryFault> {
        let (rank, allocation, offset) = self.locate(accessor, address, size, false)?;
        if let Some(accessor) = accessor {
            self.traffic.add_read(accessor, rank, size);
        }
        let found = &self.ranks[rank as usize][allocation as usize];
        if self.check_initialised
            && let Some(first) = found.segment.first_uninitialised(offset, size)
        {
            return Err(MemoryFault::Uninitialised { symbol: describe(rank, found, first) });
        }
        Ok(found.segment.span(offset, size))
    }

    /// Bytes to be overwritten by a kernel of rank `accessor`, or by the host.
    #[inline]
    pub fn write_device(&mut self, accessor: Option<u32>, address: u64, size: u64) -> Result<&mut [u8], MemoryFault> {
        let (rank, allocation, offset) = self.locate(accessor, address, size, true)?;
        if let Some(accessor) = accessor {
            self.traffic.add_written(accessor, rank, size);
        }
        let found = &mut self.ranks[rank as usize][allocation as usize];
        Ok(found.segment.span_mut(offset, size, &mut self.woken))
    }

    /// Replaces bytes by a function of them, as one write. Whether they changed; only then waiters are woken.
    pub fn update_device(
        &mut self,
        accessor: u32,
        address: u64,
        size: u64,
        change: impl FnOnce(&[u8], &mut [u8]),
    ) -> Result<bool, MemoryFault> {
        let (rank, allocation, offset) = self.locate(Some(accessor), address, size, true)?;
        self.traffic.add_written(accessor, rank, size);
        let found = &mut self.ranks[rank as usize][allocation as usize];
        if self.check_initialised
            && let Some(first) = found.segment.first_uninitialised(offset, size)
        {
            return Err(MemoryFault::Uninitialised { symbol: describe(rank, found, first) });
        }
        Ok(found.segment.update(offset, size, &mut self.woken, change))
    }

    /// A range that a kernel of rank `by` may read, as segment, offset and owner. Initialisation has not been checked, and
    /// nothing has been counted.
    #[inline]
    pub fn span(&self, by: u32, address: u64, size: u64) -> Option<(&Segment, u64, Option<u32>)> {
        let (rank, allocation, offset) = self.find(Some(by), address, size, false)?;
        Some((&self.ranks[rank as usize][allocation as usize].segment, offset, Some(rank)))
    }

    /// A range that a kernel of rank `by` may write, as segment, list of the woken, offset and owner. Nothing has been counted.
    #[inline]
    pub fn span_mut(&mut self, by: u32, address: u64, size: u64) -> Option<(&mut Segment, &mut Vec<u64>, u64, u32)> {
        let (rank, allocation, offset) = self.find(Some(by), address, size, true)?;
        let segment = &mut self.ranks[rank as usize][allocation as usize].segment;
        Some((segment, &mut self.woken, offset, rank))
    }

    /// Constant memory from now on.
    pub fn make_read_only(&mut self, address: Address) {
        if let Ok((rank, allocation, _)) = self.locate(None, address.0, 0, false) {
            self.ranks[rank as usize][allocation as usize].read_only = true;
        }
    }

    pub fn forget_waiters(&mut self) {
        self.woken.clear();
        self.ranks.iter_mut().flatten().for_each(|allocation| allocation.segment.waiters.clear());
    }

    pub fn free(&mut self, address: Address) -> Result<(), MemoryFault> {
        let (rank, allocation, offset) = self.locate(None, address.0, 0, true)?;
        if offset != 0 {
            return Err(MemoryFault::BadObject("free: the address is not the start of an allocation".into()));
        }
        let found = &mut self.ranks[rank as usize][allocation as usize];
        found.live = false;
        let mut segment = std::mem::take(&mut found.segment);
        let size = segment.len();
        if self.check_initialised && (LEAST_SPARE..=MOST_SPARE).contains(&size) {
            while self.spare_bytes + size > MOST_SPARE
                && let Some(oldest) = self.spare.pop_front()
            {
                self.spare_bytes -= oldest.len();
            }
            segment.forget();
            self.spare_bytes += size;
            self.spare.push_back(segment);
        }
        Ok(())
    }
}

fn describe(rank: u32, allocation: &Allocation, offset: u64) -> String {
    format!("`{}` of rank {rank}", allocation.symbol(offset.cast_signed()))
}

#[cfg(test)]
mod tests {
    use super::{LEAST_SPARE, MOST_SPARE, Memory, MemoryFault, RankId};

    #[test]
    fn a_buffer_used_again_is_new_memory() {
        let mut memory = Memory::new(1, true);
        let first = memory.allocate(RankId(0), LEAST_SPARE, "first", false).unwrap();
        memory.write_device(None, first.0, LEAST_SPARE).unwrap().fill(7);
        memory.free(first).unwrap();
        let second = memory.allocate(RankId(0), LEAST_SPARE, "second", false).unwrap();
        assert!(memory.spare.is_empty());
        let late = memory.read_device(None, first.0, 4);
        assert_eq!(late, Err(MemoryFault::UseAfterFree { symbol: "`first` of rank 0".into() }));
        let early = memory.read_device(None, second.offset(8).0, 4);
        assert_eq!(early, Err(MemoryFault::Uninitialised { symbol: "`second+8` of rank 0".into() }));
        memory.write_device(None, second.0, 4).unwrap().fill(1);
        assert_eq!(memory.read_device(None, second.0, 4), Ok([1; 4].as_slice()));
    }

    #[test]
    fn buffers_kept_are_bounded() {
        let mut memory = Memory::new(1, true);
        for bytes in [MOST_SPARE / 2, MOST_SPARE / 2 + 1, MOST_SPARE + 1, LEAST_SPARE - 1] {
            let address = memory.allocate(RankId(0), bytes, "buffer", false).unwrap();
            memory.free(address).unwrap();
        }
        assert_eq!(memory.spare_bytes, MOST_SPARE / 2 + 1);
        assert_eq!(memory.spare.len(), 1);
    }

    #[test]
    fn without_the_check_memory_is_zero() {
        let mut memory = Memory::new(1, false);
        for _ in 0..2 {
            let address = memory.allocate(RankId(0), LEAST_SPARE, "buffer", false).unwrap();
            let bytes = memory.write_device(None, address.0, LEAST_SPARE).unwrap();
            assert!(bytes.iter().all(|byte| *byte == 0));
            bytes.fill(7);
            memory.free(address).unwrap();
        }
    }
}
