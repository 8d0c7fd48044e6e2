//! What a run tells: figures when it went well, otherwise who did what where. Everything is data; `Display` renders it.

use crate::config::Policy;
use crate::ids::RankId;
use crate::ids::{EventId, LaunchId, StreamId};
use crate::memory::{Address, MemoryFault};
use crate::names::demangled;
use crate::rules::Rule;

/// Figures of a run that went well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Launches that finished.
    pub launches: u64,
    /// CTAs that ran.
    pub ctas: u64,
    /// Warp instructions executed: one per instruction and group of lanes that execute it together.
    pub instructions: u64,
    /// Virtual time that passed.
    pub nanoseconds: u64,
}

/// How the run was scheduled: with it, it can be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Policy of the run.
    pub policy: Policy,
    /// Seed of the run.
    pub seed: u64,
}

impl std::fmt::Display for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "schedule: {}, seed {}", self.policy, self.seed)
    }
}

/// Why a run ended early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunError {
    /// A thread did what it must not do.
    Fault(Box<Fault>),
    /// Everything waits for what never comes.
    Deadlock(Box<Deadlock>),
    /// The instruction limit was reached.
    Limit(Box<Limit>),
    /// The host's time is over, see [`crate::Cluster::stop_at`].
    Time(Box<Limit>),
}

/// Where a group of lanes is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Rank whose kernel this is.
    pub rank: RankId,
    pub kernel: String,
    pub launch: LaunchId,
    /// CTA along x, y and z.
    pub cta: [u32; 3],
    /// Warp in its CTA.
    pub warp: u32,
    pub lanes: u32,
    /// Line in the PTX text.
    pub line: u32,
    /// File and line in the source, if the PTX says it.
    pub source: Option<String>,
    /// Instruction without operands.
    pub instruction: String,
}

impl std::fmt::Display for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Site { rank, kernel, cta: [x, y, z], warp, lanes, line, instruction, source, .. } = self;
        write!(f, "{rank}, kernel `{}`, CTA ", demangled(kernel))?;
        match (y, z) {
            (0, 0) => write!(f, "{x}")?,
            _ => write!(f, "({x}, {y}, {z})")?,
        }
        write!(f, ", warp {warp}, ")?;
        match lanes.count_ones() {
            1 => write!(f, "lane {}", lanes.trailing_zeros())?,
            _ => write!(f, "lanes {}", LaneSet(*lanes))?,
        }
        match source {
            Some(source) => write!(f, ", line {line} ({source}): {instruction}"),
            None => write!(f, ", line {line}: {instruction}"),
        }
    }
}

/// Lanes as ranges: `0-3, 7`.
struct LaneSet(u32);

impl std::fmt::Display for LaneSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut lane = 0;
        let mut first = true;
        while lane < 32 {
            if self.0 >> lane & 1 == 0 {
                lane += 1;
                continue;
            }
            let run = (self.0 >> lane).trailing_ones();
            if !std::mem::take(&mut first) {
                f.write_str(", ")?;
            }
            match run {
                1 => write!(f, "{lane}")?,
                _ => write!(f, "{lane}-{}", lane + run - 1)?,
            }
            lane += run;
        }
        Ok(())
    }
}

/// What a thread did wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// A memory access that is wrong.
    Memory {
        /// As the thread computed it.
        address: Address,
        /// Bytes of the access.
        bytes: u32,
        fault: MemoryFault,
    },
    /// Something that PTX leaves undefined.
    Undefined(String),
    /// A `trap` instruction.
    Trap,
    /// A failed assertion, with its text.
    Assertion(String),
}

/// A thread did what it must not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Who and where; one lane.
    pub site: Site,
    /// Thread index along x, y and z.
    pub thread: [u32; 3],
    pub kind: FaultKind,
    /// How to repeat it.
    pub schedule: Schedule,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.kind {
            FaultKind::Memory { address, bytes, fault } => {
                writeln!(f, "{fault}")?;
                writeln!(f, "  access: {bytes} bytes at {address}")?;
            }
            FaultKind::Undefined(what) => writeln!(f, "{what}")?,
            FaultKind::Trap => writeln!(f, "trap")?,
            FaultKind::Assertion(text) => writeln!(f, "assertion failed: {text}")?,
        }
        let [x, y, z] = self.thread;
        writeln!(f, "  by: {}", self.site)?;
        writeln!(f, "  thread: ({x}, {y}, {z})")?;
        write!(f, "  {}", self.schedule)
    }
}

/// Something that did not end the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked for.
    pub rule: Rule,
    /// Who and where, the first time.
    pub site: Site,
    /// What was found.
    pub text: String,
    /// Why it is accepted; otherwise it is a warning.
    pub waived: Option<String>,
    /// How often it was found at this line.
    pub times: u64,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.waived {
            None => writeln!(f, "warning: {}", self.text)?,
            Some(reason) => writeln!(f, "accepted ({reason}): {}", self.text)?,
        }
        write!(f, "  by: {}", self.site)?;
        match self.times {
            1 => Ok(()),
            times => write!(f, "\n  {times} times"),
        }
    }
}

/// A place in memory that somebody polls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Polled {
    /// Name of the place.
    pub symbol: String,
    /// Value found there, zero-extended; its first 8 bytes if it is wider.
    pub found: u64,
    /// Comparison of the value in the loop, and what it is compared with.
    pub compared: Option<(String, u64)>,
    /// Rank that should write it, as the host labelled it.
    pub writer: Option<RankId>,
    /// What is there, in words, if it is an mbarrier.
    pub mbarrier: Option<String>,
}

impl std::fmt::Display for Polled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(mbarrier) = &self.mbarrier {
            return write!(f, "the mbarrier {}: {mbarrier}", self.symbol);
        }
        // A comparison of signed numbers is told in signed numbers.
        let form = self.compared.as_ref().map_or("", |(comparison, _)| comparison);
        let number = |value: u64| match form.rsplit('.').next() {
            Some("s32") => (value as u32).cast_signed().to_string(),
            Some("s64") => value.cast_signed().to_string(),
            _ => value.to_string(),
        };
        write!(f, "{}: found {}", self.symbol, number(self.found))?;
        if let Some((comparison, value)) = &self.compared {
            write!(f, ", {comparison} with {}", number(*value))?;
        }
        match self.writer {
            Some(writer) => write!(f, "; to be written by {writer}"),
            None => Ok(()),
        }
    }
}

/// What a group of lanes waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitReason {
    /// A loop that ends when one of these places changes.
    Memory(Vec<Polled>),
    /// A loop that reads no memory and changes nothing.
    Nothing,
    /// The other members of a warp instruction.
    Members {
        /// Members.
        expected: u32,
        /// Members that wait there.
        present: u32,
    },
    /// A CTA barrier.
    Barrier {
        number: u32,
        /// Threads that it needs.
        expected: u32,
        /// Threads that have arrived.
        arrived: u32,
    },
    /// The barrier of a cluster of CTAs.
    Cluster {
        /// Threads of the cluster that have not exited.
        expected: u32,
        /// Threads that have arrived.
        arrived: u32,
        /// CTAs of the grid of which some have not.
        missing: Vec<u32>,
    },
    /// Asynchronous copies.
    Copies,
    /// The end of the launch before its own in the stream.
    Grid { kernel: String, launch: LaunchId },
    /// A turn: it could go on (only in a report of the instruction limit).
    Turn,
}

impl std::fmt::Display for WaitReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN: usize = 8;
        match self {
            WaitReason::Memory(places) => {
                f.write_str("polls ")?;
                for (index, place) in places.iter().take(SHOWN).enumerate() {
                    if index > 0 {
                        f.write_str("\n        and ")?;
                    }
                    write!(f, "{place}")?;
                }
                match places.len().saturating_sub(SHOWN) {
                    0 => Ok(()),
                    more => write!(f, "\n        and {more} more"),
                }
            }
            WaitReason::Nothing => f.write_str("is in a loop that never ends: it reads no memory and changes nothing"),
            WaitReason::Members { expected, present } => write!(
                f,
                "waits for lanes {} of its warp, lanes {} are there",
                LaneSet(expected & !present),
                LaneSet(*present)
            ),
            WaitReason::Barrier { number, expected, arrived } => {
                write!(f, "waits at barrier {number}: {arrived} of {expected} threads have arrived")
            }
            WaitReason::Cluster { expected, arrived, missing } => {
                const SHOWN: usize = 16;
                let ctas: Vec<String> = missing.iter().take(SHOWN).map(u32::to_string).collect();
                write!(f, "waits at the barrier of its cluster: {arrived} of {expected} threads have arrived")?;
                match missing.len() {
                    0 => Ok(()),
                    1 => write!(f, ", not all of CTA {}", ctas[0]),
                    count if count > SHOWN => write!(f, ", not all of CTAs {} and more", ctas.join(", ")),
                    _ => write!(f, ", not all of CTAs {}", ctas.join(", ")),
                }
            }
            WaitReason::Copies => f.write_str("waits for asynchronous copies"),
            WaitReason::Grid { kernel, launch } => {
                write!(f, "waits for the end of `{kernel}` (launch {}), which is before it in its stream", launch.0)
            }
            WaitReason::Turn => f.write_str("goes on"),
        }
    }
}

/// A group of lanes that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub site: Site,
    pub reason: WaitReason,
}

/// CTAs or launches that have not started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotStarted {
    /// CTAs that wait for a place on an SM.
    Ctas {
        rank: RankId,
        kernel: String,
        launch: LaunchId,
        /// How many have not started.
        waiting: u32,
        grid: u32,
    },
    /// A launch behind an event that nobody has reached.
    Stream { rank: RankId, stream: StreamId, event: EventId },
}

impl std::fmt::Display for NotStarted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NotStarted::Ctas { rank, kernel, waiting, grid, .. } => write!(
                f,
                "{rank}, kernel `{}`: {waiting} of {grid} CTAs wait for a place on an SM; they start when others finish",
                demangled(kernel)
            ),
            NotStarted::Stream { rank, stream, event } => {
                write!(f, "{rank}, stream {}: waits for event {}, which has not been reached", stream.0, event.0)
            }
        }
    }
}

/// Nothing can go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deadlock {
    /// Every group of lanes that waits: those that poll memory first.
    pub waiting: Vec<Waiting>,
    pub not_started: Vec<NotStarted>,
    /// How to repeat it.
    pub schedule: Schedule,
}

/// A launch that had begun and not finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    pub rank: RankId,
    pub kernel: String,
    pub launch: LaunchId,
    /// CTAs that have finished.
    pub finished: u32,
    /// CTAs of the grid.
    pub grid: u32,
}

impl std::fmt::Display for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Running { rank, kernel, finished, grid, .. } = self;
        write!(f, "{rank}, kernel `{}`: {finished} of {grid} CTAs have finished", demangled(kernel))
    }
}

/// A run took more instructions than the configuration allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// Warp instructions that it allows.
    pub instructions: u64,
    pub running: Vec<Running>,
    /// Where everybody was. Some may have waited, but not all of them did.
    pub state: Deadlock,
}

impl Deadlock {
    fn body(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN: usize = 24;
        // Groups that differ only in where they are tell the same story: it is told once.
        let mut told: Vec<(&Waiting, usize)> = Vec::new();
        for waiting in &self.waiting {
            let same = told.iter_mut().find(|(other, _)| {
                let (a, b) = (&other.site, &waiting.site);
                a.rank == b.rank && a.launch == b.launch && a.line == b.line && other.reason == waiting.reason
            });
            match same {
                Some((_, count)) => *count += 1,
                None => told.push((waiting, 1)),
            }
        }
        for (waiting, count) in told.iter().take(SHOWN) {
            writeln!(f, "  {}", waiting.site)?;
            writeln!(f, "    {}", waiting.reason)?;
            if *count > 1 {
                writeln!(f, "    so do other groups of lanes of this launch: {}", count - 1)?;
            }
        }
        if told.len() > SHOWN {
            writeln!(f, "  and {} more", told.len() - SHOWN)?;
        }
        for not_started in self.not_started.iter().take(SHOWN) {
            writeln!(f, "  {not_started}")?;
        }
        write!(f, "  {}", self.schedule)
    }
}

impl std::fmt::Display for RunError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RunError::Fault(fault) => write!(f, "{fault}"),
            RunError::Deadlock(deadlock) => {
                writeln!(f, "deadlock: everything waits, and nothing is under way that could end it")?;
                deadlock.body(f)
            }
            RunError::Limit(limit) | RunError::Time(limit) => {
                let Limit { instructions, running, state } = &**limit;
                match self {
                    RunError::Time(_) => writeln!(f, "no end before the time that the host allows is over")?,
                    _ => writeln!(f, "no end after {instructions} warp instructions, the most that a run may take")?,
                }
                for launch in running {
                    writeln!(f, "  still running: {launch}")?;
                }
                state.body(f)
            }
        }
    }
}

impl std::error::Error for RunError {}
