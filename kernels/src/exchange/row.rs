//! Rows in pieces: a warp moves 32 neighbouring pieces at once, several times in flight.
//!
//! A *piece* is what one lane stores at once: a 16-byte chunk, or a 4-byte word of scales. Lane l of a warp takes the pieces
//! l, l + 32, l + 64 …; the number of pieces is a constant, so that only the last round of a row can be incomplete.

use crate::device::{Builder, Element, Global, Pointer, Pred, U8, U32, U64, Value};

/// One piece of a row.
#[derive(Clone, Copy)]
pub(super) struct Piece<'k> {
    /// Number of the lane's piece, without `further`.
    number: Value<'k, U64>,
    /// Added to `number`: a constant, which becomes part of the address.
    further: u32,
    /// The lane has such a piece; `None` when every lane has.
    pub active: Option<Value<'k, Pred>>,
    /// Of the row.
    last: u32,
}

impl<'k> Piece<'k> {
    /// The piece in a row of elements `T`, one per piece. An inactive lane gets the last piece of the row, which it may load.
    pub fn load_from<T: Element>(self, row: Pointer<'k, Global, T>) -> Value<'k, T> {
        self.group_from::<T, 1>(row)[0]
    }

    /// `N` neighbouring elements that make this piece.
    pub fn group_from<T: Element, const N: usize>(self, row: Pointer<'k, Global, T>) -> [Value<'k, T>; N] {
        let k = self.number.builder();
        let bytes = u64::from(T::BYTES) * N as u64;
        let first: Pointer<Global, U8> = match self.active {
            None => row.bytes(self.number * bytes).bytes(k.u64(u64::from(self.further) * bytes)),
            Some(active) => {
                let number = (self.number + u64::from(self.further)).when(active, k.u64(u64::from(self.last)));
                row.bytes(number * bytes)
            }
        };
        std::array::from_fn(|place| first.cast::<T>().at_constant(place as u32).load())
    }

    /// Address of the piece in a row of elements `T`, one per piece; only for an active lane.
    pub fn place_in<T: Element>(self, row: Pointer<'k, Global, T>) -> Pointer<'k, Global, T> {
        let k = self.number.builder();
        let bytes = u64::from(T::BYTES);
        row.bytes(self.number * bytes).bytes(k.u64(u64::from(self.further) * bytes)).cast()
    }

    /// Its number in the row.
    pub fn number(self) -> Value<'k, U64> {
        self.number + u64::from(self.further)
    }

    /// Runs `body` where the lane has this piece.
    pub fn when_active(self, body: impl FnOnce()) {
        match self.active {
            None => body(),
            Some(active) => self.number.builder().when(active, body),
        }
    }
}

/// What a warp takes of a row that several warps share: the batches `number`, `number + of`, `number + 2 of` …. No block of a format with
/// scales is in two batches.
#[derive(Clone, Copy)]
pub(super) struct Part<'k> {
    pub number: Value<'k, U32>,
    pub of: Value<'k, U32>,
}

/// Batches of a row: into so many parts it can be cut.
pub(super) fn batches(pieces: u32, in_flight: u32) -> u32 {
    pieces.div_ceil(32 * in_flight)
}

/// Runs `body` for all pieces of a row, `in_flight` at a time for each lane. All lanes run it.
pub(super) fn for_each_batch<'k>(k: &'k Builder, pieces: u32, in_flight: u32, body: impl Fn(&[Piece<'k>])) {
    for_each_batch_of_part(k, pieces, in_flight, None, body);
}

/// The same for a part of the row, where it is cut.
pub(super) fn for_each_batch_of_part<'k>(
    k: &'k Builder,
    pieces: u32,
    in_flight: u32,
    part: Option<Part<'k>>,
    body: impl Fn(&[Piece<'k>]),
) {
    let (per_batch, last) = (32 * in_flight, pieces - 1);
    let (full_batches, rest) = (pieces / per_batch, pieces % per_batch);
    let lane = k.lane().wide();
    let full = |number| -> Vec<Piece<'k>> {
        (0..in_flight).map(|round| Piece { number, further: 32 * round, active: None, last }).collect()
    };
    let end = full_batches * per_batch;
    match (part, full_batches) {
        (_, 0) => {}
        (None, 1) => body(&full(lane)),
        (_, _) => {
            let (first, step) = part.map_or((k.u32(0), k.u32(1)), |part| (part.number, part.of));
            k.for_each(first * per_batch, k.u32(end), step * per_batch, |first| body(&full(first.wide() + lane)));
        }
    }
    let tail: Vec<Piece<'k>> = (0..rest.div_ceil(32))
        .map(|round| {
            let left = rest - 32 * round;
            let active = (left < 32).then(|| k.lane().less(k.u32(left)));
            Piece { number: lane, further: end + 32 * round, active, last }
        })
        .collect();
    match part {
        _ if tail.is_empty() => {}
        None => body(&tail),
        Some(Part { number, of }) => k.when((k.u32(full_batches) % of).equals(number), || body(&tail)),
    }
}
