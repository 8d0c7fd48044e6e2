//! Capacity: takes away what an expert has been given too much of.
//!
//! * Reads `weights` f32 `[tokens, K]`, reads and writes `indices` i32 `[tokens, K]`: a pick that its expert cannot keep becomes −1.
//! * One CTA per expert, zero experts too; it looks at all picks and changes only those of its expert.
//! * [`Drop::Position`]: the place of a pick among those of its expert, in token order, decides.
//!   [`Drop::Lowest`]: four rounds over the digits of the weights, most significant first, find the weight of the first pick that goes
//!   (a histogram of 256 counters in each round); among equal weights the place decides.
//! * Memory order: CTAs read words that others may write, but none of those words is, or becomes, the expert of the reader: relaxed accesses
//!   at GPU scope are enough. Within the CTA barriers order the histogram.
//! * Cost: each CTA reads the indices 3 times (position), 7 times (lowest), tokens × K × 4 bytes each.

use moe_contract::{Drop, Tensor};

use super::frame::Frame;
use super::order;
use crate::device::{Builder, Global, Pointer, Pred, Shared, U32, Value, Variable};

/// Values of a digit.
const BINS: u32 = 256;
/// Bits of a digit.
const DIGIT: u32 = 8;

pub(super) fn body(frame: &Frame<'_, '_>) {
    frame.end_on_error();
    let (k, exchange) = (frame.k, frame.exchange);
    let indices = frame.tensor::<U32>(Tensor::Indices);
    let picks = frame.tokens() * exchange.top_k;
    let is_picked = |pick| indices.at(pick).load_relaxed_gpu().equals(k.cta());
    let drop = |pick| indices.at(pick).store_relaxed_gpu(k.u32(u32::MAX));

    match exchange.drop {
        // Without a rule there is nothing to do, and no plan has this kernel.
        None => {}
        Some(Drop::Position) => {
            let capacity = frame.capacity();
            let find = |pick| (is_picked(pick), pick);
            order::places(k, exchange.threads, picks, 1, find, |entry| {
                k.when(entry.listed & entry.place.at_least(capacity), || drop(entry.index));
            });
        }
        Some(Drop::Lowest) => {
            let weights = frame.tensor::<U32>(Tensor::Weights);
            let limit = Limit::find(frame, picks, is_picked, weights);
            // Listed are those that their place decides on; the detail is 1 for those that go anyway.
            let find = |pick| {
                let (key, over) = (key(weights.at(pick).load()), is_picked(pick) & limit.exists);
                (over & key.equals(limit.key), (over & key.less(limit.key)).as_u32())
            };
            order::places(k, exchange.threads, picks, 2, find, |entry| {
                let late = entry.listed & entry.place.at_least(limit.equal_stay);
                k.when(late | entry.detail.differs(k.u32(0)), || drop(entry.index));
            });
        }
    }
}

/// A number that is larger for a larger weight, the same for both zeros.
fn key(bits: Value<'_, U32>) -> Value<'_, U32> {
    let k = bits.builder();
    let bits = k.u32(0).when(bits.equals(k.u32(1 << 31)), bits);
    let negative = bits ^ u32::MAX;
    negative.when(bits.is_negative(), bits | (1 << 31))
}

/// The largest weight of which not all picks stay.
struct Limit<'k> {
    /// The expert has more picks than it can keep.
    exists: Value<'k, Pred>,
    /// Its key; picks with a smaller one go.
    key: Value<'k, U32>,
    /// How many picks with this key stay: the first ones.
    equal_stay: Value<'k, U32>,
}

impl<'k> Limit<'k> {
    fn find(
        frame: &Frame<'k, '_>,
        picks: Value<'k, U32>,
        is_picked: impl Fn(Value<'k, U32>) -> Value<'k, Pred>,
        weights: Pointer<'k, Global, U32>,
    ) -> Limit<'k> {
        let (k, threads) = (frame.k, frame.exchange.threads);
        let histogram = k.shared::<U32>(BINS);
        let (prefix, left) = (k.variable(k.u32(0)), k.variable(frame.capacity()));
        let exists = k.variable(k.truth(true));
        k.for_each(k.u32(0), k.u32(32 / DIGIT), k.u32(1), |round| {
            let shift = k.u32(32 - DIGIT) - round * DIGIT;
            // All have read the counters of the round before.
            k.cta_barrier();
            k.for_each(k.thread(), k.u32(BINS), k.u32(threads), |bin| histogram.at(bin).store(k.u32(0)));
            k.cta_barrier();
            k.for_each(k.thread(), picks, k.u32(threads), |pick| {
                k.when(is_picked(pick), || {
                    let key = key(weights.at(pick).load());
                    // Only keys that begin as the one that is looked for; in two steps, as a shift by 32 is none.
                    let begins = (key >> shift >> DIGIT).equals(prefix.get());
                    let bin = (key >> shift) & (BINS - 1);
                    k.when(begins, || histogram.at(bin).red_relaxed_cta_add(k.u32(1)));
                });
            });
            k.cta_barrier();
            let digit = Limit::digit(k, histogram, left, exists);
            prefix.set((prefix.get() << DIGIT) | digit);
        });
        Limit { exists: exists.get(), key: prefix.get(), equal_stay: left.get() }
    }

    /// The digit of the first pick that goes, which has `left` picks before it; lowers `left` by those with larger digits. All warps do
    /// the same.
    fn digit(
        k: &'k Builder,
        histogram: Pointer<'k, Shared, U32>,
        left: Variable<'k, U32>,
        exists: Variable<'k, Pred>,
    ) -> Value<'k, U32> {
        let per_lane = BINS / 32;
        // Lane 0 has the largest digits.
        let top = k.u32(BINS - 1) - k.lane() * per_lane;
        let counts: Vec<Value<U32>> = (0..per_lane).map(|below| histogram.at(top - below).load()).collect();
        let own = counts.iter().fold(k.u32(0), |sum, &count| sum + count);
        let mut sum = own;
        for distance in [1, 2, 4, 8, 16] {
            let below = sum.of_lane_below(distance);
            sum = sum + below.when(k.lane().at_least(k.u32(distance)), k.u32(0));
        }
        let mut before = sum - own;
        let reached = k.ballot(left.get().less(sum));
        let (mut digit, mut larger, mut found) = (k.u32(0), k.u32(0), k.truth(false));
        for (below, &count) in (0..).zip(&counts) {
            let here = left.get().less(before + count) & !found;
            digit = (top - below).when(here, digit);
            larger = before.when(here, larger);
            found = found | here;
            before = before + count;
        }
        exists.set(exists.get() & reached.differs(k.u32(0)));
        let lane = (reached | (1 << 31)).lowest_set();
        left.set(left.get() - larger.of_lane(lane));
        digit.of_lane(lane)
    }
}
