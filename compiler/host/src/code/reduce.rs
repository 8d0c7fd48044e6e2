//! From many numbers to one, in the order of [`moe_gate::order`].

use std::ops::Range;

use cranelift_codegen::ir::condcodes::FloatCC;
use cranelift_codegen::ir::{InstBuilder, Value, types};
use moe_gate::ir::Reduction;
use moe_gate::math::Arithmetic;
use moe_gate::order::Lanes;

use super::emit::{Address, Emitter, Step};
use super::layout::{LANES, Layout, NUMBER, REGISTER};

/// The largest n of a group up to which they are kept in registers.
const MOST_KEPT: u32 = 8;

impl Emitter<'_> {
    /// The numbers at some indices of a vector.
    fn numbers(&mut self, of: Address, layout: Layout, indices: Range<u32>) -> Vec<Value> {
        indices.map(|index| self.load_as(types::F32, of, Step::of(layout.position(index) * NUMBER))).collect()
    }

    fn zero(&mut self) -> Value {
        self.b.ins().f32const(0.0)
    }

    /// [`moe_gate::order::sequential`]
    fn sequential(&mut self, numbers: &[Value]) -> Value {
        let sum = numbers.iter().copied().reduce(|sum, number| self.b.ins().fadd(sum, number));
        sum.unwrap_or_else(|| self.zero())
    }

    /// [`moe_gate::order::butterfly`]
    fn butterfly(&mut self, mut level: Vec<Value>) -> Value {
        let zero = self.zero();
        level.resize(level.len().next_power_of_two(), zero);
        while level.len() > 1 {
            level = level.chunks_exact(2).map(|pair| self.b.ins().fadd(pair[0], pair[1])).collect();
        }
        level[0]
    }

    /// [`moe_gate::order::sum_experts`]
    pub(crate) fn sum_experts(&mut self, of: Address, layout: Layout, lanes: Lanes) -> Value {
        let zero = self.zero();
        let mut partial: Vec<Value> =
            lanes.ranges(layout.elements()).map(|range| self.sequential_filled(of, layout, range, lanes)).collect();
        partial.resize(lanes.lanes as usize, zero);
        self.butterfly(partial)
    }

    /// The sum of a lane: one that is partly filled adds +0 for the rest.
    fn sequential_filled(&mut self, of: Address, layout: Layout, range: Range<u32>, lanes: Lanes) -> Value {
        let is_full = range.len() == lanes.per_lane as usize;
        let numbers = self.numbers(of, layout, range);
        let sum = self.sequential(&numbers);
        if is_full {
            return sum;
        }
        let zero = self.zero();
        self.b.ins().fadd(sum, zero)
    }

    /// [`moe_gate::order::sum_groups`]
    pub(crate) fn sum_groups(&mut self, of: Address, layout: Layout) -> Value {
        let numbers = self.numbers(of, layout, 0..layout.elements());
        self.sequential(&numbers)
    }

    /// [`moe_gate::order::sum_picks`]
    pub(crate) fn sum_picks(&mut self, of: Address, layout: Layout) -> Value {
        let numbers = self.numbers(of, layout, 0..layout.elements());
        self.butterfly(numbers)
    }

    /// [`moe_gate::order::maximum`], in all lanes.
    pub(crate) fn maximum(&mut self, of: Address, layout: Layout) -> Value {
        let parts = layout.registers().min(4);
        let maxima: Vec<_> = (0..parts).map(|_| self.register(f32::NEG_INFINITY)).collect();
        let lowest = self.float(f32::NEG_INFINITY);
        let mut turn = 0;
        self.each_register(layout, parts, &mut |e, step, valid| {
            let number = e.load(of, step);
            let number = valid.map_or(number, |valid| e.select(valid, number, lowest));
            e.update(maxima[turn % maxima.len()], |e, old| e.larger(number, old));
            turn += 1;
        });
        let maxima: Vec<Value> = maxima.into_iter().map(|maximum| self.b.use_var(maximum)).collect();
        let maximum = maxima.into_iter().reduce(|a, b| self.larger(a, b)).unwrap_or(lowest);
        let maximum = self.across(maximum, Self::larger);
        let zero = self.float(0.0);
        self.add(maximum, zero)
    }

    /// One number per group over all of it.
    pub(crate) fn reduce_groups(&mut self, of: Address, layout: Layout, reduction: Reduction, lanes: Lanes) -> Address {
        let result = self.allocate_vector(Layout { rows: 1, width: layout.rows });
        if reduction == Reduction::Max {
            self.largest_of_groups(of, layout, 1, result);
            return result;
        }
        for group in 0..layout.rows {
            let (first, end) = (group * layout.width, (group + 1) * layout.width);
            let mut sum = if layout.width <= lanes.per_lane {
                let numbers = self.numbers(of, layout, first..end);
                self.sequential(&numbers)
            } else {
                let ranges = (first..end).step_by(lanes.per_lane as usize);
                let ranges = ranges.map(|start| start..(start + lanes.per_lane).min(end));
                let partial: Vec<Value> =
                    ranges.map(|range| self.sequential_filled(of, layout, range, lanes)).collect();
                self.sequential(&partial)
            };
            if reduction == Reduction::Mean {
                let count = self.b.ins().f32const(layout.width as f32);
                sum = self.b.ins().fdiv(sum, count);
            }
            self.store(sum, result, Step::of(group * NUMBER));
        }
        result
    }

    /// One number per group over its `count` largest.
    pub(crate) fn reduce_largest(&mut self, of: Address, layout: Layout, count: u32, reduction: Reduction) -> Address {
        let groups = Layout { rows: 1, width: layout.rows };
        let result = self.allocate_vector(groups);
        if reduction == Reduction::Max || count <= MOST_KEPT {
            let count = if reduction == Reduction::Max { 1 } else { count };
            self.largest_of_groups(of, layout, count, result);
        } else {
            self.largest_one_by_one(of, layout, count, result);
        }
        if reduction == Reduction::Mean {
            let count = self.float(count as f32);
            self.each_register(groups, 1, &mut |e, step, _| {
                let sum = e.load(result, step);
                let mean = e.divide(sum, count);
                e.store(mean, result, step);
            });
        }
        result
    }

    /// The sum of the `count` largest of each group. Each lane keeps its own largest; then those of four groups are transposed, so that
    /// a lane has one group, and merged.
    fn largest_of_groups(&mut self, of: Address, layout: Layout, count: u32, result: Address) {
        let row_bytes = layout.row_registers() * REGISTER;
        let (whole, rest) = (layout.rows / LANES, layout.rows % LANES);
        let result_step = self.counter(0);
        let four = |e: &mut Self, step: Step, groups: u32| {
            let mut lists = Vec::new();
            for group in 0..groups {
                let row = Step { fixed: step.fixed + (group * row_bytes) as i32, ..step };
                lists.push(e.largest_of_lanes(of, layout, row, count));
            }
            let unused = vec![e.float(f32::NEG_INFINITY); count as usize];
            lists.resize(4, unused);
            let lowest = e.float(f32::NEG_INFINITY);
            let mut merged = vec![lowest; count as usize];
            for rank in 0..count as usize {
                let [a, b, c, d] = &lists[..] else { unreachable!("there are four lists") };
                for column in e.transpose([a[rank], b[rank], c[rank], d[rank]]) {
                    e.insert(&mut merged, column);
                }
            }
            let zero = e.float(0.0);
            let comparable: Vec<Value> = merged.into_iter().map(|number| e.add(number, zero)).collect();
            let sum = comparable.into_iter().reduce(|sum, number| e.add(sum, number)).unwrap_or(zero);
            let to = Step { running: Some(e.b.use_var(result_step)), fixed: 0 };
            e.store(sum, result, to);
            e.update(result_step, |e, old| e.b.ins().iadd_imm_s(old, i64::from(REGISTER)));
        };
        self.repeat(whole, LANES * row_bytes, 1, &mut |e, step| four(e, step, LANES));
        if rest > 0 {
            four(self, Step::of(whole * LANES * row_bytes), rest);
        }
    }

    /// The `count` largest of each lane of a row, from the largest to the smallest. A NaN is skipped if `count` is 1.
    fn largest_of_lanes(&mut self, of: Address, layout: Layout, row: Step, count: u32) -> Vec<Value> {
        let largest: Vec<_> = (0..count).map(|_| self.register(f32::NEG_INFINITY)).collect();
        let lowest = self.float(f32::NEG_INFINITY);
        self.each_register_of_row(layout, row, 8, &mut |e, step, valid| {
            let number = e.load(of, step);
            let number = valid.map_or(number, |valid| e.select(valid, number, lowest));
            let mut list: Vec<Value> = largest.iter().map(|&variable| e.b.use_var(variable)).collect();
            e.insert(&mut list, number);
            largest.iter().zip(list).for_each(|(&variable, number)| e.b.def_var(variable, number));
        });
        largest.into_iter().map(|variable| self.b.use_var(variable)).collect()
    }

    /// Keeps the largest in a list that falls in each lane.
    fn insert(&mut self, list: &mut [Value], mut number: Value) {
        let last = list.len() - 1;
        for (place, kept) in list.iter_mut().enumerate() {
            let old = *kept;
            *kept = self.larger(number, old);
            if place < last {
                number = self.smaller(number, old);
            }
        }
    }

    /// The sum of the `count` largest of each group: takes the largest away, one by one.
    fn largest_one_by_one(&mut self, of: Address, layout: Layout, count: u32, result: Address) {
        let row_layout = layout.row();
        let copy = self.allocate_vector(row_layout);
        let lowest = self.float(f32::NEG_INFINITY);
        self.each_row(layout, &mut |e, row, index| {
            let source = e.address(of, row);
            e.each_register(row_layout, 1, &mut |e, step, valid| {
                let number = e.load(source, step);
                let number = valid.map_or(number, |valid| e.select(valid, number, lowest));
                e.store(number, copy, step);
            });
            let sum = e.register(0.0);
            let turns = e.index(i64::from(count));
            e.repeat_times(turns, &mut |e, _| {
                let largest = e.maximum(copy, row_layout);
                e.update(sum, |e, old| e.add(old, largest));
                e.remove_first(copy, row_layout, largest);
            });
            let sum = e.b.use_var(sum);
            let sum = e.first_lane(sum);
            e.store(sum, result, index);
        });
    }

    /// Replaces the first number that is equal to `number` by −∞.
    fn remove_first(&mut self, row: Address, layout: Layout, number: Value) {
        let number = self.first_lane(number);
        let width = i64::from(layout.width);
        let place = self.counter(0);
        let found = |e: &mut Self| {
            let now = e.b.use_var(place);
            let distance = e.element(now);
            (e.load_as(types::F32, row, distance), distance)
        };
        self.repeat_while(
            &mut |e| {
                let (candidate, _) = found(e);
                let differs = e.b.ins().fcmp(FloatCC::NotEqual, candidate, number);
                let now = e.b.use_var(place);
                // The last element ends the search: in a faulty token there may be none that is equal.
                let is_before_last =
                    e.b.ins().icmp_imm_s(cranelift_codegen::ir::condcodes::IntCC::SignedLessThan, now, width - 1);
                e.b.ins().band(differs, is_before_last)
            },
            &mut |e| e.update(place, |e, old| e.b.ins().iadd_imm_s(old, 1)),
        );
        let (_, distance) = found(self);
        let lowest = self.b.ins().f32const(f32::NEG_INFINITY);
        self.store(lowest, row, distance);
    }
}
