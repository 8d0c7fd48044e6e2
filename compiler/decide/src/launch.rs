//! How many CTAs of how many threads a kernel of an exchange has.

use moe_front::spec::{Cluster, Mode};

/// SMs for communication where the deploy does not say: about where one node's NVLink is full on Hopper.
const SMS: u32 = 20;
/// Warps of a CTA at most: with two CTAs on an SM a thread still has 64 registers.
const WARPS_MOST: u32 = 16;
/// Fewer warps than this do not keep enough bytes in flight.
const WARPS_LEAST: u32 = 4;

/// CTAs and threads of every sending, placing and reducing kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// CTAs, one for each multiprocessor.
    pub ctas: u32,
    /// Threads of a CTA.
    pub threads: u32,
}

impl Launch {
    /// For calls of `tokens` tokens; `sms` where the deploy says.
    pub fn of(mode: Mode, cluster: &Cluster, sms: Option<u32>, tokens: u32) -> Launch {
        let ctas = sms.unwrap_or(SMS.min(cluster.gpu.sms / 2)).clamp(1, cluster.gpu.sms);
        Launch { ctas, threads: 32 * warps(mode, tokens, ctas) }
    }
}

/// Warps of a CTA: one for each token that falls to it, within what an SM can use.
fn warps(mode: Mode, tokens: u32, ctas: u32) -> u32 {
    match mode {
        // What little there is to do shall start at once.
        Mode::Latency => WARPS_MOST,
        Mode::Throughput => tokens.div_ceil(ctas).clamp(WARPS_LEAST, WARPS_MOST).next_power_of_two(),
    }
}
