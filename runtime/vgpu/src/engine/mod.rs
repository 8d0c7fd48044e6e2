//! The machine: streams feed launches to SMs, SMs hold CTAs, and one warp at a time runs for a bounded number of
//! instructions.
//!
//! Invariants: a warp is in a queue exactly when `queued` is set, and it is set when a split can run; the random
//! numbers are drawn in the order of turns only, so that a seed determines the run; virtual time never goes back;
//! what has finished (launches, events that were reached, streams that were closed) takes no memory.

mod access;
mod addresses;
mod arithmetic;
mod atomics;
mod barrier;
mod clusters;
mod collective;
pub(crate) mod copies;
mod dependents;
mod diagnose;
mod diverge;
mod file;
mod flight;
mod frames;
mod interpret;
mod issue;
mod late;
mod mbarrier;
mod meet;
mod multimem;
mod observers;
pub(crate) mod print;
mod probe;
mod registers;
pub(crate) mod report;
mod schedule;
mod start;
mod stored;
mod system;
mod tensor;
mod together;
mod undefined;
pub(crate) mod warp;
mod weakly;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Instant;

use barrier::Barriers;
use clusters::CtaCluster;
use copies::Transfer;
use file::RegisterFile;
use flight::{DeviceFlights, Flights};
use moe_random::Random;
use observers::Observers;
use print::Printed;
use report::{Finding, Report, RunError};
use schedule::Victim;
pub(crate) use start::ctas_per_sm;
use stored::Stored;
use warp::Warp;

use crate::config::{Config, Policy};
use crate::decode::op::Program;
use crate::error::ClusterError;
use crate::ids::{EventId, LaunchId, RankId, StreamId};
use crate::memory::segment::Segment;
use crate::memory::{Address, Memory};
use crate::module::{Kernel, Module};
use crate::names::demangled;
use crate::observer::{Event, Observer};
use crate::weak::WeakMemory;

/// An element of a stream.
pub(crate) enum Command {
    Launch(Box<Request>),
    Record(EventId),
    Wait(EventId),
    Free(Address),
}

/// A launch that has not begun.
pub(crate) struct Request {
    pub id: LaunchId,
    pub kernel: Kernel,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub shared: u32,
    pub parameters: Arc<[u8]>,
    /// It need not wait for the end of the launch before it.
    pub dependent: bool,
    /// CTAs of a cluster along x, y and z, and whether the launch or the kernel says it.
    pub cluster: [u32; 3],
    pub explicit_cluster: bool,
    /// Where the CTAs of a cooperative launch meet.
    pub workspace: Option<Address>,
}

struct Stream {
    rank: u32,
    commands: VecDeque<Command>,
    /// Launches of it that run: more than one only where each behind the first is dependent.
    running: u32,
    /// Slot of the last one that began, as long as it runs.
    latest: Option<u32>,
    /// Ends when it is empty.
    closed: bool,
}

impl Stream {
    fn is_idle(&self) -> bool {
        self.running == 0 && self.commands.is_empty()
    }
}

struct LaunchState {
    id: LaunchId,
    kernel: Kernel,
    rank: u32,
    stream: StreamId,
    grid: [u32; 3],
    block: [u32; 3],
    /// CTAs of a cluster along each axis.
    cluster: [u32; 3],
    /// Bytes of a CTA's shared memory, counted from address 0.
    shared: u32,
    parameters: Arc<[u8]>,
    /// The initial part of a register file, with the constants that are the same for all warps.
    template: RegisterFile,
    workspace: Option<Address>,
    /// See [`Cta::variables`].
    variables: Arc<[(u32, u32)]>,
    ctas: u32,
    started: u32,
    finished: u32,
    /// The launch that `griddepcontrol.wait` waits for, as long as it runs.
    prerequisite: Option<LaunchId>,
    /// CTAs that have let dependents start, or ended.
    triggered: u32,
    /// Whether its dependents start behind its end, as they may on hardware: drawn when a CTA lets them start.
    holds_dependents: Option<bool>,
    /// Asynchronous copies under way.
    transfers: u32,
}

impl LaunchState {
    fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    fn cta(&self, index: u32) -> [u32; 3] {
        let [x, y, _] = self.grid;
        [index % x, index / x % y, index / x / y]
    }

    fn cluster_size(&self) -> u32 {
        self.cluster.iter().product()
    }

    /// Linear index in the grid of the CTA with a rank in a cluster.
    fn index_in_cluster(&self, cluster: u32, rank: u32) -> u32 {
        let [x, y, z] = self.cluster;
        let [width, height, _] = self.grid;
        let [across, down] = [width / x, height / y];
        let first = [cluster % across * x, cluster / across % down * y, cluster / across / down * z];
        let [i, j, k] = [first[0] + rank % x, first[1] + rank / x % y, first[2] + rank / x / y];
        (k * height + j) * width + i
    }
}

#[derive(Debug, Clone, Copy)]
struct Sm {
    threads: u32,
    shared: u32,
    ctas: u32,
}

struct Gpu {
    sms: Vec<Sm>,
    /// Slots of launches that have CTAs to start, in order.
    queue: VecDeque<u32>,
}

pub(crate) struct Cta {
    /// Slot of its launch.
    launch: u32,
    rank: u32,
    sm: u32,
    /// Linear index in the grid.
    pub index: u32,
    /// Slot of its cluster, and its rank in that.
    pub cluster: u32,
    pub cluster_rank: u32,
    pub shared: Segment,
    /// What threads stored there that is undefined.
    pub stored: Stored,
    /// Where the variables in it begin and end, by the number that addresses have.
    pub variables: Arc<[(u32, u32)]>,
    pub barriers: Barriers,
    /// Sets of warps that meet at barriers.
    pub groups: Vec<meet::Group>,
    /// Slots of its warps, in order; those of finished warps stay.
    pub warps: Vec<u32>,
    running: u32,
    /// Asynchronous copies that still read or write its shared memory.
    pub copies_pending: u32,
    /// It has executed `griddepcontrol.launch_dependents`.
    pub triggered: bool,
    pub flights: Flights,
}

pub(crate) struct Machine {
    pub config: Config,
    pub memory: Memory,
    pub observers: Observers,
    /// What has been found and did not end the run.
    pub findings: Vec<Finding>,
    /// What kernels have printed.
    pub printed: Vec<Printed>,
    pub instructions: u64,
    pub time: u64,
    /// Instructions that have not yet made a nanosecond.
    time_fraction: u64,
    turns: u64,
    random: Random,
    victim: Victim,
    loaded: Vec<Vec<Loaded>>,
    streams: BTreeMap<StreamId, Stream>,
    next_stream: u32,
    /// Events that have not been reached.
    ahead: BTreeSet<EventId>,
    next_event: u64,
    next_launch: u64,
    launches: Vec<Option<LaunchState>>,
    free_launches: Vec<u32>,
    gpus: Vec<Gpu>,
    ctas: Vec<Option<Box<Cta>>>,
    free_ctas: Vec<u32>,
    clusters: Vec<Option<Box<CtaCluster>>>,
    free_clusters: Vec<u32>,
    pub device_flights: DeviceFlights,
    /// When a run is given up.
    pub deadline: Option<Instant>,
    warps: Vec<Option<Box<Warp>>>,
    free_warps: Vec<u32>,
    /// Warps that finished, kept for their memory.
    #[allow(clippy::vec_box, reason = "a warp moves between here and its slot without being copied")]
    spare: Vec<Box<Warp>>,
    /// Register files that no warp has, the one used last at the end.
    spare_files: Vec<RegisterFile>,
    ready: VecDeque<u32>,
    /// Warps that a barrier has let go: a second queue, which is served first for a bounded number of turns.
    released: VecDeque<u32>,
    released_turns: u32,
    sleepers: BinaryHeap<Reverse<(u64, u64)>>,
    transfers: VecDeque<Transfer>,
    tickets: u64,
    copies_issued: u64,
    cta_serial: u64,
    finished_launches: u64,
    finished_ctas: u64,
    failed: Option<RunError>,
}

/// A module's variables on a rank, for as long as somebody has the module.
struct Loaded {
    program: Weak<Program>,
    addresses: Vec<Address>,
}

impl Loaded {
    fn is_of(&self, module: &Module) -> bool {
        // A program that is gone keeps its address, as this weak reference to it lives.
        std::ptr::eq(self.program.as_ptr(), Arc::as_ptr(&module.program))
    }
}

/// Warp instructions that take a nanosecond: about what a large GPU issues.
const INSTRUCTIONS_PER_NANOSECOND: u64 = 256;

impl Machine {
    pub fn new(config: Config) -> Machine {
        let ranks = config.ranks;
        let gpu = || Gpu { sms: vec![start::EMPTY_SM; config.sms as usize], queue: VecDeque::new() };
        Machine {
            memory: Memory::new(ranks, config.check_initialised),
            observers: Observers::new((config.policy == Policy::Weak).then(|| WeakMemory::new(config.seed))),
            findings: Vec::new(),
            printed: Vec::new(),
            instructions: 0,
            time: 0,
            time_fraction: 0,
            turns: 0,
            random: Random::new(config.seed),
            victim: Victim::default(),
            loaded: (0..ranks).map(|_| Vec::new()).collect(),
            streams: BTreeMap::new(),
            next_stream: 0,
            ahead: BTreeSet::new(),
            next_event: 0,
            next_launch: 0,
            launches: Vec::new(),
            free_launches: Vec::new(),
            gpus: (0..ranks).map(|_| gpu()).collect(),
            ctas: Vec::new(),
            free_ctas: Vec::new(),
            clusters: Vec::new(),
            free_clusters: Vec::new(),
            device_flights: DeviceFlights::default(),
            deadline: None,
            warps: Vec::new(),
            free_warps: Vec::new(),
            spare: Vec::new(),
            spare_files: Vec::new(),
            ready: VecDeque::new(),
            released: VecDeque::new(),
            released_turns: 0,
            sleepers: BinaryHeap::new(),
            transfers: VecDeque::new(),
            tickets: 0,
            copies_issued: 0,
            cta_serial: 0,
            finished_launches: 0,
            finished_ctas: 0,
            failed: None,
            config,
        }
    }

    pub fn add_stream(&mut self, rank: RankId) -> Option<StreamId> {
        let id = StreamId(self.next_stream);
        self.next_stream = self.next_stream.checked_add(1)?;
        self.streams
            .insert(id, Stream { rank: rank.0, commands: VecDeque::new(), running: 0, latest: None, closed: false });
        Some(id)
    }

    /// Lets a stream end when it is empty.
    pub fn close_stream(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.closed = true;
        }
        self.remove_closed();
    }

    fn remove_closed(&mut self) {
        self.streams.retain(|_, stream| !(stream.closed && stream.is_idle()));
    }

    /// The rank of a stream that has not been closed.
    pub fn rank_of(&self, stream: StreamId) -> Option<RankId> {
        self.streams.get(&stream).filter(|stream| !stream.closed).map(|stream| RankId(stream.rank))
    }

    pub fn add_event(&mut self) -> EventId {
        let id = EventId(self.next_event);
        self.next_event += 1;
        self.ahead.insert(id);
        id
    }

    pub fn has_event(&self, event: EventId) -> bool {
        event.0 < self.next_event
    }

    pub fn next_launch(&mut self) -> LaunchId {
        let id = LaunchId(self.next_launch);
        self.next_launch += 1;
        id
    }

    /// Puts a command into a stream, and carries it out if there is nothing that it has to wait for. Launches wait for a run.
    pub fn push(&mut self, id: StreamId, command: Command) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let now = stream.is_idle() && !matches!(command, Command::Launch(_));
        stream.commands.push_back(command);
        if now {
            self.advance(id);
        }
    }

    /// Addresses of a module's variables on a rank, placed there on first use.
    pub fn load_module(&mut self, rank: RankId, module: &Module) -> Result<&[Address], ClusterError> {
        let known = self.loaded[rank.0 as usize].iter().position(|loaded| loaded.is_of(module));
        let at = match known {
            Some(at) => at,
            None => {
                self.unload_modules();
                let addresses = start::place_variables(&mut self.memory, rank, &module.program)?;
                for (variable, &address) in module.program.variables.iter().zip(&addresses) {
                    self.tell_name(address, variable.bytes, &demangled(&variable.name));
                }
                let loaded = &mut self.loaded[rank.0 as usize];
                loaded.push(Loaded { program: Arc::downgrade(&module.program), addresses });
                loaded.len() - 1
            }
        };
        Ok(&self.loaded[rank.0 as usize][at].addresses)
    }

    /// Adds an observer, which hears of the names that there are.
    pub fn observe(&mut self, mut observer: Box<dyn Observer + Send>) {
        self.memory.for_each_name(|address, bytes, name| {
            observer.event(&Event::Named { address, bytes, name: name.to_owned() });
        });
        self.observers.add(observer);
    }

    pub fn tell_name(&mut self, address: Address, bytes: u64, name: &str) {
        self.observers.tell(|| Event::Named { address, bytes, name: name.to_owned() });
    }

    /// Frees the variables of modules that nobody has any more.
    fn unload_modules(&mut self) {
        // These are kept for their memory only.
        self.spare.clear();
        for loaded in &mut self.loaded {
            for gone in loaded.extract_if(.., |loaded| loaded.program.strong_count() == 0) {
                for address in gone.addresses.into_iter().filter(|address| address.0 != 0) {
                    // Whoever freed a variable as memory of its own was before us.
                    let _ = self.memory.free(address);
                    self.observers.tell(|| Event::Freed { address });
                }
            }
        }
    }

    pub fn variable(&self, rank: RankId, module: &Module, name: &str) -> Option<Address> {
        let loaded = self.loaded.get(rank.0 as usize)?.iter().find(|loaded| loaded.is_of(module))?;
        let index = module
            .program
            .variables
            .iter()
            .position(|variable| variable.name == name || demangled(&variable.name) == name)?;
        loaded.addresses.get(index).copied().filter(|address| address.0 != 0)
    }

    /// Runs what can run; `partly` if what waits may go on waiting.
    pub fn run(&mut self, partly: bool) -> Result<Report, RunError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let before = (self.finished_launches, self.finished_ctas, self.instructions, self.time);
        if let Err(error) = self.drive(partly) {
            self.failed = Some(error.clone());
            return Err(error);
        }
        let idle = self.idle();
        self.observers.tell(|| Event::RunEnds { idle });
        Ok(Report {
            launches: self.finished_launches - before.0,
            ctas: self.finished_ctas - before.1,
            instructions: self.instructions - before.2,
            nanoseconds: self.time - before.3,
        })
    }

    pub fn abandon(&mut self) {
        let mut freed = Vec::new();
        let mut workspaces: Vec<Address> =
            self.launches.iter().flatten().filter_map(|launch| launch.workspace).collect();
        for stream in self.streams.values_mut() {
            freed.extend(stream.commands.drain(..).filter_map(|command| match command {
                Command::Free(address) => Some(address),
                Command::Launch(request) => {
                    workspaces.extend(request.workspace);
                    None
                }
                Command::Record(_) | Command::Wait(_) => None,
            }));
            (stream.running, stream.latest) = (0, None);
        }
        self.remove_closed();
        for gpu in &mut self.gpus {
            gpu.queue.clear();
            gpu.sms.fill(start::EMPTY_SM);
        }
        // What was to be reached never will be, and nothing may wait for it.
        self.ahead.clear();
        self.launches.clear();
        self.free_launches.clear();
        self.ctas.clear();
        self.free_ctas.clear();
        self.clusters.clear();
        self.free_clusters.clear();
        self.device_flights.clear();
        self.warps.clear();
        self.free_warps.clear();
        self.ready.clear();
        self.released.clear();
        self.sleepers.clear();
        self.transfers.clear();
        self.memory.forget_waiters();
        freed.into_iter().for_each(|address| self.free_leaving(address));
        for workspace in workspaces {
            let _ = self.memory.free(workspace);
        }
        self.memory.woken.clear();
        self.failed = None;
        self.observers.tell(|| Event::Abandoned);
    }

    /// Starts what the streams allow.
    fn pump(&mut self) {
        let mut progress = true;
        while std::mem::take(&mut progress) {
            let mut next = StreamId(0);
            // A stream's number is below the next one's, so that there is a number behind it.
            while let Some(&id) = self.streams.range(next..).next().map(|(id, _)| id) {
                next = StreamId(id.0 + 1);
                progress |= self.advance(id);
            }
        }
        self.remove_closed();
    }

    /// Carries out the commands of a stream up to one that has to wait. Whether there was one.
    fn advance(&mut self, id: StreamId) -> bool {
        let mut progress = false;
        loop {
            let Some(stream) = self.streams.get(&id) else { return progress };
            let may_overlap = |request: &Request| request.dependent && self.lets_dependents_start(stream.latest);
            match stream.commands.front() {
                None => return progress,
                Some(Command::Launch(request)) if stream.running > 0 && !may_overlap(request) => return progress,
                Some(Command::Record(_) | Command::Free(_) | Command::Wait(_)) if stream.running > 0 => {
                    return progress;
                }
                Some(Command::Wait(event)) if self.ahead.contains(event) => return progress,
                Some(_) => {}
            }
            let Some(stream) = self.streams.get_mut(&id) else { return progress };
            progress = true;
            let rank = RankId(stream.rank);
            match stream.commands.pop_front() {
                Some(Command::Launch(request)) => {
                    self.begin(id, rank, *request);
                }
                Some(Command::Record(event)) => {
                    self.observers.tell(|| Event::Recorded { stream: id, event });
                    self.ahead.remove(&event);
                }
                Some(Command::Free(address)) => self.free_leaving(address),
                Some(Command::Wait(event)) => self.observers.tell(|| Event::Waited { stream: id, event }),
                None => {}
            }
        }
    }

    fn free_leaving(&mut self, address: Address) {
        self.memory.free_leaving(address);
        self.observers.tell(|| Event::Freed { address });
    }

    /// The first launch that has not finished.
    pub fn oldest_launch(&self) -> Option<LaunchId> {
        let queued = self.streams.values().flat_map(|stream| &stream.commands).filter_map(|command| match command {
            Command::Launch(request) => Some(request.id),
            _ => None,
        });
        self.launches.iter().flatten().map(|state| state.id).chain(queued).min()
    }

    /// Whether everything that was put into a stream has finished.
    pub fn is_idle(&self, id: StreamId) -> bool {
        self.streams.get(&id).is_none_or(Stream::is_idle)
    }

    fn idle(&self) -> bool {
        self.streams.values().all(Stream::is_idle)
    }
}
