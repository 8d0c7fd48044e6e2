//! The functions of a gate on a device: those of [`moe_gate::functions`], emitted operation by operation.
//!
//! Invariant: every method is one exact operation of the device, so that the bits are those of every other execution.

use moe_gate::math::Arithmetic;

use crate::device::{Builder, F32, Pred, U32, Value};

/// Computes by emitting code.
pub(super) struct Emitted<'k>(pub &'k Builder);

impl<'k> Arithmetic for Emitted<'k> {
    type F = Value<'k, F32>;
    type I = Value<'k, U32>;
    type B = Value<'k, Pred>;

    fn float(&mut self, value: f32) -> Self::F {
        self.0.f32(value)
    }
    fn integer(&mut self, value: i32) -> Self::I {
        self.0.u32(value as u32)
    }
    fn add(&mut self, a: Self::F, b: Self::F) -> Self::F {
        a + b
    }
    fn subtract(&mut self, a: Self::F, b: Self::F) -> Self::F {
        a - b
    }
    fn multiply(&mut self, a: Self::F, b: Self::F) -> Self::F {
        a * b
    }
    fn divide(&mut self, a: Self::F, b: Self::F) -> Self::F {
        a / b
    }
    fn square_root(&mut self, a: Self::F) -> Self::F {
        a.sqrt()
    }
    fn negate(&mut self, a: Self::F) -> Self::F {
        -a
    }
    fn absolute(&mut self, a: Self::F) -> Self::F {
        a.abs()
    }
    fn less(&mut self, a: Self::F, b: Self::F) -> Self::B {
        a.less(b)
    }
    fn at_most(&mut self, a: Self::F, b: Self::F) -> Self::B {
        b.at_least(a)
    }
    fn equal(&mut self, a: Self::F, b: Self::F) -> Self::B {
        a.equals(b)
    }
    fn select(&mut self, condition: Self::B, yes: Self::F, no: Self::F) -> Self::F {
        yes.when(condition, no)
    }
    fn integer_add(&mut self, a: Self::I, b: Self::I) -> Self::I {
        a + b
    }
    fn integer_subtract(&mut self, a: Self::I, b: Self::I) -> Self::I {
        a - b
    }
    fn shift_left(&mut self, a: Self::I, count: u32) -> Self::I {
        a << count
    }
    fn shift_right(&mut self, a: Self::I, count: u32) -> Self::I {
        a.shift_right_signed(count)
    }
    fn bits(&mut self, a: Self::F) -> Self::I {
        a.bits()
    }
    fn from_bits(&mut self, a: Self::I) -> Self::F {
        a.bits_to_f32()
    }
}

/// −0 becomes +0, other numbers stay: [`moe_gate::order::comparable`].
pub(super) fn comparable(x: Value<'_, F32>) -> Value<'_, F32> {
    x + x.builder().f32(0.0)
}

/// A number whose unsigned order is that of the f32; the key of −0 is just below that of +0.
pub(super) fn sortable(x: Value<'_, F32>) -> Value<'_, U32> {
    let bits = x.bits();
    bits ^ (bits.shift_right_signed(31) | 0x8000_0000)
}

/// The inverse of [`sortable`].
pub(super) fn from_sortable(key: Value<'_, U32>) -> Value<'_, F32> {
    let was_negative = key.shift_right_signed(31) ^ u32::MAX;
    (key ^ (was_negative | 0x8000_0000)).bits_to_f32()
}
