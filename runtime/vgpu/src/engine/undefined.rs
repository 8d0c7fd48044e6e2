//! Values that are not defined: from memory that nobody wrote, from registers that were never written, from lanes that took no part in a
//! shuffle. They may be loaded, copied and computed with; to *use* one is a finding: as an address, as a condition, in an atomic, or
//! in a store to device memory. Bytes that are only copied there are undefined there as well, as the padding of a row that is copied as a
//! whole.
//!
//! Invariants: a warp without [`Undefined`] has none of them and is run without any of this; a bit that is not marked does not depend on an
//! undefined one, as far as one can tell by running an instruction again with other bits in the place of those.

use super::Machine;
use super::report::{FaultKind, Finding};
use super::warp::{Outcome, Trouble, Warp, lanes, put_low_bytes};
use crate::decode::op::{Frame, GUARD_NOT, KernelCode, MemoryOp, NO_GUARD, Op, Reg, Slot, WarpOp};
use crate::rules::{Found, Rule, Severity, Verdict};

/// Findings that are kept.
const MOST_FINDINGS: usize = 1000;

/// Where an undefined value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    pub rule: Rule,
    /// The place in memory, if it is one.
    pub symbol: Option<String>,
    /// In words.
    pub text: String,
}

/// What is undefined of a register.
#[derive(Debug, Clone)]
struct Marked {
    reg: Reg,
    /// Bits, by lane.
    bits: [u128; 32],
    /// Index of the origin, by lane.
    origin: [u16; 32],
    /// Lanes whose value has been computed with, and not only been copied.
    computed: u32,
}

impl Marked {
    fn lanes(&self) -> u32 {
        (0..32).filter(|lane| self.bits[*lane] != 0).fold(0, |lanes, lane| lanes | 1 << lane)
    }
}

/// What is undefined in a warp.
#[derive(Debug, Default)]
pub(crate) struct Undefined {
    registers: Vec<Marked>,
    /// Index, lanes and, by lane, the index of the origin.
    predicates: Vec<(u32, u32, [u16; 32])>,
    origins: Vec<Origin>,
}

/// What an instruction makes of what it reads.
#[derive(Debug, Clone, Copy)]
struct Mark {
    lane: u32,
    bits: u128,
    origin: u16,
    computed: bool,
}

impl Undefined {
    fn marked(&self, row: u32) -> Option<&Marked> {
        self.registers.iter().find(|marked| marked.reg.row == row)
    }

    /// The lanes in which a predicate is undefined, and where it comes from.
    fn predicate(&self, index: u32) -> Option<(u32, &[u16; 32])> {
        self.predicates.iter().find(|(other, ..)| *other == index).map(|(_, lanes, origin)| (*lanes, origin))
    }

    fn is_empty(&self) -> bool {
        self.registers.is_empty() && self.predicates.is_empty()
    }

    fn origin(&mut self, origin: Origin) -> u16 {
        if let Some(at) = self.origins.iter().position(|other| *other == origin) {
            return at as u16;
        }
        if self.origins.len() < usize::from(u16::MAX) {
            self.origins.push(origin);
        }
        (self.origins.len() - 1) as u16
    }

    fn mark(&mut self, reg: Reg, mark: Mark) {
        if mark.bits == 0 {
            return;
        }
        let at = self.registers.iter().position(|marked| marked.reg.row == reg.row).unwrap_or_else(|| {
            self.registers.push(Marked { reg, bits: [0; 32], origin: [0; 32], computed: 0 });
            self.registers.len() - 1
        });
        let (marked, lane) = (&mut self.registers[at], mark.lane as usize);
        marked.bits[lane] = mark.bits;
        marked.origin[lane] = mark.origin;
        marked.computed = marked.computed & !(1 << lane) | u32::from(mark.computed) << lane;
    }

    fn mark_predicate(&mut self, index: u32, mask: u32, origin: u16) {
        if mask == 0 {
            return;
        }
        match self.predicates.iter_mut().find(|(other, ..)| *other == index) {
            Some((_, known, origins)) => {
                *known |= mask;
                lanes(mask).for_each(|lane| origins[lane as usize] = origin);
            }
            None => self.predicates.push((index, mask, [origin; 32])),
        }
    }

    /// These lanes of a slot are defined.
    fn clear(&mut self, slot: Slot, mask: u32) {
        match slot {
            Slot::Register(reg) => {
                if let Some(at) = self.registers.iter().position(|marked| marked.reg.row == reg.row) {
                    let marked = &mut self.registers[at];
                    lanes(mask).for_each(|lane| marked.bits[lane as usize] = 0);
                    if marked.lanes() == 0 {
                        self.registers.swap_remove(at);
                    }
                }
            }
            Slot::Predicate(index) => {
                if let Some(at) = self.predicates.iter().position(|(other, ..)| *other == index) {
                    self.predicates[at].1 &= !mask;
                    if self.predicates[at].1 == 0 {
                        self.predicates.swap_remove(at);
                    }
                }
            }
        }
    }

    /// Of the lanes of a mask, those with an undefined value in a slot.
    fn lanes_of(&self, slot: Slot, mask: u32) -> u32 {
        mask & match slot {
            Slot::Register(reg) => self.marked(reg.row).map_or(0, Marked::lanes),
            Slot::Predicate(index) => self.predicate(index).map_or(0, |(lanes, _)| lanes),
        }
    }

    fn origin_of(&self, slot: Slot, lane: u32) -> u16 {
        match slot {
            Slot::Register(reg) => self.marked(reg.row).map_or(0, |marked| marked.origin[lane as usize]),
            Slot::Predicate(index) => self.predicate(index).map_or(0, |(_, origin)| origin[lane as usize]),
        }
    }
}

/// What became of an instruction.
pub(super) enum Tracked {
    /// It has been executed.
    Done,
    /// It is to be executed, and then [`Machine::defined`] told what it has written.
    Execute,
}

/// What is undefined of a slot of a frame, in one lane.
#[derive(Debug)]
pub(super) struct Kept {
    slot: Slot,
    bits: u128,
    computed: bool,
    origin: Origin,
}

/// Bits that stand in the place of undefined ones, one after the other.
const OTHERS: [u128; 4] = [0, u128::MAX, u128::MAX / 255 * 0x7f, u128::MAX / 255 * 0x80];

/// Instructions that put bits elsewhere and do not compute with them.
const COPYING: [&str; 21] = [
    "mov",
    "cvt",
    "cvta",
    "selp",
    "prmt",
    "shl",
    "shr",
    "shf",
    "and",
    "or",
    "xor",
    "not",
    "bfe",
    "bfi",
    "lop3",
    "shfl",
    "szext",
    "ldmatrix",
    "stmatrix",
    "movmatrix",
    "wmma",
];

impl Warp {
    /// What is undefined of a frame in a lane.
    pub(super) fn kept(&self, frame: &Frame, lane: u32) -> Vec<Kept> {
        let Some(undefined) = &self.undefined else { return Vec::new() };
        let slots = slots_of(frame).filter(|slot| undefined.lanes_of(*slot, 1 << lane) != 0);
        let kept = slots.filter_map(|slot| {
            let (bits, computed) = match slot {
                Slot::Predicate(_) => (1, true),
                Slot::Register(reg) => undefined
                    .marked(reg.row)
                    .map(|marked| (marked.bits[lane as usize], marked.computed >> lane & 1 == 1))?,
            };
            let origin = undefined.origins.get(usize::from(undefined.origin_of(slot, lane)))?.clone();
            Some(Kept { slot, bits, computed, origin })
        });
        kept.collect()
    }

    /// A lane has a frame again, of which this is undefined.
    pub(super) fn keep(&mut self, frame: &Frame, lane: u32, kept: Vec<Kept>) {
        if self.undefined.is_none() && kept.is_empty() {
            return;
        }
        let undefined = self.undefined.get_or_insert_default();
        slots_of(frame).for_each(|slot| undefined.clear(slot, 1 << lane));
        for Kept { slot, bits, computed, origin } in kept {
            let origin = undefined.origin(origin);
            match slot {
                Slot::Register(reg) => undefined.mark(reg, Mark { lane, bits, origin, computed }),
                Slot::Predicate(index) => undefined.mark_predicate(index, 1 << lane, origin),
            }
        }
        if undefined.is_empty() {
            self.undefined = None;
        }
    }

    /// A thread starts with these registers not written.
    pub(super) fn nothing_written(&mut self, code: &KernelCode) {
        let mut undefined = Undefined::default();
        for (slot, name) in &code.unwritten {
            let text = format!("`{name}`, which was never written");
            let origin = undefined.origin(Origin { rule: Rule::UnwrittenRegister, symbol: Some(name.clone()), text });
            match *slot {
                Slot::Register(reg) => {
                    let bits = u128::MAX >> (128 - 8 * reg.bytes);
                    lanes(self.existing)
                        .for_each(|lane| undefined.mark(reg, Mark { lane, bits, origin, computed: true }));
                }
                Slot::Predicate(index) => undefined.mark_predicate(index, self.existing, origin),
            }
        }
        self.undefined = (!undefined.is_empty()).then(|| Box::new(undefined));
    }

    /// A lane has got a value of which these bits are undefined.
    pub(super) fn got_undefined(&mut self, reg: Reg, lane: u32, bits: u128, origin: Origin) {
        let computed = origin.rule != Rule::Uninitialised;
        self.depends_on_undefined(reg, lane, bits, origin, computed);
    }

    /// The same, and whether the value has been computed with.
    pub(super) fn depends_on_undefined(&mut self, reg: Reg, lane: u32, bits: u128, origin: Origin, computed: bool) {
        let undefined = self.undefined.get_or_insert_default();
        let origin = undefined.origin(origin);
        undefined.mark(reg, Mark { lane, bits, origin, computed });
    }

    /// Whether all that these lanes store is defined.
    pub(super) fn is_defined(&self, op: &MemoryOp, mask: u32) -> bool {
        let Some(undefined) = &self.undefined else { return true };
        op.registers.iter().flatten().all(|reg| undefined.lanes_of(Slot::Register(*reg), mask) == 0)
    }

    /// The undefined bits of a lane of a register, and whether they have only been copied from memory.
    pub(super) fn undefined_bits(&self, reg: Reg, lane: u32) -> Option<(u128, &Origin, bool)> {
        let undefined = self.undefined.as_ref()?;
        let marked = undefined.marked(reg.row)?;
        let bits = marked.bits[lane as usize];
        let origin = undefined.origins.get(usize::from(marked.origin[lane as usize]))?;
        (bits != 0).then_some((bits, origin, marked.computed >> lane & 1 == 0 && origin.rule == Rule::Uninitialised))
    }
}

impl Machine {
    /// Decides about an instruction of a warp in which something is undefined, before it is executed.
    pub(super) fn track(
        &mut self,
        warp: &mut Warp,
        code: &KernelCode,
        pc: u32,
        split: u32,
        mask: u32,
    ) -> Outcome<Tracked> {
        let operands = &code.operands[pc as usize];
        let Some(undefined) = warp.undefined.as_deref() else { return Ok(Tracked::Execute) };
        let touched = operands.uses.iter().any(|slot| undefined.lanes_of(*slot, split) != 0);
        if !touched {
            return Ok(Tracked::Execute);
        }
        let (role, moves): (&str, &[Slot]) = match &code.steps[pc as usize].op {
            Op::Alu { .. } | Op::Scalar(_) => {
                self.compute(warp, code, pc, split, mask);
                return Ok(Tracked::Done);
            }
            // What these only move is looked at where they do it.
            Op::Store(op) => {
                let moved: Vec<Slot> = op.registers.iter().flatten().map(|reg| Slot::Register(*reg)).collect();
                let base = op.place.base.map(Slot::Register);
                let moved: Vec<Slot> = moved.into_iter().filter(|slot| Some(*slot) != base).collect();
                return self.uses(warp, code, pc, (split, mask), "the address of a store", &moved);
            }
            Op::Warp { op, .. } => {
                let moved = match &**op {
                    WarpOp::Shuffle { a, .. } => vec![Slot::Register(*a)],
                    WarpOp::Multiply(op) => {
                        let sources = op.first.iter().chain(&op.second).chain(&op.sum);
                        sources.map(|reg| Slot::Register(*reg)).collect()
                    }
                    _ => Vec::new(),
                };
                return self.uses(warp, code, pc, (split, mask), "an operand of an instruction of the warp", &moved);
            }
            Op::Load(_) => ("the address of a load", &[]),
            Op::Multimem(_) => ("an operand of a multimem", &[]),
            Op::Atomic(_) => ("an operand of an atomic", &[]),
            Op::Branch { .. } | Op::BranchIndexed { .. } => ("the target of a branch", &[]),
            Op::NoFunction(_) => ("the address of a function", &[]),
            Op::Bulk(_) | Op::AsyncStore(_) | Op::Tensor(_) | Op::Map(_) | Op::Fill(_) | Op::Copy(_) => {
                ("an operand of a copy", &[])
            }
            Op::Call { .. }
            | Op::System(_)
            | Op::Return { .. }
            | Op::CopyLocal { .. }
            | Op::Save { .. }
            | Op::Restore { .. }
            | Op::Exit
            | Op::Trap
            | Op::ActiveMask { .. }
            | Op::Barrier(_)
            | Op::ClusterBarrier(_)
            | Op::Clock { .. }
            | Op::Sleep { .. }
            | Op::Fence { .. }
            | Op::Mbarrier(_)
            | Op::CommitBulk
            | Op::WaitBulk { .. }
            | Op::CommitCopies
            | Op::WaitCopies { .. }
            | Op::CopyArrive { .. }
            | Op::LaunchDependents
            | Op::GridWait
            | Op::Nothing => ("an operand", &[]),
        };
        self.uses(warp, code, pc, (split, mask), role, moves)
    }

    /// All that an instruction reads has to be defined, but for what it only moves; its guard in all lanes of the split.
    fn uses(
        &mut self,
        warp: &Warp,
        code: &KernelCode,
        pc: u32,
        (split, mask): (u32, u32),
        role: &str,
        moves: &[Slot],
    ) -> Outcome<Tracked> {
        let guard = guard(code, pc);
        for slot in code.operands[pc as usize].uses.iter().filter(|slot| !moves.contains(slot)) {
            let lanes = if Some(*slot) == guard { split } else { mask };
            let role = if matches!(slot, Slot::Register(_)) { role } else { "a condition" };
            self.use_of(warp, code, pc, *slot, lanes, role)?;
        }
        Ok(Tracked::Execute)
    }

    fn use_of(&mut self, warp: &Warp, code: &KernelCode, pc: u32, slot: Slot, mask: u32, role: &str) -> Outcome<()> {
        let Some(undefined) = warp.undefined.as_deref() else { return Ok(()) };
        let found = undefined.lanes_of(slot, mask);
        if found == 0 {
            return Ok(());
        }
        let lane = found.trailing_zeros();
        match undefined.origins.get(usize::from(undefined.origin_of(slot, lane))).cloned() {
            Some(origin) => self.used(warp, code, pc, lane, role, &origin),
            None => Ok(()),
        }
    }

    /// An undefined value is used.
    pub(super) fn used(
        &mut self,
        warp: &Warp,
        code: &KernelCode,
        pc: u32,
        lane: u32,
        role: &str,
        origin: &Origin,
    ) -> Outcome<()> {
        let text = match origin.rule {
            Rule::Uninitialised => format!("use before initialisation: {role} comes from {}", origin.text),
            _ => format!("use of an undefined value: {role} comes from {}", origin.text),
        };
        self.find(warp, code, pc, lane, origin.rule, origin.symbol.as_deref(), text)
    }

    /// Tells a finding, which ends the run if it is an error.
    #[allow(clippy::too_many_arguments, reason = "a finding has a place, a rule and a text")]
    pub(super) fn find(
        &mut self,
        warp: &Warp,
        code: &KernelCode,
        pc: u32,
        lane: u32,
        rule: Rule,
        symbol: Option<&str>,
        text: String,
    ) -> Outcome<()> {
        let sites = [(code.name.as_str(), code.lines[pc as usize])];
        let waived = match self.config.rules.verdict(rule, &Found { sites: &sites, symbol }) {
            Verdict::Is(Severity::Error) => return Err(Box::new(Trouble { lane, kind: FaultKind::Undefined(text) })),
            Verdict::Is(Severity::Ignored) => return Ok(()),
            Verdict::Is(Severity::Warning) => None,
            Verdict::Waived(reason) => Some(reason),
        };
        let site = self.site(warp, code, pc, 1 << lane);
        let same = |other: &&mut Finding| {
            (other.rule, other.site.line, &other.site.kernel, &other.text) == (rule, site.line, &site.kernel, &text)
        };
        if let Some(known) = self.findings.iter_mut().find(same) {
            known.times += 1;
        } else if self.findings.len() < MOST_FINDINGS {
            self.findings.push(Finding { rule, site, text, waived, times: 1 });
        }
        Ok(())
    }

    /// An instruction has written what it writes with defined values, in these lanes.
    pub(super) fn defined(&mut self, warp: &mut Warp, code: &KernelCode, pc: u32, mask: u32) {
        if let Some(undefined) = &mut warp.undefined {
            for slot in &code.operands[pc as usize].defines {
                undefined.clear(*slot, mask);
            }
            if undefined.is_empty() {
                warp.undefined = None;
            }
        }
    }

    /// Executes a register instruction with undefined operands: also with other bits in their place, to see which bits of its results
    /// depend on them.
    fn compute(&mut self, warp: &mut Warp, code: &KernelCode, pc: u32, split: u32, mask: u32) {
        let Some(mut undefined) = warp.undefined.take() else { return };
        let operands = &code.operands[pc as usize];
        let form = code.form(pc);
        let opcode = form.split('.').next().unwrap_or_default();
        let copies = COPYING.contains(&opcode);
        let compares = opcode == "setp" || opcode == "set" || opcode == "testp";
        // Lanes that may or may not execute it.
        let in_doubt = guard(code, pc).map_or(0, |slot| undefined.lanes_of(slot, split));
        let sources: Vec<Marked> = operands
            .uses
            .iter()
            .filter_map(|slot| register(*slot))
            .filter_map(|reg| undefined.marked(reg.row).cloned())
            .collect();
        let conditions: Vec<(u32, u32)> = operands
            .uses
            .iter()
            .filter_map(|slot| match slot {
                Slot::Predicate(index) => undefined.predicate(*index).map(|(lanes, _)| (*index, lanes & mask)),
                Slot::Register(_) => None,
            })
            .collect();
        let origin = |lane: u32| {
            let from = operands.uses.iter().find(|slot| undefined.lanes_of(**slot, 1 << lane) != 0);
            from.map_or((0, true), |slot| {
                let computed = register(*slot)
                    .and_then(|reg| undefined.marked(reg.row))
                    .is_none_or(|marked| marked.computed >> lane & 1 == 1);
                (undefined.origin_of(*slot, lane), computed)
            })
        };
        let touched = operands.uses.iter().fold(0, |lanes, slot| lanes | undefined.lanes_of(*slot, split));
        let origins: Vec<(u16, bool)> =
            (0..32).map(|lane| if touched >> lane & 1 == 1 { origin(lane) } else { (0, true) }).collect();

        let targets: Vec<Reg> = operands.defines.iter().filter_map(|slot| register(*slot)).collect();
        let results: Vec<u32> = operands
            .defines
            .iter()
            .filter_map(|slot| match slot {
                Slot::Predicate(index) => Some(*index),
                Slot::Register(_) => None,
            })
            .collect();
        let mut differ: Vec<[u128; 32]> = vec![[0; 32]; targets.len()];
        let mut results_differ = vec![0u32; results.len()];
        if mask != 0 {
            let before: Vec<(Reg, Vec<u8>)> = sources
                .iter()
                .map(|marked| marked.reg)
                .chain(targets.iter().copied())
                .map(|reg| (reg, warp.row(reg.row, reg.bytes).to_vec()))
                .collect();
            let predicates = warp.predicates.clone();
            let restore = |warp: &mut Warp| {
                for (reg, bytes) in &before {
                    warp.row_mut(reg.row, reg.bytes).copy_from_slice(bytes);
                }
                warp.predicates.copy_from_slice(&predicates);
            };
            let outcome = |warp: &Warp| -> (Vec<[u128; 32]>, Vec<u32>) {
                let values = targets.iter().map(|reg| std::array::from_fn(|lane| warp.value(*reg, lane as u32)));
                (values.collect(), results.iter().map(|index| warp.predicate(*index)).collect())
            };
            let mut seen = Vec::with_capacity(OTHERS.len() + 1);
            for other in OTHERS {
                for marked in &sources {
                    for lane in lanes(mask & marked.lanes()) {
                        let bits = marked.bits[lane as usize];
                        let value = warp.value(marked.reg, lane) & !bits | other & bits;
                        warp.set_value(marked.reg, lane, value);
                    }
                }
                for &(index, lanes) in &conditions {
                    warp.set_predicate(index, lanes, if other == 0 { 0 } else { u32::MAX });
                }
                execute(warp, code, pc, mask);
                seen.push(outcome(warp));
                restore(warp);
            }
            execute(warp, code, pc, mask);
            let (values, flags) = outcome(warp);
            for (others, other_flags) in seen {
                for ((differ, value), other) in differ.iter_mut().zip(&values).zip(&others) {
                    differ.iter_mut().zip(value.iter().zip(other)).for_each(|(differ, (a, b))| *differ |= a ^ b);
                }
                for ((differ, flag), other) in results_differ.iter_mut().zip(&flags).zip(&other_flags) {
                    *differ |= flag ^ other;
                }
            }
        }
        let with_undefined = sources.iter().fold(0, |all, marked| all | marked.lanes()) & mask;
        for slot in &operands.defines {
            undefined.clear(*slot, mask);
        }
        for (reg, differ) in targets.iter().zip(&differ) {
            let all = u128::MAX >> (128 - 8 * reg.bytes);
            for lane in lanes(mask | in_doubt) {
                let whole = in_doubt >> lane & 1 == 1 || compares && with_undefined >> lane & 1 == 1;
                let bits = if whole { all } else { differ[lane as usize] & all };
                let (origin, computed) = origins[lane as usize];
                undefined.mark(*reg, Mark { lane, bits, origin, computed: computed || !copies });
            }
        }
        for (index, differ) in results.iter().zip(&results_differ) {
            let doubtful = differ & mask | with_undefined | in_doubt;
            for lane in lanes(doubtful) {
                undefined.mark_predicate(*index, 1 << lane, origins[lane as usize].0);
            }
        }
        warp.undefined = (!undefined.is_empty()).then_some(undefined);
    }
}

/// Executes a register instruction.
fn execute(warp: &mut Warp, code: &KernelCode, pc: u32, mask: u32) {
    match &code.steps[pc as usize].op {
        Op::Alu { run, args } => {
            // SAFETY: the decoder made the offsets for a file and predicates of this size, which `give_file` and `make_warp` gave
            // the warp; the mask is not empty.
            unsafe { run(warp.registers(), warp.predicates.as_mut_ptr(), args, mask) };
        }
        Op::Scalar(op) => super::interpret::scalar(warp, op, mask),
        _ => {}
    }
}

fn slots_of(frame: &Frame) -> impl Iterator<Item = Slot> {
    let predicates = frame.predicates.iter().map(|index| Slot::Predicate(*index));
    frame.registers.iter().map(|reg| Slot::Register(*reg)).chain(predicates)
}

fn register(slot: Slot) -> Option<Reg> {
    match slot {
        Slot::Register(reg) => Some(reg),
        Slot::Predicate(_) => None,
    }
}

/// The guard of a step.
fn guard(code: &KernelCode, pc: u32) -> Option<Slot> {
    let guard = code.steps[pc as usize].guard;
    (guard != NO_GUARD).then_some(Slot::Predicate(guard & !GUARD_NOT))
}

/// The bits of bytes of which some are undefined, from a flag for each byte.
pub(super) fn bits_of(bytes: impl Iterator<Item = bool>) -> u128 {
    bytes.enumerate().filter(|(_, undefined)| *undefined).fold(0, |bits, (at, _)| bits | 0xff << (8 * at))
}

/// The bytes of which a bit is undefined.
pub(super) fn bytes_of(bits: u128, count: u32) -> impl Iterator<Item = u64> {
    let mut bytes = [0; 16];
    put_low_bytes(&mut bytes, bits);
    (0..count.min(16)).filter(move |at| bytes[*at as usize] != 0).map(u64::from)
}
