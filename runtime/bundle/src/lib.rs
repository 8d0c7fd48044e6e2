//! The bundle: what the compiler hands to the runtime.
//!
//! Invariant: the compiler and the runtime share this crate and the contract ([`moe_contract`]), and nothing else. [`manifest`] adds to the
//! contract what a loader must know about gate and launches; [`file`] is how both, with PTX and machine code, lie in a file.

#![warn(missing_docs)]

pub mod file;
pub mod manifest;

pub use file::{Bundle, ReadError, WriteError};
pub use manifest::{
    Capacity, CubinEntry, Digest, GateDescription, KernelEntry, KernelImage, Manifest, ManifestError, ParameterKind,
};
