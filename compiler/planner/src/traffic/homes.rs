//! Where the experts of a model live, on ranks that fit them.

use moe_contract::placement::{LayerSlots, Placement};
use moe_contract::{Homes, Topology};
use moe_front::spec::Model;
use thiserror::Error;

/// Ranks, nodes and experts do not fit.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TopologyError {
    /// A group that begins in the middle of a node.
    #[error("{ranks} ranks are not whole nodes of {gpus_per_node} GPUs, nor do they divide one")]
    PartOfNode { ranks: u32, gpus_per_node: u32 },
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
        ranks: u32,
        /// Experts that compute.
        experts: u32,
    },
}

/// Experts in contiguous blocks.
///
/// # Errors
/// If ranks and nodes, or ranks and experts, do not fit.
pub fn contiguous(model: &Model, ranks: u32, gpus_per_node: u32) -> Result<Homes, TopologyError> {
    let whole = ranks > 0 && (ranks.is_multiple_of(gpus_per_node) || gpus_per_node.is_multiple_of(ranks));
    if !whole {
        return Err(TopologyError::PartOfNode { ranks, gpus_per_node });
    }
    let experts = model.stored_experts();
    if ranks > experts {
        return Err(TopologyError::IdleRanks { ranks, experts });
    }
    let topology = Topology { ranks, per_domain: ranks.min(gpus_per_node) };
    Ok(Homes::contiguous(topology, (0..model.experts).map(|expert| !model.is_zero_expert(expert))))
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
) -> Result<Homes, TopologyError> {
    let ranks_per_node = ranks.min(gpus_per_node);
    let (nodes, per_node) = (placement.nodes(), placement.gpus_per_node());
    if per_node != ranks_per_node || u64::from(nodes) * u64::from(per_node) != u64::from(ranks) {
        return Err(TopologyError::OtherGpus { nodes, gpus_per_node: per_node, ranks, ranks_per_node });
    }
    if placement.experts() != model.experts || model.stored_experts() != model.experts {
        return Err(TopologyError::Experts { found: placement.experts(), experts: model.stored_experts() });
    }
    Ok(Homes::placed(Topology { ranks, per_domain: ranks_per_node }, model.experts, layer))
}
