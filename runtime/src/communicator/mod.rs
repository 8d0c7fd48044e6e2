//! What a trainer holds: all ranks of this process, and the calls they make together.
//!
//! Invariants:
//! * a call checks every shape before its first launch, and launches its kernels on all ranks, each in the rank's one stream;
//! * epochs live on the device ([`moe_contract::memory`]): nothing that a launch is given changes from call to call but addresses;
//! * the first error stops the communicator: flags of the ranks may then differ, and only [`Communicator::recover`] makes them equal again.
//!
//! Calls return when everything is launched, except [`Communicator::dispatch`] with [`ExpertRows::Counted`], which waits for the counts.
//! Errors of kernels are found by [`Communicator::synchronise`], which [`Communicator::download`] calls.

mod backward;
mod forward;
mod gate;
mod handle;
mod launch;
mod times;

pub use backward::CombineGradient;
pub use gate::Parameters;
pub use handle::{Dispatched, Handle, Received, Routing};
pub use times::{KernelTime, together};

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use moe_bundle::{Bundle, Manifest};
use moe_contract::{Buffer, Exchange, Flag, Kernel, LinkBytes, RankId, Tensor};

use crate::device::{Address, Device, Memory, StreamId};
use crate::error::{Error, Result, diagnose, read_status};
use crate::symmetric::SymmetricMemory;
use crate::tensor::Distributed;
use launch::Kernels;

/// How much memory the experts' input gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ExpertRows {
    /// The rows that arrive. Dispatch waits for the counts, so that the host meets the device once in each dispatch.
    #[default]
    Counted,
    /// As many as can arrive at most; dispatch does not wait.
    WorstCase,
}

/// How a communicator behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long a kernel may wait for a rank; `None` for ever, which leaves a hang to the device to find (the virtual one does).
    pub deadline: Option<Duration>,
    /// Memory of the experts' input.
    pub expert_rows: ExpertRows,
}

impl Default for Options {
    fn default() -> Self {
        Options { deadline: Some(Duration::from_secs(10)), expert_rows: ExpertRows::default() }
    }
}

/// All ranks of one process.
pub struct Communicator {
    device: Arc<dyn Device>,
    manifest: Manifest,
    options: Options,
    kernels: Kernels,
    streams: Vec<StreamId>,
    symmetric: SymmetricMemory,
    status: Vec<Memory>,
    calls: Vec<Memory>,
    stopped: bool,
}

impl Communicator {
    /// Loads the kernels on every rank and allocates symmetric memory.
    ///
    /// # Errors
    /// When the bundle does not fit the device: target, ranks, residency, memory.
    pub fn new(device: Arc<dyn Device>, bundle: &Bundle, options: Options) -> Result<Communicator> {
        let exchange = &bundle.manifest().exchange;
        if exchange.ranks != device.ranks() {
            return Err(Error::Ranks { bundle: exchange.ranks, device: device.ranks() });
        }
        let ranks = || (0..exchange.ranks).map(RankId);
        let kernels = Kernels::load(&device, bundle)?;
        let streams = ranks().map(|rank| device.stream(rank)).collect::<Result<_, _>>()?;
        let own = |buffer: Buffer| -> Result<Vec<Memory>> {
            let allocate = |rank| {
                let memory = Memory::new(&device, rank, exchange.buffer_bytes(buffer), buffer.name())?;
                memory.zero()?;
                Ok(memory)
            };
            ranks().map(allocate).collect()
        };
        Ok(Communicator {
            status: own(Buffer::Status)?,
            calls: own(Buffer::Calls)?,
            symmetric: SymmetricMemory::new(&device, exchange)?,
            manifest: bundle.manifest().clone(),
            device,
            options,
            kernels,
            streams,
            stopped: false,
        })
    }

    /// The plan.
    pub fn exchange(&self) -> &Exchange {
        &self.manifest.exchange
    }

    /// Whether the bundle has a kernel.
    pub fn has(&self, kernel: Kernel) -> bool {
        self.manifest.kernels.iter().any(|entry| entry.kernel == kernel)
    }

    /// Everything the bundle says about itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Every rank.
    pub fn ranks(&self) -> impl Iterator<Item = RankId> + use<> {
        (0..self.manifest.exchange.ranks).map(RankId)
    }

    /// Bytes on every link so far; `None` on a device that does not count.
    pub fn traffic(&self) -> Option<LinkBytes> {
        self.device.traffic()
    }

    /// When every kernel since the last call ran; waits for them. Empty on a device that does not time launches.
    ///
    /// # Errors
    /// What went wrong in a kernel.
    pub fn kernel_times(&mut self) -> Result<Vec<KernelTime>> {
        self.synchronise()?;
        let times = self.device.take_launch_times()?;
        Ok(times.into_iter().filter_map(|time| self.kernels.time(time)).collect())
    }

    /// Copies a tensor to the device: for each rank its elements, row by row.
    ///
    /// # Errors
    /// When there is not one part per rank, or a part is not whole rows.
    pub fn upload<T: bytemuck::Pod>(&mut self, kind: Tensor, parts: &[impl AsRef<[T]>]) -> Result<Distributed> {
        self.synchronise()?;
        Distributed::upload(&self.device, &self.streams, self.exchange(), kind, parts)
    }

    /// Copies a tensor from the device, after everything that was launched before.
    ///
    /// # Errors
    /// When a kernel failed.
    pub fn download<T: bytemuck::Pod>(&mut self, tensor: &Distributed) -> Result<Vec<Vec<T>>> {
        self.synchronise()?;
        tensor.download()
    }

    /// Copies the rows of an expert's tensor that a dispatch wrote, after everything that was launched before; the others are zeros.
    ///
    /// # Errors
    /// When a kernel failed.
    ///
    /// # Panics
    /// When more rows were received than the tensor has.
    pub fn download_received<T: bytemuck::Pod>(
        &mut self,
        tensor: &Distributed,
        received: &[Received],
    ) -> Result<Vec<Vec<T>>> {
        self.synchronise()?;
        let written: Vec<&[Range<u64>]> = received.iter().map(|received| &received.written[..]).collect();
        tensor.download_rows(&written)
    }

    /// Waits for everything that was launched.
    ///
    /// # Errors
    /// What a kernel refused, or who did not come; the communicator is then stopped.
    pub fn synchronise(&mut self) -> Result<()> {
        self.running()?;
        let problem = self.device.synchronise().err();
        if problem.is_some() {
            self.stopped = true;
            self.device.abandon()?;
        }
        let mut failures = Vec::new();
        for (rank, status) in (0..).map(RankId).zip(&self.status) {
            let words = status.read::<u64>(0..4)?;
            let per_call = |flag: Flag| moe_contract::kernel::steps(flag, self.exchange());
            failures.extend(read_status(rank, [words[0], words[1], words[2], words[3]], per_call));
        }
        let result = diagnose(&failures, problem, self.options.deadline);
        self.stopped = result.is_err();
        result
    }

    /// Makes a stopped communicator usable again: gives up what runs, zeroes symmetric memory and the counts of calls.
    /// Handles from before must not be used any more.
    ///
    /// # Errors
    /// When the device is lost.
    pub fn recover(&mut self) -> Result<()> {
        self.device.abandon()?;
        self.symmetric.zero()?;
        self.status.iter().chain(&self.calls).try_for_each(Memory::zero)?;
        self.stopped = false;
        Ok(())
    }

    /// An array that is the communicator's, not a handle's.
    fn own(&self, rank: RankId, buffer: Buffer) -> Option<Address> {
        match buffer {
            Buffer::Status => Some(self.status[rank.index()].address()),
            Buffer::Calls => Some(self.calls[rank.index()].address()),
            Buffer::Peers => Some(self.symmetric.peers(rank)),
            Buffer::Slots
            | Buffer::SendCounts
            | Buffer::ReceivedCounts
            | Buffer::CopyTokens
            | Buffer::CopyOrdinals
            | Buffer::CopyRows
            | Buffer::CopyWeights
            | Buffer::ExpertCounts
            | Buffer::ExpertOffsets
            | Buffer::RowPicks
            | Buffer::RowWeights => None,
        }
    }

    fn running(&self) -> Result<()> {
        if self.stopped { Err(Error::Stopped) } else { Ok(()) }
    }

    fn allocate(&self, kind: Tensor, rows: &[u64]) -> Result<Distributed> {
        Distributed::allocate(&self.device, &self.streams, self.exchange(), kind, rows)
    }

    /// Refuses more tokens than planned for.
    fn check_tokens(&self, tensor: &Distributed) -> Result<Vec<u64>> {
        let rows = tensor.all_rows();
        let most = self.exchange().max_tokens;
        for (rank, &tokens) in (0..).map(RankId).zip(&rows) {
            if tokens > u64::from(most) {
                return Err(Error::Tokens { rank, tokens, most });
            }
        }
        Ok(rows)
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        self.streams.iter().for_each(|&stream| self.device.close_stream(stream));
    }
}
