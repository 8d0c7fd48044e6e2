//! Matrix instructions: `mma` as one step of the warp, `ldmatrix`, `stmatrix` and `movmatrix` as the accesses and shuffles that they are.
//! `wmma` is in [`super::wmma`].
//!
//! Lane `4g + t` holds, of the 8 rows of 16 bytes of a matrix, the word `t` of row `g`. In `ldmatrix` and `stmatrix` lane `8j + r` has the
//! address of row `r` of matrix `j`, and it is this lane that accesses memory.
//!
//! Of matrices of bytes, `.m8n16` is the same with 16 bytes in a row. Transposed, in `.m16n16` and `.m16n8`, lane `4g + t` holds of the
//! rows `2t` and `2t + 1` the columns `g` and `g + 8`, the rows beside each other; of 16 rows, whose addresses 16 lanes have, those of `4t`
//! to `4t + 3` in two registers. Elements of 6 and of 4 bits lie in the first 12 and 8 bytes of their row, and become the lower bits of
//! bytes.

use super::modifiers::Modifiers;
use super::op::{Constant, Elements, MatrixOp, MemoryOp, NO_GUARD, Op, Reg, ScalarFn, ShuffleMode, Special, WarpOp};
use super::{Decoded, Decoder, floating};
use crate::memory::order::{Order, Proxy, Scope};
use crate::ptx::ScalarType;
use crate::ptx::ast::Operand;
use crate::semantics::float::Rounding;
use crate::semantics::lanes::AluFn;
use crate::semantics::matrix::{Fragment, Held, Product};

/// Instructions that are decoded here.
pub(super) const OPCODES: &[&str] = &["mma", "wmma", "ldmatrix", "stmatrix", "movmatrix"];

/// How the lanes hold matrices of `ldmatrix` and `stmatrix`.
#[derive(Clone, Copy)]
enum Matrices {
    /// In words of a row, or the elements of 16 bits of a column.
    Pairs { transposed: bool },
    /// In bytes of a column.
    Bytes { rows: u32 },
}

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
            "wmma" => self.wmma(m, operands),
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

    pub(super) fn number(&mut self, value: u32) -> Decoded<Reg> {
        self.constant(Constant::Bits(value.into()), 4)
    }

    /// The value of a register in another lane.
    pub(super) fn of_lane(&mut self, a: Reg, lane: Reg) -> Decoded<Reg> {
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

    pub(super) fn lane(&mut self) -> Decoded<Reg> {
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
        self.expect_count(operands, 2)?;
        let loads = opcode == "ldmatrix";
        let bits = match m.one_of(&["b16", "b8", "b8x16"]) {
            Some("b16") => 16,
            Some("b8") => 8,
            Some(_) => match m.one_of(&["b6x16_p32", "b4x16_p64"]) {
                Some("b6x16_p32") => 6,
                Some(_) => 4,
                None => return self.fail("needs .b6x16_p32 or .b4x16_p64"),
            },
            None => return self.fail("needs .b16, .b8 or .b8x16"),
        };
        let matrices = match (shape, bits, loads, transposed) {
            (Some("m8n8"), 16, ..) => Matrices::Pairs { transposed },
            (Some("m8n16"), 4 | 6, true, false) => Matrices::Pairs { transposed },
            (Some("m16n16"), 4 | 6 | 8, true, true) if count < 4 => Matrices::Bytes { rows: 16 },
            (Some("m16n8"), 8, false, true) => Matrices::Bytes { rows: 8 },
            _ => return self.fail("this shape is not possible with this type"),
        };
        let rows = if matches!(matrices, Matrices::Bytes { rows: 16 }) { 16 * count } else { 8 * count };
        let count = if rows > 8 * count { 2 * count } else { count };
        let (list, address) = if loads { (&operands[0], &operands[1]) } else { (&operands[1], &operands[0]) };
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
        let rows = self.number(rows as u32)?;
        self.compare(comparison!(u32, |a, b| a < b), has_row, lane, rows);
        if loads {
            let targets = self.registers(list, count, |decoder, part| decoder.target(part, 4))?;
            self.guard = has_row;
            self.emit(Op::Load(access));
            self.guard = NO_GUARD;
            let words = self.expanded(&words, bits)?;
            // A target may be the register of the addresses, and is written behind the load.
            for (number, target) in targets.into_iter().enumerate() {
                let word = match matrices {
                    Matrices::Pairs { transposed } => self.distributed(&words, lane, number as u32, transposed)?,
                    Matrices::Bytes { .. } => self.distributed_bytes(&words, lane, number as u32)?,
                };
                self.copy_register(target, word);
            }
        } else {
            let sources = self.registers(list, count, |decoder, part| decoder.source(part, ScalarType::B32))?;
            for (number, word) in words.iter().enumerate() {
                let found = match matrices {
                    Matrices::Pairs { transposed } => self.collected(&sources, lane, number as u32, transposed)?,
                    Matrices::Bytes { .. } => self.collected_bytes(&sources, lane, number as u32)?,
                };
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

    /// The words of rows of 16 bytes, of those of 16 elements of 6 or 4 bits.
    fn expanded(&mut self, words: &[Reg], bits: u32) -> Decoded<Vec<Reg>> {
        if bits >= 8 {
            return Ok(words.to_vec());
        }
        let of_words = |decoder: &mut Self, number: u32| {
            let target = decoder.temporary(4)?;
            let run: ScalarFn = Box::new(move |s| {
                let row = s.iter().rev().fold(0u128, |row, word| row << 32 | u128::from(*word));
                let element = |at: u32| (row >> (bits * at)) as u64 & ((1 << bits) - 1);
                (0..4).map(|at| element(4 * number + at) << (8 * at)).sum()
            });
            // Behind the last element nothing has to be defined.
            let used = words[..(bits / 2) as usize].to_vec();
            decoder.scalar(run, target, used);
            Ok(target)
        };
        (0..4).map(|number| of_words(self, number)).collect()
    }

    /// What each lane gets in a register of matrices of 16 × 16 bytes.
    fn distributed_bytes(&mut self, words: &[Reg], lane: Reg, register: u32) -> Decoded<Reg> {
        let column = self.word_of(binary!(u32, u32 => u32, |lane, _| lane / 16), lane, lane)?;
        let mut halves = Vec::new();
        for row in 0..2 {
            let first = self.number(16 * (register / 2) + 2 * (register % 2) + row)?;
            let holder = self.word_of(binary!(u32, u32 => u32, |lane, first| first + 4 * (lane % 4)), lane, first)?;
            let all = words.iter().map(|word| self.of_lane(*word, holder)).collect::<Decoded<Vec<_>>>()?;
            // Columns g and g + 8 are the same byte of two words.
            let low = self.chosen(&all[..2], column)?;
            let high = self.chosen(&all[2..], column)?;
            let target = self.temporary(4)?;
            let run = ternary!(u32, u32, u32 => u32, |low, high, lane| {
                let shift = 8 * (lane / 4 % 4);
                (low >> shift & 0xff) | (high >> shift & 0xff) << 16
            });
            self.alu(run, target, &[low, high, lane]);
            halves.push(target);
        }
        self.word_of(binary!(u32, u32 => u32, |even, odd| odd << 8 | even), halves[0], halves[1])
    }

    /// Word `number` of the row of 16 bytes that each lane has the address of, of matrices of 8 rows.
    fn collected_bytes(&mut self, sources: &[Reg], lane: Reg, number: u32) -> Decoded<Reg> {
        let matrix = self.word_of(binary!(u32, u32 => u32, |lane, _| lane / 8), lane, lane)?;
        let mut word = self.number(0)?;
        for at in 0..4 {
            let column = self.number(4 * number + at)?;
            let run = binary!(u32, u32 => u32, |lane, column| 4 * (column % 8) + lane % 8 / 2);
            let holder = self.word_of(run, lane, column)?;
            let all = sources.iter().map(|source| self.of_lane(*source, holder)).collect::<Decoded<Vec<_>>>()?;
            let found = self.chosen(&all, matrix)?;
            let byte = self.temporary(4)?;
            let run = ternary!(u32, u32, u32 => u32, |word, lane, column| {
                (word >> (8 * (lane % 2 + 2 * (column / 8))) & 0xff) << (8 * (column % 4))
            });
            self.alu(run, byte, &[found, lane, column]);
            word = self.word_of(binary!(u32, u32 => u32, |word, byte| word | byte), word, byte)?;
        }
        Ok(word)
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
        let rounding = floating::rounding(m);
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
            || rounding.is_some() && d != Fragment::F64
            || rounding == Some(Rounding::NearestAway)
        {
            return self.fail("this shape is not possible with these types");
        }
        let and = match (a, m.one_of(&["xor", "and"])) {
            (Fragment::B1, Some(word)) if m.take("popc") => word == "and",
            (Fragment::B1, _) | (_, Some(_)) => return self.fail("`.xor.popc` and `.and.popc` belong to .b1"),
            _ => false,
        };
        let counts = [d.of_result(rows), a.of_factor(rows, depth), b.of_factor(8, depth), d.of_result(rows)];
        let product = Product {
            rows,
            columns: 8,
            depth,
            operands: [Held::Factor(a, rows), Held::Factor(b, 8), Held::Sum(c), Held::Sum(d)],
            saturates,
            and,
            rounding: rounding.unwrap_or(Rounding::Nearest),
        };
        self.product(product, a, operands, counts)
    }

    /// `d, a, b, c` of a product, which have so many registers.
    pub(super) fn product(
        &mut self,
        product: Product,
        factor: Fragment,
        operands: &[Operand],
        counts: [usize; 4],
    ) -> Decoded<()> {
        self.expect_count(operands, 4)?;
        let element = if factor == Fragment::F64 { ScalarType::B64 } else { ScalarType::B32 };
        let targets = self.registers(&operands[0], counts[0], |decoder, part| decoder.target(part, element.bytes()))?;
        let mut sources = operands[1..]
            .iter()
            .zip(&counts[1..])
            .map(|(operand, count)| self.registers(operand, *count, |decoder, part| decoder.source(part, element)));
        let [Some(first), Some(second), Some(sum)] = [sources.next(), sources.next(), sources.next()] else {
            return self.fail("takes 4 operands");
        };
        let op = MatrixOp { product, targets, first: first?, second: second?, sum: sum? };
        let members = self.number(u32::MAX)?.row;
        self.emit(Op::Warp { members, all: true, op: Box::new(WarpOp::Multiply(Box::new(op))) });
        Ok(())
    }

    /// As many registers in braces.
    pub(super) fn registers(
        &mut self,
        operand: &Operand,
        count: usize,
        mut of: impl FnMut(&mut Self, &Operand) -> Decoded<Reg>,
    ) -> Decoded<Vec<Reg>> {
        let Operand::Vector(list) = operand else {
            return self.fail(format!("expected {count} registers in braces"));
        };
        if list.len() != count {
            return self.fail(format!("expected {count} registers, here are {}", list.len()));
        }
        list.iter().map(|part| of(self, part)).collect()
    }
}
