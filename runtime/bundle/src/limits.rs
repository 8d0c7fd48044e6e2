//! What an [`Exchange`] may be. After [`Exchange::check`] returns `Ok`, every offset of the layout is inside the symmetric memory,
//! regions are disjoint, and no index of any array exceeds `i32::MAX`: kernels and runtime rely on it and check nothing again.

use std::ops::RangeInclusive;

use crate::exchange::{Exchange, Payload, RowLayout, SymmetricLayout};

/// Ranks of one NVLink domain.
pub const RANKS: RangeInclusive<u32> = 1..=72;
/// Experts that are sent to, and experts including those that compute nothing.
pub const EXPERTS: RangeInclusive<u32> = 1..=1024;
/// Picks per token: one lane of a warp each.
pub const TOP_K: RangeInclusive<u32> = 1..=32;
/// Elements per row.
pub const HIDDEN: RangeInclusive<u32> = 4..=1 << 20;
/// Tokens of a rank in one call.
pub const MAX_TOKENS: RangeInclusive<u32> = 1..=1 << 24;
/// Rows that a group of [`RowLayout::ExpertMajor`] may be aligned to.
pub const ALIGN: RangeInclusive<u32> = 1..=1 << 16;
/// CTAs of a kernel.
pub const CTAS: RangeInclusive<u32> = 1..=65_535;
/// Threads of a CTA.
pub const THREADS: RangeInclusive<u32> = 32..=1024;
/// Elements that share a scale.
pub const SCALE_BLOCK: u32 = 128;
/// Every row and every offset is a multiple of this, so that rows move in 16-byte words.
pub const WORD_BYTES: u64 = 16;

/// Why an [`Exchange`] cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// A number outside its range.
    #[error("{what} is {found}; it must be from {least} to {most}")]
    OutOfRange {
        /// Name of the number.
        what: &'static str,
        /// Its value.
        found: u64,
        /// Smallest that is possible.
        least: u64,
        /// Largest that is possible.
        most: u64,
    },
    /// A number that must be a multiple of another.
    #[error("{what} is {found}; it must be a multiple of {of}")]
    NotMultiple {
        /// Name of the number.
        what: &'static str,
        /// Its value.
        found: u64,
        /// What it must be a multiple of.
        of: u64,
    },
    /// More picks than there are experts to pick.
    #[error("top_k is {top_k}, but there are only {experts} experts")]
    MorePicksThanExperts {
        /// Picks per token.
        top_k: u32,
        /// Experts, with those that compute nothing.
        experts: u32,
    },
    /// Combine sums in f32 and rounds once; it has no scales.
    #[error("combine cannot use {payload:?}: the way back carries bf16, f16 or f32")]
    CombinePayload {
        /// What was asked for.
        payload: Payload,
    },
    /// A row of `rank_major` has several experts, so that there is no weight of a row.
    #[error("combine cannot weigh rows of layout rank_major: the expert function does; use reduce unweighted")]
    WeightedRankMajor,
    /// An array has more entries than an i32 can count.
    #[error("{what} would have {entries} entries, more than {most}: lower max_tokens, now {max_tokens}")]
    TooManyEntries {
        /// Name of the array.
        what: &'static str,
        /// Its entries.
        entries: u64,
        /// Entries that are possible.
        most: u64,
        /// What the user can change.
        max_tokens: u32,
    },
    /// A region of the symmetric layout is not where it may be.
    #[error("symmetric memory: {region} at byte {start} with {bytes} bytes {problem}")]
    Region {
        /// Name of the region.
        region: &'static str,
        /// Its offset.
        start: u64,
        /// Its size.
        bytes: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
}

fn within(what: &'static str, found: u32, range: &RangeInclusive<u32>) -> Result<(), LimitError> {
    if range.contains(&found) {
        return Ok(());
    }
    let [found, least, most] = [found, *range.start(), *range.end()].map(u64::from);
    Err(LimitError::OutOfRange { what, found, least, most })
}

fn multiple(what: &'static str, found: u64, of: u64) -> Result<(), LimitError> {
    if found.is_multiple_of(of) { Ok(()) } else { Err(LimitError::NotMultiple { what, found, of }) }
}

impl Exchange {
    /// Checks every limit except the symmetric layout: what a plan needs before it can compute one.
    ///
    /// # Errors
    /// The first limit that is not kept.
    pub fn check_numbers(&self) -> Result<(), LimitError> {
        within("ranks", self.ranks, &RANKS)?;
        within("experts", self.experts, &EXPERTS)?;
        within("zero_experts", self.zero_experts, &(0..=*EXPERTS.end() - self.experts))?;
        within("top_k", self.top_k, &TOP_K)?;
        within("hidden", self.hidden, &HIDDEN)?;
        within("max_tokens", self.max_tokens, &MAX_TOKENS)?;
        within("ctas", self.ctas, &CTAS)?;
        within("threads", self.threads, &THREADS)?;
        multiple("threads", u64::from(self.threads), 32)?;
        let experts = self.experts + self.zero_experts;
        if self.top_k > experts {
            return Err(LimitError::MorePicksThanExperts { top_k: self.top_k, experts });
        }
        if self.combine.scales(SCALE_BLOCK) != 0 {
            return Err(LimitError::CombinePayload { payload: self.combine });
        }
        match self.layout {
            RowLayout::RankMajor if self.weighted => return Err(LimitError::WeightedRankMajor),
            RowLayout::RankMajor => {}
            RowLayout::ExpertMajor { align } => within("align", align, &ALIGN)?,
        }
        if self.dispatch.scales(SCALE_BLOCK) != 0 {
            multiple("hidden", u64::from(self.hidden), u64::from(SCALE_BLOCK))?;
        }
        multiple("bytes of a dispatched row", self.row_bytes(self.dispatch), WORD_BYTES)?;
        multiple("bytes of a combined row", self.row_bytes(self.combine), WORD_BYTES)?;
        self.check_entries()
    }

    /// Kernels count entries of these arrays in i32.
    fn check_entries(&self) -> Result<(), LimitError> {
        let [ranks, tokens, k] = [self.ranks, self.max_tokens, self.top_k].map(u64::from);
        let scales = u64::from(self.dispatch.scales(self.hidden));
        let gate_width = u64::from(self.experts + self.zero_experts);
        for (what, entries) in [
            ("the picks of received copies", ranks * tokens * k),
            ("the rows of the experts' input", self.output_rows_max()),
            ("the picks of the experts' input", self.output_rows_max() * k),
            ("the scales of the experts' input", self.output_rows_max() * scales),
            ("the logits", tokens * gate_width),
        ] {
            let most = i32::MAX as u64;
            if entries > most {
                return Err(LimitError::TooManyEntries { what, entries, most, max_tokens: self.max_tokens });
            }
        }
        Ok(())
    }

    /// Bytes of a row in a payload, without its scales.
    pub fn row_bytes(&self, payload: Payload) -> u64 {
        u64::from(self.hidden) * u64::from(payload.element_bytes())
    }

    /// Checks every limit. A reader of a bundle does it before it believes the numbers.
    ///
    /// # Errors
    /// The first limit that is not kept.
    pub fn check(&self) -> Result<(), LimitError> {
        self.check_numbers()?;
        let layout = &self.symmetric;
        for (what, distance, least) in [
            ("row_bytes", layout.row_bytes, self.row_bytes(self.dispatch).max(self.row_bytes(self.combine))),
            ("scale_bytes", layout.scale_bytes, 4 * u64::from(self.dispatch.scales(self.hidden))),
            ("record_bytes", layout.record_bytes, 8 + 8 * u64::from(self.top_k)),
            ("partial_bytes", layout.partial_bytes, self.row_bytes(self.combine)),
        ] {
            multiple(what, distance, WORD_BYTES)?;
            // More than a page of padding is no layout that a plan makes; it keeps the products below far from overflow.
            let most = least + 4096;
            if !(least..=most).contains(&distance) {
                return Err(LimitError::OutOfRange { what, found: distance, least, most });
            }
        }
        let mut free = 0;
        let mut regions = layout.regions(self);
        regions.retain(|region| region.bytes > 0);
        regions.sort_by_key(|region| region.start);
        for Region { name, start, bytes } in regions {
            let wrong = |problem| LimitError::Region { region: name, start, bytes, problem };
            if !start.is_multiple_of(WORD_BYTES) {
                return Err(wrong("does not start at a multiple of 16"));
            }
            if start < free {
                return Err(wrong("overlaps the region before it"));
            }
            free = start.checked_add(bytes).ok_or_else(|| wrong("does not fit 64 bits"))?;
            if free > layout.bytes {
                return Err(wrong("reaches beyond the end"));
            }
        }
        Ok(())
    }
}

/// A part of symmetric memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// The field of [`SymmetricLayout`] that says where it starts.
    pub name: &'static str,
    /// Byte offset.
    pub start: u64,
    /// Size; 0 for scales that the payload does not have.
    pub bytes: u64,
}

impl SymmetricLayout {
    /// Every region, in the order of the fields.
    pub fn regions(&self, exchange: &Exchange) -> Vec<Region> {
        let [ranks, tokens, k] = [exchange.ranks, exchange.max_tokens, exchange.top_k].map(u64::from);
        let slots = 2 * ranks * tokens;
        let partials = 2 * u64::from(exchange.destinations_max()) * tokens;
        [
            ("dispatch_arrival", self.dispatch_arrival, 8 * ranks),
            ("combine_arrival", self.combine_arrival, 8 * ranks),
            ("gradient_arrival", self.gradient_arrival, 8 * ranks),
            ("barrier_arrival", self.barrier_arrival, 8 * ranks),
            ("counts", self.counts, 4 * 2 * ranks),
            ("rows", self.rows, slots * self.row_bytes),
            ("scales", self.scales, slots * self.scale_bytes),
            ("records", self.records, slots * self.record_bytes),
            ("partials", self.partials, partials * self.partial_bytes),
            ("weight_gradients", self.weight_gradients, 4 * 2 * tokens * k),
        ]
        .map(|(name, start, bytes)| Region { name, start, bytes })
        .into()
    }
}
