//! Why a command failed: always the user's file or input, or this machine.

use moe_front::diagnostics::Diagnostics;
use moe_lower::LowerError;

use crate::source::Source;

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// Something in a `.moe` file, with its place.
    File(Source, Diagnostics),
    /// Anything else, in one sentence.
    Message(String),
    /// It was said already.
    Said,
}

impl Failure {
    /// Of building a file.
    pub fn of_lowering(source: &Source, error: LowerError) -> Failure {
        match error {
            LowerError::File(diagnostics) => Failure::File(source.clone(), diagnostics),
            other => Failure::Message(format!("{}: {other}", source.name)),
        }
    }
}

/// Errors that are a whole sentence.
macro_rules! messages {
    ($($error:ty),* $(,)?) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Failure {
                Failure::Message(error.to_string())
            }
        })*
    };
}

messages! {
    moe_host::CompileError,
    moe_judge::GivenError,
    moe_judge::JudgeError,
    moe_planner::setting::OutOfRange,
    moe_runtime::DeviceError,
    moe_runtime::Error,
}
