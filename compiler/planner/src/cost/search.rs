//! All plans of a cluster, and those that no other beats in both time and memory.
//!
//! Invariants: every candidate uses all GPUs, processes the same tokens per step, and keeps every rule of [`PlanError`]; the front is
//! sorted by time, and memory falls along it.

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::Serialize;

use super::compare::{Judged, Verdict};
use super::memory::Recompute;
use super::parallel::{Parallel, Schedule};
use super::{Change, PlanError, Planner};
use crate::missing::withheld;
use crate::not_built::NotBuilt;
use crate::setting;
use crate::units::human_bytes;

/// One plan.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Candidate {
    /// Its numbers.
    pub parallel: Parallel,
    /// Time of a step, in us.
    pub step_us: f64,
    /// Tokens per second and GPU.
    pub tokens_per_second: f64,
    /// The relative difference to the step of another plan that cannot be told.
    pub resolution: f64,
    /// What the backward pass computes again.
    pub recompute: Recompute,
    /// Memory of the fullest GPU, in bytes.
    pub memory: u64,
    /// Whether that fits.
    pub fits: bool,
}

impl Candidate {
    fn judged(&self) -> Judged {
        Judged { fits: self.fits, time: self.step_us, resolution: self.resolution, memory: self.memory }
    }
}

/// What a search found.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Found {
    /// Plans that were evaluated.
    pub tried: usize,
    /// Those that fit the memory.
    pub fitting: usize,
    /// The plan to take: of those that are as fast as the fastest, as far as can be told, the one that needs least memory.
    pub best: Candidate,
    /// What of the plan to take there are no kernels for.
    pub not_built: Vec<NotBuilt>,
    /// How many are as fast, as far as can be told.
    pub as_fast: usize,
    /// The front of those that fit.
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
    /// If nothing fits, or the file does not say what steps and memory are counted from.
    pub fn search(&mut self) -> Result<Found, PlanError> {
        let missing = self.missing(&self.written(Change::default())?);
        if let Some(why) = withheld("the search for a plan is", &missing, &self.model.name, &self.cluster.name) {
            return Err(PlanError::Withheld(why));
        }
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
        let evaluate = |parallel: &Parallel| -> Result<Option<Candidate>, PlanError> {
            let evaluated = planner.evaluate(parallel)?;
            let known = evaluated.counted.zip(evaluated.timed);
            Ok(known.and_then(|(counted, timed)| {
                Some(Candidate {
                    parallel: *parallel,
                    step_us: timed.step.total.0,
                    tokens_per_second: timed.step.tokens_per_second,
                    resolution: timed.step.resolution,
                    recompute: counted.recompute?.chosen,
                    memory: counted.memory.total().0,
                    fits: counted.memory.fits(),
                })
            }))
        };
        let evaluated: Vec<Option<Candidate>> = plans.par_iter().map(evaluate).collect::<Result<_, _>>()?;
        let all: Vec<Candidate> = evaluated.into_iter().flatten().collect();
        let fitting: Vec<Candidate> = all.iter().filter(|candidate| candidate.fits).copied().collect();
        if fitting.is_empty() {
            let least = all.iter().map(|candidate| candidate.memory).min().unwrap_or(0);
            let reason = format!(
                "the smallest needs {} of {} on a GPU; lower `tokens`, recompute everything, or use more GPUs",
                human_bytes(least as f64),
                human_bytes(self.cluster.gpu.memory.0 as f64)
            );
            return Err(PlanError::NothingFits { tried: all.len(), reason });
        }
        let front = front(&fitting);
        // Every plan processes the same tokens, so that steps can be compared.
        let judged: Vec<Judged> = fitting.iter().map(Candidate::judged).collect();
        let as_fast = Verdict::of(&judged).as_fast;
        let least = as_fast
            .iter()
            .map(|&plan| &fitting[plan])
            .min_by(|a, b| a.memory.cmp(&b.memory).then(a.step_us.total_cmp(&b.step_us)));
        // Something fits, so that something is the fastest.
        let best = *least.unwrap_or(&fitting[0]);
        let not_built = self.decision(&best.parallel).not_built.iter().map(NotBuilt::of).collect();
        Ok(Found { tried: all.len(), fitting: fitting.len(), best, not_built, as_fast: as_fast.len(), front, all })
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
