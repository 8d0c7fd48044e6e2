//! Operations element by element.

use cranelift_codegen::ir::condcodes::FloatCC;
use cranelift_codegen::ir::{InstBuilder, Value};
use moe_gate::ir::{Binary, Unary};
use moe_gate::math::{self, Arithmetic};

use super::emit::Emitter;

/// What these operations need beyond the shared functions.
pub(crate) trait Elements: Arithmetic {
    /// Correctly rounded.
    fn square_root(&mut self, a: Self::F) -> Self::F;
    /// a ≤ b; false when one is NaN
    fn at_most(&mut self, a: Self::F, b: Self::F) -> Self::B;
}

impl Elements for Emitter<'_> {
    fn square_root(&mut self, a: Value) -> Value {
        self.b.ins().sqrt(a)
    }
    fn at_most(&mut self, a: Value, b: Value) -> Value {
        self.compare(FloatCC::LessThanOrEqual, a, b)
    }
}

pub(crate) fn unary<E: Elements>(e: &mut E, function: Unary, x: E::F) -> E::F {
    match function {
        Unary::Negate => e.negate(x),
        Unary::Sigmoid => math::sigmoid(e, x),
        Unary::Exp => math::exp(e, x),
        Unary::Log => math::log(e, x),
        Unary::Sqrt => e.square_root(x),
        Unary::Softplus => math::softplus(e, x),
        Unary::Relu => {
            let zero = e.float(0.0);
            let is_low = e.at_most(x, zero);
            e.select(is_low, zero, x)
        }
        Unary::Tanh => math::tanh(e, x),
        Unary::Abs => e.absolute(x),
        Unary::IsPositive => {
            let (zero, one) = (e.float(0.0), e.float(1.0));
            let is_positive = e.less(zero, x);
            e.select(is_positive, one, zero)
        }
        Unary::Sign => {
            let (zero, one, minus_one) = (e.float(0.0), e.float(1.0), e.float(-1.0));
            let is_negative = e.less(x, zero);
            let otherwise = e.select(is_negative, minus_one, zero);
            let is_positive = e.less(zero, x);
            e.select(is_positive, one, otherwise)
        }
    }
}

pub(crate) fn binary<E: Elements>(e: &mut E, function: Binary, a: E::F, b: E::F) -> E::F {
    match function {
        Binary::Add => e.add(a, b),
        Binary::Subtract => e.subtract(a, b),
        Binary::Multiply => e.multiply(a, b),
        Binary::Divide => e.divide(a, b),
        Binary::Min => {
            let takes_first = e.at_most(a, b);
            e.select(takes_first, a, b)
        }
        Binary::Max => {
            let takes_first = e.at_most(b, a);
            e.select(takes_first, a, b)
        }
        Binary::AtLeast => {
            let (zero, one) = (e.float(0.0), e.float(1.0));
            let is_at_least = e.at_most(b, a);
            e.select(is_at_least, one, zero)
        }
    }
}
