//! Multicast addresses: one address for the same place in the memory of several ranks, for `multimem` instructions.
//!
//! Invariant: a multicast address is that of a rank that no cluster has, so that no other instruction takes it for memory.

use super::address::{SLOT_START, Target, device_address, target};
use super::{Address, Memory, MemoryFault};

/// In the place of a rank in addresses.
const RANK: u32 = 1022;
/// Of the parts that an address stands for.
const ALIGN: u64 = 16;

#[derive(Debug)]
pub(crate) struct Multicast {
    name: String,
    bytes: u64,
    /// Where the parts begin, in the order in which they are combined.
    parts: Vec<u64>,
}

pub(super) fn is_multicast(address: u64) -> bool {
    matches!(target(address), Target::Device { rank: RANK, .. })
}

impl Memory {
    /// An address for the first bytes of all parts at once.
    pub fn multicast(&mut self, parts: &[Address], bytes: u64, name: &str) -> Result<Address, String> {
        if parts.is_empty() {
            return Err("a multicast address has at least one part".into());
        }
        let mut ranks = Vec::new();
        for part in parts {
            let found = self.locate(None, part.0, bytes, true).map_err(|fault| fault.to_string())?;
            if ranks.contains(&found.0) {
                return Err(format!("two parts are in the memory of rank {}", found.0));
            }
            ranks.push(found.0);
            if !part.0.is_multiple_of(ALIGN) {
                return Err(format!("a part begins at a multiple of {ALIGN} bytes, not at {part}"));
            }
        }
        let slot = self.multicasts.len() as u32;
        let parts = parts.iter().map(|part| part.0).collect();
        self.multicasts.push(Multicast { name: name.to_owned(), bytes, parts });
        Ok(Address(device_address(RANK, slot, SLOT_START)))
    }

    /// The places that an address stands for.
    pub fn places(&self, address: u64, bytes: u64) -> Result<Vec<u64>, MemoryFault> {
        let Target::Device { rank: RANK, slot, position } = target(address) else {
            return Err(MemoryFault::BadObject("this is no multicast address".into()));
        };
        let Some(found) = self.multicasts.get(slot as usize) else { return Err(MemoryFault::NotAnAddress) };
        let offset = position.cast_signed() - SLOT_START.cast_signed();
        if offset < 0 || offset.cast_unsigned() + bytes > found.bytes {
            return Err(MemoryFault::OutOfBounds { symbol: format!("`{}`", found.name), offset, size: found.bytes });
        }
        Ok(found.parts.iter().map(|part| part + offset.cast_unsigned()).collect())
    }
}
