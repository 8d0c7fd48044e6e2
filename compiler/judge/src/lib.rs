//! The judge: what a layer must give.
//!
//! Invariant: nothing here shares code with kernels, plan or runtime; the exchange of the bundle is all that they have in common.

pub mod experts;
pub mod reference;
mod rows;

pub use rows::{Rows, RowsError};
