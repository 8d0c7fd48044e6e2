//! Columns: one or two numbers of each expert or GPU, from zero.

use super::figure::{Figure, WIDTH};
use super::units;

/// Where the columns begin, after the labels of their axis.
pub(super) const LEFT: f64 = 66.0;
const HEIGHT: f64 = 150.0;

/// A number for each place.
pub(super) struct Series<'a> {
    pub class: &'a str,
    pub name: &'a str,
    pub values: &'a [f64],
}

/// How series share a place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Together {
    /// Side by side.
    Beside,
    /// The next in front of the one before, which must not be smaller.
    InFront,
}

/// Columns with a common axis; the dashed line is the mean of the first series.
pub(super) struct Columns<'a> {
    pub series: &'a [Series<'a>],
    pub together: Together,
    /// What stands on the horizontal axis.
    pub place: &'a str,
    /// How many of them a column stands for.
    pub merged: usize,
    /// A number of the series with its unit.
    pub show: &'a dyn Fn(f64) -> String,
}

impl Columns<'_> {
    /// Below `top`; returns where the figure goes on.
    pub fn draw(&self, figure: &mut Figure, top: f64) -> f64 {
        let series = self.series;
        let largest = series.iter().flat_map(|series| series.values.iter().copied()).fold(0.0, f64::max);
        let marks = units::marks(largest, 4);
        let scale = HEIGHT / marks.last().copied().unwrap_or(1.0);
        let bottom = top + HEIGHT;
        for &mark in &marks {
            figure.line([LEFT, bottom - mark * scale], [WIDTH, bottom - mark * scale], "grid");
            figure.text(LEFT - 6.0, bottom - mark * scale + 4.0, "small end quiet", (self.show)(mark));
        }
        let count = series.iter().map(|series| series.values.len()).max().unwrap_or(0).max(1);
        let pitch = (WIDTH - LEFT) / count as f64;
        let gap = if pitch > 6.0 { 2.0 } else { pitch * 0.2 };
        let beside = if self.together == Together::Beside { series.len() as f64 } else { 1.0 };
        let width = (pitch - gap) / beside;
        for (which, Series { class, name, values }) in series.iter().enumerate() {
            let shift = if self.together == Together::Beside { which as f64 * width } else { 0.0 };
            for (index, &value) in values.iter().enumerate() {
                let x = LEFT + index as f64 * pitch + shift;
                let words = format!("{}, {name}: {}", self.label(index), (self.show)(value));
                figure.rectangle([x, bottom - value * scale, width, value * scale], class, words);
            }
        }
        let first = series.first().map_or(&[][..], |series| series.values);
        let mean = first.iter().sum::<f64>() / first.len().max(1) as f64;
        figure.line([LEFT, bottom - mean * scale], [WIDTH, bottom - mean * scale], "mean");
        figure.line([LEFT, bottom], [WIDTH, bottom], "axis");
        let every = ((44.0 / pitch).ceil().max(1.0) as usize).next_power_of_two();
        for index in (0..count).step_by(every) {
            let label = (index * self.merged).to_string();
            figure.text(LEFT + (index as f64 + 0.5) * pitch, bottom + 15.0, "small middle quiet", label);
        }
        figure.text(WIDTH, bottom + 30.0, "small end quiet", self.place);
        bottom + 38.0
    }

    fn label(&self, index: usize) -> String {
        let first = index * self.merged;
        match self.merged {
            1 => format!("{} {first}", self.place),
            merged => format!("{}s {first} to {}", self.place, first + merged - 1),
        }
    }
}
