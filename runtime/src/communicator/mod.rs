//! What a trainer holds: some ranks of a [`World`], usually all or one, and the calls that they make together.
//!
//! Invariants:
//! * a call checks every shape, type and owner before its first launch, and launches its kernels on all ranks of the communicator, each
//!   in the rank's stream. All communicators of a world make the same calls in the same order;
//! * epochs live on the device ([`moe_contract::memory`]): nothing that a launch is given changes from call to call but addresses, so that
//!   captured calls can be replayed;
//! * the first error stops the communicator, and all others of its world.
//!
//! Calls return when everything is launched. These alone wait for the device: [`Communicator::synchronise`], which reports errors of
//! kernels, and what calls it: `upload…`, `download…`, [`Communicator::dispatch_counted`], [`Communicator::received`],
//! [`Communicator::inspect`], [`Communicator::kernel_times`], [`Communicator::recover`], and experts on the host.
//!
//! A call allocates what it returns; its twin with `_into` writes to tensors that the caller has.

mod backward;
mod capture;
mod check;
mod forward;
mod gate;
mod handle;
mod launch;
mod packed;
mod parameters;
mod tensors;
mod times;

pub use backward::CombineGradient;
pub use capture::Capture;
pub use handle::{Dispatched, Handle, Received, Routing};
pub use packed::{handle_bytes, handle_places};
pub use parameters::{CallerParameter, GateParameters, Parameters};
pub use times::{KernelTime, together};

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moe_bundle::{Bundle, Manifest};
use moe_contract::{Exchange, Kernel, LinkBytes, RankId};

use crate::bootstrap::Bootstrap;
use crate::device::{Allocator, Device, DeviceError, LaunchTime, StreamId};
use crate::error::{Error, Result, diagnose};
use crate::world::World;
use capture::Kept;

/// How a communicator behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long a kernel may wait for a rank; `None` for ever, which leaves a hang to the device to find (the virtual one does).
    pub deadline: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Options { deadline: Some(Duration::from_secs(10)) }
    }
}

/// Some ranks of a world.
pub struct Communicator {
    world: Arc<World>,
    ranks: Range<u32>,
    options: Options,
    /// Where each rank launches.
    streams: Vec<StreamId>,
    /// Made here, and so closed here.
    own_streams: Vec<StreamId>,
    allocator: Option<Arc<dyn Allocator>>,
    /// What the launches of a capture use, while there is one.
    capturing: Option<Kept>,
    id: u64,
    /// Whether the device knows what waits in its streams.
    claimed: bool,
}

impl Communicator {
    /// All ranks of a device: [`World::new`] and [`Communicator::of_ranks`].
    ///
    /// # Errors
    /// When the bundle does not fit the device: target, ranks, residency, memory.
    pub fn new(device: Arc<dyn Device>, bundle: &Bundle, options: Options) -> Result<Communicator> {
        let world = World::new(device, bundle)?;
        let ranks = world.exchange().ranks;
        Communicator::of_ranks(&world, 0..ranks, options)
    }

    /// The ranks of this process in a world of several: [`World::join`] and [`Communicator::of_ranks`].
    ///
    /// # Errors
    /// As [`World::join`].
    pub fn join(
        bootstrap: Arc<dyn Bootstrap>,
        device: Arc<dyn Device>,
        bundle: &Bundle,
        options: Options,
    ) -> Result<Communicator> {
        let world = World::join(bootstrap, device, bundle)?;
        Communicator::of_ranks(&world, world.mine(), options)
    }

    /// Some ranks of a world. The others have communicators of their own, on any threads.
    ///
    /// # Errors
    /// When there are no such ranks here, or one has a communicator.
    pub fn of_ranks(world: &Arc<World>, ranks: Range<u32>, options: Options) -> Result<Communicator> {
        static COMMUNICATORS: AtomicU64 = AtomicU64::new(0);
        let streams = world.take(ranks.clone(), |rank| world.device.stream(rank))?;
        Ok(Communicator {
            world: Arc::clone(world),
            ranks,
            options,
            own_streams: streams.clone(),
            streams,
            allocator: None,
            capturing: None,
            id: COMMUNICATORS.fetch_add(1, Ordering::Relaxed),
            claimed: false,
        })
    }

    /// The plan.
    pub fn exchange(&self) -> &Exchange {
        &self.world.manifest.exchange
    }

    /// Whether the bundle has a kernel.
    pub fn has(&self, kernel: Kernel) -> bool {
        self.world.manifest.kernels.iter().any(|entry| entry.kernel == kernel)
    }

    /// Everything the bundle says about itself.
    pub fn manifest(&self) -> &Manifest {
        &self.world.manifest
    }

    /// The device that all ranks of its world run on.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.world.device
    }

    /// Those that it holds, ascending: all of the world, or some.
    pub fn ranks(&self) -> impl Iterator<Item = RankId> + use<> {
        self.ranks.clone().map(RankId)
    }

    fn first(&self) -> RankId {
        RankId(self.ranks.start)
    }

    /// Takes memory for tensors and handles from somebody else from now on.
    pub fn use_allocator(&mut self, allocator: Arc<dyn Allocator>) {
        self.allocator = Some(allocator);
    }

    /// Launches in these streams from now on, one for each rank: for example those that the caller computes in. What follows comes after
    /// what was launched before, as if it were in one stream.
    ///
    /// # Errors
    /// When a stream is not of its rank, calls are being captured, or what waits there would crowd a GPU.
    pub fn use_streams(&mut self, streams: &[StreamId]) -> Result<()> {
        self.not_capturing("use_streams")?;
        self.running()?;
        if streams.len() != self.ranks.len() {
            let ranks = self.ranks.len() as u32;
            return Err(Error::Parts { what: "streams".into(), found: streams.len(), ranks });
        }
        let device = Arc::clone(&self.world.device);
        for (rank, &stream) in self.ranks().zip(streams) {
            if device.rank_of(stream) != Some(rank) {
                return Err(Error::ForeignStream { stream, rank });
            }
        }
        let before = std::mem::replace(&mut self.streams, streams.to_vec());
        if std::mem::take(&mut self.claimed)
            && let Err(error) = self.claim()
        {
            (self.streams, self.claimed) = (before, true);
            return Err(error);
        }
        for (&before, &next) in before.iter().zip(streams).filter(|(before, next)| before != next) {
            device.follow(next, before)?;
        }
        self.tell_streams();
        Ok(())
    }

    fn tell_streams(&self) {
        let streams: Vec<_> = self.streams.iter().copied().map(Some).collect();
        self.world.set_streams(self.first(), &streams);
    }

    /// Bytes on every link so far, of all ranks of the device; `None` on one that does not count.
    pub fn traffic(&self) -> Option<LinkBytes> {
        self.world.device.traffic()
    }

    /// When every kernel since the last call ran; waits for them. Empty on a device that does not time launches.
    ///
    /// # Errors
    /// What went wrong in a kernel.
    pub fn kernel_times(&mut self) -> Result<Vec<KernelTime>> {
        self.synchronise()?;
        let times = self.world.device.take_launch_times()?;
        let of_kernel = |time: LaunchTime| {
            let (kernel, rank) = self.world.kernels().of(time.function)?;
            Some(KernelTime { kernel, rank, gpu: time.gpu, start: time.start, end: time.end })
        };
        Ok(times.into_iter().filter_map(of_kernel).collect())
    }

    /// Waits for everything that was launched on its ranks.
    ///
    /// # Errors
    /// What a kernel of any rank refused, or who did not come; every communicator of the world is then stopped.
    pub fn synchronise(&mut self) -> Result<()> {
        self.not_capturing("a call that waits")?;
        self.running()?;
        let device = &self.world.device;
        let problem = device.synchronise(&self.streams, self.patience()).err();
        if let Some(gone @ DeviceError::Gone { .. }) = &problem {
            // A device that cannot stop a kernel waits for its end.
            self.world.give_up(&gone.to_string());
        }
        if problem.is_some() {
            device.abandon()?;
        }
        let result = diagnose(&self.world.failures()?, problem, self.options.deadline);
        // Another rank may have stopped while this one waited.
        let result = result.and_then(|()| self.running()).and_then(|()| self.world.stopped_elsewhere());
        if let Err(error) = &result {
            self.world.stop(error);
        }
        result
    }

    /// How long others may take to make their calls, on a device that runs only what has been launched.
    fn patience(&self) -> Duration {
        const WITHOUT_DEADLINE: Duration = Duration::from_secs(60);
        let alone = self.ranks.len() == self.exchange().ranks as usize;
        if alone { Duration::ZERO } else { self.options.deadline.unwrap_or(WITHOUT_DEADLINE) }
    }

    /// [`World::recover`], of a communicator that has all ranks.
    ///
    /// # Errors
    /// When other communicators have ranks of the world, or the device is lost.
    pub fn recover(&mut self) -> Result<()> {
        if self.ranks.len() != self.exchange().ranks as usize {
            return Err(Error::NotPossible {
                what: "recover",
                why: "other ranks of the world have communicators too: call `World::recover` when none of them is in a call",
            });
        }
        self.capturing = None;
        self.world.recover()
    }

    /// Says what may wait in its streams, before anything is launched there: beside that of others it must not be too much.
    fn claim(&mut self) -> Result<()> {
        if let (false, Some(occupancy)) = (self.claimed, self.world.device.occupancy()) {
            let waiting = self.ranks().zip(&self.streams);
            let waiting =
                waiting.filter_map(|(rank, &stream)| self.world.kernels().waiting(self.world.id(), rank, stream));
            occupancy.claim(self.id, waiting.collect()).map_err(Error::Crowded)?;
            self.claimed = true;
        }
        Ok(())
    }

    fn running(&self) -> Result<()> {
        self.world.running()
    }

    fn not_capturing(&self, what: &'static str) -> Result<()> {
        match self.capturing {
            None => Ok(()),
            Some(_) => Err(Error::NotPossible {
                what,
                why: "calls are being captured, and a capture only has what is launched",
            }),
        }
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        if let Some(occupancy) = self.world.device.occupancy() {
            occupancy.release(self.id);
        }
        self.own_streams.iter().for_each(|&stream| self.world.device.close_stream(stream));
        self.world.set_streams(self.first(), &vec![None; self.ranks.len()]);
    }
}
