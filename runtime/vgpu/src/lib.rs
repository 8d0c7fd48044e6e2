//! A virtual GPU cluster that executes PTX on the CPU.

#[macro_use]
mod semantics;
mod cluster;
mod decode;
mod engine;
mod memory;
mod ptx;

pub use cluster::{
    Argument, Cluster, ClusterError, Config, EventId, Kernel, Launch, LaunchId, Module, Policy, StreamId,
};
pub use decode::op::Parameter;
pub use engine::report::{
    Deadlock, Fault, FaultKind, NotStarted, Polled, Report, RunError, Schedule, Site, WaitReason, Waiting,
};
pub use memory::{
    Access, AccessKind, Address, Event, Location, MemoryFault, Observer, Order, Proxy, RankId, Scope, ThreadId, Traffic,
};
pub use ptx::PtxError;
