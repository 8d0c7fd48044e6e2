//! Backward of combine, the receiving half: gradients of the experts' output, and of the weights.
//!
//! * Waits for `dispatch_arrival` of all sources. Reads the gradients of combined rows in the slots of the half of this epoch, the experts'
//!   output and the handle. Writes the gradient of each row of the experts' output (weight × gradient, rounded once; a copy when
//!   unweighted; zeros in padding rows, where the layout asks for them) and, when weighted, the gradient of each local pick's weight to `weight_gradients` of the source,
//!   then `gradient_arrival`.
//! * `ctas_link` CTAs, or up to `ctas_local` where it publishes nothing; one warp per copy, in the order of [`super::copies`], one pick after the other. A lane adds output × gradient of its chunks in ascending order; a butterfly
//!   adds the lanes. The order is part of the contract.
//! * Memory order: each CTA acquires every flag itself; weight gradients are weak stores before
//!   [`Frame::publish_together`].
//! * Cost, per source rank: what the table says ([`moe_contract::kernel`]).

use moe_contract::{Buffer, Flag, Region, Tensor};

use super::copies::{Copies, Copy};
use super::dispatch_place::{Rows, copy_rows, zero_padding};
use super::dispatch_send::pieces;
use super::frame::{Frame, Slot};
use super::link::Remote;
use super::payload;
use super::row::for_each_batch;
use crate::device::{Chunk, F32, Global, Pointer, U8, U32, Value};

pub(super) fn body(frame: &Frame<'_, '_>) {
    let exchange = frame.exchange;
    frame.wait_together(Flag::Dispatch);
    zero_padding(frame, frame.buffer::<U32>(Buffer::ExpertOffsets), Tensor::ExpertOutputGradient);
    Copies::for_each_of_handle(frame, |copy| {
        let gradient = frame.own(Region::Rows, copy.place_of_slot());
        if exchange.weighted {
            weigh(frame, copy, gradient);
        } else if exchange.layout.by_expert() {
            copy_gradient(frame, gradient, &Rows::of_lanes(frame, copy_rows(frame, copy)));
        } else {
            copy_gradient(frame, gradient, &Rows::One(copy.row()));
        }
    });
    if exchange.weighted {
        frame.publish_together(Flag::Gradient);
    }
}

fn copy_gradient<'k>(frame: &Frame<'k, '_>, gradient: Pointer<'k, Global, U8>, rows: &Rows<'k>) {
    let (k, exchange) = (frame.k, frame.exchange);
    for_each_batch(k, pieces(frame, exchange.combine), payload::in_flight(exchange.threads), |pieces| {
        let chunks: Vec<_> = pieces.iter().map(|piece| piece.load_from::<Chunk>(gradient.cast())).collect();
        rows.for_each(frame, |row| {
            let to = frame.tensor_row(Tensor::ExpertOutputGradient, row);
            for (piece, &chunk) in pieces.iter().zip(&chunks) {
                piece.when_active(|| piece.place_in(to.cast()).store(chunk));
            }
        });
    });
}

/// Gradients of the rows and weights of all local picks of a copy.
fn weigh<'k>(frame: &Frame<'k, '_>, copy: Copy<'k>, gradient: Pointer<'k, Global, U8>) {
    let (k, exchange) = (frame.k, frame.exchange);
    let (format, top_k) = (exchange.combine, exchange.top_k);
    let rows = copy_rows(frame, copy);
    let pick = k.lane().min(k.u32(top_k - 1));
    let weights = frame.buffer::<F32>(Buffer::CopyWeights).at(copy.place * top_k + pick).load();
    let token = frame.buffer::<U32>(Buffer::CopyTokens).at(copy.place).load();
    let slot = Slot { list: k.u32(0), index: token };
    let home = frame.place(Remote { peer: frame.peer(copy.source), region: Region::WeightGradients, slot });

    let left = k.variable(k.ballot(!rows.is_negative()));
    k.repeat_while(
        || left.get().differs(k.u32(0)),
        || {
            let lane = left.get().lowest_set();
            left.set(left.get().without_lowest_set());
            let (row, weight) = (rows.of_lane(lane), weights.of_lane(lane));
            let (output, to) =
                (frame.tensor_row(Tensor::ExpertOutput, row), frame.tensor_row(Tensor::ExpertOutputGradient, row));
            let sum = k.variable(k.f32(0.0));
            for_each_batch(k, pieces(frame, format), payload::in_flight(exchange.threads), |pieces| {
                let chunks: Vec<[Value<Chunk>; 2]> =
                    pieces.iter().map(|piece| [gradient, output].map(|row| piece.load_from(row.cast()))).collect();
                for (piece, chunks) in pieces.iter().zip(chunks) {
                    let [gradients, outputs] = chunks.map(|chunk| payload::numbers(format, chunk));
                    piece.when_active(|| {
                        let weighted: Vec<_> = gradients.iter().map(|&gradient| weight * gradient).collect();
                        piece.place_in(to.cast()).store(payload::chunk(k, format, &weighted));
                        for (&output, &gradient) in outputs.iter().zip(&gradients) {
                            sum.set(sum.get() + output * gradient);
                        }
                    });
                }
            });
            for distance in [16, 8, 4, 2, 1] {
                sum.set(sum.get() + sum.get().of_lane_xor(distance));
            }
            k.when(k.lane().equals(k.u32(0)), || home.store(lane, sum.get()));
        },
    );
}
