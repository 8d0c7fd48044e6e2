//! A simulated dispatch and combine: times, links, and every GPU.

use moe_front::units::Microseconds;

use super::bars::Axis;
use super::columns::{self, Columns, Series, Together};
use super::figure::{Figure, Ink};
use super::matrix::Link;
use super::style::Mark;
use super::text::Type;
use crate::page::simulation::Simulation;
use crate::simulate::LinkKind;
use crate::units::{self, Unit};

/// More GPUs than this share columns.
const MOST_COLUMNS: usize = 128;

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
        "No order of sending can beat the bytes of the busiest link.",
    );
    let [simulated, busiest, by_plan] = figure.legend([
        (Mark::Series(0), "simulated"),
        (Mark::Series(4), "busiest link"),
        (Mark::Series(3), "by plan"),
    ]);
    let rows = simulation.phases().map(|(name, phase, bound, planned)| {
        let rows = [
            (simulated, "slowest GPU".to_owned(), phase.time.max),
            (simulated, "median GPU".to_owned(), phase.time.median),
            (busiest, bound.bottleneck.to_string(), bound.time),
            (by_plan, format!("{} alone", planned.bottleneck.name()), planned.links),
            (by_plan, "call with its kernels".to_owned(), planned.call),
        ];
        (name, rows)
    });
    let longest = rows.iter().flat_map(|(_, rows)| rows).map(|row| row.2.0).fold(0.0, f64::max);
    let unit = Unit::of_times([longest]);
    let axis = Axis::new(unit, longest);
    for (name, rows) in rows {
        figure.y += 6.0;
        figure.lines(Type::STRONG, Ink::Plain, name);
        for (key, what, Microseconds(us)) in rows {
            figure.row((Type::SMALL, &what), (Type::SMALL, Ink::Plain, &unit.show(us)));
            axis.behind(&mut figure, 10.0);
            figure.rectangle(key, [0.0, figure.y, axis.at(us), 10.0], &format!("{name}, {what}: {}", unit.show(us)));
            figure.y += 14.0;
        }
    }
    axis.below(&mut figure);
    figure
}

/// How busy each kind of link is.
fn utilisation(simulation: &Simulation) -> Figure {
    let mut figure = Figure::new(
        "How busy links are, simulated",
        "Part of the slowest GPU's time during which links of a kind carry bytes: the bar is their mean.",
    );
    let spine = simulation.scenario.network.spine.is_some();
    let mut entries = vec![
        (Mark::Traffic(Link::Nvlink, 1), "NVLink".to_owned()),
        (Mark::Traffic(Link::Rdma, 1), "NIC".to_owned()),
        (Mark::Most, "the busiest of them".to_owned()),
    ];
    if spine {
        entries.push((Mark::Series(5), "spine".to_owned()));
    }
    let keys = figure.legend_of(&entries);
    let axis = Axis::of_parts();
    for (name, phase, ..) in simulation.phases() {
        figure.y += 6.0;
        figure.lines(Type::STRONG, Ink::Plain, name);
        for of in &phase.kinds {
            let Some((mean, most)) = phase.utilisation(of.kind) else { continue };
            let key = match of.kind {
                LinkKind::NvlinkOut | LinkKind::NvlinkIn => keys.first(),
                LinkKind::NicOut | LinkKind::NicIn => keys.get(1),
                LinkKind::SpineUp | LinkKind::SpineDown => keys.get(3),
            };
            let (Some(key), Some(busiest)) = (key, keys.get(2)) else { continue };
            let words = format!("mean {}, busiest {}", units::percent(mean), units::percent(most));
            let links = format!("{} {}", units::count(f64::from(of.links)), of.kind.name());
            figure.row((Type::SMALL, &links), (Type::SMALL, Ink::Plain, &words));
            axis.behind(&mut figure, 10.0);
            let tip = format!("{name}, {}: {words}", of.kind.name());
            let (y, mark) = (figure.y, axis.at(most.min(1.0)));
            figure.rectangle(*key, [0.0, y, axis.at(mean.min(1.0)), 10.0], &tip);
            figure.stroke(*busiest, [mark, y - 2.0], [mark, y + 12.0]);
            figure.y += 14.0;
        }
    }
    axis.below(&mut figure);
    figure
}

/// The time of every GPU; where there are many, neighbours share a column.
fn by_gpu(name: &str, times: &[Microseconds]) -> Figure {
    let merged = times.len().div_ceil(MOST_COLUMNS).next_power_of_two();
    let blocks = || times.chunks(merged);
    let largest: Vec<f64> = blocks().map(|block| block.iter().map(|time| time.0).fold(0.0, f64::max)).collect();
    let means: Vec<f64> =
        blocks().map(|block| block.iter().map(|time| time.0).sum::<f64>() / block.len() as f64).collect();
    let how = if merged == 1 { String::new() } else { format!(" Each column stands for {merged} GPUs.") };
    let mut figure = Figure::new(
        format!("Time of each GPU, {name}"),
        format!("Until a GPU has everything that it waits for in {name}.{how}"),
    );
    let first = if merged == 1 { "time of a GPU" } else { "the slowest of a column" };
    let mut entries = vec![(Mark::Series(3), first.to_owned()), (Mark::Mean, "the mean of all GPUs".to_owned())];
    if merged > 1 {
        entries.push((Mark::Series(0), "the mean of a column".to_owned()));
    }
    let keys = figure.legend_of(&entries);
    let [slowest, mean, ..] = keys[..] else { return figure };
    let mut series =
        vec![Series { key: slowest, name: if merged == 1 { "time" } else { "slowest" }, values: &largest }];
    series.extend(keys.get(2).map(|&key| Series { key, name: "mean", values: &means }));
    let unit = Unit::of_times(largest.iter().copied());
    let all: Vec<f64> = times.iter().map(|time| time.0).collect();
    let mean = (mean, columns::mean(&all));
    Columns { series: &series, together: Together::InFront, mean, place: "GPU", merged, unit }.draw(&mut figure);
    figure
}
