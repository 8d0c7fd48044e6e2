//! Combine, the receiving half: the partial sums of every token are added.
//!
//! * Waits for `combine_arrival` of all ranks. Reads `slots` i32 `[tokens][R]`, which says how many partial sums a token has, and `partials`
//!   of the half of this epoch. Writes the combined rows `[tokens, h]`; zeros for a token that was sent nowhere.
//! * Up to `ctas_local` CTAs; one warp per token, or several where there are fewer tokens than warps. Partial sums lie in ascending rank and come through a ring ([`super::units`]); they are added in f32 in
//!   this order, the first starts the sum, and the sum is rounded once.
//! * Memory order: each CTA acquires every flag itself; a proxy fence orders what peers stored before the bulk copies that read it.
//! * Cost: no bytes on links; reads each partial sum once. Of how many there are is loaded one token ahead.

use moe_contract::{Buffer, Flag, Region, Tensor};

use super::frame::{Frame, Items, Slot};
use super::payload;
use super::units::{self, Place, Rows, Sums, looks_ahead};
use crate::device::ring::{Extent, Source};
use crate::device::{Global, Pointer, Pred, U32, Value, Variable};

pub(super) fn body(frame: &Frame<'_, '_>) {
    let k = frame.k;
    frame.wait_together(Flag::Combine);
    k.fence_proxy_global();
    k.when(frame.tokens().differs(k.u32(0)), || reduce_all(frame));
}

fn reduce_all(frame: &Frame<'_, '_>) {
    let (k, exchange) = (frame.k, frame.exchange);
    let format = exchange.combine;
    let rows = Rows::of(frame, format);
    units::run(frame, rows, PartialSums::new(frame, rows), |ring| {
        let items = frame.items(frame.tokens(), rows.units());
        let destinations = Destinations::of(frame, items);
        frame.for_each_by_warps(items.count, |item| {
            let count = destinations.take(item);
            let (token, part) = items.split(item);
            let to = frame.tensor_row(Tensor::Combined, token);
            rows.for_each_unit(k, part, |pieces| {
                k.when_else(
                    count.equals(k.u32(0)),
                    || {
                        for piece in pieces {
                            piece.when_active(|| piece.place_in(to.cast()).store(k.zero_chunk()));
                        }
                    },
                    || {
                        let term = || ring.next(|unit| rows.numbers(k, unit, pieces));
                        let sums = Sums::start(k, term());
                        k.for_each(k.u32(1), count, k.u32(1), |_| sums.add(&term()));
                        for (piece, sum) in pieces.iter().zip(sums.get()) {
                            let chunk = payload::chunk(k, format, &sum);
                            piece.when_active(|| piece.place_in(to.cast()).store(chunk));
                        }
                    },
                );
            });
        });
    });
}

/// To how many ranks a token was sent: a lane for each rank, loaded before it is asked for.
struct Destinations<'f, 'k, 'x> {
    frame: &'f Frame<'k, 'x>,
    items: Items<'k>,
    slots: Vec<Variable<'k, U32>>,
}

impl<'f, 'k, 'x> Destinations<'f, 'k, 'x> {
    fn of(frame: &'f Frame<'k, 'x>, items: Items<'k>) -> Self {
        let k = frame.k;
        let slots = (0..frame.rank_groups()).map(|_| k.variable(k.u32(0))).collect();
        let destinations = Destinations { frame, items, slots };
        if looks_ahead(frame) {
            destinations.load(frame.first_item());
        }
        destinations
    }

    /// Of the token of an item, or of the last one.
    fn load(&self, item: Value<'k, U32>) {
        let (k, frame) = (self.frame.k, self.frame);
        let ranks = frame.exchange.ranks;
        let (token, _) = self.items.split(item.min(self.items.count - 1));
        let slots = frame.buffer::<U32>(Buffer::Slots).bytes(token.wide() * (4 * u64::from(ranks)));
        let slots: Pointer<Global, U32> = slots.cast();
        for (group, slot) in (0..).zip(&self.slots) {
            slot.set(slots.at((k.lane() + 32 * group).min(k.u32(ranks - 1))).load());
        }
    }

    /// How many the token of an item has, which is the next one; the one behind it is looked at. All lanes run it.
    fn take(&self, item: Value<'k, U32>) -> Value<'k, U32> {
        let ahead = looks_ahead(self.frame);
        if !ahead {
            self.load(item);
        }
        let count = self.count();
        if ahead {
            self.load(item + self.frame.item_step());
        }
        count
    }

    fn count(&self) -> Value<'k, U32> {
        let (k, ranks) = (self.frame.k, self.frame.exchange.ranks);
        let of_group = |(group, slot): (u32, &Variable<'k, U32>)| {
            let rank = k.lane() + 32 * group;
            k.ballot(rank.less(k.u32(ranks)) & !slot.get().is_negative()).count_ones()
        };
        (0..).zip(&self.slots).map(of_group).reduce(|sum, count| sum + count).expect("there is a rank")
    }
}

/// The partial sums of a warp's tokens: for each token unit by unit, and for each unit in ascending rank.
struct PartialSums<'f, 'k, 'x> {
    frame: &'f Frame<'k, 'x>,
    items: Items<'k>,
    /// The item that is read, and its token; how many sums that has, and which is next.
    item: Variable<'k, U32>,
    token: Variable<'k, U32>,
    count: Variable<'k, U32>,
    ordinal: Variable<'k, U32>,
    place: Place<'k>,
    /// Of the token behind it.
    ahead: Destinations<'f, 'k, 'x>,
}

impl<'f, 'k, 'x> PartialSums<'f, 'k, 'x> {
    fn new(frame: &'f Frame<'k, 'x>, rows: Rows) -> Self {
        let k = frame.k;
        let items = frame.items(frame.tokens(), rows.units());
        let item = k.variable(frame.first_item());
        let (count, ordinal) = (k.variable(k.u32(0)), k.variable(k.u32(0)));
        let ahead = Destinations::of(frame, items);
        let token = k.variable(k.u32(0));
        let source = PartialSums { frame, items, item, token, count, ordinal, place: Place::new(k, rows), ahead };
        source.look();
        source.skip();
        source
    }

    fn look(&self) {
        self.count.set(self.ahead.take(self.item.get()));
        let (token, part) = self.items.split(self.item.get());
        self.token.set(token);
        self.place.begin(part);
    }

    /// Goes on to a token that has partial sums.
    fn skip(&self) {
        let k = self.frame.k;
        k.repeat_while(
            || self.more() & self.count.get().equals(k.u32(0)),
            || {
                self.item.set(self.item.get() + self.frame.item_step());
                self.look();
            },
        );
    }
}

impl<'k> Source<'k> for PartialSums<'_, 'k, '_> {
    fn more(&self) -> Value<'k, Pred> {
        self.item.get().less(self.items.count)
    }

    fn next(&self) -> Extent<'k> {
        let (k, ordinal) = (self.frame.k, self.ordinal.get());
        let slot = Slot { list: ordinal, index: self.token.get() };
        let extent = self.place.of(self.frame.own(Region::Partials, slot));
        let after = ordinal + 1;
        let ended = after.equals(self.count.get());
        self.ordinal.set(k.u32(0).when(ended, after));
        k.when(ended, || {
            self.place.advance(|| {
                self.count.set(k.u32(0));
                self.skip();
            });
        });
        extent
    }
}
