//! Who accessed what last. Bytes that were always accessed together have one entry; a partial access splits it.
//!
//! Invariant: the parts of a granule do not overlap.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::clock::{Thread, Time};
use crate::ids::CopyId;
use crate::memory::{Proxy, Scope};
use crate::observer::AccessKind;

/// An access that may take part in a race.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
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

    /// The same instruction of the same warp at the same time, or a copy of the same thread.
    fn is_beside(&self, other: &Mark) -> bool {
        Mark { thread: Thread { lane: other.thread.lane, ..self.thread }, ..*self } == *other
    }

    fn is_like(&self, other: &Mark) -> bool {
        (self.thread.cta, self.thread.warp, self.strong, self.proxy, self.copy)
            == (other.thread.cta, other.thread.warp, other.strong, other.proxy, other.copy)
    }
}

/// A read by lanes of a warp at once.
#[derive(Debug)]
struct Reads {
    mark: Mark,
    lanes: u32,
}

/// Reads of a place beyond which the oldest are forgotten.
const MOST_READS: usize = 4096;
/// So far back reads of the same warp are replaced.
const NEAR: usize = 4;

#[derive(Debug, Default)]
struct Cell {
    written: Option<Mark>,
    /// Reads since then.
    read: Vec<Reads>,
}

impl Clone for Cell {
    fn clone(&self) -> Cell {
        let read = self.read.iter().map(|reads| Reads { ..*reads }).collect();
        Cell { written: self.written, read }
    }
}

impl Cell {
    fn access(&mut self, new: &Mark, earlier: &mut impl FnMut(&Mark)) {
        self.written.iter().for_each(&mut *earlier);
        if !new.writes() {
            self.add_read(new);
            return;
        }
        for reads in &self.read {
            for lane in (0..32u8).filter(|lane| reads.lanes >> lane & 1 == 1) {
                earlier(&Mark { thread: Thread { lane, ..reads.mark.thread }, ..reads.mark });
            }
        }
        self.read.clear();
        self.written = Some(*new);
    }

    fn add_read(&mut self, new: &Mark) {
        let lane = 1 << new.thread.lane;
        if let Some((last, before)) = self.read.split_last_mut()
            && new.is_beside(&last.mark)
        {
            last.lanes |= lane;
            for reads in before.iter_mut().rev().take(NEAR).filter(|reads| reads.mark.is_like(new)) {
                reads.lanes &= !lane;
            }
            return;
        }
        for reads in self.read.iter_mut().filter(|reads| reads.mark.is_like(new)) {
            reads.lanes &= !lane;
        }
        self.read.retain(|reads| reads.lanes != 0);
        if self.read.len() >= MOST_READS {
            self.read.drain(..MOST_READS / 2);
        }
        self.read.push(Reads { mark: *new, lanes: lane });
    }
}

/// Bytes of a granule.
const GRANULE: u64 = 16;

#[derive(Debug, Default)]
struct Granule {
    /// A bit for each byte, and who accessed these.
    parts: Vec<(u16, Cell)>,
}

impl Granule {
    fn access(&mut self, bytes: u16, new: &Mark, earlier: &mut impl FnMut(&Mark)) {
        let mut fresh = bytes;
        for at in 0..self.parts.len() {
            let (mask, cell) = &mut self.parts[at];
            let common = *mask & bytes;
            if common == 0 {
                continue;
            }
            fresh &= !common;
            let rest = *mask & !common;
            if rest != 0 {
                *mask = common;
                let apart = cell.clone();
                self.parts.push((rest, apart));
            }
            self.parts[at].1.access(new, earlier);
        }
        if fresh != 0 {
            let mut cell = Cell::default();
            cell.access(new, earlier);
            self.parts.push((fresh, cell));
        }
    }
}

/// The accesses of a space.
#[derive(Debug, Default)]
pub(super) struct Shadow(HashMap<u64, Granule, BuildHasherDefault<Spread>>);

impl Shadow {
    /// Every access that is kept.
    pub fn each(&self, mut see: impl FnMut(u64, &Mark)) {
        for (granule, found) in &self.0 {
            for (mask, cell) in &found.parts {
                let at = granule * GRANULE + u64::from(mask.trailing_zeros());
                cell.written.iter().for_each(|mark| see(at, mark));
                for reads in &cell.read {
                    for lane in (0..32u8).filter(|lane| reads.lanes >> lane & 1 == 1) {
                        see(at, &Mark { thread: Thread { lane, ..reads.mark.thread }, ..reads.mark });
                    }
                }
            }
        }
    }

    /// An access, and the place and mark of each earlier one that has a byte in common and of which one writes.
    pub fn access(&mut self, start: u64, bytes: u64, new: &Mark, mut earlier: impl FnMut(u64, &Mark)) {
        let end = start + bytes;
        let mut at = start;
        while at < end {
            let granule = at / GRANULE;
            let next = ((granule + 1) * GRANULE).min(end);
            let mask = (((1u32 << (next - at)) - 1) << (at % GRANULE)) as u16;
            let found = self.0.entry(granule).or_default();
            found.access(mask, new, &mut |mark| earlier(at, mark));
            at = next;
        }
    }
}

/// A hash of addresses that are next to each other.
#[derive(Default)]
pub(super) struct Spread(u64);

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
    use super::*;
    use crate::judge::clock::CtaNumber;

    fn mark(lane: u8, kind: AccessKind) -> Mark {
        let thread = Thread { cta: CtaNumber(1), warp: 0, lane };
        Mark { thread, time: 1, line: 1, kind, strong: None, proxy: Proxy::Generic, copy: None }
    }

    #[test]
    fn every_byte_has_its_own_last_access() {
        let mut random = moe_random::Random::new(5);
        let (mut shadow, mut plain) = (Shadow::default(), vec![None; 64]);
        for _ in 0..2000 {
            let (lane, bytes) = (random.below(32) as u8, 1 << random.below(5));
            let start = random.below(64 / bytes) * bytes;
            let mut found = Vec::new();
            shadow.access(start, bytes, &mark(lane, AccessKind::Write), |_, earlier| found.push(earlier.thread.lane));
            found.sort_unstable();
            found.dedup();
            let range = start as usize..(start + bytes) as usize;
            let mut expected: Vec<u8> = plain[range.clone()].iter().flatten().copied().collect();
            expected.sort_unstable();
            expected.dedup();
            assert_eq!(found, expected);
            plain[range].fill(Some(lane));
        }
    }

    #[test]
    fn a_write_meets_every_lane_that_has_read() {
        let mut shadow = Shadow::default();
        for lane in [3, 4, 9] {
            shadow.access(8, 4, &mark(lane, AccessKind::Read), |_, _| panic!("reads do not meet"));
        }
        let mut found = Vec::new();
        shadow.access(0, 16, &mark(0, AccessKind::Write), |at, earlier| found.push((at, earlier.thread.lane)));
        assert_eq!(found, [(0, 3), (0, 4), (0, 9)]);
    }
}
