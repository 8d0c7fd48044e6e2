//! From a call to launches.
//!
//! Invariants:
//! * every argument of a kernel is found by its meaning, never by its place;
//! * a kernel is launched on all ranks of the communicator before the next one is launched on any. The order of launches is therefore one in which they
//!   could run one after the other: a kernel waits only for kernels launched before it, even where streams share a hardware queue;
//! * a launch that a device does not take stops the world: ranks that were launched before it do not wait for those behind it.

use std::sync::Arc;

use moe_bundle::KernelEntry;
use moe_contract::{Argument, Call, Kernel, RankId, Tensor};

use super::Communicator;
use super::parameters::GateParameters;
use crate::buffers::HandleBuffers;
use crate::device::{Address, Launch, StreamId, Value};
use crate::error::{Error, Result};
use crate::tensor::Distributed;

/// What the arguments of a call's kernels stand for.
#[derive(Clone, Copy)]
pub(super) struct Passed<'c> {
    /// Tokens of each rank.
    pub tokens: &'c [u64],
    /// Tensors of the call, each of its own kind.
    pub tensors: &'c [&'c Distributed],
    /// Arrays of a handle.
    pub buffers: Option<&'c Arc<HandleBuffers>>,
    pub parameters: Option<&'c GateParameters>,
}

impl Passed<'_> {
    pub const NOTHING: Passed<'static> = Passed { tokens: &[], tensors: &[], buffers: None, parameters: None };
}

impl Communicator {
    /// Launches the kernels of a call.
    pub(super) fn launch(&mut self, call: Call, passed: &Passed<'_>) -> Result<()> {
        self.launch_those(call, |_| true, passed)
    }

    /// Launches those kernels of a call that take a tensor, or those that do not.
    pub(super) fn launch_part(&mut self, call: Call, takes: Tensor, does: bool, passed: &Passed<'_>) -> Result<()> {
        let of_part = |kernel: Kernel| kernel.row().arguments.contains(&Argument::Tensor(takes)) == does;
        self.launch_those(call, of_part, passed)
    }

    fn launch_those(&mut self, call: Call, wanted: impl Fn(Kernel) -> bool, passed: &Passed<'_>) -> Result<()> {
        let kernels: Vec<Kernel> = call.kernels(self.exchange()).filter(|&kernel| wanted(kernel)).collect();
        // Whatever is missing is missed before the first launch.
        for kernel in &kernels {
            self.world.kernels().loaded(*kernel)?;
        }
        self.claim()?;
        if let Some(kept) = &mut self.capturing {
            kept.keep(passed);
        }
        kernels.into_iter().try_for_each(|kernel| self.enqueue(kernel, passed))
    }

    /// Launches a kernel on every rank.
    fn enqueue(&self, kernel: Kernel, call: &Passed<'_>) -> Result<()> {
        self.running()?;
        let loaded = self.world.kernels().loaded(kernel)?;
        for (place, rank) in self.ranks().enumerate() {
            let tokens = call.tokens.get(place).map_or(0, |&tokens| tokens as u32);
            let mut arguments = Vec::new();
            for &argument in kernel.row().arguments {
                self.resolve(argument, rank, tokens, call, &mut arguments);
            }
            let KernelEntry { block, shared, programmatic, grid, .. } = loaded.entry;
            let function = loaded.functions[self.world.kernels().place(rank)];
            let launch = Launch { function, grid: grid.ctas(tokens), block, shared, programmatic, arguments };
            if let Err(problem) = self.world.device.launch(self.stream(rank), &launch) {
                let error = Error::Launch { rank, kernel, problem };
                self.world.stop(&error);
                return Err(error);
            }
        }
        Ok(())
    }

    pub(super) fn stream(&self, rank: RankId) -> StreamId {
        self.streams[(rank.0 - self.ranks.start) as usize]
    }

    /// Adds what an argument stands for.
    fn resolve(&self, argument: Argument, rank: RankId, tokens: u32, call: &Passed<'_>, values: &mut Vec<Value>) {
        values.push(match argument {
            Argument::Buffer(buffer) => {
                let of_handle = || call.buffers.map_or(Address::NULL, |buffers| buffers.address(rank, buffer));
                Value::Pointer(self.world.own(rank, buffer).unwrap_or_else(of_handle))
            }
            Argument::Symmetric => Value::Pointer(self.world.symmetric(rank)),
            Argument::Tensor(kind) => {
                // A tensor that a bundle has not got, such as scales of bf16, is null.
                let tensor = call.tensors.iter().find(|tensor| tensor.kind() == kind);
                Value::Pointer(tensor.map_or(Address::NULL, |tensor| tensor.address(rank)))
            }
            Argument::GateParameters => {
                let parameters = call.parameters.into_iter().flat_map(|parameters| parameters.addresses(rank));
                return values.extend(parameters.map(Value::Pointer));
            }
            Argument::Rank => Value::U32(rank.0),
            Argument::Tokens => Value::U32(tokens),
            Argument::Deadline => {
                let nanoseconds = self.options.deadline.map_or(0, |deadline| deadline.as_nanos());
                Value::U64(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
            }
            Argument::Capacity => Value::U32(self.manifest().capacity(tokens).unwrap_or(u32::MAX)),
        });
    }
}
