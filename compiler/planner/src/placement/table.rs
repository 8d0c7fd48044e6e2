//! A placement as text.
//!
//! Invariant: everything in it stands in the JSON too.

use std::fmt::Write as _;

use moe_compiler::units::Bytes;

use super::{LayerPlacement, Placement, Policy};

pub(super) fn table(placement: &Placement) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut text, placement);
    text
}

fn write(text: &mut String, placement: &Placement) -> std::fmt::Result {
    let policy = match placement.policy {
        Policy::Hierarchical => "hierarchical: groups whole on nodes",
        Policy::Global => "global: any copy on any GPU",
    };
    writeln!(
        text,
        "{} experts in {} slots on {} nodes × {} GPUs, {} per GPU ({policy})",
        placement.experts, placement.replicas, placement.nodes, placement.gpus_per_node, placement.slots_per_gpu
    )?;
    if let Some(memory) = placement.memory {
        let (all, further) = (Bytes(memory.per_gpu), Bytes(memory.redundant_per_gpu));
        write!(text, "experts take {all} of each GPU, {further} of it for further copies")?;
        if placement.layers.iter().any(|layer| layer.moves.is_some()) {
            write!(text, "; {} move", Bytes(memory.moved))?;
        }
        writeln!(text)?;
    } else {
        writeln!(
            text,
            "memory is not known: the model does not say `expert_ffn`, nor `--expert-bytes` the size of an expert"
        )?;
    }
    writeln!(text)?;
    let mut rows =
        vec![row(["layer", "max/mean before", "after", "at best", "copies between nodes before", "after", "moves"])];
    rows.extend(placement.layers.iter().map(|layer| {
        vec![
            layer.layer.to_string(),
            format!("{:.3}", layer.before.max_over_mean),
            format!("{:.3}", layer.after.max_over_mean),
            format!("{:.3}", if layer.after.mean > 0.0 { layer.bound / layer.after.mean } else { 1.0 }),
            format!("{:.3}", layer.before.copies_between_nodes),
            format!("{:.3}", layer.after.copies_between_nodes),
            layer.moves.map_or_else(|| "–".to_owned(), |moves| moves.to_string()),
        ]
    }));
    columns(text, &rows)?;
    for layer in &placement.layers {
        writeln!(text, "\nlayer {}: load of each GPU", layer.layer)?;
        columns(text, &gpus(placement, layer))?;
    }
    Ok(())
}

fn gpus(placement: &Placement, layer: &LayerPlacement) -> Vec<Vec<String>> {
    let mut rows = vec![row(["node", "GPU", "before", "after", "after / mean", "experts (× copies)"])];
    let slots = layer.experts_by_slot.chunks(placement.slots_per_gpu as usize);
    for (gpu, experts) in slots.enumerate() {
        let mean = layer.after.mean;
        let load = layer.after.gpu_load[gpu];
        let experts = experts.iter().map(|expert| match layer.replicas[expert.0 as usize] {
            1 => expert.0.to_string(),
            copies => format!("{}×{copies}", expert.0),
        });
        rows.push(vec![
            (gpu / placement.gpus_per_node as usize).to_string(),
            gpu.to_string(),
            format!("{:.0}", layer.before.gpu_load[gpu]),
            format!("{load:.0}"),
            format!("{:.3}", if mean > 0.0 { load / mean } else { 1.0 }),
            experts.collect::<Vec<_>>().join(" "),
        ]);
    }
    rows
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// Right-aligned, but for a last column of words.
fn columns(text: &mut String, rows: &[Vec<String>]) -> std::fmt::Result {
    let count = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            match column {
                0 => write!(text, "{cell:>width$}", width = widths[0])?,
                last if last + 1 == count => write!(text, "  {cell}")?,
                _ => write!(text, "  {cell:>width$}", width = widths[column])?,
            }
        }
        writeln!(text)?;
    }
    Ok(())
}
