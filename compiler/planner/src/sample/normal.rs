//! Standard normal numbers, as fast as a gate takes them.
//!
//! Invariant: a number is the quantile of 32 random bits, interpolated linearly between 4096 exact ones, and exact in the outermost cells,
//! where the quantile is not nearly linear; it is off by less than 0.003 anywhere, by less than 1e-4 within ±2.

use std::sync::OnceLock;

use crate::seeded::Seeded;

const CELLS: usize = 1 << 12;
/// Cells at each end whose quantile is computed.
const OUTERMOST: usize = 4;
/// Bits of the place within a cell.
const WITHIN: u32 = 32 - CELLS.ilog2();

/// Quantiles at i / [`CELLS`]; the ends, which are infinite, are never read.
fn table() -> &'static [f32] {
    static TABLE: OnceLock<Vec<f32>> = OnceLock::new();
    TABLE.get_or_init(|| (0..=CELLS).map(|cell| quantile(cell as f64 / CELLS as f64) as f32).collect())
}

/// Fills `numbers`.
pub(super) fn fill(random: &mut Seeded, numbers: &mut [f32]) {
    let table = table();
    for pair in numbers.chunks_mut(2) {
        let bits = random.next();
        for (number, bits) in pair.iter_mut().zip([bits as u32, (bits >> 32) as u32]) {
            *number = of_bits(table, bits);
        }
    }
}

fn of_bits(table: &[f32], bits: u32) -> f32 {
    let cell = (bits >> WITHIN) as usize;
    if !(OUTERMOST..CELLS - OUTERMOST).contains(&cell) {
        return quantile((f64::from(bits) + 0.5) / 4_294_967_296.0) as f32;
    }
    let within = (bits & ((1 << WITHIN) - 1)) as f32 * (1.0 / (1_u32 << WITHIN) as f32);
    table[cell] + within * (table[cell + 1] - table[cell])
}

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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn interpolation_is_as_good_as_it_says() {
        for step in 0..1_000_000_u32 {
            let bits = step.wrapping_mul(4_293) ^ 0x55;
            let exact = quantile((f64::from(bits) + 0.5) / 4_294_967_296.0);
            let error = (f64::from(of_bits(table(), bits)) - exact).abs();
            assert!(error < if exact.abs() < 2.0 { 1e-4 } else { 3e-3 }, "{exact}: {error}");
        }
    }

    /// Mean, variance, kurtosis and the tail beyond 3, each within five standard errors.
    #[test]
    fn moments() {
        let mut numbers = vec![0.0; 1 << 20];
        fill(&mut Seeded::new(1, 0), &mut numbers);
        let count = numbers.len() as f64;
        let moment = |power: i32| numbers.iter().map(|&z| f64::from(z).powi(power)).sum::<f64>() / count;
        let beyond = numbers.iter().filter(|z| z.abs() > 3.0).count() as f64 / count;
        for (found, expected, variance) in
            [(moment(1), 0.0, 1.0), (moment(2), 1.0, 2.0), (moment(4), 3.0, 96.0), (beyond, 0.002_699_8, 0.0027)]
        {
            assert!((found - expected).abs() < 5.0 * f64::sqrt(variance / count), "{found} is not {expected}");
        }
    }
}
