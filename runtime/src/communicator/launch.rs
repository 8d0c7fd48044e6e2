//! From a call to launches.
//!
//! Invariants:
//! * every argument of a kernel is found by its meaning, never by its place;
//! * a kernel is launched on all ranks of the communicator before the next one is launched on any. The order of launches is therefore one in which they
//!   could run one after the other: a kernel waits only for kernels launched before it, even where streams share a hardware queue;
//! * a launch that a device does not take stops the world: ranks that were launched before it do not wait for those behind it.

use std::collections::BTreeMap;
use std::sync::Arc;

use moe_bundle::{Bundle, KernelEntry};
use moe_contract::{Argument, Call, Kernel, RankId, Tensor};

use super::Communicator;
use super::handle::HandleBuffers;
use super::parameters::GateParameters;
use super::times::KernelTime;
use crate::device::{Address, Device, FunctionId, Launch, LaunchTime, Residency, StreamId, Value};
use crate::error::{Error, Result};
use crate::tensor::Distributed;

/// The kernels of a bundle, loaded on every rank.
pub(crate) struct Kernels(BTreeMap<Kernel, Loaded>);

struct Loaded {
    entry: KernelEntry,
    /// One per rank.
    functions: Vec<FunctionId>,
}

impl Kernels {
    /// Loads the kernels of the best target and checks that ranks which share a GPU cannot keep each other off it.
    pub fn load(device: &Arc<dyn Device>, bundle: &Bundle) -> Result<Kernels> {
        let manifest = bundle.manifest();
        let targets = manifest.targets();
        let target = device.choose_target(&targets).ok_or_else(|| Error::NoTarget {
            bundle: if targets.is_empty() { "no target".into() } else { targets.join(", ") },
            device: device.description(),
        })?;
        let mut kernels = BTreeMap::new();
        for entry in manifest.kernels.iter().filter(|entry| entry.target == target) {
            let (ptx, name) = (bundle.ptx(entry), entry.kernel.name());
            let load = |rank| match bundle.cubin(entry) {
                Some(cubin) => device.load_assembled(RankId(rank), cubin, ptx, name),
                None => device.load(RankId(rank), ptx, name),
            };
            let functions = (0..manifest.exchange.ranks).map(load).collect::<Result<_, _>>()?;
            kernels.insert(entry.kernel, Loaded { entry: entry.clone(), functions });
        }
        let kernels = Kernels(kernels);
        kernels.check_residency(device)?;
        Ok(kernels)
    }

    /// Whose launch it was, and of which kernel.
    pub fn time(&self, time: LaunchTime) -> Option<KernelTime> {
        self.0.iter().find_map(|(&kernel, loaded)| {
            let rank = loaded.functions.iter().position(|&function| function == time.function)?;
            let LaunchTime { gpu, start, end, .. } = time;
            Some(KernelTime { kernel, rank: RankId(rank as u32), gpu, start, end })
        })
    }

    fn check_residency(&self, device: &Arc<dyn Device>) -> Result<()> {
        let mut least: BTreeMap<usize, Residency> = BTreeMap::new();
        for loaded in self.0.values() {
            for (rank, &function) in loaded.functions.iter().enumerate() {
                let residency = device.residency(function, loaded.entry.block, loaded.entry.shared)?;
                let known = least.entry(rank).or_insert(residency);
                known.ctas = known.ctas.min(residency.ctas);
            }
        }
        let waiting = self.0.iter().filter(|(kernel, _)| kernel.row().waits.is_some());
        for (&kernel, loaded) in waiting {
            for &residency in least.values() {
                fits(kernel, loaded.entry.grid.ctas(0), residency)?;
            }
        }
        Ok(())
    }
}

/// A CTA that waits occupies its place until the rank it waits for has sent. While all ranks but one of a GPU wait, the last one must
/// still have a place for a CTA that sends: one is enough, since those finish. `residency` counts places in which any kernel of the
/// bundle fits, so many to a multiprocessor that each takes at most one part of it: where fewer than all places are taken, a
/// multiprocessor has a free one. A rank with a GPU of its own sends before it waits, in stream order.
fn fits(kernel: Kernel, per_rank: u32, residency: Residency) -> Result<()> {
    let Residency { ctas: resident, ranks } = residency;
    if ranks > 1 && u64::from(per_rank) * u64::from(ranks - 1) >= resident {
        return Err(Error::Residency { kernel, per_rank, ranks, resident });
    }
    Ok(())
}

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
    /// Nothing.
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
            self.world.kernels.0.get(kernel).ok_or(Error::NoKernel(*kernel))?;
        }
        if let Some(kept) = &mut self.capturing {
            kept.keep(passed);
        }
        kernels.into_iter().try_for_each(|kernel| self.enqueue(kernel, passed))
    }

    /// Launches a kernel on every rank.
    fn enqueue(&self, kernel: Kernel, call: &Passed<'_>) -> Result<()> {
        self.running()?;
        let loaded = self.world.kernels.0.get(&kernel).ok_or(Error::NoKernel(kernel))?;
        for (place, rank) in self.ranks().enumerate() {
            let tokens = call.tokens.get(place).map_or(0, |&tokens| tokens as u32);
            let mut arguments = Vec::new();
            for &argument in kernel.row().arguments {
                self.resolve(argument, rank, tokens, call, &mut arguments);
            }
            let KernelEntry { block, shared, grid, .. } = loaded.entry;
            let function = loaded.functions[rank.index()];
            let launch = Launch { function, grid: grid.ctas(tokens), block, shared, arguments };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ranks_leave_room_for_the_last_one() {
        let shared = |ranks| Residency { ctas: 264, ranks };
        assert_eq!(fits(Kernel::CombineReduce, 37, shared(8)), Ok(()), "259 of 7 ranks wait, 5 places are left");
        assert_eq!(
            fits(Kernel::CombineReduce, 1000, shared(1)),
            Ok(()),
            "a GPU of its own has room for what comes in turn"
        );
        let error = fits(Kernel::CombineReduce, 38, shared(8)).expect_err("266 CTAs");
        assert_eq!(
            error.to_string(),
            "too many ranks for one GPU: kernel `combine_reduce` waits with 38 CTAs on each of 8 ranks, and the GPU holds 264 of them \
             at once; use fewer ranks, more GPUs, or a plan with fewer CTAs"
        );
    }
}
