//! Processes that meet at an address of the network: process 0 listens there, and hands on what the others give.
//!
//! Invariants: connections stay open for as long as their processes, so that one that ends is known at once; every wait has the deadline of
//! its call; whatever process 0 finds wrong it tells all others, so that everybody names the same process.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Bootstrap, BootstrapError};

/// What every connection begins with: no other program says that.
const GREETING: [u8; 8] = *b"moe boot";

/// The most bytes that a process gives to a call.
const MOST: u64 = 64 << 20;

/// Between two tries to connect.
const PAUSE: Duration = Duration::from_millis(20);

/// Processes that meet at an address.
pub struct TcpBootstrap {
    process: u32,
    processes: u32,
    patience: Duration,
    connections: Mutex<Connections>,
}

enum Connections {
    /// Of process 0, to all others.
    Hub(BTreeMap<u32, TcpStream>),
    /// Of another, to process 0.
    Spoke(TcpStream),
    /// After an error: what has been said by whom is no longer known.
    Broken(BootstrapError),
}

impl TcpBootstrap {
    /// Meets the others at `address` (`host:port`), where process 0 listens. `patience` is for this and for every call.
    ///
    /// # Errors
    /// Who did not come, or that the address is somebody else's.
    pub fn meet(
        address: &str,
        process: u32,
        processes: u32,
        patience: Duration,
    ) -> Result<TcpBootstrap, BootstrapError> {
        let until = Instant::now() + patience;
        let connections = match process {
            0 => Connections::Hub(gather(address, processes, patience, until)?),
            _ => Connections::Spoke(reach(address, process, processes, patience, until)?),
        };
        let bootstrap = TcpBootstrap { process, processes, patience, connections: Mutex::new(connections) };
        // Nobody returns before all are there.
        bootstrap.barrier()?;
        Ok(bootstrap)
    }
}

impl Bootstrap for TcpBootstrap {
    fn process(&self) -> u32 {
        self.process
    }

    fn processes(&self) -> u32 {
        self.processes
    }

    fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, BootstrapError> {
        let until = Instant::now() + self.patience;
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let gathered = connections.all_gather(bytes, self.processes, self.patience, until);
        if let Err(error) = &gathered {
            *connections = Connections::Broken(error.clone());
        }
        gathered
    }
}

impl Connections {
    fn all_gather(
        &mut self,
        bytes: &[u8],
        processes: u32,
        patience: Duration,
        until: Instant,
    ) -> Result<Vec<Vec<u8>>, BootstrapError> {
        match self {
            Connections::Broken(error) => Err(error.clone()),
            Connections::Hub(others) => {
                let gathered = collect(bytes, others, patience, until);
                let message = match &gathered {
                    Ok(parts) => Ok(parts.as_slice()),
                    Err(error) => Err(error.to_string()),
                };
                // Whoever has ended since is missed by the next call.
                others.values_mut().for_each(|other| drop(tell(other, &message)));
                gathered
            }
            Connections::Spoke(hub) => {
                let lost = |error: io::Error| match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                        BootstrapError::Missing { processes: vec![0], patience }
                    }
                    _ => BootstrapError::Gone { process: 0 },
                };
                put(hub, bytes).map_err(lost)?;
                // Process 0 waits for the slowest, and says so in the end.
                hear(hub, processes, until + patience / 4).map_err(lost)?
            }
        }
    }
}

fn failed(doing: impl Into<String>) -> impl FnOnce(io::Error) -> BootstrapError {
    let doing = doing.into();
    move |error| BootstrapError::Network { doing, problem: error.to_string() }
}

/// Process 0 waits for all others.
fn gather(
    address: &str,
    processes: u32,
    patience: Duration,
    until: Instant,
) -> Result<BTreeMap<u32, TcpStream>, BootstrapError> {
    let listener = TcpListener::bind(address).map_err(failed(format!("process 0 cannot listen at {address}")))?;
    listener.set_nonblocking(true).map_err(failed("listen"))?;
    let mut others = BTreeMap::new();
    while others.len() + 1 < processes as usize {
        match listener.accept() {
            Ok((stream, _)) => {
                // A program that is none of ours gets no answer.
                let Ok((process, of)) = greeted(&stream) else { continue };
                let twice = others.contains_key(&process);
                if of != processes || process == 0 || process >= processes || twice {
                    let error = BootstrapError::Stranger { process, processes: of, expected: processes, twice };
                    let mut told: Vec<TcpStream> = others.into_values().collect();
                    told.push(stream);
                    told.iter_mut().for_each(|other| drop(tell(other, &Err(error.to_string()))));
                    return Err(error);
                }
                others.insert(process, stream);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if Instant::now() >= until {
                    let missing = (1..processes).filter(|process| !others.contains_key(process)).collect();
                    let error = BootstrapError::Missing { processes: missing, patience };
                    others.values_mut().for_each(|other| drop(tell(other, &Err(error.to_string()))));
                    return Err(error);
                }
                std::thread::sleep(PAUSE);
            }
            Err(error) => return Err(failed("listen")(error)),
        }
    }
    Ok(others)
}

/// Who says that it comes: its number, and of how many.
fn greeted(mut stream: &TcpStream) -> io::Result<(u32, u32)> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut greeting = [0; 16];
    stream.read_exact(&mut greeting)?;
    let [a, b, c, d, e, f, g, h] = [8, 9, 10, 11, 12, 13, 14, 15].map(|place: usize| greeting[place]);
    match greeting.starts_with(&GREETING) {
        true => Ok((u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Another process goes to process 0, which may come later.
fn reach(
    address: &str,
    process: u32,
    processes: u32,
    patience: Duration,
    until: Instant,
) -> Result<TcpStream, BootstrapError> {
    loop {
        match TcpStream::connect(address) {
            Ok(mut stream) => {
                let greeting = [&GREETING[..], &process.to_le_bytes(), &processes.to_le_bytes()].concat();
                let greeted = stream.set_nodelay(true).and_then(|()| stream.write_all(&greeting));
                // Whoever was there a moment ago is not any more.
                return greeted.map(|()| stream).map_err(|_| BootstrapError::Gone { process: 0 });
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Err(BootstrapError::Gone { process: 0 });
            }
            Err(error) => return Err(failed(format!("connect to process 0 at {address}"))(error)),
        }
        if Instant::now() >= until {
            return Err(BootstrapError::Missing { processes: vec![0], patience });
        }
        std::thread::sleep(PAUSE);
    }
}

/// What all processes give, in order.
fn collect(
    own: &[u8],
    others: &mut BTreeMap<u32, TcpStream>,
    patience: Duration,
    until: Instant,
) -> Result<Vec<Vec<u8>>, BootstrapError> {
    let mut parts = vec![own.to_vec()];
    let mut late = Vec::new();
    for (&process, stream) in others.iter_mut() {
        match take(stream, until) {
            Ok(part) => parts.push(part),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                late.push(process);
            }
            Err(_) => return Err(BootstrapError::Gone { process }),
        }
    }
    if late.is_empty() { Ok(parts) } else { Err(BootstrapError::Missing { processes: late, patience }) }
}

/// Process 0 tells another how a call ended.
fn tell(other: &mut TcpStream, outcome: &Result<&[Vec<u8>], String>) -> io::Result<()> {
    // One that does not listen must not keep process 0.
    other.set_write_timeout(Some(Duration::from_secs(5)))?;
    match outcome {
        Ok(parts) => {
            other.write_all(&[0])?;
            parts.iter().try_for_each(|part| put(other, part))
        }
        Err(problem) => {
            other.write_all(&[1])?;
            put(other, problem.as_bytes())
        }
    }
}

/// What process 0 tells.
fn hear(hub: &mut TcpStream, processes: u32, until: Instant) -> io::Result<Result<Vec<Vec<u8>>, BootstrapError>> {
    let mut outcome = [0];
    within(hub, until)?;
    hub.read_exact(&mut outcome)?;
    match outcome {
        [0] => (0..processes).map(|_| take(hub, until)).collect::<io::Result<_>>().map(Ok),
        _ => {
            let problem = String::from_utf8_lossy(&take(hub, until)?).into_owned();
            Ok(Err(BootstrapError::Elsewhere { process: 0, problem }))
        }
    }
}

fn put(to: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    to.write_all(&[&(bytes.len() as u64).to_le_bytes(), bytes].concat())
}

fn take(from: &mut TcpStream, until: Instant) -> io::Result<Vec<u8>> {
    let mut length = [0; 8];
    within(from, until)?;
    from.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MOST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length as usize];
    within(from, until)?;
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The next read waits no longer; what has come already is read in any case.
fn within(stream: &TcpStream, until: Instant) -> io::Result<()> {
    let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    stream.set_read_timeout(Some(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address that nobody has.
    fn address() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("it has one").to_string()
    }

    #[test]
    fn a_process_0_that_hangs_up_is_named_whenever_it_does() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it has one").to_string();
        for _ in 0..50 {
            std::thread::scope(|scope| {
                scope.spawn(|| drop(listener.accept()));
                let met = TcpBootstrap::meet(&address, 1, 2, Duration::from_secs(5));
                let outcome = met.and_then(|bootstrap| bootstrap.all_gather(b"it").map(|_| ()));
                assert_eq!(outcome, Err(BootstrapError::Gone { process: 0 }));
            });
        }
    }

    fn together<T: Send>(
        processes: u32,
        patience: Duration,
        act: impl Fn(u32, Result<TcpBootstrap, BootstrapError>) -> T + Sync,
        who: &[u32],
    ) -> Vec<T> {
        let (address, act) = (&address(), &act);
        std::thread::scope(|scope| {
            let start =
                |&process| scope.spawn(move || act(process, TcpBootstrap::meet(address, process, processes, patience)));
            let threads: Vec<_> = who.iter().map(start).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        })
    }

    #[test]
    fn everybody_has_what_everybody_gave() {
        let found = together(
            4,
            Duration::from_secs(20),
            |process, bootstrap| {
                let bootstrap = bootstrap.expect("all are there");
                let first = bootstrap.all_gather(&vec![process as u8; process as usize]).expect("given");
                bootstrap.barrier().expect("all come");
                (first, bootstrap.all_gather(&[7; 10_000]).expect("given"))
            },
            &[2, 0, 3, 1],
        );
        let expected = vec![vec![], vec![1], vec![2, 2], vec![3, 3, 3]];
        assert!(found.iter().all(|(first, second)| *first == expected && *second == vec![vec![7; 10_000]; 4]));
    }

    #[test]
    fn who_does_not_come_is_named_by_all_others() {
        let patience = Duration::from_millis(300);
        let found = together(4, patience, |_, bootstrap| bootstrap.err().expect("two are missing"), &[0, 2]);
        let missing = BootstrapError::Missing { processes: vec![1, 3], patience };
        assert_eq!(missing.to_string(), "processes 1, 3 did not come within 300ms");
        assert_eq!(found, [missing.clone(), BootstrapError::Elsewhere { process: 0, problem: missing.to_string() }]);
        let found = together(2, patience, |_, bootstrap| bootstrap.err().expect("no process 0"), &[1]);
        assert_eq!(found, [BootstrapError::Missing { processes: vec![0], patience }]);
    }

    #[test]
    fn who_ends_is_named_by_all_others() {
        for ends in [0, 2] {
            let found = together(
                3,
                Duration::from_secs(20),
                |process, bootstrap| {
                    let bootstrap = bootstrap.expect("all are there");
                    (process != ends).then(|| bootstrap.barrier().expect_err("one has ended").to_string())
                },
                &[0, 1, 2],
            );
            let gone = format!("process {ends} has ended");
            assert!(found.iter().flatten().all(|error| error.contains(&gone)), "{found:?}");
            assert_eq!(found.iter().flatten().count(), 2);
        }
    }

    #[test]
    fn a_process_of_another_world_is_named() {
        let address = address();
        let address = &address;
        let patience = Duration::from_secs(20);
        let errors = std::thread::scope(|scope| {
            let start = |process, processes| {
                let meet = move || TcpBootstrap::meet(address, process, processes, patience).err().expect("strange");
                scope.spawn(move || meet().to_string())
            };
            [start(0, 2), start(1, 3)].map(|thread| thread.join().expect("no panic"))
        });
        assert!(errors.iter().all(|error| error.contains("process 1 of 3 came to a world of 2")), "{errors:?}");
    }
}
