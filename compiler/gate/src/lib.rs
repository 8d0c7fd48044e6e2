//! Gate IR, its meaning and its derivative.
//!
//! A gate maps a row of logits to a choice of experts and their weights. [`ir`] is the one form of it that every consumer shares.
//! [`interpret`] is its meaning, of which [`math`] and [`order`] are part; [`derivative`] makes the backward gate.

pub mod derivative;
pub mod inputs;
pub mod interpret;
pub mod ir;
pub mod math;
pub mod order;
pub mod print;
mod simplify;
