//! How received rows are laid out in front of the experts, and how many there can be.

use serde::{Deserialize, Serialize};

/// How received rows are laid out for the experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowLayout {
    /// One row per received copy, in (source rank, source token) order, compact; its picks as *local* expert ids, −1 for "not here".
    /// The expert function weighs and sums the picks of a row; combine adds rows as they are.
    RankMajor,
    /// Rows grouped by local expert; each group starts at a multiple of `align` rows, within it (source rank, source token) order;
    /// rows between a group's end and the next multiple of `align` are zero.
    ExpertMajor {
        /// In rows, at least 1.
        align: u32,
    },
}

/// What of a deploy decides how many rows there can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrivals {
    /// Copies that a rank can receive.
    pub copies: u64,
    /// Picks of a token.
    pub top_k: u32,
    /// Experts of the rank that has most.
    pub experts: u32,
}

impl RowLayout {
    /// Whether a row belongs to one expert, so that rows have a weight each.
    pub fn by_expert(self) -> bool {
        match self {
            RowLayout::RankMajor => false,
            RowLayout::ExpertMajor { .. } => true,
        }
    }

    /// Whether rows between the groups of two experts are zeroed.
    pub fn pads(self) -> bool {
        match self {
            RowLayout::RankMajor => false,
            RowLayout::ExpertMajor { align } => align > 1,
        }
    }

    /// Rows in the worst case.
    pub fn rows_most(self, arrivals: Arrivals) -> u64 {
        let Arrivals { copies, top_k, experts } = arrivals;
        match self {
            RowLayout::RankMajor => copies,
            RowLayout::ExpertMajor { align } => {
                let rows = copies * u64::from(top_k.min(experts));
                let padding = u64::from(experts) * u64::from(align - 1);
                (rows + padding).next_multiple_of(u64::from(align))
            }
        }
    }

    /// The first row behind an expert's group that starts at `first` and has `rows` rows: where the next one starts.
    pub fn next_group(self, first: u64, rows: u64) -> u64 {
        match self {
            RowLayout::RankMajor => first + rows,
            RowLayout::ExpertMajor { align } => (first + rows).next_multiple_of(u64::from(align)),
        }
    }
}
