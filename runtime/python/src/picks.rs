//! Picks of tokens in the order that kernels want: by ascending expert, dropped ones last.

use std::slice;

/// The largest number of an expert there can be, and less than any that was dropped counts as.
const LARGEST: i64 = i32::MAX as i64;

/// Sorts each row of `indices`, `[tokens, picks]`, into `into`, and its weights the same way. Negative picks were dropped; equal ones keep
/// their order. What no i32 holds stays what no bundle has.
pub fn ascend<I: Copy + Into<i64>>(indices: &[I], weights: &[f32], picks: usize, into: (&mut [i32], &mut [f32])) {
    let place_of = |pick: i64| if pick < 0 { LARGEST } else { pick };
    let mut row: Vec<(i64, f32)> = Vec::with_capacity(picks);
    let given = indices.chunks_exact(picks).zip(weights.chunks_exact(picks));
    let rows = into.0.chunks_exact_mut(picks).zip(into.1.chunks_exact_mut(picks));
    for ((indices, weights), (sorted, factors)) in given.zip(rows) {
        row.clear();
        row.extend(indices.iter().map(|&pick| pick.into()).zip(weights.iter().copied()));
        row.sort_by_key(|&(pick, _)| place_of(pick));
        for ((pick, weight), (sorted, factor)) in row.iter().zip(sorted.iter_mut().zip(factors)) {
            *sorted = (*pick).clamp(-LARGEST, LARGEST) as i32;
            *factor = *weight;
        }
    }
}

/// Numbers of the caller.
///
/// # Safety
/// So many are at the address, aligned, and nobody writes them meanwhile.
pub unsafe fn numbers<'a, T>(address: u64, count: usize) -> &'a [T] {
    // SAFETY: as the caller promises.
    if count == 0 { &[] } else { unsafe { slice::from_raw_parts(address as *const T, count) } }
}

/// Numbers of the caller, to be written.
///
/// # Safety
/// As [`numbers`], and nobody reads them meanwhile.
pub unsafe fn numbers_mut<'a, T>(address: u64, count: usize) -> &'a mut [T] {
    // SAFETY: as the caller promises.
    if count == 0 { &mut [] } else { unsafe { slice::from_raw_parts_mut(address as *mut T, count) } }
}
