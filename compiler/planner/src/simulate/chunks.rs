//! Chunks: who sends how much to whom, in which order.
//!
//! Invariant: every sender has [`Chunks::per_gpu`] chunks of [`Chunks::tokens`] tokens each; the number that a rank
//! receives from a sender differs from its expected copies by less than one chunk.

use moe_random::Random;

use super::Order;
use super::demand::Spread;
use super::parts::Part;

/// The chunks of all senders of a part; those of GPU g are `g × per_gpu ..`, first those to other nodes.
pub(super) struct Chunks {
    /// Chunks of a sender.
    pub per_gpu: u32,
    /// Tokens of a chunk, not necessarily whole.
    pub tokens: f64,
    /// The rank (its GPU number) that each goes to.
    pub target: Vec<u32>,
    /// For each sender: how many go to other nodes.
    pub remote: Vec<u32>,
}

impl Chunks {
    pub fn sample(Part { first, scenario }: &Part, spread: &Spread) -> Self {
        let gpus = scenario.gpus();
        let per_gpu = scenario.chunks_per_gpu();
        let per_node = scenario.network.gpus_per_node;
        let group = scenario.demand.group_ranks;
        let total = *spread.cumulative.last().expect("a checked scenario has a rank in every group");
        let mut target = Vec::with_capacity(gpus as usize * per_gpu as usize);
        let mut remote = Vec::with_capacity(gpus as usize);
        let (mut there, mut here) = (Vec::new(), Vec::new());
        for gpu in 0..gpus {
            let mut seeded = Random::stream(scenario.options.seed, u64::from(first + gpu));
            let (group_start, rank) = (gpu - gpu % group, gpu % group);
            let node_start = (rank - rank % per_node) as usize;
            // Rotated senders begin at the same place of their own node, so that on every rail they stay one node apart.
            let (start, offset) = match scenario.options.order {
                Order::Rotated => (if node_start == 0 { 0.0 } else { spread.cumulative[node_start - 1] }, 0.5),
                Order::Shuffled => (0.0, seeded.unit()),
            };
            there.clear();
            here.clear();
            for chunk in 0..per_gpu {
                let mut point = start + (f64::from(chunk) + offset) / f64::from(per_gpu) * total;
                if point >= total {
                    point -= total;
                }
                let found = spread.cumulative.partition_point(|&up_to| up_to <= point);
                let destination = group_start + (found as u32).min(group - 1);
                let same = destination / per_node == gpu / per_node;
                (if same { &mut here } else { &mut there }).push(destination);
            }
            if scenario.options.order == Order::Shuffled {
                seeded.shuffle(&mut there);
                seeded.shuffle(&mut here);
            }
            remote.push(there.len() as u32);
            target.extend_from_slice(&there);
            target.extend_from_slice(&here);
        }
        let copies = f64::from(scenario.demand.tokens_per_gpu) * total;
        Self { per_gpu, tokens: copies / f64::from(per_gpu), target, remote }
    }

    /// The GPU that sends a chunk.
    pub fn source(&self, chunk: u32) -> u32 {
        chunk / self.per_gpu
    }
}
