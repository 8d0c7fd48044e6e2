//! Between the bytes of an access and the lanes of registers.

use super::warp::{Warp, copy_element, lanes, put_low_bytes, zero_extended};
use crate::decode::op::MemoryOp;

/// A little-endian value, extended to 128 bits.
#[inline]
pub(super) fn extended(bytes: &[u8], signed: bool) -> u128 {
    let value = zero_extended(bytes);
    if !signed || bytes.len() >= 16 {
        return value;
    }
    let unused = 128 - 8 * bytes.len() as u32;
    ((value << unused).cast_signed() >> unused).cast_unsigned()
}

/// One element to the lanes of a mask.
pub(super) fn broadcast(warp: &mut Warp, op: &MemoryOp, mask: u32, element: &[u8]) {
    for (part, reg) in element.chunks_exact(op.bytes as usize).zip(op.registers.iter()) {
        let Some(reg) = *reg else { continue };
        let value = extended(part, op.signed);
        if mask != u32::MAX {
            lanes(mask).for_each(|lane| warp.set_value(reg, lane, value));
            continue;
        }
        let row = warp.row_mut(reg.row, reg.bytes);
        match reg.bytes {
            4 => row.as_chunks_mut().0.fill((value as u32).to_le_bytes()),
            8 => row.as_chunks_mut().0.fill((value as u64).to_le_bytes()),
            width => row.chunks_exact_mut(width as usize).for_each(|lane| put_low_bytes(lane, value)),
        }
    }
}

/// Where four rows of 32-bit registers begin; each has 128 bytes.
#[inline(always)]
fn four_rows(warp: &mut Warp, op: &MemoryOp) -> Option<[*mut [u8; 16]; 4]> {
    if !(op.exact && op.bytes == 4) {
        return None;
    }
    let [Some(a), Some(b), Some(c), Some(d)] = op.registers[..] else { return None };
    let mut row = |row: u32| warp.row_mut(row, 4).as_mut_ptr().cast();
    Some([row(a.row), row(b.row), row(c.row), row(d.row)])
}

/// Transposes four times four words, from four places to four places.
///
/// # Safety
/// Every pointer is valid for 16 bytes; places read and written do not overlap.
#[inline(always)]
unsafe fn transpose(from: [*const [u8; 16]; 4], to: [*mut [u8; 16]; 4]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{
            _mm_loadu_si128, _mm_storeu_si128, _mm_unpackhi_epi32, _mm_unpackhi_epi64, _mm_unpacklo_epi32,
            _mm_unpacklo_epi64,
        };
        // SAFETY: SSE2 is part of x86-64; the pointers are valid as the caller says.
        unsafe {
            let a = _mm_loadu_si128(from[0].cast());
            let b = _mm_loadu_si128(from[1].cast());
            let c = _mm_loadu_si128(from[2].cast());
            let d = _mm_loadu_si128(from[3].cast());
            let (ab, cd) = (_mm_unpacklo_epi32(a, b), _mm_unpacklo_epi32(c, d));
            let (ef, gh) = (_mm_unpackhi_epi32(a, b), _mm_unpackhi_epi32(c, d));
            _mm_storeu_si128(to[0].cast(), _mm_unpacklo_epi64(ab, cd));
            _mm_storeu_si128(to[1].cast(), _mm_unpackhi_epi64(ab, cd));
            _mm_storeu_si128(to[2].cast(), _mm_unpacklo_epi64(ef, gh));
            _mm_storeu_si128(to[3].cast(), _mm_unpackhi_epi64(ef, gh));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    for (row, from) in from.into_iter().enumerate() {
        for (column, to) in to.into_iter().enumerate() {
            // SAFETY: word `column` of a place read and word `row` of a place written.
            unsafe { to.cast::<[u8; 4]>().add(row).write(from.cast::<[u8; 4]>().add(column).read()) };
        }
    }
}

/// Contiguous memory to all lanes: element e of lane l is number `l × elements + e`.
pub(super) fn distribute(warp: &mut Warp, op: &MemoryOp, source: &[u8]) {
    if let (true, [Some(reg)]) = (op.exact, &op.registers[..]) {
        warp.row_mut(reg.row, op.bytes).copy_from_slice(source);
    } else if let Some(rows) = four_rows(warp, op) {
        for (block, lanes) in source.as_chunks::<64>().0.iter().enumerate().take(8) {
            let lanes: *const [u8; 16] = lanes.as_ptr().cast();
            // SAFETY: 64 bytes of memory, and 16 of the 128 bytes of each row; registers are not device memory.
            unsafe {
                let from = [lanes, lanes.add(1), lanes.add(2), lanes.add(3)];
                transpose(from, rows.map(|row| row.add(block)));
            }
        }
    } else {
        for (lane, element) in (0..).zip(source.chunks_exact(op.size() as usize)) {
            distribute_lane(warp, op, lane, element);
        }
    }
}

/// The element of one lane to its registers.
#[inline(always)]
pub(super) fn distribute_lane(warp: &mut Warp, op: &MemoryOp, lane: u32, element: &[u8]) {
    if let (true, [Some(reg)]) = (op.exact, &op.registers[..]) {
        copy_element(warp.lane_mut(*reg, lane), element);
        return;
    }
    for (part, reg) in element.chunks_exact(op.bytes as usize).zip(op.registers.iter()) {
        let Some(reg) = reg else { continue };
        if op.exact {
            copy_element(warp.lane_mut(*reg, lane), part);
        } else {
            warp.set_value(*reg, lane, extended(part, op.signed));
        }
    }
}

/// All lanes to contiguous memory.
pub(super) fn collect(warp: &mut Warp, op: &MemoryOp, target: &mut [u8]) {
    if let (true, [Some(reg)]) = (op.exact, &op.registers[..]) {
        target.copy_from_slice(warp.row(reg.row, op.bytes));
    } else if let Some(rows) = four_rows(warp, op) {
        for (block, lanes) in target.as_chunks_mut::<64>().0.iter_mut().enumerate().take(8) {
            let lanes: *mut [u8; 16] = lanes.as_mut_ptr().cast();
            // SAFETY: as in `distribute`.
            unsafe {
                let from = rows.map(|row| row.add(block).cast_const());
                transpose(from, [lanes, lanes.add(1), lanes.add(2), lanes.add(3)]);
            }
        }
    } else {
        for (lane, element) in (0..).zip(target.chunks_exact_mut(op.size() as usize)) {
            collect_lane(warp, op, lane, element);
        }
    }
}

/// The registers of one lane to its element.
#[inline(always)]
pub(super) fn collect_lane(warp: &Warp, op: &MemoryOp, lane: u32, element: &mut [u8]) {
    for (part, reg) in element.chunks_exact_mut(op.bytes as usize).zip(op.registers.iter()) {
        let Some(reg) = reg else { continue };
        if op.exact {
            copy_element(part, warp.lane(*reg, lane));
        } else {
            put_low_bytes(part, warp.value(*reg, lane));
        }
    }
}
