//! What a cluster is and how it is scheduled. The same configuration and the same calls give the same run.

use serde::Deserialize;

use crate::rules::Rules;

/// Which warp runs next, and when asynchronous copies finish. Every policy is fair to a kernel that only assumes what the
/// PTX memory and progress models promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Every warp in turn, those that a barrier has let go before others; asynchronous copies finish in order.
    #[default]
    RoundRobin,
    /// Any warp, or a part of its lanes, for any number of instructions; asynchronous copies finish in any order.
    Random,
    /// Lets lanes of a warp drift apart further, starves a rank, delays a warp, launches a CTA late, finishes copies as
    /// late as it can; who is hit changes with the seed and from time to time.
    Adversarial,
    /// As [`Policy::Random`], and memory is as weak as PTX allows: a read may return an older value that nothing forbids it, a write may
    /// come before one that is there, a load may be late. So a missing release, acquire, fence or scope has the consequences that it may
    /// have on hardware.
    Weak,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Policy; 4] = [Policy::RoundRobin, Policy::Random, Policy::Adversarial, Policy::Weak];
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Policy::RoundRobin => "round-robin",
            Policy::Random => "random",
            Policy::Adversarial => "adversarial",
            Policy::Weak => "weak",
        })
    }
}

/// Shape of a cluster and of its runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Virtual GPUs, from 1 to 1000.
    pub ranks: u32,
    /// Streaming multiprocessors per GPU, from 1 to 1024. They bound how many CTAs are resident at once.
    pub sms: u32,
    /// Chooses the interleaving, where the policy draws it, and the values of [`Policy::Weak`].
    pub seed: u64,
    /// Scheduling policy.
    pub policy: Policy,
    /// Whether values that nobody defined are looked for: bytes that nobody wrote, registers that were never written, lanes that took no
    /// part in a shuffle. Without it such bytes are zero.
    pub check_initialised: bool,
    /// How bad findings are, and which are accepted.
    pub rules: Rules,
    /// Warp instructions after which a run is given up. It ends loops that change something for ever; waiting for what never comes is
    /// found without it.
    pub instruction_limit: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            ranks: 1,
            sms: 132,
            seed: 0,
            policy: Policy::RoundRobin,
            check_initialised: true,
            rules: Rules::default(),
            instruction_limit: 20_000_000_000,
        }
    }
}
