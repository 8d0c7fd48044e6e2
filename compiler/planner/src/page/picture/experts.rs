//! How evenly experts and GPUs are loaded, as sampled and before and after placement.

use super::columns::{self, Columns, Series, Together};
use super::figure::Figure;
use super::style::Mark;
use crate::page::report::Report;
use crate::placement::{Load, PlacementReport};
use crate::units::{self, Unit};

/// Picks of each expert, as sampled.
pub(super) fn load(report: &Report) -> Figure {
    let expected = &report.gate.expected;
    let mut figure = Figure::new(
        "Load per expert, as sampled",
        format!(
            "From {} tokens through the gate. Largest over mean in one call: expert ×{:.2}, rank ×{:.2}, node ×{:.2}.",
            units::count(expected.tokens as f64),
            report.gate.expert_imbalance,
            report.gate.rank_imbalance,
            report.gate.node_imbalance
        ),
    );
    let [picked, mean] =
        figure.legend([(Mark::Series(0), "picks of an expert per 1000 tokens"), (Mark::Mean, "their mean")]);
    let picks: Vec<f64> = expected.experts.iter().map(|picks| picks * 1e3).collect();
    let columns = Columns {
        series: &[Series { key: picked, name: "picks per 1000 tokens", values: &picks }],
        together: Together::Beside,
        mean: (mean, columns::mean(&picks)),
        place: "expert",
        merged: 1,
        unit: Unit::of_counts(picks.iter().copied()),
    };
    columns.draw(&mut figure);
    figure
}

/// Load of experts and GPUs before and after placement, in the layer that was worst before.
pub(super) fn placed(load: &Load, placement: &PlacementReport) -> Vec<Figure> {
    let Some(layer) = placement.worst_before() else { return Vec::new() };
    let Some(row) = load.layers().iter().position(|name| *name == layer.layer) else { return Vec::new() };
    let counts = load.counts()[row].as_slice();
    let after: Vec<f64> =
        counts.iter().zip(&layer.replicas).map(|(picks, replicas)| picks / f64::from((*replicas).max(1))).collect();
    let mut experts = Figure::new(
        format!("Load per copy of an expert, layer {}", layer.layer),
        "Observed picks that one copy of each expert serves, in the layer that was worst balanced before; an expert with several copies \
         after placement divides its picks among them.",
    );
    before_and_after(&mut experts, "expert", "the mean before", counts, &after);
    let mut gpus = Figure::new(
        format!("Load per GPU, layer {}", layer.layer),
        format!(
            "Observed picks that each GPU serves; largest over mean ×{:.2} before and ×{:.2} after.",
            layer.before.max_over_mean, layer.after.max_over_mean
        ),
    );
    before_and_after(&mut gpus, "GPU", "the mean", &layer.before.gpu_load, &layer.after.gpu_load);
    vec![experts, gpus]
}

fn before_and_after(figure: &mut Figure, place: &str, of_mean: &str, before: &[f64], after: &[f64]) {
    let [first, second, mean] = figure.legend([
        (Mark::Series(3), "before placement"),
        (Mark::Series(0), "after placement"),
        (Mark::Mean, of_mean),
    ]);
    let columns = Columns {
        series: &[
            Series { key: first, name: "before", values: before },
            Series { key: second, name: "after", values: after },
        ],
        together: Together::Beside,
        mean: (mean, columns::mean(before)),
        place,
        merged: 1,
        unit: Unit::of_counts(before.iter().chain(after).copied()),
    };
    columns.draw(figure);
}
