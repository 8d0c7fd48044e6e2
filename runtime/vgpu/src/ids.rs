//! Numbers of what a cluster has. Invariant: a number means one thing for the life of its cluster.

use std::num::NonZeroU64;

/// Number of a rank (a virtual GPU) in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RankId(pub u32);

impl std::fmt::Display for RankId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {}", self.0)
    }
}

/// A queue of launches of one rank: they run in order, those of different streams concurrently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

/// A point in a stream that other streams can wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(pub u64);

/// Number of a launch in the cluster, in the order of `launch` calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaunchId(pub u64);

/// Number of an asynchronous copy in the cluster, in the order of issue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CopyId(pub NonZeroU64);

/// Which thread, exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThreadId {
    /// Rank whose kernel this is.
    pub rank: RankId,
    /// Number of the launch in the cluster, in order of `launch` calls.
    pub launch: LaunchId,
    /// Linear CTA index in its grid.
    pub cta: u32,
    /// Warp in its CTA.
    pub warp: u32,
    /// Lane in its warp.
    pub lane: u32,
}
