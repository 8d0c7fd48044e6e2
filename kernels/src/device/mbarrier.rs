//! Barriers in shared memory that count arrivals of threads and bytes of bulk copies.
//!
//! Invariants: single-thread instructions, as inline PTX; an arrival releases and a test that passes acquires, in the scope of the CTA.
//! Whoever initialises one lets the other threads know by a barrier, and copies by [`Builder::fence_mbarrier_init`].

use super::Builder;
use super::memory::{Pointer, Shared};
use super::value::{Element, Pred, U32, U64, Value};

/// One barrier: 8 bytes, of which nothing but these methods makes sense.
#[derive(Clone, Copy)]
pub struct Mbarrier<'k>(Pointer<'k, Shared, U64>);

impl<'k> Mbarrier<'k> {
    /// In memory that holds nothing else.
    pub fn at(place: Pointer<'k, Shared, U64>) -> Mbarrier<'k> {
        Mbarrier(place)
    }

    pub(super) fn address(self) -> mlir_sys::MlirValue {
        self.0.raw
    }

    fn builder(self) -> &'k Builder {
        self.0.builder
    }

    /// Each phase needs so many arrivals. The first has parity 0.
    pub fn init(self, arrivals: u32) {
        let k = self.builder();
        let operands = [self.address(), k.u32(arrivals).raw];
        k.inline("mbarrier.init.shared::cta.b64 [$0], $1;", "r,r,~{memory}", &operands, None);
    }

    /// Its memory may hold something else.
    pub fn invalidate(self) {
        self.builder().inline("mbarrier.inval.shared::cta.b64 [$0];", "r,~{memory}", &[self.address()], None);
    }

    /// Arrives.
    pub fn arrive(self) {
        self.builder().inline("mbarrier.arrive.shared::cta.b64 _, [$0];", "r,~{memory}", &[self.address()], None);
    }

    /// Arrives, and lets the phase wait for so many bytes of copies besides.
    pub fn arrive_expecting(self, bytes: Value<'k, U32>) {
        let text = "mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1;";
        self.builder().inline(text, "r,r,~{memory}", &[self.address(), bytes.raw], None);
    }

    /// Whether the phase with this parity is complete; waits for a while before it says no.
    fn is_complete(self, parity: Value<'k, U32>) -> Value<'k, Pred> {
        let k = self.builder();
        let text = "{\n\t.reg .pred complete;\n\tmbarrier.try_wait.parity.shared::cta.b64 complete, [$1], $2;\n\tselp.b32 $0, 1, 0, complete;\n\t}";
        let raw = k.inline(text, "=r,r,r,~{memory}", &[self.address(), parity.raw], Some(U32::mlir(k.context())));
        Value::new(k, raw.expect("it has a result")).differs(k.u32(0))
    }

    /// Waits until the phase with this parity is complete: what arrived in it is visible to this thread. Lanes may leave it apart: a
    /// [`Builder::warp_barrier`] brings them together.
    pub fn wait(self, parity: Value<'k, U32>) {
        self.builder().repeat_while(|| !self.is_complete(parity), || {});
    }
}

impl Builder {
    /// What this thread has initialised is known to copies that it, or whoever knows of it, starts later.
    pub fn fence_mbarrier_init(&self) {
        self.inline("fence.mbarrier_init.release.cluster;", "~{memory}", &[], None);
    }
}
