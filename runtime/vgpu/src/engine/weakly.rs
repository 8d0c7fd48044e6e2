//! Loads, stores and atomics where memory is weak: what is read and where a write comes is for [`crate::weak`] to say; here memory is
//! brought in line with it.
//!
//! Invariant: memory holds the last value of every word. A read of an older one is an effect, so that a loop that has seen one is not taken
//! for a loop that waits.

use super::Machine;
use super::access::{Home, Manner};
use super::warp::{Warp, copy_element, put_low_bytes, zero_extended};
use crate::decode::op::{KernelCode, MemoryOp};
use crate::memory::{Address, MemoryFault};
use crate::observer::{Access, Location};
use crate::weak::Update;
use crate::weak::history::Content;

impl Machine {
    /// An access as observers see it; none if no other thread can see it.
    pub(super) fn as_access(&self, warp: &Warp, lane: u32, home: Home, bytes: u32, manner: Manner) -> Option<Access> {
        let location = match home {
            Home::Device(address) => Location::Device(Address(address)),
            Home::Shared { cta, offset } => {
                let index = self.ctas[cta as usize].as_ref().map_or(warp.cta_index, |cta| cta.index);
                Location::Shared(index, offset)
            }
            Home::Local(_) | Home::Param(_) => return None,
        };
        let Manner { order, scope, proxy, kind, line } = manner;
        Some(Access { thread: warp.thread(lane), location, bytes, order, scope, proxy, kind, line, copy: None })
    }

    /// Something has been written that is not explored.
    pub(super) fn overwrite(&mut self, warp: &Warp, lane: u32, home: Home, bytes: u32, manner: Manner) {
        if let (Some(access), Some(weak)) = (self.as_access(warp, lane, home, bytes, manner), self.observers.weak()) {
            weak.overwrite(&access);
        }
    }

    /// Replaces what a lane has loaded by what it reads, element by element. The bytes that are not defined then, if any are not that were
    /// in memory.
    pub(super) fn load_weakly(
        &mut self,
        warp: &mut Warp,
        op: &MemoryOp,
        (lane, home): (u32, Home),
        element: &mut [u8],
        missing: &mut u32,
        manner: Manner,
    ) {
        let width = op.bytes as usize;
        for (index, part) in element.chunks_exact_mut(width).enumerate() {
            let at = (index * width) as u32;
            let Some(access) = self.as_access(warp, lane, home.behind(at), op.bytes, manner) else { return };
            let Some(older) = self.observers.weak().and_then(|weak| weak.read(&access)) else { continue };
            copy_element(part, &older.bytes[..width]);
            *missing = *missing & !(((1u64 << width) - 1) as u32) << at | u32::from(older.missing) << at;
            warp.effects += 1;
        }
    }

    /// Stores what a lane stores, element by element; `missing` says which bytes are not defined.
    pub(super) fn store_weakly(
        &mut self,
        warp: &mut Warp,
        width: u32,
        (lane, home): (u32, Home),
        element: &[u8],
        missing: &[u64],
        manner: Manner,
    ) -> Result<(), MemoryFault> {
        if let Home::Device(address) = home {
            self.memory.locate(Some(warp.rank), address, element.len() as u64, true)?;
        }
        for (index, part) in element.chunks_exact(width as usize).enumerate() {
            let at = index as u32 * width;
            let home = home.behind(at);
            let here = |byte: &u64| missing.contains(&(u64::from(at) + byte));
            let undefined: Vec<u64> = (0..u64::from(width)).filter(here).collect();
            let new = Content::new(part, |byte| undefined.contains(&byte));
            let old = self.content(warp, home, width);
            let access = self.as_access(warp, lane, home, width, manner);
            let last = match (access, old, self.observers.weak()) {
                (Some(access), Some(old), Some(weak)) => weak.write(&access, old, new),
                _ => true,
            };
            if last {
                self.store_defined(warp, home, part, undefined)?;
            } else {
                warp.effects += 1;
                self.count_write(warp, home, width);
            }
        }
        Ok(())
    }

    /// What a word in memory holds.
    fn content(&self, warp: &Warp, home: Home, bytes: u32) -> Option<Content> {
        let (segment, offset) = self.segment_at(warp, home)?;
        let is_missing = |at: u64| segment.first_uninitialised(offset + at, 1).is_some();
        let checked = self.config.check_initialised;
        Some(Content::new(segment.span(offset, bytes.into()), |at| checked && is_missing(at)))
    }

    fn count_write(&mut self, warp: &Warp, home: Home, bytes: u32) {
        if let Home::Device(address) = home
            && let Ok((owner, ..)) = self.memory.locate(None, address, 0, false)
        {
            self.memory.traffic.add_written(warp.rank, owner, bytes.into());
        }
    }

    /// As [`Machine::update`]: replaces a value that has been read by another one, or leaves it if there is none.
    pub(super) fn update_weakly(
        &mut self,
        warp: &mut Warp,
        code: &KernelCode,
        (lane, home, bytes): (u32, Home, u32),
        manner: Manner,
        change: impl Fn(u128) -> Option<u128>,
    ) -> Result<u128, MemoryFault> {
        // Checks and counts, and changes nothing.
        let present = self.update(warp, code, home, bytes, |old| old)?;
        let content = |value: u128| {
            let mut content = Content::default();
            put_low_bytes(&mut content.bytes[..bytes as usize], value);
            content
        };
        let (Some(access), Some(weak)) = (self.as_access(warp, lane, home, bytes, manner), self.observers.weak())
        else {
            return Ok(present);
        };
        let value = |content: &Content| zero_extended(&content.bytes[..bytes as usize]);
        let change = |old: &Content| change(value(old)).map_or(Update::Reads, |new| Update::Writes(content(new)));
        let (read, update, last) = weak.update(&access, content(present), change);
        warp.effects += u64::from(!last || value(&read) != present);
        if let (Update::Writes(new), true) = (update, last) {
            let changed = self.memory_at(warp, home, |segment, woken, offset| {
                segment.store_changed(offset, &new.bytes[..bytes as usize], woken)
            });
            warp.effects += u64::from(changed);
        }
        Ok(value(&read))
    }
}
