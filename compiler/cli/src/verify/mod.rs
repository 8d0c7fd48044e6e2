//! A run of every call of the runtime, each result compared with the reference.
//!
//! Invariants: what is expected comes from [`moe_gate::interpret`] and [`moe_judge::reference`], which know nothing of kernels, and from the
//! given input alone; every comparison is bit for bit, so that a wrong order of addition is found too.

mod check;
mod expected;
mod produced;
mod times;

pub use check::Check;
pub use expected::{Expected, limit_capacity};
pub use produced::Produced;
pub use times::Times;

use moe_gate::ir::Gate;
use moe_runtime::Communicator;

use crate::failure::Failure;
use crate::given::Given;
use crate::progress::Progress;

/// What is run beside the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Gradients, and a second dispatch with the same routing.
    pub backward: bool,
    /// Of the gradients and the second dispatch.
    pub seed: u64,
    /// How often, at least once.
    pub repeat: u32,
}

/// What came out of it.
pub struct Verified {
    /// Results and bytes of the device in the last repetition; the first that differs is the last.
    pub produced: Produced,
    /// What they should be.
    pub expected: Expected,
    /// Everything that was compared, in that repetition.
    pub checks: Vec<Check>,
    /// Of the kernels.
    pub times: Times,
}

/// Runs everything and compares it. The reference computes on one core while the device runs on the other.
pub fn verify(
    communicator: &mut Communicator,
    gate: &Gate,
    given: &Given,
    scope: Scope,
    progress: &Progress,
) -> Result<Verified, Failure> {
    let manifest = communicator.manifest().clone();
    let (produced, expected) = std::thread::scope(|threads| {
        let reference = threads.spawn(|| Expected::compute(&manifest, gate, given, scope));
        let produced = Produced::run(communicator, given, scope, progress);
        progress.say("reference");
        let expected = match reference.join() {
            Ok(expected) => expected,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        // The device names the rank and the token of wrong numbers; the reference, running alone, would too.
        produced.and_then(|produced| Ok((produced, expected?)))
    })?;
    progress.say("comparing");
    let checks = check::all(&manifest, given, &produced, &expected);
    let mut verified = Verified { produced, expected, checks, times: Times::default() };
    verified.times.add(&communicator.kernel_times()?);
    for _ in 1..scope.repeat {
        if !verified.checks.iter().all(Check::holds) {
            break;
        }
        let produced = Produced::run(communicator, given, scope, progress)?;
        verified.checks = check::all(&manifest, given, &produced, &verified.expected);
        verified.produced = produced;
        verified.times.add(&communicator.kernel_times()?);
    }
    Ok(verified)
}
