//! Why there is no PTX.

/// Why there is no PTX.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PtxError {
    /// Not one of [`super::Chip::ALL`].
    #[error("there are no kernels for `{name}`: targets are sm_90a and sm_100a")]
    UnknownChip { name: String },
    /// MLIR or LLVM refused a kernel. A bug of this crate.
    #[error("kernel `{kernel}`: {stage} failed: {messages}")]
    Refused {
        kernel: String,
        /// What was done to it.
        stage: &'static str,
        /// What MLIR said.
        messages: String,
    },
}
