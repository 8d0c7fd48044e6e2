//! The exact bytes on every link, given the routing: the formulas of "Bytes on the links" in [`moe_bundle::exchange`].
//!
//! Invariant: for the same routing, a [`Traffic`] equals what the virtual cluster counts, byte for byte. The diagonal is what a rank
//! writes to its own symmetric memory; it crosses no link.

use moe_bundle::{Exchange, RankId};

/// What the routing of all ranks means for the links: copies and picks by (source, destination).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    copies: Matrix,
    picks: Matrix,
}

impl Flow {
    /// From the picks of every rank, row-major `[tokens, top_k]`. Picks that are no experts (−1, zero experts) flow nowhere.
    ///
    /// # Panics
    /// When `indices` has not one entry per rank.
    pub fn of(exchange: &Exchange, indices: &[&[i32]]) -> Flow {
        assert_eq!(indices.len(), exchange.ranks as usize, "one list of picks per rank");
        let mut flow = Flow { copies: Matrix::zero(exchange.ranks), picks: Matrix::zero(exchange.ranks) };
        for (source, indices) in (0..).map(RankId).zip(indices) {
            for token in indices.chunks(exchange.top_k as usize) {
                let sent = token.iter().filter_map(|&pick| u32::try_from(pick).ok());
                let sent = sent.filter(|&expert| expert < exchange.experts);
                let mut destinations: Vec<RankId> = sent.map(|expert| RankId(exchange.rank_of(expert))).collect();
                destinations.iter().for_each(|&destination| flow.picks.add(source, destination, 1));
                destinations.sort_unstable();
                destinations.dedup();
                destinations.iter().for_each(|&destination| flow.copies.add(source, destination, 1));
            }
        }
        flow
    }

    /// Tokens of `source` that are sent to `destination`.
    pub fn copies(&self, source: RankId, destination: RankId) -> u64 {
        self.copies.at(source, destination)
    }

    /// Picks of `source`'s tokens among the experts of `destination`.
    pub fn picks(&self, source: RankId, destination: RankId) -> u64 {
        self.picks.at(source, destination)
    }
}

/// Bytes by (writing rank, rank whose memory is written).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traffic(Matrix);

impl Traffic {
    /// No byte.
    pub fn none(ranks: u32) -> Traffic {
        Traffic(Matrix::zero(ranks))
    }

    /// A dispatch.
    pub fn dispatch(exchange: &Exchange, flow: &Flow) -> Traffic {
        let record = 8 + 8 * u64::from(exchange.top_k);
        Traffic::forward(exchange, flow, payload_bytes(exchange) + record, 4)
    }

    /// A dispatch of a handle.
    pub fn dispatch_cached(exchange: &Exchange, flow: &Flow) -> Traffic {
        Traffic::forward(exchange, flow, payload_bytes(exchange), 0)
    }

    /// A combine, or the backward of a dispatch.
    pub fn combine(exchange: &Exchange, flow: &Flow) -> Traffic {
        Traffic::backward(exchange, &flow.copies, exchange.row_bytes(exchange.combine))
    }

    /// The backward of a combine: gradients to the experts, gradients of weights back.
    pub fn combine_backward(exchange: &Exchange, flow: &Flow) -> Traffic {
        let mut traffic = Traffic::forward(exchange, flow, exchange.row_bytes(exchange.combine), 0);
        traffic += &Traffic::backward(exchange, &flow.picks, if exchange.weighted { 4 } else { 0 });
        traffic
    }

    /// A barrier.
    pub fn barrier(exchange: &Exchange) -> Traffic {
        let mut traffic = Traffic::none(exchange.ranks);
        traffic.0.bytes.fill(8);
        traffic
    }

    fn forward(exchange: &Exchange, flow: &Flow, per_copy: u64, per_link: u64) -> Traffic {
        let mut traffic = Traffic::none(exchange.ranks);
        for (source, destination) in traffic.0.pairs() {
            let bytes = flow.copies(source, destination) * per_copy + per_link + flag_bytes(exchange);
            traffic.0.add(source, destination, bytes);
        }
        traffic
    }

    fn backward(exchange: &Exchange, count: &Matrix, each: u64) -> Traffic {
        let mut traffic = Traffic::none(exchange.ranks);
        for (source, destination) in traffic.0.pairs() {
            traffic.0.add(destination, source, count.at(source, destination) * each + flag_bytes(exchange));
        }
        traffic
    }

    /// Bytes that `writer` writes into the memory of `owner`.
    pub fn bytes(&self, writer: RankId, owner: RankId) -> u64 {
        self.0.at(writer, owner)
    }

    /// Bytes that cross a link: all but the diagonal.
    pub fn crossing(&self) -> u64 {
        self.0.pairs().filter(|(writer, owner)| writer != owner).map(|(writer, owner)| self.0.at(writer, owner)).sum()
    }
}

impl std::ops::AddAssign<&Traffic> for Traffic {
    fn add_assign(&mut self, other: &Traffic) {
        for (mine, theirs) in self.0.bytes.iter_mut().zip(&other.0.bytes) {
            *mine += theirs;
        }
    }
}

/// A row and its scales.
fn payload_bytes(exchange: &Exchange) -> u64 {
    exchange.row_bytes(exchange.dispatch) + 4 * u64::from(exchange.dispatch.scales(exchange.hidden))
}

/// Every CTA adds 1 to a u64.
fn flag_bytes(exchange: &Exchange) -> u64 {
    8 * u64::from(exchange.ctas)
}

/// A number for each pair of ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Matrix {
    ranks: u32,
    bytes: Vec<u64>,
}

impl Matrix {
    fn zero(ranks: u32) -> Matrix {
        Matrix { ranks, bytes: vec![0; (ranks * ranks) as usize] }
    }

    fn at(&self, from: RankId, to: RankId) -> u64 {
        self.bytes[self.place(from, to)]
    }

    fn add(&mut self, from: RankId, to: RankId, number: u64) {
        let place = self.place(from, to);
        self.bytes[place] += number;
    }

    fn place(&self, from: RankId, to: RankId) -> usize {
        from.index() * self.ranks as usize + to.index()
    }

    fn pairs(&self) -> impl Iterator<Item = (RankId, RankId)> + use<> {
        let ranks = self.ranks;
        (0..ranks).flat_map(move |from| (0..ranks).map(move |to| (RankId(from), RankId(to))))
    }
}
