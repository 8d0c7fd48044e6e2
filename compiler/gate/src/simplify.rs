//! Building a program without waste: equal operations become one, neutral operations disappear, and what no result needs is dropped.
//!
//! This is for code that the compiler writes (derivatives). What the user wrote is never changed: it is the meaning.

use crate::ir::{Binary, InputId, InputKind, Op, Program, Type, Unary, ValueId};

/// Appends operations to a program, which keeps its own as they are.
pub(crate) struct Builder {
    program: Program,
}

impl Builder {
    pub(crate) fn new(program: Program) -> Builder {
        Builder { program }
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
        if let Some((existing, _)) = self.program.ops().find(|&(_, other)| *other == op) {
            return existing;
        }
        self.program.push(op).unwrap_or_else(|error| panic!("the compiler made an ill-formed operation: {error}"))
    }

    pub(crate) fn constant(&mut self, number: f32) -> ValueId {
        self.push(Op::Constant(number))
    }

    pub(crate) fn unary(&mut self, function: Unary, of: ValueId) -> ValueId {
        self.push(Op::Unary(function, of))
    }

    pub(crate) fn binary(&mut self, function: Binary, a: ValueId, b: ValueId) -> ValueId {
        self.push(Op::Binary(function, a, b))
    }

    fn neutral(&self, op: &Op) -> Option<ValueId> {
        let is = |value: ValueId, number: f32| *self.program.op(value) == Op::Constant(number);
        match *op {
            Op::Unary(Unary::Negate, of) => match *self.program.op(of) {
                Op::Unary(Unary::Negate, value) => Some(value),
                _ => None,
            },
            Op::Binary(Binary::Multiply | Binary::Divide, a, b) if is(b, 1.0) => Some(a),
            Op::Binary(Binary::Multiply, a, b) if is(a, 1.0) => Some(b),
            Op::Binary(Binary::Add | Binary::Subtract, a, b) if is(b, 0.0) => Some(a),
            Op::Binary(Binary::Add, a, b) if is(a, 0.0) => Some(b),
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
