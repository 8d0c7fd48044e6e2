//! The process that has the virtual GPUs.
//!
//! Invariants: a job is the processes of one world; it has GPUs of its own, from its first process to its last. A process that ends is
//! noticed on the connection that it attached with, on which nothing else is said. Calls of one process may wait while others are served:
//! each connection has a thread.

use std::io::{self, Read as _};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use moe_contract::{LinkBytes, RankId};
use moe_vgpu::Lent;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::ledger::Ledger;
use super::mapping::Mapping;
use super::staging::{self, Staging};
use super::wire::{After, Attach, PROTOCOL, Reply, Request};
use crate::device::{Device, DeviceError, VirtualDevice, VirtualOptions};
use crate::socket::{self, receive, send};

/// How long a node serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    /// Job after job.
    Always,
    /// Until the processes of its first job have ended, or none has come for so long.
    Once(Duration),
}

/// Virtual GPUs that other processes attach to.
pub struct Node {
    name: String,
    listener: UnixListener,
    hall: Arc<Hall>,
}

struct Hall {
    name: String,
    options: VirtualOptions,
    job: Mutex<Jobs>,
}

#[derive(Default)]
struct Jobs {
    current: Option<Job>,
    sessions: u64,
    /// Those that have ended.
    over: u64,
}

struct Job {
    device: Arc<VirtualDevice>,
    ledger: Arc<Ledger>,
    ranks: u32,
    sessions: Vec<Session>,
    /// The ranks of a process that has ended, while others go on.
    gone: Vec<Session>,
}

/// A process of a job.
#[derive(Clone)]
struct Session {
    number: u64,
    mine: Range<u32>,
    process: u32,
}

impl Node {
    /// Takes a name of this machine, which nobody else has.
    ///
    /// # Errors
    /// When somebody has it.
    pub fn bind(name: &str, options: &VirtualOptions) -> Result<Node, DeviceError> {
        let listener = socket::bind(name).map_err(|error| DeviceError::Node {
            name: name.into(),
            problem: match error.kind() {
                io::ErrorKind::AddrInUse => "another process serves it already".into(),
                _ => format!("cannot be served: {error}"),
            },
        })?;
        let hall = Hall { name: name.into(), options: options.clone(), job: Mutex::default() };
        Ok(Node { name: name.into(), listener, hall: Arc::new(hall) })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Serves processes until nobody needs it any more.
    ///
    /// # Errors
    /// When the system refuses to go on.
    pub fn serve(&self, stay: Stay) -> Result<(), DeviceError> {
        let failed =
            |error: io::Error| DeviceError::Node { name: self.name.clone(), problem: format!("cannot go on: {error}") };
        let began = Instant::now();
        loop {
            let tick = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            let mut waiting = [PollFd::new(&self.listener, PollFlags::IN)];
            match poll(&mut waiting, Some(&tick)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => {
                    let (stream, _) = self.listener.accept().map_err(failed)?;
                    let hall = Arc::clone(&self.hall);
                    std::thread::Builder::new().spawn(move || hall.receive(stream)).map_err(failed)?;
                }
                Err(error) => return Err(failed(error.into())),
            }
            let jobs = self.hall.jobs();
            match stay {
                Stay::Always => {}
                Stay::Once(_) if jobs.over > 0 => return Ok(()),
                Stay::Once(patience) if jobs.current.is_none() && began.elapsed() >= patience => return Ok(()),
                Stay::Once(_) => {}
            }
        }
    }
}

impl Hall {
    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        // Each change is of one entry.
        self.job.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection, to its end. Whoever sends what it should not, or goes, has its connection closed.
    fn receive(&self, mut stream: UnixStream) {
        let Ok(process) = socket::peer(&stream) else { return };
        match receive(&mut stream) {
            Ok(Request::Attach(attach)) => {
                let reply = match self.attach(&attach, process) {
                    Ok(session) => Reply::Attached { session },
                    Err(refusal) => refusal,
                };
                let sent = send(&mut stream, &reply);
                if let Reply::Attached { session } = reply {
                    if sent.is_ok() {
                        // Nothing is ever said here: it is over when this returns.
                        let _ = stream.read(&mut [0]);
                    }
                    self.leave(session);
                }
            }
            Ok(Request::Call { session }) => {
                if let (Some(desk), Ok((staging, file))) = (self.desk(session), Staging::new())
                    && socket::send_file(&stream, &file).is_ok()
                {
                    drop(file);
                    let _ = desk.calls(stream, staging);
                }
            }
            Ok(_) | Err(_) => {}
        }
    }

    /// The number of a session, or what the process is told.
    fn attach(&self, attach: &Attach, process: u32) -> Result<u64, Reply> {
        let Attach { protocol, ranks, mine } = attach;
        let problem = |problem: String| DeviceError::Node { name: self.name.clone(), problem };
        if *protocol != PROTOCOL {
            let text = format!("it is of another version: it speaks {PROTOCOL}, and this process {protocol}");
            return Err(Reply::Failed(problem(text)));
        }
        if mine.is_empty() || mine.end > *ranks {
            return Err(Reply::Failed(problem(format!("no ranks {mine:?} among {ranks}"))));
        }
        let mut jobs = self.jobs();
        let number = jobs.sessions;
        let session = Session { number, mine: mine.clone(), process };
        match &mut jobs.current {
            Some(job) => {
                if job.ranks != *ranks {
                    let first = job.sessions.first().map_or(RankId(0), |first| RankId(first.mine.start));
                    let here = RankId(mine.start);
                    let text = format!("it has {} ranks, as {first} said, and {here} wants {ranks}", job.ranks);
                    return Err(Reply::Failed(problem(text)));
                }
                let overlaps = |other: &&Session| other.mine.start < mine.end && mine.start < other.mine.end;
                if let Some(other) = job.gone.iter().chain(&job.sessions).find(overlaps) {
                    let rank = RankId(mine.start.max(other.mine.start));
                    let text = format!("{rank} is of process {} already", other.process);
                    return Err(match job.gone.is_empty() {
                        true => Reply::Failed(problem(text)),
                        // That job is about to end.
                        false => Reply::Busy(problem(text + ", of a job that has not ended")),
                    });
                }
                job.sessions.push(session);
            }
            None => {
                let device = VirtualDevice::new(*ranks, &self.options).map_err(Reply::Failed)?;
                jobs.current = Some(Job {
                    device: Arc::new(device),
                    ledger: Arc::default(),
                    ranks: *ranks,
                    sessions: vec![session],
                    gone: vec![],
                });
            }
        }
        jobs.sessions += 1;
        Ok(number)
    }

    fn leave(&self, number: u64) {
        let mut jobs = self.jobs();
        let Some(job) = &mut jobs.current else { return };
        let Some(place) = job.sessions.iter().position(|session| session.number == number) else { return };
        let session = job.sessions.remove(place);
        job.device.lose(&session.mine.clone().map(RankId).collect::<Vec<_>>(), session.process);
        job.ledger.leave(number).into_iter().for_each(|(rank, address)| job.device.free(rank, address));
        job.gone.push(session);
        if job.sessions.is_empty() {
            jobs.current = None;
            jobs.over += 1;
        }
    }

    fn desk(&self, session: u64) -> Option<Desk> {
        let jobs = self.jobs();
        let Job { device, ledger, sessions, .. } = jobs.current.as_ref()?;
        let known = sessions.iter().any(|known| known.number == session);
        known.then(|| Desk { session, device: Arc::clone(device), ledger: Arc::clone(ledger) })
    }
}

/// Where the calls of a process are answered.
struct Desk {
    session: u64,
    device: Arc<VirtualDevice>,
    ledger: Arc<Ledger>,
}

impl Desk {
    /// One call after the other.
    fn calls(&self, mut stream: UnixStream, mut staging: Staging) -> io::Result<()> {
        loop {
            let reply = match receive(&mut stream)? {
                Request::AllocateMapped { rank, bytes } => {
                    let made = self.allocate_mapped(rank, bytes);
                    let (reply, file) =
                        made.map_or_else(|error| (Reply::Failed(error), None), |(reply, file)| (reply, Some(file)));
                    send(&mut stream, &reply)?;
                    if let Some(file) = file {
                        socket::send_file(&stream, &file)?;
                    }
                    continue;
                }
                Request::AllocateShared { rank, bytes, name } => {
                    self.device.allocate(rank, bytes, &name).map(|address| {
                        self.ledger.share(rank, address);
                        Reply::Address(address)
                    })
                }
                Request::Import { address } => self.ledger.import(self.session, address).map(|()| Reply::Done),
                Request::CloseImport { address } => {
                    if let Some(rank) = self.ledger.close(self.session, address) {
                        self.device.free(rank, address);
                    }
                    Ok(Reply::Done)
                }
                Request::Free { address, .. } if !self.ledger.free(address) => Ok(Reply::Done),
                request => answer(&self.device, request, &mut staging),
            };
            send(&mut stream, &reply.unwrap_or_else(Reply::Failed))?;
        }
    }
}

impl Desk {
    fn allocate_mapped(&self, rank: RankId, bytes: usize) -> Result<(Reply, OwnedFd), DeviceError> {
        let refused =
            |error: io::Error| DeviceError::Refused { problem: format!("{bytes} bytes for tensors: {error}") };
        let (mapping, file) = Mapping::new("moe-tensors", bytes).map_err(refused)?;
        let bytes = mapping.all();
        // SAFETY: the mapping keeps them; the process leaves them alone while it waits for a call, and spoils its own numbers otherwise.
        let lent = unsafe { Lent::new(bytes, Box::new(mapping)) };
        let address = self.device.allocate_over(rank, lent, "tensors")?;
        self.ledger.lend(self.session, rank, address);
        Ok((Reply::Address(address), file))
    }
}

fn answer(device: &VirtualDevice, request: Request, staging: &mut Staging) -> Result<Reply, DeviceError> {
    let fits = |bytes: usize| match bytes <= staging::BYTES {
        true => Ok(bytes),
        false => Err(DeviceError::Refused { problem: format!("{bytes} bytes at once") }),
    };
    Ok(match request {
        Request::Attach(_) | Request::Call { .. } => {
            return Err(DeviceError::Refused { problem: "attached already".into() });
        }
        Request::AllocateShared { .. }
        | Request::AllocateMapped { .. }
        | Request::Import { .. }
        | Request::CloseImport { .. } => {
            return Err(DeviceError::Refused { problem: "shared memory is the ledger's".into() });
        }
        Request::Allocate { rank, stream, bytes, name } => Reply::Address(match stream {
            Some(stream) => device.allocate_in(stream, rank, bytes, &name)?,
            None => device.allocate(rank, bytes, &name)?,
        }),
        Request::Free { rank, address, after } => {
            match after {
                After::All => device.free(rank, address),
                After::Rank => device.free_of_rank(rank, address),
                After::Stream(stream) => device.free_in(stream, rank, address),
            }
            Reply::Done
        }
        Request::Label { rank, address, bytes, label, writer } => {
            device.label(rank, address, bytes, &label, writer);
            Reply::Done
        }
        Request::Write { rank, address, bytes } => {
            device.write(rank, address, staging.bytes(fits(bytes)?))?;
            Reply::Done
        }
        Request::Read { rank, address, bytes } => {
            device.read(rank, address, staging.bytes_mut(fits(bytes)?))?;
            Reply::Done
        }
        Request::Load { rank, bytes, name } => {
            let text = staging.bytes(fits(bytes)?).to_vec();
            let text = String::from_utf8(text).map_err(|_| DeviceError::Ptx { problem: "it is no text".into() })?;
            Reply::Function(device.load(rank, &text, &name)?)
        }
        Request::Residency { function, block, shared } => Reply::Residency(device.residency(function, block, shared)?),
        Request::Stream { rank } => Reply::Stream(device.stream(rank)?),
        Request::RankOf { stream } => Reply::Rank(device.rank_of(stream)),
        Request::CloseStream { stream } => {
            device.close_stream(stream);
            Reply::Done
        }
        Request::Launch { stream, launch } => {
            device.launch(stream, &launch)?;
            Reply::Done
        }
        Request::Record { stream } => Reply::Event(device.record(stream)?),
        Request::Wait { stream, event } => {
            device.wait(stream, event)?;
            Reply::Done
        }
        Request::BeginCapture { stream } => {
            device.begin_capture(stream)?;
            Reply::Done
        }
        Request::EndCapture { stream } => Reply::Graph(device.end_capture(stream)?),
        Request::Replay { stream, graph } => {
            device.replay(stream, graph)?;
            Reply::Done
        }
        Request::ForgetGraph { graph } => {
            device.forget_graph(graph);
            Reply::Done
        }
        Request::Synchronise { streams, patience } => {
            device.synchronise(&streams, patience)?;
            Reply::Done
        }
        Request::Abandon => {
            device.abandon()?;
            Reply::Done
        }
        Request::Traffic => {
            let of = |traffic: &LinkBytes| {
                let ranks = || (0..traffic.ranks()).map(RankId);
                let links = ranks().flat_map(|writer| ranks().map(move |owner| (writer, owner)));
                links.map(|(writer, owner)| traffic.bytes(writer, owner)).collect()
            };
            Reply::Traffic(device.traffic().as_ref().map(of))
        }
    })
}
