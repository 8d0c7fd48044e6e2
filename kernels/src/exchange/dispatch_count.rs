//! Dispatch, the receiving half, part one: how many rows each local expert gets, and the place of every pick among them.
//!
//! * Waits for `dispatch_arrival` of all sources. Reads `counts` and records of the half of this epoch. Writes `received_counts` u32 `[R]`
//!   (CTA 0), `expert_counts` i32 `[L]`, and, for an expert-major layout, the place of a pick within its expert to `copy_rows`
//!   i32 `[R][T][K]`; only picks of this rank.
//! * One CTA per local expert; a thread looks at one copy at a time. A CTA without an expert (the rank has fewer than others) writes 0.
//! * Memory order: each CTA acquires every flag itself.
//! * Cost: no bytes on links; each CTA reads the picks of all received copies twice, and takes two barriers.

use moe_contract::{Buffer, Flag, Region};

use super::frame::{Frame, Slot};
use super::order;
use crate::device::{Builder, Chunk, Global, Pointer, Shared, U32, Value};

pub(super) fn body(frame: &Frame<'_, '_>) {
    let (k, exchange) = (frame.k, frame.exchange);
    frame.wait_together(Flag::Dispatch);

    let counts: Pointer<Global, U32> = frame.own_first(Region::Counts).cast();
    k.when(k.cta().equals(k.u32(0)), || {
        k.for_each(k.thread(), k.u32(exchange.ranks), k.u32(exchange.threads), |source| {
            frame.buffer(Buffer::ReceivedCounts).at(source).store(counts.at(source).load());
        });
    });

    let starts = k.shared::<U32>(exchange.ranks);
    let copies = number_by_source(frame, counts, starts);
    k.cta_barrier();

    let (first, experts) = frame.experts_of(frame.rank());
    let exists = k.cta().less(experts);
    // A CTA without an expert looks for none: no pick is so large.
    let expert = (first + k.cta()).when(exists, k.u32(u32::MAX - 1));
    let rows = frame.buffer::<U32>(Buffer::CopyRows);
    let find = |number| {
        let (source, slot) = find_source(k, starts, exchange.ranks, number);
        let record = frame.own(Region::Records, Slot { list: source, index: slot });
        let (mut found, mut place) = (k.truth(false), k.u32(0));
        for (pick, word) in (0..).zip(picks(record.cast(), exchange.top_k)) {
            let same = word.equals(expert);
            (found, place) = (found | same, k.u32(pick).when(same, place));
        }
        // Entry of the pick in an array [source][max_tokens][K].
        (found, (source * exchange.max_tokens + slot) * exchange.top_k + place)
    };
    let total = order::places(k, exchange.threads, copies, exchange.top_k, find, |entry| {
        if exchange.layout.by_expert() {
            k.when(entry.listed, || rows.at(entry.detail).store(entry.place));
        }
    });
    k.when(k.thread().equals(k.u32(0)), || frame.buffer(Buffer::ExpertCounts).at(k.cta()).store(total));
}

/// Numbers copies by source, and those of a source by slot: the number of the first copy of each source to `starts`, by one warp. How many there
/// are. All threads of the CTA run it.
fn number_by_source<'k>(
    frame: &Frame<'k, '_>,
    counts: Pointer<'k, Global, U32>,
    starts: Pointer<'k, Shared, U32>,
) -> Value<'k, U32> {
    let (k, ranks) = (frame.k, frame.exchange.ranks);
    let mut total = k.u32(0);
    for group in 0..ranks.div_ceil(32) {
        let source = k.lane() + 32 * group;
        let exists = source.less(k.u32(ranks));
        let count = counts.at(source.min(k.u32(ranks - 1))).load().when(exists, k.u32(0));
        let mut sum = count;
        for distance in [1, 2, 4, 8, 16] {
            let below = sum.of_lane_below(distance);
            sum = sum + below.when(k.lane().at_least(k.u32(distance)), k.u32(0));
        }
        k.when(exists & k.warp().equals(k.u32(0)), || starts.at(source).store(total + sum - count));
        total = total + sum.of_lane(k.u32(31));
    }
    total
}

/// The picks of a record, in 16-byte loads: they start at its third word, and what follows them is in the record as well.
fn picks(record: Pointer<'_, Global, Chunk>, top_k: u32) -> Vec<Value<'_, U32>> {
    let chunks = (2 + top_k).div_ceil(4);
    let words = (0..chunks).flat_map(|chunk| record.at_constant(chunk).load().words());
    words.skip(2).take(top_k as usize).collect()
}

/// Source and slot of a copy; different in each lane. `starts` holds the number of the first copy of each source.
fn find_source<'k>(
    k: &'k Builder,
    starts: Pointer<'k, Shared, U32>,
    ranks: u32,
    number: Value<'k, U32>,
) -> (Value<'k, U32>, Value<'k, U32>) {
    let mut source = k.u32(0);
    let mut step = ranks.next_power_of_two() / 2;
    while step > 0 {
        let further = source + step;
        let start = starts.at(further.min(k.u32(ranks - 1))).load();
        source = further.when(further.less(k.u32(ranks)) & !number.less(start), source);
        step /= 2;
    }
    (source, number - starts.at(source).load())
}
