//! How many copies of a token cross to other nodes, from the loads.
//!
//! *Assumptions.* Every node has equally many tokens, and all see the same loads. An expert's copies on a node serve the tokens of that
//! node first, up to the equal share that balance gives them; what is left of each node's tokens goes to the copies that have room, in
//! proportion. With N nodes, r(n) of an expert's c copies on node n and its p picks per token, that is
//!
//! * served at home on n: min(1/N, r(n)/c) of the expert's picks, lacking d(n) = 1/N − that, room v(n) = r(n)/c − that;
//! * from node s to node n: p · N · d(s) · v(n) / Σ d picks for each token of s; P(s→n) is their sum over the experts.
//!
//! A token crosses to a node once, however many of its picks are there. Its k picks are taken as independent draws from the loads, so
//! that node n is among them with probability 1 − (1 − P(s→n)/k)^k, and
//!
//! **copies between nodes per token = 1/N · Σ over s ≠ n of 1 − (1 − P(s→n)/k)^k.**
//!
//! Counts do not say which picks go together. A gate that limits the groups reaches fewer nodes than this when groups are whole on nodes:
//! this number ranks placements, [`crate::traffic`] with the real gate says what one costs.

use super::layout::Layout;

/// Picks between nodes, kept up to date from change to change.
#[derive(Clone, Debug)]
pub(super) struct Network {
    nodes: usize,
    top_k: u32,
    /// Picks of each expert per token.
    picks: Vec<f64>,
    /// Picks from each node to each node, per token of the first.
    between: Vec<f64>,
}

impl Network {
    /// Before any expert is placed.
    pub fn new(nodes: usize, top_k: u32, loads: &[f64]) -> Network {
        let total: f64 = loads.iter().sum();
        let scale = if total > 0.0 { f64::from(top_k) / total } else { 0.0 };
        let picks = loads.iter().map(|&load| load * scale).collect();
        Network { nodes, top_k, picks, between: vec![0.0; nodes * nodes] }
    }

    pub fn of(layout: &Layout, top_k: u32, loads: &[f64]) -> Network {
        let mut network = Network::new(layout.grid.nodes, top_k, loads);
        for expert in 0..layout.experts() {
            network.add(expert, &copies_by_node(layout, expert), 1.0);
        }
        network
    }

    /// Adds (`sign` 1) or takes away (`sign` −1) an expert that has so many copies on each node.
    pub fn add(&mut self, expert: usize, copies: &[usize], sign: f64) {
        let even = 1.0 / self.nodes as f64;
        let all = copies.iter().sum::<usize>() as f64;
        let lack = |node: usize| (even - copies[node] as f64 / all).max(0.0);
        let room = |node: usize| (copies[node] as f64 / all - even).max(0.0);
        let lacking: f64 = (0..self.nodes).map(lack).sum();
        let scale = sign * self.picks[expert] / even / lacking;
        if lacking < 1e-12 || scale == 0.0 {
            return;
        }
        for to in (0..self.nodes).filter(|&node| room(node) > 0.0) {
            for from in (0..self.nodes).filter(|&node| lack(node) > 0.0) {
                self.between[from * self.nodes + to] += scale * lack(from) * room(to);
            }
        }
    }

    /// Copies of a token that cross to another node, on average.
    pub fn copies(&self) -> f64 {
        let k = f64::from(self.top_k);
        let reached = |picks: &f64| 1.0 - (1.0 - picks / k).clamp(0.0, 1.0).powi(self.top_k as i32);
        self.between.iter().map(reached).sum::<f64>() / self.nodes as f64
    }
}

/// How many copies of an expert each node has.
pub(super) fn copies_by_node(layout: &Layout, expert: usize) -> Vec<usize> {
    let mut copies = vec![0; layout.grid.nodes];
    layout.copies(expert).iter().for_each(|&slot| copies[layout.grid.node(slot)] += 1);
    copies
}
