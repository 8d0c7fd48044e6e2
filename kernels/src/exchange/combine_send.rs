//! Combine, the sending half: the partial sum of every received copy to its source. Also the backward of dispatch, without weights.
//!
//! * Reads the experts' output `[N, h]` and the handle: `received_counts`, tokens, ordinals, rows and weights of copies. Writes
//!   `partials` at the source: slot (ordinal, token) of the half of this epoch, and `combine_arrival`.
//! * `ctas_link` CTAs; one warp per copy, in the order of [`super::copies`], a lane for each of its picks. Several warps share a
//!   copy where there are fewer copies than warps. For each batch of chunks the local picks are added in ascending position
//!   in f32, the first starts the sum, and the sum is rounded once. In a rank-major layout a copy is one row.
//! * Memory order: stores are weak; [`Frame::publish_together`] makes them visible before the flag.
//! * Cost, per source rank: what the table says ([`moe_contract::kernel`]); each row of the output is read once.

use moe_contract::{Buffer, Exchange, Flag, Region, Tensor};

use super::copies::{Copies, Copy};
use super::dispatch_place::copy_rows;
use super::dispatch_send::pieces;
use super::frame::{Frame, Slot};
use super::link::Remote;
use super::payload;
use super::row::{self, Part, Piece, for_each_batch_of_part};
use crate::device::{Builder, Chunk, F32, U32, Value, Variable};

/// Whether rows are multiplied by their weights.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Weighting {
    Weighted,
    Unweighted,
}

impl Weighting {
    pub fn of(exchange: &Exchange) -> Weighting {
        if exchange.weighted { Weighting::Weighted } else { Weighting::Unweighted }
    }
}

pub(super) fn body(frame: &Frame<'_, '_>, weighting: Weighting) {
    frame.end_on_error();
    let batches = row::batches(pieces(frame, frame.exchange.combine), payload::sums_in_flight(frame.exchange.threads));
    Copies::for_each_part_of_handle(frame, batches, |copy, part| send(frame, weighting, copy, part));
    frame.publish_together(Flag::Combine);
}

fn send<'k>(frame: &Frame<'k, '_>, weighting: Weighting, copy: Copy<'k>, part: Option<Part<'k>>) {
    let (k, exchange) = (frame.k, frame.exchange);
    let format = exchange.combine;
    let token = frame.buffer::<U32>(Buffer::CopyTokens).at(copy.place).load();
    let ordinal = frame.buffer::<U32>(Buffer::CopyOrdinals).at(copy.place).load();
    let slot = Slot { list: ordinal, index: token };
    let to = frame.place(Remote { peer: frame.peer(copy.source), region: Region::Partials, slot });

    let rows = copy_rows(frame, copy);
    let lanes = k.ballot(!rows.is_negative());
    let weights = match weighting {
        Weighting::Weighted => {
            let pick = k.lane().min(k.u32(exchange.top_k - 1));
            Some(frame.buffer::<F32>(Buffer::CopyWeights).at(copy.place * exchange.top_k + pick).load())
        }
        Weighting::Unweighted => None,
    };
    // The elements of the pick of a lane, weighed.
    let term = |lane: Value<'k, U32>, pieces: &[Piece<'k>]| -> Vec<Vec<Value<'k, F32>>> {
        let row = frame.tensor_row(Tensor::ExpertOutput, rows.of_lane(lane));
        let weight = weights.map(|weights| weights.of_lane(lane));
        let chunks: Vec<_> = pieces.iter().map(|piece| piece.load_from::<Chunk>(row.cast())).collect();
        let weigh = |number| weight.map_or(number, |weight| weight * number);
        chunks.into_iter().map(|chunk| payload::numbers(format, chunk).into_iter().map(weigh).collect()).collect()
    };
    for_each_batch_of_part(k, pieces(frame, format), payload::sums_in_flight(exchange.threads), part, |pieces| {
        let sums = Sums::start(k, term(lanes.lowest_set(), pieces));
        if exchange.layout.by_expert() {
            let left = k.variable(lanes.without_lowest_set());
            k.repeat_while(
                || left.get().differs(k.u32(0)),
                || {
                    sums.add(&term(left.get().lowest_set(), pieces));
                    left.set(left.get().without_lowest_set());
                },
            );
        }
        for (piece, sum) in pieces.iter().zip(sums.get()) {
            let chunk = payload::chunk(k, format, &sum);
            piece.when_active(|| to.store_piece(*piece, chunk));
        }
    });
}

/// Sums of the elements of a few chunks, added one row after the other.
pub(super) struct Sums<'k>(Vec<Vec<Variable<'k, F32>>>);

impl<'k> Sums<'k> {
    /// The first row starts the sums.
    pub fn start(k: &'k Builder, first: Vec<Vec<Value<'k, F32>>>) -> Sums<'k> {
        let of_chunk = |numbers: Vec<_>| numbers.into_iter().map(|number| k.variable(number)).collect();
        Sums(first.into_iter().map(of_chunk).collect())
    }

    /// A further row is added.
    pub fn add(&self, row: &[Vec<Value<'k, F32>>]) {
        for (sums, numbers) in self.0.iter().zip(row) {
            sums.iter().zip(numbers).for_each(|(sum, &number)| sum.set(sum.get() + number));
        }
    }

    /// By chunk.
    pub fn get(&self) -> Vec<Vec<Value<'k, F32>>> {
        self.0.iter().map(|chunk| chunk.iter().map(|sum| sum.get()).collect()).collect()
    }
}
