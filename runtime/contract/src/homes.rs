//! The ranks that hold each expert, and the domains of those ranks.
//!
//! Invariants of [`Homes`]: an expert that computes is on at least one rank; one that computes nothing is on none and is never sent to.

use crate::ids::{DomainId, ExpertId, RankId};
use crate::placement::{LayerSlots, Turns};
use crate::topology::{Owners, Topology};

/// Where the experts of a layer live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Homes {
    topology: Topology,
    /// The rank of each copy of each expert.
    ranks: Vec<Vec<RankId>>,
}

impl Homes {
    /// In contiguous blocks on all ranks, those that compute one after the other; `computes` says of each expert whether it does.
    pub fn contiguous(topology: Topology, computes: impl IntoIterator<Item = bool>) -> Homes {
        let computes: Vec<bool> = computes.into_iter().collect();
        let stored = computes.iter().filter(|&&computes| computes).count() as u32;
        let owners = Owners { experts: stored, ranks: topology.ranks };
        let mut places = (0..stored).map(|place| owners.rank_of(ExpertId(place)));
        let home = |computes: bool| if computes { places.next().into_iter().collect() } else { Vec::new() };
        Homes { topology, ranks: computes.into_iter().map(home).collect() }
    }

    /// Where a layer of a placement puts them, each on one rank at least.
    pub fn placed(topology: Topology, experts: u32, layer: &LayerSlots) -> Homes {
        let copies = |expert| layer.copies(ExpertId(expert)).iter().map(|&slot| layer.rank(slot)).collect();
        Homes { topology, ranks: (0..experts).map(copies).collect() }
    }

    /// Ranks and domains.
    pub fn topology(&self) -> Topology {
        self.topology
    }

    /// All experts, those that compute nothing included.
    pub fn experts(&self) -> u32 {
        self.ranks.len() as u32
    }

    /// The rank that a pick is sent to; none for −1 and for experts that compute nothing. Of several copies, the one whose turn it is.
    pub fn of(&self, pick: i32, turns: &mut Turns) -> Option<RankId> {
        let copies = usize::try_from(pick).ok().and_then(|expert| self.ranks.get(expert))?;
        match copies[..] {
            [] => None,
            [only] => Some(only),
            _ => turns.next(pick, copies.len()).map(|turn| copies[turn]),
        }
    }

    /// Experts of the rank that has most, copies counted apart.
    pub fn most_of_a_rank(&self) -> u32 {
        let mut counts = vec![0; self.topology.ranks as usize];
        self.ranks.iter().flatten().for_each(|rank| counts[rank.index()] += 1);
        counts.into_iter().max().unwrap_or(0)
    }

    /// On how many domains each of `groups` groups of experts lies, largest first.
    pub fn domains_of_groups(&self, groups: u32) -> Vec<u32> {
        let size = (self.ranks.len() / groups.max(1) as usize).max(1);
        let domains = |group: &[Vec<RankId>]| {
            let mut domains: Vec<DomainId> =
                group.iter().flatten().map(|&rank| self.topology.domain_of(rank)).collect();
            domains.sort_unstable();
            domains.dedup();
            domains.len() as u32
        };
        let mut spans: Vec<u32> = self.ranks.chunks(size).map(domains).collect();
        spans.sort_unstable_by(|a, b| b.cmp(a));
        spans
    }
}
