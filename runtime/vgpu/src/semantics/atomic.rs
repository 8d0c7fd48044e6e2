//! What an atomic makes of the old value, as bits of the element type.

use super::float::canonical64;
use super::packed::{self, Bf16, F16};
use crate::decode::op::AtomicKind;
use crate::ptx::ScalarType;

/// New value of memory. `b` is the operand, `c` the second one of a compare-and-swap; all are zero-extended bits.
pub fn apply(kind: AtomicKind, element: ScalarType, old: u128, b: u128, c: u128) -> u128 {
    match kind {
        AtomicKind::Exchange => b,
        AtomicKind::CompareSwap => {
            if old == b {
                c
            } else {
                old
            }
        }
        _ => u128::from(narrow(kind, element, old as u64, b as u64)),
    }
}

/// The operations that exist up to 64 bits.
fn narrow(kind: AtomicKind, element: ScalarType, old: u64, b: u64) -> u64 {
    use ScalarType::{F16 as H, F16x2, F32, F64, S32, S64};
    let word = |bits: u64| bits as u32;
    let mask = if element.bytes() == 8 { u64::MAX } else { (1 << (element.bytes() * 8)) - 1 };
    match (kind, element) {
        (AtomicKind::Add, F32) => {
            let sum = f32::from_bits(word(old)) + f32::from_bits(word(b));
            u64::from(super::float::canonical(sum).to_bits())
        }
        (AtomicKind::Add, F64) => canonical64(f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        (AtomicKind::Add, H) => u64::from(packed::add::<F16>(old as u16, b as u16)),
        (AtomicKind::Add, ScalarType::Bf16) => u64::from(packed::add::<Bf16>(old as u16, b as u16)),
        (AtomicKind::Add, F16x2) => u64::from(packed::pair(word(old), word(b), packed::add::<F16>)),
        (AtomicKind::Add, ScalarType::Bf16x2) => u64::from(packed::pair(word(old), word(b), packed::add::<Bf16>)),
        (AtomicKind::Min, H) => u64::from(packed::min::<F16>(old as u16, b as u16)),
        (AtomicKind::Max, H) => u64::from(packed::max::<F16>(old as u16, b as u16)),
        (AtomicKind::Min, ScalarType::Bf16) => u64::from(packed::min::<Bf16>(old as u16, b as u16)),
        (AtomicKind::Max, ScalarType::Bf16) => u64::from(packed::max::<Bf16>(old as u16, b as u16)),
        (AtomicKind::Add, _) => old.wrapping_add(b) & mask,
        (AtomicKind::And, _) => old & b,
        (AtomicKind::Or, _) => old | b,
        (AtomicKind::Xor, _) => old ^ b,
        (AtomicKind::Min, S32) => u64::from((word(old).cast_signed()).min(word(b).cast_signed()).cast_unsigned()),
        (AtomicKind::Max, S32) => u64::from((word(old).cast_signed()).max(word(b).cast_signed()).cast_unsigned()),
        (AtomicKind::Min, S64) => old.cast_signed().min(b.cast_signed()).cast_unsigned(),
        (AtomicKind::Max, S64) => old.cast_signed().max(b.cast_signed()).cast_unsigned(),
        (AtomicKind::Min, _) => old.min(b),
        (AtomicKind::Max, _) => old.max(b),
        // inc: old ≥ b ? 0 : old + 1. dec: old = 0 or old > b ? b : old − 1.
        (AtomicKind::Inc, _) => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        (AtomicKind::Dec, _) => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
        (AtomicKind::Exchange | AtomicKind::CompareSwap, _) => b,
    }
}

#[cfg(test)]
mod tests {
    use super::{AtomicKind::*, ScalarType::*, apply};

    #[test]
    fn atomics_on_each_kind_of_value() {
        assert_eq!(apply(Add, U32, 0xffff_ffff, 2, 0), 1);
        assert_eq!(apply(Add, S32, 5, 0xffff_ffff, 0), 4);
        assert_eq!(apply(Add, U64, u128::from(u64::MAX), 1, 0), 0);
        assert_eq!(apply(Min, S32, 0xffff_ffff, 1, 0), 0xffff_ffff);
        assert_eq!(apply(Min, U32, 0xffff_ffff, 1, 0), 1);
        assert_eq!(apply(Max, S64, u128::from(u64::MAX), 1, 0), 1);
        assert_eq!(apply(Max, U64, u128::from(u64::MAX), 1, 0), u128::from(u64::MAX));
        assert_eq!(apply(Inc, U32, 6, 7, 0), 7);
        assert_eq!(apply(Inc, U32, 7, 7, 0), 0);
        assert_eq!(apply(Dec, U32, 0, 7, 0), 7);
        assert_eq!(apply(Dec, U32, 8, 7, 0), 7);
        assert_eq!(apply(Dec, U32, 3, 7, 0), 2);
        assert_eq!(apply(Exchange, B128, 1, 1 << 100, 0), 1 << 100);
        assert_eq!(apply(CompareSwap, B64, 5, 5, 9), 9);
        assert_eq!(apply(CompareSwap, B64, 5, 6, 9), 5);
        assert_eq!(apply(Add, F32, 0x3f80_0000, 0x4000_0000, 0), 0x4040_0000);
        assert_eq!(apply(Add, Bf16x2, 0x3f80_4000, 0x3f80_3f80, 0), 0x4000_4040);
    }
}
