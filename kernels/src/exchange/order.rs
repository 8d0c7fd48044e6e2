//! Places in a list without atomics: the place of an entry is the number of earlier entries that are in the list too.
//!
//! Each warp of the CTA takes one contiguous part of the numbers: it counts what its part has, the counts of the warps are summed, and
//! a second pass gives the places. One CTA barrier, whatever the length.

use crate::device::{Builder, Pred, U32, Value};

/// Words that a lane may hold while it waits for more.
const WORDS_IN_FLIGHT: u32 = 24;

/// What a number below the count is.
pub(super) struct Entry<'k> {
    pub index: Value<'k, U32>,
    /// Whether it is in the list.
    pub listed: Value<'k, Pred>,
    /// What `find` said of it.
    pub detail: Value<'k, U32>,
    /// Listed entries with a smaller number.
    pub place: Value<'k, U32>,
}

/// Gives every number below `count` its [`Entry`]; returns the length of the list. All threads of the CTA run it.
///
/// `find` says whether a number is listed, and a detail, and loads `words` words for it; it is called twice for each, and for numbers that
/// exist only. It must not depend on what `assign` writes for other numbers.
pub(super) fn places<'k>(
    k: &'k Builder,
    threads: u32,
    count: Value<'k, U32>,
    words: u32,
    find: impl Fn(Value<'k, U32>) -> (Value<'k, Pred>, Value<'k, U32>),
    assign: impl Fn(Entry<'k>),
) -> Value<'k, U32> {
    // Rounds of 32 numbers, of which all loads come before the first is looked at.
    let rounds = (WORDS_IN_FLIGHT / words).clamp(1, 4);
    let (warps, round) = (threads / 32, 32 * rounds);
    let part = (count + (warps * round - 1)) / (warps * round) * round;
    let first = k.warp() * part;
    let end = (first + part).min(count);
    let counts = k.shared::<U32>(warps);

    let look = |first: Value<'k, U32>| -> Vec<_> {
        (0..rounds)
            .map(|further| {
                let index = first + 32 * further + k.lane();
                let (listed, detail) = find(index.min(count - 1));
                (index, listed & index.less(count), detail)
            })
            .collect()
    };

    let own = k.variable(k.u32(0));
    k.for_each(first, end, k.u32(round), |now| {
        for (_, listed, _) in look(now) {
            own.set(own.get() + k.ballot(listed).count_ones());
        }
    });
    k.when(k.lane().equals(k.u32(0)), || counts.at(k.warp()).store(own.get()));
    k.cta_barrier();
    let of_lane = counts.at(k.lane().min(k.u32(warps - 1))).load().when(k.lane().less(k.u32(warps)), k.u32(0));
    let before = of_lane.when(k.lane().less(k.warp()), k.u32(0)).warp_sum();

    let running = k.variable(before);
    k.for_each(first, end, k.u32(round), |now| {
        for (index, listed, detail) in look(now) {
            let lanes = k.ballot(listed);
            let place = running.get() + (lanes & k.lanes_below()).count_ones();
            k.when(index.less(count), || assign(Entry { index, listed, detail, place }));
            running.set(running.get() + lanes.count_ones());
        }
    });
    of_lane.warp_sum()
}
