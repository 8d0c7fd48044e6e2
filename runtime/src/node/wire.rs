//! What a process and a node say to each other.
//!
//! Invariants: whoever asks waits for the answer before it asks again, on one connection; bytes of tensors never go through a connection,
//! but through the [`super::staging`] that belongs to it, or they lie in a [`super::mapping`].

use std::ops::Range;
use std::time::Duration;

use moe_contract::RankId;
use serde::{Deserialize, Serialize};

use crate::device::{Address, DeviceError, EventId, FunctionId, GraphId, Launch, Residency, StreamId};

/// Both sides must have the same.
pub const PROTOCOL: u32 = 3;

/// Asked of a node.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// First on a connection that stays open for as long as the process has its ranks.
    Attach(Attach),
    /// First on a connection for calls.
    Call {
        session: u64,
    },
    Allocate {
        rank: RankId,
        stream: Option<StreamId>,
        bytes: u64,
        name: String,
    },
    /// As `Allocate`, for memory that other processes import.
    AllocateShared {
        rank: RankId,
        bytes: u64,
        name: String,
    },
    /// As `Allocate`, for memory that the process has too: with the address comes a file. It is given back by `CloseImport`.
    AllocateMapped {
        rank: RankId,
        bytes: usize,
    },
    Import {
        address: Address,
    },
    CloseImport {
        address: Address,
    },
    Free {
        rank: RankId,
        address: Address,
        after: After,
    },
    Label {
        rank: RankId,
        address: Address,
        bytes: u64,
        label: String,
        writer: Option<RankId>,
    },
    Write {
        rank: RankId,
        address: Address,
        bytes: usize,
    },
    Read {
        rank: RankId,
        address: Address,
        bytes: usize,
    },
    Load {
        rank: RankId,
        bytes: usize,
        name: String,
    },
    Residency {
        function: FunctionId,
        block: u32,
        shared: u32,
    },
    Stream {
        rank: RankId,
    },
    RankOf {
        stream: StreamId,
    },
    CloseStream {
        stream: StreamId,
    },
    Launch {
        stream: StreamId,
        launch: Launch,
    },
    Record {
        stream: StreamId,
    },
    Wait {
        stream: StreamId,
        event: EventId,
    },
    BeginCapture {
        stream: StreamId,
    },
    EndCapture {
        stream: StreamId,
    },
    Replay {
        stream: StreamId,
        graph: GraphId,
    },
    ForgetGraph {
        graph: GraphId,
    },
    Synchronise {
        streams: Vec<StreamId>,
        patience: Duration,
    },
    Abandon,
    Traffic,
}

/// Who comes, and with whom it wants to be.
#[derive(Debug, Serialize, Deserialize)]
pub struct Attach {
    pub protocol: u32,
    /// Of the whole domain.
    pub ranks: u32,
    /// Of this process.
    pub mine: Range<u32>,
}

/// After which launches memory is freed.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum After {
    All,
    Rank,
    Stream(StreamId),
}

/// What a node answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    Attached {
        session: u64,
    },
    /// An earlier domain has not ended yet: worth another try.
    Busy(DeviceError),
    Done,
    Address(Address),
    Function(FunctionId),
    Residency(Residency),
    Stream(StreamId),
    Rank(Option<RankId>),
    Event(EventId),
    Graph(GraphId),
    /// By (writer, owner).
    Traffic(Option<Vec<u64>>),
    Failed(DeviceError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::{receive, send};

    #[test]
    fn a_message_arrives_as_it_was_and_nonsense_is_no_message() {
        let launch =
            Launch { function: FunctionId(3), grid: 2, block: 64, shared: 0, programmatic: false, arguments: vec![] };
        let mut pipe = Vec::new();
        send(&mut pipe, &Request::Launch { stream: StreamId(7), launch: launch.clone() }).expect("sent");
        let found = receive::<Request>(&mut pipe.as_slice()).expect("received");
        assert!(matches!(found, Request::Launch { stream: StreamId(7), launch: found } if found == launch));
        for nonsense in [&b"GET / HTTP/1.1\r\n"[..], &[2, 0, 0, 0, b'{', b'}'], &pipe[..pipe.len() - 1], &[]] {
            assert!(receive::<Request>(&mut &nonsense[..]).is_err(), "{nonsense:?}");
        }
    }
}
