//! Loads a bundle and runs it on a device: virtual or CUDA.
//!
//! Invariants: nothing is launched before every shape has been checked; every wait of a kernel has a name and a deadline; a call either
//! returns its result or an [`Error`] that says who is to blame. The bundle is the only thing that is known of the compiler.
//!
//! * [`device`] – what a device must be able to do, and the two there are;
//! * [`symmetric`] – memory that every rank can reach;
//! * [`communicator`] – gate, dispatch, combine and their gradients, for all ranks of this process;
//! * [`experts`] – experts that run on the host, for tests and demonstrations.

pub mod communicator;
pub mod device;
pub mod error;
pub mod experts;
pub mod symmetric;
pub mod tensor;

pub use communicator::{Communicator, Dispatched, Handle, KernelTime, Options, Parameters, Routing};
pub use device::{CudaDevice, CudaOptions, Device, DeviceError, Policy, VirtualDevice, VirtualOptions, VirtualWork};
pub use error::{Error, Result};
pub use moe_contract::{LinkBytes, Tensor};
pub use tensor::Distributed;
