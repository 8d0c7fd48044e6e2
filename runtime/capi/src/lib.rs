//! The runtime for other languages: calls over memory of the caller, and their C ABI.
//!
//! Invariants: whatever a caller passes is checked before it is used, as far as it can be; every call gives a result or a [`Failure`]; no
//! panic leaves this crate.
//!
//! * [`session`] – a communicator over tensors of the caller, what C and Python have in common;
//! * [`view`] – those tensors; [`failure`] – what went wrong, as data;
//! * [`abi`] – the same in C, `include/moe_runtime.h`, which a test makes from it.

#![warn(missing_docs)]

pub mod abi;
pub mod failure;
pub mod session;
pub mod view;

pub use failure::{Failure, Kind, Result};
pub use session::{Hardware, Ranks, Session, open_bundle};
pub use view::{Part, View};
