//! Throughput mode: see [`super`] for the formulas.

use serde::{Deserialize, Serialize};

use super::{Call, Direction, Links, Model, Parameters, Parts, Prior, Start, overlap};

/// Both kernels of throughput mode, and what they share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    /// What links give.
    pub links: Links,
    /// How perfectly the parts of the pipeline overlap.
    pub sharpness: f64,
    /// Tokens that fill the pipeline.
    pub fill_tokens: f64,
    /// Bytes that a multiprocessor could move in the time that it spends on a copy beside moving it.
    pub overhead: f64,
    /// What a copy to a node costs beside a copy to a rank.
    pub staging: f64,
    /// Dispatch and combine.
    pub kernels: [ThroughputKernel; 2],
}

/// A kernel of throughput mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ThroughputKernel {
    /// Before the first token.
    pub start: Start,
    /// Part of the time that overlap hides, that the first tokens pay nevertheless.
    pub fill: f64,
    /// GB/s of one multiprocessor on one node.
    pub copy_local: f64,
    /// GB/s of one multiprocessor across nodes.
    pub copy: f64,
}

impl Throughput {
    /// What a call is made of.
    pub(super) fn parts(&self, direction: Direction, call: &Call) -> Parts {
        let (kernel, demand) = (&self.kernels[direction as usize], &call.demand);
        let per_sm = if call.nodes > 1 {
            (demand.ranks + self.staging * demand.nodes) / kernel.copy
        } else {
            demand.ranks / kernel.copy_local
        };
        let moved = call.tokens * (demand.bytes + self.overhead) / 1e3;
        let copy = moved * per_sm / f64::from(call.sms.max(1));
        let [nvlink, network] = self.links.times(call, demand.nvlink_copies, demand.remote_nodes);
        let hidden = copy + nvlink + network - overlap(&[copy, nvlink, network], self.sharpness);
        let filling = kernel.fill * hidden * self.fill_tokens / (call.tokens + self.fill_tokens);
        Parts { latency: kernel.start.of(call) + filling, copy, nvlink, network }
    }
}

impl Parameters for Throughput {
    /// `overhead` and `copy_local`: DeepEP V1 on 8 B200, fp8 and bf16 dispatch and combine with 16 and with 24 multiprocessors.
    fn each(&mut self, visit: &mut dyn FnMut(&mut f64, Prior)) {
        let prior = |value, spread| Prior { value, spread };
        self.links.each(visit);
        visit(&mut self.sharpness, prior(10.0, 0.4));
        visit(&mut self.fill_tokens, prior(300.0, 1.0));
        visit(&mut self.overhead, prior(11_000.0, 0.2));
        visit(&mut self.staging, prior(1.0, 0.7));
        for (kernel, copy_local) in self.kernels.iter_mut().zip([43.5, 40.0]) {
            kernel.start.each([prior(35.0, 0.7), prior(35.0, 0.7), prior(8.0, 0.7)], visit);
            visit(&mut kernel.fill, prior(1.0, 0.7));
            visit(&mut kernel.copy_local, prior(copy_local, 0.15));
            visit(&mut kernel.copy, prior(40.0, 0.7));
        }
    }
}

impl Model for Throughput {
    fn time(&self, direction: Direction, call: &Call) -> f64 {
        let parts = self.parts(direction, call);
        parts.latency + overlap(&[parts.copy, parts.nvlink, parts.network], self.sharpness)
    }
}

/// The exchange of counts that precedes a kernel across nodes: `start` + `hop` × doublings + tokens / SMs × (`token` + `token_node` ×
/// nodes), in us. On one node it is part of the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
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

impl Parameters for Notify {
    fn each(&mut self, visit: &mut dyn FnMut(&mut f64, Prior)) {
        visit(&mut self.start, Prior { value: 15.0, spread: 0.7 });
        visit(&mut self.hop, Prior { value: 15.0, spread: 0.7 });
        visit(&mut self.token, Prior { value: 0.01, spread: 3.0 });
        visit(&mut self.token_node, Prior { value: 0.01, spread: 3.0 });
    }
}

impl Model for [Notify; 2] {
    fn time(&self, direction: Direction, call: &Call) -> f64 {
        if call.nodes < 2 {
            return 0.0;
        }
        let notify = &self[direction as usize];
        let per_token = notify.token + notify.token_node * f64::from(call.nodes);
        notify.start + notify.hop * call.doublings() + call.tokens / f64::from(call.sms.max(1)) * per_token
    }
}
