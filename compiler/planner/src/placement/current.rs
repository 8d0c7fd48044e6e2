//! Where the experts are now.

use moe_contract::placement::Placement;

use super::{PlacementError, Shape};

/// The experts of each GPU of one layer of the current placement.
pub(super) fn by_gpu(
    current: &Placement,
    shape: &Shape,
    layer: u32,
    experts: u32,
) -> Result<Vec<Vec<usize>>, PlacementError> {
    if (current.nodes(), current.gpus_per_node()) != (shape.nodes, shape.gpus_per_node) {
        return Err(PlacementError::Current(format!(
            "it is of {} nodes of {} GPUs, and {} nodes of {} GPUs are asked for; place without it",
            current.nodes(),
            current.gpus_per_node(),
            shape.nodes,
            shape.gpus_per_node
        )));
    }
    if current.experts() != experts {
        return Err(PlacementError::Current(format!(
            "the largest expert of it is {}, and the load has {experts} experts; give the placement of this model",
            current.experts() - 1
        )));
    }
    let Some(found) = current.layer(layer) else {
        return Err(PlacementError::Current(format!("it has no layer {layer}, which the load has")));
    };
    let experts = found.experts_by_slot().chunks(current.slots_per_gpu() as usize);
    Ok(experts.map(|gpu| gpu.iter().map(|expert| expert.0 as usize).collect()).collect())
}
