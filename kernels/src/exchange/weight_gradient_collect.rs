//! Backward of combine, last step: the gradients of this rank's weights, collected from the ranks that computed them.
//!
//! * Waits for `gradient_arrival` of all ranks. Reads `weight_gradients` of the half of this epoch and the indices. Writes the
//!   weights' gradients f32 `[tokens, K]`; 0 for a pick that was sent nowhere, whose word no rank has written.
//! * Up to `ctas_local` CTAs; one thread per pick.
//! * Memory order: each CTA acquires every flag itself.
//! * Cost: no bytes on links.

use moe_contract::{Flag, Region, Tensor};

use super::frame::Frame;
use crate::device::{F32, Global, Pointer, U32};

pub(super) fn body(frame: &Frame<'_, '_>) {
    let (k, exchange) = (frame.k, frame.exchange);
    frame.wait_together(Flag::Gradient);

    let indices = frame.tensor::<U32>(Tensor::Indices);
    let arrived: Pointer<Global, F32> = frame.own_first(Region::WeightGradients).cast();
    let first = k.cta() * exchange.threads + k.thread();
    let threads = frame.ctas() * exchange.threads;
    k.for_each(first, frame.tokens() * exchange.top_k, threads, |pick| {
        let gradient = k.variable(k.f32(0.0));
        // −1 is the largest number of all.
        let was_sent = indices.at(pick).load().less(k.u32(exchange.experts));
        k.when(was_sent, || gradient.set(arrived.at(pick).load()));
        frame.tensor::<F32>(Tensor::WeightGradients).at(pick).store(gradient.get());
    });
}
