//! Gate IR, its meaning and its derivative.
//!
//! A gate maps a row of logits to a choice of experts and their weights. [`ir`] is the one form of it that every consumer shares.
//! [`interpret`] is its meaning, of which [`functions`], [`math`] and [`order`] are part; [`derivative`] makes the backward gate;
//! [`range`] and [`ranges`] say which numbers a value can be, [`facts`] what follows for whoever plans with a gate.

pub mod derivative;
pub mod facts;
pub mod functions;
pub mod inputs;
pub mod interpret;
pub mod ir;
pub mod math;
pub mod order;
pub mod print;
pub mod range;
pub mod ranges;
mod simplify;
