//! What kernels print: `vprintf` as CUDA has it, a format in device memory and arguments in the thread's local memory.
//!
//! Invariant: a conversion takes as many bytes of the arguments as C promotes its type to, at a multiple of that; what is not one is
//! printed as it stands.

/// What one thread printed with one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Printed {
    /// Whose kernel it is.
    pub rank: crate::ids::RankId,
    pub kernel: String,
    /// CTA along x, y and z.
    pub cta: [u32; 3],
    /// Thread index along x, y and z.
    pub thread: [u32; 3],
    pub text: String,
}

impl std::fmt::Display for Printed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Printed { rank, kernel, cta: [x, y, z], thread: [a, b, c], text } = self;
        let kernel = crate::names::demangled(kernel);
        write!(
            f,
            "{rank}, kernel `{kernel}`, CTA ({x}, {y}, {z}), thread ({a}, {b}, {c}): {}",
            text.trim_end_matches('\n')
        )
    }
}

/// One `%` conversion.
struct Conversion {
    left: bool,
    zeros: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
    /// `l`, `ll`, `z`, `j` or `t`.
    long: bool,
    kind: char,
}

/// Text by a format; `argument` reads the next so many bytes, `string` what one of them points to. Also the number of arguments.
pub(super) fn formatted(
    format: &str,
    mut argument: impl FnMut(u32) -> u64,
    mut string: impl FnMut(u64) -> String,
) -> (String, u32) {
    let (mut out, mut count) = (String::new(), 0);
    let mut rest = format.chars().peekable();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut spec = Conversion {
            left: false,
            zeros: false,
            plus: false,
            space: false,
            alternate: false,
            width: 0,
            precision: None,
            long: false,
            kind: '%',
        };
        let mut text = String::from('%');
        let mut star = |count: &mut u32| {
            *count += 1;
            argument(4) as u32 as usize % 1024
        };
        while let Some(flag) = rest.next_if(|c| "-0+ #".contains(*c)) {
            text.push(flag);
            match flag {
                '-' => spec.left = true,
                '0' => spec.zeros = true,
                '+' => spec.plus = true,
                ' ' => spec.space = true,
                _ => spec.alternate = true,
            }
        }
        if rest.next_if_eq(&'*').is_some() {
            spec.width = star(&mut count);
        }
        while let Some(digit) = rest.next_if(char::is_ascii_digit) {
            text.push(digit);
            spec.width = (spec.width * 10 + digit as usize - '0' as usize).min(1024);
        }
        if rest.next_if_eq(&'.').is_some() {
            text.push('.');
            let mut precision = 0;
            if rest.next_if_eq(&'*').is_some() {
                precision = star(&mut count);
            }
            while let Some(digit) = rest.next_if(char::is_ascii_digit) {
                text.push(digit);
                precision = (precision * 10 + digit as usize - '0' as usize).min(1024);
            }
            spec.precision = Some(precision);
        }
        while let Some(length) = rest.next_if(|c| "hlLqjzt".contains(*c)) {
            text.push(length);
            spec.long |= length != 'h';
        }
        let Some(kind) = rest.next() else {
            out.push_str(&text);
            break;
        };
        spec.kind = kind;
        if kind == '%' {
            out.push('%');
            continue;
        }
        if !"diouxXcsfFeEgGaAp".contains(kind) {
            out.push_str(&text);
            out.push(kind);
            continue;
        }
        count += 1;
        let wide = spec.long || "sfFeEgGaAp".contains(kind);
        let value = argument(if wide { 8 } else { 4 });
        spec.put(&mut out, value, &mut string);
    }
    (out, count)
}

impl Conversion {
    fn put(&self, out: &mut String, value: u64, string: &mut impl FnMut(u64) -> String) {
        let sign = |negative: bool| match (negative, self.plus, self.space) {
            (true, ..) => "-",
            (false, true, _) => "+",
            (false, false, true) => " ",
            (false, false, false) => "",
        };
        let (prefix, mut digits, number) = match self.kind {
            'd' | 'i' => {
                let value = if self.long { value.cast_signed() } else { i64::from((value as u32).cast_signed()) };
                (sign(value < 0).to_owned(), value.unsigned_abs().to_string(), true)
            }
            'u' => (String::new(), value.to_string(), true),
            'o' => (if self.alternate { "0" } else { "" }.to_owned(), format!("{value:o}"), true),
            'x' => (if self.alternate { "0x" } else { "" }.to_owned(), format!("{value:x}"), true),
            'X' => (if self.alternate { "0X" } else { "" }.to_owned(), format!("{value:X}"), true),
            'p' => ("0x".to_owned(), format!("{value:x}"), true),
            'c' => (String::new(), char::from(value as u8).to_string(), false),
            's' => {
                let text = string(value);
                let shown = self.precision.map_or(text.clone(), |most| text.chars().take(most).collect());
                (String::new(), shown, false)
            }
            kind => {
                let value = f64::from_bits(value);
                let text = self.float(value.abs());
                let text = if kind.is_ascii_uppercase() { text.to_uppercase() } else { text };
                (sign(value.is_sign_negative()).to_owned(), text, value.is_finite())
            }
        };
        if let (Some(least), 'd' | 'i' | 'u' | 'o' | 'x' | 'X') = (self.precision, self.kind) {
            digits = format!("{digits:0>least$}");
        }
        let missing = self.width.saturating_sub(prefix.chars().count() + digits.chars().count());
        let integer_precision = self.precision.is_some() && "diouxX".contains(self.kind);
        match (self.left, self.zeros && number && !integer_precision) {
            (true, _) => out.extend([prefix.as_str(), &digits, &" ".repeat(missing)]),
            (false, true) => out.extend([prefix.as_str(), &"0".repeat(missing), &digits]),
            (false, false) => out.extend([&*" ".repeat(missing), &prefix, &digits]),
        }
    }

    /// A number that is not negative.
    fn float(&self, value: f64) -> String {
        if !value.is_finite() {
            return if value.is_nan() { "nan".into() } else { "inf".into() };
        }
        let precision = self.precision.unwrap_or(6);
        match self.kind.to_ascii_lowercase() {
            'f' => format!("{value:.precision$}"),
            'e' => exponential(value, precision),
            'a' => format!("{value:e}"),
            _ => {
                let digits = precision.max(1);
                let text = exponential(value, digits - 1);
                let exponent: i32 = text.rsplit('e').next().and_then(|exponent| exponent.parse().ok()).unwrap_or(0);
                let trimmed = |text: &str| match (self.alternate, text.contains('.')) {
                    (false, true) => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
                    _ => text.to_owned(),
                };
                if exponent < -4 || exponent >= digits as i32 {
                    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "+00"));
                    return format!("{}e{exponent}", trimmed(mantissa));
                }
                let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
                trimmed(&format!("{value:.decimals$}"))
            }
        }
    }
}

/// As C writes it: an exponent with a sign and at least two digits.
fn exponential(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

#[cfg(test)]
mod tests {
    use super::formatted;

    /// Expectations are what the C library prints.
    #[test]
    fn conversions_are_those_of_c() {
        let float = |value: f64| value.to_bits();
        for (format, arguments, expected) in [
            ("%d|%5d|%-5d|%05d|%+d", vec![u64::from(u32::MAX), 42, 42, 42, 42], "-1|   42|42   |00042|+42"),
            ("%u %x %X %#x %o", vec![4_000_000_000, 255, 255, 255, 8], "4000000000 ff FF 0xff 10"),
            ("%lld %lu %llx", vec![u64::MAX, u64::MAX, u64::MAX], "-1 18446744073709551615 ffffffffffffffff"),
            (
                "%f %.2f %8.3f %e",
                vec![float(1.5), float(2.0 / 3.0), float(-1.0), float(12345.678)],
                "1.500000 0.67   -1.000 1.234568e+04",
            ),
            (
                "%g %g %g %g",
                vec![float(0.0001), float(1e-5), float(123_456.0), float(1_234_567.0)],
                "0.0001 1e-05 123456 1.23457e+06",
            ),
            ("%c%c %s %%", vec![104, 105, 7], "hi <7> %"),
            ("%*d %.3d %y", vec![4, 9, 5], "   9 005 %y"),
            ("%f %F", vec![float(f64::INFINITY), float(f64::NAN)], "inf NAN"),
        ] {
            let mut left = arguments.into_iter();
            let (text, _) = formatted(format, |_| left.next().unwrap_or_default(), |at| format!("<{at}>"));
            assert_eq!(text, expected, "{format}");
        }
    }
}
