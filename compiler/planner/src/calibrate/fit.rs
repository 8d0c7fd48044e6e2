//! Least squares on relative errors.

use moe_compiler::spec::Mode;

use super::evaluate::{Held, hold_out};
use super::table::{CalibrationError, Measurement, Table};
use crate::time::{Direction, LatencyKernel, Notify, Parameters, Profile, ThroughputKernel, Trust};

/// Noise of a measurement: relative errors are weighed against priors with it.
const NOISE: f64 = 0.03;
/// A call with so few tokens is all latency, which varies from run to run; its noise is taken three times as large.
const FEW_TOKENS: [f64; 2] = [1024.0, 8.0];
const NOISE_OF_FEW: f64 = 3.0;
/// Rounds of Levenberg–Marquardt; a fit of these models converges in about twenty.
const ROUNDS: usize = 200;

/// The weight of a measurement, 1 over its noise.
pub(super) fn weight(mode: Mode, row: &Measurement) -> f64 {
    let few = FEW_TOKENS[usize::from(mode == Mode::Latency)];
    1.0 / (NOISE * if row.call.tokens < few { NOISE_OF_FEW } else { 1.0 })
}

/// Fits the model `P` to `rows`.
///
/// # Errors
/// If there are fewer rows than parameters.
pub fn fit<P: Parameters<N>, const N: usize>(mode: Mode, rows: &[Measurement]) -> Result<P, CalibrationError> {
    if rows.len() < N {
        return Err(CalibrationError::TooFew { rows: rows.len(), needed: N });
    }
    let start = P::PRIORS.map(|prior| prior.value.ln());
    let residuals = |logs: &[f64; N]| -> Vec<f64> {
        let model = P::from_vector(logs.map(f64::exp));
        let measured = rows.iter().map(|row| weight(mode, row) * (model.time(&row.call) / row.us).ln());
        let priors = logs.iter().zip(P::PRIORS).map(|(log, prior)| (log - prior.value.ln()) / prior.spread);
        measured.chain(priors).collect()
    };
    let logs = minimise(start, residuals);
    Ok(P::from_vector(logs.map(f64::exp)))
}

/// Levenberg–Marquardt with a numerical derivative.
fn minimise<const N: usize>(start: [f64; N], residuals: impl Fn(&[f64; N]) -> Vec<f64>) -> [f64; N] {
    const STEP: f64 = 1e-6;
    let cost = |residuals: &[f64]| residuals.iter().map(|residual| residual * residual).sum::<f64>();
    let mut at = start;
    let mut here = residuals(&at);
    let mut damping = 1e-3;
    for _ in 0..ROUNDS {
        let slopes: [Vec<f64>; N] = std::array::from_fn(|parameter| {
            let mut moved = at;
            moved[parameter] += STEP;
            residuals(&moved).iter().zip(&here).map(|(there, here)| (there - here) / STEP).collect()
        });
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let normal: [[f64; N]; N] = std::array::from_fn(|i| std::array::from_fn(|j| dot(&slopes[i], &slopes[j])));
        let downhill: [f64; N] = std::array::from_fn(|i| -dot(&slopes[i], &here));
        let mut improved = false;
        for _ in 0..12 {
            let mut damped = normal;
            for (i, row) in damped.iter_mut().enumerate() {
                row[i] *= 1.0 + damping;
            }
            let step = solve(damped, downhill);
            let next: [f64; N] = std::array::from_fn(|i| at[i] + step[i].clamp(-1.0, 1.0));
            let there = residuals(&next);
            if cost(&there) < cost(&here) {
                let gained = 1.0 - cost(&there) / cost(&here);
                (at, here) = (next, there);
                damping = (damping / 5.0).max(1e-12);
                improved = gained > 1e-10;
                break;
            }
            damping *= 4.0;
        }
        if !improved {
            break;
        }
    }
    at
}

/// Gaussian elimination with pivoting. The damped normal matrix is positive definite, so that no pivot is zero.
fn solve<const N: usize>(mut matrix: [[f64; N]; N], mut right: [f64; N]) -> [f64; N] {
    for column in 0..N {
        let pivot = (column..N).max_by(|&a, &b| matrix[a][column].abs().total_cmp(&matrix[b][column].abs()));
        let pivot = pivot.unwrap_or(column);
        matrix.swap(column, pivot);
        right.swap(column, pivot);
        let (above, below) = matrix.split_at_mut(column + 1);
        let pivot_row = &above[column];
        let pivot_right = right[column];
        for (offset, row) in below.iter_mut().enumerate() {
            let factor = row[column] / pivot_row[column];
            for (cell, above) in row.iter_mut().zip(pivot_row).skip(column) {
                *cell -= factor * above;
            }
            right[column + 1 + offset] -= factor * pivot_right;
        }
    }
    for row in (0..N).rev() {
        let known: f64 = (row + 1..N).map(|column| matrix[row][column] * right[column]).sum();
        right[row] = (right[row] - known) / matrix[row][row];
    }
    right
}

/// Rows of one kernel.
pub(super) fn of_kernel(table: &Table, direction: Direction, notify: bool) -> Vec<Measurement> {
    table.rows.iter().filter(|row| row.direction == direction && row.notify == notify).copied().collect()
}

/// Fits the parameters of one mode and puts them in the place of those of `profile`. A table without notify times leaves those.
///
/// # Errors
/// If the table has too few rows of a kernel.
pub fn refit(profile: &mut Profile, table: &Table) -> Result<(), CalibrationError> {
    for direction in Direction::ALL {
        let rows = of_kernel(table, direction, false);
        let index = direction as usize;
        match table.mode {
            Mode::Throughput => {
                profile.throughput[index] = fit::<ThroughputKernel, 10>(table.mode, &rows)?;
                let notify = of_kernel(table, direction, true);
                if !notify.is_empty() {
                    profile.notify[index] = fit::<Notify, 4>(table.mode, &notify)?;
                }
            }
            Mode::Latency => profile.latency[index] = fit::<LatencyKernel, 8>(table.mode, &rows)?,
        }
    }
    match table.mode {
        Mode::Throughput => profile.throughput_trust = trust(table, FEW_TOKENS[0])?,
        Mode::Latency => profile.latency_trust = trust(table, FEW_TOKENS[1])?,
    }
    Ok(())
}

/// From groups that were left out: by nodes and multiprocessors, and by tokens.
fn trust(table: &Table, tokens: f64) -> Result<Trust, CalibrationError> {
    let mut held = Vec::new();
    for direction in Direction::ALL {
        held.extend(hold_out(table, direction, Held::NodesAndSms)?);
        held.extend(hold_out(table, direction, Held::Tokens)?);
    }
    let errors: Vec<f64> = held.iter().filter(|one| one.tokens >= tokens).map(|one| one.error).collect();
    let error = (errors.iter().map(|error| error * error).sum::<f64>() / errors.len().max(1) as f64).sqrt();
    let range = |of: fn(&Measurement) -> u32| {
        let values = table.rows.iter().map(of);
        (values.clone().min().unwrap_or(1), values.max().unwrap_or(1))
    };
    Ok(Trust { error, nodes: range(|row| row.call.nodes), sms: range(|row| row.call.sms), tokens })
}
