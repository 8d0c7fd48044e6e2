//! The reference interpreter: what a gate means, in the plainest form.
//!
//! Invariant: this is the definition that every other execution is compared with, bit by bit. Nothing here is fast.
//!
//! A token fails at the first of these, in this order: a NaN in its logits; in program order, a NaN in what is ranked (the key of a
//! choice, and the operand of a largest n of each group), or a row of a table that is no choice; a NaN in its weights.

use crate::inputs::Inputs;
use crate::ir::{Backward, Gate, InputId, InputKind, Masked, Op, Program, Reduction, Type, ValueId};
use crate::math::{self, Native};
use crate::order::{self, Lanes};

/// Where the tokens of a batch go.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routing {
    /// `i32[tokens, top_k]`, ascending expert ids in each row.
    pub indices: Vec<i32>,
    /// `f32[tokens, top_k]`, in the same order.
    pub weights: Vec<f32>,
}

/// A token that cannot be routed: the first of its batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("token {token}: {fault}")]
pub struct GateError {
    /// The position of the token in the batch.
    pub token: usize,
    pub fault: Fault,
}

/// Why a token cannot be routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("the logit of expert {expert} is NaN")]
    NanLogit {
        /// The lowest such expert.
        expert: u32,
    },
    /// What experts are chosen by is NaN.
    #[error("the number by which experts are chosen is NaN for expert {expert}")]
    NanKey {
        /// The lowest such expert.
        expert: u32,
    },
    /// What groups are chosen by is NaN.
    #[error("the number by which groups are chosen is NaN for group {group}")]
    NanGroupKey {
        /// The lowest such group.
        group: u32,
    },
    #[error("the weight of expert {expert} is NaN")]
    NanWeight {
        /// The lowest such expert.
        expert: u32,
    },
    /// A token id without a row in the table.
    #[error("the table has {vocabulary} rows, and the token id is {id}")]
    TokenId {
        id: i32,
        /// Rows of the table.
        vocabulary: u32,
    },
    /// An entry of the table that is no expert.
    #[error("the table sends the token to expert {found}, and there are {experts} experts")]
    NoSuchExpert {
        /// The entry.
        found: i32,
        experts: u32,
    },
    /// A row of the table that holds an expert twice.
    #[error("the table sends the token to expert {expert} twice")]
    ExpertTwice {
        /// The lowest such expert.
        expert: u32,
    },
}

/// Routes a batch.
///
/// # Errors
/// If a token cannot be routed.
///
/// # Panics
/// If `inputs` were made for another program.
pub fn route(gate: &Gate, inputs: &Inputs) -> Result<Routing, GateError> {
    assert!(inputs.fit(&gate.program), "inputs of another gate");
    let mut routing = Routing::default();
    for token in 0..inputs.tokens() {
        let (experts, weights) = route_token(gate, inputs, token).map_err(|fault| GateError { token, fault })?;
        routing.indices.extend(experts.iter().map(|&expert| expert as i32));
        routing.weights.extend(weights);
    }
    Ok(routing)
}

/// The experts of one token, ascending, and their weights.
///
/// # Errors
/// If the token cannot be routed.
pub fn route_token(gate: &Gate, inputs: &Inputs, token: usize) -> Result<(Vec<u32>, Vec<f32>), Fault> {
    let values = evaluate(&gate.program, inputs, token)?;
    let experts = values[gate.choice.0 as usize].choice();
    let weights = values[gate.weights.0 as usize].numbers();
    match first_nan(weights) {
        Some(pick) => Err(Fault::NanWeight { expert: experts[pick as usize] }),
        None => Ok((experts.to_vec(), weights.to_vec())),
    }
}

/// The gradient with respect to the logits, `f32[tokens, experts]`, of a batch.
///
/// # Errors
/// If a token cannot be routed.
///
/// # Panics
/// If `inputs` were made for another program.
pub fn differentiate(backward: &Backward, inputs: &Inputs) -> Result<Vec<f32>, GateError> {
    assert!(inputs.fit(&backward.program), "inputs of another gate");
    let mut gradients = Vec::new();
    for token in 0..inputs.tokens() {
        gradients.extend(differentiate_token(backward, inputs, token).map_err(|fault| GateError { token, fault })?);
    }
    Ok(gradients)
}

/// The gradient with respect to the logits of one token.
///
/// # Errors
/// If the token cannot be routed.
pub fn differentiate_token(backward: &Backward, inputs: &Inputs, token: usize) -> Result<Vec<f32>, Fault> {
    let values = evaluate(&backward.program, inputs, token)?;
    Ok(values[backward.logits.0 as usize].numbers().to_vec())
}

/// The result of an operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A vector; of length one, a scalar.
    Numbers(Vec<f32>),
    /// Ascending ids.
    Choice(Vec<u32>),
}

impl Value {
    /// # Panics
    /// If this is a choice.
    fn numbers(&self) -> &[f32] {
        match self {
            Value::Numbers(numbers) => numbers,
            Value::Choice(_) => panic!("the program was checked: these are numbers"),
        }
    }

    /// # Panics
    /// If these are numbers.
    fn choice(&self) -> &[u32] {
        match self {
            Value::Choice(ids) => ids,
            Value::Numbers(_) => panic!("the program was checked: this is a choice"),
        }
    }
}

/// The results of all operations for one token.
///
/// # Errors
/// If the token has a fault other than in its weights, which a program does not know.
pub fn evaluate(program: &Program, inputs: &Inputs, token: usize) -> Result<Vec<Value>, Fault> {
    for (index, input) in program.inputs().iter().enumerate() {
        if input.kind == InputKind::Logits
            && let Some(expert) = first_nan(inputs.row(InputId(index as u32), token))
        {
            return Err(Fault::NanLogit { expert });
        }
    }
    let mut values: Vec<Value> = Vec::new();
    for (id, op) in program.ops() {
        let value = Step { program, inputs, token, values: &values }.evaluate(id, op)?;
        values.push(value);
    }
    Ok(values)
}

/// What an operation may read.
struct Step<'a> {
    program: &'a Program,
    inputs: &'a Inputs<'a>,
    token: usize,
    values: &'a [Value],
}

impl<'a> Step<'a> {
    fn numbers(&self, value: ValueId) -> &'a [f32] {
        self.values[value.0 as usize].numbers()
    }

    fn choice(&self, value: ValueId) -> &'a [u32] {
        self.values[value.0 as usize].choice()
    }

    fn evaluate(&self, id: ValueId, op: &Op) -> Result<Value, Fault> {
        let ty = self.program.type_of(id);
        let length = self.program.length(ty) as usize;
        let numbers = match *op {
            Op::Input(input) => {
                let row = if self.program.input(input).kind.is_per_token() { self.token } else { 0 };
                self.inputs.row(input, row).to_vec()
            }
            Op::Constant(number) => vec![number],
            Op::Unary(unary, x) => self.numbers(x).iter().map(|&x| unary.apply(&mut Native, x)).collect(),
            Op::Binary(binary, a, b) => {
                let (a, b) = (self.numbers(a), self.numbers(b));
                let of = |numbers: &[f32], index: usize| if numbers.len() == 1 { numbers[0] } else { numbers[index] };
                (0..length).map(|index| binary.apply(&mut Native, of(a, index), of(b, index))).collect()
            }
            Op::Softmax(x) => {
                let numbers = self.numbers(x);
                let largest = order::maximum(numbers);
                let powers: Vec<f32> = numbers.iter().map(|x| math::exp(&mut Native, x - largest)).collect();
                let sum = self.sum(self.program.type_of(x), &powers);
                powers.iter().map(|power| power / sum).collect()
            }
            Op::Reduce(reduction, x) => {
                let numbers = self.numbers(x);
                vec![match reduction {
                    Reduction::Sum => self.sum(self.program.type_of(x), numbers),
                    Reduction::Mean => self.sum(self.program.type_of(x), numbers) / numbers.len() as f32,
                    Reduction::Max => order::maximum(numbers),
                }]
            }
            Op::GroupReduce { of, top, reduction } => {
                if top.is_some()
                    && let Some(expert) = first_nan(self.numbers(of))
                {
                    return Err(Fault::NanKey { expert });
                }
                self.groups(of).map(|group| self.reduce_group(group, top, reduction)).collect()
            }
            Op::ChooseGroups { by, count } => {
                let keys = self.numbers(by);
                if let Some(group) = first_nan(keys) {
                    return Err(Fault::NanGroupKey { group });
                }
                return Ok(Value::Choice(order::choose(keys, count)));
            }
            Op::ChooseExperts { by, count, within } => {
                let mut keys = self.numbers(by).to_vec();
                if let Some(expert) = first_nan(&keys) {
                    return Err(Fault::NanKey { expert });
                }
                if let Some((groups, masked)) = within {
                    self.mask(&mut keys, self.choice(groups), masked);
                }
                return Ok(Value::Choice(order::choose(&keys, count)));
            }
            Op::LookUp { table, token } => return self.look_up(table, token).map(Value::Choice),
            Op::Gather { of, at } => {
                let all = self.numbers(of);
                self.choice(at).iter().map(|&expert| all[expert as usize]).collect()
            }
            Op::Scatter { of, at } => {
                let mut all = vec![0.0; length];
                for (&number, &expert) in self.numbers(of).iter().zip(self.choice(at)) {
                    all[expert as usize] = number;
                }
                all
            }
            Op::Spread(x) => {
                let size = length / self.numbers(x).len();
                self.numbers(x).iter().flat_map(|&number| std::iter::repeat_n(number, size)).collect()
            }
            Op::LargestMask { of, count } => largest_mask(self.numbers(of), count),
            Op::GroupLargestMask { of, count } => {
                self.groups(of).flat_map(|group| largest_mask(group, count)).collect()
            }
        };
        debug_assert_eq!(numbers.len(), length, "{id} is {ty}");
        Ok(Value::Numbers(numbers))
    }

    fn group_size(&self) -> usize {
        self.program.group_size().expect("the program was checked: experts are in groups") as usize
    }

    fn groups(&self, of: ValueId) -> std::slice::Chunks<'a, f32> {
        self.numbers(of).chunks(self.group_size())
    }

    fn lanes(&self) -> Lanes {
        Lanes::of(self.program.experts(), self.program.group_size())
    }

    fn sum(&self, ty: Type, numbers: &[f32]) -> f32 {
        match ty {
            Type::Experts => order::sum_experts(numbers, self.lanes()),
            Type::Groups => order::sum_groups(numbers),
            _ => order::sum_picks(numbers),
        }
    }

    fn reduce_group(&self, group: &[f32], top: Option<u32>, reduction: Reduction) -> f32 {
        let sum = |count: Option<u32>| match count {
            Some(count) => order::sequential(&order::largest(group, count)),
            None => order::sum_group(group, self.lanes()),
        };
        match reduction {
            Reduction::Sum => sum(top),
            Reduction::Mean => sum(top) / top.map_or(group.len(), |count| count as usize) as f32,
            Reduction::Max => order::maximum(group),
        }
    }

    fn mask(&self, keys: &mut [f32], groups: &[u32], masked: Masked) {
        let fill = match masked {
            Masked::Infinity => f32::NEG_INFINITY,
            Masked::Fill(number) => number,
        };
        for (group, keys) in keys.chunks_mut(self.group_size()).enumerate() {
            if !groups.contains(&(group as u32)) {
                keys.fill(fill);
            }
        }
    }

    fn look_up(&self, table: InputId, token: InputId) -> Result<Vec<u32>, Fault> {
        let InputKind::Table { vocabulary, k } = self.program.input(table).kind else {
            unreachable!("the program was checked: this is a table");
        };
        let id = self.inputs.integers(token)[self.token];
        let row = u32::try_from(id).ok().filter(|&row| row < vocabulary);
        let row = row.ok_or(Fault::TokenId { id, vocabulary })? as usize;
        choice_of_row(&self.inputs.integers(table)[row * k as usize..][..k as usize], self.program.experts())
    }
}

/// The row of a table as a choice: sorted, each an expert, none twice.
///
/// # Errors
/// If it is none.
pub fn choice_of_row(row: &[i32], experts: u32) -> Result<Vec<u32>, Fault> {
    let expert = |&found: &i32| {
        u32::try_from(found).ok().filter(|&expert| expert < experts).ok_or(Fault::NoSuchExpert { found, experts })
    };
    let mut ids: Vec<u32> = row.iter().map(expert).collect::<Result<_, _>>()?;
    ids.sort_unstable();
    match ids.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(twice) => Err(Fault::ExpertTwice { expert: twice[0] }),
        None => Ok(ids),
    }
}

/// 1 for the `count` largest, else 0; where there is a NaN, all NaN.
fn largest_mask(numbers: &[f32], count: u32) -> Vec<f32> {
    if first_nan(numbers).is_some() {
        return vec![f32::NAN; numbers.len()];
    }
    let mut mask = vec![0.0; numbers.len()];
    for id in order::choose(numbers, count) {
        mask[id as usize] = 1.0;
    }
    mask
}

fn first_nan(numbers: &[f32]) -> Option<u32> {
    numbers.iter().position(|number| number.is_nan()).map(|index| index as u32)
}
