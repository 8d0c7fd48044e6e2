//! Words that threads synchronise on: what a strong read of one can acquire.
//!
//! Invariant: a word's heads are the releases whose value, or that of read-modify-writes behind them, is there now. Releases of the same
//! scope by one rank are one head.

use super::clock::{Knowledge, Thread, Time, View};
use super::scopes::Site;
use crate::memory::Scope;

/// A release, or a strong write that is none.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub knowledge: Knowledge,
    pub own: Thread,
    pub time: Time,
    pub site: Site,
    pub scope: Scope,
    pub line: u32,
    pub released: bool,
    /// It holds releases of several CTAs.
    pub mixed: bool,
}

impl Head {
    pub fn view(&self) -> View {
        View { knowledge: self.knowledge.clone(), own: self.own, until: self.time }
    }

    fn takes_in(&self, other: &Head) -> bool {
        (self.scope, self.released) == (other.scope, other.released)
            && match self.scope {
                Scope::Cta => self.site == other.site,
                Scope::Cluster => self.site.cluster == other.site.cluster,
                Scope::Gpu | Scope::Sys => self.site.rank == other.site.rank,
            }
    }
}

/// The last strong write.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Last {
    pub site: Site,
    pub scope: Scope,
    pub line: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Word {
    pub heads: Vec<Head>,
    /// The releases of each thread here, the last of each scope.
    pub releases: Vec<Head>,
    pub last: Option<Last>,
    /// Strong reads of what was written last, by threads whose scope and that of the write include each other: the first of each thread.
    pub observed: Vec<(Thread, Time)>,
}

/// So many threads are kept that have read a word.
const MOST_OBSERVED: usize = 256;

impl Word {
    pub fn observe(&mut self, thread: Thread, time: Time) {
        let known = self.observed.iter().any(|(other, _)| *other == thread);
        if !known && self.observed.len() < MOST_OBSERVED {
            self.observed.push((thread, time));
        }
    }

    pub fn add(&mut self, mut head: Head) {
        if let Some(at) = self.heads.iter().position(|other| head.takes_in(other)) {
            let other = self.heads.swap_remove(at);
            head.mixed |= other.mixed || other.site != head.site;
            if other.own == head.own {
                head.knowledge.join(&other.knowledge);
            } else {
                other.view().tell(&mut head.knowledge);
            }
        }
        self.heads.push(head);
    }
}
