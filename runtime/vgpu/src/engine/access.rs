//! Loads and stores of a warp. This is the only way from a thread to memory, apart from atomics and mbarriers beside it
//! and asynchronous copies, which use the same checks: every access is checked, counted, recorded for waiting loops and
//! shown to the observer here.
//!
//! This is the way lane by lane, which finds the lane to blame. What is in order goes another way, see
//! [`super::together`].

use super::flight::DeviceAccess;
use super::probe::{Watch, Watched};
use super::registers::extended;
use super::stored::Source;
use super::together::device_space;
use super::undefined::{Origin, bits_of, bytes_of};
use super::warp::{Outcome, Warp, bad_access, copy_element, lanes, put_low_bytes, undefined};
use super::{LaunchState, Machine};
use crate::decode::op::{
    FillOp, KernelCode, MemoryOp, NO_RANK, OFFSET_MASK, Place, SHARED_BASE, Space, VARIABLE_SHIFT, unmapped,
};
use crate::memory::address::{OWNER_MASK, Target, target};
use crate::memory::segment::Segment;
use crate::memory::{MemoryFault, Order, Proxy, Scope};
use crate::observer::AccessKind;
use crate::rules::Rule;

/// Where an access goes, after its address has been checked.
#[derive(Debug, Clone, Copy)]
pub(super) enum Home {
    Device(u64),
    /// Slot of the CTA, its own or another one of its cluster, and offset.
    Shared {
        cta: u32,
        offset: u32,
    },
    /// Offset in the warp's local memory.
    Local(u64),
    Param(u32),
}

impl Home {
    /// The place so many bytes behind it.
    pub fn behind(self, bytes: u32) -> Home {
        match self {
            Home::Device(address) => Home::Device(address + u64::from(bytes)),
            Home::Shared { cta, offset } => Home::Shared { cta, offset: offset + bytes },
            Home::Local(offset) => Home::Local(offset + u64::from(bytes)),
            Home::Param(offset) => Home::Param(offset + bytes),
        }
    }
}

/// Order, scope and proxy of an access.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    pub order: Order,
    pub scope: Scope,
    pub proxy: Proxy,
    pub kind: AccessKind,
    pub line: u32,
}

fn space_name(space: Space) -> &'static str {
    match space {
        Space::Generic | Space::Global => "global",
        Space::Shared => "shared",
        Space::Cluster => "shared::cluster",
        Space::Local => "local",
        Space::Param => "param",
    }
}

fn found_space(address: u64) -> Option<&'static str> {
    Some(match target(address) {
        Target::Device { .. } => "global",
        Target::Shared { .. } => "shared",
        Target::Local { .. } => "local",
        Target::Param { .. } => "param",
        Target::Nothing => return None,
    })
}

/// The name of a place in a CTA's shared memory.
pub(super) fn shared_symbol(code: &KernelCode, offset: i64) -> String {
    let named = code
        .shared_symbols
        .iter()
        .find(|(_, start, bytes)| (i64::from(*start)..i64::from(*start) + i64::from(*bytes)).contains(&offset));
    let dynamic = i64::from(code.dynamic_shared_offset());
    let (name, rest) = match named {
        Some((name, start, _)) => (name.as_str(), offset - i64::from(*start)),
        None if offset >= dynamic => ("dynamic shared memory", offset - dynamic),
        None => ("shared memory", offset - i64::from(SHARED_BASE)),
    };
    match rest {
        0 => name.to_owned(),
        rest if rest < 0 => format!("{name}{rest}"),
        rest => format!("{name}+{rest}"),
    }
}

impl Machine {
    /// The name of a place in the shared memory of a CTA, which is said if it is not `own`.
    pub(super) fn shared_name(&self, own: u32, code: &KernelCode, cta: u32, offset: i64) -> String {
        let symbol = shared_symbol(code, offset);
        match &self.ctas[cta as usize] {
            Some(other) if cta != own => format!("`{symbol}` of CTA {}", other.index),
            _ => format!("`{symbol}`"),
        }
    }

    /// Checks everything of an access but initialisation.
    pub(super) fn resolve(
        &self,
        warp: &Warp,
        space: Space,
        address: u64,
        bytes: u32,
        lane: u32,
        write: bool,
    ) -> Result<Home, MemoryFault> {
        let home = match space {
            Space::Global => self.device_home(warp, address, bytes, write)?,
            Space::Generic => match target(address) {
                Target::Shared { owner, offset } if owner == warp.shared_owner() => {
                    self.shared_home(warp, offset.into(), bytes, true)?
                }
                Target::Shared { owner, offset } => self.owned_home(warp, owner, offset, bytes)?,
                Target::Local { owner, offset } if owner == warp.local_owner(lane) => {
                    local_home(warp, offset.into(), bytes, lane)?
                }
                Target::Local { .. } => return Err(MemoryFault::WrongOwner),
                Target::Param { offset } => param_home(warp, offset.into(), bytes, write)?,
                Target::Device { .. } | Target::Nothing => self.device_home(warp, address, bytes, write)?,
            },
            _ if address > u64::from(u32::MAX) && found_space(address).is_some() => {
                let found = found_space(address).unwrap_or_default();
                return Err(MemoryFault::WrongSpace { expected: space_name(space), found });
            }
            Space::Shared => self.shared_home(warp, address, bytes, false)?,
            Space::Cluster => self.shared_home(warp, address, bytes, true)?,
            Space::Local => local_home(warp, address, bytes, lane)?,
            Space::Param => param_home(warp, address, bytes, write)?,
        };
        if !address.is_multiple_of(u64::from(bytes)) {
            return Err(MemoryFault::Misaligned { align: bytes });
        }
        Ok(home)
    }

    fn device_home(&self, warp: &Warp, address: u64, bytes: u32, write: bool) -> Result<Home, MemoryFault> {
        self.memory.locate(Some(warp.rank), address, bytes.into(), write)?;
        Ok(Home::Device(address))
    }

    /// A place in shared memory, by an address that says which variable it belongs to; with `peers`, also of another CTA of the cluster.
    pub(super) fn shared_home(&self, warp: &Warp, address: u64, bytes: u32, peers: bool) -> Result<Home, MemoryFault> {
        if address >> 30 == 1 || address == NO_RANK.into() {
            let Some((rank, address)) = unmapped(address as u32) else {
                return Err(MemoryFault::BadObject("the address is that of a CTA that no cluster has".into()));
            };
            let slot = self.peer(warp, rank)?;
            if slot != warp.cta && !peers {
                return Err(MemoryFault::WrongSpace { expected: "shared::cta", found: "shared::cluster" });
            }
            return self.home_in(warp, slot, address.into(), bytes);
        }
        self.home_in(warp, warp.cta, address, bytes)
    }

    /// A place in shared memory by its window, which is not that of the warp's CTA.
    #[cold]
    fn owned_home(&self, warp: &Warp, owner: u32, offset: u32, bytes: u32) -> Result<Home, MemoryFault> {
        let rank = self.ctas[warp.cta as usize].as_ref().map_or(0, |cta| cta.cluster_rank);
        let behind = owner.wrapping_sub(warp.shared_owner()).wrapping_add(rank) & OWNER_MASK;
        let size = self.launches[warp.launch as usize].as_ref().map_or(1, LaunchState::cluster_size);
        if behind >= size {
            return Err(MemoryFault::WrongOwner);
        }
        if unmapped(offset).is_some() {
            return self.shared_home(warp, offset.into(), bytes, true);
        }
        self.home_in(warp, self.peer(warp, behind)?, offset.into(), bytes)
    }

    /// The slot of a CTA of the warp's cluster.
    pub(super) fn peer(&self, warp: &Warp, rank: u32) -> Result<u32, MemoryFault> {
        let cluster = self.ctas[warp.cta as usize].as_ref().map(|cta| cta.cluster);
        let Some(Some(cluster)) = cluster.map(|cluster| &self.clusters[cluster as usize]) else {
            return Err(MemoryFault::NotAnAddress);
        };
        match cluster.ctas.get(rank as usize) {
            Some(Some(slot)) => Ok(*slot),
            Some(None) => Err(MemoryFault::BadObject(format!(
                "CTA {rank} of the cluster has ended, and its shared memory with it: it has to wait at a barrier.cluster until nobody \
                 needs that"
            ))),
            None => Err(MemoryFault::BadObject(format!(
                "there is no CTA {rank} in a cluster of {}, counted from 0",
                cluster.ctas.len()
            ))),
        }
    }

    fn home_in(&self, warp: &Warp, slot: u32, address: u64, bytes: u32) -> Result<Home, MemoryFault> {
        let Some(cta) = &self.ctas[slot as usize] else { return Err(MemoryFault::NotAnAddress) };
        let offset = address & u64::from(OFFSET_MASK);
        let number = (address >> VARIABLE_SHIFT) as usize;
        match cta.variables.get(number) {
            Some(&(start, end)) if offset >= u64::from(start) && offset + u64::from(bytes) <= u64::from(end) => {
                Ok(Home::Shared { cta: slot, offset: offset as u32 })
            }
            Some(&(start, end)) => {
                let symbol = match number.checked_sub(1).map(|index| warp.kernel.code().shared_symbols.get(index)) {
                    Some(Some((name, ..))) => format!("`{name}`"),
                    Some(None) => "dynamic shared memory".into(),
                    None => "shared memory".into(),
                };
                let offset = offset.cast_signed() - i64::from(start);
                Err(MemoryFault::OutOfBounds { symbol, offset, size: (end - start).into() })
            }
            None => {
                let (start, end) = cta.variables.first().copied().unwrap_or_default();
                let offset = address.cast_signed().saturating_sub(i64::from(start));
                Err(MemoryFault::OutOfBounds { symbol: "shared memory".into(), offset, size: (end - start).into() })
            }
        }
    }

    /// Where a place in memory is among those of its segment, with the segment.
    pub(super) fn segment_at<'a>(&'a self, warp: &'a Warp, home: Home) -> Option<(&'a Segment, u64)> {
        match home {
            Home::Device(address) => {
                self.memory.span(warp.rank, address, 0).map(|(segment, offset, _)| (segment, offset))
            }
            Home::Shared { cta, offset } => {
                self.ctas[cta as usize].as_ref().map(|cta| (&cta.shared, u64::from(offset)))
            }
            Home::Local(offset) => Some((&warp.local, offset)),
            Home::Param(_) => None,
        }
    }

    /// Changes the memory of a checked place, with the list of the woken. Whether it says so.
    pub(super) fn memory_at(
        &mut self,
        warp: &mut Warp,
        home: Home,
        change: impl FnOnce(&mut Segment, &mut Vec<u64>, u64) -> bool,
    ) -> bool {
        match home {
            Home::Device(address) => match self.memory.span_mut(warp.rank, address, 0) {
                Some((segment, woken, offset, _)) => change(segment, woken, offset),
                None => false,
            },
            Home::Shared { cta, offset } => match &mut self.ctas[cta as usize] {
                Some(cta) => change(&mut cta.shared, &mut self.memory.woken, offset.into()),
                None => false,
            },
            Home::Local(offset) => change(&mut warp.local, &mut Vec::new(), offset),
            Home::Param(_) => false,
        }
    }

    /// Makes bytes of a place undefined, counted from its first.
    fn make_undefined(&mut self, warp: &mut Warp, home: Home, bytes: impl Iterator<Item = u64>) {
        self.memory_at(warp, home, |segment, _, offset| {
            bytes.for_each(|at| segment.make_undefined(offset + at));
            true
        });
    }

    /// The bytes of a checked place, or the first of them that nobody wrote.
    pub(super) fn bytes_at<'a>(
        &'a mut self,
        warp: &'a Warp,
        code: &KernelCode,
        home: Home,
        bytes: u32,
    ) -> Result<&'a [u8], MemoryFault> {
        let (segment, offset) = match home {
            Home::Device(address) => return self.memory.read_device(Some(warp.rank), address, bytes.into()),
            Home::Param(offset) => return Ok(&warp.parameters[offset as usize..][..bytes as usize]),
            Home::Shared { cta, offset } => match &self.ctas[cta as usize] {
                Some(cta) => (&cta.shared, u64::from(offset)),
                None => return Err(MemoryFault::NotAnAddress),
            },
            Home::Local(offset) => (&warp.local, offset),
        };
        if self.config.check_initialised
            && let Some(first) = segment.first_uninitialised(offset, bytes.into())
        {
            let symbol = match home {
                Home::Shared { cta, .. } => self.shared_name(warp.cta, code, cta, first.cast_signed()),
                _ => format!("local memory+{}", first % u64::from(warp.local_bytes.max(1))),
            };
            return Err(MemoryFault::Uninitialised { symbol });
        }
        Ok(segment.span(offset, bytes.into()))
    }

    /// Shows an access to the observers.
    pub(super) fn show(&mut self, warp: &Warp, lane: u32, home: Home, bytes: u32, manner: Manner) {
        if let Some(access) = self.as_access(warp, lane, home, bytes, manner) {
            self.observers.access(&access);
        }
    }

    pub(super) fn note_read(&self, warp: &mut Warp, home: Home, bytes: u32, pc: u32, lane: u32) {
        if !warp.probe.recording {
            return;
        }
        let (memory, start) = match home {
            Home::Device(address) => (Watched::Device, address),
            Home::Shared { cta, offset } => (Watched::Shared(cta), u64::from(offset)),
            Home::Local(_) | Home::Param(_) => return,
        };
        warp.probe.read(Watch { memory, start, bytes, element: bytes, pc, lane });
    }

    /// Loads of a warp of which everything is defined. Whether that has changed.
    #[inline]
    pub(super) fn load(
        &mut self,
        warp: &mut Warp,
        op: &MemoryOp,
        mask: u32,
        pc: u32,
        code: &KernelCode,
    ) -> Outcome<bool> {
        let observed = !self.observers.is_empty() && op.place.space != Space::Param;
        if if observed { self.load_observed(warp, op, mask, pc, code) } else { self.load_together(warp, op, mask, pc) }
        {
            return Ok(false);
        }
        self.load_lanes(warp, op, mask, pc, code)
    }

    /// A load of which observers are told in one piece. False if nothing has been done.
    #[inline(never)]
    fn load_observed(&mut self, warp: &mut Warp, op: &MemoryOp, mask: u32, pc: u32, code: &KernelCode) -> bool {
        let Some(row) = self.row(warp, op, mask, AccessKind::Read, code.lines[pc as usize]) else { return false };
        let done = self.load_together(warp, op, mask, pc);
        if done {
            self.observers.row(&row);
        }
        done
    }

    /// Lane by lane. Whether something undefined has been loaded.
    pub(super) fn load_lanes(
        &mut self,
        warp: &mut Warp,
        op: &MemoryOp,
        mask: u32,
        pc: u32,
        code: &KernelCode,
    ) -> Outcome<bool> {
        let mut undefined = false;
        let size = op.size();
        let manner = Manner {
            order: op.order,
            scope: op.scope,
            proxy: op.proxy,
            kind: AccessKind::Read,
            line: code.lines[pc as usize],
        };
        for lane in lanes(mask) {
            let address = warp.address(&op.place, lane);
            let fail = |fault| bad_access(lane, address, size, fault);
            let home = if plain_device(op.place.space, address, size) {
                Home::Device(address)
            } else {
                self.resolve(warp, op.place.space, address, size, lane, false).map_err(fail)?
            };
            if let Home::Shared { cta, offset } = home {
                self.meet_copies(warp, code, pc, lane, (cta, offset, size), false)?;
            }
            if let Home::Device(start) = home {
                let access = DeviceAccess { start, bytes: size, write: false, strong: op.order != Order::Weak };
                self.meet_device_copies(warp, code, pc, lane, access, "")?;
            }
            let (mut element, mut missing) = ([0; 32], 0);
            let mut symbol = None;
            match self.bytes_at(warp, code, home, size) {
                Ok(bytes) => copy_element(&mut element[..size as usize], bytes),
                Err(MemoryFault::Uninitialised { symbol: found }) => {
                    symbol = Some(found);
                    if let Some((segment, offset)) = self.segment_at(warp, home) {
                        element[..size as usize].copy_from_slice(segment.span(offset, size.into()));
                        let of =
                            (0..size).filter(|at| segment.first_uninitialised(offset + u64::from(*at), 1).is_some());
                        missing = of.fold(0u32, |bits, at| bits | 1 << at);
                    }
                }
                Err(fault) => return Err(fail(fault)),
            }
            if self.observers.weak().is_some() {
                self.load_weakly(warp, op, (lane, home), &mut element[..size as usize], &mut missing, manner);
            }
            for (part, reg) in element[..size as usize].chunks_exact(op.bytes as usize).zip(op.registers.iter()) {
                if let Some(reg) = reg {
                    warp.set_value(*reg, lane, extended(part, op.signed));
                }
            }
            if missing != 0 {
                undefined = true;
                // An older value, where memory is weak, is none that is there.
                let is_there = symbol.is_some();
                let symbol = symbol.unwrap_or_else(|| self.symbol_of(code, home));
                self.load_undefined(warp, op, (lane, home, is_there), missing, &symbol, manner.line);
            }
            self.after_read(warp, home, size, pc, lane, manner);
        }
        Ok(undefined)
    }

    /// A lane has loaded undefined bytes, these of the element; nobody wrote them, or somebody stored an undefined value that may be there
    /// still.
    #[cold]
    fn load_undefined(
        &self,
        warp: &mut Warp,
        op: &MemoryOp,
        (lane, home, is_there): (u32, Home, bool),
        missing: u32,
        symbol: &str,
        line: u32,
    ) {
        let text = format!("{symbol}, which was never written, read in line {line}");
        let origin = Origin { rule: Rule::Uninitialised, symbol: Some(symbol.to_owned()), text };
        for (index, reg) in (0u32..).zip(op.registers.iter()) {
            let first = index * op.bytes;
            let bits = bits_of((first..first + op.bytes).map(|at| missing >> at & 1 == 1));
            let Some(reg) = reg.filter(|_| bits != 0) else { continue };
            // The sign is that of the last byte.
            let extended = op.signed && bits >> (8 * op.bytes - 1) & 1 == 1;
            let all = u128::MAX >> (128 - 8 * reg.bytes);
            let bits = if extended { bits | all & !(u128::MAX >> (128 - 8 * op.bytes)) } else { bits & all };
            let byte = first + bits.trailing_zeros() / 8;
            match self.source_of(warp, home, byte).filter(|_| is_there) {
                Some(Source { origin, computed }) => warp.depends_on_undefined(reg, lane, bits, origin, computed),
                None => warp.got_undefined(reg, lane, bits, origin.clone()),
            }
        }
    }

    /// The name of a place.
    fn symbol_of(&self, code: &KernelCode, home: Home) -> String {
        match home {
            Home::Device(address) => self.memory.symbol(address),
            Home::Shared { offset, .. } => format!("`{}`", shared_symbol(code, offset.into())),
            Home::Local(_) => "local memory".into(),
            Home::Param(_) => "kernel parameters".into(),
        }
    }

    #[inline]
    fn after_read(&mut self, warp: &mut Warp, home: Home, bytes: u32, pc: u32, lane: u32, manner: Manner) {
        self.note_read(warp, home, bytes, pc, lane);
        if !self.observers.is_empty() {
            self.show(warp, lane, home, bytes, manner);
        }
    }

    /// Stores of a warp of which everything is defined.
    #[inline]
    pub(super) fn store(
        &mut self,
        warp: &mut Warp,
        op: &MemoryOp,
        mask: u32,
        pc: u32,
        code: &KernelCode,
    ) -> Outcome<()> {
        let observed = !self.observers.is_empty();
        if op.place.space != Space::Local
            && (if observed {
                self.store_observed(warp, op, mask, pc, code)
            } else {
                self.store_at_once(warp, op, mask)
            })
        {
            return Ok(());
        }
        self.store_lanes(warp, op, mask, pc, code)
    }

    #[inline(always)]
    fn store_at_once(&mut self, warp: &mut Warp, op: &MemoryOp, mask: u32) -> bool {
        if warp.probe.checks_stores {
            self.store_together::<true>(warp, op, mask)
        } else {
            self.store_together::<false>(warp, op, mask)
        }
    }

    /// A store of which observers are told in one piece. False if nothing has been done.
    #[inline(never)]
    fn store_observed(&mut self, warp: &mut Warp, op: &MemoryOp, mask: u32, pc: u32, code: &KernelCode) -> bool {
        let Some(row) = self.row(warp, op, mask, AccessKind::Write, code.lines[pc as usize]) else { return false };
        let done = self.store_at_once(warp, op, mask);
        if done {
            self.observers.row(&row);
        }
        done
    }

    /// Lane by lane.
    pub(super) fn store_lanes(
        &mut self,
        warp: &mut Warp,
        op: &MemoryOp,
        mask: u32,
        pc: u32,
        code: &KernelCode,
    ) -> Outcome<()> {
        let size = op.size();
        let manner = Manner {
            order: op.order,
            scope: op.scope,
            proxy: op.proxy,
            kind: AccessKind::Write,
            line: code.lines[pc as usize],
        };
        for lane in lanes(mask) {
            let address = warp.address(&op.place, lane);
            let home = if plain_device(op.place.space, address, size) {
                Home::Device(address)
            } else {
                self.resolve(warp, op.place.space, address, size, lane, true)
                    .map_err(|fault| bad_access(lane, address, size, fault))?
            };
            if let Home::Shared { cta, offset } = home {
                self.meet_copies(warp, code, pc, lane, (cta, offset, size), true)?;
            }
            if let Home::Device(start) = home {
                let access = DeviceAccess { start, bytes: size, write: true, strong: op.order != Order::Weak };
                self.meet_device_copies(warp, code, pc, lane, access, "")?;
            }
            let mut element = [0; 32];
            for (part, reg) in element[..size as usize].chunks_exact_mut(op.bytes as usize).zip(op.registers.iter()) {
                if let Some(reg) = reg {
                    put_low_bytes(part, warp.value(*reg, lane));
                }
            }
            let missing = match warp.undefined {
                None => Vec::new(),
                Some(_) => self.stored_undefined(warp, op, home, lane, pc, code)?,
            };
            let element = &element[..size as usize];
            let bytes: Vec<u64> = missing.iter().map(|(at, _)| *at).collect();
            let put = if self.observers.weak().is_some() {
                self.store_weakly(warp, op.bytes, (lane, home), element, &bytes, manner)
            } else {
                self.store_defined(warp, home, element, bytes)
            };
            put.map_err(|fault| bad_access(lane, address, size, fault))?;
            self.remember(warp, home, missing);
            if !self.observers.is_empty() {
                self.show(warp, lane, home, size, manner);
            }
        }
        Ok(())
    }

    /// The bytes of what a lane stores that are undefined, and will be where they go. What has been computed with, and is stored in device
    /// memory, is used.
    #[cold]
    fn stored_undefined(
        &mut self,
        warp: &Warp,
        op: &MemoryOp,
        home: Home,
        lane: u32,
        pc: u32,
        code: &KernelCode,
    ) -> Outcome<Vec<(u64, Source)>> {
        let mut missing = Vec::new();
        for (index, reg) in (0u64..).zip(op.registers.iter()) {
            let Some((bits, origin, copied)) = reg.and_then(|reg| warp.undefined_bits(reg, lane)) else { continue };
            let bits = bits & u128::MAX >> (128 - 8 * op.bytes);
            if bits == 0 {
                continue;
            }
            if matches!(home, Home::Device(_)) && !copied {
                self.used(warp, code, pc, lane, "what is stored in device memory", &origin.clone())?;
            } else {
                let source = Source { origin: origin.clone(), computed: !copied };
                let bytes = bytes_of(bits, op.bytes).map(|at| index * u64::from(op.bytes) + at);
                missing.extend(bytes.map(|at| (at, source.clone())));
            }
        }
        Ok(missing)
    }

    /// Writes to a checked place, of which these bytes are then undefined.
    pub(super) fn store_defined(
        &mut self,
        warp: &mut Warp,
        home: Home,
        bytes: &[u8],
        missing: Vec<u64>,
    ) -> Result<(), MemoryFault> {
        self.put(warp, home, bytes)?;
        if !missing.is_empty() {
            self.make_undefined(warp, home, missing.into_iter());
        }
        Ok(())
    }

    /// Writes to a checked place.
    pub(super) fn put(&mut self, warp: &mut Warp, home: Home, bytes: &[u8]) -> Result<(), MemoryFault> {
        let size = bytes.len() as u64;
        match home {
            Home::Device(address) if warp.probe.checks_stores => {
                warp.effects += u64::from(self.memory.store_changed(warp.rank, address, bytes)?);
            }
            Home::Shared { cta, offset } if warp.probe.checks_stores => {
                if let Some(cta) = &mut self.ctas[cta as usize] {
                    let changed = cta.shared.store_changed(offset.into(), bytes, &mut self.memory.woken);
                    warp.effects += u64::from(changed);
                }
            }
            Home::Device(address) => {
                warp.effects += 1;
                copy_element(self.memory.write_device(Some(warp.rank), address, size)?, bytes);
            }
            Home::Shared { cta, offset } => {
                warp.effects += 1;
                if let Some(cta) = &mut self.ctas[cta as usize] {
                    copy_element(cta.shared.span_mut(offset.into(), size, &mut self.memory.woken), bytes);
                }
            }
            Home::Local(offset) => {
                // A local store of what is there already is no effect: a spilled value in a polling loop.
                if warp.local.span(offset, size) != bytes || warp.local.first_uninitialised(offset, size).is_some() {
                    warp.effects += 1;
                    warp.local.span_mut(offset, size, &mut Vec::new()).copy_from_slice(bytes);
                }
            }
            Home::Param(_) => return Err(MemoryFault::ReadOnly { symbol: "kernel parameters".into() }),
        }
        Ok(())
    }

    /// `st.bulk`: each lane fills a range of the CTA's shared memory with zeros.
    pub(super) fn fill(&mut self, warp: &mut Warp, op: &FillOp, mask: u32, pc: u32, code: &KernelCode) -> Outcome<()> {
        for lane in lanes(mask) {
            let (address, size) = (warp.address(&op.place, lane), warp.value(op.size, lane) as u64);
            if !size.is_multiple_of(8) || size > u64::from(u32::MAX) {
                return undefined(1 << lane, format!("the size of a fill is a multiple of 8, not {size}"));
            }
            let fail = |fault| bad_access(lane, address, size as u32, fault);
            // The address and its space first, then the range.
            let first = self.resolve(warp, op.place.space, address, 8, lane, true).map_err(fail)?;
            let Home::Shared { cta, .. } = first else {
                return Err(fail(MemoryFault::WrongSpace { expected: "shared::cta", found: "another" }));
            };
            if cta != warp.cta {
                return Err(fail(MemoryFault::WrongSpace { expected: "shared::cta", found: "shared::cluster" }));
            }
            let home = self.shared_home(warp, address & u64::from(u32::MAX), size as u32, true).map_err(fail)?;
            let Home::Shared { offset, .. } = home else { return Err(fail(MemoryFault::NotAnAddress)) };
            self.meet_copies(warp, code, pc, lane, (cta, offset, size as u32), true)?;
            self.put(warp, home, &vec![0; size as usize]).map_err(fail)?;
            if !self.observers.is_empty() {
                let (order, scope, proxy) = (Order::Weak, Scope::Cta, Proxy::Generic);
                let manner = Manner { order, scope, proxy, kind: AccessKind::Write, line: code.lines[pc as usize] };
                self.overwrite(warp, lane, home, size as u32, manner);
                self.show(warp, lane, home, size as u32, manner);
            }
        }
        Ok(())
    }

    /// Copies bytes inside each lane's local memory, with what is known of their initialisation.
    pub(super) fn copy_local(&mut self, warp: &mut Warp, from: u32, to: u32, bytes: u32, mask: u32) {
        for lane in lanes(mask) {
            let base = u64::from(lane) * u64::from(warp.local_bytes);
            for at in 0..u64::from(bytes) {
                let (source, target) = (base + u64::from(from) + at, base + u64::from(to) + at);
                if warp.local.first_uninitialised(source, 1).is_some() {
                    warp.local.make_undefined(target);
                    let source = warp.stored.of(source).cloned();
                    warp.stored.put(target, source);
                    continue;
                }
                let byte = warp.local.span(source, 1)[0];
                if warp.local.span(target, 1)[0] != byte || warp.local.first_uninitialised(target, 1).is_some() {
                    warp.effects += 1;
                    warp.local.span_mut(target, 1, &mut Vec::new())[0] = byte;
                }
            }
        }
    }

    /// The 8-byte or smaller place of one lane for an atomic or mbarrier.
    pub(super) fn place_of(
        &self,
        warp: &Warp,
        place: &Place,
        bytes: u32,
        lane: u32,
        write: bool,
    ) -> Outcome<(u64, Home)> {
        let address = warp.address(place, lane);
        let home = self.resolve(warp, place.space, address, bytes, lane, write);
        home.map(|home| (address, home)).map_err(|fault| bad_access(lane, address, bytes, fault))
    }
}

fn local_home(warp: &Warp, offset: u64, bytes: u32, lane: u32) -> Result<Home, MemoryFault> {
    let size = u64::from(warp.local_bytes);
    if offset.saturating_add(u64::from(bytes)) > size {
        return Err(MemoryFault::OutOfBounds { symbol: "local memory".into(), offset: offset.cast_signed(), size });
    }
    Ok(Home::Local(u64::from(lane) * size + offset))
}

fn param_home(warp: &Warp, offset: u64, bytes: u32, write: bool) -> Result<Home, MemoryFault> {
    let size = warp.parameters.len() as u64;
    if write {
        return Err(MemoryFault::ReadOnly { symbol: "kernel parameters".into() });
    }
    if offset.saturating_add(u64::from(bytes)) > size {
        return Err(MemoryFault::OutOfBounds {
            symbol: "kernel parameters".into(),
            offset: offset.cast_signed(),
            size,
        });
    }
    Ok(Home::Param(offset as u32))
}

/// Whether all that [`Machine::resolve`] would check is what reading or writing device memory checks itself.
#[inline(always)]
fn plain_device(space: Space, address: u64, bytes: u32) -> bool {
    device_space(space, address) && address.is_multiple_of(u64::from(bytes))
}
