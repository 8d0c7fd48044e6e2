//! A ring of buffers in shared memory for each warp of a CTA, filled by bulk copies ahead of where it is read.
//!
//! Every warp is a pipeline of its own: its buffers (*units*), an mbarrier for each, and a *source* that says what is read, unit by unit.
//! [`Ring::run`] starts as many loads as there are units; [`Ring::next`] waits for the oldest, hands it over, and starts the next load into
//! it. There is no way to start or to wait by hand.
//!
//! Invariants, all kept by this file:
//! * a load is announced to its mbarrier (`expect_tx`) by the lane that starts it, before it starts;
//! * unit u of round r is read behind phase r of mbarrier u, whose parity is that of r, for which each lane waits itself;
//! * a unit is loaded again only when all lanes have read it (a warp barrier), when what they wrote to it is fenced from the async proxy,
//!   and when a copy out of it has read it (`wait_group.read`);
//! * a copy out of a unit starts behind a proxy fence of every lane that may have written to it, and a warp barrier behind those;
//! * all copies out of the ring are complete when [`Ring::run`] returns (`wait_group 0`), and known to the lane that started them: a barrier
//!   tells the others.
//!
//! Left to the caller: `next` is called exactly once for each unit that the source has, in all lanes of the warp; what peers or other CTAs wrote
//! to global memory during the launch is acquired, and fenced by [`Builder::fence_proxy_global`], before `run`; a warp needs no other.
//!
//! What the source knows of a unit and its reader needs goes through [`Notes`].
//!
//! Cost of a unit: a `try_wait`, a warp barrier, and in the elected lane an `expect_tx` and a copy.

use std::cell::Cell;

use super::bulk::CachePolicy;
use super::mbarrier::Mbarrier;
use super::memory::{Global, Pointer, Shared};
use super::value::{Chunk, Element, Pred, U8, U32, U64, Value};
use super::{Builder, Variable};

/// A place in global memory.
#[derive(Clone, Copy)]
pub struct Extent<'k> {
    /// A multiple of 16.
    pub start: Pointer<'k, Global, U8>,
    /// Its length: a multiple of 16, and at most a unit.
    pub bytes: Value<'k, U32>,
}

/// What a warp reads, in this order.
pub trait Source<'k> {
    /// Whether there is one more unit. All lanes run it, and see the same.
    fn more(&self) -> Value<'k, Pred>;

    /// Where it is; goes on to the next. Only where there is one more. All lanes run it.
    fn next(&self) -> Extent<'k>;
}

/// Buffers of every warp of a CTA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Warps of the CTA.
    pub warps: u32,
    /// Buffers of a warp.
    pub units: u32,
    /// Length of one: a multiple of 128.
    pub bytes: u32,
}

/// See the module.
pub struct Ring<'k, S> {
    k: &'k Builder,
    shape: Shape,
    source: S,
    /// Of this warp.
    units: Pointer<'k, Shared, U8>,
    mbarriers: Pointer<'k, Shared, U64>,
    policy: CachePolicy<'k>,
    elected: Value<'k, Pred>,
    /// The unit that is read next, and the parity of its phase.
    place: Variable<'k, U32>,
    parity: Variable<'k, U32>,
    sends: Cell<bool>,
}

/// Notes that may be open besides one for each unit.
const MORE_NOTES: u32 = 2;
const NOTE: u32 = 32 * Chunk::BYTES;

/// Bytes of shared memory that a warp has besides its units, for each of them: an mbarrier and a note.
pub const BESIDE_A_UNIT: u32 = U64::BYTES + NOTE;
/// And in all.
pub const BESIDE_A_RING: u32 = MORE_NOTES * NOTE;

/// What a source hands to whoever reads what it is about: each lane a chunk for itself, in the order of their writing. A lane reads what it wrote
/// itself, so that nothing has to stand between.
///
/// Invariant, left to the caller: of each note at least one unit is loaded before the next note is written, and a note is used no longer than
/// the units that it is about; so no more are open than a ring has units and two.
pub struct Notes<'k> {
    k: &'k Builder,
    most: u32,
    chunks: Pointer<'k, Shared, Chunk>,
    written: Variable<'k, U32>,
    read: Variable<'k, U32>,
}

impl<'k> Notes<'k> {
    /// For a ring of this shape.
    pub fn new(k: &'k Builder, shape: Shape) -> Notes<'k> {
        let most = shape.units + MORE_NOTES;
        let chunks = k.shared_part::<Chunk>("notes beside the ring", shape.warps * most * 32);
        let chunks = chunks.at(k.warp() * (most * 32) + k.lane());
        Notes { k, most, chunks, written: k.variable(k.u32(0)), read: k.variable(k.u32(0)) }
    }

    fn next(&self, place: Variable<'k, U32>) -> Pointer<'k, Shared, Chunk> {
        let now = place.get();
        let after = now + 1;
        place.set(self.k.u32(0).when(after.equals(self.k.u32(self.most)), after));
        self.chunks.at(now * 32)
    }

    /// Adds one.
    pub fn write(&self, note: Value<'k, Chunk>) {
        self.next(self.written).store(note);
    }

    /// The oldest that has not been read.
    pub fn read(&self) -> Note<'k> {
        Note(self.next(self.read))
    }
}

/// A note that is read.
#[derive(Clone, Copy)]
pub struct Note<'k>(Pointer<'k, Shared, Chunk>);

impl<'k> Note<'k> {
    /// What it says. One load, each time.
    pub fn chunk(self) -> Value<'k, Chunk> {
        self.0.load()
    }
}

/// A unit that has been loaded. All lanes may read all of it.
pub struct Unit<'k> {
    memory: Pointer<'k, Shared, U8>,
}

impl<'k> Unit<'k> {
    /// One of its chunks.
    pub fn chunk(&self, index: Value<'k, U32>) -> Value<'k, Chunk> {
        self.memory.cast::<Chunk>().at(index).load()
    }
}

/// A unit that has been loaded and is changed before it is copied out. Where lanes read what others wrote, or write what others read,
/// [`Builder::warp_barrier`] has to stand between.
pub struct Draft<'k> {
    memory: Pointer<'k, Shared, U8>,
}

impl<'k> Draft<'k> {
    /// One of its chunks.
    pub fn chunk(&self, index: Value<'k, U32>) -> Value<'k, Chunk> {
        self.memory.cast::<Chunk>().at(index).load()
    }

    /// Changes one of its chunks.
    pub fn set_chunk(&self, index: Value<'k, U32>, chunk: Value<'k, Chunk>) {
        self.memory.cast::<Chunk>().at(index).store(chunk);
    }
}

impl<'k, S: Source<'k>> Ring<'k, S> {
    /// Lays out the buffers, starts the first loads of this warp, runs `body`, and ends what it has started. All threads of the CTA run it.
    pub fn run(k: &'k Builder, shape: Shape, source: S, body: impl FnOnce(&Ring<'k, S>)) {
        let Shape { warps, units, bytes } = shape;
        let buffers = k.shared_part::<U8>("units of the ring", warps * units * bytes);
        let mbarriers = k.shared_part::<U64>("mbarriers of the ring", warps * units);
        let ring = Ring {
            k,
            shape,
            source,
            units: buffers.bytes(k.warp().wide() * u64::from(units * bytes)),
            mbarriers: mbarriers.at(k.warp() * units),
            policy: k.evict_first(),
            elected: k.elected(),
            place: k.variable(k.u32(0)),
            parity: k.variable(k.u32(0)),
            sends: Cell::new(false),
        };
        ring.begin();
        body(&ring);
        if ring.sends.get() {
            k.when(ring.elected, || k.wait_for_copies(0));
        }
    }

    fn begin(&self) {
        let k = self.k;
        k.when(self.elected, || {
            (0..self.shape.units).for_each(|unit| self.mbarrier(k.u32(unit)).init(1));
            k.fence_mbarrier_init();
        });
        k.warp_barrier();
        let filled = k.variable(k.u32(0));
        k.repeat_while(
            || filled.get().less(k.u32(self.shape.units)) & self.source.more(),
            || {
                self.load(filled.get());
                filled.set(filled.get() + 1);
            },
        );
    }

    fn mbarrier(&self, unit: Value<'k, U32>) -> Mbarrier<'k> {
        Mbarrier::at(self.mbarriers.at(unit))
    }

    fn memory(&self, unit: Value<'k, U32>) -> Pointer<'k, Shared, U8> {
        self.units.bytes((unit * self.shape.bytes).wide())
    }

    /// Starts the next load, into a unit that nobody uses.
    fn load(&self, unit: Value<'k, U32>) {
        let Extent { start, bytes } = self.source.next();
        self.k.when(self.elected, || {
            let done = self.mbarrier(unit);
            done.arrive_expecting(bytes);
            self.memory(unit).load_bulk(start, bytes, done, self.policy);
        });
    }

    /// Waits for the oldest unit.
    fn take(&self) -> Value<'k, U32> {
        let unit = self.place.get();
        self.mbarrier(unit).wait(self.parity.get());
        unit
    }

    /// Loads a unit again that nobody uses any more, and goes on to the one behind it.
    fn refill(&self, unit: Value<'k, U32>) {
        let k = self.k;
        k.when(self.source.more(), || self.load(unit));
        let next = unit + 1;
        let wraps = next.equals(k.u32(self.shape.units));
        self.parity.set(self.parity.get() ^ wraps.as_u32());
        self.place.set(k.u32(0).when(wraps, next));
    }

    /// Hands over the next unit, to be read.
    pub fn next<T>(&self, body: impl FnOnce(&Unit<'k>) -> T) -> T {
        let unit = self.take();
        let made = body(&Unit { memory: self.memory(unit) });
        self.k.warp_barrier();
        self.refill(unit);
        made
    }

    /// Hands over the next unit, to be changed in place; then copies so many bytes of it to global memory. It is loaded again when it has
    /// been read, for which the warp waits.
    pub fn next_sent(&self, body: impl FnOnce(&Draft<'k>), to: Extent<'k>) {
        let k = self.k;
        self.sends.set(true);
        let unit = self.take();
        let memory = self.memory(unit);
        body(&Draft { memory });
        k.fence_proxy_shared();
        k.warp_barrier();
        k.when(self.elected, || {
            memory.store_bulk(to.start, to.bytes);
            k.commit_copies();
            k.wait_for_sources(0);
        });
        self.refill(unit);
    }
}
