//! Quantities with their units, and numbers as they are written.
//!
//! Invariant: a number is read exactly from its decimal text; nothing is rounded before its final type is known.

use std::fmt;

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, serde::Serialize, schemars::JsonSchema)]
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
    /// What a number in its base counts.
    pub fn base(self) -> &'static str {
        match self {
            Dimension::Memory => "bytes",
            Dimension::Rate => "bytes per second",
            Dimension::Time => "nanoseconds",
            Dimension::Tokens => "tokens",
        }
    }

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
    ("KB/s", Dimension::Rate, 1_000, 1),
    ("MB/s", Dimension::Rate, 1_000_000, 1),
    ("GB/s", Dimension::Rate, 1_000_000_000, 1),
    ("TB/s", Dimension::Rate, 1_000_000_000_000, 1),
    ("KiB/s", Dimension::Rate, 1 << 10, 1),
    ("MiB/s", Dimension::Rate, 1 << 20, 1),
    ("GiB/s", Dimension::Rate, 1 << 30, 1),
    ("TiB/s", Dimension::Rate, 1 << 40, 1),
    ("Kb/s", Dimension::Rate, 1_000, 8),
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

    /// As it is written.
    pub fn text(self) -> &'static str {
        UNITS.iter().find(|unit| (unit.1, (unit.2, unit.3)) == (self.dimension, self.size)).map_or("", |unit| unit.0)
    }

    /// Whether it counts bits.
    pub fn is_bits(self) -> bool {
        self.size.1 == 8
    }

    /// The units that a word outside of the language means, in other people's spelling (`Gbps`, `Gbit/s`, `GBps`, `gb/s`, `usec`): one, or two
    /// where its case leaves open whether bits or bytes are meant. Of memory nobody counts bits.
    pub fn meant(word: &str, wanted: Dimension) -> Vec<Unit> {
        let lower = word.to_ascii_lowercase();
        let time = match lower.as_str() {
            "nsec" | "nsecs" | "nanosecond" | "nanoseconds" => Some("ns"),
            "usec" | "usecs" | "microsecond" | "microseconds" => Some("us"),
            "msec" | "msecs" | "millisecond" | "milliseconds" => Some("ms"),
            "sec" | "secs" | "second" | "seconds" => Some("s"),
            _ => None,
        };
        let names: Vec<String> = match time {
            Some(time) => vec![time.to_owned()],
            None => data_units(word, wanted == Dimension::Rate),
        };
        let known = names.iter().filter_map(|name| Unit::find(name)).filter(|unit| unit.text() != word);
        known.collect()
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

/// What a unit of data in another spelling may mean, in this language's spelling.
fn data_units(word: &str, rate: bool) -> Vec<String> {
    let lower = word.to_ascii_lowercase();
    let endings = ["/second", "/sec", "/s", "psec", "ps"];
    let ending = endings.iter().find(|ending| lower.ends_with(**ending)).map_or("", |ending| *ending);
    let head = &lower[..lower.len() - ending.len()];
    let head = head.strip_suffix('s').unwrap_or(head);
    let rate = rate || !ending.is_empty();
    let Some(prefix) = head.chars().next().filter(|prefix| matches!(prefix, 'k' | 'm' | 'g' | 't')) else {
        return Vec::new();
    };
    let (binary, letter) = match &head[1..] {
        "ib" | "ibit" | "ibyte" => (true, &word[2..]),
        "b" | "bit" | "byte" => (false, &word[1..]),
        _ => return Vec::new(),
    };
    let one_case =
        word.bytes().all(|byte| !byte.is_ascii_uppercase()) || word.bytes().all(|byte| !byte.is_ascii_lowercase());
    let spelt = head.ends_with("bit") || head.ends_with("byte");
    let bits = if spelt { head.ends_with("bit") } else { letter.starts_with('b') };
    let kinds: &[char] = match (rate, one_case && !spelt, bits) {
        (false, _, _) => &['B'],
        (true, true, _) => &['b', 'B'],
        (true, false, true) => &['b'],
        (true, false, false) => &['B'],
    };
    let prefix = prefix.to_ascii_uppercase();
    let (infix, per) = (if binary { "i" } else { "" }, if rate { "/s" } else { "" });
    kinds.iter().map(|kind| format!("{prefix}{infix}{kind}{per}")).collect()
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

    /// The same amount, to the last digit, in the largest unit of bytes in which it is 1 or more: `400 Gb/s` is `50 GB/s`.
    pub fn in_bytes(self, unit: Unit) -> Option<String> {
        let value = self.of(unit).ok()?;
        let wanted =
            UNITS.iter().filter(|other| other.1 == unit.dimension && other.3 == 1 && other.2.is_multiple_of(10));
        let (name, _, size, _) = *wanted.rev().find(|other| other.2 <= u128::from(value)).filter(|_| value > 0)?;
        let (whole, rest) = (u128::from(value) / size, u128::from(value) % size);
        let digits = size.ilog10() as usize;
        let fraction = format!("{rest:0digits$}");
        let fraction = fraction.trim_end_matches('0');
        let point = if fraction.is_empty() { "" } else { "." };
        Some(format!("{whole}{point}{fraction} {name}"))
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
    fn units_in_other_spellings_mean_what_their_writers_mean() {
        let meant = |word, wanted| {
            let units: Vec<&str> = Unit::meant(word, wanted).into_iter().map(Unit::text).collect();
            units.join(" or ")
        };
        for (words, expected) in [
            ("Gbps Gbit/s Gbits/s gbit/s Gbitps Gb/sec Gbs Gb Gbit", "Gb/s"),
            ("GBps GBs GB/sec GByte/s GBytes/second gbyte/s", "GB/s"),
            ("gbps gb/s GBPS GB/S gb/sec", "Gb/s or GB/s"),
            ("Mbps Mbit/s mbit/s", "Mb/s"),
            ("kbps", "Kb/s or KB/s"),
            ("Kbps kbit/s", "Kb/s"),
            ("kB/s kBps", "KB/s"),
            ("TBps TBs", "TB/s"),
            ("GiBps GiBs GiB", "GiB/s"),
        ] {
            for word in words.split(' ') {
                assert_eq!(meant(word, Dimension::Rate), expected, "{word}");
            }
        }
        for (words, expected) in
            [("gb Gb gB Gbyte GBytes Gbit", "GB"), ("mib MIB Mib", "MiB"), ("kB kb KByte", "KB"), ("tb Tb", "TB")]
        {
            for word in words.split(' ') {
                assert_eq!(meant(word, Dimension::Memory), expected, "{word}");
            }
        }
        for (word, expected) in [("usec", "us"), ("Microseconds", "us"), ("sec", "s"), ("msec", "ms"), ("nsec", "ns")] {
            assert_eq!(meant(word, Dimension::Time), expected, "{word}");
        }
        for word in ["", "x", "b", "s", "B/s", "é", "G", "Gé", "Gx/s", "/s", "ps", "GB/s", "bananas"] {
            assert_eq!(meant(word, Dimension::Rate), "", "{word}");
        }
    }

    #[test]
    fn the_same_rate_in_bytes_is_exact() {
        for (number, unit, expected) in [
            ("400", "Gb/s", "50 GB/s"),
            ("100", "Gb/s", "12.5 GB/s"),
            ("3.2", "Tb/s", "400 GB/s"),
            ("1", "Kb/s", "125 B/s"),
            ("0.2", "Gb/s", "25 MB/s"),
            ("1", "GiB/s", "1.073741824 GB/s"),
            ("1_600", "Gb/s", "200 GB/s"),
            ("80", "GB", "80 GB"),
        ] {
            let unit = Unit::find(unit).expect("a unit");
            let shown = Decimal::read(number).in_bytes(unit);
            if expected.ends_with(" B/s") {
                assert_eq!(shown, None, "there is no unit that small");
            } else {
                assert_eq!(shown.as_deref(), Some(expected));
            }
        }
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
