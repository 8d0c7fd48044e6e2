//! Integer instructions whose meaning is more than one Rust operator.

/// Value of a division by zero: PTX leaves it open, hardware gives all ones.
macro_rules! division {
    ($name:ident, $remainder:ident, $t:ty) => {
        /// Quotient towards zero; all ones for a zero divisor.
        pub fn $name(a: $t, b: $t) -> $t {
            if b == 0 { !0 } else { a.wrapping_div(b) }
        }
        /// Remainder with the sign of the dividend; all ones for a zero divisor.
        pub fn $remainder(a: $t, b: $t) -> $t {
            if b == 0 { !0 } else { a.wrapping_rem(b) }
        }
    };
}

division!(div_u16, rem_u16, u16);
division!(div_s16, rem_s16, i16);
division!(div_u32, rem_u32, u32);
division!(div_s32, rem_s32, i32);
division!(div_u64, rem_u64, u64);
division!(div_s64, rem_s64, i64);

macro_rules! shifts {
    ($left:ident, $right:ident, $t:ty, $s:ident, $signed:ty) => {
        /// Shift left; amounts at or beyond the width give zero.
        pub fn $left(a: $t, amount: u32) -> $t {
            a.checked_shl(amount).unwrap_or(0)
        }
        /// Logical shift right; amounts at or beyond the width give zero.
        pub fn $right(a: $t, amount: u32) -> $t {
            a.checked_shr(amount).unwrap_or(0)
        }
        /// Arithmetic shift right; amounts are clamped to the width.
        pub fn $s(a: $signed, amount: u32) -> $signed {
            a >> amount.min(<$t>::BITS - 1)
        }
    };
}

shifts!(shl_16, shr_16, u16, sar_16, i16);
shifts!(shl_32, shr_32, u32, sar_32, i32);
shifts!(shl_64, shr_64, u64, sar_64, i64);

/// `bfe.u32`
pub fn bfe_u32(a: u32, position: u32, length: u32) -> u32 {
    bfe_u64(u64::from(a), position, length & 0xff, 32) as u32
}

/// Field of `width`-bit value; bits beyond the value are zero.
pub fn bfe_u64(a: u64, position: u32, length: u32, width: u32) -> u64 {
    let (position, length) = (position & 0xff, length & 0xff);
    if length == 0 || position >= width {
        return 0;
    }
    let field = a >> position;
    if length >= 64 { field } else { field & ((1 << length) - 1) }
}

/// `bfe.s32` and `.s64`: the sign is bit min(position + length − 1, width − 1) of the value.
pub fn bfe_signed(a: u64, position: u32, length: u32, width: u32) -> u64 {
    let (position, length) = (position & 0xff, length & 0xff);
    if length == 0 {
        return 0;
    }
    let sign_at = (position + length - 1).min(width - 1);
    let sign = a >> sign_at & 1;
    let present = if position >= width { 0 } else { length.min(width - position) };
    let field = bfe_u64(a, position, length, width);
    let fill = if present >= 64 { 0 } else { u64::MAX << present };
    if sign == 1 { field | fill } else { field }
}

/// `bfi`: inserts the low `length` bits of `a` into `b` at `position`.
pub fn bfi(a: u64, b: u64, position: u32, length: u32, width: u32) -> u64 {
    let (position, length) = (position & 0xff, length & 0xff);
    if length == 0 || position >= width {
        return b;
    }
    let ones = if length >= 64 { u64::MAX } else { (1 << length) - 1 };
    let mask = ones << position;
    b & !mask | (a << position) & mask
}

/// `bfind`: index of the highest bit that differs from the sign, or all ones.
pub fn bfind(a: u64, width: u32, shift_amount: bool) -> u32 {
    if a == 0 {
        return u32::MAX;
    }
    let at = a.ilog2();
    if shift_amount { width - 1 - at } else { at }
}

/// `prmt` in its default mode: each selector nibble picks a byte, bit 3 replicates its sign.
pub fn prmt(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    let mut out = 0;
    for i in 0..4 {
        let nibble = selector >> (4 * i) & 0xf;
        let byte = (bytes >> (8 * (nibble & 7))) as u32 & 0xff;
        let byte = if nibble & 8 == 0 {
            byte
        } else if byte & 0x80 != 0 {
            0xff
        } else {
            0
        };
        out |= byte << (8 * i);
    }
    out
}

/// Selector of the special modes of `prmt`, for the given low two bits of the operand.
pub fn prmt_mode_selector(mode: &str, selector: u32) -> Option<u32> {
    let table: [u32; 4] = match mode {
        "f4e" => [0x3210, 0x4321, 0x5432, 0x6543],
        "b4e" => [0x5670, 0x6701, 0x7012, 0x0123],
        "rc8" => [0x0000, 0x1111, 0x2222, 0x3333],
        "ecl" => [0x3210, 0x3211, 0x3222, 0x3333],
        "ecr" => [0x0000, 0x1110, 0x2210, 0x3210],
        "rc16" => [0x1010, 0x3232, 0x1010, 0x3232],
        _ => return None,
    };
    Some(table[selector as usize & 3])
}

/// `fns`: the place of the bit set that is the `count`-th from `base` on, upwards or, for a negative count, downwards; all ones if there is
/// none. A count of zero asks whether the bit at `base` itself is set.
pub fn fns(mask: u32, base: u32, count: i32) -> u32 {
    let set = |at: &u32| mask >> at & 1 == 1;
    let nth = count.unsigned_abs().saturating_sub(1) as usize;
    let found = match count {
        0 => Some(base).filter(|at| *at < 32 && set(at)),
        1.. => (base..32).filter(set).nth(nth),
        _ => (0..=base.min(31)).rev().filter(|_| base < 32).filter(set).nth(nth),
    };
    found.unwrap_or(u32::MAX)
}

/// `lop3` with the truth table `lut`.
pub fn lop3(a: u32, b: u32, c: u32, lut: u32) -> u32 {
    let mut out = 0;
    for i in 0..8 {
        if lut >> i & 1 == 1 {
            let x = if i & 4 != 0 { a } else { !a };
            let y = if i & 2 != 0 { b } else { !b };
            let z = if i & 1 != 0 { c } else { !c };
            out |= x & y & z;
        }
    }
    out
}

/// `shf.l`: the upper word of `b:a` shifted left.
pub fn shf_left(a: u32, b: u32, amount: u32) -> u32 {
    ((u64::from(b) << 32 | u64::from(a)) << amount >> 32) as u32
}

/// `shf.r`: the lower word of `b:a` shifted right.
pub fn shf_right(a: u32, b: u32, amount: u32) -> u32 {
    ((u64::from(b) << 32 | u64::from(a)) >> amount) as u32
}

/// Signed 24-bit value in the low bits.
pub fn sign24(a: i32) -> i64 {
    i64::from(a << 8 >> 8)
}

/// `szext`: sign- or zero-extends the low `bits` bits; `wrap` takes the count modulo 32, else it is clamped.
pub fn szext(a: u32, bits: u32, wrap: bool, signed: bool) -> u32 {
    let bits = if wrap { bits & 31 } else { bits.min(32) };
    match bits {
        0 => 0,
        32 => a,
        _ if signed => ((a << (32 - bits)).cast_signed() >> (32 - bits)).cast_unsigned(),
        _ => a & ((1 << bits) - 1),
    }
}

/// `bmsk`: `b` ones from bit `a`.
pub fn bmsk(a: u32, b: u32, wrap: bool) -> u32 {
    let (a, b) = if wrap { (a & 31, b & 31) } else { (a.min(32), b.min(32)) };
    let ones = if b >= 32 { u64::from(u32::MAX) } else { (1u64 << b) - 1 };
    (ones << a) as u32
}

/// `dp4a`: four products of bytes plus `c`.
pub fn dp4a(a: u32, b: u32, c: u32, a_signed: bool, b_signed: bool) -> u32 {
    let byte = |word: u32, i: u32, signed: bool| {
        let byte = (word >> (8 * i)) as u8;
        if signed { i32::from(byte.cast_signed()) } else { i32::from(byte) }
    };
    let sum = (0..4).fold(0i32, |sum, i| sum.wrapping_add(byte(a, i, a_signed) * byte(b, i, b_signed)));
    c.wrapping_add(sum.cast_unsigned())
}

/// `dp2a`: the halves of `a` times the two low bytes of `b`, plus `c`.
pub fn dp2a(a: u32, b: u32, c: u32, a_signed: bool, b_signed: bool) -> u32 {
    let number = |bits: u32, width: u32, signed: bool| {
        let top = bits << (32 - width);
        if signed { top.cast_signed() >> (32 - width) } else { (top >> (32 - width)).cast_signed() }
    };
    let product = |i: u32| number(a >> (16 * i), 16, a_signed).wrapping_mul(number(b >> (8 * i), 8, b_signed));
    c.wrapping_add(product(0).wrapping_add(product(1)).cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bit_fields() {
        assert_eq!(bfe_u32(0xabcd_1234, 8, 8), 0x12);
        assert_eq!(bfe_u32(0xabcd_1234, 28, 8), 0xa);
        assert_eq!(bfe_u32(0xabcd_1234, 32, 8), 0);
        assert_eq!(bfe_signed(0x0000_8000, 8, 8, 32) as u32, 0xffff_ff80);
        assert_eq!(bfe_signed(0x8000_0000, 40, 4, 32) as u32, 0xffff_ffff);
        assert_eq!(bfi(0xf, 0, 4, 4, 32), 0xf0);
        assert_eq!(bfi(0xff, 0x1111_1111, 28, 8, 32) as u32, 0xf111_1111);
        assert_eq!(bfind(0, 32, false), u32::MAX);
        assert_eq!(bfind(0x0001_0000, 32, false), 16);
        assert_eq!(bfind(0x0001_0000, 32, true), 15);
        assert_eq!(bmsk(4, 8, false), 0xff0);
        assert_eq!(szext(0xff, 8, false, true), 0xffff_ffff);
        assert_eq!(szext(0x1ff, 8, false, false), 0xff);
    }

    #[test]
    fn permutations() {
        // a = bytes 03 02 01 00, b = bytes 07 06 05 04, most significant first.
        assert_eq!(prmt(0x0302_0100, 0x0706_0504, 0x7531), 0x0705_0301);
        assert_eq!(prmt(0x0000_0080, 0, 0x8888), 0xffff_ffff);
        assert_eq!(lop3(0b1100, 0b1010, 0b1111, 0x80) & 0xf, 0b1000);
        assert_eq!(lop3(0xf0, 0xcc, 0xaa, 0x96) & 0xff, 0x96);
        assert_eq!(shf_left(0x8000_0000, 0x0000_0001, 1), 0x0000_0003);
        assert_eq!(shf_right(0x0000_0003, 0x0000_0001, 1), 0x8000_0001);
        assert_eq!(dp4a(0x0102_03ff, 0x0101_0101, 10, true, true), 15);
    }

    #[test]
    fn the_nth_set_bit_is_counted_from_its_base() {
        assert_eq!(fns(0b1011_0100, 0, 1), 2);
        assert_eq!(fns(0b1011_0100, 3, 2), 5);
        assert_eq!(fns(0b1011_0100, 2, 1), 2);
        assert_eq!(fns(0b1011_0100, 6, -1), 5);
        assert_eq!(fns(0b1011_0100, 31, -4), 2);
        assert_eq!(fns(0b1011_0100, 31, -5), u32::MAX);
        assert_eq!(fns(0b1011_0100, 4, 0), 4);
        assert_eq!(fns(0b1011_0100, 3, 0), u32::MAX);
        assert_eq!(fns(u32::MAX, 32, 1), u32::MAX);
    }

    #[test]
    fn division_by_zero_gives_all_ones() {
        assert_eq!(div_u32(7, 0), u32::MAX);
        assert_eq!(div_s32(i32::MIN, -1), i32::MIN);
        assert_eq!(rem_s32(-7, 3), -1);
        assert_eq!(sar_32(-8, 40), -1);
        assert_eq!(shl_32(1, 32), 0);
    }
}
