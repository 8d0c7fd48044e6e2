//! Undefined values that threads stored: where they come from, so that a use of one is told of that and not of a place that nobody wrote.
//!
//! Of local memory and of the shared memory of a CTA. In device memory nothing is undefined but what nobody wrote, and copies of it.
//!
//! Invariant: what is kept of a byte counts only as long as the byte is undefined.

use std::collections::HashMap;

use super::Machine;
use super::access::Home;
use super::undefined::Origin;
use super::warp::Warp;

/// Where a value comes from, and whether it has been computed with.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub origin: Origin,
    pub computed: bool,
}

/// By the place of each byte.
#[derive(Debug, Default)]
pub(crate) struct Stored(HashMap<u64, Source>);

impl Stored {
    pub fn of(&self, at: u64) -> Option<&Source> {
        self.0.get(&at)
    }

    /// A byte becomes undefined; nothing is known of where it comes from if there is no source.
    pub fn put(&mut self, at: u64, source: Option<Source>) {
        match source {
            Some(source) => self.0.insert(at, source),
            None => self.0.remove(&at),
        };
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl Machine {
    /// A lane has stored undefined bytes, counted from the first of a checked place.
    pub(super) fn remember(&mut self, warp: &mut Warp, home: Home, missing: Vec<(u64, Source)>) {
        let (stored, start) = match home {
            Home::Local(offset) => (&mut warp.stored, offset),
            Home::Shared { cta, offset } => match &mut self.ctas[cta as usize] {
                Some(cta) => (&mut cta.stored, u64::from(offset)),
                None => return,
            },
            Home::Device(_) | Home::Param(_) => return,
        };
        missing.into_iter().for_each(|(at, source)| stored.put(start + at, Some(source)));
    }

    /// Where the undefined byte behind so many others of a place comes from, if a thread stored it.
    pub(super) fn source_of(&self, warp: &Warp, home: Home, at: u32) -> Option<Source> {
        let stored = match home {
            Home::Local(offset) => warp.stored.of(offset + u64::from(at)),
            Home::Shared { cta, offset } => self.ctas[cta as usize].as_ref()?.stored.of(u64::from(offset + at)),
            Home::Device(_) | Home::Param(_) => None,
        };
        stored.cloned()
    }
}
