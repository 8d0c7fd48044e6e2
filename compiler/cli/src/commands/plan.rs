//! `moec plan`

use clap::{Args, ValueEnum};
use moe_contract::placement::{LayerSlots, Placement};
use moe_front::diagnostics::{Code, Diagnostic, Diagnostics, Label, Severity};
use moe_front::spec::{Cluster, DeployId, Model, Spec};
use moe_front::text;
use moe_planner::cost::compare::By;
use moe_planner::cost::memory::{Memory, Recompute};
use moe_planner::cost::parallel::Schedule;
use moe_planner::cost::search::Found;
use moe_planner::cost::{Costs, Placed, SCHEMA};
use moe_planner::human_bytes;
use moe_planner::page::picture::Page;
use moe_planner::page::{compare_table, front_table};
use moe_planner::page::{compared, remedy};
use moe_planner::placement::{self, Load};
use moe_planner::{Change, Logits, Options, Planner, Report, setting};
use schemars::JsonSchema;
use serde::Serialize;

use crate::checked::Warnings;
use crate::failure::Failure;
use crate::files::InputPath;
use crate::memory;
use crate::planning::{self, Asked, Evidence, at, pretty};
use crate::source::Source;
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
    #[arg(long, value_name = "NAME=NUMBER,NUMBER,...")]
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
    /// What the backward pass computes again [default: selective if that fits the memory, else full]
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
    None,
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
    /// Which of them to take, and how they differ.
    comparison: &'a moe_planner::page::Comparison,
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
    memory::enough_for_sample(options.sampled_tokens, model.top_k())?;
    let observed = Observed::read(arguments, model)?;
    observed.apply(&mut options);
    let mut planner = Planner::new(&spec, id, options).map_err(|error| failed(&error))?;
    let page = |page: Page<'_>| arguments.format.page(&Page { placement: observed.before_and_after(), ..page });
    if arguments.search {
        let found = planner.search().map_err(|error| failed(&error))?;
        return terminal::print(&match arguments.format {
            PlanFormat::Table => return terminal.show(&front_table(&found)),
            PlanFormat::Json => pretty(&serde_json::json!(Search { schema: SCHEMA, search: &found })),
            PlanFormat::Svg | PlanFormat::Html => {
                // The deploy as it is written, if that is a plan, beside the best that was found.
                let written = planner.parallel(Change::default()).ok();
                let mut plans: Vec<Report> = written.iter().filter_map(|plan| planner.report(plan).ok()).collect();
                if Some(found.best.parallel) != written {
                    plans.push(planner.report(&found.best.parallel).map_err(|error| failed(&error))?);
                }
                let comparison = (plans.len() > 1).then(|| compared(&plans));
                page(Page {
                    plans: &plans,
                    comparison: comparison.as_ref().map_or(&[], |comparison| &comparison.words),
                    search: Some(&found),
                    ..Page::default()
                })
            }
        });
    }
    let changes = combinations(&arguments.changes, &arguments.compare)?;
    let mut reports = Vec::new();
    for change in changes {
        let which = planning::shown(&change);
        let failed = |error: &dyn std::fmt::Display| failed(&format!("{which}{error}"));
        let parallel = planner.parallel(change).map_err(|error| failed(&error))?;
        reports.push(planner.report(&parallel).map_err(|error| failed(&error))?);
    }
    if let [report] = &reports[..] {
        match arguments.format {
            PlanFormat::Table => terminal.show(&report.page())?,
            PlanFormat::Json => terminal::print(&pretty(&serde_json::json!(report)))?,
            PlanFormat::Svg | PlanFormat::Html => {
                terminal::print(&page(Page { plans: &reports, ..Page::default() }))?;
            }
        }
        return match &report.memory {
            Some(memory) if !memory.fits() => Err(does_not_fit(&source, &spec, id, report, memory)),
            _ => Ok(()),
        };
    }
    let comparison = compared(&reports);
    match arguments.format {
        PlanFormat::Table => terminal.show(&side_by_side(&reports, &comparison.words))?,
        PlanFormat::Json => {
            let all = serde_json::json!(Comparison { schema: SCHEMA, plans: &reports, comparison: &comparison });
            terminal::print(&pretty(&all))?;
        }
        PlanFormat::Svg | PlanFormat::Html => {
            terminal::print(&page(Page { plans: &reports, comparison: &comparison.words, ..Page::default() }))?;
        }
    }
    match (comparison.verdict.by, comparison.words.last()) {
        (By::NoneFits, Some(verdict)) => Err(failed(verdict)),
        _ => Ok(()),
    }
}

/// What is known of the experts of a running model: how often each was picked, and where it is.
struct Observed {
    load: Option<Load>,
    placement: Option<Placement>,
    /// The layer that stands for all.
    layer: u32,
    /// What the placement does with the load.
    described: Option<placement::PlacementReport>,
}

impl Observed {
    fn read(arguments: &Plan, model: &Model) -> Result<Observed, Failure> {
        if let (Some(layer), None, None) = (arguments.layer, &arguments.load, &arguments.placement) {
            return Err(Failure::Message(format!(
                "`--layer {layer}` chooses among the layers of `--load` or `--placement`: give one of them, or leave `--layer` out"
            )));
        }
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
        let worst = described.as_ref().and_then(placement::PlacementReport::worst_before).map(|layer| layer.layer);
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

    fn before_and_after(&self) -> Option<(&Load, &placement::PlacementReport)> {
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

fn side_by_side(reports: &[Report], words: &[String]) -> text::Page {
    let mut page = text::Page::default();
    let Report { costs: Costs { deploy, model, cluster, mode, .. }, assumptions, .. } = &reports[0];
    page.line(format!("deploy {deploy} of {model} on {cluster}, {mode} mode"));
    page.line(words.last().map_or("", String::as_str));
    page.gap();
    page.table(compare_table(reports));
    let mut list = |title: &str, lines: &[String]| {
        page.gap();
        page.line(title);
        lines.iter().for_each(|line| page.item(line));
    };
    list("compared", words);
    for report in reports {
        let plan = &report.parallel;
        let words = [&report.headline[..], &report.explanation].concat();
        list(&format!("ep {} pp {} dp {} zero {}", plan.ep, plan.pp, plan.dp, plan.zero), &words);
    }
    list("assumed", assumptions);
    page
}

fn options(arguments: &Plan, cluster: &Cluster) -> Result<Options, Failure> {
    Ok(Options {
        schedule: arguments.schedule.map(|schedule| match schedule {
            ScheduleName::OneForwardOneBackward => Schedule::OneForwardOneBackward,
            ScheduleName::ZeroBubble => Schedule::ZeroBubble,
            ScheduleName::DualPipe => Schedule::DualPipe,
        }),
        recompute: arguments.recompute.map(|recompute| match recompute {
            RecomputeName::None => Recompute::None,
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
fn does_not_fit(source: &Source, spec: &Spec, id: DeployId, report: &Report, memory: &Memory) -> Failure {
    let deploy = &spec.deploys[id];
    let (total, capacity) = (memory.total().0, memory.capacity.0);
    let parts: Vec<String> =
        memory.parts.iter().map(|part| format!("{} {}", part.kind.name(), human_bytes(part.bytes.0 as f64))).collect();
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
        help: remedy(report),
        fix: None,
    });
    Failure::File(source.clone(), diagnostics)
}
