//! Integer arithmetic. Hot forms get vectorised handlers, rare ones a closure on one lane.

use super::modifiers::Modifiers;
use super::op::{Op, PREDICATE_FLAG, Reg, ScalarFn, ScalarOp};
use super::{Decoded, Decoder};
use crate::ptx::ScalarType;
use crate::ptx::ast::Operand;
use crate::semantics::integer::*;
use crate::semantics::lanes::{AluFn, Args};

/// Those of [`Decoder::bits`].
pub(super) const OPCODES_OF_BITS: &[&str] = &[
    "and", "or", "xor", "not", "cnot", "shl", "shr", "mul24", "mad24", "sad", "popc", "clz", "brev", "bfind", "bfe",
    "bfi", "prmt", "lop3", "shf", "szext", "bmsk", "dp4a", "dp2a", "fns",
];

/// Instructions of [`Decoder::arithmetic`].
pub(super) const OPCODES: &[&str] = &[
    "add", "sub", "mul", "mad", "div", "rem", "min", "max", "abs", "neg", "fma", "addc", "subc", "madc", "rcp", "sqrt",
    "rsqrt", "ex2", "lg2", "sin", "cos", "tanh", "copysign", "testp",
];

impl Decoder<'_> {
    pub(super) fn alu(&mut self, run: AluFn, target: Reg, sources: &[Reg]) {
        let row = |index: usize| sources.get(index).map_or(0, |reg| reg.row);
        let args = Args { d: target.row, a: row(0), b: row(1), c: row(2), ..Args::default() };
        let uses: Vec<u32> = sources.iter().map(|reg| reg.row).collect();
        self.emit_alu(run, args, &uses, &[target.row]);
    }

    /// `p = f(q, a)` on predicates.
    pub(super) fn predicate_logic(&mut self, run: AluFn, p: u32, q: u32, a: u32) {
        let args = Args { a, p, q, ..Args::default() };
        self.emit_alu(run, args, &[q | PREDICATE_FLAG, a | PREDICATE_FLAG], &[p | PREDICATE_FLAG]);
    }

    pub(super) fn scalar(&mut self, run: ScalarFn, target: Reg, sources: Vec<Reg>) {
        self.emit(Op::Scalar(Box::new(ScalarOp { run, sources, target })));
    }

    /// Target and sources that all have the type of the instruction.
    pub(super) fn uniform_operands(
        &mut self,
        operands: &[Operand],
        element: ScalarType,
        sources: usize,
    ) -> Decoded<(Reg, Vec<Reg>)> {
        self.expect_count(operands, sources + 1)?;
        let read = operands[1..].iter().map(|operand| self.source(operand, element)).collect::<Decoded<Vec<_>>>()?;
        let target = self.target(&operands[0], element.bytes())?;
        Ok((target, read))
    }

    pub(super) fn need_element(&self, modifiers: &mut Modifiers) -> Decoded<ScalarType> {
        match modifiers.element() {
            Some(element) => Ok(element),
            None => self.fail("the type is missing"),
        }
    }

    pub(super) fn unsupported<T>(&self, element: ScalarType) -> Decoded<T> {
        self.fail(format!("type {element:?} is not supported for this instruction"))
    }

    pub(super) fn arithmetic(&mut self, opcode: &str, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        use ScalarType::*;
        let packed = m.one_of(&["u16x2", "s16x2"]);
        if let Some(packed) = packed {
            let relu = m.take("relu");
            return self.packed_integer(opcode, packed, relu, operands);
        }
        let element = self.need_element(m)?;
        if element.is_float() || element == B32 || opcode == "testp" || opcode == "copysign" {
            return self.floating(opcode, element, m, operands);
        }
        if m.take("cc") || matches!(opcode, "addc" | "subc" | "madc") {
            return self.carry(opcode, element, m, operands);
        }
        if m.take("sat") {
            if element != S32 {
                return self.fail("`.sat` needs .s32");
            }
            let run: AluFn = match opcode {
                "add" => binary!(i32, i32 => i32, i32::saturating_add),
                "sub" => binary!(i32, i32 => i32, i32::saturating_sub),
                "mad" if m.take("hi") => {
                    ternary!(i32, i32, i32 => i32, |a, b, c| (((i64::from(a) * i64::from(b)) >> 32) as i32)
                        .saturating_add(c))
                }
                _ => return self.fail("`.sat` is not possible here"),
            };
            let (d, s) = self.uniform_operands(operands, element, operands.len().saturating_sub(1).min(3))?;
            self.alu(run, d, &s);
            return Ok(());
        }
        let relu = matches!(opcode, "min" | "max") && m.take("relu");
        let count = match opcode {
            "abs" | "neg" => 1,
            "mad" => 3,
            _ => 2,
        };
        if matches!(opcode, "mul" | "mad") {
            return self.multiply(opcode, element, m, operands);
        }
        let run: AluFn = match (opcode, element) {
            ("add", U16 | S16) => binary!(u16, u16 => u16, u16::wrapping_add),
            ("add", U32 | S32) => binary!(u32, u32 => u32, u32::wrapping_add),
            ("add", U64 | S64) => binary!(u64, u64 => u64, u64::wrapping_add),
            ("sub", U16 | S16) => binary!(u16, u16 => u16, u16::wrapping_sub),
            ("sub", U32 | S32) => binary!(u32, u32 => u32, u32::wrapping_sub),
            ("sub", U64 | S64) => binary!(u64, u64 => u64, u64::wrapping_sub),
            ("div", U16) => binary!(u16, u16 => u16, div_u16),
            ("div", S16) => binary!(i16, i16 => i16, div_s16),
            ("div", U32) => binary!(u32, u32 => u32, div_u32),
            ("div", S32) => binary!(i32, i32 => i32, div_s32),
            ("div", U64) => binary!(u64, u64 => u64, div_u64),
            ("div", S64) => binary!(i64, i64 => i64, div_s64),
            ("rem", U16) => binary!(u16, u16 => u16, rem_u16),
            ("rem", S16) => binary!(i16, i16 => i16, rem_s16),
            ("rem", U32) => binary!(u32, u32 => u32, rem_u32),
            ("rem", S32) => binary!(i32, i32 => i32, rem_s32),
            ("rem", U64) => binary!(u64, u64 => u64, rem_u64),
            ("rem", S64) => binary!(i64, i64 => i64, rem_s64),
            ("min", S32) if relu => binary!(i32, i32 => i32, |a, b| a.min(b).max(0)),
            ("max", S32) if relu => binary!(i32, i32 => i32, |a, b| a.max(b).max(0)),
            _ if relu => return self.fail("`.relu` needs .s32"),
            ("min", U16) => binary!(u16, u16 => u16, std::cmp::Ord::min),
            ("min", S16) => binary!(i16, i16 => i16, std::cmp::Ord::min),
            ("min", U32) => binary!(u32, u32 => u32, std::cmp::Ord::min),
            ("min", S32) => binary!(i32, i32 => i32, std::cmp::Ord::min),
            ("min", U64) => binary!(u64, u64 => u64, std::cmp::Ord::min),
            ("min", S64) => binary!(i64, i64 => i64, std::cmp::Ord::min),
            ("max", U16) => binary!(u16, u16 => u16, std::cmp::Ord::max),
            ("max", S16) => binary!(i16, i16 => i16, std::cmp::Ord::max),
            ("max", U32) => binary!(u32, u32 => u32, std::cmp::Ord::max),
            ("max", S32) => binary!(i32, i32 => i32, std::cmp::Ord::max),
            ("max", U64) => binary!(u64, u64 => u64, std::cmp::Ord::max),
            ("max", S64) => binary!(i64, i64 => i64, std::cmp::Ord::max),
            ("abs", S16) => unary!(i16 => i16, i16::wrapping_abs),
            ("abs", S32) => unary!(i32 => i32, i32::wrapping_abs),
            ("abs", S64) => unary!(i64 => i64, i64::wrapping_abs),
            ("neg", S16) => unary!(i16 => i16, i16::wrapping_neg),
            ("neg", S32) => unary!(i32 => i32, i32::wrapping_neg),
            ("neg", S64) => unary!(i64 => i64, i64::wrapping_neg),
            _ => return self.unsupported(element),
        };
        let (d, s) = self.uniform_operands(operands, element, count)?;
        self.alu(run, d, &s);
        Ok(())
    }

    fn packed_integer(&mut self, opcode: &str, packed: &str, relu: bool, operands: &[Operand]) -> Decoded<()> {
        let both = |f: fn(u16, u16) -> u16| -> ScalarFn {
            Box::new(move |s| u64::from(crate::semantics::packed::pair(s[0] as u32, s[1] as u32, f)))
        };
        let signed = |f: fn(i16, i16) -> i16| -> ScalarFn {
            Box::new(move |s| {
                let half = |a: u16, b: u16| {
                    let value = f(a.cast_signed(), b.cast_signed());
                    if relu { value.max(0) } else { value }.cast_unsigned()
                };
                u64::from(crate::semantics::packed::pair(s[0] as u32, s[1] as u32, half))
            })
        };
        if relu && (packed == "u16x2" || opcode == "add") {
            return self.fail("`.relu` needs a signed minimum or maximum");
        }
        let run = match (opcode, packed) {
            ("add", _) => both(u16::wrapping_add),
            ("min", "u16x2") => both(std::cmp::Ord::min),
            ("max", "u16x2") => both(std::cmp::Ord::max),
            ("min", _) => signed(std::cmp::Ord::min),
            ("max", _) => signed(std::cmp::Ord::max),
            _ => return self.fail("packed integers only add, min and max"),
        };
        let (d, s) = self.uniform_operands(operands, ScalarType::B32, 2)?;
        self.scalar(run, d, s);
        Ok(())
    }

    fn multiply(&mut self, opcode: &str, element: ScalarType, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        use ScalarType::*;
        let Some(part) = m.one_of(&["lo", "hi", "wide"]) else { return self.fail("needs .lo, .hi or .wide") };
        let mad = opcode == "mad";
        let run: AluFn = match (part, element, mad) {
            ("lo", U16 | S16, false) => binary!(u16, u16 => u16, u16::wrapping_mul),
            ("lo", U32 | S32, false) => binary!(u32, u32 => u32, u32::wrapping_mul),
            ("lo", U64 | S64, false) => binary!(u64, u64 => u64, u64::wrapping_mul),
            ("hi", U16, false) => binary!(u16, u16 => u16, |a, b| ((u32::from(a) * u32::from(b)) >> 16) as u16),
            ("hi", S16, false) => binary!(i16, i16 => i16, |a, b| ((i32::from(a) * i32::from(b)) >> 16) as i16),
            ("hi", U32, false) => binary!(u32, u32 => u32, |a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32),
            ("hi", S32, false) => binary!(i32, i32 => i32, |a, b| ((i64::from(a) * i64::from(b)) >> 32) as i32),
            ("hi", U64, false) => binary!(u64, u64 => u64, |a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64),
            ("hi", S64, false) => binary!(i64, i64 => i64, |a, b| ((i128::from(a) * i128::from(b)) >> 64) as i64),
            ("wide", U16, false) => binary!(u16, u16 => u32, |a, b| u32::from(a) * u32::from(b)),
            ("wide", S16, false) => binary!(i16, i16 => i32, |a, b| i32::from(a) * i32::from(b)),
            ("wide", U32, false) => binary!(u32, u32 => u64, |a, b| u64::from(a) * u64::from(b)),
            ("wide", S32, false) => binary!(i32, i32 => i64, |a, b| i64::from(a) * i64::from(b)),
            ("lo", U16 | S16, true) => ternary!(u16, u16, u16 => u16, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
            ("lo", U32 | S32, true) => ternary!(u32, u32, u32 => u32, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
            ("lo", U64 | S64, true) => ternary!(u64, u64, u64 => u64, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
            ("hi", U16, true) => {
                ternary!(u16, u16, u16 => u16, |a, b, c| (((u32::from(a) * u32::from(b)) >> 16) as u16).wrapping_add(c))
            }
            ("hi", S16, true) => {
                ternary!(i16, i16, i16 => i16, |a, b, c| (((i32::from(a) * i32::from(b)) >> 16) as i16).wrapping_add(c))
            }
            ("hi", U32, true) => {
                ternary!(u32, u32, u32 => u32, |a, b, c| (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c))
            }
            ("hi", S32, true) => {
                ternary!(i32, i32, i32 => i32, |a, b, c| (((i64::from(a) * i64::from(b)) >> 32) as i32).wrapping_add(c))
            }
            ("hi", U64, true) => ternary!(u64, u64, u64 => u64, |a, b, c| {
                (((u128::from(a) * u128::from(b)) >> 64) as u64).wrapping_add(c)
            }),
            ("hi", S64, true) => ternary!(i64, i64, i64 => i64, |a, b, c| {
                (((i128::from(a) * i128::from(b)) >> 64) as i64).wrapping_add(c)
            }),
            ("wide", U16, true) => {
                ternary!(u16, u16, u32 => u32, |a, b, c| (u32::from(a) * u32::from(b)).wrapping_add(c))
            }
            ("wide", S16, true) => {
                ternary!(i16, i16, i32 => i32, |a, b, c| (i32::from(a) * i32::from(b)).wrapping_add(c))
            }
            ("wide", U32, true) => {
                ternary!(u32, u32, u64 => u64, |a, b, c| (u64::from(a) * u64::from(b)).wrapping_add(c))
            }
            ("wide", S32, true) => {
                ternary!(i32, i32, i64 => i64, |a, b, c| (i64::from(a) * i64::from(b)).wrapping_add(c))
            }
            _ => return self.unsupported(element),
        };
        let result = match (part, element) {
            ("wide", U16) => U32,
            ("wide", S16) => S32,
            ("wide", U32) => U64,
            ("wide", S32) => S64,
            _ => element,
        };
        self.expect_count(operands, if mad { 4 } else { 3 })?;
        let mut sources = vec![self.source(&operands[1], element)?, self.source(&operands[2], element)?];
        if mad {
            sources.push(self.source(&operands[3], result)?);
        }
        let target = self.target(&operands[0], result.bytes())?;
        self.alu(run, target, &sources);
        Ok(())
    }

    /// `add.cc`, `addc`, `sub.cc`, `subc`, `mad.cc`, `madc`: the carry is a register of the kernel. A subtraction is the addition of the
    /// complement, as in hardware: it leaves 1 when there is *no* borrow, which `addc` and `madc` then add. The PTX ISA calls the flag of
    /// `sub.cc` the borrow; the 128-bit division of nvcc and the constants that ptxas computes follow the hardware.
    fn carry(&mut self, opcode: &str, element: ScalarType, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        let bytes = element.bytes();
        if !matches!(bytes, 4 | 8) {
            return self.unsupported(element);
        }
        m.take("cc");
        let part = m.one_of(&["lo", "hi"]);
        let multiply = matches!(opcode, "mad" | "madc");
        if multiply != part.is_some() {
            return self.fail("needs .lo or .hi exactly for a multiplication");
        }
        let carry_in = opcode.ends_with('c');
        let subtract = opcode.starts_with("sub");
        let signed = element.is_signed();
        let high = part == Some("hi");
        let (target, mut sources) = self.uniform_operands(operands, element, if multiply { 3 } else { 2 })?;
        let carry = self.carry_register()?;
        sources.push(carry);
        let bits = bytes * 8;
        let compute = move |s: &[u64; 4]| -> (u64, u64) {
            let ones = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
            let (a, b, c) = if multiply {
                let product = if signed {
                    let extend = |v: u64| i128::from((v << (64 - bits)).cast_signed() >> (64 - bits));
                    (extend(s[0]) * extend(s[1])).cast_unsigned()
                } else {
                    u128::from(s[0]) * u128::from(s[1])
                };
                let product = if high { product >> bits } else { product };
                (product as u64 & ones, s[2], s[3])
            } else {
                (s[0], s[1], s[2])
            };
            let c = if carry_in { c & 1 } else { u64::from(subtract) };
            let b = if subtract { !b & ones } else { b };
            let wide = u128::from(a) + u128::from(b) + u128::from(c);
            (wide as u64 & ones, u64::from(wide >> bits != 0))
        };
        // The flag is computed from the old sources, so it goes to a temporary before the target is written.
        let flag = self.temporary(4)?;
        self.scalar(Box::new(move |s| compute(s).1), flag, sources.clone());
        self.scalar(Box::new(move |s| compute(s).0), target, sources);
        self.alu(unary!(u32 => u32, |a| a), carry, &[flag]);
        Ok(())
    }

    fn carry_register(&mut self) -> Decoded<Reg> {
        // One row shared by all carry instructions of the kernel.
        let key = (super::op::Constant::Bits(u128::MAX), 4);
        if let Some(row) = self.constant_rows.get(&key) {
            return Ok(Reg { row: *row, bytes: 4 });
        }
        let reg = self.temporary(4)?;
        self.constant_rows.insert(key, reg.row);
        Ok(reg)
    }

    pub(super) fn bits(&mut self, opcode: &str, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        use ScalarType::*;
        match opcode {
            "prmt" | "lop3" | "shf" | "szext" | "bmsk" | "dp4a" | "dp2a" | "bfe" | "bfi" | "bfind" => {
                return self.bit_fields(opcode, m, operands);
            }
            _ => {}
        }
        if matches!(opcode, "mul24" | "mad24") {
            return self.multiply24(opcode, m, operands);
        }
        let element = self.need_element(m)?;
        if element == Pred {
            return self.predicate_operation(opcode, operands);
        }
        if matches!(opcode, "shl" | "shr") {
            let run: AluFn = match (opcode, element) {
                ("shl", B16) => binary!(u16, u32 => u16, shl_16),
                ("shl", B32) => binary!(u32, u32 => u32, shl_32),
                ("shl", B64) => binary!(u64, u32 => u64, shl_64),
                ("shr", B16 | U16) => binary!(u16, u32 => u16, shr_16),
                ("shr", B32 | U32) => binary!(u32, u32 => u32, shr_32),
                ("shr", B64 | U64) => binary!(u64, u32 => u64, shr_64),
                ("shr", S16) => binary!(i16, u32 => i16, sar_16),
                ("shr", S32) => binary!(i32, u32 => i32, sar_32),
                ("shr", S64) => binary!(i64, u32 => i64, sar_64),
                _ => return self.unsupported(element),
            };
            self.expect_count(operands, 3)?;
            let width = i128::from(element.bytes() * 8);
            if let Operand::Integer(amount) = operands[2]
                && (0..width).contains(&amount)
            {
                // The usual case, and the only one that vectorises on every machine.
                let run: AluFn = match (opcode, element) {
                    ("shl", B16) => uniform!(u16, |a, n| a << (n & 15)),
                    ("shl", B32) => uniform!(u32, |a, n| a << (n & 31)),
                    ("shl", _) => uniform!(u64, |a, n| a << (n & 63)),
                    (_, S16) => uniform!(i16, |a, n| a >> (n & 15)),
                    (_, S32) => uniform!(i32, |a, n| a >> (n & 31)),
                    (_, S64) => uniform!(i64, |a, n| a >> (n & 63)),
                    (_, B16 | U16) => uniform!(u16, |a, n| a >> (n & 15)),
                    (_, B32 | U32) => uniform!(u32, |a, n| a >> (n & 31)),
                    _ => uniform!(u64, |a, n| a >> (n & 63)),
                };
                let source = self.source(&operands[1], element)?;
                let target = self.target(&operands[0], element.bytes())?;
                let args = Args { d: target.row, a: source.row, p: amount as u32, ..Args::default() };
                self.emit_alu(run, args, &[source.row], &[target.row]);
                return Ok(());
            }
            let sources = [self.source(&operands[1], element)?, self.source(&operands[2], U32)?];
            let target = self.target(&operands[0], element.bytes())?;
            self.alu(run, target, &sources);
            return Ok(());
        }
        let (run, count): (AluFn, usize) = match (opcode, element) {
            ("and", B16) => (binary!(u16, u16 => u16, |a, b| a & b), 2),
            ("and", B32) => (binary!(u32, u32 => u32, |a, b| a & b), 2),
            ("and", B64) => (binary!(u64, u64 => u64, |a, b| a & b), 2),
            ("or", B16) => (binary!(u16, u16 => u16, |a, b| a | b), 2),
            ("or", B32) => (binary!(u32, u32 => u32, |a, b| a | b), 2),
            ("or", B64) => (binary!(u64, u64 => u64, |a, b| a | b), 2),
            ("xor", B16) => (binary!(u16, u16 => u16, |a, b| a ^ b), 2),
            ("xor", B32) => (binary!(u32, u32 => u32, |a, b| a ^ b), 2),
            ("xor", B64) => (binary!(u64, u64 => u64, |a, b| a ^ b), 2),
            ("not", B16) => (unary!(u16 => u16, |a| !a), 1),
            ("not", B32) => (unary!(u32 => u32, |a| !a), 1),
            ("not", B64) => (unary!(u64 => u64, |a| !a), 1),
            ("cnot", B16) => (unary!(u16 => u16, |a| u16::from(a == 0)), 1),
            ("cnot", B32) => (unary!(u32 => u32, |a| u32::from(a == 0)), 1),
            ("cnot", B64) => (unary!(u64 => u64, |a| u64::from(a == 0)), 1),
            ("brev", B32) => (unary!(u32 => u32, u32::reverse_bits), 1),
            ("brev", B64) => (unary!(u64 => u64, u64::reverse_bits), 1),
            ("sad", U32) => (ternary!(u32, u32, u32 => u32, |a, b, c| a.abs_diff(b).wrapping_add(c)), 3),
            ("sad", S32) => (ternary!(i32, i32, u32 => u32, |a, b, c| a.abs_diff(b).wrapping_add(c)), 3),
            ("sad", U16) => (ternary!(u16, u16, u16 => u16, |a, b, c| a.abs_diff(b).wrapping_add(c)), 3),
            ("sad", S16) => (ternary!(i16, i16, u16 => u16, |a, b, c| a.abs_diff(b).wrapping_add(c)), 3),
            ("sad", U64) => (ternary!(u64, u64, u64 => u64, |a, b, c| a.abs_diff(b).wrapping_add(c)), 3),
            ("sad", S64) => (ternary!(i64, i64, u64 => u64, |a, b, c| a.abs_diff(b).wrapping_add(c)), 3),
            ("popc" | "clz", B32 | B64) => {
                let run: AluFn = match (opcode, element) {
                    ("popc", B32) => unary!(u32 => u32, u32::count_ones),
                    ("popc", _) => unary!(u64 => u32, u64::count_ones),
                    (_, B32) => unary!(u32 => u32, u32::leading_zeros),
                    _ => unary!(u64 => u32, u64::leading_zeros),
                };
                self.expect_count(operands, 2)?;
                let source = self.source(&operands[1], element)?;
                let target = self.target(&operands[0], 4)?;
                self.alu(run, target, &[source]);
                return Ok(());
            }
            ("fns", B32) => {
                self.expect_count(operands, 4)?;
                let sources = operands[1..].iter().zip([B32, B32, S32]);
                let sources =
                    sources.map(|(operand, element)| self.source(operand, element)).collect::<Decoded<Vec<_>>>()?;
                let target = self.target(&operands[0], 4)?;
                let run: ScalarFn = Box::new(|s| fns(s[0] as u32, s[1] as u32, s[2] as u32 as i32).into());
                self.scalar(run, target, sources);
                return Ok(());
            }
            _ => return self.unsupported(element),
        };
        let (d, s) = self.uniform_operands(operands, element, count)?;
        self.alu(run, d, &s);
        Ok(())
    }

    fn multiply24(&mut self, opcode: &str, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        let Some(part) = m.one_of(&["lo", "hi"]) else { return self.fail("needs .lo or .hi") };
        let element = self.need_element(m)?;
        let signed = match element {
            ScalarType::U32 => false,
            ScalarType::S32 => true,
            _ => return self.unsupported(element),
        };
        let shift = if part == "hi" { 16 } else { 0 };
        let sat = opcode == "mad24" && m.take("sat");
        if sat && !(signed && part == "hi") {
            return self.fail("`.sat` needs .hi and .s32");
        }
        let (d, s) = self.uniform_operands(operands, element, if opcode == "mad24" { 3 } else { 2 })?;
        self.scalar(
            Box::new(move |s| {
                let product = if signed {
                    sign24(s[0] as i32) * sign24(s[1] as i32)
                } else {
                    ((s[0] & 0xff_ffff) * (s[1] & 0xff_ffff)).cast_signed()
                };
                let part = (product >> shift) as u32;
                if sat {
                    part.cast_signed().saturating_add(s[2] as i32).cast_unsigned().into()
                } else {
                    u64::from(part).wrapping_add(s[2])
                }
            }),
            d,
            s,
        );
        Ok(())
    }

    fn bit_fields(&mut self, opcode: &str, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        use ScalarType::*;
        if opcode == "prmt" {
            if m.element() != Some(B32) {
                return self.fail("needs .b32");
            }
            let mode = m.one_of(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]);
            let (d, s) = self.uniform_operands(operands, B32, 3)?;
            match mode {
                None => self.alu(ternary!(u32, u32, u32 => u32, prmt), d, &s),
                Some(mode) => {
                    let mode = mode.to_owned();
                    let run: ScalarFn = Box::new(move |s| {
                        let selector = prmt_mode_selector(&mode, s[2] as u32).unwrap_or(0);
                        u64::from(prmt(s[0] as u32, s[1] as u32, selector))
                    });
                    self.scalar(run, d, s);
                }
            }
            return Ok(());
        }
        if opcode == "lop3" {
            if m.element() != Some(B32) {
                return self.fail("needs .b32");
            }
            let combine = m.one_of(&["or", "and"]);
            self.expect_count(operands, if combine.is_some() { 6 } else { 5 })?;
            let Operand::Integer(table @ 0..=255) = operands[4] else {
                return self.fail("the truth table is a literal from 0 to 255");
            };
            let (result, predicate) = match (&operands[0], combine) {
                (Operand::Pair(result, predicate), Some(_)) => (&**result, Some(self.target_predicate(predicate)?)),
                (result, None) => (result, None),
                _ => return self.fail("expected `register|predicate`"),
            };
            let other = match operands.get(5) {
                Some(operand) => self.plain_predicate(operand)?,
                None => super::op::FALSE,
            };
            let s = operands[1..4].iter().map(|operand| self.source(operand, B32)).collect::<Decoded<Vec<_>>>()?;
            let d = self.target(result, 4)?;
            let (run, table): (AluFn, u32) = (truth_table!(), table as u32);
            let args = Args { d: d.row, a: s[0].row, b: s[1].row, c: s[2].row, p: table, ..Args::default() };
            // The predicate that is written may be the guard, and the result one of the sources.
            let some = predicate.map(|_| self.temporary(4)).transpose()?;
            if let Some(some) = some {
                let args = Args { d: some.row, ..args };
                self.emit_alu(run, args, &[s[0].row, s[1].row, s[2].row], &[some.row]);
                self.copy_register(d, some);
            } else {
                self.emit_alu(run, args, &[s[0].row, s[1].row, s[2].row], &[d.row]);
            }
            if let (Some(p), Some(some)) = (predicate, some) {
                let found = self.new_predicate();
                let args = Args { a: some.row, p: found, ..Args::default() };
                self.emit_alu(predicate_test!(u32, |a| a != 0), args, &[some.row], &[found | PREDICATE_FLAG]);
                let run =
                    if combine == Some("or") { predicate_logic!(|a, b| a | b) } else { predicate_logic!(|a, b| a & b) };
                self.predicate_logic(run, p, found, other);
            }
            return Ok(());
        }
        if opcode == "shf" {
            let left = match m.one_of(&["l", "r"]) {
                Some("l") => true,
                Some(_) => false,
                None => return self.fail("needs .l or .r"),
            };
            let wrap = match m.one_of(&["wrap", "clamp"]) {
                Some("wrap") => true,
                Some(_) => false,
                None => return self.fail("needs .wrap or .clamp"),
            };
            if m.element() != Some(B32) {
                return self.fail("needs .b32");
            }
            let run: AluFn = match (left, wrap) {
                (true, true) => ternary!(u32, u32, u32 => u32, |a, b, n| shf_left(a, b, n & 31)),
                (true, false) => ternary!(u32, u32, u32 => u32, |a, b, n| shf_left(a, b, n.min(32))),
                (false, true) => ternary!(u32, u32, u32 => u32, |a, b, n| shf_right(a, b, n & 31)),
                (false, false) => ternary!(u32, u32, u32 => u32, |a, b, n| shf_right(a, b, n.min(32))),
            };
            let (d, s) = self.uniform_operands(operands, B32, 3)?;
            self.alu(run, d, &s);
            return Ok(());
        }
        let wrap = match opcode {
            "szext" | "bmsk" => match m.one_of(&["wrap", "clamp"]) {
                Some("wrap") => true,
                Some(_) => false,
                None => return self.fail("needs .wrap or .clamp"),
            },
            _ => false,
        };
        let shift_amount = opcode == "bfind" && m.take("shiftamt");
        let high = match opcode {
            "dp2a" => match m.one_of(&["lo", "hi"]) {
                Some(part) => part == "hi",
                None => return self.fail("needs .lo or .hi"),
            },
            _ => false,
        };
        let element = self.need_element(m)?;
        let (width, signed) = (element.bytes() * 8, element.is_signed());
        let words = matches!(element, U32 | S32 | B32);
        match opcode {
            "szext" if words => {
                let (d, s) = self.uniform_operands(operands, element, 2)?;
                self.scalar(Box::new(move |s| u64::from(szext(s[0] as u32, s[1] as u32, wrap, signed))), d, s);
            }
            "bmsk" if element == B32 => {
                let (d, s) = self.uniform_operands(operands, element, 2)?;
                self.scalar(Box::new(move |s| u64::from(bmsk(s[0] as u32, s[1] as u32, wrap))), d, s);
            }
            "dp4a" if words => {
                let Some(second) = m.element() else { return self.fail("needs two types") };
                let second_signed = second.is_signed();
                let (d, s) = self.uniform_operands(operands, B32, 3)?;
                let run: ScalarFn =
                    Box::new(move |s| u64::from(dp4a(s[0] as u32, s[1] as u32, s[2] as u32, signed, second_signed)));
                self.scalar(run, d, s);
            }
            "dp2a" if words => {
                let Some(second) = m.element() else { return self.fail("needs two types") };
                let second_signed = second.is_signed();
                let (d, s) = self.uniform_operands(operands, B32, 3)?;
                let run: ScalarFn = Box::new(move |s| {
                    let bytes = if high { s[1] >> 16 } else { s[1] } as u32;
                    u64::from(dp2a(s[0] as u32, bytes, s[2] as u32, signed, second_signed))
                });
                self.scalar(run, d, s);
            }
            "bfind" if matches!(element, U32 | S32 | U64 | S64) => {
                self.expect_count(operands, 2)?;
                let source = self.source(&operands[1], element)?;
                let target = self.target(&operands[0], 4)?;
                let run: ScalarFn = Box::new(move |s| {
                    let value = (s[0] << (64 - width)).cast_signed() >> (64 - width);
                    let value = if signed && value < 0 { !value } else { value };
                    let value = value.cast_unsigned() & if width == 64 { u64::MAX } else { (1 << width) - 1 };
                    u64::from(bfind(value, width, shift_amount))
                });
                self.scalar(run, target, vec![source]);
            }
            "bfe" if matches!(element, U32 | S32) => {
                let run: AluFn = if signed {
                    ternary!(u32, u32, u32 => u32, |a, b, c| bfe_signed(u64::from(a), b, c, 32) as u32)
                } else {
                    ternary!(u32, u32, u32 => u32, bfe_u32)
                };
                let (d, s) = self.uniform_operands(operands, element, 3)?;
                self.alu(run, d, &s);
            }
            "bfe" if matches!(element, U64 | S64) => {
                self.expect_count(operands, 4)?;
                let sources = vec![
                    self.source(&operands[1], element)?,
                    self.source(&operands[2], U32)?,
                    self.source(&operands[3], U32)?,
                ];
                let target = self.target(&operands[0], element.bytes())?;
                let run: ScalarFn = if signed {
                    Box::new(move |s| bfe_signed(s[0], s[1] as u32, s[2] as u32, width))
                } else {
                    Box::new(move |s| bfe_u64(s[0], s[1] as u32, s[2] as u32, width))
                };
                self.scalar(run, target, sources);
            }
            "bfi" if matches!(element, B32 | B64) => {
                self.expect_count(operands, 5)?;
                let sources = vec![
                    self.source(&operands[1], element)?,
                    self.source(&operands[2], element)?,
                    self.source(&operands[3], U32)?,
                    self.source(&operands[4], U32)?,
                ];
                let target = self.target(&operands[0], element.bytes())?;
                self.scalar(Box::new(move |s| bfi(s[0], s[1], s[2] as u32, s[3] as u32, width)), target, sources);
            }
            _ => return self.unsupported(element),
        }
        Ok(())
    }

    fn predicate_operation(&mut self, opcode: &str, operands: &[Operand]) -> Decoded<()> {
        let (run, binary): (AluFn, bool) = match opcode {
            "and" => (predicate_logic!(|a, b| a & b), true),
            "or" => (predicate_logic!(|a, b| a | b), true),
            "xor" => (predicate_logic!(|a, b| a ^ b), true),
            "not" => (predicate_logic!(|a, _| !a), false),
            _ => return self.fail("not possible on predicates"),
        };
        self.expect_count(operands, if binary { 3 } else { 2 })?;
        let q = self.plain_predicate(&operands[1])?;
        let a = if binary { self.plain_predicate(&operands[2])? } else { super::op::FALSE };
        let p = self.target_predicate(&operands[0])?;
        self.predicate_logic(run, p, q, a);
        Ok(())
    }
}
