//! Where the experts are now.
//!
//! Invariant: every GPU of every layer has equally many slots. What it needs of the JSON of a placement is read, the rest is ignored, so
//! that a file written by hand needs no more: `nodes`, `gpus_per_node`, `slots_per_gpu` and, by layer, `layer` and `experts_by_slot`.

use moe_bundle::ExpertId;
use serde::Deserialize;

use super::{PlacementError, Shape};

/// A placement, without what was said of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Current {
    nodes: u32,
    gpus_per_node: u32,
    slots_per_gpu: u32,
    layers: Vec<CurrentLayer>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct CurrentLayer {
    layer: u32,
    experts_by_slot: Vec<ExpertId>,
}

impl Current {
    /// Of layers with the experts of each slot, GPU by GPU.
    ///
    /// # Errors
    /// If a layer has another number of slots.
    pub fn new(
        nodes: u32,
        gpus_per_node: u32,
        slots_per_gpu: u32,
        layers: impl IntoIterator<Item = (u32, Vec<ExpertId>)>,
    ) -> Result<Current, PlacementError> {
        let layers =
            layers.into_iter().map(|(layer, experts_by_slot)| CurrentLayer { layer, experts_by_slot }).collect();
        Current { nodes, gpus_per_node, slots_per_gpu, layers }.checked()
    }

    /// Reads the JSON of a placement.
    ///
    /// # Errors
    /// Text that is none, with line and column, or slots that do not fit the GPUs.
    pub fn from_json(text: &[u8]) -> Result<Current, PlacementError> {
        serde_json::from_slice::<Current>(text)?.checked()
    }

    fn checked(self) -> Result<Current, PlacementError> {
        let slots = u128::from(self.nodes) * u128::from(self.gpus_per_node) * u128::from(self.slots_per_gpu);
        let wrong = self.layers.iter().find(|layer| slots == 0 || layer.experts_by_slot.len() as u128 != slots);
        if let Some(CurrentLayer { layer, experts_by_slot }) = wrong {
            return Err(PlacementError::Current(format!(
                "layer {layer} has {} slots, and {} nodes × {} GPUs × {} slots are {slots}",
                experts_by_slot.len(),
                self.nodes,
                self.gpus_per_node,
                self.slots_per_gpu
            )));
        }
        Ok(self)
    }

    /// Slots of a GPU.
    pub(super) fn slots_per_gpu(&self) -> usize {
        self.slots_per_gpu as usize
    }

    /// The experts of each GPU of one layer.
    pub(super) fn by_gpu(&self, shape: &Shape, layer: u32, experts: usize) -> Result<Vec<Vec<usize>>, PlacementError> {
        if (self.nodes, self.gpus_per_node) != (shape.nodes, shape.gpus_per_node) {
            return Err(PlacementError::Current(format!(
                "it is of {} nodes of {} GPUs, and {} nodes of {} GPUs are asked for; place without it",
                self.nodes, self.gpus_per_node, shape.nodes, shape.gpus_per_node
            )));
        }
        let Some(found) = self.layers.iter().find(|found| found.layer == layer) else {
            return Err(PlacementError::Current(format!("it has no layer {layer}, which the load has")));
        };
        let mut copies = vec![0_usize; experts];
        for (slot, expert) in found.experts_by_slot.iter().enumerate() {
            match copies.get_mut(expert.0 as usize) {
                Some(copies) => *copies += 1,
                None => {
                    return Err(PlacementError::Current(format!(
                        "layer {layer}, slot {slot}: {expert} does not exist; the load has {experts} experts"
                    )));
                }
            }
        }
        if let Some(expert) = copies.iter().position(|&copies| copies == 0) {
            return Err(PlacementError::Current(format!("layer {layer} has no slot of expert {expert}")));
        }
        let experts = found.experts_by_slot.chunks(self.slots_per_gpu());
        Ok(experts.map(|gpu| gpu.iter().map(|expert| expert.0 as usize).collect()).collect())
    }
}
