//! Between the bytes of an access and the lanes of registers.

use std::ops::Range;

use super::warp::{Warp, copy_element, lanes, put_low_bytes, zero_extended};
use crate::decode::op::{MemoryOp, Reg};
use crate::semantics::wide::{rows_to_words, set_words, words_to_rows};

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
        match (reg.bytes, mask) {
            (4, u32::MAX) => {
                warp.row_mut(reg.row, 4).as_chunks_mut().0.fill((value as u32).to_le_bytes());
            }
            (4, _) => set_words(warp.row_mut(reg.row, 4), &[(value as u32).to_le_bytes(); 32], mask),
            (8, u32::MAX) => {
                warp.row_mut(reg.row, 8).as_chunks_mut().0.fill((value as u64).to_le_bytes());
            }
            _ => lanes(mask).for_each(|lane| warp.set_value(reg, lane, value)),
        }
    }
}

/// Where the rows of four 32-bit registers are that the elements go to or come from.
#[inline(always)]
fn four_rows(op: &MemoryOp) -> Option<[Range<usize>; 4]> {
    if !(op.exact && op.bytes == 4) {
        return None;
    }
    let [Some(a), Some(b), Some(c), Some(d)] = op.registers[..] else { return None };
    let place = |reg: Reg| reg.row as usize..reg.row as usize + ROW;
    Some([place(a), place(b), place(c), place(d)])
}

/// A row of a 32-bit register.
const ROW: usize = 128;

/// Bytes of the elements of all lanes, at most.
pub(super) const MOST: usize = 32 * 32;

/// Contiguous memory to the lanes of a mask: element e of lane l is number `l × elements + e`.
pub(super) fn distribute(warp: &mut Warp, op: &MemoryOp, mask: u32, source: &[u8]) {
    if let (true, [Some(reg)], u32::MAX) = (op.exact, &op.registers[..], mask) {
        warp.row_mut(reg.row, op.bytes).copy_from_slice(source);
    } else if let (true, 4, [Some(reg)], Some(words)) =
        (op.exact, op.bytes, &op.registers[..], source.as_chunks::<4>().0.first_chunk::<32>())
    {
        set_words(warp.row_mut(reg.row, 4), words, mask);
    } else if let Some(rows) = four_rows(op)
        && let Ok(rows) = warp.file.bytes_mut().get_disjoint_mut(rows)
        && let Some(words) = source.as_chunks::<4>().0.as_chunks::<4>().0.first_chunk::<32>()
    {
        words_to_rows(words, rows, mask);
    } else {
        let size = op.size() as usize;
        for lane in lanes(mask) {
            distribute_lane(warp, op, lane, &source[lane as usize * size..][..size]);
        }
    }
}

/// The element of one lane to its registers.
#[inline(always)]
fn distribute_lane(warp: &mut Warp, op: &MemoryOp, lane: u32, element: &[u8]) {
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
    } else if let Some([a, b, c, d]) = four_rows(op)
        && let Some(words) = target.as_chunks_mut::<4>().0.as_chunks_mut::<4>().0.first_chunk_mut::<32>()
    {
        let bytes = warp.file.bytes();
        rows_to_words([&bytes[a], &bytes[b], &bytes[c], &bytes[d]], words);
    } else {
        for (lane, element) in (0..).zip(target.chunks_exact_mut(op.size() as usize)) {
            collect_lane(warp, op, lane, element);
        }
    }
}

/// The registers of one lane to its element.
#[inline(always)]
fn collect_lane(warp: &Warp, op: &MemoryOp, lane: u32, element: &mut [u8]) {
    for (part, reg) in element.chunks_exact_mut(op.bytes as usize).zip(op.registers.iter()) {
        let Some(reg) = reg else { continue };
        if op.exact {
            copy_element(part, warp.lane(*reg, lane));
        } else {
            put_low_bytes(part, warp.value(*reg, lane));
        }
    }
}
