//! The gradients of dispatch and of combine.

use moe_bundle::{Kernel, Tensor};

use super::launch::Call;
use super::{Communicator, Handle};
use crate::error::Result;
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
        self.combine_with(Kernel::CombineSendUnweighted, handle, gradients)
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
        self.epochs.dispatch += 1;
        self.epochs.gradient += 1;
        let given = [output, gradients, &handle.routing.indices, &of_output];
        let tensors: Vec<&Distributed> = given.into_iter().chain(&of_weights).collect();
        let epoch = self.epochs.dispatch;
        let call = Call { tokens: &handle.tokens, tensors: &tensors, handle: Some(handle), epoch, ..Call::NOTHING };
        for kernel in [Kernel::CombineBackwardSend, Kernel::CombineBackwardPlace] {
            self.enqueue(kernel, &call)?;
        }
        if weighted {
            self.enqueue(Kernel::WeightGradientCollect, &call)?;
        }
        Ok(CombineGradient { output: of_output, weights: of_weights })
    }
}
