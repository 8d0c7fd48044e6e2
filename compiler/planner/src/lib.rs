//! What a parallel plan costs: bytes on every link, time of every phase, memory of every GPU, placement of experts.

mod seeded;
pub mod simulate;
