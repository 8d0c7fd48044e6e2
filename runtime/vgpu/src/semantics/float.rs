//! Floating point: rounding into any format from an exactly or "odd" rounded f64, and the f32 operations.
//!
//! Invariant: an f64 that was rounded to odd keeps enough information for one correct rounding to any narrower format
//! here, in every mode. All narrow arithmetic goes through it, so there is no double rounding.

/// Rounding mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// `.rn`: to nearest, ties to even.
    Nearest,
    /// `.rz`: towards zero.
    Zero,
    /// `.rm`: towards −∞.
    Down,
    /// `.rp`: towards +∞.
    Up,
    /// `.rna`: to nearest, ties away from zero.
    NearestAway,
}

/// A binary format: explicit mantissa bits, least normal exponent, largest finite value.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    mantissa: i32,
    least: i32,
    largest: f64,
}

pub const F32: Format = Format { mantissa: 23, least: -126, largest: f32::MAX as f64 };
pub const TF32: Format = Format { mantissa: 10, least: -126, largest: 3.401_162_134_214_653_5e38 };
pub const F16: Format = Format { mantissa: 10, least: -14, largest: 65504.0 };
pub const BF16: Format = Format { mantissa: 7, least: -126, largest: 3.389_531_389_251_535_5e38 };
pub const E4M3: Format = Format { mantissa: 3, least: -6, largest: 448.0 };
pub const E5M2: Format = Format { mantissa: 2, least: -14, largest: 57344.0 };
pub const E2M3: Format = Format { mantissa: 3, least: 0, largest: 7.5 };
pub const E3M2: Format = Format { mantissa: 2, least: -2, largest: 28.0 };
pub const E2M1: Format = Format { mantissa: 1, least: 0, largest: 6.0 };

pub const NAN32: u32 = 0x7fff_ffff;

/// 2^exponent, exact for −1022 to 1023.
fn power(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// Nearest value of the format in the given mode; overflow goes to infinity or the largest value as IEEE 754 says.
pub fn round(x: f64, format: Format, mode: Rounding) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let exponent = ((x.to_bits() >> 52 & 0x7ff) as i32 - 1023).max(-1022);
    let quantum = exponent.max(format.least) - format.mantissa;
    let scaled = x * power(-quantum);
    let rounded = match mode {
        Rounding::Nearest => scaled.round_ties_even(),
        Rounding::Zero => scaled.trunc(),
        Rounding::Down => scaled.floor(),
        Rounding::Up => scaled.ceil(),
        Rounding::NearestAway => scaled.round(),
    };
    let value = (rounded * power(quantum)).copysign(x);
    if value.abs() > format.largest {
        let to_infinity = match mode {
            Rounding::Nearest | Rounding::NearestAway => true,
            Rounding::Zero => false,
            Rounding::Down => x < 0.0,
            Rounding::Up => x > 0.0,
        };
        return if to_infinity { f64::INFINITY } else { format.largest }.copysign(x);
    }
    value
}

/// The value of the format next to one of f32, towards zero or away from it: away if the first bits of what is cut off and `random`, so
/// many bits of both, give a carry. An overflow goes to infinity.
pub fn round_stochastically(x: f64, format: Format, bits: i32, random: u32) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let exponent = ((x.to_bits() >> 52 & 0x7ff) as i32 - 1023).max(-1022);
    let quantum = exponent.max(format.least) - format.mantissa;
    let scaled = x.abs() * power(-quantum);
    let cut_off = ((scaled - scaled.trunc()) * power(bits)).trunc();
    let carry = cut_off + f64::from(random) >= power(bits);
    let value = (scaled.trunc() + f64::from(u8::from(carry))) * power(quantum);
    if value > format.largest { f64::INFINITY } else { value }.copysign(x)
}

/// The exact sum `s + error` (error much smaller than s) rounded to odd.
#[inline(always)]
fn to_odd(s: f64, error: f64) -> f64 {
    let bits = s.to_bits();
    // A NaN is no error.
    let inexact = error.abs() > 0.0 && s.abs() < f64::INFINITY;
    let towards_zero = (error > 0.0) != (s > 0.0);
    let odd = bits.wrapping_sub(u64::from(towards_zero)) | 1;
    let mask = u64::from(inexact).wrapping_neg();
    f64::from_bits(odd & mask | bits & !mask)
}

/// Sum rounded to odd.
#[inline(always)]
pub fn add_odd(a: f64, b: f64) -> f64 {
    let s = a + b;
    let b_part = s - a;
    let error = (a - (s - b_part)) + (b - b_part);
    to_odd(s, error)
}

/// Quotient of two values of at most 24 significant bits, rounded to odd.
pub fn div_odd(a: f64, b: f64) -> f64 {
    let q = a / b;
    if !q.is_finite() || q == 0.0 {
        return q;
    }
    // The remainder a − q·b is exact, and its sign over that of b is the sign of the error of q.
    let remainder = (-q).mul_add(b, a);
    to_odd(q, if b > 0.0 { remainder } else { -remainder })
}

/// Square root rounded to odd.
pub fn sqrt_odd(a: f64) -> f64 {
    let r = a.sqrt();
    if !r.is_finite() || r == 0.0 {
        return r;
    }
    to_odd(r, (-r).mul_add(r, a))
}

/// An f64 as f32 in a mode; NaN becomes the canonical one.
pub fn to_f32(x: f64, mode: Rounding) -> f32 {
    if mode == Rounding::Nearest { canonical(x as f32) } else { canonical(round(x, F32, mode) as f32) }
}

/// PTX gives one NaN for all f32 results. On bits, because the optimiser may take one NaN for another.
#[inline(always)]
pub fn canonical(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { NAN32 } else { bits })
}

#[inline(always)]
pub fn canonical64(x: f64) -> f64 {
    let bits = x.to_bits();
    f64::from_bits(if bits & (u64::MAX >> 1) > 0x7ff0_0000_0000_0000 { u64::MAX >> 1 } else { bits })
}

/// Flushes a subnormal to zero of the same sign.
#[inline(always)]
pub fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0f32.copysign(x) } else { x }
}

/// `.sat`: clamps to [0, 1]; NaN becomes +0.
#[inline(always)]
pub fn saturate(x: f32) -> f32 {
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}

#[inline(always)]
pub fn fma_odd(a: f32, b: f32, c: f32) -> f64 {
    add_odd(f64::from(a) * f64::from(b), f64::from(c))
}

/// An integer that is ordered, as a signed one, as the f32 with these bits is, or its magnitude. A NaN is above all others or below them.
#[inline(always)]
pub fn ordered(bits: u32, magnitude: bool, nan_above: bool) -> u32 {
    let bits = if magnitude { bits & 0x7fff_ffff } else { bits };
    let sign = (bits.cast_signed() >> 31).cast_unsigned();
    let of_nan = if nan_above { 0x7fff_ffff } else { 0x8000_0000 };
    choose(bits & 0x7fff_ffff > 0x7f80_0000, of_nan, bits ^ sign >> 1)
}

/// The bits of the f32 that an integer of [`ordered`] stands for.
#[inline(always)]
pub fn of_ordered(key: u32) -> u32 {
    let sign = (key.cast_signed() >> 31).cast_unsigned();
    canonical(f32::from_bits(key ^ sign >> 1)).to_bits()
}

/// `min` where −0 is below +0 and a NaN loses.
#[inline(always)]
pub fn min(a: f64, b: f64) -> f64 {
    if a.is_nan() {
        b
    } else if b.is_nan() || a < b || (a == b && a.is_sign_negative()) {
        a
    } else {
        b
    }
}

/// `max` where −0 is below +0 and a NaN loses.
#[inline(always)]
pub fn max(a: f64, b: f64) -> f64 {
    if a.is_nan() {
        b
    } else if b.is_nan() || a > b || (a == b && b.is_sign_negative()) {
        a
    } else {
        b
    }
}

/// A selection by a mask of bits, which vectorises where a branch does not.
#[inline(always)]
pub fn choose(condition: bool, yes: u32, no: u32) -> u32 {
    let mask = u32::from(condition).wrapping_neg();
    yes & mask | no & !mask
}

/// [`min`] of f32, without leaving f32.
#[inline(always)]
pub fn min_f32(a: f32, b: f32) -> f32 {
    let (x, y) = (a.to_bits(), b.to_bits());
    let ordered = choose(a < b, x, choose(a == b, x | y, y));
    f32::from_bits(choose(a.is_nan(), y, choose(b.is_nan(), x, ordered)))
}

/// [`max`] of f32, without leaving f32.
#[inline(always)]
pub fn max_f32(a: f32, b: f32) -> f32 {
    let (x, y) = (a.to_bits(), b.to_bits());
    let ordered = choose(a > b, x, choose(a == b, x & y, y));
    f32::from_bits(choose(a.is_nan(), y, choose(b.is_nan(), x, ordered)))
}

/// `min.NaN`
pub fn min_nan(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { min(a, b) }
}

/// `max.NaN`
pub fn max_nan(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { max(a, b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_modes_of_one_third() {
        let odd = div_odd(1.0, 3.0);
        assert_eq!(to_f32(odd, Rounding::Nearest).to_bits(), 0x3eaa_aaab);
        assert_eq!(to_f32(odd, Rounding::Zero).to_bits(), 0x3eaa_aaaa);
        assert_eq!(to_f32(odd, Rounding::Down).to_bits(), 0x3eaa_aaaa);
        assert_eq!(to_f32(odd, Rounding::Up).to_bits(), 0x3eaa_aaab);
        assert_eq!(to_f32(-odd, Rounding::Down).to_bits(), 0xbeaa_aaab);
    }

    #[test]
    fn a_tiny_addend_decides_a_directed_rounding() {
        // 1 + 2^-100: nearest is 1, upwards is the next float.
        let sum = add_odd(1.0, power(-100));
        assert_eq!(to_f32(sum, Rounding::Nearest), 1.0);
        assert_eq!(to_f32(sum, Rounding::Up).to_bits(), 0x3f80_0001);
        assert_eq!(to_f32(add_odd(1.0, -power(-100)), Rounding::Zero).to_bits(), 0x3f7f_ffff);
    }

    #[test]
    fn fused_multiply_add_rounds_once() {
        // (1 + 2^-12)² = 1 + 2^-11 + 2^-24: the last bit is a tie that the addend breaks.
        let a = 1.0 + 2f32.powi(-12);
        assert_eq!(to_f32(fma_odd(a, a, 0.0), Rounding::Nearest).to_bits(), 0x3f80_1000);
        assert_eq!(to_f32(fma_odd(a, a, 2f32.powi(-60)), Rounding::Nearest).to_bits(), 0x3f80_1001);
        assert_eq!(to_f32(fma_odd(a, a, -1.0), Rounding::Nearest), 2f32.powi(-11) + 2f32.powi(-24));
    }

    #[test]
    fn overflow_depends_on_the_mode() {
        assert_eq!(round(65520.0, F16, Rounding::Nearest), f64::INFINITY);
        assert_eq!(round(65519.0, F16, Rounding::Nearest), 65504.0);
        assert_eq!(round(1e9, F16, Rounding::Zero), 65504.0);
        assert_eq!(round(-1e9, F16, Rounding::Up), -65504.0);
        assert_eq!(round(-1e9, F16, Rounding::Down), f64::NEG_INFINITY);
    }

    #[test]
    fn subnormals_of_narrow_formats() {
        assert_eq!(round(0.001, E4M3, Rounding::Nearest), 0.001953125);
        assert_eq!(round(0.0009, E4M3, Rounding::Nearest), 0.0);
        assert_eq!(round(5.0, E2M1, Rounding::Nearest), 4.0);
        assert_eq!(round(0.25, E2M1, Rounding::Nearest), 0.0);
        assert_eq!(round(0.75, E2M1, Rounding::Nearest), 1.0);
    }

    #[test]
    fn minimum_and_maximum_order_zeros_and_drop_nan() {
        assert!(min(0.0, -0.0).is_sign_negative());
        assert!(max(-0.0, 0.0).is_sign_positive());
        assert_eq!(min(f64::NAN, 3.0), 3.0);
        assert_eq!(max(3.0, f64::NAN), 3.0);
        assert!(max_nan(3.0, f64::NAN).is_nan());
    }
}
