//! Operations element by element, on four elements at once.

use cranelift_codegen::ir::condcodes::FloatCC;
use cranelift_codegen::ir::{InstBuilder, Value};
use moe_gate::ir::{Binary, Unary};
use moe_gate::math::{self, Arithmetic};

use super::emit::Emitter;

pub(crate) fn unary(e: &mut Emitter, function: Unary, x: Value) -> Value {
    match function {
        Unary::Negate => e.negate(x),
        Unary::Sigmoid => math::sigmoid(e, x),
        Unary::Exp => math::exp(e, x),
        Unary::Log => math::log(e, x),
        Unary::Sqrt => e.b.ins().sqrt(x),
        Unary::Softplus => math::softplus(e, x),
        Unary::Relu => {
            let zero = e.float(0.0);
            let is_low = e.compare(FloatCC::LessThanOrEqual, x, zero);
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

pub(crate) fn binary(e: &mut Emitter, function: Binary, a: Value, b: Value) -> Value {
    match function {
        Binary::Add => e.add(a, b),
        Binary::Subtract => e.subtract(a, b),
        Binary::Multiply => e.multiply(a, b),
        Binary::Divide => e.divide(a, b),
        Binary::Min => {
            let takes_first = e.compare(FloatCC::LessThanOrEqual, a, b);
            e.select(takes_first, a, b)
        }
        Binary::Max => {
            let takes_first = e.compare(FloatCC::LessThanOrEqual, b, a);
            e.select(takes_first, a, b)
        }
        Binary::AtLeast => {
            let (zero, one) = (e.float(0.0), e.float(1.0));
            let is_at_least = e.compare(FloatCC::LessThanOrEqual, b, a);
            e.select(is_at_least, one, zero)
        }
    }
}
