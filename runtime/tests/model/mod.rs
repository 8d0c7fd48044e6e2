//! A device that knows the contract and no PTX: each kernel is a Rust function over strict byte memory.
//!
//! It runs launches one after the other, in the order in which they came, when somebody waits. It exists to try the runtime alone:
//! arguments, shapes, epochs, halves, faults. Memory that was never written cannot be read, and freed memory cannot be touched.

mod kernels;
pub mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

use moe_bundle::{Argument, Exchange, Kernel, RankId};
use moe_runtime::device::{Address, Device, EventId, FunctionId, Launch, Residency, StreamId, Value};
use moe_runtime::{DeviceError, LinkBytes};

/// The rank of an address, above the offset.
const RANK_BITS: u32 = 48;

pub struct Model {
    exchange: Exchange,
    state: Mutex<State>,
}

#[derive(Default)]
pub struct State {
    memory: BTreeMap<u64, Allocation>,
    next: BTreeMap<RankId, u64>,
    functions: Vec<(RankId, Kernel)>,
    streams: Vec<RankId>,
    queue: Vec<(RankId, Kernel, Launch)>,
    freed_later: Vec<Address>,
    links: BTreeMap<(RankId, RankId), u64>,
    labels: BTreeMap<Address, String>,
    /// Ranks whose sending kernels do nothing, as if they had died.
    pub dead: BTreeSet<RankId>,
    /// What it says when ranks share a GPU.
    pub residency: Option<Residency>,
}

struct Allocation {
    bytes: Vec<u8>,
    written: Vec<bool>,
}

impl Model {
    pub fn new(exchange: &Exchange) -> Model {
        Model { exchange: exchange.clone(), state: Mutex::default() }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the state")
    }

    pub fn label(&self, address: Address) -> Option<String> {
        self.state().labels.get(&address).cloned()
    }

    /// Allocations that have not been freed.
    pub fn allocations(&self) -> usize {
        self.state().memory.len()
    }
}

fn fault(report: impl Into<String>) -> DeviceError {
    DeviceError::Fault { report: report.into() }
}

impl State {
    fn find(&mut self, address: Address, bytes: usize) -> Result<(&mut Allocation, usize), DeviceError> {
        let found = self.memory.range_mut(..=address.0).next_back();
        let (start, allocation) = found.ok_or_else(|| fault(format!("nothing at {:#x}", address.0)))?;
        let offset = (address.0 - start) as usize;
        if offset + bytes > allocation.bytes.len() {
            return Err(fault(format!("{bytes} bytes at {:#x} are outside", address.0)));
        }
        Ok((allocation, offset))
    }

    pub fn load(&mut self, address: Address, bytes: usize) -> Result<Vec<u8>, DeviceError> {
        if bytes == 0 {
            return Ok(vec![]);
        }
        let (allocation, offset) = self.find(address, bytes)?;
        let range = offset..offset + bytes;
        if !allocation.written[range.clone()].iter().all(|&written| written) {
            return Err(fault(format!("{bytes} bytes at {:#x} were never written", address.0)));
        }
        Ok(allocation.bytes[range].into())
    }

    pub fn store(&mut self, address: Address, bytes: &[u8]) -> Result<(), DeviceError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let (allocation, offset) = self.find(address, bytes.len())?;
        allocation.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        allocation.written[offset..offset + bytes.len()].fill(true);
        Ok(())
    }

    /// A store by a kernel of `writer`.
    fn store_from(&mut self, writer: RankId, address: Address, bytes: &[u8]) -> Result<(), DeviceError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let owner = RankId((address.0 >> RANK_BITS) as u32 - 1);
        *self.links.entry((writer, owner)).or_default() += bytes.len() as u64;
        self.store(address, bytes)
    }

    fn run(&mut self, exchange: &Exchange) -> Result<(), DeviceError> {
        for (rank, kernel, launch) in std::mem::take(&mut self.queue) {
            let arguments: BTreeMap<String, Value> =
                kernel.arguments().iter().map(name).zip(launch.arguments.iter().copied()).collect();
            let expected = kernel.arguments().len();
            let parameters = launch.arguments[expected..].to_vec();
            kernels::Run { state: self, exchange, rank, kernel, arguments, parameters }.run()?;
        }
        for address in std::mem::take(&mut self.freed_later) {
            self.memory.remove(&address.0);
        }
        Ok(())
    }
}

/// [`Argument`] has no order; its text is as good a key.
fn name(argument: &Argument) -> String {
    format!("{argument:?}")
}

impl Device for Model {
    fn description(&self) -> String {
        "model".into()
    }

    fn ranks(&self) -> u32 {
        self.exchange.ranks
    }

    fn choose_target<'t>(&self, targets: &[&'t str]) -> Option<&'t str> {
        targets.iter().copied().find(|target| *target == "model")
    }

    fn allocate(&self, rank: RankId, bytes: u64, _name: &str) -> Result<Address, DeviceError> {
        let mut state = self.state();
        let next = state.next.entry(rank).or_insert((u64::from(rank.0) + 1) << RANK_BITS);
        let address = *next;
        // A gap behind every allocation, so that one byte too many is outside.
        *next = (address + bytes + 1).next_multiple_of(256);
        let allocation = Allocation { bytes: vec![0xee; bytes as usize], written: vec![false; bytes as usize] };
        state.memory.insert(address, allocation);
        Ok(Address(address))
    }

    fn free(&self, _rank: RankId, address: Address) {
        let mut state = self.state();
        if state.queue.is_empty() {
            state.memory.remove(&address.0);
        } else {
            state.freed_later.push(address);
        }
    }

    fn label(&self, _rank: RankId, address: Address, _bytes: u64, label: &str, _writer: Option<RankId>) {
        self.state().labels.insert(address, label.into());
    }

    fn write(&self, _rank: RankId, address: Address, bytes: &[u8]) -> Result<(), DeviceError> {
        self.synchronise()?;
        self.state().store(address, bytes)
    }

    fn read(&self, _rank: RankId, address: Address, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.synchronise()?;
        bytes.copy_from_slice(&self.state().load(address, bytes.len())?);
        Ok(())
    }

    fn load(&self, rank: RankId, _ptx: &str, name: &str) -> Result<FunctionId, DeviceError> {
        let kernel = Kernel::ALL.into_iter().find(|kernel| kernel.name() == name);
        let kernel = kernel.ok_or_else(|| DeviceError::NoKernel { name: name.into() })?;
        let mut state = self.state();
        state.functions.push((rank, kernel));
        Ok(FunctionId(state.functions.len() as u32 - 1))
    }

    fn residency(&self, _function: FunctionId, _block: u32, _shared: u32) -> Result<Residency, DeviceError> {
        Ok(self.state().residency.unwrap_or(Residency { ctas: 1, ranks: 1 }))
    }

    fn stream(&self, rank: RankId) -> Result<StreamId, DeviceError> {
        let mut state = self.state();
        state.streams.push(rank);
        Ok(StreamId(state.streams.len() as u32 - 1))
    }

    fn launch(&self, stream: StreamId, launch: &Launch) -> Result<(), DeviceError> {
        let mut state = self.state();
        let (rank, kernel) = state.functions[launch.function.0 as usize];
        assert_eq!(state.streams[stream.0 as usize], rank, "a kernel in the stream of its rank");
        state.queue.push((rank, kernel, launch.clone()));
        Ok(())
    }

    fn record(&self, _stream: StreamId) -> Result<EventId, DeviceError> {
        Ok(EventId(0))
    }

    fn wait(&self, _stream: StreamId, _event: EventId) -> Result<(), DeviceError> {
        Ok(())
    }

    fn synchronise(&self) -> Result<(), DeviceError> {
        self.state().run(&self.exchange)
    }

    fn abandon(&self) -> Result<(), DeviceError> {
        self.state().queue.clear();
        Ok(())
    }

    fn traffic(&self) -> Option<LinkBytes> {
        let state = self.state();
        Some(LinkBytes::new(self.exchange.ranks, |writer, owner| {
            state.links.get(&(writer, owner)).copied().unwrap_or_default()
        }))
    }
}
