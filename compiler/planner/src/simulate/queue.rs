//! The queue of events.
//!
//! Invariant: [`Queue::pop`] returns events in ascending order of (time, [`Step`], subject), an order that no two events of a
//! simulation share, so that it depends neither on when an event was pushed nor on what else is simulated. Nothing may be
//! pushed before the event popped last.
//!
//! A wheel of wheels: level l has 64 slots of 64^l times the finest width. An event waits in the level of the highest digit in
//! which its time differs from the current one, moves down when that digit comes up, and is ordered only within the finest
//! slot. Everything but that slot is appended to and read from front to back.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::engine::Step;

/// Picoseconds since the start.
pub(super) type Picoseconds = u64;

/// What happens to a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub time: Picoseconds,
    /// When the tail arrives, if `time` is when the head does.
    pub tail: Picoseconds,
    /// The chunk, or the GPU.
    pub subject: u32,
    pub step: Step,
}

impl Ord for Event {
    /// Reversed: a binary heap gives its largest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.time, other.step, other.subject).cmp(&(self.time, self.step, self.subject))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Bits of a digit: log2 of the slots of a level.
const DIGIT: u32 = 6;
const SLOTS: usize = 1 << DIGIT;

/// The slots of one digit.
struct Level {
    /// Which slots have events.
    occupied: u64,
    slots: [Vec<Event>; SLOTS],
}

/// Events by time.
pub(super) struct Queue {
    /// log2 of the width of a finest slot.
    width: u32,
    /// The finest slot whose events are in `now`, counted from the start.
    current: u64,
    now: BinaryHeap<Event>,
    levels: Vec<Level>,
}

impl Queue {
    /// A queue for about one event in each `spacing`.
    pub fn new(spacing: Picoseconds) -> Self {
        // A few events in each of the finest slots.
        let width = (spacing.max(1) * 4).ilog2();
        let levels = (u64::BITS - width).div_ceil(DIGIT);
        let level = |_| Level { occupied: 0, slots: std::array::from_fn(|_| Vec::new()) };
        Self { width, current: 0, now: BinaryHeap::new(), levels: (0..levels).map(level).collect() }
    }

    /// Adds an event.
    pub fn push(&mut self, event: Event) {
        let slot = event.time >> self.width;
        let differing = slot ^ self.current;
        if slot <= self.current {
            self.now.push(event);
            return;
        }
        let level = differing.ilog2() / DIGIT;
        let digit = (slot >> (level * DIGIT)) as usize % SLOTS;
        let level = &mut self.levels[level as usize];
        level.occupied |= 1 << digit;
        level.slots[digit].push(event);
    }

    /// Takes the next event.
    pub fn pop(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.now.pop() {
                return Some(event);
            }
            let (number, level) = (0..).zip(&mut self.levels).find(|(_, level)| level.occupied != 0)?;
            let digit = level.occupied.trailing_zeros();
            level.occupied &= level.occupied - 1;
            // The digits above stay what they are, those below start from 0.
            let above = (self.current >> (number * DIGIT)) >> DIGIT << DIGIT;
            self.current = (above | u64::from(digit)) << (number * DIGIT);
            let mut events = std::mem::take(&mut level.slots[digit as usize]);
            events.drain(..).for_each(|event| self.push(event));
            self.levels[number as usize].slots[digit as usize] = events;
        }
    }
}

#[cfg(test)]
mod tests {
    use moe_random::Random;

    use super::*;
    use crate::simulate::engine::Hop;

    /// Against sorting: random pushes between pops, at distances from nothing to a day, with many equal times.
    #[test]
    fn events_come_in_order() {
        let mut random = Random::stream(5, 0);
        for spacing in [1, 1000, 1 << 40] {
            let mut queue = Queue::new(spacing);
            let (mut waiting, mut now) = (Vec::new(), 0);
            for subject in 0..20_000 {
                let distance = random.bits() >> (64 - random.below(57).max(1));
                let time = now + if random.below(3) == 0 { 0 } else { distance };
                let step = Step::Out([Hop::NicOut, Hop::NicIn][random.index(2)]);
                let event = Event { time, tail: time, subject, step };
                queue.push(event);
                waiting.push((time, step, subject));
                if random.below(3) > 0 {
                    let event = queue.pop().expect("one was pushed");
                    let place =
                        waiting.iter().enumerate().min_by_key(|(_, key)| **key).expect("as many as in the queue").0;
                    assert_eq!((event.time, event.step, event.subject), waiting.swap_remove(place));
                    now = event.time;
                }
            }
            waiting.sort_unstable();
            for key in waiting {
                let event = queue.pop().expect("as many as were pushed");
                assert_eq!((event.time, event.step, event.subject), key);
            }
            assert_eq!(queue.pop(), None);
        }
    }
}
