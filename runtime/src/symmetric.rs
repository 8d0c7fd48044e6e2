//! Symmetric memory: one allocation of the same layout on every rank.
//!
//! Invariant: all of it is zero before the first call, so that every flag starts at zero.

use std::sync::Arc;

use moe_contract::{Exchange, Part, Place, RankId};

use crate::device::{Address, Device, DeviceError, Memory};

/// The symmetric memory of the ranks of this process.
pub struct SymmetricMemory {
    first: RankId,
    parts: Vec<Memory>,
}

impl SymmetricMemory {
    /// Allocates it, zeroes it, and names its regions for reports.
    ///
    /// # Errors
    /// When a device has not enough memory.
    pub fn new(device: &Arc<dyn Device>, exchange: &Exchange) -> Result<SymmetricMemory, DeviceError> {
        let allocate = |rank| Memory::shared(device, rank, exchange.symmetric_bytes(), "symmetric memory");
        let parts: Vec<Memory> = device.mine().map(RankId).map(allocate).collect::<Result<_, _>>()?;
        let memory = SymmetricMemory { first: RankId(device.mine().start), parts };
        memory.zero()?;
        memory.parts.iter().for_each(|part| label(device, exchange, part));
        Ok(memory)
    }

    /// Zeroes all of it: the state before the first call.
    ///
    /// # Errors
    /// When a launch before failed.
    pub fn zero(&self) -> Result<(), DeviceError> {
        self.parts.iter().try_for_each(Memory::zero)
    }

    /// Where a rank's part is.
    pub fn base(&self, rank: RankId) -> Address {
        self.parts[(rank.0 - self.first.0) as usize].address()
    }

    /// Of each rank, what other processes need to reach it.
    ///
    /// # Errors
    /// When the device cannot share it.
    pub fn export(&self) -> Result<Vec<Vec<u8>>, DeviceError> {
        self.parts.iter().map(Memory::export).collect()
    }
}

/// Names every part; what only one rank writes is named for that rank too, so that a report can say who is late.
fn label(device: &Arc<dyn Device>, exchange: &Exchange, memory: &Memory) {
    let name = |start: u64, bytes: u64, label: &str, writer: Option<RankId>| {
        device.label(memory.rank(), memory.address().offset(start), bytes, label, writer);
    };
    for Place { part, start, bytes } in exchange.symmetric_places().filter(|place| place.bytes > 0) {
        match part {
            Part::Flag(flag) => {
                let word = bytes / u64::from(exchange.ranks);
                for writer in exchange.topology().all() {
                    let label = format!("{}[{writer}]", flag.name());
                    name(start + u64::from(writer.0) * word, word, &label, Some(writer));
                }
            }
            Part::Region(region) if region.by_source() => {
                let shape = region.shape(exchange);
                let of_source = shape.entries * shape.stride;
                for half in 0..2 {
                    for writer in exchange.topology().all() {
                        let place = half * shape.lists + u64::from(writer.0);
                        let label = format!("{}[half {half}, from {writer}]", region.name());
                        name(start + place * of_source, of_source, &label, Some(writer));
                    }
                }
            }
            Part::Region(region) => name(start, bytes, region.name(), None),
        }
    }
}
