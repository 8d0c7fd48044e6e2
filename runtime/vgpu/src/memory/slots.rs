//! The addresses of a rank: slots, each with at most one allocation at a time.
//!
//! Invariants:
//! * of a slot's addresses only those of its one allocation are right, so that no step beyond it reaches another one;
//! * an allocation begins behind all earlier ones of its slot. An address of freed memory is therefore wrong for as long as its slot has
//!   room; a slot that is full then rests until [`RESTING`] others have become full, before it begins anew;
//! * as many slots are kept as were taken at once, and `2 × RESTING` at most besides.
//!
//! A slot has room for 131 072 allocations of up to 60 KiB, or for one of more than 4 GiB. The address of a small allocation is
//! therefore given again after 2^27 others of the rank at the earliest, one of 8 GiB after 1024 others of that size.

use std::collections::VecDeque;

use super::address::{MAX_ALLOCATION_BYTES, MAX_SLOTS, SLOT_END, SLOT_START};
use super::allocation::Allocation;

/// Slots with room that wait for an allocation, and full ones that rest, each at most.
const RESTING: usize = 1024;
/// Allocations begin at multiples of this.
const STEP: u64 = 64 << 10;
/// At least so far from the end of one to the next.
const GAP: u64 = 4 << 10;
/// Of the slots with room, so many are asked for more than most allocations need.
const ASKED: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Slots {
    slots: Vec<Allocation>,
    /// Not taken, with room behind their last allocation; the one used last at the end.
    open: VecDeque<u32>,
    /// Not taken and full, the first that became so in front.
    full: VecDeque<u32>,
}

impl Slots {
    #[inline(always)]
    pub fn get(&self, slot: u32) -> Option<&Allocation> {
        self.slots.get(slot as usize)
    }

    #[inline(always)]
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Allocation> {
        self.slots.get_mut(slot as usize)
    }

    /// A slot that there is, as every one that was found by an address is.
    #[inline(always)]
    pub fn at(&self, slot: u32) -> &Allocation {
        &self.slots[slot as usize]
    }

    /// As [`Slots::at`].
    #[inline(always)]
    pub fn at_mut(&mut self, slot: u32) -> &mut Allocation {
        &mut self.slots[slot as usize]
    }

    pub fn iter(&self) -> impl Iterator<Item = &Allocation> {
        self.slots.iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Allocation> {
        self.slots.iter_mut()
    }

    /// A place for so many bytes, at most [`MAX_ALLOCATION_BYTES`]: its slot, which is taken from now on. None if all are.
    pub fn take(&mut self, bytes: u64) -> Option<u32> {
        debug_assert!(bytes <= MAX_ALLOCATION_BYTES);
        let asked = self.open.len().saturating_sub(ASKED)..self.open.len();
        let found = asked.rev().find(|&at| next(&self.slots[self.open[at] as usize]) + bytes <= SLOT_END);
        if let Some(slot) = found.and_then(|at| self.open.remove(at)) {
            let place = &mut self.slots[slot as usize];
            place.base = next(place);
            return Some(slot);
        }
        if self.full.len() < RESTING && self.slots.len() < MAX_SLOTS {
            self.slots.push(Allocation { base: SLOT_START, ..Allocation::default() });
            return Some(self.slots.len() as u32 - 1);
        }
        // All slots that there can be are taken or have too little room: then one of these has to begin anew.
        let slot = self.full.pop_front().or_else(|| self.open.pop_front())?;
        self.slots[slot as usize].base = SLOT_START;
        Some(slot)
    }

    /// Gives a slot back. Its last allocation has been freed.
    pub fn give_back(&mut self, slot: u32) {
        if next(&self.slots[slot as usize]) < SLOT_END {
            self.open.push_back(slot);
        } else {
            self.full.push_back(slot);
        }
        if self.open.len() > RESTING {
            self.full.extend(self.open.pop_front());
        }
    }
}

/// Where the next allocation of a slot begins.
fn next(last: &Allocation) -> u64 {
    last.base + (last.size + GAP).next_multiple_of(STEP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn take(slots: &mut Slots, bytes: u64) -> (u32, u64) {
        let slot = slots.take(bytes).unwrap();
        let place = slots.get_mut(slot).unwrap();
        assert!(place.base >= SLOT_START && place.base + bytes <= SLOT_END && place.base.is_multiple_of(STEP));
        place.size = bytes;
        (slot, place.base)
    }

    #[test]
    fn an_address_does_not_come_again_for_long() {
        let (mut slots, mut seen) = (Slots::default(), HashSet::new());
        for round in 0..1 << 20 {
            let (slot, base) = take(&mut slots, 100 + round % 3);
            assert!(seen.insert((slot, base)));
            slots.give_back(slot);
        }
        assert_eq!(slots.slots.len(), 8, "131 072 allocations have one after the other");
    }

    #[test]
    fn the_largest_allocations_come_again_after_a_thousand() {
        let mut slots = Slots::default();
        let mut last = std::collections::HashMap::new();
        for round in 0..5000 {
            let (slot, base) = take(&mut slots, MAX_ALLOCATION_BYTES);
            let before = last.insert((slot, base), round);
            assert!(before.is_none_or(|before| round - before >= RESTING as u32), "{round}: {before:?}");
            slots.give_back(slot);
        }
        assert!(slots.slots.len() <= RESTING + 1);
    }

    /// Whatever sizes come and go, slots are bounded by what is taken at once.
    #[test]
    fn slots_are_as_many_as_are_taken_and_some() {
        let (mut slots, mut taken, mut random) = (Slots::default(), VecDeque::new(), moe_random::Random::new(1));
        for _ in 0..200_000 {
            let bytes = MAX_ALLOCATION_BYTES >> random.below(32);
            let (slot, base) = take(&mut slots, bytes);
            assert!(taken.iter().all(|&(other, _)| other != slot), "{slot}");
            taken.push_back((slot, base));
            if taken.len() > 50 {
                slots.give_back(taken.pop_front().unwrap().0);
            }
        }
        assert!(slots.slots.len() <= 51 + 2 * RESTING + 1, "{}", slots.slots.len());
    }

    #[test]
    fn without_a_slot_that_is_free_there_is_none() {
        let mut slots = Slots::default();
        for _ in 0..MAX_SLOTS {
            take(&mut slots, 1);
        }
        assert_eq!(slots.take(1), None);
        slots.give_back(7);
        let (slot, base) = take(&mut slots, 1);
        assert!(slot == 7 && base > SLOT_START);
        // A slot with too little room begins anew when there is nothing else.
        slots.give_back(7);
        assert_eq!(take(&mut slots, MAX_ALLOCATION_BYTES), (7, SLOT_START));
    }
}
