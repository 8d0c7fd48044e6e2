//! What a thread knows of others: up to which time all that they did happens before what it does next.
//!
//! Invariants: time is counted by CTA and never goes back; whoever lets others know of a thread ends the time of its CTA, so that what
//! the thread does next is not known by it. The entries of a CTA are left out when all launches of its stream up to its own are known.
//! Entries stand in the order of CTAs and warps; clocks that have learnt the same of a CTA share its entry.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ids::StreamId;

/// A CTA among all that a judge knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct CtaNumber(pub u32);

/// The host stands in the table of CTAs as the first.
pub(super) const HOST: CtaNumber = CtaNumber(0);

/// Time of a CTA.
pub(crate) type Time = u32;

/// Place of a launch: its stream, and its number in that.
pub(crate) type Position = (StreamId, u64);

/// A thread, or what completes the phases of an mbarrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Thread {
    pub cta: CtaNumber,
    pub warp: u16,
    pub lane: u8,
}

/// Warps from this on are mbarriers.
pub(super) const FIRST_MBARRIER: u16 = 64;

/// The lanes that a warp has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lanes {
    pub mask: u32,
    /// Those of the whole warp.
    pub all: u32,
}

#[derive(Debug, Clone, Default)]
struct OfWarp {
    floor: Time,
    lanes: Option<Box<[Time; 32]>>,
}

impl OfWarp {
    fn of(&self, lane: u8) -> Time {
        self.lanes.as_ref().map_or(self.floor, |lanes| lanes[lane as usize].max(self.floor))
    }

    fn add(&mut self, lanes: Lanes, time: Time) {
        if lanes.mask == lanes.all {
            self.raise(time);
            return;
        }
        let own = self.lanes.get_or_insert_default();
        for lane in (0..32).filter(|lane| lanes.mask >> lane & 1 == 1) {
            own[lane] = own[lane].max(time);
        }
    }

    /// Whether it is within another one, of which all lanes are known up to the floor at least.
    fn is_within(&self, other: Option<&OfWarp>, floor: Time) -> bool {
        let floor = other.map_or(floor, |other| other.floor.max(floor));
        let theirs = other.and_then(|other| other.lanes.as_deref());
        match (self.lanes.as_deref(), theirs) {
            (None, None) => self.floor <= floor,
            (None, Some(theirs)) => self.floor <= floor || theirs.iter().all(|their| self.floor <= *their),
            (Some(own), None) => self.floor <= floor && own.iter().all(|own| *own <= floor),
            (Some(own), Some(theirs)) => {
                own.iter().zip(theirs).all(|(own, their)| (*own).max(self.floor) <= (*their).max(floor))
            }
        }
    }

    fn raise(&mut self, floor: Time) {
        self.floor = self.floor.max(floor);
        let floor = self.floor;
        self.lanes.take_if(|lanes| lanes.iter().all(|time| *time <= floor));
    }

    fn join(&mut self, other: &OfWarp) {
        if let Some(theirs) = &other.lanes {
            let own = self.lanes.get_or_insert_default();
            own.iter_mut().zip(theirs.iter()).for_each(|(own, their)| *own = (*own).max(*their));
        }
        self.raise(other.floor);
    }
}

/// Of all its threads up to the floor, of those of some warps further. The floor is not one of mbarriers.
#[derive(Debug, Clone, Default)]
struct OfCta {
    floor: Time,
    warps: Vec<(u16, OfWarp)>,
}

impl OfCta {
    fn warp(&self, warp: u16) -> Option<&OfWarp> {
        self.warps.binary_search_by_key(&warp, |entry| entry.0).ok().map(|at| &self.warps[at].1)
    }

    fn warp_mut(&mut self, warp: u16) -> &mut OfWarp {
        let at = self.warps.binary_search_by_key(&warp, |entry| entry.0).unwrap_or_else(|at| {
            self.warps.insert(at, (warp, OfWarp::default()));
            at
        });
        &mut self.warps[at].1
    }

    fn of(&self, warp: u16, lane: u8) -> Time {
        let floor = if warp < FIRST_MBARRIER { self.floor } else { 0 };
        self.warp(warp).map_or(floor, |known| known.of(lane).max(floor))
    }

    /// What is known of every lane of a warp at least.
    fn of_all(&self, warp: u16) -> Time {
        let floor = if warp < FIRST_MBARRIER { self.floor } else { 0 };
        self.warp(warp).map_or(floor, |known| known.floor.max(floor))
    }

    fn raise(&mut self, floor: Time) {
        if floor > self.floor {
            self.floor = floor;
            self.warps.retain(|(warp, known)| *warp >= FIRST_MBARRIER || (0..32).any(|lane| known.of(lane) > floor));
        }
    }

    fn join(&mut self, other: &OfCta) {
        for (warp, known) in &other.warps {
            self.warp_mut(*warp).join(known);
        }
        self.raise(other.floor);
    }

    fn is_within(&self, other: &OfCta) -> bool {
        self.floor <= other.floor
            && self.warps.iter().all(|(warp, known)| {
                let floor = if *warp < FIRST_MBARRIER { other.floor } else { 0 };
                known.is_within(other.warp(*warp), floor)
            })
    }
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clock {
    ctas: Vec<(CtaNumber, Arc<OfCta>)>,
    /// Launches that are complete, by stream: all up to this one.
    streams: BTreeMap<StreamId, u64>,
}

impl Clock {
    fn cta(&self, cta: CtaNumber) -> Option<&Arc<OfCta>> {
        self.ctas.binary_search_by_key(&cta, |entry| entry.0).ok().map(|at| &self.ctas[at].1)
    }

    fn cta_mut(&mut self, cta: CtaNumber) -> &mut OfCta {
        let at = self.ctas.binary_search_by_key(&cta, |entry| entry.0).unwrap_or_else(|at| {
            self.ctas.insert(at, (cta, Arc::default()));
            at
        });
        Arc::make_mut(&mut self.ctas[at].1)
    }

    /// Whether what a thread did up to a time is known; the position is that of its launch.
    pub fn knows(&self, thread: Thread, time: Time, position: Option<Position>) -> bool {
        self.cta(thread.cta).is_some_and(|known| known.of(thread.warp, thread.lane) >= time)
            || position.is_some_and(|(stream, number)| self.streams.get(&stream).is_some_and(|last| *last >= number))
    }

    /// Whether what all lanes of a warp did up to a time is known for sure.
    pub fn knows_warp(&self, thread: Thread, time: Time, position: Option<Position>) -> bool {
        self.cta(thread.cta).is_some_and(|known| known.of_all(thread.warp) >= time)
            || position.is_some_and(|(stream, number)| self.streams.get(&stream).is_some_and(|last| *last >= number))
    }

    /// Whether anything that a CTA did is known.
    pub fn knows_of(&self, cta: CtaNumber) -> bool {
        self.cta(cta).is_some()
    }

    pub fn add(&mut self, cta: CtaNumber, warp: u16, lanes: Lanes, time: Time) {
        self.cta_mut(cta).warp_mut(warp).add(lanes, time);
    }

    pub fn add_thread(&mut self, thread: Thread, time: Time) {
        let all = if thread.cta == HOST || thread.warp >= FIRST_MBARRIER { 1 } else { u32::MAX };
        self.add(thread.cta, thread.warp, Lanes { mask: 1 << thread.lane, all }, time);
    }

    /// All threads of a CTA.
    pub fn add_cta(&mut self, cta: CtaNumber, time: Time) {
        self.cta_mut(cta).raise(time);
    }

    /// Whether all launches of a stream up to this one are known to be complete.
    pub fn knows_launches(&self, stream: StreamId, number: u64) -> bool {
        self.streams.get(&stream).copied().unwrap_or_default() >= number
    }

    /// All launches of a stream up to this one; `belongs` says of which CTAs nothing need be kept for that.
    pub fn complete(&mut self, (stream, number): Position, belongs: impl Fn(CtaNumber) -> bool) {
        let last = self.streams.entry(stream).or_default();
        *last = (*last).max(number);
        self.ctas.retain(|(cta, _)| !belongs(*cta));
    }

    fn is_within(&self, other: &Clock) -> bool {
        let mut theirs = other.ctas.iter();
        self.ctas.len() <= other.ctas.len()
            && self.streams.iter().all(|(stream, last)| other.streams.get(stream).is_some_and(|their| their >= last))
            && self.ctas.iter().all(|(cta, known)| {
                let found = theirs.find(|their| their.0 >= *cta).filter(|their| their.0 == *cta);
                found.is_some_and(|(_, their)| Arc::ptr_eq(known, their) || known.is_within(their))
            })
    }

    fn join(&mut self, other: &Clock) {
        for (stream, last) in &other.streams {
            let own = self.streams.entry(*stream).or_default();
            *own = (*own).max(*last);
        }
        let mut joined = Vec::with_capacity(self.ctas.len().max(other.ctas.len()));
        let mut own = std::mem::take(&mut self.ctas).into_iter().peekable();
        for (cta, theirs) in &other.ctas {
            joined.extend(std::iter::from_fn(|| own.next_if(|entry| entry.0 < *cta)));
            let Some((_, mut known)) = own.next_if(|entry| entry.0 == *cta) else {
                joined.push((*cta, Arc::clone(theirs)));
                continue;
            };
            if known.is_within(theirs) {
                known.clone_from(theirs);
            } else if !Arc::ptr_eq(&known, theirs) && !theirs.is_within(&known) {
                Arc::make_mut(&mut known).join(theirs);
            }
            joined.push((*cta, known));
        }
        joined.extend(own);
        self.ctas = joined;
    }
}

/// Joins a clock to another; the same clock stays the same.
pub(super) fn join(own: &mut Arc<Clock>, other: &Arc<Clock>) {
    if Arc::ptr_eq(own, other) || other.is_within(own) {
        return;
    }
    if own.is_within(other) {
        own.clone_from(other);
    } else {
        Arc::make_mut(own).join(other);
    }
}

/// What a thread knows through each proxy. What the async proxy may see of what others wrote through the generic one is known apart, for
/// each space: it is what a proxy fence has told it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Knowledge {
    pub all: Arc<Clock>,
    pub global: Arc<Clock>,
    pub shared: Arc<Clock>,
    /// What copies of tensors may see of changes of their maps.
    pub maps: Arc<Clock>,
    /// The changes of maps that a release has published, of which an acquire makes such.
    pub published: Arc<Clock>,
}

impl Knowledge {
    pub fn join(&mut self, other: &Knowledge) {
        join(&mut self.all, &other.all);
        join(&mut self.global, &other.global);
        join(&mut self.shared, &other.shared);
        join(&mut self.maps, &other.maps);
        join(&mut self.published, &other.published);
    }

    pub fn is(&self, other: &Knowledge) -> bool {
        Arc::ptr_eq(&self.all, &other.all)
            && Arc::ptr_eq(&self.global, &other.global)
            && Arc::ptr_eq(&self.shared, &other.shared)
            && Arc::ptr_eq(&self.maps, &other.maps)
            && Arc::ptr_eq(&self.published, &other.published)
    }

    /// As between kernels, where no proxy needs a fence.
    pub fn through_every_proxy(all: Arc<Clock>) -> Knowledge {
        let [global, shared, maps, published] = std::array::from_fn(|_| Arc::clone(&all));
        Knowledge { all, global, shared, maps, published }
    }
}

/// What a thread knew at a time, of itself too.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub knowledge: Knowledge,
    pub own: Thread,
    /// What it did itself up to this.
    pub until: Time,
}

impl View {
    pub fn knows(&self, thread: Thread, time: Time, position: Option<Position>) -> bool {
        (thread == self.own && time <= self.until) || self.knowledge.all.knows(thread, time, position)
    }

    /// Adds it to what another thread knows.
    pub fn tell(&self, to: &mut Knowledge) {
        to.join(&self.knowledge);
        if !to.all.knows(self.own, self.until, None) {
            Arc::make_mut(&mut to.all).add_thread(self.own, self.until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CTA: CtaNumber = CtaNumber(3);

    fn thread(warp: u16, lane: u8) -> Thread {
        Thread { cta: CTA, warp, lane }
    }

    #[test]
    fn lanes_of_a_warp_are_known_apart() {
        let mut clock = Clock::default();
        clock.add(CTA, 1, Lanes { mask: 0b10, all: u32::MAX }, 5);
        assert!(clock.knows(thread(1, 1), 5, None) && !clock.knows(thread(1, 1), 6, None));
        assert!(!clock.knows(thread(1, 0), 1, None) && !clock.knows(thread(0, 1), 1, None));
        clock.add_cta(CTA, 4);
        assert!(clock.knows(thread(1, 0), 4, None) && clock.knows(thread(1, 1), 5, None));
        assert!(!clock.knows(thread(FIRST_MBARRIER, 0), 1, None), "an mbarrier is no thread");
    }

    #[test]
    fn a_complete_launch_needs_no_entries() {
        let mut clock = Clock::default();
        clock.add_cta(CTA, 4);
        clock.complete((StreamId(7), 2), |_| true);
        assert!(clock.ctas.is_empty());
        assert!(clock.knows(thread(9, 9), 100, Some((StreamId(7), 2))));
        assert!(!clock.knows(thread(9, 9), 1, Some((StreamId(7), 3))));
        assert!(!clock.knows(thread(9, 9), 1, Some((StreamId(6), 1))));
    }

    /// Joining is the larger of both for every thread, whatever forms the entries have; what is within another changes nothing.
    #[test]
    fn joining_is_the_larger_of_both() {
        let mut random = moe_random::Random::new(3);
        let mut any = || {
            let mut clock = Clock::default();
            for _ in 0..random.below(5) {
                let (warp, time) = (random.below(3) as u16, random.below(9) as Time);
                match random.below(3) {
                    0 => clock.add_cta(CtaNumber(random.below(2) as u32), time),
                    1 => clock.add(CTA, warp, Lanes { mask: u32::MAX, all: u32::MAX }, time),
                    _ => clock.add(CTA, warp, Lanes { mask: random.bits() as u32, all: u32::MAX }, time),
                }
            }
            clock
        };
        let threads = (0..4).flat_map(|cta| (0..3).map(move |warp| (cta, warp)));
        let threads: Vec<Thread> = threads
            .flat_map(|(cta, warp)| (0..32).map(move |lane| Thread { cta: CtaNumber(cta), warp, lane }))
            .collect();
        let time = |clock: &Clock, thread: Thread| (1..20).take_while(|time| clock.knows(thread, *time, None)).count();
        for _ in 0..500 {
            let (a, b) = (Arc::new(any()), Arc::new(any()));
            let mut both = Arc::clone(&a);
            join(&mut both, &b);
            for &thread in &threads {
                assert_eq!(time(&both, thread), time(&a, thread).max(time(&b, thread)), "{a:?} {b:?}");
            }
            let within = threads.iter().all(|&thread| time(&b, thread) <= time(&a, thread));
            assert!(!within || threads.iter().all(|&thread| time(&both, thread) == time(&a, thread)));
            let before = Arc::clone(&both);
            join(&mut both, &b);
            assert!(Arc::ptr_eq(&before, &both));
        }
    }
}
