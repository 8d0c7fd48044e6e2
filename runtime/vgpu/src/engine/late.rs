//! Loads and atomic accesses that are late, where memory is weak: a thread goes on while what it reads is still open, as on hardware. So
//! it may read what another thread wrote after it had seen a later write of this one (load buffering). A store of what is late waits for it.
//!
//! Invariant: nothing that could notice comes before what is late: it is carried out in front of whatever uses or changes one of its
//! registers, accesses the same bytes in the same lane, or lets others know what came before: releases, barriers, fences. What orders for
//! threads of which none is left, and takes up nothing of those that were, orders nothing.

use super::access::Manner;
use super::warp::{Outcome, Split, Warp, lanes};
use super::{Machine, Stream};
use crate::decode::op::{FenceKind, GUARD_NOT, KernelCode, NO_GUARD, OFFSET_MASK, Op, Place, Slot, Space};
use crate::memory::{Order, Proxy, Scope};
use crate::observer::AccessKind;

/// Of a warp, so many are late at once.
const MOST_LATE: usize = 4;

/// Lanes that have passed a step without carrying it out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Late {
    pc: u32,
    mask: u32,
}

/// What an access touches that may be late or pass one that is.
struct Touched<'o> {
    place: &'o Place,
    bytes: u32,
}

impl Touched<'_> {
    /// Of an access, with its order and scope.
    fn of(op: &Op) -> Option<(Touched<'_>, Order, Scope)> {
        match op {
            Op::Load(op) | Op::Store(op) => Some((Touched { place: &op.place, bytes: op.size() }, op.order, op.scope)),
            Op::Atomic(op) => {
                let bytes = op.element.bytes() * op.targets.len() as u32;
                Some((Touched { place: &op.place, bytes }, op.order, op.scope))
            }
            _ => None,
        }
    }
}

fn overlap(warp: &Warp, a: &Touched, b: &Touched, mask: u32) -> bool {
    let is_shared = |place: &Place| place.space == Space::Shared;
    if is_shared(a.place) != is_shared(b.place) {
        // A generic address may be one of shared memory.
        return a.place.space == Space::Generic || b.place.space == Space::Generic;
    }
    // A place in shared memory has several addresses, which differ above its offset.
    let bits = if is_shared(a.place) { OFFSET_MASK.into() } else { u64::MAX };
    lanes(mask).any(|lane| {
        let (first, second) = (warp.address(a.place, lane) & bits, warp.address(b.place, lane) & bits);
        first < second.saturating_add(b.bytes.into()) && second < first.saturating_add(a.bytes.into())
    })
}

impl Machine {
    /// Lets a step be late if it can be; whether it is.
    pub(super) fn make_late(&mut self, warp: &mut Warp, code: &KernelCode, pc: u32, mask: u32) -> bool {
        let op = &code.steps[pc as usize].op;
        let can_be = match op {
            Op::Load(load) => load.proxy == Proxy::Generic,
            Op::Atomic(_) => true,
            _ => false,
        };
        let Some((touched, order, scope)) = Touched::of(op).filter(|_| can_be && warp.late.len() < MOST_LATE) else {
            return false;
        };
        let late = matches!(touched.place.space, Space::Generic | Space::Global | Space::Shared)
            && self.random.below(4) == 0
            && (is_relaxed(order)
                || self.is_alone(warp, scope) && self.hears_nobody(warp, op, (pc, mask), code, scope));
        if late {
            warp.late.push(Late { pc, mask });
        }
        late
    }

    /// Carries out what must not be later than the next step of a split, which is then at the step to blame if that fails.
    pub(super) fn settle(&mut self, warp: &mut Warp, code: &KernelCode, split: &mut Split) -> Outcome<()> {
        let pc = split.pc;
        let last = (0..warp.late.len()).rfind(|at| {
            let late = warp.late[*at];
            late.mask & split.mask != 0 && !self.may_pass(warp, code, late, split)
        });
        // What waits for another one stands behind it.
        for _ in 0..last.map_or(0, |last| last + 1) {
            let late = warp.late.remove(0);
            split.pc = late.pc;
            match &code.steps[late.pc as usize].op {
                Op::Load(op) => {
                    self.load_lanes(warp, op, late.mask, late.pc, code)?;
                }
                Op::Store(op) => self.store_lanes(warp, op, late.mask, late.pc, code)?,
                Op::Atomic(op) => self.atomic(warp, op, late.mask, late.pc, code)?,
                _ => {}
            }
            split.pc = pc;
        }
        Ok(())
    }

    /// Lets the next step of a split wait if it stores what is late; whether it does. Where it stores, and in which lanes, has to be known.
    pub(super) fn wait_for_value(&mut self, warp: &mut Warp, code: &KernelCode, split: &Split) -> bool {
        let step = &code.steps[split.pc as usize];
        let Op::Store(op) = &step.op else { return false };
        if !is_relaxed(op.order) || warp.late.len() == MOST_LATE || warp.undefined.is_some() {
            return false;
        }
        let open = |slot: &Slot| {
            let mut late = warp.late.iter().filter(|late| late.mask & split.mask != 0);
            late.any(|late| code.operands[late.pc as usize].defines.contains(slot))
        };
        let predicate = step.guard & !GUARD_NOT;
        let guard = (step.guard != NO_GUARD).then_some(Slot::Predicate(predicate));
        let place = op.place.base.map(Slot::Register);
        if !code.operands[split.pc as usize].uses.iter().any(open) || place.iter().chain(&guard).any(open) {
            return false;
        }
        let mask = match step.guard {
            NO_GUARD => split.mask,
            guard if guard & GUARD_NOT == 0 => split.mask & warp.predicate(predicate),
            _ => split.mask & !warp.predicate(predicate),
        };
        let stored = Touched { place: &op.place, bytes: op.size() };
        let meets = |late: &Late| {
            let other = Touched::of(&code.steps[late.pc as usize].op);
            other.is_some_and(|(other, ..)| overlap(warp, &stored, &other, late.mask & mask))
        };
        if mask == 0 || warp.late.iter().any(meets) || self.random.below(2) == 0 {
            return false;
        }
        warp.late.push(Late { pc: split.pc, mask });
        true
    }

    /// Whether the next step of a split can come before what is late.
    fn may_pass(&mut self, warp: &Warp, code: &KernelCode, late: Late, split: &Split) -> bool {
        let (step, before) = (&code.operands[split.pc as usize], &code.operands[late.pc as usize]);
        let meets = |some: &[_], others: &[_]| some.iter().any(|slot| others.contains(slot));
        if meets(&step.uses, &before.defines)
            || meets(&step.defines, &before.defines)
            || meets(&step.defines, &before.uses)
        {
            return false;
        }
        match &code.steps[split.pc as usize].op {
            Op::Alu { .. } | Op::Scalar(_) | Op::Nothing => true,
            Op::Branch { target } => *target > split.pc,
            Op::Fence { kind: FenceKind::Memory(_), scope } => {
                let op = &code.steps[late.pc as usize].op;
                self.is_alone(warp, *scope) && self.hears_nobody(warp, op, (late.pc, late.mask), code, *scope)
            }
            op => match (Touched::of(op), Touched::of(&code.steps[late.pc as usize].op)) {
                (Some((touched, order, scope)), Some((other, ..))) => {
                    (is_relaxed(order) || order == Order::Acquire || self.is_alone(warp, scope))
                        && !overlap(warp, &touched, &other, late.mask & split.mask)
                }
                _ => false,
            },
        }
    }

    /// Whether an access of one lane finds nothing in memory that threads within a scope wrote or released.
    fn hears_nobody(&mut self, warp: &Warp, op: &Op, (pc, mask): (u32, u32), code: &KernelCode, scope: Scope) -> bool {
        let Some((touched, order, own)) = Touched::of(op).filter(|(touched, ..)| touched.bytes <= 16) else {
            return false;
        };
        let lane = mask.trailing_zeros();
        let Ok((_, home)) = self.place_of(warp, touched.place, touched.bytes, lane, false) else { return false };
        let line = code.lines[pc as usize];
        let manner = Manner { order, scope: own, proxy: Proxy::Generic, kind: AccessKind::Read, line };
        let access = self.as_access(warp, lane, home, touched.bytes, manner);
        access.zip(self.observers.weak()).is_some_and(|(access, weak)| weak.hears_nobody(&access, scope))
    }

    /// Whether a scope includes no thread but the one lane of a warp that is left, and never will.
    fn is_alone(&self, warp: &Warp, scope: Scope) -> bool {
        let in_cta =
            || warp.live.is_power_of_two() && self.ctas[warp.cta as usize].as_ref().is_some_and(|cta| cta.running == 1);
        let in_rank = || {
            let waits = |stream: &Stream| stream.rank == warp.rank && !stream.commands.is_empty();
            self.ctas.iter().flatten().filter(|cta| cta.rank == warp.rank).count() == 1
                && self.gpus[warp.rank as usize].queue.is_empty()
                && !self.streams.values().any(waits)
        };
        match scope {
            Scope::Cta => in_cta(),
            Scope::Cluster | Scope::Gpu => in_cta() && in_rank(),
            Scope::Sys => false,
        }
    }
}

fn is_relaxed(order: Order) -> bool {
    matches!(order, Order::Weak | Order::Volatile | Order::Relaxed)
}
