//! Dispatch, the sending half: rows to every rank that their token goes to. Also a cached dispatch, and the backward of combine.
//!
//! * Reads the rows of this rank's tokens in the source format, `slots` i32 `[tokens][R]`; with records the indices, weights and
//!   `send_counts`. Writes, at every destination, rows, scales and records of its slots in the half of this epoch, the count of this
//!   source, and the flag of dispatch.
//! * `ctas_link` CTAs; one warp per token, or several where there are fewer tokens than warps. A row is loaded and converted once, in batches of a few chunks per lane, and each batch is stored
//!   to all destinations before the next is loaded, the rank behind this one first. A lane stands for up to three ranks, so that no array has
//!   the size of the ranks.
//! * Memory order: stores are weak; [`Frame::publish_together`] makes them visible before the flag. CTA 0 stores the counts
//!   by the threads that then add to the flag of the same rank. The half is free: see [`super`].
//! * Cost, per destination rank: what the table says ([`moe_contract::kernel`]); each row is loaded once.

use moe_contract::{Buffer, Flag, Format, Region, Tensor};

use super::frame::{Frame, Slot};
use super::link::{Peer, Remote};
use super::payload;
use super::row::{self, for_each_batch_of_part};
use crate::device::{Global, Pointer, U32, U64, Value};

/// What travels.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// For a new handle.
    RowsAndRecords,
    /// For a handle that the destinations have.
    Rows,
}

/// Ranks of one group, one for each lane, and the slots of a token there.
struct Group<'k> {
    /// Its first place in [`Frame::rank_at`].
    first: u32,
    /// Each lane's rank; `None` where a lane has no registers left for it, so that a rank is looked up when it is written to.
    peers: Option<Peer<'k>>,
    slots: Value<'k, U32>,
    /// Lanes whose rank the token goes to.
    lanes: Value<'k, U32>,
}

pub(super) fn body(frame: &Frame<'_, '_>, rows: Tensor, sent: Sent) {
    frame.end_on_error();
    let (k, exchange) = (frame.k, frame.exchange);
    let format = if rows == Tensor::CombinedGradient { exchange.combine } else { exchange.dispatch };

    let ranks = exchange.ranks;
    let place_of_lane = |group: u32| k.lane() + 32 * group;
    let rank_of_lane = |group: u32| frame.rank_at(place_of_lane(group));
    // Three groups of ranks and the pieces in flight are more than the registers of a thread of a large CTA.
    let held = exchange.threads <= 512 || frame.rank_groups() < 3;
    let peers: Vec<Option<Peer>> =
        (0..frame.rank_groups()).map(|group| held.then(|| frame.peer(rank_of_lane(group)))).collect();

    let (pieces, in_flight) = (pieces(frame, format), payload::in_flight(exchange.threads));
    frame.for_each_part_by_warps(frame.tokens(), row::batches(pieces, in_flight), |token, part| {
        let slots = frame.buffer::<U32>(Buffer::Slots).bytes(token.wide() * (4 * u64::from(ranks)));
        let slots: Pointer<Global, U32> = slots.cast();
        let groups: Vec<Group> = (0..)
            .zip(&peers)
            .map(|(group, &peers)| {
                let exists = place_of_lane(group).less(k.u32(ranks));
                let slots = slots.at(rank_of_lane(group)).load();
                Group { first: 32 * group, peers, slots, lanes: k.ballot(exists & !slots.is_negative()) }
            })
            .collect();
        if sent == Sent::RowsAndRecords {
            let send = || send_records(frame, token, &groups);
            part.map_or_else(send, |part| k.when(part.number.equals(k.u32(0)), send));
        }
        let row = frame.tensor_row(rows, token);
        for_each_batch_of_part(k, pieces, in_flight, part, |pieces| {
            let pieces = payload::load(k, format, row, pieces);
            for_each_destination(frame, &groups, |peer, slot| {
                let [row, scales] =
                    [Region::Rows, Region::Scales].map(|region| frame.place(Remote { peer, region, slot }));
                pieces.iter().for_each(|piece| piece.store(k, row, scales));
            });
        });
    });

    if sent == Sent::RowsAndRecords {
        send_counts(frame);
    }
    frame.publish_together(Flag::Dispatch);
}

/// 16-byte chunks of a row.
pub(super) fn pieces(frame: &Frame<'_, '_>, format: Format) -> u32 {
    frame.exchange.row_bytes(format) as u32 / 16
}

/// Runs `body` with each destination, and the slot of this rank's copy there, in the order of [`Frame::rank_at`]: ranks that send at the same
/// time begin with different ones. All lanes run it.
fn for_each_destination<'k>(frame: &Frame<'k, '_>, groups: &[Group<'k>], body: impl Fn(Peer<'k>, Slot<'k>)) {
    let k = frame.k;
    for group in groups {
        let left = k.variable(group.lanes);
        k.repeat_while(
            || left.get().differs(k.u32(0)),
            || {
                let lane = left.get().lowest_set();
                left.set(left.get().without_lowest_set());
                let slot = Slot { list: frame.rank(), index: group.slots.of_lane(lane) };
                let peer = group
                    .peers
                    .map_or_else(|| frame.peer(frame.rank_at(lane + group.first)), |peers| peers.of_lane(lane));
                body(peer, slot);
            },
        );
    }
}

/// Source token, ordinal, picks and weights to each destination: a lane for each pick.
fn send_records<'k>(frame: &Frame<'k, '_>, token: Value<'k, U32>, groups: &[Group<'k>]) {
    let (k, top_k) = (frame.k, frame.exchange.top_k);
    let has_pick = k.lane().less(k.u32(top_k));
    let place = k.lane().min(k.u32(top_k - 1));
    let [pick, weight] =
        [Tensor::Indices, Tensor::Weights].map(|tensor| frame.tensor_row(tensor, token).cast::<U32>().at(place).load());
    // Ordinals are by ascending rank: those up to this rank have the lowest, and come last.
    let (mut count, mut lowest) = (k.u32(0), k.u32(0));
    for group in groups {
        let low = !frame.rank().less(frame.rank_at(k.lane() + group.first));
        count = count + group.lanes.count_ones();
        lowest = lowest + (group.lanes & k.ballot(low)).count_ones();
    }
    let ordinal = k.variable(lowest.when(lowest.less(count), k.u32(0)));
    for_each_destination(frame, groups, |peer, slot| {
        let record = frame.place(Remote { peer, region: Region::Records, slot });
        let picks = record.behind::<U64>(1);
        k.when(has_pick, || {
            picks.store(k.lane(), pick);
            picks.behind::<U32>(top_k).store(k.lane(), weight);
        });
        k.when(k.lane().equals(k.u32(0)), || {
            record.store_first::<U64>(token.wide() | (ordinal.get().wide() << 32));
        });
        let next = ordinal.get() + 1;
        ordinal.set(next.when(next.less(count), k.u32(0)));
    });
}

/// How many copies go to each rank. By CTA 0, and by the threads that publish to that rank.
fn send_counts(frame: &Frame<'_, '_>) {
    let (k, exchange) = (frame.k, frame.exchange);
    let slot = Slot { list: frame.rank(), index: k.u32(0) };
    let counts = frame.buffer::<U32>(Buffer::SendCounts);
    k.when(k.cta().equals(k.u32(0)), || {
        k.for_each(k.thread(), k.u32(exchange.ranks), k.u32(exchange.threads), |rank| {
            let count = frame.place(Remote { peer: frame.peer(rank), region: Region::Counts, slot });
            count.store_first::<U32>(counts.at(rank).load());
        });
    });
}
