//! What atomics and reductions compute, on zero-extended values.

use crate::decode::op::AtomicKind;
use crate::ptx::ScalarType;
use crate::semantics::float::{canonical, canonical64, flush};
use crate::semantics::packed::{self, Bf16 as Brain, F16 as Ieee};

/// The new value of a place that holds `old`. `c` is the new value of a compare-and-swap, whose comparand is `b`.
pub(crate) fn combine(kind: AtomicKind, element: ScalarType, old: u128, b: u128, c: u128) -> u128 {
    use AtomicKind::*;
    use ScalarType::*;
    let (x, y) = (old as u64, b as u64);
    let value: u64 = match (kind, element) {
        (Exchange, _) => return b,
        (CompareSwap, _) => return if old == b { c } else { old },
        (And, _) => x & y,
        (Or, _) => x | y,
        (Xor, _) => x ^ y,
        (Add, F32) => canonical(f32::from_bits(x as u32) + f32::from_bits(y as u32)).to_bits().into(),
        (Add, F64) => canonical64(f64::from_bits(x) + f64::from_bits(y)).to_bits(),
        (_, F16) => half::<Ieee>(kind, x as u16, y as u16).into(),
        (_, Bf16) => half::<Brain>(kind, x as u16, y as u16).into(),
        (_, F16x2) => packed::pair(x as u32, y as u32, half_function::<Ieee>(kind)).into(),
        (_, Bf16x2) => packed::pair(x as u32, y as u32, half_function::<Brain>(kind)).into(),
        (Add, _) => x.wrapping_add(y),
        (Min, S32) => (x as u32).cast_signed().min((y as u32).cast_signed()).cast_unsigned().into(),
        (Max, S32) => (x as u32).cast_signed().max((y as u32).cast_signed()).cast_unsigned().into(),
        (Min, S64) => x.cast_signed().min(y.cast_signed()).cast_unsigned(),
        (Max, S64) => x.cast_signed().max(y.cast_signed()).cast_unsigned(),
        (Min, _) => x.min(y),
        (Max, _) => x.max(y),
        (Inc, _) => {
            if x >= y {
                0
            } else {
                x + 1
            }
        }
        (Dec, _) => {
            if x == 0 || x > y {
                y
            } else {
                x - 1
            }
        }
    };
    u128::from(if element.bytes() == 8 { value } else { value & ((1 << (element.bytes() * 8)) - 1) })
}

/// [`combine`] in device memory, where subnormals of an f32 sum count as zero.
pub(crate) fn combine_in_device(kind: AtomicKind, element: ScalarType, old: u128, b: u128, c: u128) -> u128 {
    if (kind, element) != (AtomicKind::Add, ScalarType::F32) {
        return combine(kind, element, old, b, c);
    }
    let flushed = |bits: u128| u128::from(flush(f32::from_bits(bits as u32)).to_bits());
    flushed(combine(kind, element, flushed(old), flushed(b), c))
}

fn half_function<H: packed::Half>(kind: AtomicKind) -> fn(u16, u16) -> u16 {
    match kind {
        AtomicKind::Min => packed::min::<H>,
        AtomicKind::Max => packed::max::<H>,
        _ => packed::add::<H>,
    }
}

fn half<H: packed::Half>(kind: AtomicKind, a: u16, b: u16) -> u16 {
    half_function::<H>(kind)(a, b)
}

#[cfg(test)]
mod tests {
    use super::combine;
    use crate::decode::op::AtomicKind::*;
    use crate::ptx::ScalarType::*;

    #[test]
    fn signed_and_unsigned_minimum_differ() {
        assert_eq!(combine(Min, S32, 0xffff_ffff, 1, 0), 0xffff_ffff);
        assert_eq!(combine(Min, U32, 0xffff_ffff, 1, 0), 1);
        assert_eq!(combine(Max, S64, u128::from(u64::MAX), 1, 0), 1);
    }

    #[test]
    fn sums_wrap_at_their_width() {
        assert_eq!(combine(Add, U32, 0xffff_ffff, 2, 0), 1);
        assert_eq!(combine(Add, U64, u128::from(u64::MAX), 2, 0), 1);
        assert_eq!(combine(Add, F32, 0x3f80_0000, 0x4000_0000, 0), 0x4040_0000);
        assert_eq!(combine(Add, Bf16x2, 0x3f80_4000, 0x3f80_3f80, 0), 0x4000_4040);
    }

    #[test]
    fn increments_wrap_at_the_limit() {
        assert_eq!(combine(Inc, U32, 3, 3, 0), 0);
        assert_eq!(combine(Inc, U32, 2, 3, 0), 3);
        assert_eq!(combine(Dec, U32, 0, 3, 0), 3);
        assert_eq!(combine(Dec, U32, 9, 3, 0), 3);
        assert_eq!(combine(Dec, U32, 2, 3, 0), 1);
    }

    #[test]
    fn a_swap_needs_the_expected_value() {
        assert_eq!(combine(CompareSwap, B64, 5, 5, 9), 9);
        assert_eq!(combine(CompareSwap, B64, 5, 6, 9), 5);
    }
}
