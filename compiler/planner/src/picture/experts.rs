//! How evenly experts and GPUs are loaded, as sampled and before and after placement.

use super::figure::{Figure, WIDTH, round};
use super::{name, units};
use crate::placement::{LayerPlacement, Load, Placement};
use crate::report::Report;

const LEFT: f64 = 66.0;
const PLOT: f64 = 150.0;

/// Columns of one or two series from zero, with a mean.
fn columns(
    figure: &mut Figure,
    top: f64,
    series: &[(&str, &str, &[f64])],
    x_label: &str,
    tip: &dyn Fn(f64) -> String,
) -> f64 {
    let largest = series.iter().flat_map(|(_, _, values)| values.iter().copied()).fold(0.0, f64::max);
    let marks = units::marks(largest, 4);
    let scale = PLOT / marks.last().copied().unwrap_or(1.0);
    let bottom = top + PLOT;
    for &mark in &marks {
        figure.line([LEFT, bottom - mark * scale], [WIDTH, bottom - mark * scale], "grid");
        figure.text(LEFT - 6.0, bottom - mark * scale + 4.0, "small end quiet", tip(mark));
    }
    let count = series.iter().map(|(_, _, values)| values.len()).max().unwrap_or(0).max(1);
    let pitch = (WIDTH - LEFT) / count as f64;
    let gap = if pitch > 6.0 { 2.0 } else { pitch * 0.2 };
    let width = (pitch - gap) / series.len() as f64;
    for (which, (class, what, values)) in series.iter().enumerate() {
        for (index, &value) in values.iter().enumerate() {
            let x = LEFT + index as f64 * pitch + which as f64 * width;
            let words = format!("{x_label} {index}, {what}: {}", tip(value));
            figure.rectangle([x, bottom - value * scale, width, value * scale], class, words);
        }
    }
    let first = series.first().map_or(&[][..], |(_, _, values)| values);
    let mean = first.iter().sum::<f64>() / first.len().max(1) as f64;
    figure.line([LEFT, bottom - mean * scale], [WIDTH, bottom - mean * scale], "mean");
    figure.line([LEFT, bottom], [WIDTH, bottom], "axis");
    let every = ((44.0 / pitch).ceil().max(1.0) as usize).next_power_of_two();
    for index in (0..count).step_by(every) {
        figure.text(LEFT + (index as f64 + 0.5) * pitch, bottom + 15.0, "small middle quiet", index.to_string());
    }
    figure.text(WIDTH, bottom + 30.0, "small end quiet", x_label);
    bottom + 38.0
}

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
    let bottom = columns(&mut figure, 24.0, &[("c0", "sampled", &picks)], "expert", &|value| round(value).to_string());
    figure.height = bottom;
    figure
}

/// The layer whose experts were spread worst before, and its counts.
fn worst<'a>(load: &'a Load, placement: &'a Placement) -> Option<(&'a LayerPlacement, &'a [f64])> {
    let layers = placement.layers.iter().filter_map(|layer| {
        let row = load.layers().iter().position(|name| *name == layer.layer)?;
        Some((layer, load.counts()[row].as_slice()))
    });
    layers.max_by(|(a, _), (b, _)| a.before.max_over_mean.total_cmp(&b.before.max_over_mean))
}

/// Load of experts and GPUs before and after placement, in the layer that was worst before.
pub(super) fn placed(load: &Load, placement: &Placement) -> Vec<Figure> {
    let Some((layer, counts)) = worst(load, placement) else { return Vec::new() };
    let after: Vec<f64> =
        counts.iter().zip(&layer.replicas).map(|(picks, replicas)| picks / f64::from((*replicas).max(1))).collect();
    let tip = |value: f64| units::count(value);
    let legend = [("c3", "before placement"), ("c0", "after placement")]
        .map(|(class, name)| (class.to_owned(), name.to_owned()));
    let mut experts = Figure::new(
        format!("Load per copy of an expert, layer {}", layer.layer),
        "Observed picks that one copy of each expert serves, in the layer that was worst balanced before; an expert with several copies \
         after placement divides its picks among them. The dashed line is the mean before.",
    );
    let top = experts.legend(LEFT, 0.0, &legend) + 12.0;
    let series = [("c3", "before", counts), ("c0", "after", after.as_slice())];
    experts.height = columns(&mut experts, top, &series, "expert", &tip);
    let mut gpus = Figure::new(
        format!("Load per GPU, layer {}", layer.layer),
        format!(
            "Observed picks that each GPU serves; largest over mean ×{:.2} before and ×{:.2} after. The dashed line is the mean.",
            layer.before.max_over_mean, layer.after.max_over_mean
        ),
    );
    let top = gpus.legend(LEFT, 0.0, &legend) + 12.0;
    let series = [("c3", "before", layer.before.gpu_load.as_slice()), ("c0", "after", layer.after.gpu_load.as_slice())];
    gpus.height = columns(&mut gpus, top, &series, "GPU", &tip);
    vec![experts, gpus]
}
