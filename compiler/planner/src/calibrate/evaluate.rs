//! How well a model predicts what it has not seen.

use moe_compiler::spec::Mode;

use super::fit::{fit, of_kernel};
use super::table::{CalibrationError, Measurement, Table};
use crate::time::{Direction, LatencyKernel, Parameters, ThroughputKernel};

/// Which rows are left out together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// None: the error of the fit itself.
    Nothing,
    /// Each row alone.
    Row,
    /// All rows with the same number of nodes and of multiprocessors.
    NodesAndSms,
    /// All rows with the same number of nodes.
    Nodes,
    /// All rows with the same number of tokens.
    Tokens,
}

/// The signed error of one prediction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Residual {
    /// Nodes of the row.
    pub nodes: u32,
    /// Multiprocessors of the row.
    pub sms: u32,
    /// Tokens of the row.
    pub tokens: f64,
    /// Predicted / measured − 1.
    pub error: f64,
}

/// Fits without each group of rows in turn, and predicts that group. A group without which too few rows remain is skipped.
///
/// # Errors
/// If even the whole table has too few rows.
pub fn hold_out(table: &Table, direction: Direction, held: Held) -> Result<Vec<Residual>, CalibrationError> {
    let rows = of_kernel(table, direction, false);
    match table.mode {
        Mode::Throughput => hold_out_of::<ThroughputKernel, 10>(table.mode, &rows, held),
        Mode::Latency => hold_out_of::<LatencyKernel, 8>(table.mode, &rows, held),
    }
}

fn hold_out_of<P: Parameters<N>, const N: usize>(
    mode: Mode,
    rows: &[Measurement],
    held: Held,
) -> Result<Vec<Residual>, CalibrationError> {
    let key = |index: usize| {
        let call = &rows[index].call;
        match held {
            Held::Nothing => 0,
            Held::Row => index as u64,
            Held::NodesAndSms => u64::from(call.nodes) << 32 | u64::from(call.sms),
            Held::Nodes => u64::from(call.nodes),
            Held::Tokens => call.tokens as u64,
        }
    };
    let mut keys: Vec<u64> = (0..rows.len()).map(key).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut residuals = Vec::new();
    for group in keys {
        let inside = |index: &usize| key(*index) == group;
        let rest: Vec<Measurement> = match held {
            Held::Nothing => rows.to_vec(),
            _ => (0..rows.len()).filter(|index| !inside(index)).map(|index| rows[index]).collect(),
        };
        if rest.len() < N && held != Held::Nothing {
            continue;
        }
        let model = fit::<P, N>(mode, &rest)?;
        residuals.extend((0..rows.len()).filter(inside).map(|index| {
            let Measurement { call, us, .. } = rows[index];
            Residual { nodes: call.nodes, sms: call.sms, tokens: call.tokens, error: model.time(&call) / us - 1.0 }
        }));
    }
    Ok(residuals)
}
