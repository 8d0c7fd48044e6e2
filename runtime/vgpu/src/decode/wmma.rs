//! `wmma`: loads and stores are the accesses of the lanes, each of its own elements, and a product is one step of the warp.
//!
//! Which lane holds which element, PTX leaves open; here it is [`Lines`], so that a lane accesses elements that are beside each other,
//! unless a sum is loaded or stored by columns. The first line of a matrix has to be aligned to what a lane holds of it, as PTX wants it of
//! every line; the others to 16 bytes, as CUDA does.

use super::modifiers::Modifiers;
use super::op::{Constant, Elements, MemoryOp, NO_GUARD, Op, Place, Reg, Space};
use super::{Decoded, Decoder, floating};
use crate::memory::order::{Order, Proxy, Scope};
use crate::ptx::ScalarType;
use crate::ptx::ast::Operand;
use crate::semantics::float::Rounding;
use crate::semantics::lanes::Args;
use crate::semantics::matrix::{Fragment, Held, Lines, Product};

/// Rows, columns and depth of a product.
type Shape = (usize, usize, usize);

const SHAPES: [(&str, Shape); 7] = [
    ("m16n16k16", (16, 16, 16)),
    ("m32n8k16", (32, 8, 16)),
    ("m8n32k16", (8, 32, 16)),
    ("m16n16k8", (16, 16, 8)),
    ("m8n8k4", (8, 8, 4)),
    ("m8n8k32", (8, 8, 32)),
    ("m8n8k128", (8, 8, 128)),
];

const TYPES: [&str; 11] = ["f16", "bf16", "tf32", "f32", "f64", "s8", "u8", "s4", "u4", "b1", "s32"];

/// Bytes that one access has where a line need not be aligned to more.
const PIECE: usize = 16;

/// The matrix of a load or store.
struct Accessed {
    place: Place,
    stride: Reg,
    lines: Lines,
    /// The lines of a sum are columns in memory.
    by_columns: bool,
}

impl Decoder<'_> {
    pub(super) fn wmma(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        match m.one_of(&["load", "store", "mma"]) {
            Some("mma") => self.wmma_product(m, operands),
            Some(direction) => self.wmma_access(m, operands, direction == "load"),
            None => self.fail("needs .load, .store or .mma"),
        }
    }

    fn wmma_shape(&self, m: &mut Modifiers) -> Decoded<Shape> {
        let names = SHAPES.map(|(name, _)| name);
        let found = m.one_of(&names).and_then(|word| SHAPES.into_iter().find(|(name, _)| *name == word));
        found.map_or_else(|| self.fail("this shape is not supported"), |(_, shape)| Ok(shape))
    }

    /// Whether a matrix lies by columns.
    fn by_columns(&self, m: &mut Modifiers) -> Decoded<bool> {
        m.one_of(&["row", "col"]).map_or_else(|| self.fail("needs .row or .col"), |word| Ok(word == "col"))
    }

    /// `wmma.load.a.sync.aligned.layout.shape{.ss}.type r, [p]{, stride};`, and `wmma.store.d` with the address in front.
    fn wmma_access(&mut self, m: &mut Modifiers, operands: &[Operand], loads: bool) -> Decoded<()> {
        let Some(matrix) = m.one_of(if loads { &["a", "b", "c"] } else { &["d"] }) else {
            return self.fail(if loads { "needs .a, .b or .c" } else { "needs .d" });
        };
        let by_columns = self.by_columns(m)?;
        let (rows, columns, depth) = self.wmma_shape(m)?;
        let space = self.state_space(m)?;
        if !matches!(space, Space::Generic | Space::Global | Space::Shared) || m.has("shared::cluster") {
            return self.fail("matrices are in global memory, or in the shared memory of the CTA");
        }
        let Some(element) = m.one_of(&TYPES).and_then(Fragment::named) else { return self.fail("the type is missing") };
        let double = element == Fragment::F64;
        let lines = match matrix {
            "a" => Lines::of_factor(element, rows, depth, by_columns),
            "b" => Lines::of_factor(element, columns, depth, !by_columns),
            _ => Lines::of_sum(element, rows, columns),
        };
        let possible = element.in_lines(matches!(matrix, "a" | "b"), (rows, columns, depth));
        let packed = matches!(element, Fragment::S4 | Fragment::U4 | Fragment::B1);
        if !possible || packed && lines.count != 8 {
            return self.fail("this shape is not possible with this type");
        }
        if !(2..=3).contains(&operands.len()) {
            return self.fail(format!("takes 2 or 3 operands, here are {}", operands.len()));
        }
        let (list, address) = if loads { (&operands[0], &operands[1]) } else { (&operands[1], &operands[0]) };
        let place = self.place(address, space)?;
        let by_columns = by_columns && !matches!(matrix, "a" | "b");
        let stride = match operands.get(2) {
            Some(stride) => self.source(stride, ScalarType::U32)?,
            None => self.number(if by_columns { rows } else { lines.length } as u32)?,
        };
        let width = if double { ScalarType::B64 } else { ScalarType::B32 };
        let registers = self.registers(list, lines.registers(), |decoder, part| match loads {
            true => decoder.target(part, width.bytes()),
            false => decoder.source(part, width),
        })?;
        // All lanes are there before one of them accesses memory.
        let lane = self.lane()?;
        let lane = self.of_lane(lane, lane)?;
        let accessed = Accessed { place, stride, lines, by_columns };
        if by_columns {
            self.scattered(&accessed, lane, &registers, loads)
        } else {
            self.beside(&accessed, lane, &registers, loads)
        }
    }

    /// Where an element of each lane is: the address without the offset that the instruction states.
    fn wmma_place(&mut self, accessed: &Accessed, lane: Reg, number: usize) -> Decoded<Place> {
        let Accessed { place, stride, lines, by_columns } = accessed;
        let base = match place.base {
            Some(base) => base,
            None => self.constant(Constant::Bits(0), 8)?,
        };
        let target = self.temporary(base.bytes)?;
        let (lines, by_columns) = (*lines, *by_columns);
        let run = Box::new(move |s: &[u64; 4]| {
            let (line, within) = lines.element_of(s[0] as usize, number);
            let (line, within) = if by_columns { (within, line) } else { (line, within) };
            let elements = (line as u64).wrapping_mul(s[1]).wrapping_add(within as u64);
            s[2].wrapping_add(elements.wrapping_mul(lines.element.bits() as u64) / 8)
        });
        self.scalar(run, target, vec![lane, *stride, base]);
        Ok(Place { space: place.space, base: Some(target), offset: place.offset })
    }

    fn wmma_step(&mut self, place: Place, registers: &[Reg], loads: bool) {
        let bytes = registers.first().map_or(4, |reg| reg.bytes);
        let elements: Vec<Option<Reg>> = registers.iter().copied().map(Some).collect();
        let op = Box::new(MemoryOp {
            place,
            bytes,
            signed: false,
            registers: Elements::new(&elements),
            exact: true,
            order: Order::Weak,
            scope: Scope::Cta,
            proxy: Proxy::Generic,
        });
        self.emit(if loads { Op::Load(op) } else { Op::Store(op) });
    }

    /// Elements that are beside each other, in memory and in registers.
    fn beside(&mut self, accessed: &Accessed, lane: Reg, registers: &[Reg], loads: bool) -> Decoded<()> {
        let lines = accessed.lines;
        let beside = lines.beside();
        // All addresses first: a register of the address may be a target.
        let numbers = (0..lines.each).step_by(beside);
        let places = numbers.map(|number| self.wmma_place(accessed, lane, number)).collect::<Decoded<Vec<Place>>>()?;
        let each = registers.len() / places.len();
        for (place, registers) in places.into_iter().zip(registers.chunks(each)) {
            let bytes = registers.iter().map(|reg| reg.bytes as usize).sum::<usize>();
            if bytes <= PIECE {
                self.wmma_step(place, registers, loads);
                continue;
            }
            let first = self.new_predicate();
            let line = self.temporary(4)?;
            self.scalar(Box::new(move |s: &[u64; 4]| lines.element_of(s[0] as usize, 0).0 as u64), line, vec![lane]);
            let zero = self.number(0)?;
            self.compare(comparison!(u32, |a, b| a == b), first, line, zero);
            let others = self.new_predicate();
            let args = Args { a: super::op::FALSE, p: others, q: first, ..Args::default() };
            let flags = [first, others].map(|index| index | super::op::PREDICATE_FLAG);
            self.emit_alu(predicate_logic!(|a, _| !a), args, &flags[..1], &flags[1..]);
            let half = registers.len() / 2;
            let Place { space, base, offset } = place;
            self.guard = first;
            self.wmma_step(Place { space, base, offset }, registers, loads);
            self.guard = others;
            self.wmma_step(Place { space, base, offset }, &registers[..half], loads);
            self.wmma_step(Place { space, base, offset: offset + PIECE as i64 }, &registers[half..], loads);
            self.guard = NO_GUARD;
        }
        Ok(())
    }

    /// A sum by columns: each element for itself.
    fn scattered(&mut self, accessed: &Accessed, lane: Reg, registers: &[Reg], loads: bool) -> Decoded<()> {
        let places = (0..accessed.lines.each)
            .map(|number| self.wmma_place(accessed, lane, number))
            .collect::<Decoded<Vec<_>>>()?;
        let each = accessed.lines.element.in_register();
        let mut places = places.into_iter();
        for reg in registers {
            let mut parts = Vec::new();
            for (number, place) in places.by_ref().take(each).enumerate() {
                if each == 1 {
                    self.wmma_step(place, &[*reg], loads);
                    continue;
                }
                let part = self.temporary(2)?;
                if !loads {
                    let shift = self.number(16 * number as u32)?;
                    self.alu(binary!(u32, u32 => u16, |word, shift| (word >> shift) as u16), part, &[*reg, shift]);
                }
                self.wmma_step(place, &[part], loads);
                parts.push(part);
            }
            if let (true, [low, high]) = (loads, &parts[..]) {
                let run = binary!(u16, u16 => u32, |low, high| u32::from(high) << 16 | u32::from(low));
                self.alu(run, *reg, &[*low, *high]);
            }
        }
        Ok(())
    }

    /// `wmma.mma.sync.aligned.alayout.blayout.shape.dtype{.atype.btype}.ctype{.satfinite}{.rnd} d, a, b, c;`, with the operation on bits in
    /// front.
    fn wmma_product(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        let and = match m.one_of(&["xor", "and"]) {
            Some(word) if m.take("popc") => Some(word == "and"),
            Some(_) => return self.fail("needs .popc"),
            None => None,
        };
        let columns_of = [self.by_columns(m)?, self.by_columns(m)?];
        let shape @ (rows, columns, depth) = self.wmma_shape(m)?;
        let saturates = m.take("satfinite");
        let rounding = floating::rounding(m);
        let mut types = Vec::new();
        while let Some(found) = m.one_of(&TYPES).and_then(Fragment::named) {
            types.push(found);
        }
        let [d, a, b, c] = match types[..] {
            // Products of f16 do not name it.
            [d, c] => [d, Fragment::F16, Fragment::F16, c],
            [d, a, b, c] if a != Fragment::F16 => [d, a, b, c],
            _ => return self.fail("needs the types of the matrices"),
        };
        let packed = matches!(a, Fragment::S4 | Fragment::U4 | Fragment::B1);
        if !Fragment::multiply_lines([a, b, c, d], shape)
            || packed && columns_of != [false, true]
            || saturates && (d != Fragment::S32 || a == Fragment::B1)
            || rounding.is_some() && d != Fragment::F64
            || rounding == Some(Rounding::NearestAway)
        {
            return self.fail("this shape is not possible with these types");
        }
        if and.is_some() != (a == Fragment::B1) {
            return self.fail("`.xor.popc` and `.and.popc` belong to .b1");
        }
        let lines = [
            Lines::of_factor(a, rows, depth, columns_of[0]),
            Lines::of_factor(b, columns, depth, !columns_of[1]),
            Lines::of_sum(c, rows, columns),
            Lines::of_sum(d, rows, columns),
        ];
        let product = Product {
            rows,
            columns,
            depth,
            operands: lines.map(Held::Lines),
            saturates,
            and: and == Some(true),
            rounding: rounding.unwrap_or(Rounding::Nearest),
        };
        let [of_a, of_b, of_c, of_d] = lines.map(|lines| lines.registers());
        self.product(product, a, operands, [of_d, of_a, of_b, of_c])
    }
}
