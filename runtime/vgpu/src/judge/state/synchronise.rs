//! What strong accesses acquire and release through the words that they read and write.

use std::collections::BTreeMap;

use super::{Place, State};
use crate::judge::clock::{Knowledge, Thread, View};
use crate::judge::lanes::{Failed, Fenced, Pending};
use crate::judge::report::Missing;
use crate::judge::scopes::needed;
use crate::judge::shadow::Mark;
use crate::judge::words::{Head, Last, Word};
use crate::memory::{Order, Scope};
use crate::observer::AccessKind;

const SCOPES: [Scope; 4] = [Scope::Cta, Scope::Cluster, Scope::Gpu, Scope::Sys];

impl State {
    pub(super) fn word(&mut self, place: Place) -> &mut Word {
        match place {
            Place::Device(address) => self.words.entry(address).or_default(),
            Place::Shared(cta, offset) => self.at_mut(cta).words.entry(offset).or_default(),
        }
    }

    pub(super) fn forget_words(&mut self, place: Place, bytes: u64) {
        match place {
            Place::Device(start) => remove(&mut self.words, start, start + bytes),
            Place::Shared(cta, start) => remove(&mut self.at_mut(cta).words, start, start + bytes as u32),
        }
    }

    /// What a strong access acquires and releases through the word that it reads or writes.
    pub fn synchronise(&mut self, word: &mut Word, place: Place, mark: &Mark, order: Order, scope: Scope, view: &View) {
        let (thread, site) = (mark.thread, self.site(mark.thread));
        let chained = word.last.is_none_or(|last| last.scope.min(scope) >= needed(last.site, site));
        if mark.kind != AccessKind::Write {
            if chained && word.last.is_some() {
                word.observe(thread, self.at(thread.cta).now);
            }
            let acquires = matches!(order, Order::Acquire | Order::AcqRel | Order::SeqCst);
            // Its own head may hold those of others, which it adds to.
            for head in word.heads.iter().filter(|head| head.own != thread || head.released && head.mixed) {
                self.read_head(head, word.last, chained, mark, (place, scope), acquires);
            }
            if acquires {
                self.acquire_pending(place, thread, scope);
            }
        }
        if mark.writes() {
            if mark.kind != AccessKind::Atomic || !chained {
                word.heads.clear();
            }
            // A release goes on releasing through what its thread writes there later.
            let earlier: Vec<Head> = word.releases.iter().filter(|head| head.own == thread).cloned().collect();
            earlier.into_iter().for_each(|head| word.add(Head { scope: head.scope.min(scope), ..head }));
            // What has been acquired just now is released too.
            let reads = mark.kind == AccessKind::Atomic && mark.copy.is_none();
            let view = if reads { &self.view(thread) } else { view };
            let time = self.at(thread.cta).now.min(view.until);
            let head = |knowledge: &Knowledge, time, scope, released| Head {
                knowledge: knowledge.clone(),
                own: thread,
                time,
                site,
                scope,
                line: mark.line,
                released,
                mixed: false,
            };
            if matches!(order, Order::Release | Order::AcqRel | Order::SeqCst) {
                let head = head(&view.knowledge, time, scope, true);
                word.releases.retain(|other| other.own != thread || other.scope > scope);
                word.releases.push(head.clone());
                word.add(head);
            } else {
                let warp = self.at(thread.cta).warps.get(thread.warp as usize);
                let fences = warp.map(|warp| warp.lane(thread.lane).fences.clone()).unwrap_or_default();
                // A fence of a wider scope is one of each narrower scope too.
                let mut last = None;
                for wide in SCOPES.into_iter().rev().filter(|wide| *wide <= scope) {
                    if let Some(Fenced { knowledge, time }) = &fences[wide as usize]
                        && last.replace(*time) != Some(*time)
                    {
                        word.add(head(knowledge, *time, wide, true));
                    }
                }
                if last.is_none() {
                    word.add(head(&view.knowledge, time, scope, false));
                }
            }
            word.last = Some(Last { site, scope, line: mark.line });
            word.observed.clear();
            self.at_mut(thread.cta).tick();
        }
    }

    /// An acquire takes up what its thread has read there before without one.
    fn acquire_pending(&mut self, place: Place, thread: Thread, scope: Scope) {
        let Some(warp) = self.ctas[thread.cta.0 as usize].warps.get_mut(thread.warp as usize) else { return };
        let fits = |pending: &Pending| pending.place == place && scope >= pending.needed;
        if warp.lane(thread.lane).pending.iter().any(fits) {
            warp.update(1 << thread.lane, |state| {
                for pending in state.pending.extract_if(.., |pending| fits(pending)) {
                    pending.head.view().tell(&mut state.knowledge);
                }
            });
        }
    }

    fn read_head(
        &mut self,
        head: &Head,
        last: Option<Last>,
        chained: bool,
        mark: &Mark,
        (place, scope): (Place, Scope),
        acquires: bool,
    ) {
        let thread = mark.thread;
        let least = match (head.mixed, head.scope) {
            (true, Scope::Cluster) => Scope::Cluster,
            (true, Scope::Cta | Scope::Gpu | Scope::Sys) => Scope::Gpu,
            (false, _) => Scope::Cta,
        };
        let needed = needed(head.site, self.site(thread)).max(least);
        let line = mark.line;
        let missing = if !head.released {
            Some(Missing::Release { line: head.line })
        } else if head.scope < needed {
            Some(Missing::ReleaseScope { line: head.line, scope: head.scope, needed })
        } else if scope < needed {
            Some(Missing::AcquireScope { line, scope, needed })
        } else if let Some(last) = last.filter(|_| !chained) {
            Some(Missing::ReleaseScope { line: last.line, scope: last.scope, needed })
        } else if !acquires {
            Some(Missing::Acquire { line })
        } else {
            None
        };
        let view = head.view();
        let pends = matches!(missing, Some(Missing::Acquire { .. }));
        let told = if missing.is_none() { Some(self.acquire(thread, &view)) } else { None };
        let Some(warp) = self.ctas[thread.cta.0 as usize].warps.get_mut(thread.warp as usize) else { return };
        warp.update(1 << thread.lane, |state| {
            if let Some(told) = &told {
                state.knowledge = told.clone();
            }
            if pends {
                state.pend(Pending { head: head.clone(), needed, place });
            }
            if let Some(missing) = &missing {
                state.fail(Failed { view: view.clone(), missing: missing.clone() });
            }
        });
    }

    /// What a lane knows when it has acquired this.
    fn acquire(&mut self, thread: Thread, released: &View) -> Knowledge {
        let before = self.view(thread).knowledge;
        if let Some((own, view, after)) = &self.acquired
            && own.is(&before)
            && view.knowledge.is(&released.knowledge)
            && (view.own, view.until) == (released.own, released.until)
        {
            return after.clone();
        }
        let mut after = before.clone();
        released.tell(&mut after);
        self.acquired = Some((before, released.clone(), after.clone()));
        after
    }
}

fn remove<K: Ord + std::marker::Copy>(words: &mut BTreeMap<K, Word>, from: K, to: K) {
    while let Some(word) = words.range(from..to).next().map(|(word, _)| *word) {
        words.remove(&word);
    }
}
