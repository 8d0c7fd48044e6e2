//! How well a model predicts what it has not seen.

use moe_front::spec::Mode;

use super::fit::{fit, rows_of};
use super::table::{Measurement, Table};
use crate::time::{Direction, Model, Profile};

/// Which rows are left out together, of both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// None: the error of the fit itself.
    Nothing,
    /// Each line of the file alone.
    Row,
    /// All rows with the same number of nodes and of multiprocessors.
    NodesAndSms,
    /// All rows with the same number of nodes.
    Nodes,
    /// All rows with the same number of multiprocessors.
    Sms,
    /// All rows with the same number of tokens.
    Tokens,
}

/// The signed error of one prediction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Residual {
    /// Which kernel.
    pub direction: Direction,
    /// Nodes of the row.
    pub nodes: u32,
    /// Multiprocessors of the row.
    pub sms: u32,
    /// Tokens of the row.
    pub tokens: f64,
    /// Predicted / measured − 1.
    pub error: f64,
}

/// Moves what is `known` without each group of rows in turn, and predicts that group.
pub fn hold_out(known: &Profile, table: &Table, held: Held) -> Vec<Residual> {
    let rows = rows_of(table, false);
    match table.mode {
        Mode::Throughput => hold_out_of(known.throughput, table.mode, &rows, held),
        Mode::Latency => hold_out_of(known.latency, table.mode, &rows, held),
    }
}

fn hold_out_of<M: Model>(known: M, mode: Mode, rows: &[Measurement], held: Held) -> Vec<Residual> {
    let key = |row: &Measurement| {
        let call = &row.call;
        match held {
            Held::Nothing => 0,
            Held::Row => row.line,
            Held::NodesAndSms => u64::from(call.nodes) << 32 | u64::from(call.sms),
            Held::Nodes => u64::from(call.nodes),
            Held::Sms => u64::from(call.sms),
            Held::Tokens => call.tokens as u64,
        }
    };
    let mut keys: Vec<u64> = rows.iter().map(key).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut residuals = Vec::new();
    for group in keys {
        let (inside, outside): (Vec<Measurement>, Vec<Measurement>) = rows.iter().partition(|row| key(row) == group);
        let model = fit(mode, known, if held == Held::Nothing { &inside } else { &outside });
        residuals.extend(inside.iter().map(|&Measurement { direction, ref call, us, .. }| Residual {
            direction,
            nodes: call.nodes,
            sms: call.sms,
            tokens: call.tokens,
            error: model.time(direction, call) / us - 1.0,
        }));
    }
    residuals
}
