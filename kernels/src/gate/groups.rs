//! Reductions of the experts of each group.
//!
//! A group lies within a lane, beside others, or on several lanes, of which the last may have fewer experts. In the second case every one of its lanes computes the result:
//! by a butterfly over the group's lanes where their number is a power of two, otherwise by fetching from each of them in turn.

use moe_gate::ir::Reduction;

use super::arithmetic::comparable;
use super::network;
use super::warp::{Warp, sequential};
use crate::device::{F32, Pred, U32, Value};

/// The lanes of the group that a lane's experts belong to.
struct GroupLanes<'k> {
    /// Lanes.
    count: u32,
    /// Place of the first.
    first: Value<'k, U32>,
}

impl<'k> Warp<'k> {
    /// One number for each of the lane's groups.
    pub fn reduce_groups(
        &self,
        numbers: &[Value<'k, F32>],
        size: u32,
        top: Option<u32>,
        reduction: Reduction,
    ) -> Vec<Value<'k, F32>> {
        let lanes = self.group_lanes(size);
        let is_sum = top.is_none() && reduction != Reduction::Max;
        let numbers = self.filled_up(numbers, size, if is_sum { 0.0 } else { f32::NEG_INFINITY });
        let groups = numbers.chunks((size as usize).min(numbers.len()));
        let sum = |own: &[Value<'k, F32>]| match top {
            Some(count) => sequential(self.largest_of_group(own, lanes.as_ref(), count).into_iter().map(comparable)),
            None => self.sum_of_group(own, lanes.as_ref()),
        };
        groups
            .map(|own| match reduction {
                Reduction::Sum => sum(own),
                Reduction::Mean => sum(own) / self.k.f32(top.unwrap_or(size) as f32),
                Reduction::Max => self.maximum_of_group(own, lanes.as_ref()),
            })
            .collect()
    }

    /// Whether each of the lane's experts is among the `count` largest of its group. The numbers hold no NaN.
    pub fn choose_in_groups(&self, numbers: &[Value<'k, F32>], size: u32, count: u32) -> Vec<Value<'k, Pred>> {
        let lanes = self.group_lanes(size);
        // What is filled up ties with nothing that has to be chosen before: it comes after all of its group.
        let numbers = self.filled_up(numbers, size, f32::NEG_INFINITY);
        let groups = numbers.chunks((size as usize).min(numbers.len()));
        groups.flat_map(|own| self.choose_in_group(own, lanes.as_ref(), count)).collect()
    }

    /// Whether a condition holds for an expert of the same group, for each of the lane's experts.
    pub fn any_in_groups(&self, conditions: &[Value<'k, Pred>], size: u32) -> Vec<Value<'k, Pred>> {
        let lanes = self.group_lanes(size);
        let conditions: Vec<_> = if self.lanes.fills_up_groups(size) {
            self.experts().existing(|expert| conditions[expert]).collect()
        } else {
            conditions.to_vec()
        };
        let groups = conditions.chunks((size as usize).min(conditions.len()));
        groups
            .flat_map(|own| {
                let any = own.iter().copied().reduce(|a, b| a | b).expect("a group has experts");
                let any = match &lanes {
                    None => any,
                    Some(lanes) => (self.k.ballot(any) & self.mask_of(lanes)).differs(self.k.u32(0)),
                };
                vec![any; own.len()]
            })
            .collect()
    }

    /// The numbers of a lane's experts; on the last lane of a group with fewer, `fill` behind them.
    fn filled_up(&self, numbers: &[Value<'k, F32>], size: u32, fill: f32) -> Vec<Value<'k, F32>> {
        if self.lanes.fills_up_groups(size) {
            return self.experts().filled(numbers, self.k.f32(fill));
        }
        numbers.to_vec()
    }

    /// `None` where a group lies within a lane.
    fn group_lanes(&self, size: u32) -> Option<GroupLanes<'k>> {
        (size > self.lanes.per_lane).then(|| {
            let count = self.lanes.per_group(size);
            GroupLanes { count, first: self.place / self.k.u32(count) * count }
        })
    }

    fn mask_of(&self, lanes: &GroupLanes<'k>) -> Value<'k, U32> {
        self.k.u32(u32::MAX >> (32 - lanes.count)) << (self.base + lanes.first)
    }

    /// Combines what the lanes of a group hold, in ascending order of lanes or in any order that gives the same.
    fn across<T>(&self, own: T, lanes: &GroupLanes<'k>, fetch: Fetch<'_, 'k, T>, combine: impl Fn(T, T) -> T) -> T {
        if lanes.count.is_power_of_two() {
            let steps = lanes.count.trailing_zeros();
            return (0..steps).fold(own, |own, step| {
                let other = fetch(&own, &|number| number.of_lane_xor(1 << step));
                combine(own, other)
            });
        }
        let lane = |index: u32| fetch(&own, &move |number| self.of_place(number, lanes.first + index));
        (1..lanes.count).fold(lane(0), |all, index| combine(all, lane(index)))
    }

    fn largest_of_group(
        &self,
        own: &[Value<'k, F32>],
        lanes: Option<&GroupLanes<'k>>,
        count: u32,
    ) -> Vec<Value<'k, F32>> {
        let own = network::largest(own, count);
        match lanes {
            None => own,
            Some(lanes) => {
                let fetch = |list: &Vec<Value<'k, F32>>, other: &dyn Fn(Value<'k, F32>) -> Value<'k, F32>| {
                    list.iter().map(|&number| other(number)).collect()
                };
                self.across(own, lanes, &fetch, |a, b| network::merge(&a, &b, count))
            }
        }
    }

    fn sum_of_group(&self, own: &[Value<'k, F32>], lanes: Option<&GroupLanes<'k>>) -> Value<'k, F32> {
        let own = sequential(own.iter().copied());
        match lanes {
            None => own,
            Some(lanes) => sequential((0..lanes.count).map(|index| self.of_place(own, lanes.first + index))),
        }
    }

    fn maximum_of_group(&self, own: &[Value<'k, F32>], lanes: Option<&GroupLanes<'k>>) -> Value<'k, F32> {
        let lowest = self.k.f32(f32::NEG_INFINITY);
        let own = own.iter().fold(lowest, |largest, &number| largest.larger_number(number));
        comparable(match lanes {
            None => own,
            Some(lanes) => self.across(own, lanes, &|&number, other| other(number), |a, b| a.larger_number(b)),
        })
    }

    fn choose_in_group(
        &self,
        own: &[Value<'k, F32>],
        lanes: Option<&GroupLanes<'k>>,
        count: u32,
    ) -> Vec<Value<'k, Pred>> {
        let k = self.k;
        let list = self.largest_of_group(own, lanes, count);
        let threshold = *list.last().expect("at least one is counted");
        let tied: Vec<_> = own.iter().map(|number| number.equals(threshold)).collect();
        let above: Vec<_> = own.iter().map(|&number| threshold.less(number)).collect();
        let number_of = |conditions: &[Value<'k, Pred>], mask: Option<Value<'k, U32>>| {
            let each = |&condition: &Value<'k, Pred>| match mask {
                None => condition.as_u32(),
                Some(mask) => (k.ballot(condition) & mask).count_ones(),
            };
            conditions.iter().map(each).reduce(|sum, more| sum + more).expect("a group has experts")
        };
        let (all, below) = match lanes {
            None => (None, None),
            Some(lanes) => {
                let lower = (k.u32(1) << (self.place - lanes.first)) - 1;
                (Some(self.mask_of(lanes)), Some(lower << (self.base + lanes.first)))
            }
        };
        let places = k.u32(count) - number_of(&above, all);
        let mut before = below.map_or(k.u32(0), |below| number_of(&tied, Some(below)));
        tied.into_iter()
            .zip(above)
            .map(|(tied, above)| {
                let chosen = above | (tied & before.less(places));
                before = before + tied.as_u32();
                chosen
            })
            .collect()
    }
}

/// What another lane holds in the place of this lane's, given how to fetch one number from it.
type Fetch<'f, 'k, T> = &'f dyn Fn(&T, &dyn Fn(Value<'k, F32>) -> Value<'k, F32>) -> T;
