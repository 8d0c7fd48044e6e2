//! Reading: a whole file, within the memory that there is.

use std::fs::File;
use std::io::{self, Read};

use moe_planner::human_bytes;

use super::{InputPath, Place, Wanted};
use crate::failure::Failure;
use crate::memory;

impl InputPath {
    /// The bytes, if they are what is wanted.
    pub fn read(&self, wanted: Wanted) -> Result<Vec<u8>, Failure> {
        let limit = Limit::of(wanted);
        let bytes = match &self.0 {
            Place::Standard => beginning(&mut io::stdin().lock(), 0, &limit),
            Place::File(path) => File::open(path).and_then(|mut file| {
                let metadata = file.metadata()?;
                if metadata.is_dir() {
                    return Err(io::Error::from(io::ErrorKind::IsADirectory));
                }
                beginning(&mut file, metadata.len(), &limit)
            }),
        };
        let bytes = bytes.map_err(|error| {
            Failure::Message(match error.kind() {
                io::ErrorKind::IsADirectory => format!("{self} is a folder, and {} is wanted here", wanted.describe()),
                io::ErrorKind::OutOfMemory => limit.exceeded_by(self),
                _ => format!("cannot read {self}: {error}"),
            })
        })?;
        match wanted.refuses(&bytes) {
            Some(why) => Err(Failure::Message(format!("{self} {why}"))),
            None if bytes.len() as u64 > limit.most => Err(Failure::Message(limit.exceeded_by(self))),
            None => Ok(bytes),
        }
    }
}

/// How much is read of a file.
struct Limit {
    most: u64,
    why: &'static str,
}

impl Limit {
    /// What is read is taken apart and cut into the parts of ranks, so that it is there three times for a moment.
    fn of(wanted: Wanted) -> Limit {
        let memory = memory::available().map_or(u64::MAX, |available| available / 4);
        match wanted.most() {
            Some(most) if most <= memory => Limit { most, why: "is read of such a file" },
            _ => Limit { most: memory, why: "fits into the memory of this process" },
        }
    }

    fn exceeded_by(&self, path: &InputPath) -> String {
        format!("{path} is too large: at most {} {}", human_bytes(self.most as f64), self.why)
    }
}

/// Reads to the end, or far enough to know that there is too much, and of what kind it is.
fn beginning(from: &mut impl Read, expected: u64, limit: &Limit) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if expected <= limit.most {
        let room = usize::try_from(expected).map_err(|_| io::ErrorKind::OutOfMemory)?;
        bytes.try_reserve_exact(room).map_err(|_| io::ErrorKind::OutOfMemory)?;
    }
    from.take(limit.most.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}
