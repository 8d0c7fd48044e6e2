//! What a plan costs, in numbers: everything that is known about one plan, in one typed value. Words are the page's.
//!
//! Invariant: a [`Planner`] asks the gate once; all plans that it reports on are judged by the same tokens, so that their differences are
//! those of the plans.

pub mod compare;
mod error;
pub mod memory;
pub mod parallel;
mod remedies;
pub mod search;
pub mod step;

use std::collections::BTreeMap;

use moe_contract::{Exchange, Homes, Protocol};
use moe_decide::{Decision, Numbers, link_sms};
use moe_front::spec::{Cluster, Deploy, DeployId, Link, Mode, Model, Spec};
use moe_front::units::Microseconds;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use error::PlanError;
use memory::{Choice, Inputs, Memory, Need, OfGpu, Parameters, Precision, Recompute, Share, score_operations};
use parallel::{Parallel, Schedule};
pub use remedies::Remedy;
use step::{Replicas, StageWork, Step};

use crate::groups::{group_limit, most_nodes, most_remote_nodes};
use crate::missing::Missing;
use crate::not_built::NotBuilt;
use crate::sample::{Logits, Sample, Source};
use crate::setting::{self, OutOfRange};
use crate::time::{Call, Demand, Direction, Prediction, Profile};
use crate::traffic::{self, Expected, Given, PhaseName, Wire};

/// The version of the JSON form of a report; it grows when a field changes its meaning or is taken away.
pub const SCHEMA: u32 = 2;

/// What is assumed, where the file says nothing.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the gate is asked about.
    pub logits: Logits,
    /// Tokens that it is asked about.
    pub sampled_tokens: usize,
    /// Of all random numbers.
    pub seed: u64,
    /// How fast kernels are; the profile for the cluster's links when it is not given.
    pub profile: Option<Profile>,
    /// Bytes of a parameter.
    pub precision: Precision,
    /// What the backward pass computes again; as little as the memory allows when it is not given.
    pub recompute: Option<Recompute>,
    /// How stages alternate; DualPipe on an even number of stages, else 1F1B, when it is not given.
    pub schedule: Option<Schedule>,
    /// Micro-batches of a step; 8 for each stage when it is not given.
    pub micro_batches: Option<u32>,
    /// Part of the dense bf16 peak that compute reaches.
    pub efficiency: f64,
    /// Tokens of a sequence.
    pub sequence: u32,
    /// Which GPU holds which experts; in order in equal blocks when it is not given.
    pub placed: Option<Placed>,
}

impl Options {
    fn check(&self) -> Result<(), OutOfRange> {
        if let Logits::Skewed(deviation) = self.logits {
            setting::SKEW.check(deviation)?;
        }
        setting::SAMPLE.check(self.sampled_tokens as u64)?;
        if let Some(micro_batches) = self.micro_batches {
            setting::MICRO_BATCHES.check(micro_batches)?;
        }
        setting::EFFICIENCY.check(self.efficiency)?;
        setting::SEQUENCE.check(self.sequence)
    }
}

/// A layer of a placement, which stands for all.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Of all layers.
    pub placement: moe_contract::placement::Placement,
    /// Which of them.
    pub layer: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            logits: Logits::Independent,
            sampled_tokens: 1 << 15,
            seed: 1,
            profile: None,
            precision: Precision::DEEPSEEK_V3,
            recompute: None,
            schedule: None,
            micro_batches: None,
            efficiency: 0.5,
            sequence: 4096,
            placed: None,
        }
    }
}

/// Numbers of a deploy that a comparison changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// Ranks among which experts are divided.
    pub ep: Option<u32>,
    /// Pipeline stages.
    pub pp: Option<u32>,
    /// Data-parallel replicas.
    pub dp: Option<u32>,
    /// The ZeRO stage.
    pub zero: Option<u8>,
    /// Multiprocessors for communication.
    pub sms: Option<u32>,
    /// Tokens of a GPU.
    pub tokens: Option<u32>,
}

impl Change {
    /// That every number is within its setting.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check(&self) -> Result<(), OutOfRange> {
        let Change { ep, pp, dp, zero, sms, tokens } = *self;
        let numbers = [ep, pp, dp, zero.map(u32::from), sms, tokens];
        let settings = [setting::EP, setting::PP, setting::DP, setting::ZERO, setting::SMS, setting::TOKENS];
        settings
            .iter()
            .zip(numbers)
            .try_for_each(|(setting, number)| number.map_or(Ok(()), |number| setting.check(number)))
    }
}

/// Answers questions about one deploy.
pub struct Planner<'a> {
    spec: &'a Spec,
    id: DeployId,
    pub(crate) model: &'a Model,
    pub(crate) cluster: &'a Cluster,
    pub(crate) deploy: &'a Deploy,
    pub(crate) options: Options,
    pub(crate) profile: Profile,
    pub(crate) sample: Sample,
    pub(crate) missing: Vec<Missing>,
    pub(crate) parameters: Parameters,
    expected: BTreeMap<u32, (Homes, Expected)>,
}

/// One kind of call, its bytes and its time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Phase {
    /// Which.
    pub name: PhaseName,
    /// Bytes that a GPU sends over NVLink in one call, on average.
    pub nvlink_bytes: f64,
    /// Bytes that a GPU sends over the network in one call, on average.
    pub rdma_bytes: f64,
    /// The same in the worst case: every token to as many other nodes as it may reach.
    pub rdma_bytes_worst: f64,
    /// How long one call takes.
    pub time: Prediction,
}

/// What the gate means for the network.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct GateCost {
    /// How many groups a token may use, and of how many, if the gate limits them.
    pub groups: Option<(u32, u32)>,
    /// Nodes that a group spans, at most.
    pub nodes_per_group: u32,
    /// Nodes that a token may reach.
    pub most_nodes: u32,
    /// Nodes other than its own that a token may reach.
    pub most_remote_nodes: u32,
    /// Where the sampled tokens went.
    pub expected: Expected,
    /// Distinct nodes by the closed form, for a gate without groups.
    pub closed_form_nodes: Option<f64>,
    /// Largest over mean load of a rank, in a call.
    pub rank_imbalance: f64,
    /// Largest over mean load of a node's NICs, in a call.
    pub node_imbalance: f64,
    /// Largest over mean load of an expert, in a call.
    pub expert_imbalance: f64,
}

/// A part that could be faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Links between nodes at twice their rate.
    Rdma,
    /// Links within nodes at twice their rate.
    Nvlink,
    /// Twice as many multiprocessors.
    Sms,
}

impl Part {
    /// For reports.
    pub fn name(self) -> &'static str {
        match self {
            Part::Rdma => "RDMA twice as fast",
            Part::Nvlink => "NVLink twice as fast",
            Part::Sms => "twice the SMs",
        }
    }
}

/// What a faster part would give.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Faster {
    /// Which.
    pub what: Part,
    /// Dispatch and combine.
    pub time: Microseconds,
}

/// The contract knows nothing of schemas.
fn protocols(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let names = [Protocol::Direct, Protocol::Hybrid, Protocol::Messages].map(|protocol| serde_json::json!(protocol));
    schemars::json_schema!({ "type": "string", "enum": names })
}

/// Everything about one plan, in numbers.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Costs {
    /// Of this form; other forms get other numbers.
    #[schemars(extend("const" = SCHEMA))]
    pub schema: u32,
    /// Names in the file.
    pub deploy: String,
    /// Names in the file.
    pub model: String,
    /// Names in the file.
    pub cluster: String,
    /// What is optimised.
    pub mode: &'static str,
    /// How rows travel.
    #[schemars(schema_with = "protocols")]
    pub protocol: Protocol,
    /// What of it there are no kernels for.
    pub not_built: Vec<NotBuilt>,
    /// The plan.
    pub parallel: Parallel,
    /// Nodes of an expert-parallel group.
    pub nodes: u32,
    /// GPUs of the plan.
    pub gpus: u32,
    /// Layers with experts.
    pub moe_layers: u32,
    /// How the gate was asked.
    pub source: Source,
    /// With which seed.
    pub seed: u64,
    /// What travels.
    pub wire: Wire,
    /// What the gate means for the network.
    pub gate: GateCost,
    /// Dispatch, combine, backward of combine, backward of dispatch.
    pub phases: Vec<Phase>,
    /// How long dispatch and combine together would take with faster parts.
    pub faster: Vec<Faster>,
    /// The exact bytes of recorded tokens; none if tokens were made up, or every pick is a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub given: Option<Given>,
    /// The fewest multiprocessors that saturate the slower link; none where every pick is a message.
    pub enough_sms: Option<u32>,
    /// What the file does not say; what needs it is none below.
    pub missing: Vec<Missing>,
    /// How experts and everything else are divided.
    pub share: Share,
    /// All parameters.
    pub parameters: Option<Parameters>,
    /// Parameters of a GPU.
    pub of_gpu: Option<OfGpu>,
    /// What the backward pass computes again; none in latency mode, which has no backward pass.
    pub recompute: Option<Choice>,
    /// Memory of a GPU.
    pub memory: Option<Memory>,
    /// Whether it fits.
    pub fits: Option<bool>,
    /// What would need less memory, where it does not suffice.
    pub remedies: Vec<Remedy>,
    /// Traffic among replicas; none in latency mode.
    pub replicas: Option<Replicas>,
    /// The step; none in latency mode.
    pub step: Option<Step>,
    /// Dispatches and combines of all layers for one token in decoding; none in throughput mode.
    pub decode: Option<Microseconds>,
}

impl<'a> Planner<'a> {
    /// For a deploy of a file.
    ///
    /// # Errors
    /// If the gate cannot be asked, or an option makes no sense.
    pub fn new(spec: &'a Spec, id: DeployId, options: Options) -> Result<Planner<'a>, PlanError> {
        let deploy = &spec.deploys[id];
        let (model, cluster) = (&spec.models[deploy.model], &spec.clusters[deploy.cluster]);
        options.check()?;
        let sample = Sample::of(&model.gate, &options.logits, options.sampled_tokens, options.seed)?;
        let missing = missing(model);
        let parameters = Parameters::of(model);
        let rate = |link: Link| link.bandwidth.0 as f64;
        let for_links = || Profile::of_links(rate(cluster.nvlink), cluster.rdma.map(rate));
        let profile = options.profile.clone().unwrap_or_else(for_links);
        let expected = BTreeMap::new();
        Ok(Planner { spec, id, model, cluster, deploy, options, profile, sample, missing, parameters, expected })
    }

    /// The plan as it is written, with a change. Where neither says how many multiprocessors, as many as kernels would be built for.
    ///
    /// # Errors
    /// If a number makes no sense, or the plan does not fit the cluster or the model.
    pub fn parallel(&self, change: Change) -> Result<Parallel, PlanError> {
        let parallel = self.written(change)?;
        self.check(&parallel)?;
        Ok(parallel)
    }

    /// What a plan is built as.
    pub(crate) fn decision(&self, parallel: &Parallel) -> Decision {
        let numbers = Numbers {
            ranks: parallel.ep,
            per_node: self.cluster.gpus_per_node,
            tokens: parallel.tokens,
            sms: Some(parallel.sms),
            sms_local: self.deploy.sms_local,
            mode: self.deploy.mode,
        };
        Decision::with(self.spec, self.id, &numbers)
    }

    /// The plan as it is written, with a change whose numbers are within their settings; ranks and nodes need not fit yet.
    pub(crate) fn written(&self, change: Change) -> Result<Parallel, PlanError> {
        change.check()?;
        let deploy = self.deploy;
        let (pp, tp) = (change.pp.unwrap_or(deploy.pp), deploy.tp);
        // Fewer stages leave more GPUs to replicas, unless that was said too.
        let all = (self.cluster.gpus() / pp / tp).max(1);
        let dp = change.dp.unwrap_or(if change.pp.is_some() { all } else { deploy.dp });
        let default = if Schedule::DualPipe.fits(pp) { Schedule::DualPipe } else { Schedule::OneForwardOneBackward };
        let micro_batches = self.options.micro_batches.unwrap_or(8 * deploy.pp);
        // The batch of a step stays what it is, as far as calls of whole tokens allow.
        let batch = [micro_batches, deploy.dp, deploy.tokens.0].map(u128::from).into_iter().product::<u128>();
        let tokens = change.tokens.unwrap_or(deploy.tokens.0);
        let micro_batches = (batch / (u128::from(dp) * u128::from(tokens).max(1))).max(1);
        Ok(Parallel {
            ep: change.ep.unwrap_or(deploy.ep),
            pp,
            dp,
            tp,
            zero: change.zero.unwrap_or(deploy.zero),
            // More than there are is refused where plans are checked.
            sms: change.sms.or(deploy.sms).unwrap_or(link_sms(self.cluster, None)),
            tokens,
            micro_batches: setting::MICRO_BATCHES.narrow(u64::try_from(micro_batches).unwrap_or(u64::MAX))?,
            schedule: self.options.schedule.unwrap_or(default),
        })
    }

    /// Asks once where the tokens go with `ep` ranks.
    ///
    /// # Errors
    /// If ranks, nodes and experts do not fit.
    pub fn prepare(&mut self, ep: u32) -> Result<(), PlanError> {
        if !self.expected.contains_key(&ep) {
            let gpus_per_node = self.cluster.gpus_per_node;
            let homes = match &self.options.placed {
                Some(Placed { placement, layer }) => {
                    let slots = placement.layer(*layer).ok_or(PlanError::NoLayer(*layer))?;
                    traffic::placed(self.model, ep, gpus_per_node, placement, slots)?
                }
                None => traffic::contiguous(self.model, ep, gpus_per_node)?,
            };
            let expected = Expected::of(&self.sample, &homes);
            self.expected.insert(ep, (homes, expected));
        }
        Ok(())
    }

    /// What is prepared for `ep` ranks.
    pub(crate) fn expected(&self, ep: u32) -> Option<&(Homes, Expected)> {
        self.expected.get(&ep)
    }

    /// Everything about one plan.
    ///
    /// # Errors
    /// If the plan does not fit the cluster or the model. A plan that does not fit the memory is reported.
    pub fn costs(&mut self, parallel: &Parallel) -> Result<Costs, PlanError> {
        self.check(parallel)?;
        self.prepare(parallel.ep)?;
        let evaluated = self.evaluate(parallel)?;
        let Some((homes, expected)) = self.expected(parallel.ep) else {
            return Err(PlanError::NotPrepared(parallel.ep));
        };
        let topology = homes.topology();
        let tokens = f64::from(parallel.tokens) * f64::from(parallel.ep);
        let groups = group_limit(self.model);
        let nodes_per_group = self.model.groups.map_or(1, |groups| homes.domains_of_groups(groups)[0]);
        let closed_form =
            self.model.gate.facts().treats_experts_alike && self.model.stored_experts() == self.model.experts;
        let even = closed_form && self.model.experts.is_multiple_of(topology.domains());
        let gate = GateCost {
            groups,
            nodes_per_group,
            most_nodes: most_nodes(self.model, homes),
            most_remote_nodes: most_remote_nodes(self.model, homes),
            closed_form_nodes: even
                .then(|| traffic::expected_distinct(self.model.experts, self.model.top_k(), topology.domains())),
            rank_imbalance: expected.rank_copies.of_call(tokens),
            node_imbalance: expected.node_copies.of_call(tokens),
            expert_imbalance: expected.expert_picks.of_call(tokens),
            expected: expected.clone(),
        };
        let decision = self.decision(parallel);
        let messages = decision.protocol == Protocol::Messages;
        let training = self.deploy.mode == Mode::Throughput;
        let forward: f64 = evaluated.phases[..2].iter().map(|phase| phase.time.total().0).sum();
        let mut costs = Costs {
            schema: SCHEMA,
            deploy: self.deploy.name.clone(),
            model: self.model.name.clone(),
            cluster: self.cluster.name.clone(),
            mode: self.deploy.mode.text(),
            protocol: decision.protocol,
            not_built: decision.not_built.iter().map(NotBuilt::of).collect(),
            parallel: *parallel,
            nodes: topology.domains(),
            gpus: parallel.pp * parallel.dp * parallel.tp,
            moe_layers: self.model.moe_layers,
            source: self.sample.source().clone(),
            seed: self.sample.seed(),
            wire: Wire::of(&evaluated.exchange),
            gate,
            enough_sms: (!messages).then(|| self.enough_sms(parallel)).flatten(),
            given: self
                .sample
                .given()
                .filter(|_| !messages)
                .map(|indices| Given::of(homes, &evaluated.exchange, indices)),
            faster: self.faster(parallel)?,
            phases: evaluated.phases,
            remedies: Vec::new(),
            missing: self.missing(parallel),
            share: evaluated.share,
            parameters: evaluated.counted.as_ref().map(|_| self.parameters),
            of_gpu: evaluated.counted.as_ref().map(|counted| counted.of_gpu),
            fits: evaluated.counted.as_ref().map(|counted| counted.memory.fits()),
            replicas: evaluated.timed.as_ref().map(|timed| timed.replicas),
            step: evaluated.timed.as_ref().map(|timed| timed.step),
            recompute: evaluated.counted.as_ref().and_then(|counted| counted.recompute.clone()),
            memory: evaluated.counted.map(|counted| counted.memory),
            decode: (!training).then(|| Microseconds(forward * f64::from(self.model.moe_layers))),
        };
        if costs.fits == Some(false) {
            costs.remedies = self.remedies(&costs)?;
        }
        Ok(costs)
    }

    /// What faster parts would give.
    fn faster(&self, parallel: &Parallel) -> Result<Vec<Faster>, PlanError> {
        let nodes = self.expected(parallel.ep).map_or(1, |(homes, _)| homes.topology().domains());
        let doubled = parallel.sms.saturating_mul(2);
        let copies = self.decision(parallel).protocol != Protocol::Messages && doubled < self.cluster.gpu.sms;
        let parts = [(Part::Rdma, nodes > 1), (Part::Nvlink, true), (Part::Sms, copies)];
        let time = |what: Part| -> Result<Faster, PlanError> {
            let (sms, nvlink, rdma) = match what {
                Part::Rdma => (parallel.sms, 1.0, 2.0),
                Part::Nvlink => (parallel.sms, 2.0, 1.0),
                Part::Sms => (doubled, 1.0, 1.0),
            };
            let plan = Parallel { sms, ..*parallel };
            let phases = self.phases(&plan, nvlink, rdma)?;
            let time = phases[..2].iter().map(|phase| phase.time.total().0).sum();
            Ok(Faster { what, time: Microseconds(time) })
        };
        parts.into_iter().filter(|(_, possible)| *possible).map(|(what, _)| time(what)).collect()
    }

    /// Whether a plan fits cluster and model, whoever made it.
    fn check(&self, parallel: &Parallel) -> Result<(), PlanError> {
        let Parallel { ep, pp, dp, tp, zero, sms, tokens, micro_batches, schedule } = *parallel;
        let change =
            Change { ep: Some(ep), pp: Some(pp), dp: Some(dp), zero: Some(zero), sms: Some(sms), tokens: Some(tokens) };
        change.check()?;
        setting::TP.check(tp)?;
        setting::MICRO_BATCHES.check(micro_batches)?;
        let (gpus, local) = (self.cluster.gpus(), self.cluster.gpus_per_node);
        // Three numbers of at most 2^24 each.
        if u128::from(pp) * u128::from(dp) * u128::from(tp) > u128::from(gpus) {
            return Err(PlanError::TooFewGpus { pp, dp, tp, gpus });
        }
        if !(u64::from(dp) * u64::from(tp)).is_multiple_of(u64::from(ep)) {
            return Err(PlanError::Replicas { ep, dp, tp });
        }
        if pp > self.model.moe_layers {
            return Err(PlanError::Stages { pp, layers: self.model.moe_layers });
        }
        if !schedule.fits(pp) {
            return Err(PlanError::Schedule { schedule, pp });
        }
        if sms >= self.cluster.gpu.sms {
            return Err(PlanError::Sms { sms, available: self.cluster.gpu.sms });
        }
        if ep > local && self.cluster.rdma.is_none() {
            return Err(PlanError::NoRdma { ep, nodes: ep.div_ceil(local), most: local });
        }
        Ok(())
    }

    /// The numbers of a plan whose `ep` is prepared.
    pub(crate) fn evaluate(&self, parallel: &Parallel) -> Result<Evaluated, PlanError> {
        let Some((homes, _)) = self.expected(parallel.ep) else { return Err(PlanError::NotPrepared(parallel.ep)) };
        let exchange = self.decision(parallel).exchange;
        let phases = self.phases(parallel, 1.0, 1.0)?;
        let share = Share::of(parallel, homes.most_of_a_rank());
        let missing = self.missing(parallel);
        let training = self.deploy.mode == Mode::Throughput;
        let memory_known = !missing.iter().any(|missing| matches!(missing, Missing::Attention | Missing::ExpertFfn));
        if !memory_known {
            return Ok(Evaluated { exchange, phases, share, counted: None, timed: None });
        }
        let of_gpu = OfGpu::of(&self.parameters, parallel, &share);
        // Decoding holds weights only, and the rows of one call.
        let weights_only = Precision { gradient: 0.0, master: 0.0, moments: 0.0, ..self.options.precision };
        let one_call = Parallel { schedule: Schedule::OneForwardOneBackward, micro_batches: 0, ..*parallel };
        let memory_with = |recompute: Option<Recompute>| {
            Memory::of(&Inputs {
                model: self.model,
                parallel: if training { parallel } else { &one_call },
                share: &share,
                of_gpu: &of_gpu,
                parameters: &self.parameters,
                precision: if training { self.options.precision } else { weights_only },
                recompute,
                exchange: &exchange,
                topology: homes.topology(),
                capacity: self.cluster.gpu.memory,
            })
        };
        if !training {
            let counted = Counted { of_gpu, memory: memory_with(None), recompute: None };
            return Ok(Evaluated { exchange, phases, share, counted: Some(counted), timed: None });
        }
        let replicas =
            missing.is_empty().then(|| Replicas::of(parallel, self.cluster, &share, &of_gpu, self.options.precision));
        let step = |recompute| replicas.as_ref().map(|replicas| self.step(parallel, &phases, replicas, recompute));
        let need = |recompute: Recompute| {
            Need::of(recompute, &memory_with(Some(recompute)), step(recompute).map(|step| step.total))
        };
        let choice = Choice::of(self.options.recompute, Recompute::ALL.map(need).to_vec());
        let timed = replicas.zip(step(choice.chosen)).map(|(replicas, step)| Timed { replicas, step });
        let counted = Counted { of_gpu, memory: memory_with(Some(choice.chosen)), recompute: Some(choice) };
        Ok(Evaluated { exchange, phases, share, counted: Some(counted), timed })
    }

    /// What the file does not say and a plan needs to be known whole.
    pub(crate) fn missing(&self, parallel: &Parallel) -> Vec<Missing> {
        let crosses = u64::from(parallel.pp) * u64::from(parallel.dp) * u64::from(parallel.tp)
            > u64::from(self.cluster.gpus_per_node);
        let training = self.deploy.mode == Mode::Throughput;
        let rdma = (training && crosses && self.cluster.rdma.is_none()).then_some(Missing::Rdma);
        self.missing.iter().copied().chain(rdma).collect()
    }

    fn step(&self, parallel: &Parallel, phases: &[Phase], replicas: &Replicas, recompute: Recompute) -> Step {
        let stages = f64::from(parallel.pp);
        let layers = f64::from(self.parameters.moe_layers.div_ceil(parallel.pp));
        let scores =
            self.model.surroundings.as_ref().map_or(0.0, |around| {
                score_operations(around, self.parameters.layers(), f64::from(self.options.sequence))
            });
        let per_token = (2.0 * self.parameters.active() as f64 + scores) / stages;
        let times: Vec<f64> = phases.iter().map(|phase| phase.time.total().0 * layers).collect();
        let work = StageWork {
            uncertainty: uncertainty(phases),
            operations: per_token * f64::from(parallel.tokens) / f64::from(parallel.tp),
            forward: times[..2].iter().sum(),
            backward: times[2..].iter().sum(),
            recomputed: recompute.passes(),
        };
        Step::of(parallel, self.cluster, self.options.efficiency, &work, replicas)
    }

    /// Dispatch, combine, backward of combine, backward of dispatch, on links that are `nvlink` and `rdma` times as fast.
    pub(crate) fn phases(&self, parallel: &Parallel, nvlink: f64, rdma: f64) -> Result<Vec<Phase>, PlanError> {
        let Some((homes, expected)) = self.expected(parallel.ep) else {
            return Err(PlanError::NotPrepared(parallel.ep));
        };
        let Decision { protocol, exchange, topology, .. } = self.decision(parallel);
        let nvlink_rate = self.cluster.nvlink.bandwidth.0 as f64 * nvlink;
        let rdma_rate = self.cluster.rdma.map_or(nvlink_rate, |link| link.bandwidth.0 as f64 * rdma);
        let phase = |name: PhaseName| {
            let direction = if name.is_to_experts() { Direction::Dispatch } else { Direction::Combine };
            let bytes = name.copy_bytes(&exchange);
            let call = Call {
                tokens: f64::from(parallel.tokens),
                nodes: topology.domains(),
                demand: demand(expected, bytes as f64),
                sms: parallel.sms,
                nvlink: nvlink_rate,
                rdma: rdma_rate,
            };
            let volume = f64::from(parallel.tokens) * bytes as f64;
            let (near, far, worst) = match protocol {
                Protocol::Direct | Protocol::Hybrid => (
                    expected.nvlink_copies.mean,
                    expected.remote_nodes.mean,
                    f64::from(most_remote_nodes(self.model, homes)),
                ),
                Protocol::Messages => {
                    let picks = expected.picks.largest;
                    (expected.crossing_picks.mean - expected.remote_picks.mean, expected.remote_picks.mean, picks)
                }
            };
            Phase {
                name,
                nvlink_bytes: volume * near,
                rdma_bytes: volume * far,
                rdma_bytes_worst: volume * worst,
                time: self.profile.predict(measured(protocol), direction, &call),
            }
        };
        Ok(PhaseName::ALL.map(phase).to_vec())
    }

    /// The fewest multiprocessors with which copying takes no longer than the slower link, for dispatch and for combine.
    pub(crate) fn enough_sms(&self, parallel: &Parallel) -> Option<u32> {
        let one = Parallel { sms: 1, ..*parallel };
        let phases = self.phases(&one, 1.0, 1.0).ok()?;
        let needed = phases[..2].iter().map(|phase| {
            let link = phase.time.nvlink.0.max(phase.time.network.0);
            if link > 0.0 { (phase.time.copy.0 / link).ceil() } else { 1.0 }
        });
        let needed = needed.fold(1.0, f64::max);
        // No number of them suffices where a link is faster than all together.
        (needed <= f64::from(self.cluster.gpu.sms)).then_some((needed as u32).max(1))
    }
}

/// The numbers of a plan.
pub(crate) struct Evaluated {
    pub exchange: Exchange,
    pub phases: Vec<Phase>,
    pub share: Share,
    /// None where not all of the model is known.
    pub counted: Option<Counted>,
    /// None where not all of model and cluster is known, and in latency mode.
    pub timed: Option<Timed>,
}

/// What follows from the parameters of a model.
pub(crate) struct Counted {
    pub of_gpu: OfGpu,
    pub memory: Memory,
    pub recompute: Option<Choice>,
}

/// What follows from its operations.
pub(crate) struct Timed {
    pub replicas: Replicas,
    pub step: Step,
}

/// The kernels whose times were measured for a protocol.
fn measured(protocol: Protocol) -> Mode {
    match protocol {
        Protocol::Direct | Protocol::Hybrid => Mode::Throughput,
        Protocol::Messages => Mode::Latency,
    }
}

/// The expected relative error of calls one after the other, all of which are wrong alike.
pub(crate) fn uncertainty(phases: &[Phase]) -> f64 {
    let [time, error] = [|_: &Phase| 1.0, |phase: &Phase| phase.time.uncertainty]
        .map(|weight| phases.iter().map(|phase| phase.time.total().0 * weight(phase)).sum::<f64>());
    error / time
}

/// What a file does not say of a model.
fn missing(model: &Model) -> Vec<Missing> {
    let attention = model.surroundings.is_none().then_some(Missing::Attention);
    let expert = model.expert_ffn.is_none().then_some(Missing::ExpertFfn);
    attention.into_iter().chain(expert).collect()
}

/// On the GPU that has most to do in the long run; the noise of single calls is in the measurements that were fitted.
fn demand(expected: &Expected, bytes: f64) -> Demand {
    let (rank, node) = (expected.rank_copies.lasting(), expected.node_copies.lasting());
    let picks = expected.rank_picks.lasting();
    Demand {
        bytes,
        nodes: expected.distinct_nodes.mean * node,
        ranks: expected.distinct_ranks.mean * rank,
        remote_nodes: expected.remote_nodes.mean * node,
        nvlink_copies: expected.nvlink_copies.mean * rank,
        picks: expected.picks.mean * picks,
        remote_picks: expected.remote_picks.mean * picks,
        local_picks: (expected.crossing_picks.mean - expected.remote_picks.mean) * picks,
    }
}
