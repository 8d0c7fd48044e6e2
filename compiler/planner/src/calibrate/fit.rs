//! Least squares on relative errors.

use moe_front::spec::Mode;

use super::evaluate::{Held, hold_out};
use super::table::{CalibrationError, Measurement, Table};
use crate::time::{Call, Model, Parameters as _, Profile, Trust};

/// Noise of a measurement: relative errors are weighed against priors with it.
const NOISE: f64 = 0.03;
/// A call with so few tokens is all latency, which varies from run to run; its noise is taken three times as large.
const FEW_TOKENS: [f64; 2] = [1024.0, 8.0];
const NOISE_OF_FEW: f64 = 3.0;
/// Rounds of Levenberg–Marquardt; a fit of these models converges in about twenty.
const ROUNDS: usize = 200;

/// The weight of a measurement, 1 over its noise.
fn weight(mode: Mode, row: &Measurement) -> f64 {
    let few = FEW_TOKENS[usize::from(mode == Mode::Latency)];
    1.0 / (NOISE * if row.call.tokens < few { NOISE_OF_FEW } else { 1.0 })
}

/// What is `known`, moved as far as `rows` of both directions say: without rows it stays, many rows decide alone.
pub fn fit<M: Model>(mode: Mode, known: M, rows: &[Measurement]) -> M {
    let logs = |model: M| model.numbers().into_iter().map(f64::ln).collect::<Vec<f64>>();
    let at = |logs: &[f64]| known.with(&logs.iter().map(|log| log.exp()).collect::<Vec<f64>>());
    let (start, spreads) = (logs(known), M::spreads());
    let residuals = |logs: &[f64]| -> Vec<f64> {
        let model = at(logs);
        let measured = rows.iter().map(|row| weight(mode, row) * (model.time(row.direction, &row.call) / row.us).ln());
        let priors = logs.iter().zip(&start).zip(&spreads).map(|((log, start), spread)| (log - start) / spread);
        measured.chain(priors).collect()
    };
    at(&minimise(&start, residuals))
}

/// Levenberg–Marquardt with a numerical derivative.
fn minimise(start: &[f64], residuals: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    const STEP: f64 = 1e-6;
    let cost = |residuals: &[f64]| residuals.iter().map(|residual| residual * residual).sum::<f64>();
    let mut at = start.to_vec();
    let mut here = residuals(&at);
    let mut damping = 1e-3;
    for _ in 0..ROUNDS {
        let slope = |parameter: usize| -> Vec<f64> {
            let mut moved = at.clone();
            moved[parameter] += STEP;
            residuals(&moved).iter().zip(&here).map(|(there, here)| (there - here) / STEP).collect()
        };
        let slopes: Vec<Vec<f64>> = (0..at.len()).map(slope).collect();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let normal: Vec<Vec<f64>> = slopes.iter().map(|a| slopes.iter().map(|b| dot(a, b)).collect()).collect();
        let downhill: Vec<f64> = slopes.iter().map(|slope| -dot(slope, &here)).collect();
        let mut improved = false;
        for _ in 0..12 {
            let mut damped = normal.clone();
            for (i, row) in damped.iter_mut().enumerate() {
                row[i] *= 1.0 + damping;
            }
            let step = solve(damped, downhill.clone());
            let next: Vec<f64> = at.iter().zip(step).map(|(at, step)| at + step.clamp(-1.0, 1.0)).collect();
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

/// Gaussian elimination. The damped normal matrix is positive definite (every parameter has a prior), so that no pivot is zero.
fn solve(mut matrix: Vec<Vec<f64>>, mut right: Vec<f64>) -> Vec<f64> {
    let size = right.len();
    for column in 0..size {
        let (above, below) = matrix.split_at_mut(column + 1);
        let pivot_row = &above[column];
        for (offset, row) in below.iter_mut().enumerate() {
            let factor = row[column] / pivot_row[column];
            for (cell, above) in row.iter_mut().zip(pivot_row).skip(column) {
                *cell -= factor * above;
            }
            right[column + 1 + offset] -= factor * right[column];
        }
    }
    for row in (0..size).rev() {
        let known: f64 = (row + 1..size).map(|column| matrix[row][column] * right[column]).sum();
        right[row] = (right[row] - known) / matrix[row][row];
    }
    right
}

/// Rows of kernels, or of the notify kernels before them.
pub(super) fn rows_of(table: &Table, notify: bool) -> Vec<Measurement> {
    table.rows.iter().filter(|row| row.notify == notify).copied().collect()
}

/// Moves the parameters of one mode as far as a table says. A table without notify times leaves those.
///
/// # Errors
/// If the table has no rows, or times that nothing fits.
pub fn refit(profile: &mut Profile, table: &Table) -> Result<(), CalibrationError> {
    let rows = rows_of(table, false);
    if rows.is_empty() {
        return Err(CalibrationError::Empty);
    }
    let trust = trust(profile, table, &rows);
    match table.mode {
        Mode::Throughput => {
            profile.throughput = fit(table.mode, profile.throughput, &rows);
            profile.notify = fit(table.mode, profile.notify, &rows_of(table, true));
            profile.throughput_trust = trust;
        }
        Mode::Latency => {
            profile.latency = fit(table.mode, profile.latency, &rows);
            profile.latency_trust = trust;
        }
    }
    let fitted = [profile.throughput.numbers(), profile.notify.numbers(), profile.latency.numbers()].concat();
    let usable = |number: &f64| number.is_finite() && *number >= 0.0;
    if !fitted.iter().all(usable) || !usable(&trust.error) || !usable(&trust.error_of_few) {
        return Err(CalibrationError::NoFit);
    }
    Ok(())
}

/// From groups that were left out: by nodes and multiprocessors, and by tokens. Of calls with few tokens, or with many, that the table does
/// not have, it is what was known.
fn trust(known: &Profile, table: &Table, rows: &[Measurement]) -> Trust {
    let tokens = FEW_TOKENS[usize::from(table.mode == Mode::Latency)];
    let before = match table.mode {
        Mode::Throughput => known.throughput_trust,
        Mode::Latency => known.latency_trust,
    };
    let mut held = hold_out(known, table, Held::NodesAndSms);
    held.extend(hold_out(known, table, Held::Tokens));
    let of = |few: bool| {
        let errors: Vec<f64> = held.iter().filter(|one| (one.tokens < tokens) == few).map(|one| one.error).collect();
        let squares = errors.iter().map(|error| error * error).sum::<f64>();
        (!errors.is_empty()).then(|| (squares / errors.len() as f64).sqrt())
    };
    let error = of(false).unwrap_or(before.error);
    let range = |of: fn(&Call) -> u32| {
        let values = rows.iter().map(|row| of(&row.call));
        (values.clone().min().unwrap_or(1), values.max().unwrap_or(1))
    };
    Trust {
        error,
        error_of_few: of(true).unwrap_or(before.error_of_few.max(error)),
        tokens,
        nodes: range(|call| call.nodes),
        sms: range(|call| call.sms),
        nvlink: table.hardware.nvlink,
        rdma: table.hardware.rdma,
    }
}
