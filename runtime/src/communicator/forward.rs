//! Dispatch, combine and the barrier.

use std::sync::Arc;

use moe_contract::{Buffer, Call, Tensor};

use super::handle::Inner;
use super::launch::Passed;
use super::{Communicator, Dispatched, Handle, Routing};
use crate::buffers::HandleBuffers;
use crate::error::Result;
use crate::tensor::Distributed;

impl Communicator {
    /// Sends every token to the ranks of its experts and lays the rows out for them, in memory for as many rows as can arrive at most. How
    /// many have is known on the device, in the handle's arrays, and to [`Communicator::received`].
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn dispatch(&mut self, tokens: &Distributed, routing: &Routing) -> Result<Dispatched> {
        self.expect_dispatch(tokens, routing)?;
        let (mut input, mut scales) = self.expert_input(&self.most_rows())?;
        let handle = self.dispatch_into(tokens, routing, &input, scales.as_ref())?;
        handle.fills(std::iter::once(&mut input).chain(&mut scales));
        Ok(Dispatched { handle, input, scales })
    }

    /// [`Communicator::dispatch`] into tensors with room for everything that can arrive.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn dispatch_into(
        &mut self,
        tokens: &Distributed,
        routing: &Routing,
        input: &Distributed,
        scales: Option<&Distributed>,
    ) -> Result<Handle> {
        let counts = self.expect_dispatch(tokens, routing)?;
        let rows = self.most_rows();
        self.expect_expert_input(input, scales, &rows)?;
        let buffers = self.handle_buffers()?;
        let given = [tokens, &routing.indices, &routing.weights, input];
        let tensors: Vec<&Distributed> = given.into_iter().chain(scales).collect();
        self.launch(
            Call::Dispatch,
            &Passed { tokens: &counts, tensors: &tensors, buffers: Some(&buffers), ..Passed::NOTHING },
        )?;
        Ok(self.handle(routing, counts, rows, buffers))
    }

    /// [`Communicator::dispatch`] in memory for the rows that arrive: it waits for their number in the middle, where the layout does not
    /// fix it.
    ///
    /// # Errors
    /// When shapes do not fit, a kernel refused a pick, or a rank did not send.
    pub fn dispatch_counted(&mut self, tokens: &Distributed, routing: &Routing) -> Result<Dispatched> {
        if self.exchange().layout.is_fixed() {
            return self.dispatch(tokens, routing);
        }
        let counts = self.expect_dispatch(tokens, routing)?;
        self.not_capturing("dispatch_counted")?;
        let buffers = self.handle_buffers()?;
        let tensors = [tokens, &routing.indices, &routing.weights];
        let passed = Passed { tokens: &counts, tensors: &tensors, buffers: Some(&buffers), ..Passed::NOTHING };
        self.launch_part(Call::Dispatch, Tensor::ExpertInput, false, &passed)?;
        self.synchronise()?;
        let rows: Vec<u64> = self.received_now(&buffers)?.into_iter().map(|received| received.rows).collect();
        let (mut input, mut scales) = self.expert_input(&rows)?;
        let tensors: Vec<&Distributed> = std::iter::once(&input).chain(&scales).collect();
        let passed = Passed { tokens: &counts, tensors: &tensors, buffers: Some(&buffers), ..Passed::NOTHING };
        self.launch_part(Call::Dispatch, Tensor::ExpertInput, true, &passed)?;
        let handle = self.handle(routing, counts, rows, buffers);
        handle.fills(std::iter::once(&mut input).chain(&mut scales));
        Ok(Dispatched { handle, input, scales })
    }

    /// Sends other tokens the way of an earlier dispatch: the experts' input and its scales.
    ///
    /// # Errors
    /// When the handle is not of this communicator, or there are not as many tokens as in that dispatch.
    pub fn dispatch_cached(
        &mut self,
        handle: &Handle,
        tokens: &Distributed,
    ) -> Result<(Distributed, Option<Distributed>)> {
        self.expect_cached(handle, tokens)?;
        let (mut input, mut scales) = self.expert_input(&handle.0.rows)?;
        self.dispatch_cached_into(handle, tokens, &input, scales.as_ref())?;
        handle.fills(std::iter::once(&mut input).chain(&mut scales));
        Ok((input, scales))
    }

    /// [`Communicator::dispatch_cached`] into tensors with as many rows as the dispatch had.
    ///
    /// # Errors
    /// As there, or when they have other rows.
    pub fn dispatch_cached_into(
        &mut self,
        handle: &Handle,
        tokens: &Distributed,
        input: &Distributed,
        scales: Option<&Distributed>,
    ) -> Result<()> {
        self.expect_cached(handle, tokens)?;
        self.expect_expert_input(input, scales, &handle.0.rows)?;
        let tensors: Vec<&Distributed> = [tokens, input].into_iter().chain(scales).collect();
        self.launch(Call::DispatchCached, &handle.passed(&tensors))
    }

    /// Brings the experts' output back and sums it for every token.
    ///
    /// # Errors
    /// When the handle is not of this communicator, or the output has not as many rows as the input had.
    pub fn combine(&mut self, handle: &Handle, output: &Distributed) -> Result<Distributed> {
        self.combine_with(Call::Combine, handle, output)
    }

    /// [`Communicator::combine`] into a tensor with a row for each token.
    ///
    /// # Errors
    /// As there, or when it has other rows.
    pub fn combine_into(&mut self, handle: &Handle, output: &Distributed, combined: &Distributed) -> Result<()> {
        self.combine_with_into(Call::Combine, handle, output, combined)
    }

    pub(super) fn combine_with(&mut self, call: Call, handle: &Handle, output: &Distributed) -> Result<Distributed> {
        self.expect_combine(handle, output)?;
        let combined = self.allocate(Tensor::Combined, &handle.0.tokens)?;
        self.combine_with_into(call, handle, output, &combined)?;
        Ok(combined)
    }

    pub(super) fn combine_with_into(
        &mut self,
        call: Call,
        handle: &Handle,
        output: &Distributed,
        combined: &Distributed,
    ) -> Result<()> {
        self.expect_combine(handle, output)?;
        self.expect_with(combined, Tensor::Combined, &handle.0.tokens)?;
        self.launch(call, &handle.passed(&[output, combined]))
    }

    /// No rank gets past it before every rank has reached it.
    ///
    /// # Errors
    /// When it cannot be launched; who did not come is reported by the next [`Communicator::synchronise`].
    pub fn barrier(&mut self) -> Result<()> {
        self.running()?;
        self.launch(Call::Barrier, &Passed::NOTHING)
    }

    pub(super) fn expect_dispatch(&self, tokens: &Distributed, routing: &Routing) -> Result<Vec<u64>> {
        self.running()?;
        let counts = self.expect_tokens(tokens, Tensor::Tokens)?;
        self.expect_routing(routing, &counts)?;
        Ok(counts)
    }

    fn expect_cached(&self, handle: &Handle, tokens: &Distributed) -> Result<()> {
        self.running()?;
        self.expect_handle(handle)?;
        self.expect_with(tokens, Tensor::Tokens, &handle.0.tokens)
    }

    fn expect_combine(&self, handle: &Handle, output: &Distributed) -> Result<()> {
        self.running()?;
        self.expect_handle(handle)?;
        self.expect_with(output, Tensor::ExpertOutput, &handle.0.rows)
    }

    pub(super) fn expect_expert_input(
        &self,
        input: &Distributed,
        scales: Option<&Distributed>,
        rows: &[u64],
    ) -> Result<()> {
        self.expect_with(input, Tensor::ExpertInput, rows)?;
        match scales {
            Some(scales) => self.expect_with(scales, Tensor::ExpertInputScales, rows),
            None if self.exchange().tensor_number(Tensor::ExpertInputScales).is_none() => Ok(()),
            None => Err(crate::Error::MissingScales),
        }
    }

    fn expert_input(&self, rows: &[u64]) -> Result<(Distributed, Option<Distributed>)> {
        let input = self.allocate(Tensor::ExpertInput, rows)?;
        let has_scales = self.exchange().tensor_number(Tensor::ExpertInputScales).is_some();
        let scales = has_scales.then(|| self.allocate(Tensor::ExpertInputScales, rows)).transpose()?;
        Ok((input, scales))
    }

    fn handle_buffers(&self) -> Result<Arc<HandleBuffers>> {
        let of_rank = |rank| {
            let memory =
                |buffer: Buffer| Ok((buffer, self.memory(rank, self.exchange().buffer_bytes(buffer), buffer.name())?));
            Buffer::of_handle().map(memory).collect::<Result<_>>()
        };
        let of_ranks = self.ranks().map(of_rank).collect::<Result<_>>()?;
        Ok(Arc::new(HandleBuffers { first: self.first(), of_ranks }))
    }

    fn handle(&self, routing: &Routing, tokens: Vec<u64>, rows: Vec<u64>, buffers: Arc<HandleBuffers>) -> Handle {
        let owner = self.world.owner(self.first());
        Handle(Arc::new(Inner { owner, routing: routing.clone(), tokens, rows, buffers }))
    }
}

impl Handle {
    /// What a call of this handle passes to its kernels.
    pub(super) fn passed<'c>(&'c self, tensors: &'c [&'c Distributed]) -> Passed<'c> {
        Passed { tokens: &self.0.tokens, tensors, buffers: Some(&self.0.buffers), ..Passed::NOTHING }
    }

    /// Says of tensors of experts, which a call `…_into` has filled, that the rows of this handle are written there, and no others.
    pub fn fills<'t>(&self, tensors: impl Iterator<Item = &'t mut Distributed>) {
        tensors.for_each(|tensor| tensor.arrivals = Some(Arc::clone(&self.0.buffers)));
    }
}
