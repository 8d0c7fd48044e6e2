//! Choosing the largest of a vector without sorting it.
//!
//! Invariant: exactly `count` elements are chosen: those with the largest keys, ties (−0 and +0 tie) to the lowest index.
//!
//! Each lane sorts its own keys; `count` times the warp takes the largest of all heads, and the lanes that had it drop it. The last one
//! taken is a *threshold*: at least `count` keys reach it, and without ties exactly so many. That is checked with one sum, and only where
//! it fails do the lanes raise the threshold and leave out those of the tied keys that come too late.
//! Cost for 8 of 256 on a warp, without ties: about 130 instructions.

use super::arithmetic::{from_sortable, sortable};
use super::network;
use super::warp::{Distribution, Warp};
use crate::device::{F32, Pred, U32, Value, Variable};

/// Which elements of a lane are chosen: a bit for each.
pub(super) struct Chosen<'k>(Vec<Value<'k, U32>>);

impl<'k> Chosen<'k> {
    fn new(elements: &[Value<'k, Pred>]) -> Chosen<'k> {
        let bit = |(index, &chosen): (u32, &Value<'k, Pred>)| {
            let k = chosen.builder();
            k.u32(1 << index).when(chosen, k.u32(0))
        };
        let word = |elements: &[Value<'k, Pred>]| {
            (0..).zip(elements).map(bit).reduce(|a, b| a | b).expect("a chunk has elements")
        };
        Chosen(elements.chunks(32).map(word).collect())
    }

    /// Whether an element is chosen.
    pub fn contains(&self, index: u32) -> Value<'k, Pred> {
        let word = self.0[index as usize / 32];
        (word & (1 << (index % 32))).differs(word.builder().u32(0))
    }

    /// How many are chosen.
    pub fn count(&self) -> Value<'k, U32> {
        self.0.iter().map(|word| word.count_ones()).reduce(|a, b| a + b).expect("a lane has places")
    }

    /// The words, each with the index of its lowest bit.
    pub fn words(&self) -> impl Iterator<Item = (u32, Value<'k, U32>)> {
        (0..).step_by(32).zip(self.0.iter().copied())
    }
}

impl<'k> Warp<'k> {
    /// The `count` largest elements. The keys hold no NaN.
    pub fn choose(&self, keys: &[Value<'k, F32>], over: &Distribution<'k>, count: u32) -> Chosen<'k> {
        let list = network::largest(&over.filled(keys, self.k.f32(f32::NEG_INFINITY)), count);
        self.choose_with(keys, list, over, count)
    }

    /// The same for a caller who has the `count` largest keys of the lane, descending.
    pub fn choose_with(
        &self,
        keys: &[Value<'k, F32>],
        list: Vec<Value<'k, F32>>,
        over: &Distribution<'k>,
        count: u32,
    ) -> Chosen<'k> {
        let k = self.k;
        if count == over.count {
            return Chosen::new(&over.existing(|_| k.truth(true)).collect::<Vec<_>>());
        }
        let threshold = self.threshold(list, count);
        let reach: Vec<_> = over.existing(|index| keys[index].at_least(threshold)).collect();
        let all = self.count(over, &reach);
        let words: Vec<Variable<'k, U32>> = Chosen::new(&reach).0.into_iter().map(|word| k.variable(word)).collect();
        k.when(self.any_of_warp(all.differs(k.u32(count))), || {
            let chosen = Chosen::new(&self.break_ties(keys, over, threshold, count));
            words.iter().zip(chosen.0).for_each(|(word, chosen)| word.set(chosen));
        });
        Chosen(words.into_iter().map(Variable::get).collect())
    }

    /// The last of `count` numbers, each the largest below the ones before it that some lane still has. At least `count` keys reach it.
    fn threshold(&self, list: Vec<Value<'k, F32>>, count: u32) -> Value<'k, F32> {
        let lowest = sortable(self.k.f32(f32::NEG_INFINITY));
        let mut heads: Vec<Value<'k, U32>> = list.into_iter().map(sortable).collect();
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
    fn count(&self, over: &Distribution<'k>, holds: &[Value<'k, Pred>]) -> Value<'k, U32> {
        if let [holds] = *holds {
            return self.ballot(over.once(holds)).count_ones();
        }
        let own = Chosen::new(holds).count();
        self.sum_small(over.counts.map_or(own, |counts| own.when(counts, self.k.u32(0))))
    }

    /// Raises the threshold until fewer than `count` keys are above it, and takes the first of those on it.
    fn break_ties(
        &self,
        keys: &[Value<'k, F32>],
        over: &Distribution<'k>,
        threshold: Value<'k, F32>,
        count: u32,
    ) -> Vec<Value<'k, Pred>> {
        let (k, all) = (self.k, self.k.u32(count));
        let above = |threshold: Value<'k, F32>| over.existing(|index| threshold.less(keys[index])).collect::<Vec<_>>();
        let number_above = k.variable(self.count(over, &above(threshold)));
        let threshold = k.variable(threshold);
        k.repeat_while(
            || self.any_of_warp(number_above.get().at_least(all)),
            || {
                let (now, infinity) = (threshold.get(), k.f32(f32::INFINITY));
                let next = above(now).into_iter().zip(keys).map(|(above, key)| key.when(above, infinity));
                let next = next.reduce(|a, b| a.smaller_number(b)).expect("a lane has places");
                threshold.set(self.smallest(next).when(number_above.get().at_least(all), now));
                number_above.set(self.count(over, &above(threshold.get())));
            },
        );
        let (threshold, places_left) = (threshold.get(), all - number_above.get());
        let tied: Vec<_> = over.existing(|index| keys[index].equals(threshold)).collect();
        let late = self.late(&tied, over, places_left);
        let in_time = tied.into_iter().zip(late).map(|(tied, late)| tied & !late);
        in_time.zip(above(threshold)).map(|(in_time, above)| in_time | above).collect()
    }

    /// Those of the tied elements that have at least `places` tied ones before them.
    fn late(&self, tied: &[Value<'k, Pred>], over: &Distribution<'k>, places: Value<'k, U32>) -> Vec<Value<'k, Pred>> {
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
