//! The judge's bookkeeping: every access and event of a run, in the order in which they happened. What follows from one is in the modules
//! below.

mod events;
mod synchronise;
mod verdict;

use std::collections::{BTreeMap, HashMap};

use super::clock::{CtaNumber, HOST, Knowledge, Position, Thread, Time, View};
use super::copies::Copy;
use super::gathered::Gathered;
use super::names::Names;
use super::report::Conflict;
use super::scopes::Site;
use super::shadow::{Mark, Shadow};
use super::words::{Head, Word};
use super::world::{Cluster, Cta, Launch, Stream};
use crate::ids::{CopyId, EventId, LaunchId, StreamId, ThreadId};
use crate::memory::{Address, Order, Proxy, Scope};
use crate::observer::{self, Access, AccessKind, Began, Location, Places};
use crate::rules::Rules;

#[derive(Debug)]
pub(crate) struct State {
    names: Names,
    launches: Vec<Launch>,
    launch_of: HashMap<LaunchId, usize>,
    ctas: Vec<Cta>,
    cta_of: HashMap<(LaunchId, u32), CtaNumber>,
    /// The CTA that was looked for last.
    last_cta: Option<(LaunchId, u32, CtaNumber)>,
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
            last_cta: None,
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

impl State {
    /// That looks at the order of `fence.sc` too: a race does not go away because in this run one came before the other, but what can be
    /// read does depend on it.
    pub fn with_sequential_fences() -> State {
        State { sequential: Some(Vec::new()), ..State::default() }
    }

    pub fn cta(&mut self, thread: ThreadId) -> CtaNumber {
        if let Some((launch, cta, number)) = self.last_cta
            && (launch, cta) == (thread.launch, thread.cta)
        {
            return number;
        }
        let number = self.cta_among_all(thread);
        self.last_cta = Some((thread.launch, thread.cta, number));
        number
    }

    fn cta_among_all(&mut self, thread: ThreadId) -> CtaNumber {
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
        let observer::Row { first, lanes, .. } = *row;
        let (weak, reads) = (first.order == Order::Weak, first.kind == AccessKind::Read);
        match row.places {
            Places::Same if reads && !self.is_word(&first) => {
                self.catch_up();
                self.judge_gathered(&Gathered::of_lanes(first, lanes, 0));
            }
            Places::Behind if weak && reads => {
                self.catch_up();
                self.judge_gathered(&Gathered::of_lanes(first, lanes, first.bytes));
            }
            Places::Behind if weak => {
                self.catch_up();
                let mut rest = lanes;
                for first in row.accesses() {
                    let lane = first.thread.lane;
                    if rest >> lane & 1 == 1 {
                        let beside = u32::MAX >> (32 - (rest >> lane).trailing_ones()) << lane;
                        self.judge_gathered(&Gathered::of_lanes(first, beside, first.bytes));
                        rest &= !beside;
                    }
                }
            }
            Places::Each(places) if weak && reads => {
                self.catch_up();
                let mut rest = lanes;
                for first in row.accesses() {
                    if rest >> first.thread.lane & 1 == 1 {
                        let (some, step) = in_steps(&places, rest);
                        self.judge_gathered(&Gathered::of_lanes(first, some, step));
                        rest &= !some;
                    }
                }
            }
            Places::Same | Places::Behind | Places::Each(_) => row.accesses().for_each(|access| self.access(&access)),
        }
    }

    /// Whether a strong access meets a word that has been synchronised on.
    fn is_word(&mut self, access: &Access) -> bool {
        if access.order == Order::Weak {
            return false;
        }
        let word = match access.location {
            Location::Device(Address(address)) => self.words.get(&address),
            Location::Shared(cta, offset) => {
                let cta = self.cta(ThreadId { cta, ..access.thread });
                self.at(cta).words.get(&offset)
            }
        };
        word.is_some_and(|word| word.last.is_some())
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
        let row = gathered.row(mark, place.start());
        self.judge(place, &row, copy.as_ref());
        // Nobody has written with order what several lanes read.
        let strong = strong.filter(|_| !gathered.is_alike());
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
            _ if mark.writes() => self.forget_words(place, row.end() - row.start),
            _ => {}
        }
    }

    fn shadow(&mut self, place: Place) -> &mut Shadow {
        match place {
            Place::Device(_) => &mut self.device,
            Place::Shared(cta, _) => &mut self.at_mut(cta).shadow,
        }
    }

    /// All that was done is before all that comes.
    fn forget(&mut self) {
        let State { names, found, rules, sequential, .. } = std::mem::take(self);
        let sequential = sequential.map(|_| Vec::new());
        *self = State { names, sequential, found, rules, ..State::default() };
    }
}

/// The first of some lanes and those behind it whose places lie in equal steps, and the step.
fn in_steps(places: &[i32; 32], lanes: u32) -> (u32, u32) {
    let first = lanes.trailing_zeros();
    let of = |lane: u32| i64::from(places[(lane & 31) as usize]) - i64::from(places[(first & 31) as usize]);
    let others = || (first + 1..32).filter(|lane| lanes >> lane & 1 == 1);
    let step = others().next().map_or(0, |lane| of(lane) / i64::from(lane - first));
    if step < 0 {
        return (1 << first, 0);
    }
    let fits = others().take_while(|lane| of(*lane) == step * i64::from(lane - first));
    let fitting = fits.fold(1 << first, |mask, lane| mask | 1 << lane);
    (fitting, if u32::is_power_of_two(fitting) { 0 } else { step as u32 })
}

/// The number of the cluster that a CTA is in.
fn cluster_of(began: &Began, cta: u32) -> u32 {
    let ([x, y, _], [i, j, k]) = (began.grid, began.cluster);
    let at = [cta % x / i, cta / x % y / j, cta / x / y / k];
    (at[2] * (y / j) + at[1]) * (x / i) + at[0]
}
