//! The kernels of an exchange: layout, dispatch, combine, their gradients, the barrier.
//!
//! Invariants:
//! * a kernel does what its row of the table says ([`moe_contract::kernel`]), with the arguments and CTAs that stand there;
//! * every number but tokens, rank, deadline and capacity is a constant of the code; epochs live on the device;
//! * results depend on the arguments only, never on which thread came first: places come from prefix sums;
//! * memory that a peer writes is read after an acquire at system scope of the flag that the peer released, in this kernel
//!   ([`frame::Frame::wait`]) or in an earlier one of the stream;
//! * nothing is written to a peer but through [`link`].
//!
//! # Order in memory
//! Publish: the threads of a CTA write to peers; `bar.sync` orders all of it before what the publishing threads do; each of them adds
//! to one flag with release at system scope, which is cumulative. Receive: one thread per source loads its flag with acquire at system
//! scope until all CTAs of the source have added; a CTA barrier orders that before the weak loads of every thread.
//!
//! Slot reuse: see "Epochs" in [`moe_contract::memory`]. A sender of epoch e has finished a waiting kernel of epoch e − 1, which
//! acquired a flag that every peer released after it had finished reading epoch e − 2 (stream order); the halves alternate.

mod barrier;
mod capacity;
mod combine_backward;
mod combine_reduce;
mod combine_send;
mod copies;
mod dispatch_count;
mod dispatch_place;
mod dispatch_send;
mod frame;
mod link;
mod order;
mod payload;
mod route;
mod row;
mod units;
mod weight_gradient_collect;
mod weight_gradient_send;

use moe_contract::{Exchange, Kernel, Tensor};

use crate::device::{Builder, DeviceCode, Parameters};
use combine_send::Weighting;
use dispatch_send::Sent;
use frame::Frame;

/// The kernels that an exchange needs, without those of the gate.
pub fn kernels(exchange: &Exchange) -> Vec<Kernel> {
    let needed = |kernel: &Kernel| kernel.is_of(exchange) && kernel.grid(exchange).is_some();
    Kernel::ALL.iter().copied().filter(needed).collect()
}

/// The code of a kernel.
///
/// # Panics
/// For [`Kernel::Gate`] and [`Kernel::GateBackward`], which are not specialised to an exchange but to a gate.
pub fn device_code(kernel: Kernel, exchange: &Exchange) -> DeviceCode {
    Builder::kernel(kernel.name(), exchange.threads, |k: &Builder, parameters: &mut Parameters| {
        let frame = Frame::bind(k, parameters, kernel, exchange);
        match kernel {
            Kernel::Gate | Kernel::GateBackward => panic!("{} is a kernel of a gate", kernel.name()),
            Kernel::Capacity => capacity::body(&frame),
            Kernel::Route => route::body(&frame),
            Kernel::DispatchSend => dispatch_send::body(&frame, Tensor::Tokens, Sent::RowsAndRecords),
            Kernel::DispatchSendCached => dispatch_send::body(&frame, Tensor::Tokens, Sent::Rows),
            Kernel::CombineBackwardSend => dispatch_send::body(&frame, Tensor::CombinedGradient, Sent::Rows),
            Kernel::DispatchCount => dispatch_count::body(&frame),
            Kernel::DispatchPlace => dispatch_place::body(&frame),
            Kernel::DispatchPlaceCached => dispatch_place::cached_body(&frame),
            Kernel::CombineSend => combine_send::body(&frame, Weighting::of(exchange)),
            Kernel::CombineSendUnweighted => combine_send::body(&frame, Weighting::Unweighted),
            Kernel::CombineReduce => combine_reduce::body(&frame),
            Kernel::CombineBackwardPlace => combine_backward::body(&frame),
            Kernel::WeightGradientSend => weight_gradient_send::body(&frame),
            Kernel::WeightGradientCollect => weight_gradient_collect::body(&frame),
            Kernel::Barrier => barrier::body(&frame),
        }
        frame.end();
    })
}
