//! Accesses to the copies of a place on several ranks at once.
//!
//! Invariant: each copy is accessed as an access to its own address would be, one after the other, with the order and scope of the
//! instruction.

use super::Machine;
use super::access::{Home, Manner};
use super::arithmetic::{combine, combine_in_device};
use super::flight::DeviceAccess;
use super::warp::{Outcome, Warp, bad_access, lanes, put_low_bytes, zero_extended};
use crate::decode::op::{AtomicKind, KernelCode, MultimemKind, MultimemOp};
use crate::memory::{MemoryFault, Order, Proxy};
use crate::observer::AccessKind;
use crate::ptx::ScalarType;
use crate::semantics::convert::{Narrow, bf16_to_f64, f16_to_f64, to_bf16, to_e4m3, to_e5m2, to_f16};
use crate::semantics::float::{Rounding, max, min};
use crate::semantics::matrix::Fragment;

/// Bytes of the widest access.
const MOST: usize = 16;

impl Machine {
    pub(super) fn multimem(
        &mut self,
        warp: &mut Warp,
        op: &MultimemOp,
        mask: u32,
        pc: u32,
        code: &KernelCode,
    ) -> Outcome<()> {
        let (width, bytes) = (op.bytes as usize, op.bytes * op.registers.len() as u32);
        let (line, strong) = (code.lines[pc as usize], op.order != Order::Weak);
        for lane in lanes(mask) {
            let address = warp.address(&op.place, lane);
            let fail = |fault| bad_access(lane, address, bytes, fault);
            if !address.is_multiple_of(bytes.into()) {
                return Err(fail(MemoryFault::Misaligned { align: bytes }));
            }
            let places = self.memory.places(address, bytes.into()).map_err(fail)?;
            let mut given = [0; MOST];
            for (part, reg) in given.chunks_exact_mut(width).zip(op.registers.iter().flatten()) {
                put_low_bytes(part, warp.value(*reg, lane));
            }
            let mut copies: Vec<[u8; MOST]> = Vec::with_capacity(places.len());
            for at in places {
                let write = !matches!(op.kind, MultimemKind::LoadReduce(_));
                let access = DeviceAccess { start: at, bytes, write, strong };
                self.meet_device_copies(warp, code, pc, lane, access, "")?;
                let (by, home) = (warp.rank, Home::Device(at));
                let is_weak = self.observers.weak().is_some();
                let manner = |kind| Manner { order: op.order, scope: op.scope, proxy: Proxy::Generic, kind, line };
                let kind = match op.kind {
                    MultimemKind::LoadReduce(_) => {
                        let read = self.memory.read_device(Some(by), at, bytes.into()).map_err(fail)?;
                        let mut copy = [0; MOST];
                        copy[..bytes as usize].copy_from_slice(read);
                        if is_weak {
                            let unit = op.unit.bytes();
                            for (index, part) in (0u32..).zip(copy[..bytes as usize].chunks_exact_mut(unit as usize)) {
                                let home = home.behind(index * unit);
                                let access = self.as_access(warp, lane, home, unit, manner(AccessKind::Read));
                                let weak = self.observers.weak();
                                let older = access.zip(weak).and_then(|(access, weak)| weak.read(&access));
                                if let Some(older) = older {
                                    part.copy_from_slice(&older.bytes[..unit as usize]);
                                    warp.effects += 1;
                                }
                            }
                        }
                        copies.push(copy);
                        self.note_read(warp, home, bytes, pc, lane);
                        AccessKind::Read
                    }
                    MultimemKind::Store => {
                        let given = &given[..bytes as usize];
                        let put = if is_weak {
                            self.store_weakly(warp, op.bytes, (lane, home), given, &[], manner(AccessKind::Write))
                        } else {
                            self.put(warp, home, given)
                        };
                        put.map_err(fail)?;
                        AccessKind::Write
                    }
                    MultimemKind::Reduce(kind) => {
                        let unit = op.unit.bytes();
                        for (index, part) in (0u32..).zip(given[..bytes as usize].chunks_exact(unit as usize)) {
                            let part = zero_extended(part);
                            let home = home.behind(index * unit);
                            let change = |old| combine_in_device(kind, op.unit, old, part, 0);
                            let changed = if is_weak {
                                let manner = manner(AccessKind::Atomic);
                                self.update_weakly(warp, code, (lane, home, unit), manner, |old| Some(change(old)))
                            } else {
                                self.update(warp, code, home, unit, change)
                            };
                            changed.map_err(fail)?;
                        }
                        warp.effects += 1;
                        AccessKind::Atomic
                    }
                };
                if !self.observers.is_empty() {
                    self.show(warp, lane, home, bytes, manner(kind));
                }
            }
            if let MultimemKind::LoadReduce(kind) = op.kind {
                let result = reduced(kind, op, &copies, bytes as usize);
                for (part, reg) in result.chunks_exact(width).zip(op.registers.iter().flatten()) {
                    warp.set_value(*reg, lane, zero_extended(part));
                }
            }
        }
        Ok(())
    }
}

/// All copies combined, element by element.
fn reduced(kind: AtomicKind, op: &MultimemOp, copies: &[[u8; MOST]], bytes: usize) -> [u8; MOST] {
    let width = op.unit.bytes() as usize;
    let mut result = [0; MOST];
    for at in (0..bytes).step_by(width) {
        let mut values = copies.iter().map(|copy| zero_extended(&copy[at..at + width]));
        let value = if let Some(float) = op.small {
            let values = values.map(|bits| float.value(bits as u64));
            let value = reduced_small(kind, op.wide, values);
            if float == Fragment::E4m3 { to_e4m3(value, NEAREST) } else { to_e5m2(value, NEAREST) }.into()
        } else if op.wide {
            summed_once(op.unit, values)
        } else {
            let first = values.next().unwrap_or(0);
            values.fold(first, |sum, value| combine(kind, op.unit, sum, value, 0))
        };
        put_low_bytes(&mut result[at..at + width], value);
    }
    result
}

const NEAREST: Narrow = Narrow { mode: Rounding::Nearest, finite: false, relu: false };

/// Floats of 8 bits, summed in single precision or in that of f16, and rounded to their type at the end. PTX does not say in which
/// precision they are summed where none is stated.
fn reduced_small(kind: AtomicKind, wide: bool, values: impl Iterator<Item = f64>) -> f64 {
    let step = |a: f64, b: f64| match kind {
        AtomicKind::Min => min(a, b),
        AtomicKind::Max => max(a, b),
        _ if wide => f64::from((a + b) as f32),
        _ => f16_to_f64(to_f16(a + b, NEAREST)),
    };
    values.reduce(step).unwrap_or(0.0)
}

/// The sum of 16-bit floats in single precision, rounded at the end.
fn summed_once(unit: ScalarType, values: impl Iterator<Item = u128>) -> u128 {
    let brain = unit == ScalarType::Bf16;
    let widened = |bits: u128| if brain { bf16_to_f64(bits as u16) } else { f16_to_f64(bits as u16) } as f32;
    let sum = f64::from(values.map(widened).fold(-0.0f32, |sum, value| sum + value));
    if brain { to_bf16(sum, NEAREST) } else { to_f16(sum, NEAREST) }.into()
}
