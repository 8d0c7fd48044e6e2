//! Conversions between formats, as bits. Narrow floats travel through f64, which holds all of them exactly.

use super::float::{BF16, E2M1, E2M3, E3M2, E4M3, E5M2, F16, Format, Rounding, TF32, round};

/// f16 bits → value.
pub fn f16_to_f64(bits: u16) -> f64 {
    expand(u32::from(bits), 10, 5)
}

/// bf16 bits → value.
pub fn bf16_to_f64(bits: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(bits) << 16))
}

/// e5m2 bits → value.
pub fn e5m2_to_f64(bits: u8) -> f64 {
    expand(u32::from(bits), 2, 5)
}

/// e4m3 bits → value; there are no infinities and one NaN of each sign.
pub fn e4m3_to_f64(bits: u8) -> f64 {
    if bits & 0x7f == 0x7f {
        return f64::NAN;
    }
    let magnitude = f64::from(bits & 7);
    let exponent = i32::from(bits >> 3 & 15);
    let value =
        if exponent == 0 { magnitude * 2f64.powi(-9) } else { (1.0 + magnitude / 8.0) * 2f64.powi(exponent - 7) };
    if bits & 0x80 != 0 { -value } else { value }
}

/// e2m1 bits (low four) → value.
pub fn e2m1_to_f64(bits: u8) -> f64 {
    let value = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(bits & 7)];
    if bits & 8 != 0 { -value } else { value }
}

/// e2m3 bits (low six) → value; there are no infinities and no NaN.
pub fn e2m3_to_f64(bits: u8) -> f64 {
    expand_finite(bits, 3, 1)
}

/// e3m2 bits (low six) → value; there are no infinities and no NaN.
pub fn e3m2_to_f64(bits: u8) -> f64 {
    expand_finite(bits, 2, 3)
}

/// Six bits of a format that is finite throughout.
fn expand_finite(bits: u8, mantissa: u32, bias: i32) -> f64 {
    let fraction = f64::from(bits & ((1 << mantissa) - 1)) / f64::from(1u32 << mantissa);
    let exponent = i32::from((bits & 0x1f) >> mantissa);
    let value =
        if exponent == 0 { fraction * 2f64.powi(1 - bias) } else { (1.0 + fraction) * 2f64.powi(exponent - bias) };
    if bits & 0x20 != 0 { -value } else { value }
}

/// Expands an IEEE-like format with infinities.
fn expand(bits: u32, mantissa: u32, exponent: u32) -> f64 {
    let sign = if bits >> (mantissa + exponent) & 1 == 1 { -1.0 } else { 1.0 };
    let fraction = f64::from(bits & ((1 << mantissa) - 1)) / f64::from(1u32 << mantissa);
    let raw = bits >> mantissa & ((1 << exponent) - 1);
    let bias = (1 << (exponent - 1)) - 1;
    sign * match raw {
        0 => fraction * 2f64.powi(1 - bias),
        _ if raw == (1 << exponent) - 1 => {
            if fraction == 0.0 {
                f64::INFINITY
            } else {
                f64::NAN
            }
        }
        _ => (1.0 + fraction) * 2f64.powi(raw as i32 - bias),
    }
}

/// Encodes a value that the IEEE-like format represents exactly.
fn encode(value: f64, mantissa: u32, exponent: u32, nan: u32) -> u32 {
    let sign = u32::from(value.is_sign_negative()) << (mantissa + exponent);
    if value.is_nan() {
        return nan;
    }
    if value.is_infinite() {
        return sign | ((1 << exponent) - 1) << mantissa;
    }
    if value == 0.0 {
        return sign;
    }
    let bias = (1 << (exponent - 1)) - 1;
    let bits = value.to_bits();
    let power = (bits >> 52 & 0x7ff) as i32 - 1023;
    if power < 1 - bias {
        // Subnormal: an integer multiple of the smallest step.
        return sign | (value.abs() * 2f64.powi(bias - 1 + mantissa as i32)) as u32;
    }
    sign | ((power + bias) as u32) << mantissa | (bits >> (52 - mantissa)) as u32 & ((1 << mantissa) - 1)
}

/// Options of a conversion to a narrow float.
#[derive(Debug, Clone, Copy)]
pub struct Narrow {
    pub mode: Rounding,
    /// `.satfinite`: overflow gives the largest finite value.
    pub finite: bool,
    /// `.relu`: negative values become +0; NaN stays.
    pub relu: bool,
}

fn prepare(x: f64, format: Format, options: Narrow) -> f64 {
    let x = if options.relu && x <= 0.0 { 0.0 } else { x };
    let rounded = round(x, format, options.mode);
    if options.finite && rounded.is_infinite() {
        return round(f64::MAX.copysign(x), format, Rounding::Zero);
    }
    rounded
}

/// Value → f16 bits.
pub fn to_f16(x: f64, options: Narrow) -> u16 {
    encode(prepare(x, F16, options), 10, 5, 0x7fff) as u16
}

/// Value → bf16 bits.
pub fn to_bf16(x: f64, options: Narrow) -> u16 {
    encode(prepare(x, BF16, options), 7, 8, 0x7fff) as u16
}

/// Value → tf32, as f32 bits.
pub fn to_tf32(x: f64, options: Narrow) -> u32 {
    encode(prepare(x, TF32, options), 23, 8, 0x7fff_ffff)
}

/// Value → e4m3 bits; always finite, as hardware only has `.satfinite`.
pub fn to_e4m3(x: f64, options: Narrow) -> u8 {
    if x.is_nan() {
        return 0x7f;
    }
    let value = prepare(x, E4M3, Narrow { finite: true, ..options });
    // The exponent field of e4m3 is used up to its last value, so encode by hand.
    let sign = u8::from(value.is_sign_negative()) << 7;
    let magnitude = value.abs();
    if magnitude < 2f64.powi(-6) {
        return sign | (magnitude * 512.0) as u8;
    }
    let bits = magnitude.to_bits();
    let power = (bits >> 52) as i32 - 1023;
    sign | ((power + 7) as u8) << 3 | (bits >> 49) as u8 & 7
}

/// Value → e5m2 bits.
pub fn to_e5m2(x: f64, options: Narrow) -> u8 {
    encode(prepare(x, E5M2, Narrow { finite: true, ..options }), 2, 5, 0x7f) as u8
}

/// Value → e2m1 bits; NaN becomes the largest value.
pub fn to_e2m1(x: f64, options: Narrow) -> u8 {
    let value = if x.is_nan() { 6.0 } else { prepare(x, E2M1, Narrow { finite: true, ..options }) };
    let sign = u8::from(value.is_sign_negative()) << 3;
    let code = match value.abs() {
        v if v < 0.5 => 0,
        v if v < 1.0 => 1,
        v if v < 1.5 => 2,
        v if v < 2.0 => 3,
        v if v < 3.0 => 4,
        v if v < 4.0 => 5,
        v if v < 6.0 => 6,
        _ => 7,
    };
    sign | code
}

/// Value → e2m3 bits, the upper two zero; NaN becomes the largest value.
pub fn to_e2m3(x: f64, options: Narrow) -> u8 {
    encode_finite(x, E2M3, 3, 1, options)
}

/// Value → e3m2 bits, the upper two zero; NaN becomes the largest value.
pub fn to_e3m2(x: f64, options: Narrow) -> u8 {
    encode_finite(x, E3M2, 2, 3, options)
}

fn encode_finite(x: f64, format: Format, mantissa: u32, bias: i32, options: Narrow) -> u8 {
    let value = if x.is_nan() { f64::MAX } else { x };
    let value = prepare(value, format, Narrow { finite: true, ..options });
    let sign = u8::from(value.is_sign_negative()) << 5;
    // In units of the least value, all of whose multiples below the first power of two are there.
    let steps = value.abs() * 2f64.powi(bias - 1 + mantissa.cast_signed());
    let implicit = 1u32 << mantissa;
    let steps = steps as u32;
    if steps < implicit {
        return sign | steps as u8;
    }
    let exponent = steps.ilog2() - mantissa;
    sign | ((exponent + 1) << mantissa | (steps >> exponent) & (implicit - 1)) as u8
}

/// Value → ue8m0 bits, rounding the exponent up (`.rp`) or towards zero (`.rz`); the sign is dropped.
pub fn to_ue8m0(x: f64, up: bool) -> u8 {
    if x.is_nan() {
        return 0xff;
    }
    let magnitude = x.abs();
    if magnitude == 0.0 {
        return 0;
    }
    if magnitude.is_infinite() {
        return 0xfe;
    }
    let bits = magnitude.to_bits();
    let exponent = (bits >> 52) as i32 - 1023;
    let exponent = exponent + i32::from(up && bits & ((1 << 52) - 1) != 0);
    (exponent + 127).clamp(0, 254) as u8
}

/// ue8m0 bits → value.
pub fn ue8m0_to_f64(bits: u8) -> f64 {
    if bits == 0xff { f64::NAN } else { 2f64.powi(i32::from(bits) - 127) }
}

/// Rounds to an integral value.
pub fn integral(x: f64, mode: Rounding) -> f64 {
    match mode {
        Rounding::Nearest => x.round_ties_even(),
        Rounding::Zero => x.trunc(),
        Rounding::Down => x.floor(),
        Rounding::Up => x.ceil(),
        Rounding::NearestAway => x.round(),
    }
}

/// Float → integer of `bits` bits, clamped to its range; NaN gives 0, or the top bit when a 64-bit type takes part.
pub fn to_integer(x: f64, mode: Rounding, bits: u32, signed: bool, wide: bool) -> u64 {
    if x.is_nan() {
        return if wide { 1 << (bits - 1) } else { 0 };
    }
    let value = integral(x, mode) as i128;
    let (low, high) =
        if signed { (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1) } else { (0, (1i128 << bits) - 1) };
    value.clamp(low, high) as u64
}

/// Integer → the f64 nearest to it, rounded to odd so that a further rounding is right.
pub fn integer_to_odd(value: i128) -> f64 {
    let magnitude = value.unsigned_abs();
    let extra = (128 - magnitude.leading_zeros()).saturating_sub(53);
    let lost = magnitude & ((1u128 << extra) - 1) != 0;
    let kept = (magnitude >> extra) as u64 | u64::from(lost);
    let result = kept as f64 * 2f64.powi(extra as i32);
    if value < 0 { -result } else { result }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAREST: Narrow = Narrow { mode: Rounding::Nearest, finite: false, relu: false };

    #[test]
    fn narrow_floats_encode_as_published() {
        assert_eq!(to_bf16(1.0, NEAREST), 0x3f80);
        assert_eq!(to_bf16(f64::from(f32::from_bits(0x3f80_8000)), NEAREST), 0x3f80);
        assert_eq!(to_bf16(f64::from(f32::from_bits(0x3f81_8000)), NEAREST), 0x3f82);
        assert_eq!(to_f16(-2.0, NEAREST), 0xc000);
        assert_eq!(to_f16(6e-8, NEAREST), 0x0001);
        assert_eq!(to_f16(f64::NAN, NEAREST), 0x7fff);
        assert_eq!(to_e4m3(448.0, NEAREST), 0x7e);
        assert_eq!(to_e4m3(1e6, NEAREST), 0x7e);
        assert_eq!(to_e4m3(-1.0, NEAREST), 0xb8);
        assert_eq!(to_e4m3(0.001953125, NEAREST), 0x01);
        assert_eq!(to_e5m2(57344.0, NEAREST), 0x7b);
        assert_eq!(to_e2m1(-6.0, NEAREST), 0xf);
        assert_eq!(to_e2m3(7.5, NEAREST), 0x1f);
        assert_eq!(to_e2m3(-0.125, NEAREST), 0x21);
        assert_eq!(to_e2m3(1.0625, NEAREST), 0x08);
        assert_eq!(to_e2m3(1e9, NEAREST), 0x1f);
        assert_eq!(to_e3m2(28.0, NEAREST), 0x1f);
        assert_eq!(to_e3m2(-0.0625, NEAREST), 0x21);
        assert_eq!(to_e3m2(0.25, NEAREST), 0x04);
        assert_eq!(to_e3m2(f64::NAN, NEAREST), 0x1f);
        assert_eq!(to_ue8m0(1.5, true), 128);
        assert_eq!(to_ue8m0(1.5, false), 127);
    }

    #[test]
    fn every_narrow_value_survives_a_round_trip() {
        for bits in 0..=u16::MAX {
            let value = f16_to_f64(bits);
            if !value.is_nan() {
                assert_eq!(to_f16(value, NEAREST), bits);
            }
            let value = bf16_to_f64(bits);
            if !value.is_nan() {
                assert_eq!(to_bf16(value, NEAREST), bits);
            }
        }
        for bits in 0..=u8::MAX {
            let value = e4m3_to_f64(bits);
            if !value.is_nan() {
                assert_eq!(to_e4m3(value, NEAREST), bits);
            }
            let value = e5m2_to_f64(bits);
            if value.is_finite() {
                assert_eq!(to_e5m2(value, NEAREST), bits);
            }
            if bits < 64 {
                assert_eq!(to_e2m3(e2m3_to_f64(bits), NEAREST), bits);
                assert_eq!(to_e3m2(e3m2_to_f64(bits), NEAREST), bits);
            }
        }
    }

    #[test]
    fn float_to_integer_clamps() {
        assert_eq!(to_integer(-1.5, Rounding::Zero, 32, false, false), 0);
        assert_eq!(to_integer(3e9, Rounding::Zero, 32, true, false), 0x7fff_ffff);
        assert_eq!(to_integer(2.5, Rounding::Nearest, 32, true, false), 2);
        assert_eq!(to_integer(-2.5, Rounding::Down, 32, true, false) as u32, (-3i32).cast_unsigned());
        assert_eq!(to_integer(f64::NAN, Rounding::Zero, 64, true, true), 1 << 63);
        assert_eq!(integer_to_odd((1 << 53) + 1), ((1u64 << 53) + 2) as f64);
    }
}
