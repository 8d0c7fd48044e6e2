//! Loads and stores of a warp. This is the only way from a thread to memory, apart from atomics and mbarriers beside it
//! and asynchronous copies, which use the same checks: every access is checked, counted, recorded for waiting loops and
//! shown to the observer here.
//!
//! The common shapes, all 32 lanes on one contiguous range or on one place, are checked once and moved at once; any
//! trouble sends them lane by lane through the general way, which finds the lane to blame.

use std::sync::Arc;

use super::Machine;
use super::probe::Watch;
use super::warp::{Outcome, Warp, bad_access, copy_element, lanes, put_low_bytes, zero_extended};
use crate::decode::op::{KernelCode, MemoryOp, Place, Reg, SHARED_BASE, Space};
use crate::memory::address::{Target, is_device, target};
use crate::memory::{Access, AccessKind, Address, Location, MemoryFault, Order, Proxy, Scope};

/// Where an access goes, after its address has been checked.
#[derive(Debug, Clone, Copy)]
pub(super) enum Home {
    Device(u64),
    Shared(u32),
    /// Offset in the warp's local memory.
    Local(u64),
    Param(u32),
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
                    self.shared_home(warp, offset.into(), bytes)?
                }
                Target::Local { owner, offset } if owner == warp.local_owner(lane) => {
                    local_home(warp, offset.into(), bytes, lane)?
                }
                Target::Shared { .. } | Target::Local { .. } => return Err(MemoryFault::WrongOwner),
                Target::Param { offset } => param_home(warp, offset.into(), bytes, write)?,
                Target::Device { .. } | Target::Nothing => self.device_home(warp, address, bytes, write)?,
            },
            _ if address > u64::from(u32::MAX) && found_space(address).is_some() => {
                let found = found_space(address).unwrap_or_default();
                return Err(MemoryFault::WrongSpace { expected: space_name(space), found });
            }
            Space::Shared => self.shared_home(warp, address, bytes)?,
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

    fn shared_home(&self, warp: &Warp, offset: u64, bytes: u32) -> Result<Home, MemoryFault> {
        let size = self.ctas[warp.cta as usize].as_ref().map_or(0, |cta| cta.shared.len());
        if offset < u64::from(SHARED_BASE) || offset.saturating_add(u64::from(bytes)) > size {
            let base = i64::from(SHARED_BASE);
            return Err(MemoryFault::OutOfBounds {
                symbol: "shared memory".into(),
                offset: offset.cast_signed().saturating_sub(base),
                size: size.saturating_sub(u64::from(SHARED_BASE)),
            });
        }
        Ok(Home::Shared(offset as u32))
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
            Home::Shared(offset) => match &self.ctas[warp.cta as usize] {
                Some(cta) => (&cta.shared, u64::from(offset)),
                None => return Err(MemoryFault::NotAnAddress),
            },
            Home::Local(offset) => (&warp.local, offset),
        };
        if self.config.check_initialised
            && let Some(first) = segment.first_uninitialised(offset, bytes.into())
        {
            let symbol = match home {
                Home::Shared(_) => format!("`{}`", shared_symbol(code, first.cast_signed())),
                _ => format!("local memory+{}", first % u64::from(warp.local_bytes.max(1))),
            };
            return Err(MemoryFault::Uninitialised { symbol });
        }
        Ok(segment.span(offset, bytes.into()))
    }

    /// Shows an access to the observer.
    pub(super) fn show(&mut self, warp: &Warp, lane: u32, home: Home, bytes: u32, manner: Manner) {
        let Some(observer) = &mut self.observer else { return };
        let location = match home {
            Home::Device(address) => Location::Device(Address(address)),
            Home::Shared(offset) => Location::Shared(warp.cta_index, offset),
            Home::Local(_) | Home::Param(_) => return,
        };
        let Manner { order, scope, proxy, kind, line } = manner;
        observer.access(&Access { thread: warp.thread(lane), location, bytes, order, scope, proxy, kind, line });
    }

    pub(super) fn note_read(&self, warp: &mut Warp, home: Home, bytes: u32, pc: u32, lane: u32) {
        if !warp.probe.recording {
            return;
        }
        let (device, start) = match home {
            Home::Device(address) => (true, address),
            Home::Shared(offset) => (false, u64::from(offset)),
            Home::Local(_) | Home::Param(_) => return,
        };
        warp.probe.read(Watch { device, start, bytes, element: bytes, pc, lane });
    }

    #[inline]
    pub(super) fn load(
        &mut self,
        warp: &mut Warp,
        op: &MemoryOp,
        mask: u32,
        pc: u32,
        code: &KernelCode,
    ) -> Outcome<()> {
        let size = op.bytes * op.registers.len() as u32;
        if mask == u32::MAX
            && self.observer.is_none()
            && op.place.space != Space::Local
            && let Some((first, stride)) = warp.regular_addresses(&op.place, size)
            && self.load_whole(warp, op, first, stride, size, pc)
        {
            return Ok(());
        }
        self.load_lanes(warp, op, mask, size, pc, code)
    }

    /// A load of all lanes from one contiguous range, or from one place. False if it is neither, or wrong.
    #[inline]
    fn load_whole(&mut self, warp: &mut Warp, op: &MemoryOp, first: u64, stride: u32, size: u32, pc: u32) -> bool {
        let bytes = if stride == 0 { size } else { 32 * size };
        if !first.is_multiple_of(u64::from(size)) {
            return false;
        }
        let (rank, check) = (warp.rank, self.config.check_initialised);
        let (device, source) = if device_space(op.place.space, first) {
            // The traffic of a refused access is of no interest: the run ends there.
            match self.memory.read_device(Some(rank), first, bytes.into()) {
                Ok(source) => (true, source),
                Err(_) => return false,
            }
        } else if op.place.space == Space::Shared {
            let Some(cta) = &self.ctas[warp.cta as usize] else { return false };
            if first < u64::from(SHARED_BASE) || !cta.shared.holds(first.cast_signed(), bytes.into()) {
                return false;
            }
            if check && cta.shared.first_uninitialised(first, bytes.into()).is_some() {
                return false;
            }
            (false, cta.shared.span(first, bytes.into()))
        } else if op.place.space == Space::Param && stride == 0 {
            let parameters = Arc::clone(&warp.parameters);
            let Some(source) = parameters.get(first as usize..).and_then(|rest| rest.get(..size as usize)) else {
                return false;
            };
            let mut element = [0; 32];
            element[..size as usize].copy_from_slice(source);
            broadcast(warp, op, &element);
            return true;
        } else {
            return false;
        };
        if stride == 0 {
            let mut element = [0; 32];
            element[..size as usize].copy_from_slice(source);
            if device {
                // Every lane reads; the other 31 have not been counted yet.
                self.memory.count_more_reads(rank, first, u64::from(size) * 31);
            }
            broadcast(warp, op, &element);
        } else {
            distribute(warp, op, source);
        }
        if warp.probe.recording {
            warp.probe.read(Watch { device, start: first, bytes, element: size, pc, lane: 0 });
        }
        true
    }

    fn load_lanes(
        &mut self,
        warp: &mut Warp,
        op: &MemoryOp,
        mask: u32,
        size: u32,
        pc: u32,
        code: &KernelCode,
    ) -> Outcome<()> {
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
            if let [Some(reg)] = op.registers.as_slice() {
                let value = extended(self.bytes_at(warp, code, home, size).map_err(fail)?, op.signed);
                warp.set_value(*reg, lane, value);
                self.after_read(warp, home, size, pc, lane, manner);
                continue;
            }
            let mut element = [0; 32];
            copy_element(&mut element[..size as usize], self.bytes_at(warp, code, home, size).map_err(fail)?);
            for (part, reg) in element[..size as usize].chunks_exact(op.bytes as usize).zip(&op.registers) {
                if let Some(reg) = reg {
                    warp.set_value(*reg, lane, extended(part, op.signed));
                }
            }
            self.after_read(warp, home, size, pc, lane, manner);
        }
        Ok(())
    }

    #[inline]
    fn after_read(&mut self, warp: &mut Warp, home: Home, bytes: u32, pc: u32, lane: u32, manner: Manner) {
        self.note_read(warp, home, bytes, pc, lane);
        if self.observer.is_some() {
            self.show(warp, lane, home, bytes, manner);
        }
    }

    #[inline]
    pub(super) fn store(
        &mut self,
        warp: &mut Warp,
        op: &MemoryOp,
        mask: u32,
        pc: u32,
        code: &KernelCode,
    ) -> Outcome<()> {
        let size = op.bytes * op.registers.len() as u32;
        if op.place.space == Space::Local {
            return self.store_lanes(warp, op, mask, size, pc, code);
        }
        warp.effects += 1;
        if mask == u32::MAX
            && self.observer.is_none()
            && let Some((first, stride)) = warp.regular_addresses(&op.place, size)
            && stride == size
            && first.is_multiple_of(u64::from(size))
        {
            let bytes = u64::from(size) * 32;
            if device_space(op.place.space, first) {
                if let Ok(target) = self.memory.write_device(Some(warp.rank), first, bytes) {
                    collect(warp, op, target);
                    return Ok(());
                }
            } else if op.place.space == Space::Shared
                && let Some(cta) = &mut self.ctas[warp.cta as usize]
                && first >= u64::from(SHARED_BASE)
                && cta.shared.holds(first.cast_signed(), bytes)
            {
                collect(warp, op, cta.shared.span_mut(first, bytes, &mut self.memory.woken));
                return Ok(());
            }
        }
        self.store_lanes(warp, op, mask, size, pc, code)
    }

    fn store_lanes(
        &mut self,
        warp: &mut Warp,
        op: &MemoryOp,
        mask: u32,
        size: u32,
        pc: u32,
        code: &KernelCode,
    ) -> Outcome<()> {
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
            let mut element = [0; 32];
            for (part, reg) in element[..size as usize].chunks_exact_mut(op.bytes as usize).zip(&op.registers) {
                if let Some(reg) = reg {
                    put_low_bytes(part, warp.value(*reg, lane));
                }
            }
            self.put(warp, home, &element[..size as usize]).map_err(|fault| bad_access(lane, address, size, fault))?;
            if self.observer.is_some() {
                self.show(warp, lane, home, size, manner);
            }
        }
        Ok(())
    }

    /// Writes to a checked place.
    pub(super) fn put(&mut self, warp: &mut Warp, home: Home, bytes: &[u8]) -> Result<(), MemoryFault> {
        let size = bytes.len() as u64;
        match home {
            Home::Device(address) => {
                warp.effects += 1;
                copy_element(self.memory.write_device(Some(warp.rank), address, size)?, bytes);
            }
            Home::Shared(offset) => {
                warp.effects += 1;
                if let Some(cta) = &mut self.ctas[warp.cta as usize] {
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

    /// Copies bytes inside each lane's local memory, with what is known of their initialisation.
    pub(super) fn copy_local(&mut self, warp: &mut Warp, from: u32, to: u32, bytes: u32, mask: u32) {
        for lane in lanes(mask) {
            let base = u64::from(lane) * u64::from(warp.local_bytes);
            for at in 0..u64::from(bytes) {
                let (source, target) = (base + u64::from(from) + at, base + u64::from(to) + at);
                if warp.local.first_uninitialised(source, 1).is_some() {
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

#[inline(always)]
fn device_space(space: Space, address: u64) -> bool {
    matches!(space, Space::Global | Space::Generic) && is_device(address)
}

/// Whether all that [`Machine::resolve`] would check is what reading or writing device memory checks itself.
#[inline(always)]
fn plain_device(space: Space, address: u64, bytes: u32) -> bool {
    device_space(space, address) && address.is_multiple_of(u64::from(bytes))
}

/// A little-endian value, extended to 128 bits.
#[inline]
fn extended(bytes: &[u8], signed: bool) -> u128 {
    let value = zero_extended(bytes);
    if !signed || bytes.len() >= 16 {
        return value;
    }
    let unused = 128 - 8 * bytes.len() as u32;
    ((value << unused).cast_signed() >> unused).cast_unsigned()
}

fn broadcast(warp: &mut Warp, op: &MemoryOp, element: &[u8; 32]) {
    for (part, reg) in element.chunks_exact(op.bytes as usize).zip(&op.registers) {
        let Some(reg) = *reg else { continue };
        let value = extended(part, op.signed).to_le_bytes();
        let width = reg.bytes as usize;
        let row = warp.row_mut(reg.row, reg.bytes);
        match width {
            4 => row.as_chunks_mut::<4>().0.fill([value[0], value[1], value[2], value[3]]),
            8 => {
                let value = u128::from_le_bytes(value) as u64;
                row.as_chunks_mut::<8>().0.fill(value.to_le_bytes());
            }
            _ => row.chunks_exact_mut(width).for_each(|lane| lane.copy_from_slice(&value[..width])),
        }
    }
}

/// Registers that all exist and are as wide as the elements.
fn exact<const N: usize>(op: &MemoryOp) -> Option<[u32; N]> {
    let registers: &[Option<Reg>; N] = op.registers.as_slice().try_into().ok()?;
    let mut rows = [0; N];
    for (row, reg) in rows.iter_mut().zip(registers) {
        let reg = (*reg)?;
        if reg.bytes != op.bytes {
            return None;
        }
        *row = reg.row;
    }
    Some(rows)
}

/// Where four rows of 32-bit registers begin; each has 128 bytes.
#[inline(always)]
fn four_rows(warp: &mut Warp, rows: [u32; 4]) -> [*mut [u8; 16]; 4] {
    let mut row = |index: usize| warp.row_mut(rows[index], 4).as_mut_ptr().cast();
    [row(0), row(1), row(2), row(3)]
}

/// Transposes four times four words, from four places to four places.
///
/// # Safety
/// Every pointer is valid for 16 bytes; places read and written do not overlap.
#[inline(always)]
unsafe fn transpose(from: [*const [u8; 16]; 4], to: [*mut [u8; 16]; 4]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{
            _mm_loadu_si128, _mm_storeu_si128, _mm_unpackhi_epi32, _mm_unpackhi_epi64, _mm_unpacklo_epi32,
            _mm_unpacklo_epi64,
        };
        // SAFETY: SSE2 is part of x86-64; the pointers are valid as the caller says.
        unsafe {
            let a = _mm_loadu_si128(from[0].cast());
            let b = _mm_loadu_si128(from[1].cast());
            let c = _mm_loadu_si128(from[2].cast());
            let d = _mm_loadu_si128(from[3].cast());
            let (ab, cd) = (_mm_unpacklo_epi32(a, b), _mm_unpacklo_epi32(c, d));
            let (ef, gh) = (_mm_unpackhi_epi32(a, b), _mm_unpackhi_epi32(c, d));
            _mm_storeu_si128(to[0].cast(), _mm_unpacklo_epi64(ab, cd));
            _mm_storeu_si128(to[1].cast(), _mm_unpackhi_epi64(ab, cd));
            _mm_storeu_si128(to[2].cast(), _mm_unpacklo_epi64(ef, gh));
            _mm_storeu_si128(to[3].cast(), _mm_unpackhi_epi64(ef, gh));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    for (row, from) in from.into_iter().enumerate() {
        for (column, to) in to.into_iter().enumerate() {
            // SAFETY: word `column` of a place read and word `row` of a place written.
            unsafe { to.cast::<[u8; 4]>().add(row).write(from.cast::<[u8; 4]>().add(column).read()) };
        }
    }
}

/// Contiguous memory to registers: element e of lane l is number `l × elements + e`.
fn distribute(warp: &mut Warp, op: &MemoryOp, source: &[u8]) {
    if let Some([row]) = exact::<1>(op) {
        warp.row_mut(row, op.bytes).copy_from_slice(source);
    } else if let (Some(rows), 4) = (exact::<4>(op), op.bytes) {
        let rows = four_rows(warp, rows);
        for (block, lanes) in source.as_chunks::<64>().0.iter().enumerate().take(8) {
            let lanes: *const [u8; 16] = lanes.as_ptr().cast();
            // SAFETY: 64 bytes of memory, and 16 of the 128 bytes of each row; registers are not device memory.
            unsafe {
                let from = [lanes, lanes.add(1), lanes.add(2), lanes.add(3)];
                transpose(from, [rows[0].add(block), rows[1].add(block), rows[2].add(block), rows[3].add(block)]);
            }
        }
    } else {
        let size = op.bytes as usize * op.registers.len();
        for (lane, element) in source.chunks_exact(size).enumerate() {
            for (part, reg) in element.chunks_exact(op.bytes as usize).zip(&op.registers) {
                if let Some(reg) = reg {
                    warp.set_value(*reg, lane as u32, extended(part, op.signed));
                }
            }
        }
    }
}

/// Registers to contiguous memory.
fn collect(warp: &mut Warp, op: &MemoryOp, target: &mut [u8]) {
    if let Some([row]) = exact::<1>(op) {
        target.copy_from_slice(warp.row(row, op.bytes));
    } else if let (Some(rows), 4) = (exact::<4>(op), op.bytes) {
        let rows = four_rows(warp, rows).map(<*mut [u8; 16]>::cast_const);
        for (block, lanes) in target.as_chunks_mut::<64>().0.iter_mut().enumerate().take(8) {
            let lanes: *mut [u8; 16] = lanes.as_mut_ptr().cast();
            // SAFETY: as in `distribute`.
            unsafe {
                let from = [rows[0].add(block), rows[1].add(block), rows[2].add(block), rows[3].add(block)];
                transpose(from, [lanes, lanes.add(1), lanes.add(2), lanes.add(3)]);
            }
        }
    } else {
        let size = op.bytes as usize * op.registers.len();
        for (lane, element) in target.chunks_exact_mut(size).enumerate() {
            for (part, reg) in element.chunks_exact_mut(op.bytes as usize).zip(&op.registers) {
                if let Some(reg) = reg {
                    put_low_bytes(part, warp.value(*reg, lane as u32));
                }
            }
        }
    }
}
