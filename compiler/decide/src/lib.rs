//! What a deploy becomes: ranks, launches, protocol, targets, and what of it there are no kernels for.
//!
//! Invariant: `check`, `build`, `run` and `plan` all read one [`Decision`]. What is planned but not built is a diagnostic of it, the same in
//! all four; `build` and `run` refuse what has an error among them.

mod built;
mod choice;
mod decision;
mod launch;
mod numbers;
mod whole;

pub use choice::{Choice, ChoiceError, choose_deploy};
pub use decision::Decision;
pub use launch::link_sms;
pub use numbers::Numbers;
pub use whole::not_built;
