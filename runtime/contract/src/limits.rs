//! What an [`Exchange`] may be. After [`Exchange::check`] returns `Ok`, no index of any array exceeds `i32::MAX` and no offset into
//! symmetric memory 63 bits: kernels and runtime rely on it and check nothing again.

use std::ops::RangeInclusive;

use crate::exchange::Exchange;
use crate::format::Format;
use crate::memory::WORD_BYTES;

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
/// Rows that a group of [`crate::RowLayout::ExpertMajor`] may be aligned to.
pub const ALIGN: RangeInclusive<u32> = 1..=1 << 16;
/// CTAs of a kernel.
pub const CTAS: RangeInclusive<u32> = 1..=65_535;
/// Threads of a CTA.
pub const THREADS: RangeInclusive<u32> = 32..=1024;

/// Why an [`Exchange`] cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message says what each field is")]
pub enum LimitError {
    /// A number outside its range.
    #[error("{what} is {found}; it must be from {least} to {most}")]
    OutOfRange { what: &'static str, found: u64, least: u64, most: u64 },
    /// A number that must be a multiple of another.
    #[error("{what} is {found}; it must be a multiple of {of}")]
    NotMultiple {
        what: &'static str,
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
    #[error("combine cannot use {}: the way back carries formats without scales", name(format))]
    CombineFormat { format: Format },
    /// A format that is not one of [`Format::KNOWN`].
    #[error("no kernel is made for the format {format:?}")]
    UnknownFormat { format: Format },
    /// A row of `rank_major` has several experts, so that there is no weight of a row.
    #[error("combine cannot weigh rows of layout rank_major: the expert function does; use reduce unweighted")]
    WeightedRankMajor,
    /// An array has more entries than an i32 can count.
    #[error("{what} would have {entries} entries, more than {most}: lower max_tokens, now {max_tokens}")]
    TooManyEntries {
        /// Name of the array.
        what: &'static str,
        entries: u64,
        /// Entries that are possible.
        most: u64,
        /// What the user can change.
        max_tokens: u32,
    },
}

fn name(format: &Format) -> &'static str {
    format.name().unwrap_or("an unknown format")
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
    /// Checks every limit. A reader of a bundle does it before it believes the numbers.
    ///
    /// # Errors
    /// The first limit that is not kept.
    pub fn check(&self) -> Result<(), LimitError> {
        within("ranks", self.ranks, &RANKS)?;
        within("experts", self.experts, &EXPERTS)?;
        within("zero_experts", self.zero_experts, &(0..=*EXPERTS.end() - self.experts))?;
        within("top_k", self.top_k, &TOP_K)?;
        within("hidden", self.hidden, &HIDDEN)?;
        within("max_tokens", self.max_tokens, &MAX_TOKENS)?;
        within("ctas_link", self.ctas_link, &CTAS)?;
        within("ctas_local", self.ctas_local, &CTAS)?;
        within("threads", self.threads, &THREADS)?;
        multiple("threads", u64::from(self.threads), 32)?;
        let experts = self.gate_width();
        if self.top_k > experts {
            return Err(LimitError::MorePicksThanExperts { top_k: self.top_k, experts });
        }
        for format in [self.dispatch, self.combine] {
            if !format.has_kernels() {
                return Err(LimitError::UnknownFormat { format });
            }
        }
        if self.combine.scales.is_some() {
            return Err(LimitError::CombineFormat { format: self.combine });
        }
        if self.weighted && !self.layout.by_expert() {
            return Err(LimitError::WeightedRankMajor);
        }
        self.layout.align().map_or(Ok(()), |align| within("align", align, &ALIGN))?;
        if let Some(scales) = self.dispatch.scales {
            multiple("hidden", u64::from(self.hidden), u64::from(scales.block))?;
        }
        multiple("bytes of a dispatched row", self.row_bytes(self.dispatch), WORD_BYTES)?;
        multiple("bytes of a combined row", self.row_bytes(self.combine), WORD_BYTES)?;
        self.check_entries()
    }

    /// Kernels count entries of these arrays in i32.
    fn check_entries(&self) -> Result<(), LimitError> {
        let [ranks, tokens, k] = [self.ranks, self.max_tokens, self.top_k].map(u64::from);
        let scales = u64::from(self.dispatch.scales_per_row(self.hidden));
        let gate_width = u64::from(self.gate_width());
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

    /// The same exchange, checked.
    ///
    /// # Errors
    /// The first limit that is not kept.
    pub fn checked(self) -> Result<Exchange, LimitError> {
        self.check()?;
        Ok(self)
    }
}
