//! What dispatch and combine must give, bit for bit: the arithmetic of "Order of arithmetic" in [`moe_contract`], in plain Rust.
//!
//! Invariant: nothing here knows how kernels work. There are no slots in peer memory, no flags, no CTAs: every function sees all ranks at
//! once and writes down the definition. It is slow and meant to be read.

mod backward;
mod capacity;
mod combine;
mod dispatch;

pub use backward::{CombineGradient, combine_backward, dispatch_backward, weight_gradient};
pub use capacity::keep_within_capacity;
pub use combine::{Weighting, combine};
pub use dispatch::{Copy, Handle, Input, PickError, PickProblem, dispatch, dispatch_cached};
