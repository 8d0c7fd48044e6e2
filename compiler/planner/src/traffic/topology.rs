//! Where the experts live: on ranks, and those on nodes.
//!
//! Invariants: every rank is of exactly one node; ranks of a node are contiguous; an expert that computes lives on at least one rank.

use moe_compiler::spec::Model;
use moe_contract::placement::{LayerSlots, Placement, Turns};
use moe_contract::{ExpertId, RankId};
use schemars::JsonSchema;
use serde::Serialize;
use thiserror::Error;

/// One NVLink domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
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
    /// The rank of each copy of each expert; none for one that computes nothing.
    homes: Vec<Vec<RankId>>,
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
    /// A placement of another model.
    #[error(
        "the placement is of {found} experts, and the model has {experts}: place the experts of this model with `moec place`"
    )]
    Experts {
        /// Of the placement.
        found: u32,
        /// Of the model.
        experts: u32,
    },
    /// A placement on other GPUs.
    #[error(
        "the placement is of {nodes} nodes × {gpus_per_node} GPUs, and the plan has {ranks} ranks on nodes of {ranks_per_node}: place for these \
         ranks with `moec place`, or plan `ep={}`",
        u64::from(*nodes) * u64::from(*gpus_per_node)
    )]
    OtherGpus {
        /// Of the placement.
        nodes: u32,
        /// Of the placement.
        gpus_per_node: u32,
        /// Of the plan.
        ranks: u32,
        /// Of the plan.
        ranks_per_node: u32,
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
                return Vec::new();
            }
            let index = next;
            next += 1;
            let in_larger = more * (each + 1);
            vec![RankId(if index < in_larger { index / (each + 1) } else { more + (index - in_larger) / each })]
        };
        let homes = (0..model.experts).map(home).collect();
        Ok(Topology { ranks, ranks_per_node: ranks.min(gpus_per_node), homes })
    }

    /// Experts where a layer of a placement puts them.
    ///
    /// # Errors
    /// If the placement is of another model or of other GPUs.
    pub fn placed(
        model: &Model,
        ranks: u32,
        gpus_per_node: u32,
        placement: &Placement,
        layer: &LayerSlots,
    ) -> Result<Topology, TopologyError> {
        let ranks_per_node = ranks.min(gpus_per_node);
        let (nodes, per_node) = (placement.nodes(), placement.gpus_per_node());
        if per_node != ranks_per_node || u64::from(nodes) * u64::from(per_node) != u64::from(ranks) {
            return Err(TopologyError::OtherGpus { nodes, gpus_per_node: per_node, ranks, ranks_per_node });
        }
        if placement.experts() != model.experts || model.stored_experts() != model.experts {
            return Err(TopologyError::Experts { found: placement.experts(), experts: model.stored_experts() });
        }
        let copies = |expert| layer.copies(ExpertId(expert)).iter().map(|&slot| layer.rank(slot)).collect();
        let homes = (0..model.experts).map(copies).collect();
        Ok(Topology { ranks, ranks_per_node, homes })
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

    /// The rank that a pick is sent to; none for −1 and for experts that compute nothing. Of several copies, the one whose turn it is.
    pub fn home(&self, pick: i32, turns: &mut Turns) -> Option<RankId> {
        let copies = usize::try_from(pick).ok().and_then(|expert| self.homes.get(expert))?;
        match copies[..] {
            [] => None,
            [only] => Some(only),
            _ => turns.next(pick, copies.len()).map(|turn| copies[turn]),
        }
    }

    /// Experts of the rank that has most, copies counted apart.
    pub fn experts_per_rank(&self) -> u32 {
        let mut counts = vec![0; self.ranks as usize];
        self.homes.iter().flatten().for_each(|rank| counts[rank.index()] += 1);
        counts.into_iter().max().unwrap_or(0)
    }

    /// On how many nodes each of `groups` groups of experts lies, largest first.
    pub fn nodes_of_groups(&self, groups: u32) -> Vec<u32> {
        let size = (self.homes.len() / groups.max(1) as usize).max(1);
        let nodes = |group: &[Vec<RankId>]| {
            let mut nodes: Vec<NodeId> = group.iter().flatten().map(|&rank| self.node_of(rank)).collect();
            nodes.sort_unstable();
            nodes.dedup();
            nodes.len() as u32
        };
        let mut spans: Vec<u32> = self.homes.chunks(size).map(nodes).collect();
        spans.sort_unstable_by(|a, b| b.cmp(a));
        spans
    }
}
