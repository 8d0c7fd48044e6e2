//! Where a thread is, and how the elements of a vector lie on the lanes of its token.
//!
//! Invariants:
//! * all lanes of a warp take every branch together, except around a single store; collective operations name all 32 lanes;
//! * experts lie as [`moe_gate::order::Lanes`] says, where the last lane of a group may have fewer than the others. A group that spans
//!   lanes has its number on each of them. Pick p of k lies on every
//!   lane that is p modulo the power of two at or above k, so that a butterfly over so many lanes gives its result to all;
//! * a place without an element holds some number that was computed from real ones; whoever sums or compares looks at
//!   [`Distribution::exists`] first.

use moe_gate::ir::{Program, Type};
use moe_gate::order::Lanes;

use super::arithmetic::{comparable, from_sortable, sortable};
use crate::device::{Builder, F32, Pred, U32, Value};

/// The lanes of one token, as one of them sees them.
#[derive(Clone, Copy)]
pub(super) struct Warp<'k> {
    pub k: &'k Builder,
    pub lanes: Lanes,
    experts: u32,
    groups: u32,
    /// Position of the lane among those of its token.
    pub place: Value<'k, U32>,
    /// The token's first lane.
    pub base: Value<'k, U32>,
    /// The token's lanes, as bits.
    mask: Value<'k, U32>,
}

/// How the elements of one vector lie on the lanes of a token.
pub(super) struct Distribution<'k> {
    /// Elements.
    pub count: u32,
    /// Elements on each lane.
    pub each: u32,
    /// So many elements begin on a lane of their own: all, or those of a group.
    pub block: u32,
    /// The first of the lane's elements.
    pub first: Value<'k, U32>,
    /// Whether each place of the lane has an element; `None` where it has on every lane.
    pub exists: Vec<Option<Value<'k, Pred>>>,
    /// Whether this lane stands for those with the same elements; `None` where no two lanes have the same.
    pub counts: Option<Value<'k, Pred>>,
    /// The lanes with earlier elements that count, as bits.
    pub earlier: Value<'k, U32>,
    /// An element lies on lane `element / each × copies`, unless blocks end within lanes.
    copies: u32,
}

impl<'k> Warp<'k> {
    pub fn new(k: &'k Builder, program: &Program) -> Warp<'k> {
        let lanes = Lanes::of(program.experts(), program.group_size());
        let lane = k.lane();
        let (place, base, mask) = if lanes.lanes == 32 {
            (lane, k.u32(0), k.u32(u32::MAX))
        } else {
            let place = lane & (lanes.lanes - 1);
            let base = lane - place;
            (place, base, k.u32((1 << lanes.lanes) - 1) << base)
        };
        Warp { k, lanes, experts: program.experts(), groups: program.groups().unwrap_or(0), place, base, mask }
    }

    /// Tokens of a warp.
    pub fn tokens(&self) -> u32 {
        32 / self.lanes.lanes
    }

    /// # Panics
    /// If the type is no vector.
    pub fn distribution(&self, ty: Type) -> Distribution<'k> {
        match ty {
            Type::Experts => self.experts(),
            Type::Groups => self.of_groups(),
            Type::Picks(k) => self.picks(k),
            _ => panic!("{ty} is no vector"),
        }
    }

    pub fn experts(&self) -> Distribution<'k> {
        let Lanes { lanes, per_lane, block } = self.lanes;
        if block == self.experts {
            return self.blocks(self.experts, per_lane, lanes);
        }
        let per_group = self.lanes.per_group(block);
        let (group, place) = (self.place / self.k.u32(per_group), self.place % per_group);
        let is_group = (lanes > self.groups * per_group).then(|| group.less(self.k.u32(self.groups)));
        let on_last_lane = block - (per_group - 1) * per_lane;
        let exists = |index: u32| {
            let is_full = (index >= on_last_lane).then(|| place.less(self.k.u32(per_group - 1)));
            is_full.into_iter().chain(is_group).reduce(|a, b| a & b)
        };
        Distribution {
            count: self.experts,
            each: per_lane,
            block,
            first: group * block + place * per_lane,
            exists: (0..per_lane).map(exists).collect(),
            counts: None,
            earlier: self.below(self.place),
            copies: 1,
        }
    }

    fn of_groups(&self) -> Distribution<'k> {
        let (k, size) = (self.k, self.experts / self.groups);
        let Lanes { lanes, per_lane, .. } = self.lanes;
        if size <= per_lane {
            return self.blocks(self.groups, per_lane / size, lanes);
        }
        let copies = self.lanes.per_group(size);
        let first = self.place / k.u32(copies);
        let exists = (lanes > self.groups * copies).then(|| first.less(k.u32(self.groups)));
        let leads = self.place.equals(first * copies);
        Distribution {
            count: self.groups,
            each: 1,
            block: self.groups,
            first,
            exists: vec![exists],
            counts: Some(exists.map_or(leads, |exists| exists & leads)),
            earlier: self.below(first * copies),
            copies,
        }
    }

    pub fn picks(&self, count: u32) -> Distribution<'k> {
        let k = self.k;
        let period = count.next_power_of_two();
        let first = if period == self.lanes.lanes { self.place } else { self.place & (period - 1) };
        Distribution {
            count,
            each: 1,
            block: count,
            first,
            exists: vec![(period != count).then(|| first.less(k.u32(count)))],
            counts: (self.lanes.lanes != count).then(|| self.place.less(k.u32(count))),
            earlier: self.below(first),
            copies: 1,
        }
    }

    /// `each` neighbouring elements on each lane, none twice.
    fn blocks(&self, count: u32, each: u32, lanes: u32) -> Distribution<'k> {
        let first = if each == 1 { self.place } else { self.place * each };
        let having = |index: u32| count / each + u32::from(index < count % each);
        let exists = |index: u32| (lanes > having(index)).then(|| self.place.less(self.k.u32(having(index))));
        let exists = (0..each).map(exists).collect();
        Distribution {
            count,
            each,
            block: count,
            first,
            exists,
            counts: None,
            earlier: self.below(self.place),
            copies: 1,
        }
    }

    /// The lanes of the token whose place is below a number, as bits.
    fn below(&self, place: Value<'k, U32>) -> Value<'k, U32> {
        ((self.k.u32(1) << place) - 1) << self.base
    }

    /// The value of a lane of the token.
    pub fn of_place(&self, value: Value<'k, F32>, place: Value<'k, U32>) -> Value<'k, F32> {
        value.of_lane(self.base + place)
    }

    /// The lanes of the token where a condition holds, as bits.
    pub fn ballot(&self, condition: Value<'k, Pred>) -> Value<'k, U32> {
        self.k.ballot(condition) & self.mask
    }

    /// Whether a condition holds on some lane of the token.
    pub fn any(&self, condition: Value<'k, Pred>) -> Value<'k, Pred> {
        self.ballot(condition).differs(self.k.u32(0))
    }

    /// Whether a condition holds on some lane of the warp: the same for all its tokens.
    pub fn any_of_warp(&self, condition: Value<'k, Pred>) -> Value<'k, Pred> {
        self.k.ballot(condition).differs(self.k.u32(0))
    }

    fn butterfly<T: Copy>(value: T, lanes: u32, other: impl Fn(T, u32) -> T, combine: impl Fn(T, T) -> T) -> T {
        let steps = lanes.trailing_zeros();
        (0..steps).fold(value, |value, step| combine(value, other(value, 1 << step)))
    }

    /// The largest key of the token.
    pub fn largest_key(&self, key: Value<'k, U32>) -> Value<'k, U32> {
        if self.lanes.lanes == 32 {
            return key.warp_max();
        }
        Self::butterfly(key, self.lanes.lanes, |key, distance| key.of_lane_xor(distance), |a, b| a.max(b))
    }

    /// The smallest number of the token. For rare paths: a butterfly.
    pub fn smallest_id(&self, id: Value<'k, U32>) -> Value<'k, U32> {
        Self::butterfly(id, self.lanes.lanes, |id, distance| id.of_lane_xor(distance), |a, b| a.min(b))
    }

    /// The smallest number of the token. For rare paths: a butterfly.
    pub fn smallest(&self, number: Value<'k, F32>) -> Value<'k, F32> {
        let other = |number: Value<'k, F32>, distance| number.of_lane_xor(distance);
        Self::butterfly(number, self.lanes.lanes, other, |a, b| a.smaller_number(b))
    }

    /// The sum of a small number of each lane.
    pub fn sum_small(&self, number: Value<'k, U32>) -> Value<'k, U32> {
        if self.lanes.lanes == 32 {
            return number.warp_sum();
        }
        Self::butterfly(number, self.lanes.lanes, |number, distance| number.of_lane_xor(distance), |a, b| a + b)
    }

    /// The sum over the lower lanes of the token.
    pub fn sum_below(&self, number: Value<'k, U32>) -> Value<'k, U32> {
        let k = self.k;
        let mut sum = number;
        for step in 0..self.lanes.lanes.trailing_zeros() {
            let distance = 1 << step;
            let lower = sum.of_lane_below(distance);
            sum = (sum + lower).when(self.place.at_least(k.u32(distance)), sum);
        }
        sum - number
    }

    /// [`moe_gate::order::maximum`]: NaN is skipped.
    pub fn maximum(&self, numbers: &[Value<'k, F32>], over: &Distribution<'k>) -> Value<'k, F32> {
        let lowest = self.k.f32(f32::NEG_INFINITY);
        let numbers = over.filled(numbers, lowest);
        let largest = numbers.into_iter().fold(lowest, |largest, number| largest.larger_number(number));
        comparable(from_sortable(self.largest_key(sortable(largest))))
    }

    /// The sum in the order of [`moe_gate::order`].
    pub fn sum(&self, numbers: &[Value<'k, F32>], ty: Type, over: &Distribution<'k>) -> Value<'k, F32> {
        let other = |number: Value<'k, F32>, distance| number.of_lane_xor(distance);
        match ty {
            Type::Groups => sequential((0..over.count).map(|group| self.element(numbers, over, group))),
            _ => {
                let lanes = if ty == Type::Experts { self.lanes.lanes } else { over.count.next_power_of_two() };
                let own = sequential(over.filled(numbers, self.k.f32(0.0)));
                Self::butterfly(own, lanes, other, |a, b| a + b)
            }
        }
    }

    /// One element, on all lanes.
    fn element(&self, numbers: &[Value<'k, F32>], over: &Distribution<'k>, index: u32) -> Value<'k, F32> {
        let place = index / over.each * over.copies;
        self.of_place(numbers[(index % over.each) as usize], self.k.u32(place))
    }
}

impl<'k> Distribution<'k> {
    /// An element that there is: that of a place, or another one. Few different numbers are held for all places of a lane.
    pub fn readable(&self, index: u32) -> Value<'k, U32> {
        let first = self.exists[index as usize]
            .map_or(self.first, |exists| self.first.when(exists, self.first.builder().u32(0)));
        first + index
    }

    /// The numbers, and another one in the places without an element.
    pub fn filled(&self, numbers: &[Value<'k, F32>], fill: Value<'k, F32>) -> Vec<Value<'k, F32>> {
        let place = |(&number, exists): (&Value<'k, F32>, &Option<Value<'k, Pred>>)| match exists {
            Some(exists) => number.when(*exists, fill),
            None => number,
        };
        numbers.iter().zip(&self.exists).map(place).collect()
    }

    /// A condition on the elements, false in the places without one.
    pub fn existing(&self, condition: impl Fn(usize) -> Value<'k, Pred>) -> impl Iterator<Item = Value<'k, Pred>> {
        self.exists.iter().enumerate().map(move |(index, exists)| match exists {
            Some(exists) => condition(index) & *exists,
            None => condition(index),
        })
    }

    /// A condition, false on lanes that others stand for.
    pub fn once(&self, condition: Value<'k, Pred>) -> Value<'k, Pred> {
        self.counts.map_or(condition, |counts| condition & counts)
    }
}

/// Ascending, starting with the first.
///
/// # Panics
/// If there is none.
pub(super) fn sequential<'k>(numbers: impl IntoIterator<Item = Value<'k, F32>>) -> Value<'k, F32> {
    numbers.into_iter().reduce(|sum, number| sum + number).expect("a sum has terms")
}
