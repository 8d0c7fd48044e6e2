//! A simulated dispatch and combine: times, links, and every GPU.

use moe_compiler::units::Microseconds;

use super::bars::{Axis, LEFT};
use super::columns::{self, Columns, Series, Together};
use super::figure::{Figure, rectangle};
use super::units;
use crate::simulate::{LinkKind, Simulation};

/// More GPUs than this share columns.
const MOST_COLUMNS: usize = 512;

/// All charts of a simulation.
pub(super) fn figures(simulation: &Simulation) -> Vec<Figure> {
    let mut figures = vec![times(simulation), utilisation(simulation)];
    figures.extend(simulation.phases().map(|(name, phase, ..)| by_gpu(name, &phase.by_gpu)));
    figures
}

/// What was simulated beside the bound and the plan.
fn times(simulation: &Simulation) -> Figure {
    let mut figure = Figure::new(
        "Time of one dispatch and one combine",
        "Simulated, beside what no order of sending can beat (the bytes of the busiest link) and what the plan says.",
    );
    let kinds = [("c0", "simulated"), ("c4", "busiest link"), ("c3", "by plan")];
    let top = figure.legend(0.0, 0.0, &kinds.map(|(class, name)| (class.to_owned(), name.to_owned()))) + 10.0;
    let rows = simulation.phases().map(|(name, phase, bound, planned)| {
        let rows = [
            ("c0", "slowest GPU".to_owned(), phase.time.max),
            ("c0", "median GPU".to_owned(), phase.time.median),
            ("c4", bound.bottleneck.to_string(), bound.time),
            ("c3", format!("{} alone", planned.bottleneck.name()), planned.links),
            ("c3", "call with its kernels".to_owned(), planned.call),
        ];
        (name, rows)
    });
    let longest = rows.iter().flat_map(|(_, rows)| rows).map(|row| row.2.0).fold(0.0, f64::max);
    let axis = Axis::new(longest);
    let height = rows.iter().map(|(_, rows)| rows.len() as f64 * 20.0 + 14.0).sum::<f64>();
    axis.draw(&mut figure, top, top + height, units::time);
    let mut y = top;
    for (name, rows) in rows {
        figure.text(0.0, y + 14.0, "strong", name);
        for (class, what, Microseconds(us)) in rows {
            figure.text(LEFT - 10.0, y + 13.0, "small end", what.as_str());
            let width = axis.at(us) - axis.at(0.0);
            figure.rectangle(
                [axis.at(0.0), y + 2.0, width, 15.0],
                class,
                format!("{name}, {what}: {}", units::time(us)),
            );
            figure.text(axis.at(us) + 8.0, y + 13.5, "small", units::time(us));
            y += 20.0;
        }
        y += 14.0;
    }
    figure.height = y + 24.0;
    figure
}

/// How busy each kind of link is.
fn utilisation(simulation: &Simulation) -> Figure {
    let mut figure = Figure::new(
        "Link utilisation, simulated",
        "Part of the slowest GPU's time during which links of a kind carry bytes: the bar is their mean, the mark the busiest of them.",
    );
    let axis = Axis::of_parts();
    let rows: Vec<(&str, LinkKind, u32, f64, f64)> = simulation
        .phases()
        .into_iter()
        .flat_map(|(name, phase, ..)| {
            phase.kinds.iter().filter_map(move |of| {
                let (mean, most) = phase.utilisation(of.kind)?;
                Some((name, of.kind, of.links, mean, most))
            })
        })
        .collect();
    let top = 6.0;
    axis.draw(&mut figure, top, top + rows.len() as f64 * 20.0, units::percent);
    let mut y = top;
    let mut last = "";
    for (name, kind, links, mean, most) in rows {
        if name != last {
            figure.text(0.0, y + 14.0, "strong", name);
            last = name;
        }
        let class = match kind {
            LinkKind::NvlinkOut | LinkKind::NvlinkIn => "nvlink",
            LinkKind::NicOut | LinkKind::NicIn => "rdma",
            LinkKind::SpineUp | LinkKind::SpineDown => "c5",
        };
        figure.text(LEFT - 10.0, y + 13.0, "small end", format!("{} {}", units::count(f64::from(links)), kind.name()));
        let whole = axis.at(1.0) - axis.at(0.0);
        figure.add(rectangle([axis.at(0.0), y + 2.0, whole, 15.0], "track"));
        let words = format!("mean {}, busiest {}", units::percent(mean), units::percent(most));
        let tip = format!("{name}, {}: {words}", kind.name());
        figure.rectangle([axis.at(0.0), y + 2.0, whole * mean.min(1.0), 15.0], class, tip);
        let mark = axis.at(most.min(1.0));
        figure.line([mark, y], [mark, y + 19.0], "whisker");
        figure.text(axis.at(1.0) + 10.0, y + 13.5, "small", words);
        y += 20.0;
    }
    figure.height = y + 22.0;
    figure
}

/// The time of every GPU; where there are many, neighbours share a column.
fn by_gpu(name: &str, times: &[Microseconds]) -> Figure {
    let merged = times.len().div_ceil(MOST_COLUMNS).next_power_of_two();
    let blocks = || times.chunks(merged);
    let largest: Vec<f64> = blocks().map(|block| block.iter().map(|time| time.0).fold(0.0, f64::max)).collect();
    let means: Vec<f64> =
        blocks().map(|block| block.iter().map(|time| time.0).sum::<f64>() / block.len() as f64).collect();
    let slowest = Series { class: "c3", name: "slowest", values: &largest };
    let shared = [slowest, Series { class: "c0", name: "mean", values: &means }];
    let alone = [Series { class: "c0", name: "time", values: &means }];
    let (series, how) = if merged == 1 {
        (&alone[..], "One column for each GPU.".to_owned())
    } else {
        (&shared[..], format!("Each column stands for {merged} GPUs: their mean, and behind it the slowest of them."))
    };
    let mut figure = Figure::new(
        format!("Time of each GPU, {name}"),
        format!("Until a GPU has everything that it waits for in {name}. {how} The dashed line is the mean."),
    );
    let mut top = 8.0;
    if merged > 1 {
        let legend = [("c3", "slowest"), ("c0", "mean")].map(|(class, name)| (class.to_owned(), name.to_owned()));
        top = figure.legend(columns::LEFT, 0.0, &legend) + 12.0;
    }
    let columns = Columns { series, together: Together::InFront, place: "GPU", merged, show: &units::time };
    figure.height = columns.draw(&mut figure, top);
    figure
}
