//! Reverse-mode differentiation of a gate: Gate IR to Gate IR.
//!
//! The backward program computes the values of the gate that it needs again, then walks over the gate from its weights to its logits.
//! For every value that depends on the logits it collects the *gradient*: the derivative of Σ weights · `grad_weights` with respect to
//! that value. Choices and masks are constants: they change nowhere continuously.
//!
//! Invariant: where a logit has no influence its gradient is +0, whatever else the token holds: an expert that was not chosen, a masked
//! logit (−1e9, −∞) at which every function is flat. Two rules see to that. A gradient of chosen experts is computed for those alone
//! and scattered at the end, so that nothing of the others is ever multiplied by its 0. And in a product one factor of which is 0
//! the other counts for nothing (`simplify`).

use crate::functions::Chain;
use crate::ir::{Backward, Binary, Gate, InputKind, Op, Reduction, Type, ValueId};
use crate::simplify::Builder;

/// The name of the additional input of a backward program.
pub const WEIGHT_GRADIENT: &str = "grad_weights";

/// The backward gate: its inputs are those of the gate, followed by [`WEIGHT_GRADIENT`]. `None` if the gate has no logits.
///
/// Where a function has a corner the derivative is that of one side: of the operand that min and max take, 0 for relu and |x|; the
/// derivative of a maximum goes to the first of those that tie.
pub fn derivative(gate: &Gate) -> Option<Backward> {
    let program = &gate.program;
    let (logits, depends) = dependence_on_logits(gate)?;
    let mut rules = Rules { to: Builder::new(gate), gradients: vec![Vec::new(); program.ops().len()] };
    let input = rules.to.declare(WEIGHT_GRADIENT, InputKind::WeightGradient(gate.top_k()));
    let input = rules.to.push(Op::Input(input));
    rules.add(gate.weights, Part::All(input));

    let operations: Vec<(ValueId, &Op)> = program.ops().collect();
    for (id, op) in operations.into_iter().rev() {
        if depends[id.0 as usize]
            && !matches!(op, Op::Input(_))
            && let Some(gradient) = rules.gradient(&[id])
        {
            rules.propagate(id, op, gradient, &depends);
        }
    }

    // Adding 0 makes −0 to +0.
    let zero = rules.to.constant(0.0);
    let result = match rules.gradient(&logits) {
        Some(Part::Chosen { of, at }) => {
            let of = rules.to.plus(of, zero);
            rules.to.push(Op::Scatter { of, at })
        }
        Some(Part::All(gradient)) => {
            let gradient = rules.spread_over(gradient, logits[0]);
            rules.to.plus(gradient, zero)
        }
        None => {
            let (ones, one) = (rules.ones(logits[0]), rules.to.constant(1.0));
            rules.to.binary(Binary::Subtract, ones, one)
        }
    };
    let (program, logits) = rules.to.finish(result);
    Some(Backward { program, logits })
}

/// The operations that read the logits, and for every operation whether its result is computed from them, choices and masks aside.
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
            | Op::GroupLargestMask { .. } => false,
            op => op.operands().any(|operand| depends[operand.0 as usize]),
        });
    }
    (!logits.is_empty()).then_some((logits, depends))
}

/// What one reader of a value adds to its gradient.
#[derive(Clone, Copy)]
enum Part {
    /// Of every element. A scalar for a vector counts for each of its elements.
    All(ValueId),
    /// Of the chosen experts; of the others it is 0.
    Chosen { of: ValueId, at: ValueId },
}

struct Rules {
    to: Builder,
    /// The parts of the gradient of each value of the gate, as far as they are known.
    gradients: Vec<Vec<Part>>,
}

impl Rules {
    /// Adds to the gradient of a value.
    fn add(&mut self, value: ValueId, part: Part) {
        self.gradients[value.0 as usize].push(part);
    }

    /// The sum of the parts of values that are one. Of one choice of experts, if all parts are.
    fn gradient(&mut self, values: &[ValueId]) -> Option<Part> {
        let parts: Vec<Part> = values.iter().flat_map(|value| self.gradients[value.0 as usize].clone()).collect();
        let choice = |part: &Part| match *part {
            Part::Chosen { at, .. } => Some(at),
            Part::All(_) => None,
        };
        let common = parts.first().and_then(choice);
        let common = common.filter(|_| parts.iter().all(|part| choice(part) == common));
        let numbers: Vec<ValueId> = parts
            .into_iter()
            .map(|part| match (common, part) {
                (Some(_), Part::Chosen { of, .. }) => of,
                (_, part) => self.all(part),
            })
            .collect();
        let sum = numbers.into_iter().reduce(|sum, part| self.to.plus(sum, part))?;
        Some(match common {
            Some(at) => Part::Chosen { of: sum, at },
            None => Part::All(sum),
        })
    }

    /// The gradient of every element.
    fn all(&mut self, part: Part) -> ValueId {
        match part {
            Part::All(gradient) => gradient,
            Part::Chosen { of, at } => self.to.push(Op::Scatter { of, at }),
        }
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
        self.to.times(ones, gradient)
    }

    /// a / n
    fn fraction(&mut self, a: ValueId, n: u32) -> ValueId {
        let n = self.to.constant(n as f32);
        self.to.binary(Binary::Divide, a, n)
    }

    /// What a maximum looks at: −∞ in the place of NaN.
    fn without_nan(&mut self, of: ValueId) -> ValueId {
        if self.to.is_number(of) {
            return of;
        }
        let lowest = self.to.constant(f32::NEG_INFINITY);
        self.to.binary(Binary::Max, of, lowest)
    }

    fn propagate(&mut self, value: ValueId, op: &Op, part: Part, depends: &[bool]) {
        match *op {
            Op::Unary(function, x) => {
                let slope =
                    |to: &mut Builder, [x]: [ValueId; 1], value, gradient| function.slope(0, to, [x], value, gradient);
                self.elements([x], 0, value, part, slope);
            }
            Op::Binary(function, a, b) => {
                for (place, operand) in [a, b].into_iter().enumerate() {
                    if depends[operand.0 as usize] {
                        let slope = |to: &mut Builder, [a, b]: [ValueId; 2], value, gradient| {
                            function.slope(place, to, [a, b], value, gradient)
                        };
                        self.elements([a, b], place, value, part, slope);
                    }
                }
            }
            _ => {
                let gradient = self.all(part);
                self.whole(value, op, gradient);
            }
        }
    }

    /// Element by element, of chosen experts where no others matter: passes the gradient of `value` on to one of the operands.
    fn elements<const N: usize>(
        &mut self,
        operands: [ValueId; N],
        place: usize,
        value: ValueId,
        part: Part,
        slope: impl FnOnce(&mut Builder, [ValueId; N], ValueId, ValueId) -> Option<ValueId>,
    ) {
        let operand = operands[place];
        let slope = match part {
            Part::All(gradient) => slope(&mut self.to, operands, value, gradient).map(Part::All),
            Part::Chosen { of, at } => {
                let mut chosen = |value| match self.to.type_of(value) {
                    Type::Experts => self.to.push(Op::Gather { of: value, at }),
                    _ => value,
                };
                let (operands, value) = (operands.map(&mut chosen), chosen(value));
                slope(&mut self.to, operands, value, of).map(|of| Part::Chosen { of, at })
            }
        };
        let Some(slope) = slope else { return };
        let repeats = self.to.type_of(operand) == Type::Scalar && self.to.type_of(value) != Type::Scalar;
        if repeats {
            let each = self.all(slope);
            let each = self.spread_over(each, value);
            let sum = self.to.sum(each);
            self.add(operand, Part::All(sum));
        } else {
            self.add(operand, slope);
        }
    }

    /// An operation that mixes elements.
    fn whole(&mut self, value: ValueId, op: &Op, gradient: ValueId) {
        match *op {
            Op::Softmax(of) => {
                let product = self.to.product(gradient, value);
                let mean = self.to.sum(product);
                let difference = self.to.binary(Binary::Subtract, gradient, mean);
                let gradient = self.to.product(difference, value);
                self.add(of, Part::All(gradient));
            }
            Op::Reduce(reduction, of) => {
                let gradient = match reduction {
                    Reduction::Sum => gradient,
                    Reduction::Mean => self.fraction(gradient, self.to.length_of(of)),
                    Reduction::Max => {
                        let of = self.without_nan(of);
                        let mask = self.to.push(Op::LargestMask { of, count: 1 });
                        self.to.kept(gradient, mask)
                    }
                };
                self.add(of, Part::All(gradient));
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
                    let of = if reduction == Reduction::Max { self.without_nan(of) } else { of };
                    let mask = self.to.push(Op::GroupLargestMask { of, count });
                    gradient = self.to.kept(gradient, mask);
                }
                self.add(of, Part::All(gradient));
            }
            Op::Gather { of, at } => {
                let gradient = self.spread_over(gradient, value);
                self.add(of, Part::Chosen { of: gradient, at });
            }
            Op::Scatter { of, at } => {
                let gradient = self.spread_over(gradient, value);
                let gradient = self.to.push(Op::Gather { of: gradient, at });
                self.add(of, Part::All(gradient));
            }
            Op::Spread(of) => {
                let gradient = self.spread_over(gradient, value);
                let gradient = self.to.push(Op::GroupReduce { of: gradient, top: None, reduction: Reduction::Sum });
                self.add(of, Part::All(gradient));
            }
            Op::Unary(..)
            | Op::Binary(..)
            | Op::Input(_)
            | Op::Constant(_)
            | Op::ChooseGroups { .. }
            | Op::ChooseExperts { .. }
            | Op::LookUp { .. }
            | Op::LargestMask { .. }
            | Op::GroupLargestMask { .. } => unreachable!("is element by element, or has no gradient to pass on"),
        }
    }
}
