//! Numbers as people read them, each with its unit.

/// One unit for numbers that are read beside each other: that of the largest of them.
///
/// Invariant: numbers shown in one unit have equally many decimals, and a number that is not zero never looks like zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Unit {
    /// Behind a number, without a blank; empty for plain numbers.
    pub name: &'static str,
    size: f64,
    decimals: usize,
}

impl Unit {
    /// Of times in microseconds: a call is said in µs, as everywhere, and a step in seconds.
    pub(crate) fn of_times(us: impl IntoIterator<Item = f64>) -> Unit {
        match largest(us) {
            us if us >= 1e6 => Unit { name: "s", size: 1e6, decimals: 2 },
            us if us >= 1e5 => Unit { name: "ms", size: 1e3, decimals: 1 },
            us if us >= 10.0 || us == 0.0 => Unit { name: "µs", size: 1.0, decimals: 0 },
            _ => Unit { name: "µs", size: 1.0, decimals: 1 },
        }
    }

    /// Of amounts of memory.
    pub(crate) fn of_bytes(bytes: impl IntoIterator<Item = f64>) -> Unit {
        let largest = largest(bytes);
        let (name, size) = match largest {
            bytes if bytes >= 999.5e9 => ("TB", 1e12),
            bytes if bytes >= 999.5e6 => ("GB", 1e9),
            bytes if bytes >= 999.5e3 => ("MB", 1e6),
            bytes if bytes >= 999.5 => ("kB", 1e3),
            _ => return Unit { name: "B", size: 1.0, decimals: 0 },
        };
        Unit { name, size, decimals: usize::from(largest / size < 99.95) }
    }

    /// Of amounts of memory of which small ones matter too: a smaller unit, as long as no number has more than four digits.
    pub(crate) fn of_bytes_alike(bytes: impl IntoIterator<Item = f64> + Clone) -> Unit {
        let least = bytes.clone().into_iter().filter(|bytes| *bytes > 0.0).fold(f64::INFINITY, f64::min);
        let (unit, most) = (Unit::of_bytes(bytes.clone()), largest(bytes));
        let finer = Unit { decimals: 0, ..Unit::of_bytes([most / 1000.0]) };
        if unit.value(least) < 1.0 && finer.value(most) < 9999.5 { finer } else { unit }
    }

    pub(crate) fn of_counts(_: impl IntoIterator<Item = f64>) -> Unit {
        Unit { name: "", size: 1.0, decimals: 0 }
    }

    /// Of means that are compared.
    pub(crate) fn of_means(_: impl IntoIterator<Item = f64>) -> Unit {
        Unit { name: "", size: 1.0, decimals: 3 }
    }

    /// In the unit, as it is.
    pub(crate) fn value(self, number: f64) -> f64 {
        number / self.size
    }

    /// The number alone.
    pub(crate) fn number(self, number: f64) -> String {
        let (value, decimals) = (self.value(number), self.decimals);
        let shown = format!("{value:.decimals$}");
        if value != 0.0 && shown.parse() == Ok(0.0) {
            return format!("<{:.decimals$}", 10f64.powi(-(decimals as i32)));
        }
        grouped(&shown)
    }

    /// With its unit.
    pub(crate) fn show(self, number: f64) -> String {
        format!("{} {}", self.number(number), self.name)
    }
}

fn largest(numbers: impl IntoIterator<Item = f64>) -> f64 {
    numbers.into_iter().map(f64::abs).fold(0.0, f64::max)
}

/// A time in microseconds that stands alone.
pub(crate) fn time(us: f64) -> String {
    Unit::of_times([us]).show(us)
}

/// Bytes that stand alone.
pub(crate) fn bytes(bytes: f64) -> String {
    Unit::of_bytes([bytes]).show(bytes)
}

/// A part of one.
pub(crate) fn percent(part: f64) -> String {
    format!("{:.0} %", part * 100.0)
}

/// A count with thin spaces between thousands.
pub(crate) fn count(number: f64) -> String {
    grouped(&format!("{number:.0}"))
}

/// Thin spaces between the thousands of a number of five digits or more.
fn grouped(number: &str) -> String {
    let (whole, rest) = number.split_at(number.find('.').unwrap_or(number.len()));
    let (sign, digits) = whole.split_at(whole.len() - whole.trim_start_matches('-').len());
    let mut text = sign.to_owned();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && digits.len() > 4 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text + rest
}

/// Round marks of an axis from 0 to at least `largest`: steps of 1, 2 or 5 times a power of ten, at most `most` of them.
pub(crate) fn marks(largest: f64, most: u32) -> Vec<f64> {
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
pub(crate) fn logarithmic_marks(least: f64, largest: f64) -> Vec<f64> {
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

/// Bytes with a decimal prefix, in three or four digits.
pub fn human_bytes(bytes: f64) -> String {
    let (divisor, unit) = match bytes.abs() {
        size if size >= 999.5e9 => (1e12, "TB"),
        size if size >= 999.5e6 => (1e9, "GB"),
        size if size >= 999.5e3 => (1e6, "MB"),
        size if size >= 999.5 => (1e3, "kB"),
        _ => return format!("{bytes:.0} B"),
    };
    let value = bytes / divisor;
    if value.abs() >= 99.95 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
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
        assert_eq!(time(99_999.0), "99\u{202f}999 µs");
        assert_eq!(time(12_340_000.0), "12.34 s");
        assert_eq!(time(0.0), "0 µs");
        assert_eq!(bytes(48.6e9), "48.6 GB");
        assert_eq!(bytes(201_000_000.0), "201 MB");
        assert_eq!(count(1_234_567.0), "1\u{202f}234\u{202f}567");
        assert_eq!(count(-1186.0), "-1186");
    }

    #[test]
    fn numbers_beside_each_other_have_one_unit() {
        let memory = Unit::of_bytes([14.9e9, 116e6, 20e6, 0.0]);
        assert_eq!(
            [14.9e9, 116e6, 20e6, 0.0].map(|bytes| memory.show(bytes)),
            ["14.9 GB", "0.1 GB", "<0.1 GB", "0.0 GB"]
        );
        let step = Unit::of_times([27_624_700.0, 129_400.0]);
        assert_eq!([27_624_700.0, 129_400.0].map(|us| step.number(us)), ["27.62", "0.13"]);
    }

    #[test]
    fn sizes_are_short() {
        let shown = [0.0, 999.0, 1000.0, 12_340.0, 99_960.0, 999_499.0, 999_500.0, 5e9, -1.5e12].map(human_bytes);
        let short = ["0 B", "999 B", "1.0 kB", "12.3 kB", "100 kB", "999 kB", "1.0 MB", "5.0 GB", "-1.5 TB"];
        assert_eq!(shown, short);
    }
}
