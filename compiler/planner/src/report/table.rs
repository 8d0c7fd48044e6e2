//! Reports as text for a terminal.

use std::fmt;

use super::{Phase, Report};
use crate::memory::Parameters;
use crate::sample::Source;
use crate::search::{Candidate, Found};
use crate::traffic::GivenPhase;

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

fn phase(phase: &Phase) -> Vec<String> {
    let time = &phase.time;
    let us = |value: f64| if value > 0.0 { format!("{value:.0}") } else { "–".to_owned() };
    vec![
        phase.name.to_owned(),
        human_bytes(phase.nvlink_bytes),
        human_bytes(phase.rdma_bytes),
        us(time.copy.0),
        us(time.nvlink.0),
        us(time.network.0),
        us(time.notify.0),
        format!("{:.0} µs ± {:.0} %", time.total().0, time.uncertainty * 100.0),
        time.bottleneck.name().to_owned(),
    ]
}

fn exact(phase: &GivenPhase) -> Vec<String> {
    let human = |bytes: u64| human_bytes(bytes as f64);
    vec![
        phase.name.to_owned(),
        human(phase.nvlink_out().sum()),
        human(phase.nvlink_out().max().unwrap_or(0)),
        human(phase.rdma_out().sum()),
        human(phase.rdma_out().max().unwrap_or(0)),
    ]
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
        writeln!(f, "{}", parameters(&self.parameters))?;

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

        writeln!(f, "\none call of one layer, bytes that leave a GPU; µs if that part alone limited")?;
        let mut rows = vec![row(["", "NVLink", "RDMA", "copy", "NVLink", "RDMA", "notify", "time", "limit"])];
        rows.extend(self.phases.iter().map(phase));
        columns(f, &rows)?;

        if let Some(given) = &self.given {
            writeln!(f, "\nexactly, the {} recorded tokens split over {} ranks, each once", given.tokens, plan.ep)?;
            let mut rows = vec![row(["", "NVLink", "fullest GPU", "RDMA", "fullest NIC"])];
            rows.extend(given.phases.iter().map(exact));
            columns(f, &rows)?;
        }

        if let Some(step) = &self.step {
            writeln!(f, "\nstep of {} micro-batches, {}", plan.micro_batches, plan.schedule.name())?;
            let ms = |value: f64| format!("{:.1} ms", value / 1e3);
            let micro_batches = f64::from(plan.micro_batches);
            let rows = [
                ("compute", ms(step.compute.0 * micro_batches)),
                ("dispatch and combine", ms(step.communication.0 * micro_batches)),
                ("  of which nothing hides", ms(step.exposed.0 * micro_batches)),
                ("pipeline bubble", ms(step.bubble.0)),
                ("replicas", ms(step.replicas.0)),
                ("step", ms(step.total.0)),
                ("tokens/s per GPU", format!("{:.0}", step.tokens_per_second)),
            ];
            columns(f, &rows.map(|(name, value)| vec![name.to_owned(), value]))?;
        }
        writeln!(f, "\nmemory of the fullest GPU, {}", human_bytes(self.memory.capacity.0 as f64))?;
        let mut rows: Vec<Vec<String>> = self
            .memory
            .parts
            .iter()
            .filter(|part| part.bytes.0 > 0)
            .map(|part| vec![part.kind.name().to_owned(), human_bytes(part.bytes.0 as f64)])
            .collect();
        let verdict = if self.fits { "fits" } else { "DOES NOT FIT" };
        rows.push(vec!["all".to_owned(), human_bytes(self.memory.total().0 as f64), verdict.to_owned()]);
        columns(f, &rows)?;
        if let Some(decode) = self.decode {
            writeln!(f, "\nall layers of one token: dispatch + combine {:.2} ms", decode.0 / 1e3)?;
        }
        writeln!(f, "\nin words")?;
        self.explanation.iter().try_for_each(|line| writeln!(f, "  • {line}"))?;
        writeln!(f, "\nassumed")?;
        self.assumptions.iter().try_for_each(|line| writeln!(f, "  • {line}"))
    }
}

/// Plans side by side.
pub fn compare_table(reports: &[Report]) -> String {
    type Cell = fn(&Report) -> String;
    let lines: [(&str, Cell); 16] = [
        ("ep · pp · dp · zero", |r| {
            format!("{} · {} · {} · {}", r.parallel.ep, r.parallel.pp, r.parallel.dp, r.parallel.zero)
        }),
        ("nodes of a group of ranks", |r| r.nodes.to_string()),
        ("distinct nodes", |r| format!("{:.2}", r.gate.expected.distinct_nodes.mean)),
        ("remote nodes", |r| format!("{:.2}", r.gate.expected.remote_nodes.mean)),
        ("most nodes", |r| r.gate.most_nodes.to_string()),
        ("RDMA, dispatch + combine", |r| human_bytes(r.phases[..2].iter().map(|p| p.rdma_bytes).sum())),
        ("NVLink, dispatch + combine", |r| human_bytes(r.phases[..2].iter().map(|p| p.nvlink_bytes).sum())),
        ("dispatch", |r| format!("{:.0} µs", r.phases[0].time.total().0)),
        ("combine", |r| format!("{:.0} µs", r.phases[1].time.total().0)),
        ("limit", |r| r.phases[0].time.bottleneck.name().to_owned()),
        ("SMs that suffice", |r| r.enough_sms.map_or_else(|| "–".to_owned(), |sms| sms.to_string())),
        ("expert replicas", |r| r.share.expert_replicas.to_string()),
        ("experts among replicas", |r| human_bytes(r.replicas.expert_bytes)),
        ("memory", |r| {
            format!("{}{}", human_bytes(r.memory.total().0 as f64), if r.fits { "" } else { " (too much)" })
        }),
        ("step", |r| r.step.map_or_else(|| "–".to_owned(), |step| format!("{:.2} s", step.total.0 / 1e6))),
        ("tokens/s per GPU", |r| {
            r.step.map_or_else(|| "–".to_owned(), |step| format!("{:.0}", step.tokens_per_second))
        }),
    ];
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|(name, cell)| std::iter::once((*name).to_owned()).chain(reports.iter().map(cell)).collect())
        .collect();
    text(&rows)
}

/// The front of a search.
pub fn front_table(found: &Found) -> String {
    let mut rows = vec![row(["ep", "pp", "dp", "zero", "SMs", "schedule", "step", "tokens/s per GPU", "memory"])];
    rows.extend(found.front.iter().map(|Candidate { parallel, step_us, tokens_per_second, memory, .. }| {
        vec![
            parallel.ep.to_string(),
            parallel.pp.to_string(),
            parallel.dp.to_string(),
            parallel.zero.to_string(),
            parallel.sms.to_string(),
            parallel.schedule.name().to_owned(),
            format!("{:.2} s", step_us / 1e6),
            format!("{tokens_per_second:.0}"),
            human_bytes(*memory as f64),
        ]
    }));
    format!(
        "{} plans, {} fit the memory; no other beats these in time and memory\n{}",
        found.tried,
        found.fitting,
        text(&rows)
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
