//! How many nodes a token reaches.
//!
//! Experts lie in contiguous blocks on the ranks, ranks in contiguous blocks on the nodes, and a token is sent once to each node that
//! holds one of its experts.
//!
//! The average is not a formula: choosing a group *because* its best experts score high makes it likely that experts of it are picked,
//! so picks are not uniform among the experts of the chosen groups. It is measured instead, by running this gate on random tokens with
//! a fixed seed: independent logits, close to normal; single parameters (a temperature) of one, others (a bias) of zero. Its standard error is below 1 %.

use moe_gate::inputs::{Inputs, Tensor};
use moe_gate::interpret::route_token;
use moe_gate::ir::{Gate, InputId, InputKind};
use moe_random::Random;

use crate::spec::Model;

/// Tokens of a sample.
pub(super) const TOKENS: u32 = 2048;

/// Where the experts of a model live.
pub(super) struct ExpertNodes {
    /// The node of each expert; none for one that computes nothing.
    node_of: Vec<Option<u32>>,
    nodes: u32,
}

impl ExpertNodes {
    pub(super) fn new(model: &Model, ranks: u32, gpus_per_node: u32) -> ExpertNodes {
        let stored = model.stored_experts();
        let (each, more) = (stored / ranks, stored % ranks);
        let mut next = 0;
        let node_of = (0..model.experts).map(|expert| {
            if model.is_zero_expert(expert) {
                return None;
            }
            let index = next;
            next += 1;
            // The first `more` ranks hold one expert more than the others.
            let full = more * (each + 1);
            let rank = if index < full { index / (each + 1) } else { more + (index - full) / each.max(1) };
            Some(rank / gpus_per_node)
        });
        ExpertNodes { node_of: node_of.collect(), nodes: ranks.div_ceil(gpus_per_node) }
    }

    /// The number of nodes that each group lies on, largest first.
    pub(super) fn nodes_of_groups(&self, groups: u32) -> Vec<u32> {
        let size = self.node_of.len() / groups as usize;
        let mut spans: Vec<u32> = self.node_of.chunks(size).map(|group| distinct(group.iter().copied())).collect();
        spans.sort_unstable_by(|a, b| b.cmp(a));
        spans
    }

    /// The average number of nodes, other than its own, that a token is sent to.
    pub(super) fn mean_remote_nodes(&self, samples: &Samples) -> f64 {
        let nodes = |picks: &Vec<u32>| f64::from(distinct(picks.iter().map(|expert| self.node_of[*expert as usize])));
        let mean = samples.picks.iter().map(nodes).sum::<f64>() / samples.picks.len() as f64;
        // A token starts on any node with equal probability.
        mean * (1.0 - 1.0 / f64::from(self.nodes))
    }
}

fn distinct(nodes: impl Iterator<Item = Option<u32>>) -> u32 {
    let mut seen: Vec<u32> = nodes.flatten().collect();
    seen.sort_unstable();
    seen.dedup();
    seen.len() as u32
}

/// The experts of random tokens.
pub(super) struct Samples {
    picks: Vec<Vec<u32>>,
}

impl Samples {
    /// What running a gate costs, in elements computed.
    pub(super) fn cost(gate: &Gate) -> u64 {
        gate.program.ops().len() as u64 * u64::from(gate.program.experts()) * u64::from(TOKENS)
    }

    /// Runs the gate on random tokens; nothing when that fails for one: such parameters may have no meaning for this gate.
    pub(super) fn of(gate: &Gate) -> Option<Samples> {
        let mut random = Random::new(0x5EED);
        let mut picks = Vec::with_capacity(TOKENS as usize);
        for _ in 0..TOKENS {
            let mut rows: Vec<Vec<f32>> = Vec::new();
            for (index, input) in gate.program.inputs().iter().enumerate() {
                let length = gate.program.length_of_input(InputId(index as u32));
                let mut row = vec![0.0; usize::try_from(length).ok()?];
                match input.kind {
                    InputKind::Logits => row.fill_with(|| random.normal()),
                    InputKind::ScalarParameter => row.fill(1.0),
                    InputKind::Table { .. } | InputKind::TokenId => return None,
                    _ => {}
                }
                rows.push(row);
            }
            let tensors = rows.iter().map(|row| Tensor::F32(row)).collect();
            let inputs = Inputs::new(&gate.program, 1, tensors).ok()?;
            picks.push(route_token(gate, &inputs, 0).ok()?.0);
        }
        Some(Samples { picks })
    }
}
