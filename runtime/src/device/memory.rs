//! Memory that frees itself, and whoever gives it.

use std::ops::Range;
use std::sync::Arc;

use moe_contract::RankId;

use super::{Address, Device, DeviceError, StreamId};

/// Whoever gives a communicator memory for tensors and handles, in place of the device: for example the caching allocator of a
/// framework. Symmetric memory always comes from the device.
pub trait Allocator: Send + Sync {
    /// Memory of a rank, aligned to at least 256 bytes, not initialised, for launches of a stream, those that follow. `name` says what
    /// for.
    ///
    /// # Errors
    /// When there is not enough.
    fn allocate(&self, stream: StreamId, rank: RankId, bytes: u64, name: &str) -> Result<Address, DeviceError>;

    /// Takes it back. Launches so far of the stream that it was allocated for may still use it; those of other streams are over, or
    /// come before by an event.
    fn free(&self, stream: StreamId, rank: RankId, address: Address);
}

/// Whose launches use some memory.
enum Users {
    /// Those of every rank.
    Anyone,
    /// Those of its own rank.
    Rank,
    Stream(StreamId),
    /// It is not ours to free.
    Caller,
    /// Another process shares it.
    Import,
    Allocator(Arc<dyn Allocator>, StreamId),
}

/// Memory of one rank. Dropping it frees it, after all launches so far that may use it, unless it is the caller's.
pub struct Memory {
    device: Arc<dyn Device>,
    rank: RankId,
    users: Users,
    address: Address,
    bytes: u64,
}

impl Memory {
    /// Allocates; `name` occurs in reports. Nothing is allocated for no bytes.
    ///
    /// # Errors
    /// When there is not enough.
    pub fn new(device: &Arc<dyn Device>, rank: RankId, bytes: u64, name: &str) -> Result<Memory, DeviceError> {
        let address = if bytes == 0 { Address::NULL } else { device.allocate(rank, bytes, name)? };
        Ok(Memory { device: Arc::clone(device), rank, users: Users::Anyone, address, bytes })
    }

    /// As [`Memory::new`], for memory that other processes use too.
    ///
    /// # Errors
    /// When there is not enough, or the device cannot share it.
    pub fn shared(device: &Arc<dyn Device>, rank: RankId, bytes: u64, name: &str) -> Result<Memory, DeviceError> {
        let address = if bytes == 0 { Address::NULL } else { device.allocate_shared(rank, bytes, name)? };
        Ok(Memory { device: Arc::clone(device), rank, users: Users::Anyone, address, bytes })
    }

    /// What another process needs to use it.
    ///
    /// # Errors
    /// When it is not shared.
    pub fn export(&self) -> Result<Vec<u8>, DeviceError> {
        self.device.export(self.rank, self.address)
    }

    /// As [`Memory::new`], for memory that only launches of its own rank use, those of one stream first. What was freed after launches of
    /// that stream can serve again at once.
    ///
    /// # Errors
    /// When there is not enough.
    pub fn of_rank(
        device: &Arc<dyn Device>,
        stream: StreamId,
        rank: RankId,
        bytes: u64,
        name: &str,
    ) -> Result<Memory, DeviceError> {
        let mut memory = Memory::in_stream(device, stream, rank, bytes, name)?;
        memory.users = Users::Rank;
        Ok(memory)
    }

    /// As [`Memory::of_rank`], for memory that only launches of that stream use.
    ///
    /// # Errors
    /// When there is not enough.
    pub fn in_stream(
        device: &Arc<dyn Device>,
        stream: StreamId,
        rank: RankId,
        bytes: u64,
        name: &str,
    ) -> Result<Memory, DeviceError> {
        let address = if bytes == 0 { Address::NULL } else { device.allocate_in(stream, rank, bytes, name)? };
        Ok(Memory { device: Arc::clone(device), rank, users: Users::Stream(stream), address, bytes })
    }

    /// Memory that somebody else gives.
    ///
    /// # Errors
    /// When there is not enough.
    pub fn from_allocator(
        device: &Arc<dyn Device>,
        allocator: &Arc<dyn Allocator>,
        stream: StreamId,
        rank: RankId,
        bytes: u64,
        name: &str,
    ) -> Result<Memory, DeviceError> {
        let address = if bytes == 0 { Address::NULL } else { allocator.allocate(stream, rank, bytes, name)? };
        let users = Users::Allocator(Arc::clone(allocator), stream);
        Ok(Memory { device: Arc::clone(device), rank, users, address, bytes })
    }

    /// Memory that another process exported.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub(crate) fn import(
        device: &Arc<dyn Device>,
        rank: RankId,
        exported: &[u8],
        bytes: u64,
    ) -> Result<Memory, DeviceError> {
        let address = device.import(rank, exported, bytes)?;
        Ok(Memory { device: Arc::clone(device), rank, users: Users::Import, address, bytes })
    }

    /// Memory of the caller: it is not freed.
    pub(crate) fn of_another(device: &Arc<dyn Device>, rank: RankId, address: Address, bytes: u64) -> Memory {
        Memory { device: Arc::clone(device), rank, users: Users::Caller, address, bytes }
    }

    /// Of its first byte, on its device.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The rank whose device memory it is.
    pub fn rank(&self) -> RankId {
        self.rank
    }

    /// Fills the first bytes, at once.
    ///
    /// # Errors
    /// When the device cannot.
    ///
    /// # Panics
    /// When there are more bytes than memory.
    pub fn write(&self, bytes: &[u8]) -> Result<(), DeviceError> {
        assert!(bytes.len() as u64 <= self.bytes, "{} bytes into memory of {}", bytes.len(), self.bytes);
        if bytes.is_empty() { Ok(()) } else { self.device.write(self.rank, self.address, bytes) }
    }

    /// Zeroes all of it, at once.
    ///
    /// # Errors
    /// When the device cannot.
    pub fn zero(&self) -> Result<(), DeviceError> {
        const BLOCK: usize = 1 << 20;
        let zeros = vec![0; BLOCK.min(self.bytes as usize)];
        let mut done = 0;
        while done < self.bytes {
            let part = (self.bytes - done).min(BLOCK as u64);
            self.device.write(self.rank, self.address.offset(done), &zeros[..part as usize])?;
            done += part;
        }
        Ok(())
    }

    /// Reads some elements, at once.
    ///
    /// # Errors
    /// When they were never written.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn read<T: bytemuck::Pod>(&self, elements: Range<usize>) -> Result<Vec<T>, DeviceError> {
        let mut read = vec![T::zeroed(); elements.len()];
        self.read_into(elements.start, &mut read)?;
        Ok(read)
    }

    /// [`Memory::read`], of as many elements as there is room for, from one of them on.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As there.
    pub fn read_into<T: bytemuck::Pod>(&self, first: usize, into: &mut [T]) -> Result<(), DeviceError> {
        let start = (first * size_of::<T>()) as u64;
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(into);
        let end = start + bytes.len() as u64;
        assert!(end <= self.bytes, "{} bytes from byte {start} of memory of {}", bytes.len(), self.bytes);
        if bytes.is_empty() { Ok(()) } else { self.device.read(self.rank, self.address.offset(start), bytes) }
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} bytes of {} at {:#x}", self.bytes, self.rank, self.address.0)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        match &self.users {
            _ if self.bytes == 0 => {}
            Users::Anyone => self.device.free(self.rank, self.address),
            Users::Rank => self.device.free_of_rank(self.rank, self.address),
            Users::Stream(stream) => self.device.free_in(*stream, self.rank, self.address),
            Users::Allocator(allocator, stream) => allocator.free(*stream, self.rank, self.address),
            Users::Import => self.device.close_import(self.rank, self.address),
            Users::Caller => {}
        }
    }
}
