//! Received copies in (source, slot) order, numbered through.
//!
//! A lane stands for the sources lane, lane + 32 and lane + 64: what a warp knows of all sources is three registers, whatever their number.

use moe_contract::Buffer;

use super::frame::{Frame, Slot};
use crate::device::{Global, Pointer, Shared, U32, Value};

impl<'k> Copy<'k> {
    /// Where it lies in the regions by source.
    pub fn place_of_slot(self) -> Slot<'k> {
        Slot { list: self.source, index: self.slot }
    }
}

/// How many copies have come from the sources of each lane.
pub(super) struct Copies<'k> {
    /// By group: number of the first copy of the lane's source.
    starts: Vec<Value<'k, U32>>,
    /// By group: number after the last one; `u32::MAX` where the lane has no source.
    ends: Vec<Value<'k, U32>>,
    /// All copies.
    pub total: Value<'k, U32>,
}

/// One copy; the same in all lanes of the warp.
#[derive(Clone, Copy)]
pub(super) struct Copy<'k> {
    pub number: Value<'k, U32>,
    pub source: Value<'k, U32>,
    pub slot: Value<'k, U32>,
    /// Its place in arrays `[source][max_tokens]` of a handle.
    pub place: Value<'k, U32>,
}

impl<'k> Copies<'k> {
    /// From u32 `[ranks]`. All lanes run it.
    pub fn of(frame: &Frame<'k, '_>, counts: Pointer<'k, Global, U32>) -> Copies<'k> {
        let (k, ranks) = (frame.k, frame.exchange.ranks);
        let mut copies = Copies { starts: vec![], ends: vec![], total: k.u32(0) };
        for group in 0..frame.rank_groups() {
            let source = k.lane() + 32 * group;
            let exists = source.less(k.u32(ranks));
            let count = counts.at(source.min(k.u32(ranks - 1))).load().when(exists, k.u32(0));
            let mut sum = count;
            for distance in [1, 2, 4, 8, 16] {
                let below = sum.of_lane_below(distance);
                sum = sum + below.when(k.lane().at_least(k.u32(distance)), k.u32(0));
            }
            let end = copies.total + sum;
            copies.starts.push(end - count);
            copies.ends.push(end.when(exists, k.u32(u32::MAX)));
            copies.total = copies.total + sum.of_lane(k.u32(31));
        }
        copies
    }

    /// The copy with a number that exists and that all lanes of the warp share. All lanes run it.
    pub fn find(&self, frame: &Frame<'k, '_>, number: Value<'k, U32>) -> Copy<'k> {
        let k = frame.k;
        let mut source = k.u32(0);
        for end in &self.ends {
            source = source + k.ballot(!number.less(*end)).count_ones();
        }
        let mut start = k.u32(0);
        for (group, starts) in (0..).zip(&self.starts) {
            let in_group = (source >> 5).equals(k.u32(group));
            start = starts.of_lane(source & 31).when(in_group, start);
        }
        let slot = number - start;
        Copy { number, source, slot, place: source * frame.exchange.max_tokens + slot }
    }

    /// The number of the first copy of each source to u32 `[ranks]`. One warp runs it.
    pub fn store_starts(&self, frame: &Frame<'k, '_>, to: Pointer<'k, Shared, U32>) {
        let k = frame.k;
        for (group, &start) in (0..).zip(&self.starts) {
            let source = k.lane() + 32 * group;
            k.when(source.less(k.u32(frame.exchange.ranks)), || to.at(source).store(start));
        }
    }

    /// Runs `body` for every copy that the handle lists, a warp for each.
    pub fn for_each_of_handle(frame: &Frame<'k, '_>, body: impl FnOnce(Copy<'k>)) {
        let copies = Copies::of(frame, frame.buffer(Buffer::ReceivedCounts));
        frame.for_each_by_warps(copies.total, |number| body(copies.find(frame, number)));
    }
}
