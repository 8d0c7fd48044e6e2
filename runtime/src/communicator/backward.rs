//! The gradients of dispatch and of combine.

use moe_contract::{Call, Need, Tensor};

use super::launch::Passed;
use super::{Communicator, Handle};
use crate::error::{Error, Result};
use crate::tensor::Distributed;

/// Gradients of a combine.
#[derive(Debug)]
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
    /// When there are not as many rows as the input had.
    pub fn dispatch_backward(&mut self, handle: &Handle, gradients: &Distributed) -> Result<Distributed> {
        self.combine_with(Call::DispatchBackward, handle, gradients)
    }

    /// Gradients of the experts' output and of the weights, given those of the combined rows and the output that was combined.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn combine_backward(
        &mut self,
        handle: &Handle,
        output: &Distributed,
        gradients: &Distributed,
    ) -> Result<CombineGradient> {
        self.running()?;
        output.expect(Tensor::ExpertOutput)?;
        output.expect_rows(&handle.rows)?;
        gradients.expect(Tensor::CombinedGradient)?;
        gradients.expect_rows(&handle.tokens)?;
        let of_output = self.allocate(Tensor::ExpertOutputGradient, &handle.rows)?;
        let weighted = self.exchange().weighted;
        let of_weights = weighted.then(|| self.allocate(Tensor::WeightGradients, &handle.tokens)).transpose()?;
        let given = [output, gradients, &handle.routing.indices, &of_output];
        let tensors: Vec<&Distributed> = given.into_iter().chain(&of_weights).collect();
        let passed = Passed { tokens: &handle.tokens, tensors: &tensors, handle: Some(handle), ..Passed::NOTHING };
        self.launch(Call::CombineBackward, &passed)?;
        Ok(CombineGradient { output: of_output, weights: of_weights })
    }

    /// Gradients of the weights where the experts applied them, given those of the rows' weights ([`moe_contract::Buffer::RowWeights`]):
    /// brings each to the rank of its token.
    ///
    /// # Errors
    /// When combine weighs, which gives them itself ([`Communicator::combine_backward`]), or shapes do not fit.
    pub fn weights_backward(&mut self, handle: &Handle, gradients: &Distributed) -> Result<Distributed> {
        self.running()?;
        if !Need::ExpertsWeigh.of(self.exchange()) {
            return Err(Error::NotPossible {
                what: "weights_backward",
                why: "combine weighs, and combine_backward gives the gradients of the weights",
            });
        }
        gradients.expect(Tensor::RowWeightGradients)?;
        gradients.expect_rows(&handle.rows)?;
        let of_weights = self.allocate(Tensor::WeightGradients, &handle.tokens)?;
        let tensors = [gradients, &handle.routing.indices, &of_weights];
        let passed = Passed { tokens: &handle.tokens, tensors: &tensors, handle: Some(handle), ..Passed::NOTHING };
        self.launch(Call::WeightsBackward, &passed)?;
        Ok(of_weights)
    }
}
