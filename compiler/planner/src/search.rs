//! All plans of a cluster, and those that no other beats in both time and memory.
//!
//! Invariants: every candidate uses all GPUs, processes the same tokens per step, and keeps every rule of [`PlanError`]; the front is
//! sorted by time, and memory falls along it.

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::Serialize;

use crate::report::{Change, PlanError, Planner};
use crate::setting;
use crate::step::{Parallel, Schedule};

/// One plan.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Candidate {
    /// Its numbers.
    pub parallel: Parallel,
    /// Time of a step, in us.
    pub step_us: f64,
    /// Tokens per second and GPU.
    pub tokens_per_second: f64,
    /// Memory of the fullest GPU, in bytes.
    pub memory: u64,
    /// Whether that fits.
    pub fits: bool,
}

/// What a search found.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Found {
    /// Plans that were evaluated.
    pub tried: usize,
    /// Those that fit the memory.
    pub fitting: usize,
    /// The front of those.
    pub front: Vec<Candidate>,
    /// All that were evaluated.
    pub all: Vec<Candidate>,
}

/// Multiprocessors that are tried.
const SMS: [u32; 8] = [4, 8, 12, 16, 20, 24, 32, 48];

impl Planner<'_> {
    /// Tries every ep, pp, dp, ZeRO stage, number of SMs and schedule (unless the options say which).
    ///
    /// # Errors
    /// If nothing fits.
    pub fn search(&mut self) -> Result<Found, PlanError> {
        let plans = self.candidates()?;
        if plans.is_empty() {
            let reason = "no ep, pp and dp divide the GPUs, the nodes and the layers".to_owned();
            return Err(PlanError::NothingFits { tried: 0, reason });
        }
        let mut ranks: Vec<u32> = plans.iter().map(|plan| plan.ep).collect();
        ranks.sort_unstable();
        ranks.dedup();
        for ep in ranks {
            self.prepare(ep)?;
        }
        let planner = &*self;
        let evaluate = |parallel: &Parallel| -> Result<Candidate, PlanError> {
            let evaluated = planner.evaluate(parallel)?;
            Ok(Candidate {
                parallel: *parallel,
                step_us: evaluated.step.total.0,
                tokens_per_second: evaluated.step.tokens_per_second,
                memory: evaluated.bytes().0,
                fits: evaluated.memory.fits(),
            })
        };
        let all: Vec<Candidate> = plans.par_iter().map(evaluate).collect::<Result<_, _>>()?;
        let fitting: Vec<Candidate> = all.iter().filter(|candidate| candidate.fits).copied().collect();
        if fitting.is_empty() {
            let least = all.iter().map(|candidate| candidate.memory).min().unwrap_or(0);
            let reason = format!(
                "the smallest needs {} of {} on a GPU; lower `tokens`, recompute everything, or use more GPUs",
                crate::report::human_bytes(least as f64),
                crate::report::human_bytes(self.cluster.gpu.memory.0 as f64)
            );
            return Err(PlanError::NothingFits { tried: all.len(), reason });
        }
        Ok(Found { tried: all.len(), fitting: fitting.len(), front: front(&fitting), all })
    }

    fn candidates(&self) -> Result<Vec<Parallel>, PlanError> {
        let (gpus, tp) = (self.cluster.gpus(), self.deploy.tp);
        let asked = self.written(Change::default())?;
        let batch = [asked.micro_batches, asked.dp, asked.tokens].map(u128::from).into_iter().product::<u128>();
        let schedules = self.options.schedule.map_or(Schedule::ALL.to_vec(), |schedule| vec![schedule]);
        let divisors = |number: u32, most: u32| (1..=most.min(number)).filter(move |part| number.is_multiple_of(*part));
        let mut plans = Vec::new();
        if !gpus.is_multiple_of(tp) {
            return Ok(plans);
        }
        for pp in divisors(gpus / tp, self.model.moe_layers) {
            let dp = gpus / tp / pp;
            let step = u128::from(dp) * u128::from(asked.tokens);
            if !batch.is_multiple_of(step) {
                continue;
            }
            let micro_batches = u64::try_from(batch / step).unwrap_or(u64::MAX);
            let Ok(micro_batches) = setting::MICRO_BATCHES.narrow(micro_batches) else { continue };
            for ep in divisors(dp * tp, self.model.stored_experts()) {
                let local = self.cluster.gpus_per_node;
                let divides = self.model.stored_experts().is_multiple_of(ep);
                let joined = ep <= local || self.cluster.rdma.is_some();
                if !divides || !joined || !(ep.is_multiple_of(local) || local.is_multiple_of(ep)) {
                    continue;
                }
                for zero in 0..=3 {
                    for sms in SMS.into_iter().filter(|&sms| sms < self.cluster.gpu.sms) {
                        // Without stages all schedules are one.
                        let alike = |schedule: Schedule| pp == 1 && schedule == Schedule::ZeroBubble;
                        for &schedule in schedules.iter().filter(|schedule| schedule.fits(pp) && !alike(**schedule)) {
                            let tokens = asked.tokens;
                            plans.push(Parallel { ep, pp, dp, tp, zero, sms, tokens, micro_batches, schedule });
                        }
                    }
                }
            }
        }
        Ok(plans)
    }
}

/// Those that no other beats in both.
pub fn front(candidates: &[Candidate]) -> Vec<Candidate> {
    let mut sorted = candidates.to_vec();
    sorted.sort_by(|a, b| a.step_us.total_cmp(&b.step_us).then(a.memory.cmp(&b.memory)));
    let mut front: Vec<Candidate> = Vec::new();
    for candidate in sorted {
        if front.last().is_none_or(|last| candidate.memory < last.memory) {
            front.push(candidate);
        }
    }
    front
}
