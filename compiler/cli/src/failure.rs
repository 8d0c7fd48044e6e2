//! Why a command failed: always the user's file or input, or this machine.

use moe_front::diagnostics::Diagnostics;
use moe_judge::Given;
use moe_lower::LowerError;
use moe_runtime::Error;

use crate::given::token_of_file;
use crate::source::Source;
use crate::verify::VerifyError;

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

impl Failure {
    /// Of running a bundle; the tokens of a file are called by their place in it.
    pub fn of_run(error: Error, given: &Given, file: Option<&str>) -> Failure {
        match (&error, file) {
            (Error::Input(fault), Some(file)) => {
                let token = token_of_file(given, fault.rank, fault.token);
                Failure::Message(format!("{file}: token {token}: {}", fault.problem))
            }
            _ => Failure::Message(error.to_string()),
        }
    }

    /// Of running a bundle and judging it.
    pub fn of_verifying(error: VerifyError, given: &Given, file: Option<&str>) -> Failure {
        match error {
            VerifyError::Run(error) => Failure::of_run(error, given, file),
            VerifyError::Judge(error) => error.into(),
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
    crate::files::OutputError,
    crate::tensors::TensorError,
    moe_host::CompileError,
    moe_judge::GivenError,
    moe_judge::JudgeError,
    moe_planner::setting::OutOfRange,
    moe_runtime::DeviceError,
    moe_runtime::Error,
}
