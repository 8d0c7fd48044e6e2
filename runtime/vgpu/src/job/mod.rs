//! A job: kernels, the memory they get, what is launched and what must come out, as data. It runs under every policy and many seeds, with
//! a [`Judge`].
//!
//! Invariant: a job that can be read is run or refused with a sentence; what it may take is bounded by its [`Limits`].
//!
//! The types are those of a file, such as TOML; names of fields are the keys there.

mod run;
mod value;

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::rules::Severity;

use crate::config::Policy;

pub use run::{Found, JobError, Outcome, RunOptions};
pub use value::{Element, Number, Value};

/// See the module.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Files of PTX text.
    pub modules: Vec<String>,
    /// Virtual GPUs.
    #[serde(default = "one")]
    pub ranks: u32,
    /// Streaming multiprocessors of each.
    #[serde(default = "sms")]
    pub sms: u32,
    /// Functions that the modules declare and do not define.
    #[serde(default, rename = "stub")]
    pub stubs: Vec<StubFunction>,
    /// Memory.
    #[serde(default, rename = "buffer")]
    pub buffers: Vec<Buffer>,
    /// Addresses that stand for buffers of several ranks at once.
    #[serde(default)]
    pub multicast: Vec<Multicast>,
    /// What is done, one after the other; launches of different ranks or streams run together until a step waits.
    #[serde(rename = "step")]
    pub steps: Vec<Step>,
    /// What must be there at the end.
    #[serde(default, rename = "expect")]
    pub expectations: Vec<Expectation>,
    /// Every schedule must fail, with this text in what is said.
    pub fails: Option<String>,
    /// How bad findings of a rule are, by its name.
    #[serde(default, rename = "severity")]
    pub severities: BTreeMap<String, Severity>,
    /// Findings that are accepted.
    #[serde(default, rename = "accept")]
    pub accepted: Vec<Accepted>,
    /// What it is run under.
    #[serde(default = "all")]
    pub policies: Vec<Policy>,
    #[serde(default)]
    pub limits: Limits,
}

fn all() -> Vec<Policy> {
    Policy::ALL.to_vec()
}

fn one() -> u32 {
    1
}

fn sms() -> u32 {
    132
}

/// What a job may take.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of all buffers.
    pub bytes: u64,
    /// Warp instructions under one schedule.
    pub instructions: u64,
    /// Seconds in all.
    pub seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { bytes: 1 << 30, instructions: 200_000_000, seconds: 600 }
    }
}

/// A function that does nothing but return, see [`crate::Stub`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StubFunction {
    pub name: String,
    /// Low bits of what it returns.
    #[serde(default)]
    pub returns: i64,
}

/// An address for `multimem` instructions, see [`crate::Cluster::multicast`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Multicast {
    pub name: String,
    /// Buffers of different ranks.
    pub of: Vec<String>,
}

/// Memory of a rank. Without values it is undefined.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Buffer {
    pub name: String,
    #[serde(default)]
    pub rank: u32,
    #[serde(rename = "type")]
    pub element: Element,
    /// Elements; as many as there are values if it is not said.
    pub count: Option<u64>,
    /// See [`Content`].
    pub fill: Option<Value>,
    pub values: Option<Vec<Value>>,
    pub steps: Option<[Number; 2]>,
    pub file: Option<String>,
    /// What a tensor map describes.
    pub tensor: Option<Tensor>,
}

/// A tensor and the tile of it that a copy moves, see [`crate::TensorMap`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tensor {
    /// The buffer that it is in, or a place there.
    pub of: String,
    #[serde(rename = "type")]
    pub element: Element,
    /// Elements along each dimension, the innermost first.
    pub dims: Vec<u64>,
    /// Bytes from one element to the next, from the second dimension on; as they are without gaps if it is not said.
    pub strides: Option<Vec<u64>>,
    /// Elements of a tile.
    pub tile: Vec<u32>,
    /// Of how many elements one is taken.
    pub element_strides: Option<Vec<u32>>,
    /// 32, 64 or 128 bytes.
    pub swizzle: Option<u32>,
    /// What is read beyond the edges is NaN.
    #[serde(default)]
    pub nan: bool,
}

/// What is in memory: one of these, or nothing.
#[derive(Debug, Clone, Default)]
pub struct Content {
    /// The same in every element.
    pub fill: Option<Value>,
    pub values: Option<Vec<Value>>,
    /// The first element, and what is added from one to the next.
    pub steps: Option<[Number; 2]>,
    /// Little-endian elements in a file.
    pub file: Option<String>,
}

/// One of: a launch, a write of the host, a wait for everything.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The kernel, as PTX or as its source calls it.
    pub launch: Option<String>,
    #[serde(default)]
    pub rank: u32,
    /// Number of the stream of the rank.
    #[serde(default)]
    pub stream: u32,
    #[serde(default = "single")]
    pub grid: Vec<u32>,
    #[serde(default = "single")]
    pub block: Vec<u32>,
    /// Dynamic shared memory in bytes.
    #[serde(default)]
    pub shared: u32,
    /// CTAs of a cluster.
    pub cluster: Option<Vec<u32>>,
    #[serde(default)]
    pub args: Vec<Value>,
    /// All CTAs run at once.
    #[serde(default)]
    pub cooperative: bool,
    /// It may begin before the one before it in its stream has ended.
    #[serde(default)]
    pub dependent: bool,
    /// The buffer that the host writes, or a variable of a module on `rank`.
    pub write: Option<String>,
    /// Type of the elements of a variable.
    #[serde(rename = "type")]
    pub element: Option<Element>,
    /// What it writes there.
    pub values: Option<Vec<Value>>,
    /// The host waits for everything.
    #[serde(default)]
    pub wait: bool,
}

fn single() -> Vec<u32> {
    vec![1]
}

/// What a buffer must hold.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    pub buffer: String,
    /// Rank and type of the elements of a variable, which may stand in the place of a buffer.
    #[serde(default)]
    pub rank: u32,
    #[serde(rename = "type")]
    pub element: Option<Element>,
    /// The first element that is compared.
    #[serde(default)]
    pub from: u64,
    /// How far a number may be off.
    #[serde(default)]
    pub tolerance: f64,
    /// See [`Content`].
    pub fill: Option<Value>,
    pub values: Option<Vec<Value>>,
    pub steps: Option<[Number; 2]>,
    pub file: Option<String>,
}

/// A finding that is accepted, see [`crate::Waiver`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// Names of rules; all if there are none.
    #[serde(default)]
    pub rules: Vec<String>,
    pub kernel: Option<String>,
    /// First and last line of the PTX text.
    pub lines: Option<[u32; 2]>,
    pub symbol: Option<String>,
    pub reason: String,
}

impl Buffer {
    fn content(&self) -> Content {
        let Buffer { fill, values, steps, file, .. } = self.clone();
        Content { fill, values, steps, file }
    }
}

impl Expectation {
    fn content(&self) -> Content {
        let Expectation { fill, values, steps, file, .. } = self.clone();
        Content { fill, values, steps, file }
    }
}
