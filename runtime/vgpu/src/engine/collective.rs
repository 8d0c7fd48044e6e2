//! Instructions with a member mask: they happen when every member that has not exited has come to an instruction of the
//! same kind with the same mask, wherever in the code; until then those who came wait.
//!
//! A lane that reads from a lane that is no member gets [`POISON`], which is undefined: to use it is a finding, and a run must be
//! reproducible where that is accepted.

use super::Machine;
use super::arithmetic::combine;
use super::interpret::merge;
use super::undefined::Origin;
use super::warp::{Outcome, Split, SplitState, Warp, lanes, undefined};
use crate::decode::op::{AtomicKind, KernelCode, MatrixOp, Op, Reg, VoteMode, WarpOp};
use crate::observer::Event;
use crate::ptx::ScalarType;
use crate::rules::Rule;
use crate::semantics::wide::{equal_lanes, permute};
use crate::semantics::{matrix, shuffle};

const POISON: u64 = 0xbaad_f00d;

/// What became of the lanes that came.
pub(super) enum Came {
    /// All members are there, and all came together.
    Together,
    /// They wait for others.
    Wait,
    /// They have been put into splits of their own.
    Placed,
}

/// Lanes at one instruction.
type Part = (u32, u32);

impl Machine {
    pub(super) fn collective(
        &mut self,
        warp: &mut Warp,
        code: &KernelCode,
        (members, all): (u32, bool),
        op: &WarpOp,
        mask: u32,
        pc: u32,
    ) -> Outcome<Came> {
        let same = if all { Some(u32::MAX) } else { warp.common_word(members, mask) };
        if let Some(first) = same {
            return self.come(warp, code, first, op, mask, pc);
        }
        // Lanes that came together but belong to different groups.
        let mut rest = mask;
        while rest != 0 {
            let wanted = warp.u32(members, rest.trailing_zeros());
            let group =
                lanes(rest).filter(|lane| warp.u32(members, *lane) == wanted).fold(0, |group, lane| group | 1 << lane);
            rest &= !group;
            match self.come(warp, code, wanted, op, group, pc)? {
                Came::Together => merge(warp, Split { pc: pc + 1, mask: group, state: SplitState::Ready }),
                Came::Wait => warp.splits.push(Split { pc, mask: group, state: SplitState::Members(wanted) }),
                Came::Placed => {}
            }
        }
        Ok(Came::Placed)
    }

    fn come(
        &mut self,
        warp: &mut Warp,
        code: &KernelCode,
        members: u32,
        op: &WarpOp,
        mask: u32,
        pc: u32,
    ) -> Outcome<Came> {
        if mask & !members != 0 {
            let text = format!("a lane executes this with member mask {members:#010x}, which does not contain it");
            return undefined(mask & !members, text);
        }
        let needed = members & warp.live;
        if mask == needed {
            if mask == u32::MAX && self.observers.is_empty() && warp.undefined.is_none() && perform_whole(warp, op) {
                return Ok(Came::Together);
            }
            self.perform(warp, code, &[(pc, mask)]);
            return Ok(Came::Together);
        }
        let mut parts = waiting_parts(warp, code, members, op);
        parts.push((pc, mask));
        if parts.iter().fold(0, |all, part| all | part.1) != needed {
            return Ok(Came::Wait);
        }
        self.perform(warp, code, &parts);
        release(warp, &parts);
        Ok(Came::Placed)
    }

    /// Groups that only waited for lanes that have now exited.
    pub(super) fn collectives_after_exit(&mut self, warp: &mut Warp, code: &KernelCode) {
        while let Some(parts) = warp.splits.iter().find_map(|split| {
            let SplitState::Members(members) = split.state else { return None };
            let Op::Warp { op, .. } = &code.steps[split.pc as usize].op else { return None };
            let parts = waiting_parts(warp, code, members, op);
            (parts.iter().fold(0, |all, part| all | part.1) == members & warp.live).then_some(parts)
        }) {
            self.perform(warp, code, &parts);
            release(warp, &parts);
        }
    }

    /// Carries the instruction out for lanes that are all there.
    fn perform(&mut self, warp: &mut Warp, code: &KernelCode, parts: &[Part]) {
        let all = parts.iter().fold(0, |all, part| all | part.1);
        self.observers.tell(|| {
            let is_barrier =
                |pc: u32| matches!(&code.steps[pc as usize].op, Op::Warp { op, .. } if matches!(**op, WarpOp::Barrier));
            let orders_memory = parts.iter().all(|part| is_barrier(part.0));
            Event::WarpSync { thread: warp.thread(all.trailing_zeros()), lanes: all, orders_memory }
        });
        let ops = || {
            parts.iter().filter_map(|(pc, mask)| match &code.steps[*pc as usize].op {
                Op::Warp { op, .. } => Some((op.as_ref(), *mask)),
                _ => None,
            })
        };
        let multiply = ops().find_map(|(op, _)| match op {
            WarpOp::Multiply(op) => Some(op),
            _ => None,
        });
        if let Some(op) = multiply {
            let line = code.lines[parts[0].0 as usize];
            return self.multiply(warp, code, op, parts, (all, line));
        }
        let mut values = [POISON; 32];
        let mut undefined: [Option<(u128, Origin)>; 32] = [const { None }; 32];
        let mut votes = 0;
        for (op, mask) in ops() {
            if let (Some(_), WarpOp::Shuffle { a, .. }) = (&warp.undefined, op) {
                for lane in lanes(mask) {
                    let of_lane = warp.undefined_bits(*a, lane);
                    undefined[lane as usize] = of_lane.map(|(bits, origin, _)| (bits, origin.clone()));
                }
            }
            for lane in lanes(mask) {
                values[lane as usize] = match op {
                    WarpOp::Match { a, .. } => warp.value(*a, lane) as u64,
                    WarpOp::Shuffle { a, .. } => warp.u32(a.row, lane).into(),
                    WarpOp::Reduce { a, .. } => warp.u32(*a, lane).into(),
                    _ => 0,
                };
            }
            if let WarpOp::Vote { source, negated, .. } = op {
                let bits = warp.predicate(*source);
                votes |= mask & if *negated { !bits } else { bits };
            }
        }
        for (pc, mask) in parts {
            self.defined(warp, code, *pc, *mask);
        }
        for (at, (op, mask)) in ops().enumerate() {
            match op {
                WarpOp::Barrier | WarpOp::Multiply(_) => {}
                WarpOp::Shuffle { mode, target, valid, b, c, .. } => {
                    for lane in lanes(mask) {
                        let (source, inside) = shuffle::source(*mode, lane, warp.u32(*b, lane), warp.u32(*c, lane));
                        if let Some(target) = target {
                            warp.set_value(*target, lane, values[source as usize].into());
                            if let Some((bits, origin)) = undefined[source as usize].clone() {
                                warp.got_undefined(*target, lane, bits, origin);
                            } else if all >> source & 1 == 0 && self.config.check_initialised {
                                let line = code.lines[parts[at].0 as usize];
                                warp.got_undefined(*target, lane, u32::MAX.into(), absent(source, "shuffle", line));
                            }
                        }
                        if let Some(valid) = valid {
                            warp.set_predicate(*valid, 1 << lane, if inside { u32::MAX } else { 0 });
                        }
                    }
                }
                WarpOp::Vote { mode, target, .. } => match vote(*mode, votes, all) {
                    Some(holds) => warp.set_predicate(*target, mask, if holds { u32::MAX } else { 0 }),
                    None => lanes(mask).for_each(|lane| warp.set_u32(*target, lane, votes)),
                },
                WarpOp::Match { all: every, target, valid, .. } => {
                    for lane in lanes(mask) {
                        let value = values[lane as usize];
                        let same = lanes(all)
                            .filter(|other| values[*other as usize] == value)
                            .fold(0, |same, other| same | 1 << other);
                        let result = if *every && same != all { 0 } else { same };
                        warp.set_u32(*target, lane, result);
                        if let Some(valid) = valid {
                            warp.set_predicate(*valid, 1 << lane, if same == all { u32::MAX } else { 0 });
                        }
                    }
                }
                WarpOp::Reduce { kind, element, target, .. } => {
                    let start = u128::from(values[all.trailing_zeros() as usize]);
                    let result = lanes(all & (all - 1))
                        .fold(start, |result, lane| combine(*kind, *element, result, values[lane as usize].into(), 0));
                    lanes(mask).for_each(|lane| warp.set_u32(*target, lane, result as u32));
                }
                WarpOp::Elect { target, elected } => {
                    let leader = all.trailing_zeros();
                    if let Some(target) = target {
                        lanes(mask).for_each(|lane| warp.set_value(*target, lane, leader.into()));
                    }
                    warp.set_predicate(*elected, mask, 1 << leader);
                }
            }
        }
    }
}

impl Machine {
    /// A product of matrices. An element of the result is undefined if one of those is that it depends on, or if the lane that holds one is
    /// not there.
    fn multiply(&mut self, warp: &mut Warp, code: &KernelCode, op: &MatrixOp, parts: &[Part], (all, line): (u32, u32)) {
        let values = |list: &[Reg]| -> Vec<[u64; 32]> {
            list.iter().map(|reg| std::array::from_fn(|lane| warp.value(*reg, lane as u32) as u64)).collect()
        };
        let result = matrix::product(&op.product, &values(&op.first), &values(&op.second), &values(&op.sum));
        let mut marks: Vec<(Reg, u32, Origin)> = Vec::new();
        let checks = self.config.check_initialised;
        if warp.undefined.is_some() || all != u32::MAX && checks {
            let columns = op.product.columns;
            for (row, column) in (0..op.product.rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
                let of_lists = matrix::depends(&op.product, row, column);
                let lists = [&op.first, &op.second, &op.sum];
                let mut sources = of_lists
                    .iter()
                    .zip(lists)
                    .flat_map(|(places, list)| places.iter().map(|&(lane, register)| (lane as u32, list[register])));
                let origin = sources.find_map(|(lane, reg)| match warp.undefined_bits(reg, lane) {
                    Some((_, origin, _)) => Some(origin.clone()),
                    None if all >> lane & 1 == 0 && checks => Some(absent(lane, "product", line)),
                    None => None,
                });
                if let Some(origin) = origin {
                    let (lane, register) = matrix::result_place(&op.product, row, column);
                    marks.push((op.targets[register], lane as u32, origin));
                }
            }
        }
        for (pc, mask) in parts {
            self.defined(warp, code, *pc, *mask);
        }
        for (target, values) in op.targets.iter().zip(&result) {
            lanes(all).for_each(|lane| warp.set_value(*target, lane, values[lane as usize].into()));
        }
        for (target, lane, origin) in marks.into_iter().filter(|(_, lane, _)| all >> lane & 1 == 1) {
            warp.depends_on_undefined(target, lane, u128::MAX >> (128 - 8 * target.bytes), origin, true);
        }
    }
}

/// Where a value comes from that no lane gave.
fn absent(source: u32, what: &str, line: u32) -> Origin {
    let text = format!("lane {source}, which takes no part in the {what} in line {line}");
    Origin { rule: Rule::AbsentLane, symbol: None, text }
}

/// Carries out the usual instructions for a whole warp without an observer. False if this is not one of them.
fn perform_whole(warp: &mut Warp, op: &WarpOp) -> bool {
    match op {
        WarpOp::Barrier => true,
        WarpOp::Shuffle { mode, target, valid, a, b, c, sources } if target.is_none_or(|target| target.bytes == 4) => {
            let computed;
            let sources = match sources {
                Some(sources) => sources,
                None => {
                    computed = shuffle::sources(*mode, &warp.words(*b), &warp.words(*c));
                    &computed
                }
            };
            if let Some(target) = target {
                warp.set_words(target.row, &permute(&warp.words(a.row), &sources.lanes));
            }
            if let Some(valid) = valid {
                warp.set_predicate(*valid, u32::MAX, sources.inside);
            }
            true
        }
        WarpOp::Vote { mode, target, source, negated } => {
            let bits = warp.predicate(*source);
            let votes = if *negated { !bits } else { bits };
            match vote(*mode, votes, u32::MAX) {
                Some(holds) => warp.set_predicate(*target, u32::MAX, if holds { u32::MAX } else { 0 }),
                None => warp.set_words(*target, &[votes; 32]),
            }
            true
        }
        WarpOp::Reduce { kind, element, target, a } => {
            let Some(result) = reduce(*kind, *element, &warp.words(*a)) else { return false };
            warp.set_words(*target, &[result; 32]);
            true
        }
        WarpOp::Match { all: false, target, valid: None, a } if a.bytes == 4 => {
            let values = warp.words(a.row);
            let mut result = [0; 32];
            let mut rest = u32::MAX;
            while rest != 0 {
                let same = equal_lanes(&values, values[rest.trailing_zeros() as usize]);
                lanes(same).for_each(|lane| result[lane as usize] = same);
                rest &= !same;
            }
            warp.set_words(*target, &result);
            true
        }
        _ => false,
    }
}

/// All lanes' values as one; nothing for an operation that a reduction does not have.
fn reduce(kind: AtomicKind, element: ScalarType, values: &[u32; 32]) -> Option<u32> {
    let values = values.iter().copied();
    let signed = values.clone().map(u32::cast_signed);
    match (kind, element) {
        (AtomicKind::Add, _) => Some(values.fold(0, u32::wrapping_add)),
        (AtomicKind::And, _) => values.reduce(|all, value| all & value),
        (AtomicKind::Or, _) => values.reduce(|all, value| all | value),
        (AtomicKind::Xor, _) => values.reduce(|all, value| all ^ value),
        (AtomicKind::Min, ScalarType::S32) => signed.min().map(i32::cast_unsigned),
        (AtomicKind::Max, ScalarType::S32) => signed.max().map(i32::cast_unsigned),
        (AtomicKind::Min, ScalarType::U32) => values.min(),
        (AtomicKind::Max, ScalarType::U32) => values.max(),
        _ => None,
    }
}

/// What a vote of these lanes says; nothing if its result is the ballot itself.
fn vote(mode: VoteMode, votes: u32, all: u32) -> Option<bool> {
    match mode {
        VoteMode::All => Some(votes == all),
        VoteMode::Any => Some(votes != 0),
        VoteMode::Uniform => Some(votes == all || votes == 0),
        VoteMode::Ballot => None,
    }
}

/// Splits that wait with these members at an instruction of the same kind.
fn waiting_parts(warp: &Warp, code: &KernelCode, members: u32, op: &WarpOp) -> Vec<Part> {
    let same = |pc: u32| match &code.steps[pc as usize].op {
        Op::Warp { op: other, .. } => same_kind(op, other),
        _ => false,
    };
    let waiting = warp.splits.iter().filter(|split| split.state == SplitState::Members(members) && same(split.pc));
    waiting.map(|split| (split.pc, split.mask)).collect()
}

/// Lanes behind a warp instruction go on, together where they are at the same place.
fn release(warp: &mut Warp, parts: &[Part]) {
    let all = parts.iter().fold(0, |all, part| all | part.1);
    warp.splits.retain(|split| !(matches!(split.state, SplitState::Members(_)) && split.mask & all != 0));
    for (pc, mask) in parts {
        merge(warp, Split { pc: pc + 1, mask: *mask, state: SplitState::Ready });
    }
}

fn same_kind(a: &WarpOp, b: &WarpOp) -> bool {
    match (a, b) {
        (WarpOp::Barrier, WarpOp::Barrier) | (WarpOp::Elect { .. }, WarpOp::Elect { .. }) => true,
        // All lanes execute the same one.
        (WarpOp::Multiply(a), WarpOp::Multiply(b)) => std::ptr::eq(&raw const **a, &raw const **b),
        (WarpOp::Shuffle { mode: a, .. }, WarpOp::Shuffle { mode: b, .. }) => a == b,
        (WarpOp::Vote { mode: a, .. }, WarpOp::Vote { mode: b, .. }) => a == b,
        (WarpOp::Match { all: a, .. }, WarpOp::Match { all: b, .. }) => a == b,
        (WarpOp::Reduce { kind: a, element: s, .. }, WarpOp::Reduce { kind: b, element: t, .. }) => a == b && s == t,
        _ => false,
    }
}
