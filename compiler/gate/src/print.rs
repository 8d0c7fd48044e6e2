//! Programs as text, for people: one line per input and per operation.

use std::fmt;

use crate::ir::{Backward, Gate, InputKind, Masked, Op, Program, Reduction, ValueId};

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gate {}", self.program)?;
        let before = if self.before_experts { " before experts" } else { "" };
        writeln!(f, "  indices {}\n  weights {}{before}", self.choice, self.weights)
    }
}

impl fmt::Display for Backward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "backward gate {}", self.program)?;
        writeln!(f, "  grad_logits {}", self.logits)
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "over {} experts", self.experts())?;
        match self.groups() {
            Some(groups) => writeln!(f, " in {groups} groups")?,
            None => writeln!(f)?,
        }
        for input in self.inputs() {
            writeln!(f, "  input {}: {}", input.name, input.kind)?;
        }
        for (id, op) in self.ops() {
            writeln!(f, "  {id}: {} = {}", self.type_of(id), Shown { program: self, op })?;
        }
        Ok(())
    }
}

impl fmt::Display for InputKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InputKind::Logits => write!(f, "f32[experts] of each token"),
            InputKind::ScalarParameter => write!(f, "f32"),
            InputKind::ExpertParameter => write!(f, "f32[experts]"),
            InputKind::GroupParameter => write!(f, "f32[groups]"),
            InputKind::Table { vocabulary, k } => write!(f, "i32[{vocabulary}, {k}]"),
            InputKind::TokenId => write!(f, "i32 of each token"),
            InputKind::WeightGradient(k) => write!(f, "f32[{k}] of each token"),
        }
    }
}

struct Shown<'a> {
    program: &'a Program,
    op: &'a Op,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let input = |id| &self.program.input(id).name;
        let top = |of: ValueId, count: Option<u32>| match count {
            Some(count) => format!("top({count}, {of})"),
            None => format!("group({of})"),
        };
        match *self.op {
            Op::Input(id) => write!(f, "{}", input(id)),
            Op::Constant(number) => write!(f, "{number:?}"),
            Op::Unary(function, of) => write!(f, "{}({of})", function.text()),
            Op::Binary(function, a, b) if function.is_call() => write!(f, "{}({a}, {b})", function.text()),
            Op::Binary(function, a, b) => write!(f, "{a} {} {b}", function.text()),
            Op::Softmax(of) => write!(f, "softmax({of})"),
            Op::Reduce(reduction, of) => write!(f, "{}({of})", self::reduction(reduction)),
            Op::GroupReduce { of, top: count, reduction } => {
                write!(f, "{}({})", self::reduction(reduction), top(of, count))
            }
            Op::ChooseGroups { by, count } => write!(f, "top({count}, groups, by: {by})"),
            Op::ChooseExperts { by, count, within } => match within {
                None => write!(f, "top({count}, experts, by: {by})"),
                Some((groups, Masked::Infinity)) => write!(f, "top({count}, experts in {groups}, by: {by})"),
                Some((groups, Masked::Fill(fill))) => {
                    write!(f, "top({count}, experts in {groups}, by: {by}, fill: {fill:?})")
                }
            },
            Op::LookUp { table, token } => write!(f, "{}[{}]", input(table), input(token)),
            Op::Gather { of, at } => write!(f, "{of}[{at}]"),
            Op::Scatter { of, at } => write!(f, "scatter {of} at {at}"),
            Op::Spread(of) => write!(f, "spread {of} over groups"),
            Op::LargestMask { of, count } => write!(f, "1 for the {count} largest of {of}"),
            Op::GroupLargestMask { of, count } => write!(f, "1 for the {count} largest of each group of {of}"),
        }
    }
}

fn reduction(reduction: Reduction) -> &'static str {
    match reduction {
        Reduction::Sum => "sum",
        Reduction::Max => "max",
        Reduction::Mean => "mean",
    }
}
