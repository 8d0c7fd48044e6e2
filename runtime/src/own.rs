//! What a process brings into a world, and what it uses of the others.
//!
//! Invariant: what is shared is zero before another process hears of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use moe_bundle::Bundle;
use moe_contract::{Buffer, Exchange, RankId};

use crate::cards::{Card, Shared};
use crate::device::{Device, DeviceError, Memory};
use crate::error::{Error, Result};
use crate::kernels::Kernels;
use crate::notice;
use crate::symmetric::SymmetricMemory;

/// Of the ranks of this process.
pub(crate) struct Own {
    pub kernels: Kernels,
    pub symmetric: SymmetricMemory,
    /// What each rank has once.
    arrays: BTreeMap<Buffer, Vec<Memory>>,
    /// Where this process says why it stopped.
    pub notice: Memory,
}

/// Another process.
pub(crate) struct Other {
    pub first: RankId,
    /// Of each of its ranks.
    pub status: Vec<Memory>,
    pub notice: Memory,
    /// Of each of its ranks, once for each of ours: kernels of ours use it.
    _symmetric: Vec<Memory>,
}

impl Own {
    /// Loads and allocates everything that needs no other process.
    pub fn prepare(device: &Arc<dyn Device>, bundle: &Bundle) -> Result<Own> {
        let exchange = &bundle.manifest().exchange;
        if exchange.ranks != device.ranks() {
            return Err(Error::Ranks { bundle: exchange.ranks, device: device.ranks() });
        }
        let kernels = Kernels::load(device, bundle)?;
        let symmetric = SymmetricMemory::new(device, exchange)?;
        let mut arrays = BTreeMap::new();
        for buffer in Buffer::of_rank() {
            let allocate = |rank| {
                let (bytes, name) = (exchange.buffer_bytes(buffer), buffer.name());
                let memory = match buffer {
                    Buffer::Status => Memory::shared(device, rank, bytes, name)?,
                    _ => Memory::new(device, rank, bytes, name)?,
                };
                memory.zero()?;
                Ok(memory)
            };
            let of_ranks = device.mine().map(RankId).map(allocate);
            arrays.insert(buffer, of_ranks.collect::<Result<Vec<Memory>, DeviceError>>()?);
        }
        let notice = Memory::shared(device, RankId(device.mine().start), notice::BYTES, "notice")?;
        notice.zero()?;
        Ok(Own { kernels, symmetric, arrays, notice })
    }

    /// What other processes use of it.
    pub fn share(&self) -> Result<Shared, DeviceError> {
        Ok(Shared {
            symmetric: self.symmetric.export()?,
            status: self.everywhere(Buffer::Status).map(Memory::export).collect::<Result<_, _>>()?,
            notice: self.notice.export()?,
        })
    }

    /// Finds what the others share, and tells the kernels of every rank where the symmetric memory of each is.
    pub fn meet(
        &self,
        device: &Arc<dyn Device>,
        exchange: &Exchange,
        cards: &[Card],
        process: u32,
    ) -> Result<Vec<Other>, DeviceError> {
        let mine = device.mine();
        let here = RankId(mine.start);
        let mut tables: Vec<Vec<u64>> = vec![vec![0; exchange.ranks as usize]; mine.len()];
        let mut others = Vec::new();
        for (number, card) in (0..).zip(cards) {
            if number == process {
                for table in &mut tables {
                    mine.clone().for_each(|peer| table[peer as usize] = self.symmetric.base(RankId(peer)).0);
                }
                continue;
            }
            let shared = card.shared();
            let mut symmetric = Vec::new();
            for (table, rank) in tables.iter_mut().zip(mine.clone().map(RankId)) {
                for (peer, exported) in card.mine.clone().zip(&shared.symmetric) {
                    let memory = Memory::import(device, rank, exported, exchange.symmetric_bytes())?;
                    table[peer as usize] = memory.address().0;
                    symmetric.push(memory);
                }
            }
            let bytes = exchange.buffer_bytes(Buffer::Status);
            let status = shared.status.iter().map(|exported| Memory::import(device, here, exported, bytes));
            others.push(Other {
                first: RankId(card.mine.start),
                status: status.collect::<Result<_, DeviceError>>()?,
                notice: Memory::import(device, here, &shared.notice, notice::BYTES)?,
                _symmetric: symmetric,
            });
        }
        for (place, table) in tables.iter().enumerate() {
            if let Some(peers) = self.array(place, Buffer::Peers) {
                peers.write(bytemuck::cast_slice(table))?;
            }
        }
        Ok(others)
    }

    /// The state before the first call.
    pub fn zero(&self) -> Result<(), DeviceError> {
        self.symmetric.zero()?;
        self.notice.zero()?;
        self.everywhere(Buffer::Status).chain(self.everywhere(Buffer::Calls)).try_for_each(Memory::zero)
    }

    /// An array of a rank, by its place in this process.
    pub fn array(&self, place: usize, buffer: Buffer) -> Option<&Memory> {
        self.arrays.get(&buffer)?.get(place)
    }

    /// An array of every rank.
    pub fn everywhere(&self, buffer: Buffer) -> impl Iterator<Item = &Memory> {
        self.arrays.get(&buffer).into_iter().flatten()
    }
}
