//! Memory through which bytes of tensors go between a process and a node.
//!
//! Invariants: its size cannot change, so that no access to it can fail; of the two who have it, one at a time uses it, by turns that their
//! connection gives. It has no name in any file system, and is gone with its last user.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Its bytes. Those that nobody has touched take no memory.
pub const BYTES: usize = 16 << 20;

const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Such memory, mapped.
pub struct Staging {
    base: NonNull<u8>,
}

// SAFETY: the mapping belongs to this value alone in this process, and is valid until it is dropped.
unsafe impl Send for Staging {}

impl Staging {
    /// Makes it, and what the other side needs to have it too.
    pub fn new() -> io::Result<(Staging, OwnedFd)> {
        let file = memfd_create("moe-staging", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, BYTES as u64)?;
        fcntl_add_seals(&file, SEALS)?;
        Ok((Staging::map(&file)?, file))
    }

    /// Has what the other side made.
    pub fn open(file: &OwnedFd) -> io::Result<Staging> {
        let sealed = fcntl_get_seals(file)?.contains(SEALS);
        if !sealed || fstat(file)?.st_size != BYTES as i64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "memory whose size can change"));
        }
        Staging::map(file)
    }

    fn map(file: &OwnedFd) -> io::Result<Staging> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at a place that the system chooses.
        let base = unsafe { mmap(std::ptr::null_mut(), BYTES, protection, MapFlags::SHARED, file.as_fd(), 0) }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Staging { base })
    }

    /// Puts bytes there, from the beginning.
    pub fn put(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= BYTES, "{} bytes", bytes.len());
        // SAFETY: within the mapping; the other side waits for a message before it looks.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.as_ptr(), bytes.len()) }
    }

    /// The first bytes that are there, without a copy.
    pub fn bytes(&self, count: usize) -> &[u8] {
        assert!(count <= BYTES, "{count} bytes");
        // SAFETY: within the mapping; the other side waits for an answer meanwhile. One that does not wait spoils its own numbers.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), count) }
    }

    /// [`Staging::bytes`], to be filled.
    pub fn bytes_mut(&mut self, count: usize) -> &mut [u8] {
        assert!(count <= BYTES, "{count} bytes");
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), count) }
    }

    /// Takes bytes from there, from the beginning.
    pub fn take(&self, bytes: &mut [u8]) {
        assert!(bytes.len() <= BYTES, "{} bytes", bytes.len());
        // SAFETY: within the mapping; the other side has said that it is done.
        unsafe { std::ptr::copy_nonoverlapping(self.base.as_ptr(), bytes.as_mut_ptr(), bytes.len()) }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this size, and nothing refers to it any more.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_side_puts_the_other_takes_and_nobody_cuts_it_short() {
        let (mut here, file) = Staging::new().expect("made");
        let there = Staging::open(&file).expect("opened");
        here.put(b"tokens");
        let mut found = [0; 6];
        there.take(&mut found);
        assert_eq!(&found, b"tokens");
        here.bytes_mut(2).copy_from_slice(b"no");
        assert_eq!(there.bytes(6), b"nokens");
        assert!(ftruncate(&file, 0).is_err(), "an access behind the end would end the process");
        let open = memfd_create("open", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("made");
        ftruncate(&open, BYTES as u64).expect("long enough");
        assert!(Staging::open(&open).is_err(), "its size could change");
    }
}
