//! From a checked specification to a bundle of kernels.
//!
//! ```text
//! Spec and Decision ──Layer::select──▶ Layer ──Layer::plan──▶ Planned ──Planned::kernels──▶ Kernels ──Kernels::ptx──▶ Images ──Images::bundle──▶ Bundle
//! ```
//!
//! Invariants: each arrow is one type and one function, and none looks back; whatever is the fault of the user's file is a
//! [`moe_front::diagnostics::Diagnostic`] at its place, before anything is generated; the same file and options give the same bundle,
//! byte for byte, on any number of threads.

mod compile;
mod error;
mod images;
mod kernels;
mod layer;
mod plan;
mod show;
mod stage;

pub use compile::{Compiled, compile, compile_spec};
pub use error::LowerError;
pub use images::{Images, KernelUsage};
pub use kernels::{KernelCode, Kernels};
pub use layer::Layer;
pub use moe_decide::Choice;
pub use plan::Planned;
pub use stage::{Stage, Timings};
