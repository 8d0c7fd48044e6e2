//! Tells what everybody waits for. It only reads the machine's state, so that a report shows exactly what is there.

use super::probe::{Watch, Watched};
use super::report::{Deadlock, Limit, NotStarted, Polled, Running, WaitReason, Waiting};
use super::warp::{SplitState, Warp};
use super::{LaunchState, Machine};
use crate::decode::op::{KernelCode, Op};
use crate::ids::RankId;
use crate::memory::address::{Target, target};

const MOST_PLACES: usize = 64;

impl Machine {
    pub(super) fn diagnose(&self) -> Deadlock {
        let mut waiting = Vec::new();
        for warp in self.warps.iter().flatten() {
            let kernel = warp.kernel.clone();
            let code = kernel.code();
            for split in &warp.splits {
                let (pc, reason) = self.reason(warp, code, split.pc, split.mask, split.state);
                waiting.push(Waiting { site: self.site(warp, code, pc, split.mask), reason });
            }
        }
        waiting.sort_by_key(|waiting| {
            let kind = u8::from(!matches!(waiting.reason, WaitReason::Memory(_)));
            (kind, waiting.site.rank, waiting.site.launch, waiting.site.cta, waiting.site.warp, waiting.site.lanes)
        });
        Deadlock { waiting, not_started: self.not_started(), schedule: self.schedule() }
    }

    pub(super) fn limit(&self) -> Limit {
        let mut running: Vec<&LaunchState> = self.launches.iter().flatten().collect();
        running.sort_by_key(|state| state.id);
        let running = running.into_iter().map(|state| Running {
            rank: RankId(state.rank),
            kernel: state.kernel.name().to_owned(),
            launch: state.id,
            finished: state.finished,
            grid: state.ctas,
        });
        Limit { instructions: self.config.instruction_limit, running: running.collect(), state: self.diagnose() }
    }

    fn not_started(&self) -> Vec<NotStarted> {
        let mut out = Vec::new();
        for gpu in &self.gpus {
            for launch in &gpu.queue {
                if let Some(state) = &self.launches[*launch as usize] {
                    out.push(NotStarted::Ctas {
                        rank: RankId(state.rank),
                        kernel: state.kernel.name().to_owned(),
                        launch: state.id,
                        waiting: state.ctas - state.started,
                        grid: state.ctas,
                    });
                }
            }
        }
        for (&id, stream) in &self.streams {
            if let (false, Some(super::Command::Wait(event))) = (stream.running > 0, stream.commands.front()) {
                out.push(NotStarted::Stream { rank: RankId(stream.rank), stream: id, event: *event });
            }
        }
        out
    }

    /// The step to name and what a split waits for.
    fn reason(&self, warp: &Warp, code: &KernelCode, pc: u32, mask: u32, state: SplitState) -> (u32, WaitReason) {
        match state {
            SplitState::Ready | SplitState::Sleep(_) => (pc, WaitReason::Turn),
            SplitState::Members(members) => {
                let expected = members & warp.live;
                let there = warp.splits.iter().filter(|split| split.state == state && split.pc == pc);
                let present = there.fold(0, |present, split| present | split.mask);
                (pc, WaitReason::Members { expected, present })
            }
            SplitState::Barrier(number) => {
                let (expected, arrived) =
                    self.ctas[warp.cta as usize].as_ref().map_or((0, 0), |cta| cta.barriers.progress(number));
                (pc.saturating_sub(1), WaitReason::Barrier { number, expected, arrived })
            }
            SplitState::Cluster => {
                let (expected, arrived, missing) = self.cluster_progress(warp.cta);
                (pc.saturating_sub(1), WaitReason::Cluster { expected, arrived, missing })
            }
            SplitState::Grid => (pc, self.awaited_grid(warp.launch)),
            SplitState::BulkGroups { .. } | SplitState::CopyGroups { .. } => (pc.saturating_sub(1), WaitReason::Copies),
            SplitState::Watch(ticket) => {
                let parked = warp.probe.parked.iter().find(|parked| parked.ticket == ticket);
                let reads = parked.map_or(&[][..], |parked| &parked.reads[..parked.own]);
                match reads.first() {
                    None => (pc, WaitReason::Nothing),
                    Some(first) => (first.pc, WaitReason::Memory(self.polled(warp, code, mask, reads))),
                }
            }
        }
    }

    fn polled(&self, warp: &Warp, code: &KernelCode, mask: u32, reads: &[Watch]) -> Vec<Polled> {
        let mut out: Vec<Polled> = Vec::new();
        for read in reads {
            let count = read.bytes / read.element.max(1);
            for index in 0..count {
                let lane = (read.lane + index).min(31);
                if out.len() == MOST_PLACES || mask >> lane & 1 == 0 && mask >> read.lane & 1 == 0 {
                    continue;
                }
                let at = read.start + u64::from(index * read.element);
                let (symbol, found, writer) = match read.memory {
                    Watched::Device => self.device_place(at, read.element),
                    Watched::Shared(cta) => {
                        let found = self.ctas[cta as usize]
                            .as_ref()
                            .map_or(0, |cta| value(cta.shared.span(at, read.element.into())));
                        (self.shared_name(warp.cta, code, cta, at.cast_signed()), found, None)
                    }
                };
                let is_mbarrier = matches!(code.steps[read.pc as usize].op, Op::Mbarrier(_));
                let mbarrier = is_mbarrier.then(|| super::mbarrier::in_words(found)).flatten();
                let place = Polled { symbol, found, compared: compared(warp, code, read.pc, lane), writer, mbarrier };
                if !out.contains(&place) {
                    out.push(place);
                }
            }
        }
        out
    }

    fn device_place(&self, address: u64, bytes: u32) -> (String, u64, Option<RankId>) {
        let symbol = self.memory.symbol(address);
        let Target::Device { rank, slot, position } = target(address) else { return (symbol, 0, None) };
        let Some(found) = self.memory.allocation(rank, slot) else { return (symbol, 0, None) };
        let offset = found.offset(position);
        let writer = found.range(offset).and_then(|range| range.writer);
        if !found.segment.holds(offset, bytes.into()) {
            return (symbol, 0, writer);
        }
        (symbol, value(found.segment.span(offset.cast_unsigned(), bytes.into())), writer)
    }
}

fn value(bytes: &[u8]) -> u64 {
    let mut out = [0; 8];
    let shown = bytes.len().min(8);
    out[..shown].copy_from_slice(&bytes[..shown]);
    u64::from_le_bytes(out)
}

/// The comparison of a loaded value, and what it is compared with in a lane.
fn compared(warp: &Warp, code: &KernelCode, load: u32, lane: u32) -> Option<(String, u64)> {
    let at = code.comparisons.binary_search_by_key(&load, |comparison| comparison.load).ok()?;
    let comparison = &code.comparisons[at];
    Some((code.form(comparison.step).to_owned(), warp.value(comparison.other, lane) as u64))
}

#[cfg(test)]
mod tests {
    #[test]
    fn values_are_little_endian_and_cut_at_eight_bytes() {
        assert_eq!(super::value(&[1, 2]), 0x0201);
        assert_eq!(super::value(&[1; 16]), 0x0101_0101_0101_0101);
    }
}
