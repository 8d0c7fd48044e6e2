//! Bulk copies between global and shared memory, and the fences between them and ordinary accesses.
//!
//! Invariants:
//! * addresses and lengths are multiples of 16 bytes;
//! * a copy to shared memory is over when the phase of its mbarrier is complete, for which the phase has to expect its bytes;
//! * a copy to global memory belongs to a group of the thread that starts it, and only this thread can wait for it;
//! * a copy reads and writes through the async proxy: what threads wrote to its source has to be fenced before, by the threads that wrote it or
//!   by the one that knows of it.

use super::Builder;
use super::mbarrier::Mbarrier;
use super::memory::{Global, Pointer, Shared};
use super::value::{Element, U8, U32, U64, Value};

/// How the second-level cache keeps what is copied.
#[derive(Clone, Copy)]
pub struct CachePolicy<'k>(Value<'k, U64>);

impl Builder {
    /// For what is read once: it is the first to go.
    pub fn evict_first(&self) -> CachePolicy<'_> {
        let text = "createpolicy.fractional.L2::evict_first.b64 $0, 0f3F800000;";
        let raw = self.inline(text, "=l", &[], Some(U64::mlir(self.context())));
        CachePolicy(Value::new(self, raw.expect("it has a result")))
    }

    /// Makes one group of this thread's copies to global memory since the last one.
    pub fn commit_copies(&self) {
        self.inline("cp.async.bulk.commit_group;", "~{memory}", &[], None);
    }

    /// Waits for all groups of this thread but the last `but`: what they wrote is there, and visible to this thread.
    pub fn wait_for_copies(&self, but: u32) {
        self.inline(&format!("cp.async.bulk.wait_group {but};"), "~{memory}", &[], None);
    }

    /// Waits until all groups of this thread but the last `but` have read their sources, which may then be written again. Of their targets
    /// nothing is known.
    pub fn wait_for_sources(&self, but: u32) {
        self.inline(&format!("cp.async.bulk.wait_group.read {but};"), "~{memory}", &[], None);
    }

    /// What this thread knows of ordinary accesses to shared memory comes before copies that are started later.
    pub fn fence_proxy_shared(&self) {
        self.inline("fence.proxy.async.shared::cta;", "~{memory}", &[], None);
    }

    /// What this thread knows of ordinary accesses to global memory comes before copies that are started later.
    pub fn fence_proxy_global(&self) {
        self.inline("fence.proxy.async.global;", "~{memory}", &[], None);
    }
}

impl<'k> Pointer<'k, Shared, U8> {
    /// Starts a copy of so many bytes from global memory to here, which the phase of the mbarrier has to expect.
    pub fn load_bulk(
        self,
        from: Pointer<'k, Global, U8>,
        bytes: Value<'k, U32>,
        done: Mbarrier<'k>,
        policy: CachePolicy<'k>,
    ) {
        let text = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [$0], [$1], $2, [$3], $4;";
        let operands = [self.raw, from.raw, bytes.raw, done.address(), policy.0.raw];
        self.builder.inline(text, "r,l,r,r,l,~{memory}", &operands, None);
    }

    /// Starts a copy of so many bytes from here to global memory, in the open group of this thread.
    pub fn store_bulk(self, to: Pointer<'k, Global, U8>, bytes: Value<'k, U32>) {
        let text = "cp.async.bulk.global.shared::cta.bulk_group [$0], [$1], $2;";
        self.builder.inline(text, "l,r,r,~{memory}", &[to.raw, self.raw, bytes.raw], None);
    }
}
