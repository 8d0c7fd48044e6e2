//! What people read: reports, simulations and placements in words, as tables for a terminal, as pages and as pictures.
//!
//! Invariant: everything here is made of what `cost`, `simulate` and `placement` give, which stands in the JSON too; nothing is computed
//! that they do not know.

mod explain;
pub mod picture;
mod placement;
mod plans;
mod report;
mod simulation;
mod table;

pub use explain::remedy;
pub use plans::{Comparison, compared};
pub use report::Report;
pub use simulation::Simulation;
pub use table::{compare_table, front_table};
