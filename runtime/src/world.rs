//! What the ranks of one bundle share: a device, kernels, symmetric memory, and whether something went wrong.
//!
//! Invariants:
//! * each rank is of at most one communicator, which makes its calls in its one order;
//! * the first error, on any rank, stops every communicator of the world: no further launch, and what waits gives up. Flags of the ranks
//!   may then differ, and only [`World::recover`] makes them equal again;
//! * what was made before a recovery is known by its generation and refused after it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moe_bundle::{Bundle, Manifest};
use moe_contract::status::{FINE, STOPPED};
use moe_contract::{Buffer, Exchange, Flag, RankId};

use crate::device::{Address, Device, DeviceError, Memory, StreamId};
use crate::error::{Error, Failure, Result, read_status};
use crate::kernels::Kernels;
use crate::symmetric::SymmetricMemory;

/// All ranks of a device, with one bundle loaded.
pub struct World {
    id: u64,
    pub(crate) device: Arc<dyn Device>,
    pub(crate) manifest: Manifest,
    pub(crate) kernels: Kernels,
    symmetric: SymmetricMemory,
    /// What each rank has once.
    own: BTreeMap<Buffer, Vec<Memory>>,
    state: Mutex<State>,
}

struct State {
    stopped: Option<Error>,
    generation: u64,
    /// Where the communicator of each rank launches.
    streams: Vec<Option<StreamId>>,
}

/// Whose a handle is, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    world: u64,
    first: RankId,
    generation: u64,
}

impl World {
    /// Loads the kernels on every rank and allocates symmetric memory. Waits for the device.
    ///
    /// # Errors
    /// When the bundle does not fit the device: target, ranks, residency, memory.
    pub fn new(device: Arc<dyn Device>, bundle: &Bundle) -> Result<Arc<World>> {
        static WORLDS: AtomicU64 = AtomicU64::new(0);
        let exchange = &bundle.manifest().exchange;
        if exchange.ranks != device.ranks() {
            return Err(Error::Ranks { bundle: exchange.ranks, device: device.ranks() });
        }
        let kernels = Kernels::load(&device, bundle)?;
        let symmetric = SymmetricMemory::new(&device, exchange)?;
        let table: Vec<u64> = symmetric.table().iter().map(|address| address.0).collect();
        let mut own = BTreeMap::new();
        for buffer in Buffer::of_rank() {
            let allocate = |rank| {
                let memory = Memory::new(&device, rank, exchange.buffer_bytes(buffer), buffer.name())?;
                memory.zero()?;
                if buffer == Buffer::Peers {
                    memory.write(bytemuck::cast_slice(&table))?;
                }
                Ok(memory)
            };
            own.insert(buffer, exchange.topology().all().map(allocate).collect::<Result<Vec<Memory>>>()?);
        }
        let streams = vec![None; exchange.ranks as usize];
        Ok(Arc::new(World {
            id: WORLDS.fetch_add(1, Ordering::Relaxed),
            own,
            symmetric,
            manifest: bundle.manifest().clone(),
            device,
            kernels,
            state: Mutex::new(State { stopped: None, generation: 0, streams }),
        }))
    }

    /// The plan.
    pub fn exchange(&self) -> &Exchange {
        &self.manifest.exchange
    }

    /// Makes a stopped world usable again: what still waits gives up, symmetric memory and the counts of calls are zeroed. Handles and
    /// captures from before are refused from now on. No communicator of the world may be in a call. Waits for the device.
    ///
    /// # Errors
    /// When the device is lost.
    pub fn recover(&self) -> Result<()> {
        self.interrupt();
        let streams: Vec<StreamId> = self.state().streams.iter().copied().flatten().collect();
        if self.device.synchronise(&streams, Duration::ZERO).is_err() {
            self.device.abandon()?;
        }
        self.symmetric.zero()?;
        self.everywhere(Buffer::Status).chain(self.everywhere(Buffer::Calls)).try_for_each(Memory::zero)?;
        let mut state = self.state();
        state.stopped = None;
        state.generation += 1;
        Ok(())
    }

    /// An array that belongs to a rank, not to a handle.
    pub(crate) fn own(&self, rank: RankId, buffer: Buffer) -> Option<Address> {
        self.own.get(&buffer).map(|of_ranks| of_ranks[rank.index()].address())
    }

    /// An array of every rank.
    fn everywhere(&self, buffer: Buffer) -> impl Iterator<Item = &Memory> {
        self.own.get(&buffer).into_iter().flatten()
    }

    pub(crate) fn symmetric(&self, rank: RankId) -> Address {
        self.symmetric.base(rank)
    }

    /// Refuses when something went wrong before.
    pub(crate) fn running(&self) -> Result<()> {
        match &self.state().stopped {
            None => Ok(()),
            Some(cause) => Err(Error::Stopped { cause: Box::new(cause.clone()) }),
        }
    }

    /// Stops every communicator; the first cause stays.
    pub(crate) fn stop(&self, cause: &Error) {
        self.state().stopped.get_or_insert_with(|| cause.clone());
        self.interrupt();
    }

    /// Lets what waits give up. A device that cannot be told any more has nothing that waits.
    fn interrupt(&self) {
        for status in self.everywhere(Buffer::Status) {
            if status.read::<u64>(0..1).is_ok_and(|word| word[0] == FINE) {
                let _ = status.write(&STOPPED.to_le_bytes());
            }
        }
    }

    /// What the kernels of every rank have reported.
    pub(crate) fn failures(&self) -> Result<Vec<Failure>> {
        let mut failures = Vec::new();
        for (rank, status) in (0..).map(RankId).zip(self.everywhere(Buffer::Status)) {
            let words = status.read::<u64>(0..4)?;
            let per_call = |flag: Flag| moe_contract::kernel::steps(flag, self.exchange());
            failures.extend(read_status(rank, [words[0], words[1], words[2], words[3]], per_call));
        }
        Ok(failures)
    }

    /// Its number, by which reports know it.
    pub fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn owner(&self, first: RankId) -> Owner {
        Owner { world: self.id, first, generation: self.state().generation }
    }

    /// Refuses what another communicator made, or this one before a recovery.
    pub(crate) fn expect_owner(&self, what: &'static str, found: Owner, first: RankId) -> Result<()> {
        let here = self.owner(first);
        if (found.world, found.first) != (here.world, here.first) {
            return Err(Error::Foreign { what, why: "it is of another communicator" });
        }
        if found.generation != here.generation {
            return Err(Error::Foreign { what, why: "it is from before the communicator recovered from an error" });
        }
        Ok(())
    }

    /// Gives ranks to a communicator, each with a stream of its own.
    pub(crate) fn take(
        &self,
        ranks: Range<u32>,
        stream: impl Fn(RankId) -> Result<StreamId, DeviceError>,
    ) -> Result<Vec<StreamId>> {
        let all = self.exchange().ranks;
        if ranks.is_empty() || ranks.end > all {
            return Err(Error::NoSuchRanks { first: ranks.start, end: ranks.end, ranks: all });
        }
        let mut state = self.state();
        let known = &mut state.streams[ranks.start as usize..ranks.end as usize];
        if let Some(place) = known.iter().position(Option::is_some) {
            return Err(Error::RankTaken { rank: RankId(ranks.start + place as u32) });
        }
        let mut made = Vec::new();
        for rank in ranks.map(RankId) {
            match stream(rank) {
                Ok(stream) => made.push(stream),
                Err(problem) => {
                    made.iter().for_each(|&stream| self.device.close_stream(stream));
                    return Err(problem.into());
                }
            }
        }
        known.iter_mut().zip(&made).for_each(|(known, &stream)| *known = Some(stream));
        Ok(made)
    }

    pub(crate) fn set_streams(&self, first: RankId, streams: &[Option<StreamId>]) {
        let mut state = self.state();
        state.streams[first.index()..][..streams.len()].copy_from_slice(streams);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is of one field, so that a thread that panicked leaves no half of one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "world {} of {} ranks on {}", self.id, self.exchange().ranks, self.device.description())
    }
}
