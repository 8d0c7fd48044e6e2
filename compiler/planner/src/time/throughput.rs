//! Throughput mode: see [`super`] for the formulas.

use serde::{Deserialize, Serialize};

use super::{Call, Parameters, Prior, overlap};

/// A kernel of throughput mode.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ThroughputKernel {
    /// Start of a call on one node, in us.
    pub launch: f64,
    /// More for each doubling of the nodes, in us.
    pub hop: f64,
    /// Part of a token's time that the filling pipeline adds, as us per token and doubling.
    pub fill: f64,
    /// Tokens that fill the pipeline.
    pub fill_tokens: f64,
    /// GB/s of one multiprocessor for copies to ranks, on one node.
    pub copy_local: f64,
    /// GB/s of one multiprocessor for copies to nodes, across nodes.
    pub copy_node: f64,
    /// GB/s of one multiprocessor for copies to ranks, across nodes.
    pub copy_rank: f64,
    /// Part of the declared NVLink rate.
    pub nvlink_reached: f64,
    /// Part of the declared network rate.
    pub rdma_reached: f64,
    /// How perfectly the parts overlap.
    pub sharpness: f64,
}

impl Parameters<10> for ThroughputKernel {
    /// Spreads are factors: with 0.7, anything from half to twice the value is plausible. The reached parts of links are the only
    /// narrow ones: a link gives neither more than it has nor, in a library worth planning for, much less.
    const PRIORS: [Prior; 10] = [
        Prior { name: "launch", unit: "us", value: 35.0, spread: 0.7 },
        Prior { name: "hop", unit: "us", value: 8.0, spread: 0.7 },
        Prior { name: "fill", unit: "", value: 1.0, spread: 0.7 },
        Prior { name: "fill_tokens", unit: "tokens", value: 500.0, spread: 1.0 },
        Prior { name: "copy_local", unit: "GB/s/SM", value: 16.0, spread: 0.7 },
        Prior { name: "copy_node", unit: "GB/s/SM", value: 16.0, spread: 0.7 },
        Prior { name: "copy_rank", unit: "GB/s/SM", value: 16.0, spread: 0.7 },
        Prior { name: "nvlink_reached", unit: "", value: 0.85, spread: 0.03 },
        Prior { name: "rdma_reached", unit: "", value: 0.96, spread: 0.03 },
        Prior { name: "sharpness", unit: "", value: 10.0, spread: 0.4 },
    ];

    fn to_vector(&self) -> [f64; 10] {
        [
            self.launch,
            self.hop,
            self.fill,
            self.fill_tokens,
            self.copy_local,
            self.copy_node,
            self.copy_rank,
            self.nvlink_reached,
            self.rdma_reached,
            self.sharpness,
        ]
    }

    fn from_vector(vector: [f64; 10]) -> ThroughputKernel {
        let [launch, hop, fill, fill_tokens, copy_local, copy_node, copy_rank, nvlink_reached, rdma_reached, sharpness] =
            vector;
        ThroughputKernel {
            launch,
            hop,
            fill,
            fill_tokens,
            copy_local,
            copy_node,
            copy_rank,
            nvlink_reached,
            rdma_reached,
            sharpness,
        }
    }

    fn time(&self, call: &Call) -> f64 {
        let parts = self.parts(call);
        self.latency(call) + overlap(&parts, self.sharpness)
    }
}

impl ThroughputKernel {
    /// Start and filling, in us.
    pub(super) fn latency(&self, call: &Call) -> f64 {
        let parts = self.parts(call);
        let hidden = parts.iter().sum::<f64>() - overlap(&parts, self.sharpness);
        let filling = self.fill * hidden * self.fill_tokens / (call.tokens + self.fill_tokens);
        self.launch + self.hop * call.doublings() + filling
    }

    /// Copy, NVLink and network, each as if it alone limited, in us.
    pub(super) fn parts(&self, call: &Call) -> [f64; 3] {
        let demand = &call.demand;
        // 1 GB/s is 1e3 bytes per us.
        let volume = call.tokens * demand.bytes / 1e3;
        let per_sm = if call.nodes > 1 {
            demand.nodes / self.copy_node + demand.ranks / self.copy_rank
        } else {
            demand.ranks / self.copy_local
        };
        let copy = volume * per_sm / f64::from(call.sms.max(1));
        let nvlink = volume * demand.nvlink_copies / (self.nvlink_reached * call.nvlink / 1e9);
        let network =
            if call.nodes > 1 { volume * demand.remote_nodes / (self.rdma_reached * call.rdma / 1e9) } else { 0.0 };
        [copy, nvlink, network]
    }
}

/// The exchange of counts that precedes a kernel across nodes: `start` + `hop` × doublings + tokens / SMs × (`token` + `token_node` ×
/// nodes), in us. On one node it is part of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notify {
    /// Between two nodes, in us, with `hop`.
    pub start: f64,
    /// More for each doubling of the nodes, in us.
    pub hop: f64,
    /// us × SMs per token.
    pub token: f64,
    /// The same for each node.
    pub token_node: f64,
}

impl Parameters<4> for Notify {
    const PRIORS: [Prior; 4] = [
        Prior { name: "start", unit: "us", value: 15.0, spread: 0.7 },
        Prior { name: "hop", unit: "us", value: 15.0, spread: 0.7 },
        Prior { name: "token", unit: "us*SM/token", value: 0.01, spread: 3.0 },
        Prior { name: "token_node", unit: "us*SM/token/node", value: 0.01, spread: 3.0 },
    ];

    fn to_vector(&self) -> [f64; 4] {
        [self.start, self.hop, self.token, self.token_node]
    }

    fn from_vector([start, hop, token, token_node]: [f64; 4]) -> Notify {
        Notify { start, hop, token, token_node }
    }

    fn time(&self, call: &Call) -> f64 {
        if call.nodes < 2 {
            return 0.0;
        }
        let per_token = self.token + self.token_node * f64::from(call.nodes);
        self.start + self.hop * call.doublings() + call.tokens / f64::from(call.sms.max(1)) * per_token
    }
}
