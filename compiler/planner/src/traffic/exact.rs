//! The bytes on every link for a given routing.
//!
//! Invariants: a byte that crosses NVLink is counted at (writing rank, rank of the same node), one that crosses the network at
//! (sending rank, node), where the rank of its rail receives it; the diagonal of NVLink is what a rank writes to its own memory and
//! crosses no link. On one node the numbers are those of [`moe_contract::LinkBytes`].

use moe_contract::RankId;
use moe_contract::placement::Turns;

use super::{NodeId, Topology, Wire};

/// Copies and picks by link, of all tokens of all ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    topology: Topology,
    /// Copies by (forwarding rank, rank of its node).
    inside: Matrix,
    /// Copies by (source rank, node); none to the own one.
    between: Matrix,
    picks_inside: Matrix,
    picks_between: Matrix,
}

impl Flow {
    /// From the picks of every rank, row-major `[tokens, top_k]`.
    ///
    /// # Panics
    /// When `indices` has not one entry per rank.
    pub fn of(topology: &Topology, top_k: u32, indices: &[&[i32]]) -> Flow {
        assert_eq!(indices.len(), topology.ranks() as usize, "one list of picks per rank");
        let (ranks, local, nodes) = (topology.ranks(), topology.ranks_per_node(), topology.nodes());
        let mut flow = Flow {
            topology: topology.clone(),
            inside: Matrix::zero(ranks, local),
            between: Matrix::zero(ranks, nodes),
            picks_inside: Matrix::zero(ranks, local),
            picks_between: Matrix::zero(ranks, nodes),
        };
        for (source, indices) in (0..).map(RankId).zip(indices) {
            let mut turns = Turns::of_rank(source, topology.experts(), indices);
            for picks in indices.chunks(top_k as usize) {
                flow.add(source, &mut turns, picks);
            }
        }
        flow
    }

    fn add(&mut self, source: RankId, turns: &mut Turns, picks: &[i32]) {
        let topology = &self.topology;
        let own = topology.node_of(source);
        let mut ranks: Vec<RankId> = picks.iter().filter_map(|&pick| topology.home(pick, turns)).collect();
        ranks.sort_unstable();
        for here in ranks.chunk_by(|a, b| topology.node_of(*a) == topology.node_of(*b)) {
            let node = topology.node_of(here[0]);
            let forwarder = topology.on_rail(source, node);
            if node != own {
                self.between.add(source.0, node.0, 1);
                self.picks_between.add(source.0, node.0, here.len() as u64);
            }
            for same in here.chunk_by(|a, b| a == b) {
                let local = same[0].0 % topology.ranks_per_node();
                self.inside.add(forwarder.0, local, 1);
                self.picks_inside.add(forwarder.0, local, same.len() as u64);
            }
        }
    }

    /// Copies that `source` sends over the network to `node`.
    pub fn copies_to_node(&self, source: RankId, node: NodeId) -> u64 {
        self.between.at(source.0, node.0)
    }

    /// Copies that `from` writes to `to`, a rank of its node: its own tokens, and those that it forwards.
    pub fn copies_within(&self, from: RankId, to: RankId) -> u64 {
        debug_assert_eq!(self.topology.node_of(from), self.topology.node_of(to));
        self.inside.at(from.0, to.0 % self.topology.ranks_per_node())
    }
}

/// Bytes by link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkBytes {
    topology: Topology,
    nvlink: Matrix,
    rdma: Matrix,
}

/// The bytes that one kind of call puts on a link: for each copy, for each pick, and once.
#[derive(Clone, Copy)]
struct Cost {
    copy: u64,
    pick: u64,
    once_inside: u64,
    once_between: u64,
}

impl LinkBytes {
    /// A dispatch.
    pub fn dispatch(flow: &Flow, wire: &Wire) -> LinkBytes {
        // A rank gets one count from each source, by way of the rank that forwards it.
        let counts = u64::from(flow.topology.nodes()) * wire.count;
        let (once_inside, once_between) = (counts + wire.flag, wire.count + wire.flag);
        LinkBytes::forward(flow, Cost { copy: wire.dispatch_copy(), pick: 0, once_inside, once_between })
    }

    /// A dispatch of a routing that the receivers know.
    pub fn dispatch_cached(flow: &Flow, wire: &Wire) -> LinkBytes {
        LinkBytes::forward(flow, Cost::rows(wire.dispatch_row, wire))
    }

    /// A combine, or the backward of a dispatch.
    pub fn combine(flow: &Flow, wire: &Wire) -> LinkBytes {
        LinkBytes::backward(flow, Cost::rows(wire.combine_row, wire))
    }

    /// The backward of a combine: gradients to the experts, gradients of weights back.
    pub fn combine_backward(flow: &Flow, wire: &Wire) -> LinkBytes {
        let mut bytes = LinkBytes::forward(flow, Cost::rows(wire.combine_row, wire));
        let weights = LinkBytes::backward(flow, Cost { pick: wire.weight_gradient, ..Cost::rows(0, wire) });
        bytes.nvlink.add_all(&weights.nvlink);
        bytes.rdma.add_all(&weights.rdma);
        bytes
    }

    fn forward(flow: &Flow, cost: Cost) -> LinkBytes {
        let topology = &flow.topology;
        let mut bytes = LinkBytes::none(topology);
        for (from, local) in bytes.nvlink.cells() {
            bytes.nvlink.add(from, local, cost.inside(flow, from, local));
        }
        for (source, node) in bytes.rdma.cells() {
            if topology.node_of(RankId(source)) != NodeId(node) {
                bytes.rdma.add(source, node, cost.between(flow, source, node));
            }
        }
        bytes
    }

    /// The same links in the other direction.
    fn backward(flow: &Flow, cost: Cost) -> LinkBytes {
        let topology = &flow.topology;
        let mut bytes = LinkBytes::none(topology);
        for (forwarder, local) in bytes.nvlink.cells() {
            let forwarder = RankId(forwarder);
            let expert = RankId(topology.node_of(forwarder).0 * topology.ranks_per_node() + local);
            let back = cost.inside(flow, forwarder.0, local);
            bytes.nvlink.add(expert.0, forwarder.0 % topology.ranks_per_node(), back);
        }
        for (source, node) in bytes.rdma.cells() {
            let source = RankId(source);
            let own = topology.node_of(source);
            if own != NodeId(node) {
                let forwarder = topology.on_rail(source, NodeId(node));
                bytes.rdma.add(forwarder.0, own.0, cost.between(flow, source.0, node));
            }
        }
        bytes
    }

    fn none(topology: &Topology) -> LinkBytes {
        LinkBytes {
            topology: topology.clone(),
            nvlink: Matrix::zero(topology.ranks(), topology.ranks_per_node()),
            rdma: Matrix::zero(topology.ranks(), topology.nodes()),
        }
    }

    /// Bytes that `writer` writes into the memory of `owner`, a rank of its node.
    pub fn nvlink(&self, writer: RankId, owner: RankId) -> u64 {
        debug_assert_eq!(self.topology.node_of(writer), self.topology.node_of(owner));
        self.nvlink.at(writer.0, owner.0 % self.topology.ranks_per_node())
    }

    /// Bytes that `sender` sends over its rail to the rank of `node`.
    pub fn rdma(&self, sender: RankId, node: NodeId) -> u64 {
        self.rdma.at(sender.0, node.0)
    }

    /// Bytes that leave the GPU of a rank over NVLink.
    pub fn nvlink_out(&self, rank: RankId) -> u64 {
        let local = self.topology.ranks_per_node();
        (0..local).filter(|&other| other != rank.0 % local).map(|other| self.nvlink.at(rank.0, other)).sum()
    }

    /// Bytes that leave the NIC of a rank.
    pub fn rdma_out(&self, rank: RankId) -> u64 {
        (0..self.topology.nodes()).map(|node| self.rdma.at(rank.0, node)).sum()
    }

    /// Bytes that reach the NIC of a rank.
    pub fn rdma_in(&self, rank: RankId) -> u64 {
        let node = self.topology.node_of(rank);
        let senders = (0..self.topology.nodes()).map(|other| self.topology.on_rail(rank, NodeId(other)));
        senders.map(|sender| self.rdma.at(sender.0, node.0)).sum()
    }
}

impl Cost {
    fn rows(copy: u64, wire: &Wire) -> Cost {
        Cost { copy, pick: 0, once_inside: wire.flag, once_between: wire.flag }
    }

    fn inside(self, flow: &Flow, from: u32, local: u32) -> u64 {
        flow.inside.at(from, local) * self.copy + flow.picks_inside.at(from, local) * self.pick + self.once_inside
    }

    fn between(self, flow: &Flow, source: u32, node: u32) -> u64 {
        flow.between.at(source, node) * self.copy + flow.picks_between.at(source, node) * self.pick + self.once_between
    }
}

/// A number for each rank and each of `columns`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Matrix {
    columns: u32,
    cells: Vec<u64>,
}

impl Matrix {
    fn zero(rows: u32, columns: u32) -> Matrix {
        Matrix { columns, cells: vec![0; rows as usize * columns as usize] }
    }

    fn place(&self, row: u32, column: u32) -> usize {
        row as usize * self.columns as usize + column as usize
    }

    fn at(&self, row: u32, column: u32) -> u64 {
        self.cells[self.place(row, column)]
    }

    fn add(&mut self, row: u32, column: u32, number: u64) {
        let place = self.place(row, column);
        self.cells[place] += number;
    }

    fn add_all(&mut self, other: &Matrix) {
        self.cells.iter_mut().zip(&other.cells).for_each(|(mine, theirs)| *mine += theirs);
    }

    fn cells(&self) -> impl Iterator<Item = (u32, u32)> + use<> {
        let (columns, rows) = (self.columns, self.cells.len() as u32 / self.columns);
        (0..rows).flat_map(move |row| (0..columns).map(move |column| (row, column)))
    }
}
