//! Reports as text for a terminal.

use std::fmt;

use super::{Phase, Report};
use crate::memory::{Choice, Parameters};
use crate::sample::Source;
use crate::search::{Candidate, Found};
use crate::time::Prediction;
use crate::traffic::GivenPhase;
use crate::units::Unit;

/// Bytes with a decimal prefix, in three or four digits.
pub fn human_bytes(bytes: f64) -> String {
    let (divisor, unit) = match bytes.abs() {
        size if size >= 999.5e9 => (1e12, "TB"),
        size if size >= 999.5e6 => (1e9, "GB"),
        size if size >= 999.5e3 => (1e6, "MB"),
        size if size >= 999.5 => (1e3, "kB"),
        _ => return format!("{bytes:.0} B"),
    };
    let value = bytes / divisor;
    if value.abs() >= 99.95 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

/// Rows of cells: the first column to the left, numbers to the right.
pub(crate) fn columns(f: &mut impl fmt::Write, rows: &[Vec<String>]) -> fmt::Result {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let padding = " ".repeat(widths[column].saturating_sub(cell.chars().count()));
            if column == 0 {
                line += &format!("  {cell}{padding}");
            } else {
                line += &format!("  {padding}{cell}");
            }
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}

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

fn phases(phases: &[Phase]) -> Vec<Vec<String>> {
    let bytes = |of: fn(&Phase) -> f64| phases.iter().map(of);
    let unit = Unit::of_bytes(bytes(|phase| phase.nvlink_bytes).chain(bytes(|phase| phase.rdma_bytes)));
    let longest = Unit::of_times(phases.iter().map(|phase| phase.time.total().0));
    let time = |head: &str, of: fn(&Prediction) -> f64| {
        let times = || phases.iter().map(|phase| of(&phase.time));
        dashes(column(head, longest, times()), times())
    };
    let errors: Vec<String> = phases.iter().map(|phase| format!("{:.0} %", phase.time.uncertainty * 100.0)).collect();
    rows_of([
        words("", phases.iter().map(|phase| phase.name)),
        dashes(column("NVLink", unit, bytes(|phase| phase.nvlink_bytes)), bytes(|phase| phase.nvlink_bytes)),
        dashes(column("RDMA", unit, bytes(|phase| phase.rdma_bytes)), bytes(|phase| phase.rdma_bytes)),
        time("copy", |time| time.copy.0),
        time("NVLink", |time| time.nvlink.0),
        time("RDMA", |time| time.network.0),
        time("latency", |time| time.latency.0),
        time("notify", |time| time.notify.0),
        time("time", |time| time.total().0),
        words("±", errors.iter().map(String::as_str)),
        words("limit", phases.iter().map(|phase| phase.time.bottleneck.name())),
    ])
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
    rows_of([words("", phases.iter().map(|phase| phase.name)), a, b, c, d])
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
        let plan = &self.parallel;
        writeln!(
            f,
            "deploy {} of {} on {}, {} GPUs, {} mode",
            self.deploy, self.model, self.cluster, self.gpus, self.mode
        )?;
        writeln!(
            f,
            "ep {} ({} nodes), pp {}, dp {}, tp {}, zero {}, {} tokens per GPU, {} SMs",
            plan.ep, self.nodes, plan.pp, plan.dp, plan.tp, plan.zero, plan.tokens, plan.sms
        )?;
        if let Some(all) = &self.parameters {
            writeln!(f, "{}", parameters(all))?;
        }
        writeln!(f)?;
        self.headline.iter().try_for_each(|line| writeln!(f, "{line}"))?;

        let expected = &self.gate.expected;
        let how = if self.source == Source::Observed { "recorded" } else { "sampled" };
        writeln!(f, "\nwhere a token goes ({} {how}, 95 % confidence)", expected.independent)?;
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
        columns(f, &rows)?;
        writeln!(
            f,
            "  largest over mean load in a call: expert ×{:.2}, rank ×{:.2}, node ×{:.2}",
            self.gate.expert_imbalance, self.gate.rank_imbalance, self.gate.node_imbalance
        )?;

        writeln!(
            f,
            "\none call of one layer: bytes that leave a GPU; time if that part alone limited, and of the call"
        )?;
        columns(f, &phases(&self.phases))?;

        if let Some(given) = &self.given {
            writeln!(f, "\nexactly, the {} recorded tokens split over {} ranks, each once", given.tokens, plan.ep)?;
            columns(f, &exact(&given.phases))?;
        }

        if let Some(step) = &self.step {
            writeln!(f, "\nstep of {} micro-batches, {}", plan.micro_batches, plan.schedule.name())?;
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
            columns(f, &rows_of([names, times]))?;
            writeln!(f, "  {:.0} tokens/s per GPU", step.tokens_per_second)?;
        }
        if let Some(choice) = &self.recompute {
            writeln!(f, "\nrecomputed in the backward pass")?;
            columns(f, &recomputation(choice))?;
        }
        if let Some(memory) = &self.memory {
            writeln!(f, "\nmemory of the fullest GPU")?;
            let parts: Vec<_> = memory.parts.iter().filter(|part| part.bytes.0 > 0).collect();
            let sizes = parts.iter().map(|part| part.bytes.0).chain([memory.total().0, memory.capacity.0]);
            let sizes: Vec<f64> = sizes.map(|bytes| bytes as f64).collect();
            let names = parts.iter().map(|part| part.kind.name()).chain(["all", "what a GPU has"]);
            columns(
                f,
                &rows_of([
                    words("", names),
                    column("", Unit::of_bytes_alike(sizes.iter().copied()), sizes.iter().copied()),
                ]),
            )?;
        }

        writeln!(f, "\nin words")?;
        self.explanation.iter().try_for_each(|line| writeln!(f, "  • {line}"))?;
        writeln!(f, "\nassumed")?;
        self.assumptions.iter().try_for_each(|line| writeln!(f, "  • {line}"))
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
pub fn compare_table(reports: &[Report]) -> String {
    type Cell = fn(&Report) -> String;
    type Value = fn(&Report) -> Option<f64>;
    type Line = (&'static str, fn(Vec<f64>) -> Unit, Value);
    let plain: [(&str, Cell); 8] = [
        ("ep · pp · dp · zero", |r| {
            format!("{} · {} · {} · {}", r.parallel.ep, r.parallel.pp, r.parallel.dp, r.parallel.zero)
        }),
        ("SMs · tokens", |r| format!("{} · {}", r.parallel.sms, r.parallel.tokens)),
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
    text(&rows)
}

/// The front of a search.
pub fn front_table(found: &Found) -> String {
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
    format!(
        "{} plans, {} fit the memory; no other beats these in time and memory\n{}\n{}\n",
        found.tried,
        found.fitting,
        text(&rows),
        crate::explain::found(found)
    )
}

fn text(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = columns(&mut text, rows);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let shown = [0.0, 999.0, 1000.0, 12_340.0, 99_960.0, 999_499.0, 999_500.0, 5e9, -1.5e12].map(human_bytes);
        let short = ["0 B", "999 B", "1.0 kB", "12.3 kB", "100 kB", "999 kB", "1.0 MB", "5.0 GB", "-1.5 TB"];
        assert_eq!(shown, short);
    }
}
