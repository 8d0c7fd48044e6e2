//! Combine, the receiving half: the partial sums of every token are added.
//!
//! * Waits for `combine_arrival` of all ranks. Reads `slots` i32 `[tokens][R]`, which says how many partial sums a token has, and `partials`
//!   of the half of this epoch. Writes the combined rows `[tokens, h]`; zeros for a token that was sent nowhere.
//! * Up to `ctas_local` CTAs; one warp per token, or several where there are fewer tokens than warps. Partial sums lie in ascending rank; they are added in f32 in this order, the first starts the sum,
//!   and the sum is rounded once.
//! * Memory order: each CTA acquires every flag itself.
//! * Cost: no bytes on links; reads each partial sum once.

use moe_contract::{Buffer, Flag, Region, Tensor};

use super::combine_send::Sums;
use super::dispatch_send::pieces;
use super::frame::{Frame, Slot};
use super::payload;
use super::row::{self, Piece, for_each_batch_of_part};
use crate::device::{Chunk, F32, Global, Pointer, U32, Value};

pub(super) fn body<'k>(frame: &Frame<'k, '_>) {
    let (k, exchange) = (frame.k, frame.exchange);
    let format = exchange.combine;
    frame.wait_together(Flag::Combine);

    let (pieces, in_flight) = (pieces(frame, format), payload::sums_in_flight(exchange.threads));
    frame.for_each_part_by_warps(frame.tokens(), row::batches(pieces, in_flight), |token, part| {
        let count = destinations(frame, token);
        let to = frame.tensor_row(Tensor::Combined, token);
        let term = |ordinal: Value<'k, U32>, pieces: &[Piece<'k>]| -> Vec<Vec<Value<'k, F32>>> {
            let from = frame.own(Region::Partials, Slot { list: ordinal, index: token });
            let chunks: Vec<_> = pieces.iter().map(|piece| piece.load_from::<Chunk>(from.cast())).collect();
            chunks.into_iter().map(|chunk| payload::numbers(format, chunk)).collect()
        };
        for_each_batch_of_part(k, pieces, in_flight, part, |pieces| {
            k.when_else(
                count.equals(k.u32(0)),
                || {
                    for piece in pieces {
                        piece.when_active(|| piece.place_in(to.cast()).store(k.zero_chunk()));
                    }
                },
                || {
                    let sums = Sums::start(k, term(k.u32(0), pieces));
                    k.for_each(k.u32(1), count, k.u32(1), |ordinal| sums.add(&term(ordinal, pieces)));
                    for (piece, sum) in pieces.iter().zip(sums.get()) {
                        let chunk = payload::chunk(k, format, &sum);
                        piece.when_active(|| piece.place_in(to.cast()).store(chunk));
                    }
                },
            );
        });
    });
}

/// To how many ranks a token was sent. All lanes run it.
fn destinations<'k>(frame: &Frame<'k, '_>, token: Value<'k, U32>) -> Value<'k, U32> {
    let (k, ranks) = (frame.k, frame.exchange.ranks);
    let slots = frame.buffer::<U32>(Buffer::Slots).bytes(token.wide() * (4 * u64::from(ranks)));
    let slots: Pointer<Global, U32> = slots.cast();
    let mut count = k.u32(0);
    for group in 0..frame.rank_groups() {
        let rank = k.lane() + 32 * group;
        let slot = slots.at(rank.min(k.u32(ranks - 1))).load();
        count = count + k.ballot(rank.less(k.u32(ranks)) & !slot.is_negative()).count_ones();
    }
    count
}
