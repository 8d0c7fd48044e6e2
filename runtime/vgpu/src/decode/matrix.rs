//! Matrix instructions: `mma` as one step of the warp, `ldmatrix`, `stmatrix` and `movmatrix` as the accesses and shuffles that they are.
//!
//! Lane `4g + t` holds, of the 8 rows of 16 bytes of a matrix, the word `t` of row `g`. In `ldmatrix` and `stmatrix` lane `8j + r` has the
//! address of row `r` of matrix `j`, and it is this lane that accesses memory.

use super::modifiers::Modifiers;
use super::op::{Constant, Elements, MatrixOp, MemoryOp, NO_GUARD, Op, Reg, ShuffleMode, Special, WarpOp};
use super::{Decoded, Decoder};
use crate::memory::order::{Order, Proxy, Scope};
use crate::ptx::ScalarType;
use crate::ptx::ast::Operand;
use crate::semantics::lanes::AluFn;
use crate::semantics::matrix::{Fragment, Product};

/// Instructions that are decoded here.
pub(super) const OPCODES: &[&str] = &["mma", "ldmatrix", "stmatrix", "movmatrix"];

impl Decoder<'_> {
    pub(super) fn matrix(&mut self, opcode: &str, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        if !(m.take("sync") && m.take("aligned")) {
            return self.fail("needs .sync.aligned");
        }
        if self.guard != NO_GUARD {
            return self.fail("all lanes of a warp execute this together: a guard is not supported");
        }
        match opcode {
            "mma" => self.multiply_matrices(m, operands),
            "movmatrix" => self.transpose(m, operands),
            _ => self.move_matrices(opcode, m, operands),
        }
    }

    /// `d = f(a, b)` on 32-bit values.
    fn word_of(&mut self, run: AluFn, a: Reg, b: Reg) -> Decoded<Reg> {
        let target = self.temporary(4)?;
        self.alu(run, target, &[a, b]);
        Ok(target)
    }

    fn number(&mut self, value: u32) -> Decoded<Reg> {
        self.constant(Constant::Bits(value.into()), 4)
    }

    /// The value of a register in another lane.
    fn of_lane(&mut self, a: Reg, lane: Reg) -> Decoded<Reg> {
        let target = self.temporary(4)?;
        let members = self.number(u32::MAX)?.row;
        let c = self.number(31)?.row;
        let op = WarpOp::Shuffle {
            mode: ShuffleMode::Index,
            target: Some(target),
            valid: None,
            a,
            b: lane.row,
            c,
            sources: None,
        };
        self.emit(Op::Warp { members, all: true, op: Box::new(op) });
        Ok(target)
    }

    /// One of several registers, by the number in another one, which is below their count: a power of two.
    fn chosen(&mut self, list: &[Reg], number: Reg) -> Decoded<Reg> {
        let mut list = list.to_vec();
        let mut bit = 0;
        while list.len() > 1 {
            let p = self.new_predicate();
            let flag = self.number(1 << bit)?;
            let masked = self.word_of(binary!(u32, u32 => u32, |a, b| a & b), number, flag)?;
            let zero = self.number(0)?;
            self.compare(comparison!(u32, |a, b| a != b), p, masked, zero);
            let mut half = Vec::new();
            for pair in list.chunks(2) {
                let target = self.temporary(4)?;
                self.select(target, pair[pair.len() - 1], pair[0], p)?;
                half.push(target);
            }
            list = half;
            bit += 1;
        }
        Ok(list[0])
    }

    /// The 16 bits of a word that a number says, 0 for the lower, at the place of the lower or of the upper ones.
    fn half_word(&mut self, word: Reg, number: Reg) -> Decoded<Reg> {
        self.word_of(binary!(u32, u32 => u32, |word, number| word >> (16 * (number & 1)) & 0xffff), word, number)
    }

    fn two_halves(&mut self, low: Reg, high: Reg) -> Decoded<Reg> {
        self.word_of(binary!(u32, u32 => u32, |low, high| high << 16 | low), low, high)
    }

    fn lane(&mut self) -> Decoded<Reg> {
        self.constant(Constant::Special(Special::LaneId), 4)
    }

    /// `movmatrix.sync.aligned.m8n8.trans.b16 d, a;`
    fn transpose(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        if !(m.take("m8n8") && m.take("trans")) {
            return self.fail("needs .m8n8.trans");
        }
        self.only_type(m, ScalarType::B16)?;
        self.expect_count(operands, 2)?;
        let source = self.source(&operands[1], ScalarType::B32)?;
        let target = self.target(&operands[0], 4)?;
        let lane = self.lane()?;
        let row = self.word_of(binary!(u32, u32 => u32, |lane, _| lane / 4), lane, lane)?;
        let mut halves = Vec::new();
        for half in 0..2 {
            let half = self.number(half)?;
            // Element (row, column) of the result is element (column, row) of the source.
            let run = binary!(u32, u32 => u32, |lane, half| 4 * (2 * (lane % 4) + half) + lane / 8);
            let holder = self.word_of(run, lane, half)?;
            let word = self.of_lane(source, holder)?;
            halves.push(self.half_word(word, row)?);
        }
        let word = self.two_halves(halves[0], halves[1])?;
        self.copy_register(target, word);
        Ok(())
    }

    fn move_matrices(&mut self, opcode: &str, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        let count = match m.one_of(&["x1", "x2", "x4"]) {
            Some("x1") => 1,
            Some("x2") => 2,
            Some(_) => 4,
            None => return self.fail("needs .x1, .x2 or .x4"),
        };
        let shape = m.one_of(&["m8n8", "m8n16", "m16n16", "m16n8"]);
        let transposed = m.take("trans");
        let space = self.state_space(m)?;
        if !matches!(space, super::op::Space::Generic | super::op::Space::Shared) {
            return self.fail("matrices are in shared memory");
        }
        if shape != Some("m8n8") {
            return self.fail("only matrices .m8n8 of .b16 are supported");
        }
        self.only_type(m, ScalarType::B16)?;
        self.expect_count(operands, 2)?;
        let loads = opcode == "ldmatrix";
        let (list, address) = if loads { (&operands[0], &operands[1]) } else { (&operands[1], &operands[0]) };
        let Operand::Vector(list) = list else { return self.fail(format!("expected {count} registers in braces")) };
        if list.len() != count {
            return self.fail(format!("expected {count} registers, here are {}", list.len()));
        }
        let place = self.place(address, space)?;
        let lane = self.lane()?;
        let words: Vec<Reg> = (0..4).map(|_| self.temporary(4)).collect::<Decoded<_>>()?;
        let registers: Vec<Option<Reg>> = words.iter().copied().map(Some).collect();
        let access = Box::new(MemoryOp {
            place,
            bytes: 4,
            signed: false,
            registers: Elements::new(&registers),
            exact: true,
            order: Order::Weak,
            scope: Scope::Cta,
            proxy: Proxy::Generic,
        });
        // The lanes that have the address of a row.
        let has_row = self.new_predicate();
        let rows = self.number(8 * count as u32)?;
        self.compare(comparison!(u32, |a, b| a < b), has_row, lane, rows);
        if loads {
            let targets = list.iter().map(|operand| self.target(operand, 4)).collect::<Decoded<Vec<_>>>()?;
            self.guard = has_row;
            self.emit(Op::Load(access));
            self.guard = NO_GUARD;
            // A target may be the register of the addresses, and is written behind the load.
            for (matrix, target) in targets.into_iter().enumerate() {
                let word = self.distributed(&words, lane, matrix as u32, transposed)?;
                self.copy_register(target, word);
            }
        } else {
            let sources =
                list.iter().map(|operand| self.source(operand, ScalarType::B32)).collect::<Decoded<Vec<_>>>()?;
            for (number, word) in words.iter().enumerate() {
                let found = self.collected(&sources, lane, number as u32, transposed)?;
                self.copy_register(*word, found);
            }
            self.guard = has_row;
            self.emit(Op::Store(access));
            self.guard = NO_GUARD;
        }
        Ok(())
    }

    /// What each lane gets of a matrix whose rows are in `words` of the lanes from `8 * matrix` on.
    fn distributed(&mut self, words: &[Reg], lane: Reg, matrix: u32, transposed: bool) -> Decoded<Reg> {
        let first = self.number(8 * matrix)?;
        if !transposed {
            let holder = self.word_of(binary!(u32, u32 => u32, |lane, first| first + lane / 4), lane, first)?;
            let all = words.iter().map(|word| self.of_lane(*word, holder)).collect::<Decoded<Vec<_>>>()?;
            let number = self.word_of(binary!(u32, u32 => u32, |lane, _| lane % 4), lane, lane)?;
            return self.chosen(&all, number);
        }
        let row = self.word_of(binary!(u32, u32 => u32, |lane, _| lane / 4), lane, lane)?;
        let number = self.word_of(binary!(u32, u32 => u32, |lane, _| lane / 8), lane, lane)?;
        let mut halves = Vec::new();
        for half in 0..2 {
            let first = self.number(8 * matrix + half)?;
            let run = binary!(u32, u32 => u32, |lane, first| first + 2 * (lane % 4));
            let holder = self.word_of(run, lane, first)?;
            let all = words.iter().map(|word| self.of_lane(*word, holder)).collect::<Decoded<Vec<_>>>()?;
            let word = self.chosen(&all, number)?;
            halves.push(self.half_word(word, row)?);
        }
        self.two_halves(halves[0], halves[1])
    }

    /// Word `number` of the row that each lane has the address of.
    fn collected(&mut self, sources: &[Reg], lane: Reg, number: u32, transposed: bool) -> Decoded<Reg> {
        let matrix = self.word_of(binary!(u32, u32 => u32, |lane, _| lane / 8), lane, lane)?;
        let of_holder = |decoder: &mut Self, holder: Reg| {
            let all = sources.iter().map(|source| decoder.of_lane(*source, holder)).collect::<Decoded<Vec<_>>>()?;
            // The lanes of matrices that are not there choose any.
            decoder.chosen(&all, matrix)
        };
        let number = self.number(number)?;
        if !transposed {
            let run = binary!(u32, u32 => u32, |lane, number| 4 * (lane % 8) + number);
            let holder = self.word_of(run, lane, number)?;
            return of_holder(self, holder);
        }
        let mut halves = Vec::new();
        for half in 0..2 {
            let column = self.number(half)?;
            let column = self.word_of(binary!(u32, u32 => u32, |number, half| 2 * number + half), number, column)?;
            let run = binary!(u32, u32 => u32, |lane, column| 4 * column + lane % 8 / 2);
            let holder = self.word_of(run, lane, column)?;
            let word = of_holder(self, holder)?;
            halves.push(self.half_word(word, lane)?);
        }
        self.two_halves(halves[0], halves[1])
    }

    /// `mma.sync.aligned.shape.row.col{.satfinite}.dtype.atype.btype.ctype{.xor.popc} d, a, b, c;`
    fn multiply_matrices(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        const SHAPES: [&str; 11] = [
            "m8n8k4",
            "m8n8k16",
            "m8n8k32",
            "m8n8k128",
            "m16n8k4",
            "m16n8k8",
            "m16n8k16",
            "m16n8k32",
            "m16n8k64",
            "m16n8k128",
            "m16n8k256",
        ];
        const TYPES: [&str; 13] =
            ["f16", "bf16", "tf32", "f32", "f64", "s8", "u8", "s4", "u4", "b1", "e4m3", "e5m2", "s32"];
        let Some(shape) = m.one_of(&SHAPES) else { return self.fail("this shape is not supported") };
        if !(m.take("row") && m.take("col")) {
            return self.fail("needs .row.col");
        }
        let saturates = m.take("satfinite");
        let rounds = m.take("rn");
        let mut types = [Fragment::F32; 4];
        for element in &mut types {
            match m.one_of(&TYPES).and_then(Fragment::named) {
                Some(found) => *element = found,
                None => return self.fail("needs four types"),
            }
        }
        let [d, a, b, c] = types;
        let (rows, depth) = match shape.split_once("n8k") {
            Some((rows, depth)) => (rows[1..].parse().unwrap_or(16), depth.parse().unwrap_or(8)),
            None => return self.fail("this shape is not supported"),
        };
        if c != d
            || !Fragment::multiply(a, b, d, rows, depth)
            || saturates && (d != Fragment::S32 || a == Fragment::B1)
            || rounds && d != Fragment::F64
        {
            return self.fail("this shape is not possible with these types");
        }
        let and = match (a, m.one_of(&["xor", "and"])) {
            (Fragment::B1, Some(word)) if m.take("popc") => word == "and",
            (Fragment::B1, _) | (_, Some(_)) => return self.fail("`.xor.popc` and `.and.popc` belong to .b1"),
            _ => false,
        };
        self.expect_count(operands, 4)?;
        let counts = [d.of_result(rows), a.of_factor(rows, depth), b.of_factor(8, depth), d.of_result(rows)];
        let mut lists: [Vec<Reg>; 4] = Default::default();
        let element = if a == Fragment::F64 { ScalarType::B64 } else { ScalarType::B32 };
        for (number, (operand, count)) in operands.iter().zip(counts).enumerate() {
            let Operand::Vector(list) = operand else { return self.fail("expected registers in braces") };
            if list.len() != count {
                return self.fail(format!("expected {count} registers, here are {}", list.len()));
            }
            for part in list {
                let reg = match number {
                    0 => self.target(part, element.bytes())?,
                    _ => self.source(part, element)?,
                };
                lists[number].push(reg);
            }
        }
        let [targets, first, second, sum] = lists;
        let product = Product { rows, depth, types: [a, b, d], saturates, and };
        let op = MatrixOp { product, targets, first, second, sum };
        let members = self.number(u32::MAX)?.row;
        self.emit(Op::Warp { members, all: true, op: Box::new(WarpOp::Multiply(Box::new(op))) });
        Ok(())
    }
}
