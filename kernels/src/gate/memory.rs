//! How the lanes of a token read rows, write rows and exchange elements.
//!
//! Invariants: rows start where a multiple of their length in bytes does, tensors at a multiple of 16 bytes; of a place without an element
//! nothing is read out of bounds or written. An exchange writes memory of the CTA, and reads it behind a warp barrier. It writes what no lane
//! still reads: that barrier of the exchange before is behind all earlier reads, so that only an exchange in the same memory as the one
//! before it, in the loop over tokens, begins with a barrier of its own. No barrier is without need; a test takes each one out.

use std::cell::Cell;

use moe_gate::ir::{Op, Program};

use super::select::Chosen;
use super::warp::{Distribution, Warp};
use crate::device::{Builder, Chunk, F32, Global, Pointer, Pred, Shared, U8, U32, U64, Value};

/// Elements that a lane moves at once: the most of 4, 2 and 1 that divide what begins on a lane of its own and a lane's part of it.
fn width(over: &Distribution<'_>) -> u32 {
    let divides = |width: &u32| over.block.is_multiple_of(*width) && over.each.is_multiple_of(*width);
    [4, 2].into_iter().find(divides).unwrap_or(1)
}

/// The lane's part of a row.
pub(super) fn load_row<'k>(row: Pointer<'k, Global, U8>, over: &Distribution<'k>) -> Vec<Value<'k, F32>> {
    let width = width(over);
    let mut numbers = Vec::new();
    for index in (0..over.each).step_by(width as usize) {
        // As the width divides the block, the first element exists where the others do.
        let place = row.cast::<F32>().at(over.readable(index));
        match width {
            4 => numbers.extend(place.cast::<Chunk>().load().words().map(Value::bits_to_f32)),
            2 => {
                let pair = place.cast::<U64>().load();
                numbers.extend([pair.low_word(), (pair >> 32).low_word()].map(Value::bits_to_f32));
            }
            _ => numbers.push(place.load()),
        }
    }
    numbers
}

/// Writes the lane's part of a row where `live` holds.
pub(super) fn store_row<'k>(
    row: Pointer<'k, Global, U8>,
    numbers: &[Value<'k, F32>],
    over: &Distribution<'k>,
    live: Value<'k, Pred>,
) {
    let k = live.builder();
    let width = width(over) as usize;
    let store = |index: usize| {
        let place = row.cast::<F32>().at(over.first + index as u32);
        let words: Vec<_> = numbers[index..index + width].iter().map(|number| number.bits()).collect();
        match words[..] {
            [a, b, c, d] => place.cast::<Chunk>().store(k.chunk([a, b, c, d])),
            [low, high] => place.cast::<U64>().store(low.wide() | (high.wide() << 32)),
            _ => place.store(numbers[index]),
        }
    };
    k.when(live, || {
        for index in (0..numbers.len()).step_by(width) {
            match over.exists[index] {
                Some(exists) => k.when(exists, || store(index)),
                None => store(index),
            }
        }
    });
}

/// Memory of a token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Region {
    Numbers,
    Ids,
}

/// Memory of the CTA through which the lanes of a token exchange elements.
pub(super) struct Exchange<'k> {
    /// Where the exchange before the next one is: before the first one of a token, the last one of the token before.
    last: Cell<Region>,
    /// A number for each expert of the lane's token, where the program needs it.
    numbers: Option<Pointer<'k, Shared, F32>>,
    /// An id for each pick of the lane's token.
    ids: Pointer<'k, Shared, U32>,
}

/// Picks of a token at most.
const IDS: u32 = 32;

/// Up to so many experts on a lane, a number is fetched from its lane and not through memory.
const FETCHED: u32 = 2;

/// Up to so many experts on a lane, looking at each costs less than a loop over those that are chosen.
const UNROLLED: u32 = 4;

impl<'k> Exchange<'k> {
    /// Memory for all tokens of a CTA.
    pub fn new(warp: &Warp<'k>, warps: u32, program: &Program) -> Exchange<'k> {
        let k = warp.k;
        let tokens = warps * warp.tokens();
        let token = k.thread() / k.u32(warp.lanes.lanes);
        let row = program.experts().next_multiple_of(4);
        let region = |(_, op): (_, &Op)| match op {
            Op::ChooseExperts { .. } | Op::LookUp { .. } => Some(Region::Ids),
            Op::Scatter { .. } => Some(Region::Numbers),
            Op::Gather { .. } if warp.lanes.per_lane > FETCHED => Some(Region::Numbers),
            _ => None,
        };
        let regions: Vec<Region> = program.ops().filter_map(region).collect();
        let needed = regions.contains(&Region::Numbers);
        let numbers = needed.then(|| k.shared::<F32>(tokens * row).at(token * row));
        let ids = k.shared::<U32>(tokens * IDS).at(token * IDS);
        Exchange { last: Cell::new(regions.last().copied().unwrap_or(Region::Ids)), numbers, ids }
    }

    /// Before an exchange writes.
    fn begin(&self, warp: &Warp<'k>, region: Region) {
        if self.last.replace(region) == region {
            warp.k.warp_barrier();
        }
    }

    /// The ids of chosen experts, ascending, one on each lane.
    pub fn ids(
        &self,
        warp: &Warp<'k>,
        chosen: &Chosen<'k>,
        over: &Distribution<'k>,
        picks: &Distribution<'k>,
    ) -> Value<'k, U32> {
        let k = warp.k;
        if over.each == 1 {
            let chosen = chosen.contains(0);
            let position = (warp.ballot(chosen) & over.earlier).count_ones();
            self.begin(warp, Region::Ids);
            k.when(chosen, || self.ids.at(position).store(over.first));
        } else if over.each <= UNROLLED {
            let mut position = warp.sum_below(chosen.count());
            self.begin(warp, Region::Ids);
            for index in 0..over.each {
                let chosen = chosen.contains(index);
                k.when(chosen, || self.ids.at(position).store(over.first + index));
                position = position + chosen.as_u32();
            }
        } else {
            let position = k.variable(warp.sum_below(chosen.count()));
            self.begin(warp, Region::Ids);
            // Most lanes have none, few have several.
            for (lowest, word) in chosen.words() {
                let left = k.variable(word);
                let some_left = || left.get().differs(k.u32(0));
                k.repeat_while(
                    || warp.any_of_warp(some_left()),
                    || {
                        k.when(some_left(), || {
                            let (bits, place) = (left.get(), position.get());
                            self.ids.at(place).store(over.first + (bits.trailing_zeros() + lowest));
                            left.set(bits & (bits - 1));
                            position.set(place + 1);
                        });
                    },
                );
            }
        }
        k.warp_barrier();
        self.ids.at(last_if_none(picks)).load()
    }

    /// Ids that lie on the lanes in any order, ascending. `position` is where the lane's own one belongs.
    pub fn permuted(
        &self,
        warp: &Warp<'k>,
        id: Value<'k, U32>,
        position: Value<'k, U32>,
        picks: &Distribution<'k>,
    ) -> Value<'k, U32> {
        let k = warp.k;
        self.begin(warp, Region::Ids);
        k.when(picks.once(k.truth(true)), || self.ids.at(position).store(id));
        k.warp_barrier();
        self.ids.at(last_if_none(picks)).load()
    }

    /// The numbers of the experts with these ids.
    pub fn gather(
        &self,
        warp: &Warp<'k>,
        numbers: &[Value<'k, F32>],
        over: &Distribution<'k>,
        ids: Value<'k, U32>,
    ) -> Value<'k, F32> {
        // Lanes with so few experts hold groups without filling any lane up: expert e is on lane e / each.
        match *numbers {
            [number] => warp.of_place(number, ids),
            [even, odd] => {
                let place = ids >> 1;
                let [even, odd] = [even, odd].map(|number| warp.of_place(number, place));
                odd.when((ids & 1).differs(warp.k.u32(0)), even)
            }
            _ => {
                self.begin(warp, Region::Numbers);
                self.write(warp.k, numbers, over);
                warp.k.warp_barrier();
                self.numbers().at(ids).load()
            }
        }
    }

    /// The lane's experts: the number of a pick where the expert is chosen, else 0.
    pub fn scatter(
        &self,
        warp: &Warp<'k>,
        number: Value<'k, F32>,
        ids: Value<'k, U32>,
        picks: &Distribution<'k>,
        over: &Distribution<'k>,
    ) -> Vec<Value<'k, F32>> {
        let k = warp.k;
        self.begin(warp, Region::Numbers);
        self.write(k, &vec![k.f32(0.0); over.each as usize], over);
        k.warp_barrier();
        k.when(picks.once(k.truth(true)), || self.numbers().at(ids).store(number));
        k.warp_barrier();
        self.read(over)
    }

    /// # Panics
    /// If no operation of the program needs them.
    fn numbers(&self) -> Pointer<'k, Shared, F32> {
        self.numbers.expect("memory is there for every operation of the program")
    }

    fn write(&self, k: &'k Builder, numbers: &[Value<'k, F32>], over: &Distribution<'k>) {
        let width = width(over) as usize;
        for index in (0..numbers.len()).step_by(width) {
            let place = self.numbers().at(over.first + index as u32);
            let store = || {
                if width == 4 {
                    let words = [0, 1, 2, 3].map(|offset| numbers[index + offset].bits());
                    place.cast::<Chunk>().store(k.chunk(words));
                } else {
                    for (offset, number) in (0..).zip(&numbers[index..index + width]) {
                        place.at_constant(offset).store(*number);
                    }
                }
            };
            match over.exists[index] {
                Some(exists) => k.when(exists, store),
                None => store(),
            }
        }
    }

    fn read(&self, over: &Distribution<'k>) -> Vec<Value<'k, F32>> {
        let place = |index: u32| self.numbers().at(over.readable(index));
        if width(over) == 4 {
            let chunks = (0..over.each).step_by(4).map(|index| place(index).cast::<Chunk>().load());
            return chunks.flat_map(Value::words).map(Value::bits_to_f32).collect();
        }
        (0..over.each).map(|index| place(index).load()).collect()
    }
}

/// The lane's pick; the last one where it has none.
pub(super) fn last_if_none<'k>(picks: &Distribution<'k>) -> Value<'k, U32> {
    picks.exists[0].map_or(picks.first, |exists| picks.first.when(exists, exists.builder().u32(picks.count - 1)))
}
