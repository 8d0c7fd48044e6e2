//! Memory through which bytes of tensors go between a process and a node.
//!
//! Invariant: of the two who have it, one at a time uses it, by turns that their connection gives.

use std::io;
use std::os::fd::OwnedFd;

use super::mapping::Mapping;

/// Its bytes. Those that nobody has touched take no memory.
pub const BYTES: usize = 16 << 20;

/// Such memory, mapped.
pub struct Staging(Mapping);

impl Staging {
    /// Makes it, and what the other side needs to have it too.
    pub fn new() -> io::Result<(Staging, OwnedFd)> {
        let (mapping, file) = Mapping::new("moe-staging", BYTES)?;
        Ok((Staging(mapping), file))
    }

    /// Has what the other side made.
    pub fn open(file: &OwnedFd) -> io::Result<Staging> {
        Mapping::open(file, BYTES).map(Staging)
    }

    /// Puts bytes there, from the beginning.
    pub fn put(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= BYTES, "{} bytes", bytes.len());
        // SAFETY: within the mapping; the other side waits for a message before it looks.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.base().as_ptr(), bytes.len()) }
    }

    /// The first bytes that are there, without a copy.
    pub fn bytes(&self, count: usize) -> &[u8] {
        // SAFETY: the other side waits for an answer meanwhile. One that does not wait spoils its own numbers.
        let all = unsafe { self.0.all().as_ref() };
        &all[..count]
    }

    /// [`Staging::bytes`], to be filled.
    pub fn bytes_mut(&mut self, count: usize) -> &mut [u8] {
        // SAFETY: as above.
        let all = unsafe { self.0.all().as_mut() };
        &mut all[..count]
    }

    /// Takes bytes from there, from the beginning.
    pub fn take(&self, bytes: &mut [u8]) {
        assert!(bytes.len() <= BYTES, "{} bytes", bytes.len());
        // SAFETY: within the mapping; the other side has said that it is done.
        unsafe { std::ptr::copy_nonoverlapping(self.0.base().as_ptr(), bytes.as_mut_ptr(), bytes.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_side_puts_the_other_takes() {
        let (mut here, file) = Staging::new().expect("made");
        let there = Staging::open(&file).expect("opened");
        here.put(b"tokens");
        let mut found = [0; 6];
        there.take(&mut found);
        assert_eq!(&found, b"tokens");
        here.bytes_mut(2).copy_from_slice(b"no");
        assert_eq!(there.bytes(6), b"nokens");
    }
}
