//! How the addresses of a warp's lanes follow each other.

/// The addresses of the lanes of a mask, before the offset of the instruction is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Addresses {
    Same(u64),
    /// One element after the other, as the lanes are numbered; where lane 0 is or would be.
    Row(u64),
    /// Anything else: the least, the greatest, and the bits that are set in any.
    Scattered {
        least: u64,
        most: u64,
        bits: u64,
    },
}

impl Addresses {
    /// Of a register's lanes, for elements of a size. The mask is not empty.
    #[inline(always)]
    pub(super) fn of(row: &[[u8; 8]; 32], size: u64, mask: u32) -> Addresses {
        #[cfg(target_arch = "x86_64")]
        if crate::semantics::wide::available() {
            // SAFETY: the processor has these instructions.
            return unsafe { wide(row, size, mask) };
        }
        plain(row, size, mask)
    }
}

fn plain(row: &[[u8; 8]; 32], size: u64, mask: u32) -> Addresses {
    let low = mask.trailing_zeros() & 31;
    let value = |lane: usize| u64::from_le_bytes(row[lane]);
    let first = value(low as usize);
    let zero = first.wrapping_sub(u64::from(low) * size);
    let active = |lane: usize| u64::from(mask >> lane & 1).wrapping_neg();
    let (mut same, mut steps) = (0, 0);
    for lane in 0..32 {
        same |= (value(lane) ^ first) & active(lane);
        steps |= (value(lane) ^ zero.wrapping_add(lane as u64 * size)) & active(lane);
    }
    if same == 0 {
        return Addresses::Same(first);
    }
    if steps == 0 {
        return Addresses::Row(zero);
    }
    let (mut least, mut most, mut bits) = (u64::MAX, 0, 0);
    for lane in 0..32 {
        let on = value(lane) & active(lane);
        (least, most, bits) = (least.min(on | !active(lane)), most.max(on), bits | on);
    }
    Addresses::Scattered { least, most, bits }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn wide(row: &[[u8; 8]; 32], size: u64, mask: u32) -> Addresses {
    use std::arch::x86_64::*;
    let all = |value: u64| _mm512_set1_epi64(value.cast_signed());
    let low = mask.trailing_zeros() & 31;
    let first = u64::from_le_bytes(row[low as usize]);
    let zero = first.wrapping_sub(u64::from(low) * size);
    // SAFETY: eight of the row's 32 values of 8 bytes.
    let values = [0, 8, 16, 24].map(|lane: usize| unsafe { _mm512_loadu_si512(row.as_ptr().add(lane).cast()) });
    let masks = [0, 8, 16, 24].map(|lane: u32| (mask >> lane) as __mmask8);
    let lanes = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
    let mut expected = _mm512_add_epi64(all(zero), _mm512_mullo_epi64(lanes, all(size)));
    let (mut same, mut steps) = (0, 0);
    for (value, mask) in values.into_iter().zip(masks) {
        same |= _mm512_mask_cmpneq_epu64_mask(mask, value, all(first));
        steps |= _mm512_mask_cmpneq_epu64_mask(mask, value, expected);
        expected = _mm512_add_epi64(expected, all(8 * size));
    }
    if same == 0 {
        return Addresses::Same(first);
    }
    if steps == 0 {
        return Addresses::Row(zero);
    }
    let (mut least, mut most, mut bits) = (all(u64::MAX), all(0), all(0));
    for (value, mask) in values.into_iter().zip(masks) {
        least = _mm512_mask_min_epu64(least, mask, least, value);
        most = _mm512_mask_max_epu64(most, mask, most, value);
        bits = _mm512_mask_or_epi64(bits, mask, bits, value);
    }
    Addresses::Scattered {
        least: _mm512_reduce_min_epu64(least),
        most: _mm512_reduce_max_epu64(most),
        bits: _mm512_reduce_or_epi64(bits).cast_unsigned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Addresses, plain};

    fn both(address: impl Fn(u64) -> u64, mask: u32) -> Addresses {
        let row = std::array::from_fn(|lane| address(lane as u64).to_le_bytes());
        let found = Addresses::of(&row, 16, mask);
        assert_eq!(found, plain(&row, 16, mask));
        found
    }

    #[test]
    fn lanes_outside_the_mask_do_not_count() {
        assert_eq!(both(|_| 640, u32::MAX), Addresses::Same(640));
        assert_eq!(both(|lane| if lane == 3 { 0 } else { 640 }, !8), Addresses::Same(640));
        assert_eq!(both(|lane| 640 + 16 * lane, u32::MAX), Addresses::Row(640));
        assert_eq!(both(|lane| if lane % 8 == 0 { 7 } else { 640 + 16 * lane }, 0xfefe_fefe), Addresses::Row(640));
        assert_eq!(both(|lane| 640 + 16 * lane, 1 << 31), Addresses::Same(640 + 16 * 31));
        let scattered = Addresses::Scattered { least: 32, most: 32 * 31, bits: 0x3e0 };
        assert_eq!(both(|lane| 32 * lane, u32::MAX - 1), scattered);
    }
}
