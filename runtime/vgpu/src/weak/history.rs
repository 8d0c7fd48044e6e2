//! What has been written to a word, as far as a read may still return it.
//!
//! Invariants: the messages stand in an order that no coherence order contradicts, and the last is what memory holds. What is not ordered
//! by coherence may stand either way: writes of which neither knows the other, and that are not morally strong, PTX does not order.

use crate::judge::clock::{Thread, Time};
use crate::judge::scopes::Site;
use crate::judge::words::{Head, Word};
use crate::memory::Scope;

/// Bytes of a word, which may be narrower, and a bit for each that is not defined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Content {
    pub bytes: [u8; 16],
    pub missing: u16,
}

impl Content {
    /// Of at most 16 bytes.
    pub fn new(bytes: &[u8], is_missing: impl Fn(u64) -> bool) -> Content {
        let mut content = Content::default();
        content.bytes[..bytes.len()].copy_from_slice(bytes);
        let missing = (0..bytes.len()).filter(|at| is_missing(*at as u64));
        content.missing = missing.fold(0, |bits, at| bits | 1 << at);
        content
    }
}

/// Who wrote a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Writer {
    pub thread: Thread,
    pub time: Time,
    pub site: Site,
    pub strong: Option<Scope>,
}

/// A value that has been written.
#[derive(Debug)]
pub(super) struct Message {
    pub content: Content,
    /// None: it was there before.
    pub writer: Option<Writer>,
    /// Morally strong reads, by whom it is known to be there.
    pub seen: Vec<(Thread, Time)>,
    /// What a strong read of it can acquire.
    pub word: Word,
    /// Its bit in the sets of messages of this word.
    slot: u32,
    /// Those that coherence orders before it.
    before: u32,
    /// The one that a read-modify-write has read.
    from: u32,
}

/// Messages of a word that are kept.
const MOST_MESSAGES: usize = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct History {
    /// Where the word begins, in its granule, and its bytes.
    pub start: u8,
    pub bytes: u8,
    messages: Vec<Message>,
    /// Releases of each thread here, see [`Word`].
    pub releases: Vec<Head>,
    /// Reads of something older since the last write.
    pub stale: u32,
}

impl History {
    /// Of a word that holds this.
    pub fn new(start: u8, bytes: u8, content: Content) -> History {
        let (writer, seen, word) = (None, Vec::new(), Word::default());
        let first = Message { content, writer, seen, word, slot: 1, before: 0, from: 0 };
        History { start, bytes, messages: vec![first], releases: Vec::new(), stale: 0 }
    }

    pub fn overlaps(&self, start: u8, bytes: u8) -> bool {
        self.start < start + bytes && start < self.start + self.bytes
    }

    pub fn len(&self) -> usize {
        self.messages.len()
    }

    pub fn message(&self, at: usize) -> &Message {
        &self.messages[at]
    }

    pub fn message_mut(&mut self, at: usize) -> &mut Message {
        &mut self.messages[at]
    }

    pub fn messages(&self) -> impl Iterator<Item = &Message> {
        self.messages.iter()
    }

    /// Whether anybody synchronises here.
    pub fn is_strong(&self) -> bool {
        let strong = |message: &Message| message.writer.is_some_and(|writer| writer.strong.is_some());
        self.messages.iter().any(strong) || !self.releases.is_empty()
    }

    /// The messages that an access has to see, as a set.
    pub fn known(&self, has_to_see: impl Fn((Thread, Time)) -> bool) -> u32 {
        let known = |message: &&Message| {
            let written = message.writer.map(|writer| (writer.thread, writer.time));
            written.into_iter().chain(message.seen.iter().copied()).any(&has_to_see)
        };
        self.messages.iter().filter(known).fold(0, |set, message| set | message.slot)
    }

    /// The places of messages that a read may return, which knows these.
    pub fn readable(&self, known: u32) -> Vec<usize> {
        let hidden = self.messages.iter().filter(|message| known & message.slot != 0);
        let hidden = hidden.fold(0, |set, message| set | message.before);
        (0..self.messages.len()).filter(|at| hidden & self.messages[*at].slot == 0).collect()
    }

    /// The places at which a write may come that knows these messages: behind them, and not between the read and the write of an atomic
    /// access that is morally strong with it, which `strong` says of writers.
    pub fn writable(&self, known: u32, strong: impl Fn(&Writer) -> bool) -> Vec<usize> {
        let least = self.messages.iter().rposition(|message| known & message.slot != 0).map_or(1, |last| last + 1);
        (least..=self.messages.len())
            .filter(|at| {
                let before = self.messages[..*at].iter().fold(0, |set, message| set | message.slot);
                let mut behind = self.messages[*at..].iter();
                !behind.any(|message| before & message.from != 0 && message.writer.as_ref().is_some_and(&strong))
            })
            .collect()
    }

    /// Puts a message at a place, behind those that it knows, and in order with those of writers that are `strong` with it; `from` is the
    /// place of the message that an atomic access has read. Whether it is the last.
    pub fn put(
        &mut self,
        at: usize,
        known: u32,
        from: Option<usize>,
        (content, writer, word): (Content, Writer, Word),
        strong: impl Fn(&Writer) -> bool,
    ) -> bool {
        let from = from.map_or(0, |from| self.messages[from].slot);
        let used = self.messages.iter().fold(0u32, |set, message| set | message.slot);
        let slot = 1 << used.trailing_ones();
        let ordered = |message: &Message| message.writer.as_ref().is_none_or(&strong);
        let direct =
            self.messages[..at].iter().filter(|message| (known | from) & message.slot != 0 || ordered(message));
        let before = direct.fold(0, |set, message| set | message.slot | message.before);
        for later in at..self.messages.len() {
            if ordered(&self.messages[later]) {
                // And what is behind that one is behind this one too.
                let bit = self.messages[later].slot;
                for message in &mut self.messages[later..] {
                    if message.slot == bit || message.before & bit != 0 {
                        message.before |= slot | before;
                    }
                }
            }
        }
        let last = at == self.messages.len();
        self.messages.insert(at, Message { content, writer: Some(writer), seen: Vec::new(), word, slot, before, from });
        if self.messages.len() > MOST_MESSAGES {
            self.forget_first();
        }
        self.stale = 0;
        last
    }

    fn forget_first(&mut self) {
        let gone = self.messages.remove(0).slot;
        for message in &mut self.messages {
            message.before &= !gone;
            message.from &= !gone;
        }
    }

    /// Forgets what is older than a message of which too much is known.
    pub fn forget_before(&mut self, slot_of: usize) {
        for _ in 0..slot_of {
            self.forget_first();
        }
    }

    /// All that could be acquired here.
    pub fn heads(&self) -> impl Iterator<Item = &Head> {
        self.messages.iter().flat_map(|message| &message.word.heads).chain(&self.releases)
    }
}
