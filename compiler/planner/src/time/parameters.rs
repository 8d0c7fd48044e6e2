//! What a calibration finds, and where it may be trusted.

use moe_compiler::spec::Mode;
use serde::{Deserialize, Serialize};

use super::{Call, Direction, LatencyKernel, Notify, Prediction, ThroughputKernel};

/// A positive number that a calibration adjusts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prior {
    /// The field.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// What is plausible without a measurement.
    pub value: f64,
    /// Standard deviation of its logarithm.
    pub spread: f64,
}

/// A model of a kernel whose N parameters can be fitted.
pub trait Parameters<const N: usize>: Sized {
    /// What is known before any measurement.
    const PRIORS: [Prior; N];
    /// All parameters, in the order of the priors.
    fn to_vector(&self) -> [f64; N];
    /// The reverse.
    fn from_vector(vector: [f64; N]) -> Self;
    /// The time of a call, in us.
    fn time(&self, call: &Call) -> f64;
}

/// The range of the measurements behind a profile and how well it predicted those it had not seen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trust {
    /// Root mean square relative error of groups of measurements that were left out.
    pub error: f64,
    /// Fewest and most nodes.
    pub nodes: (u32, u32),
    /// Fewest and most multiprocessors.
    pub sms: (u32, u32),
    /// Fewest tokens.
    pub tokens: f64,
}

impl Trust {
    /// Expected relative error of a call. Outside of what was measured it grows; each factor is a judgement, not a fit: 1.5 beyond the
    /// nodes or multiprocessors, 2 below the tokens.
    pub fn uncertainty(&self, call: &Call, counts_sms: bool) -> f64 {
        let outside = |value: u32, (low, high): (u32, u32)| value < low || value > high;
        let nodes = if outside(call.nodes, self.nodes) { 1.5 } else { 1.0 };
        let sms = if counts_sms && outside(call.sms, self.sms) { 1.5 } else { 1.0 };
        let tokens = if call.tokens < self.tokens { 2.0 } else { 1.0 };
        self.error * nodes * sms * tokens
    }
}

/// Everything fitted to the measurements of one library on one cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// What it is called.
    pub name: String,
    /// Whose measurements, of what, under which licence.
    pub source: String,
    /// Throughput mode: dispatch, combine.
    pub throughput: [ThroughputKernel; 2],
    /// The notify kernels of both.
    pub notify: [Notify; 2],
    /// Low-latency mode: dispatch, combine.
    pub latency: [LatencyKernel; 2],
    /// Of the throughput fit.
    pub throughput_trust: Trust,
    /// Of the low-latency fit.
    pub latency_trust: Trust,
}

impl Profile {
    /// DeepEP V1 on H100 nodes of 8, the profile that is used when no other is given.
    ///
    /// # Panics
    /// Never: the file is part of the program, and a test reads it.
    pub fn deepep_v1_h100() -> Profile {
        serde_json::from_str(include_str!("../../data/deepep_v1_h100.json"))
            .expect("the profile in the program is valid")
    }

    /// The time of a call.
    pub fn predict(&self, mode: Mode, direction: Direction, call: &Call) -> Prediction {
        let index = direction as usize;
        match mode {
            Mode::Throughput => {
                let kernel = &self.throughput[index];
                let uncertainty = self.throughput_trust.uncertainty(call, true);
                let notify = self.notify[index].time(call);
                Prediction::of(kernel.latency(call), kernel.parts(call), kernel.time(call), notify, uncertainty)
            }
            Mode::Latency => {
                let kernel = &self.latency[index];
                let uncertainty = self.latency_trust.uncertainty(call, false);
                Prediction::of(kernel.latency(call), kernel.parts(call), kernel.time(call), 0.0, uncertainty)
            }
        }
    }
}
