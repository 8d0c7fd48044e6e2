//! Threads issue asynchronous copies and stores: their addresses are checked, and what they will do is told.
//!
//! Invariant: an end in the shared memory of a CTA counts among the copies that this CTA has to outlive.

use super::Machine;
use super::access::Home;
use super::copies::{Data, End, LATENCY, Transfer, Work, lane_copies};
use super::flight::Issued;
use super::warp::{Outcome, Warp, bad_access, lanes, put_low_bytes, undefined};
use crate::decode::op::{AsyncStoreOp, BulkOp, CopyOp, KernelCode, Place, Space};
use crate::memory::MemoryFault;
use crate::observer::Event;

impl Machine {
    pub(super) fn end(
        &self,
        warp: &Warp,
        space: Space,
        address: u64,
        bytes: u32,
        lane: u32,
        write: bool,
    ) -> Outcome<End> {
        let fail = |fault| bad_access(lane, address, bytes, fault);
        if matches!(space, Space::Shared | Space::Cluster) {
            self.resolve(warp, space, address, 1, lane, write).map_err(fail)?;
            let home = self.shared_home(warp, address, bytes, space == Space::Cluster).map_err(fail)?;
            let Home::Shared { cta, offset } = home else { return Err(fail(MemoryFault::NotAnAddress)) };
            return Ok(End::Shared { cta, offset });
        }
        self.memory.locate(Some(warp.rank), address, bytes.into(), write).map_err(fail)?;
        Ok(End::Device(address))
    }

    /// An mbarrier that a copy signals: slot of its CTA, which has to be that of the target, and offset.
    pub(super) fn signalled(
        &self,
        warp: &Warp,
        space: Space,
        address: u64,
        lane: u32,
        target: End,
    ) -> Outcome<(u32, u32)> {
        let fail = |fault| bad_access(lane, address, 8, fault);
        let Home::Shared { cta, offset } = self.resolve(warp, space, address, 8, lane, true).map_err(fail)? else {
            return Err(fail(MemoryFault::WrongSpace { expected: "shared", found: "global" }));
        };
        match target {
            End::Shared { cta: of_target, .. } if of_target != cta => {
                undefined(1 << lane, "the mbarrier is not in the shared memory of the CTA that gets the data")
            }
            End::Shared { .. } | End::Device(_) => Ok((cta, offset)),
        }
    }

    pub(super) fn bulk_copy(&mut self, warp: &mut Warp, op: &BulkOp, mask: u32, pc: u32) -> Outcome<()> {
        for lane in lanes(mask) {
            let bytes = warp.u32(op.size, lane);
            if !bytes.is_multiple_of(16) {
                return undefined(1 << lane, format!("the size of a bulk copy is a multiple of 16, not {bytes}"));
            }
            let source = (warp.value(op.source, lane) as u64).wrapping_add_signed(op.source_offset);
            let target = (warp.value(op.target, lane) as u64).wrapping_add_signed(op.target_offset);
            let source_end = self.end(warp, op.from, source, bytes, lane, false)?;
            let target_end = self.end(warp, op.to, target, bytes, lane, true)?;
            for address in [source, target] {
                if !address.is_multiple_of(16) {
                    return Err(bad_access(lane, address, bytes, MemoryFault::Misaligned { align: 16 }));
                }
            }
            let mbarrier = match op.mbarrier {
                None => None,
                Some((reg, offset)) => {
                    let address = (warp.value(reg, lane) as u64).wrapping_add_signed(offset);
                    let space = if op.to == Space::Cluster { Space::Cluster } else { Space::Shared };
                    Some(self.signalled(warp, space, address, lane, target_end)?)
                }
            };
            let byte_mask = op.byte_mask.map_or(u16::MAX, |reg| warp.value(reg, lane) as u16);
            let transfer = |machine: &Machine, warp: &Warp| Transfer {
                work: Work::Bulk,
                mbarrier,
                byte_mask,
                reduce: op.reduce,
                ..machine.transfer(warp, source_end, target_end, bytes, lane, pc)
            };
            match op.multicast {
                None => {
                    let transfer = transfer(self, warp);
                    self.issue(warp, transfer, lane, mbarrier.is_none().then_some(true))?;
                }
                Some(reg) => {
                    let ctas = warp.value(reg, lane) as u16;
                    self.multicast(warp, transfer, ctas, lane)?;
                }
            }
        }
        Ok(())
    }

    /// Issues a copy for each of some CTAs of the cluster, to the same places in their shared memory.
    pub(super) fn multicast(
        &mut self,
        warp: &mut Warp,
        transfer: impl Fn(&Machine, &Warp) -> Transfer,
        ctas: u16,
        lane: u32,
    ) -> Outcome<()> {
        let mut counts = true;
        for rank in lanes(ctas.into()) {
            let cta = match self.peer(warp, rank) {
                Ok(slot) => slot,
                Err(fault) => return undefined(1 << lane, format!("the mask of CTAs is {ctas:#06x}: {fault}")),
            };
            let mut transfer = transfer(self, warp);
            if let End::Shared { offset, .. } = transfer.target {
                transfer.target = End::Shared { cta, offset };
            }
            transfer.mbarrier = transfer.mbarrier.map(|(_, offset)| (cta, offset));
            transfer.counts = std::mem::take(&mut counts);
            self.issue(warp, transfer, lane, None)?;
        }
        Ok(())
    }

    pub(super) fn async_store(&mut self, warp: &mut Warp, op: &AsyncStoreOp, mask: u32, pc: u32) -> Outcome<()> {
        let bytes = op.bytes * op.registers.len() as u32;
        for lane in lanes(mask) {
            let (address, home) = self.place_of(warp, &op.place, bytes, lane, true)?;
            let target = match home {
                Home::Shared { cta, offset } if op.mbarrier.is_some() => End::Shared { cta, offset },
                Home::Device(address) if op.mbarrier.is_none() => End::Device(address),
                Home::Device(_) | Home::Shared { .. } | Home::Local(_) | Home::Param(_) => {
                    let expected = if op.mbarrier.is_some() { "shared::cluster" } else { "global" };
                    return Err(bad_access(
                        lane,
                        address,
                        bytes,
                        MemoryFault::WrongSpace { expected, found: "another" },
                    ));
                }
            };
            let mbarrier = match op.mbarrier {
                None => None,
                Some(reg) => {
                    let address = (warp.value(reg, lane) as u64).wrapping_add_signed(op.mbarrier_offset);
                    Some(self.signalled(warp, op.place.space, address, lane, target)?)
                }
            };
            let mut data = vec![0; bytes as usize];
            for (part, reg) in data.chunks_exact_mut(op.bytes as usize).zip(op.registers.iter().flatten()) {
                put_low_bytes(part, warp.value(*reg, lane));
            }
            let transfer = Transfer {
                work: Work::Store { order: op.order, scope: op.scope },
                mbarrier,
                reduce: op.reduce,
                data: Some(Data { bytes: data, undefined: Vec::new() }),
                ..self.transfer(warp, End::Device(0), target, bytes, lane, pc)
            };
            self.issue(warp, transfer, lane, None)?;
        }
        Ok(())
    }

    pub(super) fn small_copy(&mut self, warp: &mut Warp, op: &CopyOp, mask: u32, pc: u32) -> Outcome<()> {
        for lane in lanes(mask) {
            let source = (warp.value(op.source, lane) as u64).wrapping_add_signed(op.source_offset);
            let target = (warp.value(op.target, lane) as u64).wrapping_add_signed(op.target_offset);
            let ignored = op.ignore.is_some_and(|predicate| warp.predicate(predicate) >> lane & 1 == 1);
            let wanted = op.source_bytes.map_or(op.bytes, |row| warp.u32(row, lane));
            if wanted > op.bytes {
                return undefined(1 << lane, format!("{wanted} source bytes of a copy of {}", op.bytes));
            }
            let copied = if ignored { 0 } else { wanted };
            let target_end = self.end(warp, Space::Shared, target, op.bytes, lane, true)?;
            // Nothing is read, so the address may be anything.
            let source_end =
                if copied == 0 { End::Device(0) } else { self.end(warp, Space::Global, source, copied, lane, false)? };
            for address in [source, target] {
                if copied > 0 && !address.is_multiple_of(u64::from(op.bytes)) {
                    let fault = MemoryFault::Misaligned { align: op.bytes };
                    return Err(bad_access(lane, address, op.bytes, fault));
                }
            }
            let transfer = Transfer {
                work: Work::Small { copied },
                ..self.transfer(warp, source_end, target_end, op.bytes, lane, pc)
            };
            self.issue(warp, transfer, lane, Some(false))?;
        }
        Ok(())
    }

    pub(super) fn copy_arrive(
        &mut self,
        warp: &mut Warp,
        place: &Place,
        no_increment: bool,
        mask: u32,
        pc: u32,
        code: &KernelCode,
    ) -> Outcome<()> {
        for lane in lanes(mask) {
            let (cta, offset) = self.announce_arrival(warp, code, place, lane, !no_increment)?;
            let transfer = Transfer {
                work: Work::Arrive,
                ..self.transfer(warp, End::Device(0), End::Shared { cta, offset }, 0, lane, pc)
            };
            self.issue(warp, transfer, lane, None)?;
        }
        Ok(())
    }

    pub(super) fn transfer(&self, warp: &Warp, source: End, target: End, bytes: u32, lane: u32, pc: u32) -> Transfer {
        Transfer {
            work: Work::Bulk,
            source,
            target,
            bytes,
            reduce: None,
            mbarrier: None,
            tensor: None,
            byte_mask: u16::MAX,
            counts: true,
            group: None,
            data: None,
            due: self.turns + LATENCY,
            issued: 0,
            kernel: warp.kernel.clone(),
            thread: warp.thread(lane),
            launch: warp.launch,
            warp_slot: warp.slot,
            warp_serial: warp.serial,
            pc,
        }
    }

    /// Sends a copy on its way; `Some(bulk)` if it belongs to the thread's open group.
    pub(super) fn issue(
        &mut self,
        warp: &mut Warp,
        mut transfer: Transfer,
        lane: u32,
        group: Option<bool>,
    ) -> Outcome<()> {
        warp.effects += 1;
        self.copies_issued += 1;
        transfer.issued = self.copies_issued;
        if let Some(bulk) = group {
            let groups = lane_copies(warp)[lane as usize].groups(bulk);
            groups.open.reads += 1;
            groups.open.writes += 1;
            transfer.group = Some(groups.open_number());
        }
        let ends = [(transfer.source, transfer.source_bytes(), false), (transfer.target, transfer.bytes, true)];
        if transfer.work != Work::Arrive {
            let (thread, copy, line) = (transfer.thread, transfer.id(), transfer.line());
            let bulk = matches!(transfer.work, Work::Bulk | Work::Store { .. });
            self.observers.tell(|| Event::CopyIssued { thread, copy, bulk, grouped: group.is_some(), line });
            let kernel = transfer.kernel.clone();
            let reduces = transfer.reduce.is_some();
            for (end, bytes, writes) in ends {
                let (copy, reduces) = (transfer.issued, writes && reduces);
                match end {
                    End::Shared { cta, offset } => {
                        let issued = Issued { copy, cta, start: offset, bytes, writes, reduces };
                        self.begin_flight(warp, kernel.code(), transfer.pc, lane, &issued)?;
                    }
                    // An asynchronous store to device memory is a strong one, which others may poll.
                    End::Device(_) if matches!(transfer.work, Work::Store { .. }) => {}
                    End::Device(start) => {
                        let issued = Issued { copy, cta: warp.cta, start: 0, bytes, writes, reduces };
                        let pieces = transfer.tensor.as_ref().map(|tile| tile.ranges());
                        let whole = if pieces.is_some() { None } else { Some((start, bytes)) };
                        let ranges = pieces.into_iter().flatten().chain(whole);
                        self.begin_device_flights(warp, kernel.code(), (transfer.pc, lane), &issued, ranges)?;
                    }
                }
            }
        }
        for (end, ..) in ends {
            if let End::Shared { cta, .. } = end
                && let Some(cta) = &mut self.ctas[cta as usize]
            {
                cta.copies_pending += 1;
            }
        }
        if let Some(launch) = &mut self.launches[warp.launch as usize] {
            launch.transfers += 1;
        }
        self.transfers.push_back(transfer);
        Ok(())
    }
}
