//! CTA barriers. A barrier counts whole warps as hardware does: 32 for a warp whose remaining lanes have all arrived.
//!
//! Invariant: a barrier completes in the step in which its last thread arrives or exits, and is empty after that.

use super::Machine;
use super::warp::{Outcome, Split, SplitState, Warp, lanes, undefined};
use crate::decode::op::{BarrierMode, BarrierOp};
use crate::observer::Event;
use crate::rules::Rule;

const NUMBERS: usize = 16;

#[derive(Debug, Default, Clone)]
struct Barrier {
    /// Lanes that have arrived, per warp.
    arrived: Vec<u32>,
    /// Arrivals of lanes that had already arrived in this round.
    again: u32,
    /// Threads that it needs; all of the CTA if not said.
    count: Option<u32>,
    /// Whether anybody has arrived.
    open: bool,
    popc: u32,
    all: bool,
    any: bool,
    /// Where the lanes of each warp came from that have to come together.
    from: Vec<Option<u32>>,
    /// Where the results go: warp number, lanes, operation.
    results: Vec<(u32, u32, BarrierMode)>,
}

#[derive(Debug)]
pub(crate) struct Barriers {
    barriers: Vec<Barrier>,
    /// Lanes that have not exited, per warp.
    live: Vec<u32>,
}

impl Barriers {
    pub fn new(warps: u32) -> Barriers {
        Barriers { barriers: Vec::new(), live: vec![u32::MAX; warps as usize] }
    }

    /// Threads that a barrier needs and those that it has.
    pub fn progress(&self, number: u32) -> (u32, u32) {
        let Some(barrier) = self.barriers.get(number as usize) else { return (0, 0) };
        let alive = self.live.iter().filter(|live| **live != 0).count() as u32;
        (barrier.count.unwrap_or(alive * 32), barrier.threads(&self.live))
    }
}

impl Barrier {
    fn threads(&self, live: &[u32]) -> u32 {
        let of_warp = |(arrived, live): (&u32, &u32)| match (*arrived, *live) {
            (_, 0) => {
                if *arrived == 0 {
                    0
                } else {
                    32
                }
            }
            (arrived, live) if arrived & live == live => 32,
            (arrived, _) => arrived.count_ones(),
        };
        self.again + self.arrived.iter().zip(live).map(of_warp).sum::<u32>()
    }

    fn is_complete(&self, live: &[u32]) -> bool {
        match self.count {
            Some(count) => self.threads(live) >= count,
            None => self.arrived.iter().zip(live).all(|(arrived, live)| arrived & live == *live),
        }
    }
}

impl Machine {
    /// Lanes come to a barrier, with the counter behind it. What they wait for, if they have to.
    pub(super) fn barrier(&mut self, warp: &mut Warp, op: &BarrierOp, split: Split) -> Outcome<Option<SplitState>> {
        let mask = split.mask;
        let number = warp.uniform(op.number, mask, "the barrier number")?;
        if number as usize >= NUMBERS {
            return undefined(mask, format!("barrier {number} does not exist: a CTA has {NUMBERS}, counted from 0"));
        }
        let count = op.count.map(|row| warp.uniform(row, mask, "the number of threads of a barrier")).transpose()?;
        if let Some(count) = count
            && (count == 0 || !count.is_multiple_of(32) || count > 1024)
        {
            let text = format!("barrier {number}: {count} threads are not a multiple of 32 from 32 to 1024");
            return undefined(mask, text);
        }
        warp.arrivals += 1;
        // Others may wait for an arrival that does not wait for them.
        warp.effects += u64::from(op.mode == BarrierMode::Arrive);
        let Some(cta) = &mut self.ctas[warp.cta as usize] else { return Ok(None) };
        let barriers = &mut cta.barriers;
        while barriers.barriers.len() <= number as usize {
            let warps = barriers.live.len();
            let empty = Barrier { arrived: vec![0; warps], from: vec![None; warps], all: true, ..Barrier::default() };
            barriers.barriers.push(empty);
        }
        barriers.live[warp.number as usize] = warp.live;
        let barrier = &mut barriers.barriers[number as usize];
        if barrier.open && barrier.count != count {
            let show = |count: Option<u32>| count.map_or("all".to_owned(), |count| count.to_string());
            let text = format!(
                "barrier {number}: {} threads here, {} at the lanes that arrived before",
                show(count),
                show(barrier.count)
            );
            return undefined(mask, text);
        }
        let pc = split.pc - 1;
        let from = &mut barrier.from[warp.number as usize];
        let apart = op.aligned.then(|| from.replace(pc)).flatten().filter(|other| *other != pc);
        barrier.open = true;
        barrier.count = count;
        let arrived = &mut barrier.arrived[warp.number as usize];
        barrier.again += (*arrived & mask).count_ones();
        *arrived |= mask;
        if let Some((predicate, negated)) = op.predicate {
            let bits = if negated { !warp.predicates[predicate as usize] } else { warp.predicates[predicate as usize] };
            barrier.popc += (bits & mask).count_ones();
            barrier.all &= bits & mask == mask;
            barrier.any |= bits & mask != 0;
        }
        if matches!(op.mode, BarrierMode::Popc(_) | BarrierMode::And(_) | BarrierMode::Or(_)) {
            barrier.results.push((warp.number, mask, op.mode));
        }
        let complete = barrier.is_complete(&barriers.live);
        if let Some(other) = apart {
            let kernel = warp.kernel.clone();
            let code = kernel.code();
            let (here, there) = (code.lines[pc as usize], code.lines[other as usize]);
            let text = format!(
                "lanes of a warp come to barrier {number} by different instructions, in lines {there} and {here}: all lanes of a warp have \
                 to execute the same one, as it is .aligned"
            );
            self.find(warp, code, pc, mask.trailing_zeros(), Rule::DivergentBarrier, None, text)?;
        }
        let (thread, waits) = (warp.thread(mask.trailing_zeros()), op.mode != BarrierMode::Arrive);
        self.observers.tell(|| Event::BarrierArrive { thread, lanes: mask, barrier: number, waits });
        if complete {
            let (warps, whole) = self.who_meets(warp, number, mask);
            self.complete(warp, number);
            if waits && whole {
                return Ok(self.met(warp, split, warps).map(SplitState::Watch));
            }
            self.met_in_part(warp, warps);
            return Ok(None);
        }
        Ok(waits.then_some(SplitState::Barrier(number)))
    }

    /// The warps at a barrier, a bit for each, and whether all of their lanes wait there. `current` is one of them, and `mask` the lanes
    /// of it that run.
    fn who_meets(&self, current: &Warp, number: u32, mask: u32) -> (u64, bool) {
        let Some(cta) = self.ctas[current.cta as usize].as_deref() else { return (0, false) };
        let Some(barrier) = cta.barriers.barriers.get(number as usize) else { return (0, false) };
        let (mut warps, mut whole) = (0, true);
        for (index, arrived) in (0u32..).zip(&barrier.arrived).filter(|(_, arrived)| **arrived != 0) {
            warps |= 1 << index;
            let (warp, running) = if index == current.number {
                (current, mask)
            } else {
                match self.warps[cta.warps[index as usize] as usize].as_deref() {
                    Some(warp) => (warp, 0),
                    None => return (warps, false),
                }
            };
            let lanes = warp.splits.iter().fold(running, |lanes, split| lanes | split.mask);
            let wait = warp.splits.iter().all(|split| split.state == SplitState::Barrier(number));
            whole = whole && wait && arrived & lanes == lanes;
        }
        (warps, whole)
    }

    /// Lets everybody go who waits at a barrier, and empties it. `current` is not in its slot.
    fn complete(&mut self, current: &mut Warp, number: u32) {
        let Some(cta) = &mut self.ctas[current.cta as usize] else { return };
        let barrier = &mut cta.barriers.barriers[number as usize];
        let results = std::mem::take(&mut barrier.results);
        let (popc, all, any) = (barrier.popc, barrier.all, barrier.any);
        barrier.arrived.fill(0);
        barrier.from.fill(None);
        (barrier.again, barrier.open, barrier.count) = (0, false, None);
        (barrier.popc, barrier.all, barrier.any) = (0, true, false);
        for index in 0..cta.warps.len() {
            let Some(cta) = &self.ctas[current.cta as usize] else { return };
            let slot = cta.warps[index];
            let warp = if index as u32 == current.number {
                &mut *current
            } else {
                match self.warps[slot as usize].as_deref_mut() {
                    Some(warp) if warp.cta == current.cta && warp.number == index as u32 => warp,
                    _ => continue,
                }
            };
            let give = |warp: &mut Warp| {
                for (_, mask, mode) in results.iter().filter(|result| result.0 == index as u32) {
                    match *mode {
                        BarrierMode::Popc(reg) => {
                            lanes(*mask).for_each(|lane| warp.set_value(reg, lane, popc.into()));
                        }
                        BarrierMode::And(predicate) => {
                            warp.set_predicate(predicate, *mask, if all { u32::MAX } else { 0 });
                        }
                        BarrierMode::Or(predicate) => {
                            warp.set_predicate(predicate, *mask, if any { u32::MAX } else { 0 });
                        }
                        BarrierMode::Sync | BarrierMode::Arrive => {}
                    }
                }
            };
            give(warp);
            let mut woke = false;
            for split in &mut warp.splits {
                if split.state == SplitState::Barrier(number) {
                    split.state = SplitState::Ready;
                    woke = true;
                }
            }
            if woke && index as u32 != current.number {
                self.enqueue_released(slot);
            }
        }
        self.observers.tell(|| Event::BarrierComplete { thread: current.thread(0), barrier: number });
    }

    /// A barrier that now only waits for threads that have exited is complete.
    pub(super) fn barriers_after_exit(&mut self, warp: &mut Warp) {
        let Some(cta) = &mut self.ctas[warp.cta as usize] else { return };
        cta.barriers.live[warp.number as usize] = warp.live;
        let barriers = &cta.barriers;
        let done: Vec<u32> = barriers
            .barriers
            .iter()
            .enumerate()
            .filter(|(_, barrier)| barrier.open && barrier.is_complete(&barriers.live))
            .map(|(number, _)| number as u32)
            .collect();
        for number in done {
            let (warps, _) = self.who_meets(warp, number, 0);
            self.complete(warp, number);
            self.met_in_part(warp, warps);
        }
    }
}
