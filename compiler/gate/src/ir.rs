//! Gate IR: a gate as a short list of typed operations in static single assignment form.
//!
//! Invariants, established by [`Program::push`] and relied on by every consumer (interpreter, derivative, host and device back ends):
//! * an operation reads only values defined before it;
//! * the operands have the types that the operation asks for, and [`Program::type_of`] is the type of its result;
//! * counts are possible: a choice of k experts among n chosen groups has k ≤ n × group size.
//!
//! # Meaning
//! A program is evaluated once per token. All arithmetic is IEEE-754 binary32, round to nearest even, without contraction.
//! Sums are taken in the order that [`crate::order`] defines; transcendental functions are those of [`crate::math`]. Both are part of
//! the meaning, so that every execution of a gate gives the same bits.
//! Every choice is reported in ascending id; ties go to the lowest id (−0 and +0 tie, and the n largest and a maximum are never −0).
//! A NaN in the logits, in what is ranked (the key of a choice, and the operand of a largest n) or in the weights is an error of that
//! token. Elsewhere a NaN is a number like others; which NaN it is, is not specified. A maximum skips it; the mask of the largest is NaN
//! for all of a vector (or group) that holds one.

use std::fmt;

pub use crate::functions::{Binary, Unary};

/// A value of a [`Program`]: the result of its n-th operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub u32);

/// An input of a [`Program`], in the order of declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InputId(pub u32);

/// The type of a value. Vectors hold f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// `f32`
    Scalar,
    /// `f32[experts]`
    Experts,
    /// `f32[groups]`
    Groups,
    /// `f32[k]`: one number per chosen expert, in ascending expert id.
    Picks(u32),
    /// `choice[k] of experts`
    ExpertChoice(u32),
    /// `choice[k] of groups`
    GroupChoice(u32),
}

/// What a caller passes for one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InputKind {
    /// `f32[experts]`, different for each token: a row of `logits`.
    Logits,
    /// `f32`, one for all tokens.
    ScalarParameter,
    /// `f32[experts]`, one for all tokens (a selection bias).
    ExpertParameter,
    /// `f32[groups]`, one for all tokens.
    GroupParameter,
    /// `i32[vocab, k]`, one for all tokens: the experts of each token id.
    Table {
        /// Number of rows.
        vocabulary: u32,
        /// Experts per row.
        k: u32,
    },
    /// `i32`, different for each token: the row of a [`InputKind::Table`].
    TokenId,
    /// `f32[k]`, different for each token: the gradient with respect to the weights. Only in derivatives.
    WeightGradient(u32),
}

impl InputKind {
    /// Whether each token has its own.
    pub fn is_per_token(self) -> bool {
        matches!(self, InputKind::Logits | InputKind::TokenId | InputKind::WeightGradient(_))
    }
}

/// A named input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// The name in the gate's parameter list, and of the tensor that carries it.
    pub name: String,
    /// Shape and role.
    pub kind: InputKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reduction {
    /// Sum, in the order of [`crate::order`].
    Sum,
    Max,
    /// The sum divided by the number of elements.
    Mean,
}

/// What an expert outside the chosen groups counts as, in a choice of experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Masked {
    /// −∞: never chosen while an expert inside has a finite key.
    Infinity,
    /// A number (`fill: 0.0`): the older meaning, in which a masked expert can be chosen.
    Fill(f32),
}

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// The value of an input. A [`InputKind::Table`] or [`InputKind::TokenId`] is read by [`Op::LookUp`] only.
    Input(InputId),
    Constant(f32),
    /// Element by element.
    Unary(Unary, ValueId),
    /// Element by element; a scalar is broadcast.
    Binary(Binary, ValueId, ValueId),
    /// Over a whole vector: e = exp(x − max x), e / Σe.
    Softmax(ValueId),
    /// Over a whole vector: a scalar.
    Reduce(Reduction, ValueId),
    /// `f32[experts]` → `f32[groups]`, over the `top` largest of each group (summed from the largest to the smallest), or over all.
    GroupReduce {
        /// `f32[experts]`
        of: ValueId,
        /// How many of the largest count; all when absent.
        top: Option<u32>,
        /// What is computed of them.
        reduction: Reduction,
    },
    /// The `count` groups with the largest keys.
    ChooseGroups {
        /// `f32[groups]`
        by: ValueId,
        count: u32,
    },
    /// The `count` experts with the largest keys.
    ChooseExperts {
        /// `f32[experts]`
        by: ValueId,
        count: u32,
        /// A choice of groups, and what experts outside of it count as.
        within: Option<(ValueId, Masked)>,
    },
    /// Hash routing: row `token` of `table`, sorted. Each entry is an expert id, and a row holds none twice.
    LookUp {
        /// An [`InputKind::Table`].
        table: InputId,
        /// An [`InputKind::TokenId`].
        token: InputId,
    },
    /// `v[chosen]`: `f32[experts]` → `f32[k]`
    Gather {
        /// `f32[experts]`
        of: ValueId,
        /// `choice[k] of experts`
        at: ValueId,
    },
    /// `f32[k]` → `f32[experts]`, zero where nothing was chosen. The derivative of [`Op::Gather`].
    Scatter {
        /// `f32[k]`
        of: ValueId,
        /// `choice[k] of experts`
        at: ValueId,
    },
    /// `f32[groups]` → `f32[experts]`: each expert gets the value of its group.
    Spread(ValueId),
    /// 1 for the `count` largest of a vector (ties to the lowest id), else 0. The derivative of a maximum.
    LargestMask {
        /// Any vector.
        of: ValueId,
        count: u32,
    },
    /// 1 for the `count` largest of each group, else 0: `f32[experts]` → `f32[experts]`.
    GroupLargestMask {
        /// `f32[experts]`
        of: ValueId,
        /// How many in each group.
        count: u32,
    },
}

impl Op {
    /// The values that the operation reads.
    pub fn operands(&self) -> impl Iterator<Item = ValueId> + use<> {
        let (first, second) = match *self {
            Op::Input(_) | Op::Constant(_) | Op::LookUp { .. } => (None, None),
            Op::Unary(_, of)
            | Op::Softmax(of)
            | Op::Reduce(_, of)
            | Op::GroupReduce { of, .. }
            | Op::ChooseGroups { by: of, .. }
            | Op::Spread(of)
            | Op::LargestMask { of, .. }
            | Op::GroupLargestMask { of, .. } => (Some(of), None),
            Op::ChooseExperts { by, within, .. } => (Some(by), within.map(|(groups, _)| groups)),
            Op::Binary(_, a, b) | Op::Gather { of: a, at: b } | Op::Scatter { of: a, at: b } => (Some(a), Some(b)),
        };
        first.into_iter().chain(second)
    }

    /// The operation with other operands.
    #[must_use]
    pub fn with_operands(mut self, mut replace: impl FnMut(ValueId) -> ValueId) -> Op {
        match &mut self {
            Op::Input(_) | Op::Constant(_) | Op::LookUp { .. } => {}
            Op::Unary(_, of)
            | Op::Softmax(of)
            | Op::Reduce(_, of)
            | Op::GroupReduce { of, .. }
            | Op::ChooseGroups { by: of, .. }
            | Op::Spread(of)
            | Op::LargestMask { of, .. }
            | Op::GroupLargestMask { of, .. } => *of = replace(*of),
            Op::ChooseExperts { by, within, .. } => {
                *by = replace(*by);
                if let Some((groups, _)) = within {
                    *groups = replace(*groups);
                }
            }
            Op::Binary(_, a, b) | Op::Gather { of: a, at: b } | Op::Scatter { of: a, at: b } => {
                *a = replace(*a);
                *b = replace(*b);
            }
        }
        self
    }
}

/// Why an operation is not legal. The front end reports these in the user's words; elsewhere they are bugs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IllFormed {
    /// An operand is not defined before its use.
    #[error("operation reads {0} before it is defined")]
    Undefined(ValueId),
    /// An input is not declared.
    #[error("operation reads input {} that is not declared", .0.0)]
    UndefinedInput(InputId),
    /// An operand has the wrong type.
    #[error("{value} is {found}, which this operation does not take")]
    WrongType {
        /// The operand.
        value: ValueId,
        found: Type,
    },
    /// A count is zero or larger than what it counts.
    #[error("{count} of {available} is not possible")]
    Count { count: u32, available: u32 },
    /// Groups are used in a gate over experts without groups.
    #[error("the experts are not in groups")]
    NoGroups,
    /// An input of the wrong kind.
    #[error("input {} cannot be used here", .0.0)]
    WrongInput(InputId),
}

/// Straight-line code over one token: what a gate, or its derivative, computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    experts: u32,
    groups: Option<u32>,
    inputs: Vec<Input>,
    ops: Vec<Op>,
    types: Vec<Type>,
}

impl Program {
    /// An empty program over `experts`, in `groups` of equal size.
    ///
    /// # Panics
    /// If `experts` is zero or `groups` does not divide it.
    pub fn new(experts: u32, groups: Option<u32>) -> Program {
        assert!(experts > 0, "a gate has experts");
        assert!(groups.is_none_or(|groups| groups > 0 && experts.is_multiple_of(groups)), "groups have equal size");
        Program { experts, groups, inputs: Vec::new(), ops: Vec::new(), types: Vec::new() }
    }

    pub fn experts(&self) -> u32 {
        self.experts
    }

    /// Number of groups, if experts are in groups.
    pub fn groups(&self) -> Option<u32> {
        self.groups
    }

    /// Experts per group, if experts are in groups.
    pub fn group_size(&self) -> Option<u32> {
        self.groups.map(|groups| self.experts / groups)
    }

    /// The declared inputs.
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    /// A declared input.
    pub fn input(&self, id: InputId) -> &Input {
        &self.inputs[id.0 as usize]
    }

    /// All operations with their result, in order.
    pub fn ops(&self) -> impl ExactSizeIterator<Item = (ValueId, &Op)> {
        self.ops.iter().enumerate().map(|(index, op)| (ValueId(index as u32), op))
    }

    /// The operation that defines a value.
    pub fn op(&self, value: ValueId) -> &Op {
        &self.ops[value.0 as usize]
    }

    /// The type of a value.
    pub fn type_of(&self, value: ValueId) -> Type {
        self.types[value.0 as usize]
    }

    /// Number of elements of a type in this program; of a choice, the number chosen.
    pub fn length(&self, ty: Type) -> u32 {
        match ty {
            Type::Scalar => 1,
            Type::Experts => self.experts,
            Type::Groups => self.groups.unwrap_or(0),
            Type::Picks(k) | Type::ExpertChoice(k) | Type::GroupChoice(k) => k,
        }
    }

    /// Number of elements of an input; of one that each token has, the number for one token.
    pub fn length_of_input(&self, id: InputId) -> u64 {
        match self.input(id).kind {
            InputKind::Logits | InputKind::ExpertParameter => u64::from(self.experts),
            InputKind::GroupParameter => u64::from(self.groups.unwrap_or(0)),
            InputKind::ScalarParameter | InputKind::TokenId => 1,
            InputKind::Table { vocabulary, k } => u64::from(vocabulary) * u64::from(k),
            InputKind::WeightGradient(k) => u64::from(k),
        }
    }

    pub fn declare(&mut self, name: impl Into<String>, kind: InputKind) -> InputId {
        self.inputs.push(Input { name: name.into(), kind });
        InputId(self.inputs.len() as u32 - 1)
    }

    /// Appends an operation.
    ///
    /// # Errors
    /// If an invariant of this module would not hold; the program is unchanged.
    pub fn push(&mut self, op: Op) -> Result<ValueId, IllFormed> {
        let ty = self.check(&op)?;
        self.ops.push(op);
        self.types.push(ty);
        Ok(ValueId(self.ops.len() as u32 - 1))
    }

    fn check(&self, op: &Op) -> Result<Type, IllFormed> {
        let wrong = |value: ValueId| Err(IllFormed::WrongType { value, found: self.type_of(value) });
        match *op {
            Op::Input(input) => match self.defined_input(input)?.kind {
                InputKind::Logits | InputKind::ExpertParameter => Ok(Type::Experts),
                InputKind::ScalarParameter => Ok(Type::Scalar),
                InputKind::GroupParameter if self.groups.is_none() => Err(IllFormed::NoGroups),
                InputKind::GroupParameter => Ok(Type::Groups),
                InputKind::WeightGradient(k) => Ok(Type::Picks(k)),
                InputKind::Table { .. } | InputKind::TokenId => Err(IllFormed::WrongInput(input)),
            },
            Op::Constant(_) => Ok(Type::Scalar),
            Op::Unary(_, value) => self.numbers(value),
            Op::Binary(_, a, b) => match (self.numbers(a)?, self.numbers(b)?) {
                (Type::Scalar, ty) | (ty, Type::Scalar) => Ok(ty),
                (left, right) if left == right => Ok(left),
                _ => wrong(b),
            },
            Op::Softmax(value) => self.vector(value),
            Op::Reduce(_, value) => self.vector(value).map(|_| Type::Scalar),
            Op::GroupReduce { of, top, .. } => {
                self.expect(of, Type::Experts)?;
                let size = self.group_size().ok_or(IllFormed::NoGroups)?;
                possible(top.unwrap_or(size), size)?;
                Ok(Type::Groups)
            }
            Op::ChooseGroups { by, count } => {
                self.expect(by, Type::Groups)?;
                possible(count, self.groups.ok_or(IllFormed::NoGroups)?)?;
                Ok(Type::GroupChoice(count))
            }
            Op::ChooseExperts { by, count, within } => {
                self.expect(by, Type::Experts)?;
                let available = match within {
                    None | Some((_, Masked::Fill(_))) => self.experts,
                    Some((choice, Masked::Infinity)) => match self.defined(choice)? {
                        Type::GroupChoice(groups) => groups * self.group_size().ok_or(IllFormed::NoGroups)?,
                        _ => return wrong(choice),
                    },
                };
                if let Some((choice, _)) = within
                    && !matches!(self.defined(choice)?, Type::GroupChoice(_))
                {
                    return wrong(choice);
                }
                possible(count, available)?;
                Ok(Type::ExpertChoice(count))
            }
            Op::LookUp { table, token } => {
                let InputKind::Table { k, .. } = self.defined_input(table)?.kind else {
                    return Err(IllFormed::WrongInput(table));
                };
                if self.defined_input(token)?.kind != InputKind::TokenId {
                    return Err(IllFormed::WrongInput(token));
                }
                possible(k, self.experts)?;
                Ok(Type::ExpertChoice(k))
            }
            Op::Gather { of, at } => {
                self.expect(of, Type::Experts)?;
                match self.defined(at)? {
                    Type::ExpertChoice(k) => Ok(Type::Picks(k)),
                    _ => wrong(at),
                }
            }
            Op::Scatter { of, at } => match (self.defined(of)?, self.defined(at)?) {
                (Type::Picks(k), Type::ExpertChoice(chosen)) if k == chosen => Ok(Type::Experts),
                (Type::Picks(_), _) => wrong(at),
                _ => wrong(of),
            },
            Op::Spread(value) => self.expect(value, Type::Groups).map(|()| Type::Experts),
            Op::LargestMask { of, count } => {
                let ty = self.vector(of)?;
                possible(count, self.length(ty))?;
                Ok(ty)
            }
            Op::GroupLargestMask { of, count } => {
                self.expect(of, Type::Experts)?;
                possible(count, self.group_size().ok_or(IllFormed::NoGroups)?)?;
                Ok(Type::Experts)
            }
        }
    }

    fn defined(&self, value: ValueId) -> Result<Type, IllFormed> {
        self.types.get(value.0 as usize).copied().ok_or(IllFormed::Undefined(value))
    }

    fn defined_input(&self, input: InputId) -> Result<&Input, IllFormed> {
        self.inputs.get(input.0 as usize).ok_or(IllFormed::UndefinedInput(input))
    }

    fn expect(&self, value: ValueId, ty: Type) -> Result<(), IllFormed> {
        let found = self.defined(value)?;
        if found == ty { Ok(()) } else { Err(IllFormed::WrongType { value, found }) }
    }

    fn numbers(&self, value: ValueId) -> Result<Type, IllFormed> {
        match self.defined(value)? {
            found @ (Type::ExpertChoice(_) | Type::GroupChoice(_)) => Err(IllFormed::WrongType { value, found }),
            ty => Ok(ty),
        }
    }

    fn vector(&self, value: ValueId) -> Result<Type, IllFormed> {
        match self.numbers(value)? {
            found @ Type::Scalar => Err(IllFormed::WrongType { value, found }),
            ty => Ok(ty),
        }
    }
}

fn possible(count: u32, available: u32) -> Result<(), IllFormed> {
    if (1..=available).contains(&count) { Ok(()) } else { Err(IllFormed::Count { count, available }) }
}

/// A gate: from a row of logits (and parameters) to the chosen experts and their weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    /// The computation.
    pub program: Program,
    /// `choice[k] of experts`: the result `indices`, ascending.
    pub choice: ValueId,
    /// `f32[k]`: the result `weights`, in the same order.
    pub weights: ValueId,
    /// Whether a weight scales the expert's input instead of its output.
    pub before_experts: bool,
}

impl Gate {
    /// Picks per token.
    pub fn top_k(&self) -> u32 {
        self.program.length(self.program.type_of(self.choice))
    }
}

/// The derivative of a gate: from the same inputs and the gradient of the weights to gradients of the inputs.
/// The choice itself has no derivative; it is computed again and used as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Backward {
    /// The computation; one more input than the gate, [`InputKind::WeightGradient`].
    pub program: Program,
    /// `f32[experts]`: the gradient with respect to the logits.
    pub logits: ValueId,
}

impl fmt::Display for ValueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Scalar => write!(f, "f32"),
            Type::Experts => write!(f, "f32[experts]"),
            Type::Groups => write!(f, "f32[groups]"),
            Type::Picks(k) => write!(f, "f32[{k}]"),
            Type::ExpertChoice(k) => write!(f, "choice[{k}] of experts"),
            Type::GroupChoice(k) => write!(f, "choice[{k}] of groups"),
        }
    }
}
