//! How a run is scheduled, and what came of it.
#![allow(dead_code, reason = "each test uses a part of this")]

use moe_vgpu::{Conflict, Policy};

/// How a run is scheduled, and whether its memory order is judged.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    pub policy: Policy,
    pub seed: u64,
    judged: bool,
}

impl Schedule {
    /// Every warp in turn. Not judged.
    pub const IN_TURN: Schedule = Schedule { policy: Policy::RoundRobin, seed: 0, judged: false };

    /// Not judged.
    pub fn random(seed: u64) -> Schedule {
        Schedule { policy: Policy::Random, seed, judged: false }
    }

    /// Not judged.
    pub fn adversarial(seed: u64) -> Schedule {
        Schedule { policy: Policy::Adversarial, seed, judged: false }
    }

    /// With memory as weak as PTX allows. Not judged.
    pub fn weak(seed: u64) -> Schedule {
        Schedule { policy: Policy::Weak, seed, judged: false }
    }

    pub fn is_judged(self) -> bool {
        self.judged
    }

    /// The same, judged.
    pub fn judged(self) -> Schedule {
        Schedule { judged: true, ..self }
    }
}

impl std::fmt::Display for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, seed {}", self.policy, self.seed)
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// What the cluster reports, or the first difference.
    pub executed: Result<(), String>,
    /// Two accesses that nothing orders, if there are any and the run was judged.
    pub conflict: Option<Conflict>,
}

impl Outcome {
    /// Everything must be right.
    pub fn fine(self) -> Result<(), String> {
        self.executed?;
        self.conflict.map_or(Ok(()), |conflict| Err(conflict.to_string()))
    }
}
