//! How received rows are laid out in front of the experts, and how many there can be.
//!
//! Invariant: whatever a layout means for numbers of rows is said here; kernels and judge say once more where an expert's rows start.

use std::ops::Range;
use std::{fmt, iter};

use serde::{Deserialize, Serialize};

/// How received rows are laid out for the experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowLayout {
    /// One row per received copy, in (source rank, source token) order, compact; its picks as *local* expert ids, −1 for "not here".
    /// The expert function weighs and sums the picks of a row; combine adds rows as they are.
    RankMajor,
    /// Rows grouped by local expert; each group starts at a multiple of `align` rows, within it (source rank, source token) order.
    ExpertMajor {
        /// In rows, at least 1.
        align: u32,
        /// What is between a group's end and the next multiple of `align`.
        padding: Padding,
    },
    /// Rows by local expert, a fixed number for each: as many as copies can come, all tokens of all ranks. Those of an expert are the first
    /// of its group, in (source rank, source token) order; how many is counted, and no other is written. Where a row is depends on no
    /// other expert, and how many there are on no routing.
    Batched,
}

/// What rows between the groups of two experts hold, in the experts' input and in the gradient of their output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// Zeros: a product that sums over rows, such as a gradient of weights, may take them along.
    Zero,
    /// Anything: nobody writes them, and nobody is to read them.
    Any,
}

impl Padding {
    /// Both.
    pub const ALL: [Padding; 2] = [Padding::Zero, Padding::Any];

    /// What the language calls it, behind `padding`.
    pub fn name(self) -> &'static str {
        match self {
            Padding::Zero => "zero",
            Padding::Any => "any",
        }
    }
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

/// As in a `.moe` file, behind `layout`.
impl fmt::Display for RowLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        self.align().map_or(Ok(()), |align| write!(f, " align {align}"))?;
        match self {
            RowLayout::ExpertMajor { padding: Padding::Any, .. } => f.write_str(" padding any"),
            RowLayout::ExpertMajor { padding: Padding::Zero, .. } | RowLayout::RankMajor | RowLayout::Batched => Ok(()),
        }
    }
}

impl Arrivals {
    /// Picks that a rank can receive.
    fn picks(self) -> u64 {
        self.copies * u64::from(self.top_k.min(self.experts))
    }
}

impl RowLayout {
    /// Every layout that kernels are made for.
    pub const KNOWN: &[RowLayout] = &[RowLayout::RankMajor, RowLayout::expert_major(1), RowLayout::Batched];

    /// By expert, with zeros between groups.
    pub const fn expert_major(align: u32) -> RowLayout {
        RowLayout::ExpertMajor { align, padding: Padding::Zero }
    }

    /// What the language calls it, behind `layout`.
    pub fn name(self) -> &'static str {
        match self {
            RowLayout::RankMajor => "rank_major",
            RowLayout::ExpertMajor { .. } => "expert_major",
            RowLayout::Batched => "batched",
        }
    }

    /// What groups start at a multiple of, where that is said.
    pub fn align(self) -> Option<u32> {
        match self {
            RowLayout::RankMajor | RowLayout::Batched => None,
            RowLayout::ExpertMajor { align, .. } => Some(align),
        }
    }

    /// The same with groups at multiples of so many rows, where it has such.
    #[must_use]
    pub fn aligned(self, align: u32) -> RowLayout {
        match self {
            RowLayout::RankMajor | RowLayout::Batched => self,
            RowLayout::ExpertMajor { padding, .. } => RowLayout::ExpertMajor { align, padding },
        }
    }

    /// The same with other rows between groups, where it has such.
    #[must_use]
    pub fn padded(self, padding: Padding) -> RowLayout {
        match self {
            RowLayout::RankMajor | RowLayout::Batched => self,
            RowLayout::ExpertMajor { align, .. } => RowLayout::ExpertMajor { align, padding },
        }
    }

    /// Whether a row belongs to one expert, so that rows have a weight each.
    pub fn by_expert(self) -> bool {
        match self {
            RowLayout::RankMajor => false,
            RowLayout::ExpertMajor { .. } | RowLayout::Batched => true,
        }
    }

    /// Whether rows between the groups of two experts are zeroed.
    pub fn pads(self) -> bool {
        match self {
            RowLayout::RankMajor | RowLayout::Batched => false,
            RowLayout::ExpertMajor { align, padding } => align > 1 && padding == Padding::Zero,
        }
    }

    /// Whether there are always the same number of rows, whatever arrives.
    pub fn is_fixed(self) -> bool {
        match self {
            RowLayout::RankMajor | RowLayout::ExpertMajor { .. } => false,
            RowLayout::Batched => true,
        }
    }

    /// Of the rows of a rank those that dispatch writes, ascending: others may hold anything. Where rows are by expert, `groups` has the
    /// first row and the picks of each.
    pub fn written(self, rows: u64, groups: impl Iterator<Item = (u32, u32)>) -> Vec<Range<u64>> {
        let of_group = |(first, picks): (u32, u32)| first.into()..u64::from(first) + u64::from(picks);
        match self {
            RowLayout::RankMajor | RowLayout::ExpertMajor { padding: Padding::Zero, .. } => {
                iter::once(0..rows).collect()
            }
            RowLayout::ExpertMajor { padding: Padding::Any, .. } | RowLayout::Batched => groups.map(of_group).collect(),
        }
    }

    /// Rows from the start of an expert's group to the next, when the expert has so many picks. Only where rows are by expert.
    pub fn group_rows(self, picks: u64, arrivals: Arrivals) -> u64 {
        match self {
            RowLayout::RankMajor => picks,
            RowLayout::ExpertMajor { align, .. } => picks.next_multiple_of(align.into()),
            RowLayout::Batched => arrivals.copies,
        }
    }

    /// Rows of so many picks in the worst case, each of another copy.
    pub fn rows_of(self, picks: u64, arrivals: Arrivals) -> u64 {
        let picks = picks.min(arrivals.picks());
        match self {
            RowLayout::RankMajor => picks.min(arrivals.copies),
            RowLayout::ExpertMajor { align, .. } => {
                let padding = picks.min(arrivals.experts.into()) * u64::from(align - 1);
                (picks + padding).next_multiple_of(align.into())
            }
            RowLayout::Batched => arrivals.copies * u64::from(arrivals.experts),
        }
    }

    /// Rows in the worst case.
    pub fn rows_most(self, arrivals: Arrivals) -> u64 {
        self.rows_of(arrivals.picks(), arrivals)
    }
}
