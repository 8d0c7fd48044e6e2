//! Moves, comparisons, selections and conversions of addresses between state spaces.

use super::modifiers::Modifiers;
use super::op::{Constant, FALSE, Op, PREDICATE_FLAG, Reg, ScalarFn, ScalarOp, Special, mapped, unmapped};
use super::{Decoded, Decoder};
use crate::memory::address::{OWNER_MASK, PARAM_WINDOW};
use crate::ptx::ScalarType;
use crate::ptx::ast::Operand;
use crate::semantics::convert::{bf16_to_f64, f16_to_f64};
use crate::semantics::float::flush;
use crate::semantics::lanes::{AluFn, Args};

const COMPARISONS: [&str; 18] = [
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan",
];

/// Instructions that are decoded here.
pub(super) const OPCODES: &[&str] = &["mov", "setp", "set", "selp", "slct", "cvta", "isspacep", "mapa", "getctarank"];

impl Decoder<'_> {
    pub(super) fn moves(&mut self, opcode: &str, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        match opcode {
            "mov" => self.move_value(m, operands),
            "setp" => self.set_predicate(m, operands),
            "set" => self.set(m, operands),
            "selp" => {
                let element = self.need_element(m)?;
                self.expect_count(operands, 4)?;
                let a = self.source(&operands[1], element)?;
                let b = self.source(&operands[2], element)?;
                let q = self.plain_predicate(&operands[3])?;
                let target = self.target(&operands[0], element.bytes())?;
                self.select(target, a, b, q)
            }
            "slct" => self.select_by_sign(m, operands),
            "cvta" => self.convert_address(m, operands),
            "isspacep" => self.is_space(m, operands),
            _ => self.cluster_address(opcode, m, operands),
        }
    }

    fn move_value(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        let element = self.need_element(m)?;
        self.expect_count(operands, 2)?;
        let (to, from) = (&operands[0], &operands[1]);
        match (to, from) {
            _ if element == ScalarType::Pred => {
                let (q, negated) = self.source_predicate(from)?;
                let p = self.target_predicate(to)?;
                let run = if negated { predicate_logic!(|a, _| !a) } else { predicate_logic!(|a, _| a) };
                self.predicate_logic(run, p, q, FALSE);
                Ok(())
            }
            (Operand::Vector(parts), from) => self.unpack(parts, from, element),
            (to, Operand::Vector(parts)) => self.pack(to, parts, element),
            (Operand::Name(_), Operand::Name(name)) if super::control::clock(name).is_some() => {
                let target = self.target(to, element.bytes())?;
                if let Some(kind) = super::control::clock(name) {
                    self.emit(Op::Clock { target, kind });
                }
                Ok(())
            }
            _ => {
                use ScalarType::*;
                let movable = matches!(element, B16 | B32 | B64 | B128 | U16 | U32 | U64 | S16 | S32 | S64 | F32 | F64);
                if !movable {
                    return self.unsupported(element);
                }
                let source = self.source(from, element)?;
                let target = self.target(to, element.bytes())?;
                self.copy_register(target, source);
                Ok(())
            }
        }
    }

    /// Type of one of several equal parts of a value.
    fn part(&self, element: ScalarType, count: usize) -> Decoded<ScalarType> {
        match (element.bytes(), count) {
            (2, 2) | (4, 4) => Ok(ScalarType::B8),
            (4, 2) | (8, 4) => Ok(ScalarType::B16),
            (8, 2) | (16, 4) => Ok(ScalarType::B32),
            (16, 2) => Ok(ScalarType::B64),
            _ => self.fail(format!("a value of this type has no {count} parts")),
        }
    }

    /// `mov.b64 {a, b}, d`
    fn unpack(&mut self, parts: &[Operand], from: &Operand, element: ScalarType) -> Decoded<()> {
        let part = self.part(element, parts.len())?;
        let source = self.source(from, element)?;
        for (index, operand) in parts.iter().enumerate() {
            if *operand == Operand::Sink {
                continue;
            }
            let target = self.target(operand, part.bytes())?;
            let run = unpack_part(source.bytes, part.bytes(), index);
            let Some(run) = run else { return self.fail("parts of this size are not supported") };
            self.alu(run, target, &[source]);
        }
        Ok(())
    }

    /// `mov.b64 d, {a, b}`
    fn pack(&mut self, to: &Operand, parts: &[Operand], element: ScalarType) -> Decoded<()> {
        let part = self.part(element, parts.len())?;
        let mut values = parts.iter().map(|operand| self.source(operand, part)).collect::<Decoded<Vec<_>>>()?;
        let target = self.target(to, element.bytes())?;
        if let [a, b, c, d] = values[..] {
            let pair = part.bytes() * 2;
            let (low, high) = (self.temporary(pair)?, self.temporary(pair)?);
            self.join(low, a, b);
            self.join(high, c, d);
            values = vec![low, high];
        }
        self.join(target, values[0], values[1]);
        Ok(())
    }

    fn join(&mut self, target: Reg, low: Reg, high: Reg) {
        let run: AluFn = match low.bytes {
            1 => binary!(u8, u8 => u16, |a, b| u16::from(b) << 8 | u16::from(a)),
            2 => binary!(u16, u16 => u32, |a, b| u32::from(b) << 16 | u32::from(a)),
            4 => binary!(u32, u32 => u64, |a, b| u64::from(b) << 32 | u64::from(a)),
            _ => binary!(u64, u64 => u128, |a, b| u128::from(b) << 64 | u128::from(a)),
        };
        self.alu(run, target, &[low, high]);
    }

    /// `d = q ? a : b`
    pub(super) fn select(&mut self, d: Reg, a: Reg, b: Reg, q: u32) -> Decoded<()> {
        let run: AluFn = match d.bytes {
            2 => selection!(u16),
            4 => selection!(u32),
            8 => selection!(u64),
            _ => return self.fail("cannot select values of this width"),
        };
        let args = Args { d: d.row, a: a.row, b: b.row, q, ..Args::default() };
        self.emit_alu(run, args, &[a.row, b.row, q | PREDICATE_FLAG], &[d.row]);
        Ok(())
    }

    pub(super) fn compare(&mut self, run: AluFn, p: u32, a: Reg, b: Reg) {
        let args = Args { p, a: a.row, b: b.row, ..Args::default() };
        self.emit_alu(run, args, &[a.row, b.row], &[p | PREDICATE_FLAG]);
    }

    /// `setp.cmp{.bool}.type p{|q}, a, b{, {!}c};`
    fn set_predicate(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        let Some(comparison) = m.one_of(&COMPARISONS) else { return self.fail("the comparison is missing") };
        let combine = m.one_of(&["and", "or", "xor"]);
        let ftz = m.take("ftz");
        let element = self.need_element(m)?;
        self.expect_count(operands, if combine.is_some() { 4 } else { 3 })?;
        let a = self.source(&operands[1], element)?;
        let b = self.source(&operands[2], element)?;
        let halves = matches!(element, ScalarType::F16x2 | ScalarType::Bf16x2);
        let (first, second) = match &operands[0] {
            Operand::Pair(p, q) => (self.target_predicate(p)?, Some(self.target_predicate(q)?)),
            single => (self.target_predicate(single)?, None),
        };
        let other = match (combine, operands.get(3)) {
            (Some(combine), Some(operand)) => Some((combine, self.plain_predicate(operand)?)),
            _ => None,
        };
        let Some(run) = comparator(comparison, element, ftz, 0) else { return self.unsupported(element) };
        if matches!(element, ScalarType::F16 | ScalarType::Bf16) && second.is_some() {
            return self.fail("a comparison of this type has one predicate");
        }
        if halves && second.is_none() {
            return self.fail("a packed comparison needs two predicates");
        }
        if second.is_none() && other.is_none() {
            self.compare(run, first, a, b);
            return Ok(());
        }
        // Results go to temporaries first: a destination may be the guard or the combined predicate.
        let result = self.new_predicate();
        self.compare(run, result, a, b);
        let mut writes = vec![(first, result)];
        if let Some(second) = second {
            let inverse = self.new_predicate();
            if halves {
                let Some(run) = comparator(comparison, element, ftz, 1) else { return self.unsupported(element) };
                self.compare(run, inverse, a, b);
            } else {
                self.predicate_logic(predicate_logic!(|a, _| !a), inverse, result, FALSE);
            }
            writes.push((second, inverse));
        }
        if let Some((combine, other)) = other {
            let run = match combine {
                "and" => predicate_logic!(|a, b| a & b),
                "or" => predicate_logic!(|a, b| a | b),
                _ => predicate_logic!(|a, b| a ^ b),
            };
            for (_, value) in &mut writes {
                let combined = self.new_predicate();
                self.predicate_logic(run, combined, *value, other);
                *value = combined;
            }
        }
        // The guard itself is written last.
        writes.sort_by_key(|(target, _)| *target == self.guard & !super::op::GUARD_NOT);
        for (target, value) in writes {
            self.predicate_logic(predicate_logic!(|a, _| a), target, value, FALSE);
        }
        Ok(())
    }

    /// `set.cmp{.bool}.dtype.stype d, a, b{, {!}c};`: all ones or 1.0 where true, in each half of a packed value.
    fn set(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        use ScalarType::*;
        let Some(comparison) = m.one_of(&COMPARISONS) else { return self.fail("the comparison is missing") };
        let combine = m.one_of(&["and", "or", "xor"]);
        let ftz = m.take("ftz");
        let result = self.need_element(m)?;
        let element = self.need_element(m)?;
        let packed = matches!(element, F16x2 | Bf16x2);
        let possible = match element {
            F16 => matches!(result, U16 | S16 | U32 | S32 | F16 | Bf16),
            Bf16 => matches!(result, U16 | S16 | U32 | S32 | Bf16),
            F16x2 | Bf16x2 => matches!(result, U32 | S32) || result == element,
            _ => matches!(result, U32 | S32 | F16 | Bf16 | F32),
        };
        if !possible {
            return self.unsupported(result);
        }
        let yes = match result {
            F32 => 0x3f80_0000,
            F16 | F16x2 => 0x3c00,
            Bf16 | Bf16x2 => 0x3f80,
            U32 | S32 if !packed => 0xffff_ffff,
            _ => 0xffff,
        };
        self.expect_count(operands, if combine.is_some() { 4 } else { 3 })?;
        let a = self.source(&operands[1], element)?;
        let b = self.source(&operands[2], element)?;
        let other = match (combine, operands.get(3)) {
            (Some(combine), Some(operand)) => Some((combine, self.plain_predicate(operand)?)),
            _ => None,
        };
        let mut halves = Vec::new();
        for half in 0..if packed { 2 } else { 1 } {
            let Some(run) = comparator(comparison, element, ftz, half) else { return self.unsupported(element) };
            let p = self.new_predicate();
            self.compare(run, p, a, b);
            if let Some((combine, other)) = other {
                let run = match combine {
                    "and" => predicate_logic!(|a, b| a & b),
                    "or" => predicate_logic!(|a, b| a | b),
                    _ => predicate_logic!(|a, b| a ^ b),
                };
                self.predicate_logic(run, p, p, other);
            }
            let bytes = result.bytes();
            let part = (
                self.constant(Constant::Bits(yes << (16 * half)), bytes)?,
                self.constant(Constant::Bits(0), bytes)?,
                p,
            );
            halves.push(part);
        }
        let target = self.target(&operands[0], result.bytes())?;
        match halves[..] {
            [(yes, no, p), (high, _, q)] => {
                let (low, upper) = (self.temporary(4)?, self.temporary(4)?);
                self.select(low, yes, no, p)?;
                self.select(upper, high, no, q)?;
                self.alu(binary!(u32, u32 => u32, |a, b| a | b), target, &[low, upper]);
                Ok(())
            }
            _ => {
                let (yes, no, p) = halves[0];
                self.select(target, yes, no, p)
            }
        }
    }

    /// `slct.dtype.ctype d, a, b, c;`: a where c ≥ 0.
    fn select_by_sign(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        let ftz = m.take("ftz");
        let element = self.need_element(m)?;
        let control = self.need_element(m)?;
        let run = match control {
            ScalarType::S32 | ScalarType::F32 => comparator("ge", control, ftz, 0),
            _ => None,
        };
        let Some(run) = run else { return self.unsupported(control) };
        self.expect_count(operands, 4)?;
        let a = self.source(&operands[1], element)?;
        let b = self.source(&operands[2], element)?;
        let c = self.source(&operands[3], control)?;
        let zero = self.constant(Constant::Bits(0), 4)?;
        let p = self.new_predicate();
        self.compare(run, p, c, zero);
        let target = self.target(&operands[0], element.bytes())?;
        self.select(target, a, b, p)
    }

    /// Base of the generic window of a state space; `None` where generic addresses are the same.
    fn window(&mut self, m: &mut Modifiers) -> Decoded<Option<Reg>> {
        let names = ["global", "const", "shared", "shared::cta", "shared::cluster", "local", "param", "param::entry"];
        let value = match m.one_of(&names) {
            None => return self.fail("the state space is missing"),
            Some("global" | "const") => return Ok(None),
            Some("shared" | "shared::cta" | "shared::cluster") => Constant::SharedWindow,
            Some("local") => Constant::LocalWindow,
            Some(_) => Constant::Bits(u128::from(PARAM_WINDOW)),
        };
        self.constant(value, 8).map(Some)
    }

    fn convert_address(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        let to_space = m.take("to");
        let of_cluster = m.has("shared::cluster");
        let window = self.window(m)?;
        self.only_type(m, ScalarType::U64)?;
        self.expect_count(operands, 2)?;
        let source = self.source(&operands[1], ScalarType::U64)?;
        let target = self.target(&operands[0], 8)?;
        match window {
            None => self.copy_register(target, source),
            Some(window) if to_space && of_cluster => {
                let rank = self.constant(Constant::Special(Special::CtaRank), 4)?;
                let run: ScalarFn = Box::new(|&[address, rank, window, _]| match owner_rank(address, rank, window) {
                    Some(owner) if owner != rank as u32 => mapped(address as u32, owner).into(),
                    _ => address.wrapping_sub(window),
                });
                self.emit(Op::Scalar(Box::new(ScalarOp { run, sources: vec![source, rank, window], target })));
            }
            Some(window) => {
                let run = if to_space {
                    binary!(u64, u64 => u64, u64::wrapping_sub)
                } else {
                    binary!(u64, u64 => u64, u64::wrapping_add)
                };
                self.alu(run, target, &[source, window]);
            }
        }
        Ok(())
    }

    /// `isspacep.space p, a;`
    fn is_space(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        let of_cluster = m.has("shared::cluster");
        let shared = of_cluster || m.has("shared") || m.has("shared::cta");
        let window = self.window(m)?;
        self.expect_count(operands, 2)?;
        let source = self.source(&operands[1], ScalarType::U64)?;
        let p = self.target_predicate(&operands[0])?;
        match window {
            // A device address has its rank, counted from one, below two zero bits.
            None => {
                let run = predicate_test!(u64, |a| crate::memory::address::is_device(a) && a >> 52 != 0);
                let args = Args { p, a: source.row, ..Args::default() };
                self.emit_alu(run, args, &[source.row], &[p | PREDICATE_FLAG]);
            }
            Some(window) if shared => {
                let rank = self.constant(Constant::Special(Special::CtaRank), 4)?;
                let size = self.constant(Constant::Special(Special::ClusterSize), 4)?;
                let run: ScalarFn = Box::new(move |&[address, rank, window, size]| {
                    let owner = owner_rank(address, rank, window).map(u64::from);
                    owner.is_some_and(|owner| if of_cluster { owner < size } else { owner == rank }).into()
                });
                let target = self.temporary(4)?;
                self.emit(Op::Scalar(Box::new(ScalarOp { run, sources: vec![source, rank, window, size], target })));
                let zero = self.constant(Constant::Bits(0), 4)?;
                self.compare(comparison!(u32, |a, b| a != b), p, target, zero);
            }
            Some(window) => {
                let run = comparison!(u64, |a, b| a >> 32 == b >> 32);
                self.compare(run, p, source, window);
            }
        }
        Ok(())
    }

    /// `mapa` and `getctarank`.
    fn cluster_address(&mut self, opcode: &str, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        let generic = !m.take("shared::cluster");
        let element = self.need_element(m)?;
        if !matches!(element, ScalarType::U32 | ScalarType::U64) {
            return self.unsupported(element);
        }
        if generic && element == ScalarType::U32 {
            return self.fail("a generic address has 64 bits");
        }
        let maps = opcode == "mapa";
        self.expect_count(operands, if maps { 3 } else { 2 })?;
        let source = self.source(&operands[1], element)?;
        let (run, other): (ScalarFn, Reg) = if maps {
            let run = |&[address, rank, _, _]: &[u64; 4]| {
                address >> 32 << 32 | u64::from(mapped(address as u32, rank as u32))
            };
            (Box::new(run), self.source(&operands[2], ScalarType::U32)?)
        } else {
            let run: ScalarFn = if generic {
                // What is in no CTA of the cluster has no rank.
                Box::new(|&[address, rank, window, _]| owner_rank(address, rank, window).unwrap_or(u32::MAX).into())
            } else {
                Box::new(|&[address, rank, _, _]| unmapped(address as u32).map_or(rank, |(rank, _)| rank.into()))
            };
            (run, self.constant(Constant::Special(Special::CtaRank), 4)?)
        };
        let target = self.target(&operands[0], if maps { element.bytes() } else { 4 })?;
        let window = self.constant(Constant::SharedWindow, 8)?;
        self.emit(Op::Scalar(Box::new(ScalarOp { run, sources: vec![source, other, window], target })));
        Ok(())
    }
}

/// The rank in its cluster of the CTA in whose shared memory a generic address is; `rank` is that of the CTA with the window. It may be
/// beyond the cluster.
fn owner_rank(address: u64, rank: u64, window: u64) -> Option<u32> {
    if address >> 60 != window >> 60 {
        return None;
    }
    if let Some((rank, _)) = unmapped(address as u32) {
        return Some(rank);
    }
    // CTAs of a cluster have owners one after the other.
    let behind = (address >> 32).wrapping_sub(window >> 32).wrapping_add(rank) as u32 & OWNER_MASK;
    Some(behind)
}

/// Extracts part `index` of a value, both of the given widths.
fn unpack_part(whole: u32, part: u32, index: usize) -> Option<AluFn> {
    Some(match (whole, part, index) {
        (2, 1, 0) => unary!(u16 => u8, |a| a as u8),
        (2, 1, 1) => unary!(u16 => u8, |a| (a >> 8) as u8),
        (4, 1, 0) => unary!(u32 => u8, |a| a as u8),
        (4, 1, 1) => unary!(u32 => u8, |a| (a >> 8) as u8),
        (4, 1, 2) => unary!(u32 => u8, |a| (a >> 16) as u8),
        (4, 1, 3) => unary!(u32 => u8, |a| (a >> 24) as u8),
        (4, 2, 0) => unary!(u32 => u16, |a| a as u16),
        (4, 2, 1) => unary!(u32 => u16, |a| (a >> 16) as u16),
        (8, 2, 0) => unary!(u64 => u16, |a| a as u16),
        (8, 2, 1) => unary!(u64 => u16, |a| (a >> 16) as u16),
        (8, 2, 2) => unary!(u64 => u16, |a| (a >> 32) as u16),
        (8, 2, 3) => unary!(u64 => u16, |a| (a >> 48) as u16),
        (8, 4, 0) => unary!(u64 => u32, |a| a as u32),
        (8, 4, 1) => unary!(u64 => u32, |a| (a >> 32) as u32),
        (16, 4, 0) => unary!(u128 => u32, |a| a as u32),
        (16, 4, 1) => unary!(u128 => u32, |a| (a >> 32) as u32),
        (16, 4, 2) => unary!(u128 => u32, |a| (a >> 64) as u32),
        (16, 4, 3) => unary!(u128 => u32, |a| (a >> 96) as u32),
        (16, 8, 0) => unary!(u128 => u64, |a| a as u64),
        (16, 8, 1) => unary!(u128 => u64, |a| (a >> 64) as u64),
        _ => return None,
    })
}

macro_rules! integer_comparator {
    ($name:expr, $t:ty) => {
        match $name {
            "eq" => comparison!($t, |a, b| a == b),
            "ne" => comparison!($t, |a, b| a != b),
            "lt" | "lo" => comparison!($t, |a, b| a < b),
            "le" | "ls" => comparison!($t, |a, b| a <= b),
            "gt" | "hi" => comparison!($t, |a, b| a > b),
            "ge" | "hs" => comparison!($t, |a, b| a >= b),
            _ => return None,
        }
    };
}

/// `$v` turns the lane's bits into a value with a floating-point order.
macro_rules! float_comparator {
    ($name:expr, $t:ty, $v:expr) => {
        match $name {
            "eq" => comparison!($t, |a, b| $v(a) == $v(b)),
            "ne" => comparison!($t, |a, b| $v(a) < $v(b) || $v(a) > $v(b)),
            "lt" => comparison!($t, |a, b| $v(a) < $v(b)),
            "le" => comparison!($t, |a, b| $v(a) <= $v(b)),
            "gt" => comparison!($t, |a, b| $v(a) > $v(b)),
            "ge" => comparison!($t, |a, b| $v(a) >= $v(b)),
            "equ" => comparison!($t, |a, b| !($v(a) < $v(b) || $v(a) > $v(b))),
            "neu" => comparison!($t, |a, b| $v(a) != $v(b)),
            "ltu" => comparison!($t, |a, b| !($v(a) >= $v(b))),
            "leu" => comparison!($t, |a, b| !($v(a) > $v(b))),
            "gtu" => comparison!($t, |a, b| !($v(a) <= $v(b))),
            "geu" => comparison!($t, |a, b| !($v(a) < $v(b))),
            "num" => comparison!($t, |a, b| !$v(a).is_nan() && !$v(b).is_nan()),
            "nan" => comparison!($t, |a, b| $v(a).is_nan() || $v(b).is_nan()),
            _ => return None,
        }
    };
}

/// The value of an f16 whose subnormals count as zero.
fn flushed_f16(bits: u16) -> f64 {
    f16_to_f64(if bits & 0x7c00 == 0 { bits & 0x8000 } else { bits })
}

/// The comparison as a handler; `half` picks the half of a packed type.
#[allow(clippy::neg_cmp_op_on_partial_ord, clippy::nonminimal_bool, reason = "unordered comparisons are negated ones")]
fn comparator(name: &str, element: ScalarType, ftz: bool, half: u32) -> Option<AluFn> {
    use ScalarType::*;
    let unsigned_only = matches!(name, "lo" | "ls" | "hi" | "hs");
    let equality = matches!(name, "eq" | "ne");
    if ftz && !matches!(element, F32 | F16 | F16x2) {
        return None;
    }
    Some(match element {
        B16 if equality => integer_comparator!(name, u16),
        B32 if equality => integer_comparator!(name, u32),
        B64 if equality => integer_comparator!(name, u64),
        U16 => integer_comparator!(name, u16),
        U32 => integer_comparator!(name, u32),
        U64 => integer_comparator!(name, u64),
        S16 if !unsigned_only => integer_comparator!(name, i16),
        S32 if !unsigned_only => integer_comparator!(name, i32),
        S64 if !unsigned_only => integer_comparator!(name, i64),
        F32 if ftz => float_comparator!(name, f32, flush),
        F32 => float_comparator!(name, f32, std::convert::identity),
        F64 => float_comparator!(name, f64, std::convert::identity),
        F16 if ftz => float_comparator!(name, u16, flushed_f16),
        F16x2 if ftz && half == 0 => float_comparator!(name, u32, |a: u32| flushed_f16(a as u16)),
        F16x2 if ftz => float_comparator!(name, u32, |a: u32| flushed_f16((a >> 16) as u16)),
        F16 => float_comparator!(name, u16, f16_to_f64),
        Bf16 => float_comparator!(name, u16, bf16_to_f64),
        F16x2 if half == 0 => float_comparator!(name, u32, |a: u32| f16_to_f64(a as u16)),
        F16x2 => float_comparator!(name, u32, |a: u32| f16_to_f64((a >> 16) as u16)),
        Bf16x2 if half == 0 => float_comparator!(name, u32, |a: u32| bf16_to_f64(a as u16)),
        Bf16x2 => float_comparator!(name, u32, |a: u32| bf16_to_f64((a >> 16) as u16)),
        _ => return None,
    })
}
