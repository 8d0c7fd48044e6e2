//! Why there is no report.

use thiserror::Error;

use super::parallel::Schedule;
use crate::sample::SampleError;
use crate::setting::OutOfRange;
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
    /// A number outside of its setting.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// More GPUs than there are.
    #[error("pp {pp} × dp {dp} × tp {tp} is {} GPUs, and the cluster has {gpus}: lower one of them", product([*pp, *dp, *tp]))]
    TooFewGpus {
        /// Stages.
        pp: u32,
        /// Replicas.
        dp: u32,
        /// Ranks of a matrix.
        tp: u32,
        /// Of the cluster.
        gpus: u32,
    },
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
        layers: u32,
    },
    /// A schedule of other stages.
    #[error("the schedule {} needs an even number of stages, and pp is {pp}: use another schedule, or another pp", schedule.name())]
    Schedule {
        schedule: Schedule,
        /// Stages.
        pp: u32,
    },
    /// No multiprocessor left for anything but communication.
    #[error("{sms} SMs for communication of {available} leave none to compute: use fewer")]
    Sms {
        sms: u32,
        /// Of the GPU.
        available: u32,
    },
    /// Nodes that nothing joins.
    #[error(
        "ep {ep} spans {nodes} nodes, and the cluster has no `rdma`: write `rdma 50 GB/s per gpu`, or use at most ep {most}"
    )]
    NoRdma {
        /// Ranks.
        ep: u32,
        nodes: u32,
        /// Ranks of one node.
        most: u32,
    },
    /// A layer that the placement does not have.
    #[error("the placement has no layer {0}")]
    NoLayer(u32),
    /// Something that the file does not say.
    #[error("{0}")]
    Withheld(String),
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

/// Of any three numbers.
fn product(numbers: [u32; 3]) -> u128 {
    numbers.into_iter().map(u128::from).product()
}
