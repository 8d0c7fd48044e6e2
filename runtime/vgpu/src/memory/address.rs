//! An address says what it points to: rank, slot and place in it, or a window of a thread's own memory. Therefore every
//! wrong address is found, and found exactly, instead of hitting a neighbour.
//!
//! Device memory: `0 | rank + 1 (10 bits) | slot (18 bits) | place (34 bits)`. A slot has one allocation at a time, see
//! [`super::slots`], which lies in the middle half of its places, so that steps of less than 4 GiB below or beyond it are still in
//! the slot. Windows (`cvta.shared`, `.local`, `.param`): bit 62, kind in bits 60 and 61, owner in bits 32 to 59, offset below.

/// A 64-bit device address. Adding an offset gives an address inside the same allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub u64);

impl Address {
    /// The address `bytes` further on.
    #[must_use]
    pub fn offset(self, bytes: u64) -> Address {
        Address(self.0.wrapping_add(bytes))
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

pub(crate) const MAX_RANKS: u32 = 1000;
pub(crate) const MAX_SLOTS: usize = 1 << 18;
pub(crate) const MAX_ALLOCATION_BYTES: u64 = 1 << 33;
const PLACE_BITS: u32 = 34;
const RANK_SHIFT: u32 = 52;
/// Where allocations lie in a slot.
pub(crate) const SLOT_START: u64 = 1 << 32;
pub(crate) const SLOT_END: u64 = SLOT_START + MAX_ALLOCATION_BYTES;
const WINDOW: u64 = 1 << 62;
/// Owners of windows.
pub(crate) const OWNER_MASK: u32 = 0x0fff_ffff;

pub(crate) const SHARED_WINDOW: u64 = WINDOW;
pub(crate) const LOCAL_WINDOW: u64 = WINDOW | 1 << 60;
pub(crate) const PARAM_WINDOW: u64 = WINDOW | 2 << 60;

pub(crate) fn device_address(rank: u32, slot: u32, position: u64) -> u64 {
    u64::from(rank + 1) << RANK_SHIFT | u64::from(slot) << PLACE_BITS | position
}

/// What a generic address points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Device { rank: u32, slot: u32, position: u64 },
    Shared { owner: u32, offset: u32 },
    Local { owner: u32, offset: u32 },
    Param { offset: u32 },
    Nothing,
}

/// Whether device addresses point to the same allocation, or to allocations of which one follows the other.
pub(crate) fn same_slot(a: Address, b: Address) -> bool {
    a.0 >> PLACE_BITS == b.0 >> PLACE_BITS
}

#[inline]
pub(crate) fn is_device(address: u64) -> bool {
    address >> 62 == 0
}

#[inline]
pub(crate) fn target(address: u64) -> Target {
    match address >> 62 {
        0 => {
            let rank = (address >> RANK_SHIFT) as u32 & 0x3ff;
            if rank == 0 {
                return Target::Nothing;
            }
            let slot = (address >> PLACE_BITS) as u32 & 0x3_ffff;
            Target::Device { rank: rank - 1, slot, position: address & ((1 << PLACE_BITS) - 1) }
        }
        1 => {
            let owner = (address >> 32) as u32 & OWNER_MASK;
            let offset = address as u32;
            match address >> 60 & 3 {
                0 => Target::Shared { owner, offset },
                1 => Target::Local { owner, offset },
                2 => Target::Param { offset },
                _ => Target::Nothing,
            }
        }
        _ => Target::Nothing,
    }
}
