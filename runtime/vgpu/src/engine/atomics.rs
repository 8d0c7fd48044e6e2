//! Atomics and reductions: one indivisible step per lane, in lane order. Of a vector each element is atomic by itself.

use super::Machine;
use super::access::{Home, Manner};
use super::arithmetic::{combine, combine_in_device};
use super::flight::DeviceAccess;
use super::warp::{Outcome, Warp, bad_access, lanes, put_low_bytes, zero_extended};
use crate::decode::op::{AtomicKind, AtomicOp, KernelCode};
use crate::memory::{MemoryFault, Order, Proxy};
use crate::observer::AccessKind;

impl Machine {
    pub(super) fn atomic(
        &mut self,
        warp: &mut Warp,
        op: &AtomicOp,
        mask: u32,
        pc: u32,
        code: &KernelCode,
    ) -> Outcome<()> {
        let bytes = op.element.bytes();
        let elements = op.targets.len() as u32;
        for lane in lanes(mask) {
            let (address, home) = self.place_of(warp, &op.place, bytes * elements, lane, true)?;
            if let Home::Shared { cta, offset } = home {
                self.meet_copies(warp, code, pc, lane, (cta, offset, bytes), true)?;
            }
            if let Home::Device(start) = home {
                let access = DeviceAccess { start, bytes: bytes * elements, write: true, strong: true };
                self.meet_device_copies(warp, code, pc, lane, access, "")?;
            }
            if elements > 1 && !matches!(home, Home::Device(_)) {
                let fault = MemoryFault::WrongSpace { expected: "global", found: "shared" };
                return Err(bad_access(lane, address, bytes * elements, fault));
            }
            // What the instruction reads, before it writes its first register.
            let mut values = [0; 8];
            for (value, reg) in values.iter_mut().zip(&op.sources) {
                *value = warp.value(*reg, lane);
            }
            for (element, target) in (0..elements).zip(op.targets.iter()) {
                let home = home.behind(element * bytes);
                // A vector has no compare-and-swap, which alone has a second operand.
                let (b, c) = (values[element as usize], values[1]);
                let combine = if matches!(home, Home::Device(_)) { combine_in_device } else { combine };
                let failed = |old: u128| op.kind == AtomicKind::CompareSwap && (old ^ b) << (128 - 8 * bytes) != 0;
                let change = |old| combine(op.kind, op.element, old, b, c);
                let line = code.lines[pc as usize];
                let manner = |kind, order| Manner { order, scope: op.scope, proxy: Proxy::Generic, kind, line };
                let old = if self.observers.weak().is_some() {
                    let written = |old| (!failed(old)).then(|| change(old));
                    let manner = manner(AccessKind::Atomic, op.order);
                    self.update_weakly(warp, code, (lane, home, bytes), manner, written)
                } else {
                    self.update(warp, code, home, bytes, change)
                };
                let old = old.map_err(|fault| bad_access(lane, address, bytes * elements, fault))?;
                if let Some(target) = *target {
                    warp.set_value(target, lane, old);
                }
                self.note_read(warp, home, bytes, pc, lane);
                if !self.observers.is_empty() {
                    // A compare-and-swap that fails writes nothing, so that nothing is released.
                    let manner = if failed(old) {
                        manner(AccessKind::Read, of_reading(op.order))
                    } else {
                        manner(AccessKind::Atomic, op.order)
                    };
                    self.show(warp, lane, home, bytes, manner);
                }
            }
        }
        Ok(())
    }

    /// Replaces the value of a checked place and returns the old one. It is an effect only if the value changes.
    pub(super) fn update(
        &mut self,
        warp: &mut Warp,
        code: &KernelCode,
        home: Home,
        bytes: u32,
        change: impl FnOnce(u128) -> u128,
    ) -> Result<u128, MemoryFault> {
        let mut before = 0;
        let apply = |old: &[u8], new: &mut [u8]| {
            before = zero_extended(old);
            put_low_bytes(new, change(before));
        };
        let changed = match home {
            Home::Device(address) => self.memory.update_device(warp.rank, address, bytes.into(), apply)?,
            Home::Shared { cta: slot, offset } => {
                let offset = u64::from(offset);
                let checked = self.ctas[slot as usize].as_ref().filter(|_| self.config.check_initialised);
                if let Some(first) = checked.and_then(|cta| cta.shared.first_uninitialised(offset, bytes.into())) {
                    let symbol = self.shared_name(warp.cta, code, slot, first.cast_signed());
                    return Err(MemoryFault::Uninitialised { symbol });
                }
                let Some(cta) = &mut self.ctas[slot as usize] else { return Err(MemoryFault::NotAnAddress) };
                cta.shared.update(offset, bytes.into(), &mut self.memory.woken, apply)
            }
            Home::Local(_) => return Err(MemoryFault::WrongSpace { expected: "global or .shared", found: "local" }),
            Home::Param(_) => return Err(MemoryFault::WrongSpace { expected: "global or .shared", found: "param" }),
        };
        warp.effects += u64::from(changed);
        Ok(before)
    }
}

/// What is left of an order where nothing is written.
fn of_reading(order: Order) -> Order {
    match order {
        Order::AcqRel | Order::SeqCst => Order::Acquire,
        Order::Release => Order::Relaxed,
        Order::Weak | Order::Volatile | Order::Relaxed | Order::Acquire => order,
    }
}
