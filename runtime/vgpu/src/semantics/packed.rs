//! f16 and bf16 arithmetic on bits, single and packed. Every operation rounds once, from an odd-rounded f64.

use super::convert::{Narrow, bf16_to_f64, f16_to_f64, to_bf16, to_f16};
use super::float::{Rounding, add_odd};

/// A 16-bit floating-point format as bits.
pub trait Half {
    fn expand(bits: u16) -> f64;
    fn narrow(value: f64, options: Narrow) -> u16;
}

/// IEEE binary16.
pub struct F16;
/// bfloat16.
pub struct Bf16;

impl Half for F16 {
    fn expand(bits: u16) -> f64 {
        f16_to_f64(bits)
    }
    fn narrow(value: f64, options: Narrow) -> u16 {
        to_f16(value, options)
    }
}

impl Half for Bf16 {
    fn expand(bits: u16) -> f64 {
        bf16_to_f64(bits)
    }
    fn narrow(value: f64, options: Narrow) -> u16 {
        to_bf16(value, options)
    }
}

/// An operation on up to three values of 16 bits.
pub type Ternary = Box<dyn Fn(u16, u16, u16) -> u16 + Send + Sync>;

const NEAREST: Narrow = Narrow { mode: Rounding::Nearest, finite: false, relu: false };

pub fn add<H: Half>(a: u16, b: u16) -> u16 {
    H::narrow(add_odd(H::expand(a), H::expand(b)), NEAREST)
}

pub fn sub<H: Half>(a: u16, b: u16) -> u16 {
    H::narrow(add_odd(H::expand(a), -H::expand(b)), NEAREST)
}

pub fn mul<H: Half>(a: u16, b: u16) -> u16 {
    H::narrow(H::expand(a) * H::expand(b), NEAREST)
}

pub fn fma<H: Half>(a: u16, b: u16, c: u16) -> u16 {
    H::narrow(add_odd(H::expand(a) * H::expand(b), H::expand(c)), NEAREST)
}

pub fn fma_relu<H: Half>(a: u16, b: u16, c: u16) -> u16 {
    H::narrow(add_odd(H::expand(a) * H::expand(b), H::expand(c)), Narrow { relu: true, ..NEAREST })
}

pub fn fma_rounded<H: Half>(a: u16, b: u16, c: u16, mode: Rounding, relu: bool) -> u16 {
    let (product, c) = (H::expand(a) * H::expand(b), H::expand(c));
    let sum = add_odd(product, c);
    if sum == 0.0 && mode == Rounding::Down && !relu && (product.is_sign_negative() || c.is_sign_negative()) {
        return 0x8000;
    }
    H::narrow(sum, Narrow { mode, finite: false, relu })
}

pub fn min<H: Half>(a: u16, b: u16) -> u16 {
    H::narrow(super::float::min(H::expand(a), H::expand(b)), NEAREST)
}

pub fn max<H: Half>(a: u16, b: u16) -> u16 {
    H::narrow(super::float::max(H::expand(a), H::expand(b)), NEAREST)
}

pub fn min_nan<H: Half>(a: u16, b: u16) -> u16 {
    H::narrow(super::float::min_nan(H::expand(a), H::expand(b)), NEAREST)
}

pub fn max_nan<H: Half>(a: u16, b: u16) -> u16 {
    H::narrow(super::float::max_nan(H::expand(a), H::expand(b)), NEAREST)
}

/// A function of one value, rounded once.
pub fn apply<H: Half>(a: u16, f: fn(f64) -> f64) -> u16 {
    H::narrow(f(H::expand(a)), NEAREST)
}

/// A binary operation on both halves.
pub fn pair(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    u32::from(f((a >> 16) as u16, (b >> 16) as u16)) << 16 | u32::from(f(a as u16, b as u16))
}

/// A ternary operation on both halves.
pub fn pair3(a: u32, b: u32, c: u32, f: impl Fn(u16, u16, u16) -> u16) -> u32 {
    u32::from(f((a >> 16) as u16, (b >> 16) as u16, (c >> 16) as u16)) << 16
        | u32::from(f(a as u16, b as u16, c as u16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_arithmetic_rounds_once() {
        // 1 + 2^-8 is a tie and goes to even; a third addend below the tie decides it in a fused operation.
        assert_eq!(add::<Bf16>(0x3f80, 0x3b80), 0x3f80);
        assert_eq!(fma::<Bf16>(0x3f80, 0x3f80, 0x3b80), 0x3f80);
        assert_eq!(fma::<Bf16>(0x3f81, 0x3f80, 0x3b80), 0x3f82);
        assert_eq!(mul::<Bf16>(0x4000, 0x4040), 0x40c0);
        assert_eq!(pair(0x3f80_4000, 0x4000_3f80, max::<Bf16>), 0x4000_4000);
        assert_eq!(min_nan::<Bf16>(0x7fc0, 0x3f80), 0x7fff);
        assert_eq!(min::<Bf16>(0x7fc0, 0x3f80), 0x3f80);
    }
}
