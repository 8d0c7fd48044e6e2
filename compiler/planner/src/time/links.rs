//! What links give to kernels, in both modes.

use serde::{Deserialize, Serialize};

use super::{Call, Parameters, Prior};

/// How much of its declared rate a link gives to a kernel; it does not matter in which direction of the exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Links {
    /// Part of the declared NVLink rate.
    pub nvlink_reached: f64,
    /// Part of the declared network rate.
    pub rdma_reached: f64,
}

impl Links {
    /// NVLink and network, each as if it alone limited, in us, for `near` and `remote` copies of each token.
    pub(super) fn times(&self, call: &Call, near: f64, remote: f64) -> [f64; 2] {
        let remote = if call.nodes > 1 { remote } else { 0.0 };
        [
            call.volume() * near / (self.nvlink_reached * call.nvlink / 1e9),
            call.volume() * remote / (self.rdma_reached * call.rdma / 1e9),
        ]
    }
}

impl Parameters for Links {
    /// The narrowest priors: a link gives neither more than it has nor, in a library worth planning for, much less. NVLink: H800 moves
    /// 153 and 158 logical GB/s of 160 (4.63 of 5.29 copies cross) including the start of the call. Network: 400 Gb/s less the
    /// headers of packets.
    fn each(&mut self, visit: &mut dyn FnMut(&mut f64, Prior)) {
        visit(&mut self.nvlink_reached, Prior { value: 0.88, spread: 0.03 });
        visit(&mut self.rdma_reached, Prior { value: 0.96, spread: 0.03 });
    }
}
