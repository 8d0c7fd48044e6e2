//! Who accessed what last. Bytes that were always accessed together have one entry: a row that the lanes of a warp wrote at once has one, and
//! so has an allocation that the host wrote. A partial access splits it.
//!
//! Invariant: the stretches of a page are in order and do not overlap.

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

/// An access by lanes of a warp at once: each its own bytes, one lane behind the other, or all the same ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    /// That of the first lane.
    pub mark: Mark,
    /// The first byte of the first lane.
    pub start: u64,
    /// Bytes of each lane; 0 where all lanes access all bytes.
    pub each: u64,
    pub lanes: u32,
}

impl Row {
    /// One thread accesses all bytes.
    pub fn of_one(mark: Mark, start: u64) -> Row {
        Row { mark, start, each: 0, lanes: 1 << mark.thread.lane }
    }

    /// The mark of the lane that accesses this byte, where each has its own.
    fn at(&self, address: u64) -> Mark {
        let lane = (address - self.start).checked_div(self.each).unwrap_or(0);
        Mark { thread: Thread { lane: self.mark.thread.lane + lane as u8, ..self.mark.thread }, ..self.mark }
    }

    /// Where the bytes of the next lane begin.
    fn behind(&self, address: u64) -> u64 {
        match self.each {
            0 => u64::MAX,
            each => self.start + ((address - self.start) / each + 1) * each,
        }
    }

    /// Whether every byte is of the same lane of the same warp in both.
    pub fn has_lanes_of(&self, other: &Row) -> bool {
        let first = |row: &Row| i128::from(row.start) - i128::from(row.mark.thread.lane) * i128::from(row.each);
        (self.mark.thread.cta, self.mark.thread.warp, self.each)
            == (other.mark.thread.cta, other.mark.thread.warp, other.each)
            && if self.each == 0 {
                self.lanes == other.lanes && self.lanes.is_power_of_two()
            } else {
                first(self) == first(other)
            }
    }

    /// The rows, each of one lane for each byte, that this is.
    fn apart(&self) -> impl Iterator<Item = Row> {
        let of_lane =
            |lane: u8| Row::of_one(Mark { thread: Thread { lane, ..self.mark.thread }, ..self.mark }, self.start);
        let alike = (0..32u8).filter(|lane| self.each == 0 && self.lanes >> lane & 1 == 1).map(of_lane);
        (self.each != 0).then_some(*self).into_iter().chain(alike)
    }
}

/// Reads of a place beyond which the oldest are forgotten.
const MOST_READS: usize = 4096;
/// So far back reads of the same warp are replaced.
const NEAR: usize = 4;

#[derive(Debug, Default, Clone)]
struct Cell {
    written: Option<Row>,
    /// Reads since then.
    read: Vec<Row>,
}

impl Cell {
    fn access(&mut self, new: &Row, bytes: (u64, u64), see: &mut impl See) {
        let meet = |first: &Row, see: &mut _| meet(first, new, bytes, see);
        self.written.iter().for_each(|first| meet(first, see));
        if !new.mark.writes() {
            self.add_read(new);
            return;
        }
        self.read.iter().for_each(|first| meet(first, see));
        self.read.clear();
        self.written = Some(*new);
    }

    fn add_read(&mut self, new: &Row) {
        let same = |mark: &Mark| Mark { thread: Thread { lane: 0, ..mark.thread }, ..*mark };
        if let Some((last, before)) = self.read.split_last_mut()
            && (last.each, new.each) == (0, 0)
            && same(&last.mark) == same(&new.mark)
        {
            last.lanes |= new.lanes;
            for row in before.iter_mut().rev().take(NEAR).filter(|row| row.each == 0 && row.mark.is_like(&new.mark)) {
                row.lanes &= !new.lanes;
            }
            return;
        }
        self.read.retain_mut(|row| {
            if row.mark.is_like(&new.mark) {
                match (row.each, new.each) {
                    (0, 0) => row.lanes &= !new.lanes,
                    _ if row.has_lanes_of(new) => return false,
                    _ => {}
                }
            }
            row.lanes != 0
        });
        if self.read.len() >= MOST_READS {
            self.read.drain(..MOST_READS / 2);
        }
        self.read.push(*new);
    }
}

/// Shows every pair of accesses to a byte of these, unless all are in order.
fn meet(first: &Row, second: &Row, (from, to): (u64, u64), see: &mut impl See) {
    if see.in_order(first, second) {
        return;
    }
    for first in first.apart() {
        for second in second.apart() {
            let mut at = from;
            while at < to {
                see.pair(at, &first.at(at), &second.at(at));
                at = first.behind(at).min(second.behind(at));
            }
        }
    }
}

/// Who judges an access against those before it.
pub(super) trait See {
    /// Whether all of an earlier access is known to be in order with all of the new one; then its pairs are not shown.
    fn in_order(&mut self, first: &Row, second: &Row) -> bool;
    /// An earlier access and the new one to the byte at an address, of which one writes.
    fn pair(&mut self, at: u64, first: &Mark, second: &Mark);
}

/// Bytes of a page.
const PAGE: u64 = 4096;

#[derive(Debug)]
struct Stretch {
    start: u64,
    end: u64,
    cell: Cell,
}

#[derive(Debug, Default)]
struct Page(Vec<Stretch>);

impl Page {
    fn access(&mut self, from: u64, to: u64, new: &Row, see: &mut impl See) {
        let first = self.0.partition_point(|stretch| stretch.end <= from);
        let (mut next, mut at) = (first, from);
        while at < to {
            match self.0.get_mut(next) {
                Some(found) if found.start < at => {
                    let front = Stretch { start: found.start, end: at, cell: found.cell.clone() };
                    found.start = at;
                    self.0.insert(next, front);
                    next += 1;
                }
                Some(found) if found.start == at => {
                    if found.end > to {
                        let rest = Stretch { start: to, end: found.end, cell: found.cell.clone() };
                        found.end = to;
                        self.0.insert(next + 1, rest);
                    }
                    let found = &mut self.0[next];
                    found.cell.access(new, (at, found.end), see);
                    at = found.end;
                    next += 1;
                }
                later => {
                    let end = later.map_or(to, |later| later.start.min(to));
                    let mut cell = Cell::default();
                    cell.access(new, (at, end), see);
                    self.0.insert(next, Stretch { start: at, end, cell });
                    at = end;
                    next += 1;
                }
            }
        }
        if new.mark.writes() {
            // All of it has the same history now.
            let first = first + usize::from(self.0[first].start < from);
            self.0[first].end = to;
            self.0.drain(first + 1..next);
        }
    }
}

/// The accesses of a space.
#[derive(Debug, Default)]
pub(super) struct Shadow(HashMap<u64, Page, BuildHasherDefault<Spread>>);

impl Shadow {
    /// Every access that is kept.
    pub fn each(&self, mut see: impl FnMut(u64, &Mark)) {
        for stretch in self.0.values().flat_map(|page| &page.0) {
            for row in stretch.cell.written.iter().chain(&stretch.cell.read).flat_map(Row::apart) {
                let mut at = stretch.start;
                while at < stretch.end {
                    see(at, &row.at(at));
                    at = row.behind(at);
                }
            }
        }
    }

    /// An access to so many bytes from the beginning of a row on, with those before it that have a byte in common.
    pub fn access(&mut self, bytes: u64, new: &Row, see: &mut impl See) {
        let (mut at, end) = (new.start, new.start + bytes);
        while at < end {
            let next = ((at / PAGE + 1) * PAGE).min(end);
            self.0.entry(at / PAGE).or_default().access(at, next, new, see);
            at = next;
        }
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

    /// Rows of lanes, broadcasts and single accesses, at and across the end of a page: what meets is what meets if every byte is kept apart.
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
            let count = match random.below(3) {
                0 => 1,
                _ => (1 + random.below(32 - u64::from(lane))).min((256 - start) / bytes),
            };
            let together = kind == AccessKind::Read && random.below(3) == 0;
            let row = match (count, together) {
                (1, _) => Row::of_one(mark(lane, kind), base + start),
                (_, true) => Row { lanes: random.bits() as u32 | 1, ..Row::of_one(mark(lane, kind), base + start) },
                (_, false) => Row { each: bytes, lanes: u32::MAX, ..Row::of_one(mark(lane, kind), base + start) },
            };
            let length = if row.each == 0 { bytes } else { bytes * count };
            let mut found = Pairs::default();
            shadow.access(length, &row, &mut found);
            let mut expected = BTreeSet::new();
            for at in start..start + length {
                let own: Vec<u8> = match row.each {
                    0 => (0..32).filter(|lane| row.lanes >> lane & 1 == 1).collect(),
                    each => vec![lane + ((at - start) / each) as u8],
                };
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
                let row = Row { each: 16, lanes: u32::MAX, ..Row::of_one(mark(0, kind), at * 512) };
                shadow.access(512, &row, &mut Pairs::default());
            }
        }
        assert_eq!(shadow.0.len(), 1);
        assert!(shadow.0.values().all(|page| page.0.len() == 8));
    }
}
