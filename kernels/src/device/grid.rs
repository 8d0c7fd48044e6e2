//! Launches that overlap the one before them (programmatic dependent launch).
//!
//! Invariant: a kernel with a [`Builder::grid_wait`] is one that may be launched before the end of the one before it, and says so
//! ([`DeviceCode::waits_for_grid`](super::DeviceCode::waits_for_grid)). It has to come on every path, before anything is read that a kernel
//! before it wrote, before anything is published, and before the kernel ends: the wait of the next one covers nothing that this one has not
//! waited for.

use super::Builder;

impl Builder {
    /// Waits for the end of the launch before this one in its stream: what it wrote is visible, through every proxy.
    pub fn grid_wait(&self) {
        self.note_grid_wait();
        self.intrinsic("llvm.nvvm.griddepcontrol.wait", &[], None);
    }

    /// Lets the next launch of the stream begin, when a thread of every CTA has come here or its CTA has ended. Orders nothing.
    pub fn launch_dependents(&self) {
        self.intrinsic("llvm.nvvm.griddepcontrol.launch.dependents", &[], None);
    }
}
