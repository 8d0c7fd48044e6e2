//! Who accessed what last. Bytes that were written at once have one entry, and so have bytes that the lanes of a warp read at once.
//!
//! Invariants: the stretches of a page are in order and do not overlap; what was read is kept until it is written again, and no longer.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::clock::{Thread, Time};
use crate::ids::CopyId;
use crate::memory::{Proxy, Scope};
use crate::observer::AccessKind;

/// An access that may take part in a race.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Who, or in whose name.
    pub thread: Thread,
    pub time: Time,
    pub line: u32,
    pub kind: AccessKind,
    /// Scope of a strong access.
    pub strong: Option<Scope>,
    pub proxy: Proxy,
    pub copy: Option<CopyId>,
}

impl Mark {
    pub fn writes(&self) -> bool {
        self.kind != AccessKind::Read
    }

    fn is_like(&self, other: &Mark) -> bool {
        (self.thread.cta, self.thread.warp, self.strong, self.proxy, self.copy)
            == (other.thread.cta, other.thread.warp, other.strong, other.proxy, other.copy)
    }
}

/// An access by lanes of a warp at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    /// That of the first lane.
    pub mark: Mark,
    /// The first byte of the first lane.
    pub start: u64,
    /// Bytes of each lane.
    pub each: u32,
    /// From the first byte of one lane to that of the next one; 0 where all access the same.
    pub step: u32,
    /// At least one.
    pub lanes: u32,
}

impl Row {
    /// One thread accesses all bytes.
    pub fn of_one(mark: Mark, start: u64, bytes: u32) -> Row {
        Row { mark, start, each: bytes, step: 0, lanes: 1 << mark.thread.lane }
    }

    fn first_lane(&self) -> u32 {
        self.mark.thread.lane.into()
    }

    /// Where the bytes of a lane would begin if all lanes took part.
    fn at(&self, lane: u32) -> u64 {
        self.start.wrapping_add_signed((i64::from(lane) - i64::from(self.first_lane())) * i64::from(self.step))
    }

    /// Behind the last byte of the last lane.
    pub fn end(&self) -> u64 {
        self.at(self.lanes.ilog2()) + u64::from(self.each)
    }

    /// What each lane accesses of these bytes.
    fn pieces(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, u64, Mark)> {
        (0..32).filter(|lane| self.lanes >> lane & 1 == 1).filter_map(move |lane| {
            let start = self.at(lane);
            let (from, to) = (from.max(start), to.min(start + u64::from(self.each)));
            let mark = Mark { thread: Thread { lane: lane as u8, ..self.mark.thread }, ..self.mark };
            (from < to).then_some((from, to, mark))
        })
    }

    /// Whether the bytes of a lane are the same in both, of whatever lanes take part.
    fn lies_like(&self, other: &Row) -> bool {
        (self.each, self.step, self.at(0)) == (other.each, other.step, other.at(0))
    }

    /// Whether every byte that both have is of the same thread in both.
    pub fn has_lanes_of(&self, other: &Row) -> bool {
        let warp = |row: &Row| (row.mark.thread.cta, row.mark.thread.warp);
        warp(self) == warp(other)
            && (self.lanes == other.lanes && self.lanes.is_power_of_two()
                || self.step >= self.each && self.lies_like(other))
    }

    /// Whether it still says something when the new read is known.
    fn remains_beside(&self, new: &Row) -> bool {
        let stands_for = self.lanes & !new.lanes == 0 && self.lies_like(new);
        !(stands_for && self.mark.is_like(&new.mark))
    }

    /// What is left when these bytes are taken out.
    fn without(&self, from: u64, to: u64, left: &mut Vec<Row>) {
        let mut whole = 0;
        for (start, end, mark) in self.pieces(0, u64::MAX) {
            if end <= from || to <= start {
                whole |= 1 << mark.thread.lane;
                continue;
            }
            for (start, end) in [(start, end.min(from)), (start.max(to), end)] {
                if start < end {
                    left.push(Row::of_one(mark, start, (end - start) as u32));
                }
            }
        }
        if whole != 0 {
            let lane = u32::trailing_zeros(whole);
            let thread = Thread { lane: lane as u8, ..self.mark.thread };
            left.push(Row { mark: Mark { thread, ..self.mark }, start: self.at(lane), lanes: whole, ..*self });
        }
    }
}

/// Shows the accesses to each byte of these that both have, unless all are in order.
fn meet(first: &Row, second: &Row, (from, to): (u64, u64), see: &mut impl See) {
    if see.in_order(first, second) {
        return;
    }
    for (start, end, first) in first.pieces(from, to) {
        for (at, _, second) in second.pieces(start, end) {
            see.pair(at, &first, &second);
        }
    }
}

/// Who judges an access against those before it.
pub(super) trait See {
    /// Whether all of an earlier access is known to be in order with all of the new one; then its pairs are not shown.
    fn in_order(&mut self, first: &Row, second: &Row) -> bool;
    /// An earlier access and the new one, of which one writes, and the first byte that both have.
    fn pair(&mut self, at: u64, first: &Mark, second: &Mark);
}

/// Bytes of a page.
const PAGE: u64 = 4096;
/// An access to so many bytes is one of a warp that goes through pages.
const WIDE: u16 = 256;
/// Reads of a page beyond which the oldest are forgotten.
const MOST_READS: usize = 4096;
/// So far back reads that the new one stands for are looked for at once.
const NEAR: usize = 4;

/// Bytes of a page, counted from its beginning, that were written at once.
#[derive(Debug)]
struct Stretch {
    start: u16,
    end: u16,
    row: Row,
}

#[derive(Debug, Default)]
struct Page {
    written: Vec<Stretch>,
    /// Reads of what is there now.
    read: Vec<Row>,
}

impl Page {
    /// An access to these bytes of the page that begins at `base`, and perhaps to others.
    fn access(&mut self, base: u64, (from, to): (u16, u16), new: &Row, see: &mut impl See) {
        // Pages are written from front to back most of the time.
        let first = match self.written.last() {
            Some(last) if last.end > from => self.written.partition_point(|stretch| stretch.end <= from),
            _ => self.written.len(),
        };
        let mut behind = first;
        while let Some(stretch) = self.written.get(behind).filter(|stretch| stretch.start < to) {
            let common = (base + u64::from(stretch.start.max(from)), base + u64::from(stretch.end.min(to)));
            meet(&stretch.row, new, common, see);
            behind += 1;
        }
        if !new.mark.writes() {
            self.add_read(new);
            return;
        }
        if !self.read.is_empty() {
            self.overwrite_read((base + u64::from(from), base + u64::from(to)), new, see);
        }
        self.write((from, to), new, first..behind);
    }

    /// What was read is written.
    fn overwrite_read(&mut self, (start, end): (u64, u64), new: &Row, see: &mut impl See) {
        let mut left = Vec::new();
        self.read.retain(|row| {
            if row.end() <= start || end <= row.start {
                return true;
            }
            meet(row, new, (start, end), see);
            row.without(start, end, &mut left);
            false
        });
        self.read.append(&mut left);
    }

    /// Bytes have been written, in the place of those of some stretches.
    fn write(&mut self, (from, to): (u16, u16), new: &Row, old: std::ops::Range<usize>) {
        if self.written.is_empty() && to - from >= WIDE {
            self.written.reserve_exact(usize::from(PAGE as u16 / (to - from)));
        }
        let stretch = Stretch { start: from, end: to, row: *new };
        let front = self.written[old.clone()].first().filter(|first| first.start < from);
        let front = front.map(|first| Stretch { end: from, ..*first });
        let rest = self.written[old.clone()].last().filter(|last| last.end > to);
        let rest = rest.map(|last| Stretch { start: to, ..*last });
        if let (None, None, [same]) = (&front, &rest, &mut self.written[old.clone()]) {
            *same = stretch;
        } else if old.start == self.written.len() {
            self.written.push(stretch);
        } else {
            self.written.splice(old, front.into_iter().chain([stretch]).chain(rest));
        }
    }

    fn add_read(&mut self, new: &Row) {
        let same = |mark: &Mark| Mark { thread: Thread { lane: 0, ..mark.thread }, ..*mark };
        if let Some(last) = self.read.last_mut()
            && last.step == 0
            && last.lies_like(new)
            && same(&last.mark) == same(&new.mark)
        {
            last.lanes |= new.lanes;
            return;
        }
        match self.read.len() {
            0 => self.read.reserve_exact(1),
            NEAR.. if self.read.len() == self.read.capacity() => self.compact(),
            1.. => {}
        }
        let near = self.read.len().saturating_sub(NEAR);
        if let Some(old) = self.read[near..].iter().position(|row| !row.remains_beside(new)) {
            self.read.remove(near + old);
        }
        self.read.push(*new);
    }

    /// Forgets reads that later ones of the same lanes stand for.
    fn compact(&mut self) {
        let mut later: HashMap<u64, Vec<Row>, BuildHasherDefault<Spread>> = HashMap::default();
        let mut kept: Vec<Row> = Vec::with_capacity(self.read.len());
        for row in self.read.drain(..).rev() {
            let Thread { cta, warp, .. } = row.mark.thread;
            let of_warp = later.entry(u64::from(cta.0) << 16 | u64::from(warp)).or_default();
            if of_warp.iter().all(|later| row.remains_beside(later)) {
                of_warp.push(row);
                kept.push(row);
            }
        }
        if kept.len() >= MOST_READS {
            kept.truncate(MOST_READS / 2);
        }
        kept.reverse();
        self.read.append(&mut kept);
        self.read.reserve(self.read.len());
    }
}

/// The accesses of a space.
#[derive(Debug, Default)]
pub(super) struct Shadow {
    pages: Vec<Page>,
    /// Which page is where.
    places: HashMap<u64, u32, BuildHasherDefault<Spread>>,
    /// Some of those that were looked at last, each where its number says.
    recent: Vec<Option<(u64, u32)>>,
}

const RECENT: u64 = 16;

impl Shadow {
    /// Every access that is kept.
    pub fn each(&self, mut see: impl FnMut(u64, &Mark)) {
        for (&number, &place) in &self.places {
            let (base, page) = (number * PAGE, &self.pages[place as usize]);
            let written = page.written.iter();
            let written = written.map(|it| (&it.row, base + u64::from(it.start), base + u64::from(it.end)));
            let read = page.read.iter().map(|row| (row, base, base + PAGE));
            for (row, from, to) in written.chain(read) {
                row.pieces(from, to).for_each(|(at, _, mark)| see(at, &mark));
            }
        }
    }

    /// An access, with those before it that have a byte in common. What several lanes write is the bytes of one behind those of the other.
    pub fn access(&mut self, new: &Row, see: &mut impl See) {
        let (mut at, end) = (new.start, new.end());
        while at < end {
            let number = at / PAGE;
            let base = number * PAGE;
            let to = (base + PAGE).min(end);
            let page = self.page(number);
            page.access(base, ((at - base) as u16, (to - base) as u16), new, see);
            at = to;
        }
    }

    fn page(&mut self, number: u64) -> &mut Page {
        self.recent.resize(RECENT as usize, None);
        let recent = &mut self.recent[(number % RECENT) as usize];
        let place = match *recent {
            Some((found, place)) if found == number => place,
            _ => {
                let place = *self.places.entry(number).or_insert_with(|| {
                    self.pages.push(Page::default());
                    (self.pages.len() - 1) as u32
                });
                *recent = Some((number, place));
                place
            }
        };
        &mut self.pages[place as usize]
    }
}

/// A hash of addresses that are next to each other.
#[derive(Default)]
pub(crate) struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::judge::clock::CtaNumber;

    fn mark(lane: u8, kind: AccessKind) -> Mark {
        let thread = Thread { cta: CtaNumber(1), warp: 0, lane };
        Mark { thread, time: 1, line: 1, kind, strong: None, proxy: Proxy::Generic, copy: None }
    }

    /// Pairs of lanes, first and second; nothing is known to be in order.
    #[derive(Default)]
    struct Pairs(BTreeSet<(u8, u8)>);

    impl See for Pairs {
        fn in_order(&mut self, _: &Row, _: &Row) -> bool {
            false
        }

        fn pair(&mut self, _: u64, first: &Mark, second: &Mark) {
            assert!(first.writes() || second.writes());
            self.0.insert((first.thread.lane, second.thread.lane));
        }
    }

    /// Rows of lanes with and without gaps, broadcasts and single accesses, at and across the end of a page: what meets is what meets if
    /// every byte is kept apart.
    #[test]
    fn every_byte_has_its_own_history() {
        let mut random = moe_random::Random::new(5);
        let base = PAGE - 96;
        let mut shadow = Shadow::default();
        let mut plain: Vec<(Option<u8>, BTreeSet<u8>)> = vec![Default::default(); 256];
        for _ in 0..4000 {
            let bytes = 1 << random.below(5);
            let lane = random.below(32) as u8;
            let kind = if random.below(2) == 0 { AccessKind::Read } else { AccessKind::Write };
            let start = random.below(128 / bytes) * bytes;
            let (reads, gap) = (kind == AccessKind::Read, bytes * random.below(3));
            let row = match random.below(4) {
                0 if reads => Row {
                    lanes: random.bits() as u32 | 1 << lane,
                    ..Row::of_one(mark(lane, kind), base + start, bytes as u32)
                },
                1 | 2 => {
                    let step = if reads { bytes + gap } else { bytes };
                    let most = (32 - u64::from(lane)).min((256 - start) / step).max(1);
                    let all = u32::MAX >> (32 - (1 + random.below(most)) as u32);
                    let some = if reads { all & random.bits() as u32 | 1 } else { all };
                    Row {
                        mark: mark(lane, kind),
                        start: base + start,
                        each: bytes as u32,
                        step: step as u32,
                        lanes: some << lane,
                    }
                }
                _ => Row::of_one(mark(lane, kind), base + start, bytes as u32),
            };
            let mut found = Pairs::default();
            shadow.access(&row, &mut found);
            let mut expected = BTreeSet::new();
            for at in 0..256 {
                let of_lane = |lane: &u8| {
                    let behind = (i64::from(*lane) - i64::from(row.mark.thread.lane)) * i64::from(row.step);
                    let first = (row.start - base).wrapping_add_signed(behind);
                    row.lanes >> lane & 1 == 1 && (first..first.saturating_add(bytes)).contains(&at)
                };
                let own: Vec<u8> = (0..32u8).filter(of_lane).collect();
                if own.is_empty() {
                    continue;
                }
                let (written, read) = &mut plain[at as usize];
                let writes = kind == AccessKind::Write;
                let before = written.iter().chain(read.iter().filter(|_| writes));
                expected.extend(before.flat_map(|first| own.iter().map(|second| (*first, *second))));
                if writes {
                    (*written, *read) = (own.first().copied(), BTreeSet::new());
                } else {
                    read.extend(own);
                }
            }
            assert_eq!(found.0, expected, "{row:?}");
        }
    }

    #[test]
    fn a_row_that_is_written_again_and_again_is_one_stretch() {
        let mut shadow = Shadow::default();
        for round in 0..4 {
            for at in 0..8 {
                let kind = if round % 2 == 0 { AccessKind::Write } else { AccessKind::Read };
                let row = Row { mark: mark(0, kind), start: at * 512, each: 16, step: 16, lanes: u32::MAX };
                shadow.access(&row, &mut Pairs::default());
            }
        }
        let kept: Vec<(usize, usize)> = shadow.pages.iter().map(|page| (page.written.len(), page.read.len())).collect();
        assert_eq!(kept, [(8, 8)]);
    }
}
