//! The exact bytes of recorded tokens, for a report.

use moe_contract::RankId;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Flow, LinkBytes, NodeId, Topology, Wire};

/// What recorded tokens put on every link, each token once.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Given {
    /// Split evenly over the ranks of an expert-parallel group, in order; the first ranks get those that are left over.
    pub tokens: u64,
    /// Dispatch, combine, backward of combine, backward of dispatch.
    pub phases: Vec<GivenPhase>,
}

/// Bytes of one call.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct GivenPhase {
    /// Its name, as in the report's phases.
    pub name: &'static str,
    /// `nvlink[writer][rank of its node]`; what a rank writes to itself crosses no link.
    pub nvlink: Vec<Vec<u64>>,
    /// `rdma[sender][node]`, where the rank of its rail receives.
    pub rdma: Vec<Vec<u64>>,
}

impl Given {
    /// Of the picks of all tokens, row-major `[tokens, top_k]`.
    pub fn of(topology: &Topology, wire: &Wire, top_k: u32, indices: &[i32]) -> Given {
        let (ranks, k) = (topology.ranks() as usize, top_k as usize);
        let tokens = indices.len() / k;
        let mut rest = indices;
        let of_ranks: Vec<&[i32]> = (0..ranks)
            .map(|rank| {
                let (own, others) = rest.split_at((tokens / ranks + usize::from(rank < tokens % ranks)) * k);
                rest = others;
                own
            })
            .collect();
        let flow = Flow::of(topology, top_k, &of_ranks);
        let phase = |name, bytes: LinkBytes| GivenPhase::of(topology, name, &bytes);
        let phases = vec![
            phase("dispatch", LinkBytes::dispatch(&flow, wire)),
            phase("combine", LinkBytes::combine(&flow, wire)),
            phase("combine backward", LinkBytes::combine_backward(&flow, wire)),
            phase("dispatch backward", LinkBytes::combine(&flow, wire)),
        ];
        Given { tokens: tokens as u64, phases }
    }
}

impl GivenPhase {
    fn of(topology: &Topology, name: &'static str, bytes: &LinkBytes) -> GivenPhase {
        let (local, ranks) = (topology.ranks_per_node(), || (0..topology.ranks()).map(RankId));
        let of_node = |rank: RankId| (0..local).map(move |other| RankId(rank.0 / local * local + other));
        let nvlink = ranks().map(|from| of_node(from).map(|to| bytes.nvlink(from, to)).collect());
        let rdma = ranks().map(|from| (0..topology.nodes()).map(|to| bytes.rdma(from, NodeId(to))).collect());
        GivenPhase { name, nvlink: nvlink.collect(), rdma: rdma.collect() }
    }

    /// What leaves each rank over NVLink.
    pub fn nvlink_out(&self) -> impl Iterator<Item = u64> {
        self.nvlink.iter().enumerate().map(|(rank, row)| {
            let own = row.get(rank % row.len().max(1)).copied().unwrap_or(0);
            row.iter().sum::<u64>() - own
        })
    }

    /// What leaves each rank over its NIC.
    pub fn rdma_out(&self) -> impl Iterator<Item = u64> {
        self.rdma.iter().map(|row| row.iter().sum())
    }
}
