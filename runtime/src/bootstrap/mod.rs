//! How the processes of a world find each other: an all-gather of bytes, and a barrier.
//!
//! Invariants: every process makes the same calls in the same order; a call ends with what all of them gave, or, within a time that the
//! bootstrap has, with an error that names who did not come. A trainer that has process groups of its own brings a [`Bootstrap`] over those.

mod tcp;
mod torchrun;

pub use tcp::TcpBootstrap;
pub use torchrun::Torchrun;

use std::time::Duration;

use serde::Serialize;

use crate::device::in_seconds;

/// The processes of a world, as one of them sees them.
pub trait Bootstrap: Send + Sync {
    /// Which one this is.
    fn process(&self) -> u32;

    /// How many there are.
    fn processes(&self) -> u32;

    /// What every process gave, in the order of processes. Waits for all of them.
    ///
    /// # Errors
    /// Who did not come.
    fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, BootstrapError>;

    /// Returns when every process has called it.
    ///
    /// # Errors
    /// Who did not come.
    fn barrier(&self) -> Result<(), BootstrapError> {
        self.all_gather(&[]).map(|_| ())
    }
}

/// A world in one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alone;

impl Bootstrap for Alone {
    fn process(&self) -> u32 {
        0
    }

    fn processes(&self) -> u32 {
        1
    }

    fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, BootstrapError> {
        Ok(vec![bytes.to_vec()])
    }
}

/// Why the processes of a world did not find each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize)]
#[serde(tag = "code", content = "fields", rename_all = "snake_case")]
pub enum BootstrapError {
    /// Processes that did not come.
    #[error("{} did not come within {patience:?}", list(processes))]
    Missing {
        /// Which ones.
        processes: Vec<u32>,
        /// How long they were waited for.
        #[serde(serialize_with = "in_seconds")]
        patience: Duration,
    },
    /// A process that was there and has ended.
    #[error("process {process} has ended, or closed its communicator")]
    Gone {
        /// Which one.
        process: u32,
    },
    /// What another process says.
    #[error("process {process} says: {problem}")]
    Elsewhere {
        /// Which one.
        process: u32,
        /// What.
        problem: String,
    },
    /// A process that is not of this world, or one that came twice.
    #[error("process {process} of {processes} came to a world of {expected}{}", if *twice { ", where there is one already" } else { "" })]
    Stranger {
        /// Which one it says it is.
        process: u32,
        /// Of how many.
        processes: u32,
        /// How many there are.
        expected: u32,
        /// Whether it was there already.
        twice: bool,
    },
    /// A network that does not do what it should.
    #[error("{doing}: {problem}")]
    Network {
        /// What was being done.
        doing: String,
        /// What went wrong.
        problem: String,
    },
    /// A variable of the environment.
    #[error("{name} in the environment {problem}; torchrun sets it, or set it yourself")]
    Variable {
        /// Its name.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Whatever a bootstrap of the caller has to say.
    #[error("{0}")]
    Other(String),
}

fn list(processes: &[u32]) -> String {
    let numbers: Vec<String> = processes.iter().map(u32::to_string).collect();
    format!("{} {}", if processes.len() == 1 { "process" } else { "processes" }, numbers.join(", "))
}
