//! What a caller in another language is told of an error: a kind to branch on, a code, its fields as JSON, a sentence.
//!
//! Invariant: the codes of the runtime's errors are the names of their variants, made by `serde`; none is written a second time here.

use std::path::PathBuf;

use moe_bundle::file::ReadError;
use moe_runtime::{DeviceError, Error};
use serde_json::{Value, json};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The runtime says so.
    #[error(transparent)]
    Runtime(#[from] Error),
    /// A file that is no bundle of this version.
    #[error("{}: {problem}", path.display())]
    Bundle {
        /// Which file.
        path: PathBuf,
        /// Why.
        problem: ReadError,
    },
    /// An argument that nothing can be done with.
    #[error("{argument}: {problem}")]
    Argument {
        /// Its name.
        argument: String,
        /// What is wrong, and what to pass.
        problem: String,
    },
    /// A panic, which is a bug of this library.
    #[error("this is a bug of moe: {message}")]
    Bug {
        /// What it says.
        message: String,
    },
}

/// The result of a call.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// What can be done about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The arguments were refused before anything was launched: pass others.
    Argument,
    /// Numbers of a tensor were refused by a kernel.
    Input,
    /// The file is no bundle that this library can use.
    Bundle,
    /// A rank did not come before the deadline, or cannot.
    Deadline,
    /// An error came before; `recover` makes the communicator usable again.
    Stopped,
    /// The device cannot, or a kernel did what it must not.
    Device,
    /// A bug.
    Bug,
}

impl Failure {
    /// That an argument cannot be used.
    pub fn argument(argument: impl Into<String>, problem: impl Into<String>) -> Failure {
        Failure::Argument { argument: argument.into(), problem: problem.into() }
    }

    /// What can be done about it.
    pub fn kind(&self) -> Kind {
        match self {
            Failure::Runtime(error) => kind_of(error),
            Failure::Bundle { .. } => Kind::Bundle,
            Failure::Argument { .. } => Kind::Argument,
            Failure::Bug { .. } => Kind::Bug,
        }
    }

    /// The same as data: `code`, `fields`, `message`.
    pub fn json(&self) -> Value {
        let (code, fields) = match self {
            Failure::Runtime(error) => innermost(error),
            Failure::Bundle { path, .. } => ("bundle".into(), json!({ "path": path.to_string_lossy() })),
            Failure::Argument { argument, problem } => {
                ("argument".into(), json!({ "argument": argument, "problem": problem }))
            }
            Failure::Bug { .. } => ("bug".into(), json!({})),
        };
        json!({ "code": code, "fields": fields, "message": self.to_string() })
    }
}

/// Code and fields; of an error that only holds another, those of that one.
fn innermost(error: &Error) -> (String, Value) {
    let mut data = serde_json::to_value(error).unwrap_or_default();
    while data["fields"]["code"].is_string() && data["fields"]["fields"].is_object() {
        data = data["fields"].take();
    }
    let code = data["code"].as_str().unwrap_or_default().to_owned();
    let fields = match data["fields"].take() {
        Value::Object(fields) => Value::Object(fields),
        Value::Null => json!({}),
        only => json!({ "value": only }),
    };
    (code, fields)
}

fn kind_of(error: &Error) -> Kind {
    match error {
        Error::Device(problem) | Error::Launch { problem, .. } | Error::Replay { problem, .. } => {
            kind_of_device(problem)
        }
        Error::NoTarget { .. } | Error::NoKernel(_) | Error::Residency { .. } => Kind::Bundle,
        Error::Ranks { .. }
        | Error::Parts { .. }
        | Error::Tokens { .. }
        | Error::Rows { .. }
        | Error::RowBytes { .. }
        | Error::Type { .. }
        | Error::RowWidth { .. }
        | Error::Alignment { .. }
        | Error::NoTensor { .. }
        | Error::Foreign { .. }
        | Error::NoSuchRanks { .. }
        | Error::NotMine { .. }
        | Error::Mismatch { .. }
        | Error::Owners { .. }
        | Error::RankTaken { .. }
        | Error::Crowded(_)
        | Error::ForeignStream { .. }
        | Error::MissingScales
        | Error::WrongTensor { .. }
        | Error::UnknownParameter { .. }
        | Error::MissingParameter { .. }
        | Error::ParameterShape { .. }
        | Error::NotPossible { .. } => Kind::Argument,
        Error::Input(_) => Kind::Input,
        Error::Deadline(_) | Error::Bootstrap(_) => Kind::Deadline,
        Error::UnknownStatus { .. } => Kind::Device,
        Error::Stopped { .. } | Error::Elsewhere { .. } => Kind::Stopped,
    }
}

fn kind_of_device(problem: &DeviceError) -> Kind {
    match problem {
        DeviceError::Deadlock { .. } | DeviceError::Gone { .. } => Kind::Deadline,
        DeviceError::NoDriver
        | DeviceError::NoGpu
        | DeviceError::NoPeerAccess { .. }
        | DeviceError::NoPeerAtomics { .. }
        | DeviceError::Queues { .. }
        | DeviceError::Driver { .. }
        | DeviceError::Refused { .. }
        | DeviceError::Ptx { .. }
        | DeviceError::NoKernel { .. }
        | DeviceError::Fault { .. }
        | DeviceError::Limit { .. }
        | DeviceError::StillRunning { .. }
        | DeviceError::Node { .. }
        | DeviceError::NoSharedMemory { .. }
        | DeviceError::Sharing { .. }
        | DeviceError::Unknown { .. } => Kind::Device,
    }
}
