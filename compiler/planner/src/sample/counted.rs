//! Logits whose picks follow counts.
//!
//! Invariant: the same gate, counts and seed give the same offsets, and none of the tokens that they are fitted to is one that a report is made
//! of. Every round asks the gate about new tokens and moves the offset of each expert by the logarithm of how much too rarely it was picked;
//! damped, since few picks say little, and since an offset changes the logarithm by more than itself: in the tail of a normal distribution by
//! about its distance from the mean. Later rounds move less and less, and the offsets are the mean of theirs, so that the noise of single rounds
//! is not learned.

use moe_gate::ir::Gate;

use super::{SampleError, draw};

/// Rounds that come near, and rounds that settle.
const ROUNDS: [u64; 2] = [24, 32];
/// Tokens of a round.
const TOKENS: usize = 1 << 13;
/// How much of a logarithm an offset is.
const STEP: f64 = 0.4;
/// No expert is further away: it is picked always, or never.
const FURTHEST: f64 = 30.0;
/// Blocks between the tokens of two rounds, and before the first: more than a sample has.
const APART: u64 = 1 << 32;

/// Offsets with which `gate` picks experts as often as `counts` say.
pub(super) fn fit(gate: &Gate, counts: &[f64], seed: u64) -> Result<Vec<f32>, SampleError> {
    let experts = gate.program.experts();
    let all: f64 = counts.iter().sum();
    let usable = counts.iter().all(|count| *count >= 0.0) && all > 0.0 && all.is_finite();
    if counts.len() != experts as usize || !usable {
        return Err(SampleError::Counts { found: counts.len(), experts });
    }
    let [near, settle] = ROUNDS;
    let mut offsets = vec![0.0_f64; counts.len()];
    let mut settled = vec![0.0_f64; counts.len()];
    for round in 0..near + settle {
        let now: Vec<f32> = offsets.iter().map(|offset| *offset as f32).collect();
        let found = picked(&draw(gate, Some(&now), TOKENS, seed, APART * (round + 1))?, counts.len());
        let picked: f64 = found.iter().sum();
        let late = round.saturating_sub(near) as f64;
        let step = STEP / (1.0 + late / 8.0);
        for (expert, offset) in offsets.iter_mut().enumerate() {
            // One pick more on both sides: nothing is infinitely rare.
            let rarer = (counts[expert] / all * picked + 1.0).ln() - (found[expert] + 1.0).ln();
            *offset = (*offset + step * rarer).clamp(-FURTHEST, FURTHEST);
            if round >= near {
                settled[expert] += *offset / settle as f64;
            }
        }
    }
    Ok(settled.into_iter().map(|offset| offset as f32).collect())
}

/// The part of picks that are of other experts than the counts say.
pub(super) fn elsewhere(picks: &[i32], counts: &[f64]) -> f64 {
    let found = picked(picks, counts.len());
    let (picked, all) = (found.iter().sum::<f64>(), counts.iter().sum::<f64>());
    if picked == 0.0 {
        return 1.0;
    }
    counts.iter().zip(&found).map(|(count, found)| (found / picked - count / all).abs()).sum::<f64>() / 2.0
}

fn picked(picks: &[i32], experts: usize) -> Vec<f64> {
    let mut found = vec![0.0; experts];
    for count in picks.iter().filter_map(|&pick| usize::try_from(pick).ok()) {
        if let Some(count) = found.get_mut(count) {
            *count += 1.0;
        }
    }
    found
}
