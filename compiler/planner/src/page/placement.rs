//! A placement as text.
//!
//! Invariant: everything in it stands in the JSON too.

use moe_front::text::{Column, Page, Table};
use moe_front::units::Bytes;

use crate::placement::{LayerPlacement, PlacementReport, Policy};

impl PlacementReport {
    /// For a terminal: each layer, then each GPU of it.
    pub fn page(&self) -> Page {
        let placement = self;
        let mut page = Page::default();
        let policy = match placement.policy {
            Policy::Hierarchical => "hierarchical: groups whole on nodes",
            Policy::Global => "global: any copy on any GPU",
        };
        page.line(format!(
            "{} experts in {} slots on {} nodes × {} GPUs, {} per GPU ({policy})",
            placement.experts, placement.replicas, placement.nodes, placement.gpus_per_node, placement.slots_per_gpu
        ));
        if let Some(memory) = placement.memory {
            let (all, further) = (Bytes(memory.per_gpu), Bytes(memory.redundant_per_gpu));
            let moves = match placement.layers.iter().any(|layer| layer.moves.is_some()) {
                true => format!("; {} move", Bytes(memory.moved)),
                false => String::new(),
            };
            page.line(format!("experts take {all} of each GPU, {further} of it for further copies{moves}"));
        } else {
            page.line(
                "memory is not known: the model does not say `expert_ffn`, nor `--expert-bytes` the size of an expert",
            );
        }
        page.gap();
        let heads = ["layer", "max/mean before", "after", "at best", "copies between nodes before", "after", "moves"];
        let mut layers = Table::new(heads.map(Column::numbers));
        for layer in &placement.layers {
            layers.row([
                layer.layer.to_string(),
                format!("{:.3}", layer.before.max_over_mean),
                format!("{:.3}", layer.after.max_over_mean),
                format!("{:.3}", if layer.after.mean > 0.0 { layer.bound / layer.after.mean } else { 1.0 }),
                format!("{:.3}", layer.before.copies_between_nodes),
                format!("{:.3}", layer.after.copies_between_nodes),
                layer.moves.map_or_else(|| "–".to_owned(), |moves| moves.to_string()),
            ]);
        }
        page.table(layers);
        for layer in &placement.layers {
            page.gap();
            page.line(format!("layer {}: load of each GPU", layer.layer));
            page.table(gpus(placement, layer));
        }
        page
    }
}

fn gpus(placement: &PlacementReport, layer: &LayerPlacement) -> Table {
    let heads = ["node", "GPU", "before", "after", "after / mean"].map(Column::numbers);
    let mut table = Table::new(heads.into_iter().chain([Column::words("experts (× copies)")]));
    let slots = layer.experts_by_slot.chunks(placement.slots_per_gpu as usize);
    for (gpu, experts) in slots.enumerate() {
        let mean = layer.after.mean;
        let load = layer.after.gpu_load[gpu];
        let experts = experts.iter().map(|expert| match layer.replicas[expert.0 as usize] {
            1 => expert.0.to_string(),
            copies => format!("{}×{copies}", expert.0),
        });
        table.row([
            (gpu / placement.gpus_per_node as usize).to_string(),
            gpu.to_string(),
            format!("{:.0}", layer.before.gpu_load[gpu]),
            format!("{load:.0}"),
            format!("{:.3}", if mean > 0.0 { load / mean } else { 1.0 }),
            experts.collect::<Vec<_>>().join(" "),
        ]);
    }
    table
}
