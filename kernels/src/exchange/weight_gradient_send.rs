//! Gradients of weights that the experts computed: every copy's to its source.
//!
//! * Reads the gradients of row weights f32 `[N][P]` and the handle: `received_counts`, tokens and rows of copies. Writes the gradient of
//!   each local pick to `weight_gradients` of the source, then the flag of gradients.
//! * `ctas_link` CTAs; one warp per copy, in the order of [`super::copies`], a lane for each pick.
//! * Memory order: stores are weak; [`Frame::publish_together`] makes them visible before the flag.
//! * Cost, per source rank: what the table says ([`moe_contract::kernel`]).

use moe_contract::{Buffer, Flag, Region, Tensor};

use super::copies::Copies;
use super::dispatch_place::copy_rows;
use super::frame::{Frame, Slot};
use super::link::Remote;
use crate::device::{F32, U32};

pub(super) fn body(frame: &Frame<'_, '_>) {
    frame.end_on_error();
    let (k, exchange) = (frame.k, frame.exchange);
    Copies::for_each_of_handle(frame, |copy| {
        let token = frame.buffer::<U32>(Buffer::CopyTokens).at(copy.place).load();
        let slot = Slot { list: k.u32(0), index: token };
        let home = frame.place(Remote { peer: frame.peer(copy.source), region: Region::WeightGradients, slot });
        let row = copy_rows(frame, copy);
        k.when(!row.is_negative(), || {
            let of_row = frame.tensor_row(Tensor::RowWeightGradients, row).cast::<F32>();
            let gradient = if exchange.layout.by_expert() { of_row } else { of_row.at(k.lane()) };
            home.store(k.lane(), gradient.load());
        });
    });
    frame.publish_together(Flag::Gradient);
}
