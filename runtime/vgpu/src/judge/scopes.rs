//! Which scope includes which thread.

use crate::ids::RankId;
use crate::memory::Scope;

use super::clock::CtaNumber;

/// Where a thread runs. The host is in no CTA of a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Site {
    pub rank: Option<RankId>,
    pub cta: CtaNumber,
    /// Number of its cluster among all.
    pub cluster: u64,
}

/// The narrowest scope with which each of two threads includes the other.
pub(crate) fn needed(a: Site, b: Site) -> Scope {
    if a.cta == b.cta {
        Scope::Cta
    } else if a.rank.is_some() && a.cluster == b.cluster {
        Scope::Cluster
    } else if a.rank.is_some() && a.rank == b.rank {
        Scope::Gpu
    } else {
        Scope::Sys
    }
}

/// As PTX writes it.
pub(super) fn name(scope: Scope) -> &'static str {
    match scope {
        Scope::Cta => ".cta",
        Scope::Cluster => ".cluster",
        Scope::Gpu => ".gpu",
        Scope::Sys => ".sys",
    }
}

/// Whom a scope is needed for.
pub(super) fn whom(needed: Scope) -> &'static str {
    match needed {
        Scope::Cta => "in the same CTA",
        Scope::Cluster => "in the same cluster",
        Scope::Gpu => "in another CTA",
        Scope::Sys => "on another rank",
    }
}
