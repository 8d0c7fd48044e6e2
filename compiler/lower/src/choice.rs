//! What of a file is compiled, and what the command line changes.

use moe_compiler::spec::Target;

/// What of a file is compiled. The default is the only deploy, as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Which deploy.
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
