//! Products of matrices: which lane holds which element, and what is computed.
//!
//! For `mma`: of a factor with elements of `w` bits, `32 / w` of them in a register, lane `4g + t` holds in register `r` the elements that
//! follow `(32 / w) · (t + 4 · block)` in the inner direction, of row or column `g`; a factor of 16 rows has those of row `g + 8` in every
//! second register. Of the sum it holds the columns `2t` and `2t + 1` of row `g`, and behind them of row `g + 8`. The PTX ISA says so.
//!
//! For `wmma` it leaves that open, but for the number of registers. Here it is [`Lines`].
//!
//! Products are exact. Floating-point ones are added to the sum in f64, in the order of the inner index, and the result is rounded once to
//! its type; f64 is fused at each step. The hardware's order and intermediate precision are not published: its bits may differ.

use super::convert::{Narrow, bf16_to_f64, e4m3_to_f64, e5m2_to_f64, f16_to_f64, to_f16};
use super::double::fused;
use super::float::{NAN32, Rounding, canonical64};

/// The type of the elements of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fragment {
    F16,
    Bf16,
    Tf32,
    F32,
    F64,
    S8,
    U8,
    S4,
    U4,
    B1,
    E4m3,
    E5m2,
    S32,
}

/// `d = a · b + c` of matrices that the lanes of a warp hold together.
pub(crate) struct Product {
    pub rows: usize,
    pub columns: usize,
    /// Columns of `a` and rows of `b`.
    pub depth: usize,
    /// `a`, `b`, `c` and `d`.
    pub operands: [Held; 4],
    /// Integer sums stay at the limits.
    pub saturates: bool,
    /// Products of bits are `and`, and not `xor`.
    pub and: bool,
    /// Of each step in f64.
    pub rounding: Rounding,
}

/// A matrix in the registers of the lanes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Held {
    /// A factor of `mma` with so many rows, or columns if it is the second.
    Factor(Fragment, usize),
    Sum(Fragment),
    /// A matrix of `wmma`.
    Lines(Lines),
}

/// A matrix of `wmma`. Its lines are those that lie in memory as a whole: rows if the layout is `.row`, else columns; the rows of a sum,
/// whose layout only those know that load and store it. Each lane holds the elements that follow those of the lane before it, line after
/// line. Where there are more places than elements, as in factors of f16, the upper lanes have the matrix again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lines {
    pub element: Fragment,
    /// How many there are.
    pub count: usize,
    /// Elements of one.
    pub length: usize,
    /// Elements that a lane holds: a power of two.
    pub each: usize,
    /// A line goes across the inner index of the product.
    crosses: bool,
}

impl Lines {
    /// A factor with so many rows, or columns if it is the second, whose lines go along the inner index or across it.
    pub fn of_factor(element: Fragment, outer: usize, depth: usize, crosses: bool) -> Lines {
        let (count, length) = if crosses { (depth, outer) } else { (outer, depth) };
        let each = if element == Fragment::F16 { 16 } else { (count * length / 32).max(1) };
        Lines { element, count, length, each, crosses }
    }

    pub fn of_sum(element: Fragment, rows: usize, columns: usize) -> Lines {
        Lines { element, count: rows, length: columns, each: rows * columns / 32, crosses: false }
    }

    /// Registers of a lane.
    pub fn registers(&self) -> usize {
        self.each / self.element.in_register()
    }

    /// Elements of a lane that are beside each other in memory.
    pub fn beside(&self) -> usize {
        self.each.min(self.length)
    }

    /// Line, and number in the line, of an element of a lane.
    pub fn element_of(&self, lane: usize, number: usize) -> (usize, usize) {
        let index = (lane * self.each + number) % (self.count * self.length);
        (index / self.length, index % self.length)
    }

    fn place(&self, outer: usize, inner: usize) -> Place {
        let (line, within) = if self.crosses { (inner, outer) } else { (outer, inner) };
        let index = line * self.length + within;
        let (number, in_register) = (index % self.each, self.element.in_register());
        (index / self.each, number / in_register, number % in_register)
    }
}

/// Where an element is: lane, register, and number in the register.
type Place = (usize, usize, usize);

impl Held {
    fn element(self) -> Fragment {
        match self {
            Held::Factor(element, _) | Held::Sum(element) => element,
            Held::Lines(lines) => lines.element,
        }
    }

    /// Of an element by its row, or its column in the second factor, and its inner index, which is the column in a sum.
    fn place(self, outer: usize, inner: usize) -> Place {
        match self {
            Held::Factor(element, rows) => place(element, rows, outer, inner),
            Held::Sum(element) => place_of_sum(element, outer, inner),
            Held::Lines(lines) => lines.place(outer, inner),
        }
    }

    fn registers(self, rows: usize) -> usize {
        match self {
            Held::Factor(element, _) | Held::Sum(element) => element.of_result(rows),
            Held::Lines(lines) => lines.registers(),
        }
    }
}

impl Fragment {
    pub fn named(name: &str) -> Option<Fragment> {
        Some(match name {
            "f16" => Fragment::F16,
            "bf16" => Fragment::Bf16,
            "tf32" => Fragment::Tf32,
            "f32" => Fragment::F32,
            "f64" => Fragment::F64,
            "s8" => Fragment::S8,
            "u8" => Fragment::U8,
            "s4" => Fragment::S4,
            "u4" => Fragment::U4,
            "b1" => Fragment::B1,
            "e4m3" => Fragment::E4m3,
            "e5m2" => Fragment::E5m2,
            "s32" => Fragment::S32,
            _ => return None,
        })
    }

    pub fn bits(self) -> usize {
        match self {
            Fragment::B1 => 1,
            Fragment::S4 | Fragment::U4 => 4,
            Fragment::S8 | Fragment::U8 | Fragment::E4m3 | Fragment::E5m2 => 8,
            Fragment::F16 | Fragment::Bf16 => 16,
            Fragment::Tf32 | Fragment::F32 | Fragment::S32 => 32,
            Fragment::F64 => 64,
        }
    }

    /// Elements in a register.
    pub fn in_register(self) -> usize {
        (32 / self.bits()).max(1)
    }

    /// Registers of a factor with so many rows, or columns.
    pub fn of_factor(self, rows: usize, depth: usize) -> usize {
        rows / 8 * depth / (4 * self.in_register())
    }

    /// Registers of a sum of so many rows.
    pub fn of_result(self, rows: usize) -> usize {
        if self == Fragment::F16 { rows / 8 } else { rows / 4 }
    }

    /// Whether there is a product of these types and this shape.
    pub fn multiply(a: Fragment, b: Fragment, d: Fragment, rows: usize, depth: usize) -> bool {
        use Fragment::*;
        match (a, b, d) {
            (F16, F16, F16 | F32) | (Bf16, Bf16, F32) => rows == 16 && matches!(depth, 8 | 16),
            (Tf32, Tf32, F32) => rows == 16 && matches!(depth, 4 | 8),
            (F64, F64, F64) => rows == 8 && depth == 4 || rows == 16 && matches!(depth, 4 | 8 | 16),
            (S8 | U8, S8 | U8, S32) => rows == 8 && depth == 16 || rows == 16 && matches!(depth, 16 | 32),
            (S4 | U4, S4 | U4, S32) => rows == 8 && depth == 32 || rows == 16 && matches!(depth, 32 | 64),
            (B1, B1, S32) => rows == 8 && depth == 128 || rows == 16 && matches!(depth, 128 | 256),
            (E4m3 | E5m2, E4m3 | E5m2, F16 | F32) => rows == 16 && matches!(depth, 16 | 32),
            _ => false,
        }
    }

    /// Whether `wmma` has a product of these types and this shape.
    pub fn multiply_lines(types: [Fragment; 4], (rows, columns, depth): (usize, usize, usize)) -> bool {
        use Fragment::*;
        let large = rows * columns == 256 && depth == 16;
        match types {
            [F16, F16, F16 | F32, F16 | F32] | [Bf16, Bf16, F32, F32] | [S8, S8, S32, S32] | [U8, U8, S32, S32] => {
                large
            }
            [Tf32, Tf32, F32, F32] => (rows, columns, depth) == (16, 16, 8),
            [F64, F64, F64, F64] => (rows, columns, depth) == (8, 8, 4),
            [S4, S4, S32, S32] | [U4, U4, S32, S32] => (rows, columns, depth) == (8, 8, 32),
            [B1, B1, S32, S32] => (rows, columns, depth) == (8, 8, 128),
            _ => false,
        }
    }

    /// Whether `wmma` has products of this shape with such factors, or with such sums.
    pub fn in_lines(self, is_factor: bool, shape: (usize, usize, usize)) -> bool {
        use Fragment::*;
        let factors = [F16, Bf16, Tf32, F64, S8, U8, S4, U4, B1];
        let sums = [F16, F32, S32, F64];
        let (factors, sums): (&[Fragment], &[Fragment]) =
            if is_factor { (&[self], &sums) } else { (&factors, &[self]) };
        factors
            .iter()
            .any(|factor| sums.iter().any(|sum| Fragment::multiply_lines([*factor, *factor, *sum, *sum], shape)))
    }

    /// The value of an element.
    pub fn value(self, bits: u64) -> f64 {
        match self {
            Fragment::F16 => f16_to_f64(bits as u16),
            Fragment::Bf16 => bf16_to_f64(bits as u16),
            // The lower 13 bits do not count.
            Fragment::Tf32 => f64::from(f32::from_bits(bits as u32 & !0x1fff)),
            Fragment::F32 => f64::from(f32::from_bits(bits as u32)),
            Fragment::F64 => f64::from_bits(bits),
            Fragment::E4m3 => e4m3_to_f64(bits as u8),
            Fragment::E5m2 => e5m2_to_f64(bits as u8),
            Fragment::S8 | Fragment::U8 | Fragment::S4 | Fragment::U4 | Fragment::B1 | Fragment::S32 => {
                self.integer(bits) as f64
            }
        }
    }

    fn integer(self, bits: u64) -> i64 {
        match self {
            Fragment::S8 => (bits as u8).cast_signed().into(),
            Fragment::S4 => (bits << 60).cast_signed() >> 60,
            Fragment::S32 => i64::from((bits as u32).cast_signed()),
            _ => bits.cast_signed(),
        }
    }
}

/// Where an element of a factor of `mma` is. `row` is the column of the second factor.
fn place(element: Fragment, rows: usize, row: usize, inner: usize) -> Place {
    let each = element.in_register();
    let (block, within) = (inner / (4 * each), inner % (4 * each));
    let register = if rows == 16 { 2 * block + row / 8 } else { block };
    (4 * (row % 8) + within / each, register, within % each)
}

fn place_of_sum(element: Fragment, row: usize, column: usize) -> Place {
    let lane = 4 * (row % 8) + column / 2;
    match element {
        Fragment::F16 => (lane, row / 8, column % 2),
        _ => (lane, row / 8 * 2 + column % 2, 0),
    }
}

/// The registers that an element of the result depends on: of the first factor, of the second, of the sum.
pub(crate) type Depends = [Vec<(usize, usize)>; 3];

/// Lanes and registers that row `row` and column `column` of the result come from.
pub(crate) fn depends(op: &Product, row: usize, column: usize) -> Depends {
    let [a, b, c, _] = op.operands;
    let of = |held: Held, outer: usize| {
        let mut all: Vec<(usize, usize)> = (0..op.depth)
            .map(|inner| {
                let (lane, register, _) = held.place(outer, inner);
                (lane, register)
            })
            .collect();
        all.dedup();
        all
    };
    let (lane, register, _) = c.place(row, column);
    [of(a, row), of(b, column), vec![(lane, register)]]
}

/// Lane and register of an element of the result.
pub(crate) fn result_place(op: &Product, row: usize, column: usize) -> (usize, usize) {
    let (lane, register, _) = op.operands[3].place(row, column);
    (lane, register)
}

/// The result by register and lane. `first`, `second` and `sum` are registers with their values in all lanes.
pub(crate) fn product(op: &Product, first: &[[u64; 32]], second: &[[u64; 32]], sum: &[[u64; 32]]) -> Vec<[u64; 32]> {
    let part = |held: Held, registers: &[[u64; 32]], outer: usize, inner: usize| {
        let (lane, register, number) = held.place(outer, inner);
        let bits = held.element().bits();
        let mask = if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
        registers[register][lane] >> (number * bits) & mask
    };
    let [of_a, of_b, of_c, of_d] = op.operands;
    let [a, b, c, d] = op.operands.map(Held::element);
    let mut result = vec![[0u64; 32]; of_d.registers(op.rows)];
    for row in 0..op.rows {
        for column in 0..op.columns {
            let factors = (0..op.depth).map(|inner| (part(of_a, first, row, inner), part(of_b, second, column, inner)));
            let before = part(of_c, sum, row, column);
            let bits = match d {
                Fragment::S32 => {
                    let products = factors.map(|(x, y)| match a {
                        Fragment::B1 => (if op.and { x & y } else { x ^ y }).cast_signed(),
                        _ => a.integer(x) * b.integer(y),
                    });
                    let sum = c.integer(before) + products.sum::<i64>();
                    let sum = if op.saturates { sum.clamp(i32::MIN.into(), i32::MAX.into()) } else { sum };
                    u64::from(sum as u32)
                }
                Fragment::F64 => {
                    let sum = factors.fold(c.value(before), |sum, (x, y)| match op.rounding {
                        Rounding::Nearest => a.value(x).mul_add(b.value(y), sum),
                        mode => fused(a.value(x), b.value(y), sum, mode),
                    });
                    canonical64(sum).to_bits()
                }
                _ => {
                    let sum = factors.fold(c.value(before), |sum, (x, y)| sum + a.value(x) * b.value(y));
                    match d {
                        Fragment::F16 => {
                            to_f16(sum, Narrow { mode: Rounding::Nearest, finite: false, relu: false }).into()
                        }
                        _ if sum.is_nan() => NAN32.into(),
                        _ => (sum as f32).to_bits().into(),
                    }
                }
            };
            let (lane, register, number) = of_d.place(row, column);
            result[register][lane] |= bits << (number * if d == Fragment::F16 { 16 } else { 0 });
        }
    }
    result
}
