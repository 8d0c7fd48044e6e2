//! Quantities with their units, and numbers as they are written.
//!
//! Invariant: a number is read exactly from its decimal text; nothing is rounded before its final type is known.

use std::fmt;

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, serde::Serialize)]
        pub struct $name(pub $inner);
    };
}

quantity!(
    /// An amount of memory.
    Bytes(u64)
);
quantity!(
    /// A data rate.
    BytesPerSecond(u64)
);
quantity!(
    /// A length of time.
    Microseconds(f64)
);
quantity!(
    /// A number of tokens.
    Tokens(u32)
);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        scaled(f, self.0, "B")
    }
}

impl fmt::Display for BytesPerSecond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        scaled(f, self.0, "B/s")
    }
}

impl fmt::Display for Microseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} us", self.0)
    }
}

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tokens", self.0)
    }
}

fn scaled(f: &mut fmt::Formatter<'_>, value: u64, unit: &str) -> fmt::Result {
    let (divisor, prefix) = match value {
        1_000_000_000_000.. => (1e12, "T"),
        1_000_000_000.. => (1e9, "G"),
        1_000_000.. => (1e6, "M"),
        1_000.. => (1e3, "k"),
        _ => (1.0, ""),
    };
    let number = format!("{:.2}", value as f64 / divisor);
    let number = if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { &number };
    write!(f, "{number} {prefix}{unit}")
}

/// What a unit measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dimension {
    /// Bytes.
    Memory,
    /// Bytes per second.
    Rate,
    /// Seconds.
    Time,
    /// Tokens.
    Tokens,
}

impl Dimension {
    /// In words, with an example.
    pub fn described(self) -> (&'static str, &'static str) {
        match self {
            Dimension::Memory => ("an amount of memory", "80 GB"),
            Dimension::Rate => ("a data rate", "50 GB/s"),
            Dimension::Time => ("a time", "2 us"),
            Dimension::Tokens => ("a number of tokens", "4096 tokens"),
        }
    }
}

/// A unit as it can be written: its dimension and its size, as numerator and denominator, in bytes, bytes per second,
/// nanoseconds or tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// What it measures.
    pub dimension: Dimension,
    size: (u128, u128),
}

const UNITS: &[(&str, Dimension, u128, u128)] = &[
    ("B", Dimension::Memory, 1, 1),
    ("KB", Dimension::Memory, 1_000, 1),
    ("MB", Dimension::Memory, 1_000_000, 1),
    ("GB", Dimension::Memory, 1_000_000_000, 1),
    ("TB", Dimension::Memory, 1_000_000_000_000, 1),
    ("KiB", Dimension::Memory, 1 << 10, 1),
    ("MiB", Dimension::Memory, 1 << 20, 1),
    ("GiB", Dimension::Memory, 1 << 30, 1),
    ("TiB", Dimension::Memory, 1 << 40, 1),
    ("MB/s", Dimension::Rate, 1_000_000, 1),
    ("GB/s", Dimension::Rate, 1_000_000_000, 1),
    ("TB/s", Dimension::Rate, 1_000_000_000_000, 1),
    ("Mb/s", Dimension::Rate, 1_000_000, 8),
    ("Gb/s", Dimension::Rate, 1_000_000_000, 8),
    ("Tb/s", Dimension::Rate, 1_000_000_000_000, 8),
    ("ns", Dimension::Time, 1, 1),
    ("us", Dimension::Time, 1_000, 1),
    ("ms", Dimension::Time, 1_000_000, 1),
    ("s", Dimension::Time, 1_000_000_000, 1),
    ("tokens", Dimension::Tokens, 1, 1),
];

impl Unit {
    /// The unit written `text`.
    pub fn find(text: &str) -> Option<Unit> {
        let &(_, dimension, numerator, denominator) = UNITS.iter().find(|unit| unit.0 == text)?;
        Some(Unit { dimension, size: (numerator, denominator) })
    }

    /// Every unit as it is written.
    pub fn names() -> impl Iterator<Item = &'static str> {
        UNITS.iter().map(|unit| unit.0)
    }

    /// Whether `word` is, or begins, a unit.
    pub fn known_word(word: &str) -> bool {
        UNITS.iter().any(|unit| unit.0.split('/').next() == Some(word))
    }
}

/// A number as written, exactly: `digits` × 10^`exponent`, over 100 if it is a percentage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decimal {
    digits: u128,
    exponent: i32,
}

/// Why a number is not a whole number of the wanted size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotWhole {
    /// It has a fraction.
    Fraction,
    /// It is too large.
    TooLarge,
}

impl Decimal {
    /// Reads a number token. A number with more digits than 128 bits hold counts as huge.
    pub fn read(text: &str) -> Decimal {
        let percent = text.ends_with('%');
        let clean: String = text.chars().filter(|c| *c != '_' && *c != '%').collect();
        let (mantissa, exponent) = clean.split_once(['e', 'E']).unwrap_or((&clean, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let fraction = fraction.trim_end_matches('0');
        let written: i32 = exponent.parse().unwrap_or(if exponent.starts_with('-') { -100_000 } else { 100_000 });
        let mut digits = 0_u128;
        let mut lost = 0_i32;
        for digit in whole.bytes().chain(fraction.bytes()) {
            let digit = u128::from(digit.wrapping_sub(b'0').min(9));
            match digits.checked_mul(10).and_then(|shifted| shifted.checked_add(digit)) {
                Some(longer) if lost == 0 => digits = longer,
                _ => lost += 1,
            }
        }
        let fraction = i32::try_from(fraction.len()).unwrap_or(i32::MAX);
        let exponent = written.saturating_add(lost).saturating_sub(fraction) - if percent { 2 } else { 0 };
        Decimal { digits, exponent }
    }

    /// As a whole number.
    ///
    /// # Errors
    /// If it has a fraction, or is above `u64`.
    pub fn whole(self) -> Result<u64, NotWhole> {
        self.times((1, 1))
    }

    /// In the base of a unit: bytes, bytes per second, nanoseconds or tokens.
    ///
    /// # Errors
    /// If there remains a fraction, or it is above `u64`.
    pub fn of(self, unit: Unit) -> Result<u64, NotWhole> {
        self.times(unit.size)
    }

    fn times(self, (numerator, denominator): (u128, u128)) -> Result<u64, NotWhole> {
        if self.digits == 0 {
            return Ok(0);
        }
        let mut value = self.digits.checked_mul(numerator).ok_or(NotWhole::TooLarge)?;
        let mut exponent = self.exponent;
        while exponent < 0 {
            if !value.is_multiple_of(10) {
                return Err(NotWhole::Fraction);
            }
            value /= 10;
            exponent += 1;
        }
        if exponent > 40 {
            return Err(NotWhole::TooLarge);
        }
        let power = 10_u128.checked_pow(exponent.unsigned_abs()).ok_or(NotWhole::TooLarge)?;
        let value = value.checked_mul(power).ok_or(NotWhole::TooLarge)?;
        if !value.is_multiple_of(denominator) {
            return Err(NotWhole::Fraction);
        }
        u64::try_from(value / denominator).map_err(|_| NotWhole::TooLarge)
    }

    /// Whether it is zero.
    pub fn is_zero(self) -> bool {
        self.digits == 0
    }
}

/// Whether a number token is a decimal number whose underscores stand between two digits.
pub fn well_formed(text: &str) -> bool {
    let number = text.strip_suffix('%').unwrap_or(text);
    let digits = |part: &str| {
        !part.is_empty() && part.split('_').all(|run| !run.is_empty() && run.bytes().all(|byte| byte.is_ascii_digit()))
    };
    number.split(['.', 'e', 'E']).all(|part| digits(part.strip_prefix(['+', '-']).unwrap_or(part)))
}

/// The f32 nearest to a number token, ties to even; infinite when it is too large.
pub fn nearest_f32(text: &str) -> f32 {
    let clean: String = text.chars().filter(|c| *c != '_' && *c != '%').collect();
    // The standard library rounds decimal text correctly, so a percentage is given to it as text as well.
    let text = if text.ends_with('%') {
        let (mantissa, exponent) = clean.split_once(['e', 'E']).unwrap_or((&clean, "0"));
        let exponent: i64 = exponent.parse().unwrap_or(0);
        format!("{mantissa}e{}", exponent.saturating_sub(2))
    } else {
        clean
    };
    text.parse().unwrap_or(f32::INFINITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_exactly() {
        assert_eq!(Decimal::read("1_000").whole(), Ok(1000));
        assert_eq!(Decimal::read("1.5e3").whole(), Ok(1500));
        assert_eq!(Decimal::read("2.0").whole(), Ok(2));
        assert_eq!(Decimal::read("0.5").whole(), Err(NotWhole::Fraction));
        assert_eq!(Decimal::read("200%").whole(), Ok(2));
        assert_eq!(Decimal::read("1e30").whole(), Err(NotWhole::TooLarge));
        assert_eq!(Decimal::read("0e999999999999").whole(), Ok(0));
        assert_eq!(Decimal::read("1e-999999999999").whole(), Err(NotWhole::Fraction));
        assert_eq!(Decimal::read(&"9".repeat(5000)).whole(), Err(NotWhole::TooLarge));
    }

    #[test]
    fn units_scale_exactly() {
        let of = |number, unit| Decimal::read(number).of(Unit::find(unit).expect("a unit"));
        assert_eq!(of("80", "GB"), Ok(80_000_000_000));
        assert_eq!(of("1.5", "KiB"), Ok(1536));
        assert_eq!(of("400", "Gb/s"), Ok(50_000_000_000));
        assert_eq!(of("0.7", "us"), Ok(700));
        assert_eq!(of("0.3", "B"), Err(NotWhole::Fraction));
    }

    #[test]
    fn constants_round_once() {
        assert_eq!(nearest_f32("25%"), 0.25);
        assert_eq!(nearest_f32("1e-20"), 1e-20_f32);
        // Halfway between two neighbours plus a little: a detour through f64 would round down.
        assert_eq!(nearest_f32("1.00000005960464477540"), 1.0 + f32::EPSILON);
        assert_eq!(nearest_f32("1e50"), f32::INFINITY);
    }
}
