//! The functions of a gate, element by element: one row each.
//!
//! Invariant: a row is all that the compiler knows of a function.
//! * Its *text*, and whether a gate can call it by that name; the others are operators, or are written by the compiler only.
//! * Its *meaning*: a sequence of the exact operations of [`Arithmetic`]. Interpreter, native code and kernels carry out the same
//!   sequence, each in its own way, so that all of them give the same bits.
//! * The *range* of its result, given those of its operands: [`crate::range`].
//! * Its *slopes*: how the gradient of its result becomes that of each operand. A function without slopes is constant almost everywhere.
//!
//! Who adds a function adds a row here and its name to `docs/language.md`; a transcendental one is defined in [`math`].

use crate::math::{self, Arithmetic};
use crate::range::{Nan, Range};

/// What slopes are made of: operations of the program that a derivative becomes.
pub(crate) trait Chain {
    type Value: Copy;

    fn constant(&mut self, number: f32) -> Self::Value;
    fn unary(&mut self, function: Unary, of: Self::Value) -> Self::Value;
    fn binary(&mut self, function: Binary, a: Self::Value, b: Self::Value) -> Self::Value;

    /// gradient × slope, which is 0 where one of them is.
    fn product(&mut self, gradient: Self::Value, slope: Self::Value) -> Self::Value;

    /// gradient / divisor, which is 0 where the gradient is.
    fn quotient(&mut self, gradient: Self::Value, divisor: Self::Value) -> Self::Value;

    fn times(&mut self, a: Self::Value, b: Self::Value) -> Self::Value {
        self.binary(Binary::Multiply, a, b)
    }

    fn negated(&mut self, a: Self::Value) -> Self::Value {
        self.unary(Unary::Negate, a)
    }

    /// 1 − a
    fn complement(&mut self, a: Self::Value) -> Self::Value {
        let one = self.constant(1.0);
        self.binary(Binary::Subtract, one, a)
    }

    /// `a` where the mask is not 0, else +0.
    fn kept(&mut self, a: Self::Value, mask: Self::Value) -> Self::Value {
        self.binary(Binary::Where, a, mask)
    }
}

macro_rules! functions {
    (
        $(#[$about:meta])*
        $kind:ident($($operand:ident),+), meaning in $a:ident, slopes from $gradient:ident, $value:ident in $d:ident;
        $(
            $(#[$doc:meta])*
            $name:ident $text:literal $($call:ident)? {
                meaning $meaning:expr;
                range $range:expr;
                slopes [$($slope:expr),*];
            }
        )+
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $kind {
            $($(#[$doc])* $name,)+
        }

        impl $kind {
            pub const ALL: &[$kind] = &[$($kind::$name),+];

            /// How it is written.
            pub fn text(self) -> &'static str {
                match self {
                    $($kind::$name => $text,)+
                }
            }

            /// Whether a gate can call it.
            pub fn is_call(self) -> bool {
                match self {
                    $($kind::$name => functions!(@is_call $($call)?),)+
                }
            }

            /// The function that a gate calls by this name.
            pub fn called(name: &str) -> Option<$kind> {
                $kind::ALL.iter().copied().find(|function| function.is_call() && function.text() == name)
            }

            /// What it is of one element.
            pub fn apply<A: Arithmetic>(self, $a: &mut A, $($operand: A::F),+) -> A::F {
                match self {
                    $($kind::$name => $meaning,)+
                }
            }

            /// The numbers that it can give.
            pub fn range(self, $($operand: Range),+) -> Range {
                match self {
                    $($kind::$name => $range,)+
                }
            }

            /// The gradient of the operand with a number; none if it has no influence but in steps.
            pub(crate) fn slope<D: Chain>(
                self,
                operand: usize,
                d: &mut D,
                [$($operand),+]: [D::Value; functions!(@count $($operand)+)],
                $value: D::Value,
                $gradient: D::Value,
            ) -> Option<D::Value> {
                match self {
                    $($kind::$name => {
                        let slopes: &[&dyn Fn(&mut D) -> D::Value] = &[$(&|$d: &mut D| {
                            let _ = &$d;
                            $slope
                        }),*];
                        slopes.get(operand).map(|slope| slope(d))
                    })+
                }
            }
        }
    };
    (@is_call call) => { true };
    (@is_call) => { false };
    (@count $one:ident) => { 1 };
    (@count $one:ident $two:ident) => { 2 };
}

functions! {
    /// Element by element, of a scalar or of any vector.
    Unary(x), meaning in a, slopes from gradient, value in d;

    /// −x
    Negate "-" {
        meaning a.negate(x);
        range x.negative();
        slopes [d.negated(gradient)];
    }
    /// [`math::sigmoid`]: 1 / (1 + exp(−x))
    Sigmoid "sigmoid" call {
        meaning math::sigmoid(a, x);
        range x.rising(|x| 1.0 / (1.0 + (-x).exp()));
        slopes [{
            let complement = d.complement(value);
            let slope = d.times(value, complement);
            d.product(gradient, slope)
        }];
    }
    /// [`math::exp`]
    Exp "exp" call {
        meaning math::exp(a, x);
        range x.rising(f64::exp);
        slopes [d.product(gradient, value)];
    }
    /// [`math::log`]
    Log "log" call {
        meaning math::log(a, x);
        range x.from(0.0).rising(f64::ln);
        slopes [d.quotient(gradient, x)];
    }
    /// Correctly rounded square root.
    Sqrt "sqrt" call {
        meaning a.square_root(x);
        range x.from(0.0).rising(f64::sqrt);
        slopes [{
            let two = d.constant(2.0);
            let doubled = d.times(two, value);
            d.quotient(gradient, doubled)
        }];
    }
    /// [`math::softplus`]: log(1 + exp(x))
    Softplus "softplus" call {
        meaning math::softplus(a, x);
        range x.rising(|x| x.max(0.0) + (-x.abs()).exp().ln_1p());
        slopes [{
            let slope = d.unary(Unary::Sigmoid, x);
            d.product(gradient, slope)
        }];
    }
    /// 0 where x ≤ 0, else x
    Relu "relu" call {
        meaning {
            let zero = a.float(0.0);
            let is_low = a.at_most(x, zero);
            a.select(is_low, zero, x)
        };
        range x.at_least(Range::closed(0.0, 0.0));
        slopes [{
            let mask = d.unary(Unary::IsPositive, x);
            d.kept(gradient, mask)
        }];
    }
    /// [`math::tanh`]
    Tanh "tanh" call {
        meaning math::tanh(a, x);
        range x.rising(f64::tanh);
        slopes [{
            let square = d.times(value, value);
            let slope = d.complement(square);
            d.product(gradient, slope)
        }];
    }
    /// |x|
    Abs "abs" call {
        meaning a.absolute(x);
        range x.magnitude();
        slopes [{
            let slope = d.unary(Unary::Sign, x);
            d.product(gradient, slope)
        }];
    }
    /// 1 where x > 0, else 0.
    IsPositive "positive" {
        meaning {
            let (zero, one) = (a.float(0.0), a.float(1.0));
            let is_positive = a.less(zero, x);
            a.select(is_positive, one, zero)
        };
        range Range::closed(0.0, 1.0);
        slopes [];
    }
    /// 1 where x > 0, −1 where x < 0, else 0.
    Sign "sign" {
        meaning {
            let (zero, one, minus_one) = (a.float(0.0), a.float(1.0), a.float(-1.0));
            let is_negative = a.less(x, zero);
            let otherwise = a.select(is_negative, minus_one, zero);
            let is_positive = a.less(zero, x);
            a.select(is_positive, one, otherwise)
        };
        range Range::closed(-1.0, 1.0);
        slopes [];
    }
}

functions! {
    /// Element by element, of two values of one type, or of a scalar and a vector.
    Binary(x, y), meaning in a, slopes from gradient, value in d;

    /// x + y
    Add "+" {
        meaning a.add(x, y);
        range x.plus(y);
        slopes [gradient, gradient];
    }
    /// x − y
    Subtract "-" {
        meaning a.subtract(x, y);
        range x.plus(y.negative());
        slopes [gradient, d.negated(gradient)];
    }
    /// x × y
    Multiply "*" {
        meaning a.multiply(x, y);
        range x.times(y);
        slopes [d.product(gradient, y), d.product(gradient, x)];
    }
    /// x / y, correctly rounded
    Divide "/" {
        meaning a.divide(x, y);
        range x.over(y);
        slopes [d.quotient(gradient, y), {
            let quotient = d.quotient(gradient, y);
            let product = d.product(quotient, value);
            d.negated(product)
        }];
    }
    /// x if x ≤ y else y
    Min "min" call {
        meaning {
            let takes_first = a.at_most(x, y);
            a.select(takes_first, x, y)
        };
        range either(x, y, x.negative().at_least(y.negative()).negative());
        slopes [{
            let takes_first = d.binary(Binary::AtLeast, y, x);
            d.kept(gradient, takes_first)
        }, {
            let takes_first = d.binary(Binary::AtLeast, y, x);
            let mask = d.complement(takes_first);
            d.kept(gradient, mask)
        }];
    }
    /// x if x ≥ y else y
    Max "max" call {
        meaning {
            let takes_first = a.at_most(y, x);
            a.select(takes_first, x, y)
        };
        range either(x, y, x.at_least(y));
        slopes [{
            let takes_first = d.binary(Binary::AtLeast, x, y);
            d.kept(gradient, takes_first)
        }, {
            let takes_first = d.binary(Binary::AtLeast, x, y);
            let mask = d.complement(takes_first);
            d.kept(gradient, mask)
        }];
    }
    /// 1 where x ≥ y, else 0.
    AtLeast ">=" {
        meaning {
            let (zero, one) = (a.float(0.0), a.float(1.0));
            let is_at_least = a.at_most(y, x);
            a.select(is_at_least, one, zero)
        };
        range Range::closed(0.0, 1.0);
        slopes [];
    }
    /// +0 where y is 0, whatever x is, else x: what a derivative is made with, whose 0 × ∞ is 0.
    Where "where" {
        meaning {
            let zero = a.float(0.0);
            let is_zero = a.equal(y, zero);
            a.select(is_zero, zero, x)
        };
        range {
            let zero = if y.holds(0.0) { Range::closed(0.0, 0.0) } else { x };
            Range { nan: if x.nan == Nan::Never { Nan::Never } else { Nan::Some }, ..x.or(zero) }
        };
        slopes [d.kept(gradient, y)];
    }
}

/// The range of a choice of two by a comparison, which a NaN decides for the second.
fn either(x: Range, y: Range, of_numbers: Range) -> Range {
    let range = if x.nan == Nan::Never { of_numbers } else { of_numbers.or(y) };
    Range { nan: y.nan, ..range }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::Native;

    /// What comparisons and signs do with zeros, infinities and NaN, by hand; the transcendental functions are tested in [`math`].
    #[test]
    fn special_values() {
        const NAN: u32 = 0x7fc0_0000;
        let bits = |number: f32| if number.is_nan() { NAN } else { number.to_bits() };
        let unary = |function: Unary, x: f32| bits(function.apply(&mut Native, x));
        let binary = |function: Binary, x: f32, y: f32| bits(function.apply(&mut Native, x, y));
        let (zero, one, infinity) = (0.0f32.to_bits(), 1.0f32.to_bits(), f32::INFINITY.to_bits());
        for x in [-0.0, 0.0, -1.0, f32::NEG_INFINITY] {
            assert_eq!(unary(Unary::Relu, x), zero);
            assert_eq!(unary(Unary::IsPositive, x), zero);
        }
        assert_eq!([unary(Unary::Relu, f32::INFINITY), unary(Unary::Relu, f32::NAN)], [infinity, NAN]);
        assert_eq!([unary(Unary::Abs, -0.0), unary(Unary::Abs, f32::NEG_INFINITY)], [zero, infinity]);
        assert_eq!(
            [unary(Unary::Sign, -0.0), unary(Unary::Sign, f32::NAN), unary(Unary::Sign, 2.0)],
            [zero, zero, one]
        );
        assert_eq!(unary(Unary::Sign, f32::NEG_INFINITY), (-1.0f32).to_bits());
        assert_eq!(unary(Unary::Negate, 0.0), (-0.0f32).to_bits());
        assert_eq!([unary(Unary::Sqrt, -1.0), unary(Unary::Sqrt, f32::INFINITY)], [NAN, infinity]);

        // The first where they tie; the second where one is NaN.
        for function in [Binary::Min, Binary::Max] {
            assert_eq!(binary(function, -0.0, 0.0), (-0.0f32).to_bits());
            assert_eq!(binary(function, f32::NAN, 1.0), one);
            assert_eq!(binary(function, 1.0, f32::NAN), NAN);
        }
        assert_eq!([binary(Binary::Min, 1.0, f32::INFINITY), binary(Binary::Max, 1.0, f32::INFINITY)], [one, infinity]);
        assert_eq!([binary(Binary::AtLeast, 1.0, 1.0), binary(Binary::AtLeast, f32::NAN, 1.0)], [one, zero]);
        // A zero of either sign hides whatever stands before it.
        for x in [-0.0, 1.0, f32::INFINITY, f32::NAN] {
            assert_eq!([binary(Binary::Where, x, 0.0), binary(Binary::Where, x, -0.0)], [zero, zero]);
            assert_eq!([binary(Binary::Where, x, -2.0), binary(Binary::Where, x, f32::NAN)], [bits(x), bits(x)]);
        }
    }

    #[test]
    fn a_gate_calls_functions_and_not_operators() {
        assert_eq!(Unary::called("softplus"), Some(Unary::Softplus));
        assert_eq!(Binary::called("max"), Some(Binary::Max));
        assert_eq!(Unary::called("sign").or(Unary::called("-")), None);
        assert_eq!(Binary::called("where").or(Binary::called("+")), None);
    }
}
