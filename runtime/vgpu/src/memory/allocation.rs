//! One allocation, and the names of its parts. Invariant: of a freed one nothing is kept but its place.

use super::segment::Segment;
use crate::ids::RankId;

#[derive(Debug)]
pub(crate) struct NamedRange {
    pub start: u64,
    pub end: u64,
    pub name: String,
    pub writer: Option<RankId>,
}

#[derive(Debug, Default)]
pub(crate) struct Allocation {
    pub name: String,
    pub segment: Segment,
    /// Where its first byte is in the slot.
    pub base: u64,
    pub size: u64,
    pub live: bool,
    /// A stream will free it.
    pub leaving: bool,
    pub read_only: bool,
    pub private: bool,
    pub ranges: Vec<NamedRange>,
}

impl Allocation {
    /// Distance of a place in the slot from the first byte; may be negative.
    #[inline(always)]
    pub fn offset(&self, position: u64) -> i64 {
        position.cast_signed() - self.base.cast_signed()
    }

    /// Name of a place inside: the innermost named range, and what is left as an offset.
    pub fn symbol(&self, offset: i64) -> String {
        let inside = self
            .range(offset)
            .map_or((self.name.clone(), offset), |range| (range.name.clone(), offset - range.start.cast_signed()));
        match inside {
            (name, 0) => name,
            (name, rest) if rest < 0 => format!("{name}{rest}"),
            (name, rest) => format!("{name}+{rest}"),
        }
    }

    /// Names a part. A part that has a name gets the new one.
    pub fn name_range(&mut self, start: u64, end: u64, name: &str, writer: Option<RankId>) {
        let named = NamedRange { start, end, name: name.to_owned(), writer };
        match self.ranges.iter_mut().find(|range| (range.start, range.end) == (start, end)) {
            Some(range) => *range = named,
            None => self.ranges.push(named),
        }
    }

    pub fn range(&self, offset: i64) -> Option<&NamedRange> {
        self.ranges
            .iter()
            .filter(|range| (range.start.cast_signed()..range.end.cast_signed()).contains(&offset))
            .min_by_key(|range| range.end - range.start)
    }
}
