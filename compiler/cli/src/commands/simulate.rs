//! `moec simulate`

use clap::{Args, ValueEnum};
use moe_front::units::Microseconds;
use moe_planner::page::picture::Page;
use moe_planner::simulate::{self, Conditions, Fault, GpuId, Spine};
use moe_planner::{Planner, setting};

use crate::checked::Warnings;
use crate::failure::Failure;
use crate::files::InputPath;
use crate::memory;
use crate::planning::{self, Evidence, pretty};
use crate::progress::Progress;
use crate::source::Source;
use crate::terminal::{self, Terminal};

#[derive(Args)]
pub struct Simulate {
    /// The .moe file, `-` for standard input
    pub file: InputPath,
    #[command(flatten)]
    pub warnings: Warnings,
    /// Which deploy of the file [default: the only one]
    #[arg(long)]
    pub deploy: Option<String>,
    /// Change a number of the deploy: ep, pp, dp, zero, sms or tokens
    #[arg(long = "set", value_name = "NAME=NUMBER")]
    pub changes: Vec<String>,
    /// GPUs that send at the same time, whole groups of ranks [default: all of the deploy]
    #[arg(long)]
    pub gpus: Option<u64>,
    /// Tokens of each GPU [default: as the deploy says]
    #[arg(long)]
    pub tokens: Option<u64>,
    #[command(flatten)]
    pub evidence: Evidence,
    /// Tokens of a chunk: finer is closer to the truth and takes longer
    #[arg(long, default_value_t = 64, value_name = "TOKENS")]
    pub chunk_tokens: u64,
    /// Most chunks of one sender on the way, to other nodes and inside the node each
    #[arg(long, default_value_t = 16, value_name = "CHUNKS")]
    pub window: u64,
    /// In which order a GPU sends its chunks
    #[arg(long, value_enum, default_value_t = OrderName::Shuffled)]
    pub order: OrderName,
    /// A GPU whose NIC reaches only a part of its rate, such as 13=0.5. Repeatable
    #[arg(long, value_name = "GPU=PART", value_parser = of_gpu)]
    pub slow_nic: Vec<OfGpu>,
    /// A GPU whose NVLink reaches only a part of its rate. Repeatable
    #[arg(long, value_name = "GPU=PART", value_parser = of_gpu)]
    pub slow_nvlink: Vec<OfGpu>,
    /// A GPU that starts so many microseconds after the others. Repeatable
    #[arg(long, value_name = "GPU=MICROSECONDS", value_parser = of_gpu)]
    pub straggler: Vec<OfGpu>,
    /// A GPU whose experts take so many times as long. Repeatable
    #[arg(long, value_name = "GPU=FACTOR", value_parser = of_gpu)]
    pub slow_experts: Vec<OfGpu>,
    /// Rate of the NICs of a pod over that of its uplinks, on each rail; 1 is non-blocking [default: one switch a rail]
    #[arg(long, value_name = "FACTOR", requires = "nodes_per_pod")]
    pub oversubscription: Option<f64>,
    /// Nodes below one leaf switch of each rail
    #[arg(long, value_name = "NODES", requires = "oversubscription")]
    pub nodes_per_pod: Option<u64>,
    /// What a chunk that changes pods waits more
    #[arg(long, default_value_t = 1.0, value_name = "MICROSECONDS", requires = "oversubscription")]
    pub spine_latency: f64,
    /// From a NIC to another NIC of its rail
    #[arg(long, default_value_t = 5.0, value_name = "MICROSECONDS")]
    pub nic_latency: f64,
    /// From a GPU to another GPU of its node
    #[arg(long, default_value_t = 1.0, value_name = "MICROSECONDS")]
    pub nvlink_latency: f64,
    /// Time of the experts on a GPU with average load [default: from their operations]
    #[arg(long, value_name = "MICROSECONDS")]
    pub expert_time: Option<f64>,
    /// How the outcome is printed
    #[arg(long, value_enum, default_value_t = SimulateFormat::Table)]
    pub format: SimulateFormat,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum OrderName {
    /// At random, as tokens come
    Shuffled,
    /// Each begins with itself and goes round
    Rotated,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum SimulateFormat {
    Table,
    Json,
    /// Times, utilisation and every GPU, as charts for a document
    Svg,
    /// One page for a browser, with charts and tables
    Html,
}

/// A number of one GPU.
#[derive(Clone, Copy)]
pub struct OfGpu {
    gpu: GpuId,
    number: f64,
}

fn of_gpu(text: &str) -> Result<OfGpu, String> {
    let number = text.split_once('=').and_then(|(gpu, number)| {
        let gpu = GpuId(gpu.trim().parse().ok()?);
        Some(OfGpu { gpu, number: number.trim().parse().ok()? })
    });
    number.ok_or_else(|| "write the number of a GPU, counted from 0, and a number, such as `13=0.5`".to_owned())
}

impl Simulate {
    fn conditions(&self) -> Result<Conditions, Failure> {
        let spine = |(oversubscription, nodes_per_pod)| -> Result<Spine, Failure> {
            let nodes_per_pod = setting::NODES_PER_POD.narrow(nodes_per_pod)?;
            Ok(Spine { nodes_per_pod, oversubscription, latency: Microseconds(self.spine_latency) })
        };
        let slow_nic = self.slow_nic.iter().map(|of| Fault::SlowNic { gpu: of.gpu, rate: of.number });
        let slow_nvlink = self.slow_nvlink.iter().map(|of| Fault::SlowNvlink { gpu: of.gpu, rate: of.number });
        let late = self.straggler.iter().map(|of| Fault::Late { gpu: of.gpu, by: Microseconds(of.number) });
        let slow_experts = self.slow_experts.iter().map(|of| Fault::SlowExperts { gpu: of.gpu, factor: of.number });
        Ok(Conditions {
            gpus: self.gpus.map(|number| setting::GPUS.narrow(number)).transpose()?,
            nvlink_latency: Microseconds(self.nvlink_latency),
            nic_latency: Microseconds(self.nic_latency),
            spine: self.oversubscription.zip(self.nodes_per_pod).map(spine).transpose()?,
            expert_time: self.expert_time.map(Microseconds),
            faults: slow_nic.chain(slow_nvlink).chain(late).chain(slow_experts).collect(),
            options: simulate::Options {
                chunk_tokens: setting::CHUNK_TOKENS.narrow(self.chunk_tokens)?,
                window: setting::WINDOW.narrow(self.window)?,
                order: match self.order {
                    OrderName::Shuffled => simulate::Order::Shuffled,
                    OrderName::Rotated => simulate::Order::Rotated,
                },
                seed: self.evidence.seed,
            },
        })
    }
}

/// Simulates one dispatch and one combine.
pub fn simulate(arguments: &Simulate, terminal: &Terminal) -> Result<(), Failure> {
    let source = Source::read(&arguments.file)?;
    let (spec, id) = source.check()?.deploy(arguments.deploy.as_deref(), &arguments.warnings, terminal)?;
    let deploy = &spec.deploys[id];
    let failed =
        |error: &dyn std::fmt::Display| Failure::Message(format!("{}: deploy `{}`: {error}", source.name, deploy.name));
    let mut change = planning::change(&arguments.changes)?;
    if let Some(tokens) = arguments.tokens {
        change.tokens = Some(setting::TOKENS.narrow(tokens)?);
    }
    let options = arguments.evidence.options(&spec.clusters[deploy.cluster])?;
    memory::enough_for_sample(options.sampled_tokens, spec.models[deploy.model].top_k())?;
    let mut planner = Planner::new(&spec, id, options).map_err(|error| failed(&error))?;
    let parallel = planner.parallel(change).map_err(|error| failed(&error))?;
    let report = planner.report(&parallel).map_err(|error| failed(&error))?;
    let conditions = arguments.conditions()?;
    let runs = if conditions.faults.is_empty() { 1 } else { 2 };
    let chunks = planner.scenario(&report, &conditions).map_err(|error| failed(&error))?.chunks();
    let progress = Progress::new(terminal, 2 * runs * chunks);
    let simulation =
        planner.simulate(&report, &conditions, &|arrived| progress.advance(arrived)).map_err(|error| failed(&error))?;
    drop(progress);
    let page = Page { simulation: Some(&simulation), ..Page::default() };
    match arguments.format {
        SimulateFormat::Table => terminal.show(&simulation.page()),
        SimulateFormat::Json => terminal::print(&pretty(&serde_json::json!(simulation))),
        SimulateFormat::Svg => terminal::print(&page.svg()),
        SimulateFormat::Html => terminal::print(&page.html()),
    }
}
