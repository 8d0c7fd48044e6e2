//! Reverse-mode differentiation of a gate: Gate IR to Gate IR.
//!
//! The backward program computes the values of the gate that it needs again, then walks over the gate from its weights to its logits.
//! For every value that depends on the logits it collects the *gradient*: the derivative of Σ weights · grad_weights with respect to
//! that value. Choices and masks are constants: they change nowhere continuously.

use crate::ir::{Backward, Binary, Gate, InputKind, Op, Reduction, Type, Unary, ValueId};
use crate::simplify::Builder;

/// The name of the additional input of a backward program.
pub const WEIGHT_GRADIENT: &str = "grad_weights";

/// The backward gate: its inputs are those of the gate, followed by [`WEIGHT_GRADIENT`]. `None` if the gate has no logits.
///
/// Where a function has a corner (|x|, min, max, relu at the corner) the derivative is one of the two sides; the derivative of a
/// maximum goes to the first of those that tie.
pub fn derivative(gate: &Gate) -> Option<Backward> {
    let program = &gate.program;
    let (logits, depends) = dependence_on_logits(gate)?;
    let mut rules = Rules { to: Builder::new(program.clone()), gradients: vec![None; program.ops().len()] };
    let input = rules.to.declare(WEIGHT_GRADIENT, InputKind::WeightGradient(gate.top_k()));
    rules.gradients[gate.weights.0 as usize] = Some(rules.to.push(Op::Input(input)));

    let operations: Vec<(ValueId, &Op)> = program.ops().collect();
    for (id, op) in operations.into_iter().rev() {
        if depends[id.0 as usize]
            && let Some(gradient) = rules.gradients[id.0 as usize]
            && !matches!(op, Op::Input(_))
        {
            rules.propagate(id, op, gradient, &depends);
        }
    }

    // A program may read the logits more than once.
    let parts: Vec<ValueId> = logits.iter().filter_map(|read| rules.gradients[read.0 as usize]).collect();
    let result = match parts.into_iter().reduce(|sum, part| rules.to.binary(Binary::Add, sum, part)) {
        Some(gradient) => rules.spread_over(gradient, logits[0]),
        None => {
            let (ones, one) = (rules.ones(logits[0]), rules.to.constant(1.0));
            rules.to.binary(Binary::Subtract, ones, one)
        }
    };
    let (program, logits) = rules.to.finish(result);
    Some(Backward { program, logits })
}

/// The operations that read the logits, and for every operation whether its result changes continuously with them.
fn dependence_on_logits(gate: &Gate) -> Option<(Vec<ValueId>, Vec<bool>)> {
    let program = &gate.program;
    let mut logits = Vec::new();
    let mut depends: Vec<bool> = Vec::new();
    for (id, op) in program.ops() {
        depends.push(match op {
            Op::Input(input) if program.input(*input).kind == InputKind::Logits => {
                logits.push(id);
                true
            }
            Op::ChooseGroups { .. }
            | Op::ChooseExperts { .. }
            | Op::LookUp { .. }
            | Op::LargestMask { .. }
            | Op::GroupLargestMask { .. }
            | Op::Unary(Unary::IsPositive | Unary::Sign, _)
            | Op::Binary(Binary::AtLeast, ..) => false,
            op => op.operands().any(|operand| depends[operand.0 as usize]),
        });
    }
    (!logits.is_empty()).then_some((logits, depends))
}

struct Rules {
    to: Builder,
    /// The gradient of each value of the gate as far as it is known. A scalar for a vector counts for each of its elements.
    gradients: Vec<Option<ValueId>>,
}

impl Rules {
    /// Adds to the gradient of a value.
    fn add(&mut self, value: ValueId, gradient: ValueId) {
        let so_far = self.gradients[value.0 as usize];
        self.gradients[value.0 as usize] = Some(match so_far {
            None => gradient,
            Some(sum) => self.to.binary(Binary::Add, sum, gradient),
        });
    }

    /// 1 for each element of a vector.
    fn ones(&mut self, like: ValueId) -> ValueId {
        let lowest = self.to.constant(f32::NEG_INFINITY);
        self.to.binary(Binary::AtLeast, like, lowest)
    }

    /// The gradient with one element for each of `like`.
    fn spread_over(&mut self, gradient: ValueId, like: ValueId) -> ValueId {
        if self.to.type_of(gradient) == self.to.type_of(like) {
            return gradient;
        }
        let ones = self.ones(like);
        self.to.binary(Binary::Multiply, ones, gradient)
    }

    fn sum(&mut self, of: ValueId) -> ValueId {
        self.to.push(Op::Reduce(Reduction::Sum, of))
    }

    fn times(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.to.binary(Binary::Multiply, a, b)
    }

    fn negated(&mut self, a: ValueId) -> ValueId {
        self.to.unary(Unary::Negate, a)
    }

    /// 1 − a
    fn complement(&mut self, a: ValueId) -> ValueId {
        let one = self.to.constant(1.0);
        self.to.binary(Binary::Subtract, one, a)
    }

    /// a / n
    fn fraction(&mut self, a: ValueId, n: u32) -> ValueId {
        let n = self.to.constant(n as f32);
        self.to.binary(Binary::Divide, a, n)
    }

    fn propagate(&mut self, value: ValueId, op: &Op, gradient: ValueId, depends: &[bool]) {
        match *op {
            Op::Unary(function, of) => {
                let gradient = self.unary(function, of, value, gradient);
                self.add(of, gradient);
            }
            Op::Binary(function, a, b) => {
                for (operand, is_first) in [(a, true), (b, false)] {
                    if depends[operand.0 as usize] {
                        self.binary(function, (a, b), is_first, value, gradient);
                    }
                }
            }
            Op::Softmax(of) => {
                let product = self.times(gradient, value);
                let mean = self.sum(product);
                let difference = self.to.binary(Binary::Subtract, gradient, mean);
                let gradient = self.times(value, difference);
                self.add(of, gradient);
            }
            Op::Reduce(reduction, of) => {
                let gradient = match reduction {
                    Reduction::Sum => gradient,
                    Reduction::Mean => self.fraction(gradient, self.to.length_of(of)),
                    Reduction::Max => {
                        let mask = self.to.push(Op::LargestMask { of, count: 1 });
                        self.times(mask, gradient)
                    }
                };
                self.add(of, gradient);
            }
            Op::GroupReduce { of, top, reduction } => {
                let group_size = self.to.length_of(of) / self.to.length_of(value);
                let gradient = self.spread_over(gradient, value);
                let gradient = match reduction {
                    Reduction::Mean => self.fraction(gradient, top.unwrap_or(group_size)),
                    Reduction::Sum | Reduction::Max => gradient,
                };
                let mut gradient = self.to.push(Op::Spread(gradient));
                let count = if reduction == Reduction::Max { Some(1) } else { top };
                if let Some(count) = count {
                    let mask = self.to.push(Op::GroupLargestMask { of, count });
                    gradient = self.times(mask, gradient);
                }
                self.add(of, gradient);
            }
            Op::Gather { of, at } => {
                let gradient = self.spread_over(gradient, value);
                let gradient = self.to.push(Op::Scatter { of: gradient, at });
                self.add(of, gradient);
            }
            Op::Scatter { of, at } => {
                let gradient = self.spread_over(gradient, value);
                let gradient = self.to.push(Op::Gather { of: gradient, at });
                self.add(of, gradient);
            }
            Op::Spread(of) => {
                let gradient = self.spread_over(gradient, value);
                let gradient = self.to.push(Op::GroupReduce { of: gradient, top: None, reduction: Reduction::Sum });
                self.add(of, gradient);
            }
            Op::Input(_)
            | Op::Constant(_)
            | Op::ChooseGroups { .. }
            | Op::ChooseExperts { .. }
            | Op::LookUp { .. }
            | Op::LargestMask { .. }
            | Op::GroupLargestMask { .. } => unreachable!("has no gradient to pass on"),
        }
    }

    /// The gradient of `of`, where `value` = function(of).
    fn unary(&mut self, function: Unary, of: ValueId, value: ValueId, gradient: ValueId) -> ValueId {
        match function {
            Unary::Negate => self.negated(gradient),
            Unary::Sigmoid => {
                let complement = self.complement(value);
                let slope = self.times(value, complement);
                self.times(gradient, slope)
            }
            Unary::Exp => self.times(gradient, value),
            Unary::Log => self.to.binary(Binary::Divide, gradient, of),
            Unary::Sqrt => {
                let two = self.to.constant(2.0);
                let doubled = self.times(two, value);
                self.to.binary(Binary::Divide, gradient, doubled)
            }
            Unary::Softplus => {
                let slope = self.to.unary(Unary::Sigmoid, of);
                self.times(gradient, slope)
            }
            Unary::Relu => {
                let slope = self.to.unary(Unary::IsPositive, of);
                self.times(gradient, slope)
            }
            Unary::Tanh => {
                let square = self.times(value, value);
                let slope = self.complement(square);
                self.times(gradient, slope)
            }
            Unary::Abs => {
                let slope = self.to.unary(Unary::Sign, of);
                self.times(gradient, slope)
            }
            Unary::IsPositive | Unary::Sign => unreachable!("constant almost everywhere"),
        }
    }

    /// Adds to the gradient of the first or the second operand, where `value` = function(a, b).
    fn binary(&mut self, function: Binary, (a, b): (ValueId, ValueId), first: bool, value: ValueId, gradient: ValueId) {
        let gradient = match (function, first) {
            (Binary::Add, _) | (Binary::Subtract, true) => gradient,
            (Binary::Subtract, false) => self.negated(gradient),
            (Binary::Multiply, true) => self.times(gradient, b),
            (Binary::Multiply, false) => self.times(gradient, a),
            (Binary::Divide, true) => self.to.binary(Binary::Divide, gradient, b),
            (Binary::Divide, false) => {
                let quotient = self.to.binary(Binary::Divide, gradient, b);
                let product = self.times(quotient, value);
                self.negated(product)
            }
            (Binary::Min, _) => {
                let takes_first = self.to.binary(Binary::AtLeast, b, a);
                self.one_side(gradient, takes_first, first)
            }
            (Binary::Max, _) => {
                let takes_first = self.to.binary(Binary::AtLeast, a, b);
                self.one_side(gradient, takes_first, first)
            }
            (Binary::AtLeast, _) => unreachable!("constant almost everywhere"),
        };
        let operand = if first { a } else { b };
        let repeats = self.to.type_of(operand) == Type::Scalar && self.to.type_of(value) != Type::Scalar;
        let gradient = if repeats {
            let each = self.spread_over(gradient, value);
            self.sum(each)
        } else {
            gradient
        };
        self.add(operand, gradient);
    }

    fn one_side(&mut self, gradient: ValueId, takes_first: ValueId, first: bool) -> ValueId {
        let mask = if first { takes_first } else { self.complement(takes_first) };
        self.times(gradient, mask)
    }
}
