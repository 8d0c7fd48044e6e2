//! Bars: calls, links, steps and memory. What a bar is and what it says stand above it, so that it may be as wide as the chart.
//!
//! Invariant: the parts of a stacked bar are those of a sum that the report has; `data-value` on each holds its share of it, in
//! microseconds or bytes.

use super::figure::{Anchor, Figure, Ink, Key, WIDTH, round};
use super::matrix::Link;
use super::style::Mark;
use super::text::Type;
use super::{headline, name};
use crate::cost::memory::Memory;
use crate::page::report::Report;
use crate::time::Bottleneck;
use crate::units::{self, Unit};

/// How high a bar is.
const BAR: f64 = 16.0;

/// A horizontal axis from zero.
pub(super) struct Axis {
    scale: f64,
    /// Places and what is written there.
    marks: Vec<(f64, String)>,
}

impl Axis {
    /// To the largest of numbers that are shown in a unit.
    pub(super) fn new(unit: Unit, largest: f64) -> Axis {
        let marks = units::marks(unit.value(largest), 5);
        let last = marks.last().copied().unwrap_or(1.0);
        let marks = marks.iter().map(|mark| (mark / last * WIDTH, format!("{} {}", round(*mark), unit.name)));
        Axis { scale: WIDTH / (last / unit.value(1.0)), marks: marks.collect() }
    }

    /// From nothing to all.
    pub(super) fn of_parts() -> Axis {
        let mark = |quarter: u32| (f64::from(quarter) * WIDTH / 4.0, units::percent(f64::from(quarter) / 4.0));
        Axis { scale: WIDTH, marks: (0..=4).map(mark).collect() }
    }

    pub(super) fn at(&self, value: f64) -> f64 {
        value * self.scale
    }

    /// Behind a bar.
    pub(super) fn behind(&self, figure: &mut Figure, height: f64) {
        let y = figure.y;
        for (x, _) in &self.marks {
            figure.grid([*x, y - 1.0], [*x, y + height + 1.0]);
        }
    }

    /// What the marks are, below all bars.
    pub(super) fn below(&self, figure: &mut Figure) {
        let y = figure.y;
        figure.axis([0.0, y], [WIDTH, y]);
        for (x, label) in &self.marks {
            figure.axis([*x, y], [*x, y + 4.0]);
            figure.write([*x, y + 16.0], Type::NUMBER, Anchor::Middle, Ink::Quiet, label);
        }
        figure.y += 20.0;
    }
}

/// A part of a bar.
struct Part {
    key: Key,
    value: f64,
    what: String,
}

/// Parts side by side, with their numbers where they have room.
fn stack(figure: &mut Figure, axis: &Axis, unit: Unit, group: &str, parts: Vec<Part>) {
    axis.behind(figure, BAR);
    let (mut start, y) = (0.0, figure.y);
    for Part { key, value, what } in parts.into_iter().filter(|part| part.value > 0.0) {
        let (x, width) = (axis.at(start), axis.at(value));
        let label = unit.show(value);
        figure.part(key, [x, y, width, BAR], group, value, &format!("{what} {label}"));
        if width > Type::NUMBER.width(&label) + 6.0 {
            figure.write([x + width / 2.0, y + 12.0], Type::NUMBER, Anchor::Middle, Ink::On(key), &label);
        }
        start += value;
    }
    figure.y += BAR;
}

/// Time of each call of each plan, with its uncertainty.
pub(super) fn calls(plans: &[Report]) -> Figure {
    let mut figure = Figure::new(
        "Time of one call of one layer",
        "The exchange of counts comes before the kernel; the words above a bar say how sure its time is, and what limits it.",
    );
    let [kernel, notify, uncertainty] = figure.legend([
        (Mark::Series(0), "kernel"),
        (Mark::Series(3), "exchange of counts"),
        (Mark::Uncertainty, "as far as it may be off"),
    ]);
    let times = || plans.iter().flat_map(|report| &report.phases).map(|phase| &phase.time);
    let longest = times().map(|time| time.total().0 * (1.0 + time.uncertainty)).fold(0.0, f64::max);
    let unit = Unit::of_times([longest]);
    let axis = Axis::new(unit, longest);
    for (index, report) in plans.iter().enumerate() {
        figure.y += 6.0;
        headline(&mut figure, plans, report);
        for phase in &report.phases {
            let (time, total) = (&phase.time, phase.time.total().0);
            let words = format!(
                "{} ± {} · {} limits",
                unit.show(total),
                units::percent(time.uncertainty),
                time.bottleneck.name()
            );
            figure.row((Type::PLAIN, phase.name.name()), (Type::SMALL, Ink::Plain, &words));
            let part = |key, what: &str, value| Part {
                key,
                value,
                what: format!("{} · {}: {what}", name(report), phase.name.name()),
            };
            let parts = vec![part(notify, "notify", time.notify.0), part(kernel, "kernel", time.transfer.0)];
            stack(&mut figure, &axis, unit, &format!("call-{index}-{}", phase.name.name()), parts);
            let (low, high) = (axis.at(total * (1.0 - time.uncertainty)), axis.at(total * (1.0 + time.uncertainty)));
            let middle = figure.y + 5.0;
            figure.stroke(uncertainty, [low, middle], [high, middle]);
            figure.stroke(uncertainty, [low, middle - 3.0], [low, middle + 3.0]);
            figure.stroke(uncertainty, [high, middle - 3.0], [high, middle + 3.0]);
            figure.y += 12.0;
        }
    }
    axis.below(&mut figure);
    figure
}

/// How busy each link is in each call.
pub(super) fn utilisation(report: &Report) -> Figure {
    let mut figure = Figure::new(
        "How busy each link is",
        "Part of a call's time during which a resource would be busy if it alone limited, at the rate that kernels reach on it; beside \
         it, the bytes of a GPU and their rate over the whole call.",
    );
    // One node has no network to speak of.
    let links = if report.nodes > 1 { 3 } else { 2 };
    let entries = [
        (Mark::Series(4), "copying by SMs"),
        (Mark::Traffic(Link::Nvlink, 1), "NVLink"),
        (Mark::Traffic(Link::Rdma, 1), "RDMA"),
        (Mark::Outline, "what limits"),
    ];
    let entries: Vec<(Mark, String)> = entries
        .into_iter()
        .filter(|(mark, _)| links == 3 || *mark != Mark::Traffic(Link::Rdma, 1))
        .map(|(mark, name)| (mark, name.to_owned()))
        .collect();
    let keys = figure.legend_of(&entries);
    let axis = Axis::of_parts();
    for phase in &report.phases {
        let (time, total) = (&phase.time, phase.time.total().0);
        figure.y += 6.0;
        let latency = if time.bottleneck == Bottleneck::Latency {
            format!("◀ latency limits: {}", units::time(time.latency.0))
        } else {
            String::new()
        };
        figure.row((Type::STRONG, phase.name.name()), (Type::SMALL, Ink::Plain, &latency));
        let rate = |bytes: f64| format!("{}, {:.1} GB/s", units::bytes(bytes), bytes / total / 1e3);
        let rows = [
            (Bottleneck::Copy, time.copy.0, format!("{} SMs", report.parallel.sms)),
            (Bottleneck::Nvlink, time.nvlink.0, rate(phase.nvlink_bytes)),
            (Bottleneck::Network, time.network.0, rate(phase.rdma_bytes)),
        ];
        for ((kind, part, words), key) in rows.into_iter().take(links).zip(&keys) {
            let (share, limits) = (part / total, time.bottleneck == kind);
            let mark = if limits { " ◀ limits" } else { "" };
            let of = if limits { Type::STRONG } else { Type::SMALL };
            let words = format!("{} · {words}{mark}", units::percent(share));
            figure.row((Type::SMALL, kind.name()), (of, Ink::Plain, &words));
            axis.behind(&mut figure, 10.0);
            let tip =
                format!("{}, {}: {} of {}", phase.name.name(), kind.name(), units::time(part), units::time(total));
            let area = [0.0, figure.y, axis.at(share.min(1.0)), 10.0];
            figure.rectangle(*key, area, &tip);
            if let (true, Some(outline)) = (limits, keys.last()) {
                figure.rectangle(*outline, [area[0] + 1.0, area[1], area[2] - 2.0, area[3]], "");
            }
            figure.y += 14.0;
        }
    }
    axis.below(&mut figure);
    figure
}

/// What a step is made of.
pub(super) fn step(plans: &[Report]) -> Figure {
    let mut figure = Figure::new(
        "Time of a step",
        "All micro-batches of a step on the slowest stage; dispatch and combine that compute hides are not in the sum.",
    );
    let names = ["compute", "exposed dispatch and combine", "pipeline bubble", "replicas (gradients, weights)"];
    let [a, b, c, d] = names;
    let keys = figure.legend([(Mark::Series(0), a), (Mark::Series(2), b), (Mark::Series(3), c), (Mark::Series(4), d)]);
    let longest = plans.iter().filter_map(|report| report.step).map(|step| step.total.0).fold(0.0, f64::max);
    let unit = Unit::of_times([longest]);
    let axis = Axis::new(unit, longest);
    for (index, report) in plans.iter().enumerate() {
        let Some(step) = &report.step else { continue };
        figure.y += 6.0;
        let words = format!("{} · {} tokens/s a GPU", unit.show(step.total.0), units::count(step.tokens_per_second));
        figure.row((Type::PLAIN, &name(report)), (Type::STRONG, Ink::Plain, &words));
        let micro_batches = f64::from(report.parallel.micro_batches);
        let values = [step.compute.0 * micro_batches, step.exposed.0 * micro_batches, step.bubble.0, step.replicas.0];
        let parts = keys.iter().zip(names).zip(values).map(|((&key, kind), value)| Part {
            key,
            value,
            what: format!("{}: {kind}", name(report)),
        });
        stack(&mut figure, &axis, unit, &format!("step-{index}"), parts.collect());
        figure.y += 6.0;
    }
    axis.below(&mut figure);
    figure
}

/// Memory of the fullest GPU by kind.
pub(super) fn memory(plans: &[Report]) -> Figure {
    let mut figure = Figure::new("Memory of the fullest GPU", "By kind, against what the GPU has.");
    let known = || plans.iter().filter_map(|report| Some((report, report.memory.as_ref()?)));
    let Some((_, first)) = known().next() else { return figure };
    let capacity = |memory: &Memory| memory.capacity.0 as f64;
    let total = |memory: &Memory| memory.total().0 as f64;
    // The line of the capacity is within the chart.
    let largest = known().flat_map(|(_, memory)| [capacity(memory) * 1.05, total(memory)]).fold(0.0, f64::max);
    let unit = Unit::of_bytes([largest]);
    let axis = Axis::new(unit, largest);
    let parts = first.parts.iter().enumerate();
    let mut entries: Vec<(Mark, String)> =
        parts.map(|(kind, part)| (Mark::Series(kind), part.kind.name().to_owned())).collect();
    entries.push((Mark::Limit, format!("what a GPU has, {}", units::bytes(capacity(first)))));
    let keys = figure.legend_of(&entries);
    for (index, (report, memory)) in known().enumerate() {
        figure.y += 6.0;
        let (ink, words) = if memory.fits() {
            let free = units::bytes(capacity(memory) - total(memory));
            (Ink::Plain, format!("{}, {free} free", units::bytes(total(memory))))
        } else {
            let over = units::bytes(total(memory) - capacity(memory));
            (Ink::Alarm, format!("{}: {over} too much", units::bytes(total(memory))))
        };
        figure.row((Type::PLAIN, &name(report)), (Type::STRONG, ink, &words));
        let parts = memory.parts.iter().zip(&keys).map(|(part, &key)| Part {
            key,
            value: part.bytes.0 as f64,
            what: format!("{}: {}", name(report), part.kind.name()),
        });
        figure.y += 4.0;
        let (top, x) = (figure.y, axis.at(capacity(memory)));
        stack(&mut figure, &axis, unit, &format!("memory-{index}"), parts.collect());
        if let Some(limit) = keys.last() {
            // Not across the words within the bar.
            figure.stroke(*limit, [x, top - 6.0], [x, top]);
            figure.stroke(*limit, [x, figure.y], [x, figure.y + 6.0]);
        }
        figure.y += 9.0;
    }
    axis.below(&mut figure);
    figure
}
