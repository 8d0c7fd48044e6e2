//! A discrete-event simulation of one dispatch and one combine on the links of a cluster.
//!
//! Invariant: the same [`Scenario`] gives the same [`Outcome`], bit for bit, on every machine: time is counted in whole
//! picoseconds, events at equal times are ordered by their creation, and every random choice comes from the seed.
//!
//! # What is simulated
//! Copies travel in *chunks* of [`Options::chunk_tokens`] tokens. A link is a first-come-first-served server with a rate;
//! a chunk streams through the links of one wire (a link may begin with it when its head arrives) and is stored where a
//! GPU forwards it. Dispatch of a chunk to another node: NIC of the source → (spine) → NIC of the GPU with the same local
//! index → NVLink → expert rank; within the node: NVLink only. Combine goes the same way back. A GPU starts its combine
//! when all its copies have arrived and its experts have run. A sender has at most [`Options::window`] chunks on the way,
//! which is what lets one slow receiver hold up its senders.
//!
//! # What is approximate
//! * The destination of a chunk is one rank, taken by systematic sampling from the demand: every link carries its expected
//!   bytes within one chunk per sender, and the number of events depends on the copies, not on the number of pairs.
//! * The fan-out of a chunk inside a node (to [`Demand::ranks_per_copy`] ranks on average) is charged to that one rank.
//! * Combine reduces a chunk when it reaches the forwarding GPU; it does not wait for the partial sums of other ranks.

mod bounds;
mod chunks;
mod demand;
mod deploy;
mod engine;
mod links;
mod parts;
mod queue;
mod record;
mod report;
mod scenario;

pub use bounds::{Bounds, PhaseBound};
pub use deploy::{Conditions, Planned, SCHEMA, SimulateError, Simulated, Times};
pub use report::{GpuTime, KindUse, LinkUse, Outcome, PhaseOutcome, Tail};
pub use scenario::{
    Demand, Fault, GpuId, Link, LinkKind, Network, NodeId, Options, Order, Scenario, ScenarioError, Spine,
};

use rayon::prelude::*;

use links::Links;
use parts::{Part, parts};
use record::Record;

/// Simulates one dispatch and one combine.
///
/// Cost: about eight events for each chunk. Groups that share no link are simulated one after the other on each core, so that
/// the time is linear in GPUs × tokens; where a spine joins them, they are simulated together, and caches miss.
///
/// # Errors
/// The first thing of the scenario that makes no sense, with what to write instead.
pub fn simulate(scenario: &Scenario) -> Result<Outcome, ScenarioError> {
    simulate_watched(scenario, &|_| {})
}

/// The same; `watch` is told, now and then and from any thread, how many more chunks have arrived. Each of
/// [`Scenario::chunks`] arrives twice, at its expert and back.
///
/// # Errors
/// Those of [`simulate`].
pub fn simulate_watched(scenario: &Scenario, watch: &(dyn Fn(u64) + Sync)) -> Result<Outcome, ScenarioError> {
    scenario.check()?;
    let demand = demand::Spread::new(scenario);
    let links = Links::new(scenario);
    let bounds = bounds::closed_form(scenario, &demand, &links);
    bounds.check()?;
    let records: Vec<Record> =
        parts(scenario).into_par_iter().map(|part| simulate_part(&part, &demand, watch)).collect();
    Ok(report::summarise(scenario, &links, &Record::joined(records), bounds))
}

fn simulate_part(part: &Part, demand: &demand::Spread, watch: &dyn Fn(u64)) -> Record {
    let chunks = chunks::Chunks::sample(part, demand);
    engine::run(&part.scenario, &chunks, &Links::new(&part.scenario), watch)
}
