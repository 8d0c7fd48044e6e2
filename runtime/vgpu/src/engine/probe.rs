//! Finds loops that only wait. A warp whose lanes return to the same instruction with the same registers, having changed
//! nothing that others can see, does the same for ever unless a location that it read changes. Brent's algorithm finds
//! such a return with one snapshot: it is taken at 8, 16, 32 … backward branches without an effect, and compared with at
//! every later one, so that nested polling loops are found too. What a round reads is written down only after the state has
//! returned once, in the round that follows: a loop that makes progress never pays for it.
//!
//! If others ran during the round, they may have written a place after it was read. Then the places are watched first, and
//! the loop waits when another such round has seen none of them written.
//!
//! Clocks would make every round different; they stand still for the warp between every other pair of snapshots. A loop that read one is
//! woken by time as well.

use super::warp::Warp;
use crate::semantics::lanes::Row;

const FIRST: u32 = 8;
const MOST_READS: usize = 8192;
/// First wait of a loop that reads a clock, as a power of two of nanoseconds.
const FIRST_PATIENCE: u32 = 10;
/// After the wait of 2^60 ns time does not change the loop's mind.
const LAST_PATIENCE: u32 = 60;

/// A location that a loop reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Watch {
    /// Device memory, or shared memory of the CTA.
    pub device: bool,
    /// Address or shared offset.
    pub start: u64,
    pub bytes: u32,
    /// Bytes of one lane's read.
    pub element: u32,
    /// Step that read it.
    pub pc: u32,
    /// Lane that read the first element.
    pub lane: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Probe {
    /// Backward branches since the last effect.
    edges: u32,
    effects: u64,
    next_snapshot: u32,
    pc: u32,
    mask: u32,
    file: Vec<Row>,
    predicates: Vec<u32>,
    /// Where the last comparison failed: the place that most likely differs again.
    different: usize,
    /// The warp's state is compared with the snapshot, and clocks stand still.
    pub comparing: bool,
    /// The state has returned to the snapshot, and what the warp reads since then is written down.
    pub recording: bool,
    pub reads: Vec<Watch>,
    overflow: bool,
    /// Clock reading since the round began.
    pub clock: Option<u64>,
    pub time: u64,
    renew_time: bool,
    patience: u32,
    parked_effects: u64,
    /// The watches of parked splits: ticket and locations.
    pub parked: Vec<(u64, Vec<Watch>)>,
    /// What is watched before a loop may wait.
    pub armed: Option<(u64, Vec<Watch>)>,
    /// Turn of the warp in which the round began.
    turn: u32,
}

/// A loop that waits.
pub(crate) struct Park {
    /// What a round reads, in ascending order.
    pub reads: Vec<Watch>,
    pub reads_clock: bool,
    /// Nobody else ran during the round.
    pub alone: bool,
}

impl Probe {
    /// As new, keeping the memory of its buffers.
    pub fn clear(&mut self) {
        self.edges = 0;
        self.effects = 0;
        self.comparing = false;
        self.recording = false;
        self.reads.clear();
        self.clock = None;
        self.patience = 0;
        self.parked_effects = 0;
        self.parked.clear();
        self.armed = None;
    }

    fn begin_round(&mut self, turn: u32) {
        self.turn = turn;
        self.overflow = false;
        self.reads.clear();
        self.clock = None;
    }

    #[inline]
    pub fn read(&mut self, watch: Watch) {
        if self.recording && self.reads.last() != Some(&watch) {
            self.record(watch);
        }
    }

    #[cold]
    fn record(&mut self, watch: Watch) {
        const RECENT: usize = 64;
        if self.reads.iter().rev().take(RECENT).any(|other| *other == watch) {
            return;
        }
        if self.reads.len() == MOST_READS {
            self.overflow = true;
            self.comparing = false;
            self.recording = false;
            return;
        }
        self.reads.push(watch);
    }
}

impl Warp {
    /// A backward branch of some lanes to `pc`, at virtual time `now`. The loop if it only waits.
    #[inline]
    pub fn backward_branch(&mut self, pc: u32, mask: u32, now: u64) -> Option<Park> {
        let probe = &mut *self.probe;
        if probe.effects != self.effects {
            probe.effects = self.effects;
            probe.edges = 1;
            probe.comparing = false;
            probe.recording = false;
            probe.clock = None;
            return None;
        }
        probe.edges = probe.edges.saturating_add(1);
        if probe.edges < FIRST {
            return None;
        }
        self.probe_round(pc, mask, now)
    }

    /// How long a loop that reads a clock waits before it looks at it again: twice as long as the last time, if nothing
    /// has happened since.
    pub fn next_patience(&mut self) -> Option<u64> {
        let probe = &mut *self.probe;
        if probe.parked_effects != self.effects || probe.patience < FIRST_PATIENCE {
            probe.patience = FIRST_PATIENCE;
        } else {
            probe.patience += 1;
        }
        probe.parked_effects = self.effects;
        (probe.patience <= LAST_PATIENCE).then(|| 1 << probe.patience)
    }

    fn probe_round(&mut self, pc: u32, mask: u32, now: u64) -> Option<Park> {
        let probe = &mut *self.probe;
        if probe.edges > FIRST && probe.edges < probe.next_snapshot {
            if probe.pc != pc || probe.mask != mask || probe.overflow {
                return None;
            }
            if self.file.rows().get(probe.different) != probe.file.get(probe.different) {
                return None;
            }
            if let Some(at) = self.file.rows().iter().zip(&probe.file).position(|(a, b)| a != b) {
                probe.different = at;
                return None;
            }
            if self.predicates != probe.predicates {
                return None;
            }
            if !probe.recording {
                // The next round is the one to be watched. It may be as long as this one.
                probe.next_snapshot = probe.next_snapshot.saturating_mul(2);
                probe.begin_round(self.turns);
                probe.recording = true;
                return None;
            }
            probe.edges = 0;
            probe.comparing = false;
            probe.recording = false;
            let mut reads = std::mem::take(&mut probe.reads);
            reads.sort_unstable();
            return Some(Park { reads, reads_clock: probe.clock.take().is_some(), alone: probe.turn == self.turns });
        }
        if probe.edges == FIRST {
            probe.next_snapshot = FIRST;
            probe.renew_time = false;
        }
        probe.next_snapshot = probe.next_snapshot.saturating_mul(2);
        probe.begin_round(self.turns);
        probe.pc = pc;
        probe.mask = mask;
        probe.file.clear();
        probe.file.extend_from_slice(self.file.rows());
        probe.predicates.clone_from(&self.predicates);
        probe.comparing = true;
        probe.recording = false;
        // The second snapshot of a pair keeps the time of the first, so that a register that holds it can be equal.
        probe.renew_time = !probe.renew_time;
        if probe.renew_time {
            probe.time = now;
        }
        None
    }
}
