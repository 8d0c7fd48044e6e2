//! What a parallel plan costs: bytes on every link, time of every phase, memory of every GPU, placement of experts.

pub mod calibrate;
pub mod explain;
pub mod memory;
pub mod placement;
pub mod report;
pub mod sample;
pub mod search;
mod seeded;
pub mod simulate;
pub mod step;
pub mod time;
pub mod traffic;

pub use report::{Change, Options, PlanError, Planner, Report};
pub use sample::{Logits, Sample};
