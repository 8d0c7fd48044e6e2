//! Whether this machine's memory holds a virtual cluster.

#![allow(clippy::disallowed_methods, reason = "the system's own files")]

use moe_bundle::Manifest;
use moe_planner::report::human_bytes;

use crate::failure::Failure;

/// Refuses a run that would be killed half-way. What it needs is an estimate: symmetric memory and, three times, the experts' rows at an
/// even load (input, output, gradient).
pub fn enough_for(manifest: &Manifest) -> Result<(), Failure> {
    let exchange = &manifest.exchange;
    let sizes = exchange.sizes();
    let picks = u64::from(exchange.max_tokens) * u64::from(exchange.top_k);
    let rows = (2 * picks).min(exchange.output_rows_max());
    let row = exchange.row_bytes(exchange.dispatch) + 4 * exchange.row_bytes(exchange.combine);
    let needed = u64::from(exchange.ranks) * (sizes.symmetric + sizes.handle + rows * row);
    match available() {
        Some(available) if needed > available => Err(Failure::Message(format!(
            "the virtual GPUs need about {}, and this machine has {} free: run fewer tokens (`--tokens`) or ranks (`--gpus-per-node`)",
            human_bytes(needed as f64),
            human_bytes(available as f64)
        ))),
        _ => Ok(()),
    }
}

/// What Linux says is free; elsewhere nobody knows.
pub fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
