//! Memory that a process and a node both have.
//!
//! Invariants: its size cannot change, so that no access to it can fail; it has no name in any file system, and is gone with its last user.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Such memory, mapped into this process. Zero at first; what nobody has touched takes no memory.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping belongs to this value alone in this process, and is valid until it is dropped; whoever uses it says who may when.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Makes it, and what the other side needs to have it too.
    ///
    /// `name` is what the system shows to people.
    pub fn new(name: &str, bytes: usize) -> io::Result<(Mapping, OwnedFd)> {
        let file = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, bytes as u64)?;
        fcntl_add_seals(&file, SEALS)?;
        Ok((Mapping::map(&file, bytes)?, file))
    }

    /// Has what the other side made.
    pub fn open(file: &OwnedFd, bytes: usize) -> io::Result<Mapping> {
        let sealed = fcntl_get_seals(file)?.contains(SEALS);
        if !sealed || i64::try_from(bytes).ok() != Some(fstat(file)?.st_size) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "memory whose size can change"));
        }
        Mapping::map(file, bytes)
    }

    fn map(file: &OwnedFd, bytes: usize) -> io::Result<Mapping> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at a place that the system chooses.
        let base = unsafe { mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, file.as_fd(), 0) }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { base, bytes })
    }

    /// Where it begins in this process.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// All of it, for whoever knows that the other side leaves it alone meanwhile.
    pub fn all(&self) -> NonNull<[u8]> {
        NonNull::slice_from_raw_parts(self.base, self.bytes)
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this size, and nothing refers to it any more.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_have_the_same_bytes_and_nobody_cuts_them_short() {
        let (here, file) = Mapping::new("moe-test", 5000).expect("made");
        let there = Mapping::open(&file, 5000).expect("opened");
        // SAFETY: both are mapped, and nothing else uses them.
        let (one, other) = unsafe { (here.all().as_mut(), there.all().as_ref()) };
        assert!(one.len() == 5000 && one.iter().all(|byte| *byte == 0));
        one[4999] = 7;
        assert_eq!(other[4999], 7);
        assert!(Mapping::open(&file, 4999).is_err(), "it has another size");
        assert!(ftruncate(&file, 0).is_err(), "an access behind the end would end the process");
        let open = memfd_create("open", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("made");
        ftruncate(&open, 5000).expect("long enough");
        assert!(Mapping::open(&open, 5000).is_err(), "its size could change");
    }
}
