//! Whether two accesses are in order, and if not what is missing between them.

use super::{Place, State};
use crate::ids::{CopyId, ThreadId};
use crate::judge::clock::{Clock, CtaNumber, HOST, Thread, Time, View};
use crate::judge::names;
use crate::judge::report::{Agent, Apart, Conflict, Missing, Party};
use crate::judge::scopes::needed;
use crate::judge::shadow::{Mark, Row, See};
use crate::memory::Proxy;
use crate::observer::AccessKind;
use crate::rules::{Found, Rule, Severity, Verdict};

/// Kinds of conflict that are kept.
const MOST_FOUND: usize = 1000;

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
    /// Judges an access against those before it. A copy has a view of its own.
    pub(super) fn judge(&mut self, place: Place, row: &Row, copy: Option<&View>) {
        let mut shadow = std::mem::take(self.shadow(place));
        let thread = row.mark.thread;
        let known = match self.at(thread.cta).warps.get(usize::from(thread.warp)) {
            _ if copy.is_some() => None,
            Some(warp) => warp.knowledge(row.lanes),
            None => Some(&self.host),
        };
        let mut look = Look { state: self, place, copy, known: known.map(|known| &*known.all), found: Vec::new() };
        shadow.access(row, &mut look);
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

    /// Whether two accesses are operations of an mbarrier, which are indivisible whatever their scope; or the second meets the
    /// initialisation, which was told to the cluster by a fence and the cluster's barrier.
    pub(super) fn is_of_mbarrier(&self, cta: CtaNumber, offset: u32, first: &Mark, second: &Mark) -> bool {
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
    pub(super) fn missing(&self, place: Place, first: &Mark, second: &Mark, view: &View) -> Option<Missing> {
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

    pub(super) fn tell(&mut self, place: Place, first: &Mark, second: &Mark, missing: Missing) {
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
}
