//! Everything that can go wrong between a caller and a device, as data; each message says what to change.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use moe_contract::{Fault, Flag, Kernel, RankId, Status};
use serde::{Serialize, Serializer};

use crate::bootstrap::BootstrapError;
use crate::device::{Crowd, DeviceError, StreamId, Waiting};

/// Why a call of the runtime failed. As data for other languages: the name of the variant is its code, beside its fields.
#[derive(Clone, Debug, PartialEq, thiserror::Error, Serialize)]
#[serde(tag = "code", content = "fields", rename_all = "snake_case")]
#[allow(missing_docs, reason = "the message says what each field is")]
pub enum Error {
    /// The device itself.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The processes of the world did not find each other.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// Processes that do not have the same.
    #[error("the {what} of {} is {}, and that of {} is {}", ranks[0], values[0], ranks[1], values[1])]
    Mismatch {
        /// Of what.
        what: &'static str,
        /// The first rank of each of two processes.
        ranks: [RankId; 2],
        /// What each has.
        values: [String; 2],
    },
    /// A rank that is of no process, or of several.
    #[error("{rank} is of {}: each needs a process of its own", processes_named(processes))]
    Owners {
        /// Which.
        rank: RankId,
        /// Those that say it is theirs.
        processes: Vec<u32>,
    },
    /// What went wrong in another process.
    #[error("stopped by the process of {rank}: {cause}")]
    Elsewhere {
        /// The first rank of that process.
        rank: RankId,
        /// What it says.
        cause: String,
    },
    /// Ranks of another process.
    #[error("{rank} is of another process; this one has ranks {} to {}", mine.start, i64::from(mine.end) - 1)]
    NotMine {
        /// What was asked for.
        rank: RankId,
        /// What this process has.
        mine: Range<u32>,
    },
    /// The bundle was compiled for other GPUs.
    #[error("the bundle has kernels for {bundle}, none of which runs on {device}: build it with `--target`")]
    NoTarget { bundle: String, device: String },
    /// The bundle was planned for another number of ranks.
    #[error("the bundle is for {bundle} ranks, the device has {device}")]
    Ranks {
        /// Of the plan.
        bundle: u32,
        device: u32,
    },
    /// The bundle was compiled without a kernel that the call needs.
    #[error("the bundle has no kernel `{}`", .0.name())]
    NoKernel(Kernel),
    /// Waiting CTAs would keep the senders that they wait for off the GPU.
    #[error(
        "too many ranks for one GPU: kernel `{}` waits with {per_rank} CTAs on each of {ranks} ranks, and the GPU holds {resident} \
         of them at once; use fewer ranks, more GPUs, or a plan with fewer CTAs", kernel.name()
    )]
    Residency {
        /// The kernel that waits.
        kernel: Kernel,
        /// Its CTAs on one rank.
        per_rank: u32,
        /// Ranks that share the GPU.
        ranks: u32,
        /// CTAs of it that the GPU holds.
        resident: u64,
    },
    /// Communicators whose waiting CTAs would together keep each other's senders off a GPU.
    #[error(
        "too many communicators on GPU {}, which holds {} CTAs at once: {}; let them share streams, drop one, or use plans with fewer CTAs",
        .0.gpu, .0.resident, crowd(&.0.waiting)
    )]
    Crowded(Crowd),
    /// A call needs one of something for each rank.
    #[error("{what}: {found} for {ranks} ranks, each of which needs its own")]
    Parts {
        /// Of what.
        what: String,
        found: usize,
        /// Ranks of the communicator.
        ranks: u32,
    },
    /// More tokens than were planned for.
    #[error("{rank}: {tokens} tokens, but the bundle was built for at most {most} per rank and call")]
    Tokens {
        rank: RankId,
        tokens: u64,
        /// The plan's limit.
        most: u32,
    },
    /// A tensor with a row too many or too few.
    #[error("{rank}: {what} has {found} rows; it must have {expected}")]
    Rows {
        rank: RankId,
        /// Which tensor.
        what: String,
        /// Its rows.
        found: u64,
        /// Rows it should have.
        expected: u64,
    },
    /// A tensor that does not consist of rows of the right length.
    #[error("{rank}: {what} has {found} bytes, which are not rows of {row} bytes")]
    RowBytes {
        rank: RankId,
        /// Which tensor.
        what: String,
        /// Its bytes.
        found: u64,
        /// Bytes of a row.
        row: u64,
    },
    /// Numbers of another type than the tensor's.
    #[error("{what} of {found} were passed, and this bundle has them in {expected}")]
    Type {
        /// Which tensor.
        what: &'static str,
        found: &'static str,
        /// Of the bundle.
        expected: &'static str,
    },
    /// A tensor with rows of another width.
    #[error("{what} has rows of {found} bytes; this bundle has rows of {expected}")]
    RowWidth {
        /// Which tensor.
        what: &'static str,
        found: u64,
        /// Of the bundle.
        expected: u64,
    },
    /// An address that kernels cannot read in 16-byte words.
    #[error("{rank}: {what} begin at {address:#x}, which is not a multiple of 16")]
    Alignment {
        rank: RankId,
        /// Which tensor.
        what: &'static str,
        /// Where it begins.
        address: u64,
    },
    /// A tensor that no call of this bundle has.
    #[error("this bundle has no {what}: {why}")]
    NoTensor { what: &'static str, why: &'static str },
    /// A handle, tensor or capture that belongs elsewhere.
    #[error("{what} cannot be used here: {why}")]
    Foreign {
        what: &'static str,
        /// Where it belongs.
        why: &'static str,
    },
    /// Ranks that a world has not got.
    #[error("ranks {first} to {} of a world of {ranks}", i64::from(*end) - 1)]
    NoSuchRanks {
        /// The first that was asked for.
        first: u32,
        /// The one behind the last.
        end: u32,
        /// Of the world.
        ranks: u32,
    },
    /// A rank that two communicators want.
    #[error("{rank} has a communicator already: drop that one first")]
    RankTaken { rank: RankId },
    /// A stream of another rank, or of none.
    #[error("stream {} is no stream of {rank}", .stream.0)]
    ForeignStream {
        stream: StreamId,
        /// Whose it should be.
        rank: RankId,
    },
    /// A launch that the device did not take.
    #[error("{rank}: kernel `{}` cannot be launched: {problem}", kernel.name())]
    Launch { rank: RankId, kernel: Kernel, problem: DeviceError },
    /// Captured calls that the device did not take.
    #[error("{rank}: captured calls cannot be launched: {problem}")]
    Replay { rank: RankId, problem: DeviceError },
    /// Rows of a format with scales, without those.
    #[error("the experts' input has scales in this bundle, and needs a tensor for them")]
    MissingScales,
    /// A tensor in a place where another is needed.
    #[error("{found} were passed where {expected} are needed")]
    WrongTensor { found: &'static str, expected: &'static str },
    /// A parameter that the gate has not got.
    #[error("the gate has no parameter `{name}`; it has {}", list(known))]
    UnknownParameter {
        name: String,
        /// What the gate has.
        known: Vec<String>,
    },
    /// A parameter that was not passed.
    #[error("the gate needs the parameter `{name}`")]
    MissingParameter { name: String },
    /// A parameter of the wrong size or type.
    #[error("the gate's parameter `{name}` has {found}; it must have {expected}")]
    ParameterShape { name: String, found: String, expected: String },
    /// A call that has no meaning for the exchange of this bundle.
    #[error("{what} is not possible: {why}")]
    NotPossible { what: &'static str, why: &'static str },
    /// Numbers that a kernel refused.
    #[error(transparent)]
    Input(#[from] InputFault),
    /// A wait that took too long.
    #[error(transparent)]
    Deadline(#[from] Stuck),
    /// A status that no kernel of this version writes.
    #[error("{rank}: a kernel left the status {words:x?}, which this program does not know")]
    UnknownStatus {
        rank: RankId,
        /// The four words.
        words: [u64; 4],
    },
    /// A call after an error.
    #[error("the communicator stopped after an error; `recover` makes it usable again. The error was: {cause}")]
    Stopped { cause: Box<Error> },
}

/// The result of a call of the runtime.
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { format!("`{}`", names.join("`, `")) }
}

fn processes_named(processes: &[u32]) -> String {
    let numbers: Vec<String> = processes.iter().map(u32::to_string).collect();
    if numbers.is_empty() { "no process".into() } else { format!("processes {}", numbers.join(", ")) }
}

fn crowd(waiting: &[Waiting]) -> String {
    let one = |Waiting { world, rank, kernel, ctas, .. }: &Waiting| {
        format!("{rank} of world {world} waits with {ctas} in kernel `{}`", kernel.name())
    };
    waiting.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Numbers of one token that a kernel refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize)]
#[error("{rank}, token {token}: {problem}")]
pub struct InputFault {
    /// Whose token.
    pub rank: RankId,
    /// Counted within its rank.
    pub token: u64,
    /// The fault of its picks.
    pub problem: InputProblem,
}

/// What is wrong with a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the message says what each field is")]
pub enum InputProblem {
    /// A NaN in the gate, at an expert's logit when it is known which.
    Nan { expert: Option<u64> },
    /// A pick that is not an expert.
    PickOutOfRange {
        /// Which pick of the token.
        position: u64,
        value: i32,
    },
    /// An expert that the token picks a second time.
    PickTwice {
        /// Which pick of the token.
        position: u64,
        expert: i32,
    },
    /// A token id without a row in the gate's table.
    TokenId {
        /// Rows of the table.
        rows: u64,
        /// The token id.
        id: i32,
    },
}

impl fmt::Display for InputProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InputProblem::Nan { expert: Some(expert) } => write!(formatter, "the logit of expert {expert} is NaN"),
            InputProblem::Nan { expert: None } => write!(formatter, "the gate computes a NaN"),
            InputProblem::PickOutOfRange { position, value } => {
                write!(formatter, "pick {position} is {value}, which is not an expert")
            }
            InputProblem::PickTwice { position, expert } => {
                write!(formatter, "pick {position} is expert {expert}, which the token has picked before")
            }
            InputProblem::TokenId { rows, id } => {
                write!(formatter, "the token id is {id}, and the gate's table has {rows} rows")
            }
        }
    }
}

/// One rank that waited for another too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Wait {
    /// Who waited.
    pub rank: RankId,
    /// The flag that did not come.
    pub flag: Flag,
    /// The rank that should have raised it.
    pub culprit: RankId,
    /// The flag that would have been enough.
    pub expected: u64,
    /// The flag that was there.
    pub found: u64,
    /// Steps that a flag takes in one call.
    pub per_call: u64,
}

impl fmt::Display for Wait {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Earlier calls are of no interest to a reader: of this call's steps, so many have come.
        let missing = self.expected.saturating_sub(self.found);
        let has = self.per_call.saturating_sub(missing);
        let (rank, phase, culprit) = (self.rank, self.flag.name(), self.culprit);
        write!(formatter, "{rank}, {phase}, waits for {culprit}: has {has} of {}", self.per_call)?;
        if missing > self.per_call {
            write!(formatter, ", and {} of earlier calls are missing", missing - self.per_call)?;
        }
        Ok(())
    }
}

/// Ranks that waited too long; at least one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stuck {
    /// Every rank that gave up, ascending.
    pub waits: Vec<Wait>,
    /// How long they waited.
    #[serde(serialize_with = "in_seconds")]
    pub deadline: Option<Duration>,
}

#[expect(clippy::ref_option, reason = "serde passes it so")]
fn in_seconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs_f64()).serialize(serializer)
}

impl std::error::Error for Stuck {}

impl fmt::Display for Stuck {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.waits.first() else { return Ok(()) };
        write!(formatter, "{first}")?;
        if let Some(deadline) = self.deadline {
            write!(formatter, " after {deadline:?}")?;
        }
        match self.waits.len() - 1 {
            0 => Ok(()),
            1 => write!(formatter, "; 1 other rank waits too"),
            others => write!(formatter, "; {others} other ranks wait too"),
        }
    }
}

/// The meaning of a rank's status words; `None` when all is well. `per_call` is the steps of a flag in one call.
pub(crate) fn read_status(rank: RankId, words: [u64; 4], per_call: impl Fn(Flag) -> u64) -> Option<Failure> {
    let [code, who, expected, found] = words;
    let input = |problem| Failure::Input(InputFault { rank, token: who, problem });
    let value = found as u32 as i32;
    Some(match Status::of(code) {
        // Why the host stopped a rank is known to the host.
        Some(Status::Fine | Status::Stopped) => return None,
        Some(Status::Fault(Fault::GateNan)) => {
            input(InputProblem::Nan { expert: (expected != u64::MAX).then_some(expected) })
        }
        Some(Status::Fault(Fault::PickOutOfRange)) => input(InputProblem::PickOutOfRange { position: expected, value }),
        Some(Status::Fault(Fault::PickTwice)) => input(InputProblem::PickTwice { position: expected, expert: value }),
        Some(Status::Fault(Fault::TokenIdOutOfRange)) => input(InputProblem::TokenId { rows: expected, id: value }),
        Some(Status::Deadline(flag)) => {
            let culprit = RankId(who as u32);
            Failure::Wait(Wait { rank, flag, culprit, expected, found, per_call: per_call(flag) })
        }
        None => Failure::Unknown(rank, words),
    })
}

/// What one rank's status says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The caller's numbers.
    Input(InputFault),
    Wait(Wait),
    /// Neither.
    Unknown(RankId, [u64; 4]),
}

/// One error from the status of all ranks and what the device says. Wrong numbers come first: a rank that refuses them does not send, and
/// what the others then say is a consequence.
pub(crate) fn diagnose(failures: &[Failure], device: Option<DeviceError>, deadline: Option<Duration>) -> Result<()> {
    let inputs = failures.iter().filter_map(|failure| match failure {
        Failure::Input(fault) => Some(*fault),
        _ => None,
    });
    if let Some(fault) = inputs.min_by_key(|fault| fault.rank) {
        return Err(fault.into());
    }
    for failure in failures {
        if let Failure::Unknown(rank, words) = *failure {
            return Err(Error::UnknownStatus { rank, words });
        }
    }
    let waits: Vec<Wait> = failures
        .iter()
        .filter_map(|failure| match failure {
            Failure::Wait(wait) => Some(*wait),
            _ => None,
        })
        .collect();
    match device {
        // A fault is a bug of a kernel, and the waits are its consequence.
        Some(fault @ DeviceError::Fault { .. }) => Err(fault.into()),
        _ if !waits.is_empty() => Err(Stuck { waits, deadline }.into()),
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PER_CALL: fn(Flag) -> u64 = |_| 4;

    fn failure(rank: u32, words: [u64; 4]) -> Failure {
        read_status(RankId(rank), words, PER_CALL).expect("a failure")
    }

    #[test]
    fn a_deadline_names_who_waits_for_whom() {
        let failures = [failure(3, [Flag::Dispatch.deadline_code(), 5, 12, 10])];
        let error = diagnose(&failures, None, Some(Duration::from_secs(10))).expect_err("stuck");
        assert_eq!(error.to_string(), "rank 3, dispatch.arrive, waits for rank 5: has 2 of 4 after 10s");
        let failures = [failures[0], failure(4, [Flag::Combine.deadline_code(), 5, 12, 0])];
        let error = diagnose(&failures, None, None).expect_err("stuck");
        assert_eq!(error.to_string(), "rank 3, dispatch.arrive, waits for rank 5: has 2 of 4; 1 other rank waits too");
        let late = failure(4, [Flag::Barrier.deadline_code(), 5, 12, 0]);
        let error = diagnose(&[late], None, None).expect_err("stuck");
        assert_eq!(
            error.to_string(),
            "rank 4, barrier.arrive, waits for rank 5: has 0 of 4, and 8 of earlier calls are missing"
        );
    }

    #[test]
    fn wrong_numbers_come_before_their_consequences() {
        let wait = failure(0, [Flag::Dispatch.deadline_code(), 2, 4, 0]);
        let twice = failure(2, [Fault::PickTwice.code(), 7, 1, 9]);
        let deadlock = DeviceError::Deadlock { report: "all wait".into() };
        let error = diagnose(&[wait, twice], Some(deadlock.clone()), None).expect_err("wrong");
        assert_eq!(error.to_string(), "rank 2, token 7: pick 1 is expert 9, which the token has picked before");
        let error = diagnose(&[], Some(deadlock), None).expect_err("wrong");
        assert_eq!(error.to_string(), "all wait");
    }

    #[test]
    fn every_status_has_its_words() {
        let text = |words| match failure(1, words) {
            Failure::Input(fault) => fault.to_string(),
            other => format!("{other:?}"),
        };
        assert_eq!(text([Fault::GateNan.code(), 3, 17, 0]), "rank 1, token 3: the logit of expert 17 is NaN");
        assert_eq!(text([Fault::GateNan.code(), 3, u64::MAX, 0]), "rank 1, token 3: the gate computes a NaN");
        assert_eq!(
            text([Fault::PickOutOfRange.code(), 3, 0, 0xffff_fffe]),
            "rank 1, token 3: pick 0 is -2, which is not an expert"
        );
        assert_eq!(read_status(RankId(1), [0; 4], PER_CALL), None);
        let error = diagnose(&[failure(1, [99, 1, 2, 3])], None, None).expect_err("unknown");
        assert_eq!(error, Error::UnknownStatus { rank: RankId(1), words: [99, 1, 2, 3] });
    }
}
