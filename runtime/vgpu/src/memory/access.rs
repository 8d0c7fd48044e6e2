//! The one description of a memory access. Counting, race detection and later weak-memory exploration see memory only
//! through [`Observer`]; without an observer the cost is one branch per instruction.

use super::address::Address;
use crate::ids::{LaunchId, RankId, ThreadId};

/// Memory order of an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum Order {
    Weak,
    Volatile,
    Relaxed,
    Acquire,
    Release,
    AcqRel,
    SeqCst,
}

/// Scope of a strong access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum Scope {
    Cta,
    Cluster,
    Gpu,
    Sys,
}

/// Proxy through which the access is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Proxy {
    /// Ordinary loads and stores.
    Generic,
    /// Bulk copies.
    Async,
    /// Non-coherent loads (`ld.global.nc`).
    NonCoherent,
}

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
    /// Accesses of the generic and the async proxy.
    ProxyAsync {
        /// To global memory.
        global: bool,
        /// To shared memory.
        shared: bool,
    },
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
    },
    /// A CTA barrier completes: everything that arrived happens before everything that waited.
    BarrierComplete {
        /// Any thread of the CTA.
        thread: ThreadId,
        barrier: u32,
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
    /// A CTA of a launch starts.
    CtaStart {
        thread: ThreadId,
    },
    LaunchComplete {
        rank: RankId,
        launch: LaunchId,
    },
    /// Everything that was queued or has not finished has been given up.
    Abandoned,
}

/// Sees every access and every ordering event of a run.
pub trait Observer {
    /// One thread's access, after its checks and at the moment it takes effect.
    fn access(&mut self, access: &Access);
    /// An event that orders accesses.
    fn event(&mut self, event: &Event) {
        let _ = event;
    }
}
