//! What an instruction says about the order of an access: order, scope and proxy.

/// Memory order of an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum Order {
    Weak,
    Volatile,
    Relaxed,
    Acquire,
    Release,
    AcqRel,
    SeqCst,
}

/// Scope of a strong access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum Scope {
    Cta,
    Cluster,
    Gpu,
    Sys,
}

/// Proxy through which the access is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Proxy {
    /// Ordinary loads and stores.
    Generic,
    /// Bulk copies.
    Async,
    /// Copies of tensors, which look at their maps.
    TensorMap,
    /// Non-coherent loads (`ld.global.nc`).
    NonCoherent,
}
