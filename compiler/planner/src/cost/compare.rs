//! Which of several plans is best.
//!
//! Invariant: a verdict is a function of what the plans print: whether each fits, its time and how far times can be told apart, its memory.
//! The best is the fastest, if no other plan that fits is as fast as far as can be told; among those that are, the one that needs least memory,
//! again as far as can be told. What does not fit is never the best.

use schemars::JsonSchema;
use serde::Serialize;

use super::{Costs, uncertainty};

/// Plans that need almost as much memory are alike: what is counted is no more exact than this.
pub const MEMORY_RESOLUTION: f64 = 0.02;

/// What a plan is judged by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged {
    /// Whether it fits the memory.
    pub fits: bool,
    /// What it takes, in any unit that is the same for all plans.
    pub time: f64,
    /// The relative difference of times that cannot be told.
    pub resolution: f64,
    /// Bytes of the fullest GPU.
    pub memory: u64,
}

impl Judged {
    /// Of a plan; none where not all of the plan is known. Plans may have different numbers of tokens in a step, so that the time is that of
    /// a token; in latency mode it is that of a call.
    pub fn of(plan: &Costs) -> Option<Judged> {
        let (fits, memory) = (plan.fits?, plan.memory.as_ref()?.total().0);
        let (time, resolution) = match (&plan.step, &plan.decode) {
            (Some(step), _) => (step.total.0 / step.tokens as f64, step.resolution),
            (None, decode) => (decode.as_ref()?.0, uncertainty(&plan.phases[..2])),
        };
        Some(Judged { fits, time, resolution, memory })
    }
}

/// What decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The others are slower.
    Time,
    /// Others are as fast, as far as can be told, and need more.
    Memory,
    /// The others do not fit.
    Fit,
    /// No difference that can be told.
    Nothing,
    /// None fits.
    NoneFits,
    /// Something that the judgement needs is not known.
    Unknown,
}

/// Which of several plans.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Verdict {
    /// Its place among the plans; none where nothing decides.
    pub best: Option<usize>,
    /// What decided.
    pub by: By,
    /// Those that fit the memory.
    pub fitting: Vec<usize>,
    /// Those of them that are not slower than the fastest, as far as can be told.
    pub as_fast: Vec<usize>,
    /// Those of them that do not need more than the least, as far as can be told.
    pub alike: Vec<usize>,
}

impl Verdict {
    /// Of plans that are all known.
    pub fn of(plans: &[Judged]) -> Verdict {
        let fitting: Vec<usize> = (0..plans.len()).filter(|&plan| plans[plan].fits).collect();
        let least = |of: &[usize], worth: fn(&Judged) -> f64| {
            of.iter().copied().min_by(|&a, &b| worth(&plans[a]).total_cmp(&worth(&plans[b])))
        };
        let Some(fastest) = least(&fitting, |plan| plan.time) else { return Verdict::without(By::NoneFits, fitting) };
        let as_fast = |&plan: &usize| {
            let (one, other) = (&plans[plan], &plans[fastest]);
            one.time <= other.time * (1.0 + one.resolution.max(other.resolution))
        };
        let as_fast: Vec<usize> = fitting.iter().copied().filter(as_fast).collect();
        // There is the fastest at least.
        let smallest = least(&as_fast, |plan| plan.memory as f64).unwrap_or(fastest);
        let as_small =
            |&plan: &usize| plans[plan].memory as f64 <= plans[smallest].memory as f64 * (1.0 + MEMORY_RESOLUTION);
        let alike: Vec<usize> = as_fast.iter().copied().filter(as_small).collect();
        let (best, by) = match (&fitting[..], &as_fast[..], &alike[..]) {
            ([only], ..) if plans.len() > 1 => (Some(*only), By::Fit),
            (_, [only], _) => (Some(*only), By::Time),
            (.., [only]) => (Some(*only), By::Memory),
            _ => (None, By::Nothing),
        };
        Verdict { best, by, fitting, as_fast, alike }
    }

    /// Of plans of which not everything is known.
    pub fn unknown() -> Verdict {
        Verdict::without(By::Unknown, Vec::new())
    }

    /// Without a best one.
    fn without(by: By, fitting: Vec<usize>) -> Verdict {
        Verdict { best: None, by, fitting, as_fast: Vec::new(), alike: Vec::new() }
    }
}
