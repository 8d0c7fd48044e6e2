//! Asynchronous copies under way: agents that read and write later, in any order that PTX allows. [`super::issue`] sends them.
//!
//! Invariants: a bulk copy reads its source in one step and writes its target and signals in a later one; a small copy
//! (`cp.async`) does both at once; a group of a thread is complete when everything committed to it is.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::Arc;

use super::Machine;
use super::access::shared_symbol;
use super::arithmetic::{combine, combine_in_device};
use super::report::{Fault, FaultKind, RunError};
use super::warp::{Outcome, SplitState, Warp, bad_access, lanes, put_low_bytes, zero_extended};
use crate::config::Policy;
use crate::decode::op::{AtomicKind, KernelCode};
use crate::ids::{CopyId, ThreadId};
use crate::memory::tensor::Piece;
use crate::memory::{Address, MemoryFault, Order, Proxy, Scope};
use crate::module::Kernel;
use crate::observer::{Access, AccessKind, Event, Location, MbarrierStep};
use crate::ptx::ScalarType;

/// Turns that a copy takes when copies finish in order.
pub(super) const LATENCY: u64 = 3;

/// Copies of one thread that have been committed together.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Group {
    pub reads: u32,
    pub writes: u32,
}

/// Groups of one thread: those committed and not complete, and the open one.
#[derive(Debug, Default, Clone)]
pub(super) struct Groups {
    committed: VecDeque<Group>,
    pub open: Group,
    /// Number of the first group in `committed`.
    first: u64,
}

impl Groups {
    pub fn open_number(&self) -> u64 {
        self.first + self.committed.len() as u64
    }

    fn commit(&mut self) {
        let group = std::mem::take(&mut self.open);
        self.committed.push_back(group);
        self.drop_complete();
    }

    fn drop_complete(&mut self) {
        while self.committed.front().is_some_and(|group| group.writes == 0) {
            self.committed.pop_front();
            self.first += 1;
        }
    }

    fn group(&mut self, number: u64) -> &mut Group {
        match number.checked_sub(self.first).and_then(|at| self.committed.get_mut(at as usize)) {
            Some(group) => group,
            None => &mut self.open,
        }
    }

    /// Whether at most `most` of the latest groups are pending.
    fn pending_at_most(&self, most: u32, read: bool) -> bool {
        let old = self.committed.len().saturating_sub(most as usize);
        self.committed.iter().take(old).all(|group| if read { group.reads == 0 } else { group.writes == 0 })
    }
}

/// Asynchronous copies of one thread.
#[derive(Debug, Default, Clone)]
pub(crate) struct LaneCopies {
    bulk: Groups,
    small: Groups,
}

impl LaneCopies {
    pub(super) fn groups(&mut self, bulk: bool) -> &mut Groups {
        if bulk { &mut self.bulk } else { &mut self.small }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Address.
    Device(u64),
    /// Slot of the CTA, and offset.
    Shared { cta: u32, offset: u32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Bulk,
    /// A value that the thread gave: `st.async`, `red.async`.
    Store {
        order: Order,
        scope: Scope,
    },
    /// Bytes copied; the rest of the target becomes zero.
    Small {
        copied: u32,
    },
    /// The arrival at an mbarrier when the thread's earlier small copies are done.
    Arrive,
}

/// A copy under way.
pub(crate) struct Transfer {
    pub(super) work: Work,
    pub(super) source: End,
    pub(super) target: End,
    pub(super) bytes: u32,
    pub(super) reduce: Option<(AtomicKind, ScalarType)>,
    /// Slot of its CTA, and offset.
    pub(super) mbarrier: Option<(u32, u32)>,
    /// Where the bytes of a tensor are, of whose tile the other end is the image.
    pub(super) tensor: Option<Arc<Tile>>,
    /// Bytes of each 16 that are written, a bit for each.
    pub(super) byte_mask: u16,
    /// It is the first of those that read the same for several CTAs.
    pub(super) counts: bool,
    /// Group number; none for copies that signal an mbarrier.
    pub(super) group: Option<u64>,
    /// What has been read.
    pub(super) data: Option<Data>,
    pub(super) due: u64,
    /// Number in the order of issue.
    pub(super) issued: u64,
    pub(super) kernel: Kernel,
    pub(super) thread: ThreadId,
    /// Slot of the launch.
    pub(super) launch: u32,
    pub(super) warp_slot: u32,
    pub(super) warp_serial: u64,
    pub(super) pc: u32,
}

/// A tile of a tensor.
#[derive(Debug)]
pub(super) struct Tile {
    pub pieces: Vec<Piece>,
    /// What is beyond the edges of the tensor.
    pub empty: Vec<u8>,
}

impl Tile {
    /// Ranges of device memory, one for pieces next to each other.
    pub fn ranges(&self) -> Vec<(u64, u32)> {
        let mut ranges: Vec<(u64, u32)> = Vec::new();
        for piece in &self.pieces {
            match ranges.last_mut() {
                Some((start, bytes)) if *start + u64::from(*bytes) == piece.address => *bytes += piece.bytes,
                _ => ranges.push((piece.address, piece.bytes)),
            }
        }
        ranges
    }
}

/// Bytes that a copy has read, and which of them are undefined.
#[derive(Debug, Default)]
pub(super) struct Data {
    pub bytes: Vec<u8>,
    pub undefined: Vec<u64>,
}

impl Transfer {
    /// What observers call it. Copies are numbered from 1 on.
    pub(super) fn id(&self) -> CopyId {
        CopyId(NonZeroU64::new(self.issued).unwrap_or(NonZeroU64::MAX))
    }

    /// Bytes that it reads.
    pub(super) fn source_bytes(&self) -> u32 {
        match self.work {
            Work::Bulk => self.bytes,
            Work::Small { copied } => copied,
            Work::Store { .. } | Work::Arrive => 0,
        }
    }

    fn code(&self) -> &KernelCode {
        self.kernel.code()
    }

    pub(super) fn line(&self) -> u32 {
        self.code().lines[self.pc as usize]
    }
}

pub(super) fn lane_copies(warp: &mut Warp) -> &mut [LaneCopies; 32] {
    warp.copies.get_or_insert_with(|| Box::new(std::array::from_fn(|_| LaneCopies::default())))
}

/// Whether the lanes need not wait (any longer) in this state.
pub(super) fn groups_done(warp: &Warp, mask: u32, state: SplitState) -> bool {
    let Some(copies) = &warp.copies else { return true };
    lanes(mask).all(|lane| {
        let copies = &copies[lane as usize];
        match state {
            SplitState::BulkGroups { groups, read } => copies.bulk.pending_at_most(groups, read),
            SplitState::CopyGroups { groups } => copies.small.pending_at_most(groups, false),
            _ => true,
        }
    })
}

impl Machine {
    pub(super) fn commit(&mut self, warp: &mut Warp, mask: u32, bulk: bool) {
        warp.effects += 1;
        let copies = lane_copies(warp);
        for lane in lanes(mask) {
            copies[lane as usize].groups(bulk).commit();
        }
        let thread = warp.thread(mask.trailing_zeros());
        self.observers.tell(|| Event::CopiesCommitted { thread, lanes: mask, bulk });
    }

    /// Tells that lanes wait for groups of their copies. They do nothing else until these are done.
    pub(super) fn tell_wait(&mut self, warp: &Warp, mask: u32, bulk: bool, groups: u32, read: bool) {
        let thread = warp.thread(mask.trailing_zeros());
        self.observers.tell(|| Event::CopiesWaited { thread, lanes: mask, bulk, groups, read });
    }

    /// Lets copies make progress as the policy says.
    pub(super) fn maybe_copy(&mut self) -> Result<(), RunError> {
        if self.transfers.is_empty() {
            return Ok(());
        }
        match self.config.policy {
            Policy::RoundRobin => {
                while self.transfers.front().is_some_and(|transfer| transfer.due <= self.turns) {
                    self.advance_copy(0)?;
                }
                Ok(())
            }
            Policy::Random | Policy::Weak if self.random.below(2) == 0 => self.advance_random(),
            Policy::Adversarial if self.random.below(64) == 0 => self.advance_random(),
            _ => Ok(()),
        }
    }

    fn advance_random(&mut self) -> Result<(), RunError> {
        let index = self.choose_copy();
        self.advance_copy(index)
    }

    /// The copy that makes the next step when nothing else can.
    pub(super) fn choose_copy(&mut self) -> usize {
        match self.config.policy {
            Policy::RoundRobin => 0,
            Policy::Random | Policy::Adversarial | Policy::Weak => {
                self.random.below(self.transfers.len() as u64) as usize
            }
        }
    }

    /// The next step of a copy: reading, or writing and signalling.
    pub(super) fn advance_copy(&mut self, index: usize) -> Result<(), RunError> {
        let Some(mut transfer) = self.transfers.remove(index) else { return Ok(()) };
        let step = self.copy_step(&mut transfer);
        match step {
            Ok(true) => {
                if let Some(launch) = &mut self.launches[transfer.launch as usize] {
                    launch.transfers -= 1;
                    self.finish_launch(transfer.launch);
                }
                Ok(())
            }
            Ok(false) => {
                transfer.due = self.turns + LATENCY;
                self.transfers.push_back(transfer);
                Ok(())
            }
            Err((address, fault)) => {
                let kind = FaultKind::Memory { address: Address(address), bytes: transfer.bytes, fault };
                let launch = self.launches[transfer.launch as usize].as_ref();
                let [x, y, _] = launch.map_or([1; 3], |launch| launch.block);
                let thread = transfer.thread.warp * 32 + transfer.thread.lane;
                let code = transfer.code();
                let site = super::report::Site {
                    rank: transfer.thread.rank,
                    kernel: code.name.clone(),
                    launch: transfer.thread.launch,
                    cta: launch.map_or([0; 3], |launch| launch.cta(transfer.thread.cta)),
                    warp: transfer.thread.warp,
                    lanes: 1 << transfer.thread.lane,
                    line: code.lines[transfer.pc as usize],
                    source: code.source(transfer.pc),
                    instruction: code.form(transfer.pc).to_owned(),
                };
                let thread = [thread % x, thread / x % y, thread / x / y];
                Err(RunError::Fault(Box::new(Fault { site, thread, kind, schedule: self.schedule() })))
            }
        }
    }

    /// Ends the copies that use the shared memory of a CTA that ends, where that is accepted.
    pub(super) fn finish_copies(&mut self, warp: &Warp) -> Outcome<()> {
        let is_here = |end: End| matches!(end, End::Shared { cta, .. } if cta == warp.cta);
        let uses = |transfer: &Transfer| is_here(transfer.source) || is_here(transfer.target);
        let oldest = |machine: &Machine| {
            let of_cta = machine.transfers.iter().enumerate().filter(|(_, transfer)| uses(transfer));
            of_cta.min_by_key(|(_, transfer)| transfer.issued).map(|(index, _)| index)
        };
        while let Some(mut transfer) = oldest(self).and_then(|index| self.transfers.remove(index)) {
            let done = self.copy_step(&mut transfer);
            match done.map_err(|(address, fault)| bad_access(transfer.thread.lane, address, transfer.bytes, fault))? {
                false => self.transfers.push_front(transfer),
                true => {
                    if let Some(launch) = &mut self.launches[transfer.launch as usize] {
                        launch.transfers -= 1;
                    }
                }
            }
        }
        Ok(())
    }

    /// One step; true when the copy is done.
    fn copy_step(&mut self, transfer: &mut Transfer) -> Result<bool, (u64, MemoryFault)> {
        match transfer.work {
            Work::Arrive => {
                if self.has_earlier_copies(transfer) {
                    return Ok(false);
                }
                if let End::Shared { cta, offset } = transfer.target {
                    let kernel = transfer.kernel.clone();
                    let completes = self.arrive_late(kernel.code(), (cta, offset));
                    let completes = completes.map_err(|fault| (offset.into(), fault))?;
                    let step = MbarrierStep::SmallCopiesDone(transfer.id());
                    self.tell_signal(transfer, (cta, offset), step, completes);
                }
            }
            Work::Small { copied } => {
                let mut data = if copied > 0 { self.copy_read(transfer, copied)? } else { Data::default() };
                data.bytes.resize(transfer.bytes as usize, 0);
                self.end_flight(transfer, transfer.source, false);
                self.copy_write(transfer, &data)?;
                self.end_flight(transfer, transfer.target, true);
                self.finish_part(transfer, false, true, true);
            }
            Work::Bulk | Work::Store { .. } => match transfer.data.take() {
                None => {
                    transfer.data = Some(self.copy_read(transfer, transfer.bytes)?);
                    self.end_flight(transfer, transfer.source, false);
                    self.finish_part(transfer, true, true, false);
                    self.release_shared(transfer.source);
                    return Ok(false);
                }
                Some(data) => {
                    self.copy_write(transfer, &data)?;
                    self.end_flight(transfer, transfer.target, true);
                    if let Some(mbarrier) = transfer.mbarrier {
                        let kernel = transfer.kernel.clone();
                        let completes = self.complete_bytes(kernel.code(), mbarrier, transfer.bytes);
                        let completes = completes.map_err(|fault| (mbarrier.1.into(), fault))?;
                        let step = MbarrierStep::Signalled(transfer.id());
                        self.tell_signal(transfer, mbarrier, step, completes);
                    }
                    self.finish_part(transfer, true, false, true);
                }
            },
        }
        self.release_shared(transfer.target);
        Ok(true)
    }

    fn end_flight(&mut self, transfer: &Transfer, end: End, writes: bool) {
        if let End::Device(_) = end {
            self.device_flights.end(transfer.issued, writes);
        }
        if let End::Shared { cta, .. } = end
            && let Some(cta) = &mut self.ctas[cta as usize]
        {
            cta.flights.end(transfer.issued, writes, cta.shared.len());
        }
    }

    fn tell_signal(&mut self, transfer: &Transfer, (cta, offset): (u32, u32), step: MbarrierStep, completes: bool) {
        let (thread, line) = (transfer.thread, transfer.line());
        let cta = self.ctas[cta as usize].as_ref().map_or(thread.cta, |cta| cta.index);
        self.observers.tell(|| Event::Mbarrier { thread, cta, offset, step, line });
        if completes {
            let step = MbarrierStep::PhaseComplete;
            self.observers.tell(|| Event::Mbarrier { thread, cta, offset, step, line });
        }
    }

    /// A copy no longer uses this end.
    fn release_shared(&mut self, end: End) {
        if let End::Shared { cta, .. } = end
            && let Some(cta) = &mut self.ctas[cta as usize]
        {
            cta.copies_pending -= 1;
        }
    }

    fn has_earlier_copies(&self, arrive: &Transfer) -> bool {
        self.transfers.iter().any(|other| {
            matches!(other.work, Work::Small { .. })
                && other.warp_serial == arrive.warp_serial
                && other.thread.lane == arrive.thread.lane
                && other.issued < arrive.issued
        })
    }

    /// Reads the source.
    fn copy_read(&mut self, transfer: &Transfer, bytes: u32) -> Result<Data, (u64, MemoryFault)> {
        if let (Some(tile), End::Device(_)) = (&transfer.tensor, transfer.source) {
            return self.read_tile(transfer, tile);
        }
        self.show_copy(transfer, transfer.source, bytes, AccessKind::Read);
        let mut data = self.copy_source(transfer, bytes)?;
        let access = self.copy_access(transfer, transfer.source, bytes, AccessKind::Read);
        if let Some(weak) = self.observers.weak() {
            weak.read_range(&access, |at, older, bytes| {
                let range = at..at + u64::from(bytes);
                data.bytes[range.start as usize..range.end as usize].copy_from_slice(&older.bytes[..bytes as usize]);
                data.undefined.retain(|byte| !range.contains(byte));
                data.undefined.extend(range.filter(|byte| older.missing >> (byte - at) & 1 == 1));
            });
        }
        Ok(data)
    }

    /// What is in memory. Bytes that nobody wrote are copied as undefined ones; a reduction uses them.
    fn copy_source(&mut self, transfer: &Transfer, bytes: u32) -> Result<Data, (u64, MemoryFault)> {
        let (by, size) = (transfer.thread.rank.0, u64::from(bytes));
        let (at, segment, offset) = match transfer.source {
            End::Device(address) => {
                let owner = self.memory.locate(Some(by), address, size, false).map_err(|fault| (address, fault))?.0;
                if transfer.counts {
                    self.memory.traffic.add_read(by, owner, size);
                }
                match self.memory.span(by, address, size) {
                    Some((segment, offset, _)) => (address, segment, offset),
                    None => return Err((address, MemoryFault::NotAnAddress)),
                }
            }
            End::Shared { cta, offset } => match &self.ctas[cta as usize] {
                Some(cta) => (offset.into(), &cta.shared, u64::from(offset)),
                None => return Ok(Data { bytes: vec![0; bytes as usize], undefined: Vec::new() }),
            },
        };
        let undefined = match self.config.check_initialised.then(|| segment.first_uninitialised(offset, size)).flatten()
        {
            None => Vec::new(),
            Some(first) if transfer.reduce.is_some() => {
                let symbol = match transfer.source {
                    End::Device(address) => self.memory.symbol(address + (first - offset)),
                    End::Shared { .. } => format!("`{}`", shared_symbol(transfer.code(), first.cast_signed())),
                };
                return Err((at, MemoryFault::Uninitialised { symbol }));
            }
            Some(_) => (0..size).filter(|at| segment.first_uninitialised(offset + at, 1).is_some()).collect(),
        };
        Ok(Data { bytes: segment.span(offset, size).to_vec(), undefined })
    }

    fn copy_write(&mut self, transfer: &Transfer, data: &Data) -> Result<(), (u64, MemoryFault)> {
        let Data { bytes: data, undefined } = data;
        let size = data.len() as u64;
        if let (Some(tile), End::Device(_)) = (&transfer.tensor, transfer.target) {
            return self.write_tile(transfer, tile, data, undefined);
        }
        if let Some((kind, element)) = transfer.reduce {
            return self.copy_reduce(transfer, transfer.target, data, kind, element);
        }
        if transfer.byte_mask != u16::MAX {
            return self.copy_masked(transfer, data, undefined);
        }
        self.show_copy(transfer, transfer.target, transfer.bytes, AccessKind::Write);
        match transfer.target {
            End::Device(address) => {
                let target = self.memory.write_device(Some(transfer.thread.rank.0), address, size);
                target.map_err(|fault| (address, fault))?.copy_from_slice(data);
                if let Some((segment, _, offset, _)) = self.memory.span_mut(transfer.thread.rank.0, address, 0) {
                    undefined.iter().for_each(|at| segment.make_undefined(offset + at));
                }
            }
            End::Shared { cta, offset } => {
                if let Some(cta) = &mut self.ctas[cta as usize] {
                    cta.shared.span_mut(offset.into(), size, &mut self.memory.woken).copy_from_slice(data);
                    for at in undefined.iter().map(|at| u64::from(offset) + at) {
                        cta.shared.make_undefined(at);
                        cta.stored.put(at, None);
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads the pieces of a tile into its image.
    fn read_tile(&mut self, transfer: &Transfer, tile: &Tile) -> Result<Data, (u64, MemoryFault)> {
        let by = transfer.thread.rank.0;
        let mut data = Data { bytes: tile.empty.clone(), undefined: Vec::new() };
        for piece in &tile.pieces {
            let (address, size) = (piece.address, u64::from(piece.bytes));
            self.show_copy(transfer, End::Device(address), piece.bytes, AccessKind::Read);
            let owner = self.memory.locate(Some(by), address, size, false).map_err(|fault| (address, fault))?.0;
            if transfer.counts {
                self.memory.traffic.add_read(by, owner, size);
            }
            let Some((segment, offset, _)) = self.memory.span(by, address, size) else { continue };
            data.bytes[piece.place as usize..][..size as usize].copy_from_slice(segment.span(offset, size));
            if self.config.check_initialised && segment.first_uninitialised(offset, size).is_some() {
                let missing = (0..size).filter(|at| segment.first_uninitialised(offset + at, 1).is_some());
                data.undefined.extend(missing.map(|at| u64::from(piece.place) + at));
            }
        }
        Ok(data)
    }

    /// Writes the pieces of a tile from its image, or reduces them.
    fn write_tile(
        &mut self,
        transfer: &Transfer,
        tile: &Tile,
        data: &[u8],
        undefined: &[u64],
    ) -> Result<(), (u64, MemoryFault)> {
        let by = transfer.thread.rank.0;
        for piece in &tile.pieces {
            let part = &data[piece.place as usize..][..piece.bytes as usize];
            let target = End::Device(piece.address);
            if let Some((kind, element)) = transfer.reduce {
                self.copy_reduce(transfer, target, part, kind, element)?;
                continue;
            }
            self.show_copy(transfer, target, piece.bytes, AccessKind::Write);
            let bytes = self.memory.write_device(Some(by), piece.address, piece.bytes.into());
            bytes.map_err(|fault| (piece.address, fault))?.copy_from_slice(part);
            let Some((segment, _, offset, _)) = self.memory.span_mut(by, piece.address, 0) else { continue };
            let places = u64::from(piece.place)..u64::from(piece.place + piece.bytes);
            let here = undefined.iter().filter(|at| places.contains(at));
            here.for_each(|at| segment.make_undefined(offset + at - places.start));
        }
        Ok(())
    }

    /// Byte by byte, those that the mask of the copy has.
    fn copy_masked(&mut self, transfer: &Transfer, data: &[u8], undefined: &[u64]) -> Result<(), (u64, MemoryFault)> {
        let End::Device(start) = transfer.target else { return Ok(()) };
        let by = transfer.thread.rank.0;
        for (at, byte) in (0u64..).zip(data).filter(|(at, _)| transfer.byte_mask >> (at % 16) & 1 == 1) {
            let address = start + at;
            self.show_copy(transfer, End::Device(address), 1, AccessKind::Write);
            self.memory.write_device(Some(by), address, 1).map_err(|fault| (address, fault))?[0] = *byte;
            if undefined.contains(&at)
                && let Some((segment, _, offset, _)) = self.memory.span_mut(by, address, 0)
            {
                segment.make_undefined(offset);
            }
        }
        Ok(())
    }

    /// Element by element, each an atomic step.
    fn copy_reduce(
        &mut self,
        transfer: &Transfer,
        target: End,
        data: &[u8],
        kind: AtomicKind,
        element: ScalarType,
    ) -> Result<(), (u64, MemoryFault)> {
        let width = element.bytes() as usize;
        self.show_copy(transfer, target, data.len() as u32, AccessKind::Atomic);
        for (index, part) in data.chunks_exact(width).enumerate() {
            let combine = if matches!(target, End::Device(_)) { combine_in_device } else { combine };
            let change = |old: &[u8], new: &mut [u8]| {
                put_low_bytes(new, combine(kind, element, zero_extended(old), zero_extended(part), 0));
            };
            match target {
                End::Device(address) => {
                    let at = address + (index * width) as u64;
                    let updated = self.memory.update_device(transfer.thread.rank.0, at, width as u64, change);
                    updated.map_err(|fault| (at, fault))?;
                }
                End::Shared { cta, offset } => {
                    if let Some(cta) = &mut self.ctas[cta as usize] {
                        let at = u64::from(offset) + (index * width) as u64;
                        cta.shared.update(at, width as u64, &mut self.memory.woken, change);
                    }
                }
            }
        }
        Ok(())
    }

    fn show_copy(&mut self, transfer: &Transfer, end: End, bytes: u32, kind: AccessKind) {
        if self.observers.is_empty() {
            return;
        }
        let access = self.copy_access(transfer, end, bytes, kind);
        if kind != AccessKind::Read
            && let Some(weak) = self.observers.weak()
        {
            weak.overwrite(&access);
        }
        self.observers.access(&access);
    }

    fn copy_access(&self, transfer: &Transfer, end: End, bytes: u32, kind: AccessKind) -> Access {
        let location = match end {
            End::Device(address) => Location::Device(Address(address)),
            End::Shared { cta, offset } => {
                let index = self.ctas[cta as usize].as_ref().map_or(transfer.thread.cta, |cta| cta.index);
                Location::Shared(index, offset)
            }
        };
        let (order, scope) = match transfer.work {
            Work::Store { order, scope } => (order, scope),
            Work::Bulk if kind == AccessKind::Atomic => (Order::Relaxed, Scope::Gpu),
            Work::Bulk | Work::Small { .. } | Work::Arrive => (Order::Weak, Scope::Gpu),
        };
        Access {
            thread: transfer.thread,
            location,
            bytes,
            order,
            scope,
            proxy: if transfer.work == Work::Bulk { Proxy::Async } else { Proxy::Generic },
            kind,
            line: transfer.line(),
            copy: Some(transfer.id()),
        }
    }

    /// Counts a finished read or write of a copy in its group, and wakes the thread if that was what it waited for.
    fn finish_part(&mut self, transfer: &Transfer, bulk: bool, read: bool, write: bool) {
        let (Some(number), Some(warp)) = (transfer.group, self.warps[transfer.warp_slot as usize].as_deref_mut())
        else {
            return;
        };
        if warp.serial != transfer.warp_serial {
            return;
        }
        if let Some(copies) = &mut warp.copies {
            let groups = copies[transfer.thread.lane as usize].groups(bulk);
            let group = groups.group(number);
            group.reads -= u32::from(read);
            group.writes -= u32::from(write);
            groups.drop_complete();
        }
        let mut splits = std::mem::take(&mut warp.splits);
        for split in &mut splits {
            if matches!(split.state, SplitState::BulkGroups { .. } | SplitState::CopyGroups { .. })
                && groups_done(warp, split.mask, split.state)
            {
                split.state = SplitState::Ready;
            }
        }
        warp.splits = splits;
        self.enqueue(transfer.warp_slot);
    }
}
