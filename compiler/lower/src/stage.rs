//! How long each stage took.

use std::time::{Duration, Instant};

/// A stage of the compilation, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Text to typed specification.
    Check,
    /// Specification to places, sizes and shapes.
    Plan,
    /// Plan to device code.
    Kernels,
    /// Device code to PTX.
    Ptx,
    /// PTX to machine code, where ptxas is asked for registers.
    Assemble,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Stage::Check => "check",
            Stage::Plan => "plan",
            Stage::Kernels => "kernels",
            Stage::Ptx => "ptx",
            Stage::Assemble => "ptxas",
        }
    }
}

/// The wall-clock time of each stage that ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timings(Vec<(Stage, Duration)>);

impl Timings {
    /// Runs a stage and notes its time.
    pub fn measure<T>(&mut self, stage: Stage, run: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = run();
        self.0.push((stage, start.elapsed()));
        result
    }

    /// In the order in which they ran.
    pub fn stages(&self) -> &[(Stage, Duration)] {
        &self.0
    }

    /// From the text to the PTX of all kernels, without ptxas.
    pub fn text_to_ptx(&self) -> Duration {
        self.0.iter().filter(|(stage, _)| *stage != Stage::Assemble).map(|(_, time)| *time).sum()
    }
}
