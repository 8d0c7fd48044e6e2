//! Why there is no report.

use thiserror::Error;

use crate::sample::SampleError;
use crate::simulate::ScenarioError;
use crate::traffic::TopologyError;

/// A plan that cannot be, with what to write instead.
#[derive(Debug, Error)]
pub enum PlanError {
    /// The gate could not be asked.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// Ranks, nodes and experts do not fit.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// More GPUs than there are.
    #[error("pp × dp × tp is {needed}, the cluster has {gpus} GPUs: lower one of them")]
    TooFewGpus {
        /// The product.
        needed: u64,
        /// Of the cluster.
        gpus: u32,
    },
    /// Replicas that are not whole.
    #[error("ep {ep} does not divide dp {dp} × tp {tp}: an expert would have no whole number of replicas")]
    Replicas {
        /// Ranks.
        ep: u32,
        /// Replicas.
        dp: u32,
        /// Ranks of a matrix.
        tp: u32,
    },
    /// More stages than layers.
    #[error("pp {pp} stages for {layers} layers with experts: use at most pp {layers}")]
    Stages {
        /// Stages.
        pp: u32,
        /// Layers.
        layers: u32,
    },
    /// No multiprocessor left, or none used.
    #[error("{sms} SMs for communication of {available}: use 1 to {}", available - 1)]
    Sms {
        /// Asked for.
        sms: u32,
        /// Of the GPU.
        available: u32,
    },
    /// No such stage.
    #[error("there is no ZeRO stage {0}: use 0 to 3")]
    Zero(u8),
    /// Nothing to send.
    #[error("a call needs at least one token")]
    Tokens,
    /// Not a part of the peak.
    #[error("the efficiency is {0}, and must be above 0 and at most 1")]
    Efficiency(f64),
    /// A layer that the placement does not have.
    #[error("the placement has no layer {0}")]
    NoLayer(u32),
    /// A simulation that makes no sense.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// Every pick a message of its own.
    #[error(
        "the simulation knows the ways of throughput mode, and this deploy is in latency mode: choose another deploy, or write `mode throughput`"
    )]
    LatencyMode,
    /// A plan was evaluated before its ranks were prepared: a mistake of the caller.
    #[error("ep {0} was not prepared")]
    NotPrepared(u32),
    /// Nothing to choose from.
    #[error("no plan of {tried} fits: {reason}")]
    NothingFits {
        /// Plans tried.
        tried: usize,
        /// What they lack.
        reason: String,
    },
}
