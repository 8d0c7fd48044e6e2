//! Reports as text for a terminal.

use std::fmt;

use moe_front::text::{Page, Table};

use super::report::Report;
use crate::cost::Phase;
use crate::cost::memory::{Choice, Parameters};
use crate::cost::search::{Candidate, Found};
use crate::sample::Source;
use crate::traffic::GivenPhase;
use crate::units::Unit;

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// A head with the unit of its column, and the numbers in it.
fn column(head: &str, unit: Unit, values: impl IntoIterator<Item = f64>) -> Vec<String> {
    let head = if head.is_empty() { unit.name.to_owned() } else { format!("{head}, {}", unit.name) };
    std::iter::once(head).chain(values.into_iter().map(|value| unit.number(value))).collect()
}

/// The same; what is nothing is a dash.
fn dashes(mut column: Vec<String>, values: impl IntoIterator<Item = f64>) -> Vec<String> {
    for (cell, value) in column.iter_mut().skip(1).zip(values) {
        if value == 0.0 {
            *cell = "–".to_owned();
        }
    }
    column
}

fn words<'a>(head: &str, words: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    std::iter::once(head.to_owned()).chain(words.into_iter().map(str::to_owned)).collect()
}

/// Columns of equal length as rows.
fn rows_of<const N: usize>(columns: [Vec<String>; N]) -> Vec<Vec<String>> {
    let rows = columns.iter().map(Vec::len).min().unwrap_or(0);
    (0..rows).map(|row| columns.iter().map(|column| column[row].clone()).collect()).collect()
}

/// What a call costs, and what its numbers are.
fn phases(phases: &[Phase]) -> (String, Table) {
    let bytes = |of: fn(&Phase) -> f64| phases.iter().map(of);
    let size = Unit::of_bytes(bytes(|phase| phase.nvlink_bytes).chain(bytes(|phase| phase.rdma_bytes)));
    let longest = Unit::of_times(phases.iter().map(|phase| phase.time.total().0));
    let numbers = |head: &str, unit: Unit, of: fn(&Phase) -> f64| {
        let values = || phases.iter().map(of);
        let cells = std::iter::once(head.to_owned()).chain(values().map(|value| unit.number(value)));
        dashes(cells.collect(), values())
    };
    let errors: Vec<String> = phases.iter().map(|phase| format!("{:.0} %", phase.time.uncertainty * 100.0)).collect();
    let rows = rows_of([
        words("", phases.iter().map(|phase| phase.name.name())),
        numbers("NVLink", size, |phase| phase.nvlink_bytes),
        numbers("RDMA", size, |phase| phase.rdma_bytes),
        numbers("copy", longest, |phase| phase.time.copy.0),
        numbers("NVLink", longest, |phase| phase.time.nvlink.0),
        numbers("RDMA", longest, |phase| phase.time.network.0),
        numbers("latency", longest, |phase| phase.time.latency.0),
        numbers("notify", longest, |phase| phase.time.notify.0),
        numbers("time", longest, |phase| phase.time.total().0),
        words("±", errors.iter().map(String::as_str)),
        words("limit", phases.iter().map(|phase| phase.time.bottleneck.name())),
    ]);
    let what = format!(
        "one call of one layer: {} that leave a GPU over NVLink and RDMA; {} if that part alone limited, and of the call",
        size.name, longest.name
    );
    (what, Table::headed(rows))
}

fn exact(phases: &[GivenPhase]) -> Vec<Vec<String>> {
    type Bytes = fn(&GivenPhase) -> u64;
    let columns: [(&str, Bytes); 4] = [
        ("NVLink", |phase| phase.nvlink_out().sum()),
        ("fullest GPU", |phase| phase.nvlink_out().max().unwrap_or(0)),
        ("RDMA", |phase| phase.rdma_out().sum()),
        ("fullest NIC", |phase| phase.rdma_out().max().unwrap_or(0)),
    ];
    let [a, b, c, d] = columns.map(|(head, of)| {
        let bytes = || phases.iter().map(|phase| of(phase) as f64);
        column(head, Unit::of_bytes(bytes()), bytes())
    });
    rows_of([words("", phases.iter().map(|phase| phase.name.name())), a, b, c, d])
}

fn billions(parameters: f64) -> String {
    format!("{:.2} B", parameters / 1e9)
}

fn parameters(parameters: &Parameters) -> String {
    format!(
        "{} parameters, {} of them routed experts, {} active",
        billions(parameters.total() as f64),
        billions(parameters.routed() as f64),
        billions(parameters.active() as f64)
    )
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.page().fmt(f)
    }
}

impl Report {
    /// For a terminal.
    pub fn page(&self) -> Page {
        let mut page = Page::default();
        let plan = &self.parallel;
        page.line(format!(
            "deploy {} of {} on {}, {} GPUs, {} mode",
            self.deploy, self.model, self.cluster, self.gpus, self.mode
        ));
        page.line(format!(
            "ep {} ({} nodes), pp {}, dp {}, tp {}, zero {}, {} tokens per GPU, {} SMs",
            plan.ep, self.nodes, plan.pp, plan.dp, plan.tp, plan.zero, plan.tokens, plan.sms
        ));
        if let Some(all) = &self.parameters {
            page.line(parameters(all));
        }
        page.gap();
        self.headline.iter().for_each(|line| page.line(line));

        let expected = &self.gate.expected;
        let how = if self.source == Source::Observed { "recorded" } else { "sampled" };
        page.gap();
        page.line(format!("where a token goes ({} {how}, 95 % confidence)", expected.independent));
        let mut rows = vec![row(["", "mean", "±", "most"])];
        for (name, estimate) in [
            ("distinct nodes", expected.distinct_nodes),
            ("remote nodes", expected.remote_nodes),
            ("distinct ranks", expected.distinct_ranks),
            ("copies over NVLink", expected.nvlink_copies),
        ] {
            rows.push(vec![
                name.to_owned(),
                format!("{:.3}", estimate.mean),
                estimate.half_width.map_or_else(|| "–".to_owned(), |half| format!("{half:.3}")),
                format!("{:.0}", estimate.largest),
            ]);
        }
        page.table(Table::headed(rows));
        page.line(format!(
            "  largest over mean load in a call: expert ×{:.2}, rank ×{:.2}, node ×{:.2}",
            self.gate.expert_imbalance, self.gate.rank_imbalance, self.gate.node_imbalance
        ));

        page.gap();
        let (what, calls) = phases(&self.phases);
        page.line(what);
        page.table(calls);

        if let Some(given) = &self.given {
            page.gap();
            page.line(format!("exactly, the {} recorded tokens split over {} ranks, each once", given.tokens, plan.ep));
            page.table(Table::headed(exact(&given.phases)));
        }

        if let Some(step) = &self.step {
            page.gap();
            page.line(format!("step of {} micro-batches, {}", plan.micro_batches, plan.schedule.name()));
            let micro_batches = f64::from(plan.micro_batches);
            let parts = [
                ("compute", step.compute.0 * micro_batches),
                ("dispatch and combine", step.communication.0 * micro_batches),
                ("  of which nothing hides", step.exposed.0 * micro_batches),
                ("pipeline bubble", step.bubble.0),
                ("replicas", step.replicas.0),
                ("step", step.total.0),
            ];
            let times = || parts.map(|(_, us)| us);
            let [names, times] = [words("", parts.map(|(name, _)| name)), column("", Unit::of_times(times()), times())];
            page.table(Table::headed(rows_of([names, times])));
            page.line(format!("  {:.0} tokens/s per GPU", step.tokens_per_second));
        }
        if let Some(choice) = &self.recompute {
            page.gap();
            page.line("recomputed in the backward pass");
            page.table(Table::headed(recomputation(choice)));
        }
        if let Some(memory) = &self.memory {
            page.gap();
            page.line("memory of the fullest GPU");
            let parts: Vec<_> = memory.parts.iter().filter(|part| part.bytes.0 > 0).collect();
            let sizes = parts.iter().map(|part| part.bytes.0).chain([memory.total().0, memory.capacity.0]);
            let sizes: Vec<f64> = sizes.map(|bytes| bytes as f64).collect();
            let names = parts.iter().map(|part| part.kind.name()).chain(["all", "what a GPU has"]);
            page.table(Table::headed(rows_of([
                words("", names),
                column("", Unit::of_bytes_alike(sizes.iter().copied()), sizes.iter().copied()),
            ])));
        }

        page.gap();
        page.line("in words");
        self.explanation.iter().for_each(|line| page.item(line));
        page.gap();
        page.line("assumed");
        self.assumptions.iter().for_each(|line| page.item(line));
        page
    }
}

fn recomputation(choice: &Choice) -> Vec<Vec<String>> {
    let needs = &choice.choices;
    let sizes: Vec<f64> =
        needs.iter().flat_map(|need| [need.bytes.0 as f64, need.left.unsigned_abs() as f64]).collect();
    let bytes = Unit::of_bytes_alike(sizes.iter().copied());
    let steps = || needs.iter().map(|need| need.step.map_or(0.0, |step| step.0));
    let signed: Vec<String> = needs
        .iter()
        .map(|need| {
            format!(
                "{} {}",
                bytes.number(need.left.unsigned_abs() as f64),
                if need.fits() { "left" } else { "too much" }
            )
        })
        .collect();
    let chosen = needs.iter().map(|need| if need.recompute == choice.chosen { "chosen" } else { "" });
    rows_of([
        words("", needs.iter().map(|need| need.recompute.name())),
        column("memory", bytes, needs.iter().map(|need| need.bytes.0 as f64)),
        words(bytes.name, signed.iter().map(String::as_str)),
        column("step", Unit::of_times(steps()), steps()),
        words("", chosen),
    ])
}

/// Plans side by side: a row has one unit.
pub fn compare_table(reports: &[Report]) -> Table {
    type Cell = fn(&Report) -> String;
    type Value = fn(&Report) -> Option<f64>;
    type Line = (&'static str, fn(Vec<f64>) -> Unit, Value);
    let plain: [(&str, Cell); 12] = [
        ("ep", |r| r.parallel.ep.to_string()),
        ("pp", |r| r.parallel.pp.to_string()),
        ("dp", |r| r.parallel.dp.to_string()),
        ("zero", |r| r.parallel.zero.to_string()),
        ("SMs", |r| r.parallel.sms.to_string()),
        ("tokens", |r| r.parallel.tokens.to_string()),
        ("nodes of a group of ranks", |r| r.nodes.to_string()),
        ("distinct nodes", |r| format!("{:.2}", r.gate.expected.distinct_nodes.mean)),
        ("remote nodes", |r| format!("{:.2}", r.gate.expected.remote_nodes.mean)),
        ("most nodes", |r| r.gate.most_nodes.to_string()),
        ("SMs that suffice", |r| r.enough_sms.map_or_else(|| "–".to_owned(), |sms| sms.to_string())),
        ("expert replicas", |r| r.share.expert_replicas.to_string()),
    ];
    let numbers: [Line; 9] = [
        ("RDMA, dispatch + combine", Unit::of_bytes, |r| Some(r.phases[..2].iter().map(|p| p.rdma_bytes).sum())),
        ("NVLink, dispatch + combine", Unit::of_bytes, |r| Some(r.phases[..2].iter().map(|p| p.nvlink_bytes).sum())),
        ("dispatch", Unit::of_times, |r| Some(r.phases[0].time.total().0)),
        ("combine", Unit::of_times, |r| Some(r.phases[1].time.total().0)),
        ("experts among replicas", Unit::of_bytes, |r| r.replicas.map(|replicas| replicas.expert_bytes)),
        ("memory", Unit::of_bytes, |r| r.memory.as_ref().map(|memory| memory.total().0 as f64)),
        ("step", Unit::of_times, |r| r.step.map(|step| step.total.0)),
        ("tokens/s per GPU", Unit::of_counts, |r| r.step.map(|step| step.tokens_per_second)),
        ("all layers of one token", Unit::of_times, |r| r.decode.map(|decode| decode.0)),
    ];
    let last: [(&str, Cell); 4] = [
        ("limit of dispatch", |r| r.phases[0].time.bottleneck.name().to_owned()),
        ("recomputed", |r| r.recompute.as_ref().map_or("–", |choice| choice.chosen.name()).to_owned()),
        ("fits the memory", |r| r.fits.map_or("withheld", |fits| if fits { "yes" } else { "NO" }).to_owned()),
        ("not built", |r| {
            let codes: Vec<&str> = r.not_built.iter().map(|not_built| not_built.code.id()).collect();
            if codes.is_empty() { "–".to_owned() } else { codes.join(" ") }
        }),
    ];
    let told = |(name, cell): &(&str, Cell)| -> Vec<String> {
        std::iter::once((*name).to_owned()).chain(reports.iter().map(cell)).collect()
    };
    let mut rows: Vec<Vec<String>> = plain.iter().map(told).collect();
    for (name, unit, value) in numbers {
        let values: Vec<Option<f64>> = reports.iter().map(value).collect();
        if values.iter().all(Option::is_none) {
            continue;
        }
        let unit = unit(values.iter().flatten().copied().collect());
        let comma = if unit.name.is_empty() { "" } else { ", " };
        let cell = |value: &Option<f64>| value.map_or_else(|| "–".to_owned(), |value| unit.number(value));
        rows.push(std::iter::once(format!("{name}{comma}{}", unit.name)).chain(values.iter().map(cell)).collect());
    }
    rows.extend(last.iter().map(told));
    Table::bare(rows)
}

/// The front of a search.
pub fn front_table(found: &Found) -> Page {
    let plans = &found.front;
    let numbers = |head: &str, of: fn(&Candidate) -> String| -> Vec<String> {
        std::iter::once(head.to_owned()).chain(plans.iter().map(of)).collect()
    };
    let steps = || plans.iter().map(|plan| plan.step_us);
    let memory = || plans.iter().map(|plan| plan.memory as f64);
    let best = plans.iter().map(|plan| if *plan == found.best { "best" } else { "" });
    let rows = rows_of([
        numbers("ep", |plan| plan.parallel.ep.to_string()),
        numbers("pp", |plan| plan.parallel.pp.to_string()),
        numbers("dp", |plan| plan.parallel.dp.to_string()),
        numbers("zero", |plan| plan.parallel.zero.to_string()),
        numbers("SMs", |plan| plan.parallel.sms.to_string()),
        words("schedule", plans.iter().map(|plan| plan.parallel.schedule.name())),
        words("recomputed", plans.iter().map(|plan| plan.recompute.name())),
        column("step", Unit::of_times(steps()), steps()),
        numbers("tokens/s per GPU", |plan| format!("{:.0}", plan.tokens_per_second)),
        column("memory", Unit::of_bytes(memory()), memory()),
        words("", best),
    ]);
    let mut page = Page::default();
    page.line(format!(
        "{} plans, {} fit the memory; no other beats these in time and memory",
        found.tried, found.fitting
    ));
    page.table(Table::headed(rows));
    page.gap();
    page.line(super::plans::found(found));
    page
}
