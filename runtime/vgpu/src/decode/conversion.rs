//! `cvt`. Integer conversions that compilers write all the time are vectorised; the others are closures on one lane that
//! go through an exactly or odd-rounded f64, so that they round once.

use super::modifiers::Modifiers;
use super::op::ScalarFn;
use super::{Decoded, Decoder};
use crate::ptx::ScalarType;
use crate::ptx::ast::Operand;
use crate::semantics::convert::*;
use crate::semantics::float::{self, Format, Rounding, flush, round_stochastically, saturate, to_f32};
use crate::semantics::lanes::AluFn;
use crate::semantics::narrow;

/// Modifiers of a conversion besides its types.
#[derive(Debug, Clone, Copy)]
struct Options {
    /// `.rn`, `.rz`, `.rm`, `.rp`, `.rna`
    mode: Option<Rounding>,
    /// `.rni`, `.rzi`, `.rmi`, `.rpi`
    integral: Option<Rounding>,
    ftz: bool,
    sat: bool,
    satfinite: bool,
    relu: bool,
}

impl Options {
    fn narrow(self) -> Narrow {
        Narrow { mode: self.mode.unwrap_or(Rounding::Nearest), finite: self.satfinite, relu: self.relu }
    }
}

/// Instructions that are decoded here.
pub(super) const OPCODES: &[&str] = &["cvt"];

impl Decoder<'_> {
    pub(super) fn conversion(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        use ScalarType::*;
        if m.take("pack") {
            return self.pack_conversion(m, operands);
        }
        if m.take("rs") {
            return self.stochastic_conversion(m, operands);
        }
        let integral = m.one_of(&["rni", "rzi", "rmi", "rpi"]).map(|word| match word {
            "rni" => Rounding::Nearest,
            "rzi" => Rounding::Zero,
            "rmi" => Rounding::Down,
            _ => Rounding::Up,
        });
        let options = Options {
            mode: super::floating::rounding(m),
            integral,
            ftz: m.take("ftz"),
            sat: m.take("sat"),
            satfinite: m.take("satfinite"),
            relu: m.take("relu"),
        };
        let to = self.need_element(m)?;
        let from = self.need_element(m)?;
        let pair = |element: ScalarType| matches!(element, F16x2 | Bf16x2) || element.is_narrow_pair();
        if pair(to) || pair(from) || to == Tf32 {
            return self.packed_conversion(to, from, options, operands);
        }
        if options.satfinite && !matches!(to, F16 | Bf16) || options.relu && !matches!(to, F16 | Bf16) {
            return self.fail("`.satfinite` and `.relu` need a narrow floating-point result");
        }
        if matches!(to, Pred | B8 | B16 | B32 | B64 | B128) || matches!(from, Pred | B8 | B16 | B32 | B64 | B128) {
            return self.fail("untyped values cannot be converted");
        }
        self.expect_count(operands, 2)?;
        let source = self.wide_source(&operands[1], from)?;
        let Some(target) = self.wide_target(&operands[0], to.bytes())? else {
            return self.fail("a conversion needs a destination");
        };
        if !from.is_float() && !to.is_float() {
            if options.mode.is_some() || options.integral.is_some() || options.ftz {
                return self.fail("an integer conversion takes no rounding mode");
            }
            self.check_conversion(to, from, options)?;
            match hot(source.bytes, from, to, target.bytes).filter(|_| !options.sat) {
                Some(run) => self.alu(run, target, &[source]),
                None => {
                    let sat = options.sat;
                    let run: ScalarFn = Box::new(move |s| {
                        let value = value_of(s[0], from);
                        let value = if sat { clamp(value, to) } else { value };
                        extend(value, to)
                    });
                    self.scalar(run, target, vec![source]);
                }
            }
            return Ok(());
        }
        let run = match self.scalar_conversion(to, from, options)? {
            Ok(run) => {
                self.alu(run, target, &[source]);
                return Ok(());
            }
            Err(run) => run,
        };
        self.scalar(run, target, vec![source]);
        Ok(())
    }

    /// A conversion with a floating-point side: vectorised, or else one lane at a time.
    fn scalar_conversion(
        &self,
        to: ScalarType,
        from: ScalarType,
        options: Options,
    ) -> Decoded<Result<AluFn, ScalarFn>> {
        use ScalarType::*;
        let Options { mode, integral, ftz, sat, .. } = options;
        if ftz && from != F32 && to != F32 {
            return self.fail("`.ftz` needs .f32");
        }
        if !to.is_float() {
            let Some(round) = integral.filter(|_| mode.is_none()) else {
                return self.fail("a conversion to an integer needs .rni, .rzi, .rmi or .rpi");
            };
            self.check_conversion(to, from, options)?;
            let wide = from == F64 || to.bytes() == 8;
            let (bits, signed) = (to.bytes() * 8, to.is_signed());
            // A cast truncates, clamps, and makes zero of a NaN, as PTX does.
            match (to, from, round) {
                (S32, F32, Rounding::Zero) if !ftz => return Ok(Ok(unary!(f32 => i32, |a| a as i32))),
                (U32, F32, Rounding::Zero) if !ftz => return Ok(Ok(unary!(f32 => u32, |a| a as u32))),
                _ => {}
            }
            return Ok(Err(Box::new(move |s| {
                let value = float_of(s[0], from, ftz);
                let value = to_integer(value, round, bits, signed, wide);
                extend(value_of(value, to), to)
            })));
        }
        if mode.is_none() && needs_mode(to, from) {
            return self.fail("needs a rounding mode: .rn, .rz, .rm or .rp");
        }
        if mode.is_some() && !needs_mode(to, from) && from != Bf16 && (to, from) != (Bf16, F16) {
            return self.fail("an exact conversion takes no rounding mode");
        }
        if integral.is_some() && to != from {
            return self.fail("an integer rounding mode is not possible here");
        }
        self.check_conversion(to, from, options)?;
        let plain = !ftz && !sat && integral.is_none() && mode.is_none_or(|mode| mode == Rounding::Nearest);
        let unmodified = !options.satfinite && !options.relu;
        let fast: Option<AluFn> = match (to, from) {
            (F32, U32) if plain => Some(unary!(u32 => f32, |a| a as f32)),
            (F32, S32) if plain => Some(unary!(i32 => f32, |a| a as f32)),
            (F32, Bf16) if plain => Some(unary!(u16 => f32, narrow::bf16_to_f32)),
            (F32, F16) if plain => Some(unary!(u16 => f32, narrow::f16_to_f32)),
            (Bf16, F32) if plain && unmodified => Some(unary!(f32 => u16, narrow::bf16_of)),
            (F16, F32) if plain && unmodified => Some(unary!(f32 => u16, narrow::f16_of)),
            (F64, F32) if plain => Some(unary!(f32 => f64, |a| crate::semantics::float::canonical64(f64::from(a)))),
            _ => None,
        };
        if let Some(run) = fast {
            return Ok(Ok(run));
        }
        let options = options.narrow();
        Ok(Err(Box::new(move |s| {
            let mut value =
                if from.is_float() { float_of(s[0], from, ftz) } else { integer_to_odd(value_of(s[0], from)) };
            if let Some(mode) = integral {
                value = crate::semantics::convert::integral(value, mode);
            }
            match to {
                F64 => {
                    let value = if from.is_float() { value } else { to_f64(value_of(s[0], from), options.mode) };
                    let value = if sat { if value > 0.0 { value.min(1.0) } else { 0.0 } } else { value };
                    crate::semantics::float::canonical64(value).to_bits()
                }
                F32 => {
                    let mut out = to_f32(value, options.mode);
                    if ftz {
                        out = flush(out);
                    }
                    u64::from(if sat { saturate(out) } else { out }.to_bits())
                }
                _ => {
                    let value = if sat { if value > 0.0 { value.min(1.0) } else { 0.0 } } else { value };
                    u64::from(if to == F16 { to_f16(value, options) } else { to_bf16(value, options) })
                }
            }
        })))
    }

    fn check_conversion(&self, to: ScalarType, from: ScalarType, options: Options) -> Decoded<()> {
        if exists(to, from, options) { Ok(()) } else { self.fail("a modifier is not possible with these types") }
    }

    /// Conversions to or from pairs of narrow floats, and to tf32. The first source is the upper half.
    fn packed_conversion(
        &mut self,
        to: ScalarType,
        from: ScalarType,
        options: Options,
        operands: &[Operand],
    ) -> Decoded<()> {
        use ScalarType::*;
        if options.integral.is_some() || options.ftz || options.sat {
            return self.fail("an unknown modifier for this conversion");
        }
        let rounding = options.narrow();
        let mode = options.mode;
        let nearest = mode == Some(Rounding::Nearest);
        let exact_modes = matches!(mode, Some(Rounding::Nearest | Rounding::Zero));
        let possible = match (to, from) {
            (F16x2 | Bf16x2, F32) => exact_modes,
            (Tf32, F32) => exact_modes || mode == Some(Rounding::NearestAway) && !options.relu,
            (E4m3x2 | E5m2x2 | E2m1x2 | E2m3x2 | E3m2x2, F32 | F16x2 | Bf16x2) => nearest && options.satfinite,
            (F16x2, E4m3x2 | E5m2x2 | E2m1x2 | E2m3x2 | E3m2x2) => nearest && !options.satfinite,
            (Bf16x2, E4m3x2 | E5m2x2 | E2m1x2 | E2m3x2 | E3m2x2) => nearest,
            (Ue8m0x2, F32 | Bf16x2) => matches!(mode, Some(Rounding::Zero | Rounding::Up)) && !options.relu,
            (Bf16x2, Ue8m0x2) => nearest && !options.satfinite && !options.relu,
            _ => return self.fail("this conversion does not exist"),
        };
        if !possible {
            return self.fail("this rounding mode or saturation is not possible here");
        }
        let encode: fn(f64, Narrow) -> u64 = match to {
            Tf32 => |x, n| u64::from(to_tf32(x, n)),
            F16x2 => |x, n| u64::from(to_f16(x, n)),
            Bf16x2 => |x, n| u64::from(to_bf16(x, n)),
            E4m3x2 => |x, n| u64::from(to_e4m3(x, n)),
            E5m2x2 => |x, n| u64::from(to_e5m2(x, n)),
            E2m1x2 => |x, n| u64::from(to_e2m1(x, n)),
            E2m3x2 => |x, n| u64::from(to_e2m3(x, n)),
            E3m2x2 => |x, n| u64::from(to_e3m2(x, n)),
            _ => |x, n| u64::from(to_ue8m0(x, n.mode == Rounding::Up)),
        };
        let width = to.bytes() * 4;
        if from == F32 {
            let two = to != Tf32;
            self.expect_count(operands, if two { 3 } else { 2 })?;
            let sources = operands[1..].iter().map(|operand| self.source(operand, F32)).collect::<Decoded<Vec<_>>>()?;
            let target = self.target(&operands[0], to.bytes())?;
            let fast: Option<AluFn> = match to {
                _ if !nearest || options.relu => None,
                Bf16x2 if !options.satfinite => Some(binary!(f32, f32 => u32, |a, b| {
                    u32::from(narrow::bf16_of(a)) << 16 | u32::from(narrow::bf16_of(b))
                })),
                F16x2 if !options.satfinite => Some(binary!(f32, f32 => u32, |a, b| {
                    u32::from(narrow::f16_of(a)) << 16 | u32::from(narrow::f16_of(b))
                })),
                E4m3x2 => Some(binary!(f32, f32 => u16, |a, b| {
                    u16::from(narrow::e4m3_of(a)) << 8 | u16::from(narrow::e4m3_of(b))
                })),
                _ => None,
            };
            if let Some(run) = fast {
                self.alu(run, target, &sources);
                return Ok(());
            }
            let run: ScalarFn = if two {
                Box::new(move |s| {
                    let [high, low] = [s[0], s[1]].map(|bits| encode(float_of(bits, F32, false), rounding));
                    high << width | low
                })
            } else {
                Box::new(move |s| encode(float_of(s[0], F32, false), rounding))
            };
            self.scalar(run, target, sources);
            return Ok(());
        }
        let decode: fn(u64) -> f64 = match from {
            F16x2 => |bits| f16_to_f64(bits as u16),
            Bf16x2 => |bits| bf16_to_f64(bits as u16),
            E4m3x2 => |bits| e4m3_to_f64(bits as u8),
            E5m2x2 => |bits| e5m2_to_f64(bits as u8),
            E2m1x2 => |bits| e2m1_to_f64(bits as u8 & 0xf),
            E2m3x2 => |bits| e2m3_to_f64(bits as u8),
            E3m2x2 => |bits| e3m2_to_f64(bits as u8),
            _ => |bits| ue8m0_to_f64(bits as u8),
        };
        let half = from.bytes() * 4;
        self.expect_count(operands, 2)?;
        let source = self.source(&operands[1], from)?;
        let target = self.target(&operands[0], to.bytes())?;
        let run: ScalarFn = Box::new(move |s| {
            let [high, low] = [s[0] >> half, s[0]].map(|bits| encode(decode(bits), rounding));
            high << width | low
        });
        self.scalar(run, target, vec![source]);
        Ok(())
    }

    /// `cvt.rs{.relu}{.satfinite}.f16x2.f32 d, a, b, rbits;`, or `bf16x2`, and `cvt.rs{.relu}.satfinite.e4m3x4.f32 d, {a, b, e, f},
    /// rbits;`, or another type of at most 8 bits.
    ///
    /// PTX says which random bits are whose for two results: the lower 13 or 16 of a half of `rbits`. For four it is published of e4m3
    /// alone, by those who measured it: of each half, the upper byte is for the second of its two results, and the lower byte, its first
    /// bit last, for the first. It is taken to be so for the other types of four results.
    fn stochastic_conversion(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        const FOUR: [&str; 5] = ["e4m3x4", "e5m2x4", "e2m1x4", "e2m3x4", "e3m2x4"];
        const TWO: [&str; 2] = ["f16x2", "bf16x2"];
        let options = Narrow { mode: Rounding::Zero, relu: m.take("relu"), finite: m.take("satfinite") };
        let four = m.one_of(&FOUR);
        let Some(to) = four.or_else(|| m.one_of(&TWO)) else {
            return self.fail("this type is not rounded stochastically");
        };
        self.only_type(m, ScalarType::F32)?;
        let (format, encode): (Format, fn(f64, Narrow) -> u64) = match to {
            "f16x2" => (float::F16, |x, n| to_f16(x, n).into()),
            "bf16x2" => (float::BF16, |x, n| to_bf16(x, n).into()),
            "e4m3x4" => (float::E4M3, |x, n| to_e4m3(x, n).into()),
            "e5m2x4" => (float::E5M2, |x, n| to_e5m2(x, n).into()),
            "e2m1x4" => (float::E2M1, |x, n| to_e2m1(x, n).into()),
            "e2m3x4" => (float::E2M3, |x, n| to_e2m3(x, n).into()),
            _ => (float::E3M2, |x, n| to_e3m2(x, n).into()),
        };
        let rounded = move |x: u64, bits: i32, random: u64| {
            let value = float_of(x, ScalarType::F32, false);
            // A value that is negative becomes zero before it could be rounded.
            let value = if options.relu && value <= 0.0 { 0.0 } else { value };
            encode(round_stochastically(value, format, bits, random as u32 & ((1 << bits) - 1)), options)
        };
        if four.is_none() {
            self.expect_count(operands, 4)?;
            let target = self.target(&operands[0], 4)?;
            let types = [ScalarType::F32, ScalarType::F32, ScalarType::B32];
            let sources = operands[1..].iter().zip(types);
            let sources =
                sources.map(|(operand, element)| self.source(operand, element)).collect::<Decoded<Vec<_>>>()?;
            let bits = if to == "f16x2" { 13 } else { 16 };
            let run: ScalarFn = Box::new(move |s| rounded(s[0], bits, s[2] >> 16) << 16 | rounded(s[1], bits, s[2]));
            self.scalar(run, target, sources);
            return Ok(());
        }
        if !options.finite {
            return self.fail("needs .satfinite");
        }
        self.expect_count(operands, 3)?;
        let width = if to == "e2m1x4" { 4 } else { 8 };
        let values = self.registers(&operands[1], 4, |decoder, part| decoder.source(part, ScalarType::F32))?;
        let random = self.source(&operands[2], ScalarType::B32)?;
        let target = self.target(&operands[0], width / 2)?;
        let mut halves = Vec::new();
        for (pair, shift) in values.chunks_exact(2).zip([16, 0]) {
            let half = self.temporary(4)?;
            let run: ScalarFn = Box::new(move |s| {
                let (upper, lower) = ((s[2] >> shift >> 8) as u8, ((s[2] >> shift) as u8).reverse_bits());
                rounded(s[0], 8, lower.into()) << width | rounded(s[1], 8, upper.into())
            });
            self.scalar(run, half, vec![pair[0], pair[1], random]);
            halves.push(half);
        }
        self.scalar(Box::new(move |s| s[0] << (2 * width) | s[1]), target, halves);
        Ok(())
    }

    /// `cvt.pack.sat.{u16,s16}.s32 d, a, b;` and, of 8, 4 or 2 bits, `cvt.pack.sat.u8.s32.b32 d, a, b, c;`
    fn pack_conversion(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        const TYPES: [&str; 8] = ["u16", "s16", "u8", "s8", "u4", "s4", "u2", "s2"];
        if !m.take("sat") {
            return self.fail("needs .sat");
        }
        let Some(to) = m.one_of(&TYPES) else { return self.fail("needs a type of 2, 4, 8 or 16 bits") };
        self.only_type(m, ScalarType::S32)?;
        // The name of each of these types is its sign and its width.
        let (signed, width) = (to.starts_with('s'), to[1..].parse::<u32>().unwrap_or(8));
        let third = width < 16;
        if third {
            self.only_type(m, ScalarType::B32)?;
        }
        let (target, sources) = self.uniform_operands(operands, ScalarType::S32, if third { 3 } else { 2 })?;
        let run: ScalarFn = Box::new(move |s| {
            let (least, most) =
                if signed { (-(1i64 << (width - 1)), (1i64 << (width - 1)) - 1) } else { (0, (1i64 << width) - 1) };
            let part =
                |bits: u64| i64::from(bits as u32 as i32).clamp(least, most).cast_unsigned() & ((1 << width) - 1);
            let rest = if third { s[2] << (2 * width) } else { 0 };
            (part(s[0]) << width | part(s[1]) | rest) & 0xffff_ffff
        });
        self.scalar(run, target, sources);
        Ok(())
    }
}

/// Whether a result is rounded in a mode that has to be stated.
fn needs_mode(to: ScalarType, from: ScalarType) -> bool {
    use ScalarType::*;
    match (to, from) {
        (Bf16, F16) | (_, Bf16) => false,
        (_, F16 | F32 | F64) => to.bytes() < from.bytes(),
        _ => true,
    }
}

/// Whether PTX has a conversion between single values with these modifiers.
fn exists(to: ScalarType, from: ScalarType, options: Options) -> bool {
    use ScalarType::*;
    let Options { mode, integral, ftz, sat, satfinite, relu } = options;
    let no_narrow = !satfinite && !relu;
    let loses = from.is_signed() && !to.is_signed()
        || to.bytes() < from.bytes()
        || to.bytes() == from.bytes() && to.is_signed() != from.is_signed();
    if mode == Some(Rounding::NearestAway) || from == Tf32 {
        return false;
    }
    match (to, from) {
        (Bf16, Bf16) => mode.is_none() && !ftz && !sat && no_narrow,
        (F32, Bf16) => !sat && no_narrow,
        (F64 | F16, Bf16) | (Bf16, F16) => !ftz && !sat && no_narrow,
        (F16, F32) => {
            let finite_modes = matches!(mode, Some(Rounding::Nearest | Rounding::Zero));
            no_narrow || finite_modes && !ftz && !sat
        }
        (Bf16, F32) => {
            let finite_modes = matches!(mode, Some(Rounding::Nearest | Rounding::Zero));
            !sat && (no_narrow || finite_modes && !ftz)
        }
        (Bf16, F64) => !ftz && !sat && no_narrow,
        (Bf16, _) => !ftz && !sat && no_narrow && from.bytes() > 1,
        (F32, _) | (_, F32) => no_narrow,
        (F16 | F64, _) => no_narrow && !ftz,
        (_, F16 | F64) => no_narrow && !ftz,
        (_, Bf16) => no_narrow && !ftz && !sat && integral.is_some() && to.bytes() > 1,
        _ => no_narrow && !ftz && (loses || !sat),
    }
}

/// Value of an integer type in the low bits.
fn value_of(bits: u64, element: ScalarType) -> i128 {
    let shift = 64 - element.bytes() * 8;
    if element.is_signed() {
        i128::from((bits << shift).cast_signed() >> shift)
    } else {
        i128::from(bits << shift >> shift)
    }
}

fn clamp(value: i128, to: ScalarType) -> i128 {
    let bits = to.bytes() * 8;
    if to.is_signed() {
        value.clamp(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    } else {
        value.clamp(0, (1 << bits) - 1)
    }
}

/// Cuts a value to a type, then extends it as that type to the widest register.
fn extend(value: i128, to: ScalarType) -> u64 {
    value_of(value as u64, to) as u64
}

/// Value of a floating-point type in the low bits.
fn float_of(bits: u64, element: ScalarType, ftz: bool) -> f64 {
    match element {
        ScalarType::F64 => f64::from_bits(bits),
        ScalarType::F32 => {
            let value = f32::from_bits(bits as u32);
            f64::from(if ftz { flush(value) } else { value })
        }
        ScalarType::F16 => f16_to_f64(bits as u16),
        _ => bf16_to_f64(bits as u16),
    }
}

/// Integer → f64 in a mode.
fn to_f64(value: i128, mode: Rounding) -> f64 {
    let nearest = value as f64;
    // Values of 64 bits are far below the range of i128, so the error is exact.
    let error = value - nearest as i128;
    match mode {
        Rounding::Nearest | Rounding::NearestAway => nearest,
        Rounding::Down if error < 0 => nearest.next_down(),
        Rounding::Up if error > 0 => nearest.next_up(),
        Rounding::Zero if value > 0 && error < 0 => nearest.next_down(),
        Rounding::Zero if value < 0 && error > 0 => nearest.next_up(),
        _ => nearest,
    }
}

/// The integer conversions of everyday code, by width of the source register, types, and width of the target register.
fn hot(source: u32, from: ScalarType, to: ScalarType, target: u32) -> Option<AluFn> {
    use ScalarType::*;
    Some(match (source, from, to, target) {
        (2, U16, U32 | S32, 4) => unary!(u16 => u32, u32::from),
        (2, S16, U32 | S32, 4) => unary!(i16 => i32, i32::from),
        (2, U8, U16 | S16, 2) => unary!(u16 => u16, |a| a & 0xff),
        (2, U8, U32 | S32, 4) => unary!(u16 => u32, |a| u32::from(a & 0xff)),
        (2, U8, U64 | S64, 8) => unary!(u16 => u64, |a| u64::from(a & 0xff)),
        (2, S8, S16 | U16, 2) => unary!(i16 => i16, |a| i16::from(a as i8)),
        (2, S8, S32 | U32, 4) => unary!(i16 => i32, |a| i32::from(a as i8)),
        (4, S8, S32 | U32, 4) => unary!(i32 => i32, |a| i32::from(a as i8)),
        (4, U8, S32 | U32, 4) => unary!(u32 => u32, |a| a & 0xff),
        (4, S16, S32 | U32, 4) => unary!(i32 => i32, |a| i32::from(a as i16)),
        (4, U16, S32 | U32, 4) => unary!(u32 => u32, |a| a & 0xffff),
        (4, U32 | S32, U16 | S16, 2) => unary!(u32 => u16, |a| a as u16),
        (4, U32, U64 | S64, 8) => unary!(u32 => u64, u64::from),
        (4, S32, U64 | S64, 8) => unary!(i32 => i64, i64::from),
        (8, U64 | S64, U32 | S32, 4) => unary!(u64 => u32, |a| a as u32),
        (8, U64 | S64, U16 | S16, 2) => unary!(u64 => u16, |a| a as u16),
        (2, U16, U64 | S64, 8) => unary!(u16 => u64, u64::from),
        (2, S16, U64 | S64, 8) => unary!(i16 => i64, i64::from),
        _ => return None,
    })
}
