//! The one description of what a run does. Counting, race detection and weak memory see a run only through this; without any of them the
//! cost is one branch per instruction.
//!
//! Invariant: an event is told before everything that it lets happen.

use crate::ids::{CopyId, EventId, LaunchId, RankId, StreamId, ThreadId};
use crate::memory::{Address, Order, Proxy, Scope};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AccessKind {
    Read,
    /// Writes.
    Write,
    /// Reads and writes as one atomic step.
    Atomic,
}

/// Where the bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Location {
    /// Device memory, of any rank.
    Device(Address),
    /// Shared memory of this CTA (linear index), at an offset.
    Shared(u32, u32),
}

/// One access of one thread. Accesses to a thread's own local memory and to parameters are not reported: no other
/// thread can see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    pub thread: ThreadId,
    pub location: Location,
    pub bytes: u32,
    /// Memory order.
    pub order: Order,
    /// Scope, where the order has one.
    pub scope: Scope,
    pub proxy: Proxy,
    /// Read, write or both.
    pub kind: AccessKind,
    /// Line of the instruction in the PTX text.
    pub line: u32,
    /// The asynchronous copy that makes it in the thread's name.
    pub copy: Option<CopyId>,
}

/// Where the bytes of the lanes of a [`Row`] are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Places {
    /// All lanes access the same bytes.
    Same,
    /// Those of each lane are behind those of the lane that is numbered one less, whether that takes part or not.
    Behind,
    /// So many bytes behind those of the first lane that takes part, or before them.
    Each([i32; 32]),
}

/// Accesses of one instruction by lanes of a warp that order nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// That of the first lane.
    pub first: Access,
    /// The lanes.
    pub lanes: u32,
    pub places: Places,
}

impl Row {
    /// The access of each lane.
    pub fn accesses(&self) -> impl Iterator<Item = Access> {
        let first = self.first.thread.lane;
        (first..32).filter(|lane| self.lanes >> lane & 1 == 1).map(move |lane| {
            let behind = match &self.places {
                Places::Same => 0,
                Places::Behind => ((lane - first) * self.first.bytes).cast_signed(),
                Places::Each(places) => places[lane as usize],
            };
            let location = match self.first.location {
                Location::Device(Address(start)) => {
                    Location::Device(Address(start.wrapping_add_signed(i64::from(behind))))
                }
                Location::Shared(cta, start) => Location::Shared(cta, start.wrapping_add_signed(behind)),
            };
            Access { thread: ThreadId { lane, ..self.first.thread }, location, ..self.first }
        })
    }
}

/// What a fence orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fence {
    /// Accesses of the generic proxy, as strongly as this order says (`fence.ORDER`, `membar`).
    Memory(Order),
    /// The initialisation of mbarriers before the async proxy uses them.
    MbarrierInit,
    /// Accesses through different virtual addresses of one location.
    ProxyAlias,
    /// Changes of tensor maps, before others look at them; with `acquire`, what others changed, before the thread looks at it.
    TensorMap { acquire: bool },
    /// Accesses of the generic and the async proxy.
    ProxyAsync {
        /// To global memory.
        global: bool,
        /// To shared memory.
        shared: bool,
    },
}

/// A launch, as it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Began {
    pub launch: LaunchId,
    /// Whose kernel it is.
    pub rank: RankId,
    /// The stream that it stands in.
    pub stream: StreamId,
    pub kernel: String,
    /// Where lines of the PTX text come from, as `file:line` of the source; empty if the text does not say it.
    pub sources: Vec<(u32, String)>,
    /// CTAs along x, y and z.
    pub grid: [u32; 3],
    /// CTAs of a cluster along x, y and z.
    pub cluster: [u32; 3],
    /// Threads of a CTA.
    pub threads: u32,
    /// Variables in shared memory: name, offset and bytes.
    pub shared: Vec<(String, u32, u32)>,
    /// Where dynamic shared memory starts.
    pub dynamic_shared: u32,
    /// It need not wait for the end of the launch before it in its stream, see [`crate::Cluster::launch_dependent`].
    pub dependent: bool,
}

/// What a thread does to an mbarrier, or its phase does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MbarrierStep {
    /// It is made, or made invalid.
    Made,
    /// The thread arrives.
    Arrived(Order, Scope),
    /// A copy signals that it is done.
    Signalled(CopyId),
    /// All copies of the thread with groups of their own (`cp.async`) that were issued before this one are done.
    SmallCopiesDone(CopyId),
    /// The phase is complete: what arrived in it happens before what waits for it.
    PhaseComplete,
    /// A test has found a phase complete.
    Passed(Order, Scope),
}

/// Other events that order accesses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A memory fence by the lanes of a warp.
    Fence {
        /// Thread of the lowest lane.
        thread: ThreadId,
        /// Lanes that execute it.
        lanes: u32,
        /// What it orders.
        fence: Fence,
        scope: Scope,
        /// Line in the PTX text.
        line: u32,
    },
    /// The lanes arrive at a CTA barrier.
    BarrierArrive {
        /// Thread of the lowest lane.
        thread: ThreadId,
        /// Lanes that arrive.
        lanes: u32,
        barrier: u32,
        /// Whether they wait for the others; `barrier.arrive` does not.
        waits: bool,
    },
    /// A CTA barrier completes: everything that arrived happens before everything that waited.
    BarrierComplete {
        /// Any thread of the CTA.
        thread: ThreadId,
        barrier: u32,
    },
    /// The lanes arrive at the barrier of their cluster.
    ClusterArrive {
        /// Thread of the lowest lane.
        thread: ThreadId,
        /// Lanes that arrive.
        lanes: u32,
        releases: bool,
    },
    /// The barrier of a cluster completes: all of its threads have arrived.
    ClusterComplete {
        /// Any thread of the cluster.
        thread: ThreadId,
    },
    /// The lanes have waited for it: what was released there happens before what they do next.
    ClusterPassed {
        /// Thread of the lowest lane.
        thread: ThreadId,
        lanes: u32,
    },
    /// A warp barrier (or another instruction with a member mask) completes.
    WarpSync {
        /// Thread of the lowest lane.
        thread: ThreadId,
        /// Lanes that met.
        lanes: u32,
        /// Whether what they did before happens before what they do after: only `bar.warp.sync` promises it.
        orders_memory: bool,
    },
    /// A step of an mbarrier.
    Mbarrier {
        /// The thread, or that of the copy.
        thread: ThreadId,
        /// The CTA that has it, and where in its shared memory.
        cta: u32,
        offset: u32,
        step: MbarrierStep,
        /// Line in the PTX text.
        line: u32,
    },
    /// A thread issues an asynchronous copy.
    CopyIssued {
        thread: ThreadId,
        copy: CopyId,
        /// Whether it is a bulk copy.
        bulk: bool,
        /// Whether it belongs to the thread's open group; a bulk copy that signals an mbarrier does not.
        grouped: bool,
        /// Line in the PTX text.
        line: u32,
    },
    /// Each of the lanes commits its open group of copies.
    CopiesCommitted {
        /// Thread of the lowest lane.
        thread: ThreadId,
        /// Lanes that execute it.
        lanes: u32,
        /// Groups of bulk copies.
        bulk: bool,
    },
    /// The lanes go no further until all but the latest groups of their copies are done.
    CopiesWaited {
        /// Thread of the lowest lane.
        thread: ThreadId,
        lanes: u32,
        /// Groups of bulk copies.
        bulk: bool,
        /// So many groups may be under way.
        groups: u32,
        /// The sources have been read; of the targets nothing is known.
        read: bool,
    },
    /// A launch begins, when its stream allows.
    LaunchBegins(Box<Began>),
    /// A CTA of a launch starts.
    CtaStart { thread: ThreadId },
    /// A CTA has ended, and its shared memory is gone.
    CtaEnd {
        /// Any thread of it.
        thread: ThreadId,
    },
    /// The lanes have waited for the end of the launch before theirs in its stream (`griddepcontrol.wait`).
    GridWait {
        /// Thread of the lowest lane.
        thread: ThreadId,
        lanes: u32,
    },
    /// A launch is complete, with its copies.
    LaunchComplete { rank: RankId, launch: LaunchId },
    /// A stream has reached an event.
    Recorded { stream: StreamId, event: EventId },
    /// A stream goes on behind an event.
    Waited { stream: StreamId, event: EventId },
    /// The host accesses device memory.
    Host {
        address: Address,
        bytes: u64,
        /// Read or write.
        kind: AccessKind,
    },
    /// A range has a name: an allocation, or a part of one. Those that there are when an observer comes are told then.
    Named {
        address: Address,
        bytes: u64,
        /// Name for reports.
        name: String,
    },
    /// An allocation is gone, and the names in it.
    Freed { address: Address },
    /// A run ends.
    RunEnds {
        /// Whether everything that was queued has finished: it all happens before what the host does next.
        idle: bool,
    },
    /// Everything that was queued or has not finished has been given up.
    Abandoned,
}

/// Sees every access and every ordering event of a run.
pub trait Observer {
    /// One thread's access, after its checks and at the moment it takes effect.
    fn access(&mut self, access: &Access);
    /// Accesses of several threads at once: each as one.
    fn row(&mut self, row: &Row) {
        row.accesses().for_each(|access| self.access(&access));
    }
    /// An event that orders accesses.
    fn event(&mut self, event: &Event) {
        let _ = event;
    }
}
