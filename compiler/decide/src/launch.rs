//! How many CTAs of how many threads a kernel of an exchange has.

use moe_contract::Launch;
use moe_front::spec::{Cluster, Mode};

use crate::numbers::Numbers;

/// SMs for what is sent where the deploy does not say: about where one node's NVLink is full on Hopper.
const SMS: u32 = 20;
/// Warps of a CTA at most: with two CTAs on an SM a thread still has 64 registers.
const WARPS_MOST: u32 = 16;
/// Fewer warps than this do not keep enough bytes in flight.
const WARPS_LEAST: u32 = 4;
/// What warps take of a row that they share: no less than that.
const PART_BYTES: u64 = 1 << 10;

/// Multiprocessors for the kernels that write to peers, where the deploy says a number or none.
pub fn link_sms(cluster: &Cluster, sms: Option<u32>) -> u32 {
    sms.unwrap_or(SMS.min(cluster.gpu.sms / 2)).clamp(1, cluster.gpu.sms)
}

/// One CTA for each multiprocessor; `row_bytes` of what comes back.
pub(crate) fn launch(numbers: &Numbers, cluster: &Cluster, row_bytes: u64) -> Launch {
    let ctas_link = link_sms(cluster, numbers.sms);
    let warps = warps(numbers.mode, numbers.tokens, ctas_link);
    // What does not send need not leave links to anybody: memory of the GPU is full with all that are left over.
    let others = (cluster.gpu.sms - ctas_link).max(ctas_link);
    // A warp for each part of each copy that can come; more would have nothing to do.
    let parts = u64::from(numbers.ranks) * u64::from(numbers.tokens) * row_bytes.div_ceil(PART_BYTES);
    let busy = u32::try_from(parts.div_ceil(u64::from(warps))).unwrap_or(u32::MAX).max(1);
    let ctas_local = numbers.sms_local.unwrap_or(others).clamp(1, cluster.gpu.sms).min(busy);
    Launch { ctas_link, ctas_local, threads: 32 * warps }
}

/// Warps of a CTA: one for each token that falls to it, within what an SM can use.
fn warps(mode: Mode, tokens: u32, ctas: u32) -> u32 {
    match mode {
        // What little there is to do shall start at once.
        Mode::Latency => WARPS_MOST,
        Mode::Throughput => tokens.div_ceil(ctas).clamp(WARPS_LEAST, WARPS_MOST).next_power_of_two(),
    }
}
