//! A virtual GPU cluster that executes PTX on the CPU: any number of ranks, under one deterministic scheduler.
//!
//! It is a judge of communication kernels. A wrong access, a barrier that some threads miss or a flag that nobody writes
//! ends the run with a sentence that says who, where and what; the same seed gives the same run.
//!
//! * **Program.** [`Module::parse`] takes PTX text. What it does not know is an error with its line, never skipped.
//! * **Cluster.** [`Cluster`] has ranks with memory that all can reach (unless it is [closed](Cluster::close)), streams and
//!   events. Launches of one stream run in order, those of different streams and ranks together.
//! * **Threads** make progress one by one, as on hardware since `sm_70`: a lane may spin on a flag that another lane of its
//!   warp sets. CTAs that find no place on an SM wait until others finish.
//! * **Waiting.** A loop that reads only what has not changed is not executed but parked; it goes on when one of those
//!   places is written. If everything is parked, [`RunError::Deadlock`] says who waits for which place, and what is there.
//! * **Time** is virtual: `%globaltimer` and `%clock64` advance with the work done, and jump when everybody waits, so that a
//!   deadline of ten seconds passes in microseconds.
//! * **Clusters** of CTAs ([`Launch::cluster`]) reach each other's shared memory; tensors are copied by their [maps](TensorMap).
//! * **Copies** (`cp.async`, `cp.async.bulk`) are agents of their own that read and write later, in any permitted order.
//! * **Accesses** all go through one place, where bytes are counted per pair of ranks ([`Cluster::traffic`]) and an
//!   [`Observer`] sees them with order, scope and proxy.
//! * **Memory** is sequentially consistent under all policies but one: a missing fence is not found by running, only by an observer that knows
//!   the memory model. Under [`Policy::Weak`] it is as weak as that model allows, and what is missing has its consequences.
//! * **What PTX leaves undefined** is an error where it is used, not where it is loaded: memory that nobody wrote, registers that were never
//!   written, lanes that take no part in a shuffle. So are aligned barriers that a warp reaches apart, an address that leaves its variable in
//!   shared memory, and an access to what a copy still uses. [`Rules`] make warnings of these, or accept some with a reason that is told.
//! * **Memory order** is judged by one, [`Judge`]: accesses that nothing orders are told with what is missing between them, whatever came
//!   out of the run.
//!
//! # Example
//!
//! Two ranks: the first pushes a row into the memory of the second and publishes it, the second waits for it.
//!
//! ```
//! use moe_vgpu::{Cluster, Config, Launch, Module, RankId};
//!
//! let module = Module::parse(
//!     "
//! .version 8.6
//! .target sm_90a
//! .address_size 64
//!
//! .visible .entry push(.param .u64 row, .param .u64 arrived)
//! {
//!     .reg .pred %p<2>;
//!     .reg .b32 %r<3>;
//!     .reg .b64 %rd<4>;
//!     ld.param.u64 %rd1, [row];
//!     ld.param.u64 %rd2, [arrived];
//!     mov.u32 %r1, %tid.x;
//!     mul.wide.u32 %rd3, %r1, 4;
//!     add.u64 %rd1, %rd1, %rd3;
//!     mul.lo.u32 %r2, %r1, %r1;
//!     st.global.u32 [%rd1], %r2;
//!     bar.sync 0;
//!     setp.eq.u32 %p1, %r1, 0;
//!     @%p1 red.release.sys.global.add.u32 [%rd2], 1;
//!     ret;
//! }
//!
//! .visible .entry take(.param .u64 row, .param .u64 arrived, .param .u64 out)
//! {
//!     .reg .pred %p<2>;
//!     .reg .b32 %r<3>;
//!     .reg .b64 %rd<5>;
//!     ld.param.u64 %rd1, [row];
//!     ld.param.u64 %rd2, [arrived];
//!     ld.param.u64 %rd3, [out];
//! wait:
//!     ld.acquire.sys.global.u32 %r1, [%rd2];
//!     setp.lt.u32 %p1, %r1, 1;
//!     @%p1 bra wait;
//!     mov.u32 %r1, %tid.x;
//!     mul.wide.u32 %rd4, %r1, 4;
//!     add.u64 %rd1, %rd1, %rd4;
//!     add.u64 %rd3, %rd3, %rd4;
//!     ld.global.u32 %r2, [%rd1];
//!     add.u32 %r2, %r2, 1;
//!     st.global.u32 [%rd3], %r2;
//!     ret;
//! }",
//! )?;
//! let (push, take) = (module.kernel("push").unwrap(), module.kernel("take").unwrap());
//!
//! let mut cluster = Cluster::new(Config { ranks: 2, ..Config::default() })?;
//! let [sender, receiver] = [RankId(0), RankId(1)];
//! let row = cluster.allocate(receiver, 64 * 4, "row")?;
//! let arrived = cluster.allocate(receiver, 4, "arrived")?;
//! let out = cluster.allocate(receiver, 64 * 4, "out")?;
//! cluster.write(arrived, &[0; 4])?;
//! cluster.label(arrived, 4, "arrived", Some(sender))?;
//!
//! let take_arguments = || vec![row.into(), arrived.into(), out.into()];
//! let (a, b) = (cluster.stream(sender)?, cluster.stream(receiver)?);
//! cluster.launch(b, &take, Launch::linear(1, 64, take_arguments()))?;
//! cluster.launch(a, &push, Launch::linear(1, 64, vec![row.into(), arrived.into()]))?;
//! cluster.run()?;
//!
//! let mut bytes = [0; 64 * 4];
//! cluster.read(out, &mut bytes)?;
//! assert_eq!(bytes[4 * 5..4 * 6], (5u32 * 5 + 1).to_le_bytes());
//! assert_eq!(cluster.traffic().written(sender, receiver), 64 * 4 + 4);
//!
//! // Without the push, the run says what is missing.
//! cluster.write(arrived, &[0; 4])?;
//! cluster.launch(b, &take, Launch::linear(1, 64, take_arguments()))?;
//! let report = cluster.run().unwrap_err().to_string();
//! assert!(report.contains("`arrived` of rank 1: found 0, setp.lt.u32 with 1; to be written by rank 0"), "{report}");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[macro_use]
mod semantics;
mod cluster;
mod config;
mod decode;
mod engine;
mod error;
mod ids;
pub mod job;
mod judge;
mod launch;
mod memory;
mod module;
mod names;
mod observer;
mod ptx;
mod rules;
mod weak;

pub use cluster::Cluster;
pub use config::{Config, Policy};
pub use decode::Refused;
pub use decode::op::Parameter;
pub use decode::stubs::Stub;
pub use engine::print::Printed;
pub use engine::report::{
    Deadlock, Fault, FaultKind, Finding, Limit, NotStarted, Polled, Report, RunError, Running, Schedule, Site,
    WaitReason, Waiting,
};
pub use error::ClusterError;
pub use ids::{CopyId, EventId, LaunchId, RankId, StreamId, ThreadId};
pub use judge::{Agent, Apart, Conflict, Judge, Missing, Party};
pub use launch::{Argument, Launch};
pub use memory::tensor::{OutOfBounds, Swizzle, TensorElement, TensorMap, TensorMapError};
pub use memory::{Address, Lent, MemoryFault, Order, Proxy, Scope, Traffic};
pub use module::{Kernel, Module};
pub use names::demangled;
pub use observer::{Access, AccessKind, Began, Event, Fence, Location, MbarrierStep, Observer, Places, Row};
pub use ptx::PtxError;
pub use rules::{Rule, Rules, Severity, Waiver};

const _: () = {
    const fn movable<T: Send>() {}
    const fn shareable<T: Send + Sync>() {}
    movable::<Cluster>();
    shareable::<Module>();
};
