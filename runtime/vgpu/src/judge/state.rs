//! The judge's bookkeeping: every access and event of a run, in the order in which they happened.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::clock::{Clock, CtaNumber, HOST, Knowledge, Position, Thread, Time, View, join};
use super::copies::Copy;
use super::gathered::Gathered;
use super::lanes::{Failed, Fenced, Pending};
use super::names::{self, Names};
use super::report::{Agent, Apart, Conflict, Missing, Party};
use super::scopes::{Site, needed};
use super::shadow::{Mark, Row, See, Shadow};
use super::words::{Head, Last, Word};
use super::world::{Cluster, Cta, Launch, Mbarrier, Stream};
use crate::ids::{CopyId, EventId, LaunchId, StreamId, ThreadId};
use crate::memory::{Address, Order, Proxy, Scope};
use crate::observer::{self, Access, AccessKind, Began, Event, Fence, Location, MbarrierStep};
use crate::rules::{Found, Rule, Rules, Severity, Verdict};

/// Kinds of conflict that are kept.
const MOST_FOUND: usize = 1000;

#[derive(Debug)]
pub(crate) struct State {
    names: Names,
    launches: Vec<Launch>,
    launch_of: HashMap<LaunchId, usize>,
    ctas: Vec<Cta>,
    cta_of: HashMap<(LaunchId, u32), CtaNumber>,
    clusters: HashMap<u64, Cluster>,
    streams: HashMap<StreamId, Stream>,
    events: HashMap<EventId, Knowledge>,
    /// What the host knows; its own time is that of the first CTA.
    host: Knowledge,
    device: Shadow,
    words: BTreeMap<u64, Word>,
    /// Accesses that have not been judged yet.
    gathered: Option<Gathered>,
    copies: HashMap<CopyId, Copy>,
    /// The last acquire: of many lanes that acquire the same each gets the same.
    acquired: Option<(Knowledge, View, Knowledge)>,
    /// The `fence.sc` so far, if their order is looked at.
    sequential: Option<Vec<Head>>,
    pub found: Vec<Conflict>,
    pub rules: Rules,
}

impl Default for State {
    fn default() -> State {
        State {
            names: Names::default(),
            launches: Vec::new(),
            launch_of: HashMap::new(),
            ctas: vec![Cta { now: 1, ..Cta::default() }],
            cta_of: HashMap::new(),
            clusters: HashMap::new(),
            streams: HashMap::new(),
            events: HashMap::new(),
            host: Knowledge::default(),
            device: Shadow::default(),
            words: BTreeMap::new(),
            gathered: None,
            copies: HashMap::new(),
            acquired: None,
            sequential: None,
            found: Vec::new(),
            rules: Rules::default(),
        }
    }
}

/// A place that threads synchronise on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Device(u64),
    Shared(CtaNumber, u32),
}

impl Place {
    /// Another one in the same space.
    fn with(self, start: u64) -> Place {
        match self {
            Place::Device(_) => Place::Device(start),
            Place::Shared(cta, _) => Place::Shared(cta, start as u32),
        }
    }

    fn start(self) -> u64 {
        match self {
            Place::Device(address) => address,
            Place::Shared(_, offset) => offset.into(),
        }
    }
}

fn remove<K: Ord + std::marker::Copy>(words: &mut BTreeMap<K, Word>, from: K, to: K) {
    while let Some(word) = words.range(from..to).next().map(|(word, _)| *word) {
        words.remove(&word);
    }
}

/// Judges an access against those before it.
struct Look<'s> {
    state: &'s State,
    place: Place,
    /// What the copy that makes it knows.
    copy: Option<&'s View>,
    /// What all lanes that make it know, if that is the same.
    known: Option<&'s Clock>,
    found: Vec<(u64, Mark, Mark, Missing)>,
}

impl See for Look<'_> {
    /// Of those through the generic proxy some are seen at a glance: what a lane did itself, and what all lanes know of all lanes.
    fn in_order(&mut self, first: &Row, second: &Row) -> bool {
        let Mark { thread, time, copy, .. } = first.mark;
        copy.is_none()
            && second.mark.proxy == Proxy::Generic
            && (first.has_lanes_of(second)
                || self.known.is_some_and(|known| known.knows_warp(thread, time, self.state.position(thread.cta))))
    }

    fn pair(&mut self, at: u64, first: &Mark, second: &Mark) {
        if let Place::Shared(cta, offset) = self.place
            && self.state.is_of_mbarrier(cta, offset, first, second)
        {
            return;
        }
        let own;
        let view = match self.copy {
            Some(copy) => copy,
            None => {
                own = self.state.view(second.thread);
                &own
            }
        };
        let missing = self.state.missing(self.place.with(at), first, second, view);
        self.found.extend(missing.map(|missing| (at, *first, *second, missing)));
    }
}

impl State {
    /// That looks at the order of `fence.sc` too: a race does not go away because in this run one came before the other, but what can be
    /// read does depend on it.
    pub fn with_sequential_fences() -> State {
        State { sequential: Some(Vec::new()), ..State::default() }
    }

    pub fn cta(&mut self, thread: ThreadId) -> CtaNumber {
        if let Some(found) = self.cta_of.get(&(thread.launch, thread.cta)) {
            return *found;
        }
        let launch = match self.launch_of.get(&thread.launch) {
            Some(found) => *found,
            // The judge came when it was running already.
            None => self.begin(Began {
                launch: thread.launch,
                rank: thread.rank,
                stream: StreamId(u32::MAX),
                kernel: String::new(),
                sources: Vec::new(),
                grid: [1; 3],
                cluster: [1; 3],
                threads: 1024,
                shared: Vec::new(),
                dynamic_shared: u32::MAX,
                dependent: false,
            }),
        };
        let number = CtaNumber(self.ctas.len() as u32);
        let found = &mut self.launches[launch];
        found.ctas.push(number);
        let cta = Cta::new(launch, thread.cta, thread.rank, found.began.threads, &found.base);
        let cluster = (launch as u64) << 32 | u64::from(cluster_of(&found.began, thread.cta));
        self.ctas.push(Cta { cluster, ..cta });
        self.cta_of.insert((thread.launch, thread.cta), number);
        number
    }

    fn at(&self, number: CtaNumber) -> &Cta {
        &self.ctas[number.0 as usize]
    }

    fn at_mut(&mut self, number: CtaNumber) -> &mut Cta {
        &mut self.ctas[number.0 as usize]
    }

    pub fn site(&self, thread: Thread) -> Site {
        let cta = self.at(thread.cta);
        Site { rank: cta.rank, cta: thread.cta, cluster: cta.cluster }
    }

    fn position(&self, cta: CtaNumber) -> Option<Position> {
        (cta != HOST).then(|| self.launches[self.at(cta).launch].position)
    }

    pub fn view(&self, thread: Thread) -> View {
        let cta = self.at(thread.cta);
        match cta.warps.get(thread.warp as usize) {
            Some(warp) => warp.view(thread, Time::MAX),
            None => View { knowledge: self.host.clone(), own: thread, until: Time::MAX },
        }
    }

    /// An access as it is marked, with the scope of a strong one.
    pub fn mark(&mut self, access: &Access) -> Mark {
        let cta = self.cta(access.thread);
        let strong = match access.order {
            Order::Weak => None,
            Order::Volatile => Some(Scope::Sys),
            Order::Relaxed | Order::Acquire | Order::Release | Order::AcqRel | Order::SeqCst => Some(access.scope),
        };
        Mark {
            thread: Cta::thread(cta, access.thread.warp, access.thread.lane),
            time: self.at(cta).now,
            line: access.line,
            kind: access.kind,
            strong,
            proxy: access.proxy,
            copy: access.copy,
        }
    }

    /// What is known where an access is made: by its thread now, or when it issued the copy.
    pub fn view_of(&self, mark: &Mark) -> View {
        match mark.copy.and_then(|copy| self.copies.get(&copy)) {
            Some(copy) => copy.view.clone(),
            None => self.view(mark.thread),
        }
    }

    /// Whether an access with this view has to see what a thread did up to a time, through the proxy that it goes through.
    pub fn has_to_see(&self, access: &Mark, view: &View, shared: bool, (thread, time): (Thread, Time)) -> bool {
        let position = self.position(thread.cta);
        match access.proxy {
            Proxy::Generic => view.knows(thread, time, position),
            Proxy::Async if shared => view.knowledge.shared.knows(thread, time, position),
            Proxy::Async => view.knowledge.global.knows(thread, time, position),
            Proxy::TensorMap => view.knowledge.maps.knows(thread, time, position),
            Proxy::NonCoherent => {
                self.launches[self.at(access.thread.cta).launch].base.all.knows(thread, time, position)
            }
        }
    }

    pub fn is_mbarrier(&self, place: Place) -> bool {
        matches!(place, Place::Shared(cta, offset) if self.at(cta).mbarriers.contains_key(&offset))
    }

    /// Lets a thread know this.
    pub fn tell_thread(&mut self, thread: Thread, known: &Knowledge) {
        if let Some(warp) = self.at_mut(thread.cta).warps.get_mut(thread.warp as usize) {
            warp.update(1 << thread.lane, |state| state.knowledge.join(known));
        }
    }

    pub fn access(&mut self, access: &Access) {
        if self.gathered.as_mut().is_some_and(|gathered| gathered.takes(access)) {
            return;
        }
        self.catch_up();
        let gathered = Gathered::new(*access);
        if access.order == Order::Weak && access.copy.is_none() {
            self.gathered = Some(gathered);
        } else {
            self.judge_gathered(&gathered);
        }
    }

    pub fn row(&mut self, row: &observer::Row) {
        self.catch_up();
        self.judge_gathered(&Gathered::of_row(row));
    }

    /// Judges what has been gathered so far.
    pub fn catch_up(&mut self) {
        if let Some(gathered) = self.gathered.take() {
            self.judge_gathered(&gathered);
        }
    }

    fn judge_gathered(&mut self, gathered: &Gathered) {
        let access = &gathered.first;
        let mark = self.mark(access);
        let strong = mark.strong;
        let copy = access.copy.and_then(|copy| self.copies.get(&copy)).map(|copy| copy.view.clone());
        let place = match access.location {
            Location::Device(Address(address)) => Place::Device(address),
            Location::Shared(index, offset) => {
                Place::Shared(self.cta(ThreadId { cta: index, ..access.thread }), offset)
            }
        };
        self.judge(place, gathered.bytes(), &gathered.row(mark, place.start()), copy.as_ref());
        match (strong, access.order) {
            (Some(scope), order)
                if access.proxy == Proxy::Generic
                    && (access.copy.is_none() || order == Order::Release)
                    && !self.is_mbarrier(place) =>
            {
                let view = copy.unwrap_or_else(|| self.view(mark.thread));
                let mut word = std::mem::take(self.word(place));
                self.synchronise(&mut word, place, &mark, access.order, scope, &view);
                *self.word(place) = word;
            }
            _ if mark.writes() => self.forget_words(place, gathered.bytes()),
            _ => {}
        }
    }

    /// Judges an access against those before it. A copy has a view of its own.
    fn judge(&mut self, place: Place, bytes: u64, row: &Row, copy: Option<&View>) {
        let mut shadow = std::mem::take(self.shadow(place));
        let thread = row.mark.thread;
        let known = match self.at(thread.cta).warps.get(usize::from(thread.warp)) {
            _ if copy.is_some() => None,
            Some(warp) => warp.knowledge(row.lanes),
            None => Some(&self.host),
        };
        let mut look = Look { state: self, place, copy, known: known.map(|known| &*known.all), found: Vec::new() };
        shadow.access(bytes, row, &mut look);
        let mut found = look.found;
        if let Place::Shared(cta, offset) = place
            && cta != thread.cta
            && !self.has_started(cta, copy.unwrap_or(&self.view(thread)))
        {
            found.push((offset.into(), self.edge(cta), row.mark, Missing::CtaStart));
        }
        *self.shadow(place) = shadow;
        for (at, first, second, missing) in found {
            self.tell(place.with(at), &first, &second, missing);
        }
    }

    fn shadow(&mut self, place: Place) -> &mut Shadow {
        match place {
            Place::Device(_) => &mut self.device,
            Place::Shared(cta, _) => &mut self.at_mut(cta).shadow,
        }
    }

    /// Whether two accesses are operations of an mbarrier, which are indivisible whatever their scope; or the second meets the
    /// initialisation, which was told to the cluster by a fence and the cluster's barrier.
    fn is_of_mbarrier(&self, cta: CtaNumber, offset: u32, first: &Mark, second: &Mark) -> bool {
        let Some(mbarrier) = self.at(cta).mbarriers.get(&offset) else { return false };
        if first.strong.is_some() && second.strong.is_some() {
            return true;
        }
        let Some(cluster) = self.clusters.get(&self.at(cta).cluster) else { return false };
        first.thread.cta == cta
            && first.kind == AccessKind::Write
            && second.strong.is_some()
            && mbarrier.fenced.is_some_and(|before| cluster.completions > before)
    }

    /// What is missing between two accesses, the second with this knowledge; none if they are in order.
    fn missing(&self, place: Place, first: &Mark, second: &Mark, view: &View) -> Option<Missing> {
        let shared = matches!(place, Place::Shared(..));
        if let Some(copy) = first.copy {
            return self.missing_behind_copy(copy, first, second, view, shared);
        }
        let position = self.position(first.thread.cta);
        let knows = |thread: Thread, time| view.knows(thread, time, self.position(thread.cta));
        // Whoever has read a strong write comes behind that write, though not behind what came before it.
        let word = match place {
            _ if first.strong.is_none() || !first.writes() => None,
            Place::Device(address) => self.words.get(&address),
            Place::Shared(cta, offset) => self.at(cta).words.get(&offset),
        };
        let mut observed = word.into_iter().flat_map(|word| &word.observed);
        let observer = observed.find(|(thread, time)| knows(*thread, *time));
        if !knows(first.thread, first.time) && observer.is_none() {
            let (a, b) = (self.site(first.thread), self.site(second.thread));
            let needed = needed(a, b);
            return match (first.strong, second.strong) {
                (Some(a), Some(b)) if a.min(b) >= needed => None,
                (Some(a), Some(b)) => Some(Missing::StrongScope { scope: a.min(b), needed }),
                _ => Some(self.explain(first, second)),
            };
        }
        if second.proxy == Proxy::Async && first.proxy == Proxy::Generic && (first.writes() || self.is_strict()) {
            let seen = if shared { &view.knowledge.shared } else { &view.knowledge.global };
            let fenced = |thread: Thread, time| seen.knows(thread, time, self.position(thread.cta));
            if !fenced(first.thread, first.time) && !observer.is_some_and(|(thread, time)| fenced(*thread, *time)) {
                let strict = Missing::StrictProxyFence { shared };
                return Some(if first.writes() { Missing::ProxyFence { shared } } else { strict });
            }
        }
        if second.proxy == Proxy::TensorMap
            && first.writes()
            && !view.knowledge.maps.knows(first.thread, first.time, position)
        {
            let published = view.knowledge.published.knows(first.thread, first.time, position);
            return Some(if published { Missing::TensorMapFence } else { Missing::TensorMapRelease });
        }
        let base = (second.thread.cta != HOST).then(|| &self.launches[self.at(second.thread.cta).launch].base.all);
        if second.proxy == Proxy::NonCoherent
            && first.writes()
            && base.is_some_and(|base| !base.knows(first.thread, first.time, position))
        {
            return Some(Missing::Coherence);
        }
        None
    }

    /// Whether [`Rule::StrictProxies`] is asked for.
    fn is_strict(&self) -> bool {
        self.rules.severity(Rule::StrictProxies) != Severity::Ignored
    }

    fn missing_behind_copy(
        &self,
        number: CopyId,
        first: &Mark,
        second: &Mark,
        view: &View,
        shared: bool,
    ) -> Option<Missing> {
        if second.copy == Some(number) {
            return None;
        }
        let copy = self.copies.get(&number)?;
        let mut ends = copy.ends(!first.writes());
        let over = view.knowledge.all.knows(first.thread, Time::MAX, self.position(first.thread.cta));
        if over {
            return None;
        }
        if let Some((thread, time)) = ends.find(|(thread, time)| view.knows(*thread, *time, None)) {
            let seen = if shared { &view.knowledge.shared } else { &view.knowledge.global };
            let fenced = second.proxy != Proxy::Async
                || first.thread.cta == second.thread.cta
                || !self.is_strict()
                || seen.knows(thread, time, None);
            return (!fenced).then_some(Missing::StrictProxyFence { shared });
        }
        match (first.strong, second.strong) {
            (Some(a), Some(b)) if a.min(b) >= needed(self.site(first.thread), self.site(second.thread)) => None,
            _ => Some(Missing::CopyWait {
                issued: copy.line,
                bulk: copy.bulk,
                grouped: copy.grouped,
                read: !first.writes(),
            }),
        }
    }

    /// Why a thread does not know of an earlier access.
    fn explain(&self, first: &Mark, second: &Mark) -> Missing {
        let position = self.position(first.thread.cta);
        let (a, b) = (self.at(first.thread.cta), self.at(second.thread.cta));
        if second.thread.cta != HOST {
            let own = self.position(second.thread.cta);
            let later = if own > position { b.launch } else { a.launch };
            let of_one_stream = position.zip(own).is_some_and(|(first, second)| first.0 == second.0);
            if of_one_stream && own != position && self.launches[later].before.is_some() {
                return Missing::GridWait;
            }
            if let Some(warp) = b.warps.get(second.thread.warp as usize) {
                let failed = warp.lane(second.thread.lane).failed.iter().rev();
                let mut failed = failed.filter(|failed| failed.view.knows(first.thread, first.time, position));
                if let Some(failed) = failed.next() {
                    return failed.missing.clone();
                }
            }
        }
        Missing::Everything(if first.thread.cta == second.thread.cta {
            if first.thread.warp == second.thread.warp { Apart::Lanes } else { Apart::Warps }
        } else if a.rank.is_some() && a.cluster == b.cluster {
            Apart::Cluster
        } else if a.rank == b.rank {
            Apart::Ctas
        } else {
            Apart::Ranks
        })
    }

    fn party(&self, mark: &Mark) -> Party {
        let cta = self.at(mark.thread.cta);
        let (kernel, agent, source) = if mark.thread.cta == HOST {
            (String::new(), Agent::Host, None)
        } else {
            let launch = &self.launches[cta.launch].began;
            let (warp, lane) = (mark.thread.warp.into(), mark.thread.lane.into());
            let thread = ThreadId { rank: launch.rank, launch: launch.launch, cta: cta.index, warp, lane };
            let agent = if mark.copy.is_some() { Agent::Copy(thread) } else { Agent::Thread(thread) };
            let source = launch.sources.binary_search_by_key(&mark.line, |(line, _)| *line).ok();
            (launch.kernel.clone(), agent, source.map(|at| launch.sources[at].1.clone()))
        };
        let Mark { kind, strong, proxy, line, .. } = *mark;
        Party { agent, kernel, kind, strong, proxy, line, source }
    }

    fn tell(&mut self, place: Place, first: &Mark, second: &Mark, missing: Missing) {
        let (mut first, mut second) = (self.party(first), self.party(second));
        match (&missing, &mut first.agent, &mut second.agent) {
            (Missing::CtaStart, Agent::Thread(thread), _) => first.agent = Agent::Start(*thread),
            (Missing::CtaEnd, _, Agent::Thread(thread)) => second.agent = Agent::End(*thread),
            _ => {}
        }
        let same = |a: &Party, b: &Party| (&a.kernel, a.line, a.kind) == (&b.kernel, b.line, b.kind);
        let known = self
            .found
            .iter_mut()
            .find(|other| same(&other.first, &first) && same(&other.second, &second) && other.missing == missing);
        if let Some(known) = known {
            known.times += 1;
            return;
        }
        let place = match place {
            Place::Device(address) => self.names.place(address),
            Place::Shared(cta, offset) => {
                let launch = &self.launches[self.at(cta).launch].began;
                let name = names::shared(&launch.shared, launch.dynamic_shared, offset);
                if launch.cluster == [1; 3] { name } else { format!("{name} of CTA {}", self.at(cta).index) }
            }
        };
        let sites = [(first.kernel.as_str(), first.line), (second.kernel.as_str(), second.line)];
        let found = Found { sites: &sites, symbol: Some(&place) };
        let rule = missing.rule();
        let (severity, accepted) = match self.rules.verdict(rule, &found) {
            Verdict::Waived(reason) => (self.rules.severity(rule), Some(reason)),
            Verdict::Is(severity) => (severity, None),
        };
        let conflict = Conflict { place, first, second, missing, severity, accepted, times: 1 };
        // What is accepted must not hide what is not.
        let alike = self.found.iter().filter(|other| other.is_error() == conflict.is_error()).count();
        if severity != Severity::Ignored && alike < MOST_FOUND {
            self.found.push(conflict);
        }
    }

    fn word(&mut self, place: Place) -> &mut Word {
        match place {
            Place::Device(address) => self.words.entry(address).or_default(),
            Place::Shared(cta, offset) => self.at_mut(cta).words.entry(offset).or_default(),
        }
    }

    fn forget_words(&mut self, place: Place, bytes: u64) {
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
                Arc::make_mut(&mut left.all).add(number, warp, super::lanes::lanes_of(warp, threads, *lanes), now);
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
                self.judge(place, *bytes, &Row::of_one(mark, address.0), None);
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

    /// All that was done is before all that comes.
    fn forget(&mut self) {
        let State { names, found, rules, sequential, .. } = std::mem::take(self);
        let sequential = sequential.map(|_| Vec::new());
        *self = State { names, sequential, found, rules, ..State::default() };
    }

    fn fence(&mut self, thread: ThreadId, lanes: u32, fence: Fence, scope: Scope, line: u32) {
        let number = self.cta(thread);
        let cta = self.at_mut(number);
        let now = cta.tick();
        let own = super::lanes::lanes_of(thread.warp as u16, cta.threads, lanes);
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
        Arc::make_mut(&mut told.all).add(number, warp, super::lanes::lanes_of(warp, threads, lanes), now);
        if releases {
            self.clusters.entry(cluster).or_default().arrived.join(&told);
        }
    }

    /// Whether a thread knows that a CTA of its cluster has started: from a thread of that, or from the cluster's barrier.
    fn has_started(&self, cta: CtaNumber, view: &View) -> bool {
        let cluster = self.clusters.get(&self.at(cta).cluster);
        cluster.is_some_and(|cluster| cluster.completions > 0) || view.knowledge.all.knows_of(cta)
    }

    /// The start or the end of a CTA, as an access to its shared memory.
    fn edge(&self, cta: CtaNumber) -> Mark {
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
        let fenced = mbarrier.fenced.is_some();
        let Some((made, known)) = mbarrier.made.take().zip(self.copies.get(&copy)) else { return };
        if fenced || known.view.knowledge.shared.knows(made.thread, made.time, self.position(number)) {
            return;
        }
        let View { own: thread, until: time, .. } = known.view;
        let (kind, strong, proxy) = (AccessKind::Atomic, Some(Scope::Cluster), Proxy::Async);
        let signal = Mark { thread, time, line: known.line, kind, strong, proxy, copy: Some(copy) };
        self.tell(Place::Shared(number, offset), &made, &signal, Missing::ProxyFence { shared: true });
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

    fn begin(&mut self, began: Began) -> usize {
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

/// The number of the cluster that a CTA is in.
fn cluster_of(began: &Began, cta: u32) -> u32 {
    let ([x, y, _], [i, j, k]) = (began.grid, began.cluster);
    let at = [cta % x / i, cta / x % y / j, cta / x / y / k];
    (at[2] * (y / j) + at[1]) * (x / i) + at[0]
}

const SCOPES: [Scope; 4] = [Scope::Cta, Scope::Cluster, Scope::Gpu, Scope::Sys];

/// The lanes of a mask.
fn each(mask: u32) -> impl Iterator<Item = u32> {
    (0..32).filter(move |lane| mask >> lane & 1 == 1)
}
