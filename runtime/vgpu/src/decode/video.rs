//! Video instructions on two or four parts of words: `vadd4`, `vabsdiff2` and the like. Those on single parts are not there.
//!
//! The parts of both operands are chosen among those of `a` and behind them of `b`; each is extended by the type of its operand, so that
//! sums and differences are exact. A result is cut to its part, or with `.sat` kept within its type, or with `.add` added to `c` as it is.

use super::modifiers::Modifiers;
use super::op::{Reg, ScalarFn};
use super::{Decoded, Decoder};
use crate::ptx::ScalarType;
use crate::ptx::ast::Operand;

/// Instructions that are decoded here.
pub(super) const OPCODES: &[&str] = &[
    "vadd2",
    "vadd4",
    "vsub2",
    "vsub4",
    "vavrg2",
    "vavrg4",
    "vabsdiff2",
    "vabsdiff4",
    "vmin2",
    "vmin4",
    "vmax2",
    "vmax4",
    "vset2",
    "vset4",
];

/// What is computed of two parts.
type Part = fn(i64, i64) -> i64;

/// How a word is divided.
#[derive(Clone, Copy)]
struct Parts {
    count: usize,
    bits: usize,
    /// What stands before the numbers of parts in a selector.
    letter: char,
}

impl Decoder<'_> {
    pub(super) fn video(&mut self, opcode: &str, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        let parts = match opcode.strip_suffix('4') {
            Some(_) => Parts { count: 4, bits: 8, letter: 'b' },
            None => Parts { count: 2, bits: 16, letter: 'h' },
        };
        let compares = opcode.starts_with("vset");
        let mut signs = Vec::new();
        for _ in 0..if compares { 2 } else { 3 } {
            match m.element() {
                Some(ScalarType::U32) => signs.push(false),
                Some(ScalarType::S32) => signs.push(true),
                _ => return self.fail("the types are .u32 or .s32"),
            }
        }
        let [is_signed, of_a, of_b] = match signs[..] {
            [a, b] => [false, a, b],
            [d, a, b] => [d, a, b],
            _ => return self.fail("a type is missing"),
        };
        let run: Part = match (opcode.trim_end_matches(['2', '4']), compares) {
            ("vadd", _) => |a, b| a + b,
            ("vsub", _) => |a, b| a - b,
            // Halves are rounded away from zero where the sum is positive, and to the next lower where it is not.
            ("vavrg", _) => |a, b| if a + b >= 0 { (a + b + 1) >> 1 } else { (a + b) >> 1 },
            ("vabsdiff", _) => |a, b| (a - b).abs(),
            ("vmin", _) => std::cmp::Ord::min,
            ("vmax", _) => std::cmp::Ord::max,
            _ => match m.one_of(&["eq", "ne", "lt", "le", "gt", "ge"]) {
                Some("eq") => |a, b| i64::from(a == b),
                Some("ne") => |a, b| i64::from(a != b),
                Some("lt") => |a, b| i64::from(a < b),
                Some("le") => |a, b| i64::from(a <= b),
                Some("gt") => |a, b| i64::from(a > b),
                Some(_) => |a, b| i64::from(a >= b),
                None => return self.fail("needs a comparison"),
            },
        };
        let adds = m.take("add");
        let saturates = !adds && !compares && m.take("sat");
        self.expect_count(operands, 4)?;
        let (target, written) = self.selected(&operands[0], parts, true)?;
        let target = self.target(&target, 4)?;
        let written = written.unwrap_or_else(|| (0..parts.count).collect());
        let (a, from_a) = self.selected(&operands[1], parts, false)?;
        let (b, from_b) = self.selected(&operands[2], parts, false)?;
        let sources: Vec<Reg> = [&a, &b, &operands[3]]
            .into_iter()
            .map(|operand| self.source(operand, ScalarType::B32))
            .collect::<Decoded<_>>()?;
        let from_a = from_a.unwrap_or_else(|| (0..parts.count).collect());
        let from_b = from_b.unwrap_or_else(|| (parts.count..2 * parts.count).collect());
        let (least, most) = match is_signed {
            true => (-(1i64 << (parts.bits - 1)), (1i64 << (parts.bits - 1)) - 1),
            false => (0, (1i64 << parts.bits) - 1),
        };
        let mask = (1u64 << parts.bits) - 1;
        let compute: ScalarFn = Box::new(move |s| {
            let both = s[1] << 32 | s[0];
            let part = |number: usize, signed: bool| {
                let bits = both >> (number * parts.bits) & mask;
                let unused = 64 - parts.bits;
                if signed { (bits << unused).cast_signed() >> unused } else { bits.cast_signed() }
            };
            let results = written.iter().map(|at| (*at, run(part(from_a[*at], of_a), part(from_b[*at], of_b))));
            if adds {
                let sum = results.map(|(_, result)| result).sum::<i64>();
                return s[2].wrapping_add_signed(sum) & 0xffff_ffff;
            }
            results.fold(s[2], |word, (at, result)| {
                let result = if saturates { result.clamp(least, most) } else { result };
                let shift = at * parts.bits;
                word & !(mask << shift) | (result.cast_unsigned() & mask) << shift
            })
        });
        self.scalar(compute, target, sources);
        Ok(())
    }

    /// An operand without its selector, and the parts that this names, the lowest first. The parts of a target are a mask: each one once,
    /// in their order.
    fn selected(&self, operand: &Operand, parts: Parts, is_mask: bool) -> Decoded<(Operand, Option<Vec<usize>>)> {
        let Operand::Name(name) = operand else { return Ok((operand.clone(), None)) };
        let Some((register, selector)) = name.split_once('.').filter(|(_, selector)| selector.starts_with(['b', 'h']))
        else {
            return Ok((operand.clone(), None));
        };
        let numbers = selector.strip_prefix(parts.letter).and_then(|digits| {
            let numbers = digits.chars().rev().map(|digit| digit.to_digit(10).map(|number| number as usize));
            numbers.collect::<Option<Vec<usize>>>()
        });
        let possible = |numbers: &Vec<usize>| match is_mask {
            true => numbers.iter().all(|number| *number < parts.count) && numbers.is_sorted_by(|a, b| a < b),
            false => numbers.len() == parts.count && numbers.iter().all(|number| *number < 2 * parts.count),
        };
        match numbers.filter(possible) {
            Some(numbers) => Ok((Operand::Name(register.to_owned()), Some(numbers))),
            None => self.fail(format!("`.{selector}` does not select parts of this operand")),
        }
    }
}
