//! What the lanes of a warp know. Lanes that know the same share it until they part.
//!
//! Invariant: the masks of the groups do not overlap and together are the lanes of the warp. What a lane did itself is not in what it
//! knows: each lane of a group knows itself.

use super::clock::{Knowledge, Lanes, Thread, Time, View};
use super::report::Missing;
use super::state::Place;
use super::words::Head;
use crate::memory::Scope;

/// What was known at a fence.
#[derive(Debug, Clone)]
pub(super) struct Fenced {
    pub knowledge: Knowledge,
    pub time: Time,
}

/// A strong read that becomes an acquire with a fence behind it.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub head: Head,
    pub needed: Scope,
    /// Where it has been read.
    pub place: Place,
}

/// An order that would be there if it were not for this.
#[derive(Debug, Clone)]
pub(super) struct Failed {
    pub view: View,
    pub missing: Missing,
}

/// Of each kind so many of the latest are kept.
const MOST: usize = 32;

#[derive(Debug, Clone, Default)]
pub(super) struct State {
    pub knowledge: Knowledge,
    /// The last fence of at least each scope.
    pub fences: [Option<Fenced>; 4],
    pub pending: Vec<Pending>,
    pub failed: Vec<Failed>,
}

impl State {
    pub fn pend(&mut self, pending: Pending) {
        self.pending.retain(|other| other.head.line != pending.head.line || other.head.own != pending.head.own);
        if self.pending.len() == MOST {
            self.pending.remove(0);
        }
        self.pending.push(pending);
    }

    pub fn fail(&mut self, failed: Failed) {
        let own = failed.view.own;
        self.failed.retain(|other| other.view.own != own || other.missing != failed.missing);
        if self.failed.len() == MOST {
            self.failed.remove(0);
        }
        self.failed.push(failed);
    }

    /// A fence of this scope at this time.
    pub fn fence(&mut self, scope: Scope, time: Time, line: u32) {
        for Pending { head, needed, .. } in std::mem::take(&mut self.pending) {
            if scope >= needed {
                head.view().tell(&mut self.knowledge);
            } else {
                let missing = Missing::FenceScope { line, scope, needed };
                self.fail(Failed { view: head.view(), missing });
            }
        }
        let fenced = Fenced { knowledge: self.knowledge.clone(), time };
        self.fences[..=scope as usize].fill(Some(fenced));
    }

    fn is_like(&self, other: &State) -> bool {
        let same = |(a, b): (&Option<Fenced>, &Option<Fenced>)| match (a, b) {
            (None, None) => true,
            (Some(a), Some(b)) => a.time == b.time && a.knowledge.is(&b.knowledge),
            (None, Some(_)) | (Some(_), None) => false,
        };
        self.knowledge.is(&other.knowledge)
            && self.fences.iter().zip(&other.fences).all(same)
            && self.pending.is_empty()
            && other.pending.is_empty()
    }
}

#[derive(Debug)]
pub(super) struct Warp {
    groups: Vec<(u32, State)>,
}

impl Warp {
    pub fn new(knowledge: &Knowledge) -> Warp {
        Warp { groups: vec![(u32::MAX, State { knowledge: knowledge.clone(), ..State::default() })] }
    }

    pub fn lane(&self, lane: u8) -> &State {
        let found = self.groups.iter().find(|(mask, _)| mask >> lane & 1 == 1);
        &found.unwrap_or(&self.groups[0]).1
    }

    /// What these lanes know, if they know the same.
    pub fn knowledge(&self, lanes: u32) -> Option<&Knowledge> {
        self.groups.iter().find(|(mask, _)| mask & lanes == lanes).map(|(_, state)| &state.knowledge)
    }

    pub fn view(&self, thread: Thread, until: Time) -> View {
        View { knowledge: self.lane(thread.lane).knowledge.clone(), own: thread, until }
    }

    pub fn states(&self, lanes: u32) -> impl Iterator<Item = &State> {
        self.groups.iter().filter(move |(mask, _)| mask & lanes != 0).map(|(_, state)| state)
    }

    /// Changes what some lanes know; lanes that then know the same as others share it again.
    pub fn update(&mut self, lanes: u32, mut change: impl FnMut(&mut State)) {
        for at in 0..self.groups.len() {
            let (mask, state) = &mut self.groups[at];
            let common = *mask & lanes;
            if common == 0 {
                continue;
            }
            let rest = *mask & !common;
            if rest != 0 {
                *mask = common;
                let apart = state.clone();
                self.groups.push((rest, apart));
            }
            change(&mut self.groups[at].1);
        }
        let mut at = 0;
        while at < self.groups.len() {
            let twin = self.groups[..at].iter().position(|(_, state)| state.is_like(&self.groups[at].1));
            match twin {
                Some(twin) => {
                    let (mask, gone) = self.groups.swap_remove(at);
                    self.groups[twin].0 |= mask;
                    gone.failed.into_iter().for_each(|failed| self.groups[twin].1.fail(failed));
                }
                None => at += 1,
            }
        }
    }
}

/// The lanes of a warp in a CTA with so many threads.
pub(super) fn lanes_of(warp: u16, threads: u32, mask: u32) -> Lanes {
    let lanes = threads.saturating_sub(u32::from(warp) * 32).min(32);
    Lanes { mask, all: if lanes == 32 { u32::MAX } else { (1 << lanes) - 1 } }
}
