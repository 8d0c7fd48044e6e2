//! Why there is no bundle.

use moe_bundle::ManifestError;
use moe_contract::{Kernel, LimitError};
use moe_decide::ChoiceError;
use moe_front::diagnostics::Diagnostics;
use moe_kernels::assemble::AssembleError;
use moe_kernels::gate::GateLimit;
use moe_kernels::ptx::PtxError;

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum LowerError {
    /// The user's file, at a place in it.
    #[error("the file cannot be built")]
    File(Diagnostics),
    /// What the command line asks for.
    #[error(transparent)]
    Choice(#[from] ChoiceError),
    /// A number that the kernels cannot be made for.
    #[error("model `{model}` cannot be built like this: {limit}")]
    Limit {
        model: String,
        /// What is exceeded.
        limit: LimitError,
    },
    /// A gate that the check of a file lets pass and the kernels do not know.
    #[error("the gate cannot be built: {0}")]
    Gate(#[from] GateLimit),
    /// Device code that is refused: a bug.
    #[error("a bug of this compiler: {0}")]
    Ptx(#[from] PtxError),
    /// PTX that breaks a rule: a bug.
    #[error("a bug of this compiler: kernel `{}`, {finding}", kernel.name())]
    Audit { kernel: Kernel, finding: String },
    /// The tools of the assembler.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    /// Kernels that contradict their plan: a bug.
    #[error("the kernels contradict the plan, which is a bug of this compiler: {0}")]
    Contradiction(#[from] ManifestError),
}
