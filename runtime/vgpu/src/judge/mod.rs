//! The judge of memory order: *happens before* after the memory consistency model of PTX, for global and shared memory, every scope, all
//! ranks and the proxies. Two accesses to a byte of which one writes, at least one of them weak or their scopes too small, that nothing
//! orders are a [`Conflict`], whatever value came out; one schedule is enough to see it. A conflict says what is missing.
//!
//! What orders accesses:
//! * the order of the program in a thread; `barrier` (an arrival that does not wait releases only), `bar.warp.sync`, phases of mbarriers;
//! * a release that an acquire reads, also through read-modify-writes between, or fences before the write and behind the read, each with a
//!   scope that includes the other thread, [`scopes`];
//! * copies: their issue, and a wait for their group or their mbarrier, [`copies`];
//! * launches of a stream, events between streams, the host, `griddepcontrol.wait`.
//!
//! What the async proxy reads or overwrites that the generic one wrote needs a proxy fence besides; what `ld.global.nc` reads has to be
//! written before the kernel begins.
//!
//! Under [`crate::Policy::Weak`] a read is taken for one of the last write; what is told is right, and something may not be.
//!
//! Of the writes of a place only the last is kept, and of its reads those since then. When everything that was queued has finished, all of
//! it is before what comes, and is forgotten.

pub(crate) mod clock;
mod copies;
mod gathered;
mod lanes;
mod names;
mod report;
pub(crate) mod scopes;
pub(crate) mod shadow;
pub(crate) mod state;
pub(crate) mod words;
mod world;

use std::sync::{Arc, Mutex, PoisonError};

pub use report::{Agent, Apart, Conflict, Missing, Party};
use state::State;

use crate::observer::{Access, Event, Observer, Row};
use crate::rules::Rules;

/// An [`Observer`] that judges memory order. Its clones are one: one goes to the cluster, another tells what was found.
#[derive(Debug, Clone, Default)]
pub struct Judge(Arc<Mutex<State>>);

impl Judge {
    /// A judge that knows what is accepted.
    pub fn new(rules: Rules) -> Judge {
        let mut state = State::default();
        state.rules = rules;
        Judge(Arc::new(Mutex::new(state)))
    }

    /// The first conflict of every pair of lines and what is missing, in the order in which they were found.
    pub fn found(&self) -> Vec<Conflict> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.catch_up();
        state.found.clone()
    }
}

impl Observer for Judge {
    fn access(&mut self, access: &Access) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).access(access);
    }

    fn row(&mut self, row: &Row) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).row(row);
    }

    fn event(&mut self, event: &Event) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).event(event);
    }
}
