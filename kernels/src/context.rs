//! MLIR contexts: one for each thread that needs one now, kept for the next.
//!
//! Invariant: a context is used by one thread at a time, the one that holds its [`Lease`]. Contexts are never destroyed, so that types and
//! attributes may have any lifetime; there are never more of them than threads that worked at the same time.

use std::sync::Mutex;

use melior::Context;
use melior::dialect::{DialectHandle, DialectRegistry};
use melior::utility::register_all_llvm_translations;

static FREE: Mutex<Vec<Free>> = Mutex::new(Vec::new());

struct Free(&'static Context);

// SAFETY: an MLIR context without a thread pool is plain memory with no ties to the thread that made it; whoever takes it out of the
// list is the only one who has it.
unsafe impl Send for Free {}

/// The right to use a context, given back when dropped.
pub(crate) struct Lease(&'static Context);

impl Lease {
    /// Takes a free context or makes one.
    pub fn take() -> Lease {
        let free = FREE.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
        Lease(free.map_or_else(make, |Free(context)| context))
    }

    /// The context. Nothing that refers to it may be used after the lease has ended.
    pub fn context(&self) -> &'static Context {
        self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        FREE.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(Free(self.0));
    }
}

fn make() -> &'static Context {
    let registry = DialectRegistry::new();
    // SAFETY: a handle is a constant of MLIR.
    let nvvm = unsafe { DialectHandle::from_raw(mlir_sys::mlirGetDialectHandle__nvvm__()) };
    for dialect in [DialectHandle::llvm(), nvvm, DialectHandle::gpu()] {
        dialect.insert_dialect(&registry);
    }
    let context = Context::new_with_registry(&registry, false);
    context.load_all_available_dialects();
    register_all_llvm_translations(&context);
    Box::leak(Box::new(context))
}
