//! Handles whose arrays lie in memory of the caller, one behind the other: for a framework that saves tensors and not objects.
//!
//! Invariant: where each array lies is a function of the exchange ([`handle_places`]), so that whoever has the memory can make the handle
//! again.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use moe_contract::memory::WORD_BYTES;
use moe_contract::{Buffer, Call, Exchange, Tensor};

use super::handle::Inner;
use super::launch::Passed;
use super::{Communicator, Handle, Routing};
use crate::buffers::HandleBuffers;
use crate::device::{Address, Memory};
use crate::error::{Error, Result};
use crate::tensor::Distributed;

/// Where each array of a handle lies, in bytes of the memory of one rank.
pub fn handle_places(exchange: &Exchange) -> Vec<(Buffer, Range<u64>)> {
    let mut next: u64 = 0;
    let place = |buffer| {
        let start = next.next_multiple_of(WORD_BYTES);
        next = start + exchange.buffer_bytes(buffer);
        (buffer, start..next)
    };
    Buffer::of_handle().map(place).collect()
}

/// Bytes of all of them.
pub fn handle_bytes(exchange: &Exchange) -> u64 {
    handle_places(exchange).last().map_or(0, |(_, place)| place.end.next_multiple_of(WORD_BYTES))
}

impl Communicator {
    /// A handle whose arrays the caller has, at an address for each rank: one to be filled by [`Communicator::dispatch_with`], or one that has
    /// been. The experts' input has `rows` on each rank.
    ///
    /// # Errors
    /// When there is not one address per rank, or it is not aligned.
    ///
    /// # Safety
    /// As for [`Communicator::borrow`], of [`handle_bytes`] on each rank. If they have been filled, then by a dispatch of this world since its last
    /// recovery, with this routing.
    pub unsafe fn borrow_handle(&self, routing: &Routing, rows: &[u64], parts: &[Address]) -> Result<Handle> {
        let what = "handle";
        self.expect_parts(what, parts.len())?;
        self.expect_parts(what, rows.len())?;
        let tokens = self.expect_tokens(&routing.indices, Tensor::Indices)?;
        self.expect_routing(routing, &tokens)?;
        let places = handle_places(self.exchange());
        let mut of_ranks = Vec::new();
        for (rank, &start) in self.ranks().zip(parts) {
            if start == Address::NULL || !start.0.is_multiple_of(WORD_BYTES) {
                return Err(Error::Alignment { rank, what, address: start.0 });
            }
            let memory = |(buffer, place): &(Buffer, Range<u64>)| {
                let address = start.offset(place.start);
                (*buffer, Memory::of_another(&self.world.device, rank, address, place.end - place.start))
            };
            of_ranks.push(places.iter().map(memory).collect::<BTreeMap<_, _>>());
        }
        let buffers = Arc::new(HandleBuffers { first: self.first(), of_ranks });
        let owner = self.world.owner(self.first());
        Ok(Handle(Arc::new(Inner { owner, routing: routing.clone(), tokens, rows: rows.to_vec(), buffers })))
    }

    /// [`Communicator::dispatch_into`], with a handle of [`Communicator::borrow_handle`], whose routing it sends.
    ///
    /// # Errors
    /// As there, or when the handle has not room for everything that can arrive.
    pub fn dispatch_with(
        &mut self,
        handle: &Handle,
        tokens: &Distributed,
        input: &Distributed,
        scales: Option<&Distributed>,
    ) -> Result<()> {
        let routing = &handle.0.routing;
        self.expect_handle(handle)?;
        let counts = self.expect_dispatch(tokens, routing)?;
        let rows = self.most_rows();
        self.expect_expert_input(input, scales, &rows)?;
        input.expect_rows(&handle.0.rows)?;
        let given = [tokens, &routing.indices, &routing.weights, input];
        let tensors: Vec<&Distributed> = given.into_iter().chain(scales).collect();
        let passed = Passed { tokens: &counts, tensors: &tensors, buffers: Some(&handle.0.buffers), ..Passed::NOTHING };
        self.launch(Call::Dispatch, &passed)
    }
}
