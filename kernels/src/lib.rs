//! Device code: a typed builder over MLIR and the kernels written with it.
//!
//! Invariant: everything here is made at compile time. Nothing of MLIR or LLVM is needed to run what it makes.

pub mod assemble;
pub mod audit;
mod context;
pub mod device;
pub mod exchange;
pub mod gate;
pub mod ptx;
