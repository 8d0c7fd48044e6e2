//! A virtual cluster with the kernels of one exchange: allocations, launches in stream order, and what lies in memory afterwards.
//!
//! Nothing waits for the host between launches: all calls of a test are in the streams before the first instruction runs, so that ranks
//! get as far apart as the protocol lets them. Symmetric memory is not zeroed except for its flags: a slot that is read before it has
//! arrived is a fault.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moe_contract::{Argument, Buffer, Call, Exchange, Flag, Format, Grid, Kernel, Tensor};
use moe_judge::Rows;
use moe_kernels::exchange::{device_code, kernels};
use moe_kernels::ptx::{Chip, Target};
use moe_vgpu::{
    Access, AccessKind, Address, Cluster, Config, Judge, Launch, Location, Module, Observer, Policy, RankId, RunError,
    StreamId,
};

use crate::host::Host;
pub use crate::run::{Outcome, Schedule};

/// The text of every kernel of an exchange.
pub type Texts = BTreeMap<Kernel, String>;

/// Generates them.
pub fn texts(exchange: &Exchange) -> Texts {
    kernels(exchange).into_iter().map(|kernel| (kernel, text(kernel, exchange))).collect()
}

/// Generates one.
pub fn text(kernel: Kernel, exchange: &Exchange) -> String {
    device_code(kernel, exchange).ptx(Target::of(Chip::Sm90a)).expect("it translates")
}

/// Every kernel of an exchange, ready to run.
#[derive(Clone)]
pub struct Loaded {
    pub exchange: Exchange,
    kernels: BTreeMap<Kernel, moe_vgpu::Kernel>,
    /// Bytes of dynamic shared memory.
    shared: BTreeMap<Kernel, u32>,
}

/// Stands for bytes that are undefined.
const UNDEFINED: u8 = 0xa5;

impl Loaded {
    pub fn new(exchange: &Exchange) -> Loaded {
        Loaded::of(exchange, &texts(exchange)).expect("our own PTX parses")
    }

    pub fn of(exchange: &Exchange, texts: &Texts) -> Result<Loaded, moe_vgpu::PtxError> {
        let load = |(&kernel, text): (&Kernel, &String)| {
            let module = Module::parse(text)?;
            Ok((kernel, module.kernel(kernel.name()).expect("the entry has the kernel's name")))
        };
        let kernels = texts.iter().map(load).collect::<Result<_, _>>()?;
        let shared = |&kernel: &Kernel| (kernel, device_code(kernel, exchange).dynamic_shared());
        Ok(Loaded { exchange: *exchange, kernels, shared: texts.keys().map(shared).collect() })
    }

    /// The same kernels, one of them replaced.
    pub fn with(&self, kernel: Kernel, text: &str) -> Result<Loaded, moe_vgpu::PtxError> {
        let mut kernels = self.kernels.clone();
        kernels.insert(kernel, Module::parse(text)?.kernel(kernel.name()).expect("the entry has the kernel's name"));
        Ok(Loaded { kernels, ..self.clone() })
    }
}

/// One address per rank.
pub type Everywhere = Vec<Address>;

/// The arrays of a handle, by rank.
pub struct Buffers(Vec<BTreeMap<Buffer, Address>>);

/// A running cluster.
pub struct World<'l> {
    loaded: &'l Loaded,
    pub cluster: Cluster,
    streams: Vec<StreamId>,
    symmetric: Everywhere,
    status: Everywhere,
    calls: Everywhere,
    peers: Everywhere,
    /// Nanoseconds of every wait; 0 for none.
    pub deadline: u64,
    /// CTAs of kernels that do with fewer than they would have.
    pub room: u32,
    /// Bytes that each rank wrote to its own symmetric memory; counted once, in turn, as no schedule changes them.
    own: Option<Arc<Vec<AtomicU64>>>,
    /// The judge of memory order, where there is one.
    judge: Option<Judge>,
}

/// Counts what the cluster's own counters do not tell from other memory of a rank.
struct OwnSymmetric {
    bases: Everywhere,
    bytes: u64,
    own: Arc<Vec<AtomicU64>>,
}

impl Observer for OwnSymmetric {
    fn access(&mut self, access: &Access) {
        let Location::Device(address) = access.location else { return };
        let rank = access.thread.rank.0 as usize;
        // The host has none.
        let Some(base) = self.bases.get(rank) else { return };
        if (base.0..base.0 + self.bytes).contains(&address.0) && access.kind != AccessKind::Read {
            self.own[rank].fetch_add(u64::from(access.bytes), Ordering::Relaxed);
        }
    }
}

/// What a call passes to its kernels.
#[derive(Default)]
pub struct Passed<'c> {
    pub tokens: Vec<u32>,
    pub tensors: BTreeMap<&'static str, Everywhere>,
    pub handle: Option<&'c Buffers>,
    pub capacity: u32,
    /// A rank that is left out.
    pub absent: Option<u32>,
}

impl Passed<'_> {
    pub fn tensor(mut self, tensor: Tensor, addresses: &Everywhere) -> Self {
        self.tensors.insert(tensor.name(), addresses.clone());
        self
    }
}

impl<'l> World<'l> {
    pub fn new(loaded: &'l Loaded, schedule: Schedule) -> World<'l> {
        let exchange = &loaded.exchange;
        let ranks = exchange.ranks;
        let Schedule { policy, seed, .. } = schedule;
        // The last rank has no kernels: what runs there stands for the host.
        let mut cluster = Cluster::new(Config {
            ranks: ranks + 1,
            policy,
            seed,
            instruction_limit: 400_000_000,
            ..Config::default()
        })
        .expect("a plan has few ranks");
        let streams = (0..=ranks).map(|rank| cluster.stream(RankId(rank)).expect("it exists")).collect();
        let mut world = World {
            loaded,
            cluster,
            streams,
            symmetric: vec![],
            status: vec![],
            calls: vec![],
            peers: vec![],
            deadline: 0,
            room: u32::MAX,
            own: None,
            judge: None,
        };
        world.symmetric = world.everywhere("symmetric", |_| exchange.symmetric_bytes());
        world.status = world.everywhere("status", |_| 32);
        world.calls = world.everywhere("calls", |_| exchange.buffer_bytes(Buffer::Calls));
        world.peers = world.everywhere("peers", |_| 8 * u64::from(ranks));
        if policy == Policy::RoundRobin {
            let own = Arc::new((0..ranks).map(|_| AtomicU64::new(0)).collect::<Vec<_>>());
            let (bases, bytes) = (world.symmetric.clone(), exchange.symmetric_bytes());
            world.own = Some(Arc::clone(&own));
            world.cluster.observe(Box::new(OwnSymmetric { bases, bytes, own }));
        }
        if schedule.is_judged() {
            let judge = Judge::default();
            world.cluster.observe(Box::new(judge.clone()));
            world.judge = Some(judge);
        }
        let table: Vec<u8> = world.symmetric.iter().flat_map(|base| base.0.to_le_bytes()).collect();
        for rank in 0..ranks as usize {
            let zeros = vec![0; 8 * ranks as usize];
            for flag in Flag::ALL {
                let start = exchange.flag_start(flag);
                world.write(world.symmetric[rank].offset(start), &zeros);
                for writer in 0..ranks {
                    let word = world.symmetric[rank].offset(start + 8 * u64::from(writer));
                    world.cluster.label(word, 8, flag.name(), Some(RankId(writer))).expect("it is in symmetric memory");
                }
            }
            world.write(world.calls[rank], &vec![0; exchange.buffer_bytes(Buffer::Calls) as usize]);
            world.write(world.status[rank], &[0; 32]);
            world.write(world.peers[rank], &table);
        }
        world
    }

    pub fn exchange(&self) -> &'l Exchange {
        &self.loaded.exchange
    }

    /// Where the symmetric memory of each rank begins.
    #[allow(dead_code, reason = "the kill matrix asks for less")]
    pub fn symmetric(&self) -> &[Address] {
        &self.symmetric
    }

    /// Bytes that kernels of a rank wrote to its own symmetric memory, where they were counted.
    pub fn written_to_own_symmetric(&self, rank: u32) -> Option<u64> {
        self.own.as_ref().map(|own| own[rank as usize].load(Ordering::Relaxed))
    }

    fn write(&mut self, address: Address, bytes: &[u8]) {
        self.cluster.write(address, bytes).expect("it is inside an allocation");
    }

    /// Memory on every rank.
    pub fn everywhere(&mut self, name: &str, bytes: impl Fn(usize) -> u64) -> Everywhere {
        (0..self.exchange().ranks)
            // No allocation is empty, so that each has an address.
            .map(|rank| self.cluster.allocate(RankId(rank), bytes(rank as usize).max(1), name).expect("there is room"))
            .collect()
    }

    /// The caller's tensor on every rank.
    pub fn upload(&mut self, name: &str, parts: &[Vec<u8>]) -> Everywhere {
        let addresses = self.everywhere(name, |rank| parts[rank].len() as u64);
        addresses.iter().zip(parts).for_each(|(&address, part)| self.write(address, part));
        addresses
    }

    pub fn handle(&mut self) -> Buffers {
        let exchange = self.exchange();
        let of_rank = |rank| {
            let allocate = |buffer: Buffer| {
                let bytes = exchange.buffer_bytes(buffer).max(1);
                (buffer, self.cluster.allocate(RankId(rank), bytes, buffer.name()).expect("there is room"))
            };
            Buffer::of_handle().map(allocate).collect()
        };
        Buffers((0..exchange.ranks).map(of_rank).collect())
    }

    /// Puts the kernels of a call into the stream of every rank.
    pub fn call(&mut self, call: Call, passed: &Passed<'_>) {
        call.kernels(self.exchange()).for_each(|kernel| self.launch(kernel, passed));
    }

    /// Puts a kernel into the stream of every rank.
    pub fn launch(&mut self, kernel: Kernel, call: &Passed<'_>) {
        let exchange = self.exchange();
        let ctas = match kernel.grid(exchange) {
            Some(Grid::UpTo(most)) => most.min(self.room),
            Some(grid @ (Grid::Fixed(_) | Grid::PerTokens(_))) => grid.ctas(0),
            None => panic!("{kernel:?} belongs to a gate"),
        };
        for rank in (0..exchange.ranks as usize).filter(|&rank| call.absent != Some(rank as u32)) {
            let value = |&argument: &Argument| -> moe_vgpu::Argument {
                match argument {
                    Argument::Buffer(Buffer::Status) => self.status[rank].into(),
                    Argument::Buffer(Buffer::Calls) => self.calls[rank].into(),
                    Argument::Buffer(Buffer::Peers) => self.peers[rank].into(),
                    Argument::Buffer(buffer) => call.handle.expect("a handle").0[rank][&buffer].into(),
                    Argument::Symmetric => self.symmetric[rank].into(),
                    Argument::Tensor(tensor) => {
                        call.tensors.get(tensor.name()).map_or(Address(0), |addresses| addresses[rank]).into()
                    }
                    Argument::GateParameters => panic!("no gate here"),
                    Argument::Rank => (rank as u32).into(),
                    Argument::Tokens => call.tokens[rank].into(),
                    Argument::Deadline => self.deadline.into(),
                    Argument::Capacity => call.capacity.into(),
                }
            };
            let arguments = kernel.row().arguments.iter().map(value).collect();
            let shared = self.loaded.shared[&kernel];
            let launch = Launch { shared, ..Launch::linear(ctas, exchange.threads, arguments) };
            self.cluster
                .launch(self.streams[rank], &self.loaded.kernels[&kernel], launch)
                .expect("a launch that can be");
        }
    }

    /// Lets the host do something to the status of a rank.
    pub fn host(&mut self, rank: usize, host: Host) {
        let (kernel, launch) = host.launch(self.status[rank]);
        self.launch_alone(self.loaded.exchange.ranks as usize, &kernel, launch);
    }

    /// Puts a kernel that is none of the exchange's into the stream of a rank, or of the host, which comes behind the ranks.
    pub fn launch_alone(&mut self, rank: usize, kernel: &moe_vgpu::Kernel, launch: Launch) {
        self.cluster.launch(self.streams[rank], kernel, launch).expect("a launch that can be");
    }

    pub fn run(&mut self) -> Result<(), RunError> {
        self.cluster.run().map(|_| ())
    }

    /// What came of a run that ended so.
    pub fn outcome(&self, executed: Result<(), String>) -> Outcome {
        let conflict = self.judge.as_ref().and_then(|judge| judge.found().into_iter().next());
        Outcome { executed, conflict }
    }

    /// What a rank has to say.
    pub fn status(&mut self, rank: usize) -> [u64; 4] {
        let words = self.words(self.status[rank], 8);
        [0, 1, 2, 3].map(|word| u64::from(words[2 * word]) | u64::from(words[2 * word + 1]) << 32)
    }

    /// u32 words.
    pub fn words(&mut self, address: Address, count: usize) -> Vec<u32> {
        let bytes = self.bytes(address, 4 * count);
        bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().expect("4 bytes"))).collect()
    }

    pub fn bytes(&mut self, address: Address, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        if count > 0 && self.cluster.read(address, &mut bytes).is_err() {
            // A wrong kernel may have put undefined bytes there: they are no result.
            for (at, byte) in (0..).zip(&mut bytes) {
                let read = self.cluster.read(address.offset(at), std::slice::from_mut(byte));
                if read.is_err() {
                    *byte = UNDEFINED;
                }
            }
        }
        bytes
    }

    /// Zeros in an array of a handle, on every rank.
    pub fn fill(&mut self, handle: &Buffers, buffer: Buffer) {
        let zeros = vec![0; self.exchange().buffer_bytes(buffer) as usize];
        handle.0.iter().for_each(|of_rank| self.write(of_rank[&buffer], &zeros));
    }

    /// u32 words of an array of a handle.
    pub fn inspect(&mut self, handle: &Buffers, rank: usize, buffer: Buffer, first: usize, count: usize) -> Vec<u32> {
        self.words(handle.0[rank][&buffer].offset(4 * first as u64), count)
    }

    /// Rows in memory; zeros for those that are not written.
    ///
    /// # Errors
    /// When something was written to another row.
    pub fn rows(
        &mut self,
        format: Format,
        address: Address,
        scales: Option<Address>,
        count: usize,
        written: &[Range<usize>],
    ) -> Result<Rows, String> {
        let hidden = self.exchange().hidden;
        let mut read = |address: Address, row_bytes: u64| -> Result<Vec<u8>, String> {
            let mut all = Vec::new();
            for row in 0..count {
                let place = address.offset(row as u64 * row_bytes);
                if written.iter().any(|rows| rows.contains(&row)) {
                    all.extend(self.bytes(place, row_bytes as usize));
                    continue;
                }
                // What was never written cannot be read.
                let touched = (0..row_bytes).find(|&byte| self.cluster.read(place.offset(byte), &mut [0]).is_ok());
                if let Some(byte) = touched {
                    return Err(format!("byte {byte} of row {row} is written, which nobody reads"));
                }
                all.resize(all.len() + row_bytes as usize, 0);
            }
            Ok(all)
        };
        let bytes = read(address, format.row_bytes(hidden))?;
        let scales = scales.map_or(Ok(vec![]), |scales| read(scales, format.scale_bytes(hidden)))?;
        Rows::from_memory(format, hidden, bytes, scales).map_err(|error| error.to_string())
    }
}
