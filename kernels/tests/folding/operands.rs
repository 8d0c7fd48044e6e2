//! Operands: half of them where rounding, overflow and special values are, half of them anywhere.

use moe_random::Random;

/// What an operand is.
#[derive(Clone, Copy)]
pub enum Kind {
    Word,
    Byte,
    Single,
    /// Two f16.
    Halves,
    /// Two bf16.
    Brains,
    Long,
    Double,
}

const WORDS: [u32; 19] = [
    0,
    1,
    2,
    31,
    32,
    33,
    63,
    64,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0x8000_0001,
    0xffff_fffe,
    0xffff_ffff,
];
/// ±0, the smallest and largest subnormal and normal, halves (ties), the limits of the integers, of f16 and of e4m3, infinities.
const SINGLES: [f32; 26] = [
    0.0,
    -0.0,
    1e-45,
    -1e-45,
    1.175_494_2e-38,
    f32::MIN_POSITIVE,
    1.0,
    -1.0,
    0.5,
    2.5,
    1.5,
    -1.5,
    f32::MAX,
    f32::INFINITY,
    f32::NEG_INFINITY,
    2_147_483_648.0,
    -2_147_483_648.0,
    4_294_967_296.0,
    9.223_372e18,
    65_504.0,
    65_520.0,
    2.980_232_2e-8,
    6.103_515_6e-5,
    448.0,
    464.0,
    57_344.0,
];
const HALVES: [u16; 13] =
    [0, 0x8000, 0x3c00, 0xbc00, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7e00, 1, 0x03ff, 0x0400, 0x3c01];
const BRAINS: [u16; 13] =
    [0, 0x8000, 0x3f80, 0xbf80, 0x7f7f, 0xff7f, 0x7f80, 0xff80, 0x7fc0, 1, 0x007f, 0x0080, 0x3f81];
const DOUBLES: [f64; 18] = [
    0.0,
    -0.0,
    5e-324,
    f64::MIN_POSITIVE,
    1.0,
    -1.0,
    0.5,
    2.5,
    1.5,
    f64::MAX,
    f64::INFINITY,
    f64::NEG_INFINITY,
    2_147_483_647.5,
    -2_147_483_648.5,
    4_294_967_295.5,
    9.3e18,
    1.000_000_059_604_644_8,
    3.402_823_567e38,
];

fn one_of<T: Copy>(random: &mut Random, values: &[T]) -> T {
    values[random.index(values.len())]
}

impl Kind {
    pub fn named(name: &str) -> Option<Kind> {
        let kind = match name {
            "u" => Kind::Word,
            "y" => Kind::Byte,
            "f" => Kind::Single,
            "h" => Kind::Halves,
            "b" => Kind::Brains,
            "w" => Kind::Long,
            "g" => Kind::Double,
            _ => return None,
        };
        Some(kind)
    }

    pub fn is_double(self) -> bool {
        matches!(self, Kind::Long | Kind::Double)
    }

    pub fn draw(self, random: &mut Random) -> u64 {
        let special = random.below(2) == 0;
        match self {
            Kind::Word if special => one_of(random, &WORDS).into(),
            Kind::Word => random.bits() >> 32,
            Kind::Byte if special => random.below(65),
            Kind::Byte => random.below(256),
            Kind::Single if special => one_of(random, &SINGLES).to_bits().into(),
            Kind::Single => (anywhere(random, &[1.0, 300.0, 70_000.0, 5e9, 1e-40]) as f32).to_bits().into(),
            Kind::Halves => pair(random, &HALVES),
            Kind::Brains => pair(random, &BRAINS),
            Kind::Long if special => {
                let (low, high) = (one_of(random, &WORDS), one_of(random, &WORDS));
                u64::from(high) << 32 | u64::from(low)
            }
            Kind::Long => random.bits() >> random.below(64),
            Kind::Double if special => one_of(random, &DOUBLES).to_bits(),
            Kind::Double => anywhere(random, &[1.0, 1e5, 5e9, 1e19, 1e-310]).to_bits(),
        }
    }
}

fn anywhere(random: &mut Random, scales: &[f64]) -> f64 {
    (random.unit() * 2.0 - 1.0) * one_of(random, scales)
}

fn pair(random: &mut Random, special: &[u16]) -> u64 {
    let mut half = || if random.below(2) == 0 { one_of(random, special) } else { random.bits() as u16 };
    u64::from(half()) << 16 | u64::from(half())
}
