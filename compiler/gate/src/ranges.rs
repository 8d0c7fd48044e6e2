//! Which numbers a value can hold, whatever a gate is given.
//!
//! Invariant: a value holds only numbers of its [`Range`], and NaN only as its [`Nan`] says, for the [`Reading`] of the program.
//!
//! A range is as wide as its operands allow one by one: what they have in common is not seen, but for the parts of a sum.

use crate::ir::{Binary, Gate, InputKind, Op, Program, Reduction, Type, ValueId};
use crate::math::Native;
use crate::range::{End, Nan, Range};

/// How a program is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// As it is executed, for a token whose logits are not NaN. Everything else is any f32; results are rounded, overflow and underflow.
    Computed,
    /// As it is executed, for a token without a fault, and with gradients of its weights up to [`WEIGHT_GRADIENT_MAX`].
    Routed,
    /// Over the real numbers, where there is a result: nothing is divided by 0. Logits and parameters are finite, and a function that only
    /// approaches a bound (an exponential its 0) does not reach it.
    Exact,
}
/// The largest gradient of a weight in [`Reading::Routed`]. A trainer that scales its loss further than that looks for infinities and NaN
/// itself.
pub const WEIGHT_GRADIENT_MAX: f64 = (1u64 << 32) as f64;
/// The ranges of all values of a program.
#[derive(Clone, Debug)]
pub struct Ranges {
    reading: Reading,
    ranges: Vec<Range>,
}

impl Ranges {
    /// Of every value of a program, as far as the program alone says it.
    pub fn of(program: &Program, reading: Reading) -> Ranges {
        let mut ranges = Ranges { reading, ranges: Vec::new() };
        program.ops().for_each(|(_, op)| ranges.push(program, op));
        ranges
    }

    /// Of every value of a gate in [`Reading::Routed`]: what is NaN as a whole only in a token with a fault is no NaN.
    pub(crate) fn routed(gate: &Gate) -> Ranges {
        let faults = nan_is_a_fault(gate);
        let mut ranges = Ranges { reading: Reading::Routed, ranges: Vec::new() };
        for (id, op) in gate.program.ops() {
            ranges.push(&gate.program, op);
            let range = &mut ranges.ranges[id.0 as usize];
            if range.nan == Nan::All && faults[id.0 as usize] {
                range.nan = Nan::Never;
            }
        }
        ranges
    }

    /// The range of a value. Of a choice it says nothing.
    pub fn get(&self, value: ValueId) -> Range {
        self.ranges[value.0 as usize]
    }

    /// Adds that of the next operation of a program.
    pub(crate) fn push(&mut self, program: &Program, op: &Op) {
        let mut range = self.range(program, op);
        if self.reading != Reading::Exact {
            range = range.computed();
        }
        let is_scalar = program.type_of(ValueId(self.ranges.len() as u32)) == Type::Scalar;
        if is_scalar && range.nan == Nan::Some {
            range.nan = Nan::All;
        }
        self.ranges.push(range);
    }

    fn range(&self, program: &Program, op: &Op) -> Range {
        let length = |value: ValueId| program.length(program.type_of(value));
        match *op {
            Op::Input(input) => self.input(program.input(input).kind),
            Op::Constant(number) if number.is_nan() => Range::NUMBERS.with(Nan::All),
            Op::Constant(number) => Range::closed(f64::from(number), f64::from(number)),
            Op::Unary(function, x) => function.range(self.get(x)),
            Op::Binary(Binary::Multiply, a, b) if a == b => self.get(a).squared(),
            Op::Binary(Binary::Divide, a, b) if self.is_share(program, a, b) => {
                Range { nan: self.get(a).over(self.get(b)).nan, ..Range::closed(0.0, 1.0) }
            }
            Op::Binary(Binary::Divide, a, b) if self.reading == Reading::Exact => {
                self.get(a).over(self.get(b)).without_infinities()
            }
            Op::Binary(function, a, b) => function.range(self.get(a), self.get(b)),
            Op::Softmax(x) => self.softmax(self.get(x), length(x)),
            Op::Reduce(reduction, x) => self.reduce(reduction, self.get(x), length(x)),
            Op::GroupReduce { of, top, reduction } => {
                let size = program.group_size().unwrap_or(1);
                self.reduce(reduction, self.get(of), top.unwrap_or(size))
            }
            Op::Gather { of, .. } | Op::Spread(of) => self.get(of),
            Op::Scatter { of, .. } => {
                let of = self.get(of);
                Range { nan: some_of(of.nan), ..of.or(Range::closed(0.0, 0.0)) }
            }
            Op::LargestMask { of, .. } => Range { nan: all_of(self.get(of).nan), ..Range::closed(0.0, 1.0) },
            Op::GroupLargestMask { of, .. } => Range { nan: self.get(of).nan, ..Range::closed(0.0, 1.0) },
            Op::ChooseGroups { .. } | Op::ChooseExperts { .. } | Op::LookUp { .. } => Range::NUMBERS,
        }
    }

    fn input(&self, kind: InputKind) -> Range {
        match (self.reading, kind) {
            (Reading::Exact, _) => Range::FINITE,
            (_, InputKind::Logits) => Range::NUMBERS,
            (Reading::Routed, InputKind::WeightGradient(_)) => Range::closed(-WEIGHT_GRADIENT_MAX, WEIGHT_GRADIENT_MAX),
            _ => Range::NUMBERS.with(Nan::Some),
        }
    }

    /// NaN comes with an infinity (the distance from the largest is ∞ − ∞), and then it is everywhere.
    fn softmax(&self, of: Range, length: u32) -> Range {
        let nan = if of.nan == Nan::Never && !of.may_be_infinite() { Nan::Never } else { Nan::All };
        let low = End { at: if length == 1 { 1.0 } else { 0.0 }, reached: length == 1 };
        Range { low, high: End { at: 1.0, reached: length == 1 }, nan }
    }

    fn reduce(&self, reduction: Reduction, of: Range, count: u32) -> Range {
        let sum = || {
            let sum = of.sum_of(count);
            // The sum of some can overflow where that of all would not.
            let rounded = if self.reading == Reading::Exact { sum } else { sum.computed() };
            let opposite = rounded.holds(f64::INFINITY) && rounded.holds(f64::NEG_INFINITY);
            rounded.with(if opposite { Nan::Some } else { all_of(of.nan) })
        };
        match reduction {
            Reduction::Sum => sum(),
            Reduction::Mean => sum().over(Range::closed(f64::from(count), f64::from(count))),
            // It skips NaN; the largest of nothing is −∞.
            Reduction::Max if of.nan == Nan::Never => of,
            Reduction::Max => Range { nan: Nan::Never, ..of.or(Range::closed(f64::NEG_INFINITY, f64::NEG_INFINITY)) },
        }
    }

    /// Whether a / b is a part of a sum: a / Σa, a / (Σa + e) or a / max(Σa, e), where nothing is negative.
    fn is_share(&self, program: &Program, a: ValueId, b: ValueId) -> bool {
        let is_sum = |value: ValueId| matches!(*program.op(value), Op::Reduce(Reduction::Sum, of) if of == a);
        let is_positive = |value: ValueId| self.get(value).low.at >= 0.0;
        let is_guarded = match *program.op(b) {
            Op::Binary(Binary::Add | Binary::Max, sum, guard) if is_sum(sum) => is_positive(guard),
            Op::Binary(Binary::Add | Binary::Max, guard, sum) if is_sum(sum) => is_positive(guard),
            _ => is_sum(b),
        };
        is_positive(a) && is_guarded
    }
}

/// Of a result of which each element is computed from all that can be NaN at once.
fn all_of(nan: Nan) -> Nan {
    if nan == Nan::Never { Nan::Never } else { Nan::All }
}

/// Of a result that has other elements beside.
fn some_of(nan: Nan) -> Nan {
    if nan == Nan::Never { Nan::Never } else { Nan::Some }
}

/// Of each value, whether a token in which all of it is NaN has a fault: something is ranked by it, or it makes the weights NaN.
fn nan_is_a_fault(gate: &Gate) -> Vec<bool> {
    let program = &gate.program;
    let mut faults = vec![false; program.ops().len()];
    faults[gate.weights.0 as usize] = true;
    let operations: Vec<(ValueId, &Op)> = program.ops().collect();
    for (id, op) in operations.into_iter().rev() {
        match *op {
            Op::ChooseGroups { by, .. }
            | Op::ChooseExperts { by, .. }
            | Op::GroupReduce { of: by, top: Some(_), .. } => {
                faults[by.0 as usize] = true;
            }
            _ if !faults[id.0 as usize] => {}
            Op::Unary(function, x) => faults[x.0 as usize] |= function.apply(&mut Native, f32::NAN).is_nan(),
            Op::Binary(function, a, b) => {
                let others = [0.0, 1.0, -1.0, f32::INFINITY, f32::NEG_INFINITY];
                let of = |x, y| function.apply(&mut Native, x, y).is_nan();
                faults[a.0 as usize] |= others.iter().all(|&other| of(f32::NAN, other));
                faults[b.0 as usize] |= others.iter().all(|&other| of(other, f32::NAN));
            }
            Op::Softmax(of)
            | Op::Reduce(Reduction::Sum | Reduction::Mean, of)
            | Op::GroupReduce { of, reduction: Reduction::Sum | Reduction::Mean, .. }
            | Op::Gather { of, .. }
            | Op::Spread(of) => faults[of.0 as usize] = true,
            // A maximum skips NaN, a scatter has zeros beside it.
            Op::Input(_)
            | Op::Constant(_)
            | Op::Reduce(Reduction::Max, _)
            | Op::GroupReduce { reduction: Reduction::Max, .. }
            | Op::LookUp { .. }
            | Op::Scatter { .. }
            | Op::LargestMask { .. }
            | Op::GroupLargestMask { .. } => {}
        }
    }
    faults
}
