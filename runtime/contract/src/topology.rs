//! Who can reach whom, and which rank holds which expert.
//!
//! Invariants: domains are contiguous blocks of ranks of one size; a *rail* is the ranks with one index in their domains; experts lie
//! on ranks in contiguous blocks ([`Owners`]). A placement with copies of hot experts becomes such blocks by taking its slots for the
//! experts: [`crate::placement`].

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::ids::{DomainId, ExpertId, RankId};

/// The ranks of a world and the domains that they form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Topology {
    /// All ranks, at least 1.
    pub ranks: u32,
    /// Ranks of a domain; divides `ranks`.
    pub per_domain: u32,
}

impl Topology {
    /// All ranks in one domain.
    pub fn one_domain(ranks: u32) -> Topology {
        Topology { ranks, per_domain: ranks }
    }

    /// Nodes: ranks that load and store each other's memory are in one.
    pub fn domains(self) -> u32 {
        self.ranks / self.per_domain
    }

    /// Every rank.
    pub fn all(self) -> impl Iterator<Item = RankId> + Clone {
        (0..self.ranks).map(RankId)
    }

    /// Where a rank is.
    pub fn domain_of(self, rank: RankId) -> DomainId {
        DomainId(rank.0 / self.per_domain)
    }

    /// Its index there: its rail.
    pub fn rail_of(self, rank: RankId) -> u32 {
        rank.0 % self.per_domain
    }

    /// The ranks of a domain.
    pub fn ranks_of(self, domain: DomainId) -> impl Iterator<Item = RankId> + Clone {
        let first = domain.0 * self.per_domain;
        (first..first + self.per_domain).map(RankId)
    }

    /// The rank that hands on what comes from `source` for a domain: itself in its own, elsewhere the one of its rail.
    pub fn forwarder(self, source: RankId, domain: DomainId) -> RankId {
        self.on_rail(domain, self.rail_of(source))
    }

    /// What joins two ranks; none where nothing does, so that bytes between them go by way of others.
    pub fn link(self, from: RankId, to: RankId) -> Option<Link> {
        if self.domain_of(from) == self.domain_of(to) {
            Some(Link::Domain)
        } else {
            (self.rail_of(from) == self.rail_of(to)).then_some(Link::Rail)
        }
    }

    /// The rank of a domain on a rail.
    pub fn on_rail(self, domain: DomainId, rail: u32) -> RankId {
        RankId(domain.0 * self.per_domain + rail)
    }
}

/// What joins two ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Link {
    /// They load and store each other's memory.
    Domain,
    /// The network between the ranks of a rail.
    Rail,
}

/// Experts in contiguous blocks, as even as they can be: the first `experts mod ranks` ranks own one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owners {
    /// Experts that are sent to.
    pub experts: u32,
    /// Ranks that share them.
    pub ranks: u32,
}

impl Owners {
    /// The experts of a rank.
    pub fn experts_of(self, rank: RankId) -> Range<u32> {
        let (each, more) = (self.each(), self.more());
        let first = rank.0 * each + rank.0.min(more);
        first..first + each + u32::from(rank.0 < more)
    }

    /// The rank that owns an expert.
    pub fn rank_of(self, expert: ExpertId) -> RankId {
        let (each, more) = (self.each(), self.more());
        let in_larger = more * (each + 1);
        let below = expert.0 < in_larger;
        RankId(if below { expert.0 / (each + 1) } else { more + (expert.0 - in_larger) / each })
    }

    /// Experts of the ranks that have fewest.
    pub fn each(self) -> u32 {
        self.experts / self.ranks
    }

    /// So many of the first ranks own one more.
    pub fn more(self) -> u32 {
        self.experts % self.ranks
    }

    /// Experts of the rank that has most.
    pub fn most(self) -> u32 {
        self.experts.div_ceil(self.ranks)
    }
}
