//! Dispatch, the receiving half, part two: rows to the experts' input. Also that of a cached dispatch.
//!
//! * Reads rows, scales and (new handle) records of the half of this epoch, `received_counts`, `expert_counts`, and `copy_rows`: for a new
//!   handle the places that dispatch_count has left there, for a cached one rows. Writes the experts' input and its scales, padding rows
//!   included, and completes a new handle: tokens, ordinals, rows and weights of copies, expert offsets, picks and weights of rows.
//! * `ctas` CTAs; one warp per copy, which stores each batch of chunks to all rows of the copy before it loads the next. Padding rows are
//!   shared out among all warps.
//! * Memory order: dispatch_count, earlier in the stream, has acquired every flag; the cached kernel acquires them itself.
//! * Cost: no bytes on links; reads each received copy once, writes each row once.

use moe_bundle::exchange::status;
use moe_bundle::{LocalBuffer, RowLayout, Tensor};

use super::copies::{Copies, Copy};
use super::dispatch_send::pieces;
use super::frame::{Frame, Wait};
use super::payload;
use super::row::for_each_batch;
use crate::device::{Chunk, F32, Global, Pointer, Shared, Space, U8, U32, U64, Value};

/// For a new handle.
pub(super) fn body(frame: &Frame<'_, '_>) {
    frame.end_on_error();
    match frame.exchange.layout {
        RowLayout::RankMajor => Copies::for_each_of_handle(frame, |copy| {
            complete_rank_major(frame, copy);
            place(frame, copy, Rows::One(copy.number));
        }),
        RowLayout::ExpertMajor { align } => {
            let offsets = offsets(frame, align);
            zero_padding(frame, offsets, Tensor::ExpertInput);
            Copies::for_each_of_handle(frame, |copy| {
                let rows = complete_expert_major(frame, copy, offsets);
                place(frame, copy, Rows::of_lanes(frame, rows));
            });
        }
    }
}

/// For a handle that is complete.
pub(super) fn cached_body(frame: &Frame<'_, '_>) {
    let flags = frame.exchange.symmetric.dispatch_arrival;
    let at_least = frame.arrivals(frame.epoch());
    frame.wait_together(&Wait { flags, at_least, code: status::DISPATCH_DEADLINE });
    if frame.exchange.layout == RowLayout::RankMajor {
        return Copies::for_each_of_handle(frame, |copy| place(frame, copy, Rows::One(copy.number)));
    }
    zero_padding(frame, frame.buffer(LocalBuffer::ExpertOffsets), Tensor::ExpertInput);
    Copies::for_each_of_handle(frame, |copy| place(frame, copy, Rows::of_lanes(frame, copy_rows(frame, copy))));
}

/// Where a copy goes.
pub(super) enum Rows<'k> {
    /// To this row.
    One(Value<'k, U32>),
    /// To the rows of these lanes.
    Lanes { rows: Value<'k, U32>, lanes: Value<'k, U32> },
}

impl<'k> Rows<'k> {
    /// To the rows of all lanes whose row is not −1.
    pub fn of_lanes(frame: &Frame<'k, '_>, rows: Value<'k, U32>) -> Rows<'k> {
        Rows::Lanes { rows, lanes: frame.k.ballot(!rows.is_negative()) }
    }

    /// Runs `body` with each row. All lanes run it.
    pub fn for_each(&self, frame: &Frame<'k, '_>, body: impl FnOnce(Value<'k, U32>)) {
        let k = frame.k;
        match *self {
            Rows::One(row) => body(row),
            Rows::Lanes { rows, lanes } => {
                let left = k.variable(lanes);
                k.repeat_while(
                    || left.get().differs(k.u32(0)),
                    || {
                        let lane = left.get().lowest_set();
                        left.set(left.get().without_lowest_set());
                        body(rows.of_lane(lane));
                    },
                );
            }
        }
    }
}

/// The row of each pick of a copy of a handle, one in each lane; −1 where there is none.
pub(super) fn copy_rows<'k>(frame: &Frame<'k, '_>, copy: Copy<'k>) -> Value<'k, U32> {
    let (k, top_k) = (frame.k, frame.exchange.top_k);
    let pick = k.lane().min(k.u32(top_k - 1));
    let row = frame.buffer::<U32>(LocalBuffer::CopyRows).at(copy.place * top_k + pick).load();
    row.when(k.lane().less(k.u32(top_k)), k.u32(u32::MAX))
}

/// A copy, and its scales, to its rows.
fn place<'k>(frame: &Frame<'k, '_>, copy: Copy<'k>, rows: Rows<'k>) {
    let (k, exchange) = (frame.k, frame.exchange);
    let layout = &exchange.symmetric;
    let slot = frame.slot(copy.source, copy.slot);
    let from = frame.symmetric(layout.rows).bytes(slot * layout.row_bytes);
    for_each_batch(k, pieces(frame, exchange.dispatch), payload::in_flight(exchange.threads), |pieces| {
        let chunks: Vec<_> = pieces.iter().map(|piece| piece.load_from::<Chunk>(from.cast())).collect();
        rows.for_each(frame, |row| {
            let to = frame.tensor_row(Tensor::ExpertInput, row).cast();
            for (piece, &chunk) in pieces.iter().zip(&chunks) {
                piece.when_active(|| piece.place_in(to).store(chunk));
            }
        });
    });
    let scales = exchange.dispatch.scales(exchange.hidden);
    if scales == 0 {
        return;
    }
    let from = frame.symmetric(layout.scales).bytes(slot * layout.scale_bytes);
    for_each_batch(k, scales, 2, |pieces| {
        let words: Vec<_> = pieces.iter().map(|piece| piece.load_from::<F32>(from.cast())).collect();
        rows.for_each(frame, |row| {
            let to = frame.tensor_row(Tensor::ExpertInputScales, row).cast();
            for (piece, &word) in pieces.iter().zip(&words) {
                piece.when_active(|| piece.place_in(to).store(word));
            }
        });
    });
}

/// What a record says about the pick of each lane.
struct Pick<'k> {
    weight: Value<'k, U32>,
    /// Number of the expert on this rank; of use only where `local`.
    expert: Value<'k, U32>,
    /// The lane has a pick, and it is of this rank.
    local: Value<'k, crate::device::Pred>,
}

/// Token, ordinal and weights of a copy to the handle.
fn complete<'k>(frame: &Frame<'k, '_>, copy: Copy<'k>) -> Pick<'k> {
    let (k, exchange) = (frame.k, frame.exchange);
    let (layout, top_k) = (&exchange.symmetric, exchange.top_k);
    let slot = frame.slot(copy.source, copy.slot);
    let record: Pointer<Global, U32> = frame.symmetric(layout.records).bytes(slot * layout.record_bytes).cast();
    let has_pick = k.lane().less(k.u32(top_k));
    let picks: Pointer<Global, U32> = record.at_constant(2).at(k.lane().min(k.u32(top_k - 1)));
    let head = record.cast::<U64>().load();
    let (pick, weight) = (picks.load(), picks.at_constant(top_k).load());
    k.when(k.lane().equals(k.u32(0)), || {
        frame.buffer(LocalBuffer::CopyTokens).at(copy.place).store(head.low_word());
        frame.buffer(LocalBuffer::CopyOrdinals).at(copy.place).store((head >> 32u64).low_word());
    });
    let weights = frame.buffer::<U32>(LocalBuffer::CopyWeights);
    k.when(has_pick, || weights.at(copy.place * top_k + k.lane()).store(weight));
    let (first, count) = frame.experts_of(frame.rank());
    let expert = pick - first;
    Pick { weight, expert, local: has_pick & expert.less(count) }
}

/// Gives every local pick its row; the row of each lane's pick.
fn complete_expert_major<'k>(
    frame: &Frame<'k, '_>,
    copy: Copy<'k>,
    offsets: Pointer<'k, Shared, U32>,
) -> Value<'k, U32> {
    let (k, top_k) = (frame.k, frame.exchange.top_k);
    let pick = complete(frame, copy);
    let rows = frame.buffer::<U32>(LocalBuffer::CopyRows).at(copy.place * top_k + k.lane());
    let row = k.variable(k.u32(u32::MAX));
    k.when(pick.local, || row.set(offsets.at(pick.expert).load() + rows.load()));
    k.when(k.lane().less(k.u32(top_k)), || rows.store(row.get()));
    row.get()
}

/// The row of a copy is its number; all its local picks share it.
fn complete_rank_major<'k>(frame: &Frame<'k, '_>, copy: Copy<'k>) {
    let (k, top_k) = (frame.k, frame.exchange.top_k);
    let (none, pick) = (k.u32(u32::MAX), complete(frame, copy));
    k.when(k.lane().less(k.u32(top_k)), || {
        let store = |buffer, row: Value<'k, U32>, value| {
            frame.buffer::<U32>(buffer).at(row * top_k + k.lane()).store(value);
        };
        store(LocalBuffer::CopyRows, copy.place, copy.number.when(pick.local, none));
        store(LocalBuffer::RowPicks, copy.number, pick.expert.when(pick.local, none));
        store(LocalBuffer::RowWeights, copy.number, pick.weight);
    });
}

/// First row of each local expert, and the number of rows; CTA 0 stores them in the handle as well. All threads of the CTA run it.
fn offsets<'k>(frame: &Frame<'k, '_>, align: u32) -> Pointer<'k, Shared, U32> {
    let (k, experts) = (frame.k, frame.exchange.local_experts_max());
    let counts = frame.buffer::<U32>(LocalBuffer::ExpertCounts);
    let offsets = k.shared::<U32>(experts + 1);
    k.when(k.warp().equals(k.u32(0)), || {
        let total = k.variable(k.u32(0));
        // All lanes go through all rounds: they sum together.
        k.for_each(k.u32(0), k.u32(experts), k.u32(32), |first| {
            let expert = first + k.lane();
            let exists = expert.less(k.u32(experts));
            let count = counts.at(expert.min(k.u32(experts - 1))).load();
            let rows = ((count + (align - 1)) / align * align).when(exists, k.u32(0));
            let mut sum = rows;
            for distance in [1, 2, 4, 8, 16] {
                let below = sum.of_lane_below(distance);
                sum = sum + below.when(k.lane().at_least(k.u32(distance)), k.u32(0));
            }
            k.when(exists, || offsets.at(expert).store(total.get() + sum - rows));
            total.set(total.get() + sum.of_lane(k.u32(31)));
        });
        k.when(k.lane().equals(k.u32(0)), || offsets.at_constant(experts).store(total.get()));
    });
    k.cta_barrier();
    k.when(k.cta().equals(k.u32(0)), || {
        k.for_each(k.thread(), k.u32(experts + 1), k.u32(frame.exchange.threads), |expert| {
            frame.buffer(LocalBuffer::ExpertOffsets).at(expert).store(offsets.at(expert).load());
        });
    });
    offsets
}

/// Zeros in the rows between the end of an expert and the next, and in their scales. The warps of all CTAs take one row each in turn.
pub(super) fn zero_padding<'k, S: Space>(frame: &Frame<'k, '_>, offsets: Pointer<'k, S, U32>, tensor: Tensor) {
    let (k, exchange) = (frame.k, frame.exchange);
    if exchange.layout == (RowLayout::ExpertMajor { align: 1 }) {
        return;
    }
    let counts = frame.buffer::<U32>(LocalBuffer::ExpertCounts);
    let warps = k.u32(exchange.ctas * frame.warps());
    // The first padding row of the expert that is this warp's.
    let next = k.variable(k.warp() * exchange.ctas + k.cta());
    k.for_each(k.u32(0), k.u32(exchange.local_experts_max()), k.u32(1), |expert| {
        let end = offsets.at(expert).load() + counts.at(expert).load();
        let padding = offsets.at(expert + 1).load() - end;
        k.repeat_while(
            || next.get().less(padding),
            || {
                zero_row(frame, tensor, end + next.get());
                next.set(next.get() + warps);
            },
        );
        next.set(next.get() - padding);
    });
}

fn zero_row<'k>(frame: &Frame<'k, '_>, tensor: Tensor, row: Value<'k, U32>) {
    let (k, exchange) = (frame.k, frame.exchange);
    let to: Pointer<Global, U8> = frame.tensor_row(tensor, row);
    let chunks = exchange.tensor_row_bytes(tensor) as u32 / 16;
    for_each_batch(k, chunks, payload::in_flight(exchange.threads), |pieces| {
        for piece in pieces {
            piece.when_active(|| piece.place_in(to.cast()).store(k.zero_chunk()));
        }
    });
    let scales = exchange.dispatch.scales(exchange.hidden);
    if tensor == Tensor::ExpertInput && scales > 0 {
        let to = frame.tensor_row(Tensor::ExpertInputScales, row);
        for_each_batch(k, scales, 1, |pieces| {
            for piece in pieces {
                piece.when_active(|| piece.place_in(to.cast::<F32>()).store(k.f32(0.0)));
            }
        });
    }
}
