//! Building a derivative behind its gate, without waste: equal operations become one, neutral operations disappear, and what no result
//! needs is dropped. What the user wrote is never changed: it is the meaning.
//!
//! Invariant: a product of the chain rule in which one factor is 0 is 0 ([`Chain::product`], [`Chain::quotient`]). In f32 the other
//! factor can be infinite or NaN: a number of an expert that nobody chose, or a slope where a function saturates. Which factors can be
//! that is known ([`crate::ranges`]), and code is made for those only.

use crate::functions::Chain;
use crate::ir::{Binary, Gate, InputId, InputKind, Op, Program, Reduction, Type, Unary, ValueId};
use crate::range::Nan;
use crate::ranges::Ranges;

/// Appends operations to the program of a gate, which keeps its own as they are.
pub(crate) struct Builder {
    program: Program,
    ranges: Ranges,
}

impl Builder {
    pub(crate) fn new(gate: &Gate) -> Builder {
        let ranges = Ranges::routed(gate);
        Builder { program: gate.program.clone(), ranges }
    }

    pub(crate) fn declare(&mut self, name: &str, kind: InputKind) -> InputId {
        self.program.declare(name, kind)
    }

    pub(crate) fn type_of(&self, value: ValueId) -> Type {
        self.program.type_of(value)
    }

    pub(crate) fn length_of(&self, value: ValueId) -> u32 {
        self.program.length(self.type_of(value))
    }

    /// An operation, or a value that equals its result.
    ///
    /// # Panics
    /// If the operation is ill-formed, which is a bug of the caller.
    pub(crate) fn push(&mut self, op: Op) -> ValueId {
        if let Some(value) = self.neutral(&op) {
            return value;
        }
        if let Some((existing, _)) = self.program.ops().find(|&(_, other)| is_same(other, &op)) {
            return existing;
        }
        let pushed = self.program.push(op.clone());
        let value = pushed.unwrap_or_else(|error| panic!("the compiler made an ill-formed operation: {error}"));
        self.ranges.push(&self.program, &op);
        value
    }

    pub(crate) fn plus(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.binary(Binary::Add, a, b)
    }

    pub(crate) fn sum(&mut self, of: ValueId) -> ValueId {
        self.push(Op::Reduce(Reduction::Sum, of))
    }

    /// Whether a value is never NaN, as far as is known, in a token without a fault.
    pub(crate) fn is_number(&self, value: ValueId) -> bool {
        self.ranges.get(value).nan == Nan::Never
    }

    fn is_finite(&self, value: ValueId) -> bool {
        self.is_number(value) && !self.ranges.get(value).may_be_infinite()
    }

    fn neutral(&self, op: &Op) -> Option<ValueId> {
        let is_one = |value: ValueId| *self.program.op(value) == Op::Constant(1.0);
        match *op {
            Op::Unary(Unary::Negate, of) => match *self.program.op(of) {
                Op::Unary(Unary::Negate, value) => Some(value),
                _ => None,
            },
            Op::Binary(Binary::Multiply | Binary::Divide, a, b) if is_one(b) => Some(a),
            Op::Binary(Binary::Multiply, a, b) if is_one(a) => Some(b),
            _ => None,
        }
    }

    /// The operations that `result` needs, renumbered, and the new number of `result`. All inputs stay.
    pub(crate) fn finish(self, result: ValueId) -> (Program, ValueId) {
        let old = self.program;
        let mut needed = vec![false; old.ops().len()];
        needed[result.0 as usize] = true;
        let operations: Vec<(ValueId, &Op)> = old.ops().collect();
        for (id, op) in operations.iter().rev() {
            if needed[id.0 as usize] {
                op.operands().for_each(|operand| needed[operand.0 as usize] = true);
            }
        }
        let mut new = Program::new(old.experts(), old.groups());
        for input in old.inputs() {
            new.declare(input.name.clone(), input.kind);
        }
        let mut renumbered = vec![ValueId(0); needed.len()];
        for (id, op) in operations.into_iter().filter(|(id, _)| needed[id.0 as usize]) {
            let op = op.clone().with_operands(|operand| renumbered[operand.0 as usize]);
            // The operation was well-formed, and its operands keep their types.
            renumbered[id.0 as usize] = new.push(op).expect("renumbering keeps operations well-formed");
        }
        (new, renumbered[result.0 as usize])
    }
}

impl Chain for Builder {
    type Value = ValueId;

    fn constant(&mut self, number: f32) -> ValueId {
        self.push(Op::Constant(number))
    }

    fn unary(&mut self, function: Unary, of: ValueId) -> ValueId {
        self.push(Op::Unary(function, of))
    }

    fn binary(&mut self, function: Binary, a: ValueId, b: ValueId) -> ValueId {
        self.push(Op::Binary(function, a, b))
    }

    fn product(&mut self, gradient: ValueId, slope: ValueId) -> ValueId {
        let mut product = self.times(gradient, slope);
        if !self.is_finite(slope) {
            product = self.kept(product, gradient);
        }
        if !self.is_finite(gradient) && self.ranges.get(slope).holds(0.0) {
            product = self.kept(product, slope);
        }
        product
    }

    fn quotient(&mut self, gradient: ValueId, divisor: ValueId) -> ValueId {
        let quotient = self.binary(Binary::Divide, gradient, divisor);
        let is_safe = self.is_number(divisor) && !self.ranges.get(divisor).holds(0.0);
        if is_safe { quotient } else { self.kept(quotient, gradient) }
    }
}

/// The same operation. Unlike numbers, constants are told apart by their bits: −0 is not +0.
fn is_same(a: &Op, b: &Op) -> bool {
    match (a, b) {
        (Op::Constant(a), Op::Constant(b)) => a.to_bits() == b.to_bits(),
        _ => a == b,
    }
}
