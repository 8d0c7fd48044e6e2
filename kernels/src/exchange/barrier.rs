//! Barrier: no rank leaves before every rank has arrived.
//!
//! * Adds 1 to this rank's flag on every rank, then waits for its own flags.
//! * One CTA.
//! * Memory order: each add is a release at system scope, each wait an acquire. Kernels of a stream run one after the other, so that
//!   everything a rank launched before its barrier is visible to what any rank launches after its own.
//! * Cost: 8 bytes to every rank.

use moe_contract::Flag;

use super::frame::Frame;

pub(super) fn body(frame: &Frame<'_, '_>) {
    // A single rank has nobody to meet.
    if frame.exchange.has_flags() {
        frame.end_on_error();
        frame.publish(Flag::Barrier);
        frame.wait(Flag::Barrier);
    }
}
