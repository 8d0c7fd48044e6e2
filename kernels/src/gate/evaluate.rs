//! A program for one token, operation by operation, in the order in which it is written.
//!
//! Invariant: every operation gives the bits that [`moe_gate::interpret`] gives. An operation that no result needs leaves its checks for
//! faults, and no other code.

use std::cell::RefCell;
use std::collections::BTreeMap;

use moe_gate::ir::{InputId, InputKind, Masked, Op, Program, Reduction, Type, ValueId};
use moe_gate::math;
use moe_gate::range::Nan;
use moe_gate::ranges::Ranges;

use super::arithmetic::Emitted;
use super::fault::Fault;
use super::memory::{Exchange, last_if_none, load_row};
use super::network;
use super::select::Chosen;
use super::warp::{Distribution, Warp};
use crate::device::{F32, Global, Pointer, Pred, U8, U32, Value};

/// The result of an operation, as far as it lies on one lane.
pub(super) enum Lane<'k> {
    /// The numbers of the lane.
    Numbers(Vec<Value<'k, F32>>),
    /// The expert of the lane's pick.
    Experts(Value<'k, U32>),
    /// Whether each of the lane's groups is chosen.
    Groups(Vec<Value<'k, Pred>>),
}

impl<'k> Lane<'k> {
    /// # Panics
    /// If this is a choice.
    pub fn numbers(&self) -> &[Value<'k, F32>] {
        match self {
            Lane::Numbers(numbers) => numbers,
            _ => panic!("the program was checked: these are numbers"),
        }
    }

    /// # Panics
    /// If this is no choice of experts.
    pub fn experts(&self) -> Value<'k, U32> {
        match self {
            Lane::Experts(ids) => *ids,
            _ => panic!("the program was checked: this is a choice of experts"),
        }
    }

    /// # Panics
    /// If this is no choice of groups.
    fn groups(&self) -> &[Value<'k, Pred>] {
        match self {
            Lane::Groups(chosen) => chosen,
            _ => panic!("the program was checked: this is a choice of groups"),
        }
    }
}

/// What the operations of one token read.
pub(super) struct Token<'a, 'k> {
    pub program: &'a Program,
    pub ranges: &'a Ranges,
    pub warp: &'a Warp<'k>,
    pub exchange: &'a Exchange<'k>,
    pub fault: &'a Fault<'k>,
    /// Where each input starts, in the order of declaration.
    pub inputs: &'a [Pointer<'k, Global, U8>],
    /// The token.
    pub index: Value<'k, U32>,
    /// The numbers that were checked for NaN.
    pub checked: RefCell<BTreeMap<ValueId, Vec<Value<'k, F32>>>>,
}

impl<'k> Token<'_, 'k> {
    /// The results of all operations.
    pub fn evaluate(&self) -> Vec<Lane<'k>> {
        let logits = self.logits();
        let mut values: Vec<Lane<'k>> = Vec::new();
        for (id, op) in self.program.ops() {
            let value = self.operation(op, self.program.type_of(id), &values, &logits);
            values.push(value);
        }
        values
    }

    /// Where the part of an input starts that belongs to the token, or to all.
    pub fn row(&self, id: InputId) -> Pointer<'k, Global, U8> {
        let input = self.inputs[id.0 as usize];
        if !self.program.input(id).kind.is_per_token() {
            return input;
        }
        input.bytes(self.index.wide() * (4 * self.program.length_of_input(id)))
    }

    /// The logits, checked, for each input of that kind.
    fn logits(&self) -> Vec<(InputId, Vec<Value<'k, F32>>)> {
        let ids = (0..).map(InputId).zip(self.program.inputs());
        let logits = ids.filter(|(_, input)| input.kind == InputKind::Logits);
        logits
            .map(|(id, _)| {
                let experts = self.warp.experts();
                let row = load_row(self.row(id), &experts);
                (id, self.fault.nan_logit(self.warp, &row, &experts))
            })
            .collect()
    }

    fn input(&self, id: InputId, logits: &[(InputId, Vec<Value<'k, F32>>)]) -> Vec<Value<'k, F32>> {
        let row = self.row(id);
        match self.program.input(id).kind {
            InputKind::Logits => {
                let (_, row) = logits.iter().find(|(other, _)| *other == id).expect("all logits were read");
                row.clone()
            }
            InputKind::ExpertParameter => load_row(row, &self.warp.experts()),
            InputKind::GroupParameter => load_row(row, &self.warp.distribution(Type::Groups)),
            InputKind::ScalarParameter => vec![row.cast::<F32>().load()],
            InputKind::WeightGradient(k) => {
                vec![row.cast::<F32>().at(last_if_none(&self.warp.picks(k))).load()]
            }
            InputKind::Table { .. } | InputKind::TokenId => unreachable!("the program was checked"),
        }
    }

    fn operation(&self, op: &Op, ty: Type, values: &[Lane<'k>], logits: &[(InputId, Vec<Value<'k, F32>>)]) -> Lane<'k> {
        let (k, warp) = (self.warp.k, self.warp);
        let numbers = |value: ValueId| values[value.0 as usize].numbers();
        let type_of = |value: ValueId| self.program.type_of(value);
        let over = |value: ValueId| warp.distribution(type_of(value));
        let mask = |chosen: Vec<Value<'k, Pred>>| {
            let (one, zero) = (k.f32(1.0), k.f32(0.0));
            chosen.into_iter().map(|chosen| one.when(chosen, zero)).collect::<Vec<_>>()
        };
        Lane::Numbers(match *op {
            Op::Input(id) => self.input(id, logits),
            Op::Constant(number) => vec![k.f32(number)],
            Op::Unary(unary, x) => numbers(x).iter().map(|&x| unary.apply(&mut Emitted(k), x)).collect(),
            Op::Binary(binary, a, b) => {
                let (a, b) = (numbers(a), numbers(b));
                (0..a.len().max(b.len()))
                    .map(|i| binary.apply(&mut Emitted(k), a[i % a.len()], b[i % b.len()]))
                    .collect()
            }
            Op::Softmax(x) => self.softmax(numbers(x), type_of(x)),
            Op::Reduce(reduction, x) => vec![self.reduce(reduction, numbers(x), type_of(x))],
            Op::GroupReduce { of, top, reduction } => {
                let size = self.group_size();
                let checked = match top {
                    Some(_) => self.checked(of, numbers(of), &over(of)),
                    None => numbers(of).to_vec(),
                };
                warp.reduce_groups(&checked, size, top, reduction)
            }
            Op::ChooseGroups { by, count } => {
                let keys = self.checked(by, numbers(by), &over(by));
                let (groups, chosen) = (over(by), warp.choose(&keys, &over(by), count));
                return Lane::Groups((0..groups.each).map(|group| chosen.contains(group)).collect());
            }
            Op::ChooseExperts { by, count, within } => {
                let experts = over(by);
                let keys = self.checked(by, numbers(by), &experts);
                let chosen = match within {
                    None => warp.choose(&keys, &experts, count),
                    Some((groups, masked)) => {
                        let groups = values[groups.0 as usize].groups();
                        let is_sorted = self
                            .program
                            .ops()
                            .any(|(_, op)| matches!(op, Op::GroupReduce { of, top: Some(_), .. } if *of == by));
                        self.choose_within(&keys, (groups, masked), is_sorted, &experts, count)
                    }
                };
                return Lane::Experts(self.exchange.ids(warp, &chosen, &experts, &warp.picks(count)));
            }
            Op::LookUp { table, token } => return Lane::Experts(self.look_up(table, token)),
            Op::Gather { of, at } => {
                vec![self.exchange.gather(warp, numbers(of), &over(of), values[at.0 as usize].experts())]
            }
            Op::Scatter { of, at } => {
                let ids = values[at.0 as usize].experts();
                self.exchange.scatter(warp, numbers(of)[0], ids, &over(of), &warp.distribution(ty))
            }
            Op::Spread(x) => {
                let (groups, size) = (numbers(x), self.group_size());
                (0..warp.lanes.per_lane).map(|expert| groups[(expert / size) as usize % groups.len()]).collect()
            }
            Op::LargestMask { of, count } => {
                let over = over(of);
                let nan: Vec<_> = numbers(of).iter().map(|number| number.is_nan()).collect();
                let some = warp.any(over.existing(|index| nan[index]).reduce(|a, b| a | b).expect("a lane has places"));
                let chosen = warp.choose(&without_nan(numbers(of)), &over, count);
                let mask = mask((0..over.each).map(|index| chosen.contains(index)).collect());
                mask.into_iter().map(|one| k.f32(f32::NAN).when(some, one)).collect()
            }
            Op::GroupLargestMask { of, count } => {
                let nan: Vec<_> = numbers(of).iter().map(|number| number.is_nan()).collect();
                let some = warp.any_in_groups(&nan, self.group_size());
                let mask = mask(warp.choose_in_groups(&without_nan(numbers(of)), self.group_size(), count));
                mask.into_iter().zip(some).map(|(one, some)| k.f32(f32::NAN).when(some, one)).collect()
            }
        })
    }

    fn group_size(&self) -> u32 {
        self.program.group_size().expect("the program was checked: experts are in groups")
    }

    /// The numbers by which something is chosen: a NaN is a fault.
    fn checked(&self, id: ValueId, numbers: &[Value<'k, F32>], over: &Distribution<'k>) -> Vec<Value<'k, F32>> {
        if self.ranges.get(id).nan == Nan::Never {
            return numbers.to_vec();
        }
        let check = || self.fault.nan(self.warp, numbers, over);
        self.checked.borrow_mut().entry(id).or_insert_with(check).clone()
    }

    fn softmax(&self, numbers: &[Value<'k, F32>], ty: Type) -> Vec<Value<'k, F32>> {
        let over = self.warp.distribution(ty);
        let largest = self.warp.maximum(numbers, &over);
        let emitted = &mut Emitted(self.warp.k);
        let powers: Vec<_> = numbers.iter().map(|&number| math::exp(emitted, number - largest)).collect();
        let sum = self.warp.sum(&powers, ty, &over);
        powers.into_iter().map(|power| power / sum).collect()
    }

    fn reduce(&self, reduction: Reduction, numbers: &[Value<'k, F32>], ty: Type) -> Value<'k, F32> {
        let over = self.warp.distribution(ty);
        match reduction {
            Reduction::Sum => self.warp.sum(numbers, ty, &over),
            Reduction::Mean => self.warp.sum(numbers, ty, &over) / self.warp.k.f32(over.count as f32),
            Reduction::Max => self.warp.maximum(numbers, &over),
        }
    }

    /// The `count` largest keys, where those outside of the chosen groups count as what `masked` says. `is_sorted` says that each lane
    /// has sorted the same keys before.
    fn choose_within(
        &self,
        keys: &[Value<'k, F32>],
        (groups, masked): (&[Value<'k, Pred>], Masked),
        is_sorted: bool,
        experts: &Distribution<'k>,
        count: u32,
    ) -> Chosen<'k> {
        let fill = self.warp.k.f32(match masked {
            Masked::Infinity => f32::NEG_INFINITY,
            Masked::Fill(number) => number,
        });
        let size = self.group_size() as usize;
        let seen = |keys: &[Value<'k, F32>]| -> Vec<_> {
            keys.iter().enumerate().map(|(expert, key)| key.when(groups[expert / size], fill)).collect()
        };
        if is_sorted && size >= keys.len() && experts.exists.iter().all(Option::is_none) {
            // All of the lane is in or out, so that it may be sorted first: LLVM finds that it is already.
            let list = seen(&network::largest(keys, count));
            return self.warp.choose_with(&seen(keys), list, experts, count);
        }
        self.warp.choose(&seen(keys), experts, count)
    }

    fn look_up(&self, table: InputId, token: InputId) -> Value<'k, U32> {
        let (k, warp) = (self.warp.k, self.warp);
        let InputKind::Table { vocabulary, k: count } = self.program.input(table).kind else {
            unreachable!("the program was checked: this is a table");
        };
        let picks = warp.picks(count);
        let id = self.row(token).cast::<U32>().load();
        let row = self.fault.token_id(warp, id, vocabulary);
        let row = self.row(table).bytes(row.wide() * (4 * u64::from(count))).cast::<U32>();
        let pick = row.at(last_if_none(&picks)).load();
        let pick = self.fault.out_of_range(warp, pick, &picks, self.program.experts());

        // Each lane finds the position of its own pick.
        let (mut position, mut repeats) = (k.u32(0), k.truth(false));
        for index in 0..count {
            let other = pick.of_lane(warp.base + index);
            let earlier = k.u32(index).less(picks.first);
            let same = other.equals(pick) & earlier;
            position = position + (other.less(pick) | same).as_u32();
            repeats = repeats | same;
        }
        let repeats = picks.existing(|_| repeats).next().expect("a lane has a pick");
        self.fault.twice(warp, pick, repeats, &picks);
        self.exchange.permuted(warp, pick, position, &picks)
    }
}

/// 0 in the place of NaN.
fn without_nan<'k>(numbers: &[Value<'k, F32>]) -> Vec<Value<'k, F32>> {
    numbers.iter().map(|&number| number.builder().f32(0.0).when(number.is_nan(), number)).collect()
}
