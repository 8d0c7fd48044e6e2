//! Standard normal numbers, as fast as a gate takes them.
//!
//! Invariant: a number is a function of 32 random bits, off by less than 2e-4 from their exact quantile. All operations are exact or
//! correctly rounded, and none is fused, so that a machine with wider vectors gives the same numbers sooner.
//!
//! Random bits: xoshiro128+ (Blackman and Vigna 2018), [`LANES`] generators side by side, each started by [`Random`]. One bit is the sign.
//! The others, m of 31, are the probability u = (m + ½) / 2³¹ of a number further out; with t = −log₂ u its distance from zero is
//! g(t) = −Φ⁻¹(2⁻ᵗ / 2), a smooth function without a tail of its own, which [`DISTANCE`] over [`BELOW_DISTANCE`] approximate for t up to 33.
//! Both they and [`LOG2`] were fitted by least squares, reweighted until the largest error was smallest.

use moe_random::Random;

/// Generators, and numbers that are made at once.
const LANES: usize = 16;

/// Of x, x², …: log₂(1 + x) for x from 0 to 1, off by less than 1.2e-4, exact at both ends.
const LOG2: [f32; 4] = [1.438_725_7, -0.677_783_6, 0.321_188_35, -0.082_130_43];

/// Of t, t², …: the numerator of g, off by less than 7e-5.
const DISTANCE: [f32; 4] = [0.867_543_96, 0.406_791_3, 0.025_378_983, 1.156_965_3e-4];

/// Of 1, t, …: its denominator.
const BELOW_DISTANCE: [f32; 4] = [1.0, 0.807_911_8, 0.116_794_765, 2.258_496e-3];

/// Fills `numbers`.
pub(super) fn fill(random: &mut Random, numbers: &mut [f32]) {
    let mut generators = Generators::new(random);
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") {
            // SAFETY: the machine has both.
            return unsafe { fill_512(&mut generators, numbers) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the machine has it.
            return unsafe { fill_256(&mut generators, numbers) };
        }
    }
    fill_lanes(&mut generators, numbers);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq")]
fn fill_512(generators: &mut Generators, numbers: &mut [f32]) {
    fill_lanes(generators, numbers);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn fill_256(generators: &mut Generators, numbers: &mut [f32]) {
    fill_lanes(generators, numbers);
}

/// Inlined where a caller allows wider vectors, so that it is compiled for them.
#[inline(always)]
fn fill_lanes(generators: &mut Generators, numbers: &mut [f32]) {
    // A copy of its own stays in registers.
    let mut running = *generators;
    let mut chunks = numbers.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        let bits = running.next();
        for lane in 0..LANES {
            chunk[lane] = of_bits(bits[lane]);
        }
    }
    let bits = running.next();
    for (number, bits) in chunks.into_remainder().iter_mut().zip(bits) {
        *number = of_bits(bits);
    }
    *generators = running;
}

/// The states of xoshiro128+, word by word.
#[derive(Clone, Copy)]
struct Generators([[u32; LANES]; 4]);

impl Generators {
    fn new(random: &mut Random) -> Generators {
        // No state is zero in all words, but with a probability of 2⁻¹²⁸.
        Generators(std::array::from_fn(|_| std::array::from_fn(|_| (random.bits() >> 32) as u32)))
    }

    #[inline(always)]
    fn next(&mut self) -> [u32; LANES] {
        let [s0, s1, s2, s3] = &mut self.0;
        let mut bits = [0; LANES];
        for lane in 0..LANES {
            bits[lane] = s0[lane].wrapping_add(s3[lane]);
            let shifted = s1[lane] << 9;
            s2[lane] ^= s0[lane];
            s3[lane] ^= s1[lane];
            s1[lane] ^= s2[lane];
            s0[lane] ^= s3[lane];
            s2[lane] ^= shifted;
            s3[lane] = s3[lane].rotate_left(11);
        }
        bits
    }
}

#[inline(always)]
fn of_bits(bits: u32) -> f32 {
    const SIGN: u32 = 1 << 31;
    const FRACTION_BITS: u32 = f32::MANTISSA_DIGITS - 1;
    const FRACTION: u32 = (1 << FRACTION_BITS) - 1;
    // Below 2³¹: as a signed number it is the same, and every machine converts those.
    let further_out = (bits & !SIGN) as i32 as f32 + 0.5;
    let form = further_out.to_bits();
    let x = f32::from_bits((form & FRACTION) | 1_f32.to_bits()) - 1.0;
    let [a, b, c, d] = LOG2;
    let log2 = x * (a + x * (b + x * (c + x * d)));
    // 31 and the offset of the exponent.
    let t = (158.0 - (form >> FRACTION_BITS) as i32 as f32) - log2;
    let [a, b, c, d] = DISTANCE;
    let above = t * (a + t * (b + t * (c + t * d)));
    let [a, b, c, d] = BELOW_DISTANCE;
    let below = a + t * (b + t * (c + t * d));
    f32::from_bits((above / below).to_bits() | (bits & SIGN))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number below which a standard normal one lies with probability `p`: P. J. Acklam's rational approximations, relative error 1.2e-9.
    fn quantile(p: f64) -> f64 {
        const CENTRE: [f64; 6] = [
            -3.969683028665376e+01,
            2.209460984245205e+02,
            -2.759285104469687e+02,
            1.38357751867269e+02,
            -3.066479806614716e+01,
            2.506628277459239e+00,
        ];
        const BELOW_CENTRE: [f64; 6] = [
            -5.447609879822406e+01,
            1.615858368580409e+02,
            -1.556989798598866e+02,
            6.680131188771972e+01,
            -1.328068155288572e+01,
            1.0,
        ];
        const TAIL: [f64; 6] = [
            -7.784894002430293e-03,
            -3.223964580411365e-01,
            -2.400758277161838e+00,
            -2.549732539343734e+00,
            4.374664141464968e+00,
            2.938163982698783e+00,
        ];
        const BELOW_TAIL: [f64; 5] =
            [7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e+00, 3.754408661907416e+00, 1.0];
        const EDGE: f64 = 0.02425;
        let polynomial = |coefficients: &[f64], x: f64| coefficients.iter().fold(0.0, |sum, next| sum * x + next);
        let tail = |p: f64| {
            let x = (-2.0 * p.ln()).sqrt();
            polynomial(&TAIL, x) / polynomial(&BELOW_TAIL, x)
        };
        if p < EDGE {
            tail(p)
        } else if p > 1.0 - EDGE {
            -tail(1.0 - p)
        } else {
            let x = p - 0.5;
            x * polynomial(&CENTRE, x * x) / polynomial(&BELOW_CENTRE, x * x)
        }
    }

    /// From tables of the normal distribution.
    #[test]
    fn quantiles() {
        for (p, z) in
            [(0.5, 0.0), (0.975, 1.959_964), (0.841_344_746, 1.0), (0.001_349_898, -3.0), (0.999_968_329, 4.0)]
        {
            assert!((quantile(p) - z).abs() < 1e-5, "{p}: {}", quantile(p));
        }
    }

    #[test]
    fn numbers_are_as_good_as_it_says() {
        let spread = (0..1_000_000_u32).map(|step| step.wrapping_mul(4_293) ^ 0x55);
        // The tail down to its last number, and the middle up to its last.
        let ends = (0..100_000).chain((1 << 31) - 100_000..1 << 31);
        for bits in spread.chain(ends) {
            let further_out = (f64::from(bits & !(1 << 31)) + 0.5) / f64::from(1_u32 << 31);
            let exact = -quantile(further_out / 2.0) * if bits >> 31 == 1 { -1.0 } else { 1.0 };
            let error = (f64::from(of_bits(bits)) - exact).abs();
            assert!(error < 2e-4, "{bits:x}: {exact}, off by {error}");
        }
    }

    /// Whatever the machine has: the plain code gives the same.
    #[test]
    fn wide_vectors_give_the_same_numbers() {
        for count in [0, 1, 15, 16, 17, 1000] {
            let (mut wide, mut plain) = (vec![0.0; count], vec![0.0; count]);
            fill(&mut Random::stream(3, 4), &mut wide);
            fill_lanes(&mut Generators::new(&mut Random::stream(3, 4)), &mut plain);
            assert_eq!(wide, plain);
        }
    }

    fn sample(count: usize) -> Vec<f64> {
        let mut numbers = vec![0.0; count];
        fill(&mut Random::stream(1, 0), &mut numbers);
        numbers.into_iter().map(f64::from).collect()
    }

    /// The first eight moments, and the parts beyond 1 to 5, each within five standard errors.
    #[test]
    fn moments_and_tails() {
        let numbers = sample(1 << 22);
        let count = numbers.len() as f64;
        let check = |what: &str, found: f64, expected: f64, variance: f64| {
            assert!((found - expected).abs() < 5.0 * f64::sqrt(variance / count), "{what}: {found} is not {expected}");
        };
        // E z^n is 0 for odd n, and 1 · 3 · 5 … (n − 1) for even.
        let moment = |n: i32| if n % 2 == 1 { 0.0 } else { (1..n).step_by(2).map(f64::from).product::<f64>() };
        for n in 1..=8 {
            let found = numbers.iter().map(|z| z.powi(n)).sum::<f64>() / count;
            check(&format!("moment {n}"), found, moment(n), moment(2 * n) - moment(n).powi(2));
        }
        // Twice the upper tail, from tables.
        for (z, tail) in
            [(1.0, 0.317_310_5), (2.0, 0.045_500_26), (3.0, 2.699_796e-3), (4.0, 6.334_248e-5), (5.0, 5.733_031e-7)]
        {
            let found = numbers.iter().filter(|number| number.abs() > z).count() as f64 / count;
            check(&format!("beyond {z}"), found, tail, tail);
        }
    }

    /// Neighbours of a lane, of a step, and of a row of 256 experts say nothing of each other: products of the numbers, of their sizes and
    /// of their squares have the means of independent ones, within five standard errors.
    #[test]
    fn neighbours_are_independent() {
        let numbers = sample(1 << 22);
        let size = f64::sqrt(2.0 / std::f64::consts::PI);
        for lag in [1, 2, 15, 16, 17, 32, 64, 256, 4096] {
            let pairs = (numbers.len() - lag) as f64;
            let mean = |of: &dyn Fn(f64) -> f64| {
                numbers.iter().zip(&numbers[lag..]).map(|(&a, &b)| of(a) * of(b)).sum::<f64>() / pairs
            };
            for (found, variance) in [
                (mean(&|z| z), 1.0),
                (mean(&|z| z.abs() - size), (1.0 - size * size).powi(2)),
                (mean(&|z| z * z - 1.0), 4.0),
            ] {
                assert!(found.abs() < 5.0 * f64::sqrt(variance / pairs), "lag {lag}: {found}");
            }
        }
    }
}
