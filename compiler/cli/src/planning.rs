//! What the commands that ask the planner have in common: which deploy, what the gate is asked, how fast kernels are.

use clap::Args;
use moe_contract::placement::Placement;
use moe_front::spec::{Cluster, Model};
use moe_planner::calibrate::{self, Hardware};
use moe_planner::placement::Load;
use moe_planner::sample::Observed;
use moe_planner::time::Profile;
use moe_planner::{Change, Logits, Options, setting};
use safetensors::{Dtype, SafeTensors};

use crate::failure::Failure;
use crate::files::{InputPath, Wanted};
use crate::tensors::TensorError;

/// What the numbers of a plan are judged by.
#[derive(Args)]
pub struct Evidence {
    /// Recorded logits [tokens, experts] and gate parameters (safetensors) instead of random ones
    #[arg(long, value_name = "FILE", conflicts_with = "skew")]
    pub input: Option<InputPath>,
    /// Random logits with an offset per expert of this standard deviation
    #[arg(long, value_name = "DEVIATION")]
    pub skew: Option<f32>,
    /// Tokens that the gate is asked about
    #[arg(long, default_value_t = 32768)]
    pub sample: u64,
    /// Seed of every random number
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Measurements (CSV) made on this cluster; kernel times are fitted to them. Repeatable: throughput, low latency
    #[arg(long, value_name = "FILE")]
    pub calibrate: Vec<InputPath>,
}

impl Evidence {
    /// For a planner of deploys on `cluster`.
    pub fn options(&self, cluster: &Cluster) -> Result<Options, Failure> {
        let sampled_tokens = setting::SAMPLE.narrow(self.sample)?;
        let mut options = Options { sampled_tokens, seed: self.seed, ..Options::default() };
        if let Some(deviation) = self.skew {
            options.logits = Logits::Skewed(deviation);
        }
        if let Some(path) = &self.input {
            options.logits = Logits::Observed(observed(path)?);
        }
        let nvlink = cluster.nvlink.bandwidth.0 as f64;
        let rdma = cluster.rdma.map(|link| link.bandwidth.0 as f64);
        let hardware = Hardware { gpus_per_node: cluster.gpus_per_node, nvlink, rdma: rdma.unwrap_or(nvlink) };
        for path in &self.calibrate {
            let table =
                calibrate::read(&path.read(Wanted::Measurements)?, &hardware).map_err(|error| at(path, &error))?;
            let known = options.profile.take();
            let mut profile = known.unwrap_or_else(|| Profile::of_links(nvlink, rdma));
            calibrate::refit(&mut profile, &table).map_err(|error| at(path, &error))?;
            profile.source = format!("{} measurements of {}, beginning from {}", table.rows.len(), path, profile.name);
            profile.name = "fitted".to_owned();
            options.profile = Some(profile);
        }
        Ok(options)
    }
}

/// The changes that `--set` asks for.
pub fn change(fixed: &[String]) -> Result<Change, Failure> {
    let mut change = Change::default();
    for text in fixed {
        let asked = Asked::read("--set", text)?;
        let [number] = asked.numbers[..] else {
            return Err(Failure::Message(format!("`--set {text}` has several numbers; use `--compare {text}`")));
        };
        asked.set(&mut change, number);
    }
    Ok(change)
}

/// What `NAME=NUMBER,NUMBER…` asks for, each number within its setting.
pub struct Asked {
    name: Name,
    /// In the order of the text, each once.
    pub numbers: Vec<u32>,
}

/// The numbers of a deploy that can be changed.
#[derive(Clone, Copy)]
enum Name {
    Ep,
    Pp,
    Dp,
    Zero,
    Sms,
    Tokens,
}

impl Asked {
    /// Reads the value of an option.
    pub fn read(option: &str, text: &str) -> Result<Asked, Failure> {
        let (name, list) = text.split_once('=').ok_or_else(|| {
            Failure::Message(format!("`{option} {text}` is not NAME=NUMBER, such as `ep=64` or `ep=64,128`"))
        })?;
        let (name, setting) = match name.trim() {
            "ep" => (Name::Ep, setting::EP),
            "pp" => (Name::Pp, setting::PP),
            "dp" => (Name::Dp, setting::DP),
            "zero" => (Name::Zero, setting::ZERO),
            "sms" => (Name::Sms, setting::SMS),
            "tokens" => (Name::Tokens, setting::TOKENS),
            other => {
                return Err(Failure::Message(format!(
                    "`{option} {text}`: `{other}` cannot be changed: use ep, pp, dp, zero, sms or tokens"
                )));
            }
        };
        let mut numbers = Vec::new();
        for number in list.split(',') {
            let number =
                setting.read(number).map_err(|error| Failure::Message(format!("`{option} {text}`: {error}")))?;
            if !numbers.contains(&number) {
                numbers.push(number);
            }
        }
        Ok(Asked { name, numbers })
    }

    /// Changes the number that was asked for.
    pub fn set(&self, change: &mut Change, number: u32) {
        match self.name {
            Name::Ep => change.ep = Some(number),
            Name::Pp => change.pp = Some(number),
            Name::Dp => change.dp = Some(number),
            // Within its setting, 0 to 3.
            Name::Zero => change.zero = u8::try_from(number).ok(),
            Name::Sms => change.sms = Some(number),
            Name::Tokens => change.tokens = Some(number),
        }
    }
}

/// A change as `--set` would say it, before a message about it; nothing for none.
pub fn shown(change: &Change) -> String {
    let Change { ep, pp, dp, zero, sms, tokens } = *change;
    let numbers = [("ep", ep), ("pp", pp), ("dp", dp), ("zero", zero.map(u32::from)), ("sms", sms), ("tokens", tokens)];
    let said: Vec<String> =
        numbers.iter().filter_map(|(name, number)| number.map(|number| format!("{name}={number}"))).collect();
    if said.is_empty() { String::new() } else { format!("with {}: ", said.join(" ")) }
}

/// The counts of a model's experts.
pub fn load(path: &InputPath, model: &Model) -> Result<Load, Failure> {
    let load = Load::parse(&path.read(Wanted::Counts)?).map_err(|error| at(path, &error))?;
    if load.experts() != model.experts {
        return Err(Failure::Message(format!(
            "{}: the counts are of {} experts, and model {} has {}: give the counts of this model",
            path,
            load.experts(),
            model.name,
            model.experts
        )));
    }
    Ok(load)
}

/// Where experts are.
pub fn placement(path: &InputPath) -> Result<Placement, Failure> {
    Placement::from_json(&path.read(Wanted::Placement)?).map_err(|error| at(path, &error))
}

/// What is wrong with a file.
pub fn at(path: &InputPath, error: &dyn std::fmt::Display) -> Failure {
    Failure::Message(format!("{path}: {error}"))
}

/// All f32 and i32 tensors of a file.
fn observed(path: &InputPath) -> Result<Observed, Failure> {
    let bytes = path.read(Wanted::Tensors)?;
    let damaged = |reason| TensorError::Damaged { path: path.to_string(), reason };
    let file = SafeTensors::deserialize(&bytes).map_err(damaged)?;
    let mut observed = Observed::default();
    for (name, view) in file.iter() {
        let numbers = view.data().chunks_exact(4);
        match view.dtype() {
            Dtype::F32 => {
                let floats = numbers.map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect();
                observed.floats.push((name.to_owned(), floats));
            }
            Dtype::I32 => {
                let integers = numbers.map(|four| i32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect();
                observed.integers.push((name.to_owned(), integers));
            }
            _ => {}
        }
    }
    Ok(observed)
}

/// JSON for people and tools.
pub fn pretty(value: &serde_json::Value) -> String {
    // A value that was made in memory has text keys only, which is all that can fail.
    format!("{value:#}\n")
}
