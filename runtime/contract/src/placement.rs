//! Which GPU holds which experts, and which of them more than once: the file that `moec place` writes, as planner and runtime read it.
//!
//! Invariants of a [`Placement`]: every layer has equally many slots on every GPU, every slot holds an expert that exists, every expert
//! has a slot in every layer, and no layer stands there twice.
//!
//! # The file
//! JSON. Read are `format` ("moe-placement") and `version` (1), both optional; `nodes`, `gpus_per_node`, `slots_per_gpu`; `experts`,
//! optional, else as many as the slots name; and `layers`, each with `layer` and `experts_by_slot`. Slot s is on GPU s / `slots_per_gpu`,
//! GPU g on node g / `gpus_per_node`. Anything else is what the planner says of the placement, and is not read.
//!
//! # For a runtime
//! The kernels know no further copies of an expert: they put experts on ranks in equal contiguous blocks. A layer whose *slots* are the
//! experts of the kernels is therefore placed as the file says: build the kernels of a model with [`Placement::slots`] experts, choose
//! experts with the gate of the real model, and rewrite its choice with [`LayerSlots::choose_slots`] before the dispatch.
//!
//! # Whose turn it is
//! The copies of an expert take turns, pick by pick in the order of a rank's tokens, so that on every rank they serve equally many, or one
//! apart ([`Turns`]). A rank does not know what the others pick. It begins where the ranks before it would have ended if each of them had
//! as many picks of the expert as it has itself: where that is so, copies serve equally many over all ranks too, or one apart, and where
//! it is not, no copy is preferred.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{ExpertId, RankId};

/// What `format` says.
pub const FORMAT: &str = "moe-placement";
/// The version that is written, and the newest that is read.
pub const VERSION: u32 = 1;

/// A slot of a layer: the place of one copy of one expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SlotId(pub u32);

/// The experts of all layers in their slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    nodes: u32,
    gpus_per_node: u32,
    slots_per_gpu: u32,
    experts: u32,
    layers: Vec<LayerSlots>,
}

/// The experts of one layer in their slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerSlots {
    layer: u32,
    slots_per_gpu: u32,
    experts_by_slot: Vec<ExpertId>,
    /// Slots of each expert, ascending.
    copies: Vec<Vec<SlotId>>,
}

/// A placement that is none.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the message says what each field is")]
pub enum PlacementError {
    /// Not JSON, or a field is missing or of another type.
    #[error("{0}; give a file that `moec place -o` wrote")]
    Json(#[from] serde_json::Error),
    /// Another kind of file.
    #[error("its format is `{0}`, not `{FORMAT}`; give a file that `moec place -o` wrote")]
    Format(String),
    /// Written by a later program.
    #[error(
        "its version is {0}, and this program reads up to {VERSION}: place anew with `moec place`, or use a newer program"
    )]
    Version(u32),
    /// Nothing in it.
    #[error("it has no layer")]
    Empty,
    /// Two layers of one name.
    #[error("layer {0} stands there twice; keep one")]
    Twice(u32),
    /// Slots that do not fill the GPUs.
    #[error(
        "layer {layer} has {found} slots, and {nodes} nodes × {gpus_per_node} GPUs × {slots_per_gpu} slots are {expected}"
    )]
    Slots {
        layer: u32,
        /// Its slots.
        found: usize,
        nodes: u32,
        gpus_per_node: u32,
        slots_per_gpu: u32,
        /// Their product.
        expected: u128,
    },
    /// No such expert.
    #[error("layer {layer}, slot {slot}: {expert} does not exist; there are experts 0 to {last}")]
    UnknownExpert {
        layer: u32,
        /// Of the layer.
        slot: usize,
        expert: ExpertId,
        /// The last expert.
        last: u32,
    },
    /// An expert without a place.
    #[error("layer {layer} has no slot of {expert}; every expert needs one")]
    NoSlot { layer: u32, expert: ExpertId },
}

#[derive(Deserialize)]
struct File {
    format: Option<String>,
    version: Option<u32>,
    nodes: u32,
    gpus_per_node: u32,
    slots_per_gpu: u32,
    experts: Option<u32>,
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    layer: u32,
    experts_by_slot: Vec<ExpertId>,
}

impl Placement {
    /// Reads the file.
    ///
    /// # Errors
    /// What is wrong with it, with its place: line and column, or layer and slot.
    pub fn from_json(text: &[u8]) -> Result<Placement, PlacementError> {
        let file: File = serde_json::from_slice(text)?;
        match (file.format, file.version) {
            (Some(format), _) if format != FORMAT => return Err(PlacementError::Format(format)),
            (_, Some(version)) if version > VERSION => return Err(PlacementError::Version(version)),
            _ => {}
        }
        let layers = file.layers.into_iter().map(|layer| (layer.layer, layer.experts_by_slot));
        Placement::new(file.nodes, file.gpus_per_node, file.slots_per_gpu, file.experts, layers)
    }

    /// Of layers with the experts of each slot, GPU by GPU. Without a number of experts there are as many as the slots name.
    ///
    /// # Errors
    /// If slots, GPUs and experts do not fit each other.
    pub fn new(
        nodes: u32,
        gpus_per_node: u32,
        slots_per_gpu: u32,
        experts: Option<u32>,
        layers: impl IntoIterator<Item = (u32, Vec<ExpertId>)>,
    ) -> Result<Placement, PlacementError> {
        let layers: Vec<(u32, Vec<ExpertId>)> = layers.into_iter().collect();
        let expected = u128::from(nodes) * u128::from(gpus_per_node) * u128::from(slots_per_gpu);
        for (index, (layer, slots)) in layers.iter().enumerate() {
            if slots.is_empty() || slots.len() as u128 != expected {
                let (layer, found) = (*layer, slots.len());
                return Err(PlacementError::Slots { layer, found, nodes, gpus_per_node, slots_per_gpu, expected });
            }
            if layers[..index].iter().any(|(earlier, _)| earlier == layer) {
                return Err(PlacementError::Twice(*layer));
            }
        }
        let named = layers.iter().flat_map(|(_, slots)| slots).map(|expert| expert.0).max();
        let last = experts.map_or(named, |experts| experts.checked_sub(1)).ok_or(PlacementError::Empty)?;
        if layers.is_empty() {
            return Err(PlacementError::Empty);
        }
        let layers = layers.into_iter().map(|(layer, slots)| LayerSlots::new(layer, slots_per_gpu, slots, last));
        let layers = layers.collect::<Result<Vec<_>, _>>()?;
        Ok(Placement { nodes, gpus_per_node, slots_per_gpu, experts: last + 1, layers })
    }

    /// NVLink domains.
    pub fn nodes(&self) -> u32 {
        self.nodes
    }

    /// The GPUs that share NVLink.
    pub fn gpus_per_node(&self) -> u32 {
        self.gpus_per_node
    }

    /// Slots of each GPU in a layer.
    pub fn slots_per_gpu(&self) -> u32 {
        self.slots_per_gpu
    }

    /// Slots of a layer: experts and their further copies.
    pub fn slots(&self) -> u32 {
        // As many as an array that was read has.
        self.nodes * self.gpus_per_node * self.slots_per_gpu
    }

    /// Experts of each layer.
    pub fn experts(&self) -> u32 {
        self.experts
    }

    /// All layers, in the order of the file.
    pub fn layers(&self) -> &[LayerSlots] {
        &self.layers
    }

    /// The layer of that name.
    pub fn layer(&self, name: u32) -> Option<&LayerSlots> {
        self.layers.iter().find(|layer| layer.layer == name)
    }
}

impl LayerSlots {
    fn new(layer: u32, slots_per_gpu: u32, slots: Vec<ExpertId>, last: u32) -> Result<LayerSlots, PlacementError> {
        // No more experts than slots, or one has none: found before memory is reserved for what a file only claims.
        let mut copies = vec![Vec::new(); (last as usize).min(slots.len()) + 1];
        for (slot, &expert) in slots.iter().enumerate() {
            match copies.get_mut(expert.0 as usize) {
                Some(copies) if expert.0 <= last => copies.push(SlotId(slot as u32)),
                _ if expert.0 > last => return Err(PlacementError::UnknownExpert { layer, slot, expert, last }),
                _ => {}
            }
        }
        if let Some(expert) = copies.iter().position(Vec::is_empty) {
            return Err(PlacementError::NoSlot { layer, expert: ExpertId(expert as u32) });
        }
        Ok(LayerSlots { layer, slots_per_gpu, experts_by_slot: slots, copies })
    }

    /// The layer's name.
    pub fn layer(&self) -> u32 {
        self.layer
    }

    /// The expert of each slot.
    pub fn experts_by_slot(&self) -> &[ExpertId] {
        &self.experts_by_slot
    }

    /// Slots of an expert, ascending; none if there is no such expert.
    pub fn copies(&self, expert: ExpertId) -> &[SlotId] {
        self.copies.get(expert.0 as usize).map_or(&[], Vec::as_slice)
    }

    /// The rank that holds a slot.
    pub fn rank(&self, slot: SlotId) -> RankId {
        RankId(slot.0 / self.slots_per_gpu)
    }

    /// Rewrites the choice of a gate on one rank, `[tokens, top_k]` with their weights, from experts to slots: ascending, as kernels
    /// take them, the weights in the same order. −1 stays, and so does what is no expert. All tokens of the rank have to be there, as
    /// copies take turns from token to token.
    pub fn choose_slots(&self, rank: RankId, top_k: usize, indices: &mut [i32], weights: &mut [f32]) {
        let mut turns = Turns::of_rank(rank, self.copies.len() as u32, indices);
        let rows = indices.chunks_mut(top_k.max(1)).zip(weights.chunks_mut(top_k.max(1)));
        for (indices, weights) in rows {
            let mut slot = |&index: &i32| {
                let copies = u32::try_from(index).map_or(&[][..], |expert| self.copies(ExpertId(expert)));
                turns.next(index, copies.len()).map_or(index, |turn| copies[turn].0 as i32)
            };
            let mut picks: Vec<(i32, f32)> = indices.iter().map(&mut slot).zip(weights.iter().copied()).collect();
            // What is not chosen stands behind.
            picks.sort_by_key(|&(slot, _)| slot as u32);
            for (place, (slot, weight)) in picks.into_iter().enumerate() {
                (indices[place], weights[place]) = (slot, weight);
            }
        }
    }
}

/// Whose turn it is among the copies of each expert, as one rank picks them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turns(Vec<u64>);

impl Turns {
    /// The first copies come first.
    pub fn new(experts: u32) -> Turns {
        Turns(vec![0; experts as usize])
    }

    /// Those of a rank with all its picks. What is no expert does not count.
    pub fn of_rank(rank: RankId, experts: u32, picks: &[i32]) -> Turns {
        let mut turns = Turns::new(experts);
        for &pick in picks {
            if let Some(count) = turns.expert(pick) {
                *count += 1;
            }
        }
        turns.0.iter_mut().for_each(|count| *count *= u64::from(rank.0));
        turns
    }

    fn expert(&mut self, pick: i32) -> Option<&mut u64> {
        usize::try_from(pick).ok().and_then(|expert| self.0.get_mut(expert))
    }

    /// Which of so many copies serves this pick; none if there is none, or the pick is no expert.
    pub fn next(&mut self, pick: i32, copies: usize) -> Option<usize> {
        let turn = self.expert(pick).filter(|_| copies > 0)?;
        let copy = *turn % copies as u64;
        *turn += 1;
        Some(copy as usize)
    }
}
