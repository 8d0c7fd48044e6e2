//! Symmetric memory: one allocation per rank with the same layout everywhere, and where each part of it lies.
//!
//! Invariants: every offset is a multiple of [`REGION_ALIGN`], a function of the [`Exchange`] alone and so the same on every rank;
//! parts do not overlap. All of it is zero before epoch 1.
//!
//! A *flag* is a u64 for each rank that only grows: how often that rank has published. A *region* has two halves, used by calls whose
//! epoch is even and odd, each of some lists of equally many entries: the entry (half, list, index) lies at
//! `start + ((half × lists + list) × entries + index) × stride`.
//!
//! # Epochs
//! Each flag counts calls of its own, 1, 2, 3 …: the word [`Flag::epoch_word`] of [`crate::Buffer::Calls`] on each rank says how many are
//! over. A kernel of a call computes with one more; the last kernel of the call that uses the flag writes it, from its last CTA. All ranks
//! make the same calls in the same order, so that epochs agree; no epoch is an argument, so that recorded launches can be replayed.
//!
//! In epoch e every CTA of a publishing kernel adds 1 to the flag of every destination: a flag has arrived when it is at least e × CTAs.
//! Every rank waits for the flags of *all* ranks in every epoch: a rank that publishes epoch e has therefore seen every peer publish epoch
//! e − 1, and a peer does so only after it finished reading epoch e − 2 (kernels of one rank run in stream order). That is why two halves
//! suffice and no credit is needed. A single rank has nobody to tell: it leaves its flags
//! alone and stays in epoch 1. A region that a kernel writes without having waited in this call follows the epoch of the flag that
//! announces it: [`Region::flag`].

use serde::{Deserialize, Serialize};

use crate::exchange::Exchange;
use crate::topology::Topology;

/// Parts of symmetric memory start at a multiple of this: no two of them share a cache line.
pub const REGION_ALIGN: u64 = 128;
/// Every row and every stride is a multiple of this where rows move in 16-byte words.
pub const WORD_BYTES: u64 = 16;

/// A monotone word for each rank: how often it has published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flag {
    /// Rows on their way to the experts.
    Dispatch,
    /// Partial sums on their way back.
    Combine,
    /// Gradients of weights on their way back.
    Gradient,
    /// A rank has reached a barrier.
    Barrier,
}

impl Flag {
    /// In the order in which they lie in symmetric memory.
    pub const ALL: [Flag; 4] = [Flag::Dispatch, Flag::Combine, Flag::Gradient, Flag::Barrier];

    /// What a wait for it is called in reports.
    pub fn name(self) -> &'static str {
        match self {
            Flag::Dispatch => "dispatch.arrive",
            Flag::Combine => "combine.arrive",
            Flag::Gradient => "gradient.arrive",
            Flag::Barrier => "barrier.arrive",
        }
    }

    fn number(self) -> u64 {
        match self {
            Flag::Dispatch => 0,
            Flag::Combine => 1,
            Flag::Gradient => 2,
            Flag::Barrier => 3,
        }
    }

    /// The u64 of [`crate::Buffer::Calls`] that counts the calls that are over.
    pub fn epoch_word(self) -> u32 {
        2 * self.number() as u32
    }

    /// The u64 of [`crate::Buffer::Calls`] in which the CTAs of the last kernel of a call count themselves; 0 between calls.
    pub fn ticket_word(self) -> u32 {
        self.epoch_word() + 1
    }

    /// The status code of a wait for it whose deadline has passed.
    pub fn deadline_code(self) -> u64 {
        FIRST_DEADLINE_CODE + self.number()
    }
}

/// Codes below are those of [`crate::Fault`].
const FIRST_DEADLINE_CODE: u64 = 16;

/// A named part of symmetric memory that holds data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Region {
    /// u32 by source: copies received from there.
    Counts,
    /// A row by (source, slot), in the format of dispatch, or of combine for gradients.
    Rows,
    /// The scales of a row by (source, slot); empty for a format without.
    Scales,
    /// By (source, slot): i32 source token, i32 ordinal of this rank among the token's destinations, i32 picks `[top_k]` (global expert
    /// ids, −1 none), f32 weights `[top_k]`.
    Records,
    /// By (ordinal of the destination, own token): the partial sum that comes from there.
    Partials,
    /// f32 `[top_k]` by own token: gradients of its weights.
    WeightGradients,
}

/// The entries of one half of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Lists of a half.
    pub lists: u64,
    /// Entries of a list.
    pub entries: u64,
    /// Bytes from one entry to the next.
    pub stride: u64,
}

impl Shape {
    /// Both halves.
    pub fn bytes(self) -> u64 {
        2 * self.lists * self.entries * self.stride
    }
}

impl Region {
    /// In the order in which they lie in symmetric memory.
    pub const ALL: [Region; 6] =
        [Region::Counts, Region::Rows, Region::Scales, Region::Records, Region::Partials, Region::WeightGradients];

    /// In reports and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Region::Counts => "counts",
            Region::Rows => "rows",
            Region::Scales => "scales",
            Region::Records => "records",
            Region::Partials => "partials",
            Region::WeightGradients => "weight_gradients",
        }
    }

    /// The flag whose epoch says which half is in use.
    pub fn flag(self) -> Flag {
        match self {
            Region::Counts | Region::Rows | Region::Scales | Region::Records => Flag::Dispatch,
            Region::Partials => Flag::Combine,
            Region::WeightGradients => Flag::Gradient,
        }
    }

    /// Whether its lists are by source rank, so that each is written by one rank alone.
    pub fn by_source(self) -> bool {
        match self {
            Region::Counts | Region::Rows | Region::Scales | Region::Records => true,
            Region::Partials | Region::WeightGradients => false,
        }
    }

    /// Its entries.
    pub fn shape(self, exchange: &Exchange) -> Shape {
        let [ranks, tokens, k] = [exchange.ranks, exchange.max_tokens, exchange.top_k].map(u64::from);
        let by_slot =
            |stride: u64| Shape { lists: ranks, entries: tokens, stride: stride.next_multiple_of(WORD_BYTES) };
        match self {
            Region::Counts => Shape { lists: ranks, entries: 1, stride: 4 },
            Region::Rows => by_slot(exchange.row_bytes(exchange.dispatch).max(exchange.row_bytes(exchange.combine))),
            Region::Scales => by_slot(exchange.dispatch.scale_bytes(exchange.hidden)),
            Region::Records => by_slot(RECORD_HEAD_BYTES + 8 * k),
            Region::Partials => Shape {
                lists: exchange.destinations_max().into(),
                entries: tokens,
                stride: exchange.row_bytes(exchange.combine),
            },
            Region::WeightGradients => Shape { lists: 1, entries: tokens, stride: 4 * k },
        }
    }
}

/// Source token and ordinal, in front of the picks of a record.
pub const RECORD_HEAD_BYTES: u64 = 8;

/// A part of symmetric memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// u64 `[ranks]`
    Flag(Flag),
    /// See [`Region`].
    Region(Region),
}

impl Part {
    /// Every part, in the order in which they lie.
    pub fn all() -> impl Iterator<Item = Part> {
        Flag::ALL.map(Part::Flag).into_iter().chain(Region::ALL.map(Part::Region))
    }

    /// In reports and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Part::Flag(flag) => flag.name(),
            Part::Region(region) => region.name(),
        }
    }

    fn bytes(self, exchange: &Exchange) -> u64 {
        match self {
            Part::Flag(_) => 8 * u64::from(exchange.ranks),
            Part::Region(region) => region.shape(exchange).bytes(),
        }
    }
}

/// Where a part lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// What lies there.
    pub part: Part,
    /// Byte offset.
    pub start: u64,
    /// Size; 0 for scales that the format does not have.
    pub bytes: u64,
}

impl Exchange {
    /// Where every part of symmetric memory lies, one after the other.
    pub fn symmetric_places(&self) -> impl Iterator<Item = Place> {
        let mut free = 0;
        Part::all().map(move |part| {
            let place = Place { part, start: free, bytes: part.bytes(self) };
            free = (free + place.bytes).next_multiple_of(REGION_ALIGN);
            place
        })
    }

    fn start_of(&self, part: Part) -> u64 {
        self.symmetric_places()
            .take_while(|place| place.part != part)
            .last()
            .map_or(0, |before| (before.start + before.bytes).next_multiple_of(REGION_ALIGN))
    }

    /// Where a flag's words lie.
    pub fn flag_start(&self, flag: Flag) -> u64 {
        self.start_of(Part::Flag(flag))
    }

    /// Where a region lies.
    pub fn region_start(&self, region: Region) -> u64 {
        self.start_of(Part::Region(region))
    }

    /// What a rank of several domains holds besides, as [`crate::Protocol::Hybrid`] would: a slot for each token of its rail's rank in each
    /// other domain, which it hands on, and the sum on its way back; both halves.
    pub fn forwarding_bytes(&self, topology: Topology) -> u64 {
        let strides = [Region::Rows, Region::Scales, Region::Records, Region::Partials];
        let slot: u64 = strides.iter().map(|region| region.shape(self).stride).sum();
        2 * u64::from(topology.domains() - 1) * u64::from(self.max_tokens) * slot
    }

    /// Size of symmetric memory.
    pub fn symmetric_bytes(&self) -> u64 {
        let end = self.symmetric_places().last().map_or(0, |last| last.start + last.bytes);
        end.next_multiple_of(REGION_ALIGN)
    }
}
