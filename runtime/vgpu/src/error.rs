//! What can be wrong with a call of the host.

use crate::ids::RankId;
use crate::memory::{Address, MemoryFault};

/// Why a call of the host cannot be carried out. The cluster is as it was before the call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// A number in the configuration is out of range.
    #[error("a cluster has {what} from {least} to {most}, not {found}")]
    Shape { what: &'static str, least: u32, most: u32, found: u32 },
    /// A rank that the cluster does not have.
    #[error("{rank} does not exist: the cluster has {ranks} ranks, counted from 0")]
    NoRank {
        rank: RankId,
        /// Ranks of the cluster.
        ranks: u32,
    },
    /// A stream or event of another cluster.
    #[error("{what} {number} does not exist in this cluster")]
    NoSuch {
        /// Stream or event.
        what: &'static str,
        number: u64,
    },
    /// A stream more than can be numbered.
    #[error("the cluster has made 2^32 streams, all that it can number")]
    Streams,
    /// An allocation that is not possible.
    #[error("cannot allocate `{name}`: {reason}")]
    Allocation {
        /// Name of the allocation.
        name: String,
        reason: String,
    },
    /// A copy or free of the host that is wrong.
    #[error("host {doing} at {address}: {fault}")]
    Memory {
        /// What the host wanted.
        doing: &'static str,
        address: Address,
        fault: MemoryFault,
    },
    /// A launch that is not possible.
    #[error("cannot launch `{kernel}`: {reason}")]
    Launch {
        kernel: String,
        /// Why not, and what would be possible.
        reason: String,
    },
}
