//! Clusters: CTAs that run at the same time, reach each other's shared memory, and meet at a barrier in two steps, an arrival and a wait.
//!
//! Invariants: the CTAs of a cluster start together and have serial numbers one after the other; an arrival completes the barrier in the
//! very step in which it is the last one of the threads that have not exited; a thread that has arrived waits before it arrives again.

use super::Machine;
use super::meet::{CLUSTER, Group};
use super::warp::{Outcome, Split, SplitState, Warp, undefined};
use crate::decode::op::ClusterBarrierOp;
use crate::observer::Event;
use crate::rules::Rule;

/// The lanes of a warp at the barrier.
#[derive(Debug, Clone, Copy)]
struct Lanes {
    live: u32,
    arrived: u32,
    /// The barrier that they arrived at is complete, and they have not waited for it.
    passed: u32,
    /// The last wait and the last arrival that were `.aligned`, each with the completions before it.
    from: [Option<(u32, u64)>; 2],
}

pub(crate) struct CtaCluster {
    /// Slots by rank; none of one that has ended.
    pub ctas: Vec<Option<u32>>,
    warps_of_cta: u32,
    warps: Vec<Lanes>,
    /// Somebody has arrived.
    open: bool,
    completions: u64,
    /// All of its warps, as they meet at its barrier.
    pub groups: Vec<Group>,
}

impl CtaCluster {
    fn at(&mut self, rank: u32, warp: u32) -> &mut Lanes {
        &mut self.warps[(rank * self.warps_of_cta + warp) as usize]
    }

    fn is_complete(&self) -> bool {
        self.open && self.warps.iter().all(|warp| warp.live & !warp.arrived == 0)
    }
}

impl Machine {
    /// A cluster of so many CTAs that are to start.
    pub(super) fn new_cluster(&mut self, ctas: usize, warps_of_cta: u32) -> u32 {
        let slot = self.free_clusters.pop().unwrap_or(self.clusters.len() as u32);
        if slot as usize == self.clusters.len() {
            self.clusters.push(None);
        }
        let lanes = Lanes { live: u32::MAX, arrived: 0, passed: 0, from: [None; 2] };
        let warps = vec![lanes; ctas * warps_of_cta as usize];
        let cluster =
            CtaCluster { ctas: vec![None; ctas], warps_of_cta, warps, open: false, completions: 0, groups: Vec::new() };
        self.clusters[slot as usize] = Some(Box::new(cluster));
        slot
    }

    /// A CTA has ended.
    pub(super) fn leave_cluster(&mut self, slot: u32, rank: u32) {
        let Some(cluster) = &mut self.clusters[slot as usize] else { return };
        cluster.ctas[rank as usize] = None;
        if cluster.ctas.iter().all(Option::is_none) {
            self.clusters[slot as usize] = None;
            self.free_clusters.push(slot);
        }
    }

    /// Slot of a warp's cluster, and the rank of its CTA.
    fn cluster_of(&self, cta: u32) -> Option<(u32, u32)> {
        self.ctas[cta as usize].as_ref().map(|cta| (cta.cluster, cta.cluster_rank))
    }

    /// Lanes come to the barrier of their cluster. What they wait for, if they have to.
    pub(super) fn cluster_barrier(
        &mut self,
        warp: &mut Warp,
        op: ClusterBarrierOp,
        pc: u32,
        mask: u32,
    ) -> Outcome<Option<SplitState>> {
        let Some((slot, rank)) = self.cluster_of(warp.cta) else { return Ok(None) };
        let Some(cluster) = &mut self.clusters[slot as usize] else { return Ok(None) };
        let completions = cluster.completions;
        let lanes = cluster.at(rank, warp.number);
        lanes.live = warp.live;
        // One that is over has another number than the one that follows.
        let number = if lanes.passed & mask == 0 { completions } else { completions - 1 };
        let came = &mut lanes.from[usize::from(op.arrives)];
        let before = op.aligned.then(|| came.replace((pc, number))).flatten();
        let apart = before.filter(|(other, of)| *other != pc && *of == number).map(|(other, _)| other);
        if op.arrives {
            let again = (lanes.arrived | lanes.passed) & mask;
            if again != 0 {
                return undefined(again, "a thread arrives at the barrier of its cluster again before it has waited");
            }
            lanes.arrived |= mask;
        } else {
            let missing = mask & !(lanes.arrived | lanes.passed);
            if missing != 0 {
                return undefined(missing, "a thread waits at the barrier of its cluster and has not arrived there");
            }
        }
        let waits = mask & !lanes.passed;
        if !op.arrives && waits == 0 {
            lanes.passed &= !mask;
        }
        cluster.open |= op.arrives;
        let complete = cluster.is_complete();
        warp.arrivals += u64::from(op.arrives);
        if let Some(other) = apart {
            let kernel = warp.kernel.clone();
            let code = kernel.code();
            let (here, there) = (code.lines[pc as usize], code.lines[other as usize]);
            let text = format!(
                "lanes of a warp come to the barrier of their cluster by different instructions, in lines {there} and {here}: all lanes of \
                 a warp have to execute the same one, as it is .aligned"
            );
            self.find(warp, code, pc, mask.trailing_zeros(), Rule::DivergentBarrier, None, text)?;
        }
        let thread = warp.thread(mask.trailing_zeros());
        if op.arrives {
            self.observers.tell(|| Event::ClusterArrive { thread, lanes: mask, releases: op.releases });
            if !complete {
                return Ok(None);
            }
            self.complete_cluster(slot, warp);
            let split = Split { pc: pc + 1, mask, state: SplitState::Ready };
            return Ok(self.met(warp, split, CLUSTER).map(SplitState::Watch));
        }
        if waits == 0 {
            self.observers.tell(|| Event::ClusterPassed { thread, lanes: mask });
            return Ok(None);
        }
        Ok(Some(SplitState::Cluster))
    }

    /// Lets everybody go who waits. `current` is not in its slot.
    fn complete_cluster(&mut self, slot: u32, current: &mut Warp) {
        let Some(mut cluster) = self.clusters[slot as usize].take() else { return };
        self.observers.tell(|| Event::ClusterComplete { thread: current.thread(0) });
        cluster.open = false;
        cluster.completions += 1;
        for rank in 0..cluster.ctas.len() as u32 {
            for number in 0..cluster.warps_of_cta {
                let lanes = cluster.at(rank, number);
                lanes.passed = std::mem::take(&mut lanes.arrived) & lanes.live;
            }
            let Some(cta) = cluster.ctas[rank as usize] else { continue };
            for number in 0..cluster.warps_of_cta {
                let Some(warp_slot) = self.ctas[cta as usize].as_ref().map(|cta| cta.warps[number as usize]) else {
                    continue;
                };
                let is_current = cta == current.cta && number == current.number;
                let warp = if is_current {
                    &mut *current
                } else {
                    match self.warps[warp_slot as usize].as_deref_mut() {
                        Some(warp) if warp.cta == cta && warp.number == number => warp,
                        _ => continue,
                    }
                };
                let mut woken = 0;
                for split in warp.splits.iter_mut().filter(|split| split.state == SplitState::Cluster) {
                    split.state = SplitState::Ready;
                    woken |= split.mask;
                }
                if woken == 0 {
                    continue;
                }
                cluster.at(rank, number).passed &= !woken;
                let thread = warp.thread(woken.trailing_zeros());
                self.observers.tell(|| Event::ClusterPassed { thread, lanes: woken });
                if !is_current {
                    self.enqueue_released(warp_slot);
                }
            }
        }
        self.clusters[slot as usize] = Some(cluster);
    }

    /// A barrier that now only waits for threads that have exited is complete.
    pub(super) fn cluster_after_exit(&mut self, warp: &mut Warp) {
        let Some((slot, rank)) = self.cluster_of(warp.cta) else { return };
        let Some(cluster) = &mut self.clusters[slot as usize] else { return };
        cluster.at(rank, warp.number).live = warp.live;
        if cluster.is_complete() {
            self.complete_cluster(slot, warp);
        }
    }

    /// Threads of a CTA's cluster that have not exited, those that have arrived, and the CTAs of which some have not.
    pub(super) fn cluster_progress(&self, cta: u32) -> (u32, u32, Vec<u32>) {
        let cluster = self.cluster_of(cta).and_then(|(slot, _)| self.clusters[slot as usize].as_ref());
        let Some(cluster) = cluster else { return (0, 0, Vec::new()) };
        let (mut expected, mut arrived, mut missing) = (0, 0, Vec::new());
        for (slot, warps) in cluster.ctas.iter().zip(cluster.warps.chunks(cluster.warps_of_cta as usize)) {
            let Some(cta) = slot.and_then(|slot| self.ctas[slot as usize].as_ref()) else { continue };
            let live = |number: usize, lanes: &Lanes| {
                let warp = self.warps[cta.warps[number] as usize].as_ref();
                warp.filter(|warp| warp.number as usize == number).map_or(lanes.live, |warp| warp.live)
            };
            for (number, lanes) in warps.iter().enumerate() {
                let live = live(number, lanes);
                expected += live.count_ones();
                arrived += (lanes.arrived & live).count_ones();
            }
            if warps.iter().enumerate().any(|(number, lanes)| live(number, lanes) & !lanes.arrived != 0) {
                missing.push(cta.index);
            }
        }
        (expected, arrived, missing)
    }
}
