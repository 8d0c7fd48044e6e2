//! What a sampled gate means for the links, per token.
//!
//! Invariant: every mean has the half width of its 95 % confidence interval, from the spread of the tokens; recorded tokens that are repeated
//! make it no narrower. Tokens start on every rank
//! with equal probability, whatever their picks; that average is taken exactly, not sampled.

use moe_contract::placement::Turns;
use moe_contract::{DomainId, Homes, RankId};
use schemars::JsonSchema;
use serde::Serialize;

use crate::sample::Sample;

/// A mean and how far it can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Estimate {
    /// The mean over the sampled tokens.
    pub mean: f64,
    /// Half width of the 95 % confidence interval of the mean; none with one token, which says nothing of the spread.
    pub half_width: Option<f64>,
    /// The largest that a sampled token had.
    pub largest: f64,
}

impl Estimate {
    /// What of it goes to other places than the token's own, which is each with the same probability. The largest is that of a token
    /// that starts where it does not go; nothing where there is no other place.
    fn scaled(self, factor: f64) -> Estimate {
        let largest = if factor > 0.0 { self.largest } else { 0.0 };
        Estimate { mean: self.mean * factor, half_width: self.half_width.map(|half| half * factor), largest }
    }
}

/// How evenly something is spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Load {
    /// The mean.
    pub mean: f64,
    /// The largest.
    pub largest: f64,
    /// How many there are.
    pub places: u32,
    /// How many sampled events the mean place has: its relative noise is 1 / √ of this.
    pub events: f64,
}

impl Load {
    /// `counts` events on each place, from `tokens` tokens, of which so many are not repeated; the numbers are per token.
    fn of(counts: &[u64], tokens: f64, independent: f64) -> Load {
        let places = counts.len() as f64;
        let sum: u64 = counts.iter().sum();
        let largest = counts.iter().copied().max().unwrap_or(0);
        Load {
            mean: sum as f64 / places / tokens,
            largest: largest as f64 / tokens,
            places: counts.len() as u32,
            events: sum as f64 / places / tokens * independent,
        }
    }

    /// The largest over the mean in a long run: what the sample shows beyond its own noise.
    pub fn lasting(&self) -> f64 {
        if self.mean <= 0.0 || self.places < 2 {
            return 1.0;
        }
        let excess = self.largest / self.mean - 1.0;
        let noise = self.spread() / self.events.sqrt();
        1.0 + (excess * excess - noise * noise).max(0.0).sqrt()
    }

    /// The largest over the mean in one call of `tokens` tokens in all: what lasts, and the noise of a call of that size.
    pub fn of_call(&self, tokens: f64) -> f64 {
        if self.mean <= 0.0 || self.places < 2 {
            return 1.0;
        }
        1.0 + (self.lasting() - 1.0).hypot(self.spread() / (self.mean * tokens).sqrt())
    }

    /// The mean of the largest of n standard normal deviations, to first order √(2 ln n).
    fn spread(&self) -> f64 {
        (2.0 * f64::from(self.places).ln()).sqrt()
    }
}

/// Where a token goes.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Expected {
    /// Sampled tokens.
    pub tokens: u64,
    /// Those that do not repeat others: recorded ones are repeated where more were asked for.
    pub independent: u64,
    /// Ranks of the group.
    pub ranks: u32,
    /// Ranks of a node.
    pub ranks_per_node: u32,
    /// Distinct nodes that hold an expert of the token, its own included.
    pub distinct_nodes: Estimate,
    /// The same without its own: copies over the network.
    pub remote_nodes: Estimate,
    /// Distinct ranks that hold an expert of the token, its own included.
    pub distinct_ranks: Estimate,
    /// Copies over NVLink: all but those that a rank writes to itself.
    pub nvlink_copies: Estimate,
    /// Picks that are sent: all but −1 and experts that compute nothing.
    pub picks: Estimate,
    /// Picks on ranks of other nodes.
    pub remote_picks: Estimate,
    /// Picks on other ranks.
    pub crossing_picks: Estimate,
    /// Picks of each rank.
    pub rank_picks: Load,
    /// Copies to each rank.
    pub rank_copies: Load,
    /// Copies to each node: what its NICs receive.
    pub node_copies: Load,
    /// Picks of each expert, that compute nothing included.
    pub expert_picks: Load,
    /// Picks of each expert, per token.
    pub experts: Vec<f64>,
    /// Picks of each rank, per token: messages in low-latency mode.
    pub picks_by_rank: Vec<f64>,
    /// Copies to each rank, per token.
    pub copies_by_rank: Vec<f64>,
    /// Copies to each node, per token.
    pub copies_by_node: Vec<f64>,
}

impl Expected {
    /// Of a sample, with the experts where `homes` puts them.
    pub fn of(sample: &Sample, homes: &Homes) -> Expected {
        let mut sums = Sums::new(homes);
        let mut ranks = Vec::new();
        for picks in sample.indices().chunks(sample.top_k() as usize) {
            sums.add(homes, picks, &mut ranks);
        }
        sums.finish(homes, sample.independent() as u64)
    }
}

/// First and second moments of a number per token.
#[derive(Clone, Copy, Default)]
struct Moments {
    sum: u64,
    squares: u64,
    largest: u64,
}

impl Moments {
    fn add(&mut self, value: usize) {
        let value = value as u64;
        self.sum += value;
        self.squares += value * value;
        self.largest = self.largest.max(value);
    }

    fn estimate(self, tokens: u64, independent: u64) -> Estimate {
        let n = tokens.max(1) as f64;
        let mean = self.sum as f64 / n;
        let variance = (self.squares as f64 / n - mean * mean).max(0.0);
        let half_width = (independent > 1).then(|| 1.96 * (variance / (independent as f64 - 1.0)).sqrt());
        Estimate { mean, half_width, largest: self.largest as f64 }
    }
}

struct Sums {
    tokens: u64,
    turns: Turns,
    nodes: Moments,
    ranks: Moments,
    picks: Moments,
    by_expert: Vec<u64>,
    picks_by_rank: Vec<u64>,
    by_rank: Vec<u64>,
    by_node: Vec<u64>,
}

impl Sums {
    fn new(homes: &Homes) -> Sums {
        let topology = homes.topology();
        Sums {
            tokens: 0,
            turns: Turns::new(homes.experts()),
            nodes: Moments::default(),
            ranks: Moments::default(),
            picks: Moments::default(),
            by_expert: vec![0; homes.experts() as usize],
            picks_by_rank: vec![0; topology.ranks as usize],
            by_rank: vec![0; topology.ranks as usize],
            by_node: vec![0; topology.domains() as usize],
        }
    }

    fn add(&mut self, homes: &Homes, picks: &[i32], ranks: &mut Vec<RankId>) {
        self.tokens += 1;
        ranks.clear();
        for &pick in picks {
            if let Some(count) = usize::try_from(pick).ok().and_then(|expert| self.by_expert.get_mut(expert)) {
                *count += 1;
            }
            if let Some(rank) = homes.of(pick, &mut self.turns) {
                self.picks_by_rank[rank.index()] += 1;
                ranks.push(rank);
            }
        }
        self.picks.add(ranks.len());
        // Contiguous placement gives ascending ranks; sorting what is sorted costs nothing.
        ranks.sort_unstable();
        ranks.dedup();
        self.ranks.add(ranks.len());
        let mut last: Option<DomainId> = None;
        let mut nodes = 0;
        for &rank in ranks.iter() {
            self.by_rank[rank.index()] += 1;
            let node = homes.topology().domain_of(rank);
            if last != Some(node) {
                self.by_node[node.index()] += 1;
                nodes += 1;
                last = Some(node);
            }
        }
        self.nodes.add(nodes);
    }

    fn finish(self, homes: &Homes, independent: u64) -> Expected {
        let topology = homes.topology();
        let (ranks, local, nodes) = [topology.ranks, topology.per_domain, topology.domains()].map(f64::from).into();
        let distinct_nodes = self.nodes.estimate(self.tokens, independent);
        let distinct_ranks = self.ranks.estimate(self.tokens, independent);
        let picks = self.picks.estimate(self.tokens, independent);
        let most_remote = distinct_nodes.largest.min(nodes - 1.0);
        let remote_nodes = Estimate { largest: most_remote, ..distinct_nodes.scaled(1.0 - 1.0 / nodes) };
        let tokens = self.tokens as f64;
        let load = |counts: &[u64]| Load::of(counts, tokens, independent as f64);
        let per_token = |counts: &[u64]| counts.iter().map(|&count| count as f64 / tokens).collect();
        Expected {
            tokens: self.tokens,
            independent,
            ranks: topology.ranks,
            ranks_per_node: topology.per_domain,
            distinct_nodes,
            remote_nodes,
            distinct_ranks,
            nvlink_copies: distinct_ranks.scaled(1.0 - 1.0 / local),
            picks,
            remote_picks: picks.scaled(1.0 - 1.0 / nodes),
            crossing_picks: picks.scaled(1.0 - 1.0 / ranks),
            rank_picks: load(&self.picks_by_rank),
            rank_copies: load(&self.by_rank),
            node_copies: load(&self.by_node),
            expert_picks: load(&self.by_expert),
            experts: per_token(&self.by_expert),
            picks_by_rank: per_token(&self.picks_by_rank),
            copies_by_rank: per_token(&self.by_rank),
            copies_by_node: per_token(&self.by_node),
        }
    }
}
