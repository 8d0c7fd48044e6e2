//! The time of a training step, and what it is made of.
//!
//! # Formulas
//! * Forward of a stage and micro-batch: F = operations / (peak × `efficiency` × SMs left for compute / SMs) with 2 operations per active
//!   parameter and token, and attention scores over half a sequence. Backward B = 2 F, half of it (W = F) for the weights;
//!   B = 3 F when everything is recomputed.
//! * Dispatch and combine of each layer and micro-batch: [`crate::time`]. Backward of dispatch moves what combine moves; backward of
//!   combine is a cached dispatch of rows in the combine format.
//! * Exposed communication: with DualPipe, forward and backward of two micro-batches hide each other's communication, so that what exceeds
//!   compute is exposed; with other schedules all of it. F and B below include what is exposed.
//! * Bubble with p stages: 1F1B (p − 1)(F + B); zero bubble (ZB1P) (p − 1)(F + B − 2W); DualPipe (p/2 − 1)(F&B + B − 3W)
//!   (DeepSeek-V3 report, Table 2, arXiv:2412.19437; zero bubble: Qi et al. 2023, arXiv:2401.10241). F&B is F + B here.
//! * Step: micro-batches × (F + B) + bubble + gradients and weights among replicas ([`Replicas`]), which nothing hides.

mod arithmetic;
mod replicas;

use moe_front::spec::{Cluster, Target};
use moe_front::units::Microseconds;
use schemars::JsonSchema;
use serde::Serialize;

pub use arithmetic::{decode_bound, gpu_hours_per_trillion, tokens_per_day};
pub use replicas::Replicas;

use super::parallel::{Parallel, Schedule};

/// Dense bf16 operations per second of one multiprocessor, from the vendor's data sheets: H100 SXM 989.4 TFLOP/s on 132, B200 2250 TFLOP/s
/// on 148.
pub fn peak_per_sm(target: Target) -> f64 {
    match target {
        Target::Sm90a => 989.4e12 / 132.0,
        Target::Sm100a => 2250e12 / 148.0,
    }
}

/// The times of one step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Step {
    /// Compute of one micro-batch on the slowest stage, forward and backward.
    pub compute: Microseconds,
    /// Its dispatches and combines, forward and backward.
    pub communication: Microseconds,
    /// Those that nothing hides.
    pub exposed: Microseconds,
    /// All micro-batches.
    pub steady: Microseconds,
    /// Idle time of the pipeline.
    pub bubble: Microseconds,
    /// Gradients and weights among replicas.
    pub replicas: Microseconds,
    /// Everything.
    pub total: Microseconds,
    /// Tokens of all replicas.
    pub tokens: u64,
    /// Tokens per second and GPU.
    pub tokens_per_second: f64,
    /// The relative difference to another plan's time that cannot be told: [`COMPUTE_RESOLUTION`], and of dispatches and combines that nothing
    /// hides their uncertainty.
    pub resolution: f64,
}

/// Steps that differ by less are equal: the model of compute is an assumption, and no better than this.
pub const COMPUTE_RESOLUTION: f64 = 0.02;

/// What one micro-batch needs on the slowest stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StageWork {
    /// Operations of the forward pass.
    pub operations: f64,
    /// Dispatch and combine forward, in us.
    pub forward: f64,
    /// Their backward, in us.
    pub backward: f64,
    /// Expected relative error of both.
    pub uncertainty: f64,
    /// Forward passes that the backward pass repeats.
    pub recomputed: f64,
}

impl Step {
    /// Of a plan.
    pub fn of(parallel: &Parallel, cluster: &Cluster, efficiency: f64, work: &StageWork, replicas: &Replicas) -> Step {
        let sms = f64::from(cluster.gpu.sms);
        let left = (sms - f64::from(parallel.sms)).max(1.0);
        let rate = peak_per_sm(cluster.gpu.target) * left * efficiency;
        let weights = work.operations / rate * 1e6;
        let (forward, backward) = (weights, (2.0 + work.recomputed) * weights);
        let communication = work.forward + work.backward;
        let exposed = match parallel.schedule {
            Schedule::DualPipe => (communication - forward - backward).max(0.0),
            _ => communication,
        };
        let share = |part: f64| if communication > 0.0 { exposed * part / communication } else { 0.0 };
        let (forward, backward) = (forward + share(work.forward), backward + share(work.backward));
        let steady = f64::from(parallel.micro_batches) * (forward + backward);
        let bubble = parallel.schedule.bubble(parallel.pp, forward, backward, weights);
        let total = steady + bubble + replicas.time.0;
        let tokens =
            [parallel.tokens, parallel.micro_batches, parallel.dp].map(u128::from).into_iter().product::<u128>();
        // What nothing hides is in the bubble as it is in the rest of the pipeline.
        let open = exposed / (forward + backward) * (steady + bubble) / total;
        let gpus = f64::from(parallel.dp) * f64::from(parallel.pp) * f64::from(parallel.tp);
        Step {
            compute: Microseconds((3.0 + work.recomputed) * weights),
            communication: Microseconds(communication),
            exposed: Microseconds(exposed),
            steady: Microseconds(steady),
            bubble: Microseconds(bubble),
            replicas: replicas.time,
            total: Microseconds(total),
            tokens: u64::try_from(tokens).unwrap_or(u64::MAX),
            tokens_per_second: tokens as f64 / (total / 1e6) / gpus,
            resolution: COMPUTE_RESOLUTION * (1.0 - open) + work.uncertainty * open,
        }
    }
}
