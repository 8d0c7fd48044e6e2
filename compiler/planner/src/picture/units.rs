//! Numbers as people read them, each with its unit.

use crate::report::human_bytes;

/// A time in us with the prefix that suits it.
pub(super) fn time(us: f64) -> String {
    match us {
        us if us >= 1e6 => format!("{:.2} s", us / 1e6),
        us if us >= 1e4 => format!("{:.1} ms", us / 1e3),
        us if us >= 10.0 || us == 0.0 => format!("{us:.0} µs"),
        us => format!("{us:.1} µs"),
    }
}

/// Bytes with a decimal prefix.
pub(super) fn bytes(bytes: f64) -> String {
    human_bytes(bytes)
}

/// A part of one.
pub(super) fn percent(part: f64) -> String {
    format!("{:.0} %", part * 100.0)
}

/// A count with thin spaces between thousands.
pub(super) fn count(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Round marks of an axis from 0 to at least `largest`: steps of 1, 2 or 5 times a power of ten, at most `most` of them.
pub(super) fn marks(largest: f64, most: u32) -> Vec<f64> {
    if !(largest > 0.0 && largest.is_finite()) {
        return vec![0.0, 1.0];
    }
    let rough = largest / f64::from(most.max(1));
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|part| part * power).find(|step| *step >= rough * 0.999_999);
    let step = step.unwrap_or(10.0 * power);
    let steps = (largest / step).ceil().max(1.0) as u32;
    (0..=steps).map(|index| f64::from(index) * step).collect()
}

/// Round marks between two positive numbers on a logarithmic axis, the first at most `least`, the last at least `largest`.
pub(super) fn logarithmic_marks(least: f64, largest: f64) -> Vec<f64> {
    let mut marks = vec![];
    let mut power = 10f64.powf(least.log10().floor());
    while marks.last().is_none_or(|last| *last < largest) {
        for part in [1.0, 2.0, 5.0] {
            let mark = part * power;
            if mark <= least {
                marks.clear();
            }
            if marks.last().is_none_or(|last| *last < largest) {
                marks.push(mark);
            }
        }
        power *= 10.0;
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_marks_that_cover_everything() {
        assert_eq!(marks(80.0, 5), [0.0, 20.0, 40.0, 60.0, 80.0]);
        assert_eq!(marks(81.0, 5), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(marks(0.0, 5), [0.0, 1.0]);
        assert_eq!(logarithmic_marks(3.0, 40.0), [2.0, 5.0, 10.0, 20.0, 50.0]);
        assert_eq!(logarithmic_marks(2.0, 2.0), [2.0]);
    }

    #[test]
    fn numbers_have_units() {
        assert_eq!(time(2405.3), "2405 µs");
        assert_eq!(time(12_340_000.0), "12.34 s");
        assert_eq!(time(0.0), "0 µs");
        assert_eq!(count(1_234_567.0), "1\u{202f}234\u{202f}567");
    }
}
