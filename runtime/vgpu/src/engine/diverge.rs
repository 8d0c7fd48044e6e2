//! Lanes of a warp drift apart: forward progress is per thread, and lanes at the same place need not go on together. PTX only promises that
//! they meet in an instruction with a member mask.
//!
//! Invariant: round-robin keeps lanes together as long as their control flow does. Where a policy draws, a warp that can run is divided
//! now and then, between any two instructions, and which part goes on, and how far, is drawn too. A part that catches up with another
//! one joins it half of the time.

use super::Machine;
use super::warp::{Split, SplitState, Warp, lanes};
use crate::decode::op::KernelCode;

/// Parts up to which a warp is divided further: enough for any two lanes to be apart, few enough to be quick.
const MOST_PARTS: usize = 4;

/// The split to run next.
pub(super) struct Choice {
    /// Its place among those of the warp.
    pub index: usize,
    /// The place in the order of steps at which it should stop to meet another one.
    pub limit: u32,
    /// After so many instructions another one may be chosen.
    pub steps: u32,
}

impl Machine {
    /// Draws the split to run, after dividing one now and then.
    pub(super) fn draw_split(&mut self, warp: &mut Warp, code: &KernelCode) -> Option<Choice> {
        let ready = |warp: &Warp| -> Vec<usize> {
            let splits = warp.splits.iter().enumerate();
            splits.filter(|(_, split)| split.state == SplitState::Ready).map(|(index, _)| index).collect()
        };
        let mut candidates = ready(warp);
        match candidates[..] {
            [] => return None,
            [only] if warp.splits[only].mask.is_power_of_two() => {
                return Some(Choice { index: only, limit: u32::MAX, steps: u32::MAX });
            }
            _ => {}
        }
        if self.random.below(4) == 0 && warp.splits.len() < MOST_PARTS {
            let nth = self.random.below(candidates.len() as u64) as usize;
            self.divide(warp, candidates[nth]);
            candidates = ready(warp);
        }
        let index = candidates[self.random.below(candidates.len() as u64) as usize];
        let order = |index: usize| code.steps[warp.splits[index].pc as usize].order;
        let ahead = candidates.iter().map(|&other| order(other)).filter(|&other| other > order(index)).min();
        let limit = ahead.filter(|_| self.random.below(2) == 0).unwrap_or(u32::MAX);
        Some(Choice { index, limit, steps: 1 << self.random.below(8) })
    }

    /// Makes two splits of one: one lane and the others, the upper and the lower ones, or any.
    fn divide(&mut self, warp: &mut Warp, index: usize) {
        let Split { pc, mask, state } = warp.splits[index];
        let nth = self.random.below(u64::from(mask.count_ones())) as usize;
        let Some(lane) = lanes(mask).nth(nth) else { return };
        let part = mask
            & match self.random.below(3) {
                0 => 1 << lane,
                1 => u32::MAX << lane,
                _ => self.random.bits() as u32,
            };
        if part != 0 && part != mask {
            warp.splits[index].mask &= !part;
            warp.splits.push(Split { pc, mask: part, state });
        }
    }
}
