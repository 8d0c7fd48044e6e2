//! What can be wrong with an access to memory.

use crate::ids::RankId;

/// What is wrong with an access.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryFault {
    /// The address points to nothing.
    NotAnAddress,
    /// The address names a rank that the cluster does not have, or memory that only its owner may touch.
    WrongRank {
        /// Rank in the address.
        owner: RankId,
        reason: String,
    },
    /// Beyond the ends of an allocation.
    OutOfBounds {
        /// Name of the allocation and its rank, or of another place.
        symbol: String,
        /// First byte of the access relative to the allocation; may be negative.
        offset: i64,
        /// Size of the allocation.
        size: u64,
    },
    /// The allocation was freed.
    UseAfterFree {
        /// Name of the allocation and its rank, or of another place.
        symbol: String,
    },
    /// Not a multiple of the access size.
    Misaligned {
        /// Required alignment.
        align: u32,
    },
    /// These bytes were never written.
    Uninitialised {
        /// First such byte, as symbol and offset.
        symbol: String,
    },
    /// A store to constant memory.
    ReadOnly {
        /// Name of the allocation and its rank, or of another place.
        symbol: String,
    },
    /// An address of another state space than the instruction says.
    WrongSpace {
        /// State space of the instruction.
        expected: &'static str,
        /// State space of the address.
        found: &'static str,
    },
    /// A generic address of another CTA's shared memory or another thread's local memory.
    WrongOwner,
    /// An object in memory is not what the instruction wants.
    BadObject(String),
}

impl std::fmt::Display for MemoryFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MemoryFault::NotAnAddress => write!(f, "the address points to no memory"),
            MemoryFault::WrongRank { owner, reason } => write!(f, "wrong rank: {owner} {reason}"),
            MemoryFault::OutOfBounds { symbol, offset, size } => {
                write!(f, "out of bounds: byte {offset} of {symbol}, which has {size} bytes")
            }
            MemoryFault::UseAfterFree { symbol } => write!(f, "use after free: {symbol} was freed"),
            MemoryFault::Misaligned { align } => write!(f, "misaligned: the address is not a multiple of {align}"),
            MemoryFault::Uninitialised { symbol } => write!(f, "use before initialisation: {symbol} was never written"),
            MemoryFault::ReadOnly { symbol } => write!(f, "write to constant memory {symbol}"),
            MemoryFault::WrongSpace { expected, found } => {
                write!(f, "wrong state space: the instruction accesses .{expected}, the address is in .{found}")
            }
            MemoryFault::WrongOwner => {
                write!(f, "the address belongs to another CTA's shared or another thread's local memory")
            }
            MemoryFault::BadObject(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for MemoryFault {}
