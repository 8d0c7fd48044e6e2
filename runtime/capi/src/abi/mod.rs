//! The C ABI: `include/moe_runtime.h`.
//!
//! Invariants:
//! * an object is known by a number that is never given twice. One that was destroyed, or never was, is refused;
//! * a structure begins with its size as the caller knows it: a caller of an older header has fewer members, and what is missing is zero;
//!   one of a newer header is refused if it sets a member that this library does not know;
//! * every function gives a status; what went wrong in detail is kept for the thread until its next call that fails;
//! * no panic leaves a function: it becomes `MOE_STATUS_BUG`. A kind of number or an array is a `uint32_t`, so that any value can be refused.

mod calls;
mod error;
mod given;
mod objects;

pub use calls::*;
pub use error::*;
pub use given::*;
pub use objects::*;
