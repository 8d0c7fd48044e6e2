//! Floating-point arithmetic. Round-to-nearest f32 without modifiers is vectorised; everything else is a closure.

use super::modifiers::Modifiers;
use super::op::{PREDICATE_FLAG, ScalarFn};
use super::{Decoded, Decoder};
use crate::ptx::ScalarType;
use crate::ptx::ast::Operand;
use crate::semantics::float::{
    self, Rounding, add_odd, canonical, canonical64, div_odd, flush, fma_odd, saturate, sqrt_odd, to_f32,
};
use crate::semantics::lanes::{AluFn, Args};
use crate::semantics::packed;
use crate::semantics::{approximate, double, narrow};

/// Rounding modes of an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Modes {
    /// It does not round, or takes no mode.
    None,
    /// One of four, or to nearest.
    Any,
    /// One of four, which has to be there.
    Stated,
    /// `.rn` alone, which need not be there.
    Nearest,
    /// `.rn` alone, which has to be there.
    StatedNearest,
    /// `.approx`
    Approximate,
    /// `.approx`, or one of four.
    ApproximateOrStated,
}

/// What an instruction takes besides its type.
struct Permitted {
    modes: Modes,
    flags: &'static [&'static str],
}

/// The table of floating-point instructions; `None` where there is none of this type.
fn permitted(opcode: &str, element: ScalarType, operands: usize) -> Option<Permitted> {
    use ScalarType::*;
    const PLAIN: &[&str] = &[];
    const FTZ: &[&str] = &["ftz"];
    let half = matches!(element, F16 | F16x2);
    let brain = matches!(element, Bf16 | Bf16x2);
    let (modes, flags): (Modes, &'static [&'static str]) = match (opcode, element) {
        ("add" | "sub" | "mul", F32) => (Modes::Any, &["ftz", "sat"]),
        ("add" | "sub" | "mul", F64) => (Modes::Any, PLAIN),
        ("add" | "sub" | "mul", F32x2) => (Modes::Any, FTZ),
        ("add" | "sub" | "mul", _) if half => (Modes::Nearest, &["ftz", "sat"]),
        ("add" | "sub" | "mul", _) if brain => (Modes::Nearest, PLAIN),
        ("fma" | "mad", F32) => (Modes::Stated, &["ftz", "sat"]),
        ("fma", F32x2) => (Modes::Stated, FTZ),
        ("fma", _) if half => (Modes::StatedNearest, &["ftz", "sat", "relu"]),
        ("fma", _) if brain => (Modes::Stated, &["relu"]),
        ("fma" | "mad" | "div" | "sqrt", F64) => (Modes::Stated, PLAIN),
        ("div" | "rcp" | "sqrt", F32) => (Modes::ApproximateOrStated, FTZ),
        ("rcp", F64) => (Modes::ApproximateOrStated, FTZ),
        ("rsqrt", F32 | F64) | ("sin" | "cos" | "lg2" | "ex2", F32) => (Modes::Approximate, FTZ),
        ("ex2", _) if brain => (Modes::Approximate, FTZ),
        ("ex2", _) if half => (Modes::Approximate, PLAIN),
        ("tanh", F32) => (Modes::Approximate, PLAIN),
        ("tanh", _) if half || brain => (Modes::Approximate, PLAIN),
        ("abs" | "neg", F32) => (Modes::None, FTZ),
        ("abs" | "neg", _) if half => (Modes::None, FTZ),
        ("abs" | "neg", F64) => (Modes::None, PLAIN),
        ("abs" | "neg", _) if brain => (Modes::None, PLAIN),
        ("min" | "max", F64) => (Modes::None, PLAIN),
        ("min" | "max", F32) if operands == 4 => (Modes::None, &["ftz", "NaN", "abs"]),
        ("min" | "max", _) if element == F32 || half => (Modes::None, &["ftz", "NaN", "xorsign", "abs"]),
        ("min" | "max", _) if brain => (Modes::None, &["NaN", "xorsign", "abs"]),
        ("copysign", F32 | F64) => (Modes::None, PLAIN),
        _ => return None,
    };
    Some(Permitted { modes, flags })
}

/// The modifiers of an instruction, checked against the table.
#[derive(Debug, Clone, Copy)]
struct Stated {
    mode: Rounding,
    approximate: bool,
    ftz: bool,
    sat: bool,
    nan: bool,
    relu: bool,
    xorsign: bool,
    abs: bool,
}

impl Decoder<'_> {
    fn stated(&self, opcode: &str, element: ScalarType, m: &mut Modifiers, operands: usize) -> Decoded<Stated> {
        let Some(permitted) = permitted(opcode, element, operands) else { return self.unsupported(element) };
        let mode = rounding(m);
        let approximate = match m.one_of(&["approx", "full"]) {
            Some("full") if opcode != "div" => return self.fail("`.full` belongs to `div`"),
            word => word.is_some(),
        };
        if approximate && mode.is_some() {
            return self.fail("an approximation takes no rounding mode");
        }
        let nearest = mode.is_none_or(|mode| mode == Rounding::Nearest);
        match permitted.modes {
            Modes::None if mode.is_some() || approximate => return self.fail("takes no rounding mode"),
            Modes::Any | Modes::Nearest | Modes::Stated | Modes::StatedNearest if approximate => {
                return self.fail("has no approximation");
            }
            Modes::Stated | Modes::StatedNearest if mode.is_none() => return self.fail("needs a rounding mode"),
            Modes::Nearest | Modes::StatedNearest if !nearest => return self.fail("only rounds to nearest"),
            Modes::Approximate if mode.is_some() || !approximate => return self.fail("needs .approx"),
            Modes::ApproximateOrStated if mode.is_none() && !approximate => {
                return self.fail("needs a rounding mode or .approx");
            }
            _ if mode == Some(Rounding::NearestAway) => return self.fail("`.rna` is not possible here"),
            _ => {}
        }
        let mut flag = |word: &str| permitted.flags.contains(&word) && m.take(word);
        let stated = Stated {
            mode: mode.unwrap_or(Rounding::Nearest),
            approximate,
            ftz: flag("ftz"),
            sat: flag("sat"),
            nan: flag("NaN"),
            relu: flag("relu"),
            xorsign: flag("xorsign"),
            abs: flag("abs"),
        };
        if stated.xorsign != stated.abs && operands == 3 {
            return self.fail("`.xorsign` and `.abs` belong together");
        }
        if stated.sat && stated.relu {
            return self.fail("`.sat` and `.relu` exclude each other");
        }
        if element == ScalarType::F64 && opcode == "rcp" && stated.approximate != stated.ftz {
            return self.fail("`.approx` and `.ftz` belong together here");
        }
        if opcode == "ex2" && matches!(element, ScalarType::Bf16 | ScalarType::Bf16x2) && !stated.ftz {
            return self.fail("needs .ftz");
        }
        Ok(stated)
    }

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
        if element == F32
            && matches!(opcode, "add" | "sub" | "fma")
            && let Some(narrow) = m.element()
        {
            return self.mixed(opcode, narrow, m, operands);
        }
        let stated = self.stated(opcode, element, m, operands.len())?;
        let count = match opcode {
            "abs" | "neg" | "rcp" | "sqrt" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" => 1,
            "fma" | "mad" => 3,
            "min" | "max" if element == F32 && operands.len() == 4 => 3,
            _ => 2,
        };
        let (d, s) = self.uniform_operands(operands, element, count)?;
        match element {
            F32 => {
                let Stated { mode, ftz, sat, xorsign, abs, nan, .. } = stated;
                let simple = mode == Rounding::Nearest && !ftz && !sat && !xorsign && !abs && count < 3;
                let simple = simple || opcode == "fma" && mode == Rounding::Nearest && !ftz && !sat;
                let fast: Option<AluFn> = if simple { fast_f32(opcode, nan) } else { None };
                if let Some(run) = fast {
                    self.alu(run, d, &s);
                    return Ok(());
                }
                let Some(operation) = slow_f32(opcode, stated, count) else { return self.unsupported(element) };
                self.scalar(single(operation, ftz, sat), d, s);
            }
            F32x2 => {
                let Some(operation) = slow_f32(opcode, stated, count) else { return self.unsupported(element) };
                let run = single(operation, stated.ftz, false);
                let both: ScalarFn = Box::new(move |s| {
                    let low = [s[0] & 0xffff_ffff, s[1] & 0xffff_ffff, s[2] & 0xffff_ffff, 0];
                    let high = [s[0] >> 32, s[1] >> 32, s[2] >> 32, 0];
                    run(&high) << 32 | run(&low)
                });
                self.scalar(both, d, s);
            }
            F64 => {
                if let Some(run) = rounded_f64(opcode, stated) {
                    self.scalar(run, d, s);
                    return Ok(());
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
                    "rcp" => unary!(f64 => f64, |a| canonical64(1.0 / a)),
                    "sqrt" => unary!(f64 => f64, |a| canonical64(a.sqrt())),
                    "rsqrt" => unary!(f64 => f64, |a| canonical64(1.0 / a.sqrt())),
                    _ => return self.unsupported(element),
                };
                self.alu(run, d, &s);
            }
            F16 | Bf16 | F16x2 | Bf16x2 => self.half(opcode, element, stated, d, s)?,
            _ => return self.unsupported(element),
        }
        Ok(())
    }

    /// `add`, `sub` and `fma` of f32, whose factors or first summand are narrower.
    fn mixed(&mut self, opcode: &str, narrow: ScalarType, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        use ScalarType::*;
        let widen: fn(u64) -> f32 = match narrow {
            F16 => |bits| narrow::f16_to_f32(bits as u16),
            Bf16 => |bits| narrow::bf16_to_f32(bits as u16),
            _ => return self.unsupported(narrow),
        };
        let stated = self.stated(opcode, F32, m, operands.len())?;
        if stated.ftz {
            return self.fail("`.ftz` is not possible here");
        }
        let factors = if opcode == "fma" { 2 } else { 1 };
        self.expect_count(operands, factors + 2)?;
        let mut sources =
            operands[1..=factors].iter().map(|operand| self.source(operand, narrow)).collect::<Decoded<Vec<_>>>()?;
        sources.push(self.source(&operands[factors + 1], F32)?);
        let target = self.target(&operands[0], 4)?;
        let Some(operation) = slow_f32(opcode, stated, factors + 1) else { return self.unsupported(F32) };
        let run = single(operation, false, stated.sat);
        let wide = move |bits| u64::from(widen(bits).to_bits());
        let run: ScalarFn = if factors == 2 {
            Box::new(move |s| run(&[wide(s[0]), wide(s[1]), s[2], 0]))
        } else {
            Box::new(move |s| run(&[wide(s[0]), s[1], 0, 0]))
        };
        self.scalar(run, target, sources);
        Ok(())
    }

    fn half(
        &mut self,
        opcode: &str,
        element: ScalarType,
        stated: Stated,
        d: super::op::Reg,
        s: Vec<super::op::Reg>,
    ) -> Decoded<()> {
        use ScalarType::*;
        let Stated { ftz, sat, mode, relu, xorsign, .. } = stated;
        let bf16 = matches!(element, Bf16 | Bf16x2);
        let double = matches!(element, F16x2 | Bf16x2);
        let operation: packed::Ternary = if opcode == "fma" && mode != Rounding::Nearest {
            // Only bf16 has it.
            Box::new(move |a, b, c| packed::fma_rounded::<packed::Bf16>(a, b, c, mode, relu))
        } else {
            match half_operation(opcode, bf16, stated.nan, relu) {
                Some(operation) => Box::new(operation),
                None => return self.unsupported(element),
            }
        };
        let (exponent, one) = if bf16 { (0x7f80, 0x3f80) } else { (0x7c00, 0x3c00) };
        let run: packed::Ternary = if ftz || sat || xorsign {
            Box::new(move |a, b, c| {
                let flushed = |bits: u16| if ftz && bits & exponent == 0 { bits & 0x8000 } else { bits };
                let sign = (a ^ b) & 0x8000;
                let operand = |bits: u16| flushed(if xorsign { bits & 0x7fff } else { bits });
                let out = flushed(operation(operand(a), operand(b), operand(c)));
                match (sat, out) {
                    (false, out) if xorsign && out <= exponent => out | sign,
                    (false, out) => out,
                    // Negative values, −0 and NaN become +0.
                    (true, out) if out & 0x8000 != 0 || out > exponent => 0,
                    (true, out) => out.min(one),
                }
            })
        } else {
            operation
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

/// An operation on one lane, with what `.ftz` and `.sat` do around it.
fn single(operation: F32Fn, ftz: bool, sat: bool) -> ScalarFn {
    Box::new(move |s| {
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
        u64::from(out.to_bits())
    })
}

fn slow_f32(opcode: &str, stated: Stated, count: usize) -> Option<F32Fn> {
    let Stated { mode, nan, xorsign, abs, .. } = stated;
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
        "min" | "max" => {
            let choose: fn(f64, f64) -> f64 = match (opcode, nan) {
                ("min", true) => float::min_nan,
                ("min", false) => float::min,
                (_, true) => float::max_nan,
                (_, false) => float::max,
            };
            Box::new(move |a, b, c| {
                let sign = a.is_sign_negative() != b.is_sign_negative();
                let [x, y, z] = [a, b, c].map(|value| f64::from(if abs { value.abs() } else { value }));
                let first = choose(x, y);
                let out = canonical(if count == 3 { choose(first, z) } else { first } as f32);
                if xorsign && !out.is_nan() { out.copysign(if sign { -1.0 } else { 1.0 }) } else { out }
            })
        }
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

/// Directed rounding and gross approximations of f64; `None` is what the processor does itself.
fn rounded_f64(opcode: &str, stated: Stated) -> Option<ScalarFn> {
    let mode = stated.mode;
    let of = |run: fn(f64, f64, f64, Rounding) -> f64| -> Option<ScalarFn> {
        Some(Box::new(move |s| {
            let [a, b, c] = [s[0], s[1], s[2]].map(f64::from_bits);
            run(a, b, c, mode).to_bits()
        }))
    };
    match opcode {
        "rcp" if stated.approximate => of(|a, _, _, _| double::reciprocal(a)),
        "rsqrt" if stated.ftz => of(|a, _, _, _| double::reciprocal_root(a)),
        _ if mode == Rounding::Nearest => None,
        "add" => of(|a, b, _, mode| double::add(a, b, mode)),
        "sub" => of(|a, b, _, mode| double::add(a, -b, mode)),
        "mul" => of(|a, b, _, mode| double::multiply(a, b, mode)),
        "fma" | "mad" => of(double::fused),
        "div" => of(|a, b, _, mode| double::divide(a, b, mode)),
        "rcp" => of(|a, _, _, mode| double::divide(1.0, a, mode)),
        "sqrt" => of(|a, _, _, mode| double::root(a, mode)),
        _ => None,
    }
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
