//! Why there is no bundle.

use moe_bundle::ManifestError;
use moe_compiler::diagnostics::Diagnostics;
use moe_contract::{Kernel, LimitError};
use moe_kernels::assemble::AssembleError;
use moe_kernels::gate::GateLimit;
use moe_kernels::ptx::PtxError;

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum LowerError {
    /// The user's file, at a place in it.
    #[error("the file cannot be built")]
    File(Diagnostics),
    /// No deploy of that name.
    #[error("the file has no deploy `{name}`; it has {known}")]
    NoSuchDeploy {
        /// What was asked for.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// Several deploys and no choice.
    #[error("the file has {count} deploys: choose one with `--deploy`, {known}")]
    WhichDeploy {
        /// How many.
        count: usize,
        /// Those that there are.
        known: String,
    },
    /// No deploy at all.
    #[error(
        "the file has no deploy, so that nothing says how many ranks and tokens there are: add `deploy NAME of MODEL on CLUSTER {{ ep … }}`"
    )]
    NoDeploy,
    /// Ranks that were asked for on the command line.
    #[error(
        "{nodes} nodes of {gpus_per_node} GPUs: there are kernels for the ranks of one node only; `--nodes 1` keeps all ranks in one"
    )]
    Nodes {
        /// How many.
        nodes: u32,
        /// GPUs of each.
        gpus_per_node: u32,
    },
    /// More tokens than the deploy allows.
    #[error(
        "{tokens} tokens per rank, but deploy `{deploy}` says `tokens {most} per gpu`: ask for at most {most}, or change the deploy"
    )]
    Tokens {
        /// Asked for.
        tokens: u32,
        /// The deploy.
        deploy: String,
        /// Its limit.
        most: u32,
    },
    /// A number that the kernels cannot be made for.
    #[error("model `{model}` cannot be built like this: {limit}")]
    Limit {
        /// The model.
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
    Audit {
        /// The kernel.
        kernel: Kernel,
        /// What it does.
        finding: String,
    },
    /// The tools of the assembler.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    /// Kernels that contradict their plan: a bug.
    #[error("the kernels contradict the plan, which is a bug of this compiler: {0}")]
    Contradiction(#[from] ManifestError),
}
