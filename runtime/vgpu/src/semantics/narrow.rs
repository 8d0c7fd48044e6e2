//! The conversions that payloads and scales take, in arithmetic on bits that the compiler vectorises. Each gives exactly what
//! the general functions of [`super::convert`] give, which is tested.

use super::float::{NAN32, choose};

const MAGNITUDE: u32 = 0x7fff_ffff;
const INFINITY: u32 = 0x7f80_0000;

/// f32 → bf16, to nearest even.
#[inline(always)]
pub fn bf16_of(x: f32) -> u16 {
    let bits = x.to_bits();
    // A carry out of the mantissa is a correct step to the next exponent, or to infinity.
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    choose(bits & MAGNITUDE > INFINITY, 0x7fff, rounded) as u16
}

/// f32 → f16, to nearest even.
#[inline(always)]
pub fn f16_of(x: f32) -> u16 {
    let sign = x.to_bits() >> 16 & 0x8000;
    let magnitude = x.to_bits() & MAGNITUDE;
    // Below 2^-14 the steps are 2^-24, which is the step of f32 between one half and one.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let normal = magnitude.wrapping_add(0xfff + (magnitude >> 13 & 1)).wrapping_sub(112 << 23) >> 13;
    let finite = choose(magnitude < 0x3880_0000, subnormal, normal);
    let value = choose(magnitude >= 0x477f_f000, 0x7c00, finite);
    choose(magnitude > INFINITY, 0x7fff, sign | value) as u16
}

/// f32 → e4m3, to nearest even, saturated.
#[inline(always)]
pub fn e4m3_of(x: f32) -> u8 {
    let sign = x.to_bits() >> 24 & 0x80;
    let magnitude = x.to_bits() & MAGNITUDE;
    let finite = magnitude.min(448f32.to_bits());
    // Below 2^-6 the steps are 2^-9, which is the step of f32 between 2^14 and 2^15.
    let subnormal = (f32::from_bits(finite) + 16384.0).to_bits().wrapping_sub(16384f32.to_bits());
    let normal = finite.wrapping_add(0x7_ffff + (finite >> 20 & 1)).wrapping_sub(120 << 23) >> 20;
    let value = choose(finite < 0x3c80_0000, subnormal, normal);
    choose(magnitude > INFINITY, 0x7f, sign | value) as u8
}

/// f16 → f32, exact.
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff);
    // The product is exact and makes subnormals normal.
    let finite = (f32::from_bits(magnitude << 13) * f32::from_bits(239 << 23)).to_bits();
    let value = choose(magnitude >= 0x7c00, INFINITY, finite);
    f32::from_bits(choose(magnitude > 0x7c00, NAN32, sign | value))
}

/// bf16 → f32, exact.
#[inline(always)]
pub fn bf16_to_f32(bits: u16) -> f32 {
    super::float::canonical(f32::from_bits(u32::from(bits) << 16))
}

#[cfg(test)]
mod tests {
    use super::super::convert::{self, Narrow};
    use super::super::float::Rounding;
    use super::*;

    const NEAREST: Narrow = Narrow { mode: Rounding::Nearest, finite: false, relu: false };

    /// Every upper half with lower halves around the ties.
    fn numbers() -> impl Iterator<Item = f32> {
        let lower = [0u32, 1, 0x0fff, 0x1000, 0x1001, 0x2fff, 0x3000, 0x7fff, 0x8000, 0x8001, 0xffff];
        (0..=u16::MAX).flat_map(move |upper| lower.map(|lower| f32::from_bits(u32::from(upper) << 16 | lower)))
    }

    #[test]
    fn narrowing_agrees_with_the_general_functions_and_with_half() {
        for x in numbers() {
            let wide = f64::from(x);
            assert_eq!(bf16_of(x), convert::to_bf16(wide, NEAREST), "{x:e}");
            assert_eq!(f16_of(x), convert::to_f16(wide, NEAREST), "{x:e}");
            assert_eq!(e4m3_of(x), convert::to_e4m3(wide, NEAREST), "{x:e}");
            if !x.is_nan() {
                assert_eq!(bf16_of(x), half::bf16::from_f32(x).to_bits(), "{x:e}");
                assert_eq!(f16_of(x), half::f16::from_f32(x).to_bits(), "{x:e}");
            }
        }
    }

    #[test]
    fn widening_agrees_with_half() {
        for bits in 0..=u16::MAX {
            let (f16, bf16) = (half::f16::from_bits(bits), half::bf16::from_bits(bits));
            let expected = if f16.is_nan() { NAN32 } else { f16.to_f32().to_bits() };
            assert_eq!(f16_to_f32(bits).to_bits(), expected, "{bits:#x}");
            let expected = if bf16.is_nan() { NAN32 } else { bf16.to_f32().to_bits() };
            assert_eq!(bf16_to_f32(bits).to_bits(), expected, "{bits:#x}");
        }
    }
}
