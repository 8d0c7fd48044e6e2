//! Calls of a communicator over memory of the caller: what every other language binds.
//!
//! Invariants:
//! * tensors lie where the ranks compute: on GPUs in the memory of the GPU, which is borrowed, and no call waits; on virtual GPUs in the
//!   memory of this process, which is copied unless a node has it too, and each call has finished when it returns;
//! * everything that the caller says of a tensor is checked before anything is read or launched.

mod calls;
mod capture;
mod ranks;
mod tensors;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use moe_contract::{Buffer, Exchange, RankId};
use moe_runtime::communicator::Received;
use moe_runtime::device::Memory;
use moe_runtime::node::HostMemory;
use moe_runtime::{Communicator, Error, Handle, Options};

pub use capture::Recording;
use capture::Step;
pub use ranks::{Hardware, Membership, Ranks, open_bundle};

use crate::failure::{Failure, Result};
use crate::view::View;

/// A parameter of the gate, as the caller has it: its name and, for each rank, so many rows of one number.
#[derive(Clone, Debug)]
pub struct GateParameter {
    /// In the gate.
    pub name: String,
    /// One row is one number.
    pub view: View,
}

/// Picks and weights of every token.
#[derive(Clone, Copy, Debug)]
pub struct RoutingView<'v> {
    /// [`moe_contract::Tensor::Indices`]
    pub indices: &'v View,
    /// [`moe_contract::Tensor::Weights`]
    pub weights: &'v View,
}

/// The experts' input, with its scales where it has some.
#[derive(Clone, Copy, Debug)]
pub struct InputView<'v> {
    /// [`moe_contract::Tensor::ExpertInput`]
    pub rows: &'v View,
    /// [`moe_contract::Tensor::ExpertInputScales`]
    pub scales: Option<&'v View>,
}

/// A handle whose arrays the caller has: [`moe_runtime::communicator::handle_bytes`] at an address of each rank, aligned to 16 bytes on GPUs.
#[derive(Clone, Copy, Debug)]
pub struct HandleView<'v> {
    /// Where it begins on each rank.
    pub addresses: &'v [u64],
    /// What was dispatched.
    pub routing: RoutingView<'v>,
}

/// A handle of the caller, in use by one call.
pub struct OpenHandle {
    /// For the call.
    pub handle: Handle,
    /// Copies of the caller's arrays, where ranks do not have those, and where these are.
    copies: Vec<(Arc<Memory>, u64)>,
}

/// A communicator and what it needs to take tensors of the caller.
///
/// # Safety
/// Of every method that takes a [`View`]: at each address there are so many rows, on GPUs until the launches of the call have finished;
/// what is written overlaps nothing else that is passed.
pub struct Session {
    ranks: Ranks,
    moe: Communicator,
    /// Of a capture, while there is one.
    recorded: Option<Vec<Step>>,
    /// Bytes of tensors and handles, so far.
    copied: u64,
}

impl Session {
    /// Some ranks of a world.
    ///
    /// # Errors
    /// When there are no such ranks, or one has a communicator.
    pub fn new(ranks: &Ranks, those: Range<u32>, deadline: Option<Duration>) -> Result<Session> {
        let moe = Communicator::of_ranks(&ranks.world, those, Options { deadline })?;
        Ok(Session { ranks: ranks.clone(), moe, recorded: None, copied: 0 })
    }

    /// Memory of a rank that this process has too, where there is such memory: tensors that lie in it are not copied. What is there is undefined, or
    /// zero if that is asked for. It may outlive the session and the world.
    ///
    /// # Errors
    /// When the rank is not one of these, or there is not enough.
    pub fn host_memory(&self, rank: RankId, bytes: u64, zero: bool) -> Result<Option<HostMemory>> {
        if !self.moe.ranks().any(|own| own == rank) {
            return Err(Failure::argument("rank", format!("{rank} is not one of this communicator")));
        }
        let Some(node) = &self.ranks.node else { return Ok(None) };
        let mut memory = node.host_memory(rank, bytes).map_err(Error::from)?;
        if zero {
            memory.zero();
        }
        Ok(Some(memory))
    }

    /// Bytes of tensors and handles that have been copied between the caller and the ranks so far.
    pub fn copied(&self) -> u64 {
        self.copied
    }

    /// The numbers of the bundle.
    pub fn exchange(&self) -> &Exchange {
        self.moe.exchange()
    }

    /// The communicator.
    pub fn communicator(&mut self) -> &mut Communicator {
        &mut self.moe
    }

    /// Whether tensors lie in the memory of this process, and calls have finished when they return.
    pub fn on_host(&self) -> bool {
        self.ranks.cuda.is_none()
    }

    /// Launches in these streams of CUDA from now on, one for each rank.
    ///
    /// # Errors
    /// When the ranks are virtual, or there is not one for each.
    ///
    /// # Safety
    /// Each is a stream of the GPU of its rank, and lives until what is launched in it has finished and another is used.
    pub unsafe fn use_streams(&mut self, streams: &[u64]) -> Result<()> {
        let Some(device) = &self.ranks.cuda else {
            return Err(Failure::argument("streams", "virtual GPUs have no streams of CUDA"));
        };
        let mut adopted = Vec::new();
        for (rank, &stream) in self.moe.ranks().zip(streams) {
            // SAFETY: as the caller promises.
            adopted.push(unsafe { device.adopt_stream(rank, stream as *mut _) }.map_err(Error::from)?);
        }
        Ok(self.moe.use_streams(&adopted)?)
    }

    /// Waits for everything that was launched.
    ///
    /// # Errors
    /// What a kernel of any rank refused, or who did not come.
    pub fn synchronise(&mut self) -> Result<()> {
        Ok(self.moe.synchronise()?)
    }

    /// What every rank received. Waits.
    ///
    /// # Errors
    /// When the handle is of another communicator, or a kernel failed.
    pub fn received(&mut self, handle: &Handle) -> Result<Vec<Received>> {
        Ok(self.moe.received(handle)?)
    }

    /// Bytes of an array of a handle on a rank. Waits.
    ///
    /// # Errors
    /// When the array has not so many, or they were never written.
    pub fn read_array(
        &mut self,
        handle: &Handle,
        rank: RankId,
        buffer: Buffer,
        bytes: Range<usize>,
    ) -> Result<Vec<u8>> {
        let has = self.exchange().buffer_bytes(buffer);
        if bytes.end as u64 > has || bytes.start > bytes.end || !self.moe.ranks().any(|own| own == rank) {
            let problem = format!("bytes {bytes:?} of {rank}: the array `{}` has {has}", buffer.name());
            return Err(Failure::argument("bytes", problem));
        }
        Ok(self.moe.inspect(handle, rank, buffer, bytes)?)
    }
}
