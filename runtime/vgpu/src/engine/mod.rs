//! The machine: streams feed launches to SMs, SMs hold CTAs, and one warp at a time runs for a bounded number of
//! instructions.
//!
//! Invariants: a warp is in a queue exactly when `queued` is set, and it is set when a split can run; the random
//! numbers are drawn in the order of turns only, so that a seed determines the run; virtual time never goes back.

mod access;
mod addresses;
mod arithmetic;
mod atomics;
mod barrier;
mod collective;
pub(crate) mod copies;
mod diagnose;
mod diverge;
mod file;
mod interpret;
mod mbarrier;
mod probe;
mod registers;
pub(crate) mod report;
mod schedule;
mod start;
mod system;
mod together;
pub(crate) mod warp;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use barrier::Barriers;
use copies::Transfer;
use file::RegisterFile;
use moe_random::Random;
use report::{Report, RunError};
use schedule::Victim;
pub(crate) use start::ctas_per_sm;
use warp::Warp;

use crate::cluster::{ClusterError, Config, EventId, Kernel, Launch, LaunchId, Module, StreamId};
use crate::decode::op::Program;
use crate::memory::segment::Segment;
use crate::memory::{Address, Memory, Observer, RankId};

/// An element of a stream.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Command {
    Launch(u32),
    Record(EventId),
    Wait(EventId),
}

struct Stream {
    rank: u32,
    commands: VecDeque<Command>,
    /// The launch in front is running.
    busy: bool,
}

struct LaunchState {
    kernel: Kernel,
    rank: u32,
    stream: u32,
    grid: [u32; 3],
    block: [u32; 3],
    /// Bytes of a CTA's shared memory, counted from address 0.
    shared: u32,
    parameters: Arc<[u8]>,
    /// The initial part of a register file, with the constants that are the same for all warps.
    template: RegisterFile,
    ctas: u32,
    started: u32,
    finished: u32,
}

impl LaunchState {
    fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    fn cta(&self, index: u32) -> [u32; 3] {
        let [x, y, _] = self.grid;
        [index % x, index / x % y, index / x / y]
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
    /// Launches that have CTAs to start, in order.
    queue: VecDeque<u32>,
}

pub(crate) struct Cta {
    launch: u32,
    rank: u32,
    sm: u32,
    pub shared: Segment,
    pub barriers: Barriers,
    /// Slots of its warps, in order; those of finished warps stay.
    pub warps: Vec<u32>,
    running: u32,
    /// Asynchronous copies that still read or write its shared memory.
    pub copies_pending: u32,
}

pub(crate) struct Machine {
    pub config: Config,
    pub memory: Memory,
    pub observer: Option<Box<dyn Observer + Send>>,
    pub instructions: u64,
    pub time: u64,
    /// Instructions that have not yet made a nanosecond.
    time_fraction: u64,
    turns: u64,
    random: Random,
    victim: Victim,
    loaded: Vec<Vec<(Arc<Program>, Vec<Address>)>>,
    streams: Vec<Stream>,
    events: Vec<bool>,
    launches: Vec<Option<LaunchState>>,
    gpus: Vec<Gpu>,
    ctas: Vec<Option<Box<Cta>>>,
    free_ctas: Vec<u32>,
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

/// Warp instructions that take a nanosecond: about what a large GPU issues.
const INSTRUCTIONS_PER_NANOSECOND: u64 = 256;

impl Machine {
    pub fn new(config: Config) -> Machine {
        let ranks = config.ranks;
        let gpu = || Gpu { sms: vec![start::EMPTY_SM; config.sms as usize], queue: VecDeque::new() };
        Machine {
            memory: Memory::new(ranks, config.check_initialised),
            observer: None,
            instructions: 0,
            time: 0,
            time_fraction: 0,
            turns: 0,
            random: Random::new(config.seed),
            victim: Victim::default(),
            loaded: (0..ranks).map(|_| Vec::new()).collect(),
            streams: Vec::new(),
            events: Vec::new(),
            launches: Vec::new(),
            gpus: (0..ranks).map(|_| gpu()).collect(),
            ctas: Vec::new(),
            free_ctas: Vec::new(),
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

    pub fn add_stream(&mut self, rank: RankId) -> StreamId {
        self.streams.push(Stream { rank: rank.0, commands: VecDeque::new(), busy: false });
        StreamId(self.streams.len() as u32 - 1)
    }

    pub fn rank_of(&self, stream: StreamId) -> Option<RankId> {
        self.streams.get(stream.0 as usize).map(|stream| RankId(stream.rank))
    }

    pub fn add_event(&mut self) -> EventId {
        self.events.push(false);
        EventId(self.events.len() as u32 - 1)
    }

    pub fn has_event(&self, event: EventId) -> bool {
        (event.0 as usize) < self.events.len()
    }

    pub fn push(&mut self, stream: StreamId, command: Command) {
        self.streams[stream.0 as usize].commands.push_back(command);
    }

    pub fn add_launch(
        &mut self,
        stream: StreamId,
        rank: RankId,
        kernel: &Kernel,
        launch: &Launch,
        parameters: Vec<u8>,
    ) -> Result<LaunchId, ClusterError> {
        let globals = self.load_module(rank, &kernel.module)?;
        let number = self.launches.len() as u32;
        let state = self.prepare(stream, rank, kernel, launch, parameters.into(), number, &globals);
        self.launches.push(Some(state));
        self.push(stream, Command::Launch(number));
        Ok(LaunchId(number))
    }

    /// Addresses of a module's variables on a rank, placed there on first use.
    pub fn load_module(&mut self, rank: RankId, module: &Module) -> Result<Vec<Address>, ClusterError> {
        let known = self.loaded[rank.0 as usize].iter().find(|(program, _)| Arc::ptr_eq(program, &module.program));
        if let Some((_, addresses)) = known {
            return Ok(addresses.clone());
        }
        let addresses = start::place_variables(&mut self.memory, rank, &module.program)?;
        self.loaded[rank.0 as usize].push((Arc::clone(&module.program), addresses.clone()));
        Ok(addresses)
    }

    pub fn variable(&self, rank: RankId, module: &Module, name: &str) -> Option<Address> {
        let loaded = self.loaded.get(rank.0 as usize)?;
        let (_, addresses) = loaded.iter().find(|(program, _)| Arc::ptr_eq(program, &module.program))?;
        let index = module.program.variables.iter().position(|variable| variable.name == name)?;
        addresses.get(index).copied().filter(|address| address.0 != 0)
    }

    pub fn run(&mut self) -> Result<Report, RunError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let before = (self.finished_launches, self.finished_ctas, self.instructions, self.time);
        if let Err(error) = self.drive() {
            self.failed = Some(error.clone());
            return Err(error);
        }
        Ok(Report {
            launches: self.finished_launches - before.0,
            ctas: self.finished_ctas - before.1,
            instructions: self.instructions - before.2,
            nanoseconds: self.time - before.3,
        })
    }

    pub fn abandon(&mut self) {
        for stream in &mut self.streams {
            stream.commands.clear();
            stream.busy = false;
        }
        for gpu in &mut self.gpus {
            gpu.queue.clear();
            gpu.sms.fill(start::EMPTY_SM);
        }
        // What was to be reached never will be, and nothing may wait for it.
        self.events.fill(true);
        self.launches.iter_mut().for_each(|launch| *launch = None);
        self.ctas.clear();
        self.free_ctas.clear();
        self.warps.clear();
        self.free_warps.clear();
        self.ready.clear();
        self.released.clear();
        self.sleepers.clear();
        self.transfers.clear();
        self.memory.forget_waiters();
        self.failed = None;
    }

    /// Starts what the streams allow.
    fn pump(&mut self) {
        let mut progress = true;
        while std::mem::take(&mut progress) {
            for index in 0..self.streams.len() {
                while !self.streams[index].busy
                    && let Some(&command) = self.streams[index].commands.front()
                {
                    match command {
                        Command::Launch(launch) => {
                            let rank = self.streams[index].rank;
                            self.streams[index].busy = true;
                            self.gpus[rank as usize].queue.push_back(launch);
                            self.start_ctas(rank);
                        }
                        Command::Record(event) => self.events[event.0 as usize] = true,
                        Command::Wait(event) if self.events[event.0 as usize] => {}
                        Command::Wait(_) => break,
                    }
                    if !self.streams[index].busy {
                        self.streams[index].commands.pop_front();
                        progress = true;
                    }
                }
            }
        }
    }

    fn idle(&self) -> bool {
        self.streams.iter().all(|stream| stream.commands.is_empty())
    }
}
