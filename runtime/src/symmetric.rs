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

fn label(device: &Arc<dyn Device>, exchange: &Exchange, part: &Memory) {
    for region in exchange.symmetric.regions(exchange) {
        let start = part.address().offset(region.start);
        let (phase, flags) = match region.name {
            "dispatch_arrival" => ("dispatch.arrive", true),
            "combine_arrival" => ("combine.arrive", true),
            "gradient_arrival" => ("gradient.arrive", true),
            "barrier_arrival" => ("barrier.arrive", true),
            other => (other, false),
        };
        if flags {
            for source in 0..exchange.ranks {
                let flag = start.offset(8 * u64::from(source));
                device.label(part.rank(), flag, 8, &format!("{phase}[source {source}]"));
            }
        } else if region.bytes > 0 {
            device.label(part.rank(), start, region.bytes, phase);
        }
    }
}
