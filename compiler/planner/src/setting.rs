//! What the numbers that a person gives may be.
//!
//! Invariant: every number of a command line, of a change to a deploy or of a file of measurements is within its setting before a formula sees
//! it. The settings are so narrow that no product of theirs overflows, no quotient is by zero and no time is longer than a day where that would
//! matter; what several numbers are together is checked where they meet ([`PlanError`](crate::PlanError)).

use std::fmt;

use moe_front::spec::limits;
use thiserror::Error;

/// A number outside of its setting.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{name} is `{given}`: give {range}")]
pub struct OutOfRange {
    /// Which setting.
    pub name: &'static str,
    pub given: String,
    /// What may be.
    pub range: String,
}

/// A setting that is counted.
#[derive(Clone, Copy, Debug)]
pub struct Whole {
    name: &'static str,
    least: u64,
    most: u64,
}

/// A setting that is measured.
#[derive(Clone, Copy, Debug)]
pub struct Real {
    name: &'static str,
    least: f64,
    most: f64,
    unit: &'static str,
}

impl Whole {
    const fn new(name: &'static str, least: u64, most: u64) -> Whole {
        Whole { name, least, most }
    }

    /// That a number is within it.
    ///
    /// # Errors
    /// With name, number and range.
    pub fn check(&self, number: impl Into<u64>) -> Result<(), OutOfRange> {
        let number = number.into();
        if (self.least..=self.most).contains(&number) { Ok(()) } else { Err(self.refuse(number)) }
    }

    /// Reads what a person typed.
    ///
    /// # Errors
    /// Where it is no whole number within it.
    pub fn read<N: TryFrom<u64>>(&self, text: &str) -> Result<N, OutOfRange> {
        self.narrow(text.trim().parse().map_err(|_| self.refuse(text.trim()))?)
    }

    /// The number in a type that need not hold every number.
    ///
    /// # Errors
    /// Where it is not within the setting.
    pub fn narrow<N: TryFrom<u64>>(&self, number: u64) -> Result<N, OutOfRange> {
        self.check(number)?;
        N::try_from(number).map_err(|_| self.refuse(number))
    }

    /// What may be, in words.
    pub fn range(&self) -> String {
        format!("a whole number from {} to {}", self.least, self.most)
    }

    fn refuse(&self, given: impl fmt::Display) -> OutOfRange {
        OutOfRange { name: self.name, given: given.to_string(), range: self.range() }
    }
}

impl Real {
    const fn new(name: &'static str, least: f64, most: f64, unit: &'static str) -> Real {
        Real { name, least, most, unit }
    }

    /// That a number is within it; what is no number is not.
    ///
    /// # Errors
    /// With name, number and range.
    pub fn check(&self, number: impl Into<f64>) -> Result<(), OutOfRange> {
        let number = number.into();
        /// Up to here every whole number is one.
        const PLAIN: f64 = 1e15;
        match number {
            _ if number >= self.least && number <= self.most => Ok(()),
            _ if number.is_finite() && number.abs() > PLAIN => Err(self.refuse(format!("{number:e}"))),
            _ => Err(self.refuse(number)),
        }
    }

    /// What may be, in words.
    pub fn range(&self) -> String {
        format!("a number from {} to {}{}", self.least, self.most, self.unit)
    }

    fn refuse(&self, given: impl fmt::Display) -> OutOfRange {
        OutOfRange { name: self.name, given: given.to_string(), range: self.range() }
    }
}

/// Ranks among which experts are divided.
pub const EP: Whole = Whole::new("ep", 1, limits::COUNT as u64);
/// Pipeline stages.
pub const PP: Whole = Whole::new("pp", 1, limits::COUNT as u64);
/// Data-parallel replicas.
pub const DP: Whole = Whole::new("dp", 1, limits::COUNT as u64);
/// Ranks among which a layer's matrices are divided.
pub const TP: Whole = Whole::new("tp", 1, limits::COUNT as u64);
/// The ZeRO stage.
pub const ZERO: Whole = Whole::new("zero", 0, 3);
/// Multiprocessors for communication.
pub const SMS: Whole = Whole::new("sms", 1, limits::COUNT as u64);
/// Tokens of a GPU in one call.
pub const TOKENS: Whole = Whole::new("tokens", 1, limits::COUNT as u64);
/// Micro-batches of a step, on each replica.
pub const MICRO_BATCHES: Whole = Whole::new("micro_batches", 1, 1 << 20);
/// Tokens of a sequence.
pub const SEQUENCE: Whole = Whole::new("sequence", 1, limits::COUNT as u64);
/// Tokens that the gate is asked about.
pub const SAMPLE: Whole = Whole::new("sample", 1, 1 << 24);
/// Standard deviation of the offsets of logits.
pub const SKEW: Real = Real::new("skew", 0.0, 100.0, "");
/// Part of the peak that compute reaches.
pub const EFFICIENCY: Real = Real::new("efficiency", 0.01, 1.0, "");

/// GPUs that are simulated.
pub const GPUS: Whole = Whole::new("gpus", 1, 1 << 24);
pub const CHUNK_TOKENS: Whole = Whole::new("chunk_tokens", 1, limits::COUNT as u64);
/// Chunks of a sender on the way.
pub const WINDOW: Whole = Whole::new("window", 1, 1 << 20);
/// Nodes below a leaf switch.
pub const NODES_PER_POD: Whole = Whole::new("nodes_per_pod", 1, 1 << 20);
/// Rate of a pod's NICs over that of its uplinks.
pub const OVERSUBSCRIPTION: Real = Real::new("oversubscription", 1.0, 1e3, "");
/// From a NIC to another.
pub const NIC_LATENCY: Real = Real::new("nic_latency", 0.0, SECOND, " µs");
/// From a GPU to another of its node.
pub const NVLINK_LATENCY: Real = Real::new("nvlink_latency", 0.0, SECOND, " µs");
/// What the spine adds.
pub const SPINE_LATENCY: Real = Real::new("spine_latency", 0.0, SECOND, " µs");
/// Between dispatch and combine.
pub const EXPERT_TIME: Real = Real::new("expert_time", 0.0, 60.0 * SECOND, " µs");
/// The part of its rate that a slow link reaches.
pub const SLOW_LINK: Real =
    Real::new("the part of its rate that a link reaches (slow_nic, slow_nvlink)", 0.001, 1.0, "");
/// How late a GPU starts.
pub const LATE: Real = Real::new("the delay of a straggler", 0.0, 60.0 * SECOND, " µs");
/// How many times as long slow experts take.
pub const SLOW_EXPERTS: Real = Real::new("how many times as long slow experts take", 1.0, 100.0, "");

/// Nodes of a placement.
pub const NODES: Whole = Whole::new("nodes", 1, 1 << 10);
/// GPUs of each node of a placement.
pub const GPUS_PER_NODE: Whole = Whole::new("gpus_per_node", 1, limits::DOMAIN as u64);
/// Slots of a layer.
pub const REPLICAS: Whole = Whole::new("replicas", 1, 1 << 13);
/// How far a placement may be above the best found.
pub const SLACK: Real = Real::new("slack", 0.0, 10.0, "");
/// Bytes of an expert's parameters.
pub const EXPERT_BYTES: Whole = Whole::new("expert_bytes", 1, 1 << 40);
/// Bytes of a GPU for experts.
pub const MEMORY: Whole = Whole::new("memory", 1, 1 << 50);

/// Elements of a measured row.
pub const HIDDEN: Whole = Whole::new("hidden_size", 1, limits::HIDDEN as u64);
/// Picks of a measured token.
pub const PICKS: Whole = Whole::new("num_topk", 1, limits::TOP_K as u64);
/// Experts of a measured router.
pub const EXPERTS: Whole = Whole::new("num_experts", 1, limits::EXPERTS as u64);
pub const MEASURED_NODES: Whole = Whole::new("node_num", 1, 1 << 20);
/// Multiprocessors of a measured kernel.
pub const MEASURED_SMS: Whole = Whole::new("sms", 1, 1 << 12);
/// Time of a measured kernel.
pub const MEASURED_TIME: Real = Real::new("time", 0.001, 1000.0 * SECOND, " µs");
/// Time of a kernel that need not be launched.
pub const MEASURED_NOTIFY: Real = Real::new("time", 0.0, 1000.0 * SECOND, " µs");

/// Microseconds of a second.
const SECOND: f64 = 1e6;
