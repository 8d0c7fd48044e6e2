//! Memory as weak as PTX allows: what a read returns and where a write comes in the order of its word, drawn from what the memory
//! consistency model does not forbid.
//!
//! Every word that is written while kernels run keeps its last values. Who has to see which of them follows from *happens before*, of which
//! there is one account, the [judge's](crate::judge): a strong read that takes up an older value also takes up what that one released,
//! and nothing else. So what is chosen here is consistent with the choices before it.
//!
//! Invariants:
//! * a read never returns what coherence orders before a value that it has to see: one that was written, or read by a morally strong
//!   read, before it in causality order; a write comes behind all of these;
//! * nothing comes between the read and the write of an atomic access that is morally strong with it;
//! * a word that has been read too often in vain returns its last value, so that whoever waits goes on;
//! * what is drawn follows from the seed and the accesses so far.
//!
//! The async proxy has to see of the generic one what a proxy fence told it, a non-coherent load what was written before its launch.
//! Accesses that overlap without being the same are not explored: they see the last value, and all that anybody released there. What
//! copies and the host write is the last value at once.
//!
//! What is not found: a read of a write that comes after it in the order of its own thread's release ([`super::engine`] lets a load be
//! late, but not behind a fence, a barrier or a release).

pub(crate) mod history;

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use history::{Content, History, Writer};
use moe_random::Random;

use crate::ids::{LaunchId, ThreadId};
use crate::judge::clock::{Knowledge, Thread, Time, View};
use crate::judge::scopes::{Site, needed};
use crate::judge::shadow::{Mark, Spread};
use crate::judge::state::{Place, State};
use crate::judge::words::Word;
use crate::memory::address::same_slot;
use crate::memory::{Address, Proxy, Scope};
use crate::observer::{Access, AccessKind, Event, Location, MbarrierStep};

/// Bytes of a granule.
const GRANULE: u64 = 16;
/// Reads of older values of a word after which it returns the last.
const MOST_STALE: u32 = 16;
/// Words that are kept; when there are more, those on which nobody synchronises are forgotten.
const MOST_WORDS: usize = 1 << 18;
/// Reads of a message that are kept; then older messages are forgotten instead.
const MOST_SEEN: usize = 256;

#[derive(Debug, Default)]
struct Granule {
    words: Vec<History>,
    /// What everybody knows who accesses it: released by accesses that overlapped without being the same.
    torn: Option<Knowledge>,
}

type Granules = HashMap<u64, Granule, BuildHasherDefault<Spread>>;

/// See the module.
pub(crate) struct WeakMemory {
    order: State,
    device: Granules,
    shared: HashMap<(LaunchId, u32), Granules>,
    words: usize,
    random: Random,
    /// Observers take it that a write is the last of its word.
    pub observed: bool,
}

/// What an atomic access makes of what it reads.
pub(crate) enum Update {
    Writes(Content),
    /// A compare-and-swap that fails.
    Reads,
}

/// A granule, and which of its bytes.
#[derive(Clone, Copy)]
struct Spot {
    granule: u64,
    start: u8,
    bytes: u8,
}

impl Spot {
    fn of(access: &Access) -> Option<Spot> {
        let at = match access.location {
            Location::Device(Address(address)) => address,
            Location::Shared(_, offset) => offset.into(),
        };
        let start = (at % GRANULE) as u8;
        let inside = u64::from(start) + u64::from(access.bytes) <= GRANULE;
        inside.then_some(Spot { granule: at / GRANULE, start, bytes: access.bytes as u8 })
    }
}

impl WeakMemory {
    pub fn new(seed: u64) -> WeakMemory {
        WeakMemory {
            order: State::with_sequential_fences(),
            device: Granules::default(),
            shared: HashMap::new(),
            words: 0,
            random: Random::new(!seed),
            observed: false,
        }
    }

    fn granules(&mut self, access: &Access) -> &mut Granules {
        match access.location {
            Location::Device(_) => &mut self.device,
            Location::Shared(cta, _) => self.shared.entry((access.thread.launch, cta)).or_default(),
        }
    }

    fn place(&mut self, access: &Access) -> Place {
        match access.location {
            Location::Device(Address(address)) => Place::Device(address),
            Location::Shared(cta, offset) => Place::Shared(self.order.cta(ThreadId { cta, ..access.thread }), offset),
        }
    }

    /// The history of what is accessed, taken out; none if there is none. Words that overlap it otherwise are forgotten.
    fn take(&mut self, access: &Access, mark: &Mark, spot: Spot) -> Option<History> {
        let granule = self.granules(access).get_mut(&spot.granule)?;
        let same = |word: &History| (word.start, word.bytes) == (spot.start, spot.bytes);
        let (mut found, mut gone) = (None, 0);
        if granule.words.iter().any(|word| word.overlaps(spot.start, spot.bytes) && !same(word)) {
            for word in granule.words.extract_if(.., |word| word.overlaps(spot.start, spot.bytes)) {
                gone += 1;
                tear(&mut granule.torn, &word);
            }
        } else if let Some(at) = granule.words.iter().position(same) {
            gone += 1;
            found = Some(granule.words.swap_remove(at));
        }
        let torn = granule.torn.clone();
        self.words -= gone;
        if let Some(known) = torn {
            self.order.tell_thread(mark.thread, &known);
        }
        found
    }

    fn give_back(&mut self, access: &Access, spot: Spot, history: History) {
        self.words += 1;
        self.granules(access).entry(spot.granule).or_default().words.push(history);
        if self.words > MOST_WORDS {
            let mut left = 0;
            for granules in self.shared.values_mut().chain(std::iter::once(&mut self.device)) {
                granules.retain(|_, granule| {
                    granule.words.retain(History::is_strong);
                    left += granule.words.len();
                    !granule.words.is_empty() || granule.torn.is_some()
                });
            }
            self.words = left;
        }
    }

    /// What a read returns if that is not what is in memory.
    pub fn read(&mut self, access: &Access) -> Option<Content> {
        let spot = Spot::of(access)?;
        if !self.granules(access).contains_key(&spot.granule) {
            return None;
        }
        let mark = self.order.mark(access);
        let mut history = self.take(access, &mark, spot)?;
        let (at, _) = self.choose(access, &mark, &mut history);
        let at = self.read_message(access, &mark, &mut history, at);
        let content = history.message(at).content;
        let last = history.message(history.len() - 1).content;
        self.give_back(access, spot, history);
        (content != last).then_some(content)
    }

    /// Draws the message that an access reads, and says which it has to see.
    fn choose(&mut self, access: &Access, mark: &Mark, history: &mut History) -> (usize, u32) {
        let view = self.order.view_of(mark);
        let known = self.known(access, mark, &view, history);
        let last = history.len() - 1;
        if history.stale >= MOST_STALE {
            return (last, known);
        }
        let readable = history.readable(known);
        let at = readable.get(self.random.below(readable.len() as u64) as usize).copied().unwrap_or(last);
        history.stale += u32::from(at < last);
        (at, known)
    }

    fn known(&self, access: &Access, mark: &Mark, view: &View, history: &History) -> u32 {
        let shared = matches!(access.location, Location::Shared(..));
        history.known(|event: (Thread, Time)| self.order.has_to_see(mark, view, shared, event))
    }

    /// Takes up what a strong read of a message acquires. Where the message is then: older ones may be forgotten.
    fn read_message(&mut self, access: &Access, mark: &Mark, history: &mut History, at: usize) -> usize {
        let Some(scope) = mark.strong.filter(|_| mark.proxy == Proxy::Generic) else { return at };
        let message = history.message(at);
        let site = self.order.site(mark.thread);
        if !message.writer.is_some_and(|writer| morally_strong(&writer, mark.thread, site, Some(scope))) {
            return at;
        }
        let place = self.place(access);
        let view = self.order.view_of(mark);
        let message = history.message_mut(at);
        let reading = Mark { kind: AccessKind::Read, ..*mark };
        self.order.synchronise(&mut message.word, place, &reading, access.order, scope, &view);
        if !message.seen.iter().any(|(thread, _)| *thread == mark.thread) {
            message.seen.push((mark.thread, mark.time));
            if message.seen.len() > MOST_SEEN {
                message.seen.clear();
                history.forget_before(at);
                return 0;
            }
        }
        at
    }

    /// A write over what was there. Whether what it writes is what memory holds from now on.
    pub fn write(&mut self, access: &Access, old: Content, new: Content) -> bool {
        let Some(spot) = Spot::of(access) else { return true };
        let mark = self.order.mark(access);
        let place = self.place(access);
        if self.order.is_mbarrier(place) {
            return true;
        }
        let found = self.take(access, &mark, spot);
        let mut history = found.unwrap_or_else(|| History::new(spot.start, spot.bytes, old));
        let view = self.order.view_of(&mark);
        let known = self.known(access, &mark, &view, &history);
        let mut word = Word { releases: std::mem::take(&mut history.releases), ..Word::default() };
        if let Some(scope) = mark.strong {
            let place = self.place(access);
            self.order.synchronise(&mut word, place, &mark, access.order, scope, &view);
        }
        history.releases = std::mem::take(&mut word.releases);
        let last = self.insert(&mark, &mut history, known, None, new, word);
        self.give_back(access, spot, history);
        last
    }

    fn insert(
        &mut self,
        mark: &Mark,
        history: &mut History,
        known: u32,
        from: Option<usize>,
        content: Content,
        word: Word,
    ) -> bool {
        let site = self.order.site(mark.thread);
        let strong = |writer: &Writer| morally_strong(writer, mark.thread, site, mark.strong);
        let at = match from {
            Some(from) => from + 1,
            None if self.observed || self.random.below(2) == 0 => history.len(),
            None => {
                let places = history.writable(known, strong);
                places.get(self.random.below(places.len() as u64) as usize).copied().unwrap_or(history.len())
            }
        };
        let writer = Writer { thread: mark.thread, time: mark.time, site, strong: mark.strong };
        let changes = history.message(history.len() - 1).content != content;
        history.put(at, known, from, (content, writer, word), strong) || !changes
    }

    /// An atomic access to a word that holds `old`: what it reads, and whether what it writes, if it does, is the last.
    pub fn update(
        &mut self,
        access: &Access,
        old: Content,
        change: impl FnOnce(&Content) -> Update,
    ) -> (Content, Update, bool) {
        let Some(spot) = Spot::of(access) else {
            let update = change(&old);
            return (old, update, true);
        };
        let mark = self.order.mark(access);
        let found = self.take(access, &mark, spot);
        let mut history = found.unwrap_or_else(|| History::new(spot.start, spot.bytes, old));
        let (mut at, known) = self.choose(access, &mark, &mut history);
        let site = self.order.site(mark.thread);
        let strong = |writer: &Writer| morally_strong(writer, mark.thread, site, mark.strong);
        // What it reads has to be defined, and nothing in the way of writing behind it.
        if history.message(at).content.missing != 0
            || !history.writable(known, strong).contains(&(at + 1))
            || self.observed
        {
            at = history.len() - 1;
        }
        let read = history.message(at).content;
        let update = change(&read);
        let at = self.read_message(access, &mark, &mut history, at);
        let mut last = true;
        if let Update::Writes(new) = update {
            let releases = std::mem::take(&mut history.releases);
            let message = history.message(at);
            let mut word =
                Word { heads: message.word.heads.clone(), last: message.word.last, releases, ..Word::default() };
            let view = self.order.view_of(&mark);
            if let Some(scope) = mark.strong {
                let place = self.place(access);
                self.order.synchronise(&mut word, place, &mark, access.order, scope, &view);
            }
            history.releases = std::mem::take(&mut word.releases);
            let known = self.known(access, &mark, &view, &history);
            last = self.insert(&mark, &mut history, known, Some(at), new, word);
        }
        self.give_back(access, spot, history);
        (read, update, last)
    }

    /// What an asynchronous copy reads: calls `instead` with every word that is not what is in memory, and where it is among the bytes of
    /// the access.
    pub fn read_range(&mut self, access: &Access, mut instead: impl FnMut(u64, &Content, u8)) {
        let start = match access.location {
            Location::Device(Address(address)) => address,
            Location::Shared(_, offset) => offset.into(),
        };
        let end = start + u64::from(access.bytes);
        for granule in start / GRANULE..end.div_ceil(GRANULE) {
            let Some(found) = self.granules(access).get(&granule) else { continue };
            let words: Vec<(u64, u8)> =
                found.words.iter().map(|word| (granule * GRANULE + u64::from(word.start), word.bytes)).collect();
            for (at, bytes) in words.into_iter().filter(|(at, bytes)| *at >= start && at + u64::from(*bytes) <= end) {
                let location = match access.location {
                    Location::Device(_) => Location::Device(Address(at)),
                    Location::Shared(cta, _) => Location::Shared(cta, at as u32),
                };
                if let Some(older) = self.read(&Access { location, bytes: bytes.into(), ..*access }) {
                    instead(at - start, &older, bytes);
                }
            }
        }
    }

    /// Whether nothing that an access could read has been written or released by threads that a scope includes, but its own.
    pub fn hears_nobody(&mut self, access: &Access, scope: Scope) -> bool {
        let Some(spot) = Spot::of(access) else { return false };
        let mark = self.order.mark(access);
        let site = self.order.site(mark.thread);
        let Some(granule) = self.granules(access).get(&spot.granule) else { return true };
        let here = granule.words.iter().filter(|word| word.overlaps(spot.start, spot.bytes));
        let is_near = |thread: Thread, other: Site| thread != mark.thread && needed(other, site) <= scope;
        granule.torn.is_none()
            && here.clone().all(|word| (word.start, word.bytes) == (spot.start, spot.bytes))
            && here.flat_map(History::messages).all(|message| {
                !message.writer.is_some_and(|writer| is_near(writer.thread, writer.site))
                    && !message.word.heads.iter().any(|head| is_near(head.own, head.site))
            })
    }

    /// What somebody writes who is not explored: it is the last value at once, and what it releases is heard by all who access its place.
    pub fn overwrite(&mut self, access: &Access) {
        let (start, end) = match access.location {
            Location::Device(Address(address)) => (address, address + u64::from(access.bytes)),
            Location::Shared(_, offset) => (u64::from(offset), u64::from(offset) + u64::from(access.bytes)),
        };
        let granules = self.granules(access);
        let gone = forget_range(granules, start, end);
        self.words -= gone;
        let mark = self.order.mark(access);
        let Some(scope) = mark.strong.filter(|_| mark.proxy == Proxy::Generic) else { return };
        let (place, view, mut word) = (self.place(access), self.order.view_of(&mark), Word::default());
        self.order.synchronise(&mut word, place, &mark, access.order, scope, &view);
        for granule in start / GRANULE..end.div_ceil(GRANULE) {
            let torn = self.granules(access).entry(granule).or_default().torn.get_or_insert_default();
            word.heads.iter().for_each(|head| head.view().tell(torn));
        }
    }

    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Host { address, bytes, kind } => {
                if *kind != AccessKind::Read {
                    self.words -= forget_range(&mut self.device, address.0, address.0 + bytes);
                }
                // The judge's own words are not used here.
                return;
            }
            Event::LaunchComplete { launch, .. } => {
                let mut gone = 0;
                self.shared.retain(|(of, _), granules| {
                    let keep = of != launch;
                    gone += if keep { 0 } else { granules.values().map(|granule| granule.words.len()).sum() };
                    keep
                });
                self.words -= gone;
            }
            Event::RunEnds { idle: true } | Event::Abandoned => {
                self.device.clear();
                self.shared.clear();
                self.words = 0;
            }
            Event::Freed { address } => {
                let mut gone = 0;
                self.device.retain(|granule, found| {
                    let keep = !same_slot(Address(granule * GRANULE), *address);
                    gone += if keep { 0 } else { found.words.len() };
                    keep
                });
                self.words -= gone;
                return;
            }
            Event::Named { .. } => return,
            Event::Mbarrier { thread, cta, offset, step: MbarrierStep::Made, .. } => {
                if let Some(granules) = self.shared.get_mut(&(thread.launch, *cta)) {
                    self.words -= forget_range(granules, u64::from(*offset), u64::from(*offset) + 8);
                }
            }
            Event::Mbarrier { .. }
            | Event::Fence { .. }
            | Event::BarrierArrive { .. }
            | Event::BarrierComplete { .. }
            | Event::ClusterArrive { .. }
            | Event::ClusterComplete { .. }
            | Event::ClusterPassed { .. }
            | Event::CtaEnd { .. }
            | Event::WarpSync { .. }
            | Event::CopyIssued { .. }
            | Event::CopiesCommitted { .. }
            | Event::CopiesWaited { .. }
            | Event::LaunchBegins(_)
            | Event::CtaStart { .. }
            | Event::GridWait { .. }
            | Event::Recorded { .. }
            | Event::Waited { .. }
            | Event::RunEnds { idle: false } => {}
        }
        self.order.event(event);
    }
}

/// Keeps what could be acquired from a word that is forgotten.
fn tear(torn: &mut Option<Knowledge>, word: &History) {
    for head in word.heads() {
        head.view().tell(torn.get_or_insert_default());
    }
}

/// Forgets the words of a range; how many they were.
fn forget_range(granules: &mut Granules, start: u64, end: u64) -> usize {
    let mut gone = 0;
    let mut forget = |granule: &mut Granule, at: u64| {
        let overlaps = |word: &History| {
            let first = at * GRANULE + u64::from(word.start);
            first < end && start < first + u64::from(word.bytes)
        };
        for word in granule.words.extract_if(.., |word| overlaps(word)) {
            gone += 1;
            tear(&mut granule.torn, &word);
        }
    };
    let (first, last) = (start / GRANULE, end.div_ceil(GRANULE));
    if last - first > granules.len() as u64 {
        granules.iter_mut().for_each(|(at, granule)| forget(granule, *at));
    } else {
        (first..last).for_each(|at| {
            if let Some(granule) = granules.get_mut(&at) {
                forget(granule, at);
            }
        });
    }
    gone
}

/// Whether a write and an access to the same word are morally strong: of one thread, or both strong with scopes that include each other.
fn morally_strong(writer: &Writer, thread: Thread, site: Site, strong: Option<Scope>) -> bool {
    writer.thread == thread || writer.strong.zip(strong).is_some_and(|(a, b)| a.min(b) >= needed(writer.site, site))
}
