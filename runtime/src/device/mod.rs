//! What the runtime asks of a device: memory, modules, streams; nothing else.
//!
//! Invariants every implementation keeps:
//! * an [`Address`] is what a kernel dereferences, on its own rank and, for symmetric memory, on every other;
//! * launches of one stream run in order, launches of different streams together; a [`Launch::programmatic`] one may begin earlier, and
//!   uses nothing of those before it, nor memory that they used, before it has waited for their end;
//! * nothing waits for launches but [`Device::synchronise`], [`Device::abandon`] and [`Device::take_launch_times`]. What copies does so at
//!   once, beside whatever runs: its caller has synchronised the streams that use the memory;
//! * any thread may call.
//!
//! Features: `cuda` has GPUs through the CUDA driver, `virtual` virtual ones. A program may bring a device of its own instead.

#[cfg(feature = "cuda")]
mod cuda;
mod memory;
mod occupancy;
#[cfg(any(feature = "cuda", feature = "virtual"))]
pub mod share;
#[cfg(feature = "virtual")]
mod virtual_device;

#[cfg(feature = "cuda")]
pub use cuda::{CudaDevice, CudaOptions};
pub use memory::{Allocator, Memory};
#[cfg(feature = "virtual")]
pub use moe_vgpu::Policy;
pub use occupancy::{Crowd, Occupancy, Waiting};
#[cfg(feature = "virtual")]
pub use virtual_device::{VirtualDevice, VirtualOptions, VirtualWork};

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use moe_contract::{LinkBytes, RankId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A pointer into the memory of a rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Address(pub u64);

impl Address {
    /// The pointer of a tensor that does not exist.
    pub const NULL: Address = Address(0);

    /// So many bytes further.
    #[must_use]
    pub fn offset(self, bytes: u64) -> Address {
        Address(self.0 + bytes)
    }
}

/// A loaded kernel of one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FunctionId(pub u32);

/// A queue of launches of one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StreamId(pub u32);

/// A point in a stream, until the next [`Device::synchronise`] of that stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EventId(pub u64);

/// Launches of one stream that were captured, until [`Device::forget_graph`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GraphId(pub u64);

/// A kernel's argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// 4 bytes.
    U32(u32),
    /// 8 bytes.
    U64(u64),
    /// 8 bytes.
    Pointer(Address),
}

/// Everything that a device needs to start a kernel on a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Of the module loaded for that rank.
    pub function: FunctionId,
    /// CTAs.
    pub grid: u32,
    /// Threads of a CTA.
    pub block: u32,
    /// Dynamic shared memory in bytes.
    pub shared: u32,
    /// It may begin before the end of the launch before it in its stream (programmatic stream serialisation), for whose end it then waits itself.
    pub programmatic: bool,
    /// In order.
    pub arguments: Vec<Value>,
}

/// How many CTAs of a kernel run at once, and for how many ranks that has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Residency {
    /// Which GPU it is, among those of the device.
    pub gpu: u32,
    /// CTAs that the GPU of this rank holds.
    pub ctas: u64,
    /// Ranks on that GPU.
    pub ranks: u32,
}

/// When a launch ran, counted from the first one that was timed on its GPU. Times of different GPUs have different beginnings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchTime {
    /// What was launched.
    pub function: FunctionId,
    /// As the driver numbers it.
    pub gpu: u32,
    /// When the launches of its stream before it had finished.
    pub start: Duration,
    /// When it had finished.
    pub end: Duration,
}

/// Why a device cannot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "code", content = "fields", rename_all = "snake_case")]
#[allow(missing_docs, reason = "the message says what each field is")]
pub enum DeviceError {
    /// No CUDA driver on this machine.
    #[error(
        "no CUDA driver: libcuda.so was not found. Install the NVIDIA driver, or use the virtual device, which needs none"
    )]
    NoDriver,
    /// A driver, but nothing to drive.
    #[error("the CUDA driver finds no GPU")]
    NoGpu,
    /// Two GPUs that cannot reach each other's memory.
    #[error(
        "GPU {from} cannot reach the memory of GPU {to}: all ranks must be in one NVLink or PCIe peer-to-peer domain"
    )]
    NoPeerAccess {
        /// Which GPU.
        from: u32,
        /// Which other.
        to: u32,
    },
    /// Two GPUs between which an addition to memory is not atomic.
    #[error(
        "GPU {from} cannot add to the memory of GPU {to} atomically, which arrival flags need: the GPUs must be joined by NVLink"
    )]
    NoPeerAtomics {
        /// Which GPU.
        from: u32,
        /// Which other.
        to: u32,
    },
    /// Streams of one GPU that would share a hardware queue, where one that waits holds up the one it waits for.
    #[error(
        "{ranks} ranks on one GPU need as many hardware queues, and the driver makes {queues}: set CUDA_DEVICE_MAX_CONNECTIONS={ranks} in the \
         environment (at most 32), or use fewer ranks or more GPUs"
    )]
    Queues {
        /// On one GPU.
        ranks: usize,
        /// Of that GPU.
        queues: usize,
    },
    /// A call of the CUDA driver failed.
    #[error("CUDA driver, {doing}: {problem}")]
    Driver {
        /// What was being done.
        doing: String,
        /// What the driver says.
        problem: String,
    },
    /// A call that the virtual GPUs refuse.
    #[error("virtual GPU: {problem}")]
    Refused { problem: String },
    /// PTX that the device does not take.
    #[error("cannot load PTX: {problem}")]
    Ptx { problem: String },
    /// A module without the kernel that it should have.
    #[error("the module has no kernel `{name}`")]
    NoKernel {
        /// The entry point.
        name: String,
    },
    /// An access that a kernel must not do.
    #[error("{report}")]
    Fault {
        /// Who, where, what.
        report: String,
    },
    /// Every thread waits for something that nobody will do.
    #[error("{report}")]
    Deadlock {
        /// Who waits, for what.
        report: String,
    },
    /// Kernels that went on for too long.
    #[error("{report}")]
    Limit {
        /// Which ones, and where they are.
        report: String,
    },
    /// Launches that cannot be given up.
    #[error(
        "{} after {patience:?}, and nothing can stop a kernel that waits for ever but the end of this process: give waits a deadline",
        still_running(ranks)
    )]
    StillRunning {
        ranks: Vec<RankId>,
        /// How long they were given.
        #[serde(serialize_with = "in_seconds", deserialize_with = "from_seconds")]
        patience: Duration,
    },
    /// Ranks of another process, which has ended: what waits for them waits for ever.
    #[error("{} gone: process {process}, whose they were, has ended or closed its device", are(ranks))]
    Gone {
        /// Which.
        ranks: Vec<RankId>,
        /// Whose.
        process: u32,
    },
    /// A GPU or driver without what sharing memory between processes needs.
    #[error(
        "GPU {gpu} or its driver has no {what}, which ranks in several processes need: use one process, or a newer driver"
    )]
    NoSharedMemory {
        /// Which.
        gpu: u32,
        /// What is missing.
        what: String,
    },
    /// Memory that a process cannot hand to another one, or take from it.
    #[error("memory of {}, process {process}: {problem}", list(ranks))]
    Sharing {
        /// Whose.
        ranks: Vec<RankId>,
        /// Theirs.
        process: u32,
        /// What is wrong.
        problem: String,
    },
    /// A virtual node that cannot be used.
    #[error("virtual node `{name}`: {problem}")]
    Node {
        /// Which.
        name: String,
        /// Why not.
        problem: String,
    },
    /// An id that this device did not give.
    #[error("{what} {id} does not exist on this device")]
    Unknown {
        /// Kind of id.
        what: Cow<'static, str>,
        id: u64,
    },
}

pub(crate) fn in_seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    time.as_secs_f64().serialize(serializer)
}

fn from_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    Duration::try_from_secs_f64(f64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

/// What [`Device::export`] gives where an address is the same everywhere.
pub(crate) fn import_address(exported: &[u8]) -> Result<Address, DeviceError> {
    let problem = || DeviceError::Refused { problem: "what another process exported is no address".into() };
    exported.try_into().map(u64::from_le_bytes).map(Address).map_err(|_| problem())
}

fn list(ranks: &[RankId]) -> String {
    ranks.iter().map(RankId::to_string).collect::<Vec<String>>().join(", ")
}

fn are(ranks: &[RankId]) -> String {
    format!("{} {}", list(ranks), if ranks.len() == 1 { "is" } else { "are" })
}

fn still_running(ranks: &[RankId]) -> String {
    format!("kernels of {} still run", list(ranks))
}

/// A device with one or more ranks. Methods take `&self`, so that memory can free itself.
pub trait Device: Send + Sync {
    /// For people: "virtual cluster of 8 GPUs".
    fn description(&self) -> String;

    /// How many ranks it can host.
    fn ranks(&self) -> u32;

    /// Those whose kernels, streams and memory are here. The others are of other processes.
    fn mine(&self) -> Range<u32> {
        0..self.ranks()
    }

    /// The best of some targets (`sm_90a` …) for this device.
    fn choose_target<'t>(&self, targets: &[&'t str]) -> Option<&'t str>;

    /// Allocates memory, not initialised, aligned to at least 256 bytes. `name` occurs in reports.
    ///
    /// # Errors
    /// When there is not enough.
    fn allocate(&self, rank: RankId, bytes: u64, name: &str) -> Result<Address, DeviceError>;

    /// Frees what [`Device::allocate`] gave, after all launches so far.
    fn free(&self, rank: RankId, address: Address);

    /// As [`Device::allocate`], for memory that launches of one stream use first, those that follow. It may be what was freed after
    /// launches that are in the same stream or come before it by an event.
    ///
    /// # Errors
    /// When there is not enough.
    fn allocate_in(&self, _stream: StreamId, rank: RankId, bytes: u64, name: &str) -> Result<Address, DeviceError> {
        self.allocate(rank, bytes, name)
    }

    /// As [`Device::free`], for memory that only launches of its own rank use: after those of the rank so far.
    fn free_of_rank(&self, rank: RankId, address: Address) {
        self.free(rank, address);
    }

    /// As [`Device::free`], for memory that only launches of one stream use: after those of the stream so far.
    fn free_in(&self, _stream: StreamId, rank: RankId, address: Address) {
        self.free(rank, address);
    }

    /// As [`Device::allocate`], for memory that other processes' ranks use too.
    ///
    /// # Errors
    /// When there is not enough, or it cannot be shared.
    fn allocate_shared(&self, rank: RankId, bytes: u64, name: &str) -> Result<Address, DeviceError> {
        self.allocate(rank, bytes, name)
    }

    /// What another process needs to use memory of [`Device::allocate_shared`]. An address, where it is the same everywhere.
    ///
    /// # Errors
    /// When it cannot be shared.
    fn export(&self, _rank: RankId, address: Address) -> Result<Vec<u8>, DeviceError> {
        Ok(address.0.to_le_bytes().to_vec())
    }

    /// Where a rank of this process finds memory of so many bytes that another exported, until [`Device::close_import`], whatever the other
    /// process frees.
    ///
    /// # Errors
    /// When it cannot be reached.
    fn import(&self, _rank: RankId, exported: &[u8], _bytes: u64) -> Result<Address, DeviceError> {
        import_address(exported)
    }

    /// Gives back what [`Device::import`] gave, after all launches so far.
    fn close_import(&self, _rank: RankId, _address: Address) {}

    /// Gives a part of memory a name for reports, and says whose kernels write it. Devices without reports do nothing.
    fn label(&self, _rank: RankId, _address: Address, _bytes: u64, _label: &str, _writer: Option<RankId>) {}

    /// Copies to the device, at once: what runs may see it.
    ///
    /// # Errors
    /// When the memory is not there.
    fn write(&self, rank: RankId, address: Address, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Copies from the device, at once: what has not finished may not have written yet.
    ///
    /// # Errors
    /// When the memory is not there or was never written.
    fn read(&self, rank: RankId, address: Address, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// Loads PTX for a rank and finds an entry point in it.
    ///
    /// # Errors
    /// When the PTX cannot be loaded or has no such entry point.
    fn load(&self, rank: RankId, ptx: &str, name: &str) -> Result<FunctionId, DeviceError>;

    /// The same where an assembler has made machine code of the PTX, for the target that [`Device::choose_target`] chose. A device that takes it
    /// compiles nothing; any other takes the PTX.
    ///
    /// # Errors
    /// As [`Device::load`].
    fn load_assembled(&self, rank: RankId, cubin: &[u8], ptx: &str, name: &str) -> Result<FunctionId, DeviceError> {
        let _ = cubin;
        self.load(rank, ptx, name)
    }

    /// How many CTAs of a kernel are resident at once.
    ///
    /// # Errors
    /// When the device cannot say.
    fn residency(&self, function: FunctionId, block: u32, shared: u32) -> Result<Residency, DeviceError>;

    /// Where communicators say what waits on its GPUs; a device without it does not learn that they are too many.
    fn occupancy(&self) -> Option<&Occupancy> {
        None
    }

    /// Makes a stream.
    ///
    /// # Errors
    /// When the device cannot.
    fn stream(&self, rank: RankId) -> Result<StreamId, DeviceError>;

    /// The rank of a stream that takes launches.
    fn rank_of(&self, stream: StreamId) -> Option<RankId>;

    /// Closes a stream: it takes nothing more, and is gone when what is in it has finished. An id that is unknown is ignored.
    fn close_stream(&self, _stream: StreamId) {}

    /// Puts a launch into a stream of the function's rank and returns at once.
    ///
    /// # Errors
    /// When the launch is not possible.
    fn launch(&self, stream: StreamId, launch: &Launch) -> Result<(), DeviceError>;

    /// Marks a point in a stream.
    ///
    /// # Errors
    /// When the device cannot.
    fn record(&self, stream: StreamId) -> Result<EventId, DeviceError>;

    /// Makes what follows in a stream wait for an event, of any rank.
    ///
    /// # Errors
    /// When the device cannot.
    fn wait(&self, stream: StreamId, event: EventId) -> Result<(), DeviceError>;

    /// Makes what follows in a stream come after what has been launched in another one. Where a caller captures one of them it does
    /// nothing: what a graph comes after is what its launches come after.
    ///
    /// # Errors
    /// When the device cannot.
    fn follow(&self, stream: StreamId, before: StreamId) -> Result<(), DeviceError> {
        let event = self.record(before)?;
        self.wait(stream, event)
    }

    /// From now on collects what is launched in a stream instead of launching it, until [`Device::end_capture`]. Until then the stream can
    /// neither be recorded nor waited for.
    ///
    /// # Errors
    /// When the device cannot, or the stream is being captured.
    fn begin_capture(&self, stream: StreamId) -> Result<(), DeviceError>;

    /// What has been launched in a stream since [`Device::begin_capture`].
    ///
    /// # Errors
    /// When the device cannot, or the stream is not being captured.
    fn end_capture(&self, stream: StreamId) -> Result<GraphId, DeviceError>;

    /// Puts the launches of a graph into a stream of its rank, in their order.
    ///
    /// # Errors
    /// When the device cannot, or does not know the graph.
    fn replay(&self, stream: StreamId, graph: GraphId) -> Result<(), DeviceError>;

    /// Forgets a graph; what has been replayed goes on. An id that is unknown is ignored.
    fn forget_graph(&self, graph: GraphId);

    /// Waits until every launch of these streams has finished. Where they wait for launches of other streams that are not there yet,
    /// other threads have so long to make them.
    ///
    /// # Errors
    /// What went wrong in a launch.
    fn synchronise(&self, streams: &[StreamId], patience: Duration) -> Result<(), DeviceError>;

    /// Gives up all launches of all streams that have not finished, after an error. A device that cannot stop a kernel waits for its end, but not for
    /// ever.
    ///
    /// # Errors
    /// When the device is lost, or launches still run.
    fn abandon(&self) -> Result<(), DeviceError>;

    /// When every launch since the last call ran; waits for them. Empty on a device that does not time them.
    ///
    /// # Errors
    /// What went wrong in a launch.
    fn take_launch_times(&self) -> Result<Vec<LaunchTime>, DeviceError> {
        Ok(vec![])
    }

    /// Bytes that every rank has written to every other so far, none to itself; `None` on a device that does not count.
    fn traffic(&self) -> Option<LinkBytes> {
        None
    }
}
