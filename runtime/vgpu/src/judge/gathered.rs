//! Weak accesses of the lanes of a warp that come one behind the other, as one row: nothing that orders accesses comes between, so that it
//! does not matter when they are judged.

use super::shadow::{Mark, Row};
use crate::ids::ThreadId;
use crate::memory::{Address, Order};
use crate::observer::{self, Access, AccessKind, Location};

/// See the module.
#[derive(Debug)]
pub(super) struct Gathered {
    /// That of the first lane.
    pub first: Access,
    /// Lanes that each access their own bytes, behind those of the lane before.
    count: u32,
    /// Lanes that read the same bytes.
    alike: u32,
}

impl Gathered {
    pub fn new(first: Access) -> Gathered {
        Gathered { first, count: 1, alike: 1 << first.thread.lane }
    }

    pub fn of_row(row: &observer::Row) -> Gathered {
        let one = Gathered::new(row.first);
        match row.step {
            0 => Gathered { alike: lanes(row.first.thread.lane, row.count), ..one },
            _ => Gathered { count: row.count, ..one },
        }
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
        let is_one = self.alike.is_power_of_two();
        let behind = match self.first.location {
            Location::Device(Address(start)) => Location::Device(Address(start + u64::from(bytes * self.count))),
            Location::Shared(cta, start) => Location::Shared(cta, start + bytes * self.count),
        };
        if is_one && access.thread.lane == thread.lane + self.count && access.location == behind {
            self.count += 1;
            return true;
        }
        // What lanes write at the same place is a conflict.
        let new = self.alike >> access.thread.lane & 1 == 0;
        if self.count == 1 && new && kind == AccessKind::Read && access.location == self.first.location {
            self.alike |= 1 << access.thread.lane;
            return true;
        }
        false
    }

    pub fn bytes(&self) -> u64 {
        u64::from(self.first.bytes) * u64::from(self.count)
    }

    pub fn row(&self, mark: Mark, start: u64) -> Row {
        match self.count {
            1 => Row { mark, start, each: 0, lanes: self.alike },
            count => Row { mark, start, each: self.first.bytes.into(), lanes: lanes(mark.thread.lane.into(), count) },
        }
    }
}

/// So many lanes from one on.
fn lanes(first: u32, count: u32) -> u32 {
    (u64::from(u32::MAX) >> (32 - count) << first) as u32
}
