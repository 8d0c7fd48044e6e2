//! Memory of the ranks of this process that the process has too: tensors in it are not copied.
//!
//! Invariants:
//! * a block is in use by one [`HostMemory`], or spare. What is dropped becomes spare, and serves the next that has its size;
//! * blocks have no more bytes together than were once in use at the same time, so that a loop takes no more with every turn;
//! * memory outlives the device: what is in use when that goes stays mapped until it is dropped, and no rank knows it any more.

use std::collections::{BTreeMap, VecDeque};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use moe_contract::RankId;

use super::mapping::Mapping;
use crate::device::Address;

/// Sizes are multiples of this.
const PAGE: u64 = 4096;

/// The blocks of a device.
#[derive(Debug, Default)]
pub struct Pool(Arc<Mutex<Blocks>>);

#[derive(Debug, Default)]
struct Blocks {
    /// In use: where each begins in this process, and what it is.
    taken: BTreeMap<u64, Place>,
    /// The one dropped last at the end.
    spare: VecDeque<Block>,
    spare_bytes: u64,
    taken_bytes: u64,
    /// Of what was in use at once.
    most_bytes: u64,
}

/// What a block in use is for its rank.
#[derive(Clone, Copy, Debug)]
struct Place {
    rank: RankId,
    address: Address,
    bytes: u64,
}

/// One piece of memory, which a rank and this process have.
#[derive(Debug)]
pub struct Block {
    pub rank: RankId,
    pub address: Address,
    pub mapping: Mapping,
}

/// Memory of a rank that this process has too. Dropping it gives it back.
#[derive(Debug)]
pub struct HostMemory {
    /// There until it is dropped.
    block: Option<Block>,
    pool: Weak<Mutex<Blocks>>,
    base: NonNull<u8>,
    bytes: u64,
    is_new: bool,
}

// SAFETY: the base is that of the block's mapping, which can be sent and shared.
unsafe impl Send for HostMemory {}
// SAFETY: as above.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// Where it begins in this process.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// So many as were asked for.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes all of it zero.
    pub fn zero(&mut self) {
        if !std::mem::take(&mut self.is_new) {
            // SAFETY: the block has so many bytes, nobody else has this value, and no rank uses them before a call is given them.
            unsafe { self.base.write_bytes(0, self.bytes as usize) }
        }
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        if let (Some(block), Some(pool)) = (self.block.take(), self.pool.upgrade()) {
            lock(&pool).give_back(block);
        }
    }
}

impl Pool {
    /// Bytes of a block that has room for so many.
    pub fn size(bytes: u64) -> u64 {
        bytes.max(1).next_multiple_of(PAGE)
    }

    /// A spare block of exactly this size, if there is one.
    pub fn take(&self, rank: RankId, bytes: u64) -> Option<HostMemory> {
        let mut blocks = lock(&self.0);
        let size = Pool::size(bytes) as usize;
        let fits = |block: &Block| block.rank == rank && block.mapping.bytes() == size;
        let found = blocks.spare.iter().rposition(fits).and_then(|at| blocks.spare.remove(at))?;
        blocks.spare_bytes -= size as u64;
        Some(self.lend(&mut blocks, found, bytes, false))
    }

    /// A new block is in use from now on.
    pub fn add(&self, block: Block, bytes: u64) -> HostMemory {
        self.lend(&mut lock(&self.0), block, bytes, true)
    }

    fn lend(&self, blocks: &mut Blocks, block: Block, bytes: u64, is_new: bool) -> HostMemory {
        let (base, size) = (block.mapping.base(), block.mapping.bytes() as u64);
        let place = Place { rank: block.rank, address: block.address, bytes: size };
        blocks.taken.insert(base.as_ptr() as u64, place);
        blocks.taken_bytes += size;
        blocks.most_bytes = blocks.most_bytes.max(blocks.taken_bytes);
        HostMemory { block: Some(block), pool: Arc::downgrade(&self.0), base, bytes, is_new }
    }

    /// Spare blocks that are too many once so many bytes more are in use.
    pub fn surplus(&self, bytes: u64) -> Vec<Block> {
        let mut blocks = lock(&self.0);
        let most = blocks.most_bytes.max(blocks.taken_bytes + bytes);
        let mut over = vec![];
        while blocks.taken_bytes + blocks.spare_bytes + bytes > most
            && let Some(oldest) = blocks.spare.pop_front()
        {
            blocks.spare_bytes -= oldest.mapping.bytes() as u64;
            over.push(oldest);
        }
        over
    }

    /// What bytes of this process are for a rank, if they are in a block in use.
    pub fn address(&self, rank: RankId, host: u64, bytes: u64) -> Option<Address> {
        let blocks = lock(&self.0);
        let (&start, place) = blocks.taken.range(..=host).next_back()?;
        let offset = host - start;
        let inside = place.rank == rank && offset.checked_add(bytes).is_some_and(|end| end <= place.bytes);
        inside.then(|| place.address.offset(offset))
    }
}

impl Blocks {
    fn give_back(&mut self, block: Block) {
        let size = block.mapping.bytes() as u64;
        self.taken.remove(&(block.mapping.base().as_ptr() as u64));
        self.taken_bytes -= size;
        self.spare_bytes += size;
        self.spare.push_back(block);
    }
}

fn lock(blocks: &Mutex<Blocks>) -> MutexGuard<'_, Blocks> {
    // A block is moved as a whole.
    blocks.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(pool: &Pool, bytes: u64) -> (HostMemory, usize) {
        let over = pool.surplus(Pool::size(bytes)).len();
        let (mapping, _) = Mapping::new("moe-test", Pool::size(bytes) as usize).expect("mapped");
        (pool.add(Block { rank: RankId(1), address: Address(0x1000), mapping }, bytes), over)
    }

    #[test]
    fn what_is_dropped_serves_again_and_is_never_more_than_was_in_use_at_once() {
        let pool = Pool::default();
        let (mut first, _) = new(&pool, 5000);
        let (second, _) = new(&pool, 4096);
        let base = first.base().as_ptr() as u64;
        assert_eq!(pool.address(RankId(1), base + 8, 4992), Some(Address(0x1008)));
        assert_eq!(pool.address(RankId(1), base + 8, 8192), None, "behind its end");
        assert_eq!(pool.address(RankId(0), base, 1), None, "of another rank");
        // SAFETY: it is mapped, and nothing else uses it.
        unsafe { first.base().write(3) };
        drop(first);
        assert_eq!(pool.address(RankId(1), base, 1), None, "nobody has it");
        first = pool.take(RankId(1), 6000).expect("its size is the same in pages");
        assert_eq!((first.base().as_ptr() as u64, first.bytes()), (base, 6000));
        first.zero();
        // SAFETY: as above.
        assert_eq!(unsafe { first.base().read() }, 0);
        assert!(pool.take(RankId(1), 4096).is_none(), "it is in use");
        drop((first, second));
        // 12 KiB were in use at once: a block of 12 KiB takes the place of both, one of 4 KiB that of one.
        let (third, over) = new(&pool, 4 * 1024);
        assert_eq!(over, 1);
        drop(third);
        assert_eq!(new(&pool, 12 * 1024).1, 2);
    }

    #[test]
    fn memory_outlives_its_pool() {
        let pool = Pool::default();
        let (memory, _) = new(&pool, 4096);
        drop(pool);
        // SAFETY: it is mapped, and nothing else uses it.
        unsafe { memory.base().write(3) };
        // SAFETY: as above.
        assert_eq!(unsafe { memory.base().read() }, 3);
    }
}
