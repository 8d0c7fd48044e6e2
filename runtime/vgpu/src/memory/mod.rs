//! Device memory of all ranks. Invariant: an address is right as long as its allocation lives; [`slots`] says for how long after that
//! it is sure to be wrong. The names of the last [`REMEMBERED`] freed allocations are kept for reports.
//!
//! The buffer of a freed allocation may serve a later one of the same size, which saves the host the first touch of its
//! pages. Its bytes are then uninitialised as in a new one; without that check buffers are not used again.

pub(crate) mod address;
mod allocation;
mod fault;
mod initialised;
mod multicast;
pub(crate) mod order;
pub(crate) mod segment;
mod slots;
pub(crate) mod tensor;
mod traffic;

use std::collections::VecDeque;

pub use address::Address;
use address::{MAX_ALLOCATION_BYTES, MAX_SLOTS, Target, device_address, target};
pub(crate) use allocation::Allocation;
pub use fault::MemoryFault;
use multicast::Multicast;
pub use order::{Order, Proxy, Scope};
pub use segment::Lent;
use segment::Segment;
use slots::Slots;
pub use traffic::Traffic;

use crate::ids::RankId;

/// Smaller buffers are not kept: the host's allocator has them at hand.
const LEAST_SPARE: u64 = 1 << 16;
/// Bytes of freed buffers that are kept.
const MOST_SPARE: u64 = 1 << 28;

/// Freed allocations whose names are kept.
const REMEMBERED: usize = 1024;
/// So far before its first byte an address is taken for a step out of an allocation, and not for one of freed memory.
const NEAR: i64 = 64 << 10;

/// What was freed, for reports.
#[derive(Debug)]
struct Freed {
    rank: u32,
    slot: u32,
    start: u64,
    end: u64,
    name: String,
}

#[derive(Debug)]
pub(crate) struct Memory {
    ranks: Vec<Slots>,
    /// The last ones, oldest first.
    freed: VecDeque<Freed>,
    /// Buffers of freed allocations, oldest first.
    spare: VecDeque<Segment>,
    spare_bytes: u64,
    multicasts: Vec<Multicast>,
    pub traffic: Traffic,
    /// Tickets of parked splits that a write has woken.
    pub woken: Vec<u64>,
    pub check_initialised: bool,
}

impl Memory {
    pub fn new(ranks: u32, check_initialised: bool) -> Memory {
        Memory {
            ranks: (0..ranks).map(|_| Slots::default()).collect(),
            freed: VecDeque::new(),
            spare: VecDeque::new(),
            spare_bytes: 0,
            multicasts: Vec::new(),
            traffic: Traffic::new(ranks),
            woken: Vec::new(),
            check_initialised,
        }
    }

    pub fn allocate(&mut self, rank: RankId, size: u64, name: &str, private: bool) -> Result<Address, String> {
        let address = self.place(rank, size, name, Segment::default())?;
        let segment = match self.spare.iter().rposition(|spare| spare.len() == size) {
            Some(at) => {
                self.spare_bytes -= size;
                self.spare.remove(at).unwrap_or_default()
            }
            None => Segment::new(size as usize),
        };
        if let Target::Device { rank, slot, .. } = target(address.0)
            && let Some(found) = self.allocation_mut(rank, slot)
        {
            (found.segment, found.private) = (segment, private);
        }
        Ok(address)
    }

    /// As [`Memory::allocate`], over memory of somebody else.
    pub fn allocate_over(&mut self, rank: RankId, memory: Lent, name: &str) -> Result<Address, String> {
        self.place(rank, memory.bytes(), name, Segment::over(memory))
    }

    /// An address for so many bytes.
    fn place(&mut self, rank: RankId, size: u64, name: &str, segment: Segment) -> Result<Address, String> {
        let Some(list) = self.ranks.get_mut(rank.0 as usize) else {
            return Err(format!("there is no {rank}"));
        };
        if size > MAX_ALLOCATION_BYTES {
            return Err(format!("`{name}`: {size} bytes are more than the 8 GiB that one allocation may have"));
        }
        let Some(slot) = list.take(size) else {
            return Err(format!("{rank} has {MAX_SLOTS} allocations, the most a cluster can name"));
        };
        let Some(place) = list.get_mut(slot) else { return Err(format!("{rank} has no slot {slot}")) };
        let base = place.base;
        *place = Allocation { name: name.to_owned(), segment, base, size, live: true, ..Allocation::default() };
        Ok(Address(device_address(rank.0, slot, base)))
    }

    /// Tells the name of every allocation, and then those of its parts.
    pub fn for_each_name(&self, mut tell: impl FnMut(Address, u64, &str)) {
        for (rank, slots) in (0..).zip(&self.ranks) {
            for (slot, found) in (0..).zip(slots.iter()).filter(|(_, found)| found.live) {
                let start = Address(device_address(rank, slot, found.base));
                tell(start, found.size, &found.name);
                found.ranges.iter().for_each(|part| tell(start.offset(part.start), part.end - part.start, &part.name));
            }
        }
    }

    pub fn allocation(&self, rank: u32, slot: u32) -> Option<&Allocation> {
        self.ranks.get(rank as usize)?.get(slot)
    }

    pub fn allocation_mut(&mut self, rank: u32, slot: u32) -> Option<&mut Allocation> {
        self.ranks.get_mut(rank as usize)?.get_mut(slot)
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
        if let Target::Device { rank, slot, position } = target(address)
            && let Some(found) = self.allocation(rank, slot)
            && let offset = found.offset(position)
            && found.live
            && found.segment.holds(offset, size)
            && (!found.private || accessor.is_none_or(|accessor| accessor == rank))
            && !(write && found.read_only && accessor.is_some())
        {
            return Some((rank, slot, offset.cast_unsigned()));
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
            Target::Device { .. } if multicast::is_multicast(address) => {
                MemoryFault::BadObject("a multicast address is for multimem instructions alone".into())
            }
            Target::Device { rank, slot, position } => {
                let owner = RankId(rank);
                if rank as usize >= self.ranks.len() {
                    let reason = format!("does not exist, the cluster has {} ranks", self.ranks.len());
                    return MemoryFault::WrongRank { owner, reason };
                }
                let Some(found) = self.allocation(rank, slot) else { return MemoryFault::NotAnAddress };
                if let Some(symbol) = self.freed_symbol(found, rank, slot, position) {
                    return MemoryFault::UseAfterFree { symbol };
                }
                let (symbol, offset) = (format!("`{}` of {owner}", found.name), found.offset(position));
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

    /// The name of what was freed at a place of a slot, or near it if nothing is there now; none if the place belongs to what is there.
    fn freed_symbol(&self, found: &Allocation, rank: u32, slot: u32, position: u64) -> Option<String> {
        let offset = found.offset(position);
        if found.live && (0..=found.size.cast_signed()).contains(&offset) {
            return None;
        }
        let named = |freed: &Freed| format!("`{}` of {}", freed.name, RankId(rank));
        let here = || self.freed.iter().rev().filter(|freed| (freed.rank, freed.slot) == (rank, slot));
        if let Some(freed) = here().find(|freed| (freed.start..freed.end.max(freed.start + 1)).contains(&position)) {
            return Some(named(freed));
        }
        if found.live && offset >= -NEAR {
            return None;
        }
        // Behind the last one that begins before it; that failing, before any of them.
        let near = here().filter(|freed| freed.start <= position).max_by_key(|freed| freed.start);
        let near = near.or_else(|| here().min_by_key(|freed| freed.start)).filter(|_| !found.live);
        Some(near.map_or_else(|| format!("an allocation of {}", RankId(rank)), named))
    }

    pub fn symbol(&self, address: u64) -> String {
        match target(address) {
            Target::Device { rank, slot, position } => match self.allocation(rank, slot) {
                Some(found) if found.live => format!("`{}` of rank {rank}", found.symbol(found.offset(position))),
                _ => format!("address {address:#x}"),
            },
            _ => format!("address {address:#x}"),
        }
    }

    /// Bytes to be read by a kernel of rank `accessor`, or by the host.
    #[inline]
    pub fn read_device(&mut self, accessor: Option<u32>, address: u64, size: u64) -> Result<&[u8], MemoryFault> {
        let (rank, slot, offset) = self.locate(accessor, address, size, false)?;
        if let Some(accessor) = accessor {
            self.traffic.add_read(accessor, rank, size);
        }
        let found = self.ranks[rank as usize].at(slot);
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
        let (rank, slot, offset) = self.locate(accessor, address, size, true)?;
        if let Some(accessor) = accessor {
            self.traffic.add_written(accessor, rank, size);
        }
        let found = self.ranks[rank as usize].at_mut(slot);
        Ok(found.segment.span_mut(offset, size, &mut self.woken))
    }

    /// Writes bytes of a kernel of rank `accessor`. Whether that changed anything; only then waiters are woken.
    pub fn store_changed(&mut self, accessor: u32, address: u64, bytes: &[u8]) -> Result<bool, MemoryFault> {
        let size = bytes.len() as u64;
        let (rank, slot, offset) = self.locate(Some(accessor), address, size, true)?;
        self.traffic.add_written(accessor, rank, size);
        let found = self.ranks[rank as usize].at_mut(slot);
        Ok(found.segment.store_changed(offset, bytes, &mut self.woken))
    }

    /// Replaces bytes by a function of them, as one write. Whether they changed; only then waiters are woken.
    pub fn update_device(
        &mut self,
        accessor: u32,
        address: u64,
        size: u64,
        change: impl FnOnce(&[u8], &mut [u8]),
    ) -> Result<bool, MemoryFault> {
        let (rank, slot, offset) = self.locate(Some(accessor), address, size, true)?;
        self.traffic.add_written(accessor, rank, size);
        let found = self.ranks[rank as usize].at_mut(slot);
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
        let (rank, slot, offset) = self.find(Some(by), address, size, false)?;
        Some((&self.ranks[rank as usize].at(slot).segment, offset, Some(rank)))
    }

    /// A range that a kernel of rank `by` may write, as segment, list of the woken, offset and owner. Nothing has been counted.
    #[inline]
    pub fn span_mut(&mut self, by: u32, address: u64, size: u64) -> Option<(&mut Segment, &mut Vec<u64>, u64, u32)> {
        let (rank, slot, offset) = self.find(Some(by), address, size, true)?;
        let segment = &mut self.ranks[rank as usize].at_mut(slot).segment;
        Some((segment, &mut self.woken, offset, rank))
    }

    /// Constant memory from now on.
    pub fn make_read_only(&mut self, address: Address) {
        if let Ok((rank, slot, _)) = self.locate(None, address.0, 0, false) {
            self.ranks[rank as usize].at_mut(slot).read_only = true;
        }
    }

    pub fn forget_waiters(&mut self) {
        self.woken.clear();
        self.ranks.iter_mut().flat_map(Slots::iter_mut).for_each(|allocation| allocation.segment.waiters.clear());
    }

    pub fn free(&mut self, address: Address) -> Result<(), MemoryFault> {
        let (rank, slot, offset) = self.locate(None, address.0, 0, true)?;
        self.check_free(rank, slot, offset)?;
        self.release(rank, slot);
        Ok(())
    }

    /// Lets a stream free an allocation later. Nobody else can any more.
    pub fn leave(&mut self, address: Address) -> Result<(), MemoryFault> {
        let (rank, slot, offset) = self.locate(None, address.0, 0, true)?;
        self.check_free(rank, slot, offset)?;
        self.ranks[rank as usize].at_mut(slot).leaving = true;
        Ok(())
    }

    /// Frees what is leaving.
    pub fn free_leaving(&mut self, address: Address) {
        if let Target::Device { rank, slot, .. } = target(address.0)
            && self.allocation(rank, slot).is_some_and(|found| found.leaving)
        {
            self.release(rank, slot);
        }
    }

    fn check_free(&self, rank: u32, slot: u32, offset: u64) -> Result<(), MemoryFault> {
        if offset != 0 {
            return Err(MemoryFault::BadObject("free: the address is not the start of an allocation".into()));
        }
        let found = self.ranks[rank as usize].at(slot);
        if found.leaving {
            let symbol = format!("`{}` of {}", found.name, RankId(rank));
            return Err(MemoryFault::UseAfterFree { symbol });
        }
        Ok(())
    }

    fn release(&mut self, rank: u32, slot: u32) {
        let slots = &mut self.ranks[rank as usize];
        let place = slots.at_mut(slot);
        let Allocation { name, mut segment, base, size, .. } = std::mem::take(place);
        (place.base, place.size) = (base, size);
        slots.give_back(slot);
        if self.freed.len() == REMEMBERED {
            self.freed.pop_front();
        }
        self.freed.push_back(Freed { rank, slot, start: base, end: base + size, name });
        // Who waits for a write here reads again, which is an error now.
        self.woken.extend(segment.waiters.drain(..).map(|waiter| waiter.ticket));
        if self.check_initialised && segment.is_own() && (LEAST_SPARE..=MOST_SPARE).contains(&size) {
            while self.spare_bytes + size > MOST_SPARE
                && let Some(oldest) = self.spare.pop_front()
            {
                self.spare_bytes -= oldest.len();
            }
            segment.forget();
            self.spare_bytes += size;
            self.spare.push_back(segment);
        }
    }
}

fn describe(rank: u32, allocation: &Allocation, offset: u64) -> String {
    format!("`{}` of rank {rank}", allocation.symbol(offset.cast_signed()))
}

#[cfg(test)]
mod tests {
    use super::{LEAST_SPARE, MOST_SPARE, Memory, MemoryFault};
    use crate::ids::RankId;

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
    fn freed_memory_is_named_and_a_step_out_of_memory_is_not_taken_for_it() {
        let mut memory = Memory::new(1, true);
        let [first, second] = ["first", "second"].map(|name| {
            let address = memory.allocate(RankId(0), 100, name, false).unwrap();
            memory.free(address).unwrap();
            address
        });
        let third = memory.allocate(RankId(0), 100, "third", false).unwrap();
        assert_eq!((first.0 >> 34, second.0 >> 34), (third.0 >> 34, third.0 >> 34), "one slot serves them all");
        let mut fault = |address: u64| memory.read_device(None, address, 4).unwrap_err();
        let used = |name: &str| MemoryFault::UseAfterFree { symbol: name.into() };
        let out = |offset| MemoryFault::OutOfBounds { symbol: "`third` of rank 0".into(), offset, size: 100 };
        assert_eq!(fault(first.0 + 96), used("`first` of rank 0"));
        assert_eq!(fault(second.0), used("`second` of rank 0"));
        assert_eq!(fault(third.0 - 4), out(-4));
        assert_eq!(fault(third.0 + 100), out(100));
        assert_eq!(fault(third.0 + (1 << 30)), out(1 << 30));
        for _ in 0..super::REMEMBERED {
            let address = memory.allocate(RankId(0), 8, "another", false).unwrap();
            memory.free(address).unwrap();
        }
        let mut fault = |address: u64| memory.read_device(None, address, 4).unwrap_err();
        assert_eq!(fault(first.0), used("an allocation of rank 0"), "its name is forgotten, the error is the same");
        assert_eq!(fault(third.0 - 4), out(-4));
        memory.free(third).unwrap();
        let mut fault = |address: u64| memory.read_device(None, address, 4).unwrap_err();
        assert_eq!(fault(third.0 + 100), used("`third` of rank 0"));
        assert_eq!(fault(third.0 + (1 << 30)), used("`third` of rank 0"));
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
