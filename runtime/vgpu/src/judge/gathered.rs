//! Weak accesses of the lanes of a warp that come one behind the other, as one row: nothing that orders accesses comes between, so that it
//! does not matter when they are judged.

use super::shadow::{Mark, Row};
use crate::ids::ThreadId;
use crate::memory::{Address, Order};
use crate::observer::{Access, AccessKind, Location};

/// See the module. What several lanes write is without gaps.
#[derive(Debug)]
pub(super) struct Gathered {
    /// That of the first lane.
    pub first: Access,
    lanes: u32,
    /// From the bytes of one lane to those of the next; 0 where all are the same.
    step: u32,
}

impl Gathered {
    pub fn new(first: Access) -> Gathered {
        Gathered { first, lanes: 1 << first.thread.lane, step: 0 }
    }

    pub fn of_lanes(first: Access, lanes: u32, step: u32) -> Gathered {
        Gathered { first, lanes, step }
    }

    /// Takes another access of the same instruction if it fits.
    pub fn takes(&mut self, access: &Access) -> bool {
        let of_warp = |thread: ThreadId| (thread.launch, thread.cta, thread.warp);
        let Access { thread, location: _, bytes, order, scope: _, proxy, kind, line, copy } = self.first;
        let same = order == Order::Weak
            && of_warp(thread) == of_warp(access.thread)
            && (bytes, order, proxy, kind, line, copy)
                == (access.bytes, access.order, access.proxy, access.kind, access.line, access.copy);
        if !same {
            return false;
        }
        let lane = access.thread.lane;
        let count = self.lanes.count_ones();
        let behind = match self.first.location {
            Location::Device(Address(start)) => Location::Device(Address(start + u64::from(bytes * count))),
            Location::Shared(cta, start) => Location::Shared(cta, start + bytes * count),
        };
        if !self.is_alike() && lane == thread.lane + count && access.location == behind {
            (self.step, self.lanes) = (bytes, self.lanes | 1 << lane);
            return true;
        }
        // What lanes write at the same place is a conflict.
        let new = self.lanes >> lane & 1 == 0;
        if self.step == 0 && new && kind == AccessKind::Read && access.location == self.first.location {
            self.lanes |= 1 << lane;
            return true;
        }
        false
    }

    /// Whether several lanes read the same.
    pub fn is_alike(&self) -> bool {
        self.step == 0 && !self.lanes.is_power_of_two()
    }

    pub fn row(&self, mark: Mark, start: u64) -> Row {
        Row { mark, start, each: self.first.bytes, step: self.step, lanes: self.lanes }
    }
}
