//! Conversions between f32 and narrower formats: to nearest even, a NaN to the canonical one of the format (0x7fff, e4m3 0x7f).

use super::Builder;
use super::value::{Element, F32, U16, U32, Value};

impl Builder {
    fn pair<'k, R: Element>(&'k self, text: &str, constraints: &str, [low, high]: [Value<'k, F32>; 2]) -> Value<'k, R> {
        // The first source operand of the instruction becomes the upper half.
        let raw = self.inline(text, constraints, &[high.raw, low.raw], Some(R::mlir(self.context())));
        Value::new(self, raw.expect("it has a result"))
    }

    /// Two numbers as bfloat16, the first in the lower half.
    pub fn bf16_pair<'k>(&'k self, numbers: [Value<'k, F32>; 2]) -> Value<'k, U32> {
        self.pair("cvt.rn.bf16x2.f32 $0, $1, $2;", "=r,f,f", numbers)
    }

    /// Two numbers as binary16, the first in the lower half.
    pub fn f16_pair<'k>(&'k self, numbers: [Value<'k, F32>; 2]) -> Value<'k, U32> {
        self.pair("cvt.rn.f16x2.f32 $0, $1, $2;", "=r,f,f", numbers)
    }

    /// Two numbers as fp8 E4M3, saturated, the first in the lower byte.
    pub fn e4m3_pair<'k>(&'k self, numbers: [Value<'k, F32>; 2]) -> Value<'k, U16> {
        self.pair("cvt.rn.satfinite.e4m3x2.f32 $0, $1, $2;", "=h,f,f", numbers)
    }
}

impl<'k> Value<'k, U32> {
    /// The two bfloat16 numbers in its halves, the lower one first.
    pub fn bf16_numbers(self) -> [Value<'k, F32>; 2] {
        [(self << 16).bits_to_f32(), (self & 0xffff_0000).bits_to_f32()]
    }

    /// The two binary16 numbers in its halves, the lower one first.
    pub fn f16_numbers(self) -> [Value<'k, F32>; 2] {
        [self.low_half(), (self >> 16).low_half()].map(Value::f16_number)
    }
}

impl<'k> Value<'k, U16> {
    /// The binary16 number with these bits.
    pub fn f16_number(self) -> Value<'k, F32> {
        let builder = self.builder;
        let number = Some(F32::mlir(builder.context()));
        let raw = builder.inline("cvt.f32.f16 $0, $1;", "=f,h", &[self.raw], number);
        Value::new(builder, raw.expect("it has a result"))
    }
}
