//! Virtual GPUs of several processes: one process, the node, has them; each of the others is some of their ranks.
//!
//! Invariants:
//! * a process is attached for as long as a connection of it is open, and the system closes that with it: when it ends, however it does, the
//!   node knows, and whoever waits for its ranks hears [`crate::DeviceError::Gone`], with the number of the process;
//! * when the node ends, every call of every process is an error that says so;
//! * nothing is left behind: the node has a name, and no file; tensors go through memory without a name, or lie in it; and a node that a rank has started
//!   ends with the last of its ranks, or when none has come.
//!
//! [`NodeDevice`] is what a process has; [`Node`] is what `moec serve` runs.

mod client;
mod ledger;
mod mapping;
mod pool;
mod server;
mod staging;
mod wire;

pub use client::{NodeDevice, NodeOptions};
pub use pool::HostMemory;
pub use server::{Node, Stay};
