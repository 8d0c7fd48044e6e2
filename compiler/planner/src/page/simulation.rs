//! A simulation in numbers and in words, and as text for a terminal.
//!
//! Invariant: everything in it stands in the JSON too.

use std::fmt;
use std::ops::Deref;

use moe_front::text::{Page, Table};
use moe_front::units::Microseconds;
use schemars::JsonSchema;
use serde::Serialize;

use super::report::Report;
use crate::cost::Planner;
use crate::missing::{self, Missing};
use crate::not_built::NotBuilt;
use crate::simulate::{Conditions, Fault, LinkKind, Outcome, Scenario, SimulateError, Simulated, Times};

/// A deploy, simulated.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Simulation {
    /// In numbers; a simulation has them as if they were its own.
    #[serde(flatten)]
    pub simulated: Simulated,
    /// What is withheld, and why; what there are no kernels for.
    pub headline: Vec<String>,
    /// In words.
    pub explanation: Vec<String>,
    /// What was assumed.
    pub assumptions: Vec<String>,
}

impl Deref for Simulation {
    type Target = Simulated;

    fn deref(&self) -> &Simulated {
        &self.simulated
    }
}

impl Planner<'_> {
    /// Simulates one dispatch and one combine of a plan that was reported on. `watch` is told how many more chunks have arrived; with
    /// faults the cluster is simulated once more without them.
    ///
    /// # Errors
    /// If every pick is a message, which takes other ways, and what of the conditions makes no sense.
    pub fn simulate(
        &self,
        report: &Report,
        conditions: &Conditions,
        watch: &(dyn Fn(u64) + Sync),
    ) -> Result<Simulation, SimulateError> {
        let simulated = self.simulated(report, conditions, watch)?;
        let scenario = &simulated.scenario;
        let not_built = report.not_built.iter().map(NotBuilt::told);
        Ok(Simulation {
            headline: withheld(scenario, report).into_iter().chain(not_built).collect(),
            explanation: words(&simulated),
            assumptions: assumptions(report, scenario, conditions),
            simulated,
        })
    }
}

/// What is not said because the file does not say how wide an expert is.
fn withheld(scenario: &Scenario, report: &Report) -> Option<String> {
    let missing: &[Missing] = if scenario.demand.expert_time.is_none() { &[Missing::ExpertFfn] } else { &[] };
    let why = missing::withheld(
        "the time of experts and of everything together is",
        missing,
        &report.model,
        &report.cluster,
    )?;
    Some(format!("{why}, or give --expert-time"))
}

fn words(simulation: &Simulated) -> Vec<String> {
    let mut words = Vec::new();
    for (name, phase, bound, planned) in simulation.phases() {
        let (time, least) = (&phase.time, bound.time.0);
        if time.max.0 <= 0.0 || least <= 0.0 {
            words.push(format!("{name}: no byte crosses a link"));
            continue;
        }
        words.push(format!(
            "{name}: half of the GPUs are done after {:.0} µs, the last, GPU {}, after {:.0} µs; {} has bytes for {least:.0} µs, which \
             no order of sending beats: the last takes {:.0} % longer; the plan says {:.0} µs if {} alone limited, {:.0} µs ± {:.0} % for the call with its kernels",
            time.median.0,
            phase.slowest.first().map_or(0, |slowest| slowest.gpu.0),
            time.max.0,
            bound.bottleneck,
            (time.max.0 / least - 1.0).max(0.0) * 100.0,
            planned.links.0,
            planned.bottleneck.name(),
            planned.call.0,
            planned.uncertainty * 100.0
        ));
    }
    if let Some(healthy) = simulation.without_faults {
        let now = Times::of(&simulation.outcome);
        let ratio = |now: Microseconds, then: Microseconds| if then.0 > 0.0 { now.0 / then.0 } else { 1.0 };
        let faults: Vec<String> = simulation.scenario.faults.iter().map(Fault::to_string).collect();
        let all = now.total.zip(healthy.total).map(|(now, then)| {
            format!(", and {:.0} µs from the first token sent to the last one back", now.0 - then.0)
        });
        words.push(format!(
            "{}: that costs dispatch ×{:.2} ({:.0} µs without), combine ×{:.2} ({:.0} µs){}",
            faults.join(", "),
            ratio(now.dispatch, healthy.dispatch),
            healthy.dispatch.0,
            ratio(now.combine, healthy.combine),
            healthy.combine.0,
            all.unwrap_or_default()
        ));
    }
    words
}

fn assumptions(report: &Report, scenario: &Scenario, conditions: &Conditions) -> Vec<String> {
    let mut list: Vec<String> = report.assumptions.iter().take(1).cloned().collect();
    list.push(format!(
        "links give what kernels reach on them; {} µs to a GPU of the node, {} µs to another node",
        conditions.nvlink_latency.0, conditions.nic_latency.0
    ));
    if conditions.spine.is_none() {
        list.push("each rail is one switch that never limits (no --oversubscription)".to_owned());
    }
    list.push("all groups of ranks send at the same time; multiprocessors never limit".to_owned());
    if conditions.expert_time.is_none() && scenario.demand.expert_time.is_some() {
        list.push(
            "experts: two operations for each parameter of a pick, at the efficiency that the plan assumes".to_owned(),
        );
    }
    list
}

fn row<const N: usize>(cells: [String; N]) -> Vec<String> {
    cells.to_vec()
}

fn many(count: u32, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn us(value: Microseconds) -> String {
    format!("{:.0}", value.0)
}

impl fmt::Display for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.page().fmt(f)
    }
}

impl Simulation {
    /// For a terminal.
    pub fn page(&self) -> Page {
        let mut page = Page::default();
        let (scenario, outcome) = (&self.scenario, &self.outcome);
        let groups = scenario.gpus() / scenario.demand.group_ranks;
        page.line(format!(
            "deploy {} of {} on {}, one dispatch and one combine, simulated",
            self.deploy, self.model, self.cluster
        ));
        page.line(format!(
            "{} GPUs in {} of {} ranks on {}, {} tokens per GPU",
            scenario.gpus(),
            many(groups, "group"),
            scenario.demand.group_ranks,
            many(scenario.group_nodes(), "node"),
            scenario.demand.tokens_per_gpu
        ));
        page.line(format!(
            "{} chunks of {} tokens, {} events, seed {}",
            outcome.chunks, scenario.options.chunk_tokens, outcome.events, scenario.options.seed
        ));
        self.headline.iter().for_each(|line| page.line(line));
        self.times(&mut page);
        self.links(&mut page);
        self.slowest(&mut page);
        page.gap();
        page.line("in words");
        self.explanation.iter().for_each(|line| page.item(line));
        page.gap();
        page.line("assumed");
        self.assumptions.iter().for_each(|line| page.item(line));
        page
    }

    fn times(&self, page: &mut Page) {
        page.gap();
        page.line("time of the GPUs, µs; no order of sending beats the busiest link");
        let heads = ["", "median", "mean", "99 %", "slowest", "busiest link", "links by plan", "call by plan"];
        let mut rows = vec![row(heads.map(str::to_owned))];
        for (name, phase, bound, planned) in self.phases() {
            rows.push(row([
                name.to_owned(),
                us(phase.time.median),
                us(phase.time.mean),
                us(phase.time.p99),
                us(phase.time.max),
                us(bound.time),
                format!("{} ({})", us(planned.links), planned.bottleneck.name()),
                format!("{} ± {:.0} %", us(planned.call), planned.uncertainty * 100.0),
            ]));
        }
        page.table(Table::headed(rows));
        if let Some(total) = self.outcome.total {
            page.line(format!("  from the first token sent to the last one back: {} µs", us(total)));
        }
    }

    fn links(&self, page: &mut Page) {
        page.gap();
        page.line("links that carry bytes, part of the slowest GPU's time");
        let heads = ["", "links", "dispatch, mean", "busiest", "combine, mean", "busiest"];
        let mut rows = vec![row(heads.map(str::to_owned))];
        let Outcome { dispatch, combine, .. } = &self.outcome;
        for kind in LinkKind::ALL {
            let of_kind = dispatch.kinds.iter().chain(&combine.kinds).find(|of| of.kind == kind);
            let Some(of_kind) = of_kind else { continue };
            let mut cells = vec![kind.name().to_owned(), of_kind.links.to_string()];
            for phase in [dispatch, combine] {
                let (mean, most) = phase.utilisation(kind).unwrap_or_default();
                cells.extend([mean, most].map(|part| format!("{:.0} %", part * 100.0)));
            }
            rows.push(cells);
        }
        page.table(Table::headed(rows));
    }

    fn slowest(&self, page: &mut Page) {
        page.gap();
        page.line("slowest GPUs and busiest links, µs");
        let mut rows = Vec::new();
        for (name, phase, ..) in self.phases() {
            for (place, (slow, busy)) in phase.slowest.iter().zip(&phase.busiest).enumerate() {
                rows.push(row([
                    if place == 0 { name } else { "" }.to_owned(),
                    format!("GPU {}", slow.gpu.0),
                    us(slow.time),
                    busy.link.to_string(),
                    us(busy.busy),
                ]));
            }
        }
        page.table(Table::bare(rows));
    }
}
