//! Checks a deploy against its model and its cluster.

use moe_contract::{Launch, Region, Tensor};

use super::Checker;
use super::reach::{ExpertNodes, Samples, TOKENS};
use super::settings::{Owner, Slot, described};
use crate::diagnostics::{AverageNodes, DeployProblem, GroupSpan, WordKind};
use crate::span::Span;
use crate::spec::{Cluster, ClusterId, Deploy, Mode, Model, ModelId, limits};
use crate::syntax::ast::{self, DeploySetting, Quantity};
use crate::units::{Bytes, Tokens};

/// Above this, one message per pick costs more than one copy per rank.
const LATENCY_TOKENS: u32 = 1024;

/// The numbers of a deploy, and where they stand.
struct Written {
    deploy: Deploy,
    ep: Span,
    pp: Option<Span>,
    zero: Option<Span>,
    tokens: Span,
    sms: Option<Span>,
    sms_local: Option<Span>,
    /// Whether `dp` was given.
    dp_given: bool,
}

impl Checker<'_> {
    pub(super) fn deploy(
        &mut self,
        deploy: &ast::Deploy,
        model: Option<ModelId>,
        cluster: Option<ClusterId>,
    ) -> Option<Deploy> {
        let written = self.written(deploy, model, cluster)?;
        // Cloning lets problems be reported while they are found; both are small.
        let model = self.spec.models[written.deploy.model].clone();
        let cluster = self.spec.clusters[written.deploy.cluster].clone();
        let placed = self.ranks(&written, &model, &cluster);
        self.replicas(&written, &model, &cluster, deploy, placed);
        self.kernels(&written, &model, &cluster);
        Some(written.deploy)
    }

    fn written(&mut self, deploy: &ast::Deploy, model: Option<ModelId>, cluster: Option<ClusterId>) -> Option<Written> {
        let mut ep = Slot::new("ep");
        let mut pp = Slot::new("pp");
        let mut dp = Slot::new("dp");
        let mut tp = Slot::new("tp");
        let mut zero = Slot::new("zero");
        let mut tokens = Slot::new("tokens");
        let mut mode = Slot::new("mode");
        let mut sms = Slot::new("sms");
        let mut sms_local = Slot::new("sms_local");
        for setting in &deploy.block.settings {
            let span = setting.span;
            let (slot, name, value, most) = match &setting.kind {
                DeploySetting::Ep(value) => (&mut ep, "ep", value, limits::RANKS),
                DeploySetting::Pp(value) => (&mut pp, "pp", value, limits::RANKS),
                DeploySetting::Dp(value) => (&mut dp, "dp", value, limits::RANKS),
                DeploySetting::Tp(value) => (&mut tp, "tp", value, limits::RANKS),
                DeploySetting::Tokens(value) => (&mut tokens, "tokens", value, limits::COUNT),
                DeploySetting::Sms(value) => (&mut sms, "sms", value, limits::COUNT),
                DeploySetting::SmsLocal(value) => (&mut sms_local, "sms_local", value, limits::COUNT),
                DeploySetting::Zero(value) => {
                    let stage = self.zero_stage(value);
                    zero.set(self, span, stage);
                    continue;
                }
                DeploySetting::Mode(word) => {
                    let modes = [Mode::Throughput, Mode::Latency];
                    let value = self.word(word, WordKind::Mode, &["throughput", "latency"], &modes);
                    mode.set(self, span, value);
                    continue;
                }
            };
            let count = self.count(value, name, 1, most);
            slot.set(self, span, count);
        }
        let owner = Owner {
            span: deploy.name.span,
            described: described("deploy", &deploy.name),
            damaged: deploy.block.damaged,
        };
        let (ep_place, tokens_place) = (ep.place(), tokens.place());
        let (pp_place, zero_place, dp_given) = (pp.place(), zero.place(), dp.place().is_some());
        let (sms_place, sms_local_place) = (sms.place(), sms_local.place());
        let ep = ep.needed(self, &owner, "ep 8");
        let tokens = tokens.needed(self, &owner, "tokens 4096 per gpu");
        let (pp, tp) = (pp.or(1)?, tp.or(1)?);
        let (model, cluster) = (model?, cluster?);
        // No more than the GPUs of a cluster.
        let dp = dp.or(u32::try_from(replicas(&self.spec.clusters[cluster], pp, tp)).unwrap_or(1))?;
        Some(Written {
            ep: ep_place?,
            pp: pp_place,
            zero: zero_place,
            tokens: tokens_place?,
            sms: sms_place,
            sms_local: sms_local_place,
            dp_given,
            deploy: Deploy {
                name: deploy.name.text.clone(),
                model,
                cluster,
                ep: ep?,
                pp,
                dp,
                tp,
                zero: zero.or(0)?,
                tokens: Tokens(tokens?),
                mode: mode.or(Mode::Throughput)?,
                sms: sms.optional(),
                sms_local: sms_local.optional(),
                place: deploy.name.span,
            },
        })
    }

    fn zero_stage(&mut self, value: &Quantity) -> Option<u8> {
        let stage = self.count(value, "zero", 0, limits::COUNT)?;
        if stage > 3 {
            self.report(DeployProblem::ZeroStage { span: value.span, stage });
            return None;
        }
        u8::try_from(stage).ok()
    }

    /// How the experts lie on the ranks, and the ranks on the nodes. Returns whether the ranks fit the cluster.
    fn ranks(&mut self, written: &Written, model: &Model, cluster: &Cluster) -> bool {
        let (span, ranks) = (written.ep, written.deploy.ep);
        let (gpus, gpus_per_node) = (cluster.gpus(), cluster.gpus_per_node);
        let experts = model.stored_experts();
        let better = || smaller(written, experts, cluster, |_| true);
        if ranks > gpus {
            self.report(DeployProblem::TooFewGpus { span, ranks, gpus, cluster: cluster.place, better: better() });
            return false;
        }
        if !fills(ranks, cluster) {
            self.report(if ranks > gpus_per_node && !ranks.is_multiple_of(gpus_per_node) {
                DeployProblem::PartOfNode { span, ranks, gpus_per_node, better: better() }
            } else {
                DeployProblem::GpusLeftOver { span, ranks, gpus, better: better() }
            });
            return false;
        }
        let nodes = ranks.div_ceil(gpus_per_node);
        if nodes > 1 && cluster.rdma.is_none() {
            self.report(DeployProblem::NoRdma { span, nodes, cluster: cluster.place });
        }
        if ranks > experts {
            self.report(DeployProblem::IdleRanks { span, experts, ranks, better: better() });
            return true;
        }
        if !experts.is_multiple_of(ranks) {
            let better = smaller(written, experts, cluster, |fewer| experts.is_multiple_of(fewer));
            self.report(DeployProblem::UnevenExperts { span, experts, ranks, better });
        }
        if nodes > 1 && !self.diagnostics.is_long() {
            self.groups_and_nodes(written, model, gpus_per_node);
        }
        true
    }

    fn groups_and_nodes(&mut self, written: &Written, model: &Model, gpus_per_node: u32) {
        let (Some(groups), Some(chosen)) = (model.groups, model.gate.facts().group_limit) else { return };
        let ranks = written.deploy.ep;
        let placement = ExpertNodes::new(model, ranks, gpus_per_node);
        let spans = placement.nodes_of_groups(groups);
        let nodes_per_group = spans.first().copied().unwrap_or(1);
        if nodes_per_group < 2 || chosen >= groups {
            return;
        }
        let worst: u32 = spans.iter().take(chosen as usize).sum();
        let reached = worst.min(model.top_k()).min(ranks / gpus_per_node);
        let ideal = chosen.min(model.top_k());
        if reached <= ideal {
            return;
        }
        let whole = |fewer: &u32| {
            // Of ranks that fit, a divisor that is made of nodes or a part of one fits too.
            ranks.is_multiple_of(*fewer)
                && (fewer.is_multiple_of(gpus_per_node) || gpus_per_node.is_multiple_of(*fewer))
                && ExpertNodes::new(model, *fewer, gpus_per_node).nodes_of_groups(groups).first() == Some(&1)
        };
        let better = (1..ranks).rev().find(whole);
        let model_id = written.deploy.model;
        let cost = Samples::cost(&model.gate);
        if !self.samples.contains_key(&model_id) {
            let affordable = self.effort.checked_sub(cost);
            self.effort = affordable.unwrap_or(self.effort);
            self.samples.insert(model_id, affordable.and_then(|_| Samples::of(&model.gate)));
        }
        let samples = self.samples.get(&model_id).and_then(Option::as_ref);
        let average = samples.map(|samples| {
            let ideal = match better {
                Some(better) => ExpertNodes::new(model, better, gpus_per_node),
                // As if each group had a node of its own.
                None => ExpertNodes::new(model, groups, 1),
            };
            AverageNodes {
                reached: placement.mean_remote_nodes(samples),
                ideal: ideal.mean_remote_nodes(samples),
                tokens: TOKENS,
            }
        });
        self.report(DeployProblem::GroupSpansNodes(GroupSpan {
            span: written.ep,
            ranks,
            nodes_per_group,
            chosen,
            reached,
            ideal,
            average,
            better,
        }));
    }

    /// Pipeline stages and data-parallel replicas.
    fn replicas(&mut self, written: &Written, model: &Model, cluster: &Cluster, deploy: &ast::Deploy, placed: bool) {
        let Deploy { ep, pp, dp, tp, zero, .. } = written.deploy;
        let data_parallel = u64::from(dp) * u64::from(tp);
        let needed = data_parallel * u64::from(pp);
        if needed != u64::from(cluster.gpus()) {
            let product = format!("pp {pp} × dp {dp} × tp {tp} = {needed}");
            let (span, gpus) = (deploy.name.span, cluster.gpus());
            self.report(DeployProblem::WorldSize { span, product, needed, gpus, cluster: cluster.place });
        }
        if let Some(span) = written.pp
            && pp > model.moe_layers
        {
            let layers = model.moe_layers;
            let whole = |stages: &u32| (replicas(cluster, *stages, tp) * u64::from(tp)).is_multiple_of(u64::from(ep));
            let fits = |stages: &u32| written.dp_given || whole(stages);
            let better = (1..=layers).rev().find(fits).unwrap_or(1);
            self.report(DeployProblem::TooManyStages { span, stages: pp, layers, better });
        }
        if !data_parallel.is_multiple_of(u64::from(ep)) {
            // Of ranks that do not fit the cluster, a `dp` that is made of its GPUs says nothing new.
            if written.dp_given || placed {
                let span = written.ep;
                let derived = (!written.dp_given).then(|| (cluster.gpus(), pp));
                let better = smaller(written, model.stored_experts(), cluster, |_| true);
                self.report(DeployProblem::ReplicasNotWhole { span, ranks: ep, data_parallel, derived, better });
            }
        } else if let Some(span) = written.zero
            && zero > 0
            && data_parallel == u64::from(ep)
            && ep > 1
        {
            self.report(DeployProblem::ZeroShardsNothing { span, ranks: ep, data_parallel: ep });
        }
    }

    /// What the kernels take: multiprocessors and memory.
    fn kernels(&mut self, written: &Written, model: &Model, cluster: &Cluster) {
        let available = cluster.gpu.sms;
        if let (Some(span), Some(sms)) = (written.sms, written.deploy.sms) {
            if sms > available {
                self.report(DeployProblem::TooManySms { span, sms, available });
            } else if sms == available {
                self.report(DeployProblem::AllSms { span, available });
            }
        }
        if let (Some(span), Some(sms)) = (written.sms_local, written.deploy.sms_local)
            && sms > available
        {
            self.report(DeployProblem::TooManySms { span, sms, available });
        }
        let tokens = written.deploy.tokens.0;
        let span = written.tokens;
        if written.deploy.mode == Mode::Latency && tokens > LATENCY_TOKENS {
            self.report(DeployProblem::LatencyTokens { span, tokens, most: LATENCY_TOKENS });
        }
        let buffers = Buffers::of(model, written.deploy.ep);
        let memory = cluster.gpu.memory;
        let parts = buffers.at(tokens);
        if parts.iter().fold(0_u64, |sum, part| sum.saturating_add(part.1.0)) > memory.0 {
            let fits = memory.0 / buffers.per_token().max(1);
            let tokens = u32::try_from(fits).ok().filter(|tokens| *tokens > 0);
            let memory_span = cluster.memory_place;
            self.report(DeployProblem::Memory { span, parts, memory, memory_span, tokens });
        }
    }
}

/// Data-parallel replicas that a cluster holds.
fn replicas(cluster: &Cluster, pp: u32, tp: u32) -> u64 {
    (u64::from(cluster.gpus()) / (u64::from(pp) * u64::from(tp))).max(1)
}

/// The largest smaller `ep` with which a deploy is accepted, and that `suits`; 1 always is.
fn smaller(written: &Written, experts: u32, cluster: &Cluster, suits: impl Fn(u32) -> bool) -> u32 {
    let Deploy { ep, dp, tp, .. } = written.deploy;
    let data_parallel = u64::from(dp) * u64::from(tp);
    let fits = |fewer: &u32| fills(*fewer, cluster) && data_parallel.is_multiple_of(u64::from(*fewer)) && suits(*fewer);
    (1..ep.min(experts.saturating_add(1))).rev().find(fits).unwrap_or(1)
}

/// Whether groups of so many ranks are whole nodes, or equal parts of a node, and leave no GPU over.
fn fills(ranks: u32, cluster: &Cluster) -> bool {
    let node = cluster.gpus_per_node;
    (ranks.is_multiple_of(node) || node.is_multiple_of(ranks)) && cluster.gpus().is_multiple_of(ranks)
}

/// Bytes per token of a call that a rank needs for what it receives, sized for the worst case as the plan does: every rank sends all its
/// tokens here. Receive buffers are there twice, for calls of even and of odd number. What the plan adds does not grow with the tokens.
struct Buffers {
    receive: u64,
    combine: u64,
    /// Rows of the experts, in and out, where a layout has room for all that can come.
    experts: u64,
}

impl Buffers {
    fn of(model: &Model, ranks: u32) -> Buffers {
        // The regions of one token; launches decide nothing of them.
        let exchange = model.exchange(ranks, 1, Launch::LEAST);
        let of = |regions: &[Region]| regions.iter().map(|region| region.shape(&exchange).bytes()).sum();
        let row: u64 = [Tensor::ExpertInput, Tensor::ExpertInputScales, Tensor::ExpertOutput]
            .map(|tensor| exchange.tensor_row_bytes(tensor))
            .iter()
            .sum();
        Buffers {
            receive: of(&[Region::Rows, Region::Scales, Region::Records]),
            combine: of(&[Region::Partials, Region::WeightGradients]),
            experts: if exchange.layout.is_fixed() { exchange.output_rows_max().saturating_mul(row) } else { 0 },
        }
    }

    fn per_token(&self) -> u64 {
        (self.receive + self.combine).saturating_add(self.experts)
    }

    fn at(&self, tokens: u32) -> Vec<(&'static str, Bytes)> {
        let tokens = u64::from(tokens);
        let mut parts = vec![
            ("receive buffer of dispatch", Bytes(self.receive.saturating_mul(tokens))),
            ("receive buffer of combine", Bytes(self.combine.saturating_mul(tokens))),
        ];
        if self.experts > 0 {
            parts.push(("input and output of the experts", Bytes(self.experts.saturating_mul(tokens))));
        }
        parts.sort_by_key(|part| std::cmp::Reverse(part.1.0));
        parts
    }
}
