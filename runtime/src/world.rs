//! What the ranks of one bundle share, in one process or several: a device, kernels, symmetric memory, and whether something went wrong.
//!
//! Invariants:
//! * each rank is of at most one communicator, which makes its calls in its one order;
//! * the first error, on any rank, stops every communicator of the world: no further launch, and what waits gives up. Flags of the ranks
//!   may then differ, and only [`World::recover`] makes them equal again;
//! * what was made before a recovery is known by its generation and refused after it.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moe_bundle::{Bundle, Manifest};
use moe_contract::status::{FINE, STOPPED};
use moe_contract::{Buffer, Exchange, Flag, RankId};

use crate::bootstrap::{Alone, Bootstrap};
use crate::cards::{Card, agree, tell};
use crate::device::{Address, Device, DeviceError, Memory, StreamId};
use crate::error::{Error, Failure, Result, read_status};
use crate::kernels::Kernels;
use crate::notice;
use crate::own::{Other, Own};

/// All ranks of a bundle, those of other processes too.
pub struct World {
    id: u64,
    pub(crate) device: Arc<dyn Device>,
    pub(crate) manifest: Manifest,
    own: Own,
    others: Vec<Other>,
    mine: Range<u32>,
    bootstrap: Arc<dyn Bootstrap>,
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
    /// All ranks of a device, in this process. Loads the kernels on every rank and allocates symmetric memory. Waits for the device.
    ///
    /// # Errors
    /// When the bundle does not fit the device: target, ranks, residency, memory.
    pub fn new(device: Arc<dyn Device>, bundle: &Bundle) -> Result<Arc<World>> {
        World::join(Arc::new(Alone), device, bundle)
    }

    /// As [`World::new`], with ranks in several processes: each has those of its device ([`Device::mine`]), and all of them call this
    /// together. Waits for the device, and for the other processes.
    ///
    /// # Errors
    /// As there; who did not come; two processes that do not have the same bundle, version or world. Every process then has an error.
    pub fn join(bootstrap: Arc<dyn Bootstrap>, device: Arc<dyn Device>, bundle: &Bundle) -> Result<Arc<World>> {
        static WORLDS: AtomicU64 = AtomicU64::new(0);
        let exchange = &bundle.manifest().exchange;
        let mine = device.mine();
        let prepared = Own::prepare(&device, bundle);
        let shared = prepared.as_ref().map_err(Error::to_string).and_then(|own| own.share().map_err(|e| e.to_string()));
        let cards = Card::new(bundle, mine.clone(), shared).exchange(bootstrap.as_ref());
        let own = prepared?;
        let cards = cards?;
        agree(&cards)?;
        let others = own.meet(&device, exchange, &cards, bootstrap.process());
        // Nobody gives up what another still looks for, and nobody calls one who has not found it.
        let told = tell(bootstrap.as_ref(), &cards, others.as_ref().err().map(DeviceError::to_string));
        let others = match (others, told) {
            // One that has ended may have ended because another did, which the bootstrap knows.
            (Err(DeviceError::Gone { .. }) | Ok(_), Err(told)) => return Err(told),
            (Err(problem), _) => return Err(problem.into()),
            (Ok(others), Ok(())) => others,
        };
        let streams = vec![None; exchange.ranks as usize];
        Ok(Arc::new(World {
            id: WORLDS.fetch_add(1, Ordering::Relaxed),
            own,
            others,
            mine,
            bootstrap,
            manifest: bundle.manifest().clone(),
            device,
            state: Mutex::new(State { stopped: None, generation: 0, streams }),
        }))
    }

    /// Its ranks that are of this process.
    pub fn mine(&self) -> Range<u32> {
        self.mine.clone()
    }

    /// The plan.
    pub fn exchange(&self) -> &Exchange {
        &self.manifest.exchange
    }

    /// Makes a stopped world usable again: what still waits gives up, symmetric memory and the counts of calls are zeroed. Handles and
    /// captures from before are refused from now on. No communicator of the world may be in a call. All its processes call this together.
    /// Waits for the device, and for the other processes.
    ///
    /// # Errors
    /// When the device is lost, or a process does not come.
    pub fn recover(&self) -> Result<()> {
        self.interrupt();
        let streams: Vec<StreamId> = self.state().streams.iter().copied().flatten().collect();
        if self.device.synchronise(&streams, Duration::ZERO).is_err() {
            self.device.abandon()?;
        }
        // Nobody zeroes what another still writes, and nobody writes what another still zeroes.
        self.bootstrap.barrier()?;
        self.own.zero()?;
        self.bootstrap.barrier()?;
        let mut state = self.state();
        state.stopped = None;
        state.generation += 1;
        Ok(())
    }

    /// An array that belongs to a rank, not to a handle.
    pub(crate) fn own(&self, rank: RankId, buffer: Buffer) -> Option<Address> {
        self.own.array(self.own.kernels.place(rank), buffer).map(Memory::address)
    }

    pub(crate) fn kernels(&self) -> &Kernels {
        &self.own.kernels
    }

    pub(crate) fn symmetric(&self, rank: RankId) -> Address {
        self.own.symmetric.base(rank)
    }

    /// Refuses when something went wrong before.
    pub(crate) fn running(&self) -> Result<()> {
        match &self.state().stopped {
            None => Ok(()),
            Some(cause) => Err(Error::Stopped { cause: Box::new(cause.clone()) }),
        }
    }

    /// Stops every communicator, of other processes too; the first cause stays.
    pub(crate) fn stop(&self, cause: &Error) {
        self.state().stopped.get_or_insert_with(|| cause.clone());
        match cause {
            Error::Elsewhere { .. } => self.interrupt(),
            _ => self.give_up(&cause.to_string()),
        }
    }

    /// Lets what waits give up, in other processes too, which hear why.
    pub(crate) fn give_up(&self, why: &str) {
        if !self.others.is_empty() {
            // Those who cannot read it learn that they are stopped, and not why.
            let _ = notice::put(&self.own.notice, why);
        }
        self.interrupt();
    }

    /// Whether another process has stopped the ranks of this one: why, if it says so.
    pub(crate) fn stopped_elsewhere(&self) -> Result<()> {
        let stopped = |(_, status): (RankId, &Memory)| status.read::<u64>(0..1).is_ok_and(|word| word[0] == STOPPED);
        if self.others.is_empty() || !self.statuses().any(stopped) {
            return Ok(());
        }
        let said = |other: &Other| Some((other.first, notice::take(&other.notice).ok()??));
        let (rank, cause) = self.others.iter().find_map(said).unwrap_or_else(|| {
            let first = self.others.first().map_or(RankId(0), |other| other.first);
            (first, "it does not say why".into())
        });
        Err(Error::Elsewhere { rank, cause })
    }

    /// Of every rank of the world, where its kernels say what went wrong.
    fn statuses(&self) -> impl Iterator<Item = (RankId, &Memory)> {
        let own = self.mine.clone().map(RankId).zip(self.own.everywhere(Buffer::Status));
        let others = self.others.iter().flat_map(|other| (other.first.0..).map(RankId).zip(&other.status));
        own.chain(others)
    }

    /// Lets what waits give up. A device that cannot be told any more has nothing that waits.
    fn interrupt(&self) {
        for (_, status) in self.statuses() {
            if status.read::<u64>(0..1).is_ok_and(|word| word[0] == FINE) {
                let _ = status.write(&STOPPED.to_le_bytes());
            }
        }
    }

    /// What the kernels of every rank have reported.
    pub(crate) fn failures(&self) -> Result<Vec<Failure>> {
        let mut failures = Vec::new();
        for (rank, status) in self.statuses() {
            let words = status.read::<u64>(0..4)?;
            let per_call = |flag: Flag| moe_contract::kernel::steps(flag, self.exchange());
            failures.extend(read_status(rank, [words[0], words[1], words[2], words[3]], per_call).map(|f| (rank, f)));
        }
        failures.sort_by_key(|&(rank, _)| rank);
        Ok(failures.into_iter().map(|(_, failure)| failure).collect())
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
        if let Some(rank) = ranks.clone().find(|rank| !self.mine.contains(rank)) {
            return Err(Error::NotMine { rank: RankId(rank), mine: self.mine.clone() });
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
