//! What a parallel plan costs: bytes on every link, time of every phase, memory of every GPU, placement of experts.

pub mod calibrate;
pub mod memory;
pub mod sample;
mod seeded;
pub mod simulate;
pub mod step;
pub mod time;
pub mod traffic;

pub use sample::{Logits, Sample};
