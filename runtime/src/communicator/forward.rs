//! Dispatch, combine and the barrier.

use std::ops::Range;

use moe_contract::{Buffer, Call, RankId, Tensor};

use super::launch::Passed;
use super::{Communicator, Dispatched, ExpertRows, Handle, Received, Routing};
use crate::error::Result;
use crate::tensor::Distributed;

impl Communicator {
    /// Sends every token to the ranks of its experts and lays the rows out for them.
    ///
    /// # Errors
    /// When shapes do not fit, or, with [`ExpertRows::Counted`], when a kernel refused a pick or a rank did not send.
    pub fn dispatch(&mut self, tokens: &Distributed, routing: &Routing) -> Result<Dispatched> {
        self.running()?;
        tokens.expect(Tensor::Tokens)?;
        routing.indices.expect(Tensor::Indices)?;
        routing.weights.expect(Tensor::Weights)?;
        let count = self.check_tokens(tokens)?;
        routing.indices.expect_rows(&count)?;
        routing.weights.expect_rows(&count)?;

        let mut handle = Handle::new(&self.device, &self.streams, self.exchange(), routing, count)?;
        let tensors = [tokens, &routing.indices, &routing.weights];
        let passed = Passed { tokens: &handle.tokens, tensors: &tensors, handle: Some(&handle), ..Passed::NOTHING };
        self.launch_part(Call::Dispatch, Tensor::ExpertInput, false, &passed)?;
        if self.options.expert_rows == ExpertRows::Counted {
            let rows = self.received(&handle)?.into_iter().map(|received| received.rows).collect();
            (handle.rows, handle.counted) = (rows, true);
        }
        let (input, scales) = self.expert_input(&handle.rows)?;
        let tensors: Vec<&Distributed> = std::iter::once(&input).chain(&scales).collect();
        let passed = Passed { tokens: &handle.tokens, tensors: &tensors, handle: Some(&handle), ..Passed::NOTHING };
        self.launch_part(Call::Dispatch, Tensor::ExpertInput, true, &passed)?;
        Ok(Dispatched { handle, input, scales })
    }

    /// Sends other tokens the way of an earlier dispatch: the experts' input and its scales.
    ///
    /// # Errors
    /// When there are not as many tokens as in that dispatch.
    pub fn dispatch_cached(
        &mut self,
        handle: &Handle,
        tokens: &Distributed,
    ) -> Result<(Distributed, Option<Distributed>)> {
        self.running()?;
        tokens.expect(Tensor::Tokens)?;
        tokens.expect_rows(&handle.tokens)?;
        let (input, scales) = self.expert_input(&handle.rows)?;
        let tensors: Vec<&Distributed> = [tokens, &input].into_iter().chain(&scales).collect();
        let passed = Passed { tokens: &handle.tokens, tensors: &tensors, handle: Some(handle), ..Passed::NOTHING };
        self.launch(Call::DispatchCached, &passed)?;
        Ok((input, scales))
    }

    /// Brings the experts' output back and sums it for every token.
    ///
    /// # Errors
    /// When the output has not as many rows as the input had.
    pub fn combine(&mut self, handle: &Handle, output: &Distributed) -> Result<Distributed> {
        self.combine_with(Call::Combine, handle, output)
    }

    pub(super) fn combine_with(&mut self, call: Call, handle: &Handle, output: &Distributed) -> Result<Distributed> {
        self.running()?;
        output.expect(Tensor::ExpertOutput)?;
        output.expect_rows(&handle.rows)?;
        let combined = self.allocate(Tensor::Combined, &handle.tokens)?;
        let tensors = [output, &combined];
        let passed = Passed { tokens: &handle.tokens, tensors: &tensors, handle: Some(handle), ..Passed::NOTHING };
        self.launch(call, &passed)?;
        Ok(combined)
    }

    /// No rank gets past it before every rank has reached it.
    ///
    /// # Errors
    /// When it cannot be launched; who did not come is reported by the next [`Communicator::synchronise`].
    pub fn barrier(&mut self) -> Result<()> {
        self.running()?;
        self.launch(Call::Barrier, &Passed::NOTHING)
    }

    /// What every rank received in a dispatch.
    ///
    /// # Errors
    /// When a kernel failed.
    pub fn received(&mut self, handle: &Handle) -> Result<Vec<Received>> {
        self.synchronise()?;
        let (ranks, local) = (self.exchange().ranks as usize, self.exchange().local_experts_max() as usize);
        self.ranks()
            .map(|rank| {
                let copies = handle.read(rank, Buffer::ReceivedCounts, 0..ranks)?;
                let counts = handle.read(rank, Buffer::ExpertCounts, 0..local)?;
                Ok(Received::new(self.exchange(), copies, counts))
            })
            .collect()
    }

    /// Elements of an array of a handle on a rank, for whoever wants to check them.
    ///
    /// # Errors
    /// When a kernel failed, or they were never written.
    ///
    /// # Panics
    /// When the array is shorter.
    pub fn inspect<T: bytemuck::Pod>(
        &mut self,
        handle: &Handle,
        rank: RankId,
        buffer: Buffer,
        elements: Range<usize>,
    ) -> Result<Vec<T>> {
        self.synchronise()?;
        handle.read(rank, buffer, elements)
    }

    fn expert_input(&self, rows: &[u64]) -> Result<(Distributed, Option<Distributed>)> {
        let input = self.allocate(Tensor::ExpertInput, rows)?;
        let has_scales = self.exchange().tensor_row_bytes(Tensor::ExpertInputScales) > 0;
        let scales = has_scales.then(|| self.allocate(Tensor::ExpertInputScales, rows)).transpose()?;
        Ok((input, scales))
    }
}
