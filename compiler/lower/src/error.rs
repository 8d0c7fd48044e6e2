//! Why there is no bundle.

use moe_bundle::{LimitError, ManifestError};
use moe_compiler::diagnostics::Diagnostics;

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
    #[error("deploy `{deploy}` cannot be built: {limit}")]
    Limit {
        /// The deploy.
        deploy: String,
        /// What is exceeded.
        limit: LimitError,
    },
    /// Kernels that contradict their plan: a bug.
    #[error("the kernels contradict the plan, which is a bug of this compiler: {0}")]
    Contradiction(#[from] ManifestError),
}
