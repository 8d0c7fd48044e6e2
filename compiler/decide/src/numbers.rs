//! The numbers that kernels are specialised to, as a deploy and the command line say them.

use moe_contract::Topology;
use moe_front::spec::{Cluster, Deploy, Mode};

/// The numbers of a deploy that kernels are specialised to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// Ranks among which the experts are divided.
    pub ranks: u32,
    /// Most ranks of a node.
    pub per_node: u32,
    /// Most tokens of a rank in one call.
    pub tokens: u32,
    /// Multiprocessors for what is sent, where that is said.
    pub sms: Option<u32>,
    /// Multiprocessors for what has come, where that is said.
    pub sms_local: Option<u32>,
    /// What is optimised.
    pub mode: Mode,
}

impl Numbers {
    /// Of a deploy as it is written.
    pub fn of(deploy: &Deploy, cluster: &Cluster) -> Numbers {
        let (ranks, per_node) = (deploy.ep, cluster.gpus_per_node);
        Numbers {
            ranks,
            per_node,
            tokens: deploy.tokens.0,
            sms: deploy.sms,
            sms_local: deploy.sms_local,
            mode: deploy.mode,
        }
    }

    /// The nodes that the ranks fill.
    pub fn topology(&self) -> Topology {
        Topology { ranks: self.ranks, per_domain: self.per_node.min(self.ranks).max(1) }
    }
}
