//! The gate and its gradient.

use moe_contract::{Call, Tensor};

use super::launch::Passed;
use super::{Communicator, GateParameters, Routing};
use crate::error::Result;
use crate::tensor::Distributed;

impl Communicator {
    /// Chooses experts and weights for every token; drops what exceeds the capacity, where the bundle has one.
    ///
    /// # Errors
    /// When shapes or parameters do not fit. A NaN is reported by the next [`Communicator::synchronise`].
    pub fn gate(&mut self, logits: &Distributed, parameters: &GateParameters) -> Result<Routing> {
        let tokens = self.expect_gate(logits, parameters)?;
        let indices = self.allocate(Tensor::Indices, &tokens)?;
        let weights = self.allocate(Tensor::Weights, &tokens)?;
        let routing = Routing { indices, weights };
        self.gate_into(logits, parameters, &routing)?;
        Ok(routing)
    }

    /// [`Communicator::gate`] into a routing with as many rows as the logits.
    ///
    /// # Errors
    /// As there, or when it has other rows.
    pub fn gate_into(&mut self, logits: &Distributed, parameters: &GateParameters, routing: &Routing) -> Result<()> {
        let tokens = self.expect_gate(logits, parameters)?;
        self.expect_routing(routing, &tokens)?;
        let tensors = [logits, &routing.indices, &routing.weights];
        let passed = Passed { tokens: &tokens, tensors: &tensors, parameters: Some(parameters), ..Passed::NOTHING };
        self.launch(Call::Gate, &passed)
    }

    /// Gradients of the logits, given those of the weights.
    ///
    /// # Errors
    /// When shapes or parameters do not fit.
    pub fn gate_backward(
        &mut self,
        logits: &Distributed,
        weight_gradients: &Distributed,
        parameters: &GateParameters,
    ) -> Result<Distributed> {
        let tokens = self.expect_gate(logits, parameters)?;
        let gradients = self.allocate(Tensor::LogitGradients, &tokens)?;
        self.gate_backward_into(logits, weight_gradients, parameters, &gradients)?;
        Ok(gradients)
    }

    /// [`Communicator::gate_backward`] into a tensor with as many rows as the logits.
    ///
    /// # Errors
    /// As there, or when it has other rows.
    pub fn gate_backward_into(
        &mut self,
        logits: &Distributed,
        weight_gradients: &Distributed,
        parameters: &GateParameters,
        gradients: &Distributed,
    ) -> Result<()> {
        let tokens = self.expect_gate(logits, parameters)?;
        self.expect_with(weight_gradients, Tensor::WeightGradients, &tokens)?;
        self.expect_with(gradients, Tensor::LogitGradients, &tokens)?;
        let tensors = [logits, weight_gradients, gradients];
        let passed = Passed { tokens: &tokens, tensors: &tensors, parameters: Some(parameters), ..Passed::NOTHING };
        self.launch(Call::GateBackward, &passed)
    }

    fn expect_gate(&self, logits: &Distributed, parameters: &GateParameters) -> Result<Vec<u64>> {
        self.running()?;
        let tokens = self.expect_tokens(logits, Tensor::Logits)?;
        self.expect_parameters(parameters, &tokens)?;
        Ok(tokens)
    }
}
