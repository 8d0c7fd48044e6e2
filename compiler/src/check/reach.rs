//! How many nodes a token reaches.
//!
//! Experts lie in contiguous blocks on the ranks, ranks in contiguous blocks on the nodes, and a token is sent once to each node that
//! holds one of its experts. The average is over random tokens with a fixed seed; its standard error is below 2 %.

use moe_gate::ir::{Gate, Masked, Op, Type};

use crate::spec::Model;

const TOKENS: u32 = 1024;

/// The number of groups that limits the choice of experts, if the gate has such a limit.
pub(super) fn chosen_groups(gate: &Gate) -> Option<u32> {
    let Op::ChooseExperts { within: Some((choice, Masked::Infinity)), .. } = *gate.program.op(gate.choice) else {
        return None;
    };
    match gate.program.type_of(choice) {
        Type::GroupChoice(chosen) => Some(chosen),
        _ => None,
    }
}

/// Where the experts of a model live.
pub(super) struct Placement {
    /// The node of each expert; none for one that computes nothing.
    node_of: Vec<Option<u32>>,
    nodes: u32,
}

impl Placement {
    pub(super) fn new(model: &Model, ranks: u32, gpus_per_node: u32) -> Placement {
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
        Placement { node_of: node_of.collect(), nodes: ranks.div_ceil(gpus_per_node) }
    }

    /// The number of nodes that each group lies on, largest first.
    pub(super) fn nodes_of_groups(&self, groups: u32) -> Vec<u32> {
        let size = self.node_of.len() / groups as usize;
        let mut spans: Vec<u32> = self.node_of.chunks(size).map(|group| distinct(group.iter().copied())).collect();
        spans.sort_unstable_by(|a, b| b.cmp(a));
        spans
    }

    /// The average number of nodes, other than its own, that a token is sent to.
    pub(super) fn mean_remote_nodes(&self, samples: &[Vec<u32>]) -> f64 {
        let nodes = |picks: &Vec<u32>| f64::from(distinct(picks.iter().map(|expert| self.node_of[*expert as usize])));
        let mean = samples.iter().map(nodes).sum::<f64>() / samples.len() as f64;
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
pub(super) fn sample(model: &Model, chosen: u32) -> Vec<Vec<u32>> {
    let mut random = Random(0x5EED);
    let groups = model.groups.unwrap_or(1);
    let size = model.experts / groups;
    (0..TOKENS)
        .map(|_| {
            let groups = random.choose(groups, chosen);
            let places = random.choose(chosen * size, model.top_k());
            places.iter().map(|place| groups[(place / size) as usize] * size + place % size).collect()
        })
        .collect()
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((((bits ^ (bits >> 31)) >> 32) * u64::from(bound)) >> 32) as u32
    }

    /// `count` different numbers below `bound`.
    fn choose(&mut self, bound: u32, count: u32) -> Vec<u32> {
        let mut all: Vec<u32> = (0..bound).collect();
        for index in 0..count.min(bound) {
            let other = index + self.below(bound - index);
            all.swap(index as usize, other as usize);
        }
        all.truncate(count as usize);
        all
    }
}
