//! What no schedule can beat: the time of the busiest link, in closed form from the demand alone.
//!
//! Invariant: nothing here looks at the chunks that the simulation sampled, so that the two can be compared.

use moe_front::units::Microseconds;
use schemars::JsonSchema;
use serde::Serialize;

use super::demand::Spread;
use super::links::Links;
use super::{Link, LinkKind, Scenario, ScenarioError};

/// The bounds of both phases.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Bounds {
    /// On the way to the experts.
    pub dispatch: PhaseBound,
    /// On the way back.
    pub combine: PhaseBound,
}

/// The bound of one phase.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct PhaseBound {
    /// Expected bytes of the busiest link over its rate.
    pub time: Microseconds,
    /// The busiest link.
    pub bottleneck: Link,
}

/// Seconds for which a link may carry the bytes of one call: longer is a mistyped rate, and picoseconds in a `u64` hold 200 days.
const LONGEST: f64 = 1000.0;

impl Bounds {
    /// That nothing takes longer than can be counted.
    pub(super) fn check(&self) -> Result<(), ScenarioError> {
        for PhaseBound { time, bottleneck } in [&self.dispatch, &self.combine] {
            let seconds = time.0 / 1e6;
            if seconds.is_nan() || seconds > LONGEST {
                return Err(ScenarioError::TooLong { link: *bottleneck, seconds, most: LONGEST });
            }
        }
        Ok(())
    }
}

pub(super) fn closed_form(scenario: &Scenario, spread: &Spread, links: &Links) -> Bounds {
    let tokens = f64::from(scenario.demand.tokens_per_gpu);
    let (per_node, group) = (scenario.network.gpus_per_node, scenario.demand.group_ranks);
    let group_nodes = scenario.group_nodes();
    let fan_out = scenario.demand.ranks_per_copy;
    // Copies on each link in dispatch; combine takes the same wires in the other direction.
    let mut copies = vec![0.0; links.count()];
    for gpu in 0..scenario.gpus() {
        let rank = gpu % group;
        let (own, first_node) = ((rank / per_node) as usize, (gpu - rank) / per_node);
        let node = spread.node[own];
        let share = spread.share[rank as usize];
        let out = tokens * (spread.node.iter().sum::<f64>() - node);
        let into = tokens * f64::from(group_nodes - 1) * node;
        let local = tokens * f64::from(group_nodes) * node;
        copies[links.port(LinkKind::NicOut, gpu) as usize] = out;
        copies[links.port(LinkKind::NicIn, gpu) as usize] = into;
        copies[links.port(LinkKind::NvlinkOut, gpu) as usize] = local * (1.0 - share) * fan_out;
        copies[links.port(LinkKind::NvlinkIn, gpu) as usize] = local * share * f64::from(per_node - 1) * fan_out;
        if scenario.network.spine.is_some() {
            for (other, probability) in spread.node.iter().enumerate() {
                let there = (first_node + other as u32) * per_node + gpu % per_node;
                if links.pod(there) != links.pod(gpu) {
                    copies[links.spine(LinkKind::SpineUp, gpu) as usize] += tokens * probability;
                    copies[links.spine(LinkKind::SpineDown, there) as usize] += tokens * probability;
                }
            }
        }
    }
    let bytes = [scenario.demand.dispatch_bytes, scenario.demand.combine_bytes].map(|bytes| bytes.0 as f64);
    let dispatch = busiest(links, |number| copies[number as usize] * bytes[0]);
    let combine = busiest(links, |number| copies[links.number(links.link(number).reverse()) as usize] * bytes[1]);
    Bounds { dispatch, combine }
}

fn busiest(links: &Links, bytes: impl Fn(u32) -> f64) -> PhaseBound {
    let time = |number: u32| bytes(number) / links.rate(number);
    let mut found = (0, time(0));
    for number in 1..links.count() as u32 {
        if time(number) > found.1 {
            found = (number, time(number));
        }
    }
    PhaseBound { time: Microseconds(found.1 * 1e6), bottleneck: links.link(found.0) }
}
