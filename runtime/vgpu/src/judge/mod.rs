//! Judges of memory order.

mod races;

pub use races::{Race, Races, Side};
