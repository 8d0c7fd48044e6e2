//! How long a dispatch or a combine takes.
//!
//! Invariant: a time is a function of physical quantities only: copies and bytes on each link, multiprocessors, declared link rates, and
//! the [`Parameters`] that a calibration found. Nothing is looked up by shape, and there is no correction per row.
//!
//! # Throughput mode
//! Per token, the times that the parts of the pipeline need, which overlap:
//! * *copy*: multiprocessors move every copy. It takes the time of its bytes and of `overhead` bytes more. On one node (bytes +
//!   `overhead`) × ranks / (SMs × `copy_local`); across nodes (bytes + `overhead`) × (ranks + `staging` × nodes) / (SMs × `copy`): each (token,
//!   node) is staged once, each (token, rank) forwarded once.
//! * *NVLink*: copies that leave the GPU × bytes / (declared rate × `nvlink_reached`);
//! * *network*: copies to other nodes × bytes / (declared rate × `rdma_reached`).
//!
//! They overlap imperfectly: (copy^p + NVLink^p + network^p)^(1/p) with p = `sharpness`; p = ∞ is a perfect pipeline, p = 1 none.
//! Before that comes a start, and the first tokens pay a part `fill` of what overlap hides (their sum less the above) as long as they do
//! not fill the pipeline: × `fill_tokens` / (t + `fill_tokens`).
//! Before the kernel a *notify* kernel exchanges counts; its time is fitted apart.
//!
//! # Low latency
//! Every pick is one message, sent without forwarding by all multiprocessors; messages within the node go over NVLink. *copy* = picks ×
//! bytes / `copy`, *NVLink* = picks on other GPUs of the node, *network* = picks on other nodes; the slowest counts. What has come is then
//! read from memory: picks × bytes / `memory`. The time is start + slowest + memory.
//!
//! # Start
//! In both modes `local` on one node, else `network` + `hop` × (log2 nodes − 1).
//!
//! Limits: no tokens take the start alone; many take the slowest part alone; one node has no network.

mod latency;
mod links;
mod parameters;
mod profile;
mod start;
mod throughput;

use moe_front::units::Microseconds;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use latency::{LatencyKernel, LowLatency};
pub use links::Links;
pub use parameters::{Model, Parameters, Prior};
pub use profile::{Profile, Trust};
pub use start::Start;
pub use throughput::{Notify, Throughput, ThroughputKernel};

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// To the experts.
    Dispatch,
    /// Back.
    Combine,
}

impl Direction {
    /// Both.
    pub const ALL: [Direction; 2] = [Direction::Dispatch, Direction::Combine];

    /// For reports.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Dispatch => "dispatch",
            Direction::Combine => "combine",
        }
    }
}

/// What one token needs, on average, on the GPU that has most to do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Demand {
    /// Bytes of a copy.
    pub bytes: f64,
    /// Distinct nodes, the own one included.
    pub nodes: f64,
    /// Distinct ranks, the own one included.
    pub ranks: f64,
    /// Copies to other nodes.
    pub remote_nodes: f64,
    /// Copies to other GPUs of the node on which the copy is.
    pub nvlink_copies: f64,
    /// Picks: messages in low-latency mode.
    pub picks: f64,
    /// Picks on other nodes.
    pub remote_picks: f64,
    /// Picks on other GPUs of the own node.
    pub local_picks: f64,
}

/// One call on one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Call {
    /// Tokens of each GPU.
    pub tokens: f64,
    /// Nodes of the expert-parallel group.
    pub nodes: u32,
    /// What each token needs.
    pub demand: Demand,
    /// Multiprocessors of the kernel.
    pub sms: u32,
    /// Declared rate of NVLink, per GPU and direction, in bytes per second.
    pub nvlink: f64,
    /// Declared rate of the network, the same.
    pub rdma: f64,
}

impl Call {
    fn doublings(&self) -> f64 {
        f64::from(self.nodes.max(1)).log2()
    }

    /// One copy of every token. 1 GB/s is 1e3 bytes per us, so that this over GB/s is us.
    fn volume(&self) -> f64 {
        self.tokens * self.demand.bytes / 1e3
    }
}

/// What limits a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Bottleneck {
    /// Starting, synchronising and the first token's way.
    Latency,
    /// Multiprocessors that move bytes.
    Copy,
    /// The links within a node.
    Nvlink,
    /// The links between nodes.
    Network,
}

impl Bottleneck {
    /// For reports.
    pub fn name(self) -> &'static str {
        match self {
            Bottleneck::Latency => "latency",
            Bottleneck::Copy => "SM copy",
            Bottleneck::Nvlink => "NVLink",
            Bottleneck::Network => "RDMA",
        }
    }
}

/// The time of a call and what it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Prediction {
    /// The kernel.
    pub transfer: Microseconds,
    /// The exchange of counts before it; zero on one node and in low-latency mode, where the kernel does it.
    pub notify: Microseconds,
    /// What no overlap hides: start, filling of the pipeline, unpacking.
    pub latency: Microseconds,
    /// If multiprocessors alone limited.
    pub copy: Microseconds,
    /// If NVLink alone limited.
    pub nvlink: Microseconds,
    /// If the network alone limited.
    pub network: Microseconds,
    /// The largest of these.
    pub bottleneck: Bottleneck,
    /// Expected relative error.
    pub uncertainty: f64,
}

impl Prediction {
    /// Kernel and notify.
    pub fn total(&self) -> Microseconds {
        Microseconds(self.transfer.0 + self.notify.0)
    }

    fn of(parts: Parts, transfer: f64, notify: f64, uncertainty: f64) -> Prediction {
        let Parts { latency, copy, nvlink, network } = parts;
        let named = [
            (Bottleneck::Copy, copy),
            (Bottleneck::Nvlink, nvlink),
            (Bottleneck::Network, network),
            (Bottleneck::Latency, latency),
        ];
        let (bottleneck, _) =
            named.into_iter().fold(named[0], |largest, next| if next.1 > largest.1 { next } else { largest });
        Prediction {
            transfer: Microseconds(transfer),
            notify: Microseconds(notify),
            latency: Microseconds(latency),
            copy: Microseconds(copy),
            nvlink: Microseconds(nvlink),
            network: Microseconds(network),
            bottleneck,
            uncertainty,
        }
    }
}

/// What the time of a call is made of, in us: what is always paid, and three parts, each as if it alone limited.
#[derive(Clone, Copy)]
struct Parts {
    latency: f64,
    copy: f64,
    nvlink: f64,
    network: f64,
}

/// The time of parts that overlap imperfectly.
fn overlap(parts: &[f64], sharpness: f64) -> f64 {
    let largest = parts.iter().copied().fold(0.0, f64::max);
    if largest <= 0.0 {
        return 0.0;
    }
    // Relative to the largest, so that no power overflows.
    largest * parts.iter().map(|part| (part / largest).powf(sharpness)).sum::<f64>().powf(1.0 / sharpness)
}
