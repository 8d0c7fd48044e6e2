//! What calls return: the routing of a gate, and the handle of a dispatch.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use moe_contract::{Buffer, Exchange, RankId};

use crate::device::{Address, Device, Memory, StreamId};
use crate::error::Result;
use crate::tensor::Distributed;

/// Which experts each token goes to, and with which weights.
#[derive(Clone, Debug)]
pub struct Routing {
    /// [`moe_contract::Tensor::Indices`]
    pub indices: Distributed,
    /// [`moe_contract::Tensor::Weights`]
    pub weights: Distributed,
}

/// The result of a dispatch.
#[derive(Debug)]
pub struct Dispatched {
    /// What combine and the gradients need.
    pub handle: Handle,
    /// [`moe_contract::Tensor::ExpertInput`]
    pub input: Distributed,
    /// [`moe_contract::Tensor::ExpertInputScales`], for a payload that has scales.
    pub scales: Option<Distributed>,
}

/// A routing that has been dispatched. Its arrays live on the device until it is dropped.
#[derive(Debug)]
pub struct Handle {
    pub(super) routing: Routing,
    /// Tokens of each rank.
    pub(super) tokens: Vec<u64>,
    /// Rows of the experts' input of each rank, as they were allocated.
    pub(super) rows: Vec<u64>,
    /// Whether `rows` are those that arrived; otherwise they are the most that can.
    pub(super) counted: bool,
    buffers: Vec<BTreeMap<Buffer, Memory>>,
}

impl Handle {
    pub(super) fn new(
        device: &Arc<dyn Device>,
        streams: &[StreamId],
        exchange: &Exchange,
        routing: &Routing,
        tokens: Vec<u64>,
    ) -> Result<Handle> {
        let of_rank = |(rank, &stream)| {
            let memory = |buffer: Buffer| {
                let bytes = exchange.buffer_bytes(buffer);
                Ok((buffer, Memory::of_rank(device, stream, rank, bytes, buffer.name())?))
            };
            Buffer::of_handle().map(memory).collect::<Result<_>>()
        };
        let buffers = (0..).map(RankId).zip(streams).map(of_rank).collect::<Result<_>>()?;
        let rows = vec![exchange.output_rows_max(); exchange.ranks as usize];
        Ok(Handle { routing: routing.clone(), tokens, rows, counted: false, buffers })
    }

    /// The routing that was dispatched.
    pub fn routing(&self) -> &Routing {
        &self.routing
    }

    pub(super) fn address(&self, rank: RankId, buffer: Buffer) -> Address {
        self.buffers[rank.index()].get(&buffer).map_or(Address::NULL, Memory::address)
    }

    /// Elements of an array, as they are now.
    pub(super) fn read<T: bytemuck::Pod>(
        &self,
        rank: RankId,
        buffer: Buffer,
        elements: Range<usize>,
    ) -> Result<Vec<T>> {
        match self.buffers[rank.index()].get(&buffer) {
            Some(memory) => Ok(memory.read(elements)?),
            None => Ok(vec![]),
        }
    }
}

/// What a rank received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Copies from each source.
    pub copies: Vec<u32>,
    /// Picks of each local expert; in an expert-major layout its rows without padding.
    pub expert_counts: Vec<u32>,
    /// First row of each local expert, and the number of rows at the end; empty in a rank-major layout.
    pub expert_offsets: Vec<u32>,
    /// Rows of the experts' input, padding included.
    pub rows: u64,
    /// Those of them that are written, ascending; the others may hold anything.
    pub written: Vec<Range<u64>>,
}

impl Received {
    pub(super) fn new(exchange: &Exchange, copies: Vec<u32>, expert_counts: Vec<u32>) -> Received {
        if !exchange.layout.by_expert() {
            let rows = copies.iter().copied().map(u64::from).sum();
            let written = exchange.layout.written(rows, std::iter::empty());
            return Received { copies, expert_counts, expert_offsets: vec![], rows, written };
        }
        let mut expert_offsets = vec![0];
        let mut rows = 0;
        for &count in &expert_counts {
            rows += exchange.group_rows(count.into());
            expert_offsets.push(rows as u32);
        }
        let groups = expert_offsets.iter().copied().zip(expert_counts.iter().copied());
        let written = exchange.layout.written(rows, groups);
        Received { copies, expert_counts, expert_offsets, rows, written }
    }
}
