//! The bundle: what the compiler hands to the runtime.

pub mod exchange;
