//! Loads a bundle and runs it on a device: virtual or CUDA.
//!
//! Invariants: nothing is launched before every shape has been checked; every wait of a kernel has a name and a deadline; a call either
//! returns its result or an [`Error`] that says who is to blame. The bundle is the only thing that is known of the compiler.
//!
//! * [`device`] – what a device must be able to do, and the two there are;
//! * [`symmetric`] – memory that every rank can reach;
//! * [`bootstrap`] – how the processes of a world find each other, and [`node`], where those of a virtual one do;
//! * [`share`] – how processes hand each other memory;
//! * [`world`] – what the ranks of one bundle share;
//! * [`communicator`] – gate, dispatch, combine and their gradients, for some ranks of a world;
//! * [`tensor`], [`element`] – tensors of a communicator, its own or the caller's, and what they consist of;
//! * [`experts`] – experts that run on the host, for tests and demonstrations.
//!
//! Features, both on by default: `cuda` has GPUs through the CUDA driver, which is looked for when it is asked for; `virtual` has virtual
//! GPUs.

#![warn(missing_docs)]

pub mod bootstrap;
mod buffers;
mod cards;
pub mod communicator;
pub mod device;
pub mod element;
pub mod error;
pub mod experts;
mod kernels;
#[cfg(feature = "virtual")]
pub mod node;
mod notice;
mod own;
#[cfg(any(feature = "cuda", feature = "virtual"))]
mod socket;
pub mod symmetric;
pub mod tensor;
pub mod world;

pub use bootstrap::{Alone, Bootstrap, BootstrapError, TcpBootstrap, Torchrun};
pub use communicator::{
    Capture, Communicator, Dispatched, GateParameters, Handle, KernelTime, Options, Parameters, Routing,
};
#[cfg(feature = "cuda")]
pub use device::{CudaDevice, CudaOptions};
pub use device::{Device, DeviceError};
#[cfg(feature = "virtual")]
pub use device::{Policy, VirtualDevice, VirtualOptions, VirtualWork};
pub use error::{Error, Result};
pub use moe_contract::{LinkBytes, Tensor};
pub use tensor::{CallerPart, Distributed};
pub use world::World;
