//! The demand of one sender, spread over the ranks of its group.
//!
//! Invariant: the probability of every node is at most 1, the probabilities of a group add up to
//! [`Demand::nodes_per_token`](super::Demand::nodes_per_token), and a rank's share of its node's copies is its share of
//! the node's load.

use super::Scenario;

/// Where a token's copies go, the same for every sender.
pub(super) struct Spread {
    /// For each node of a group: the probability that a token goes there.
    pub node: Vec<f64>,
    /// For each rank of a group: its share of the copies of its node.
    pub share: Vec<f64>,
    /// Copies of one token up to and including each rank.
    pub cumulative: Vec<f64>,
}

impl Spread {
    pub fn new(scenario: &Scenario) -> Self {
        let ranks = scenario.demand.group_ranks as usize;
        let per_node = scenario.network.gpus_per_node as usize;
        let even = vec![1.0; ranks];
        let load = if scenario.demand.rank_load.is_empty() { &even } else { &scenario.demand.rank_load };
        let weights: Vec<f64> = load.chunks(per_node).map(|node| node.iter().sum()).collect();
        let node = fill(&weights, scenario.demand.nodes_per_token);
        let share: Vec<f64> = (0..ranks)
            .map(|rank| if weights[rank / per_node] > 0.0 { load[rank] / weights[rank / per_node] } else { 0.0 })
            .collect();
        let mut copies = 0.0;
        let cumulative = (0..ranks)
            .map(|rank| {
                copies += node[rank / per_node] * share[rank];
                copies
            })
            .collect();
        Self { node, share, cumulative }
    }
}

/// Probabilities in proportion to the weights, none above 1, that add up to `total`: what is cut off above 1 goes to
/// the others.
fn fill(weights: &[f64], total: f64) -> Vec<f64> {
    let mut full = vec![false; weights.len()];
    loop {
        let count = full.iter().filter(|&&full| full).count();
        let open: f64 = weights.iter().zip(&full).filter(|(_, full)| !**full).map(|(weight, _)| weight).sum();
        let factor = if open > 0.0 { (total - count as f64).max(0.0) / open } else { 0.0 };
        let over: Vec<usize> = (0..weights.len()).filter(|&node| !full[node] && weights[node] * factor > 1.0).collect();
        if over.is_empty() {
            return weights.iter().zip(&full).map(|(weight, &full)| if full { 1.0 } else { weight * factor }).collect();
        }
        for node in over {
            full[node] = true;
        }
    }
}
