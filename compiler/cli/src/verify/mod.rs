//! A run of every call of the runtime, each result compared by the judge ([`moe_judge`]).

mod run;
mod times;

pub use run::Run;
pub use times::Times;

use std::time::Instant;

use moe_gate::ir::Gate;
use moe_judge::{Expected, Given, JudgeError, Verdict, compare};
use moe_runtime::Communicator;

use crate::failure::Failure;
use crate::given;
use crate::progress::Progress;

/// What came out of it.
pub struct Verified {
    /// Results of the device in the last repetition; the first that differs is the last.
    pub run: Run,
    /// What they should be.
    pub expected: Expected,
    /// Seconds that the judge took to say so.
    pub reference_seconds: f64,
    /// Everything that was compared, in that repetition.
    pub verdict: Verdict,
    /// Of the kernels.
    pub times: Times,
}

/// Why there is nothing to compare.
pub enum VerifyError {
    /// The device failed.
    Run(moe_runtime::Error),
    /// What is given cannot be run.
    Judge(JudgeError),
}

impl VerifyError {
    /// Why the command failed; the tokens of a file are called by their place in it.
    pub fn failure(self, given: &Given, file: Option<&str>) -> Failure {
        match self {
            VerifyError::Run(error) => given::failure(error, given, file),
            VerifyError::Judge(error) => error.into(),
        }
    }
}

impl From<moe_runtime::Error> for VerifyError {
    fn from(error: moe_runtime::Error) -> VerifyError {
        VerifyError::Run(error)
    }
}

impl From<JudgeError> for VerifyError {
    fn from(error: JudgeError) -> VerifyError {
        VerifyError::Judge(error)
    }
}

/// Runs everything, at least once, and compares it. The judge computes on one core while the device runs on the other; where the system has
/// no thread for it, after the device.
pub fn verify(
    communicator: &mut Communicator,
    gate: &Gate,
    given: &Given,
    repeat: u32,
    progress: &Progress,
) -> Result<Verified, VerifyError> {
    let manifest = communicator.manifest().clone();
    let (run, (expected, reference_seconds)) = std::thread::scope(|threads| {
        let judge = || {
            let start = Instant::now();
            Expected::compute(&manifest, gate, given).map(|expected| (expected, start.elapsed().as_secs_f64()))
        };
        let beside = std::thread::Builder::new().name("judge".into()).spawn_scoped(threads, judge);
        let run = Run::every_call(communicator, given, progress);
        progress.say("reference");
        let expected = match beside.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(expected)) => expected,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(_) => judge(),
        };
        // The device names the rank and the token of wrong numbers; the judge, running alone, would too.
        Ok::<_, VerifyError>((run?, expected?))
    })?;
    progress.say("comparing");
    let verdict = compare(&run.produced, &expected);
    let mut verified = Verified { run, expected, reference_seconds, verdict, times: Times::default() };
    verified.times.add(&communicator.kernel_times()?);
    for _ in 1..repeat {
        if !verified.verdict.holds() {
            break;
        }
        verified.run = Run::every_call(communicator, given, progress)?;
        verified.verdict = compare(&verified.run.produced, &verified.expected);
        verified.times.add(&communicator.kernel_times()?);
    }
    Ok(verified)
}
