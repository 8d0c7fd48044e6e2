//! Several registers at once, instruction by instruction in turn.
//!
//! The functions of [`moe_gate::math`] are long chains in which each instruction waits for the one before. Some chains side by side fill
//! the waits. That is also why the code generator runs without its optimiser: it would put the chains back one after the other, and
//! move the constants, which are operands in memory here, into registers that there are not enough of.

use cranelift_codegen::ir::condcodes::FloatCC;
use cranelift_codegen::ir::{InstBuilder, Type, Value, types};
use moe_gate::math::Arithmetic;

use super::emit::Emitter;

/// `N` registers of f32 or i32.
#[derive(Clone, Copy)]
pub(crate) enum Registers<const N: usize> {
    /// Computed.
    Of([Value; N]),
    /// One number everywhere, by its bits; read where it is used.
    Constant(u32),
}

/// Emits each operation `N` times.
pub(crate) struct Wide<'e, 'f, const N: usize> {
    e: &'e mut Emitter<'f>,
    /// The constant that was read last. A clamp compares with one and selects it: with the same value in both, it is one instruction.
    last: Option<(u32, Type, Value)>,
}

impl<'e, 'f, const N: usize> Wide<'e, 'f, N> {
    pub(crate) fn new(e: &'e mut Emitter<'f>) -> Wide<'e, 'f, N> {
        Wide { e, last: None }
    }

    fn constant(&mut self, bits: u32, ty: Type) -> Value {
        if let Some((last_bits, last_ty, value)) = self.last
            && (last_bits, last_ty) == (bits, ty)
        {
            return value;
        }
        let value = if ty == types::F32X4 { self.e.float(f32::from_bits(bits)) } else { self.e.integer(bits as i32) };
        self.last = Some((bits, ty, value));
        value
    }

    fn float_at(&mut self, of: Registers<N>, place: usize) -> Value {
        match of {
            Registers::Of(registers) => registers[place],
            Registers::Constant(bits) => self.constant(bits, types::F32X4),
        }
    }

    fn integer_at(&mut self, of: Registers<N>, place: usize) -> Value {
        match of {
            Registers::Of(registers) => registers[place],
            Registers::Constant(bits) => self.constant(bits, types::I32X4),
        }
    }

    fn each(&mut self, mut emit: impl FnMut(&mut Self, usize) -> Value) -> Registers<N> {
        Registers::Of(std::array::from_fn(|place| emit(self, place)))
    }

    fn floats(
        &mut self,
        a: Registers<N>,
        b: Registers<N>,
        emit: fn(&mut Emitter<'f>, Value, Value) -> Value,
    ) -> Registers<N> {
        self.each(|w, place| {
            let (a, b) = (w.float_at(a, place), w.float_at(b, place));
            emit(w.e, a, b)
        })
    }

    fn integers(
        &mut self,
        a: Registers<N>,
        b: Registers<N>,
        emit: fn(&mut Emitter<'f>, Value, Value) -> Value,
    ) -> Registers<N> {
        self.each(|w, place| {
            let (a, b) = (w.integer_at(a, place), w.integer_at(b, place));
            emit(w.e, a, b)
        })
    }

    fn compare(&mut self, condition: FloatCC, a: Registers<N>, b: Registers<N>) -> [Value; N] {
        std::array::from_fn(|place| {
            let (a, b) = (self.float_at(a, place), self.float_at(b, place));
            self.e.compare(condition, a, b)
        })
    }
}

impl<const N: usize> Arithmetic for Wide<'_, '_, N> {
    type F = Registers<N>;
    type I = Registers<N>;
    type B = [Value; N];

    fn float(&mut self, value: f32) -> Self::F {
        Registers::Constant(value.to_bits())
    }
    fn integer(&mut self, value: i32) -> Self::I {
        Registers::Constant(value as u32)
    }
    fn add(&mut self, a: Self::F, b: Self::F) -> Self::F {
        self.floats(a, b, Emitter::add)
    }
    fn subtract(&mut self, a: Self::F, b: Self::F) -> Self::F {
        self.floats(a, b, Emitter::subtract)
    }
    fn multiply(&mut self, a: Self::F, b: Self::F) -> Self::F {
        self.floats(a, b, Emitter::multiply)
    }
    fn divide(&mut self, a: Self::F, b: Self::F) -> Self::F {
        self.floats(a, b, Emitter::divide)
    }
    fn square_root(&mut self, a: Self::F) -> Self::F {
        self.each(|w, place| {
            let a = w.float_at(a, place);
            w.e.b.ins().sqrt(a)
        })
    }
    fn negate(&mut self, a: Self::F) -> Self::F {
        self.floats(a, Registers::Constant((-0.0f32).to_bits()), |e, a, sign| e.b.ins().bxor(a, sign))
    }
    fn absolute(&mut self, a: Self::F) -> Self::F {
        self.floats(a, Registers::Constant(0x7fff_ffff), |e, a, magnitude| e.b.ins().band(a, magnitude))
    }
    fn less(&mut self, a: Self::F, b: Self::F) -> Self::B {
        self.compare(FloatCC::LessThan, a, b)
    }
    fn at_most(&mut self, a: Self::F, b: Self::F) -> Self::B {
        self.compare(FloatCC::LessThanOrEqual, a, b)
    }
    fn equal(&mut self, a: Self::F, b: Self::F) -> Self::B {
        self.compare(FloatCC::Equal, a, b)
    }
    fn select(&mut self, condition: Self::B, yes: Self::F, no: Self::F) -> Self::F {
        self.each(|w, place| {
            let (yes, no) = (w.float_at(yes, place), w.float_at(no, place));
            w.e.select(condition[place], yes, no)
        })
    }
    fn integer_add(&mut self, a: Self::I, b: Self::I) -> Self::I {
        self.integers(a, b, Emitter::integer_add)
    }
    fn integer_subtract(&mut self, a: Self::I, b: Self::I) -> Self::I {
        self.integers(a, b, Emitter::integer_subtract)
    }
    fn shift_left(&mut self, a: Self::I, count: u32) -> Self::I {
        self.each(|w, place| {
            let a = w.integer_at(a, place);
            w.e.shift_left(a, count)
        })
    }
    fn shift_right(&mut self, a: Self::I, count: u32) -> Self::I {
        self.each(|w, place| {
            let a = w.integer_at(a, place);
            w.e.shift_right(a, count)
        })
    }
    fn bits(&mut self, a: Self::F) -> Self::I {
        self.each(|w, place| {
            let a = w.float_at(a, place);
            w.e.bits(a)
        })
    }
    fn from_bits(&mut self, a: Self::I) -> Self::F {
        self.each(|w, place| {
            let a = w.integer_at(a, place);
            w.e.from_bits(a)
        })
    }
}
