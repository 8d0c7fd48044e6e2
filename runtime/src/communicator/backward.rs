//! The gradients of dispatch and of combine.

use moe_contract::{Call, Need, Tensor};

use super::{Communicator, Handle};
use crate::error::{Error, Result};
use crate::tensor::Distributed;

/// What comes out of combine's backward pass.
#[derive(Clone, Debug)]
pub struct CombineGradient {
    /// [`Tensor::ExpertOutputGradient`]
    pub output: Distributed,
    /// [`Tensor::WeightGradients`], when combine weighs.
    pub weights: Option<Distributed>,
}

impl Communicator {
    /// Gradients of the tokens, given those of the experts' input (in the combine payload, as [`Tensor::ExpertOutput`]).
    ///
    /// # Errors
    /// When the handle is not of this communicator, or there are not as many rows as the input had.
    pub fn dispatch_backward(&mut self, handle: &Handle, gradients: &Distributed) -> Result<Distributed> {
        self.combine_with(Call::DispatchBackward, handle, gradients)
    }

    /// [`Communicator::dispatch_backward`] into a tensor with a row for each token, of the kind [`Tensor::Combined`].
    ///
    /// # Errors
    /// As there, or when it has other rows.
    pub fn dispatch_backward_into(
        &mut self,
        handle: &Handle,
        gradients: &Distributed,
        of_tokens: &Distributed,
    ) -> Result<()> {
        self.combine_with_into(Call::DispatchBackward, handle, gradients, of_tokens)
    }

    /// Gradients of the experts' output and of the weights, given those of the combined rows and the output that was combined.
    ///
    /// # Errors
    /// When the handle is not of this communicator, or shapes do not fit.
    pub fn combine_backward(
        &mut self,
        handle: &Handle,
        output: &Distributed,
        gradients: &Distributed,
    ) -> Result<CombineGradient> {
        self.expect_combine_backward(handle, output, gradients)?;
        let of_output = self.allocate(Tensor::ExpertOutputGradient, &handle.0.rows)?;
        let weighted = self.exchange().weighted;
        let of_weights = weighted.then(|| self.allocate(Tensor::WeightGradients, &handle.0.tokens)).transpose()?;
        let mut result = CombineGradient { output: of_output, weights: of_weights };
        self.combine_backward_into(handle, output, gradients, &result)?;
        handle.fills(std::iter::once(&mut result.output));
        Ok(result)
    }

    /// [`Communicator::combine_backward`] into tensors with the rows of the experts' input, and one for each token.
    ///
    /// # Errors
    /// As there, or when they have other rows, or those of the weights are missing or are not computed.
    pub fn combine_backward_into(
        &mut self,
        handle: &Handle,
        output: &Distributed,
        gradients: &Distributed,
        result: &CombineGradient,
    ) -> Result<()> {
        self.expect_combine_backward(handle, output, gradients)?;
        self.expect_with(&result.output, Tensor::ExpertOutputGradient, &handle.0.rows)?;
        match &result.weights {
            Some(weights) if self.exchange().weighted => {
                self.expect_with(weights, Tensor::WeightGradients, &handle.0.tokens)?;
            }
            None if !self.exchange().weighted => {}
            Some(_) => {
                return Err(Error::NotPossible {
                    what: "a gradient of weights from combine_backward",
                    why: "the experts weigh: weights_backward brings their gradients back",
                });
            }
            None => {
                return Err(Error::NotPossible {
                    what: "combine_backward without gradients of weights",
                    why: "combine weighs, and gives them",
                });
            }
        }
        let given = [output, gradients, &handle.0.routing.indices, &result.output];
        let tensors: Vec<&Distributed> = given.into_iter().chain(&result.weights).collect();
        self.launch(Call::CombineBackward, &handle.passed(&tensors))
    }

    /// Gradients of the weights where the experts applied them, given those of the rows' weights ([`moe_contract::Buffer::RowWeights`]):
    /// brings each to the rank of its token.
    ///
    /// # Errors
    /// When combine weighs, which gives them itself ([`Communicator::combine_backward`]), or shapes do not fit.
    pub fn weights_backward(&mut self, handle: &Handle, gradients: &Distributed) -> Result<Distributed> {
        self.expect_weights_backward(handle, gradients)?;
        let of_weights = self.allocate(Tensor::WeightGradients, &handle.0.tokens)?;
        self.weights_backward_into(handle, gradients, &of_weights)?;
        Ok(of_weights)
    }

    /// [`Communicator::weights_backward`] into a tensor with a row for each token.
    ///
    /// # Errors
    /// As there, or when it has other rows.
    pub fn weights_backward_into(
        &mut self,
        handle: &Handle,
        gradients: &Distributed,
        of_weights: &Distributed,
    ) -> Result<()> {
        self.expect_weights_backward(handle, gradients)?;
        self.expect_with(of_weights, Tensor::WeightGradients, &handle.0.tokens)?;
        let tensors = [gradients, &handle.0.routing.indices, of_weights];
        self.launch(Call::WeightsBackward, &handle.passed(&tensors))
    }

    fn expect_combine_backward(&self, handle: &Handle, output: &Distributed, gradients: &Distributed) -> Result<()> {
        self.running()?;
        self.expect_handle(handle)?;
        self.expect_with(output, Tensor::ExpertOutput, &handle.0.rows)?;
        self.expect_with(gradients, Tensor::CombinedGradient, &handle.0.tokens)
    }

    fn expect_weights_backward(&self, handle: &Handle, gradients: &Distributed) -> Result<()> {
        self.running()?;
        self.expect_handle(handle)?;
        if !Need::ExpertsWeigh.of(self.exchange()) {
            return Err(Error::NotPossible {
                what: "weights_backward",
                why: "combine weighs, and combine_backward gives the gradients of the weights",
            });
        }
        self.expect_with(gradients, Tensor::RowWeightGradients, &handle.0.rows)
    }
}
