//! Gate IR, its meaning and its derivative.
//!
//! A gate maps a row of logits to a choice of experts and their weights. [`ir`] is the one form of it that every consumer shares.

pub mod ir;
pub mod math;
pub mod order;
