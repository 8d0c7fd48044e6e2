//! Symmetric memory: one allocation of the same layout on every rank, and on every rank the table of all of them.
//!
//! Invariant: all of it is zero before the first call, so that every flag starts at zero.

use std::sync::Arc;

use moe_bundle::{Exchange, LocalBuffer, RankId};

use crate::device::{Address, Device, DeviceError, Memory};

/// The symmetric memory of all ranks.
pub struct SymmetricMemory {
    parts: Vec<Memory>,
    peers: Vec<Memory>,
}

impl SymmetricMemory {
    /// Allocates it, zeroes it, names its regions for reports, and tells every rank where the others' is.
    ///
    /// # Errors
    /// When a device has not enough memory.
    pub fn new(device: &Arc<dyn Device>, exchange: &Exchange) -> Result<SymmetricMemory, DeviceError> {
        let ranks = || (0..exchange.ranks).map(RankId);
        let allocate = |rank| Memory::new(device, rank, exchange.symmetric.bytes, "symmetric memory");
        let parts: Vec<Memory> = ranks().map(allocate).collect::<Result<_, _>>()?;
        let table: Vec<u64> = parts.iter().map(|part| part.address().0).collect();
        let peers = ranks().map(|rank| {
            let bytes = exchange.buffer_bytes(LocalBuffer::Peers);
            let memory = Memory::new(device, rank, bytes, LocalBuffer::Peers.name())?;
            memory.write(bytemuck::cast_slice(&table))?;
            Ok(memory)
        });
        let memory = SymmetricMemory { peers: peers.collect::<Result<_, DeviceError>>()?, parts };
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
        self.parts[rank.index()].address()
    }

    /// Where a rank's table of all parts is.
    pub fn peers(&self, rank: RankId) -> Address {
        self.peers[rank.index()].address()
    }
}

/// Names every region; what only one rank writes is named for that rank too, so that a report can say who is late.
fn label(device: &Arc<dyn Device>, exchange: &Exchange, part: &Memory) {
    let tokens = u64::from(exchange.max_tokens);
    let name = |start: u64, bytes: u64, label: &str, writer: Option<RankId>| {
        device.label(part.rank(), part.address().offset(start), bytes, label, writer);
    };
    for region in exchange.symmetric.regions(exchange).into_iter().filter(|region| region.bytes > 0) {
        let flag = match region.name {
            "dispatch_arrival" => Some("dispatch.arrive"),
            "combine_arrival" => Some("combine.arrive"),
            "gradient_arrival" => Some("gradient.arrive"),
            "barrier_arrival" => Some("barrier.arrive"),
            _ => None,
        };
        if let Some(phase) = flag {
            for writer in (0..exchange.ranks).map(RankId) {
                name(region.start + 8 * u64::from(writer.0), 8, &format!("{phase}[{writer}]"), Some(writer));
            }
            continue;
        }
        let of_source = match region.name {
            "counts" => 4,
            "rows" => tokens * exchange.symmetric.row_bytes,
            "scales" => tokens * exchange.symmetric.scale_bytes,
            "records" => tokens * exchange.symmetric.record_bytes,
            other => {
                name(region.start, region.bytes, other, None);
                continue;
            }
        };
        for half in 0..2 {
            for writer in (0..exchange.ranks).map(RankId) {
                let place = half * u64::from(exchange.ranks) + u64::from(writer.0);
                let label = format!("{}[half {half}, from {writer}]", region.name);
                name(region.start + place * of_source, of_source, &label, Some(writer));
            }
        }
    }
}
