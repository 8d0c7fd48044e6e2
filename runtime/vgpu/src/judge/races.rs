//! Finds accesses to shared memory that nothing orders, whatever the schedule of the run: *happens before* with vector clocks.
//!
//! Invariant: order comes from barriers of a CTA and from `bar.warp.sync`, and from nothing else. Other instructions with a member mask
//! let lanes meet and do not order their accesses, as the PTX ISA says. Atomic and other strong accesses, and those of the async proxy, are
//! not looked at. A kernel that hands shared memory over by a flag is beyond this: what it does is told as a race.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use crate::ids::{LaunchId, ThreadId};
use crate::memory::{Order, Proxy};
use crate::observer::{Access, AccessKind, Event, Location, Observer};

/// An [`Observer`] of races in shared memory. Its clones are one: one goes to the cluster, another tells what was found.
#[derive(Debug, Clone, Default)]
pub struct Races(Arc<Mutex<State>>);

/// Two accesses to a byte, one of them a write, with no barrier between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Race {
    /// The byte of shared memory.
    pub offset: u32,
    /// The access that the run made first.
    pub first: Side,
    /// The other one.
    pub second: Side,
}

/// One of the accesses of a race.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Side {
    pub thread: ThreadId,
    /// Read or write.
    pub kind: AccessKind,
    /// Line of the instruction in the PTX text.
    pub line: u32,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = if self.kind == AccessKind::Read { "reads" } else { "writes" };
        write!(f, "lane {} of warp {} {what} it in line {}", self.thread.lane, self.thread.warp, self.line)
    }
}

impl std::fmt::Display for Race {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ThreadId { rank, launch, cta, .. } = self.first.thread;
        write!(
            f,
            "byte {} of the shared memory of CTA {cta} of launch {} on rank {}: {} and {}, with no barrier between them",
            self.offset, launch.0, rank.0, self.first, self.second
        )
    }
}

impl Races {
    /// The first race of every pair of lines.
    pub fn found(&self) -> Vec<Race> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).found.clone()
    }
}

impl Observer for Races {
    fn access(&mut self, access: &Access) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).access(access);
    }

    fn event(&mut self, event: &Event) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).event(event);
    }
}

#[derive(Debug, Default)]
struct State {
    ctas: HashMap<(LaunchId, u32), Cta>,
    found: Vec<Race>,
}

/// How many synchronisations of each thread of the CTA a thread knows of. One that is not there is 0.
type Clock = Vec<u32>;

#[derive(Debug, Default)]
struct Cta {
    /// By number of the thread.
    clocks: Vec<Clock>,
    /// Threads that have arrived at a barrier.
    arrived: BTreeMap<u32, Vec<usize>>,
    /// By offset.
    bytes: Vec<Byte>,
}

#[derive(Debug, Default)]
struct Byte {
    written: Option<Mark>,
    /// Reads since then, one of each thread.
    read: Vec<Mark>,
}

/// An access and its thread's own time at it.
#[derive(Debug, Clone, Copy)]
struct Mark {
    time: u32,
    side: Side,
}

fn number(thread: ThreadId) -> usize {
    (thread.warp * 32 + thread.lane) as usize
}

fn of_lanes(thread: ThreadId, lanes: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |lane| lanes >> lane & 1 == 1).map(move |lane| (thread.warp * 32 + lane) as usize)
}

impl Cta {
    /// Makes room for the clock of a thread.
    fn meet(&mut self, thread: usize) {
        while self.clocks.len() <= thread {
            // A thread knows of its own steps before the first synchronisation.
            let mut clock = vec![0; self.clocks.len() + 1];
            clock[self.clocks.len()] = 1;
            self.clocks.push(clock);
        }
    }

    /// All that these threads did happens before all that they do from now on.
    fn synchronise(&mut self, threads: &[usize]) {
        let mut joined: Clock = Vec::new();
        for &thread in threads {
            self.meet(thread);
            let clock = &self.clocks[thread];
            joined.resize(joined.len().max(clock.len()), 0);
            joined.iter_mut().zip(clock.iter()).for_each(|(all, own)| *all = (*all).max(*own));
        }
        for &thread in threads {
            self.clocks[thread].clone_from(&joined);
            self.clocks[thread][thread] += 1;
        }
    }

    /// An access, with the earlier one that it races with at a byte, if there is one.
    fn access(&mut self, offset: u32, bytes: u32, side: Side) -> Option<(u32, Side)> {
        let thread = number(side.thread);
        self.meet(thread);
        let end = (offset + bytes) as usize;
        if self.bytes.len() < end {
            self.bytes.resize_with(end, Byte::default);
        }
        let clock = &self.clocks[thread];
        let mark = Mark { time: clock[thread], side };
        let places = (offset..).zip(&mut self.bytes[offset as usize..end]);
        places.fold(None, |found, (place, byte)| {
            let earlier = byte.take(mark, clock);
            found.or(earlier.map(|earlier| (place, earlier)))
        })
    }
}

impl Byte {
    /// An access by a thread that knows of this. The earlier one that it races with.
    fn take(&mut self, mark: Mark, clock: &Clock) -> Option<Side> {
        let apart = |other: &&Mark| {
            let thread = number(other.side.thread);
            other.side.thread != mark.side.thread && other.time > clock.get(thread).copied().unwrap_or(0)
        };
        if mark.side.kind == AccessKind::Read {
            let found = self.written.as_ref().filter(apart).map(|other| other.side);
            match self.read.iter_mut().find(|other| other.side.thread == mark.side.thread) {
                Some(own) => *own = mark,
                None => self.read.push(mark),
            }
            return found;
        }
        let found = self.written.iter().chain(&self.read).find(apart).map(|other| other.side);
        self.read.clear();
        self.written = Some(mark);
        found
    }
}

impl State {
    /// No two launches have the same number, whatever their rank.
    fn cta(&mut self, thread: ThreadId) -> &mut Cta {
        self.ctas.entry((thread.launch, thread.cta)).or_default()
    }

    fn access(&mut self, access: &Access) {
        let Location::Shared(_, offset) = access.location else { return };
        if access.order != Order::Weak || access.proxy != Proxy::Generic || access.kind == AccessKind::Atomic {
            return;
        }
        let side = Side { thread: access.thread, kind: access.kind, line: access.line };
        let Some((offset, first)) = self.cta(access.thread).access(offset, access.bytes, side) else { return };
        if !self.found.iter().any(|race| (race.first.line, race.second.line) == (first.line, side.line)) {
            self.found.push(Race { offset, first, second: side });
        }
    }

    fn event(&mut self, event: &Event) {
        match *event {
            Event::WarpSync { thread, lanes, orders_memory: true } => {
                let threads: Vec<usize> = of_lanes(thread, lanes).collect();
                self.cta(thread).synchronise(&threads);
            }
            Event::BarrierArrive { thread, lanes, barrier, .. } => {
                self.cta(thread).arrived.entry(barrier).or_default().extend(of_lanes(thread, lanes));
            }
            Event::BarrierComplete { thread, barrier } => {
                let cta = self.cta(thread);
                let threads = cta.arrived.remove(&barrier).unwrap_or_default();
                cta.synchronise(&threads);
            }
            Event::LaunchComplete { launch, .. } => self.ctas.retain(|cta, _| cta.0 != launch),
            Event::Abandoned => self.ctas.clear(),
            _ => {}
        }
    }
}
