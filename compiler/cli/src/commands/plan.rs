//! `moec plan`

use clap::{Args, ValueEnum};
use moe_compiler::diagnostics::{Code, Diagnostic, Diagnostics, Label, Severity};
use moe_compiler::spec::{Cluster, DeployId, Model, Spec};
use moe_contract::placement::{LayerSlots, Placement};
use moe_planner::explain::{compared, remedy};
use moe_planner::memory::Recompute;
use moe_planner::picture::Page;
use moe_planner::placement::{self, Load};
use moe_planner::report::{Placed, SCHEMA, compare_table, front_table, human_bytes};
use moe_planner::search::Found;
use moe_planner::step::Schedule;
use moe_planner::{Change, Logits, Options, Planner, Report, setting};
use schemars::JsonSchema;
use serde::Serialize;

use crate::failure::Failure;
use crate::files::InputPath;
use crate::planning::{self, Asked, Evidence, at, pretty};
use crate::source::{Source, Warnings};
use crate::terminal::{self, Terminal};

#[derive(Args)]
pub struct Plan {
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
    /// Plans side by side, one for each number; with several options, for each combination
    #[arg(long, value_name = "NAME=NUMBER,NUMBER…")]
    pub compare: Vec<String>,
    /// Try every ep, pp, dp, ZeRO stage, number of SMs and schedule that fits the memory
    #[arg(long, conflicts_with_all = ["compare", "changes"])]
    pub search: bool,
    #[command(flatten)]
    pub evidence: Evidence,
    /// Where the experts are, as `moec place -o` wrote it [default: in order, in equal blocks]
    #[arg(long, value_name = "FILE", conflicts_with = "search")]
    pub placement: Option<InputPath>,
    /// How often each expert was picked, as `moec place` takes it: the gate's picks follow these counts
    #[arg(long, value_name = "FILE", conflicts_with_all = ["input", "skew"])]
    pub load: Option<InputPath>,
    /// The layer of placement and load that stands for all [default: the one whose counts are spread worst, else the first]
    #[arg(long)]
    pub layer: Option<u32>,
    /// How pipeline stages alternate [default: dualpipe on an even number of stages, else 1f1b]
    #[arg(long, value_enum)]
    pub schedule: Option<ScheduleName>,
    /// Micro-batches of a step [default: 8 for each pipeline stage]
    #[arg(long)]
    pub micro_batches: Option<u64>,
    /// What is recomputed in the backward pass [default: as little as the memory allows]
    #[arg(long, value_enum)]
    pub recompute: Option<RecomputeName>,
    /// Part of the dense bf16 peak that compute reaches
    #[arg(long, default_value_t = 0.5)]
    pub efficiency: f64,
    /// How the report is printed
    #[arg(long, value_enum, default_value_t = PlanFormat::Table)]
    pub format: PlanFormat,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum ScheduleName {
    #[value(name = "1f1b")]
    OneForwardOneBackward,
    ZeroBubble,
    #[value(name = "dualpipe")]
    DualPipe,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum RecomputeName {
    Selective,
    Full,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum PlanFormat {
    Table,
    Json,
    /// The charts, for a document
    Svg,
    /// One page for a browser, with charts, tables and words
    Html,
}

impl PlanFormat {
    fn page(self, page: &Page<'_>) -> String {
        if self == PlanFormat::Svg { page.svg() } else { page.html() }
    }
}

/// What `--compare` prints as JSON.
#[derive(Serialize, JsonSchema)]
pub struct Comparison<'a> {
    /// Of this form; other forms get other numbers.
    #[schemars(extend("const" = SCHEMA))]
    schema: u32,
    /// In the order that was asked for.
    plans: &'a [Report],
    /// How the others differ from the first, in words.
    comparison: &'a [String],
}

/// What `--search` prints as JSON.
#[derive(Serialize, JsonSchema)]
pub struct Search<'a> {
    /// Of this form; other forms get other numbers.
    #[schemars(extend("const" = SCHEMA))]
    schema: u32,
    /// What was found.
    search: &'a Found,
}

/// Says what a deploy costs, and why.
pub fn plan(arguments: &Plan, terminal: &Terminal) -> Result<(), Failure> {
    let source = Source::read(&arguments.file)?;
    let (spec, id) = source.check()?.deploy(arguments.deploy.as_deref(), &arguments.warnings, terminal)?;
    let failed = |error: &dyn std::fmt::Display| {
        Failure::Message(format!("{}: deploy `{}`: {error}", source.name, spec.deploys[id].name))
    };
    let (model, cluster) = (&spec.models[spec.deploys[id].model], &spec.clusters[spec.deploys[id].cluster]);
    let mut options = options(arguments, cluster)?;
    let observed = Observed::read(arguments, model)?;
    observed.apply(&mut options);
    let mut planner = Planner::new(&spec, id, options).map_err(|error| failed(&error))?;
    if arguments.search {
        let found = planner.search().map_err(|error| failed(&error))?;
        return terminal::print(&match arguments.format {
            PlanFormat::Table => front_table(&found),
            PlanFormat::Json => pretty(&serde_json::json!(Search { schema: SCHEMA, search: &found })),
            PlanFormat::Svg | PlanFormat::Html => {
                // The fastest that fits beside the deploy as it is written, if that is a plan.
                let written = planner.parallel(Change::default()).ok();
                let fastest = found.front.first().map(|candidate| candidate.parallel);
                let mut plans: Vec<Report> =
                    written.iter().filter_map(|written| planner.report(written).ok()).collect();
                if let Some(parallel) = fastest.filter(|fastest| Some(*fastest) != written) {
                    plans.push(planner.report(&parallel).map_err(|error| failed(&error))?);
                }
                let comparison: Vec<String> = plans.iter().skip(1).flat_map(|plan| compared(&plans[0], plan)).collect();
                arguments.format.page(&Page {
                    plans: &plans,
                    comparison: &comparison,
                    search: Some(&found),
                    ..Page::default()
                })
            }
        });
    }
    let changes = combinations(&arguments.changes, &arguments.compare)?;
    let mut reports = Vec::new();
    for change in changes {
        let parallel = planner.parallel(change).map_err(|error| failed(&error))?;
        reports.push(planner.report(&parallel).map_err(|error| failed(&error))?);
    }
    match (&reports[..], arguments.format) {
        ([report], PlanFormat::Table) => terminal::print(&report.to_string())?,
        ([report], PlanFormat::Json) => terminal::print(&pretty(&serde_json::json!(report)))?,
        ([_], format) => {
            let page = Page { plans: &reports, placement: observed.before_and_after(), ..Page::default() };
            terminal::print(&format.page(&page))?;
        }
        (_, format) => {
            let words: Vec<String> = reports[1..].iter().flat_map(|other| compared(&reports[0], other)).collect();
            terminal::print(&match format {
                PlanFormat::Table => side_by_side(&reports, &words),
                PlanFormat::Json => {
                    pretty(&serde_json::json!(Comparison { schema: SCHEMA, plans: &reports, comparison: &words }))
                }
                format => format.page(&Page {
                    plans: &reports,
                    comparison: &words,
                    placement: observed.before_and_after(),
                    ..Page::default()
                }),
            })?;
        }
    }
    match reports.iter().find(|report| reports.len() == 1 && !report.fits) {
        Some(report) => Err(does_not_fit(&source, &spec, id, report)),
        None => Ok(()),
    }
}

/// What is known of the experts of a running model: how often each was picked, and where it is.
struct Observed {
    load: Option<Load>,
    placement: Option<Placement>,
    /// The layer that stands for all.
    layer: u32,
    /// What the placement does with the load.
    described: Option<placement::Placement>,
}

impl Observed {
    fn read(arguments: &Plan, model: &Model) -> Result<Observed, Failure> {
        let load = arguments.load.as_ref().map(|path| planning::load(path, model)).transpose()?;
        let placement = arguments.placement.as_ref().map(planning::placement).transpose()?;
        let described = match (&load, &placement, &arguments.placement) {
            (Some(load), Some(placement), Some(path)) => {
                let described = placement::describe(load, placement, &placement::Options::of(model));
                Some(described.map_err(|error| at(path, &error))?)
            }
            _ => None,
        };
        let of_load = load.as_ref().map(|load| load.layers().to_vec());
        let of_placement =
            placement.as_ref().map(|placement| placement.layers().iter().map(LayerSlots::layer).collect::<Vec<_>>());
        if let Some(layer) = arguments.layer {
            for (path, layers) in [(&arguments.load, &of_load), (&arguments.placement, &of_placement)] {
                let (Some(path), Some(layers)) = (path, layers) else { continue };
                if !layers.contains(&layer) {
                    return Err(at(path, &format!("there is no layer {layer}; it has {}", list(layers))));
                }
            }
        }
        // The layer that a page shows before and after placement, if there is one.
        let worst = described.as_ref().and_then(placement::Placement::worst_before).map(|layer| layer.layer);
        let worst = worst.or(load.as_ref().map(worst_spread));
        let first = || of_placement.as_ref().and_then(|layers| layers.first().copied());
        let layer = arguments.layer.or(worst).or_else(first).unwrap_or_default();
        Ok(Observed { load, placement, layer, described })
    }

    fn apply(&self, options: &mut Options) {
        let row = |load: &Load| load.layers().iter().position(|&layer| layer == self.layer);
        if let Some((load, row)) = self.load.as_ref().and_then(|load| Some((load, row(load)?))) {
            options.logits = Logits::Counted(load.counts()[row].clone());
        }
        options.placed = self.placement.clone().map(|placement| Placed { placement, layer: self.layer });
    }

    fn before_and_after(&self) -> Option<(&Load, &placement::Placement)> {
        self.load.as_ref().zip(self.described.as_ref())
    }
}

/// The layer whose most picked expert is furthest above the mean, the first of several.
fn worst_spread(load: &Load) -> u32 {
    let spread = |counts: &Vec<f64>| {
        let (most, all) = (counts.iter().copied().fold(0.0, f64::max), counts.iter().sum::<f64>());
        if all > 0.0 { most / all } else { 0.0 }
    };
    let spreads = load.layers().iter().copied().zip(load.counts().iter().map(spread));
    spreads.fold((0, -1.0), |worst, next| if next.1 > worst.1 { next } else { worst }).0
}

fn list(layers: &[u32]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<String> = layers.iter().take(SHOWN).map(u32::to_string).collect();
    shown.join(", ") + if layers.len() > SHOWN { ", …" } else { "" }
}

fn side_by_side(reports: &[Report], words: &[String]) -> String {
    let mut text = format!(
        "deploy {} of {} on {}, {} mode\n{}",
        reports[0].deploy,
        reports[0].model,
        reports[0].cluster,
        reports[0].mode,
        compare_table(reports)
    );
    let mut list = |title: &str, lines: &[String]| {
        text.push_str(&format!("\n{title}\n"));
        lines.iter().for_each(|line| text.push_str(&format!("  • {line}\n")));
    };
    list("compared", words);
    for report in reports {
        let plan = &report.parallel;
        list(&format!("ep {} pp {} dp {} zero {}", plan.ep, plan.pp, plan.dp, plan.zero), &report.explanation);
    }
    list("assumed", &reports[0].assumptions);
    text
}

fn options(arguments: &Plan, cluster: &Cluster) -> Result<Options, Failure> {
    Ok(Options {
        schedule: arguments.schedule.map(|schedule| match schedule {
            ScheduleName::OneForwardOneBackward => Schedule::OneForwardOneBackward,
            ScheduleName::ZeroBubble => Schedule::ZeroBubble,
            ScheduleName::DualPipe => Schedule::DualPipe,
        }),
        recompute: arguments.recompute.map(|recompute| match recompute {
            RecomputeName::Selective => Recompute::Selective,
            RecomputeName::Full => Recompute::Full,
        }),
        micro_batches: arguments.micro_batches.map(|number| setting::MICRO_BATCHES.narrow(number)).transpose()?,
        efficiency: arguments.efficiency,
        ..arguments.evidence.options(cluster)?
    })
}

/// One change for each combination of the compared numbers.
fn combinations(fixed: &[String], compare: &[String]) -> Result<Vec<Change>, Failure> {
    let mut all = vec![planning::change(fixed)?];
    for text in compare {
        let asked = Asked::read("--compare", text)?;
        if all.len() * asked.numbers.len() > MOST_COMPARED {
            return Err(Failure::Message(format!(
                "`--compare {text}` makes more than {MOST_COMPARED} plans: compare fewer side by side, or use `--search`"
            )));
        }
        let with = |change: Change| {
            asked.numbers.iter().map(move |&number| (change, number)).map(|(mut change, number)| {
                asked.set(&mut change, number);
                change
            })
        };
        all = all.into_iter().flat_map(with).collect();
    }
    Ok(all)
}

const MOST_COMPARED: usize = 8;

/// A deploy that its cluster cannot hold.
fn does_not_fit(source: &Source, spec: &Spec, id: DeployId, report: &Report) -> Failure {
    let deploy = &spec.deploys[id];
    let (total, capacity) = (report.memory.total().0, report.memory.capacity.0);
    let parts: Vec<String> = report
        .memory
        .parts
        .iter()
        .map(|part| format!("{} {}", part.kind.name(), human_bytes(part.bytes.0 as f64)))
        .collect();
    let mut diagnostics = Diagnostics::default();
    diagnostics.report(Diagnostic {
        code: Code::Memory,
        severity: Severity::Error,
        title: format!("the fullest GPU needs {}, and has {}", human_bytes(total as f64), human_bytes(capacity as f64)),
        labels: vec![
            Label { span: deploy.place, text: format!("{} too much", human_bytes((total - capacity) as f64)) },
            Label { span: spec.clusters[deploy.cluster].memory_place, text: "the memory of a GPU".to_owned() },
        ],
        notes: vec![parts.join(", ")],
        help: Some(remedy(report).to_owned()),
        fix: None,
    });
    Failure::File(source.clone(), diagnostics)
}
