//! Received copies, and the order in which warps take them.
//!
//! Copies are numbered by slot, and within a slot by source, beginning with the source after this rank: while every rank works through its
//! copies, no two of them write to the same rank for long. Taken source by source, all ranks would write to rank 0, then to rank 1 …, and
//! the links of one rank would carry everything. A source without a copy in a slot takes no number. Which warp takes a copy changes no bit:
//! every place and the order of every sum follow from source and slot.
//!
//! A lane stands for the sources at its places ([`Frame::rank_at`]): what a warp knows of all sources is a few registers, whatever their
//! number.

use moe_contract::Buffer;

use super::frame::{Frame, Slot};
use crate::device::{Global, Pointer, U32, Value};

impl<'k> Copy<'k> {
    /// Where it lies in the regions by source.
    pub fn place_of_slot(self) -> Slot<'k> {
        Slot { list: self.source, index: self.slot }
    }
}

/// How many copies have come from the source of each lane.
struct OfLane<'k> {
    source: Value<'k, U32>,
    /// 0 where the lane has no source.
    count: Value<'k, U32>,
    /// All copies in slots that are below `count`: the number after the source's last one.
    end: Value<'k, U32>,
}

/// What has come from all sources.
pub(super) struct Copies<'k> {
    groups: Vec<OfLane<'k>>,
    /// All copies.
    total: Value<'k, U32>,
}

/// One copy; the same in all lanes of the warp.
#[derive(Clone, Copy)]
pub(super) struct Copy<'k> {
    pub source: Value<'k, U32>,
    pub slot: Value<'k, U32>,
    /// Its place in arrays `[source][max_tokens]` of a handle.
    pub place: Value<'k, U32>,
    /// Copies of lower sources, and those in lower slots of its own: its row in a layout that has one for each copy.
    row: Option<Value<'k, U32>>,
}

impl<'k> Copy<'k> {
    /// Its row in a layout that has one for each copy.
    pub fn row(self) -> Value<'k, U32> {
        self.row.expect("rows are not by expert")
    }
}

impl<'k> Copies<'k> {
    /// From u32 `[ranks]`. All lanes run it.
    fn of(frame: &Frame<'k, '_>, counts: Pointer<'k, Global, U32>) -> Copies<'k> {
        let k = frame.k;
        let of_lane: Vec<_> = (0..frame.rank_groups())
            .map(|group| {
                let place = k.lane() + 32 * group;
                let source = frame.rank_at(place);
                (source, counts.at(source).load().when(place.less(k.u32(frame.exchange.ranks)), k.u32(0)))
            })
            .collect();
        let ends: Vec<_> = of_lane.iter().map(|_| k.variable(k.u32(0))).collect();
        for (group, (_, theirs)) in (0..).zip(&of_lane) {
            k.for_each(k.u32(0), k.u32((frame.exchange.ranks - 32 * group).min(32)), k.u32(1), |lane| {
                let other = theirs.of_lane(lane);
                for (end, (_, count)) in ends.iter().zip(&of_lane) {
                    end.set(end.get() + other.min(*count));
                }
            });
        }
        let total = of_lane.iter().map(|(_, count)| *count).reduce(|sum, count| sum + count);
        let groups =
            of_lane.into_iter().zip(ends).map(|((source, count), end)| OfLane { source, count, end: end.get() });
        Copies { groups: groups.collect(), total: total.expect("there is a rank").warp_sum() }
    }

    /// The copy with a number that exists and that all lanes of the warp share. All lanes run it.
    pub fn find(&self, frame: &Frame<'k, '_>, number: Value<'k, U32>) -> Copy<'k> {
        let k = frame.k;
        let zero = k.u32(0);
        // Sources that have a copy in this slot, and where the last one that has none left ends: from there on they take turns.
        let (mut sources, mut ended, mut below) = (zero, zero, zero);
        let mut turns = vec![];
        for OfLane { count, end, .. } in &self.groups {
            let has = number.less(*end);
            let lanes = k.ballot(has);
            turns.push((has, sources + (lanes & k.lanes_below()).count_ones()));
            sources = sources + lanes.count_ones();
            (ended, below) = (ended.max(zero.when(has, *count)), below.max(zero.when(has, *end)));
        }
        let (ended, ahead) = (ended.warp_max(), number - below.warp_max());
        let further = ahead / sources;
        let turn = ahead - further * sources;
        let slot = ended + further;
        let sum = |term: &dyn Fn(&OfLane<'k>, usize) -> Value<'k, U32>| {
            let terms = self.groups.iter().enumerate().map(|(group, of_lane)| term(of_lane, group));
            terms.reduce(|sum, term| sum + term).expect("there is a rank").warp_sum()
        };
        let source = sum(&|of_lane, group| {
            let (has, its_turn) = turns[group];
            of_lane.source.when(has & its_turn.equals(turn), zero)
        });
        let row = (!frame.exchange.layout.by_expert())
            .then(|| slot + sum(&|of_lane, _| of_lane.count.when(of_lane.source.less(source), zero)));
        Copy { source, slot, place: source * frame.exchange.max_tokens + slot, row }
    }

    /// Those that the handle lists. All lanes run it.
    pub fn of_handle(frame: &Frame<'k, '_>) -> Copies<'k> {
        Copies::of(frame, frame.buffer(Buffer::ReceivedCounts))
    }

    /// All copies.
    pub fn total(&self) -> Value<'k, U32> {
        self.total
    }

    /// Runs `body` for every copy that the handle lists, a warp for each.
    pub fn for_each_of_handle(frame: &Frame<'k, '_>, body: impl FnOnce(Copy<'k>)) {
        let copies = Copies::of_handle(frame);
        frame.for_each_by_warps(copies.total, |number| body(copies.find(frame, number)));
    }
}
