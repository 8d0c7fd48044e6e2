//! What a kernel leaves in [`crate::Buffer::Status`]: a code and three words.

use crate::memory::Flag;

/// The code where there is no error.
pub const FINE: u64 = 0;
/// The code that the host writes, beside whatever runs, so that kernels which wait give up.
pub const STOPPED: u64 = 8;

/// Numbers of the caller that a kernel refuses. The three words are said with each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A NaN in the gate: token, expert (or all ones when it is not in the logits), unused.
    GateNan,
    /// A pick is not an expert: token, pick position, the value as u32.
    PickOutOfRange,
    /// A token picks an expert twice: token, pick position of the second, the value.
    PickTwice,
    /// A token id without a row in the gate's table: token, rows of the table, the id as u32.
    TokenIdOutOfRange,
}

impl Fault {
    /// Every fault once.
    pub const ALL: [Fault; 4] = [Fault::GateNan, Fault::PickOutOfRange, Fault::PickTwice, Fault::TokenIdOutOfRange];

    /// The first word of the status.
    pub fn code(self) -> u64 {
        match self {
            Fault::GateNan => 1,
            Fault::PickOutOfRange => 2,
            Fault::PickTwice => 3,
            Fault::TokenIdOutOfRange => 4,
        }
    }
}

/// The meaning of a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// No error: [`FINE`].
    Fine,
    /// The host gave the call up: [`STOPPED`].
    Stopped,
    /// Numbers of the caller.
    Fault(Fault),
    /// The deadline of a wait has passed: source rank, expected, found.
    Deadline(Flag),
}

impl Status {
    /// From the first word; `None` for a code that nobody writes.
    pub fn of(code: u64) -> Option<Status> {
        let fault = || Fault::ALL.into_iter().find(|fault| fault.code() == code).map(Status::Fault);
        let deadline = || Flag::ALL.into_iter().find(|flag| flag.deadline_code() == code).map(Status::Deadline);
        match code {
            FINE => Some(Status::Fine),
            STOPPED => Some(Status::Stopped),
            _ => fault().or_else(deadline),
        }
    }
}
