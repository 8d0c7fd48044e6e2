//! What each instruction computes, as pure functions on the values of one lane, and the loops that apply them to a warp.
//!
//! The pure functions know nothing of registers; [`lanes`] knows nothing of their meaning.

pub(crate) mod approximate;
pub(crate) mod convert;
pub(crate) mod double;
pub(crate) mod float;
pub(crate) mod integer;
#[macro_use]
pub(crate) mod wide;
#[macro_use]
pub(crate) mod lanes;
pub(crate) mod matrix;
pub(crate) mod narrow;
pub(crate) mod packed;
pub(crate) mod shuffle;
