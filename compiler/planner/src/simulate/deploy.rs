//! A deploy on its cluster, simulated, beside what its plan says of the same calls.
//!
//! Invariant: copies, bytes and the rates that links reach are those of the plan's [`Report`], so that what differs from the plan
//! is what the simulation adds: order, latency, contention and faults.

use moe_compiler::units::{Bytes, BytesPerSecond, Microseconds};
use moe_contract::Protocol;
use serde::Serialize;

use super::{Demand, Fault, Network, Options, Outcome, Scenario, ScenarioError, Spine, simulate_watched};
use crate::missing::{self, Missing};
use crate::not_built::NotBuilt;
use crate::report::{PlanError, Planner, Report};
use crate::sample::Source;
use crate::step::peak_per_sm;
use crate::time::{Bottleneck, Prediction};

/// The version of the JSON form of a [`Simulation`]; it grows when a field changes its meaning or is taken away.
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

/// What the plan says of one call.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Times {
    /// Of the slowest GPU.
    pub dispatch: Microseconds,
    /// Of the slowest GPU.
    pub combine: Microseconds,
    /// From the start until the last GPU has its tokens back; none where the time of the experts is not known.
    pub total: Option<Microseconds>,
}

impl Times {
    fn of(outcome: &Outcome) -> Times {
        Times { dispatch: outcome.dispatch.time.max, combine: outcome.combine.time.max, total: outcome.total }
    }
}

/// A deploy, simulated.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Simulation {
    /// [`SCHEMA`]
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
    /// What is withheld, and why.
    pub headline: Vec<String>,
    /// The same cluster without its faults, if it has any.
    pub without_faults: Option<Times>,
    /// In words.
    pub explanation: Vec<String>,
    /// What was assumed.
    pub assumptions: Vec<String>,
}

impl Planner<'_> {
    /// The scenario of a plan that was reported on.
    ///
    /// # Errors
    /// If every pick is a message, which takes other ways, or has not whole groups of GPUs.
    pub fn scenario(&self, report: &Report, conditions: &Conditions) -> Result<Scenario, PlanError> {
        if report.protocol == Protocol::Messages {
            return Err(PlanError::Messages);
        }
        let (expected, parallel) = (&report.gate.expected, &report.parallel);
        let gpus = conditions.gpus.unwrap_or(report.gpus);
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
                dispatch_bytes: Bytes(report.wire.dispatch_copy()),
                combine_bytes: Bytes(report.wire.combine_row),
                rank_load: if even { Vec::new() } else { expected.copies_by_rank.clone() },
                expert_time: conditions.expert_time.or_else(|| self.expert_time(report)),
            },
            faults: conditions.faults.clone(),
            options: conditions.options.clone(),
        })
    }

    /// Two operations for each parameter of each pick, on the multiprocessors that communication leaves.
    fn expert_time(&self, report: &Report) -> Option<Microseconds> {
        let parameters = self.model.expert_parameters()?;
        let left = f64::from(self.cluster.gpu.sms.saturating_sub(report.parallel.sms).max(1));
        let rate = peak_per_sm(self.cluster.gpu.target) * left * self.options.efficiency;
        let picks = f64::from(report.parallel.tokens) * report.gate.expected.picks.mean;
        Some(Microseconds(2.0 * parameters as f64 * picks / rate * 1e6))
    }

    /// Simulates one dispatch and one combine of a plan that was reported on. `watch` is told how many more chunks have arrived; with
    /// faults the cluster is simulated once more without them.
    ///
    /// # Errors
    /// Those of [`Planner::scenario`], and what of the conditions makes no sense.
    pub fn simulate(
        &self,
        report: &Report,
        conditions: &Conditions,
        watch: &(dyn Fn(u64) + Sync),
    ) -> Result<Simulation, PlanError> {
        let scenario = self.scenario(report, conditions)?;
        let outcome = simulate_watched(&scenario, watch)?;
        let healthy = Scenario { faults: Vec::new(), ..scenario.clone() };
        let without_faults = (!scenario.faults.is_empty()).then(|| simulate_watched(&healthy, watch)).transpose()?;
        let mut simulation = Simulation {
            schema: SCHEMA,
            deploy: report.deploy.clone(),
            model: report.model.clone(),
            cluster: report.cluster.clone(),
            outcome,
            planned: [0, 1].map(|phase: usize| Planned::of(&report.phases[phase].time)),
            without_faults: without_faults.as_ref().map(Times::of),
            explanation: Vec::new(),
            headline: withheld(&scenario, report)
                .into_iter()
                .chain(report.not_built.iter().map(NotBuilt::told))
                .collect(),
            assumptions: assumptions(report, &scenario, conditions),
            scenario,
        };
        simulation.explanation = words(&simulation);
        Ok(simulation)
    }
}

impl Simulation {
    /// Dispatch and combine: name, what happened, the bound, what the plan says.
    pub(crate) fn phases(&self) -> [(&'static str, &super::Phase, &super::PhaseBound, &Planned); 2] {
        let Outcome { dispatch, combine, bounds, .. } = &self.outcome;
        [
            ("dispatch", dispatch, &bounds.dispatch, &self.planned[0]),
            ("combine", combine, &bounds.combine, &self.planned[1]),
        ]
    }
}

/// What is not said because the file does not say how wide an expert is.
fn withheld(scenario: &Scenario, report: &Report) -> Option<String> {
    let missing: &[Missing] = if scenario.demand.expert_time.is_none() { &[Missing::ExpertFfn] } else { &[] };
    let why = missing::withheld(
        "the time of experts and of everything together is",
        missing,
        &report.model,
        &report.cluster,
    )?;
    Some(format!("{why}, or give --expert-time"))
}

fn words(simulation: &Simulation) -> Vec<String> {
    let mut words = Vec::new();
    for (name, phase, bound, planned) in simulation.phases() {
        let (time, least) = (&phase.time, bound.time.0);
        if time.max.0 <= 0.0 || least <= 0.0 {
            words.push(format!("{name}: no byte crosses a link"));
            continue;
        }
        words.push(format!(
            "{name}: half of the GPUs are done after {:.0} µs, the last, GPU {}, after {:.0} µs; {} has bytes for {least:.0} µs, which \
             no order of sending beats: the last takes {:.0} % longer; the plan says {:.0} µs if {} alone limited, {:.0} µs ± {:.0} % for the call with its kernels",
            time.median.0,
            phase.slowest.first().map_or(0, |slowest| slowest.gpu.0),
            time.max.0,
            bound.bottleneck,
            (time.max.0 / least - 1.0).max(0.0) * 100.0,
            planned.links.0,
            planned.bottleneck.name(),
            planned.call.0,
            planned.uncertainty * 100.0
        ));
    }
    if let Some(healthy) = simulation.without_faults {
        let now = Times::of(&simulation.outcome);
        let ratio = |now: Microseconds, then: Microseconds| if then.0 > 0.0 { now.0 / then.0 } else { 1.0 };
        let faults: Vec<String> = simulation.scenario.faults.iter().map(Fault::to_string).collect();
        let all = now.total.zip(healthy.total).map(|(now, then)| {
            format!(", and {:.0} µs from the first token sent to the last one back", now.0 - then.0)
        });
        words.push(format!(
            "{}: that costs dispatch ×{:.2} ({:.0} µs without), combine ×{:.2} ({:.0} µs){}",
            faults.join(", "),
            ratio(now.dispatch, healthy.dispatch),
            healthy.dispatch.0,
            ratio(now.combine, healthy.combine),
            healthy.combine.0,
            all.unwrap_or_default()
        ));
    }
    words
}

fn assumptions(report: &Report, scenario: &Scenario, conditions: &Conditions) -> Vec<String> {
    let mut list: Vec<String> = report.assumptions.iter().take(1).cloned().collect();
    list.push(format!(
        "links give what kernels reach on them; {} µs to a GPU of the node, {} µs to another node",
        conditions.nvlink_latency.0, conditions.nic_latency.0
    ));
    if conditions.spine.is_none() {
        list.push("each rail is one switch that never limits (no --oversubscription)".to_owned());
    }
    list.push("all groups of ranks send at the same time; multiprocessors never limit".to_owned());
    if conditions.expert_time.is_none() && scenario.demand.expert_time.is_some() {
        list.push(
            "experts: two operations for each parameter of a pick, at the efficiency that the plan assumes".to_owned(),
        );
    }
    list
}
