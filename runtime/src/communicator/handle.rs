//! What calls return: the routing of a gate, and the handle of a dispatch.

use std::ops::Range;
use std::sync::Arc;

use moe_contract::Exchange;

use crate::buffers::HandleBuffers;
use crate::tensor::Distributed;
use crate::world::Owner;

/// Which experts each token goes to, and with which weights.
#[derive(Clone, Debug)]
pub struct Routing {
    /// [`moe_contract::Tensor::Indices`]
    pub indices: Distributed,
    /// [`moe_contract::Tensor::Weights`]
    pub weights: Distributed,
}

/// The result of a dispatch.
#[derive(Clone, Debug)]
pub struct Dispatched {
    /// What combine and the gradients need.
    pub handle: Handle,
    /// [`moe_contract::Tensor::ExpertInput`]
    pub input: Distributed,
    /// [`moe_contract::Tensor::ExpertInputScales`], for a payload that has scales.
    pub scales: Option<Distributed>,
}

/// A routing that has been dispatched. Its arrays live on the device until the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Handle(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub owner: Owner,
    pub routing: Routing,
    /// Tokens of each rank.
    pub tokens: Vec<u64>,
    /// Rows of the experts' input of each rank, as they were allocated.
    pub rows: Vec<u64>,
    pub buffers: Arc<HandleBuffers>,
}

impl Handle {
    /// The routing that was dispatched.
    pub fn routing(&self) -> &Routing {
        &self.0.routing
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
