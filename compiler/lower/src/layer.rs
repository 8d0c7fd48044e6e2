//! One layer on one domain of ranks: what the kernels are asked to do.
//!
//! Invariant of a [`Layer`]: its model has kernels ([`moe_compiler::not_built_yet`] is silent), all its ranks are in one node, and its
//! experts that compute nothing have the highest ids.

use std::fmt::Write as _;

use moe_bundle::Capacity;
use moe_compiler::diagnostics::Diagnostics;
use moe_compiler::spec::{
    self, CapacityLimit, Cluster, Deploy, DeployId, DropRule, Layout, Mode, Model, Scale, Spec, Target,
};
use moe_compiler::{not_built_yet, several_nodes_not_built_yet};
use moe_contract::{Drop, Exchange, Format, RowLayout};
use moe_gate::ir::Gate;

use crate::choice::Choice;
use crate::error::LowerError;

/// SMs for communication where the deploy does not say: about where one node's NVLink is full on Hopper.
const SMS: u32 = 20;
/// Warps of a CTA at most: with two CTAs on an SM a thread still has 64 registers.
const WARPS_MOST: u32 = 16;
/// Fewer warps than this do not keep enough bytes in flight.
const WARPS_LEAST: u32 = 4;

/// A model, and the ranks that it is laid out on.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The model's name.
    pub model: String,
    /// The deploy's name; none for a gate alone.
    pub deploy: Option<String>,
    /// The gate.
    pub gate: Gate,
    /// What the kernels are specialised to.
    pub request: Exchange,
    /// How many picks an expert may keep.
    pub capacity: Option<Capacity>,
    /// What is compiled for.
    pub targets: Vec<Target>,
}

impl Layer {
    /// Finds the deploy and what it asks of the kernels.
    ///
    /// # Errors
    /// When there is no such deploy, or there are no kernels for it yet.
    pub fn select(spec: &Spec, choice: &Choice) -> Result<Layer, LowerError> {
        let id = choose_deploy(spec, choice.deploy.as_deref())?;
        let deploy = &spec.deploys[id];
        let (model, cluster) = (&spec.models[deploy.model], &spec.clusters[deploy.cluster]);

        let mut problems = Diagnostics::default();
        not_built_yet(model).into_iter().for_each(|problem| problems.report(problem));
        if choice.nodes.is_none() && choice.gpus_per_node.is_none() {
            several_nodes_not_built_yet(spec, id).into_iter().for_each(|problem| problems.report(problem));
        }
        let request = request(model, deploy, cluster, choice)?;
        match request {
            Some(request) if !problems.has_errors() => Ok(Layer {
                model: model.name.clone(),
                deploy: Some(deploy.name.clone()),
                gate: model.gate.clone(),
                request,
                capacity: capacity(model),
                targets: if choice.targets.is_empty() { vec![cluster.gpu.target] } else { distinct(&choice.targets) },
            }),
            // A payload or layout without kernels is in `problems`.
            _ => Err(LowerError::File(problems)),
        }
    }
}

impl Layer {
    /// The gate of a model alone, for some tokens on one rank. Rows are as short as rows can be: nothing is sent.
    pub fn gate_alone(model: &Model, tokens: u32, target: Target) -> Layer {
        let request = Exchange {
            ranks: 1,
            experts: model.experts,
            zero_experts: 0,
            top_k: model.top_k(),
            hidden: 8,
            max_tokens: tokens.max(1),
            dispatch: Format::BF16,
            layout: RowLayout::RankMajor,
            combine: Format::BF16,
            weighted: false,
            drop: drop_rule(model),
            ctas: 1,
            threads: 256,
        };
        Layer {
            model: model.name.clone(),
            deploy: None,
            gate: model.gate.clone(),
            request,
            capacity: capacity(model),
            targets: vec![target],
        }
    }
}

fn capacity(model: &Model) -> Option<Capacity> {
    model.capacity.map(|capacity| match capacity.limit {
        CapacityLimit::Factor(factor) => Capacity::Factor(f64::from(factor)),
        CapacityLimit::Tokens(tokens) => Capacity::Picks(tokens.0),
    })
}

fn drop_rule(model: &Model) -> Option<Drop> {
    model.capacity.map(|capacity| match capacity.drop {
        DropRule::Lowest => Drop::Lowest,
        DropRule::Position => Drop::Position,
    })
}

/// The deploy of that name, or the only one.
///
/// # Errors
/// If there is none of that name, or if there are several and no name.
pub fn choose_deploy(spec: &Spec, name: Option<&str>) -> Result<DeployId, LowerError> {
    let known = || {
        let mut text = String::new();
        for (id, deploy) in spec.deploys.iter() {
            let separator = if id == spec.deploys.iter().next().map_or(id, |(first, _)| first) { "" } else { ", " };
            // Writing to a string does not fail.
            let _ = write!(text, "{separator}`{}`", deploy.name);
        }
        text
    };
    let mut all = spec.deploys.iter().map(|(id, _)| id);
    match (name, all.next(), all.next()) {
        (_, None, _) => Err(LowerError::NoDeploy),
        (Some(name), ..) => {
            spec.deploy(name).ok_or_else(|| LowerError::NoSuchDeploy { name: name.into(), known: known() })
        }
        (None, Some(only), None) => Ok(only),
        (None, Some(_), Some(_)) => Err(LowerError::WhichDeploy { count: spec.deploys.len(), known: known() }),
    }
}

fn distinct(targets: &[Target]) -> Vec<Target> {
    let mut distinct = Vec::new();
    for &target in targets {
        if !distinct.contains(&target) {
            distinct.push(target);
        }
    }
    distinct
}

/// What is asked of the kernels; `None` for a format or layout that they do not know.
fn request(model: &Model, deploy: &Deploy, cluster: &Cluster, choice: &Choice) -> Result<Option<Exchange>, LowerError> {
    let overridden = choice.nodes.is_some() || choice.gpus_per_node.is_some();
    let nodes = choice.nodes.unwrap_or(deploy.ep.div_ceil(cluster.gpus_per_node));
    let gpus_per_node = choice.gpus_per_node.unwrap_or(deploy.ep.min(cluster.gpus_per_node));
    if overridden && nodes != 1 {
        return Err(LowerError::Nodes { nodes, gpus_per_node });
    }
    let most = deploy.tokens.0;
    let max_tokens = choice.tokens.unwrap_or(most);
    if max_tokens > most {
        return Err(LowerError::Tokens { tokens: max_tokens, deploy: deploy.name.clone(), most });
    }
    let (Some(dispatch), Some(combine), Some(layout)) =
        (payload(model.dispatch.payload), payload(model.combine.payload), layout(model.dispatch.layout))
    else {
        return Ok(None);
    };
    let ctas = deploy.sms.unwrap_or(SMS).clamp(1, cluster.gpu.sms);
    Ok(Some(Exchange {
        ranks: gpus_per_node,
        experts: model.stored_experts(),
        zero_experts: model.experts - model.stored_experts(),
        top_k: model.top_k(),
        hidden: model.hidden,
        // A rank may take part without tokens; its buffers still have a place for one.
        max_tokens: max_tokens.max(1),
        dispatch,
        layout,
        combine,
        weighted: model.combine.weighted,
        drop: drop_rule(model),
        ctas,
        threads: 32 * warps(deploy.mode, max_tokens, ctas),
    }))
}

/// Warps of a CTA: one for each token that falls to it, within what an SM can use.
fn warps(mode: Mode, tokens: u32, ctas: u32) -> u32 {
    match mode {
        // What little there is to do shall start at once.
        Mode::Latency => WARPS_MOST,
        Mode::Throughput => tokens.div_ceil(ctas).clamp(WARPS_LEAST, WARPS_MOST).next_power_of_two(),
    }
}

fn payload(payload: spec::Payload) -> Option<Format> {
    match payload {
        spec::Payload::Bf16 => Some(Format::BF16),
        spec::Payload::F16 => Some(Format::F16),
        spec::Payload::F32 => Some(Format::F32),
        spec::Payload::Fp8E4m3(Scale::F32Per128) => Some(Format::FP8_F32_128),
        spec::Payload::Fp8E4m3(Scale::Ue8m0Per128 | Scale::Ue8m0Per32) | spec::Payload::Fp4E2m1 => None,
    }
}

fn layout(layout: Layout) -> Option<RowLayout> {
    match layout {
        Layout::RankMajor => Some(RowLayout::RankMajor),
        Layout::ExpertMajor { align } => Some(RowLayout::ExpertMajor { align }),
        Layout::Batched => None,
    }
}
