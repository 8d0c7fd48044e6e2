//! How evenly experts and GPUs are loaded, as sampled and before and after placement.

use super::columns::{Columns, LEFT, Series, Together};
use super::figure::{Figure, round};
use super::{name, units};
use crate::placement::{Load, Placement};
use crate::report::Report;

/// Picks of each expert, as sampled.
pub(super) fn load(report: &Report) -> Figure {
    let expected = &report.gate.expected;
    let mut figure = Figure::new(
        format!("Load per expert, as sampled · {}", name(report)),
        format!(
            "Picks of each expert for a thousand tokens, from {} tokens through the gate; the dashed line is the mean. Largest over mean in \
             one call: expert ×{:.2}, rank ×{:.2}, node ×{:.2}.",
            units::count(expected.tokens as f64),
            report.gate.expert_imbalance,
            report.gate.rank_imbalance,
            report.gate.node_imbalance
        ),
    );
    figure.text(0.0, 10.0, "small quiet", "picks per 1000 tokens");
    let picks: Vec<f64> = expected.experts.iter().map(|picks| picks * 1e3).collect();
    let columns = Columns {
        series: &[Series { class: "c0", name: "sampled", values: &picks }],
        together: Together::Beside,
        place: "expert",
        merged: 1,
        show: &|value| round(value).to_string(),
    };
    figure.height = columns.draw(&mut figure, 24.0);
    figure
}

/// Load of experts and GPUs before and after placement, in the layer that was worst before.
pub(super) fn placed(load: &Load, placement: &Placement) -> Vec<Figure> {
    let Some(layer) = placement.worst_before() else { return Vec::new() };
    let Some(row) = load.layers().iter().position(|name| *name == layer.layer) else { return Vec::new() };
    let counts = load.counts()[row].as_slice();
    let after: Vec<f64> =
        counts.iter().zip(&layer.replicas).map(|(picks, replicas)| picks / f64::from((*replicas).max(1))).collect();
    let mut experts = Figure::new(
        format!("Load per copy of an expert, layer {}", layer.layer),
        "Observed picks that one copy of each expert serves, in the layer that was worst balanced before; an expert with several copies \
         after placement divides its picks among them. The dashed line is the mean before.",
    );
    before_and_after(&mut experts, "expert", counts, &after);
    let mut gpus = Figure::new(
        format!("Load per GPU, layer {}", layer.layer),
        format!(
            "Observed picks that each GPU serves; largest over mean ×{:.2} before and ×{:.2} after. The dashed line is the mean.",
            layer.before.max_over_mean, layer.after.max_over_mean
        ),
    );
    before_and_after(&mut gpus, "GPU", &layer.before.gpu_load, &layer.after.gpu_load);
    vec![experts, gpus]
}

fn before_and_after(figure: &mut Figure, place: &str, before: &[f64], after: &[f64]) {
    let legend = [("c3", "before placement"), ("c0", "after placement")]
        .map(|(class, name)| (class.to_owned(), name.to_owned()));
    let top = figure.legend(LEFT, 0.0, &legend) + 12.0;
    let columns = Columns {
        series: &[
            Series { class: "c3", name: "before", values: before },
            Series { class: "c0", name: "after", values: after },
        ],
        together: Together::Beside,
        place,
        merged: 1,
        show: &units::count,
    };
    figure.height = columns.draw(figure, top);
}
