//! Which deploy of a file, and what the command line changes of it.

use std::fmt::Write as _;

use moe_contract::LimitError;
use moe_front::spec::{DeployId, Spec, Target};

/// What of a file is compiled. The default is the only deploy, as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    pub deploy: Option<String>,
    /// Nodes over which the ranks are spread, instead of those of the deploy.
    pub nodes: Option<u32>,
    /// Ranks of each node, instead of those of the deploy.
    pub gpus_per_node: Option<u32>,
    /// Most tokens of a rank in one call; not more than the deploy says.
    pub tokens: Option<u32>,
    /// Architectures, instead of the cluster's.
    pub targets: Vec<Target>,
}

/// A choice that the file does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    #[error("the file has no deploy `{name}`; it has {known}")]
    NoSuchDeploy { name: String, known: String },
    /// Several deploys and no choice.
    #[error("the file has {count} deploys: choose one with `--deploy`, {known}")]
    WhichDeploy { count: usize, known: String },
    #[error(
        "the file has no deploy, so that nothing says how many ranks and tokens there are: add `deploy NAME of MODEL on CLUSTER {{ ep … }}`"
    )]
    NoDeploy,
    /// Ranks that were asked for on the command line.
    #[error(
        "{nodes} nodes of {gpus_per_node} GPUs: there are kernels for the ranks of one node only; `--nodes 1` keeps all ranks in one"
    )]
    Nodes { nodes: u32, gpus_per_node: u32 },
    /// More tokens than the deploy allows.
    #[error(
        "{tokens} tokens per rank, but deploy `{deploy}` says `tokens {most} per gpu`: ask for at most {most}, or change the deploy"
    )]
    Tokens { tokens: u32, deploy: String, most: u32 },
    /// Ranks of the command line that the kernels cannot be made for.
    #[error("model `{model}` cannot be built like this: {limit}")]
    Limit {
        model: String,
        /// What is exceeded.
        limit: LimitError,
    },
}

/// The deploy of that name, or the only one.
///
/// # Errors
/// If there is none of that name, or if there are several and no name.
pub fn choose_deploy(spec: &Spec, name: Option<&str>) -> Result<DeployId, ChoiceError> {
    let known = || {
        let mut text = String::new();
        for (id, deploy) in spec.deploys.iter() {
            let separator = if id == spec.deploys.iter().next().map_or(id, |(first, _)| first) { "" } else { ", " };
            // Writing to a string does not fail.
            let _ = write!(text, "{separator}`{}`", deploy.name);
        }
        text
    };
    let mut all = spec.deploys.iter().map(|(id, _)| id);
    match (name, all.next(), all.next()) {
        (_, None, _) => Err(ChoiceError::NoDeploy),
        (Some(name), ..) => {
            spec.deploy(name).ok_or_else(|| ChoiceError::NoSuchDeploy { name: name.into(), known: known() })
        }
        (None, Some(only), None) => Ok(only),
        (None, Some(_), Some(_)) => Err(ChoiceError::WhichDeploy { count: spec.deploys.len(), known: known() }),
    }
}
