//! Logits whose picks follow counts.
//!
//! Invariant: the same gate, counts and seed give the same offsets. Every round asks the gate about the same random numbers and moves the
//! offset of each expert by the logarithm of how much too rarely it was picked; damped, since few picks say little, and since an offset
//! changes the logarithm by more than itself: in the tail of a normal distribution by about its distance from the mean.

use moe_gate::ir::Gate;

use super::{SampleError, draw};

/// Offsets, and how well they fit.
pub(super) struct Fitted {
    /// By expert.
    pub offsets: Vec<f32>,
    /// The part of the picks that are of other experts than the counts say.
    pub off: f64,
}

const ROUNDS: usize = 40;
/// Tokens of a round.
const TOKENS: usize = 1 << 13;
/// How much of a logarithm an offset is.
const STEP: f64 = 0.4;
/// No expert is further away: it is picked always, or never.
const FURTHEST: f64 = 30.0;

/// Offsets with which `gate` picks experts as often as `counts` say.
pub(super) fn fit(gate: &Gate, counts: &[f64], seed: u64) -> Result<Fitted, SampleError> {
    let experts = gate.program.experts();
    let all: f64 = counts.iter().sum();
    let usable = counts.iter().all(|count| *count >= 0.0) && all > 0.0 && all.is_finite();
    if counts.len() != experts as usize || !usable {
        return Err(SampleError::Counts { found: counts.len(), experts });
    }
    let mut offsets = vec![0.0_f32; counts.len()];
    let mut best = Fitted { offsets: offsets.clone(), off: f64::INFINITY };
    for _ in 0..ROUNDS {
        let picks = draw(gate, Some(&offsets), TOKENS, seed)?;
        let mut found = vec![0.0; counts.len()];
        for expert in picks.iter().filter_map(|&pick| usize::try_from(pick).ok()) {
            found[expert] += 1.0;
        }
        let picked: f64 = found.iter().sum();
        if picked == 0.0 {
            break;
        }
        let wanted = |expert: usize| counts[expert] / all * picked;
        let elsewhere: f64 = (0..counts.len()).map(|expert| (found[expert] - wanted(expert)).abs()).sum();
        if elsewhere / 2.0 / picked < best.off {
            best = Fitted { offsets: offsets.clone(), off: elsewhere / 2.0 / picked };
        }
        for (expert, offset) in offsets.iter_mut().enumerate() {
            // One pick more on both sides: nothing is infinitely rare.
            let rarer = (wanted(expert) + 1.0).ln() - (found[expert] + 1.0).ln();
            *offset = (f64::from(*offset) + STEP * rarer).clamp(-FURTHEST, FURTHEST) as f32;
        }
    }
    Ok(best)
}
