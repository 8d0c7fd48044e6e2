//! `moec place`

use clap::{Args, ValueEnum};
use moe_front::spec::{Deploy, Model, Spec};
use moe_front::units::Bytes;
use moe_planner::page::picture::Page;
use moe_planner::placement::{self, Options, Shape};
use moe_planner::setting;

use crate::arguments::output_file;
use crate::checked::Warnings;
use crate::failure::Failure;
use crate::files::{self, InputPath, OutputPath};
use crate::planning;
use crate::source::Source;
use crate::terminal::{self, Terminal};

#[derive(Args)]
pub struct Place {
    /// The .moe file, `-` for standard input
    pub file: InputPath,
    #[command(flatten)]
    pub warnings: Warnings,
    /// How often each expert was picked: CSV with the columns layer, expert, count; or JSON, an array of counts per layer
    #[arg(long, value_name = "FILE")]
    pub load: InputPath,
    /// Which deploy of the file [default: the only one]
    #[arg(long)]
    pub deploy: Option<String>,
    /// Nodes over which the ranks are spread [default: as the deploy says]
    #[arg(long)]
    pub nodes: Option<u64>,
    /// GPUs of each node [default: as the deploy says]
    #[arg(long)]
    pub gpus_per_node: Option<u64>,
    /// Slots of all GPUs in a layer: experts and their further copies [default: at least one further copy on each GPU]
    #[arg(long)]
    pub replicas: Option<u64>,
    /// What is kept together [default: hierarchical if the gate has groups that fit the nodes, else global]
    #[arg(long, value_enum)]
    pub policy: Option<Policy>,
    /// Where the experts are now, as an earlier placement wrote it; fewer of them then move
    #[arg(long, value_name = "FILE")]
    pub current: Option<InputPath>,
    /// How far load and copies may be above the best found so that fewer experts move, as a part of it
    #[arg(long, default_value_t = 0.0, value_name = "PART")]
    pub slack: f64,
    /// Bytes of an expert's parameters [default: three matrices of 16-bit numbers]
    #[arg(long, value_name = "BYTES")]
    pub expert_bytes: Option<u64>,
    /// Bytes of a GPU for experts of these layers; more is an error
    #[arg(long, value_name = "BYTES")]
    pub memory: Option<u64>,
    /// Seed of the search
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Where the placement goes, as JSON for the runtime
    #[arg(short, long, value_name = "FILE", value_parser = output_file())]
    pub output: Option<OutputPath>,
    /// How the placement is printed
    #[arg(long, value_enum, default_value_t = PlaceFormat::Table)]
    pub format: PlaceFormat,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Policy {
    /// Whole groups on nodes, and the copies of an expert on its node
    Hierarchical,
    /// Any copy on any GPU
    Global,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum PlaceFormat {
    Table,
    Json,
    /// Load before and after, as charts for a document
    Svg,
    /// One page for a browser, with charts and tables
    Html,
}

/// Says which GPU should hold which experts.
pub fn place(arguments: &Place, terminal: &Terminal) -> Result<(), Failure> {
    arguments.output.iter().try_for_each(files::check)?;
    let source = Source::read(&arguments.file)?;
    let (spec, id) = source.check()?.deploy(arguments.deploy.as_deref(), &arguments.warnings, terminal)?;
    let deploy = &spec.deploys[id];
    let model = &spec.models[deploy.model];
    let load = planning::load(&arguments.load, model)?;
    if model.stored_experts() != model.experts {
        return Err(Failure::Message(format!(
            "{}: model {} has experts that compute nothing; `moec place` places models without such experts only",
            source.name, model.name
        )));
    }
    let shape = shape(arguments, &spec, deploy, model)?;
    let options = options(arguments, model, &shape)?;
    let placement = placement::place(&load, &shape, &options)
        .map_err(|error| Failure::Message(format!("{}: deploy `{}`: {error}", source.name, deploy.name)))?;
    let json = placement.to_json() + "\n";
    if let Some(path) = &arguments.output {
        files::write(path, json.as_bytes())?;
    }
    let page = Page { placement: Some((&load, &placement)), ..Page::default() };
    match arguments.format {
        PlaceFormat::Table => terminal.show(&placement.page()),
        PlaceFormat::Json => terminal::print(&json),
        PlaceFormat::Svg => terminal::print(&page.svg()),
        PlaceFormat::Html => terminal::print(&page.html()),
    }
}

fn shape(arguments: &Place, spec: &Spec, deploy: &Deploy, model: &Model) -> Result<Shape, Failure> {
    let written = spec.clusters[deploy.cluster].gpus_per_node.min(deploy.ep).max(1);
    let gpus_per_node = match arguments.gpus_per_node {
        Some(number) => setting::GPUS_PER_NODE.narrow(number)?,
        None => written,
    };
    let nodes = match arguments.nodes {
        Some(number) => setting::NODES.narrow(number)?,
        None => deploy.ep.div_ceil(gpus_per_node),
    };
    let replicas = match arguments.replicas {
        Some(number) => setting::REPLICAS.narrow(number)?,
        None => {
            let gpus = u64::from(nodes) * u64::from(gpus_per_node);
            // At most 2^52: the settings above are narrow.
            setting::REPLICAS.narrow((u64::from(model.experts).div_ceil(gpus) + 1) * gpus)?
        }
    };
    Ok(Shape { nodes, gpus_per_node, groups: model.groups.unwrap_or(1), replicas })
}

fn options(arguments: &Place, model: &Model, shape: &Shape) -> Result<Options, Failure> {
    let hierarchical = match arguments.policy {
        Some(policy) => matches!(policy, Policy::Hierarchical),
        None => shape.groups > 1 && shape.groups.is_multiple_of(shape.nodes),
    };
    let current = arguments.current.as_ref().map(planning::placement).transpose()?;
    let mut options = Options::of(model);
    options.policy = if hierarchical { placement::Policy::Hierarchical } else { placement::Policy::Global };
    options.expert_bytes = arguments.expert_bytes.map(Bytes).or(options.expert_bytes);
    options.gpu_memory = arguments.memory.map(Bytes);
    options.current = current;
    options.slack = arguments.slack;
    options.seed = arguments.seed;
    Ok(options)
}
