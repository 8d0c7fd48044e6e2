//! Virtual GPUs: the very PTX of a bundle, on this machine's CPU.
//!
//! Invariants:
//! * nothing runs before somebody waits: launches collect, and run together in the next [`Device::synchronise`], as far as they need
//!   not wait for later ones; then, if whoever synchronises waits for what has not been launched, other threads have time to launch it, until all of them wait.
//!   Only when [`MOST_QUEUED`] have collected do launches run before. The same calls of one thread with the same options give the same
//!   run, instruction by instruction;
//! * what has finished or was freed takes no memory, so that a program may run for as long as it likes;
//! * every wrong access and every wait that can never end is an error with the kernel, the instruction, the place in memory by name
//!   and, for a wait, the rank that should have written it;
//! * deadlines pass in virtual time: a wait of 10 s is over as soon as nothing else can happen.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use moe_bundle::Digest;
use moe_contract::{LinkBytes, RankId};
use moe_vgpu::{Cluster, ClusterError, Config, Kernel, LaunchId, Module, Policy, Report, RunError};

use super::{
    Address, Device, DeviceError, EventId, FunctionId, GraphId, Launch, Occupancy, Residency, StreamId, Value,
};

/// What the virtual GPUs are like, and how their warps take turns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualOptions {
    /// Multiprocessors of each.
    pub sms: u32,
    /// Who runs next.
    pub policy: Policy,
    /// Chooses one of the schedules of a policy that has several.
    pub seed: u64,
    /// Warp instructions after which everything that was launched together is given up.
    pub instruction_limit: u64,
}

/// For those who are between two launches when a rank goes.
const GRACE: Duration = Duration::from_millis(250);

/// Launches that collect at most.
const MOST_QUEUED: u32 = 4096;

impl Default for VirtualOptions {
    fn default() -> Self {
        let Config { sms, policy, seed, instruction_limit, .. } = Config::default();
        VirtualOptions { sms, policy, seed, instruction_limit }
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
    occupancy: Occupancy,
    /// Something was launched, or has run.
    news: Condvar,
}

struct State {
    cluster: Cluster,
    /// Each text is parsed once, however many ranks load it.
    modules: BTreeMap<[u8; 32], Module>,
    functions: Vec<Function>,
    /// Launches since the last run.
    queued: u32,
    /// Those that are open.
    streams: BTreeSet<StreamId>,
    /// What is launched in these streams is collected.
    capturing: BTreeMap<StreamId, Vec<Launch>>,
    graphs: BTreeMap<GraphId, Vec<Launch>>,
    next_graph: u64,
    executing: Duration,
    /// What launches may still use, those up to the one named.
    freed_later: VecDeque<(LaunchId, moe_vgpu::Address)>,
    last_launch: LaunchId,
    /// Why the last run failed.
    failure: Option<DeviceError>,
    /// Somebody waits for these, and for what has not been launched.
    waited_for: BTreeMap<StreamId, u32>,
    /// What was in these streams was given up, which nobody who waits for them knows yet.
    given_up: BTreeMap<StreamId, DeviceError>,
    /// Nothing more comes from these, since when.
    gone: Option<(DeviceError, Instant)>,
    /// All of them.
    gone_ranks: BTreeSet<u32>,
}

/// A kernel on a rank. One that is loaded again is the same function.
struct Function {
    rank: RankId,
    text: [u8; 32],
    kernel: Kernel,
}

impl VirtualDevice {
    /// Makes the GPUs.
    ///
    /// # Errors
    /// When there are too many, or a number of the options is out of range.
    pub fn new(ranks: u32, options: &VirtualOptions) -> Result<VirtualDevice, DeviceError> {
        let VirtualOptions { sms, policy, seed, instruction_limit } = *options;
        let config = Config { ranks, sms, policy, seed, instruction_limit, ..Config::default() };
        let cluster = Cluster::new(config).map_err(refused)?;
        let state = State {
            cluster,
            modules: BTreeMap::new(),
            functions: vec![],
            queued: 0,
            streams: BTreeSet::new(),
            capturing: BTreeMap::new(),
            graphs: BTreeMap::new(),
            next_graph: 0,
            executing: Duration::ZERO,
            freed_later: VecDeque::new(),
            last_launch: LaunchId(0),
            failure: None,
            waited_for: BTreeMap::new(),
            given_up: BTreeMap::new(),
            gone: None,
            gone_ranks: BTreeSet::new(),
        };
        Ok(VirtualDevice { ranks, state: Mutex::new(state), occupancy: Occupancy::default(), news: Condvar::new() })
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

    /// Shows every further access and ordering event of the kernels to an observer, such as [`moe_vgpu::Judge`].
    pub fn observe(&self, observer: Box<dyn moe_vgpu::Observer + Send>) {
        self.state().cluster.observe(observer);
    }

    /// Ranks from which nothing more comes, since the process that launched there has ended. Whoever waits for what they have not
    /// launched hears it soon, however patient.
    pub fn lose(&self, ranks: &[RankId], process: u32) {
        let mut state = self.state();
        state.gone.get_or_insert((DeviceError::Gone { ranks: ranks.to_vec(), process }, Instant::now()));
        state.gone_ranks.extend(ranks.iter().map(|rank| rank.0));
        drop(state);
        self.news.notify_all();
    }

    fn settle(&self, streams: &[StreamId], patience: Duration) -> Result<(), DeviceError> {
        let start = Instant::now();
        let mut state = self.state();
        loop {
            state.take_given_up(streams)?;
            if state.run(Cluster::advance)? {
                self.news.notify_all();
            }
            if let Some(outcome) = state.outcome(streams, self.ranks) {
                return outcome;
            }
            let mut left = patience.saturating_sub(start.elapsed());
            if let Some((gone, since)) = &state.gone {
                if left.is_zero() {
                    return Err(gone.clone());
                }
                left = left.min(GRACE.saturating_sub(since.elapsed()).max(Duration::from_millis(20)));
            } else if left.is_zero() || state.all_wait(self.ranks) {
                let ran = state.run(Cluster::run).map(|_| ());
                self.news.notify_all();
                return ran;
            }
            state = self.news.wait_timeout(state, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
            if let Some(outcome) = state.outcome(streams, self.ranks) {
                return outcome;
            }
        }
    }

    /// As [`Device::allocate`], over memory that somebody else has too.
    pub(crate) fn allocate_over(&self, of: RankId, memory: moe_vgpu::Lent, name: &str) -> Result<Address, DeviceError> {
        let allocated = self.state().cluster.allocate_over(rank(of), memory, name).map_err(refused)?;
        Ok(Address(allocated.0))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic inside the virtual GPU leaves it in the middle of an instruction, which no later call can notice; the tables are whole.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    /// Whether anything happened.
    fn run(&mut self, run: impl FnOnce(&mut Cluster) -> Result<Report, RunError>) -> Result<bool, DeviceError> {
        self.queued = 0;
        let start = Instant::now();
        let outcome = run(&mut self.cluster);
        self.executing += start.elapsed();
        self.free_late();
        let outcome = outcome.map(|report| report.instructions > 0).map_err(failed);
        self.failure = outcome.as_ref().err().cloned().or(self.failure.take());
        outcome
    }

    /// Frees what no launch can use any more.
    fn free_late(&mut self) {
        let oldest = self.cluster.oldest_launch();
        while let Some(&(last, address)) = self.freed_later.front()
            && oldest.is_none_or(|oldest| last < oldest)
        {
            self.freed_later.pop_front();
            // Whoever frees is a destructor, which has nobody to tell.
            let _ = self.cluster.free(address);
        }
    }

    /// The rank of a stream.
    fn rank_of(&self, stream: StreamId) -> Result<moe_vgpu::RankId, DeviceError> {
        let unknown = DeviceError::Unknown { what: "stream".into(), id: stream.0.into() };
        self.cluster.rank_of(moe_vgpu::StreamId(stream.0)).ok_or(unknown)
    }

    /// Why what was in some streams was given up, if it was.
    fn take_given_up(&mut self, streams: &[StreamId]) -> Result<(), DeviceError> {
        let known: Vec<DeviceError> = streams.iter().filter_map(|stream| self.given_up.remove(stream)).collect();
        known.into_iter().next().map_or(Ok(()), Err)
    }

    /// What became of streams that somebody waits for: nothing yet, or all is well, or why they will not finish. Whoever is there and does not
    /// wait may still launch what they need, which a rank that has gone in peace did before.
    fn outcome(&mut self, streams: &[StreamId], ranks: u32) -> Option<Result<(), DeviceError>> {
        if let Err(error) = self.take_given_up(streams) {
            return Some(Err(error));
        }
        match self.are_idle(streams) {
            true => Some(Ok(())),
            false => match &self.gone {
                Some((error, since)) if since.elapsed() >= GRACE && self.all_wait(ranks) => Some(Err(error.clone())),
                Some(_) | None => None,
            },
        }
    }

    fn are_idle(&self, streams: &[StreamId]) -> bool {
        streams.iter().all(|stream| self.cluster.is_idle(moe_vgpu::StreamId(stream.0)))
    }

    /// Whether whoever could launch something waits: then nothing comes any more, however long anybody waits.
    fn all_wait(&self, ranks: u32) -> bool {
        let waits = |stream: &StreamId| self.waited_for.contains_key(stream) && !self.are_idle(&[*stream]);
        let rank = |stream: &StreamId| Some(self.rank_of(*stream).ok()?.0);
        let of_ranks: BTreeSet<u32> = self.streams.iter().filter_map(rank).collect();
        let here = |stream: &&StreamId| rank(stream).is_none_or(|rank| !self.gone_ranks.contains(&rank));
        (0..ranks).all(|rank| of_ranks.contains(&rank) || self.gone_ranks.contains(&rank))
            && self.streams.iter().filter(here).all(waits)
    }

    fn wait_for(&mut self, streams: &[StreamId]) {
        streams.iter().for_each(|&stream| *self.waited_for.entry(stream).or_default() += 1);
    }

    fn wait_no_more_for(&mut self, streams: &[StreamId]) {
        for stream in streams {
            if let Some(count) = self.waited_for.get_mut(stream) {
                *count -= 1;
                if *count == 0 {
                    self.waited_for.remove(stream);
                }
            }
        }
    }

    fn not_capturing(&self, stream: StreamId) -> Result<(), DeviceError> {
        match self.capturing.contains_key(&stream) {
            true => Err(DeviceError::Refused { problem: format!("stream {} is being captured", stream.0) }),
            false => Ok(()),
        }
    }

    fn launch(&mut self, stream: StreamId, launch: &Launch) -> Result<(), DeviceError> {
        let stream_rank = self.rank_of(stream)?;
        let function = look_up(&self.functions, launch.function)?;
        if stream_rank != rank(function.rank) {
            let problem = format!("`{}` of {} in a stream of {stream_rank}", function.kernel.name(), function.rank);
            return Err(DeviceError::Refused { problem });
        }
        // What it would build on was given up.
        if let Some(error) = self.given_up.get(&stream) {
            return Err(error.clone());
        }
        if let Some(captured) = self.capturing.get_mut(&stream) {
            captured.push(launch.clone());
            return Ok(());
        }
        let arguments = launch.arguments.iter().map(|argument| match *argument {
            Value::U32(number) => number.into(),
            Value::U64(number) => number.into(),
            Value::Pointer(pointer) => address(pointer).into(),
        });
        let programmatic = launch.programmatic;
        let launch = moe_vgpu::Launch {
            grid: [launch.grid, 1, 1],
            block: [launch.block, 1, 1],
            cluster: None,
            shared: launch.shared,
            arguments: arguments.collect(),
        };
        let stream = moe_vgpu::StreamId(stream.0);
        let launched = match programmatic {
            true => self.cluster.launch_dependent(stream, &function.kernel, launch),
            false => self.cluster.launch(stream, &function.kernel, launch),
        };
        let launched = launched.map_err(refused)?;
        self.last_launch = launched;
        self.queued += 1;
        if self.queued == MOST_QUEUED {
            // An error stays until somebody waits.
            let _ = self.run(Cluster::advance);
        }
        Ok(())
    }
}

fn refused(error: ClusterError) -> DeviceError {
    DeviceError::Refused { problem: error.to_string() }
}

fn failed(error: RunError) -> DeviceError {
    let report = error.to_string();
    match error {
        RunError::Fault(_) => DeviceError::Fault { report },
        RunError::Deadlock(_) => DeviceError::Deadlock { report },
        RunError::Limit(_) | RunError::Time(_) => DeviceError::Limit { report },
    }
}

fn look_up(functions: &[Function], id: FunctionId) -> Result<&Function, DeviceError> {
    functions.get(id.0 as usize).ok_or(DeviceError::Unknown { what: "function".into(), id: id.0.into() })
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
        let last = state.last_launch;
        state.freed_later.push_back((last, address(at)));
        state.free_late();
    }

    fn free_in(&self, stream: StreamId, rank: RankId, at: Address) {
        let freed = self.state().cluster.free_after(moe_vgpu::StreamId(stream.0), address(at));
        if freed.is_err() {
            // Of a stream that has been closed: what is in it may still use the memory.
            self.free(rank, at);
        }
    }

    fn label(&self, _rank: RankId, at: Address, bytes: u64, label: &str, writer: Option<RankId>) {
        // A label is for reports: without it they are poorer, not wrong.
        let _ = self.state().cluster.label(address(at), bytes, label, writer.map(rank));
    }

    fn write(&self, _rank: RankId, at: Address, bytes: &[u8]) -> Result<(), DeviceError> {
        self.state().cluster.write(address(at), bytes).map_err(refused)
    }

    fn read(&self, _rank: RankId, at: Address, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.state().cluster.read(address(at), bytes).map_err(refused)
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
        let known = state.functions.iter().position(|function| {
            (function.rank, function.text) == (of, key) && function.kernel.name() == kernel.name()
        });
        let place = known.unwrap_or(state.functions.len());
        if known.is_none() {
            state.functions.push(Function { rank: of, text: key, kernel });
        }
        Ok(FunctionId(place as u32))
    }

    fn residency(&self, function: FunctionId, block: u32, shared: u32) -> Result<Residency, DeviceError> {
        let state = self.state();
        let Function { rank, kernel, .. } = look_up(&state.functions, function)?;
        Ok(Residency { gpu: rank.0, ctas: state.cluster.residency(kernel, block, shared), ranks: 1 })
    }

    fn occupancy(&self) -> Option<&Occupancy> {
        Some(&self.occupancy)
    }

    fn stream(&self, of: RankId) -> Result<StreamId, DeviceError> {
        let mut state = self.state();
        let stream = StreamId(state.cluster.stream(rank(of)).map_err(refused)?.0);
        state.streams.insert(stream);
        Ok(stream)
    }

    fn rank_of(&self, stream: StreamId) -> Option<RankId> {
        self.state().cluster.rank_of(moe_vgpu::StreamId(stream.0)).map(|rank| RankId(rank.0))
    }

    fn close_stream(&self, stream: StreamId) {
        let mut state = self.state();
        state.streams.remove(&stream);
        state.given_up.remove(&stream);
        // One that does not exist is ignored.
        let _ = state.cluster.close_stream(moe_vgpu::StreamId(stream.0));
    }

    fn launch(&self, stream: StreamId, launch: &Launch) -> Result<(), DeviceError> {
        self.state().launch(stream, launch)?;
        self.news.notify_all();
        Ok(())
    }

    fn record(&self, stream: StreamId) -> Result<EventId, DeviceError> {
        let mut state = self.state();
        state.rank_of(stream)?;
        state.not_capturing(stream)?;
        let event = state.cluster.record(moe_vgpu::StreamId(stream.0)).map_err(refused)?;
        Ok(EventId(event.0))
    }

    fn wait(&self, stream: StreamId, event: EventId) -> Result<(), DeviceError> {
        let mut state = self.state();
        state.rank_of(stream)?;
        state.not_capturing(stream)?;
        let event = moe_vgpu::EventId(event.0);
        state.cluster.wait(moe_vgpu::StreamId(stream.0), event).map_err(|error| match error {
            ClusterError::NoSuch { what, number } => DeviceError::Unknown { what: what.into(), id: number },
            other => refused(other),
        })
    }

    fn begin_capture(&self, stream: StreamId) -> Result<(), DeviceError> {
        let mut state = self.state();
        state.rank_of(stream)?;
        state.not_capturing(stream)?;
        state.capturing.insert(stream, vec![]);
        Ok(())
    }

    fn end_capture(&self, stream: StreamId) -> Result<GraphId, DeviceError> {
        let mut state = self.state();
        let captured = state.capturing.remove(&stream);
        let captured =
            captured.ok_or(DeviceError::Unknown { what: "capture of stream".into(), id: stream.0.into() })?;
        let graph = GraphId(state.next_graph);
        state.next_graph += 1;
        state.graphs.insert(graph, captured);
        Ok(graph)
    }

    fn replay(&self, stream: StreamId, graph: GraphId) -> Result<(), DeviceError> {
        let mut state = self.state();
        state.not_capturing(stream)?;
        let unknown = DeviceError::Unknown { what: "graph".into(), id: graph.0 };
        let launches = state.graphs.get(&graph).ok_or(unknown)?.clone();
        launches.iter().try_for_each(|launch| state.launch(stream, launch))?;
        self.news.notify_all();
        Ok(())
    }

    fn forget_graph(&self, graph: GraphId) {
        self.state().graphs.remove(&graph);
    }

    fn synchronise(&self, streams: &[StreamId], patience: Duration) -> Result<(), DeviceError> {
        self.state().wait_for(streams);
        let outcome = self.settle(streams, patience);
        self.state().wait_no_more_for(streams);
        outcome
    }

    fn abandon(&self) -> Result<(), DeviceError> {
        let mut state = self.state();
        if let Some(failure) = state.failure.take().or(state.gone.as_ref().map(|(gone, _)| gone.clone())) {
            // Those who wait for them must not take them for finished.
            let busy = state.streams.iter().filter(|&&stream| !state.cluster.is_idle(moe_vgpu::StreamId(stream.0)));
            let busy: Vec<StreamId> = busy.copied().collect();
            state.given_up.extend(busy.into_iter().map(|stream| (stream, failure.clone())));
        }
        state.cluster.abandon();
        state.queued = 0;
        state.free_late();
        self.news.notify_all();
        Ok(())
    }

    fn traffic(&self) -> Option<LinkBytes> {
        let state = self.state();
        let traffic = state.cluster.traffic();
        let written = LinkBytes::new(self.ranks, |writer, owner| traffic.written(rank(writer), rank(owner)));
        Some(written.between_ranks())
    }
}
