//! Who is written to when, and by whom: at no time do ranks write more to one of them than its links carry, and no warp has all to do.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use moe_contract::{Call, Exchange, Kernel, RowLayout, Tensor as X};
use moe_judge::Rows;
use moe_judge::reference::{self, Input};
use moe_random::Random;
use moe_vgpu::{Access, AccessKind, Location, Observer};

use crate::scenario::request;
use crate::world::{Everywhere, Loaded, Passed, Schedule, World};

/// Parts of a kernel's run, by the bytes that have crossed links.
const SLICES: u64 = 16;

/// A write across a link.
struct Write {
    /// Rank, CTA and warp.
    by: (usize, u32, u32),
    /// Rank whose memory is written.
    owner: usize,
    bytes: u64,
}

/// All of them, in the order of time.
struct Crossing {
    bases: Everywhere,
    bytes: u64,
    writes: Arc<Mutex<Vec<Write>>>,
}

impl Observer for Crossing {
    fn access(&mut self, access: &Access) {
        let Location::Device(address) = access.location else { return };
        let (thread, bytes) = (access.thread, u64::from(access.bytes));
        let by = (thread.rank.0 as usize, thread.cta, thread.warp);
        let owner = self.bases.iter().position(|base| (base.0..base.0 + self.bytes).contains(&address.0));
        if let Some(owner) = owner.filter(|&owner| owner != by.0 && access.kind != AccessKind::Read) {
            self.writes.lock().expect("nobody panics with it").push(Write { by, owner, bytes });
        }
    }
}

/// Which ranks tokens go to.
#[derive(Clone, Copy, Debug)]
enum Routing {
    /// Any expert as often as another.
    Uniform,
    /// Experts of half of the groups alone, as DeepSeek-V3 does it; each rank has a group.
    Grouped,
}

fn picks(exchange: &Exchange, routing: Routing, random: &mut Random) -> Vec<i32> {
    let draw = |random: &mut Random, mut from: Vec<i32>, count: u32| {
        for place in 0..count as usize {
            let other = place + random.index(from.len() - place);
            from.swap(place, other);
        }
        from.truncate(count as usize);
        from
    };
    let each = (exchange.experts / exchange.ranks) as i32;
    let experts = match routing {
        Routing::Uniform => (0..exchange.experts as i32).collect(),
        Routing::Grouped => {
            let groups = draw(random, (0..exchange.ranks as i32).collect(), exchange.ranks / 2);
            groups.into_iter().flat_map(|group| group * each..(group + 1) * each).collect()
        }
    };
    let mut picks = draw(random, experts, exchange.top_k);
    picks.sort_unstable();
    picks
}

/// Runs every kernel that writes to peers, each when the one before it is over; what each wrote to whom.
fn writes(exchange: &Exchange, tokens: &[u32], routing: Routing) -> Vec<(Kernel, Vec<Write>)> {
    let loaded = Loaded::new(&exchange.checked().expect("it keeps its limits"));
    let mut world = World::new(&loaded, Schedule::random(1));
    let written = Arc::new(Mutex::new(vec![]));
    let bases: Everywhere = world.symmetric().to_vec();
    world.cluster.observe(Box::new(Crossing {
        bases,
        bytes: exchange.symmetric_bytes(),
        writes: Arc::clone(&written),
    }));

    let mut random = Random::new(7);
    let rows = |count: usize| {
        Rows::from_values(exchange.combine, exchange.hidden, &vec![1.0; count * exchange.hidden as usize])
    };
    let mut input = |&tokens: &u32| {
        let indices: Vec<i32> = (0..tokens).flat_map(|_| picks(exchange, routing, &mut random)).collect();
        Input { tokens: rows(tokens as usize), weights: vec![0.125; indices.len()], indices }
    };
    let inputs: Vec<Input> = tokens.iter().map(&mut input).collect();
    let dispatched = reference::dispatch(exchange, &inputs).expect("the picks are right");
    let (ranks, per_row) = (exchange.ranks as usize, exchange.weights_per_row() as usize);
    let of_rank = |bytes: &dyn Fn(usize) -> Vec<u8>| (0..ranks).map(bytes).collect::<Vec<_>>();
    let handle_rows = |rank: usize| dispatched[rank].0.rows;

    let upload = |world: &mut World<'_>, name, bytes: &dyn Fn(usize) -> Vec<u8>| world.upload(name, &of_rank(bytes));
    let of_tokens = upload(&mut world, "tokens", &|rank| inputs[rank].tokens.bytes().to_vec());
    let indices = upload(&mut world, "indices", &|rank| {
        inputs[rank].indices.iter().flat_map(|pick| pick.to_le_bytes()).collect()
    });
    let weights =
        upload(&mut world, "weights", &|rank| inputs[rank].weights.iter().flat_map(|one| one.to_le_bytes()).collect());
    let of_experts = upload(&mut world, "of experts", &|rank| rows(handle_rows(rank)).bytes().to_vec());
    let gradients = upload(&mut world, "gradients", &|rank| vec![0; 4 * handle_rows(rank) * per_row]);
    let row = exchange.row_bytes(exchange.combine);
    let to_experts = world.everywhere("to experts", |rank| handle_rows(rank) as u64 * row);
    let to_tokens = world.everywhere("to tokens", |rank| u64::from(tokens[rank]) * row);
    let to_weights = world.everywhere("to weights", |rank| u64::from(4 * tokens[rank] * exchange.top_k));
    let handle = world.handle();
    let call: Passed<'_> = Passed { tokens: tokens.to_vec(), handle: Some(&handle), ..Passed::default() }
        .tensor(X::Tokens, &of_tokens)
        .tensor(X::Indices, &indices)
        .tensor(X::Weights, &weights)
        .tensor(X::ExpertInput, &to_experts)
        .tensor(X::ExpertOutput, &of_experts)
        .tensor(X::Combined, &to_tokens)
        .tensor(X::CombinedGradient, &of_tokens)
        .tensor(X::ExpertOutputGradient, &to_experts)
        .tensor(X::RowWeightGradients, &gradients)
        .tensor(X::WeightGradients, &to_weights);

    let mut all = vec![];
    // Dispatch comes first: the others need its handle.
    let calls = [
        Call::Dispatch,
        Call::DispatchCached,
        Call::Combine,
        Call::DispatchBackward,
        Call::CombineBackward,
        Call::WeightsBackward,
    ];
    for kernel in calls.into_iter().flat_map(|call| call.kernels(exchange)) {
        world.launch(kernel, &call);
        world.run().unwrap_or_else(|error| panic!("{}: {error}", kernel.name()));
        let written = std::mem::take(&mut *written.lock().expect("nobody panics with it"));
        if kernel.publishes(exchange).is_some() {
            all.push((kernel, written));
        }
    }
    (0..ranks).for_each(|rank| assert_eq!(world.status(rank), [0; 4], "rank {rank}"));
    all
}

/// In each slice of a kernel's run: to which rank most was written, and how many times as much as if all got the same.
fn most_by_slice(ranks: usize, writes: &[Write]) -> Vec<(usize, f64)> {
    let total: u64 = writes.iter().map(|write| write.bytes).sum();
    let mut of_slice = vec![vec![0; ranks]; SLICES as usize];
    let mut before = 0;
    for &Write { owner, bytes, .. } in writes {
        of_slice[(before * SLICES / total) as usize][owner] += bytes;
        before += bytes;
    }
    let most = |slice: Vec<u64>| {
        let (rank, bytes) = slice.into_iter().enumerate().max_by_key(|(_, bytes)| *bytes).expect("there are ranks");
        (rank, (bytes * SLICES * ranks as u64) as f64 / total as f64)
    };
    of_slice.into_iter().map(most).collect()
}

#[test]
fn no_rank_is_written_more_than_twice_its_share() {
    let weighs =
        Exchange { ranks: 8, experts: 64, zero_experts: 0, top_k: 8, hidden: 64, max_tokens: 512, ..request() };
    let experts_weigh = Exchange { layout: RowLayout::RankMajor, weighted: false, ..weighs };
    for exchange in [weighs, experts_weigh] {
        for routing in [Routing::Uniform, Routing::Grouped] {
            // As many tokens everywhere, and two ranks with half as many: their copies end before those of the others.
            for tokens in [[512; 8], [512, 256, 512, 512, 512, 256, 512, 512]] {
                let written = writes(&exchange, &tokens, routing);
                assert!(written.len() >= 6, "every kernel that sends");
                for (kernel, writes) in written {
                    for (slice, (rank, times)) in most_by_slice(8, &writes).into_iter().enumerate() {
                        assert!(
                            times <= 2.0,
                            "{}, {routing:?}, {tokens:?}, {:?}: {times:.2} times its share to rank {rank} in sixteenth {slice}",
                            kernel.name(),
                            exchange.layout,
                        );
                    }
                }
            }
        }
    }
}

/// A row that one warp would send alone goes out in four parts.
#[test]
fn few_rows_are_shared_among_the_warps() {
    // 512 pieces, of which 64 threads have 128 in flight to a warp.
    let shape = Exchange { ranks: 2, experts: 4, zero_experts: 0, top_k: 4, hidden: 4096, max_tokens: 1, ..request() };
    let exchange = Exchange { ctas_link: 4, threads: 64, ..shape };
    let rows = [
        Kernel::DispatchSend,
        Kernel::DispatchSendCached,
        Kernel::CombineBackwardSend,
        Kernel::CombineSend,
        Kernel::CombineSendUnweighted,
    ];
    let written = writes(&exchange, &[1, 1], Routing::Uniform);
    for kernel in rows {
        let (_, writes) = written.iter().find(|(found, _)| *found == kernel).expect("it sends");
        for rank in 0..2 {
            let pieces = writes.iter().filter(|write| write.by.0 == rank && write.bytes == 16);
            let warps: BTreeSet<_> = pieces.clone().map(|write| write.by).collect();
            assert_eq!((pieces.count(), warps.len()), (512, 4), "{}, rank {rank}: {warps:?}", kernel.name());
        }
    }
}
