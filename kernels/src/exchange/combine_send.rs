//! Combine, the sending half: the partial sum of every received copy to its source. Also the backward of dispatch, without weights.
//!
//! * Reads the experts' output `[N, h]` and the handle: `received_counts`, tokens, ordinals, rows and weights of copies. Writes
//!   `partials` at the source: slot (ordinal, token) of the half of this epoch, and `combine_arrival`.
//! * `ctas_link` CTAs; one warp per copy, in the order of [`super::copies`], a lane for each of its picks. Several warps share a
//!   copy where there are fewer copies than warps. The rows of the local picks come
//!   through a ring ([`super::units`]), which is filled across the ends of copies: unit by unit they are added in ascending position in f32, the
//!   first starts the sum, and the sum is rounded once. In a rank-major layout a copy is one row.
//! * Memory order: an earlier kernel wrote the rows; stores are weak, and [`Frame::publish_together`] makes them visible before the flag.
//! * Cost, per source rank: what the table says ([`moe_contract::kernel`]); each row of the output is read once. What is known of a copy is
//!   loaded while the copy before it is read.

use moe_contract::{Buffer, Exchange, Flag, Region, Tensor};

use super::copies::{Copies, Copy};
use super::dispatch_place::copy_rows;
use super::frame::{Frame, Items, Slot};
use super::link::{self, Remote};
use super::payload;
use super::units::{self, Place, Rows, Sums, looks_ahead};
use crate::device::ring::{Extent, Notes, Source};
use crate::device::{F32, Pred, U32, U64, Value, Variable};

/// Whether rows are multiplied by their weights.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Weighting {
    Weighted,
    Unweighted,
}

impl Weighting {
    pub fn of(exchange: &Exchange) -> Weighting {
        if exchange.weighted { Weighting::Weighted } else { Weighting::Unweighted }
    }
}

pub(super) fn body(frame: &Frame<'_, '_>, weighting: Weighting) {
    frame.end_on_error();
    let k = frame.k;
    let copies = Copies::of_handle(frame);
    k.when(copies.total().differs(k.u32(0)), || send_all(frame, weighting, &copies));
    frame.publish_together(Flag::Combine);
}

fn send_all<'k>(frame: &Frame<'k, '_>, weighting: Weighting, copies: &Copies<'k>) {
    let (k, exchange) = (frame.k, frame.exchange);
    let format = exchange.combine;
    let rows = Rows::of(frame, format);
    let notes = Notes::new(k, rows.shape(frame.warps()));
    let source = OutputRows::new(frame, weighting, rows, copies, &notes);
    units::run(frame, rows, source, |ring| {
        frame.for_each_part_by_warps(copies.total(), most_parts(frame, rows), |_, part| {
            // A thread of a large CTA has no registers for it.
            let note = notes.read();
            let held = looks_ahead(frame).then(|| note.chunk());
            let words = || held.unwrap_or_else(|| note.chunk()).words();
            let weigh = |numbers: Vec<Vec<Value<'k, F32>>>, lane: Value<'k, U32>| match weighting {
                Weighting::Unweighted => numbers,
                Weighting::Weighted => {
                    let weight = words()[0].bits_to_f32().of_lane(lane);
                    numbers.into_iter().map(|piece| piece.into_iter().map(|number| weight * number).collect()).collect()
                }
            };
            rows.for_each_unit(k, part, |pieces| {
                let term = |lane: Value<'k, U32>| weigh(ring.next(|unit| rows.numbers(k, unit, pieces)), lane);
                let lanes = words()[1];
                let sums = Sums::start(k, term(lanes.lowest_set()));
                if exchange.layout.by_expert() {
                    let left = k.variable(lanes.without_lowest_set());
                    k.repeat_while(
                        || left.get().differs(k.u32(0)),
                        || {
                            sums.add(&term(left.get().lowest_set()));
                            left.set(left.get().without_lowest_set());
                        },
                    );
                }
                let [_, _, low, high] = words();
                let to = link::Place::of_words([low, high]);
                for (piece, sum) in pieces.iter().zip(sums.get()) {
                    let chunk = payload::chunk(k, format, &sum);
                    piece.when_active(|| to.store_piece(*piece, chunk));
                }
            });
        });
    });
}

/// Whether a thread has registers for what is known of the copies of all ranks: for three groups of ranks not in a large CTA, where it is
/// found again for each copy.
fn knows_copies(frame: &Frame<'_, '_>) -> bool {
    looks_ahead(frame) || frame.rank_groups() < 3
}

/// Nor has it registers for parts then.
fn most_parts(frame: &Frame<'_, '_>, rows: Rows) -> u32 {
    if knows_copies(frame) { rows.units() } else { 1 }
}

/// What is loaded of a copy before it is needed.
struct Known<'k> {
    row: Variable<'k, U32>,
    weight: Variable<'k, F32>,
    token: Variable<'k, U32>,
    ordinal: Variable<'k, U32>,
    peer: Variable<'k, U64>,
}

/// The rows of a warp's copies: for each copy unit by unit, and for each unit pick by pick.
struct OutputRows<'f, 'k, 'x> {
    frame: &'f Frame<'k, 'x>,
    weighting: Weighting,
    copies: &'f Copies<'k>,
    items: Items<'k>,
    /// Tells the reader of a copy its weights, picks and target.
    notes: &'f Notes<'k>,
    /// The item that is read, and of its copy each lane's row, the lanes that have one, and those that are left of this unit.
    item: Variable<'k, U32>,
    row: Variable<'k, U32>,
    lanes: Variable<'k, U32>,
    left: Variable<'k, U32>,
    place: Place<'k>,
    /// Of the copy behind it.
    ahead: Known<'k>,
}

impl<'f, 'k, 'x> OutputRows<'f, 'k, 'x> {
    fn new(
        frame: &'f Frame<'k, 'x>,
        weighting: Weighting,
        rows: Rows,
        copies: &'f Copies<'k>,
        notes: &'f Notes<'k>,
    ) -> Self {
        let k = frame.k;
        let word = || k.variable(k.u32(0));
        let ahead = Known {
            row: word(),
            weight: k.variable(k.f32(0.0)),
            token: word(),
            ordinal: word(),
            peer: k.variable(k.u64(0)),
        };
        let item = k.variable(frame.first_item());
        let items = frame.items(copies.total(), most_parts(frame, rows));
        let (row, lanes, left) = (word(), word(), word());
        let place = Place::new(k, rows);
        let source = OutputRows { frame, weighting, copies, items, notes, item, row, lanes, left, place, ahead };
        if looks_ahead(frame) {
            source.look_at(item.get());
        }
        source.enter();
        source
    }

    /// Loads what is known of the copy of an item, or of the last one.
    fn look_at(&self, item: Value<'k, U32>) {
        let (k, frame) = (self.frame.k, self.frame);
        let (number, _) = self.items.split(item.min(self.items.count - 1));
        let copy: Copy = match knows_copies(frame) {
            true => self.copies.find(frame, number),
            false => Copies::of_handle(frame).find(frame, number),
        };
        self.ahead.row.set(copy_rows(frame, copy));
        if self.weighting == Weighting::Weighted {
            let top_k = frame.exchange.top_k;
            let pick = k.lane().min(k.u32(top_k - 1));
            self.ahead.weight.set(frame.buffer::<F32>(Buffer::CopyWeights).at(copy.place * top_k + pick).load());
        }
        self.ahead.token.set(frame.buffer::<U32>(Buffer::CopyTokens).at(copy.place).load());
        self.ahead.ordinal.set(frame.buffer::<U32>(Buffer::CopyOrdinals).at(copy.place).load());
        self.ahead.peer.set(frame.peer(copy.source).address());
    }

    /// The copy that has been looked at is the one that is read, and the next one is looked at.
    fn enter(&self) {
        let (k, frame) = (self.frame.k, self.frame);
        k.when(self.item.get().less(self.items.count), || {
            if !looks_ahead(frame) {
                self.look_at(self.item.get());
            }
            self.place.begin(self.items.split(self.item.get()).1);
            let row = self.ahead.row.get();
            let lanes = k.ballot(!row.is_negative());
            self.row.set(row);
            self.lanes.set(lanes);
            self.left.set(lanes);
            let slot = Slot { list: self.ahead.ordinal.get(), index: self.ahead.token.get() };
            let peer = link::Peer::of_address(self.ahead.peer.get());
            let to = frame.place(Remote { peer, region: Region::Partials, slot });
            let [low, high] = to.to_words();
            self.notes.write(k.chunk([self.ahead.weight.get().bits(), lanes, low, high]));
            if looks_ahead(frame) {
                self.look_at(self.item.get() + frame.item_step());
            }
        });
    }
}

impl<'k> Source<'k> for OutputRows<'_, 'k, '_> {
    fn more(&self) -> Value<'k, Pred> {
        self.item.get().less(self.items.count)
    }

    fn next(&self) -> Extent<'k> {
        let (k, frame, left) = (self.frame.k, self.frame, self.left.get());
        let row = frame.tensor_row(Tensor::ExpertOutput, self.row.get().of_lane(left.lowest_set()));
        let extent = self.place.of(row);
        let others = if frame.exchange.layout.by_expert() { left.without_lowest_set() } else { k.u32(0) };
        self.left.set(others);
        k.when(others.equals(k.u32(0)), || {
            self.left.set(self.lanes.get());
            self.place.advance(|| {
                self.item.set(self.item.get() + frame.item_step());
                self.enter();
            });
        });
        extent
    }
}
