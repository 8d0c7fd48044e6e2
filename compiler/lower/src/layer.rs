//! One layer on one domain of ranks: what the kernels are asked to do.
//!
//! Invariant of a [`Layer`]: its model has kernels ([`Decision::built`]), all its ranks are in one node, and its
//! experts that compute nothing have the highest ids.

use moe_bundle::Capacity;
use moe_contract::{Exchange, Format, RowLayout};
use moe_decide::{Choice, Decision, choose_deploy};
use moe_front::diagnostics::Diagnostic;
use moe_front::spec::{CapacityLimit, Model, Spec, Target};
use moe_gate::ir::Gate;

use crate::error::LowerError;

/// A model, and the ranks that it is laid out on.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The model's name.
    pub model: String,
    /// The deploy's name; none for a gate alone.
    pub deploy: Option<String>,
    pub gate: Gate,
    /// What the kernels are specialised to.
    pub request: Exchange,
    /// How many picks an expert may keep.
    pub capacity: Option<Capacity>,
    /// What is compiled for.
    pub targets: Vec<Target>,
    /// What is not built as the file asks.
    pub notes: Vec<Diagnostic>,
}

impl Layer {
    /// Finds the deploy and what it asks of the kernels.
    ///
    /// # Errors
    /// When there is no such deploy, or there are no kernels for it yet.
    pub fn select(spec: &Spec, choice: &Choice) -> Result<Layer, LowerError> {
        let id = choose_deploy(spec, choice.deploy.as_deref())?;
        let (deploy, decision) = (&spec.deploys[id], Decision::of(spec, id, choice)?);
        let model = &spec.models[deploy.model];
        let request = decision.built().map_err(LowerError::File)?;
        Ok(Layer {
            model: model.name.clone(),
            deploy: Some(deploy.name.clone()),
            gate: model.gate.clone(),
            request,
            capacity: capacity(model),
            targets: decision.targets,
            notes: decision.not_built,
        })
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
            drop: model.capacity.map(|capacity| capacity.drop.picks()),
            ctas_link: 1,
            ctas_local: 1,
            threads: 256,
        };
        Layer {
            model: model.name.clone(),
            deploy: None,
            gate: model.gate.clone(),
            request,
            capacity: capacity(model),
            targets: vec![target],
            notes: vec![],
        }
    }
}

fn capacity(model: &Model) -> Option<Capacity> {
    model.capacity.map(|capacity| match capacity.limit {
        CapacityLimit::Factor(factor) => Capacity::Factor(f64::from(factor)),
        CapacityLimit::Tokens(tokens) => Capacity::Picks(tokens.0),
    })
}
