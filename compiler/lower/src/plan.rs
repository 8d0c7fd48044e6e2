//! From a layer to its plan.

use moe_bundle::GateDescription;
use moe_bundle::manifest::{Parameter, ParameterKind};
use moe_contract::Exchange;
use moe_gate::ir::InputKind;

use crate::error::LowerError;
use crate::layer::Layer;

/// A layer with a place for every byte.
#[derive(Clone, Debug)]
pub struct Planned {
    pub layer: Layer,
    /// Where everything lies.
    pub exchange: Exchange,
    /// The gate as its caller sees it.
    pub gate: GateDescription,
}

impl Layer {
    /// Places everything.
    ///
    /// # Errors
    /// When a number exceeds what the kernels can be made for.
    pub fn plan(self) -> Result<Planned, LowerError> {
        let limit = |limit| LowerError::Limit { model: self.model.clone(), limit };
        let exchange = self.request.checked().map_err(limit)?;
        let gate = self.describe_gate();
        Ok(Planned { layer: self, exchange, gate })
    }

    fn describe_gate(&self) -> GateDescription {
        let program = &self.gate.program;
        let mut logits = String::new();
        let mut parameters = Vec::new();
        for input in program.inputs() {
            let kind = match input.kind {
                InputKind::Logits => {
                    logits.clone_from(&input.name);
                    continue;
                }
                InputKind::ScalarParameter => ParameterKind::Scalar,
                InputKind::ExpertParameter => ParameterKind::Experts,
                InputKind::GroupParameter => ParameterKind::Groups,
                InputKind::Table { vocabulary, k } => ParameterKind::Table { vocabulary, k },
                InputKind::TokenId => ParameterKind::TokenId,
                // Only a derivative has it, and it is an argument of its own.
                InputKind::WeightGradient(_) => continue,
            };
            parameters.push(Parameter { name: input.name.clone(), kind });
        }
        GateDescription {
            logits,
            parameters,
            experts: program.experts(),
            groups: program.groups().unwrap_or(1),
            top_k: self.gate.top_k(),
            before_experts: self.gate.before_experts,
        }
    }
}
