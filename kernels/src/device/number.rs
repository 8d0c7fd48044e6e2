//! Arithmetic. Integers wrap; floats round to nearest even and are never contracted.

use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Not, Rem, Shl, Shr, Sub};

use melior::ir::Identifier;
use melior::ir::attribute::IntegerAttribute;
use melior::ir::r#type::IntegerType;

use super::value::{Chunk, Element, F32, Pred, U16, U32, U64, Value};
use super::{Builder, U8};

/// Integers that can be computed with.
pub trait Integer: Element {}
impl Integer for U32 {}
impl Integer for U64 {}
impl Integer for U16 {}
impl Integer for U8 {}

impl Builder {
    /// A constant.
    pub fn u32(&self, value: u32) -> Value<'_, U32> {
        Value::new(self, self.integer(32, i64::from(value as i32)))
    }

    /// A constant.
    pub fn u64(&self, value: u64) -> Value<'_, U64> {
        Value::new(self, self.integer(64, value as i64))
    }

    /// A constant.
    pub fn f32(&self, value: f32) -> Value<'_, F32> {
        // By its bits: a NaN or an infinity has no decimal form.
        self.u32(value.to_bits()).bits_to_f32()
    }

    /// A constant.
    pub fn truth(&self, value: bool) -> Value<'_, Pred> {
        Value::new(self, self.integer(1, i64::from(value)))
    }

    fn binary<'k, T, R: Element>(&'k self, name: &str, a: Value<'k, T>, b: Value<'k, T>) -> Value<'k, R> {
        Value::new(self, self.result(self.operation(name, &[a.raw, b.raw], Some(R::mlir(self.context())))))
    }

    fn unary<'k, T, R: Element>(&'k self, name: &str, a: Value<'k, T>) -> Value<'k, R> {
        Value::new(self, self.result(self.operation(name, &[a.raw], Some(R::mlir(self.context())))))
    }

    fn compare<'k, T>(&'k self, name: &str, predicate: i64, a: Value<'k, T>, b: Value<'k, T>) -> Value<'k, Pred> {
        let number = IntegerAttribute::new(IntegerType::new(self.context(), 64).into(), predicate).into();
        let operation = self.operation(name, &[a.raw, b.raw], Some(Pred::mlir(self.context())));
        let operation = operation.add_attributes(&[(Identifier::new(self.context(), "predicate"), number)]);
        Value::new(self, self.result(operation))
    }
}

macro_rules! integer_operators {
    ($($operator:ident $method:ident $name:literal;)*) => {$(
        impl<'k, T: Integer> $operator for Value<'k, T> {
            type Output = Value<'k, T>;
            fn $method(self, other: Value<'k, T>) -> Value<'k, T> {
                self.builder.binary($name, self, other)
            }
        }
        impl<'k> $operator<u32> for Value<'k, U32> {
            type Output = Value<'k, U32>;
            fn $method(self, other: u32) -> Value<'k, U32> {
                self.builder.binary($name, self, self.builder.u32(other))
            }
        }
        impl<'k> $operator<u64> for Value<'k, U64> {
            type Output = Value<'k, U64>;
            fn $method(self, other: u64) -> Value<'k, U64> {
                self.builder.binary($name, self, self.builder.u64(other))
            }
        }
    )*};
}

integer_operators! {
    Add add "llvm.add";
    Sub sub "llvm.sub";
    Mul mul "llvm.mul";
    Div div "llvm.udiv";
    Rem rem "llvm.urem";
    BitAnd bitand "llvm.and";
    BitOr bitor "llvm.or";
    BitXor bitxor "llvm.xor";
    Shl shl "llvm.shl";
    Shr shr "llvm.lshr";
}

macro_rules! predicate_operators {
    ($($operator:ident $method:ident $name:literal;)*) => {$(
        impl<'k> $operator for Value<'k, Pred> {
            type Output = Value<'k, Pred>;
            fn $method(self, other: Value<'k, Pred>) -> Value<'k, Pred> {
                self.builder.binary($name, self, other)
            }
        }
    )*};
}

predicate_operators! {
    BitAnd bitand "llvm.and";
    BitOr bitor "llvm.or";
    BitXor bitxor "llvm.xor";
}

impl<'k> Not for Value<'k, Pred> {
    type Output = Value<'k, Pred>;
    fn not(self) -> Value<'k, Pred> {
        self ^ self.builder.truth(true)
    }
}

macro_rules! float_operators {
    ($($operator:ident $method:ident $name:literal;)*) => {$(
        impl<'k> $operator for Value<'k, F32> {
            type Output = Value<'k, F32>;
            fn $method(self, other: Value<'k, F32>) -> Value<'k, F32> {
                self.builder.binary($name, self, other)
            }
        }
    )*};
}

float_operators! {
    Add add "llvm.fadd";
    Sub sub "llvm.fsub";
    Mul mul "llvm.fmul";
    Div div "llvm.fdiv";
}

impl<'k> Neg for Value<'k, F32> {
    type Output = Value<'k, F32>;
    fn neg(self) -> Value<'k, F32> {
        self.builder.unary("llvm.fneg", self)
    }
}

impl<'k, T: Element> Value<'k, T> {
    /// This value where `condition` holds, else `other`.
    pub fn when(self, condition: Value<'k, Pred>, other: Value<'k, T>) -> Value<'k, T> {
        let operands = [condition.raw, self.raw, other.raw];
        let builder = self.builder;
        Value::new(
            builder,
            builder.result(builder.operation("llvm.select", &operands, Some(T::mlir(builder.context())))),
        )
    }
}

impl<'k, T: Integer> Value<'k, T> {
    /// Unsigned a < b.
    pub fn less(self, other: Value<'k, T>) -> Value<'k, Pred> {
        self.builder.compare("llvm.icmp", 6, self, other)
    }

    /// Unsigned a ≥ b.
    pub fn at_least(self, other: Value<'k, T>) -> Value<'k, Pred> {
        self.builder.compare("llvm.icmp", 9, self, other)
    }

    /// a = b
    pub fn equals(self, other: Value<'k, T>) -> Value<'k, Pred> {
        self.builder.compare("llvm.icmp", 0, self, other)
    }

    /// a ≠ b
    pub fn differs(self, other: Value<'k, T>) -> Value<'k, Pred> {
        self.builder.compare("llvm.icmp", 1, self, other)
    }
}

impl<'k> Value<'k, U32> {
    /// The sign bit is set: −1 for "none", in the arrays of this project.
    pub fn is_negative(self) -> Value<'k, Pred> {
        self.builder.compare("llvm.icmp", 2, self, self.builder.u32(0))
    }

    /// Signed a < b.
    pub fn signed_less(self, other: Value<'k, U32>) -> Value<'k, Pred> {
        self.builder.compare("llvm.icmp", 2, self, other)
    }

    /// Shifts copies of the sign bit in.
    pub fn shift_right_signed(self, count: u32) -> Value<'k, U32> {
        self.builder.binary("llvm.ashr", self, self.builder.u32(count))
    }

    /// The smaller one.
    pub fn min(self, other: Value<'k, U32>) -> Value<'k, U32> {
        self.builder.binary("llvm.intr.umin", self, other)
    }

    /// The larger one.
    pub fn max(self, other: Value<'k, U32>) -> Value<'k, U32> {
        self.builder.binary("llvm.intr.umax", self, other)
    }

    /// Number of bits that are 1.
    pub fn count_ones(self) -> Value<'k, U32> {
        self.builder.unary("llvm.intr.ctpop", self)
    }

    /// Number of zeros below the lowest 1; 32 for 0.
    pub fn trailing_zeros(self) -> Value<'k, U32> {
        // (x & −x) − 1 has a one for each of them.
        let lowest = self & (self.builder.u32(0) - self);
        (lowest - 1).count_ones()
    }

    /// Place of the lowest 1; of no use for 0.
    pub fn lowest_set(self) -> Value<'k, U32> {
        let builder = self.builder;
        let word = Some(U32::mlir(builder.context()));
        let operation = builder.operation("llvm.intr.cttz", &[self.raw], word);
        let poison = builder.attribute("is_zero_poison", "true");
        Value::new(builder, builder.result(operation.add_attributes(&[poison])))
    }

    /// Without its lowest 1.
    pub fn without_lowest_set(self) -> Value<'k, U32> {
        self & (self - 1)
    }

    /// The same number in 64 bits.
    pub fn wide(self) -> Value<'k, U64> {
        self.builder.unary("llvm.zext", self)
    }

    /// The number with these bits.
    pub fn bits_to_f32(self) -> Value<'k, F32> {
        self.builder.unary("llvm.bitcast", self)
    }

    /// The lower 8 bits.
    pub fn low_byte(self) -> Value<'k, U8> {
        self.builder.unary("llvm.trunc", self)
    }

    /// The lower 16 bits.
    pub fn low_half(self) -> Value<'k, U16> {
        self.builder.unary("llvm.trunc", self)
    }
}

impl<'k> Value<'k, U64> {
    /// The lower 32 bits.
    pub fn low_word(self) -> Value<'k, U32> {
        self.builder.unary("llvm.trunc", self)
    }
}

impl<'k> Value<'k, U16> {
    /// The same number in 32 bits.
    pub fn wide(self) -> Value<'k, U32> {
        self.builder.unary("llvm.zext", self)
    }
}

impl<'k> Value<'k, Pred> {
    /// 1 or 0.
    pub fn as_u32(self) -> Value<'k, U32> {
        self.builder.unary("llvm.zext", self)
    }
}

impl<'k> Value<'k, F32> {
    /// Correctly rounded.
    pub fn sqrt(self) -> Value<'k, F32> {
        self.builder.unary("llvm.intr.sqrt", self)
    }

    /// |a|
    pub fn abs(self) -> Value<'k, F32> {
        self.builder.unary("llvm.intr.fabs", self)
    }

    /// a < b; false when one is NaN.
    pub fn less(self, other: Value<'k, F32>) -> Value<'k, Pred> {
        self.builder.compare("llvm.fcmp", 4, self, other)
    }

    /// a ≥ b; false when one is NaN.
    pub fn at_least(self, other: Value<'k, F32>) -> Value<'k, Pred> {
        self.builder.compare("llvm.fcmp", 3, self, other)
    }

    /// a = b; false when one is NaN.
    pub fn equals(self, other: Value<'k, F32>) -> Value<'k, Pred> {
        self.builder.compare("llvm.fcmp", 1, self, other)
    }

    /// Whether it is not a number.
    pub fn is_nan(self) -> Value<'k, Pred> {
        self.builder.compare("llvm.fcmp", 14, self, self)
    }

    /// The larger one; of no use with NaN.
    pub fn max(self, other: Value<'k, F32>) -> Value<'k, F32> {
        self.when(self.at_least(other), other)
    }

    pub fn bits(self) -> Value<'k, U32> {
        self.builder.unary("llvm.bitcast", self)
    }
}

impl<'k> Value<'k, Chunk> {
    /// One of its four words.
    pub fn word(self, index: u32) -> Value<'k, U32> {
        let position = self.builder.integer(32, i64::from(index));
        let word = Some(U32::mlir(self.builder.context()));
        Value::new(
            self.builder,
            self.builder.result(self.builder.operation("llvm.extractelement", &[self.raw, position], word)),
        )
    }

    /// Its four words.
    pub fn words(self) -> [Value<'k, U32>; 4] {
        [0, 1, 2, 3].map(|index| self.word(index))
    }
}

impl Builder {
    /// Four words as a chunk.
    pub fn chunk<'k>(&'k self, words: [Value<'k, U32>; 4]) -> Value<'k, Chunk> {
        let ty = Some(Chunk::mlir(self.context()));
        let mut chunk = self.result(self.operation("llvm.mlir.poison", &[], ty));
        for (index, word) in words.into_iter().enumerate() {
            let position = self.integer(32, index as i64);
            chunk = self.result(self.operation("llvm.insertelement", &[chunk, word.raw, position], ty));
        }
        Value::new(self, chunk)
    }

    /// A chunk of zeros.
    pub fn zero_chunk(&self) -> Value<'_, Chunk> {
        self.chunk([self.u32(0); 4])
    }
}
