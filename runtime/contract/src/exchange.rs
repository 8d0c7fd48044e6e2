//! An exchange: the numbers that the kernels of one bundle are specialised to. Everything else in this crate is a function of them.
//!
//! Invariant, of an [`Exchange`] that [`Exchange::check`] accepts: every number a kernel is specialised to is here or follows from it;
//! no index of any array exceeds `i32::MAX`, no offset 64 bits.

use serde::{Deserialize, Serialize};

use crate::format::Format;
use crate::ids::{ExpertId, RankId};
use crate::layout::{Arrivals, RowLayout};
use crate::topology::{Owners, Topology};

/// Which picks are dropped when an expert has more than its capacity (per source rank).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Drop {
    /// Those with the smallest weight; among equal weights, the later token.
    Lowest,
    /// Those of the latest tokens.
    Position,
}

/// Everything that the dispatch and combine kernels of one bundle are specialised to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// Ranks of the domain, 1 to 72.
    pub ranks: u32,
    /// Experts that are sent to, 1 to 1024: ids `0 .. experts`.
    pub experts: u32,
    /// Experts that compute nothing: ids `experts .. experts + zero_experts`, weighed but never sent.
    pub zero_experts: u32,
    /// Picks per token, 1 to 32.
    pub top_k: u32,
    /// Elements per row.
    pub hidden: u32,
    /// Most tokens of a rank in one call.
    pub max_tokens: u32,
    /// Format on the way to the experts.
    pub dispatch: Format,
    /// Layout in front of the experts.
    pub layout: RowLayout,
    /// Format on the way back, and of the experts' output and the result; without scales.
    pub combine: Format,
    /// Whether combine multiplies an expert's row by its weight; otherwise weights are the experts' business, and their gradients
    /// come from there.
    pub weighted: bool,
    /// Capacity: what is dropped.
    pub drop: Option<Drop>,
    /// CTAs of every kernel that writes to peers.
    pub ctas_link: u32,
    /// CTAs, at most, of every kernel that places and reduces what has come.
    pub ctas_local: u32,
    /// Threads of a CTA, a multiple of 32.
    pub threads: u32,
}

/// How the kernels of an exchange are launched: numbers of an [`Exchange`] that do not follow from model and deploy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// [`Exchange::ctas_link`]
    pub ctas_link: u32,
    /// [`Exchange::ctas_local`]
    pub ctas_local: u32,
    /// [`Exchange::threads`]
    pub threads: u32,
}

impl Launch {
    /// One warp: for whoever asks what does not depend on it.
    pub const LEAST: Launch = Launch { ctas_link: 1, ctas_local: 1, threads: 32 };
}

impl Exchange {
    /// Who can reach whom: one domain, as there are kernels for no other.
    pub fn topology(&self) -> Topology {
        Topology::one_domain(self.ranks)
    }

    /// Whether ranks tell each other by flags when something has arrived. The kernels of a single rank are in order by their stream.
    pub fn has_flags(&self) -> bool {
        self.ranks > 1
    }

    /// Which rank holds which expert.
    pub fn owners(&self) -> Owners {
        Owners { experts: self.experts, ranks: self.ranks }
    }

    /// The experts of a rank.
    pub fn experts_of(&self, rank: u32) -> std::ops::Range<u32> {
        self.owners().experts_of(RankId(rank))
    }

    /// The rank that owns an expert.
    pub fn rank_of(&self, expert: u32) -> u32 {
        self.owners().rank_of(ExpertId(expert)).0
    }

    /// Experts of the rank that has most.
    pub fn local_experts_max(&self) -> u32 {
        self.owners().most()
    }

    /// What can arrive at a rank.
    fn arrivals(&self) -> Arrivals {
        Arrivals {
            copies: u64::from(self.ranks) * u64::from(self.max_tokens),
            top_k: self.top_k,
            experts: self.local_experts_max(),
        }
    }

    /// Rows of the experts' input in the worst case.
    pub fn output_rows_max(&self) -> u64 {
        self.layout.rows_most(self.arrivals())
    }

    /// Rows of the experts' input when so many picks arrive, in the worst case.
    pub fn rows_of(&self, picks: u64) -> u64 {
        self.layout.rows_of(picks, self.arrivals())
    }

    /// Rows from the start of an expert's group to the next, when the expert has so many picks. Only where rows are by expert.
    pub fn group_rows(&self, picks: u64) -> u64 {
        self.layout.group_rows(picks, self.arrivals())
    }

    /// Destinations of a token at most.
    pub fn destinations_max(&self) -> u32 {
        self.ranks.min(self.top_k)
    }

    /// Width of the logits.
    pub fn gate_width(&self) -> u32 {
        self.experts + self.zero_experts
    }

    /// Weights of a row of the experts' input: one where rows are by expert, else one for each pick of the copy.
    pub fn weights_per_row(&self) -> u32 {
        if self.layout.by_expert() { 1 } else { self.top_k }
    }

    /// Bytes of a row in a format, without its scales.
    pub fn row_bytes(&self, format: Format) -> u64 {
        format.row_bytes(self.hidden)
    }
}
