//! The transcendental functions of a gate, one definition for every execution.
//!
//! Invariant: each is a fixed sequence of IEEE-754 operations that round to nearest even (no fused multiply-add), of comparisons and of
//! integer operations on bits. Whoever implements [`Arithmetic`] exactly therefore gets the same bits: the interpreter computes with
//! f32, the host and device back ends emit the same sequence as code. The errors below are bounds that hold for every f32, as
//! `MOE_MATH_STRIDE=1` has shown; without it a test checks each 1021st, and all around special points, against f64.
//!
//! Coefficients of exp, log and tanh are those of the Cephes library (`expf`, `logf`, `tanhf`).

// Coefficients are written as in their source.
#![allow(clippy::excessive_precision)]

/// The operations that the functions here are made of. `F` is an f32, `I` an i32, `B` a truth value, or as many of them as the
/// implementation computes at once.
pub trait Arithmetic {
    /// f32
    type F: Copy;
    /// i32
    type I: Copy;
    /// The outcome of a comparison.
    type B: Copy;

    /// A constant.
    fn float(&mut self, value: f32) -> Self::F;
    /// A constant.
    fn integer(&mut self, value: i32) -> Self::I;
    /// a + b
    fn add(&mut self, a: Self::F, b: Self::F) -> Self::F;
    /// a − b
    fn subtract(&mut self, a: Self::F, b: Self::F) -> Self::F;
    /// a × b
    fn multiply(&mut self, a: Self::F, b: Self::F) -> Self::F;
    /// a / b, correctly rounded
    fn divide(&mut self, a: Self::F, b: Self::F) -> Self::F;
    /// √a, correctly rounded
    fn square_root(&mut self, a: Self::F) -> Self::F;
    /// −a
    fn negate(&mut self, a: Self::F) -> Self::F;
    /// |a|
    fn absolute(&mut self, a: Self::F) -> Self::F;
    /// a < b; false when one is NaN
    fn less(&mut self, a: Self::F, b: Self::F) -> Self::B;
    /// a ≤ b; false when one is NaN
    fn at_most(&mut self, a: Self::F, b: Self::F) -> Self::B;
    /// a = b; false when one is NaN
    fn equal(&mut self, a: Self::F, b: Self::F) -> Self::B;
    /// `yes` where `condition` holds, else `no`
    fn select(&mut self, condition: Self::B, yes: Self::F, no: Self::F) -> Self::F;
    /// a + b, wrapping
    fn integer_add(&mut self, a: Self::I, b: Self::I) -> Self::I;
    /// a − b, wrapping
    fn integer_subtract(&mut self, a: Self::I, b: Self::I) -> Self::I;
    /// a × 2^count, wrapping
    fn shift_left(&mut self, a: Self::I, count: u32) -> Self::I;
    /// ⌊a / 2^count⌋
    fn shift_right(&mut self, a: Self::I, count: u32) -> Self::I;
    /// The bits of a number.
    fn bits(&mut self, a: Self::F) -> Self::I;
    /// The number with these bits.
    #[expect(clippy::wrong_self_convention, reason = "the name that f32 has for it")]
    fn from_bits(&mut self, a: Self::I) -> Self::F;
}

/// Adding it to |x| < 2^22 leaves x, rounded to an integer, in the low bits.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts; the product of the first with an exponent is exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// e^x. Error at most 1 ulp, also where the result is subnormal; overflows to +∞ and underflows to 0 like the exact result.
pub fn exp<A: Arithmetic>(a: &mut A, x: A::F) -> A::F {
    let (lowest, highest) = (a.float(-104.0), a.float(89.0));
    let too_low = a.less(x, lowest);
    let x = a.select(too_low, lowest, x);
    let too_high = a.less(highest, x);
    let x = a.select(too_high, highest, x);

    let (round, log2_e) = (a.float(ROUND), a.float(std::f32::consts::LOG2_E));
    let scaled = a.multiply(x, log2_e);
    let shifted = a.add(scaled, round);
    let exponent = a.subtract(shifted, round);
    let (ln2_high, ln2_low) = (a.float(LN2_HIGH), a.float(LN2_LOW));
    let high = a.multiply(exponent, ln2_high);
    let low = a.multiply(exponent, ln2_low);
    let rest = a.subtract(x, high);
    let rest = a.subtract(rest, low);

    let terms = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5.000_000_1e-1];
    let tail = polynomial(a, rest, &terms);
    let square = a.multiply(rest, rest);
    let tail = a.multiply(tail, square);
    let tail = a.add(tail, rest);
    let one = a.float(1.0);
    let mantissa = a.add(tail, one);

    // 2^exponent in two factors that are both normal numbers; only the last product rounds.
    let (bits, round_bits) = (a.bits(shifted), a.integer(ROUND.to_bits() as i32));
    let exponent = a.integer_subtract(bits, round_bits);
    let half = a.shift_right(exponent, 1);
    let other_half = a.integer_subtract(exponent, half);
    let first = power_of_two(a, half);
    let second = power_of_two(a, other_half);
    let product = a.multiply(mantissa, first);
    a.multiply(product, second)
}

/// ln x. Error at most 1 ulp; −∞ at 0, NaN below.
pub fn log<A: Arithmetic>(a: &mut A, x: A::F) -> A::F {
    let (smallest, up) = (a.float(f32::MIN_POSITIVE), a.float((1u32 << 23) as f32));
    let subnormal = a.less(x, smallest);
    let scaled = a.multiply(x, up);
    let normal = a.select(subnormal, scaled, x);

    // normal = mantissa × 2^exponent with the mantissa in [√½, √2)
    let (bits, root) = (a.bits(normal), a.integer(std::f32::consts::FRAC_1_SQRT_2.to_bits() as i32));
    let above = a.integer_subtract(bits, root);
    let exponent = a.shift_right(above, 23);
    let shift = a.shift_left(exponent, 23);
    let mantissa = a.integer_subtract(bits, shift);
    let mantissa = a.from_bits(mantissa);
    let exponent = small_integer_to_float(a, exponent);
    let correction = a.float(23.0);
    let lowered = a.subtract(exponent, correction);
    let exponent = a.select(subnormal, lowered, exponent);

    let one = a.float(1.0);
    let f = a.subtract(mantissa, one);
    let terms = [
        7.037_683_6e-2,
        -1.151_461e-1,
        1.167_699_9e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_5e-1,
        -2.499_999_4e-1,
        3.333_333_1e-1,
    ];
    let tail = polynomial(a, f, &terms);
    let square = a.multiply(f, f);
    let cube = a.multiply(f, square);
    let tail = a.multiply(tail, cube);
    let (ln2_high, ln2_low, half) = (a.float(LN2_HIGH), a.float(LN2_LOW), a.float(0.5));
    let low = a.multiply(exponent, ln2_low);
    let tail = a.add(tail, low);
    let half_square = a.multiply(half, square);
    let tail = a.subtract(tail, half_square);
    let sum = a.add(f, tail);
    let high = a.multiply(exponent, ln2_high);
    let result = a.add(sum, high);

    let (zero, infinity) = (a.float(0.0), a.float(f32::INFINITY));
    let (minus_infinity, nan) = (a.float(f32::NEG_INFINITY), a.float(f32::NAN));
    let is_infinite = a.equal(x, infinity);
    let result = a.select(is_infinite, infinity, result);
    let is_zero = a.equal(x, zero);
    let result = a.select(is_zero, minus_infinity, result);
    let is_negative = a.less(x, zero);
    let result = a.select(is_negative, nan, result);
    let is_number = a.equal(x, x);
    a.select(is_number, result, x)
}

/// ln(1 + e^x), without overflow. Error at most 3 ulp.
pub fn softplus<A: Arithmetic>(a: &mut A, x: A::F) -> A::F {
    let magnitude = a.absolute(x);
    let minus = a.negate(magnitude);
    let small = exp(a, minus);
    // ln(1 + y) = y · ln(u) / (u − 1) with u = fl(1 + y): the errors of u cancel.
    let (zero, one) = (a.float(0.0), a.float(1.0));
    let u = a.add(one, small);
    let above_one = a.subtract(u, one);
    let logarithm = log(a, u);
    let ratio = a.divide(logarithm, above_one);
    let corrected = a.multiply(small, ratio);
    let is_one = a.equal(u, one);
    let tail = a.select(is_one, small, corrected);
    let is_negative = a.less(x, zero);
    let positive_part = a.select(is_negative, zero, x);
    a.add(positive_part, tail)
}

/// 1 / (1 + e^−x), computed from e^−|x| so that it does not overflow. Error at most 3 ulp.
pub fn sigmoid<A: Arithmetic>(a: &mut A, x: A::F) -> A::F {
    let magnitude = a.absolute(x);
    let minus = a.negate(magnitude);
    let power = exp(a, minus);
    let (zero, one) = (a.float(0.0), a.float(1.0));
    let is_negative = a.less(x, zero);
    let above = a.select(is_negative, power, one);
    let below = a.add(one, power);
    a.divide(above, below)
}

/// tanh x. Error at most 2 ulp.
pub fn tanh<A: Arithmetic>(a: &mut A, x: A::F) -> A::F {
    let magnitude = a.absolute(x);
    let (zero, one, minus_two) = (a.float(0.0), a.float(1.0), a.float(-2.0));
    let twice = a.multiply(magnitude, minus_two);
    let power = exp(a, twice);
    let above = a.subtract(one, power);
    let below = a.add(one, power);
    let large = a.divide(above, below);
    let minus_large = a.negate(large);
    let is_negative = a.less(x, zero);
    let large = a.select(is_negative, minus_large, large);

    let square = a.multiply(x, x);
    let terms = [-5.704_988_7e-3, 2.063_908_8e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1];
    let tail = polynomial(a, square, &terms);
    let tail = a.multiply(tail, square);
    let tail = a.multiply(tail, x);
    let small = a.add(tail, x);
    let limit = a.float(0.625);
    let is_small = a.less(magnitude, limit);
    a.select(is_small, small, large)
}

/// Horner's rule, from the highest power.
fn polynomial<A: Arithmetic>(a: &mut A, x: A::F, coefficients: &[f32]) -> A::F {
    let mut sum = a.float(coefficients[0]);
    for &coefficient in &coefficients[1..] {
        let product = a.multiply(sum, x);
        let coefficient = a.float(coefficient);
        sum = a.add(product, coefficient);
    }
    sum
}

/// 2^exponent for −127 < exponent < 128.
fn power_of_two<A: Arithmetic>(a: &mut A, exponent: A::I) -> A::F {
    let bias = a.integer(127);
    let biased = a.integer_add(exponent, bias);
    let bits = a.shift_left(biased, 23);
    a.from_bits(bits)
}

/// Exact for |value| < 2^22.
fn small_integer_to_float<A: Arithmetic>(a: &mut A, value: A::I) -> A::F {
    let round_bits = a.integer(ROUND.to_bits() as i32);
    let bits = a.integer_add(value, round_bits);
    let shifted = a.from_bits(bits);
    let round = a.float(ROUND);
    a.subtract(shifted, round)
}

/// Computes with f32.
#[derive(Clone, Copy, Debug, Default)]
pub struct Native;

impl Arithmetic for Native {
    type F = f32;
    type I = i32;
    type B = bool;

    fn float(&mut self, value: f32) -> f32 {
        value
    }
    fn integer(&mut self, value: i32) -> i32 {
        value
    }
    fn add(&mut self, a: f32, b: f32) -> f32 {
        a + b
    }
    fn subtract(&mut self, a: f32, b: f32) -> f32 {
        a - b
    }
    fn multiply(&mut self, a: f32, b: f32) -> f32 {
        a * b
    }
    fn divide(&mut self, a: f32, b: f32) -> f32 {
        a / b
    }
    fn square_root(&mut self, a: f32) -> f32 {
        a.sqrt()
    }
    fn negate(&mut self, a: f32) -> f32 {
        -a
    }
    fn absolute(&mut self, a: f32) -> f32 {
        a.abs()
    }
    fn less(&mut self, a: f32, b: f32) -> bool {
        a < b
    }
    fn at_most(&mut self, a: f32, b: f32) -> bool {
        a <= b
    }
    fn equal(&mut self, a: f32, b: f32) -> bool {
        a == b
    }
    fn select(&mut self, condition: bool, yes: f32, no: f32) -> f32 {
        if condition { yes } else { no }
    }
    fn integer_add(&mut self, a: i32, b: i32) -> i32 {
        a.wrapping_add(b)
    }
    fn integer_subtract(&mut self, a: i32, b: i32) -> i32 {
        a.wrapping_sub(b)
    }
    fn shift_left(&mut self, a: i32, count: u32) -> i32 {
        a.wrapping_shl(count)
    }
    fn shift_right(&mut self, a: i32, count: u32) -> i32 {
        a >> count
    }
    fn bits(&mut self, a: f32) -> i32 {
        a.to_bits() as i32
    }
    fn from_bits(&mut self, a: i32) -> f32 {
        f32::from_bits(a as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Distance of `found` from the exact value, in units of the last place of the correctly rounded result.
    fn ulps(found: f32, exact: f64) -> f64 {
        let rounded = exact as f32;
        if found.to_bits() == rounded.to_bits() || (found == 0.0 && rounded == 0.0) {
            return 0.0;
        }
        if !found.is_finite() || !rounded.is_finite() {
            // The largest finite number and infinity are neighbours.
            let steps = (f64::from(found.to_bits()) - f64::from(rounded.to_bits())).abs();
            return if steps <= 1.0 { 1.0 } else { f64::INFINITY };
        }
        let next = f32::from_bits(rounded.abs().to_bits() + 1);
        (f64::from(found) - exact).abs() / (f64::from(next) - f64::from(rounded.abs()))
    }

    /// Every finite f32 whose bit pattern is a multiple of `stride`, and the neighbourhood of special points; on all cores.
    fn largest_error(stride: u64, function: fn(&mut Native, f32) -> f32, exact: fn(f64) -> f64) -> (f64, f32) {
        let around = [0.0f32, 1.0, 0.625, 88.72284, -87.33655, -103.97208, 20.0, f32::MIN_POSITIVE];
        let near =
            around.into_iter().flat_map(|x| (0..2000u32).map(move |i| x.to_bits().wrapping_add(i).wrapping_sub(1000)));
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
        std::thread::scope(|scope| {
            let every =
                |thread| (thread * stride..1 << 32).step_by((threads * stride) as usize).map(|bits| bits as u32);
            let parts =
                (0..threads).map(|thread| scope.spawn(move || largest_error_of(every(thread), function, exact)));
            let parts: Vec<_> = parts.collect();
            let parts = parts.into_iter().map(|part| part.join().expect("no NaN where a number is due"));
            let near = largest_error_of(near, function, exact);
            parts.fold(near, |worst, part| if part.0 > worst.0 { part } else { worst })
        })
    }

    fn largest_error_of(
        all: impl Iterator<Item = u32>,
        function: fn(&mut Native, f32) -> f32,
        exact: fn(f64) -> f64,
    ) -> (f64, f32) {
        let mut worst = (0.0, 0.0);
        for bits in all {
            let x = f32::from_bits(bits);
            let expected = exact(f64::from(x));
            if x.is_nan() || expected.is_nan() {
                assert!(function(&mut Native, x).is_nan(), "{x}");
                continue;
            }
            let error = ulps(function(&mut Native, x), expected);
            if error > worst.0 {
                worst = (error, x);
            }
        }
        worst
    }

    /// The bounds in the documentation. `MOE_MATH_STRIDE=1` looks at every f32.
    #[test]
    fn errors_are_within_the_stated_bounds() {
        let stride = std::env::var("MOE_MATH_STRIDE").ok().and_then(|text| text.parse().ok()).unwrap_or(1021);
        type Case = (&'static str, fn(&mut Native, f32) -> f32, fn(f64) -> f64, f64);
        let cases: [Case; 5] = [
            ("exp", exp, f64::exp, 1.0),
            ("log", log, f64::ln, 1.0),
            ("softplus", softplus, |x| x.max(0.0) + (-x.abs()).exp().ln_1p(), 3.0),
            ("sigmoid", sigmoid, |x| 1.0 / (1.0 + (-x).exp()), 3.0),
            ("tanh", tanh, f64::tanh, 2.0),
        ];
        for (name, function, exact, bound) in cases {
            let (error, x) = largest_error(stride, function, exact);
            println!("{name}: {error:.3} ulp at {x:e}");
            assert!(error <= bound, "{name}({x:e}) is off by {error} ulp");
        }
    }

    #[test]
    fn special_values() {
        let a = &mut Native;
        assert_eq!(exp(a, f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(a, f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(a, 0.0), 1.0);
        assert!(exp(a, f32::NAN).is_nan());
        assert_eq!(log(a, 0.0), f32::NEG_INFINITY);
        assert_eq!(log(a, 1.0), 0.0);
        assert_eq!(log(a, f32::INFINITY), f32::INFINITY);
        assert!(log(a, -1.0).is_nan());
        assert_eq!(sigmoid(a, f32::NEG_INFINITY), 0.0);
        assert_eq!(sigmoid(a, 0.0), 0.5);
        assert_eq!(softplus(a, f32::INFINITY), f32::INFINITY);
        assert_eq!(softplus(a, f32::NEG_INFINITY), 0.0);
        assert_eq!(tanh(a, f32::INFINITY), 1.0);
        assert_eq!(tanh(a, f32::NEG_INFINITY), -1.0);
    }
}
