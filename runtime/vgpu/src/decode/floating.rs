//! Floating-point arithmetic. Round-to-nearest f32 without modifiers is vectorised; everything else is a closure.

use super::modifiers::Modifiers;
use super::op::{PREDICATE_FLAG, ScalarFn};
use super::{Decoded, Decoder};
use crate::ptx::ScalarType;
use crate::ptx::ast::Operand;
use crate::semantics::approximate;
use crate::semantics::float::{
    self, Rounding, add_odd, canonical, canonical64, div_odd, flush, fma_odd, saturate, sqrt_odd, to_f32,
};
use crate::semantics::lanes::{AluFn, Args};
use crate::semantics::packed;

impl Decoder<'_> {
    pub(super) fn floating(
        &mut self,
        opcode: &str,
        element: ScalarType,
        m: &mut Modifiers,
        operands: &[Operand],
    ) -> Decoded<()> {
        use ScalarType::*;
        if opcode == "testp" {
            return self.test_property(element, m, operands);
        }
        let mode = rounding(m);
        let ftz = m.take("ftz");
        let sat = m.take("sat");
        let approx = m.take("approx") || m.take("full");
        let nan = m.take("NaN");
        let relu = m.take("relu");
        let count = match opcode {
            "abs" | "neg" | "rcp" | "sqrt" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" => 1,
            "fma" | "mad" => 3,
            _ => 2,
        };
        let needs_mode = matches!(opcode, "fma" | "div" | "rcp" | "sqrt") || (opcode == "mad" && element == F32);
        if needs_mode && !approx && mode.is_none() {
            return self.fail("needs a rounding mode");
        }
        if approx && mode.is_some() {
            return self.fail("an approximation takes no rounding mode");
        }
        let (d, s) = self.uniform_operands(operands, element, count)?;
        match element {
            F32 => {
                let mode = mode.unwrap_or(Rounding::Nearest);
                let simple = mode == Rounding::Nearest && !ftz && !sat && !relu;
                let fast: Option<AluFn> = if simple { fast_f32(opcode, nan) } else { None };
                if let Some(run) = fast {
                    self.alu(run, d, &s);
                    return Ok(());
                }
                let Some(operation) = slow_f32(opcode, mode, nan) else { return self.unsupported(element) };
                let run: ScalarFn = Box::new(move |s| {
                    let value = |index: usize| {
                        let value = f32::from_bits(s[index] as u32);
                        if ftz { flush(value) } else { value }
                    };
                    let mut out = operation(value(0), value(1), value(2));
                    if ftz {
                        out = flush(out);
                    }
                    if sat {
                        out = saturate(out);
                    }
                    if relu && out <= 0.0 {
                        out = 0.0;
                    }
                    u64::from(out.to_bits())
                });
                self.scalar(run, d, s);
            }
            F64 => {
                if mode.is_some_and(|mode| mode != Rounding::Nearest) || ftz || sat || relu {
                    return self.fail("only round-to-nearest .f64 without further modifiers is supported");
                }
                let run: AluFn = match opcode {
                    "add" => binary!(f64, f64 => f64, |a, b| canonical64(a + b)),
                    "sub" => binary!(f64, f64 => f64, |a, b| canonical64(a - b)),
                    "mul" => binary!(f64, f64 => f64, |a, b| canonical64(a * b)),
                    "div" => binary!(f64, f64 => f64, |a, b| canonical64(a / b)),
                    "fma" | "mad" => ternary!(f64, f64, f64 => f64, |a, b, c| canonical64(a.mul_add(b, c))),
                    "min" => binary!(f64, f64 => f64, |a, b| canonical64(float::min(a, b))),
                    "max" => binary!(f64, f64 => f64, |a, b| canonical64(float::max(a, b))),
                    "abs" => unary!(u64 => u64, |a| a & !(1 << 63)),
                    "neg" => unary!(u64 => u64, |a| a ^ (1 << 63)),
                    "copysign" => binary!(u64, u64 => u64, |a, b| b & !(1 << 63) | a & (1 << 63)),
                    "rcp" if !approx => unary!(f64 => f64, |a| canonical64(1.0 / a)),
                    "sqrt" if !approx => unary!(f64 => f64, |a| canonical64(a.sqrt())),
                    _ => return self.unsupported(element),
                };
                self.alu(run, d, &s);
            }
            F16 | Bf16 | F16x2 | Bf16x2 => self.half(opcode, element, [nan, relu, sat, ftz], d, s)?,
            _ => return self.unsupported(element),
        }
        Ok(())
    }

    fn half(
        &mut self,
        opcode: &str,
        element: ScalarType,
        [nan, relu, sat, ftz]: [bool; 4],
        d: super::op::Reg,
        s: Vec<super::op::Reg>,
    ) -> Decoded<()> {
        use ScalarType::*;
        let bf16 = matches!(element, Bf16 | Bf16x2);
        let double = matches!(element, F16x2 | Bf16x2);
        if sat && bf16 || ftz && bf16 && opcode != "ex2" {
            return self.fail("`.sat` and `.ftz` are not possible on this type");
        }
        let Some(operation) = half_operation(opcode, bf16, nan, relu) else { return self.unsupported(element) };
        let (exponent, one) = if bf16 { (0x7f80, 0x3f80) } else { (0x7c00, 0x3c00) };
        let run: packed::Ternary = if ftz || sat {
            Box::new(move |a, b, c| {
                let flushed = |bits: u16| if ftz && bits & exponent == 0 { bits & 0x8000 } else { bits };
                let out = flushed(operation(flushed(a), flushed(b), flushed(c)));
                match (sat, out) {
                    (false, out) => out,
                    // Negative values, −0 and NaN become +0.
                    (true, out) if out & 0x8000 != 0 || out > exponent => 0,
                    (true, out) => out.min(one),
                }
            })
        } else {
            Box::new(operation)
        };
        let run: ScalarFn = if double {
            Box::new(move |s| u64::from(packed::pair3(s[0] as u32, s[1] as u32, s[2] as u32, &run)))
        } else {
            Box::new(move |s| u64::from(run(s[0] as u16, s[1] as u16, s[2] as u16)))
        };
        self.scalar(run, d, s);
        Ok(())
    }

    fn test_property(&mut self, element: ScalarType, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        use ScalarType::*;
        let Some(what) = m.one_of(&["finite", "infinite", "number", "notanumber", "normal", "subnormal"]) else {
            return self.fail("needs a property");
        };
        let run: AluFn = match (what, element) {
            ("finite", F32) => predicate_test!(f32, f32::is_finite),
            ("infinite", F32) => predicate_test!(f32, f32::is_infinite),
            ("number", F32) => predicate_test!(f32, |a: f32| !a.is_nan()),
            ("notanumber", F32) => predicate_test!(f32, f32::is_nan),
            // PTX counts ±0 as normal.
            ("normal", F32) => predicate_test!(f32, |a: f32| a.is_normal() || a == 0.0),
            ("subnormal", F32) => predicate_test!(f32, f32::is_subnormal),
            ("finite", F64) => predicate_test!(f64, f64::is_finite),
            ("infinite", F64) => predicate_test!(f64, f64::is_infinite),
            ("number", F64) => predicate_test!(f64, |a: f64| !a.is_nan()),
            ("notanumber", F64) => predicate_test!(f64, f64::is_nan),
            ("normal", F64) => predicate_test!(f64, |a: f64| a.is_normal() || a == 0.0),
            ("subnormal", F64) => predicate_test!(f64, f64::is_subnormal),
            _ => return self.unsupported(element),
        };
        self.expect_count(operands, 2)?;
        let a = self.source(&operands[1], element)?.row;
        let p = self.target_predicate(&operands[0])?;
        self.emit_alu(run, Args { a, p, ..Args::default() }, &[a], &[p | PREDICATE_FLAG]);
        Ok(())
    }
}

fn fast_f32(opcode: &str, nan: bool) -> Option<AluFn> {
    Some(match opcode {
        "add" => binary!(f32, f32 => f32, |a, b| canonical(a + b)),
        "sub" => binary!(f32, f32 => f32, |a, b| canonical(a - b)),
        "mul" => binary!(f32, f32 => f32, |a, b| canonical(a * b)),
        "div" => binary!(f32, f32 => f32, |a, b| canonical(a / b)),
        "fma" | "mad" => ternary!(f32, f32, f32 => f32, |a, b, c| canonical(fma_odd(a, b, c) as f32)),
        "min" if !nan => binary!(f32, f32 => f32, |a, b| canonical(float::min_f32(a, b))),
        "max" if !nan => binary!(f32, f32 => f32, |a, b| canonical(float::max_f32(a, b))),
        "min" => binary!(f32, f32 => f32, |a, b| canonical(float::min_nan(f64::from(a), f64::from(b)) as f32)),
        "max" => binary!(f32, f32 => f32, |a, b| canonical(float::max_nan(f64::from(a), f64::from(b)) as f32)),
        "abs" => unary!(u32 => u32, |a| a & 0x7fff_ffff),
        "neg" => unary!(u32 => u32, |a| a ^ 0x8000_0000),
        // copysign takes the sign of its first operand and the magnitude of its second.
        "copysign" => binary!(u32, u32 => u32, |a, b| b & 0x7fff_ffff | a & 0x8000_0000),
        "rcp" => unary!(f32 => f32, |a| canonical(1.0 / a)),
        "sqrt" => unary!(f32 => f32, |a| canonical(a.sqrt())),
        "rsqrt" => unary!(f32 => f32, approximate::rsqrt),
        "ex2" => unary!(f32 => f32, approximate::ex2),
        "lg2" => unary!(f32 => f32, approximate::lg2),
        "sin" => unary!(f32 => f32, |a| canonical(f64::from(a).sin() as f32)),
        "cos" => unary!(f32 => f32, |a| canonical(f64::from(a).cos() as f32)),
        "tanh" => unary!(f32 => f32, approximate::tanh),
        _ => return None,
    })
}

type F32Fn = Box<dyn Fn(f32, f32, f32) -> f32 + Send + Sync>;

fn slow_f32(opcode: &str, mode: Rounding, nan: bool) -> Option<F32Fn> {
    Some(match opcode {
        "add" => Box::new(move |a, b, _| signed_zero(to_f32(add_odd(f64::from(a), f64::from(b)), mode), a, b, mode)),
        "sub" => Box::new(move |a, b, _| signed_zero(to_f32(add_odd(f64::from(a), -f64::from(b)), mode), a, -b, mode)),
        "mul" => Box::new(move |a, b, _| to_f32(f64::from(a) * f64::from(b), mode)),
        "div" => Box::new(move |a, b, _| to_f32(div_odd(f64::from(a), f64::from(b)), mode)),
        "rcp" => Box::new(move |a, _, _| to_f32(div_odd(1.0, f64::from(a)), mode)),
        "sqrt" => Box::new(move |a, _, _| to_f32(sqrt_odd(f64::from(a)), mode)),
        "fma" | "mad" => Box::new(move |a, b, c| {
            let product = f64::from(a) * f64::from(b);
            let sum = add_odd(product, f64::from(c));
            if sum == 0.0 && mode == Rounding::Down && (product.is_sign_negative() || c.is_sign_negative()) {
                return -0.0;
            }
            to_f32(sum, mode)
        }),
        "min" if nan => Box::new(|a, b, _| canonical(float::min_nan(f64::from(a), f64::from(b)) as f32)),
        "max" if nan => Box::new(|a, b, _| canonical(float::max_nan(f64::from(a), f64::from(b)) as f32)),
        "min" => Box::new(|a, b, _| canonical(float::min(f64::from(a), f64::from(b)) as f32)),
        "max" => Box::new(|a, b, _| canonical(float::max(f64::from(a), f64::from(b)) as f32)),
        "abs" => Box::new(|a, _, _| f32::from_bits(a.to_bits() & 0x7fff_ffff)),
        "neg" => Box::new(|a, _, _| f32::from_bits(a.to_bits() ^ 0x8000_0000)),
        "rsqrt" => Box::new(|a, _, _| approximate::rsqrt(a)),
        "ex2" => Box::new(|a, _, _| approximate::ex2(a)),
        "lg2" => Box::new(|a, _, _| approximate::lg2(a)),
        "sin" => Box::new(|a, _, _| canonical(f64::from(a).sin() as f32)),
        "cos" => Box::new(|a, _, _| canonical(f64::from(a).cos() as f32)),
        _ => return None,
    })
}

/// x + (−x) is −0 when rounding down.
fn signed_zero(sum: f32, a: f32, b: f32, mode: Rounding) -> f32 {
    if sum == 0.0 && mode == Rounding::Down && (a.is_sign_negative() || b.is_sign_negative()) { -0.0 } else { sum }
}

type HalfFn = fn(u16, u16, u16) -> u16;

fn half_operation(opcode: &str, bf16: bool, nan: bool, relu: bool) -> Option<HalfFn> {
    use packed::{Bf16, F16};
    Some(match (opcode, bf16, nan, relu) {
        ("add", true, false, false) => |a, b, _| packed::add::<Bf16>(a, b),
        ("add", false, false, false) => |a, b, _| packed::add::<F16>(a, b),
        ("sub", true, false, false) => |a, b, _| packed::sub::<Bf16>(a, b),
        ("sub", false, false, false) => |a, b, _| packed::sub::<F16>(a, b),
        ("mul", true, false, false) => |a, b, _| packed::mul::<Bf16>(a, b),
        ("mul", false, false, false) => |a, b, _| packed::mul::<F16>(a, b),
        ("fma", true, false, false) => packed::fma::<Bf16>,
        ("fma", false, false, false) => packed::fma::<F16>,
        ("fma", true, false, true) => packed::fma_relu::<Bf16>,
        ("fma", false, false, true) => packed::fma_relu::<F16>,
        ("min", true, false, false) => |a, b, _| packed::min::<Bf16>(a, b),
        ("min", false, false, false) => |a, b, _| packed::min::<F16>(a, b),
        ("max", true, false, false) => |a, b, _| packed::max::<Bf16>(a, b),
        ("max", false, false, false) => |a, b, _| packed::max::<F16>(a, b),
        ("min", true, true, false) => |a, b, _| packed::min_nan::<Bf16>(a, b),
        ("min", false, true, false) => |a, b, _| packed::min_nan::<F16>(a, b),
        ("max", true, true, false) => |a, b, _| packed::max_nan::<Bf16>(a, b),
        ("max", false, true, false) => |a, b, _| packed::max_nan::<F16>(a, b),
        ("abs", _, false, false) => |a, _, _| a & 0x7fff,
        ("neg", _, false, false) => |a, _, _| a ^ 0x8000,
        ("ex2", true, false, false) => |a, _, _| packed::apply::<Bf16>(a, f64::exp2),
        ("ex2", false, false, false) => |a, _, _| packed::apply::<F16>(a, f64::exp2),
        ("tanh", true, false, false) => |a, _, _| packed::apply::<Bf16>(a, f64::tanh),
        ("tanh", false, false, false) => |a, _, _| packed::apply::<F16>(a, f64::tanh),
        _ => return None,
    })
}

pub(super) fn rounding(m: &mut Modifiers) -> Option<Rounding> {
    Some(match m.one_of(&["rn", "rz", "rm", "rp", "rna"])? {
        "rn" => Rounding::Nearest,
        "rz" => Rounding::Zero,
        "rm" => Rounding::Down,
        "rp" => Rounding::Up,
        _ => Rounding::NearestAway,
    })
}
