//! Rows that are summed: the ring that a warp reads them through, unit by unit, and the sums of a unit.
//!
//! Invariants: a unit is what 32 lanes hold the sums of at once, so that unit u of a row is batch u of [`for_each_batch_of_part`]; it is read in as
//! many pieces, the last one of a row in fewer. Rows of one sum are read one after the other for each unit, in the order in which they are
//! added.
//!
//! The rings of a CTA take less than half of a multiprocessor, so that CTAs of two ranks that share a GPU find places on one.

use crate::device::ring::{BESIDE_A_RING, BESIDE_A_UNIT, Extent, Ring, Shape, Source, Unit};
use crate::device::{Builder, F32, Global, Pointer, U8, U32, Value, Variable};
use moe_contract::Format;

use super::dispatch_send::pieces;
use super::frame::Frame;
use super::payload;
use super::row::{self, Part, Piece, for_each_batch_of_part};

/// Bytes of the rings of a CTA, with what goes beside them.
const RINGS: u32 = 110 * 1024;
/// Units of a warp: fewer do not overlap, more are of no use.
const UNITS: (u32, u32) = (2, 6);

/// Whether a thread has registers for what is loaded of a row before its turn comes: not in a large CTA.
pub(super) fn looks_ahead(frame: &Frame<'_, '_>) -> bool {
    frame.exchange.threads <= 512
}

/// Bytes of a piece.
const PIECE: u32 = 16;

/// Rows of a format, in units.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    format: Format,
    /// Bytes of a row.
    bytes: u32,
    /// Pieces of a row.
    pieces: u32,
    /// Pieces of a lane in a unit.
    per_lane: u32,
}

impl Rows {
    pub fn of(frame: &Frame<'_, '_>, format: Format) -> Rows {
        let pieces = pieces(frame, format);
        let per_lane = payload::sums_in_flight(frame.exchange.threads).min(pieces.div_ceil(32));
        Rows { format, bytes: pieces * PIECE, pieces, per_lane }
    }

    /// Bytes of a unit.
    fn unit(self) -> u32 {
        32 * self.per_lane * PIECE
    }

    pub fn shape(self, warps: u32) -> Shape {
        let beside = BESIDE_A_UNIT + self.unit();
        let units = ((RINGS / warps).saturating_sub(BESIDE_A_RING) / beside).clamp(UNITS.0, UNITS.1);
        Shape { warps, units, bytes: self.unit() }
    }

    /// The unit of a row that begins at a byte.
    pub fn extent<'k>(self, k: &'k Builder, row: Pointer<'k, Global, U8>, start: Value<'k, U32>) -> Extent<'k> {
        let bytes = if self.bytes.is_multiple_of(self.unit()) {
            k.u32(self.unit())
        } else {
            (k.u32(self.bytes) - start).min(k.u32(self.unit()))
        };
        Extent { start: row.bytes(start.wide()), bytes }
    }

    /// Units of a row: into so many parts it can be cut.
    pub fn units(self) -> u32 {
        row::batches(self.pieces, self.per_lane)
    }

    /// Runs `body` for each unit of a part of a row, with the pieces of a lane. All lanes run it.
    pub fn for_each_unit<'k>(self, k: &'k Builder, part: Option<Part<'k>>, body: impl Fn(&[Piece<'k>])) {
        for_each_batch_of_part(k, self.pieces, self.per_lane, part, body);
    }

    /// The numbers of a lane in a unit, by piece; those of some other piece where the lane has not so many.
    pub fn numbers<'k>(self, k: &'k Builder, unit: &Unit<'k>, pieces: &[Piece<'k>]) -> Vec<Vec<Value<'k, F32>>> {
        let last = (self.pieces - 1) % (32 * self.per_lane);
        let place = |(round, piece): (u32, &Piece<'k>)| {
            let place = k.lane() + 32 * round;
            if piece.active.is_some() { place.min(k.u32(last)) } else { place }
        };
        let chunks: Vec<_> = (0..).zip(pieces).map(|at| unit.chunk(place(at))).collect();
        chunks.into_iter().map(|chunk| payload::numbers(self.format, chunk)).collect()
    }
}

/// Where a source is in a row.
pub(super) struct Place<'k> {
    k: &'k Builder,
    rows: Rows,
    start: Variable<'k, U32>,
    /// Bytes from a unit to the next one of the part.
    step: Variable<'k, U32>,
}

impl<'k> Place<'k> {
    /// At the beginning of one.
    pub fn new(k: &'k Builder, rows: Rows) -> Place<'k> {
        Place { k, rows, start: k.variable(k.u32(0)), step: k.variable(k.u32(rows.unit())) }
    }

    /// At the first unit of a part of one.
    pub fn begin(&self, part: Option<Part<'k>>) {
        let unit = self.rows.unit();
        self.start.set(part.map_or(self.k.u32(0), |part| part.number * unit));
        self.step.set(part.map_or(self.k.u32(unit), |part| part.of * unit));
    }

    /// The unit of a row.
    pub fn of(&self, row: Pointer<'k, Global, U8>) -> Extent<'k> {
        self.rows.extent(self.k, row, self.start.get())
    }

    /// All rows of a sum have been read as far as this unit: `over`, which begins another one, runs where it was the last.
    pub fn advance(&self, over: impl FnOnce()) {
        let k = self.k;
        let after = self.start.get() + self.step.get();
        k.when_else(after.at_least(k.u32(self.rows.bytes)), over, || self.start.set(after));
    }
}

/// Sums of the elements of a few chunks, added one row after the other.
pub(super) struct Sums<'k>(Vec<Vec<Variable<'k, F32>>>);

impl<'k> Sums<'k> {
    /// The first row starts the sums.
    pub fn start(k: &'k Builder, first: Vec<Vec<Value<'k, F32>>>) -> Sums<'k> {
        let of_chunk = |numbers: Vec<_>| numbers.into_iter().map(|number| k.variable(number)).collect();
        Sums(first.into_iter().map(of_chunk).collect())
    }

    /// A further row is added.
    pub fn add(&self, row: &[Vec<Value<'k, F32>>]) {
        for (sums, numbers) in self.0.iter().zip(row) {
            sums.iter().zip(numbers).for_each(|(sum, &number)| sum.set(sum.get() + number));
        }
    }

    /// By chunk.
    pub fn get(&self) -> Vec<Vec<Value<'k, F32>>> {
        self.0.iter().map(|chunk| chunk.iter().map(|sum| sum.get()).collect()).collect()
    }
}

/// A ring over rows of the sums of this kernel.
pub(super) fn run<'k, S: Source<'k>>(frame: &Frame<'k, '_>, rows: Rows, source: S, body: impl FnOnce(&Ring<'k, S>)) {
    Ring::run(frame.k, rows.shape(frame.warps()), source, body);
}
