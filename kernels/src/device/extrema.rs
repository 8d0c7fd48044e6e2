//! Largest and smallest of f32, one instruction each, and the tests for NaN that go with them.

use melior::ir::Identifier;
use melior::ir::attribute::IntegerAttribute;
use melior::ir::r#type::IntegerType;

use super::value::{Element, F32, Pred, U32, Value};

/// MLIR's number of the comparison that holds where an operand is NaN.
const UNORDERED: i64 = 14;

impl<'k> Value<'k, F32> {
    /// The larger number; the other one where one is NaN. Of −0 and +0 it is either.
    pub fn larger_number(self, other: Value<'k, F32>) -> Value<'k, F32> {
        self.extremum("llvm.intr.maxnum", other)
    }

    /// The smaller number; the other one where one is NaN. Of −0 and +0 it is either.
    pub fn smaller_number(self, other: Value<'k, F32>) -> Value<'k, F32> {
        self.extremum("llvm.intr.minnum", other)
    }

    /// Whether one of the two is NaN: one instruction for two numbers.
    pub fn either_is_nan(self, other: Value<'k, F32>) -> Value<'k, Pred> {
        let builder = self.builder;
        let predicate = IntegerAttribute::new(IntegerType::new(builder.context(), 64).into(), UNORDERED).into();
        let comparison = builder.operation("llvm.fcmp", &[self.raw, other.raw], Some(Pred::mlir(builder.context())));
        let comparison = comparison.add_attributes(&[(Identifier::new(builder.context(), "predicate"), predicate)]);
        Value::new(builder, builder.result(comparison))
    }

    fn extremum(self, name: &str, other: Value<'k, F32>) -> Value<'k, F32> {
        let builder = self.builder;
        let operation = builder.operation(name, &[self.raw, other.raw], Some(F32::mlir(builder.context())));
        Value::new(builder, builder.result(operation))
    }
}

impl<'k> Value<'k, U32> {
    /// Of two pairs of bfloat16: the larger magnitude in each half, under the sign of the product; the other number where one is NaN.
    pub fn larger_magnitudes_bf16(self, other: Value<'k, U32>) -> Value<'k, U32> {
        self.packed_extremum("max.xorsign.abs.bf16x2 $0, $1, $2;", other)
    }

    /// The same of two pairs of binary16.
    pub fn larger_magnitudes_f16(self, other: Value<'k, U32>) -> Value<'k, U32> {
        self.packed_extremum("max.xorsign.abs.f16x2 $0, $1, $2;", other)
    }

    fn packed_extremum(self, text: &str, other: Value<'k, U32>) -> Value<'k, U32> {
        let builder = self.builder;
        let word = Some(U32::mlir(builder.context()));
        let raw = builder.inline(text, "=r,r,r", &[self.raw, other.raw], word);
        Value::new(builder, raw.expect("it has a result"))
    }
}
