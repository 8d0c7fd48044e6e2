//! The bundle: what the compiler hands to the runtime.
//!
//! Invariant: the compiler and the runtime share this crate and nothing else. [`exchange`] is the contract of plan, kernels and
//! runtime; [`codec`] is how hosts read and write rows; [`manifest`] adds what a loader must know about gate and launches; [`file`] is how both, with the PTX, lie in a file. [`placement`] is a file of its own.

pub mod codec;
pub mod exchange;
pub mod file;
pub mod limits;
pub mod manifest;
pub mod placement;

pub use exchange::{Argument, Drop, Exchange, Kernel, LocalBuffer, Payload, RowLayout, SymmetricLayout, Tensor};
pub use file::{Bundle, ReadError, WriteError};
pub use limits::LimitError;
pub use manifest::{
    Capacity, Digest, GateDescription, Grid, KernelEntry, KernelImage, Manifest, ManifestError, ParameterKind,
};

use serde::{Deserialize, Serialize};

/// A rank: one GPU of the expert-parallel group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RankId(pub u32);

impl RankId {
    /// For looking into an array that has one entry per rank.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl std::fmt::Display for RankId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "rank {}", self.0)
    }
}

/// An expert, by its id in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ExpertId(pub u32);

impl std::fmt::Display for ExpertId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "expert {}", self.0)
    }
}
