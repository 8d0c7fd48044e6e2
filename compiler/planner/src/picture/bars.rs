//! Bars: calls, links, steps and memory.
//!
//! Invariant: the segments of a stacked bar are the parts of a sum that the report has; `data-value` on each holds its share of it, in
//! the unit of the axis.

use svg::node::element::Title;

use super::figure::{Figure, WIDTH, rectangle, round, text_width};
use super::{name, units};
use crate::report::Report;
use crate::time::Bottleneck;

/// Where bars begin, after their names.
pub(super) const LEFT: f64 = 264.0;
const BAR: f64 = 26.0;

/// A horizontal axis from zero.
pub(super) struct Axis {
    scale: f64,
    marks: Vec<f64>,
}

impl Axis {
    pub(super) fn new(largest: f64) -> Axis {
        let marks = units::marks(largest, 7);
        // Room for what is written behind the longest bar.
        Axis { scale: (WIDTH - LEFT - 190.0) / marks.last().copied().unwrap_or(1.0), marks }
    }

    /// From nothing to all.
    pub(super) fn of_parts() -> Axis {
        Axis { scale: (WIDTH - LEFT - 250.0), marks: vec![0.0, 0.25, 0.5, 0.75, 1.0] }
    }

    pub(super) fn at(&self, value: f64) -> f64 {
        LEFT + value * self.scale
    }

    pub(super) fn draw(&self, figure: &mut Figure, top: f64, bottom: f64, label: impl Fn(f64) -> String) {
        for &mark in &self.marks {
            figure.line([self.at(mark), top], [self.at(mark), bottom], "grid");
            figure.text(self.at(mark), bottom + 16.0, "small middle quiet", label(mark));
        }
    }
}

/// A part of a bar.
struct Segment {
    class: String,
    value: f64,
    tip: String,
    label: String,
}

/// Segments side by side; labels where they have room.
fn stack(figure: &mut Figure, axis: &Axis, y: f64, group: &str, segments: Vec<Segment>) -> f64 {
    let mut start = 0.0;
    for segment in segments.into_iter().filter(|segment| segment.value > 0.0) {
        let width = segment.value * axis.scale;
        let area = [axis.at(start), y, width, BAR];
        figure.add(
            rectangle(area, &format!("segment {}", segment.class))
                .set("data-stack", group)
                .set("data-value", segment.value)
                .add(Title::new(segment.tip)),
        );
        if width > text_width(&segment.label) + 6.0 {
            let ink = match segment.class.as_str() {
                "c0" | "c2" | "c4" => "small middle onDark",
                "c7" => "small middle onGrey",
                _ => "small middle onLight",
            };
            figure.text(area[0] + width / 2.0, y + BAR / 2.0 + 4.0, ink, segment.label);
        }
        start += segment.value;
    }
    axis.at(start)
}

/// Time of each call of each plan, with its uncertainty.
pub(super) fn calls(plans: &[Report]) -> Figure {
    let mut figure = Figure::new(
        "Time of one call of one layer",
        "Kernel and the exchange of counts before it; the whisker is the stated uncertainty of the prediction, the words say what limits.",
    );
    let kinds = [("c0", "kernel"), ("c1", "exchange of counts (notify)")];
    let mut y = figure.legend(0.0, 0.0, &kinds.map(|(class, name)| (class.to_owned(), name.to_owned()))) + 10.0;
    let top = y;
    let phases = || plans.iter().flat_map(|report| &report.phases);
    let axis =
        Axis::new(phases().map(|phase| phase.time.total().0 * (1.0 + phase.time.uncertainty)).fold(0.0, f64::max));
    let rows = plans.iter().map(|report| report.phases.len() as f64 * 32.0 + 26.0).sum::<f64>();
    axis.draw(&mut figure, top, top + rows, units::time);
    for (index, report) in plans.iter().enumerate() {
        figure.text(0.0, y + 16.0, "strong", name(report));
        y += 26.0;
        for phase in &report.phases {
            let (time, total) = (&phase.time, phase.time.total().0);
            figure.text(16.0, y + BAR / 2.0 + 4.0, "", phase.name);
            let part = |class: &str, what: &str, value: f64| Segment {
                class: class.to_owned(),
                value,
                tip: format!("{} · {}: {what} {}", name(report), phase.name, units::time(value)),
                label: units::time(value),
            };
            let parts = vec![part("c1", "notify", time.notify.0), part("c0", "kernel", time.transfer.0)];
            stack(&mut figure, &axis, y, &format!("call-{index}-{}", phase.name), parts);
            let (low, high) = (axis.at(total * (1.0 - time.uncertainty)), axis.at(total * (1.0 + time.uncertainty)));
            let middle = y + BAR / 2.0;
            figure.line([low, middle], [high, middle], "whisker");
            figure.line([low, middle - 5.0], [low, middle + 5.0], "whisker");
            figure.line([high, middle - 5.0], [high, middle + 5.0], "whisker");
            let words = format!(
                "{} ± {} · {} limits",
                units::time(total),
                units::percent(time.uncertainty),
                time.bottleneck.name()
            );
            figure.text(high + 8.0, middle + 4.0, "small", words);
            y += 32.0;
        }
    }
    figure.height = y + 24.0;
    figure
}

/// How busy each link is in each call.
pub(super) fn utilisation(report: &Report) -> Figure {
    let mut figure = Figure::new(
        format!("Link utilisation · {}", name(report)),
        "Part of a call's time during which a resource would be busy if it alone limited, at the rate that kernels reach on it; behind the \
         bar, the bytes of a GPU and their rate over the whole call. The outlined bar limits.",
    );
    let axis = Axis::of_parts();
    let mut y = 6.0;
    let top = y;
    let rows = if report.nodes > 1 { 3.0 } else { 2.0 };
    let height = report.phases.len() as f64 * (rows * 20.0 + 18.0);
    axis.draw(&mut figure, top, top + height, units::percent);
    for phase in &report.phases {
        let (time, total) = (&phase.time, phase.time.total().0);
        figure.text(0.0, y + 14.0, "strong", phase.name);
        // One node has no network to speak of.
        let links = if report.nodes > 1 { 3 } else { 2 };
        let rate = |bytes: f64| format!("{}, {:.1} GB/s", units::bytes(bytes), bytes / total / 1e3);
        for (kind, class, part, words) in [
            (Bottleneck::Copy, "c4", time.copy.0, format!("{} SMs", report.parallel.sms)),
            (Bottleneck::Nvlink, "nvlink", time.nvlink.0, rate(phase.nvlink_bytes)),
            (Bottleneck::Network, "rdma", time.network.0, rate(phase.rdma_bytes)),
        ]
        .into_iter()
        .take(links)
        {
            let (share, limits) = (part / total, time.bottleneck == kind);
            figure.text(LEFT - 10.0, y + 13.0, "small end", kind.name());
            figure.add(rectangle([axis.at(0.0), y + 2.0, axis.scale, 15.0], "track"));
            let tip = format!("{}, {}: {} of {}", phase.name, kind.name(), units::time(part), units::time(total));
            let class = if limits { format!("{class} bottleneck") } else { class.to_owned() };
            figure.rectangle([axis.at(0.0), y + 2.0, axis.scale * share.min(1.0), 15.0], &class, tip);
            let mark = if limits { " ◀ limits" } else { "" };
            let class = if limits { "small strong" } else { "small" };
            figure.text(axis.at(1.0) + 10.0, y + 13.5, class, format!("{} · {words}{mark}", units::percent(share)));
            y += 20.0;
        }
        if time.bottleneck == Bottleneck::Latency {
            figure.text(
                0.0,
                y - rows * 20.0 + 30.0,
                "small",
                format!("◀ latency limits: {}", units::time(time.latency.0)),
            );
        }
        y += 18.0;
    }
    figure.height = y + 22.0;
    figure
}

/// What a step is made of.
pub(super) fn step(plans: &[Report]) -> Figure {
    let mut figure = Figure::new(
        "Time of a step",
        "All micro-batches of a step on the slowest stage; dispatch and combine that compute hides are not in the sum.",
    );
    let kinds = [
        ("c0", "compute"),
        ("c2", "exposed dispatch and combine"),
        ("c3", "pipeline bubble"),
        ("c4", "replicas (gradients, weights)"),
    ];
    let top = figure.legend(0.0, 0.0, &kinds.map(|(class, name)| (class.to_owned(), name.to_owned()))) + 10.0;
    let longest = plans.iter().filter_map(|report| report.step).map(|step| step.total.0).fold(0.0, f64::max);
    let axis = Axis::new(longest / 1e6);
    let mut y = top;
    axis.draw(&mut figure, top, top + plans.len() as f64 * 38.0, |mark| format!("{} s", round(mark)));
    for (index, report) in plans.iter().enumerate() {
        figure.text(0.0, y + BAR / 2.0 + 8.0, "", name(report));
        if let Some(step) = &report.step {
            let micro_batches = f64::from(report.parallel.micro_batches);
            let values =
                [step.compute.0 * micro_batches, step.exposed.0 * micro_batches, step.bubble.0, step.replicas.0];
            let parts = kinds.iter().zip(values).map(|((class, kind), us)| Segment {
                class: (*class).to_owned(),
                value: us / 1e6,
                tip: format!("{}: {kind} {}", name(report), units::time(us)),
                label: units::time(us),
            });
            let end = stack(&mut figure, &axis, y + 4.0, &format!("step-{index}"), parts.collect());
            let words =
                format!("{} · {} tokens/s a GPU", units::time(step.total.0), units::count(step.tokens_per_second));
            figure.text(end + 8.0, y + BAR / 2.0 + 8.0, "small strong", words);
        }
        y += 38.0;
    }
    figure.height = y + 24.0;
    figure
}

/// Memory of the fullest GPU by kind.
pub(super) fn memory(plans: &[Report]) -> Figure {
    let mut figure = Figure::new("Memory of the fullest GPU", "By kind, against what the GPU has (dashed line).");
    let Some(first) = plans.first() else { return figure };
    let kinds: Vec<(String, String)> = (0..)
        .zip(&first.memory.parts)
        .map(|(index, part): (usize, _)| (series(index), part.kind.name().to_owned()))
        .collect();
    let top = figure.legend(0.0, 0.0, &kinds) + 22.0;
    let capacity = plans.iter().map(|report| report.memory.capacity.0).max().unwrap_or(0) as f64 / 1e9;
    let largest = plans.iter().map(|report| report.memory.total().0).max().unwrap_or(0) as f64 / 1e9;
    let axis = Axis::new(largest.max(capacity));
    let mut y = top;
    let bottom = top + plans.len() as f64 * 38.0;
    axis.draw(&mut figure, top, bottom, |mark| format!("{} GB", round(mark)));
    for (index, report) in plans.iter().enumerate() {
        figure.text(0.0, y + BAR / 2.0 + 8.0, "", name(report));
        let parts = report.memory.parts.iter().enumerate().map(|(kind, part)| Segment {
            class: series(kind),
            value: part.bytes.0 as f64 / 1e9,
            tip: format!("{}: {} {}", name(report), part.kind.name(), units::bytes(part.bytes.0 as f64)),
            label: units::bytes(part.bytes.0 as f64),
        });
        let end = stack(&mut figure, &axis, y + 4.0, &format!("memory-{index}"), parts.collect());
        let (total, capacity) = (report.memory.total().0 as f64, report.memory.capacity.0 as f64);
        let (class, words) = if report.fits {
            ("small strong", format!("{}, {} free", units::bytes(total), units::bytes(capacity - total)))
        } else {
            ("small strong alarm", format!("{}: {} too much", units::bytes(total), units::bytes(total - capacity)))
        };
        // Not across the line of the capacity.
        let at =
            end.max(if report.fits && axis.at(capacity / 1e9) - end < 150.0 { axis.at(capacity / 1e9) } else { 0.0 });
        figure.text(at + 8.0, y + BAR / 2.0 + 8.0, class, words);
        y += 38.0;
    }
    let x = axis.at(capacity);
    figure.line([x, top - 4.0], [x, bottom], "limit");
    figure.text(x, top - 8.0, "small middle alarm", format!("{} a GPU", units::bytes(capacity * 1e9)));
    figure.height = bottom + 24.0;
    figure
}

/// The class of the n-th series.
fn series(index: usize) -> String {
    format!("c{}", index % super::style::SERIES)
}
