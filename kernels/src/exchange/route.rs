//! Route: which slot each token takes at each rank.
//!
//! * Reads `indices` i32 `[tokens, K]`. Writes `slots` i32 `[tokens][R]` and `send_counts` u32 `[R]`; the status, when a pick is no expert
//!   or comes twice.
//! * One CTA per rank: it gives the tokens that go there their slots, in token order. The picks of each token are checked by one warp of
//!   the whole grid, a lane for each pick.
//! * Memory order: none but the CTA's own barriers; nothing leaves this rank.
//! * Cost: each CTA reads the indices twice, 8 × tokens × K bytes.

use moe_contract::{Buffer, Fault, Tensor};

use super::frame::Frame;
use super::order;
use crate::device::{Chunk, Global, Pointer, U32, Value};

pub(super) fn body<'k>(frame: &Frame<'k, '_>) {
    let (k, exchange) = (frame.k, frame.exchange);
    frame.end_on_error();
    check(frame);

    let (first, count) = frame.experts_of(k.cta());
    let slots = frame.buffer::<U32>(Buffer::Slots);
    let goes_here = |token: Value<'k, U32>| {
        let is_here = |pick: Value<'k, U32>| (pick - first).less(count);
        let any = picks(frame, token).into_iter().map(is_here).reduce(|any, here| any | here);
        (any.expect("top_k is at least 1"), token)
    };
    let sent = order::places(k, exchange.threads, frame.tokens(), exchange.top_k, goes_here, |entry| {
        let slot = entry.place.when(entry.listed, k.u32(u32::MAX));
        slots.at(entry.index * exchange.ranks + k.cta()).store(slot);
    });
    k.when(k.thread().equals(k.u32(0)), || frame.buffer(Buffer::SendCounts).at(k.cta()).store(sent));
}

/// All picks of a token, in 16-byte loads where rows allow.
fn picks<'k>(frame: &Frame<'k, '_>, token: Value<'k, U32>) -> Vec<Value<'k, U32>> {
    let top_k = frame.exchange.top_k;
    let row: Pointer<'k, Global, U32> = frame.tensor_row(Tensor::Indices, token).cast();
    if top_k.is_multiple_of(4) {
        (0..top_k / 4).flat_map(|chunk| row.cast::<Chunk>().at_constant(chunk).load().words()).collect()
    } else {
        (0..top_k).map(|pick| row.at_constant(pick).load()).collect()
    }
}

/// Reports the first wrong pick of a token.
fn check(frame: &Frame<'_, '_>) {
    let (k, exchange) = (frame.k, frame.exchange);
    let all = k.u32(exchange.gate_width());
    let (ranks, warps) = (exchange.ranks, frame.warps());
    k.for_each(k.warp() * ranks + k.cta(), frame.tokens(), k.u32(ranks * warps), |token| {
        let (none, has) = (k.u32(u32::MAX), k.lane().less(k.u32(exchange.top_k)));
        let row: Pointer<Global, U32> = frame.tensor_row(Tensor::Indices, token).cast();
        let pick = row.at(k.lane().min(k.u32(exchange.top_k - 1))).load();
        let chosen = has & pick.differs(none);
        let outside = chosen & pick.at_least(all);
        let twice = || chosen & (pick.same_lanes() & k.lanes_below() & k.ballot(chosen)).differs(k.u32(0));
        let wrong = if exchange.top_k == 1 { outside } else { outside | twice() };
        let lanes = k.ballot(wrong);
        k.when(wrong & (lanes & k.lanes_below()).equals(k.u32(0)), || {
            let words = [token.wide(), k.lane().wide(), pick.wide()];
            if exchange.top_k == 1 {
                return frame.report(Fault::PickOutOfRange, words);
            }
            k.when_else(
                outside,
                || frame.report(Fault::PickOutOfRange, words),
                || frame.report(Fault::PickTwice, words),
            );
        });
    });
}
