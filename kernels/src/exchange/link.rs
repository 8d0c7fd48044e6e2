//! How a place at another rank is reached. The only file that makes a pointer of a peer's address; kernels say *what* goes *where*, and
//! when it counts as arrived.
//!
//! Invariants:
//! * a [`Peer`] is a rank of this domain, which is stored to directly; nothing is read from it;
//! * what a kernel stores through a [`Place`] is one of the items that its row of the table sends: the virtual cluster counts the bytes
//!   and a test compares;
//! * arrival is a flag: [`Frame::publish`] adds to it with release at system scope, which is cumulative over a CTA barrier.

use moe_contract::{Buffer, Flag, Region};

use super::frame::{Frame, Slot};
use super::row::Piece;
use crate::device::{Element, Global, Pointer, U8, U32, U64, Value};

/// A rank that can be stored to; in a register.
#[derive(Clone, Copy)]
pub(super) struct Peer<'k>(Value<'k, U64>);

impl<'k> Peer<'k> {
    /// Its address, to be handed on.
    pub fn address(self) -> Value<'k, U64> {
        self.0
    }

    /// Of an address that one was made to.
    pub fn of_address(address: Value<'k, U64>) -> Peer<'k> {
        Peer(address)
    }

    /// The peer that a lane of the warp holds. All lanes run it.
    pub fn of_lane(self, lane: Value<'k, U32>) -> Peer<'k> {
        Peer(self.0.of_lane(lane))
    }
}

/// An entry of a region at a rank, in the half of the epoch of the region's flag.
#[derive(Clone, Copy)]
pub(super) struct Remote<'k> {
    pub peer: Peer<'k>,
    pub region: Region,
    pub slot: Slot<'k>,
}

/// Memory of a peer that can be written.
#[derive(Clone, Copy)]
pub(super) struct Place<'k>(Pointer<'k, Global, U8>);

impl<'k> Place<'k> {
    /// Stores word `index`, counted in words of `T`. Weak: what publishes the flag orders it.
    pub fn store<T: Element>(self, index: Value<'k, U32>, value: Value<'k, T>) {
        self.0.cast::<T>().at(index).store(value);
    }

    /// As two words, to be handed on.
    pub fn to_words(self) -> [Value<'k, U32>; 2] {
        let address = self.0.address();
        [address.low_word(), (address >> 32).low_word()]
    }

    /// Of two words that a place was made to.
    pub fn of_words([low, high]: [Value<'k, U32>; 2]) -> Place<'k> {
        Place((low.wide() | (high.wide() << 32)).to_pointer())
    }

    /// Further words lie behind so many of `T`.
    pub fn behind<T: Element>(self, words: u32) -> Place<'k> {
        Place(self.0.cast::<T>().at_constant(words).cast())
    }

    /// Stores the first word. Weak.
    pub fn store_first<T: Element>(self, value: Value<'k, T>) {
        self.0.cast::<T>().store(value);
    }

    /// Stores a piece of a row; only in a lane that has it. Weak.
    pub fn store_piece<T: Element>(self, piece: Piece<'k>, value: Value<'k, T>) {
        piece.place_in(self.0.cast::<T>()).store(value);
    }

    /// Stores word `index`, counted in words of `T` with 64 bits. Weak.
    pub fn store_wide<T: Element>(self, index: Value<'k, U64>, value: Value<'k, T>) {
        self.0.bytes(index * u64::from(T::BYTES)).cast::<T>().store(value);
    }
}

impl<'k> Frame<'k, '_> {
    /// A rank, to be written to. One load.
    pub fn peer(&self, rank: Value<'k, U32>) -> Peer<'k> {
        Peer(self.buffer::<U64>(Buffer::Peers).at(rank).load())
    }

    /// Where an entry at a peer is.
    pub fn place(&self, remote: Remote<'k>) -> Place<'k> {
        let Remote { peer, region, slot } = remote;
        let offset = self.entry(region, slot) * region.shape(self.exchange).stride;
        Place((peer.0 + offset + self.exchange.region_start(region)).to_pointer())
    }

    /// What all threads of the CTA wrote is published: a CTA barrier, then [`Frame::publish`]. Nothing where there is a single rank. All
    /// threads of the CTA run it.
    pub fn publish_together(&self, flag: Flag) {
        if self.exchange.has_flags() {
            self.k.cta_barrier();
            self.publish(flag);
        }
    }

    /// Adds 1 to this rank's flag on every rank: all that this thread wrote, or the CTA wrote before its last barrier, precedes.
    pub fn publish(&self, flag: Flag) {
        let k = self.k;
        let mine = self.rank().wide() * 8u64 + self.exchange.flag_start(flag);
        k.for_each(k.thread(), k.u32(self.exchange.ranks), k.u32(self.exchange.threads), |rank| {
            (self.peer(rank).0 + mine).to_pointer::<U64>().red_release_sys_add(k.u64(1));
        });
    }
}
