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
//!
//! A store of what is there already changes nothing. To compare before every store would cost too much: a warp does it only for some
//! rounds from time to time, when it has branched back again and again with an effect each time.

use super::warp::Warp;
use crate::semantics::lanes::Row;

const FIRST: u32 = 8;
/// Backward branches with an effect before stores are first compared with what is there; how many then are; and until they are again.
const FIRST_CHECK: u32 = 64;
const CHECKED: u32 = 8;
const MOST_UNCHECKED: u32 = 1 << 16;
/// Backward branches without an effect after which clocks of a warp do not stand still for others any more.
const MOST_BETWEEN_MEETINGS: u32 = 4096;
const MOST_READS: usize = 8192;
/// First wait of a loop that reads a clock, as a power of two of nanoseconds.
const FIRST_PATIENCE: u32 = 10;
/// After the wait of 2^60 ns time does not change the loop's mind.
const LAST_PATIENCE: u32 = 60;

/// The memory that a location is in. Device memory first: that is what others write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Watched {
    Device,
    /// Shared memory of the CTA in this slot.
    Shared(u32),
}

/// A location that a loop reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Watch {
    pub memory: Watched,
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

/// What is watched for a loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Armed {
    pub ticket: u64,
    /// What it reads; first the warp's own reads, then those of the warps that it meets.
    pub reads: Vec<Watch>,
    pub own: usize,
}

/// What a warp read from one meeting with others to the next.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    pub reads: Vec<Watch>,
    pub clock: bool,
    pub overflow: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Probe {
    /// Backward branches since the last effect or barrier.
    edges: u32,
    /// Effects, and effects and barriers, at the last one.
    effects: u64,
    steps: u64,
    /// Backward branches with an effect.
    busy: u32,
    next_check: u32,
    /// With an effect still, until stores are no longer compared with what is there.
    checks_left: u32,
    /// A store of what is there already is no effect.
    pub checks_stores: bool,
    next_snapshot: u32,
    pc: u32,
    mask: u32,
    file: Vec<Row>,
    predicates: Vec<u32>,
    /// Where the last comparison failed: the place that most likely differs again.
    different: usize,
    /// The warp's state is compared with the snapshot, and clocks stand still.
    comparing: bool,
    /// What the warp reads is written down, in one of these or both.
    pub recording: bool,
    /// The state has returned to the snapshot.
    own: Option<Recorded>,
    /// The same for the warps that it meets.
    group: Option<Recorded>,
    /// Clocks have read this since the round began.
    clock_read: bool,
    time: u64,
    /// Where clocks stand still while the state of the warps that it meets is compared.
    group_time: Option<u64>,
    renew_time: bool,
    patience: u32,
    parked_effects: u64,
    /// The watches of parked splits.
    pub parked: Vec<Armed>,
    /// What is watched before a loop may wait.
    pub armed: Option<Armed>,
    /// Turn of the warp in which the round began.
    turn: u32,
}

/// A loop that waits.
pub(crate) struct Park {
    /// What a round reads, device memory first, in ascending order.
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
        self.steps = 0;
        (self.busy, self.next_check, self.checks_stores) = (0, FIRST_CHECK, false);
        self.comparing = false;
        (self.own, self.group, self.recording) = (None, None, false);
        self.group_time = None;
        self.patience = 0;
        self.parked_effects = 0;
        self.parked.clear();
        self.armed = None;
    }

    fn begin_round(&mut self, turn: u32) {
        self.turn = turn;
        self.clock_read = false;
    }

    /// What a clock shows that is at `now`.
    pub fn clock(&mut self, now: u64) -> u64 {
        let stands = self.group_time.or(self.comparing.then_some(self.time));
        self.clock_read |= stands.is_some();
        if let Some(group) = &mut self.group {
            group.clock = true;
        }
        stands.unwrap_or(now)
    }

    #[inline]
    pub fn read(&mut self, watch: Watch) {
        if self.recording {
            for recorded in self.own.iter_mut().chain(&mut self.group) {
                recorded.add(watch);
            }
        }
    }

    fn record_own(&mut self, own: Option<Recorded>) {
        self.own = own;
        self.recording = self.own.is_some() || self.group.is_some();
    }

    /// Clocks stand still until the group returns.
    pub fn compare_group(&mut self, time: u64) {
        self.leave_group();
        self.group_time = Some(time);
    }

    pub fn record_group(&mut self) {
        self.group = Some(Recorded::default());
        self.recording = true;
    }

    /// What was read since the last meeting, as in [`Park`].
    pub fn take_group(&mut self) -> Recorded {
        let mut recorded = self.group.take().unwrap_or_default();
        recorded.sort();
        self.recording = self.own.is_some();
        recorded
    }

    pub fn leave_group(&mut self) {
        self.take_group();
        self.group_time = None;
    }

    /// A backward branch with an effect.
    fn worked(&mut self) {
        self.busy = self.busy.saturating_add(1);
        if self.checks_stores {
            self.checks_left -= 1;
            if self.checks_left == 0 {
                self.checks_stores = false;
                self.next_check = self.busy.saturating_add(self.busy.min(MOST_UNCHECKED));
            }
        } else if self.busy >= self.next_check {
            (self.checks_stores, self.checks_left) = (true, CHECKED);
        }
    }
}

impl Recorded {
    fn sort(&mut self) {
        self.reads.sort_unstable();
    }

    fn add(&mut self, watch: Watch) {
        if self.reads.last() != Some(&watch) {
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
        let steps = self.effects.wrapping_add(self.arrivals);
        if probe.steps != steps {
            probe.steps = steps;
            probe.edges = 1;
            probe.comparing = false;
            if probe.own.is_some() {
                probe.record_own(None);
            }
            if probe.effects != self.effects {
                probe.effects = self.effects;
                probe.worked();
            }
            return None;
        }
        probe.edges = probe.edges.saturating_add(1);
        if probe.edges < FIRST {
            return None;
        }
        if probe.edges == MOST_BETWEEN_MEETINGS {
            probe.leave_group();
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
            let overflow = probe.own.as_ref().is_some_and(|own| own.overflow);
            if probe.pc != pc || probe.mask != mask || overflow {
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
            let Some(mut recorded) = probe.own.take() else {
                // The next round is the one to be watched. It may be as long as this one.
                probe.next_snapshot = probe.next_snapshot.saturating_mul(2);
                probe.begin_round(self.turns);
                probe.record_own(Some(Recorded::default()));
                return None;
            };
            probe.edges = 0;
            probe.comparing = false;
            probe.record_own(None);
            recorded.sort();
            return Some(Park {
                reads: recorded.reads,
                reads_clock: probe.clock_read,
                alone: probe.turn == self.turns,
            });
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
        probe.record_own(None);
        // The second snapshot of a pair keeps the time of the first, so that a register that holds it can be equal.
        probe.renew_time = !probe.renew_time;
        if probe.renew_time {
            probe.time = now;
        }
        None
    }
}
