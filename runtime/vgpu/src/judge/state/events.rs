//! What orders accesses beside the words they go to: fences, barriers, mbarriers, copies, clusters, launches, streams and the host.

use std::sync::Arc;

use super::{Place, State};
use crate::ids::{CopyId, LaunchId, ThreadId};
use crate::judge::clock::{CtaNumber, HOST, Knowledge, Thread, Time, View, join};
use crate::judge::copies::Copy;
use crate::judge::lanes::{Failed, lanes_of};
use crate::judge::report::Missing;
use crate::judge::scopes::needed;
use crate::judge::shadow::{Mark, Row};
use crate::judge::words::Head;
use crate::judge::world::{Cta, Launch, Mbarrier};
use crate::memory::{Order, Proxy, Scope};
use crate::observer::{AccessKind, Began, Event, Fence, MbarrierStep};

/// The host accesses so many bytes at once.
const PIECE: u64 = 1 << 30;

impl State {
    pub fn event(&mut self, event: &Event) {
        self.catch_up();
        match event {
            Event::Fence { thread, lanes, fence, scope, line } => self.fence(*thread, *lanes, *fence, *scope, *line),
            Event::BarrierArrive { thread, lanes, barrier, waits } => {
                let number = self.cta(*thread);
                let cta = self.at_mut(number);
                let warp = thread.warp as u16;
                if *waits {
                    cta.barriers.entry(*barrier).or_default().waiting.push((warp, *lanes));
                    return;
                }
                let now = cta.tick();
                let (threads, mut left) = (cta.threads, Knowledge::default());
                for state in cta.warps.get(warp as usize).into_iter().flat_map(|found| found.states(*lanes)) {
                    left.join(&state.knowledge);
                }
                Arc::make_mut(&mut left.all).add(number, warp, lanes_of(warp, threads, *lanes), now);
                match &mut cta.barriers.entry(*barrier).or_default().left {
                    Some(known) => known.join(&left),
                    none => *none = Some(left),
                }
            }
            Event::BarrierComplete { thread, barrier } => {
                let number = self.cta(*thread);
                let cta = self.at_mut(number);
                let gathered = cta.barriers.remove(barrier).unwrap_or_default();
                cta.meet(number, &gathered.waiting, gathered.left);
            }
            Event::WarpSync { thread, lanes, orders_memory: true } => {
                let number = self.cta(*thread);
                self.at_mut(number).meet(number, &[(thread.warp as u16, *lanes)], None);
            }
            Event::WarpSync { orders_memory: false, .. } => {}
            Event::ClusterArrive { thread, lanes, releases } => self.cluster_arrive(*thread, *lanes, *releases),
            Event::ClusterComplete { thread } => {
                let number = self.cta(*thread);
                let cluster = self.clusters.entry(self.at(number).cluster).or_default();
                cluster.complete = std::mem::take(&mut cluster.arrived);
                cluster.completions += 1;
            }
            Event::ClusterPassed { thread, lanes } => {
                let number = self.cta(*thread);
                let cluster = self.clusters.get(&self.at(number).cluster);
                let known = cluster.map(|cluster| cluster.complete.clone()).unwrap_or_default();
                if let Some(warp) = self.at_mut(number).warps.get_mut(thread.warp as usize) {
                    warp.update(*lanes, |state| state.knowledge.join(&known));
                }
            }
            Event::CtaEnd { thread } => self.cta_ends(*thread),
            Event::Mbarrier { thread, cta, offset, step, line } => {
                self.mbarrier(*thread, *cta, *offset, *step, *line);
            }
            Event::CopyIssued { thread, copy, bulk, grouped, line } => {
                let cta = self.cta(*thread);
                let thread = Cta::thread(cta, thread.warp, thread.lane);
                let until = self.at_mut(cta).tick();
                let view = View { until, ..self.view(thread) };
                self.copies.insert(*copy, Copy::new(view, *bulk, *grouped, *line));
                if *grouped {
                    self.at_mut(cta).groups.add(thread, *bulk, *copy);
                }
            }
            Event::CopiesCommitted { thread, lanes, bulk } => {
                let cta = self.cta(*thread);
                for lane in each(*lanes) {
                    self.at_mut(cta).groups.commit(Cta::thread(cta, thread.warp, lane), *bulk);
                }
            }
            Event::CopiesWaited { thread, lanes, bulk, groups, read } => {
                let cta = self.cta(*thread);
                let now = self.at_mut(cta).tick() + 1;
                for thread in each(*lanes).map(|lane| Cta::thread(cta, thread.warp, lane)) {
                    for copy in self.at_mut(cta).groups.wait(thread, *bulk, *groups, *read) {
                        self.copies.entry(copy).and_modify(|copy| copy.end((thread, now), *read));
                    }
                }
                self.at_mut(cta).tick();
            }
            Event::LaunchBegins(began) => {
                self.begin((**began).clone());
            }
            Event::CtaStart { thread } => {
                self.cta(*thread);
            }
            Event::GridWait { thread, lanes } => {
                let number = self.cta(*thread);
                let before = self.launches[self.at(number).launch].before;
                let Some(full) = before.and_then(|before| self.launches[before].end.clone()) else { return };
                if let Some(warp) = self.at_mut(number).warps.get_mut(thread.warp as usize) {
                    warp.update(*lanes, |state| state.knowledge.join(&full));
                }
            }
            Event::LaunchComplete { launch, .. } => self.complete(*launch),
            Event::Recorded { stream, event } => {
                let known = self.streams.entry(*stream).or_default().end.clone();
                self.events.insert(*event, known);
            }
            Event::Waited { stream, event } => {
                if let Some(known) = self.events.get(event) {
                    let stream = self.streams.entry(*stream).or_default();
                    stream.end.join(known);
                    stream.last_base.join(known);
                }
            }
            Event::Host { address, bytes, kind } => {
                let thread = Thread { cta: HOST, warp: 0, lane: 0 };
                let time = self.at(HOST).now;
                let mark = Mark { thread, time, line: 0, kind: *kind, strong: None, proxy: Proxy::Generic, copy: None };
                let place = Place::Device(address.0);
                let end = address.0 + *bytes;
                for start in (address.0..end).step_by(PIECE as usize) {
                    let row = Row::of_one(mark, start, PIECE.min(end - start) as u32);
                    self.judge(place, &row, None);
                }
                if mark.writes() {
                    self.forget_words(place, *bytes);
                }
            }
            Event::Named { address, bytes, name } => self.names.add(*address, *bytes, name.clone()),
            Event::Freed { address } => self.names.remove(*address),
            Event::RunEnds { idle: false } => {
                // The host may see that a stream has come so far.
                for stream in self.streams.values() {
                    self.host.join(&stream.end);
                }
            }
            Event::RunEnds { idle: true } | Event::Abandoned => self.forget(),
        }
    }

    fn fence(&mut self, thread: ThreadId, lanes: u32, fence: Fence, scope: Scope, line: u32) {
        let number = self.cta(thread);
        let cta = self.at_mut(number);
        let now = cta.tick();
        let own = lanes_of(thread.warp as u16, cta.threads, lanes);
        if fence == Fence::Memory(Order::SeqCst) && self.sequential.is_some() {
            self.fence_in_sequence(number, thread.warp, lanes, scope, (now, line));
            return;
        }
        let cta = self.at_mut(number);
        let Some(warp) = cta.warps.get_mut(thread.warp as usize) else { return };
        match fence {
            Fence::Memory(_) => warp.update(lanes, |state| state.fence(scope, now, line)),
            Fence::ProxyAsync { global, shared } => {
                // Of a lane's own accesses each lane tells its own; that others tell theirs at the same time changes nothing.
                warp.update(lanes, |state| {
                    let mut told = Arc::clone(&state.knowledge.all);
                    Arc::make_mut(&mut told).add(number, thread.warp as u16, own, now);
                    if global {
                        join(&mut state.knowledge.global, &told);
                    }
                    if shared {
                        join(&mut state.knowledge.shared, &told);
                    }
                });
            }
            // Both synchronise as fences do that have no other effect.
            Fence::TensorMap { acquire } => warp.update(lanes, |state| {
                state.fence(scope, now, line);
                if acquire {
                    let published = Arc::clone(&state.knowledge.published);
                    join(&mut state.knowledge.maps, &published);
                } else {
                    let mut told = Arc::clone(&state.knowledge.all);
                    Arc::make_mut(&mut told).add(number, thread.warp as u16, own, now);
                    join(&mut state.knowledge.published, &told);
                }
            }),
            Fence::MbarrierInit => self.fence_initialisation(number),
            Fence::ProxyAlias => {}
        }
    }

    /// What was initialised in a CTA is told with its next arrival at the barrier of the cluster, even one that does not release.
    fn fence_initialisation(&mut self, number: CtaNumber) {
        let completions = self.clusters.get(&self.at(number).cluster).map_or(0, |cluster| cluster.completions);
        for mbarrier in self.at_mut(number).mbarriers.values_mut() {
            mbarrier.fenced.get_or_insert(completions);
        }
    }

    /// A `fence.sc` comes behind all those before it whose scopes include its thread, as its own includes theirs.
    fn fence_in_sequence(&mut self, cta: CtaNumber, warp: u32, lanes: u32, scope: Scope, (now, line): (Time, u32)) {
        let site = self.site(Cta::thread(cta, warp, 0));
        let mut before = self.sequential.take().unwrap_or_default();
        let heard = before.iter().filter(|head| head.scope.min(scope) >= needed(head.site, site)).map(Head::view);
        let heard: Vec<View> = heard.collect();
        let Some(found) = self.at_mut(cta).warps.get_mut(warp as usize) else { return };
        found.update(lanes, |state| {
            heard.iter().for_each(|view| view.tell(&mut state.knowledge));
            state.fence(scope, now, line);
        });
        for own in each(lanes).map(|lane| Cta::thread(cta, warp, lane)) {
            let View { mut knowledge, .. } = self.view(own);
            let alike = before.iter().position(|head| (head.site, head.scope) == (site, scope));
            if let Some(other) = alike.map(|at| before.swap_remove(at)) {
                other.view().tell(&mut knowledge);
            }
            before.push(Head { knowledge, own, time: now, site, scope, line, released: true, mixed: false });
        }
        self.sequential = Some(before);
    }

    fn cluster_arrive(&mut self, thread: ThreadId, lanes: u32, releases: bool) {
        let number = self.cta(thread);
        let warp = thread.warp as u16;
        let cta = self.at_mut(number);
        let (cluster, threads, now) = (cta.cluster, cta.threads, cta.tick());
        let mut told = Knowledge::default();
        for state in cta.warps.get(warp as usize).into_iter().flat_map(|found| found.states(lanes)) {
            told.join(&state.knowledge);
        }
        Arc::make_mut(&mut told.all).add(number, warp, lanes_of(warp, threads, lanes), now);
        if releases {
            self.clusters.entry(cluster).or_default().arrived.join(&told);
        }
    }

    /// Whether a thread knows that a CTA of its cluster has started: from a thread of that, or from the cluster's barrier.
    pub(super) fn has_started(&self, cta: CtaNumber, view: &View) -> bool {
        let cluster = self.clusters.get(&self.at(cta).cluster);
        cluster.is_some_and(|cluster| cluster.completions > 0) || view.knowledge.all.knows_of(cta)
    }

    /// The start or the end of a CTA, as an access to its shared memory.
    pub(super) fn edge(&self, cta: CtaNumber) -> Mark {
        let thread = Thread { cta, warp: 0, lane: 0 };
        let (time, kind) = (self.at(cta).now, AccessKind::Write);
        Mark { thread, time, line: 0, kind, strong: None, proxy: Proxy::Generic, copy: None }
    }

    /// The end of a CTA comes behind every access to its shared memory.
    fn cta_ends(&mut self, thread: ThreadId) {
        let number = self.cta(thread);
        let cta = self.at(number);
        if self.launches[cta.launch].began.cluster == [1; 3] {
            return;
        }
        let mut knowledge = Knowledge::default();
        for state in cta.warps.iter().flat_map(|warp| warp.states(u32::MAX)) {
            knowledge.join(&state.knowledge);
        }
        let own = Cta::thread(number, thread.warp, thread.lane);
        let view = View { knowledge, own, until: Time::MAX };
        let end = self.edge(number);
        let mut found: Vec<(u64, Mark)> = Vec::new();
        cta.shadow.each(|at, mark| {
            if mark.thread.cta != number
                && self.missing(Place::Shared(number, at as u32), mark, &end, &view).is_some()
                && !found.iter().any(|(_, other)| (other.line, other.kind) == (mark.line, mark.kind))
            {
                found.push((at, *mark));
            }
        });
        for (at, mark) in found {
            self.tell(Place::Shared(number, at as u32), &mark, &end, Missing::CtaEnd);
        }
    }

    fn mbarrier(&mut self, thread: ThreadId, cta: u32, offset: u32, step: MbarrierStep, line: u32) {
        let own = self.cta(thread);
        let number = self.cta(ThreadId { cta, ..thread });
        let thread = Cta::thread(own, thread.warp, thread.lane);
        if matches!(step, MbarrierStep::Arrived(..) | MbarrierStep::Passed(..)) {
            self.thread_knows_mbarrier(thread, number, offset, line);
        }
        let cta = self.at_mut(number);
        let barrier = cta.mbarrier(offset).number;
        match step {
            MbarrierStep::Made => {
                let (number, time) = (cta.mbarrier(offset).number, cta.now);
                let (kind, proxy) = (AccessKind::Write, Proxy::Generic);
                let made = Some(Mark { thread, time, line, kind, strong: None, proxy, copy: None });
                *cta.mbarrier(offset) = Mbarrier { number, made, ..Mbarrier::default() };
            }
            MbarrierStep::Arrived(Order::Release | Order::AcqRel | Order::SeqCst, scope) => {
                let until = self.at_mut(own).tick();
                let view = View { until, ..self.view(thread) };
                let needed = needed(self.site(thread), self.site(Thread { cta: number, ..thread }));
                let barrier = self.at_mut(number).mbarrier(offset);
                if own == number {
                    view.tell(barrier.arrived.get_or_insert_default());
                } else if scope >= needed {
                    view.tell(barrier.remote.get_or_insert_default());
                } else {
                    barrier.narrow.push(Failed { view, missing: Missing::ReleaseScope { line, scope, needed } });
                }
            }
            MbarrierStep::Arrived(..) => {}
            MbarrierStep::Signalled(copy) => {
                self.copy_knows_mbarrier(number, offset, copy);
                self.signal(number, offset, barrier, &[copy]);
            }
            MbarrierStep::SmallCopiesDone(last) => {
                let copies: Vec<CopyId> =
                    self.at(own).groups.all(thread, false).into_iter().filter(|copy| *copy < last).collect();
                self.signal(number, offset, barrier, &copies);
            }
            MbarrierStep::PhaseComplete => {
                let barrier = cta.mbarrier(offset);
                if let Some(arrived) = barrier.arrived.take() {
                    barrier.complete.all.join(&arrived);
                }
                if let Some(remote) = barrier.remote.take() {
                    barrier.complete.remote.get_or_insert_default().join(&remote);
                }
                barrier.complete.narrow = std::mem::take(&mut barrier.narrow);
            }
            MbarrierStep::Passed(Order::Acquire | Order::AcqRel | Order::SeqCst, scope) => {
                let mut complete = cta.mbarrier(offset).complete.clone();
                if let Some(remote) = &complete.remote {
                    if scope >= Scope::Cluster {
                        complete.all.join(remote);
                    } else {
                        let missing = Missing::AcquireScope { line, scope, needed: Scope::Cluster };
                        let end = Thread { cta: number, warp: barrier, lane: 0 };
                        let view = View { knowledge: remote.clone(), own: end, until: 0 };
                        complete.narrow.push(Failed { view, missing });
                    }
                }
                if let Some(warp) = cta.warps.get_mut(thread.warp as usize) {
                    warp.update(1 << thread.lane, |state| {
                        state.knowledge.join(&complete.all);
                        complete.narrow.iter().for_each(|failed| state.fail(failed.clone()));
                    });
                }
            }
            MbarrierStep::Passed(..) => {}
        }
    }

    /// A copy signals through the async proxy, which has to be told of the initialisation.
    fn copy_knows_mbarrier(&mut self, number: CtaNumber, offset: u32, copy: CopyId) {
        let mbarrier = self.at_mut(number).mbarrier(offset);
        let fenced = mbarrier.fenced.is_some() || std::mem::replace(&mut mbarrier.copies_looked_at, true);
        let Some((made, known)) = mbarrier.made.zip(self.copies.get(&copy)) else { return };
        if fenced || known.view.knowledge.shared.knows(made.thread, made.time, self.position(number)) {
            return;
        }
        let View { own: thread, until: time, .. } = known.view;
        let (kind, strong, proxy) = (AccessKind::Atomic, Some(Scope::Cluster), Proxy::Async);
        let signal = Mark { thread, time, line: known.line, kind, strong, proxy, copy: Some(copy) };
        self.tell(Place::Shared(number, offset), &made, &signal, Missing::ProxyFence { shared: true });
    }

    /// A thread uses an mbarrier, of whose initialisation it has to know.
    fn thread_knows_mbarrier(&mut self, thread: Thread, number: CtaNumber, offset: u32, line: u32) {
        let mbarrier = self.at_mut(number).mbarrier(offset);
        let Some(made) = mbarrier.made else { return };
        let looked_at = mbarrier.looked_at.entry((thread.cta, thread.warp)).or_default();
        if *looked_at >> thread.lane & 1 == 1 {
            return;
        }
        *looked_at |= 1 << thread.lane;
        let (kind, strong, proxy) = (AccessKind::Atomic, Some(Scope::Cta), Proxy::Generic);
        let used = Mark { thread, time: self.at(thread.cta).now, line, kind, strong, proxy, copy: None };
        let (place, view) = (Place::Shared(number, offset), self.view(thread));
        if !self.is_of_mbarrier(number, offset, &made, &used)
            && let Some(missing) = self.missing(place, &made, &used, &view)
        {
            self.tell(place, &made, &used, missing);
        }
    }

    /// Copies are done as far as an mbarrier tells.
    fn signal(&mut self, number: CtaNumber, offset: u32, barrier: u16, copies: &[CopyId]) {
        let cta = self.at_mut(number);
        let end = (Thread { cta: number, warp: barrier, lane: 0 }, cta.tick());
        let arrived = cta.mbarrier(offset).arrived.get_or_insert_default();
        Arc::make_mut(&mut arrived.all).add_thread(end.0, end.1);
        for copy in copies {
            self.copies.entry(*copy).and_modify(|copy| copy.end(end, false));
        }
    }

    pub(super) fn begin(&mut self, began: Began) -> usize {
        let host = View {
            knowledge: self.host.clone(),
            own: Thread { cta: HOST, warp: 0, lane: 0 },
            until: self.at_mut(HOST).tick(),
        };
        let stream = self.streams.entry(began.stream).or_default();
        let with_host = |knowledge: &Knowledge| {
            let mut known = knowledge.clone();
            host.tell(&mut known);
            Knowledge::through_every_proxy(known.all)
        };
        let before = stream.last.filter(|_| began.dependent);
        let base = with_host(if before.is_some() { &stream.last_base } else { &stream.end });
        stream.last_base = base.clone();
        stream.launches += 1;
        stream.running += 1;
        stream.last = Some(self.launches.len());
        let position = (began.stream, stream.launches);
        self.launch_of.insert(began.launch, self.launches.len());
        self.launches.push(Launch { began, position, base, before, end: None, ctas: Vec::new() });
        self.launches.len() - 1
    }

    fn complete(&mut self, launch: LaunchId) {
        let Some(&at) = self.launch_of.get(&launch) else { return };
        let Launch { position, ref mut ctas, ref base, .. } = self.launches[at];
        let (ctas, mut end) = (std::mem::take(ctas), base.clone());
        let mut seen: Vec<Knowledge> = Vec::new();
        for number in &ctas {
            let cta = &mut self.ctas[number.0 as usize];
            for state in cta.warps.iter().flat_map(|warp| warp.states(u32::MAX)) {
                if !seen.iter().any(|known| known.is(&state.knowledge)) {
                    seen.push(state.knowledge.clone());
                }
            }
            cta.finish();
        }
        seen.iter().for_each(|known| end.join(known));
        let (launches, all) = (&self.launches, &self.ctas);
        let launches_of = |cta: CtaNumber| launches[all[cta.0 as usize].launch].position;
        let belongs = |cta: CtaNumber| {
            let (stream, number) = launches_of(cta);
            cta != HOST && stream == position.0 && number <= position.1
        };
        let all = Arc::make_mut(&mut end.all);
        if all.knows_launches(position.0, position.1 - 1) {
            all.complete(position, belongs);
        } else {
            // It has not waited for the one before, and nor does who waits for it.
            ctas.iter().for_each(|number| all.add_cta(*number, Time::MAX));
        }
        let end = Knowledge::through_every_proxy(end.all);
        let stream = self.streams.entry(position.0).or_default();
        stream.end.join(&end);
        stream.running -= 1;
        if stream.running == 0 {
            let last = (position.0, stream.launches);
            let all = Arc::make_mut(&mut stream.end.all);
            all.complete(last, |cta| cta != HOST && launches_of(cta).0 == position.0);
            stream.end = Knowledge::through_every_proxy(Arc::clone(&stream.end.all));
        }
        self.launches[at].end = Some(end);
    }
}

/// The lanes of a mask.
fn each(mask: u32) -> impl Iterator<Item = u32> {
    (0..32).filter(move |lane| mask >> lane & 1 == 1)
}
