//! How ranks, stages and replicas divide a cluster.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How stages of a pipeline alternate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// 1F1B
    OneForwardOneBackward,
    /// ZB1P
    ZeroBubble,
    /// DualPipe: two directions at once, two copies of the parameters.
    DualPipe,
}

impl Schedule {
    /// All.
    pub const ALL: [Schedule; 3] = [Schedule::OneForwardOneBackward, Schedule::ZeroBubble, Schedule::DualPipe];

    /// For reports.
    pub fn name(self) -> &'static str {
        match self {
            Schedule::OneForwardOneBackward => "1f1b",
            Schedule::ZeroBubble => "zero-bubble",
            Schedule::DualPipe => "dualpipe",
        }
    }

    /// Whether so many stages can alternate like this: DualPipe goes through them from both ends.
    pub fn fits(self, stages: u32) -> bool {
        self != Schedule::DualPipe || (stages > 1 && stages.is_multiple_of(2))
    }

    /// The idle time of a step.
    pub fn bubble(self, stages: u32, forward: f64, backward: f64, weights: f64) -> f64 {
        let stages = f64::from(stages.max(1));
        let bubble = match self {
            Schedule::OneForwardOneBackward => (stages - 1.0) * (forward + backward),
            Schedule::ZeroBubble => (stages - 1.0) * (forward + backward - 2.0 * weights),
            Schedule::DualPipe => (stages / 2.0 - 1.0) * (forward + backward + backward - 3.0 * weights),
        };
        bubble.max(0.0)
    }
}

/// A plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Parallel {
    /// Ranks among which experts are divided.
    pub ep: u32,
    /// Pipeline stages.
    pub pp: u32,
    /// Data-parallel replicas.
    pub dp: u32,
    /// Ranks among which matrices are divided.
    pub tp: u32,
    /// The ZeRO stage.
    pub zero: u8,
    /// Multiprocessors for communication.
    pub sms: u32,
    /// Tokens of a GPU in one call.
    pub tokens: u32,
    /// Micro-batches of a step, on each replica.
    pub micro_batches: u32,
    /// The schedule of the pipeline.
    pub schedule: Schedule,
}

impl Schedule {
    /// Copies of weights and gradients that a GPU holds.
    pub fn parameter_copies(self) -> u32 {
        if self == Schedule::DualPipe { 2 } else { 1 }
    }

    /// Micro-batches whose activations the first stage holds, as in Table 2 of the DeepSeek-V3 report.
    pub fn in_flight(self, stages: u32, micro_batches: u32) -> f64 {
        let most = match self {
            Schedule::OneForwardOneBackward | Schedule::ZeroBubble => stages,
            Schedule::DualPipe => stages + 1,
        };
        f64::from(most.min(micro_batches))
    }
}
