//! Tables and lists of a page.
//!
//! Invariants: every number has its exact value in `<data value>`; the numbers of a column, or of a line of plans side by side, have one
//! unit, which stands in its head. What is of different kinds is a list, in which each number has its own unit.

use moe_front::units::Microseconds;

use super::name;
use crate::cost::compare::MEMORY_RESOLUTION;
use crate::cost::memory::Need;
use crate::cost::search::Found;
use crate::cost::{Phase, uncertainty};
use crate::page::report::Report;
use crate::page::simulation::Simulation;
use crate::placement::{LayerPlacement, PlacementReport};
use crate::simulate::{Spine, Tail};
use crate::time::Prediction;
use crate::units::{self, Unit};

/// Text that is safe between tags and in attributes.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // Not allowed in any markup.
            control if control.is_control() && !matches!(control, '\n' | '\t') => safe.push('\u{fffd}'),
            other => safe.push(other),
        }
    }
    safe
}

/// A number and how it is read.
fn number(value: f64, shown: impl AsRef<str>) -> String {
    format!("<data value=\"{value}\">{}</data>", escape(shown.as_ref()))
}

fn time(us: f64) -> String {
    number(us, units::time(us))
}

fn bytes(value: f64) -> String {
    number(value, units::bytes(value))
}

fn count(value: f64) -> String {
    number(value, units::count(value))
}

fn decimals(value: f64) -> String {
    number(value, format!("{value:.3}"))
}

/// A column of a table.
struct Column {
    head: String,
    cells: Vec<String>,
    words: bool,
}

impl Column {
    /// Markup.
    fn new(head: &str, cells: impl IntoIterator<Item = String>) -> Column {
        Column { head: head.to_owned(), cells: cells.into_iter().collect(), words: false }
    }

    fn words<'a>(head: &str, words: impl IntoIterator<Item = &'a str>) -> Column {
        Column { words: true, ..Column::new(head, words.into_iter().map(escape)) }
    }

    /// Numbers in one unit, which the head names.
    fn of(head: &str, unit: Unit, values: impl IntoIterator<Item = f64>) -> Column {
        let head = if unit.name.is_empty() { head.to_owned() } else { format!("{head}, {}", unit.name) };
        Column::new(&head, values.into_iter().map(|value| number(value, unit.number(value))))
    }

    fn bytes(head: &str, values: &[f64]) -> Column {
        Column::of(head, Unit::of_bytes(values.iter().copied()), values.iter().copied())
    }

    fn counts(head: &str, values: impl IntoIterator<Item = f64>) -> Column {
        Column::new(head, values.into_iter().map(count))
    }

    fn decimals(head: &str, values: impl IntoIterator<Item = f64>) -> Column {
        Column::new(head, values.into_iter().map(decimals))
    }

    fn percents(head: &str, values: impl IntoIterator<Item = f64>) -> Column {
        Column::new(head, values.into_iter().map(|value| number(value, units::percent(value))))
    }
}

/// A table whose first column names its rows.
fn table(caption: &str, columns: &[Column]) -> String {
    let class = |column: &Column| if column.words { " class=\"text\"" } else { "" };
    let head = |column: &Column| format!("<th scope=\"col\"{}>{}</th>", class(column), escape(&column.head));
    let cell = |index: usize, column: &Column, row: usize| {
        let cell = column.cells.get(row).map_or("", String::as_str);
        match index {
            0 => format!("<th scope=\"row\">{cell}</th>"),
            _ => format!("<td{}>{cell}</td>", class(column)),
        }
    };
    let rows = columns.iter().map(|column| column.cells.len()).max().unwrap_or(0);
    let row = |row| {
        let cells: String = columns.iter().enumerate().map(|(index, column)| cell(index, column, row)).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let heads: String = columns.iter().map(head).collect();
    framed(caption, &heads, &(0..rows).map(row).collect::<String>())
}

/// Narrow screens move a wide table sideways, with the keyboard too.
fn framed(caption: &str, heads: &str, rows: &str) -> String {
    let caption = escape(caption);
    format!(
        "<div class=\"wide\" role=\"region\" aria-label=\"{caption}\" tabindex=\"0\"><table aria-label=\"{caption}\">\
         <thead><tr>{heads}</tr></thead>\n<tbody>{rows}</tbody></table></div>\n"
    )
}

/// Numbers of different kinds.
fn numbers(rows: Vec<(&str, String)>) -> String {
    let rows: String =
        rows.iter().map(|(what, value)| format!("<div><dt>{}</dt><dd>{value}</dd></div>\n", escape(what))).collect();
    format!("<dl class=\"numbers\">{rows}</dl>\n")
}

/// Which of several is better.
#[derive(Clone, Copy, PartialEq)]
enum Better {
    Less,
    More,
    Neither,
}

/// A number of every plan.
struct Line {
    what: &'static str,
    unit: fn(Vec<f64>) -> Unit,
    value: fn(&Report) -> Option<f64>,
    better: Better,
    /// The relative difference that cannot be told.
    resolution: fn(&Report) -> f64,
}

const fn line(
    what: &'static str,
    unit: fn(Vec<f64>) -> Unit,
    better: Better,
    value: fn(&Report) -> Option<f64>,
) -> Line {
    Line { what, unit, value, better, resolution: |_| 0.0 }
}

const LINES: [Line; 16] = {
    use Better::{Less, More, Neither};
    [
        line("nodes of a group of ranks", Unit::of_counts, Neither, |r| Some(f64::from(r.nodes))),
        line("distinct nodes of a token", Unit::of_means, Less, |r| Some(r.gate.expected.distinct_nodes.mean)),
        line("remote nodes of a token", Unit::of_means, Less, |r| Some(r.gate.expected.remote_nodes.mean)),
        line("most nodes of a token", Unit::of_counts, Less, |r| Some(f64::from(r.gate.most_nodes))),
        line("RDMA, dispatch + combine", Unit::of_bytes, Less, |r| {
            Some(r.phases[..2].iter().map(|phase| phase.rdma_bytes).sum())
        }),
        line("RDMA at worst", Unit::of_bytes, Less, |r| {
            Some(r.phases[..2].iter().map(|phase| phase.rdma_bytes_worst).sum())
        }),
        line("NVLink, dispatch + combine", Unit::of_bytes, Less, |r| {
            Some(r.phases[..2].iter().map(|phase| phase.nvlink_bytes).sum())
        }),
        line("dispatch", Unit::of_times, Less, |r| r.phases.first().map(|phase| phase.time.total().0))
            .told_to(|r| r.phases.first().map_or(0.0, |phase| phase.time.uncertainty)),
        line("combine", Unit::of_times, Less, |r| r.phases.get(1).map(|phase| phase.time.total().0))
            .told_to(|r| r.phases.get(1).map_or(0.0, |phase| phase.time.uncertainty)),
        line("SMs that suffice", Unit::of_counts, Neither, |r| r.enough_sms.map(f64::from)),
        line("replicas of an expert", Unit::of_counts, Neither, |r| Some(f64::from(r.share.expert_replicas))),
        line("experts among replicas, a GPU and step", Unit::of_bytes, Less, |r| {
            r.replicas.map(|replicas| replicas.expert_bytes)
        }),
        line("memory of the fullest GPU", Unit::of_bytes, Less, |r| {
            r.memory.as_ref().map(|memory| memory.total().0 as f64)
        })
        .told_to(|_| MEMORY_RESOLUTION),
        line("step", Unit::of_times, Less, |r| r.step.map(|step| step.total.0))
            .told_to(|r| r.step.map_or(0.0, |step| step.resolution)),
        line("tokens/s a GPU", Unit::of_counts, More, |r| r.step.map(|step| step.tokens_per_second))
            .told_to(|r| r.step.map_or(0.0, |step| step.resolution)),
        line("all layers of one token", Unit::of_times, Less, |r| r.decode.map(|decode| decode.0))
            .told_to(|r| uncertainty(&r.phases[..2])),
    ]
};

impl Line {
    const fn told_to(self, resolution: fn(&Report) -> f64) -> Line {
        Line { resolution, ..self }
    }

    /// Of each plan, whether it is the best of those that fit, as far as can be told; none where all are.
    fn best(&self, plans: &[Report]) -> Vec<bool> {
        let values: Vec<Option<f64>> =
            plans.iter().map(|plan| (self.value)(plan).filter(|_| plan.fits != Some(false))).collect();
        let known = || values.iter().flatten().copied();
        let best = match self.better {
            Better::Less => known().fold(f64::INFINITY, f64::min),
            Better::More => known().fold(f64::NEG_INFINITY, f64::max),
            Better::Neither => return vec![false; plans.len()],
        };
        let unit = (self.unit)(known().collect());
        let resolution = plans.iter().map(self.resolution).fold(0.0, f64::max);
        // Only what is shown differently is better.
        let as_good =
            |value: f64| unit.number(value) == unit.number(best) || (value - best).abs() <= resolution * best.abs();
        let all = known().all(as_good);
        values.iter().map(|value| !all && value.is_some_and(as_good)).collect()
    }

    fn row(&self, plans: &[Report]) -> Option<String> {
        let values: Vec<Option<f64>> = plans.iter().map(self.value).collect();
        let known = || values.iter().flatten().copied();
        known().next()?;
        let unit = (self.unit)(known().collect());
        let cell = |(value, best): (&Option<f64>, bool)| match value {
            Some(value) => {
                let class = if best { " class=\"best\"" } else { "" };
                format!("<td{class}>{}</td>", number(*value, unit.number(*value)))
            }
            None => "<td>–</td>".to_owned(),
        };
        let comma = if unit.name.is_empty() { "" } else { ", " };
        let cells: String = values.iter().zip(self.best(plans)).map(cell).collect();
        Some(format!("<tr><th scope=\"row\">{}{comma}{}</th>{cells}</tr>\n", escape(self.what), unit.name))
    }
}

/// Plans side by side; the best of each line is marked where better means something.
pub(super) fn comparison(plans: &[Report]) -> String {
    let mut rows: String = LINES.iter().filter_map(|line| line.row(plans)).collect();
    let fits = |report: &Report| match report.fits {
        Some(true) => "<td>yes</td>",
        Some(false) => "<td><span class=\"bad\">no</span></td>",
        None => "<td>withheld</td>",
    };
    let recomputed = |report: &Report| {
        let chosen = report.recompute.as_ref().map_or("–", |choice| choice.chosen.name());
        format!("<td>{chosen}</td>")
    };
    rows +=
        &format!("<tr><th scope=\"row\">recomputed</th>{}</tr>\n", plans.iter().map(recomputed).collect::<String>());
    rows += &format!("<tr><th scope=\"row\">fits the memory</th>{}</tr>\n", plans.iter().map(fits).collect::<String>());
    let head = |report: &Report| format!("<th scope=\"col\">{}</th>", escape(&name(report)));
    let heads = format!("<th scope=\"col\"></th>{}", plans.iter().map(head).collect::<String>());
    framed("Plans side by side", &heads, &rows)
}

/// The front of a search.
pub(super) fn front(found: &Found) -> String {
    let plans = &found.front;
    let counts = |head: &str, of: fn(&crate::cost::parallel::Parallel) -> u32| {
        Column::counts(head, plans.iter().map(|plan| f64::from(of(&plan.parallel))))
    };
    let steps = || plans.iter().map(|plan| plan.step_us);
    let memory: Vec<f64> = plans.iter().map(|plan| plan.memory as f64).collect();
    let columns = [
        Column::new("", (1..=plans.len()).map(|index| index.to_string())),
        counts("ep", |plan| plan.ep),
        counts("pp", |plan| plan.pp),
        counts("dp", |plan| plan.dp),
        counts("zero", |plan| u32::from(plan.zero)),
        counts("SMs", |plan| plan.sms),
        Column::words("schedule", plans.iter().map(|plan| plan.parallel.schedule.name())),
        Column::of("step", Unit::of_times(steps()), steps()),
        Column::counts("tokens/s a GPU", plans.iter().map(|plan| plan.tokens_per_second)),
        Column::bytes("memory", &memory),
    ];
    table("Plans that no other beats", &columns)
}

/// Where a token goes.
pub(super) fn gate(report: &Report) -> String {
    let expected = &report.gate.expected;
    let rows = [
        ("distinct nodes", expected.distinct_nodes),
        ("remote nodes (copies over RDMA)", expected.remote_nodes),
        ("distinct ranks", expected.distinct_ranks),
        ("copies over NVLink", expected.nvlink_copies),
        ("picks", expected.picks),
        ("picks on other nodes", expected.remote_picks),
        ("picks on other ranks", expected.crossing_picks),
    ];
    let half_width =
        |half: Option<f64>| half.map_or_else(|| "–".to_owned(), |half| number(half, format!("± {half:.3}")));
    let columns = [
        Column::words("per token", rows.map(|row| row.0)),
        Column::decimals("mean", rows.map(|row| row.1.mean)),
        Column::new("95 %", rows.map(|row| half_width(row.1.half_width))),
        Column::counts("most", rows.map(|row| row.1.largest)),
    ];
    let mut text = format!(
        "<p class=\"quiet\">Means over {} sampled tokens with the half width of their 95 % confidence interval, and the most that a token \
         had.</p>",
        count(expected.tokens as f64)
    );
    text += &table("Where a token goes", &columns);
    text
}

/// Calls of a layer.
pub(super) fn phases(report: &Report) -> String {
    let phases = &report.phases;
    let names = || Column::words("one call of one layer", phases.iter().map(|phase| phase.name.name()));
    let bytes = |head: &str, of: fn(&Phase) -> f64| Column::bytes(head, &phases.iter().map(of).collect::<Vec<_>>());
    let columns = [
        names(),
        bytes("NVLink", |phase| phase.nvlink_bytes),
        bytes("RDMA", |phase| phase.rdma_bytes),
        bytes("RDMA at worst", |phase| phase.rdma_bytes_worst),
    ];
    let mut text = "<p class=\"quiet\">Bytes that leave a GPU.</p>".to_owned();
    text += &table("Bytes of a call", &columns);
    // One unit for all of them, since they are read beside each other.
    let unit = Unit::of_times(phases.iter().map(|phase| phase.time.total().0));
    let times =
        |head: &str, of: fn(&Prediction) -> f64| Column::of(head, unit, phases.iter().map(|phase| of(&phase.time)));
    let uncertainty = |phase: &Phase| {
        let part = phase.time.uncertainty;
        number(part, format!("± {:.1} %", part * 100.0))
    };
    let columns = [
        names(),
        times("copy", |time| time.copy.0),
        times("NVLink", |time| time.nvlink.0),
        times("RDMA", |time| time.network.0),
        times("latency", |time| time.latency.0),
        times("notify", |time| time.notify.0),
        times("kernel", |time| time.transfer.0),
        times("time", |time| time.total().0),
        Column::new("uncertainty", phases.iter().map(uncertainty)),
        Column::words("limit", phases.iter().map(|phase| phase.time.bottleneck.name())),
    ];
    text += "<p class=\"quiet\">Copy, NVLink, RDMA: time if that alone limited, at the rates that kernels reach.</p>";
    text += &table("Times of a call", &columns);
    text
}

/// The step and the memory.
pub(super) fn totals(report: &Report) -> String {
    let mut text = String::new();
    if let Some(step) = &report.step {
        let parts = [
            ("compute of a micro-batch", step.compute.0),
            ("dispatch and combine of a micro-batch", step.communication.0),
            ("of which nothing hides", step.exposed.0),
            ("all micro-batches", step.steady.0),
            ("pipeline bubble", step.bubble.0),
            ("replicas", step.replicas.0),
            ("step", step.total.0),
        ];
        let title =
            format!("step of {} micro-batches, {}", report.parallel.micro_batches, report.parallel.schedule.name());
        let times = || parts.map(|(_, us)| us);
        let columns =
            [Column::words(&title, parts.map(|(what, _)| what)), Column::of("time", Unit::of_times(times()), times())];
        text += &table("Step", &columns);
        text += &numbers(vec![("tokens/s a GPU", count(step.tokens_per_second))]);
    }
    let Some(memory) = &report.memory else { return text };
    let names = memory.parts.iter().map(|part| part.kind.name()).chain(["all", "what a GPU has"]);
    let sizes = memory.parts.iter().map(|part| part.bytes.0).chain([memory.total().0, memory.capacity.0]);
    let sizes: Vec<f64> = sizes.map(|bytes| bytes as f64).collect();
    let columns = [Column::words("memory of the fullest GPU", names), Column::bytes("bytes", &sizes)];
    text += &table("Memory of the fullest GPU", &columns);
    text + &recomputation(report)
}

/// What each choice of recomputation would need.
fn recomputation(report: &Report) -> String {
    let Some(choice) = &report.recompute else { return String::new() };
    let bytes = |of: fn(&Need) -> f64| choice.choices.iter().map(of).collect::<Vec<f64>>();
    let steps = || choice.choices.iter().filter_map(|need| need.step.map(|step| step.0));
    let names = choice.choices.iter().map(|need| match need.recompute == choice.chosen {
        true => format!("{}, chosen", need.recompute.name()),
        false => need.recompute.name().to_owned(),
    });
    let mut columns = vec![
        Column::words("recomputed", names.collect::<Vec<_>>().iter().map(String::as_str)),
        Column::bytes("memory", &bytes(|need| need.bytes.0 as f64)),
        Column::bytes("left", &bytes(|need| need.left as f64)),
    ];
    if steps().count() == choice.choices.len() {
        columns.push(Column::of("step", Unit::of_times(steps()), steps()));
    }
    table("Recomputation", &columns)
}

/// What the other tables are computed from.
pub(super) fn details(report: &Report) -> String {
    let (plan, wire, share) = (&report.parallel, &report.wire, &report.share);
    let groups = report
        .gate
        .groups
        .map(|(chosen, groups)| format!("{} of {}", count(f64::from(chosen)), count(f64::from(groups))));
    let mut rows = vec![
        ("GPUs", count(f64::from(report.gpus))),
        ("layers with experts", count(f64::from(report.moe_layers))),
        ("tensor parallel", count(f64::from(plan.tp))),
        ("tokens of a GPU in a call", count(f64::from(plan.tokens))),
        ("micro-batches of a step", count(f64::from(plan.micro_batches))),
        ("nodes that a group of experts spans, at most", count(f64::from(report.gate.nodes_per_group))),
        ("groups that a token may use", groups.unwrap_or_else(|| "no limit".to_owned())),
        ("nodes that a token may reach", count(f64::from(report.gate.most_nodes))),
        ("other nodes that a token may reach", count(f64::from(report.gate.most_remote_nodes))),
        ("largest over mean load of an expert", decimals(report.gate.expert_imbalance)),
        ("largest over mean load of a rank", decimals(report.gate.rank_imbalance)),
        ("largest over mean load of a node", decimals(report.gate.node_imbalance)),
        ("row on the way to the experts, with scales", bytes(wire.dispatch_row as f64)),
        ("record of a copy", bytes(wire.record as f64)),
        ("row on the way back", bytes(wire.combine_row as f64)),
        ("gradient of a weight", bytes(wire.weight_gradient as f64)),
        ("count of a peer", bytes(wire.count as f64)),
        ("flag of a peer", bytes(wire.flag as f64)),
        ("experts of a layer on a GPU", count(f64::from(share.experts_per_layer))),
        ("replicas of an expert", count(f64::from(share.expert_replicas))),
        ("replicas of everything else", count(f64::from(share.other_replicas))),
        ("seed of the sample", number(report.seed as f64, report.seed.to_string())),
    ];
    if let Some(parameters) = &report.parameters {
        rows.push(("parameters", count(parameters.total() as f64)));
        rows.push(("of routed experts", count(parameters.routed() as f64)));
        rows.push(("active for a token", count(parameters.active() as f64)));
    }
    if let Some(of_gpu) = &report.of_gpu {
        rows.push(("expert parameters of the fullest GPU", count(of_gpu.expert)));
        rows.push(("expert parameters of a GPU on average", count(of_gpu.expert_mean)));
        rows.push(("other parameters of the fullest GPU", count(of_gpu.other)));
    }
    if let Some(replicas) = &report.replicas {
        rows.push(("experts among replicas, a GPU and step", bytes(replicas.expert_bytes)));
        rows.push(("everything else among replicas", bytes(replicas.other_bytes)));
        rows.push(("of both over the network", bytes(replicas.network_bytes)));
    }
    if let Some(step) = &report.step {
        rows.push(("tokens of a step", count(step.tokens as f64)));
        rows.push((
            "difference of steps that can be told",
            number(step.resolution, format!("{:.1} %", step.resolution * 100.0)),
        ));
    }
    for faster in &report.faster {
        rows.push((faster.what.name(), time(faster.time.0)));
    }
    for remedy in &report.remedies {
        rows.push((&remedy.setting, bytes(remedy.bytes.0 as f64)));
    }
    if let Some(nodes) = report.gate.closed_form_nodes {
        rows.push(("distinct nodes by the closed form", decimals(nodes)));
    }
    if let Some(enough) = report.enough_sms {
        rows.push(("SMs that saturate the slower link", count(f64::from(enough))));
    }
    if let Some(decode) = report.decode {
        rows.push(("dispatches and combines of all layers for one token", time(decode.0)));
    }
    let mut text = numbers(rows);
    let expected = &report.gate.expected;
    for (what, values) in [
        ("picks of each expert per token", &expected.experts),
        ("picks of each rank per token", &expected.picks_by_rank),
        ("copies to each rank per token", &expected.copies_by_rank),
        ("copies to each node per token", &expected.copies_by_node),
    ] {
        text += &list(what, values.iter().map(|value| number(*value, format!("{value:.4}"))));
    }
    text
}

/// Many numbers, folded away.
fn list(what: &str, numbers: impl Iterator<Item = String>) -> String {
    format!("<details><summary>{what}</summary><p>{}</p></details>\n", numbers.collect::<Vec<_>>().join(" "))
}

/// Layers before and after placement.
pub(super) fn placement(placement: &PlacementReport) -> String {
    let layers = &placement.layers;
    let ratios = |head: &str, of: fn(&LayerPlacement) -> f64| {
        let ratio = |layer| number(of(layer), format!("×{:.3}", of(layer)));
        Column::new(head, layers.iter().map(ratio))
    };
    // Before and after are read beside each other.
    let moved = layers.iter().flat_map(|layer| [layer.before.bytes_between_nodes, layer.after.bytes_between_nodes]);
    let unit = Unit::of_bytes(moved);
    let moves = |layer: &LayerPlacement| layer.moves.map_or_else(|| "–".to_owned(), |moves| count(f64::from(moves)));
    let columns = [
        Column::new("layer", layers.iter().map(|layer| layer.layer.to_string())),
        ratios("largest/mean before", |layer| layer.before.max_over_mean),
        ratios("after", |layer| layer.after.max_over_mean),
        Column::decimals("copies between nodes before", layers.iter().map(|layer| layer.before.copies_between_nodes)),
        Column::decimals("after", layers.iter().map(|layer| layer.after.copies_between_nodes)),
        Column::of("between nodes before", unit, layers.iter().map(|layer| layer.before.bytes_between_nodes)),
        Column::of("after", unit, layers.iter().map(|layer| layer.after.bytes_between_nodes)),
        Column::new("experts moved", layers.iter().map(moves)),
    ];
    table("Placement by layer", &columns)
}

/// Times of a simulation beside bound and plan, and what its links did.
pub(super) fn simulated_times(simulation: &Simulation) -> String {
    let phases = simulation.phases();
    let times = phases.iter().flat_map(|(_, phase, bound, planned)| [phase.time.max, bound.time, planned.call]);
    let unit = Unit::of_times(times.map(|us| us.0));
    let names = || Column::words("time of the GPUs", phases.iter().map(|(name, ..)| *name));
    let simulated = |head: &str, of: fn(&Tail) -> Microseconds| {
        Column::of(head, unit, phases.iter().map(|(_, phase, ..)| of(&phase.time).0))
    };
    let uncertain = phases.iter().map(|(.., planned)| planned.uncertainty);
    let columns = [
        names(),
        simulated("median", |time| time.median),
        simulated("mean", |time| time.mean),
        simulated("99 %", |time| time.p99),
        simulated("slowest", |time| time.max),
        Column::of("busiest link alone", unit, phases.iter().map(|(_, _, bound, _)| bound.time.0)),
        Column::of("links by plan", unit, phases.iter().map(|(.., planned)| planned.links.0)),
        Column::words("which", phases.iter().map(|(.., planned)| planned.bottleneck.name())),
        Column::of("call by plan", unit, phases.iter().map(|(.., planned)| planned.call.0)),
        Column::new("uncertainty", uncertain.map(|part| number(part, format!("± {}", units::percent(part))))),
    ];
    let mut text = table("Dispatch and combine, simulated", &columns);
    let of_kinds = || {
        phases.iter().flat_map(|(name, phase, ..)| {
            phase.kinds.iter().map(move |of| (*name, of, phase.utilisation(of.kind).unwrap_or_default()))
        })
    };
    let columns = [
        Column::new(
            "links that carry bytes",
            of_kinds().map(|(name, of, _)| escape(&format!("{name}, {}", of.kind.name()))),
        ),
        Column::counts("links", of_kinds().map(|(_, of, _)| f64::from(of.links))),
        Column::of("mean", unit, of_kinds().map(|(_, of, _)| of.mean_busy.0)),
        Column::percents("of the slowest GPU's time", of_kinds().map(|(.., (mean, _))| mean)),
        Column::of("busiest", unit, of_kinds().map(|(_, of, _)| of.max_busy.0)),
        Column::percents("of the slowest GPU's time", of_kinds().map(|(.., (_, most))| most)),
    ];
    text += &table("Links", &columns);
    text
}

/// What was simulated, and every GPU.
pub(super) fn simulated_details(simulation: &Simulation) -> String {
    let (scenario, outcome) = (&simulation.scenario, &simulation.outcome);
    let (network, demand, options) = (&scenario.network, &scenario.demand, &scenario.options);
    let rate = |rate: u64| number(rate as f64, format!("{:.1} GB/s", rate as f64 / 1e9));
    let mut rows = vec![
        ("GPUs", count(f64::from(outcome.gpus))),
        ("nodes", count(f64::from(network.nodes))),
        ("GPUs of a node", count(f64::from(network.gpus_per_node))),
        ("ranks of a group", count(f64::from(demand.group_ranks))),
        ("tokens of a GPU", count(f64::from(demand.tokens_per_gpu))),
        ("nodes of a token", decimals(demand.nodes_per_token)),
        ("ranks of a copy", decimals(demand.ranks_per_copy)),
        ("copy out", bytes(demand.dispatch_bytes.0 as f64)),
        ("copy back", bytes(demand.combine_bytes.0 as f64)),
        ("NVLink of a GPU", rate(network.nvlink.0)),
        ("NIC of a GPU", rate(network.nic.0)),
        ("latency inside a node", time(network.nvlink_latency.0)),
        ("latency between nodes", time(network.nic_latency.0)),
        ("tokens of a chunk", count(f64::from(options.chunk_tokens))),
        ("chunks on the way, at most", count(f64::from(options.window))),
        ("seed", number(options.seed as f64, options.seed.to_string())),
        ("chunks", count(outcome.chunks as f64)),
        ("events", count(outcome.events as f64)),
    ];
    if let Some(Spine { nodes_per_pod, oversubscription, latency }) = &network.spine {
        rows.push(("nodes of a pod", count(f64::from(*nodes_per_pod))));
        rows.push(("oversubscription of the spine", decimals(*oversubscription)));
        rows.push(("latency of the spine", time(latency.0)));
    }
    rows.extend(demand.expert_time.map(|us| ("experts, average load", time(us.0))));
    rows.extend(outcome.total.map(|us| ("from the first token sent to the last one back", time(us.0))));
    if let Some(healthy) = &simulation.without_faults {
        rows.push(("dispatch without what is wrong", time(healthy.dispatch.0)));
        rows.push(("combine without what is wrong", time(healthy.combine.0)));
        rows.extend(healthy.total.map(|total| ("all without what is wrong", time(total.0))));
    }
    rows.extend(scenario.faults.iter().map(|fault| ("wrong", escape(&fault.to_string()))));
    let mut text = numbers(rows);
    if !demand.rank_load.is_empty() {
        text += &list("load of each rank", demand.rank_load.iter().map(|load| decimals(*load)));
    }
    for (name, phase, ..) in simulation.phases() {
        let title = format!("slowest GPUs, {name}");
        let times = || phase.slowest.iter().map(|slow| slow.time.0);
        let busy = || phase.busiest.iter().map(|busy| busy.busy.0);
        let unit = Unit::of_times(times().chain(busy()));
        let links: Vec<String> = phase.busiest.iter().map(|busy| busy.link.to_string()).collect();
        let columns = [
            Column::new(&title, phase.slowest.iter().map(|slow| format!("GPU {}", slow.gpu.0))),
            Column::of("time", unit, times()),
            Column::words("busiest links", links.iter().map(String::as_str)),
            Column::of("carry bytes for", unit, busy()),
        ];
        text += &table(&title, &columns);
        let unit = Unit::of_times(phase.by_gpu.iter().map(|us| us.0));
        let each = phase.by_gpu.iter().map(|us| number(us.0, unit.number(us.0)));
        text += &list(&format!("{name}: time of each GPU, {}", unit.name), each);
    }
    text
}
