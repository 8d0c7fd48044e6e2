//! A deploy on its cluster, simulated, beside what its plan says of the same calls.
//!
//! Invariant: copies, bytes and the rates that links reach are those of the plan's [`Costs`], so that what differs from the plan
//! is what the simulation adds: order, latency, contention and faults.

use moe_contract::Protocol;
use moe_front::units::{Bytes, BytesPerSecond, Microseconds};
use schemars::JsonSchema;
use serde::Serialize;
use thiserror::Error;

use super::{Demand, Fault, Network, Options, Outcome, Scenario, ScenarioError, Spine, simulate_watched};
use crate::cost::step::peak_per_sm;
use crate::cost::{Costs, Planner};
use crate::sample::Source;
use crate::time::{Bottleneck, Prediction};

/// The version of the JSON form of a simulation; it grows when a field changes its meaning or is taken away.
pub const SCHEMA: u32 = 2;

/// What a `.moe` file does not say of a cluster, and how finely it is simulated.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// GPUs that work at the same time, whole groups of ranks; those of the plan if not given.
    pub gpus: Option<u32>,
    /// From a GPU to another GPU of its node.
    pub nvlink_latency: Microseconds,
    /// From a NIC to another NIC of its rail.
    pub nic_latency: Microseconds,
    /// What joins pods of nodes; none if every rail is one switch.
    pub spine: Option<Spine>,
    /// Time of the experts on a GPU with average load; from their operations if not given.
    pub expert_time: Option<Microseconds>,
    /// What is wrong with the cluster.
    pub faults: Vec<Fault>,
    /// Granularity, order and seed.
    pub options: Options,
}

impl Default for Conditions {
    fn default() -> Conditions {
        Conditions {
            gpus: None,
            nvlink_latency: Microseconds(1.0),
            nic_latency: Microseconds(5.0),
            spine: None,
            expert_time: None,
            faults: Vec::new(),
            options: Options::default(),
        }
    }
}

/// Why a deploy is not simulated.
#[derive(Debug, Error)]
pub enum SimulateError {
    /// A simulation that makes no sense.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// Every pick a message of its own.
    #[error(
        "the simulation knows copies, and this deploy in latency mode sends every pick as a message: choose another deploy, write `mode throughput`, \
         or plan with the ranks of one node"
    )]
    Messages,
}

/// What the plan says of one call.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Planned {
    /// If the slower kind of link alone limited.
    pub links: Microseconds,
    /// Which that is.
    pub bottleneck: Bottleneck,
    /// The whole call: kernel and exchange of counts.
    pub call: Microseconds,
    /// Its expected relative error.
    pub uncertainty: f64,
}

impl Planned {
    fn of(time: &Prediction) -> Planned {
        let (links, bottleneck) = if time.network.0 > time.nvlink.0 {
            (time.network, Bottleneck::Network)
        } else {
            (time.nvlink, Bottleneck::Nvlink)
        };
        Planned { links, bottleneck, call: time.total(), uncertainty: time.uncertainty }
    }
}

/// The times that a fault changes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Times {
    /// Of the slowest GPU.
    pub dispatch: Microseconds,
    /// Of the slowest GPU.
    pub combine: Microseconds,
    /// From the start until the last GPU has its tokens back; none where the time of the experts is not known.
    pub total: Option<Microseconds>,
}

impl Times {
    pub(crate) fn of(outcome: &Outcome) -> Times {
        Times { dispatch: outcome.dispatch.time.max, combine: outcome.combine.time.max, total: outcome.total }
    }
}

/// A deploy, simulated.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Simulated {
    /// Of this form; other forms get other numbers.
    #[schemars(extend("const" = SCHEMA))]
    pub schema: u32,
    /// Names in the file.
    pub deploy: String,
    /// Names in the file.
    pub model: String,
    /// Names in the file.
    pub cluster: String,
    /// What was simulated.
    pub scenario: Scenario,
    /// What happened.
    pub outcome: Outcome,
    /// What the plan says of dispatch and of combine.
    pub planned: [Planned; 2],
    /// The same cluster without its faults, if it has any.
    pub without_faults: Option<Times>,
}

impl Planner<'_> {
    /// The scenario of a plan whose costs are known.
    ///
    /// # Errors
    /// If every pick is a message, which takes other ways, or has not whole groups of GPUs.
    pub fn scenario(&self, costs: &Costs, conditions: &Conditions) -> Result<Scenario, SimulateError> {
        if costs.protocol == Protocol::Messages {
            return Err(SimulateError::Messages);
        }
        let (expected, parallel) = (&costs.gate.expected, &costs.parallel);
        let gpus = conditions.gpus.unwrap_or(costs.gpus);
        if gpus == 0 || !gpus.is_multiple_of(parallel.ep) {
            return Err(ScenarioError::PartialGroup { gpus: u64::from(gpus), ranks: parallel.ep }.into());
        }
        let links = &self.profile.throughput.links;
        let reached = |part: f64, rate: f64| BytesPerSecond((part * rate).round() as u64);
        let nvlink = self.cluster.nvlink.bandwidth.0 as f64;
        let nic = self.cluster.rdma.map_or(nvlink, |link| link.bandwidth.0 as f64);
        let even = *self.sample.source() == Source::Independent;
        Ok(Scenario {
            network: Network {
                nodes: gpus / expected.ranks_per_node,
                gpus_per_node: expected.ranks_per_node,
                nvlink: reached(links.nvlink_reached, nvlink),
                nic: reached(links.rdma_reached, nic),
                nvlink_latency: conditions.nvlink_latency,
                nic_latency: conditions.nic_latency,
                spine: conditions.spine.clone(),
            },
            demand: Demand {
                group_ranks: parallel.ep,
                tokens_per_gpu: parallel.tokens,
                nodes_per_token: expected.distinct_nodes.mean,
                ranks_per_copy: expected.distinct_ranks.mean / expected.distinct_nodes.mean,
                dispatch_bytes: Bytes(costs.wire.dispatch_copy()),
                combine_bytes: Bytes(costs.wire.combine_row),
                rank_load: if even { Vec::new() } else { expected.copies_by_rank.clone() },
                expert_time: conditions.expert_time.or_else(|| self.expert_time(costs)),
            },
            faults: conditions.faults.clone(),
            options: conditions.options.clone(),
        })
    }

    /// Two operations for each parameter of each pick, on the multiprocessors that communication leaves.
    fn expert_time(&self, costs: &Costs) -> Option<Microseconds> {
        let parameters = self.model.expert_parameters()?;
        let left = f64::from(self.cluster.gpu.sms.saturating_sub(costs.parallel.sms).max(1));
        let rate = peak_per_sm(self.cluster.gpu.target) * left * self.options.efficiency;
        let picks = f64::from(costs.parallel.tokens) * costs.gate.expected.picks.mean;
        Some(Microseconds(2.0 * parameters as f64 * picks / rate * 1e6))
    }

    /// Simulates one dispatch and one combine of a plan whose costs are known. `watch` is told how many more chunks have arrived; with
    /// faults the cluster is simulated once more without them.
    ///
    /// # Errors
    /// Those of [`Planner::scenario`], and what of the conditions makes no sense.
    pub fn simulated(
        &self,
        costs: &Costs,
        conditions: &Conditions,
        watch: &(dyn Fn(u64) + Sync),
    ) -> Result<Simulated, SimulateError> {
        let scenario = self.scenario(costs, conditions)?;
        let outcome = simulate_watched(&scenario, watch)?;
        let healthy = Scenario { faults: Vec::new(), ..scenario.clone() };
        let without_faults = (!scenario.faults.is_empty()).then(|| simulate_watched(&healthy, watch)).transpose()?;
        Ok(Simulated {
            schema: SCHEMA,
            deploy: costs.deploy.clone(),
            model: costs.model.clone(),
            cluster: costs.cluster.clone(),
            outcome,
            planned: [0, 1].map(|phase: usize| Planned::of(&costs.phases[phase].time)),
            without_faults: without_faults.as_ref().map(Times::of),
            scenario,
        })
    }
}

impl Simulated {
    /// Dispatch and combine: name, what happened, the bound, what the plan says.
    pub(crate) fn phases(&self) -> [(&'static str, &super::PhaseOutcome, &super::PhaseBound, &Planned); 2] {
        let Outcome { dispatch, combine, bounds, .. } = &self.outcome;
        [
            ("dispatch", dispatch, &bounds.dispatch, &self.planned[0]),
            ("combine", combine, &bounds.combine, &self.planned[1]),
        ]
    }
}
