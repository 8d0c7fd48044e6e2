//! Memory that processes of one machine hand to each other as open files.
//!
//! Invariants:
//! * a process keeps a connection to each one whose memory it has taken. Nothing is said on it between two questions, and the system closes it
//!   with its process: so whoever has ended, however it did, is named by [`Share::gone`];
//! * what is taken is what was offered: by that process, of that size;
//! * nothing has a name in a file system, and no process of another user is answered.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moe_contract::RankId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use super::DeviceError;
use crate::socket::{self, receive, send};

/// What a process hands to others, and what it has of them.
pub struct Share {
    name: String,
    mine: Range<u32>,
    patience: Duration,
    counter: Arc<Counter>,
    /// By the names of their counters.
    peers: Mutex<BTreeMap<String, Peer>>,
}

/// Where others ask.
#[derive(Default)]
struct Counter {
    offers: Mutex<BTreeMap<u64, Offer>>,
    next: AtomicU64,
    callers: Mutex<Vec<UnixStream>>,
    closed: AtomicBool,
}

struct Offer {
    file: OwnedFd,
    bytes: u64,
}

struct Peer {
    stream: UnixStream,
    process: u32,
    ranks: Range<u32>,
}

/// With which another process takes what this one offers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ticket {
    name: String,
    process: u32,
    ranks: Range<u32>,
    number: u64,
    bytes: u64,
    /// Where the memory is, in words of the device.
    pub place: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Take {
    number: u64,
}

/// Before the file.
#[derive(Debug, Serialize, Deserialize)]
struct Taken {
    /// None, where nothing is offered under that number.
    bytes: Option<u64>,
}

fn whole<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Entries change as a whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ticket {
    /// Why what it is for cannot be used.
    pub fn refused(&self, problem: &str) -> DeviceError {
        sharing(&self.ranks, self.process, problem.into())
    }
}

impl Share {
    /// Of a process that has these ranks. Others may take `patience` to answer.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn open(mine: Range<u32>, patience: Duration) -> Result<Share, DeviceError> {
        static SHARES: AtomicU64 = AtomicU64::new(0);
        let process = std::process::id();
        let name = format!("moe-share-{process}-{}", SHARES.fetch_add(1, Ordering::Relaxed));
        let failed = |error: io::Error| sharing(&mine, process, format!("it cannot be offered: {error}"));
        let listener = socket::bind(&name).map_err(failed)?;
        let counter = Arc::new(Counter::default());
        let serving = Arc::clone(&counter);
        std::thread::Builder::new().spawn(move || serving.serve(&listener)).map_err(failed)?;
        Ok(Share { name, mine, patience, counter, peers: Mutex::default() })
    }

    /// Offers memory to every process that has the ticket, until [`Share::withdraw`].
    pub fn offer(&self, file: OwnedFd, bytes: u64, place: &str) -> Ticket {
        let number = self.counter.next.fetch_add(1, Ordering::Relaxed);
        whole(&self.counter.offers).insert(number, Offer { file, bytes });
        let (name, ranks, process) = (self.name.clone(), self.mine.clone(), std::process::id());
        Ticket { name, process, ranks, number, bytes, place: place.into() }
    }

    /// Offers it no more; who has taken it keeps it.
    pub fn withdraw(&self, ticket: &Ticket) {
        whole(&self.counter.offers).remove(&ticket.number);
    }

    /// Takes memory of so many bytes that another process offers.
    ///
    /// # Errors
    /// Whose process has ended, does not answer, or has memory of another size.
    pub fn take(&self, ticket: &Ticket, bytes: u64) -> Result<OwnedFd, DeviceError> {
        let Ticket { name, process, ranks, .. } = ticket;
        let refused = |problem: String| sharing(ranks, *process, problem);
        let size = |found: u64| refused(format!("it has {found} bytes, and this process expects {bytes}"));
        if ticket.bytes != bytes {
            return Err(size(ticket.bytes));
        }
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                refused(format!("it has not answered within {:?}", self.patience))
            }
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => gone(ranks, *process),
            _ => refused(error.to_string()),
        };
        let mut peers = whole(&self.peers);
        if !peers.contains_key(name) {
            let stream = socket::connect(name).map_err(failed)?;
            stream.set_read_timeout(Some(self.patience)).map_err(failed)?;
            let found = socket::peer(&stream).map_err(failed)?;
            if found != *process {
                return Err(refused(format!("process {found} answers in its place")));
            }
            peers.insert(name.clone(), Peer { stream, process: *process, ranks: ranks.clone() });
        }
        let stream = &mut peers.get_mut(name).ok_or_else(|| refused("it is not there".into()))?.stream;
        send(stream, &Take { number: ticket.number }).map_err(failed)?;
        match receive::<Taken>(stream).map_err(failed)?.bytes {
            None => Err(refused("it is offered no more".into())),
            Some(found) => {
                let file = socket::receive_file(stream).map_err(failed)?;
                if found == bytes { Ok(file) } else { Err(size(found)) }
            }
        }
    }

    /// A process that has ended, of those whose memory was taken.
    pub fn gone(&self) -> Option<DeviceError> {
        let peers = whole(&self.peers);
        let ended = |peer: &&Peer| {
            let mut waiting = [PollFd::new(&peer.stream, PollFlags::IN | PollFlags::RDHUP)];
            // Nothing is said here but the answer to a question, and that has been read.
            poll(&mut waiting, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|events| events > 0)
        };
        peers.values().find(ended).map(|peer| gone(&peer.ranks, peer.process))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.counter.closed.store(true, Ordering::Release);
        // Whoever waits for the next caller hears of it so.
        let _ = socket::connect(&self.name);
        for caller in whole(&self.counter.callers).drain(..) {
            let _ = caller.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Counter {
    fn serve(self: Arc<Counter>, listener: &UnixListener) {
        while let Ok((stream, _)) = listener.accept() {
            let mut callers = whole(&self.callers);
            if self.closed.load(Ordering::Acquire) {
                return;
            }
            let (Ok(_), Ok(known)) = (socket::peer(&stream), stream.try_clone()) else { continue };
            callers.push(known);
            let counter = Arc::clone(&self);
            let answering = std::thread::Builder::new().spawn(move || counter.answer(stream));
            if answering.is_err() {
                callers.pop();
            }
        }
    }

    /// A caller, to its end. Whoever sends what it should not has its connection closed.
    fn answer(&self, mut stream: UnixStream) -> Option<()> {
        loop {
            let Take { number } = receive(&mut stream).ok()?;
            let offers = whole(&self.offers);
            let offer = offers.get(&number);
            send(&mut stream, &Taken { bytes: offer.map(|offer| offer.bytes) }).ok()?;
            if let Some(offer) = offer {
                socket::send_file(&stream, &offer.file).ok()?;
            }
        }
    }
}

fn those(ranks: &Range<u32>) -> Vec<RankId> {
    ranks.clone().map(RankId).collect()
}

fn sharing(ranks: &Range<u32>, process: u32, problem: String) -> DeviceError {
    DeviceError::Sharing { ranks: those(ranks), process, problem }
}

fn gone(ranks: &Range<u32>, process: u32) -> DeviceError {
    DeviceError::Gone { ranks: those(ranks), process }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(200);

    fn memory(text: &str) -> OwnedFd {
        let mut file = std::fs::File::from(memfd_create("shared", MemfdFlags::CLOEXEC).expect("made"));
        file.write_all(text.as_bytes()).expect("written");
        file.into()
    }

    #[test]
    fn what_does_not_fit_is_refused_with_words() {
        let [here, there] = [0..2, 2..3].map(|mine| Share::open(mine, PATIENCE).expect("open"));
        let ticket = there.offer(memory("tokens"), 6, "");
        let refused = |ticket: &Ticket, bytes| here.take(ticket, bytes).expect_err("it does not fit").to_string();
        let whose = format!("memory of rank 2, process {}: ", std::process::id());
        assert_eq!(refused(&ticket, 7), format!("{whose}it has 6 bytes, and this process expects 7"));
        let larger = Ticket { bytes: 7, ..ticket.clone() };
        assert_eq!(
            refused(&larger, 7),
            format!("{whose}it has 6 bytes, and this process expects 7"),
            "of the memory itself"
        );
        let stranger = Ticket { process: 1, name: there.name.clone(), ..ticket.clone() };
        let other = Share::open(3..4, PATIENCE).expect("open");
        assert!(other.take(&stranger, 6).expect_err("another process").to_string().contains("answers in its place"));
        here.take(&ticket, 6).expect("it fits");
        there.withdraw(&ticket);
        assert_eq!(refused(&ticket, 6), format!("{whose}it is offered no more"));
        assert_eq!(here.gone(), None);
        drop(there);
        assert_eq!(here.gone(), Some(gone(&(2..3), std::process::id())));
        assert_eq!(here.take(&ticket, 6).expect_err("it is closed"), gone(&(2..3), std::process::id()));
    }

    #[test]
    fn who_does_not_answer_is_named_in_time() {
        let name = format!("moe-silent-{}", std::process::id());
        let _silent = socket::bind(&name).expect("nobody has it");
        let process = std::process::id();
        let ticket = Ticket { name, process, ranks: 5..6, number: 0, bytes: 6, place: String::new() };
        let error = Share::open(0..1, PATIENCE).expect("open").take(&ticket, 6).expect_err("silence");
        assert_eq!(error.to_string(), format!("memory of rank 5, process {process}: it has not answered within 200ms"));
    }
}
