//! What is recomputed, why, and what the other choices would need.
//!
//! Invariant: unless it was asked for, the choice is `selective` where that fits and `full` where it does not; `none` saves no time that is
//! counted. Every choice is listed with its bytes, so that whoever reads it sees by how much it was taken.

use moe_front::units::{Bytes, Microseconds};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Memory, Recompute};

/// What one choice needs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Need {
    /// Which choice.
    pub recompute: Recompute,
    /// Of the fullest GPU.
    pub bytes: Bytes,
    /// Bytes that the GPU has more; below zero what it lacks.
    pub left: i64,
    /// How long a step would take, where that is known.
    pub step: Option<Microseconds>,
}

impl Need {
    /// Of the memory that a choice leads to.
    pub fn of(recompute: Recompute, memory: &Memory, step: Option<Microseconds>) -> Need {
        let (bytes, capacity) = (memory.total(), memory.capacity);
        // Far below 2^63 bytes each.
        let left = i64::try_from(i128::from(capacity.0) - i128::from(bytes.0)).unwrap_or(i64::MIN);
        Need { recompute, bytes, left, step }
    }

    /// Whether the memory suffices.
    pub fn fits(&self) -> bool {
        self.left >= 0
    }
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Choice {
    /// Which.
    pub chosen: Recompute,
    /// Whether it was asked for.
    pub asked: bool,
    /// What each would need, in the order of [`Recompute::ALL`].
    pub choices: Vec<Need>,
}

impl Choice {
    /// Of what each choice needs, all of [`Recompute::ALL`].
    pub fn of(asked: Option<Recompute>, choices: Vec<Need>) -> Choice {
        let fits = |recompute: Recompute| choices.iter().any(|need| need.recompute == recompute && need.fits());
        let smallest = if fits(Recompute::Selective) { Recompute::Selective } else { Recompute::Full };
        Choice { chosen: asked.unwrap_or(smallest), asked: asked.is_some(), choices }
    }

    /// What a choice needs.
    pub fn need(&self, recompute: Recompute) -> Option<&Need> {
        self.choices.iter().find(|need| need.recompute == recompute)
    }

    /// The next choice that keeps more.
    pub fn next(&self) -> Option<&Need> {
        self.choices.iter().rev().skip_while(|need| need.recompute != self.chosen).nth(1)
    }
}
