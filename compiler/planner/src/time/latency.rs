//! Low-latency mode: see [`super`] for the formulas.

use serde::{Deserialize, Serialize};

use super::{Call, Parameters, Prior, overlap};

/// A kernel of low-latency mode, send and receive together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencyKernel {
    /// Start of a call on one node, in us.
    pub launch: f64,
    /// More when there is a network, in us.
    pub network: f64,
    /// More for each doubling of the nodes beyond two, in us.
    pub doubling: f64,
    /// Least time of the messages, in us.
    pub fill: f64,
    /// GB/s of all multiprocessors together, for messages.
    pub copy: f64,
    /// Part of the declared NVLink rate.
    pub nvlink_reached: f64,
    /// Part of the declared network rate.
    pub rdma_reached: f64,
    /// How perfectly the parts overlap.
    pub sharpness: f64,
}

impl Parameters<8> for LatencyKernel {
    const PRIORS: [Prior; 8] = [
        Prior { name: "launch", unit: "us", value: 10.0, spread: 0.7 },
        Prior { name: "network", unit: "us", value: 8.0, spread: 0.7 },
        Prior { name: "doubling", unit: "us", value: 4.0, spread: 0.7 },
        Prior { name: "fill", unit: "us", value: 4.0, spread: 0.7 },
        Prior { name: "copy", unit: "GB/s", value: 250.0, spread: 0.7 },
        Prior { name: "nvlink_reached", unit: "", value: 0.85, spread: 0.03 },
        Prior { name: "rdma_reached", unit: "", value: 0.96, spread: 0.03 },
        Prior { name: "sharpness", unit: "", value: 10.0, spread: 0.4 },
    ];

    fn to_vector(&self) -> [f64; 8] {
        [
            self.launch,
            self.network,
            self.doubling,
            self.fill,
            self.copy,
            self.nvlink_reached,
            self.rdma_reached,
            self.sharpness,
        ]
    }

    fn from_vector(vector: [f64; 8]) -> LatencyKernel {
        let [launch, network, doubling, fill, copy, nvlink_reached, rdma_reached, sharpness] = vector;
        LatencyKernel { launch, network, doubling, fill, copy, nvlink_reached, rdma_reached, sharpness }
    }

    fn time(&self, call: &Call) -> f64 {
        self.latency(call) + self.fill.hypot(overlap(&self.parts(call), self.sharpness))
    }
}

impl LatencyKernel {
    /// Start, in us.
    pub(super) fn latency(&self, call: &Call) -> f64 {
        let network = if call.nodes > 1 { self.network + self.doubling * (call.doublings() - 1.0) } else { 0.0 };
        self.launch + network
    }

    /// Copy, NVLink and network, each as if it alone limited, in us.
    pub(super) fn parts(&self, call: &Call) -> [f64; 3] {
        let demand = &call.demand;
        let volume = call.tokens * demand.bytes / 1e3;
        let network =
            if call.nodes > 1 { volume * demand.remote_picks / (self.rdma_reached * call.rdma / 1e9) } else { 0.0 };
        [
            volume * demand.picks / self.copy,
            volume * demand.local_picks / (self.nvlink_reached * call.nvlink / 1e9),
            network,
        ]
    }
}
