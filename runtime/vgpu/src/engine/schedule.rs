//! Who runs next, who wakes, and when nothing can.
//!
//! Invariant: a split that can run is never forgotten: starving ends after a bounded number of turns, and held warps run
//! when nothing else can.

use std::cmp::Reverse;
use std::time::Instant;

use super::probe::{Watch, Watched};
use super::report::RunError;
use super::warp::SplitState;
use super::{INSTRUCTIONS_PER_NANOSECOND, Machine};
use crate::config::Policy;
use crate::memory::segment::Waiter;

/// Instructions of a turn where the policy does not draw them.
const TURN: u32 = 16_384;
/// Turns of warps that barriers have let go, in sequence, while others wait for theirs.
const MOST_RELEASED: u32 = 64;
const SLOT_SHIFT: u32 = 40;
/// Turns after which the host's clock is looked at again.
const TURNS_PER_LOOK: u64 = 64;

/// Whom the adversarial policy holds back.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Starved {
    #[default]
    Nobody,
    Rank(u32),
    Warp(u32),
}

#[derive(Debug, Default)]
pub(super) struct Victim {
    who: Starved,
    until: u64,
}

impl Machine {
    /// Runs until the streams are empty; or, `partly`, until everybody waits for somebody else, which is then no deadlock.
    pub(super) fn drive(&mut self, partly: bool) -> Result<(), RunError> {
        self.pump();
        let limit = self.instructions.saturating_add(self.config.instruction_limit);
        loop {
            if self.instructions >= limit {
                return Err(RunError::Limit(Box::new(self.limit())));
            }
            self.turns += 1;
            if self.turns.is_multiple_of(TURNS_PER_LOOK)
                && self.deadline.is_some_and(|deadline| Instant::now() > deadline)
            {
                return Err(RunError::Time(Box::new(self.limit())));
            }
            self.wake_sleepers();
            self.maybe_copy()?;
            self.deliver_writes();
            if let Some(slot) = self.pick() {
                self.turn(slot)?;
            } else if !self.transfers.is_empty() {
                let index = self.choose_copy();
                self.advance_copy(index)?;
            } else if !(if partly { self.end_a_nap() } else { self.sleep_until_next() }) {
                return if partly || self.idle() { Ok(()) } else { Err(RunError::Deadlock(Box::new(self.diagnose()))) };
            }
            self.deliver_writes();
        }
    }

    fn pick(&mut self) -> Option<u32> {
        if self.released_turns < MOST_RELEASED
            && let Some(slot) = self.released.pop_front()
        {
            self.released_turns += 1;
            return Some(slot);
        }
        self.released_turns = 0;
        if self.ready.is_empty() {
            return self.released.pop_front();
        }
        let count = self.ready.len();
        match self.config.policy {
            Policy::RoundRobin => self.ready.pop_front(),
            Policy::Random | Policy::Weak => {
                let index = self.random.below(count as u64) as usize;
                self.ready.swap_remove_back(index)
            }
            Policy::Adversarial => {
                let start = self.random.below(count as u64) as usize;
                let order = (start..count).chain(0..start);
                let index = order.clone().find(|index| !self.is_held(self.ready[*index])).unwrap_or(start);
                self.ready.swap_remove_back(index)
            }
        }
    }

    fn is_held(&mut self, slot: u32) -> bool {
        let Some(Some(warp)) = self.warps.get(slot as usize) else { return false };
        let (rank, held_until) = (warp.rank, warp.held_until);
        if held_until > self.turns {
            return true;
        }
        if self.victim.until <= self.turns {
            let who = match self.random.below(4) {
                0 => Starved::Nobody,
                1 => Starved::Warp(self.ready[self.random.below(self.ready.len() as u64) as usize]),
                _ => Starved::Rank(self.random.below(u64::from(self.config.ranks)) as u32),
            };
            self.victim = Victim { who, until: self.turns + 500 + self.random.below(20_000) };
        }
        self.victim.who == Starved::Rank(rank) || self.victim.who == Starved::Warp(slot)
    }

    fn turn(&mut self, slot: u32) -> Result<(), RunError> {
        let Some(mut warp) = self.warps[slot as usize].take() else { return Ok(()) };
        warp.queued = false;
        warp.turns = warp.turns.wrapping_add(1);
        if warp.file.is_empty() {
            self.give_file(&mut warp);
        }
        let budget = match self.config.policy {
            Policy::RoundRobin => TURN,
            // Often very few, so that everything happens between any two instructions.
            Policy::Random | Policy::Weak => 1 << self.random.below(8),
            Policy::Adversarial => 1 << self.random.below(11),
        };
        let before = self.instructions;
        let outcome = self.run_warp(&mut warp, budget);
        self.time_fraction += self.instructions - before;
        self.time += self.time_fraction / INSTRUCTIONS_PER_NANOSECOND;
        self.time_fraction %= INSTRUCTIONS_PER_NANOSECOND;
        if let Err(fault) = outcome {
            self.warps[slot as usize] = Some(warp);
            return Err(RunError::Fault(fault));
        }
        if warp.live == 0 {
            self.finish_warp(warp);
            return Ok(());
        }
        if warp.is_ready() {
            warp.queued = true;
            self.ready.push_back(slot);
        }
        self.warps[slot as usize] = Some(warp);
        Ok(())
    }

    /// Puts a warp into the queue if a split of it can run.
    pub(super) fn enqueue(&mut self, slot: u32) {
        if let Some(Some(warp)) = self.warps.get_mut(slot as usize)
            && !warp.queued
            && warp.is_ready()
        {
            warp.queued = true;
            self.ready.push_back(slot);
        }
    }

    /// As [`Machine::enqueue`], for a warp that has been let go by a barrier. In turn, it comes before those that nobody has
    /// run for long: what it needs is still in a cache.
    pub(super) fn enqueue_released(&mut self, slot: u32) {
        let waiting = self.ready.len();
        self.enqueue(slot);
        if self.config.policy == Policy::RoundRobin && self.ready.len() > waiting {
            self.released.extend(self.ready.pop_back());
        }
    }

    pub(super) fn new_ticket(&mut self, slot: u32) -> u64 {
        self.tickets = (self.tickets + 1) & ((1 << SLOT_SHIFT) - 1);
        u64::from(slot) << SLOT_SHIFT | self.tickets
    }

    /// Lets a ticket's split be woken by writes to these locations.
    pub(super) fn watch(&mut self, ticket: u64, reads: &[Watch]) {
        for read in reads {
            let waiter = |start: u64| Waiter { start, end: start + u64::from(read.bytes), ticket };
            match read.memory {
                Watched::Device => {
                    if let Ok((rank, slot, offset)) = self.memory.locate(None, read.start, 0, false)
                        && let Some(found) = self.memory.allocation_mut(rank, slot)
                    {
                        found.segment.waiters.push(waiter(offset));
                    }
                }
                Watched::Shared(cta) => {
                    if let Some(cta) = &mut self.ctas[cta as usize] {
                        cta.shared.waiters.push(waiter(read.start));
                    }
                }
            }
        }
    }

    pub(super) fn forget_watches(&mut self, ticket: u64, reads: &[Watch]) {
        for read in reads {
            let waiters = match read.memory {
                Watched::Device => {
                    let Ok((rank, slot, _)) = self.memory.locate(None, read.start, 0, false) else { continue };
                    self.memory.allocation_mut(rank, slot).map(|found| &mut found.segment.waiters)
                }
                Watched::Shared(cta) => self.ctas[cta as usize].as_mut().map(|cta| &mut cta.shared.waiters),
            };
            waiters.into_iter().for_each(|waiters| waiters.retain(|waiter| waiter.ticket != ticket));
        }
    }

    fn waits_with(&self, ticket: u64) -> bool {
        let slot = (ticket >> SLOT_SHIFT) as usize;
        let Some(Some(warp)) = self.warps.get(slot) else { return false };
        warp.splits.iter().any(|split| holds_ticket(split.state, ticket))
    }

    /// Wakes the split that holds a ticket, if any.
    fn wake(&mut self, ticket: u64) {
        let slot = (ticket >> SLOT_SHIFT) as u32;
        let Some(Some(warp)) = self.warps.get_mut(slot as usize) else { return };
        let Some(split) = warp.splits.iter_mut().find(|split| holds_ticket(split.state, ticket)) else {
            if let Some(armed) = warp.probe.armed.take_if(|armed| armed.ticket == ticket) {
                self.forget_watches(ticket, &armed.reads);
            }
            return;
        };
        split.state = SplitState::Ready;
        if let Some(at) = warp.probe.parked.iter().position(|parked| parked.ticket == ticket) {
            let parked = warp.probe.parked.swap_remove(at);
            self.forget_watches(ticket, &parked.reads);
        }
        self.enqueue(slot);
    }

    /// Wakes those who watch what has been written.
    fn deliver_writes(&mut self) {
        if self.memory.woken.is_empty() {
            return;
        }
        let mut woken = std::mem::take(&mut self.memory.woken);
        for ticket in woken.drain(..) {
            self.wake(ticket);
        }
        self.memory.woken = woken;
    }

    pub(super) fn sleep(&mut self, ticket: u64, until: u64) {
        self.sleepers.push(Reverse((until, ticket)));
    }

    fn wake_sleepers(&mut self) {
        while let Some(&Reverse((until, ticket))) = self.sleepers.peek() {
            if until > self.time {
                break;
            }
            self.sleepers.pop();
            self.wake(ticket);
        }
    }

    /// Nothing else can happen: time passes until the first of those wakes that only pause. False if there is none.
    fn end_a_nap(&mut self) -> bool {
        let pauses = |ticket: u64| {
            let warp = self.warps.get((ticket >> SLOT_SHIFT) as usize).and_then(Option::as_ref);
            warp.is_some_and(|warp| warp.splits.iter().any(|split| split.state == SplitState::Sleep(ticket)))
        };
        let naps = self.sleepers.iter().map(|&Reverse(sleeper)| sleeper).filter(|&(_, ticket)| pauses(ticket));
        let Some((until, _)) = naps.min() else { return false };
        self.time = self.time.max(until);
        true
    }

    /// Nothing else can happen: time passes until the first sleeper wakes. False if nobody sleeps.
    fn sleep_until_next(&mut self) -> bool {
        while let Some(Reverse((until, ticket))) = self.sleepers.pop() {
            if self.waits_with(ticket) {
                self.time = self.time.max(until);
                self.wake(ticket);
                return true;
            }
        }
        false
    }
}

fn holds_ticket(state: SplitState, ticket: u64) -> bool {
    matches!(state, SplitState::Watch(held) | SplitState::Sleep(held) if held == ticket)
}
