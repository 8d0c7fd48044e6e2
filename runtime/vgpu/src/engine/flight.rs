//! What asynchronous copies are doing to the shared memory of a CTA, and to device memory, so that nobody else touches it meanwhile.
//!
//! Invariant: a copy is here from its issue until it has read its source, and until it has written its target; the counts say of how many
//! copies a granule holds bytes, so that an access far from all of them costs no search.

use std::collections::HashMap;

use super::Machine;
use super::warp::{Outcome, Warp};
use crate::decode::op::KernelCode;
use crate::rules::Rule;

const GRANULE: u32 = 128;

/// One end of a copy.
#[derive(Debug, Clone, Copy)]
struct Flight {
    /// Number of the copy in the order of issue.
    copy: u64,
    start: u32,
    end: u32,
    writes: bool,
    /// Element by element, in any order.
    reduces: bool,
    /// Line in which it was issued.
    line: u32,
}

/// The ends of copies under way.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    list: Vec<Flight>,
    read: Vec<u16>,
    written: Vec<u16>,
}

impl Flights {
    /// Whether a copy under way may disturb an access, or be disturbed by it.
    #[inline(always)]
    pub fn may_meet(&self, start: u64, bytes: u64, write: bool) -> bool {
        !self.list.is_empty() && self.counts_meet(start, bytes, write)
    }

    fn counts_meet(&self, start: u64, bytes: u64, write: bool) -> bool {
        let granules =
            (start / u64::from(GRANULE)) as usize..=((start + bytes.max(1) - 1) / u64::from(GRANULE)) as usize;
        let any =
            |counts: &[u16]| counts.get(granules.clone()).is_none_or(|counts| counts.iter().any(|count| *count != 0));
        any(&self.written) || write && any(&self.read)
    }

    fn count(&mut self, flight: Flight, shared: u64, change: impl Fn(u16) -> u16) {
        let counts = if flight.writes { &mut self.written } else { &mut self.read };
        counts.resize(shared.div_ceil(GRANULE.into()) as usize, 0);
        let granules = (flight.start / GRANULE) as usize..flight.end.div_ceil(GRANULE) as usize;
        counts.get_mut(granules).into_iter().flatten().for_each(|count| *count = change(*count));
    }

    fn begin(&mut self, flight: Flight, shared: u64) {
        for counts in [&mut self.read, &mut self.written] {
            counts.resize(shared.div_ceil(GRANULE.into()) as usize, 0);
        }
        self.count(flight, shared, |count| count.saturating_add(1));
        self.list.push(flight);
    }

    /// A copy has read its source, or written its target.
    pub fn end(&mut self, copy: u64, writes: bool, shared: u64) {
        if let Some(at) = self.list.iter().position(|flight| (flight.copy, flight.writes) == (copy, writes)) {
            let flight = self.list.swap_remove(at);
            self.count(flight, shared, |count| count.saturating_sub(1));
        }
    }

    /// A copy that an access of these bytes meets.
    fn met(&self, start: u32, end: u32, write: bool, reduces: bool) -> Option<Flight> {
        let meets = |flight: &&Flight| {
            flight.start < end && start < flight.end && (flight.writes || write) && !(flight.reduces && reduces)
        };
        self.list.iter().find(meets).copied()
    }
}

const DEVICE_GRANULE: u64 = 4096;
/// Of wider accesses every lane is looked at.
const WIDE: u64 = 1 << 20;

/// An end of a copy in device memory.
#[derive(Debug, Clone, Copy)]
struct DeviceFlight {
    copy: u64,
    start: u64,
    end: u64,
    writes: bool,
    reduces: bool,
    line: u32,
}

/// The ends of copies under way in device memory, of all ranks.
#[derive(Debug, Default)]
pub(crate) struct DeviceFlights {
    list: Vec<DeviceFlight>,
    /// Ends in each granule: those that read, and those that write.
    counts: HashMap<u64, [u32; 2]>,
}

impl DeviceFlights {
    /// Whether a copy under way may disturb an access, or be disturbed by it.
    #[inline(always)]
    pub fn may_meet(&self, start: u64, bytes: u64, write: bool) -> bool {
        !self.list.is_empty() && self.counts_meet(start, bytes, write)
    }

    #[cold]
    fn counts_meet(&self, start: u64, bytes: u64, write: bool) -> bool {
        let mut granules = start / DEVICE_GRANULE..=(start + bytes.max(1) - 1) / DEVICE_GRANULE;
        let busy =
            |granule| self.counts.get(&granule).is_some_and(|[read, written]| *written != 0 || write && *read != 0);
        bytes > WIDE || granules.any(busy)
    }

    fn begin(&mut self, flight: DeviceFlight) {
        for granule in flight.start / DEVICE_GRANULE..=(flight.end - 1) / DEVICE_GRANULE {
            self.counts.entry(granule).or_default()[usize::from(flight.writes)] += 1;
        }
        self.list.push(flight);
    }

    /// A copy has read its source, or written its target.
    pub fn end(&mut self, copy: u64, writes: bool) {
        for flight in self.list.extract_if(.., |flight| (flight.copy, flight.writes) == (copy, writes)) {
            for granule in flight.start / DEVICE_GRANULE..=(flight.end - 1) / DEVICE_GRANULE {
                self.counts.entry(granule).and_modify(|counts| counts[usize::from(writes)] -= 1);
            }
        }
        if self.list.is_empty() {
            self.counts.clear();
        }
    }

    pub fn clear(&mut self) {
        self.list.clear();
        self.counts.clear();
    }

    fn met(&self, start: u64, end: u64, write: bool, strong: bool) -> Option<DeviceFlight> {
        let meets = |flight: &&DeviceFlight| {
            flight.start < end && start < flight.end && (flight.writes || write) && !(flight.reduces && strong)
        };
        self.list.iter().find(meets).copied()
    }
}

/// An access to device memory; what is strong does not meet a reduction.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeviceAccess {
    pub start: u64,
    pub bytes: u32,
    pub write: bool,
    pub strong: bool,
}

/// The end of a copy that is to be issued.
pub(super) struct Issued {
    pub copy: u64,
    /// Slot of the CTA.
    pub cta: u32,
    pub start: u32,
    pub bytes: u32,
    pub writes: bool,
    pub reduces: bool,
}

impl Machine {
    /// An access to shared memory by a thread, while copies may be under way.
    #[inline]
    pub(super) fn meet_copies(
        &mut self,
        warp: &Warp,
        code: &KernelCode,
        pc: u32,
        lane: u32,
        (slot, start, bytes): (u32, u32, u32),
        write: bool,
    ) -> Outcome<()> {
        let Some(cta) = &self.ctas[slot as usize] else { return Ok(()) };
        if !cta.flights.may_meet(start.into(), bytes.into(), write) {
            return Ok(());
        }
        match cta.flights.met(start, start + bytes, write, false) {
            Some(flight) => self.met_copy(warp, code, pc, lane, (slot, start), write, flight, ""),
            None => Ok(()),
        }
    }

    /// An access to device memory by a thread, or by a copy that it issues, while copies may be under way.
    #[inline]
    pub(super) fn meet_device_copies(
        &mut self,
        warp: &Warp,
        code: &KernelCode,
        pc: u32,
        lane: u32,
        access: DeviceAccess,
        by: &str,
    ) -> Outcome<()> {
        let DeviceAccess { start, bytes, write, strong } = access;
        if !self.device_flights.may_meet(start, bytes.into(), write) {
            return Ok(());
        }
        let Some(flight) = self.device_flights.met(start, start + u64::from(bytes), write, strong) else {
            return Ok(());
        };
        let symbol = self.memory.symbol(start.max(flight.start));
        let text = in_flight(&symbol, by, write, flight.writes, flight.line);
        self.find(warp, code, pc, lane, Rule::CopyInFlight, Some(&symbol), text)
    }

    /// Ends of a copy in device memory are under way from now on: ranges that it reads or writes.
    pub(super) fn begin_device_flights(
        &mut self,
        warp: &Warp,
        code: &KernelCode,
        (pc, lane): (u32, u32),
        issued: &Issued,
        ranges: impl Iterator<Item = (u64, u32)>,
    ) -> Outcome<()> {
        let Issued { copy, writes, reduces, .. } = *issued;
        let line = code.lines[pc as usize];
        for (start, bytes) in ranges.filter(|(_, bytes)| *bytes > 0) {
            let access = DeviceAccess { start, bytes, write: writes, strong: reduces };
            self.meet_device_copies(warp, code, pc, lane, access, " by a copy")?;
            let end = start + u64::from(bytes);
            self.device_flights.begin(DeviceFlight { copy, start, end, writes, reduces, line });
        }
        Ok(())
    }

    #[cold]
    #[allow(clippy::too_many_arguments, reason = "two agents and the place where they meet")]
    fn met_copy(
        &mut self,
        warp: &Warp,
        code: &KernelCode,
        pc: u32,
        lane: u32,
        (slot, start): (u32, u32),
        write: bool,
        flight: Flight,
        by: &str,
    ) -> Outcome<()> {
        let symbol = self.shared_name(warp.cta, code, slot, start.max(flight.start).into());
        let text = in_flight(&symbol, by, write, flight.writes, flight.line);
        self.find(warp, code, pc, lane, Rule::CopyInFlight, Some(&symbol), text)
    }

    /// An end of a copy is under way from now on.
    pub(super) fn begin_flight(
        &mut self,
        warp: &Warp,
        code: &KernelCode,
        pc: u32,
        lane: u32,
        issued: &Issued,
    ) -> Outcome<()> {
        let Issued { copy, cta: slot, start, bytes, writes, reduces } = *issued;
        let Some(cta) = &self.ctas[slot as usize] else { return Ok(()) };
        if cta.flights.may_meet(start.into(), bytes.into(), writes)
            && let Some(flight) = cta.flights.met(start, start + bytes, writes, reduces)
        {
            self.met_copy(warp, code, pc, lane, (slot, start), writes, flight, " by a copy")?;
        }
        if let Some(cta) = &mut self.ctas[slot as usize] {
            let line = code.lines[pc as usize];
            let shared = cta.shared.len();
            cta.flights.begin(Flight { copy, start, end: start + bytes, writes, reduces, line }, shared);
        }
        Ok(())
    }
}

fn in_flight(symbol: &str, by: &str, write: bool, copy_writes: bool, line: u32) -> String {
    let (does, still) = (if write { "written" } else { "read" }, if copy_writes { "writes" } else { "reads" });
    format!("{symbol} is {does}{by} while the copy issued in line {line} still {still} it: wait for that copy first")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_meets_only_what_it_overlaps() {
        let mut flights = Flights::default();
        let flight = Flight { copy: 1, start: 1040, end: 1056, writes: false, reduces: false, line: 1 };
        flights.begin(flight, 4096);
        assert!(!flights.may_meet(1040, 4, false), "reading what is read");
        assert!(flights.may_meet(1024, 4, true) && flights.met(1024, 1028, true, false).is_none());
        assert!(flights.met(1052, 1060, true, false).is_some());
        flights.begin(Flight { copy: 1, start: 2048, end: 2064, writes: true, ..flight }, 4096);
        assert!(flights.met(2060, 2064, false, false).is_some());
        flights.end(1, false, 4096);
        assert!(!flights.may_meet(1040, 4, true) && flights.may_meet(2048, 1, false));
        flights.end(1, true, 4096);
        assert!(!flights.may_meet(2048, 1, true));
    }
}
