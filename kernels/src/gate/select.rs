//! Choosing the largest of a vector without sorting it.
//!
//! Invariant: exactly `count` elements are chosen: those with the largest keys, ties (−0 and +0 tie) to the lowest index.
//!
//! Each lane sorts its own keys; `count` times the warp takes the largest of all heads, and the lanes that had it drop it. The last one
//! taken is a *threshold*: at least `count` keys reach it, and without ties exactly so many. That is checked with one sum, and only where
//! it fails do the lanes raise the threshold and cross out those of the tied keys that come too late.
//! Cost for 8 of 256 on a warp, without ties: about 110 instructions.

use super::arithmetic::{from_sortable, sortable};
use super::network;
use super::warp::{Distribution, Warp};
use crate::device::{F32, Pred, U32, Value, Variable};

impl<'k> Warp<'k> {
    /// Whether each element of the lane is among the `count` largest. The keys hold no NaN.
    pub fn choose(&self, keys: &[Value<'k, F32>], over: &Distribution<'k>, count: u32) -> Vec<Value<'k, Pred>> {
        let k = self.k;
        if count == over.count {
            return over.existing(|_| k.truth(true)).collect();
        }
        let threshold = self.threshold(&over.filled(keys, k.f32(f32::NEG_INFINITY)), count);
        let reach = self.count(over, |index| keys[index].at_least(threshold));
        let keys: Vec<Variable<'k, F32>> = keys.iter().map(|&key| k.variable(key)).collect();
        let threshold = k.variable(threshold);
        k.when(self.any_of_warp(reach.differs(k.u32(count))), || self.break_ties(&keys, over, threshold, count));
        let threshold = threshold.get();
        over.existing(|index| keys[index].get().at_least(threshold)).collect()
    }

    /// The last of `count` numbers, each the largest below the ones before it that some lane still has. At least `count` keys reach it.
    fn threshold(&self, keys: &[Value<'k, F32>], count: u32) -> Value<'k, F32> {
        let lowest = sortable(self.k.f32(f32::NEG_INFINITY));
        let mut heads: Vec<Value<'k, U32>> = network::largest(keys, count).into_iter().map(sortable).collect();
        let mut taken = self.largest_key(heads[0]);
        for left in (1..count as usize).rev() {
            let mine = heads[0].equals(taken);
            for place in 0..left.min(heads.len()) {
                heads[place] = heads.get(place + 1).copied().unwrap_or(lowest).when(mine, heads[place]);
            }
            heads.truncate(left);
            taken = self.largest_key(heads[0]);
        }
        from_sortable(taken)
    }

    /// The number of elements of the token for which a condition holds.
    fn count(&self, over: &Distribution<'k>, condition: impl Fn(usize) -> Value<'k, Pred>) -> Value<'k, U32> {
        let mut own = over.existing(condition);
        if over.each == 1 {
            let own = own.next().expect("a lane has places");
            return self.ballot(over.once(own)).count_ones();
        }
        let own = own.map(Value::as_u32).reduce(|sum, one| sum + one).expect("a lane has places");
        self.sum_small(over.counts.map_or(own, |counts| own.when(counts, self.k.u32(0))))
    }

    /// Raises the threshold until fewer than `count` keys are above it, and makes NaN of those keys on it that come too late.
    fn break_ties(
        &self,
        keys: &[Variable<'k, F32>],
        over: &Distribution<'k>,
        threshold: Variable<'k, F32>,
        count: u32,
    ) {
        let k = self.k;
        let all = k.u32(count);
        let above = k.variable(self.count(over, |index| threshold.get().less(keys[index].get())));
        k.repeat_while(
            || self.any_of_warp(above.get().at_least(all)),
            || {
                let now = threshold.get();
                let infinity = k.f32(f32::INFINITY);
                let higher: Vec<_> = over.existing(|index| now.less(keys[index].get())).collect();
                let next = higher.iter().zip(keys).map(|(&higher, key)| key.get().when(higher, infinity));
                let next = next.reduce(|a, b| a.smaller_number(b)).expect("a lane has places");
                threshold.set(self.smallest(next).when(above.get().at_least(all), now));
                above.set(self.count(over, |index| threshold.get().less(keys[index].get())));
            },
        );
        let (threshold, places_left) = (threshold.get(), all - above.get());
        let tied: Vec<_> = over.existing(|index| keys[index].get().equals(threshold)).collect();
        for (key, late) in keys.iter().zip(self.late(&tied, over, places_left)) {
            key.set(k.f32(f32::NAN).when(late, key.get()));
        }
    }

    /// Those of the tied elements that have at least `places` tied ones before them.
    pub fn late(
        &self,
        tied: &[Value<'k, Pred>],
        over: &Distribution<'k>,
        places: Value<'k, U32>,
    ) -> Vec<Value<'k, Pred>> {
        let earlier = |&tied: &Value<'k, Pred>| (self.k.ballot(over.once(tied)) & over.earlier).count_ones();
        let mut before = tied.iter().map(earlier).reduce(|sum, more| sum + more).expect("a lane has places");
        tied.iter()
            .map(|&tied| {
                let late = tied & before.at_least(places);
                before = before + tied.as_u32();
                late
            })
            .collect()
    }
}
