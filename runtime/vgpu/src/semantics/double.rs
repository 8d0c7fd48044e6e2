//! f64 arithmetic in every rounding mode, and the gross approximations of f64.
//!
//! Invariant: a result is an exact integer of at most 122 bits, or one whose last bit says that more follows, and is rounded once.

use super::float::{Rounding, canonical64};

/// `±mantissa · 2^exponent`
#[derive(Debug, Clone, Copy)]
struct Exact {
    negative: bool,
    mantissa: u128,
    exponent: i32,
}

/// A sum is aligned so that its larger part has its top bit here. What is shifted out is then far below the last bit that counts.
const TOP: u32 = 120;

impl Exact {
    /// Of a finite value.
    fn of(x: f64) -> Exact {
        let bits = x.to_bits();
        let (field, fraction) = ((bits >> 52 & 0x7ff) as i32, bits & ((1 << 52) - 1));
        let mantissa = if field == 0 { fraction } else { fraction | 1 << 52 };
        Exact { negative: x.is_sign_negative(), mantissa: mantissa.into(), exponent: field.max(1) - 1075 }
    }

    fn times(self, other: Exact) -> Exact {
        Exact {
            negative: self.negative != other.negative,
            mantissa: self.mantissa * other.mantissa,
            exponent: self.exponent + other.exponent,
        }
    }

    /// With its top bit at [`TOP`]; not zero.
    fn raised(self) -> Exact {
        let by = self.mantissa.leading_zeros() - (127 - TOP);
        Exact { mantissa: self.mantissa << by, exponent: self.exponent - by as i32, ..self }
    }

    /// Divided by a power of two, to the same value in another exponent; the last bit says whether bits were lost.
    fn lowered(self, by: u32) -> Exact {
        let lost = by >= 128 || self.mantissa << (128 - by.max(1)) != 0 && by > 0;
        let kept = self.mantissa.checked_shr(by).unwrap_or(0);
        Exact { mantissa: kept | u128::from(lost), exponent: self.exponent + by.cast_signed(), ..self }
    }

    /// A zero whose operands have different signs is negative only when rounding down.
    fn plus(self, other: Exact, mode: Rounding) -> Exact {
        if self.mantissa == 0 || other.mantissa == 0 {
            let other_is_zero = other.mantissa == 0;
            if self.mantissa == 0 && other_is_zero && self.negative != other.negative {
                return Exact { negative: mode == Rounding::Down, ..self };
            }
            return if other_is_zero { self } else { other };
        }
        let (mut a, mut b) = (self.raised(), other.raised());
        if a.exponent < b.exponent {
            (a, b) = (b, a);
        }
        let b = b.lowered(a.exponent.abs_diff(b.exponent));
        if a.negative == b.negative {
            return Exact { mantissa: a.mantissa + b.mantissa, ..a };
        }
        let difference = a.mantissa.abs_diff(b.mantissa);
        let negative = match a.mantissa.cmp(&b.mantissa) {
            std::cmp::Ordering::Greater => a.negative,
            std::cmp::Ordering::Less => b.negative,
            std::cmp::Ordering::Equal => mode == Rounding::Down,
        };
        Exact { negative, mantissa: difference, exponent: a.exponent }
    }

    fn rounded(self, mode: Rounding) -> f64 {
        let sign = if self.negative { -1.0 } else { 1.0 };
        if self.mantissa == 0 {
            return 0.0 * sign;
        }
        // The exponent of the last bit of the result.
        let length = 128 - self.mantissa.leading_zeros().cast_signed();
        let last = (self.exponent + length - 53).max(-1074);
        let shift = last - self.exponent;
        let (kept, rest, half) = match shift {
            ..=0 => (self.mantissa << -shift, 0, 1),
            1..=127 => (self.mantissa >> shift, self.mantissa & ((1 << shift) - 1), 1u128 << (shift - 1)),
            // Less than half of the least value.
            _ => (0, 1, 2),
        };
        let up = rest != 0
            && match mode {
                Rounding::Nearest => rest > half || rest == half && kept & 1 == 1,
                Rounding::NearestAway => rest >= half,
                Rounding::Zero => false,
                Rounding::Down => self.negative,
                Rounding::Up => !self.negative,
            };
        let kept = (kept + u128::from(up)) as u64;
        if last > 971 || last == 971 && kept >= 1 << 53 {
            let away = match mode {
                Rounding::Nearest | Rounding::NearestAway => true,
                Rounding::Zero => false,
                Rounding::Down => self.negative,
                Rounding::Up => !self.negative,
            };
            return sign * if away { f64::INFINITY } else { f64::MAX };
        }
        // A carry into the next exponent, and from subnormal to normal, is the next bit pattern.
        let bits = if kept < 1 << 52 { kept } else { (((last + 1075) as u64) << 52) + (kept - (1 << 52)) };
        f64::from_bits(bits | u64::from(self.negative) << 63)
    }
}

/// `a + b`
pub fn add(a: f64, b: f64, mode: Rounding) -> f64 {
    if !a.is_finite() || !b.is_finite() {
        return canonical64(a + b);
    }
    Exact::of(a).plus(Exact::of(b), mode).rounded(mode)
}

/// `a · b`
pub fn multiply(a: f64, b: f64, mode: Rounding) -> f64 {
    if !a.is_finite() || !b.is_finite() {
        return canonical64(a * b);
    }
    Exact::of(a).times(Exact::of(b)).rounded(mode)
}

/// `a · b + c`, rounded once.
pub fn fused(a: f64, b: f64, c: f64, mode: Rounding) -> f64 {
    if !a.is_finite() || !b.is_finite() || !c.is_finite() {
        return canonical64(a.mul_add(b, c));
    }
    Exact::of(a).times(Exact::of(b)).plus(Exact::of(c), mode).rounded(mode)
}

/// `a / b`
pub fn divide(a: f64, b: f64, mode: Rounding) -> f64 {
    if !a.is_finite() || !b.is_finite() || a == 0.0 || b == 0.0 {
        return canonical64(a / b);
    }
    let (a, b) = (Exact::of(a).raised(), Exact::of(b));
    let (quotient, rest) = (a.mantissa / b.mantissa, a.mantissa % b.mantissa);
    // At least 67 bits, and one for what follows.
    let mantissa = quotient << 1 | u128::from(rest != 0);
    Exact { negative: a.negative != b.negative, mantissa, exponent: a.exponent - b.exponent - 1 }.rounded(mode)
}

/// `√a`
pub fn root(a: f64, mode: Rounding) -> f64 {
    if !a.is_finite() || a <= 0.0 {
        return canonical64(a.sqrt());
    }
    let mut a = Exact::of(a).raised();
    if a.exponent % 2 != 0 {
        a = Exact { mantissa: a.mantissa << 1, exponent: a.exponent - 1, ..a };
    }
    let root = a.mantissa.isqrt();
    let mantissa = root << 1 | u128::from(root * root != a.mantissa);
    Exact { negative: false, mantissa, exponent: a.exponent / 2 - 1 }.rounded(mode)
}

/// The upper half of an f64, subnormals as zero; the lower half does not count.
fn upper(x: f64) -> f64 {
    let kept = f64::from_bits(x.to_bits() & !0xffff_ffff);
    if kept.is_subnormal() { 0f64.copysign(kept) } else { kept }
}

/// The approximation of a value that has only the upper half of its bits.
fn in_upper(x: f64) -> f64 {
    let x = canonical64(x);
    if x.is_nan() {
        return f64::from_bits(0x7fff_ffff_0000_0000);
    }
    let kept = f64::from_bits((x.to_bits() + 0x8000_0000) & !0xffff_ffff);
    upper(kept)
}

/// `rcp.approx.ftz.f64`: of the upper half of its operand, rounded to 20 bits behind the point.
pub fn reciprocal(x: f64) -> f64 {
    in_upper(1.0 / upper(x))
}

/// `rsqrt.approx.ftz.f64`
pub fn reciprocal_root(x: f64) -> f64 {
    in_upper(1.0 / upper(x).sqrt())
}

#[cfg(test)]
mod tests {
    use moe_random::Random;

    use super::*;

    /// What the processor does, and on which side of the exact result that is: by an error term that it computes exactly.
    type Operation = (fn(f64, f64, f64, Rounding) -> f64, fn(f64, f64, f64) -> f64, fn(f64, f64, f64, f64) -> f64);

    fn operations() -> [Operation; 4] {
        [
            (
                |a, b, _, mode| add(a, b, mode),
                |a, b, _| a + b,
                |a, b, _, s| {
                    let part = s - a;
                    (a - (s - part)) + (b - part)
                },
            ),
            (|a, b, _, mode| multiply(a, b, mode), |a, b, _| a * b, |a, b, _, p| a.mul_add(b, -p)),
            (
                |a, b, _, mode| divide(a, b, mode),
                |a, b, _| a / b,
                |a, b, _, q| if b > 0.0 { (-q).mul_add(b, a) } else { -(-q).mul_add(b, a) },
            ),
            (|a, _, _, mode| root(a.abs(), mode), |a, _, _| a.abs().sqrt(), |a, _, _, r| (-r).mul_add(r, a.abs())),
        ]
    }

    /// Exponents at which no error term is lost.
    fn ordinary(random: &mut Random) -> f64 {
        let value = f64::from_bits(random.bits() >> 12 | (1023 - 60 + random.below(120)) << 52);
        if random.below(2) == 0 { value } else { -value }
    }

    #[test]
    fn every_mode_is_on_its_side_of_the_exact_result() {
        let mut random = Random::stream(5, 0);
        for (ours, processor, error) in operations() {
            let mut exact = 0;
            for round in 0..20_000 {
                let short = |x: f64| if round % 3 == 0 { f64::from(x as f32).round() } else { x };
                let (a, b) = (short(ordinary(&mut random)), short(ordinary(&mut random)));
                if b == 0.0 || a == 0.0 {
                    continue;
                }
                let nearest = processor(a, b, 0.0);
                let error = error(a, b, 0.0, nearest);
                let (below, above) = match error.partial_cmp(&0.0) {
                    Some(std::cmp::Ordering::Equal) => (nearest, nearest),
                    Some(std::cmp::Ordering::Greater) => (nearest, nearest.next_up()),
                    _ => (nearest.next_down(), nearest),
                };
                exact += u32::from(below == above);
                let towards_zero = if nearest > 0.0 { below } else { above };
                for (mode, expected) in [
                    (Rounding::Nearest, nearest),
                    (Rounding::Down, below),
                    (Rounding::Up, above),
                    (Rounding::Zero, towards_zero),
                ] {
                    assert_eq!(ours(a, b, 0.0, mode), expected, "{a:e} {b:e} {mode:?}");
                }
            }
            assert!(exact > 0, "some results are exact");
        }
    }

    #[test]
    fn to_nearest_is_what_the_processor_does_everywhere() {
        let mut random = Random::stream(5, 1);
        let special = [0.0, -0.0, 5e-324, -5e-324, f64::MIN_POSITIVE, f64::MAX, f64::MIN, 1.0, f64::INFINITY, f64::NAN];
        let mut any = || match random.below(4) {
            0 => special[random.index(special.len())],
            1 => f64::from_bits(random.bits() & !(0x7ff << 52) | random.below(3) << 52),
            _ => f64::from_bits(random.bits()),
        };
        for _ in 0..100_000 {
            let (a, b, c) = (any(), any(), any());
            let same = |ours: f64, processor: f64, what: &str| {
                assert_eq!(ours.to_bits(), canonical64(processor).to_bits(), "{what} of {a:e} {b:e} {c:e}");
            };
            same(add(a, b, Rounding::Nearest), a + b, "sum");
            same(multiply(a, b, Rounding::Nearest), a * b, "product");
            same(divide(a, b, Rounding::Nearest), a / b, "quotient");
            same(root(a, Rounding::Nearest), a.sqrt(), "root");
            same(fused(a, b, c, Rounding::Nearest), a.mul_add(b, c), "fused");
        }
    }

    #[test]
    fn fused_operations_round_once_in_their_direction() {
        let tiny = f64::from_bits(1);
        let next = 1f64.next_up();
        assert_eq!(fused(1.0, 1.0, tiny, Rounding::Up), next);
        assert_eq!(fused(1.0, 1.0, tiny, Rounding::Down), 1.0);
        assert_eq!(fused(1.0, 1.0, -tiny, Rounding::Zero), 1f64.next_down());
        // (1 + e)² − 1 − 2e = e², exactly.
        assert_eq!(fused(next, next, -(1.0 + 2.0 * f64::EPSILON), Rounding::Down), f64::EPSILON * f64::EPSILON);
        assert_eq!(multiply(f64::MAX, 2.0, Rounding::Zero), f64::MAX);
        assert_eq!(multiply(f64::MAX, -2.0, Rounding::Up), f64::MIN);
        assert_eq!(multiply(f64::MAX, 2.0, Rounding::Up), f64::INFINITY);
        assert_eq!(multiply(tiny, 0.25, Rounding::Up), tiny);
        assert_eq!(multiply(tiny, 0.25, Rounding::Zero).to_bits(), 0);
        assert!(add(1.0, -1.0, Rounding::Down).is_sign_negative());
        assert!(add(1.0, -1.0, Rounding::Up).is_sign_positive());
        assert!(add(-0.0, -0.0, Rounding::Up).is_sign_negative());
    }

    #[test]
    fn gross_approximations_have_twenty_bits() {
        for x in [3.0, -7.5, 1e300, 1.0 / 3.0, 123_456.789] {
            assert!((reciprocal(x) * x - 1.0).abs() < 2e-6);
            assert_eq!(reciprocal(x).to_bits() as u32, 0);
            assert!((reciprocal_root(x.abs()).powi(2) * x.abs() - 1.0).abs() < 4e-6);
        }
        assert_eq!(reciprocal(-0.0), f64::NEG_INFINITY);
        assert_eq!(reciprocal(1e-310), f64::INFINITY);
        assert_eq!(reciprocal(f64::MAX).to_bits(), 0);
        assert_eq!(reciprocal_root(f64::INFINITY).to_bits(), 0);
        assert!(reciprocal_root(-1.0).is_nan());
    }
}
