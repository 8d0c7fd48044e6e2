//! Finds loops of several warps that only wait: warps that meet at a barrier, look, and meet again. Each of them alone seems to go on for
//! ever, as it needs the others; together they return to the same registers having changed nothing.
//!
//! Invariant: what meets here are whole warps, all of whose lanes wait at the barrier, and between two meetings none of them has met anyone
//! else or changed anything that others can see. Then what each does until the next meeting depends on the registers of all of them and
//! on the memory that they read, and on nothing else. As in [`super::probe`] a snapshot is compared with after 1, 2, 4 … meetings; a round
//! that returns to it is watched; and when another one has seen nothing change of what it read, one of the warps waits for a change.
//! The others come to the next meeting and wait for that one. A part of a group may meet in between.
//!
//! The warps of a cluster meet when its barrier is complete. Some of them may not have come to their wait by then: where each is belongs to
//! its state, and one that is at its wait is behind it as well. Lanes that have something to do before they wait, under policies that draw
//! them one by one, may never be in the same places at two meetings; then nothing is found.

use super::Machine;
use super::probe::{Armed, Watch, Watched};
use super::warp::{Split, SplitState, Warp};
use crate::decode::op::{NO_GUARD, Op};
use crate::semantics::lanes::Row;

const FIRST: u32 = 8;
/// Places that a round may read.
const MOST_READS: usize = 8192;
/// Meetings of a part of a group in sequence, after which the part is the group.
const MOST_NARROWER: u32 = 64;
/// Groups of a CTA of whom something is kept.
const MOST_GROUPS: usize = 4;

/// The warps of a cluster; those of a CTA have a bit each in the lower half.
pub(super) const CLUSTER: u64 = u64::MAX;

/// What a warp was like.
#[derive(Debug)]
struct Snapshot {
    file: Vec<Row>,
    predicates: Vec<u32>,
    splits: Vec<(u32, u32)>,
}

impl Snapshot {
    fn of(warp: &Warp, current: Option<Split>) -> Snapshot {
        let file = warp.file.rows().to_vec();
        Snapshot { file, predicates: warp.predicates.clone(), splits: places(warp, current) }
    }

    fn is_of(&self, warp: &Warp, current: Option<Split>) -> bool {
        self.file == warp.file.rows() && self.predicates == warp.predicates && self.splits == places(warp, current)
    }
}

/// Where the lanes are, by counter, however they are divided; `current` is the split that runs.
fn places(warp: &Warp, current: Option<Split>) -> Vec<(u32, u32)> {
    let code = warp.kernel.code();
    let waits = |pc: u32| {
        let step = &code.steps[pc as usize];
        step.guard == NO_GUARD && matches!(&step.op, Op::ClusterBarrier(op) if !op.arrives)
    };
    let mut places: Vec<(u32, u32)> = Vec::with_capacity(warp.splits.len() + 1);
    for split in warp.splits.iter().chain(&current) {
        // Who is at that barrier has arrived, and whoever meets has been let go.
        let pc = if warp.group == CLUSTER && waits(split.pc) { split.pc + 1 } else { split.pc };
        match places.iter_mut().find(|place| place.0 == pc) {
            Some(place) => place.1 |= split.mask,
            None => places.push((pc, split.mask)),
        }
    }
    places.sort_unstable();
    places
}

/// Warps of a CTA that meet.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// As [`Warp::group`].
    warps: u64,
    /// Of all of them together, at the last meeting.
    effects: u64,
    /// Meetings since the last effect.
    rounds: u32,
    next_snapshot: u32,
    snapshots: Vec<Snapshot>,
    /// The last round has returned to the snapshot, and this one is watched.
    recording: bool,
    renew_time: bool,
    time: u64,
    /// The slot of the warp that watches what was read, and the ticket.
    armed: Option<(u32, u64)>,
}

/// What a group does after a meeting.
enum Next {
    GoOn,
    /// Its state is compared with a snapshot made now.
    Compare,
    /// What it reads until the next meeting is written down.
    Record,
    /// It has come back after a round that was watched.
    Returned,
}

impl Machine {
    /// Warps have met at a barrier that has just let them go. `current` is one of them, not in its slot, with the split that goes on; the
    /// ticket for which that one has to wait instead, if it has to.
    pub(super) fn met(&mut self, current: &mut Warp, split: Split, warps: u64) -> Option<u64> {
        let (mut effects, mut all) = (0u64, true);
        self.each(current, warps, |warp| {
            warp.narrower = if warp.group == warps { 0 } else { warp.narrower + 1 };
            if warps & !warp.group != 0 || warp.narrower > MOST_NARROWER {
                // What it meets is another group from now on, and what it did before with others is of the past.
                (warp.group, warp.narrower) = (warps, 0);
                warp.effects += 1;
                warp.probe.leave_group();
            }
            effects = effects.wrapping_add(warp.effects);
            all = all && warp.group == warps;
        });
        if !all {
            return None;
        }
        let groups = self.groups_of(current, warps)?;
        let at = groups.iter().position(|group| group.warps == warps);
        let mut group = match at {
            Some(at) => groups.swap_remove(at),
            None => Group { warps, ..Group::default() },
        };
        let next = self.next(&mut group, current, split, effects);
        let waits = match next {
            Next::GoOn => None,
            Next::Compare => {
                self.snapshot(&mut group, current, split);
                None
            }
            Next::Record => {
                group.recording = true;
                self.each(current, warps, |warp| warp.probe.record_group());
                None
            }
            Next::Returned => self.returned(&mut group, current, split),
        };
        let groups = self.groups_of(current, warps)?;
        if groups.len() == MOST_GROUPS {
            groups.remove(0);
        }
        groups.push(group);
        waits
    }

    /// What is kept of the groups of the CTA, or of its cluster.
    fn groups_of(&mut self, current: &Warp, warps: u64) -> Option<&mut Vec<Group>> {
        let cta = self.ctas[current.cta as usize].as_mut()?;
        match warps {
            CLUSTER => Some(&mut self.clusters[cta.cluster as usize].as_mut()?.groups),
            _ => Some(&mut cta.groups),
        }
    }

    /// Warps have met of which some went on before, or only a part came.
    pub(super) fn met_in_part(&mut self, current: &mut Warp, warps: u64) {
        self.each(current, warps, |warp| warp.group = 0);
    }

    fn next(&mut self, group: &mut Group, current: &mut Warp, split: Split, effects: u64) -> Next {
        if effects != group.effects {
            group.effects = effects;
            if group.rounds >= FIRST {
                self.each(current, group.warps, |warp| warp.probe.leave_group());
            }
            group.snapshots.clear();
            group.rounds = 0;
            group.recording = false;
            return Next::GoOn;
        }
        group.rounds = group.rounds.saturating_add(1);
        if group.rounds < FIRST {
            return Next::GoOn;
        }
        if group.rounds == FIRST {
            (group.next_snapshot, group.renew_time) = (FIRST, false);
        }
        if group.rounds >= group.next_snapshot || group.snapshots.is_empty() {
            group.next_snapshot = group.next_snapshot.saturating_mul(2);
            return Next::Compare;
        }
        let mut same = true;
        let mut snapshots = group.snapshots.iter();
        let slot = current.slot;
        self.each(current, group.warps, |warp| {
            let running = (warp.slot == slot).then_some(split);
            same = same && snapshots.next().is_some_and(|snapshot| snapshot.is_of(warp, running));
        });
        let same = same && snapshots.next().is_none();
        match (same, group.recording) {
            (false, _) => Next::GoOn,
            (true, false) => {
                // The round that is watched may be as long as this one.
                group.next_snapshot = group.next_snapshot.saturating_mul(2);
                Next::Record
            }
            (true, true) => Next::Returned,
        }
    }

    fn snapshot(&mut self, group: &mut Group, current: &mut Warp, split: Split) {
        // The second snapshot of a pair keeps the time of the first, so that a register that holds it can be equal.
        group.renew_time = !group.renew_time;
        if group.renew_time {
            group.time = self.time;
        }
        group.recording = false;
        let mut snapshots = Vec::new();
        let (slot, time) = (current.slot, group.time);
        self.each(current, group.warps, |warp| {
            warp.probe.compare_group(time);
            snapshots.push(Snapshot::of(warp, (warp.slot == slot).then_some(split)));
        });
        group.snapshots = snapshots;
    }

    /// A round that was watched has changed nothing. What it read is watched now, and waited for when another round has found it so.
    fn returned(&mut self, group: &mut Group, current: &mut Warp, split: Split) -> Option<u64> {
        let (mut reads, mut reads_clock, mut overflow) = (Vec::new(), false, false);
        let mut leader: Option<(bool, u32)> = None;
        self.each(current, group.warps, |warp| {
            let recorded = warp.probe.take_group();
            reads_clock |= recorded.clock;
            overflow |= recorded.overflow;
            let device = recorded.reads.iter().any(|read| read.memory == Watched::Device);
            if !recorded.reads.is_empty() && leader.is_none_or(|leader| device && !leader.0) {
                leader = Some((device, warp.slot));
            }
            reads.push((warp.slot, recorded.reads));
        });
        let leader = leader.map_or(current.slot, |leader| leader.1);
        // The leader's own come first.
        reads.sort_by_key(|(slot, _)| *slot != leader);
        let own = reads.first().map_or(0, |(_, reads)| reads.len());
        let places: Vec<Watch> = reads.into_iter().flat_map(|(_, reads)| reads).collect();
        if overflow || places.len() > MOST_READS {
            group.rounds = 0;
            return None;
        }
        let is_current = leader == current.slot;
        let ticket = self.new_ticket(leader);
        let warp = if is_current { &mut *current } else { self.warps[leader as usize].as_deref_mut()? };
        let before = warp.probe.armed.take();
        let as_before = before.as_ref().is_some_and(|armed| {
            group.armed == Some((leader, armed.ticket)) && (&armed.reads, armed.own) == (&places, own)
        });
        let now = Armed { ticket, reads: places, own };
        if !as_before {
            warp.probe.armed = Some(now.clone());
            group.armed = Some((leader, ticket));
            if let Some(before) = before {
                self.forget_watches(before.ticket, &before.reads);
            }
            self.watch(ticket, &now.reads);
            self.each(current, group.warps, |warp| warp.probe.record_group());
            return None;
        }
        // The watches of the round before are still there: nothing has been written since.
        let ticket = before.as_ref().map_or(ticket, |armed| armed.ticket);
        let patience = if reads_clock { warp.next_patience() } else { None };
        // The lane that read the first of the places waits: it has just been let go, with those that are where it is.
        let lane = before.as_ref().and_then(|armed| armed.reads.first()).map_or(0, |read| read.lane);
        let runs = is_current && (split.mask >> lane & 1 == 1 || warp.splits.is_empty());
        if !runs {
            let at = warp.splits.iter().position(|split| split.mask >> lane & 1 == 1).unwrap_or(0);
            if warp.splits[at].state != SplitState::Ready {
                // It has arrived at the barrier of its cluster and waits for something else now.
                warp.probe.armed = before;
                self.each(current, group.warps, |warp| warp.probe.record_group());
                return None;
            }
            warp.splits[at].state = SplitState::Watch(ticket);
        }
        warp.probe.parked.extend(before);
        if let Some(patience) = patience {
            self.sleep(ticket, self.time.saturating_add(patience));
        }
        self.each(current, group.warps, |warp| warp.probe.leave_group());
        (group.rounds, group.recording, group.armed) = (0, false, None);
        group.snapshots.clear();
        runs.then_some(ticket)
    }

    /// Calls a function for the warps of a group in their order; `current` is not in its slot.
    fn each(&mut self, current: &mut Warp, warps: u64, mut run: impl FnMut(&mut Warp)) {
        let Some(own) = &self.ctas[current.cta as usize] else { return };
        let ctas = match &self.clusters[own.cluster as usize] {
            Some(cluster) if warps == CLUSTER => cluster.ctas.as_slice(),
            _ => &[Some(current.cta)],
        };
        for cta in ctas.iter().flatten() {
            let Some(members) = self.ctas[*cta as usize].as_ref().map(|cta| &cta.warps) else { continue };
            for (number, slot) in (0u32..).zip(members).filter(|(number, _)| warps >> (number & 31) & 1 == 1) {
                if *slot == current.slot {
                    run(current);
                } else if let Some(warp) = self.warps[*slot as usize].as_deref_mut()
                    && (warp.cta, warp.number) == (*cta, number)
                {
                    run(warp);
                }
            }
        }
    }
}
