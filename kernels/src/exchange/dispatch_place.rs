//! Dispatch, the receiving half, part two: rows to the experts' input. Also that of a cached dispatch.
//!
//! * Reads rows, scales and (new handle) records of the half of this epoch, `received_counts`, `expert_counts`, and `copy_rows`: for a new
//!   handle the places that `dispatch_count` has left there, for a cached one rows. Writes the experts' input and its scales, padding rows
//!   included, and completes a new handle: tokens, ordinals, rows and weights of copies, expert offsets, picks and weights of rows.
//! * Up to `ctas_local` CTAs; one warp per copy, which stores each batch of chunks to all rows of the copy before it loads the next. Padding rows are
//!   shared out among all warps; where a layout does not ask for zeros, what is behind the rows of an expert is not written.
//! * Memory order: `dispatch_count`, earlier in the stream, has acquired every flag; the cached kernel acquires them itself.
//! * Cost: no bytes on links; reads each received copy once, writes each row once.

use moe_contract::{Buffer, Flag, Region, RowLayout, Tensor};

use super::copies::{Copies, Copy};
use super::frame::Frame;
use super::payload;
use super::row::{Piece, for_each_batch};
use crate::device::{Chunk, Element, Global, Pointer, Shared, Space, U8, U32, U64, Value};

/// For a new handle.
pub(super) fn body(frame: &Frame<'_, '_>) {
    frame.end_on_error();
    if !frame.exchange.layout.by_expert() {
        return Copies::for_each_of_handle(frame, |copy| {
            complete_rank_major(frame, copy);
            place(frame, copy, Rows::One(copy.row()));
        });
    }
    let offsets = offsets(frame);
    zero_padding(frame, offsets, Tensor::ExpertInput);
    Copies::for_each_of_handle(frame, |copy| {
        let rows = complete_by_expert(frame, copy, offsets);
        place(frame, copy, Rows::of_lanes(frame, rows));
    });
}

/// For a handle that is complete.
pub(super) fn cached_body(frame: &Frame<'_, '_>) {
    frame.wait_together(Flag::Dispatch);
    if !frame.exchange.layout.by_expert() {
        return Copies::for_each_of_handle(frame, |copy| place(frame, copy, Rows::One(copy.row())));
    }
    zero_padding(frame, frame.buffer(Buffer::ExpertOffsets), Tensor::ExpertInput);
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
    let row = frame.buffer::<U32>(Buffer::CopyRows).at(copy.place * top_k + pick).load();
    row.when(k.lane().less(k.u32(top_k)), k.u32(u32::MAX))
}

/// A copy, and its scales, to its rows.
fn place<'k>(frame: &Frame<'k, '_>, copy: Copy<'k>, rows: Rows<'k>) {
    let exchange = frame.exchange;
    let in_flight = payload::in_flight(exchange.threads);
    let slot = copy.place_of_slot();
    copy_to_rows::<Chunk>(frame, frame.own(Region::Rows, slot), &rows, Tensor::ExpertInput, in_flight);
    match ScaleWords::of(frame) {
        None => {}
        Some(words) => {
            let from = frame.own(Region::Scales, slot);
            match words {
                ScaleWords::Words => copy_to_rows::<U32>(frame, from, &rows, Tensor::ExpertInputScales, 2),
                ScaleWords::Bytes => copy_to_rows::<U8>(frame, from, &rows, Tensor::ExpertInputScales, 2),
            }
        }
    }
}

/// One row of a tensor, in pieces of `T`, to several rows of it.
fn copy_to_rows<'k, T: Element>(
    frame: &Frame<'k, '_>,
    from: Pointer<'k, Global, U8>,
    rows: &Rows<'k>,
    tensor: Tensor,
    in_flight: u32,
) {
    let pieces = frame.exchange.tensor_row_bytes(tensor) as u32 / T::BYTES;
    for_each_batch(frame.k, pieces, in_flight, |pieces: &[Piece<'k>]| {
        let words: Vec<_> = pieces.iter().map(|piece| piece.load_from::<T>(from.cast())).collect();
        rows.for_each(frame, |row| {
            let to = frame.tensor_row(tensor, row).cast();
            for (piece, &word) in pieces.iter().zip(&words) {
                piece.when_active(|| piece.place_in(to).store(word));
            }
        });
    });
}

/// In which words the scales of a row move: a row of them is as aligned as its length.
#[derive(Clone, Copy)]
enum ScaleWords {
    Words,
    Bytes,
}

impl ScaleWords {
    /// `None` for a format without scales.
    fn of(frame: &Frame<'_, '_>) -> Option<ScaleWords> {
        match frame.exchange.tensor_row_bytes(Tensor::ExpertInputScales) {
            0 => None,
            bytes if bytes.is_multiple_of(u64::from(U32::BYTES)) => Some(ScaleWords::Words),
            _ => Some(ScaleWords::Bytes),
        }
    }
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
    let top_k = exchange.top_k;
    let record = frame.own(Region::Records, copy.place_of_slot()).cast::<U32>();
    let has_pick = k.lane().less(k.u32(top_k));
    let picks: Pointer<Global, U32> = record.at_constant(2).at(k.lane().min(k.u32(top_k - 1)));
    let head = record.cast::<U64>().load();
    let (pick, weight) = (picks.load(), picks.at_constant(top_k).load());
    k.when(k.lane().equals(k.u32(0)), || {
        frame.buffer(Buffer::CopyTokens).at(copy.place).store(head.low_word());
        frame.buffer(Buffer::CopyOrdinals).at(copy.place).store((head >> 32u64).low_word());
    });
    let weights = frame.buffer::<U32>(Buffer::CopyWeights);
    k.when(has_pick, || weights.at(copy.place * top_k + k.lane()).store(weight));
    let (first, count) = frame.experts_of(frame.rank());
    let expert = pick - first;
    Pick { weight, expert, local: has_pick & expert.less(count) }
}

/// Gives every local pick its row; the row of each lane's pick.
fn complete_by_expert<'k>(frame: &Frame<'k, '_>, copy: Copy<'k>, offsets: Pointer<'k, Shared, U32>) -> Value<'k, U32> {
    let (k, top_k) = (frame.k, frame.exchange.top_k);
    let pick = complete(frame, copy);
    let rows = frame.buffer::<U32>(Buffer::CopyRows).at(copy.place * top_k + k.lane());
    let row = k.variable(k.u32(u32::MAX));
    k.when(pick.local, || row.set(offsets.at(pick.expert).load() + rows.load()));
    k.when(k.lane().less(k.u32(top_k)), || rows.store(row.get()));
    if !frame.exchange.weighted {
        k.when(pick.local, || frame.buffer::<U32>(Buffer::RowWeights).at(row.get()).store(pick.weight));
    }
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
        store(Buffer::CopyRows, copy.place, copy.row().when(pick.local, none));
        store(Buffer::RowPicks, copy.row(), pick.expert.when(pick.local, none));
        store(Buffer::RowWeights, copy.row(), pick.weight);
    });
}

/// First row of each local expert, and the number of rows; CTA 0 stores them in the handle as well. All threads of the CTA run it.
fn offsets<'k>(frame: &Frame<'k, '_>) -> Pointer<'k, Shared, U32> {
    let (k, experts) = (frame.k, frame.exchange.local_experts_max());
    let counts = frame.buffer::<U32>(Buffer::ExpertCounts);
    let offsets = k.shared::<U32>(experts + 1);
    k.when(k.warp().equals(k.u32(0)), || {
        let total = k.variable(k.u32(0));
        // All lanes go through all rounds: they sum together.
        k.for_each(k.u32(0), k.u32(experts), k.u32(32), |first| {
            let expert = first + k.lane();
            let exists = expert.less(k.u32(experts));
            let count = counts.at(expert.min(k.u32(experts - 1))).load();
            let rows = group_rows(frame, count).when(exists, k.u32(0));
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
            frame.buffer(Buffer::ExpertOffsets).at(expert).store(offsets.at(expert).load());
        });
    });
    offsets
}

/// Rows from the start of an expert's group to the next.
fn group_rows<'k>(frame: &Frame<'k, '_>, count: Value<'k, U32>) -> Value<'k, U32> {
    let exchange = frame.exchange;
    match exchange.layout {
        RowLayout::ExpertMajor { align, .. } => (count + (align - 1)) / align * align,
        RowLayout::Batched => frame.k.u32(exchange.ranks * exchange.max_tokens),
        RowLayout::RankMajor => unreachable!("its rows are not by expert"),
    }
}

/// Zeros in the rows between the end of an expert and the next, and in their scales. The warps of all CTAs take one row each in turn.
pub(super) fn zero_padding<'k, S: Space>(frame: &Frame<'k, '_>, offsets: Pointer<'k, S, U32>, tensor: Tensor) {
    let (k, exchange) = (frame.k, frame.exchange);
    if !exchange.layout.pads() {
        return;
    }
    let ctas = frame.ctas();
    let counts = frame.buffer::<U32>(Buffer::ExpertCounts);
    let warps = ctas * frame.warps();
    // The first padding row of the expert that is this warp's.
    let next = k.variable(k.warp() * ctas + k.cta());
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
    let k = frame.k;
    zero::<Chunk>(frame, tensor, row, k.zero_chunk(), payload::in_flight(frame.exchange.threads));
    if tensor == Tensor::ExpertInput {
        match ScaleWords::of(frame) {
            None => {}
            Some(ScaleWords::Words) => zero::<U32>(frame, Tensor::ExpertInputScales, row, k.u32(0), 1),
            Some(ScaleWords::Bytes) => zero::<U8>(frame, Tensor::ExpertInputScales, row, k.u32(0).low_byte(), 1),
        }
    }
}

fn zero<'k, T: Element>(
    frame: &Frame<'k, '_>,
    tensor: Tensor,
    row: Value<'k, U32>,
    zero: Value<'k, T>,
    in_flight: u32,
) {
    let to = frame.tensor_row(tensor, row).cast::<T>();
    let pieces = frame.exchange.tensor_row_bytes(tensor) as u32 / T::BYTES;
    for_each_batch(frame.k, pieces, in_flight, |pieces| {
        pieces.iter().for_each(|piece| piece.when_active(|| piece.place_in(to).store(zero)));
    });
}
