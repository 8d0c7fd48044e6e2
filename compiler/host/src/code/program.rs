//! One operation after the other.

use std::collections::HashMap;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Block, InstBuilder, Value, types};
use cranelift_codegen::isa::TargetFrontendConfig;
use cranelift_frontend::{FunctionBuilder, Variable};
use moe_gate::ir::{InputId, InputKind, Masked, Op, Program, Reduction, Type, ValueId};
use moe_gate::math::{self, Arithmetic};
use moe_gate::order::Lanes;

use super::Results;
use super::choose::list_bytes;
use super::emit::{Address, Emitter, Needs, Step};
use super::layout::{Layout, NUMBER, REGISTER};
use super::wide::{Registers, Wide};

/// Where the result of an operation is.
#[derive(Clone, Copy)]
enum Place {
    /// A vector that nothing has needed yet.
    Pending,
    /// A scalar, in all lanes.
    Scalar(Value),
    Vector(Address),
    /// Positions, i32, ascending.
    Choice(Address),
}

struct Translation<'a, 'f> {
    e: Emitter<'f>,
    program: &'a Program,
    /// The operations that read each value, and whether it is a result.
    readers: Vec<(Vec<ValueId>, bool)>,
    places: Vec<Place>,
    /// The address of each input.
    inputs: Vec<Value>,
    /// Inputs that all tokens share.
    shared: HashMap<InputId, Place>,
    token: Variable,
}

/// Writes the function.
pub(crate) fn emit(mut b: FunctionBuilder, config: TargetFrontendConfig, program: &Program, results: Results) -> Needs {
    let entry = b.create_block();
    b.append_block_params_for_function_params(entry);
    b.switch_to_block(entry);
    let &[table, constants, scratch, first, second, tokens] = b.block_params(entry) else {
        unreachable!("the signature has six parameters");
    };
    let broken = b.create_block();
    let mut e = Emitter::new(b, scratch, constants, broken);
    let inputs = (0..program.inputs().len() as u32)
        .map(|input| e.load_as(types::I64, Address { base: table, offset: 0 }, Step::of(input * 8)))
        .collect();
    let token = e.counter(0);
    let mut readers = vec![(Vec::new(), false); program.ops().len()];
    for (id, op) in program.ops() {
        op.operands().for_each(|operand| readers[operand.0 as usize].0.push(id));
    }
    let wanted = match results {
        Results::Routing { choice, weights } => vec![choice, weights],
        Results::Vector(vector) => vec![vector],
    };
    wanted.iter().for_each(|id| readers[id.0 as usize].1 = true);
    let shared = HashMap::new();
    let mut translation = Translation { e, program, readers, places: Vec::new(), inputs, shared, token };
    translation.shared_inputs();
    translation.tokens(tokens, results, (first, second), broken);
    translation.e.finish(config)
}

impl Translation<'_, '_> {
    fn layout(&self, ty: Type) -> Layout {
        match ty {
            Type::Experts => match self.program.group_size() {
                Some(width) => Layout { rows: self.program.experts() / width, width },
                None => Layout { rows: 1, width: self.program.experts() },
            },
            ty => Layout { rows: 1, width: self.program.length(ty) },
        }
    }

    fn layout_of(&self, value: ValueId) -> Layout {
        self.layout(self.program.type_of(value))
    }

    fn experts(&self) -> Layout {
        self.layout(Type::Experts)
    }

    fn type_of_input(&self, input: InputId) -> Option<Type> {
        match self.program.input(input).kind {
            InputKind::Logits | InputKind::ExpertParameter => Some(Type::Experts),
            InputKind::ScalarParameter => Some(Type::Scalar),
            InputKind::GroupParameter => Some(Type::Groups),
            InputKind::WeightGradient(k) => Some(Type::Picks(k)),
            InputKind::Table { .. } | InputKind::TokenId => None,
        }
    }

    fn input_ids(&self) -> impl Iterator<Item = InputId> + use<> {
        (0..self.program.inputs().len() as u32).map(InputId)
    }

    /// Once per call: what all tokens share.
    fn shared_inputs(&mut self) {
        for input in self.input_ids() {
            if self.program.input(input).kind.is_per_token() {
                continue;
            }
            let at = Address { base: self.inputs[input.0 as usize], offset: 0 };
            let place = match self.type_of_input(input) {
                None => continue,
                Some(Type::Groups) if self.program.groups().is_none() => continue,
                Some(Type::Scalar) => Place::Scalar(self.e.load_splat(at, Step::of(0))),
                Some(ty) => Place::Vector(self.padded(at, self.layout(ty))),
            };
            self.shared.insert(input, place);
        }
    }

    /// A vector of the caller, which has no padding, in a form whose registers can be read whole.
    fn padded(&mut self, at: Address, layout: Layout) -> Address {
        if layout.tail() == 0 {
            return at;
        }
        let copy = self.e.allocate_vector(layout);
        self.e.copy(layout, (at, true), (copy, false));
        copy
    }

    /// The row of the token in an array with so many numbers for each.
    fn row(&mut self, base: Value, numbers: u32) -> Address {
        let token = self.e.b.use_var(self.token);
        let distance = self.e.b.ins().imul_imm_s(token, i64::from(numbers * NUMBER));
        Address { base: self.e.b.ins().iadd(base, distance), offset: 0 }
    }

    fn tokens(&mut self, tokens: Value, results: Results, to: (Value, Value), broken: Block) {
        let (head, body, done) = (self.e.b.create_block(), self.e.b.create_block(), self.e.b.create_block());
        self.e.b.ins().jump(head, &[]);
        self.e.b.switch_to_block(head);
        let token = self.e.b.use_var(self.token);
        let more = self.e.b.ins().icmp(IntCC::UnsignedLessThan, token, tokens);
        self.e.b.ins().brif(more, body, &[], done, &[]);

        self.e.b.switch_to_block(body);
        let none = self.e.integer(0);
        self.e.b.def_var(self.e.fault, none);
        let mut rows: HashMap<InputId, Place> = HashMap::new();
        for input in self.input_ids() {
            if !self.program.input(input).kind.is_per_token() {
                continue;
            }
            let Some(ty) = self.type_of_input(input) else { continue };
            let layout = self.layout(ty);
            let row = self.row(self.inputs[input.0 as usize], layout.elements());
            let row = self.padded(row, layout);
            if self.program.input(input).kind == InputKind::Logits {
                self.forbid_nan(row, layout);
            }
            rows.insert(input, Place::Vector(row));
        }
        self.places.clear();
        for (id, op) in self.program.ops() {
            let place = match op {
                Op::Input(input) => rows.get(input).or(self.shared.get(input)).copied(),
                _ => None,
            };
            let place = place.unwrap_or_else(|| self.operation(id, op));
            self.places.push(place);
        }
        match results {
            Results::Routing { choice, weights } => self.routing(choice, weights, to),
            Results::Vector(vector) => {
                let layout = self.layout_of(vector);
                let from = self.vector(vector);
                let to = self.row(to.0, layout.elements());
                self.e.copy(layout, (from, false), (to, true));
            }
        }
        let fault = self.e.b.use_var(self.e.fault);
        let is_faulty = self.e.b.ins().vany_true(fault);
        let good = self.e.b.create_block();
        self.e.b.ins().brif(is_faulty, broken, &[], good, &[]);
        self.e.b.switch_to_block(good);
        self.e.update(self.token, |e, old| e.b.ins().iadd_imm_s(old, 1));
        self.e.b.ins().jump(head, &[]);

        self.e.b.switch_to_block(broken);
        let token = self.e.b.use_var(self.token);
        self.e.b.ins().return_(&[token]);
        self.e.b.switch_to_block(done);
        self.e.b.ins().return_(&[tokens]);
    }

    fn routing(&mut self, choice: ValueId, weights: ValueId, to: (Value, Value)) {
        let layout = self.layout_of(choice);
        let list = self.choice(choice);
        let indices = self.row(to.0, layout.elements());
        let experts = self.experts();
        self.e.repeat(layout.elements(), NUMBER, 32, &mut |e, step| {
            let mut position = e.load_as(types::I32, list, step);
            if !experts.is_packed() {
                let row = e.b.ins().udiv_imm_u(position, i64::from(experts.stride()));
                let padding = e.b.ins().imul_imm_s(row, i64::from(experts.stride() - experts.width));
                position = e.b.ins().isub(position, padding);
            }
            e.store(position, indices, step);
        });
        let numbers = self.vector(weights);
        self.e.each_register(layout, 8, &mut |e, step, valid| {
            let number = e.load(numbers, step);
            e.forbid_nan(number, number, valid);
        });
        let result = self.row(to.1, layout.elements());
        self.e.copy(layout, (numbers, false), (result, true));
    }

    /// # Panics
    /// If the value is no vector, which the invariant of a program excludes.
    fn vector(&mut self, value: ValueId) -> Address {
        if let Place::Pending = self.places[value.0 as usize] {
            self.compute(value);
        }
        match self.places[value.0 as usize] {
            Place::Vector(address) => address,
            _ => unreachable!("the program was checked: this is a vector"),
        }
    }

    fn choice(&self, value: ValueId) -> Address {
        match self.places[value.0 as usize] {
            Place::Choice(list) => list,
            _ => unreachable!("the program was checked: this is a choice"),
        }
    }

    /// Computes a pending vector and the pending ones that it needs, in one pass; keeps those that others need too.
    fn compute(&mut self, value: ValueId) {
        let mut cone = vec![value];
        let mut next = 0;
        while let Some(&id) = cone.get(next) {
            for operand in self.program.op(id).operands() {
                if matches!(self.places[operand.0 as usize], Place::Pending) && !cone.contains(&operand) {
                    cone.push(operand);
                }
            }
            next += 1;
        }
        cone.sort_unstable();
        let is_kept = |id: &ValueId| {
            let (readers, is_result) = &self.readers[id.0 as usize];
            *id == value || *is_result || readers.iter().any(|reader| !cone.contains(reader))
        };
        let kept: Vec<ValueId> = cone.iter().copied().filter(is_kept).collect();
        let layout = self.layout_of(value);
        let memory: Vec<Address> = kept.iter().map(|_| self.e.allocate_vector(layout)).collect();
        let pass = Pass { program: self.program, places: &self.places, cone: &cone, kept: &kept, memory: &memory };
        self.e.all_registers(layout, WIDTH as u32, &mut |e, step, is_wide| {
            if is_wide { pass.emit::<WIDTH>(e, step) } else { pass.emit::<1>(e, step) }
        });
        for (id, address) in kept.into_iter().zip(memory) {
            self.places[id.0 as usize] = Place::Vector(address);
        }
    }

    fn scalar(&self, value: ValueId) -> Value {
        match self.places[value.0 as usize] {
            Place::Scalar(number) => number,
            _ => unreachable!("the program was checked: this is a scalar"),
        }
    }

    fn operation(&mut self, id: ValueId, op: &Op) -> Place {
        let is_scalar = self.program.type_of(id) == Type::Scalar;
        match *op {
            Op::Constant(number) => Place::Scalar(self.e.float(number)),
            Op::Unary(function, x) if is_scalar => {
                let x = self.scalar(x);
                Place::Scalar(function.apply(&mut self.e, x))
            }
            Op::Binary(function, a, b) if is_scalar => {
                let (a, b) = (self.scalar(a), self.scalar(b));
                Place::Scalar(function.apply(&mut self.e, a, b))
            }
            Op::Unary(..) | Op::Binary(..) => Place::Pending,
            Op::Input(_) => unreachable!("inputs have their place, and tables are read by a look-up"),
            Op::Softmax(x) => self.softmax(x),
            Op::Reduce(reduction, x) => self.reduce(reduction, x),
            Op::GroupReduce { of, top, reduction } => {
                let (numbers, layout) = (self.vector(of), self.experts());
                Place::Vector(match top {
                    None => self.e.reduce_groups(numbers, layout, reduction, self.lanes()),
                    Some(count) => {
                        self.forbid_nan(numbers, layout);
                        self.e.reduce_largest(numbers, layout, count, reduction)
                    }
                })
            }
            Op::ChooseGroups { by, count } => {
                let layout = self.layout_of(by);
                let keys = self.vector(by);
                let keys = self.keys(keys, layout, None);
                self.choose(keys, layout, count)
            }
            Op::ChooseExperts { by, count, within } => {
                let keys = self.vector(by);
                let within = within.map(|(groups, masked)| {
                    let fill = match masked {
                        Masked::Infinity => f32::NEG_INFINITY,
                        Masked::Fill(number) => number,
                    };
                    (self.groups_mask(groups), fill)
                });
                let layout = self.experts();
                let keys = self.keys(keys, layout, within);
                self.choose(keys, layout, count)
            }
            Op::LookUp { table, token } => self.look_up(table, token),
            Op::Gather { of, at } => self.gather(of, at),
            Op::Scatter { of, at } => {
                let (numbers, list) = (self.vector(of), self.choice(at));
                let count = self.layout_of(of).elements();
                let result = self.zeros(self.experts());
                self.e.repeat(count, NUMBER, 16, &mut |e, step| {
                    let number = e.load_as(types::F32, numbers, step);
                    let to = position(e, list, step);
                    e.store(number, result, to);
                });
                Place::Vector(result)
            }
            Op::Spread(x) => {
                let (numbers, layout) = (self.vector(x), self.experts());
                let result = self.e.allocate_vector(layout);
                self.e.each_row(layout, &mut |e, row, index| {
                    let number = e.load_splat(numbers, index);
                    e.each_register_of_row(layout, row, 8, &mut |e, step, _| e.store(number, result, step));
                });
                Place::Vector(result)
            }
            Op::LargestMask { of, count } => {
                let layout = self.layout_of(of);
                self.largest_mask(of, layout, layout, count)
            }
            Op::GroupLargestMask { of, count } => self.largest_mask(of, self.experts(), self.experts().row(), count),
        }
    }

    fn lanes(&self) -> Lanes {
        Lanes::of(self.program.experts(), self.program.group_size())
    }

    fn forbid_nan(&mut self, of: Address, layout: Layout) {
        if layout.tail() > 0 || !layout.registers().is_multiple_of(2) {
            return self.e.each_register(layout, 4, &mut |e, step, valid| {
                let number = e.load(of, step);
                e.forbid_nan(number, number, valid);
            });
        }
        self.e.repeat(layout.registers() / 2, 2 * REGISTER, 4, &mut |e, step| {
            let number = e.load(of, step);
            let next = e.load(of, Step { fixed: step.fixed + REGISTER as i32, ..step });
            e.forbid_nan(number, next, None);
        });
    }

    fn sum(&mut self, of: Address, ty: Type) -> Value {
        let layout = self.layout(ty);
        let sum = match ty {
            Type::Experts => self.e.sum_experts(of, layout, self.lanes()),
            Type::Groups => self.e.sum_groups(of, layout),
            _ => self.e.sum_picks(of, layout),
        };
        self.e.splat(sum)
    }

    fn softmax(&mut self, x: ValueId) -> Place {
        let (numbers, ty) = (self.vector(x), self.program.type_of(x));
        let layout = self.layout(ty);
        let largest = self.e.maximum(numbers, layout);
        let result = self.e.allocate_vector(layout);
        self.e.all_registers(layout, WIDTH as u32, &mut |e, step, is_wide| {
            if is_wide {
                powers::<WIDTH>(e, (numbers, largest, result), step);
            } else {
                powers::<1>(e, (numbers, largest, result), step);
            }
        });
        let sum = self.sum(result, ty);
        self.e.each_register(layout, 4, &mut |e, step, _| {
            let power = e.load(result, step);
            let share = e.divide(power, sum);
            e.store(share, result, step);
        });
        Place::Vector(result)
    }

    fn reduce(&mut self, reduction: Reduction, x: ValueId) -> Place {
        let (numbers, ty) = (self.vector(x), self.program.type_of(x));
        let layout = self.layout(ty);
        Place::Scalar(match reduction {
            Reduction::Sum => self.sum(numbers, ty),
            Reduction::Max => self.e.maximum(numbers, layout),
            Reduction::Mean => {
                let sum = self.sum(numbers, ty);
                let count = self.e.float(layout.elements() as f32);
                self.e.divide(sum, count)
            }
        })
    }

    /// What is ranked: without NaN, −∞ in the padding, and in rows whose mask is zero the given number.
    fn keys(&mut self, of: Address, layout: Layout, within: Option<(Address, f32)>) -> Address {
        let keys = self.e.allocate_vector(layout);
        self.e.each_row(layout, &mut |e, row, index| {
            let lowest = e.float(f32::NEG_INFINITY);
            let mask = within.map(|(mask, fill)| {
                let mask = e.load_splat(mask, index);
                (e.as_mask(mask), e.float(fill))
            });
            e.each_register_of_row(layout, row, 8, &mut |e, step, valid| {
                let number = e.load(of, step);
                e.forbid_nan(number, number, valid);
                let mut key = e.larger(number, lowest);
                if let Some((is_inside, fill)) = mask {
                    key = e.select(is_inside, key, fill);
                }
                if let Some(valid) = valid {
                    key = e.select(valid, key, lowest);
                }
                e.store(key, keys, step);
            });
        });
        keys
    }

    fn choose(&mut self, keys: Address, layout: Layout, count: u32) -> Place {
        let list = self.e.allocate(list_bytes(count));
        self.e.choose(keys, layout, count, list);
        Place::Choice(list)
    }

    /// All ones for each chosen group, zero for the others.
    fn groups_mask(&mut self, groups: ValueId) -> Address {
        let count = self.layout_of(groups).elements();
        let list = self.choice(groups);
        let mask = self.zeros(self.layout(Type::Groups));
        let ones = self.e.b.ins().iconst(types::I32, 0xffff_ffff);
        self.e.repeat(count, NUMBER, 16, &mut |e, step| {
            let to = position(e, list, step);
            e.store(ones, mask, to);
        });
        mask
    }

    fn zeros(&mut self, layout: Layout) -> Address {
        let memory = self.e.allocate_vector(layout);
        let zero = self.e.float(0.0);
        self.e.each_register(layout, 8, &mut |e, step, _| e.store(zero, memory, step));
        memory
    }

    fn gather(&mut self, of: ValueId, at: ValueId) -> Place {
        let (numbers, list) = (self.vector(of), self.choice(at));
        let layout = self.layout_of(at);
        let result = self.e.allocate_vector(layout);
        self.e.repeat(layout.elements(), NUMBER, 32, &mut |e, step| {
            let from = position(e, list, step);
            let number = e.load_as(types::F32, numbers, from);
            e.store(number, result, step);
        });
        Place::Vector(result)
    }

    /// 1 for the largest of each part: the parts of a vector are its rows, or all of it is one.
    fn largest_mask(&mut self, of: ValueId, layout: Layout, part: Layout, count: u32) -> Place {
        let numbers = self.vector(of);
        let parts = if part == layout { Layout { rows: 1, ..layout } } else { layout };
        let (keys, mask) = (self.e.allocate_vector(part), self.zeros(layout));
        let list = self.e.allocate(list_bytes(count));
        self.e.each_row(parts, &mut |e, row, _| {
            let (source, target) = (e.address(numbers, row), e.address(mask, row));
            let (lowest, nan) = (e.float(f32::NEG_INFINITY), e.float(f32::NAN));
            let none = e.integer(0);
            let seen = e.b.declare_var(types::I32X4);
            e.b.def_var(seen, none);
            e.each_register(part, 1, &mut |e, step, valid| {
                let number = e.load(source, step);
                let number = valid.map_or(number, |valid| e.select(valid, number, lowest));
                let is_number = e.equal(number, number);
                let is_nan = e.b.ins().bnot(is_number);
                e.update(seen, |e, old| e.b.ins().bor(old, is_nan));
                let key = e.larger(number, lowest);
                e.store(key, keys, step);
            });
            e.choose(keys, part, count, list);
            let one = e.b.ins().f32const(1.0);
            e.repeat(count, NUMBER, 1, &mut |e, step| {
                let to = position(e, list, step);
                e.store(one, target, to);
            });
            let (spoil, after) = (e.b.create_block(), e.b.create_block());
            let seen = e.b.use_var(seen);
            let is_seen = e.b.ins().vany_true(seen);
            e.b.ins().brif(is_seen, spoil, &[], after, &[]);
            e.b.switch_to_block(spoil);
            e.each_register(part, 1, &mut |e, step, _| e.store(nan, target, step));
            e.b.ins().jump(after, &[]);
            e.b.switch_to_block(after);
        });
        Place::Vector(mask)
    }

    /// A row of the table, sorted: each of its experts is a bit of a map, which is then read in order.
    fn look_up(&mut self, table: InputId, token: InputId) -> Place {
        let InputKind::Table { vocabulary, k } = self.program.input(table).kind else {
            unreachable!("the program was checked: this is a table");
        };
        let (experts, words) = (self.experts(), self.program.experts().div_ceil(64));
        let at = self.row(self.inputs[token.0 as usize], 1);
        let id = self.e.load_as(types::I32, at, Step::of(0));
        let is_row = self.e.b.ins().icmp_imm_u(IntCC::UnsignedLessThan, id, i64::from(vocabulary));
        self.or_broken(is_row);
        let id = self.e.b.ins().uextend(types::I64, id);
        let distance = self.e.b.ins().imul_imm_s(id, i64::from(k) * i64::from(NUMBER));
        let row = Address { base: self.e.b.ins().iadd(self.inputs[table.0 as usize], distance), offset: 0 };

        let map = self.e.allocate(words * 8);
        let zero = self.e.index(0);
        self.e.repeat(words, 8, 16, &mut |e, step| e.store(zero, map, step));
        let count = i64::from(self.program.experts());
        let broken = self.e.broken;
        self.e.repeat(k, NUMBER, 1, &mut |e, step| {
            let expert = e.load_as(types::I32, row, step);
            let is_expert = e.b.ins().icmp_imm_u(IntCC::UnsignedLessThan, expert, count);
            or_broken(e, is_expert, broken);
            let expert = e.b.ins().uextend(types::I64, expert);
            let word = e.b.ins().ushr_imm_u(expert, 6);
            let word = Step { running: Some(e.b.ins().ishl_imm_u(word, 3)), fixed: 0 };
            let old = e.load_as(types::I64, map, word);
            let bit = e.b.ins().band_imm_u(expert, 63);
            let one = e.index(1);
            let bit = e.b.ins().ishl(one, bit);
            let new = e.b.ins().bor(old, bit);
            e.store(new, map, word);
        });
        let list = self.e.allocate(list_bytes(k));
        let next = self.e.counter(0);
        let first = self.e.counter(0);
        self.e.repeat(words, 8, 1, &mut |e, step| {
            let word = e.load_as(types::I64, map, step);
            e.each_bit(word, &mut |e, bit| {
                let first = e.b.use_var(first);
                let mut position = e.b.ins().iadd(first, bit);
                if !experts.is_packed() {
                    let row = e.b.ins().udiv_imm_u(position, i64::from(experts.width));
                    let padding = e.b.ins().imul_imm_s(row, i64::from(experts.stride() - experts.width));
                    position = e.b.ins().iadd(position, padding);
                }
                let position = e.b.ins().ireduce(types::I32, position);
                let place = e.b.use_var(next);
                let distance = e.element(place);
                e.store(position, list, distance);
                let place = e.b.ins().iadd_imm_s(place, 1);
                e.b.def_var(next, place);
            });
            e.update(first, |e, old| e.b.ins().iadd_imm_s(old, 64));
        });
        // Fewer bits than entries: an expert was there twice.
        let found = self.e.b.use_var(next);
        let all_differ = self.e.b.ins().icmp_imm_s(IntCC::Equal, found, i64::from(k));
        self.or_broken(all_differ);
        Place::Choice(list)
    }

    fn or_broken(&mut self, condition: Value) {
        let broken = self.e.broken;
        or_broken(&mut self.e, condition, broken);
    }
}

/// Registers that are computed side by side.
const WIDTH: usize = 4;

/// Operations element by element that are computed in one pass over memory.
struct Pass<'a> {
    program: &'a Program,
    places: &'a [Place],
    /// Their results, in order.
    cone: &'a [ValueId],
    /// Those that are stored, and where.
    kept: &'a [ValueId],
    memory: &'a [Address],
}

impl Pass<'_> {
    /// For `N` registers from a distance on.
    fn emit<const N: usize>(&self, e: &mut Emitter, step: Step) {
        let at = |place: usize| Step { fixed: step.fixed + (place as u32 * REGISTER) as i32, ..step };
        let mut known: HashMap<ValueId, Registers<N>> = HashMap::new();
        for &id in self.cone {
            let mut operand = |e: &mut Emitter, id: ValueId| match self.places[id.0 as usize] {
                Place::Scalar(number) => Registers::Of([number; N]),
                Place::Vector(address) => *known
                    .entry(id)
                    .or_insert_with(|| Registers::Of(std::array::from_fn(|place| e.load(address, at(place))))),
                Place::Pending => known[&id],
                Place::Choice(_) => unreachable!("the program was checked: these are numbers"),
            };
            let registers = match *self.program.op(id) {
                Op::Unary(function, x) => {
                    let x = operand(e, x);
                    function.apply(&mut Wide::new(e), x)
                }
                Op::Binary(function, a, b) => {
                    let (a, b) = (operand(e, a), operand(e, b));
                    function.apply(&mut Wide::new(e), a, b)
                }
                _ => unreachable!("only these are ever pending"),
            };
            known.insert(id, registers);
        }
        for (id, &address) in self.kept.iter().zip(self.memory) {
            store(e, known[id], address, at);
        }
    }
}

/// The exponential of each number less the largest.
fn powers<const N: usize>(e: &mut Emitter, (numbers, largest, result): (Address, Value, Address), step: Step) {
    let at = |place: usize| Step { fixed: step.fixed + (place as u32 * REGISTER) as i32, ..step };
    let numbers = Registers::<N>::Of(std::array::from_fn(|place| e.load(numbers, at(place))));
    let mut wide = Wide::new(e);
    let distance = wide.subtract(numbers, Registers::Of([largest; N]));
    let power = math::exp(&mut wide, distance);
    store(e, power, result, at);
}

/// Stores registers side by side.
fn store<const N: usize>(e: &mut Emitter, registers: Registers<N>, address: Address, at: impl Fn(usize) -> Step) {
    for place in 0..N {
        let register = match registers {
            Registers::Of(registers) => registers[place],
            Registers::Constant(bits) => e.float(f32::from_bits(bits)),
        };
        e.store(register, address, at(place));
    }
}

/// The token has a fault unless the condition holds.
fn or_broken(e: &mut Emitter, condition: Value, broken: Block) {
    let good = e.b.create_block();
    e.b.ins().brif(condition, good, &[], broken, &[]);
    e.b.switch_to_block(good);
}

/// The distance of the element that an entry of a choice names.
fn position(e: &mut Emitter, list: Address, entry: Step) -> Step {
    let position = e.load_as(types::I32, list, entry);
    let position = e.b.ins().uextend(types::I64, position);
    e.element(position)
}
