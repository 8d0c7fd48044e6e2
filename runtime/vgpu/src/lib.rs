//! A virtual GPU cluster that executes PTX on the CPU.
#![allow(dead_code, unused_imports, reason = "the engine that uses these parts is not wired in yet")]

#[macro_use]
mod semantics;
mod decode;
mod memory;
mod ptx;

pub use ptx::PtxError;
