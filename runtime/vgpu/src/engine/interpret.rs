//! The instruction loop. One call runs the splits of one warp for a bounded number of instructions.
//!
//! Progress is per thread: in turn, the split whose step is first in the order of the decoder runs first, so that diverged
//! lanes meet again, but every fourth turn goes to another one, so that lanes that spin cannot starve the lanes they wait
//! for. Other policies draw the split.

use super::Machine;
use super::collective::Came;
use super::copies::groups_done;
use super::diverge::Choice;
use super::probe::{Armed, Park};
use super::report::{Fault, FaultKind, Schedule, Site};
use super::undefined::Tracked;
use super::warp::{Outcome, Split, SplitState, Trouble, Warp, lanes, undefined};
use crate::config::Policy;
use crate::decode::op::{ClockKind, FenceKind, GUARD_NOT, KernelCode, NO_GUARD, Op, ScalarOp, Space};
use crate::ids::RankId;
use crate::memory::Scope;
use crate::observer::{Event, Fence};
use crate::rules::Rule;

/// Virtual clock: cycles of a nanosecond.
const CYCLES_PER_NANOSECOND: u64 = 2;

/// Nanoseconds of the longest `nanosleep`, whatever it asks for.
const LONGEST_SLEEP: u32 = 1_000_000;

/// Why a split stops.
enum Stop {
    /// It can go on later, at the counter given.
    Ready,
    /// It waits, with this state.
    Wait(SplitState),
    /// Its lanes are gone, or have been put into other splits.
    Gone,
}

impl Machine {
    pub(super) fn run_warp(&mut self, warp: &mut Warp, budget: u32) -> Result<(), Box<Fault>> {
        let kernel = warp.kernel.clone();
        let code = kernel.code();
        let mut left = budget;
        while left > 0 {
            let choice = match self.config.policy {
                Policy::RoundRobin => choose_split(warp, code),
                Policy::Random | Policy::Adversarial | Policy::Weak => self.draw_split(warp, code),
            };
            let Some(Choice { index, limit, steps }) = choice else { break };
            let mut split = warp.splits.swap_remove(index);
            let steps = steps.min(left);
            let mut unused = steps;
            let result = match (warp.undefined.is_none(), self.config.policy == Policy::Weak) {
                (true, false) => self.run_split::<false, false>(warp, code, &mut split, &mut unused, limit),
                (false, false) => self.run_split::<true, false>(warp, code, &mut split, &mut unused, limit),
                (true, true) => self.run_split::<false, true>(warp, code, &mut split, &mut unused, limit),
                (false, true) => self.run_split::<true, true>(warp, code, &mut split, &mut unused, limit),
            };
            left -= steps - unused;
            self.instructions += u64::from(steps - unused);
            if std::mem::take(&mut warp.yields) {
                left = 0;
            }
            match result {
                Ok(Stop::Ready) => merge(warp, Split { state: SplitState::Ready, ..split }),
                Ok(Stop::Wait(state)) => warp.splits.push(Split { state, ..split }),
                Ok(Stop::Gone) => {}
                Err(trouble) => {
                    let fault = self.fault(warp, code, split.pc, *trouble);
                    warp.splits.push(split);
                    return Err(fault);
                }
            }
        }
        Ok(())
    }

    pub(super) fn site(&self, warp: &Warp, code: &KernelCode, pc: u32, lanes: u32) -> Site {
        let cta = self.launches[warp.launch as usize].as_ref().map_or([0; 3], |launch| launch.cta(warp.cta_index));
        Site {
            rank: RankId(warp.rank),
            kernel: code.name.clone(),
            launch: warp.launch_id,
            cta,
            warp: warp.number,
            lanes,
            line: code.lines[pc as usize],
            source: code.source(pc),
            instruction: code.form(pc).to_owned(),
        }
    }

    /// Thread index along x, y and z.
    pub(super) fn thread_index(&self, warp: &Warp, lane: u32) -> [u32; 3] {
        let [x, y, _] = self.launches[warp.launch as usize].as_ref().map_or([1; 3], |launch| launch.block);
        let thread = warp.number * 32 + lane;
        [thread % x, thread / x % y, thread / x / y]
    }

    #[cold]
    fn fault(&self, warp: &Warp, code: &KernelCode, pc: u32, trouble: Trouble) -> Box<Fault> {
        Box::new(Fault {
            site: self.site(warp, code, pc, 1 << trouble.lane),
            thread: self.thread_index(warp, trouble.lane),
            kind: trouble.kind,
            schedule: self.schedule(),
        })
    }

    pub(super) fn schedule(&self) -> Schedule {
        Schedule { policy: self.config.policy, seed: self.config.seed }
    }

    /// Runs a split. With `TRACKS`, something in the warp is undefined, and otherwise nothing; it stops when that changes.
    /// With `WEAK`, accesses can be late.
    fn run_split<const TRACKS: bool, const WEAK: bool>(
        &mut self,
        warp: &mut Warp,
        code: &KernelCode,
        split: &mut Split,
        left: &mut u32,
        mut limit: u32,
    ) -> Outcome<Stop> {
        let steps = code.steps.as_slice();
        loop {
            let pc = split.pc;
            let step = &steps[pc as usize];
            if *left == 0 || step.order >= limit || TRACKS && warp.undefined.is_none() {
                return Ok(Stop::Ready);
            }
            if WEAK && !warp.late.is_empty() && self.random.below(2) == 0 {
                // What is late is noticed only if others run now.
                warp.yields = true;
                return Ok(Stop::Ready);
            }
            *left -= 1;
            if WEAK && !warp.late.is_empty() {
                if self.wait_for_value(warp, code, split) {
                    split.pc += 1;
                    continue;
                }
                self.settle(warp, code, split)?;
                if !TRACKS && warp.undefined.is_some() {
                    return Ok(Stop::Ready);
                }
            }
            let mask = match step.guard {
                NO_GUARD => split.mask,
                guard => {
                    let bits = warp.predicate(guard & !GUARD_NOT);
                    split.mask & if guard & GUARD_NOT == 0 { bits } else { !bits }
                }
            };
            if TRACKS {
                if let Tracked::Done = self.track(warp, code, pc, split.mask, mask)? {
                    split.pc += 1;
                    continue;
                }
                // A warp instruction looks itself at what it moves.
                if !matches!(step.op, Op::Warp { .. }) {
                    self.defined(warp, code, pc, mask);
                }
            }
            if mask == 0 {
                split.pc += 1;
                continue;
            }
            // The usual case, before all others are told apart.
            if let Op::Alu { run, args } = &step.op {
                // SAFETY: the decoder made the offsets for a file and predicates of this size, which `give_file` and
                // `make_warp` gave the warp; the mask is not empty.
                unsafe { run(warp.registers(), warp.predicates.as_mut_ptr(), args, mask) };
                split.pc += 1;
                continue;
            }
            if WEAK && self.make_late(warp, code, pc, mask) {
                split.pc += 1;
                continue;
            }
            match &step.op {
                Op::Load(op) => {
                    if TRACKS {
                        self.load(warp, op, mask, pc, code)?;
                    } else if self.load(warp, op, mask, pc, code)? {
                        split.pc += 1;
                        return Ok(Stop::Ready);
                    }
                }
                Op::Store(op) => {
                    if TRACKS && !warp.is_defined(op, mask) {
                        self.store_lanes(warp, op, mask, pc, code)?;
                    } else {
                        self.store(warp, op, mask, pc, code)?;
                    }
                }
                Op::Branch { target } => {
                    let target = *target;
                    let rest = split.mask & !mask;
                    if rest != 0 && target != pc + 1 {
                        let ways = [(pc + 1, rest), (target, mask)];
                        let later = usize::from(steps[target as usize].order > steps[pc as usize + 1].order);
                        let [first, other] = [ways[1 - later], ways[later]];
                        merge(warp, Split { pc: other.0, mask: other.1, state: SplitState::Ready });
                        limit = limit.min(steps[other.0 as usize].order);
                        (split.pc, split.mask) = first;
                    } else {
                        split.pc = target;
                    }
                    if target <= pc
                        && let Some(park) = warp.backward_branch(target, mask, self.time)
                        && let Some(state) = self.park(warp, park)
                    {
                        return Ok(Stop::Wait(state));
                    }
                    continue;
                }
                Op::Scalar(op) => scalar(warp, op, mask),
                Op::Atomic(op) => self.atomic(warp, op, mask, pc, code)?,
                Op::Clock { target, kind } => {
                    let time = warp.probe.clock(self.time);
                    let cycles = time.wrapping_mul(CYCLES_PER_NANOSECOND);
                    let value = match kind {
                        ClockKind::Clock64 | ClockKind::Clock => cycles,
                        ClockKind::ClockHigh => cycles >> 32,
                        ClockKind::Timer | ClockKind::TimerLow => time,
                        ClockKind::TimerHigh => time >> 32,
                    };
                    for lane in lanes(mask) {
                        warp.set_value(*target, lane, value.into());
                    }
                }
                Op::ActiveMask { target } => {
                    for lane in lanes(mask) {
                        warp.set_u32(*target, lane, mask);
                    }
                }
                Op::Fence { kind, scope } => self.fence(warp, mask, *kind, *scope, code.lines[pc as usize]),
                Op::Nothing => {}
                Op::CopyLocal { from, to, bytes } => self.copy_local(warp, *from, *to, *bytes, mask),
                Op::System(call) => self.system_call(warp, code, call, mask)?,
                Op::NoFunction(missing) => {
                    let lane = mask.trailing_zeros();
                    let text = match missing.pointer.map(|reg| warp.value(reg, lane)) {
                        None => missing.text.clone(),
                        Some(pointer) => format!("calls {pointer:#x} through a register: {}", missing.text),
                    };
                    return undefined(1 << lane, text);
                }
                Op::Save { frame } => self.save_frame(warp, code, *frame, mask)?,
                Op::Restore { frame } => {
                    self.restore_frame(warp, code, *frame, mask);
                    if !TRACKS && warp.undefined.is_some() {
                        split.pc += 1;
                        return Ok(Stop::Ready);
                    }
                }
                Op::Trap => {
                    return Err(Box::new(Trouble { lane: mask.trailing_zeros(), kind: FaultKind::Trap }));
                }
                Op::Bulk(op) => self.bulk_copy(warp, op, mask, pc)?,
                Op::AsyncStore(op) => self.async_store(warp, op, mask, pc)?,
                Op::Multimem(op) => self.multimem(warp, op, mask, pc, code)?,
                Op::Tensor(op) => self.tensor_copy(warp, op, mask, pc, code)?,
                Op::Map(op) => self.tensor_map(warp, op, mask, pc, code)?,
                Op::Fill(op) => self.fill(warp, op, mask, pc, code)?,
                Op::CommitBulk => self.commit(warp, mask, true),
                Op::Copy(op) => self.small_copy(warp, op, mask, pc)?,
                Op::CommitCopies => self.commit(warp, mask, false),
                Op::CopyArrive { place, no_increment } => {
                    self.copy_arrive(warp, place, *no_increment, mask, pc, code)?;
                }
                Op::Mbarrier(op) => self.mbarrier(warp, op, mask, pc, code)?,
                // From here on: instructions that can stop a split or send its lanes to different places. The lanes
                // that the guard excludes go on by themselves.
                blocking => {
                    let rest = split.mask & !mask;
                    if rest != 0 {
                        merge(warp, Split { pc: pc + 1, mask: rest, state: SplitState::Ready });
                        limit = limit.min(steps[pc as usize + 1].order);
                        split.mask = mask;
                    }
                    match blocking {
                        Op::Exit => {
                            self.exit_lanes(warp, code, mask, pc)?;
                            return Ok(Stop::Gone);
                        }
                        Op::Call { target, return_row } => {
                            for lane in lanes(mask) {
                                warp.set_u32(*return_row, lane, pc + 1);
                            }
                            split.pc = *target;
                        }
                        Op::Return { return_row } => {
                            let to = warp.u32(*return_row, mask.trailing_zeros());
                            if lanes(mask).all(|lane| warp.u32(*return_row, lane) == to) {
                                split.pc = to;
                            } else {
                                scatter(warp, mask, |warp, lane| warp.u32(*return_row, lane));
                                return Ok(Stop::Gone);
                            }
                        }
                        Op::BranchIndexed { index, targets } => {
                            let beyond = |warp: &Warp, lane| warp.u32(*index, lane) as usize >= targets.len();
                            if let Some(lane) = lanes(mask).find(|lane| beyond(warp, *lane)) {
                                let text = format!(
                                    "branch index {} is beyond the {} targets",
                                    warp.u32(*index, lane),
                                    targets.len()
                                );
                                return undefined(1 << lane, text);
                            }
                            let first = warp.u32(*index, mask.trailing_zeros());
                            let target = targets[first as usize];
                            if lanes(mask).all(|lane| warp.u32(*index, lane) == first) {
                                split.pc = target;
                                if target <= pc
                                    && let Some(park) = warp.backward_branch(target, mask, self.time)
                                    && let Some(state) = self.park(warp, park)
                                {
                                    return Ok(Stop::Wait(state));
                                }
                            } else {
                                scatter(warp, mask, |warp, lane| targets[warp.u32(*index, lane) as usize]);
                                return Ok(Stop::Gone);
                            }
                        }
                        Op::Warp { members, all, op } => {
                            match self.collective(warp, code, (*members, *all), op, mask, pc)? {
                                Came::Together => {
                                    split.pc += 1;
                                    if !TRACKS && warp.undefined.is_some() {
                                        return Ok(Stop::Ready);
                                    }
                                }
                                Came::Placed => return Ok(Stop::Gone),
                                Came::Wait => {
                                    let members = warp.u32(*members, mask.trailing_zeros());
                                    return Ok(Stop::Wait(SplitState::Members(members)));
                                }
                            }
                        }
                        Op::Barrier(op) => {
                            let wait = self.barrier(warp, op, Split { pc: pc + 1, ..*split })?;
                            split.pc += 1;
                            if let Some(state) = wait {
                                return Ok(Stop::Wait(state));
                            }
                        }
                        Op::ClusterBarrier(op) => {
                            let wait = self.cluster_barrier(warp, *op, pc, mask)?;
                            split.pc += 1;
                            if let Some(state) = wait {
                                return Ok(Stop::Wait(state));
                            }
                        }
                        Op::LaunchDependents => {
                            split.pc += 1;
                            if self.launch_dependents(warp) {
                                // In turn, too, what begins runs beside what follows.
                                warp.yields = true;
                                return Ok(Stop::Ready);
                            }
                        }
                        Op::GridWait => {
                            if self.waits_for_grid(warp.launch) {
                                // It is executed again behind that end.
                                return Ok(Stop::Wait(SplitState::Grid));
                            }
                            split.pc += 1;
                            let (thread, lanes) = (warp.thread(mask.trailing_zeros()), mask);
                            self.observers.tell(|| Event::GridWait { thread, lanes });
                        }
                        Op::Sleep { nanoseconds } => {
                            let longest = lanes(mask).map(|lane| warp.u32(*nanoseconds, lane)).max().unwrap_or(0);
                            split.pc += 1;
                            let ticket = self.new_ticket(warp.slot);
                            self.sleep(ticket, self.time.saturating_add(u64::from(longest.min(LONGEST_SLEEP))));
                            return Ok(Stop::Wait(SplitState::Sleep(ticket)));
                        }
                        Op::WaitBulk { groups, read } => {
                            let state = SplitState::BulkGroups { groups: *groups, read: *read };
                            self.tell_wait(warp, mask, true, *groups, *read);
                            split.pc += 1;
                            if !groups_done(warp, mask, state) {
                                return Ok(Stop::Wait(state));
                            }
                        }
                        Op::WaitCopies { groups } => {
                            let state = SplitState::CopyGroups { groups: *groups };
                            self.tell_wait(warp, mask, false, *groups, false);
                            split.pc += 1;
                            if !groups_done(warp, mask, state) {
                                return Ok(Stop::Wait(state));
                            }
                        }
                        _ => return undefined(mask, "an instruction that this engine does not know"),
                    }
                    continue;
                }
            }
            split.pc += 1;
        }
    }

    /// Lets a loop wait for a change of what it reads, or for time if it reads a clock. `None` if it has to show first that
    /// nothing changed while others ran.
    fn park(&mut self, warp: &mut Warp, park: Park) -> Option<SplitState> {
        let armed = warp.probe.armed.take();
        let ticket = match armed {
            Some(armed) if !park.alone && armed.reads == park.reads => {
                let ticket = armed.ticket;
                warp.probe.parked.push(armed);
                ticket
            }
            other => {
                if let Some(armed) = other {
                    self.forget_watches(armed.ticket, &armed.reads);
                }
                let ticket = self.new_ticket(warp.slot);
                self.watch(ticket, &park.reads);
                let watched = Armed { ticket, own: park.reads.len(), reads: park.reads };
                if !park.alone {
                    warp.probe.armed = Some(watched);
                    return None;
                }
                warp.probe.parked.push(watched);
                ticket
            }
        };
        if park.reads_clock
            && let Some(patience) = warp.next_patience()
        {
            self.sleep(ticket, self.time.saturating_add(patience));
        }
        Some(SplitState::Watch(ticket))
    }

    /// A fence only matters to observers and to weak memory, which hear of it.
    fn fence(&mut self, warp: &Warp, mask: u32, kind: FenceKind, scope: Scope, line: u32) {
        self.observers.tell(|| {
            let fence = match kind {
                FenceKind::Memory(order) => Fence::Memory(order),
                FenceKind::MbarrierInit => Fence::MbarrierInit,
                FenceKind::ProxyAlias => Fence::ProxyAlias,
                FenceKind::TensorMap => Fence::TensorMap { acquire: false },
                FenceKind::ProxyAsync(space) => {
                    Fence::ProxyAsync { global: space != Some(Space::Shared), shared: space != Some(Space::Global) }
                }
            };
            Event::Fence { thread: warp.thread(mask.trailing_zeros()), lanes: mask, fence, scope, line }
        });
    }

    fn exit_lanes(&mut self, warp: &mut Warp, code: &KernelCode, mask: u32, pc: u32) -> Outcome<()> {
        warp.live &= !mask;
        warp.effects += 1;
        if warp.live == 0
            && let Some(cta) = &self.ctas[warp.cta as usize]
            && cta.running == 1
            && cta.copies_pending > 0
        {
            let text = "the CTA ends while asynchronous copies still use its shared memory: wait for them (their group or their \
                        mbarrier) before the last thread exits";
            self.find(warp, code, pc, mask.trailing_zeros(), Rule::CopyInFlight, None, text.into())?;
            self.finish_copies(warp)?;
        }
        // Barriers and warp instructions do not wait for threads that are gone.
        self.barriers_after_exit(warp);
        self.cluster_after_exit(warp);
        self.collectives_after_exit(warp, code);
        Ok(())
    }
}

/// Executes a rare register instruction.
pub(super) fn scalar(warp: &mut Warp, op: &ScalarOp, mask: u32) {
    let mut values = [0; 4];
    for lane in lanes(mask) {
        for (value, source) in values.iter_mut().zip(&op.sources) {
            *value = warp.value(*source, lane) as u64;
        }
        let result = (op.run)(&values);
        warp.set_value(op.target, lane, result.into());
    }
}

/// The split to run in turn.
fn choose_split(warp: &Warp, code: &KernelCode) -> Option<Choice> {
    let alone = |index| Choice { index, limit: u32::MAX, steps: u32::MAX };
    if let [only] = warp.splits.as_slice() {
        return (only.state == SplitState::Ready).then_some(alone(0));
    }
    let ready = || {
        let ready = warp.splits.iter().enumerate().filter(|(_, split)| split.state == SplitState::Ready);
        ready.map(|(index, split)| (index, code.steps[split.pc as usize].order))
    };
    let (mut index, mut chosen) = ready().min_by_key(|(_, order)| *order)?;
    if warp.turns % 4 == 3 {
        let count = ready().count();
        let nth = (warp.turns / 4) as usize % count;
        (index, chosen) = ready().nth(nth)?;
    }
    let limit = ready().map(|(_, order)| order).filter(|order| *order > chosen).min();
    Some(Choice { limit: limit.unwrap_or(u32::MAX), ..alone(index) })
}

/// Adds a split that can run; lanes that meet go on together.
pub(super) fn merge(warp: &mut Warp, split: Split) {
    match warp.splits.iter_mut().find(|other| other.pc == split.pc && other.state == SplitState::Ready) {
        Some(other) => other.mask |= split.mask,
        None => warp.splits.push(split),
    }
}

/// Puts each lane into a split at its own counter.
fn scatter(warp: &mut Warp, mask: u32, to: impl Fn(&Warp, u32) -> u32) {
    for lane in lanes(mask) {
        let pc = to(warp, lane);
        merge(warp, Split { pc, mask: 1 << lane, state: SplitState::Ready });
    }
}
