//! Backward of combine, last step: the gradients of this rank's weights, collected from the ranks that computed them.
//!
//! * Waits for `gradient_arrival` of all ranks. Reads `weight_gradients` of the half of the dispatch epoch and the indices. Writes the
//!   weights' gradients f32 `[tokens, K]`; 0 for a pick that was sent nowhere, whose word no rank has written.
//! * `ctas` CTAs; one thread per pick.
//! * Memory order: each CTA acquires every flag itself.
//! * Cost: no bytes on links.

use moe_bundle::Tensor;
use moe_bundle::exchange::status;

use super::frame::{Frame, Wait};
use crate::device::{F32, Global, Pointer, U32};

pub(super) fn body(frame: &Frame<'_, '_>) {
    let (k, exchange) = (frame.k, frame.exchange);
    let layout = &exchange.symmetric;
    let at_least = frame.arrivals(frame.gradient_epoch());
    frame.wait_together(&Wait { flags: layout.gradient_arrival, at_least, code: status::GRADIENT_DEADLINE });

    let indices = frame.tensor::<U32>(Tensor::Indices);
    let half = frame.half().wide() * (4 * u64::from(exchange.max_tokens) * u64::from(exchange.top_k));
    let arrived: Pointer<Global, F32> = frame.symmetric(layout.weight_gradients).bytes(half).cast();
    let first = k.cta() * exchange.threads + k.thread();
    let threads = k.u32(exchange.ctas * exchange.threads);
    k.for_each(first, frame.tokens() * exchange.top_k, threads, |pick| {
        let gradient = k.variable(k.f32(0.0));
        // −1 is the largest number of all.
        let was_sent = indices.at(pick).load().less(k.u32(exchange.experts));
        k.when(was_sent, || gradient.set(arrived.at(pick).load()));
        frame.tensor::<F32>(Tensor::WeightGradients).at(pick).store(gradient.get());
    });
}
