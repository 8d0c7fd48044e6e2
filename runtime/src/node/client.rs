//! The device of a process that is attached to a node.
//!
//! Invariant: a call has a connection of its own while it lasts, so that threads of a process never wait for each other.

use std::ffi::OsString;
use std::io;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use moe_contract::{LinkBytes, RankId};

use super::mapping::Mapping;
use super::pool::{Block, HostMemory, Pool};
use super::staging::{self, Staging};
use super::wire::{After, Attach, PROTOCOL, Reply, Request};
use crate::bootstrap::Torchrun;
use crate::device::{
    Address, Device, DeviceError, EventId, FunctionId, GraphId, Launch, Occupancy, Residency, StreamId, import_address,
};
use crate::socket::{self, receive, send};

/// Names, in the environment, a node that somebody serves.
const SERVED: &str = "MOE_NODE";

/// Between two tries to reach a node.
const PAUSE: Duration = Duration::from_millis(20);

/// Which node, and what this process is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeOptions {
    /// Of the node; one of this machine.
    pub name: String,
    /// All that the node has.
    pub ranks: u32,
    /// Those of this process.
    pub mine: Range<u32>,
    /// How long to wait for the node.
    pub patience: Duration,
    /// What starts the node where nobody serves: a program and its arguments. One process of a node has it.
    pub start: Option<Vec<OsString>>,
}

impl NodeOptions {
    /// One rank for each process that torchrun has started, all of one machine; the first starts the node, if nobody serves: `$MOEC serve`,
    /// or `moec serve`. Where `MOE_NODE` names a node, somebody else serves it.
    ///
    /// # Errors
    /// When there are processes on other machines.
    pub fn of_torchrun(told: &Torchrun) -> Result<NodeOptions, DeviceError> {
        let Torchrun { rank, world_size, local_rank, local_world_size, master_port, .. } = *told;
        let served = std::env::var(SERVED).ok();
        let of_job = || format!("moe-{}-{master_port}", rustix::process::geteuid().as_raw());
        let name = served.clone().unwrap_or_else(of_job);
        if local_world_size != world_size {
            let problem = format!(
                "its ranks are processes of one machine, and {local_world_size} of {world_size} are on this one"
            );
            return Err(DeviceError::Node { name, problem });
        }
        let program = std::env::var_os("MOEC").unwrap_or_else(|| "moec".into());
        let command: Vec<OsString> =
            vec![program, "serve".into(), "--name".into(), name.clone().into(), "--once".into()];
        let start = (local_rank == 0 && served.is_none()).then_some(command);
        Ok(NodeOptions { name, ranks: world_size, mine: rank..rank + 1, patience: Duration::from_secs(60), start })
    }
}

/// Some ranks of a node, in this process.
pub struct NodeDevice {
    name: String,
    ranks: u32,
    mine: Range<u32>,
    /// The process of the node.
    process: u32,
    session: u64,
    /// Open for as long as this process is attached.
    _attached: UnixStream,
    /// Connections that no call has.
    idle: Mutex<Vec<Connection>>,
    pool: Pool,
    occupancy: Occupancy,
}

/// One on which calls are made.
struct Connection {
    stream: UnixStream,
    staging: Staging,
}

impl NodeDevice {
    /// Attaches this process to a node, which may come a little later.
    ///
    /// # Errors
    /// When nobody serves, the node has other ranks, or these are of another process.
    pub fn attach(options: &NodeOptions) -> Result<NodeDevice, DeviceError> {
        let NodeOptions { name, patience, start, .. } = options;
        let problem = |problem: String| DeviceError::Node { name: name.clone(), problem };
        let began = Instant::now();
        let mut started: Option<Child> = None;
        loop {
            let late = began.elapsed() >= *patience;
            let again = match socket::connect(name) {
                Ok(stream) => match NodeDevice::greet(stream, options) {
                    Ok(device) => return Ok(device),
                    // An earlier job of the node is about to end, or has ended meanwhile.
                    Err((error, true)) => error,
                    Err((error, false)) => return Err(error),
                },
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    let ended = started.as_mut().and_then(|child| child.try_wait().ok().flatten());
                    if let Some(status) = ended.filter(|status| !status.success()) {
                        return Err(problem(format!("the process that should serve it ended: {status}")));
                    }
                    // One that has ended well served ranks that have gone since.
                    if let (Some(command), true) = (start, started.is_none() || ended.is_some()) {
                        started = Some(spawn(command).map_err(|error| problem(not_started(command, &error)))?);
                    }
                    let whose = if start.is_some() { "" } else { "local rank 0 should start it; or " };
                    problem(format!("nobody has served it for {patience:?}: {whose}start `moec serve --name {name}`"))
                }
                Err(error) => return Err(problem(format!("cannot connect: {error}"))),
            };
            if late {
                return Err(again);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// The error, and whether another try may go better.
    fn greet(mut stream: UnixStream, options: &NodeOptions) -> Result<NodeDevice, (DeviceError, bool)> {
        let NodeOptions { name, ranks, mine, .. } = options;
        let lost = |error: &io::Error| (DeviceError::Node { name: name.clone(), problem: error.to_string() }, true);
        let process = socket::peer(&stream).map_err(|error| lost(&error))?;
        let attach = Attach { protocol: PROTOCOL, ranks: *ranks, mine: mine.clone() };
        send(&mut stream, &Request::Attach(attach)).map_err(|error| lost(&error))?;
        match receive(&mut stream).map_err(|error| lost(&error))? {
            Reply::Attached { session } => Ok(NodeDevice {
                name: name.clone(),
                ranks: *ranks,
                mine: mine.clone(),
                process,
                session,
                _attached: stream,
                idle: Mutex::default(),
                pool: Pool::default(),
                occupancy: Occupancy::default(),
            }),
            Reply::Busy(error) => Err((error, true)),
            Reply::Failed(error) => Err((error, false)),
            other => Err((unexpected(name, &other), false)),
        }
    }

    /// The process of the node.
    pub fn process(&self) -> u32 {
        self.process
    }

    /// Memory of a rank of this process that the process has too, for tensors that need not be copied. What was dropped serves again, with what
    /// is in it; new memory is zero.
    ///
    /// # Errors
    /// When there is not enough.
    pub fn host_memory(&self, rank: RankId, bytes: u64) -> Result<HostMemory, DeviceError> {
        self.is_mine(rank)?;
        if let Some(spare) = self.pool.take(rank, bytes) {
            return Ok(spare);
        }
        let size = Pool::size(bytes);
        for Block { rank: _, address, mapping } in self.pool.surplus(size) {
            drop(mapping);
            self.done(&Request::CloseImport { address })?;
        }
        let request = Request::AllocateMapped { rank, bytes: size as usize };
        let (address, file) = self.with(|connection| {
            Ok(match self.want(connection.ask(&request)?, is_address) {
                Ok(address) => Ok((address, socket::receive_file(&connection.stream)?)),
                Err(error) => Err(error),
            })
        })?;
        let mapping = Mapping::open(&file, size as usize).map_err(|error| self.lost(&error))?;
        Ok(self.pool.add(Block { rank, address, mapping }, bytes))
    }

    /// What bytes of this process are for a rank of it, if they lie in memory of [`NodeDevice::host_memory`] of that rank.
    pub fn address_of(&self, rank: RankId, host: u64, bytes: u64) -> Option<Address> {
        self.pool.address(rank, host, bytes)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        // Connections come and go whole.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost(&self, error: &io::Error) -> DeviceError {
        let problem = format!("its process {} has ended, or does not answer: {error}", self.process);
        DeviceError::Node { name: self.name.clone(), problem }
    }

    fn open(&self) -> io::Result<Connection> {
        let mut stream = socket::connect(&self.name)?;
        if socket::peer(&stream)? != self.process {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        send(&mut stream, &Request::Call { session: self.session })?;
        let file = socket::receive_file(&stream)?;
        Ok(Connection { stream, staging: Staging::open(&file)? })
    }

    /// Asks the node, on a connection that nobody else has.
    fn with<T>(
        &self,
        ask: impl FnOnce(&mut Connection) -> io::Result<Result<T, DeviceError>>,
    ) -> Result<T, DeviceError> {
        let known = self.idle().pop();
        let mut connection = match known {
            Some(connection) => connection,
            None => self.open().map_err(|error| self.lost(&error))?,
        };
        let answer = ask(&mut connection).map_err(|error| self.lost(&error))?;
        self.idle().push(connection);
        answer
    }

    /// A call, and what becomes of its reply.
    fn ask<T>(&self, request: &Request, want: impl FnOnce(Reply) -> Result<T, Reply>) -> Result<T, DeviceError> {
        self.with(|connection| {
            let reply = connection.ask(request)?;
            Ok(self.want(reply, want))
        })
    }

    fn want<T>(&self, reply: Reply, want: impl FnOnce(Reply) -> Result<T, Reply>) -> Result<T, DeviceError> {
        match reply {
            Reply::Failed(error) => Err(error),
            reply => want(reply).map_err(|other| unexpected(&self.name, &other)),
        }
    }

    fn done(&self, request: &Request) -> Result<(), DeviceError> {
        self.ask(request, is_done)
    }

    fn address(&self, request: &Request) -> Result<Address, DeviceError> {
        self.ask(request, is_address)
    }

    fn is_mine(&self, rank: RankId) -> Result<(), DeviceError> {
        match self.mine.contains(&rank.0) {
            true => Ok(()),
            false => Err(DeviceError::Refused { problem: format!("{rank} is of another process") }),
        }
    }
}

impl Connection {
    fn ask(&mut self, request: &Request) -> io::Result<Reply> {
        send(&mut self.stream, request)?;
        receive(&mut self.stream)
    }
}

fn is_done(reply: Reply) -> Result<(), Reply> {
    match reply {
        Reply::Done => Ok(()),
        other => Err(other),
    }
}

fn is_address(reply: Reply) -> Result<Address, Reply> {
    match reply {
        Reply::Address(address) => Ok(address),
        other => Err(other),
    }
}

fn unexpected(name: &str, reply: &Reply) -> DeviceError {
    DeviceError::Node { name: name.into(), problem: format!("an answer to another question: {reply:?}") }
}

fn not_started(command: &[OsString], error: &io::Error) -> String {
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    format!(
        "nobody serves it, and `{}` cannot be started: {error}; put moec on the PATH, or its path into MOEC",
        words.join(" ")
    )
}

/// In a group of its own, so that a signal for the ranks does not end it before them.
fn spawn(command: &[OsString]) -> io::Result<Child> {
    let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).spawn()
}

impl Device for NodeDevice {
    fn description(&self) -> String {
        let Range { start, end } = self.mine;
        format!("ranks {start} to {} of {} virtual GPUs of node `{}`", i64::from(end) - 1, self.ranks, self.name)
    }

    fn ranks(&self) -> u32 {
        self.ranks
    }

    fn mine(&self) -> Range<u32> {
        self.mine.clone()
    }

    fn choose_target<'t>(&self, targets: &[&'t str]) -> Option<&'t str> {
        // As the virtual device does.
        targets.first().copied()
    }

    fn allocate(&self, rank: RankId, bytes: u64, name: &str) -> Result<Address, DeviceError> {
        self.is_mine(rank)?;
        self.address(&Request::Allocate { rank, stream: None, bytes, name: name.into() })
    }

    fn free(&self, rank: RankId, address: Address) {
        // Whoever frees is a destructor, which has nobody to tell.
        let _ = self.done(&Request::Free { rank, address, after: After::All });
    }

    fn allocate_in(&self, stream: StreamId, rank: RankId, bytes: u64, name: &str) -> Result<Address, DeviceError> {
        self.is_mine(rank)?;
        self.address(&Request::Allocate { rank, stream: Some(stream), bytes, name: name.into() })
    }

    fn free_of_rank(&self, rank: RankId, address: Address) {
        let _ = self.done(&Request::Free { rank, address, after: After::Rank });
    }

    fn free_in(&self, stream: StreamId, rank: RankId, address: Address) {
        let _ = self.done(&Request::Free { rank, address, after: After::Stream(stream) });
    }

    fn allocate_shared(&self, rank: RankId, bytes: u64, name: &str) -> Result<Address, DeviceError> {
        self.is_mine(rank)?;
        self.address(&Request::AllocateShared { rank, bytes, name: name.into() })
    }

    fn import(&self, _rank: RankId, exported: &[u8], _bytes: u64) -> Result<Address, DeviceError> {
        let address = import_address(exported)?;
        self.done(&Request::Import { address })?;
        Ok(address)
    }

    fn close_import(&self, _rank: RankId, address: Address) {
        let _ = self.done(&Request::CloseImport { address });
    }

    fn label(&self, rank: RankId, address: Address, bytes: u64, label: &str, writer: Option<RankId>) {
        let _ = self.done(&Request::Label { rank, address, bytes, label: label.into(), writer });
    }

    fn write(&self, rank: RankId, address: Address, bytes: &[u8]) -> Result<(), DeviceError> {
        for (place, part) in (0..).zip(bytes.chunks(staging::BYTES)) {
            let address = address.offset(place * staging::BYTES as u64);
            self.with(|connection| {
                connection.staging.put(part);
                let reply = connection.ask(&Request::Write { rank, address, bytes: part.len() })?;
                Ok(self.want(reply, is_done))
            })?;
        }
        Ok(())
    }

    fn read(&self, rank: RankId, address: Address, bytes: &mut [u8]) -> Result<(), DeviceError> {
        for (place, part) in (0..).zip(bytes.chunks_mut(staging::BYTES)) {
            let address = address.offset(place * staging::BYTES as u64);
            self.with(|connection| {
                let reply = connection.ask(&Request::Read { rank, address, bytes: part.len() })?;
                let answer = self.want(reply, is_done);
                if answer.is_ok() {
                    connection.staging.take(part);
                }
                Ok(answer)
            })?;
        }
        Ok(())
    }

    fn load(&self, rank: RankId, ptx: &str, name: &str) -> Result<FunctionId, DeviceError> {
        self.is_mine(rank)?;
        if ptx.len() > staging::BYTES {
            let problem = format!("kernel `{name}`: {} bytes are too many for a node", ptx.len());
            return Err(DeviceError::Ptx { problem });
        }
        self.with(|connection| {
            connection.staging.put(ptx.as_bytes());
            let reply = connection.ask(&Request::Load { rank, bytes: ptx.len(), name: name.into() })?;
            Ok(self.want(reply, |reply| match reply {
                Reply::Function(function) => Ok(function),
                other => Err(other),
            }))
        })
    }

    fn residency(&self, function: FunctionId, block: u32, shared: u32) -> Result<Residency, DeviceError> {
        self.ask(&Request::Residency { function, block, shared }, |reply| match reply {
            Reply::Residency(residency) => Ok(residency),
            other => Err(other),
        })
    }

    fn occupancy(&self) -> Option<&Occupancy> {
        Some(&self.occupancy)
    }

    fn stream(&self, rank: RankId) -> Result<StreamId, DeviceError> {
        self.is_mine(rank)?;
        self.ask(&Request::Stream { rank }, |reply| match reply {
            Reply::Stream(stream) => Ok(stream),
            other => Err(other),
        })
    }

    fn rank_of(&self, stream: StreamId) -> Option<RankId> {
        let rank = self.ask(&Request::RankOf { stream }, |reply| match reply {
            Reply::Rank(rank) => Ok(rank),
            other => Err(other),
        });
        rank.ok().flatten()
    }

    fn close_stream(&self, stream: StreamId) {
        let _ = self.done(&Request::CloseStream { stream });
    }

    fn launch(&self, stream: StreamId, launch: &Launch) -> Result<(), DeviceError> {
        self.done(&Request::Launch { stream, launch: launch.clone() })
    }

    fn record(&self, stream: StreamId) -> Result<EventId, DeviceError> {
        self.ask(&Request::Record { stream }, |reply| match reply {
            Reply::Event(event) => Ok(event),
            other => Err(other),
        })
    }

    fn wait(&self, stream: StreamId, event: EventId) -> Result<(), DeviceError> {
        self.done(&Request::Wait { stream, event })
    }

    fn begin_capture(&self, stream: StreamId) -> Result<(), DeviceError> {
        self.done(&Request::BeginCapture { stream })
    }

    fn end_capture(&self, stream: StreamId) -> Result<GraphId, DeviceError> {
        self.ask(&Request::EndCapture { stream }, |reply| match reply {
            Reply::Graph(graph) => Ok(graph),
            other => Err(other),
        })
    }

    fn replay(&self, stream: StreamId, graph: GraphId) -> Result<(), DeviceError> {
        self.done(&Request::Replay { stream, graph })
    }

    fn forget_graph(&self, graph: GraphId) {
        let _ = self.done(&Request::ForgetGraph { graph });
    }

    fn synchronise(&self, streams: &[StreamId], patience: Duration) -> Result<(), DeviceError> {
        self.done(&Request::Synchronise { streams: streams.to_vec(), patience })
    }

    fn abandon(&self) -> Result<(), DeviceError> {
        self.done(&Request::Abandon)
    }

    fn traffic(&self) -> Option<LinkBytes> {
        let bytes = self.ask(&Request::Traffic, |reply| match reply {
            Reply::Traffic(bytes) => Ok(bytes),
            other => Err(other),
        });
        let bytes = bytes.ok()??;
        let place = |writer: RankId, owner: RankId| writer.index() * self.ranks as usize + owner.index();
        Some(LinkBytes::new(self.ranks, |writer, owner| bytes.get(place(writer, owner)).copied().unwrap_or(0)))
    }
}
