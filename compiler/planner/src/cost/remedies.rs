//! What to change where the memory does not suffice.
//!
//! Invariant: each remedy was planned, is possible on the cluster, processes the same tokens a step, and needs less memory.

use moe_front::units::Bytes;
use schemars::JsonSchema;
use serde::Serialize;

use super::memory::Recompute;
use super::parallel::Parallel;
use super::{Costs, PlanError, Planner};

/// A change of one number.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Remedy {
    /// As `--set` takes it, or another option.
    pub setting: String,
    /// Of the fullest GPU.
    pub bytes: Bytes,
    /// Whether that suffices.
    pub fits: bool,
}

impl Planner<'_> {
    /// The changes that need less than a report says, the least first.
    pub(super) fn remedies(&mut self, costs: &Costs) -> Result<Vec<Remedy>, PlanError> {
        let plan = costs.parallel;
        let least = costs.memory.as_ref().map_or(0, |memory| memory.total().0);
        let mut tried: Vec<(String, Parallel)> = (plan.zero + 1..=3)
            .map(|zero| (format!("zero={zero}"), Parallel { zero, ..plan }))
            .chain([(format!("ep={}", plan.ep * 2), Parallel { ep: plan.ep * 2, ..plan })])
            .collect();
        if let Some(micro_batches) = plan.micro_batches.checked_mul(2) {
            if plan.dp.is_multiple_of(2) {
                let (pp, dp) = (plan.pp * 2, plan.dp / 2);
                tried.push((format!("pp={pp}"), Parallel { pp, dp, micro_batches, ..plan }));
            }
            if plan.tokens.is_multiple_of(2) {
                let tokens = plan.tokens / 2;
                tried.push((format!("tokens={tokens}"), Parallel { tokens, micro_batches, ..plan }));
            }
        }
        let mut remedies = Vec::new();
        for (setting, parallel) in tried {
            if self.check(&parallel).is_err() || self.prepare(parallel.ep).is_err() {
                continue;
            }
            if let Some(counted) = self.evaluate(&parallel)?.counted {
                let (bytes, fits) = (counted.memory.total(), counted.memory.fits());
                remedies.push(Remedy { setting, bytes, fits });
            }
        }
        let full = costs.recompute.as_ref().and_then(|choice| choice.need(Recompute::Full));
        remedies.extend(full.map(|need| Remedy {
            setting: "--recompute full".to_owned(),
            bytes: need.bytes,
            fits: need.fits(),
        }));
        remedies.retain(|remedy| remedy.bytes.0 < least);
        remedies.sort_by_key(|remedy| remedy.bytes.0);
        Ok(remedies)
    }
}
