//! Why experts cannot be placed.

use moe_front::units::Bytes;
use thiserror::Error;

use crate::setting::OutOfRange;

/// A placement that cannot be, with what to write instead.
#[derive(Debug, Error)]
pub enum PlacementError {
    /// A number outside of its setting.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// Beyond what is searched.
    #[error("{what} are {found}, and experts are placed on at most {most}: use fewer")]
    TooMany { what: String, found: u64, most: u64 },
    /// Slots that do not fill the GPUs equally.
    #[error("{replicas} replicas do not give each of {gpus} GPUs equally many: use {below}{above}")]
    Uneven {
        replicas: u32,
        /// Of all nodes.
        gpus: u32,
        /// The next smaller number that works, if any, with a word.
        below: String,
        /// The next larger one.
        above: u32,
    },
    /// An expert would have no place.
    #[error("{replicas} replicas cannot hold {experts} experts: use at least {least}")]
    TooFew {
        replicas: u32,
        /// Of the load.
        experts: u32,
        /// What would do.
        least: u32,
    },
    /// Groups of different sizes.
    #[error("{experts} experts are not {groups} groups of equal size: is this the load of another model?")]
    GroupSize {
        /// Of the load.
        experts: u32,
        /// Of the shape.
        groups: u32,
    },
    /// Groups that would be torn.
    #[error(
        "{groups} groups cannot be whole on {nodes} nodes with equally many on each: use the global policy, or a divisor of {groups} as the number of nodes"
    )]
    GroupsOnNodes {
        /// Of the shape.
        groups: u32,
        /// Of the shape.
        nodes: u32,
    },
    /// More picks than experts.
    #[error("a token cannot pick {top_k} of {experts} experts: top_k must be 1 to {experts}")]
    TopK {
        top_k: u32,
        /// Of the load.
        experts: u32,
    },
    /// A memory that nothing can be compared with.
    #[error(
        "the memory of a GPU is given, and the size of an expert is not known: write `expert_ffn` in the model, or give the bytes of an expert"
    )]
    UnknownBytes,
    /// Too much for the GPU.
    #[error(
        "{layers} layers of {per_gpu} experts of {expert_bytes} take {needed} of a GPU, and {available} are given: {fix}"
    )]
    Memory {
        /// Of the load.
        layers: usize,
        /// Slots of a GPU and layer.
        per_gpu: u32,
        expert_bytes: Bytes,
        needed: Bytes,
        available: Bytes,
        /// What would do.
        fix: String,
    },
    /// The current placement is of something else.
    #[error("the current placement: {0}")]
    Current(String),
}
