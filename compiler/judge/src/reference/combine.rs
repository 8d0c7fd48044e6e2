//! Combine: the experts' output back to the tokens, in one order of addition.

use moe_contract::codec::canonical;
use moe_contract::{Exchange, RankId, RowLayout};

use super::dispatch::{Copy, Handle};
use crate::rows::Rows;

/// Whether an expert's row is multiplied by its weight on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weighting {
    /// weight × row
    Weighted,
    /// the row
    Unweighted,
}

impl Weighting {
    /// That of an exchange's combine.
    pub fn of(exchange: &Exchange) -> Weighting {
        if exchange.weighted { Weighting::Weighted } else { Weighting::Unweighted }
    }
}

/// Combine on all ranks: the rows of each rank's tokens. A token that was sent nowhere gets zeros.
///
/// # Panics
/// When there is not one handle and one output per rank.
pub fn combine(exchange: &Exchange, handles: &[Handle], outputs: &[Rows], weighting: Weighting) -> Vec<Rows> {
    assert_eq!((handles.len(), outputs.len()), (exchange.ranks as usize, exchange.ranks as usize), "one per rank");
    let combined = |home: &Handle| {
        let mut rows = Rows::zeros(exchange.combine, exchange.hidden, home.tokens);
        for token in 0..home.tokens {
            let partials: Vec<Vec<f32>> = handles
                .iter()
                .zip(outputs)
                .filter_map(|(handle, output)| {
                    let copy = copy_of(handle, home.rank, token)?;
                    Some(partial(exchange, copy, output, weighting))
                })
                .collect();
            if let Some(sum) = sum(partials) {
                rows.set(token, &sum);
            }
        }
        rows
    };
    handles.iter().map(combined).collect()
}

fn copy_of(handle: &Handle, source: RankId, token: usize) -> Option<&Copy> {
    // They lie in ascending (source, token).
    let place = handle.copies.binary_search_by_key(&(source, token), |copy| (copy.source, copy.token)).ok()?;
    Some(&handle.copies[place])
}

/// The sum over the local experts of a copy, as it arrives at the source: rounded to the combine format.
fn partial(exchange: &Exchange, copy: &Copy, output: &Rows, weighting: Weighting) -> Vec<f32> {
    let mut terms = Vec::new();
    for (row, weight) in copy.rows.iter().zip(&copy.weights) {
        let Some(row) = *row else { continue };
        let mut term = output.elements(row);
        if weighting == Weighting::Weighted {
            term.iter_mut().for_each(|element| *element = canonical(weight * *element));
        }
        terms.push(term);
        if exchange.layout == RowLayout::RankMajor {
            // All picks share the row; the expert function has summed them.
            break;
        }
    }
    // A copy exists because it has a pick here.
    let sum = sum(terms).unwrap_or_default();
    Rows::from_values(exchange.combine, exchange.hidden, &sum).elements(0)
}

/// In order; the first row starts the sum.
fn sum(rows: Vec<Vec<f32>>) -> Option<Vec<f32>> {
    rows.into_iter().reduce(|sum, row| sum.iter().zip(row).map(|(sum, element)| canonical(sum + element)).collect())
}
