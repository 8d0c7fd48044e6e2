//! Asynchronous copies: what their threads knew when they issued them, and who knows that they are done.
//!
//! Invariant: a copy is known to be done by whoever knows of one of its ends: a thread that waited for its group, or a phase of its
//! mbarrier, at a time.

use std::collections::{HashMap, VecDeque};

use super::clock::{Thread, Time, View};
use crate::ids::CopyId;

/// Something that happens when a copy is done, or has read its source.
pub(super) type End = (Thread, Time);

#[derive(Debug)]
pub(super) struct Copy {
    pub view: View,
    pub bulk: bool,
    pub grouped: bool,
    pub line: u32,
    /// Its source has been read.
    read: Vec<End>,
    /// It is done.
    done: Vec<End>,
}

/// So many ends of a copy are kept: they are alike.
const MOST_ENDS: usize = 8;

impl Copy {
    pub fn new(view: View, bulk: bool, grouped: bool, line: u32) -> Copy {
        Copy { view, bulk, grouped, line, read: Vec::new(), done: Vec::new() }
    }

    pub fn end(&mut self, end: End, read_only: bool) {
        let ends = if read_only { &mut self.read } else { &mut self.done };
        if ends.len() < MOST_ENDS {
            ends.push(end);
        }
    }

    /// The ends that order its reads, or its writes, with what comes later.
    pub fn ends(&self, of_reading: bool) -> impl Iterator<Item = End> {
        let read = if of_reading { self.read.as_slice() } else { &[] };
        self.done.iter().chain(read).copied()
    }
}

#[derive(Debug, Default)]
struct Groups {
    open: Vec<CopyId>,
    committed: VecDeque<Vec<CopyId>>,
}

/// Groups of copies that have not been waited for, by thread and whether they are bulk copies.
#[derive(Debug, Default)]
pub(super) struct AllGroups(HashMap<(Thread, bool), Groups>);

impl AllGroups {
    pub fn add(&mut self, thread: Thread, bulk: bool, copy: CopyId) {
        self.0.entry((thread, bulk)).or_default().open.push(copy);
    }

    pub fn commit(&mut self, thread: Thread, bulk: bool) {
        let groups = self.0.entry((thread, bulk)).or_default();
        let open = std::mem::take(&mut groups.open);
        groups.committed.push_back(open);
    }

    /// The copies of all but the latest groups. They are forgotten if they are done with.
    pub fn wait(&mut self, thread: Thread, bulk: bool, but: u32, read_only: bool) -> Vec<CopyId> {
        let Some(groups) = self.0.get_mut(&(thread, bulk)) else { return Vec::new() };
        let old = groups.committed.len().saturating_sub(but as usize);
        if read_only {
            groups.committed.iter().take(old).flatten().copied().collect()
        } else {
            groups.committed.drain(..old).flatten().collect()
        }
    }

    /// All copies of a thread in groups, committed or not.
    pub fn all(&self, thread: Thread, bulk: bool) -> Vec<CopyId> {
        let groups = self.0.get(&(thread, bulk));
        groups.into_iter().flat_map(|groups| groups.committed.iter().flatten().chain(&groups.open)).copied().collect()
    }
}
