//! Launches that begin before the end of the one before them in their stream (programmatic dependent launch), as the PTX manual's
//! `griddepcontrol` and the CUDA programming guide's chapter on it say.
//!
//! Invariants:
//! * a dependent begins when every CTA of the launch before it has executed `griddepcontrol.launch_dependents` once, or has ended; so all
//!   of them are resident, and none of them waits for a place that the dependent has taken;
//! * that is a permission, not a promise: but in turn, some dependents begin behind the end;
//! * `griddepcontrol.wait` waits for the end of the launch before, its copies included, and of nothing further: a launch that ends
//!   without having waited may end before those that it stands behind, and the wait of the next one does not cover them;
//! * everything else in a stream (launches that are not dependent, events, memory that is freed) comes behind all that is before it.

use super::Machine;
use super::report::WaitReason;
use super::warp::{SplitState, Warp};
use crate::config::Policy;
use crate::ids::{LaunchId, StreamId};

impl Machine {
    /// Whether the last launch of a stream lets the next one begin.
    pub(super) fn lets_dependents_start(&self, latest: Option<u32>) -> bool {
        let state = latest.and_then(|slot| self.launches[slot as usize].as_ref());
        state.is_none_or(|state| state.triggered == state.ctas && state.holds_dependents != Some(true))
    }

    /// A launch begins. The one that it may have to wait for: one that is not dependent finds its stream empty.
    pub(super) fn enter_stream(&mut self, stream: StreamId, slot: u32) -> Option<LaunchId> {
        let stream = self.streams.get_mut(&stream)?;
        stream.running += 1;
        let before = stream.latest.replace(slot);
        before.and_then(|before| self.launches[before as usize].as_ref()).map(|state| state.id)
    }

    /// A launch is over: those that wait for it go on.
    pub(super) fn leave_stream(&mut self, stream: StreamId, slot: u32, id: LaunchId) {
        let Some(stream) = self.streams.get_mut(&stream) else { return };
        stream.running -= 1;
        stream.latest.take_if(|latest| *latest == slot);
        if stream.running == 0 {
            return;
        }
        let mut released: Vec<u32> = Vec::new();
        for (number, state) in (0..).zip(&mut self.launches) {
            if let Some(state) = state
                && state.prerequisite.take_if(|prerequisite| *prerequisite == id).is_some()
            {
                released.push(number);
            }
        }
        let ctas = self.ctas.iter().flatten().filter(|cta| released.contains(&cta.launch));
        let warps: Vec<u32> = ctas.flat_map(|cta| &cta.warps).copied().collect();
        for slot in warps {
            // Slots of warps that have ended may be those of others by now.
            let Some(warp) = self.warps[slot as usize].as_deref_mut().filter(|warp| released.contains(&warp.launch))
            else {
                continue;
            };
            for split in warp.splits.iter_mut().filter(|split| split.state == SplitState::Grid) {
                split.state = SplitState::Ready;
            }
            self.enqueue(slot);
        }
    }

    pub(super) fn waits_for_grid(&self, launch: u32) -> bool {
        self.launches[launch as usize].as_ref().is_some_and(|state| state.prerequisite.is_some())
    }

    pub(super) fn awaited_grid(&self, launch: u32) -> WaitReason {
        let awaited = self.launches[launch as usize].as_ref().and_then(|state| state.prerequisite);
        let state = self.launches.iter().flatten().find(|state| Some(state.id) == awaited);
        state.map_or(WaitReason::Turn, |state| WaitReason::Grid {
            kernel: state.kernel.name().to_owned(),
            launch: state.id,
        })
    }

    /// A thread lets dependents begin, as far as its CTA is concerned. Whether it is the first one of it.
    pub(super) fn launch_dependents(&mut self, warp: &mut Warp) -> bool {
        let Some(cta) = &mut self.ctas[warp.cta as usize] else { return false };
        if std::mem::replace(&mut cta.triggered, true) {
            return false;
        }
        warp.effects += 1;
        let Some(state) = &mut self.launches[warp.launch as usize] else { return true };
        if state.holds_dependents.is_none() {
            state.holds_dependents = Some(match self.config.policy {
                Policy::RoundRobin => false,
                Policy::Random | Policy::Adversarial | Policy::Weak => self.random.below(4) == 0,
            });
        }
        let stream = state.stream;
        self.count_trigger(warp.launch);
        self.advance(stream);
        true
    }

    /// One more CTA of a launch lets dependents begin.
    pub(super) fn count_trigger(&mut self, launch: u32) {
        if let Some(state) = &mut self.launches[launch as usize] {
            state.triggered += 1;
        }
    }
}
