//! Where the experts live: on ranks, and those on nodes.
//!
//! Invariants: every rank is of exactly one node; ranks of a node are contiguous; an expert that computes lives on one rank.

use moe_bundle::RankId;
use moe_compiler::spec::Model;
use serde::Serialize;
use thiserror::Error;

/// One NVLink domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct NodeId(pub u32);

impl NodeId {
    /// For looking into an array that has one entry per node.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The ranks of an expert-parallel group and their experts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    ranks: u32,
    ranks_per_node: u32,
    /// The rank of each expert; none for one that computes nothing.
    homes: Vec<Option<RankId>>,
}

/// Ranks, nodes and experts do not fit.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TopologyError {
    /// A group that begins in the middle of a node.
    #[error("{ranks} ranks are not whole nodes of {gpus_per_node} GPUs, nor do they divide one")]
    PartOfNode {
        /// Ranks.
        ranks: u32,
        /// GPUs of a node.
        gpus_per_node: u32,
    },
    /// Ranks without any expert.
    #[error("{ranks} ranks share {experts} experts: use at most {experts} ranks")]
    IdleRanks {
        /// Ranks.
        ranks: u32,
        /// Experts that compute.
        experts: u32,
    },
}

impl Topology {
    /// Experts in contiguous blocks: of E experts on R ranks, the first E mod R ranks own one more.
    ///
    /// # Errors
    /// If ranks and nodes, or ranks and experts, do not fit.
    pub fn contiguous(model: &Model, ranks: u32, gpus_per_node: u32) -> Result<Topology, TopologyError> {
        let whole = ranks > 0 && (ranks.is_multiple_of(gpus_per_node) || gpus_per_node.is_multiple_of(ranks));
        if !whole {
            return Err(TopologyError::PartOfNode { ranks, gpus_per_node });
        }
        let experts = model.stored_experts();
        if ranks > experts {
            return Err(TopologyError::IdleRanks { ranks, experts });
        }
        let (each, more) = (experts / ranks, experts % ranks);
        let mut next = 0;
        let home = |expert| {
            if model.is_zero_expert(expert) {
                return None;
            }
            let index = next;
            next += 1;
            let in_larger = more * (each + 1);
            Some(RankId(if index < in_larger { index / (each + 1) } else { more + (index - in_larger) / each }))
        };
        let homes = (0..model.experts).map(home).collect();
        Ok(Topology { ranks, ranks_per_node: ranks.min(gpus_per_node), homes })
    }

    /// Ranks.
    pub fn ranks(&self) -> u32 {
        self.ranks
    }

    /// Ranks of a node.
    pub fn ranks_per_node(&self) -> u32 {
        self.ranks_per_node
    }

    /// Nodes.
    pub fn nodes(&self) -> u32 {
        self.ranks / self.ranks_per_node
    }

    /// All experts, those that compute nothing included.
    pub fn experts(&self) -> u32 {
        self.homes.len() as u32
    }

    /// The node of a rank.
    pub fn node_of(&self, rank: RankId) -> NodeId {
        NodeId(rank.0 / self.ranks_per_node)
    }

    /// The rank of a node with the same local index as `rank`.
    pub fn on_rail(&self, rank: RankId, node: NodeId) -> RankId {
        RankId(node.0 * self.ranks_per_node + rank.0 % self.ranks_per_node)
    }

    /// The rank that a pick is sent to; none for −1 and for experts that compute nothing.
    pub fn home(&self, pick: i32) -> Option<RankId> {
        usize::try_from(pick).ok().and_then(|expert| self.homes.get(expert).copied().flatten())
    }

    /// Experts of the rank that has most.
    pub fn experts_per_rank(&self) -> u32 {
        let mut counts = vec![0; self.ranks as usize];
        self.homes.iter().flatten().for_each(|rank| counts[rank.index()] += 1);
        counts.into_iter().max().unwrap_or(0)
    }

    /// On how many nodes each of `groups` groups of experts lies, largest first.
    pub fn nodes_of_groups(&self, groups: u32) -> Vec<u32> {
        let size = (self.homes.len() / groups.max(1) as usize).max(1);
        let nodes = |group: &[Option<RankId>]| {
            let mut nodes: Vec<NodeId> = group.iter().flatten().map(|&rank| self.node_of(rank)).collect();
            nodes.sort_unstable();
            nodes.dedup();
            nodes.len() as u32
        };
        let mut spans: Vec<u32> = self.homes.chunks(size).map(nodes).collect();
        spans.sort_unstable_by(|a, b| b.cmp(a));
        spans
    }

    /// The ranks that a token is sent to, ascending, into `ranks`.
    pub fn destinations(&self, picks: &[i32], ranks: &mut Vec<RankId>) {
        ranks.clear();
        ranks.extend(picks.iter().filter_map(|&pick| self.home(pick)));
        ranks.sort_unstable();
        ranks.dedup();
    }
}
