//! The exact bytes of recorded tokens, for a report.

use moe_contract::topology::Link;
use moe_contract::{Exchange, Flow, Homes, LinkBytes, Topology};
use schemars::JsonSchema;
use serde::Serialize;

use super::phase::PhaseName;

/// What recorded tokens put on every link, each token once.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Given {
    /// Split evenly over the ranks of an expert-parallel group, in order; the first ranks get those that are left over.
    pub tokens: u64,
    /// Of each of [`PhaseName::ALL`].
    pub phases: Vec<GivenPhase>,
}

/// Bytes of one call.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct GivenPhase {
    /// Which.
    pub name: PhaseName,
    /// `nvlink[writer][rank of its node]`; what a rank writes to itself crosses no link.
    pub nvlink: Vec<Vec<u64>>,
    /// `rdma[sender][node]`, where the rank of its rail receives.
    pub rdma: Vec<Vec<u64>>,
    #[serde(skip)]
    nvlink_out: Vec<u64>,
    #[serde(skip)]
    rdma_out: Vec<u64>,
}

impl Given {
    /// Of the picks of all tokens, row-major `[tokens, top_k]`.
    pub fn of(homes: &Homes, exchange: &Exchange, indices: &[i32]) -> Given {
        let (ranks, k) = (homes.topology().ranks as usize, exchange.top_k as usize);
        let tokens = indices.len() / k;
        let mut rest = indices;
        let of_ranks: Vec<&[i32]> = (0..ranks)
            .map(|rank| {
                let (own, others) = rest.split_at((tokens / ranks + usize::from(rank < tokens % ranks)) * k);
                rest = others;
                own
            })
            .collect();
        let flow = Flow::to(homes, exchange.top_k, &of_ranks);
        let phase =
            |name: PhaseName| GivenPhase::of(homes.topology(), name, &LinkBytes::of(name.call(), exchange, &flow));
        Given { tokens: tokens as u64, phases: PhaseName::ALL.map(phase).to_vec() }
    }
}

impl GivenPhase {
    fn of(topology: Topology, name: PhaseName, bytes: &LinkBytes) -> GivenPhase {
        let domains = || (0..topology.domains()).map(moe_contract::DomainId);
        let near = |from| topology.ranks_of(topology.domain_of(from)).map(|to| bytes.bytes(from, to)).collect();
        let far = |from| {
            let to = |domain| {
                if domain == topology.domain_of(from) { 0 } else { bytes.bytes(from, topology.forwarder(from, domain)) }
            };
            domains().map(to).collect()
        };
        let leaving = |link| topology.all().map(|rank| bytes.leaving(rank, topology, link)).collect();
        GivenPhase {
            name,
            nvlink: topology.all().map(near).collect(),
            rdma: topology.all().map(far).collect(),
            nvlink_out: leaving(Link::Domain),
            rdma_out: leaving(Link::Rail),
        }
    }

    /// What leaves each rank over NVLink.
    pub fn nvlink_out(&self) -> impl Iterator<Item = u64> {
        self.nvlink_out.iter().copied()
    }

    /// What leaves each rank over its NIC.
    pub fn rdma_out(&self) -> impl Iterator<Item = u64> {
        self.rdma_out.iter().copied()
    }
}
