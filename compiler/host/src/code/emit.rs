//! Emitting code: registers of four lanes, addresses and loops.
//!
//! Invariant: a value that is a *register* has type `f32x4`; a *mask* has type `i32x4`, each lane all ones or all zeros.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{Block, Endianness, InstBuilder, MemFlagsData, Type, Value, types};
use cranelift_codegen::isa::TargetFrontendConfig;
use cranelift_frontend::{FunctionBuilder, Variable};
use moe_gate::math::Arithmetic;

use super::layout::{LANES, Layout, NUMBER, REGISTER};

/// A place in memory.
#[derive(Clone, Copy)]
pub(crate) struct Address {
    pub base: Value,
    pub offset: i32,
}

/// A distance in bytes, of which a loop contributes a part.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    pub running: Option<Value>,
    pub fixed: i32,
}

impl Step {
    pub(crate) const fn of(bytes: u32) -> Step {
        Step { running: None, fixed: bytes as i32 }
    }
}

/// A function that is being written.
pub(crate) struct Emitter<'f> {
    pub b: FunctionBuilder<'f>,
    /// Memory for intermediate results, and how much of it is taken.
    scratch: Value,
    taken: u32,
    /// Memory that holds the constants, and what it holds. Constants are operands in memory because in registers there are too many:
    /// each would be moved out of every loop, spilled there, and loaded again by an instruction of its own.
    table: Value,
    constants: Vec<[u32; 4]>,
    /// A mask: where a NaN was seen that is a fault.
    pub fault: Variable,
    /// Where a token ends that has a fault.
    pub broken: Block,
}

/// What a function needs to run.
pub(crate) struct Needs {
    pub scratch_bytes: usize,
    pub constants: Vec<[u32; 4]>,
}

/// All memory belongs to the caller and is as large as the code assumes; rows are not aligned.
fn memory() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}

fn cast() -> MemFlagsData {
    MemFlagsData::new().with_endianness(Endianness::Little)
}

impl<'f> Emitter<'f> {
    pub(crate) fn new(mut b: FunctionBuilder<'f>, scratch: Value, table: Value, broken: Block) -> Emitter<'f> {
        let fault = b.declare_var(types::I32X4);
        Emitter { b, scratch, taken: 0, table, constants: Vec::new(), fault, broken }
    }

    /// The end of the function.
    pub(crate) fn finish(mut self, config: TargetFrontendConfig) -> Needs {
        self.b.seal_all_blocks();
        self.b.finalize(config);
        Needs { scratch_bytes: self.taken as usize, constants: self.constants }
    }

    /// Memory that nothing else uses.
    pub(crate) fn allocate(&mut self, bytes: u32) -> Address {
        let offset = self.taken as i32;
        self.taken += bytes.next_multiple_of(REGISTER);
        Address { base: self.scratch, offset }
    }

    pub(crate) fn allocate_vector(&mut self, layout: Layout) -> Address {
        self.allocate(layout.registers() * REGISTER)
    }

    fn place(&mut self, at: Address, step: Step) -> (Value, i32) {
        let base = match step.running {
            Some(running) => self.b.ins().iadd(at.base, running),
            None => at.base,
        };
        (base, at.offset + step.fixed)
    }

    /// An address as one whose offset is zero.
    pub(crate) fn address(&mut self, at: Address, step: Step) -> Address {
        let (base, offset) = self.place(at, step);
        Address { base, offset }
    }

    pub(crate) fn load_as(&mut self, ty: Type, at: Address, step: Step) -> Value {
        let (base, offset) = self.place(at, step);
        self.b.ins().load(ty, memory(), base, offset)
    }

    pub(crate) fn load(&mut self, at: Address, step: Step) -> Value {
        self.load_as(types::F32X4, at, step)
    }

    /// One number in all lanes.
    pub(crate) fn load_splat(&mut self, at: Address, step: Step) -> Value {
        let number = self.load_as(types::F32, at, step);
        self.splat(number)
    }

    pub(crate) fn store(&mut self, value: Value, at: Address, step: Step) {
        let (base, offset) = self.place(at, step);
        self.b.ins().store(memory(), value, base, offset);
    }

    /// The distance of the element with a number, 4 bytes each.
    pub(crate) fn element(&mut self, number: Value) -> Step {
        Step { running: Some(self.b.ins().ishl_imm_u(number, 2)), fixed: 0 }
    }

    pub(crate) fn add_steps(&mut self, a: Step, b: Step) -> Step {
        let running = match (a.running, b.running) {
            (Some(a), Some(b)) => Some(self.b.ins().iadd(a, b)),
            (a, b) => a.or(b),
        };
        Step { running, fixed: a.fixed + b.fixed }
    }

    pub(crate) fn index(&mut self, value: i64) -> Value {
        self.b.ins().iconst(types::I64, value)
    }

    pub(crate) fn splat(&mut self, number: Value) -> Value {
        self.b.ins().splat(types::F32X4, number)
    }

    pub(crate) fn first_lane(&mut self, register: Value) -> Value {
        self.b.ins().extractlane(register, 0)
    }

    fn constant(&mut self, ty: Type, lanes: [u32; 4]) -> Value {
        let place = self.constants.iter().position(|known| *known == lanes).unwrap_or_else(|| {
            self.constants.push(lanes);
            self.constants.len() - 1
        });
        self.b.ins().load(ty, memory(), self.table, place as i32 * REGISTER as i32)
    }

    pub(crate) fn mask_constant(&mut self, lanes: [u32; 4]) -> Value {
        self.constant(types::I32X4, lanes)
    }

    /// A mask of the first lanes.
    pub(crate) fn first_lanes(&mut self, count: u32) -> Value {
        self.mask_constant([0, 1, 2, 3].map(|lane| if lane < count { u32::MAX } else { 0 }))
    }

    pub(crate) fn compare(&mut self, condition: FloatCC, a: Value, b: Value) -> Value {
        self.b.ins().fcmp(condition, a, b)
    }

    pub(crate) fn as_register(&mut self, mask: Value) -> Value {
        self.b.ins().bitcast(types::F32X4, cast(), mask)
    }

    pub(crate) fn as_mask(&mut self, register: Value) -> Value {
        self.b.ins().bitcast(types::I32X4, cast(), register)
    }

    /// `a` where it is larger, else `b`; `b` when one is NaN. One instruction.
    pub(crate) fn larger(&mut self, a: Value, b: Value) -> Value {
        let mask = self.less(b, a);
        self.select(mask, a, b)
    }

    /// `a` where it is smaller, else `b`; `b` when one is NaN. One instruction.
    pub(crate) fn smaller(&mut self, a: Value, b: Value) -> Value {
        let mask = self.less(a, b);
        self.select(mask, a, b)
    }

    /// Makes the token faulty where `valid` lanes of one of two registers are NaN.
    pub(crate) fn forbid_nan(&mut self, register: Value, other: Value, valid: Option<Value>) {
        let mut nan = self.compare(FloatCC::Unordered, register, other);
        if let Some(valid) = valid {
            nan = self.b.ins().band(nan, valid);
        }
        let so_far = self.b.use_var(self.fault);
        let both = self.b.ins().bor(so_far, nan);
        self.b.def_var(self.fault, both);
    }

    /// Lanes of two registers: 0 to 3 of the first, 4 to 7 of the second.
    pub(crate) fn shuffle(&mut self, a: Value, b: Value, lanes: [u8; 4]) -> Value {
        let bytes: Vec<u8> = lanes.iter().flat_map(|lane| (0..4).map(move |byte| lane * 4 + byte)).collect();
        let lanes = self.b.func.dfg.immediates.push(bytes.into());
        let a = self.b.ins().bitcast(types::I8X16, cast(), a);
        let b = self.b.ins().bitcast(types::I8X16, cast(), b);
        let shuffled = self.b.ins().shuffle(a, b, lanes);
        self.b.ins().bitcast(types::F32X4, cast(), shuffled)
    }

    /// Rows become columns.
    pub(crate) fn transpose(&mut self, rows: [Value; 4]) -> [Value; 4] {
        let [a, b, c, d] = rows;
        let ab_low = self.shuffle(a, b, [0, 4, 1, 5]);
        let ab_high = self.shuffle(a, b, [2, 6, 3, 7]);
        let cd_low = self.shuffle(c, d, [0, 4, 1, 5]);
        let cd_high = self.shuffle(c, d, [2, 6, 3, 7]);
        [
            self.shuffle(ab_low, cd_low, [0, 1, 4, 5]),
            self.shuffle(ab_low, cd_low, [2, 3, 6, 7]),
            self.shuffle(ab_high, cd_high, [0, 1, 4, 5]),
            self.shuffle(ab_high, cd_high, [2, 3, 6, 7]),
        ]
    }

    /// Combines the four lanes; all lanes of the result are equal.
    pub(crate) fn across(&mut self, register: Value, combine: fn(&mut Self, Value, Value) -> Value) -> Value {
        let swapped = self.shuffle(register, register, [2, 3, 0, 1]);
        let pairs = combine(self, register, swapped);
        let swapped = self.shuffle(pairs, pairs, [1, 0, 3, 2]);
        combine(self, pairs, swapped)
    }

    /// Runs `body` for the distances 0, `stride`, 2 × `stride`, …; `unroll` copies of it per iteration, so that the code is not longer
    /// than that but the processor is not busy with the loop.
    pub(crate) fn repeat(&mut self, count: u32, stride: u32, unroll: u32, body: &mut dyn FnMut(&mut Self, Step)) {
        if count <= unroll {
            (0..count).for_each(|turn| body(self, Step::of(turn * stride)));
            return;
        }
        let whole = count - count % unroll;
        let end = i64::from(whole) * i64::from(stride);
        let zero = self.index(0);
        let running = self.b.declare_var(types::I64);
        self.b.def_var(running, zero);
        let (turn, after) = (self.b.create_block(), self.b.create_block());
        self.b.ins().jump(turn, &[]);
        self.b.switch_to_block(turn);
        let start = self.b.use_var(running);
        for copy in 0..unroll {
            body(self, Step { running: Some(start), fixed: (copy * stride) as i32 });
        }
        let next = self.b.ins().iadd_imm_s(start, i64::from(unroll) * i64::from(stride));
        self.b.def_var(running, next);
        let more = self.b.ins().icmp_imm_s(IntCC::UnsignedLessThan, next, end);
        self.b.ins().brif(more, turn, &[], after, &[]);
        self.b.switch_to_block(after);
        (whole..count).for_each(|turn| body(self, Step::of(turn * stride)));
    }

    /// Runs `body` while a condition that `head` computes is not zero.
    pub(crate) fn repeat_while(&mut self, head: &mut dyn FnMut(&mut Self) -> Value, body: &mut dyn FnMut(&mut Self)) {
        let (test, turn, after) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        self.b.ins().jump(test, &[]);
        self.b.switch_to_block(test);
        let more = head(self);
        self.b.ins().brif(more, turn, &[], after, &[]);
        self.b.switch_to_block(turn);
        body(self);
        self.b.ins().jump(test, &[]);
        self.b.switch_to_block(after);
    }

    /// Runs `body` for each number below `count`.
    pub(crate) fn repeat_times(&mut self, count: Value, body: &mut dyn FnMut(&mut Self, Value)) {
        let number = self.counter(0);
        self.repeat_while(
            &mut |e| {
                let now = e.b.use_var(number);
                e.b.ins().icmp(IntCC::UnsignedLessThan, now, count)
            },
            &mut |e| {
                let now = e.b.use_var(number);
                body(e, now);
                let next = e.b.ins().iadd_imm_s(now, 1);
                e.b.def_var(number, next);
            },
        );
    }

    /// A variable of i64.
    pub(crate) fn counter(&mut self, start: i64) -> Variable {
        let variable = self.b.declare_var(types::I64);
        let start = self.index(start);
        self.b.def_var(variable, start);
        variable
    }

    /// A variable that is a register, with a number in all lanes.
    pub(crate) fn register(&mut self, start: f32) -> Variable {
        let variable = self.b.declare_var(types::F32X4);
        let start = self.float(start);
        self.b.def_var(variable, start);
        variable
    }

    /// Replaces a variable.
    pub(crate) fn update(&mut self, variable: Variable, with: impl FnOnce(&mut Self, Value) -> Value) {
        let old = self.b.use_var(variable);
        let new = with(self, old);
        self.b.def_var(variable, new);
    }

    /// Runs `body` for each register of a vector, with a mask of its elements where not all lanes hold one.
    pub(crate) fn each_register(
        &mut self,
        layout: Layout,
        unroll: u32,
        body: &mut dyn FnMut(&mut Self, Step, Option<Value>),
    ) {
        if layout.tail() == 0 {
            self.repeat(layout.registers(), REGISTER, unroll, &mut |e, step| body(e, step, None));
        } else {
            self.each_row(layout, &mut |e, row, _| e.each_register_of_row(layout, row, unroll, body));
        }
    }

    /// Runs `body` for the registers of a vector, elements and padding alike: for `width` neighbours at once (true), and for each of
    /// those that are left over (false).
    pub(crate) fn all_registers(&mut self, layout: Layout, width: u32, body: &mut dyn FnMut(&mut Self, Step, bool)) {
        let whole = layout.registers() / width;
        self.repeat(whole, width * REGISTER, 1, &mut |e, step| body(e, step, true));
        (whole * width..layout.registers()).for_each(|n| body(self, Step::of(n * REGISTER), false));
    }

    /// Runs `body` for each row: its distance, and that of an array with one number per row.
    pub(crate) fn each_row(&mut self, layout: Layout, body: &mut dyn FnMut(&mut Self, Step, Step)) {
        let bytes = layout.row_registers() * REGISTER;
        if layout.rows == 1 {
            return body(self, Step::of(0), Step::of(0));
        }
        let number = self.counter(0);
        self.repeat(layout.rows, bytes, 1, &mut |e, row| {
            let index = e.b.use_var(number);
            body(e, row, Step { running: Some(index), fixed: 0 });
            let next = e.b.ins().iadd_imm_s(index, 4);
            e.b.def_var(number, next);
        });
    }

    /// Runs `body` for each register of the row at a distance.
    pub(crate) fn each_register_of_row(
        &mut self,
        layout: Layout,
        row: Step,
        unroll: u32,
        body: &mut dyn FnMut(&mut Self, Step, Option<Value>),
    ) {
        let whole = layout.width / 4;
        self.repeat(whole, REGISTER, unroll, &mut |e, step| {
            let step = e.add_steps(row, step);
            body(e, step, None);
        });
        if layout.tail() > 0 {
            let valid = self.first_lanes(layout.tail());
            let step = self.add_steps(row, Step::of(whole * REGISTER));
            body(self, step, Some(valid));
        }
    }

    /// Copies rows without padding to rows with it, or back. Padding is left as it is.
    pub(crate) fn copy(&mut self, layout: Layout, from: (Address, bool), to: (Address, bool)) {
        let bytes = |is_packed: bool| if is_packed { layout.width * NUMBER } else { layout.row_registers() * REGISTER };
        let (from_row, to_row) = (self.counter(0), self.counter(0));
        self.repeat(layout.rows, 1, 1, &mut |e, _| {
            let source = Step { running: Some(e.b.use_var(from_row)), fixed: 0 };
            let target = Step { running: Some(e.b.use_var(to_row)), fixed: 0 };
            let (source, target) = (e.address(from.0, source), e.address(to.0, target));
            e.repeat(layout.width / LANES, REGISTER, 4, &mut |e, step| {
                let register = e.load(source, step);
                e.store(register, target, step);
            });
            for lane in 0..layout.tail() {
                let step = Step::of(layout.width / LANES * REGISTER + lane * NUMBER);
                let number = e.load_as(types::F32, source, step);
                e.store(number, target, step);
            }
            e.update(from_row, |e, old| e.b.ins().iadd_imm_s(old, i64::from(bytes(from.1))));
            e.update(to_row, |e, old| e.b.ins().iadd_imm_s(old, i64::from(bytes(to.1))));
        });
    }
}

/// The shared functions, on four numbers at once.
impl Arithmetic for Emitter<'_> {
    type F = Value;
    type I = Value;
    type B = Value;

    fn float(&mut self, value: f32) -> Value {
        self.constant(types::F32X4, [value.to_bits(); 4])
    }
    fn integer(&mut self, value: i32) -> Value {
        self.mask_constant([value as u32; 4])
    }
    fn add(&mut self, a: Value, b: Value) -> Value {
        self.b.ins().fadd(a, b)
    }
    fn subtract(&mut self, a: Value, b: Value) -> Value {
        self.b.ins().fsub(a, b)
    }
    fn multiply(&mut self, a: Value, b: Value) -> Value {
        self.b.ins().fmul(a, b)
    }
    fn divide(&mut self, a: Value, b: Value) -> Value {
        self.b.ins().fdiv(a, b)
    }
    fn square_root(&mut self, a: Value) -> Value {
        self.b.ins().sqrt(a)
    }
    fn negate(&mut self, a: Value) -> Value {
        let sign = self.float(-0.0);
        self.b.ins().bxor(a, sign)
    }
    fn absolute(&mut self, a: Value) -> Value {
        let magnitude = self.constant(types::F32X4, [0x7fff_ffff; 4]);
        self.b.ins().band(a, magnitude)
    }
    fn less(&mut self, a: Value, b: Value) -> Value {
        self.compare(FloatCC::LessThan, a, b)
    }
    fn at_most(&mut self, a: Value, b: Value) -> Value {
        self.compare(FloatCC::LessThanOrEqual, a, b)
    }
    fn equal(&mut self, a: Value, b: Value) -> Value {
        self.compare(FloatCC::Equal, a, b)
    }
    fn select(&mut self, condition: Value, yes: Value, no: Value) -> Value {
        let condition = self.as_register(condition);
        self.b.ins().bitselect(condition, yes, no)
    }
    fn integer_add(&mut self, a: Value, b: Value) -> Value {
        self.b.ins().iadd(a, b)
    }
    fn integer_subtract(&mut self, a: Value, b: Value) -> Value {
        self.b.ins().isub(a, b)
    }
    fn shift_left(&mut self, a: Value, count: u32) -> Value {
        let count = self.b.ins().iconst(types::I32, i64::from(count));
        self.b.ins().ishl(a, count)
    }
    fn shift_right(&mut self, a: Value, count: u32) -> Value {
        let count = self.b.ins().iconst(types::I32, i64::from(count));
        self.b.ins().sshr(a, count)
    }
    fn bits(&mut self, a: Value) -> Value {
        self.as_mask(a)
    }
    fn from_bits(&mut self, a: Value) -> Value {
        self.as_register(a)
    }
}
