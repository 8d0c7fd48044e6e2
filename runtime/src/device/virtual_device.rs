//! Virtual GPUs: the very PTX of a bundle, on this machine's CPU.
//!
//! Invariants:
//! * nothing runs before somebody waits: launches collect, and run together in the next [`Device::synchronise`], read or write. The
//!   same calls with the same options give the same run, instruction by instruction;
//! * every wrong access and every wait that can never end is an error with the kernel, the instruction, the place in memory by name
//!   and, for a wait, the rank that should have written it;
//! * deadlines pass in virtual time: a wait of 10 s is over as soon as nothing else can happen.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use moe_bundle::{Digest, RankId};
use moe_vgpu::{Cluster, ClusterError, Config, Module, Policy, RunError};

use super::{Address, Device, DeviceError, EventId, FunctionId, Launch, Residency, StreamId, Value};
use crate::traffic::LinkBytes;

/// What the virtual GPUs are like, and how their warps take turns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualOptions {
    /// Multiprocessors of each.
    pub sms: u32,
    /// Who runs next.
    pub policy: Policy,
    /// Chooses one of the schedules of a policy that has several.
    pub seed: u64,
}

impl Default for VirtualOptions {
    fn default() -> Self {
        VirtualOptions { sms: Config::default().sms, policy: Policy::default(), seed: 0 }
    }
}

/// What virtual GPUs have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtualWork {
    /// Warp instructions.
    pub instructions: u64,
    /// Nanoseconds of virtual time.
    pub nanoseconds: u64,
    /// Time of this machine that executing them took.
    pub executing: Duration,
}

/// Virtual GPUs, one for each rank, that reach each other's memory.
pub struct VirtualDevice {
    ranks: u32,
    state: Mutex<State>,
}

struct State {
    cluster: Cluster,
    /// Each text is parsed once, however many ranks load it.
    modules: BTreeMap<[u8; 32], Module>,
    functions: Vec<(RankId, moe_vgpu::Kernel)>,
    streams: Vec<(RankId, moe_vgpu::StreamId)>,
    events: Vec<moe_vgpu::EventId>,
    /// Whether something is queued, or the last run failed.
    unfinished: bool,
    executing: Duration,
    /// What launches may still use.
    freed_later: Vec<moe_vgpu::Address>,
}

impl VirtualDevice {
    /// Makes the GPUs.
    ///
    /// # Errors
    /// When there are too many, or a number of the options is out of range.
    pub fn new(ranks: u32, options: &VirtualOptions) -> Result<VirtualDevice, DeviceError> {
        let VirtualOptions { sms, policy, seed } = *options;
        let cluster = Cluster::new(Config { ranks, sms, policy, seed, ..Config::default() }).map_err(refused)?;
        let state = State {
            cluster,
            modules: BTreeMap::new(),
            functions: vec![],
            streams: vec![],
            events: vec![],
            unfinished: false,
            executing: Duration::ZERO,
            freed_later: vec![],
        };
        Ok(VirtualDevice { ranks, state: Mutex::new(state) })
    }

    /// What they have done so far.
    pub fn work(&self) -> VirtualWork {
        let state = self.state();
        VirtualWork {
            instructions: state.cluster.instructions(),
            nanoseconds: state.cluster.nanoseconds(),
            executing: state.executing,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic inside the virtual GPU leaves it in the middle of an instruction, which no later call can notice; the tables are whole.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    /// Runs what is queued.
    fn finish(&mut self) -> Result<(), DeviceError> {
        if self.unfinished {
            let start = Instant::now();
            let outcome = self.cluster.run();
            self.executing += start.elapsed();
            outcome.map_err(failed)?;
            self.unfinished = false;
        }
        self.free_late();
        Ok(())
    }

    fn free_late(&mut self) {
        for address in std::mem::take(&mut self.freed_later) {
            // Whoever frees is a destructor, which has nobody to tell.
            let _ = self.cluster.free(address);
        }
    }
}

fn refused(error: ClusterError) -> DeviceError {
    DeviceError::Refused { problem: error.to_string() }
}

fn failed(error: RunError) -> DeviceError {
    let report = error.to_string();
    match error {
        RunError::Fault(_) => DeviceError::Fault { report },
        RunError::Deadlock(_) | RunError::Limit(_) => DeviceError::Deadlock { report },
    }
}

fn look_up<T: Clone>(table: &[T], what: &'static str, id: u32) -> Result<T, DeviceError> {
    table.get(id as usize).cloned().ok_or(DeviceError::Unknown { what, id: id.into() })
}

fn rank(id: RankId) -> moe_vgpu::RankId {
    moe_vgpu::RankId(id.0)
}

fn address(address: Address) -> moe_vgpu::Address {
    moe_vgpu::Address(address.0)
}

impl Device for VirtualDevice {
    fn description(&self) -> String {
        match self.ranks {
            1 => "1 virtual GPU".into(),
            ranks => format!("{ranks} virtual GPUs"),
        }
    }

    fn ranks(&self) -> u32 {
        self.ranks
    }

    fn choose_target<'t>(&self, targets: &[&'t str]) -> Option<&'t str> {
        // It knows the instructions, whichever architecture they are for.
        targets.first().copied()
    }

    fn allocate(&self, of: RankId, bytes: u64, name: &str) -> Result<Address, DeviceError> {
        let allocated = self.state().cluster.allocate(rank(of), bytes, name).map_err(refused)?;
        Ok(Address(allocated.0))
    }

    fn free(&self, _rank: RankId, at: Address) {
        let mut state = self.state();
        state.freed_later.push(address(at));
        if !state.unfinished {
            state.free_late();
        }
    }

    fn label(&self, _rank: RankId, at: Address, bytes: u64, label: &str, writer: Option<RankId>) {
        // A label is for reports: without it they are poorer, not wrong.
        let _ = self.state().cluster.label(address(at), bytes, label, writer.map(rank));
    }

    fn write(&self, _rank: RankId, at: Address, bytes: &[u8]) -> Result<(), DeviceError> {
        let mut state = self.state();
        state.finish()?;
        state.cluster.write(address(at), bytes).map_err(refused)
    }

    fn read(&self, _rank: RankId, at: Address, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let mut state = self.state();
        state.finish()?;
        state.cluster.read(address(at), bytes).map_err(refused)
    }

    fn load(&self, of: RankId, ptx: &str, name: &str) -> Result<FunctionId, DeviceError> {
        let mut state = self.state();
        let key = Digest::of(ptx.as_bytes()).0;
        let module = match state.modules.get(&key) {
            Some(module) => module.clone(),
            None => {
                let module = Module::parse(ptx)
                    .map_err(|error| DeviceError::Ptx { problem: format!("kernel `{name}`: {error}") })?;
                state.modules.insert(key, module.clone());
                module
            }
        };
        let kernel = module.kernel(name).ok_or_else(|| DeviceError::NoKernel { name: name.into() })?;
        state.cluster.load(rank(of), &module).map_err(refused)?;
        state.functions.push((of, kernel));
        Ok(FunctionId(state.functions.len() as u32 - 1))
    }

    fn residency(&self, function: FunctionId, block: u32, shared: u32) -> Result<Residency, DeviceError> {
        let state = self.state();
        let (_, kernel) = look_up(&state.functions, "function", function.0)?;
        Ok(Residency { ctas: state.cluster.residency(&kernel, block, shared), ranks: 1 })
    }

    fn stream(&self, of: RankId) -> Result<StreamId, DeviceError> {
        let mut state = self.state();
        let stream = state.cluster.stream(rank(of)).map_err(refused)?;
        state.streams.push((of, stream));
        Ok(StreamId(state.streams.len() as u32 - 1))
    }

    fn launch(&self, stream: StreamId, launch: &Launch) -> Result<(), DeviceError> {
        let mut state = self.state();
        let (stream_rank, stream) = look_up(&state.streams, "stream", stream.0)?;
        let (function_rank, kernel) = look_up(&state.functions, "function", launch.function.0)?;
        if stream_rank != function_rank {
            let problem = format!("`{}` of {function_rank} in a stream of {stream_rank}", kernel.name());
            return Err(DeviceError::Refused { problem });
        }
        let arguments = launch.arguments.iter().map(|argument| match *argument {
            Value::U32(number) => number.into(),
            Value::U64(number) => number.into(),
            Value::Pointer(pointer) => address(pointer).into(),
        });
        let launch = moe_vgpu::Launch {
            grid: [launch.grid, 1, 1],
            block: [launch.block, 1, 1],
            shared: launch.shared,
            arguments: arguments.collect(),
        };
        state.cluster.launch(stream, &kernel, launch).map_err(refused)?;
        state.unfinished = true;
        Ok(())
    }

    fn record(&self, stream: StreamId) -> Result<EventId, DeviceError> {
        let mut state = self.state();
        let (_, stream) = look_up(&state.streams, "stream", stream.0)?;
        let event = state.cluster.record(stream).map_err(refused)?;
        state.events.push(event);
        state.unfinished = true;
        Ok(EventId(state.events.len() as u32 - 1))
    }

    fn wait(&self, stream: StreamId, event: EventId) -> Result<(), DeviceError> {
        let mut state = self.state();
        let (_, stream) = look_up(&state.streams, "stream", stream.0)?;
        let event = look_up(&state.events, "event", event.0)?;
        state.cluster.wait(stream, event).map_err(refused)?;
        state.unfinished = true;
        Ok(())
    }

    fn synchronise(&self) -> Result<(), DeviceError> {
        self.state().finish()
    }

    fn abandon(&self) -> Result<(), DeviceError> {
        let mut state = self.state();
        state.cluster.abandon();
        state.unfinished = false;
        state.free_late();
        Ok(())
    }

    fn traffic(&self) -> Option<LinkBytes> {
        let state = self.state();
        let traffic = state.cluster.traffic();
        Some(LinkBytes::new(self.ranks, |writer, owner| traffic.written(rank(writer), rank(owner))))
    }
}
