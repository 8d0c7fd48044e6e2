//! What a judge knows of launches, CTAs and streams.

use std::collections::BTreeMap;

use super::clock::{CtaNumber, FIRST_MBARRIER, Knowledge, Position, Thread, Time};
use super::copies::AllGroups;
use super::lanes::{Failed, Warp, lanes_of};
use super::shadow::{Mark, Shadow};
use super::words::Word;
use crate::ids::RankId;
use crate::observer::Began;

/// A launch that has begun.
#[derive(Debug)]
pub(super) struct Launch {
    pub began: Began,
    pub position: Position,
    /// What all its threads know as they start.
    pub base: Knowledge,
    /// The launch before it in its stream, if it need not wait for its end.
    pub before: Option<usize>,
    /// What is known to whoever has waited for its end.
    pub end: Option<Knowledge>,
    pub ctas: Vec<CtaNumber>,
}

/// A stream.
#[derive(Debug, Clone, Default)]
pub(super) struct Stream {
    /// What is known behind all that is over.
    pub end: Knowledge,
    /// What a launch knows that does not wait for the last one.
    pub last_base: Knowledge,
    pub launches: u64,
    /// Launches that are not over.
    pub running: u64,
    pub last: Option<usize>,
}

/// Who has come to a barrier.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// What those know who do not wait.
    pub left: Option<Knowledge>,
    /// Warps and lanes that wait.
    pub waiting: Vec<(u16, u32)>,
}

/// An mbarrier.
#[derive(Debug, Default)]
pub(super) struct Mbarrier {
    /// In the place of a warp.
    pub number: u16,
    /// What the arrivals of this phase know.
    pub arrived: Option<Knowledge>,
    /// What those of other CTAs of the cluster know.
    pub remote: Option<Knowledge>,
    /// What others know whose release does not reach the CTA.
    pub narrow: Vec<Failed>,
    /// What is known when the last phase is complete.
    pub complete: Complete,
    /// Its initialisation, which stays when later writes of the place have taken its place.
    pub made: Option<Mark>,
    /// Whether it has been looked at if copies know of it, and which lanes of a warp of a CTA have been.
    pub copies_looked_at: bool,
    pub looked_at: BTreeMap<(CtaNumber, u16), u32>,
    /// Completions of the cluster's barrier before the last `fence.mbarrier_init` behind its initialisation.
    pub fenced: Option<u64>,
}

/// What is known when a phase is complete.
#[derive(Debug, Default, Clone)]
pub(super) struct Complete {
    pub all: Knowledge,
    /// Known to those who acquire with the scope of the cluster.
    pub remote: Option<Knowledge>,
    pub narrow: Vec<Failed>,
}

/// A cluster of CTAs.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    /// What those know who have arrived at its barrier.
    pub arrived: Knowledge,
    /// What is known when it is complete.
    pub complete: Knowledge,
    /// How often it was.
    pub completions: u64,
}

#[derive(Debug, Default)]
pub(super) struct Cta {
    /// Index of its launch.
    pub launch: usize,
    pub index: u32,
    pub rank: Option<RankId>,
    pub threads: u32,
    pub now: Time,
    pub warps: Vec<Warp>,
    pub shadow: Shadow,
    pub words: BTreeMap<u32, Word>,
    pub barriers: BTreeMap<u32, Gathering>,
    pub mbarriers: BTreeMap<u32, Mbarrier>,
    pub groups: AllGroups,
    /// Number of its cluster among all.
    pub cluster: u64,
}

impl Cta {
    pub fn new(launch: usize, index: u32, rank: RankId, threads: u32, base: &Knowledge) -> Cta {
        let warps = (0..threads.div_ceil(32)).map(|_| Warp::new(base)).collect();
        Cta { launch, index, rank: Some(rank), threads, now: 1, warps, ..Cta::default() }
    }

    /// Ends a time. What was done in it can be known from now on.
    pub fn tick(&mut self) -> Time {
        self.now += 1;
        self.now - 1
    }

    pub fn mbarrier(&mut self, offset: u32) -> &mut Mbarrier {
        let number = FIRST_MBARRIER + self.mbarriers.len() as u16;
        self.mbarriers.entry(offset).or_insert_with(|| Mbarrier { number, ..Mbarrier::default() })
    }

    /// Lets lanes of warps know all of what they know together, and of each other; `more` is added to it.
    pub fn meet(&mut self, number: CtaNumber, lanes: &[(u16, u32)], more: Option<Knowledge>) {
        let now = self.tick();
        let mut joined: Option<Knowledge> = more;
        let (mut per_warp, mut count, mut failed) = (BTreeMap::<u16, u32>::new(), 0, Vec::new());
        for &(warp, mask) in lanes {
            let Some(found) = self.warps.get(warp as usize) else { continue };
            for state in found.states(mask) {
                failed.extend(state.failed.iter().cloned());
                match &mut joined {
                    None => joined = Some(state.knowledge.clone()),
                    Some(joined) => joined.join(&state.knowledge),
                }
            }
            *per_warp.entry(warp).or_default() |= mask;
        }
        let Some(mut joined) = joined else { return };
        let all = std::sync::Arc::make_mut(&mut joined.all);
        for mask in per_warp.values() {
            count += mask.count_ones();
        }
        if count >= self.threads {
            all.add_cta(number, now);
        } else {
            for (&warp, &mask) in &per_warp {
                all.add(number, warp, lanes_of(warp, self.threads, mask), now);
            }
        }
        for (&warp, &mask) in &per_warp {
            if let Some(found) = self.warps.get_mut(warp as usize) {
                found.update(mask, |state| {
                    state.knowledge = joined.clone();
                    // What one of them failed to hear the others have not heard either.
                    failed.iter().for_each(|failed| state.fail(failed.clone()));
                });
            }
        }
    }

    /// What is only needed while the CTA runs is forgotten.
    pub fn finish(&mut self) {
        self.warps = Vec::new();
        self.shadow = Shadow::default();
        self.words = BTreeMap::new();
        self.barriers.clear();
        self.mbarriers.clear();
        self.groups = AllGroups::default();
    }

    pub fn thread(number: CtaNumber, warp: u32, lane: u32) -> Thread {
        Thread { cta: number, warp: warp as u16, lane: lane as u8 }
    }
}
