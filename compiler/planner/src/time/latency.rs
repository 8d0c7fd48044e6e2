//! Low-latency mode: see [`super`] for the formulas.

use serde::{Deserialize, Serialize};

use super::{Call, Direction, Links, Model, Parameters, Parts, Prior, Start};

/// Both kernels of low-latency mode, send and receive together, and what they share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LowLatency {
    /// What links give.
    pub links: Links,
    /// GB/s at which messages that have come are read from memory, to be unpacked or summed.
    pub memory: f64,
    /// Dispatch and combine.
    pub kernels: [LatencyKernel; 2],
}

/// A kernel of low-latency mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencyKernel {
    /// Before the first message and after the last.
    pub start: Start,
    /// GB/s at which all multiprocessors together send messages.
    pub copy: f64,
}

impl LowLatency {
    /// What a call is made of.
    pub(super) fn parts(&self, direction: Direction, call: &Call) -> Parts {
        let (kernel, demand) = (&self.kernels[direction as usize], &call.demand);
        let picked = call.volume() * demand.picks;
        let [nvlink, network] = self.links.times(call, demand.local_picks, demand.remote_picks);
        let latency = kernel.start.of(call) + picked / self.memory;
        Parts { latency, copy: picked / kernel.copy, nvlink, network }
    }
}

impl Parameters for LatencyKernel {
    /// `hop`: published times without their bytes grow by 0.5 and 5.5 us (DeepEP V1 on H800, 16 to 256 ranks, dispatch and combine) and by
    /// 5.1 and 3.9 us (pplx-kernels on H100, one token, 32 to 128 ranks) for each doubling. `copy`: DeepEP V1, 8 H20 ranks, 128 tokens, 37
    /// and 59 us.
    fn each(&mut self, visit: &mut dyn FnMut(&mut f64, Prior)) {
        let priors = [(12.0, 0.5), (22.0, 0.5), (3.0, 0.7)].map(|(value, spread)| Prior { value, spread });
        self.start.each(priors, visit);
        visit(&mut self.copy, Prior { value: 300.0, spread: 0.3 });
    }
}

impl Parameters for LowLatency {
    /// `memory`: 3350 GB/s of an H100, of which about 0.9 can be reached.
    fn each(&mut self, visit: &mut dyn FnMut(&mut f64, Prior)) {
        self.links.each(visit);
        visit(&mut self.memory, Prior { value: 3000.0, spread: 0.1 });
        self.kernels.each(visit);
    }
}

impl Model for LowLatency {
    fn time(&self, direction: Direction, call: &Call) -> f64 {
        let parts = self.parts(direction, call);
        parts.latency + parts.copy.max(parts.nvlink).max(parts.network)
    }
}
