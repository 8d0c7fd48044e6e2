//! Shared memory of a CTA: variables that the text declares, and named parts of dynamic shared memory, laid out here and nowhere else.
//!
//! Invariants: parts do not overlap, each begins at a multiple of [`ALIGNMENT`]; what a kernel has in all is at most [`MOST`], which is
//! checked when it is built. Only dynamic shared memory may be more than 48 KiB; whoever launches has to ask for
//! [`DeviceCode::dynamic_shared`](super::DeviceCode::dynamic_shared).

use super::Builder;
use super::memory::{Pointer, Shared, Space};
use super::value::{Element, U8};

/// Bytes of shared memory that a CTA can have, on every chip that there are kernels for.
pub const MOST: u32 = 227 * 1024;

/// Of the parts: a line of the cache, so that no two parts are in one.
pub const ALIGNMENT: u32 = 128;

/// A part of the dynamic shared memory of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedPart {
    /// What it is for.
    pub name: &'static str,
    /// Its first byte, counted from the first part.
    pub start: u32,
    /// Its length.
    pub bytes: u32,
}

/// # Panics
/// When a kernel has more than there is: what its parts hold is a matter of its code, not of a user's numbers.
pub(super) fn check(kernel: &str, statics: u32, parts: &[SharedPart]) {
    let dynamic = parts.last().map_or(0, |part| part.start + part.bytes);
    let total = statics.next_multiple_of(ALIGNMENT) + dynamic;
    assert!(
        total <= MOST,
        "{kernel} has {total} bytes of shared memory, a CTA at most {MOST}: {statics} static, {parts:?}"
    );
}

impl Builder {
    /// Memory of the CTA for `count` elements, 16-byte aligned, declared in the text.
    pub fn shared<T: Element>(&self, count: u32) -> Pointer<'_, Shared, T> {
        let bytes = count * T::BYTES;
        let start = self.static_shared().get().next_multiple_of(16);
        self.static_shared().set(start + bytes);
        let symbol = self.symbol(&format!("shared_{}", self.variables()));
        self.declare_shared(&symbol, bytes, 16, "#llvm.linkage<internal>");
        self.address_of_shared(&symbol)
    }

    /// A part of the CTA's dynamic shared memory for `count` elements.
    pub fn shared_part<T: Element>(&self, name: &'static str, count: u32) -> Pointer<'_, Shared, T> {
        let mut parts = self.shared_layout().borrow_mut();
        let symbol = self.symbol("dynamic");
        if parts.is_empty() {
            // Its length is a number of the launch.
            self.declare_shared(&symbol, 0, ALIGNMENT, "#llvm.linkage<external>");
        }
        let start = parts.last().map_or(0, |part| (part.start + part.bytes).next_multiple_of(ALIGNMENT));
        parts.push(SharedPart { name, start, bytes: count * T::BYTES });
        drop(parts);
        self.address_of_shared::<U8>(&symbol).at_constant(start).cast()
    }

    fn address_of_shared<T: Element>(&self, symbol: &str) -> Pointer<'_, Shared, T> {
        let symbol = self.attribute("global_name", &format!("@{symbol}"));
        let operation = self.operation("llvm.mlir.addressof", &[], Some(Shared::pointer_type(self.context())));
        Pointer::new(self, self.result(operation.add_attributes(&[symbol])))
    }
}
