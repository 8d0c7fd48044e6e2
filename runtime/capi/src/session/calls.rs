//! The calls, over tensors of the caller.

use std::sync::Arc;

use moe_contract::{RankId, Tensor};
use moe_runtime::communicator::{CombineGradient, handle_bytes};
use moe_runtime::device::{Address, Memory};
use moe_runtime::{Communicator, Error, Handle, Routing};

use super::tensors::copy_out;
use super::{GateParameter, HandleView, InputView, OpenHandle, RoutingView, Session};
use crate::failure::{Failure, Result};
use crate::view::View;

impl Session {
    /// Chooses experts and weights.
    ///
    /// # Errors
    /// When something does not fit.
    ///
    /// # Safety
    /// See [`Session`].
    pub unsafe fn gate(&mut self, logits: &View, parameters: &[GateParameter], routing: RoutingView<'_>) -> Result<()> {
        // SAFETY: as the caller promises, here and below.
        unsafe {
            let parameters = self.parameters(parameters)?;
            let logits = self.input(Tensor::Logits, logits)?;
            let indices = self.output(Tensor::Indices, routing.indices)?;
            let weights = self.output(Tensor::Weights, routing.weights)?;
            let chosen = Routing { indices, weights };
            self.launch(|moe| moe.gate_into(&logits, &parameters, &chosen))?;
            self.finish(&[(&chosen.indices, routing.indices), (&chosen.weights, routing.weights)])
        }
    }

    /// The gradient of the logits.
    ///
    /// # Errors
    /// When something does not fit.
    ///
    /// # Safety
    /// See [`Session`].
    pub unsafe fn gate_backward(
        &mut self,
        logits: &View,
        parameters: &[GateParameter],
        of_weights: &View,
        of_logits: &View,
    ) -> Result<()> {
        // SAFETY: as the caller promises.
        unsafe {
            let parameters = self.parameters(parameters)?;
            let logits = self.input(Tensor::Logits, logits)?;
            let given = self.input(Tensor::WeightGradients, of_weights)?;
            let result = self.output(Tensor::LogitGradients, of_logits)?;
            self.launch(|moe| moe.gate_backward_into(&logits, &given, &parameters, &result))?;
            self.finish(&[(&result, of_logits)])
        }
    }

    /// Sends every token to the ranks of its experts; there is room for [`Exchange::output_rows_max`] rows.
    ///
    /// # Errors
    /// When something does not fit.
    ///
    /// # Safety
    /// See [`Session`].
    pub unsafe fn dispatch(&mut self, tokens: &View, routing: RoutingView<'_>, input: InputView<'_>) -> Result<Handle> {
        // SAFETY: as the caller promises.
        unsafe {
            let routing = self.routing(routing)?;
            let tokens = self.input(Tensor::Tokens, tokens)?;
            let (rows, scales) = self.expert_input(input)?;
            let handle = self.launch(|moe| moe.dispatch_into(&tokens, &routing, &rows, scales.as_ref()))?;
            self.finish_input(&handle, rows, scales, input)?;
            Ok(handle)
        }
    }

    /// Sends other tokens the same way.
    ///
    /// # Errors
    /// When something does not fit.
    ///
    /// # Safety
    /// See [`Session`].
    pub unsafe fn dispatch_cached(&mut self, handle: &Handle, tokens: &View, input: InputView<'_>) -> Result<()> {
        // SAFETY: as the caller promises.
        unsafe {
            let tokens = self.input(Tensor::Tokens, tokens)?;
            let (rows, scales) = self.expert_input(input)?;
            self.launch(|moe| moe.dispatch_cached_into(handle, &tokens, &rows, scales.as_ref()))?;
            self.finish_input(handle, rows, scales, input)
        }
    }

    /// Makes a handle of what the caller has: filled by an earlier [`Session::dispatch_with`], or to be filled by the next.
    ///
    /// # Errors
    /// When something does not fit.
    ///
    /// # Safety
    /// See [`Session`]. What is there came from a dispatch of this world with this routing, or is not used before one.
    pub unsafe fn open_handle(&mut self, view: HandleView<'_>) -> Result<OpenHandle> {
        let bytes = handle_bytes(self.exchange()) as usize;
        let rows = vec![self.exchange().output_rows_max(); view.addresses.len()];
        let mut copies = Vec::new();
        // SAFETY: as the caller promises; copies live as long as the handle.
        unsafe {
            let routing = self.routing(view.routing)?;
            let mut addresses: Vec<Address> = view.addresses.iter().map(|&address| Address(address)).collect();
            if self.on_host() {
                let ranks: Vec<RankId> = self.moe.ranks().collect();
                for (rank, address) in ranks.into_iter().zip(&mut addresses) {
                    if address.0 == 0 {
                        return Err(Failure::argument("handle", format!("that of {rank} is at address 0")));
                    }
                    if let Some(there) = self.address_of(rank, address.0, bytes as u64) {
                        *address = there;
                        continue;
                    }
                    let memory = Memory::new(self.moe.device(), rank, bytes as u64, "handle").map_err(Error::from)?;
                    let there = std::slice::from_raw_parts(address.0 as *const u8, bytes);
                    memory.write(there).map_err(Error::from)?;
                    self.copied += bytes as u64;
                    let copy = (Arc::new(memory), address.0);
                    *address = copy.0.address();
                    if let Some(step) = self.step() {
                        step.handle.push(copy.clone());
                    }
                    copies.push(copy);
                }
            }
            let handle = self.moe.borrow_handle(&routing, &rows, &addresses)?;
            Ok(OpenHandle { handle, copies })
        }
    }

    /// [`Session::dispatch`] with a handle of the caller, which it fills.
    ///
    /// # Errors
    /// When something does not fit.
    ///
    /// # Safety
    /// See [`Session`].
    pub unsafe fn dispatch_with(&mut self, view: HandleView<'_>, tokens: &View, input: InputView<'_>) -> Result<()> {
        // SAFETY: as the caller promises.
        unsafe {
            let OpenHandle { handle, copies } = self.open_handle(view)?;
            let tokens = self.input(Tensor::Tokens, tokens)?;
            let (rows, scales) = self.expert_input(input)?;
            self.launch(|moe| moe.dispatch_with(&handle, &tokens, &rows, scales.as_ref()))?;
            self.finish_input(&handle, rows, scales, input)?;
            if let Some(step) = self.recorded.as_mut().and_then(|steps| steps.last_mut()) {
                step.fills_handle = true;
                return Ok(());
            }
            self.copied += copies.iter().map(|(memory, _)| memory.bytes()).sum::<u64>();
            copies.iter().try_for_each(|(memory, address)| copy_out(memory, *address))
        }
    }

    /// Brings the experts' output back and sums it for every token.
    ///
    /// # Errors
    /// When something does not fit.
    ///
    /// # Safety
    /// See [`Session`].
    pub unsafe fn combine(&mut self, handle: &Handle, output: &View, combined: &View) -> Result<()> {
        // SAFETY: as the caller promises.
        unsafe {
            let output = self.input(Tensor::ExpertOutput, output)?;
            let result = self.output(Tensor::Combined, combined)?;
            self.launch(|moe| moe.combine_into(handle, &output, &result))?;
            self.finish(&[(&result, combined)])
        }
    }

    /// Gradients of the tokens, given those of the experts' input in the combine format.
    ///
    /// # Errors
    /// When something does not fit.
    ///
    /// # Safety
    /// See [`Session`].
    pub unsafe fn dispatch_backward(&mut self, handle: &Handle, of_input: &View, of_tokens: &View) -> Result<()> {
        // SAFETY: as the caller promises.
        unsafe {
            let given = self.input(Tensor::ExpertOutput, of_input)?;
            let result = self.output(Tensor::Combined, of_tokens)?;
            self.launch(|moe| moe.dispatch_backward_into(handle, &given, &result))?;
            self.finish(&[(&result, of_tokens)])
        }
    }

    /// Gradients of the experts' output and, where combine weighs, of the weights.
    ///
    /// # Errors
    /// When something does not fit.
    ///
    /// # Safety
    /// See [`Session`].
    pub unsafe fn combine_backward(
        &mut self,
        handle: &Handle,
        output: &View,
        of_combined: &View,
        of_output: &View,
        of_weights: Option<&View>,
    ) -> Result<()> {
        // SAFETY: as the caller promises.
        unsafe {
            let output = self.input(Tensor::ExpertOutput, output)?;
            let given = self.input(Tensor::CombinedGradient, of_combined)?;
            let result = self.output(Tensor::ExpertOutputGradient, of_output)?;
            let weights = of_weights.map(|view| self.output(Tensor::WeightGradients, view)).transpose()?;
            let mut result = CombineGradient { output: result, weights };
            self.launch(|moe| moe.combine_backward_into(handle, &output, &given, &result))?;
            handle.fills(std::iter::once(&mut result.output));
            self.finish(&[(&result.output, of_output)])?;
            result.weights.iter().zip(of_weights).try_for_each(|pair| self.finish(&[pair]))
        }
    }

    /// Gradients of the weights where the experts weigh, given those of the weights of the rows.
    ///
    /// # Errors
    /// When something does not fit, or combine weighs.
    ///
    /// # Safety
    /// See [`Session`].
    pub unsafe fn weights_backward(&mut self, handle: &Handle, of_rows: &View, of_weights: &View) -> Result<()> {
        // SAFETY: as the caller promises.
        unsafe {
            let given = self.input(Tensor::RowWeightGradients, of_rows)?;
            let result = self.output(Tensor::WeightGradients, of_weights)?;
            self.launch(|moe| moe.weights_backward_into(handle, &given, &result))?;
            self.finish(&[(&result, of_weights)])
        }
    }

    /// All ranks meet.
    ///
    /// # Errors
    /// When it cannot be launched or, on virtual GPUs, a rank does not come.
    pub fn barrier(&mut self) -> Result<()> {
        self.launch(Communicator::barrier)?;
        if self.on_host() && self.recorded.is_none() {
            self.moe.synchronise()?;
        }
        Ok(())
    }
}
