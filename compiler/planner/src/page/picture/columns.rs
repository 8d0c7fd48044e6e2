//! Columns: one or two numbers of each expert or GPU, from zero.

use super::figure::{Anchor, Figure, Ink, Key, WIDTH, round};
use super::text::Type;
use crate::units::{self, Unit};

/// Where the columns begin, after the labels of their axis.
const LEFT: f64 = 62.0;
const HEIGHT: f64 = 120.0;
/// Narrower columns do not stand side by side.
const NARROWEST: f64 = 3.0;

/// A number for each place.
pub(super) struct Series<'a> {
    pub key: Key,
    pub name: &'a str,
    pub values: &'a [f64],
}

/// How series share a place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Together {
    /// Side by side; where there is no room for that, below each other.
    Beside,
    /// The next in front of the one before, which must not be smaller.
    InFront,
}

/// Columns with a common axis, and a mean.
pub(super) struct Columns<'a> {
    pub series: &'a [Series<'a>],
    pub together: Together,
    pub mean: (Key, f64),
    /// What stands on the horizontal axis.
    pub place: &'a str,
    /// How many of them a column stands for.
    pub merged: usize,
    pub unit: Unit,
}

impl Columns<'_> {
    /// Below what there is.
    pub(super) fn draw(&self, figure: &mut Figure) {
        let count = self.series.iter().map(|series| series.values.len()).max().unwrap_or(0).max(1);
        let pitch = (WIDTH - LEFT) / count as f64;
        let narrow = pitch / (self.series.len() as f64) < NARROWEST;
        if self.together == Together::Beside && narrow {
            self.series.iter().for_each(|series| self.panel(figure, std::slice::from_ref(series), pitch));
        } else {
            self.panel(figure, self.series, pitch);
        }
    }

    fn panel(&self, figure: &mut Figure, series: &[Series<'_>], pitch: f64) {
        let values = |series: &[Series<'_>]| series.iter().flat_map(|of| of.values.iter().copied()).fold(0.0, f64::max);
        // Panels below each other have one axis.
        let marks = units::marks(self.unit.value(values(self.series)), 4);
        let scale = HEIGHT / marks.last().copied().unwrap_or(1.0);
        let bottom = figure.y + HEIGHT + 12.0;
        let height = |value: f64| self.unit.value(value) * scale;
        for &mark in &marks {
            let y = bottom - mark * scale;
            figure.grid([LEFT, y], [WIDTH, y]);
            let label = format!("{} {}", round(mark), self.unit.name);
            figure.write([LEFT - 5.0, y + 4.0], Type::NUMBER, Anchor::End, Ink::Quiet, label.trim_end());
        }
        let gap = if pitch > 6.0 { 2.0 } else { pitch * 0.2 };
        let beside = if self.together == Together::Beside { series.len() as f64 } else { 1.0 };
        let width = (pitch - gap) / beside;
        for (which, Series { key, name, values }) in series.iter().enumerate() {
            let shift = if self.together == Together::Beside { which as f64 * width } else { 0.0 };
            for (index, &value) in values.iter().enumerate() {
                let x = LEFT + index as f64 * pitch + shift;
                let words = format!("{}, {name}: {}", self.label(index), self.unit.show(value).trim_end());
                figure.rectangle(*key, [x, bottom - height(value), width, height(value)], &words);
            }
        }
        let (key, mean) = self.mean;
        figure.stroke(key, [LEFT, bottom - height(mean)], [WIDTH, bottom - height(mean)]);
        figure.axis([LEFT, bottom], [WIDTH, bottom]);
        let count = ((WIDTH - LEFT) / pitch).round() as usize;
        let every = ((44.0 / pitch).ceil().max(1.0) as usize).next_power_of_two();
        for index in (0..count).step_by(every) {
            let label = (index * self.merged).to_string();
            let x = LEFT + (index as f64 + 0.5) * pitch;
            figure.write([x, bottom + 17.0], Type::NUMBER, Anchor::Middle, Ink::Quiet, &label);
        }
        figure.write([LEFT - 12.0, bottom + 17.0], Type::NUMBER, Anchor::End, Ink::Quiet, self.place);
        figure.y = bottom + 25.0;
    }

    /// Of a column.
    fn label(&self, index: usize) -> String {
        let first = index * self.merged;
        match self.merged {
            1 => format!("{} {first}", self.place),
            merged => format!("{}s {first} to {}", self.place, first + merged - 1),
        }
    }
}

/// Of all numbers; of none, nothing.
pub(super) fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len().max(1) as f64
}
