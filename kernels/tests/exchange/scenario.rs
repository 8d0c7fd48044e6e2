//! Calls of all kinds, one after the other without a break, and what the reference says they give.

use std::ops::Range;

use moe_contract::{Buffer, Call, Drop, Exchange, Flow, Format, Kernel, LinkBytes, RowLayout, Tensor as X};
use moe_judge::Rows;
use moe_judge::reference::{self, Handle, Input, Weighting};
use moe_random::Random;
use moe_vgpu::RankId;

use crate::world::{Buffers, Everywhere, Loaded, Outcome, Passed, Schedule, World};

/// Which numbers rows hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// From −4 to 4, now and then zero or far away.
    Usual,
    /// Infinities, NaNs with all kinds of bits, the smallest and the largest numbers, whole blocks of zeros.
    Hostile,
}

fn number(random: &mut Random) -> f32 {
    match random.below(40) {
        0 => 0.0,
        1 => -0.0,
        2 => 3e4,
        3 => -1e-6,
        _ => (random.below(1 << 20) as f32 / (1 << 17) as f32) - 4.0,
    }
}

fn draw_rows(random: &mut Random, numbers: Numbers, format: Format, hidden: u32, count: usize) -> Rows {
    if numbers == Numbers::Hostile {
        return hostile_rows(random, format, hidden, count);
    }
    let values: Vec<f32> = (0..count * hidden as usize).map(|_| number(random)).collect();
    Rows::from_values(format, hidden, &values)
}

/// Bits of all kinds: NaNs with payloads and signs, infinities, the smallest and the largest numbers.
fn hostile_rows(random: &mut Random, format: Format, hidden: u32, count: usize) -> Rows {
    let element = format.element.bytes() as usize;
    let mut bytes = Vec::new();
    for _ in 0..count * hidden as usize / 8 {
        let kind = random.below(6);
        for _ in 0..8 {
            let bits = match kind {
                0 => 0,
                1 => random.below(4) << (8 * element - 9),
                2 => random.bits(),
                3 => u64::MAX >> random.below(32),
                _ => u64::from(number(random).to_bits()) >> (32 - 8 * element),
            };
            bytes.extend(&bits.to_le_bytes()[..element]);
        }
    }
    Rows::from_memory(format, hidden, bytes, vec![]).expect("whole rows")
}

/// Which experts tokens pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Picks {
    /// Any, each as often as another; expert 0 never (where there are enough others).
    Even,
    /// Every token the first experts: one rank gets all, the others nothing.
    First,
    /// Any number of picks, down to none, −1 for the rest, at any place.
    Some,
}

/// Tokens of each rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// From none to all, different on each rank; rank 0 has none in odd rounds.
    Uneven,
    /// `max_tokens`
    All,
}

/// A series of calls.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub picks: Picks,
    pub tokens: Tokens,
    pub numbers: Numbers,
    /// Dispatches; each is followed by one call of every other kind.
    pub rounds: u64,
    pub seed: u64,
}

pub const USUAL: Scenario =
    Scenario { picks: Picks::Even, tokens: Tokens::Uneven, numbers: Numbers::Usual, rounds: 3, seed: 1 };

fn picks(exchange: &Exchange, kind: Picks, random: &mut Random) -> Vec<i32> {
    let (all, k) = ((exchange.experts + exchange.zero_experts) as usize, exchange.top_k as usize);
    let mut experts: Vec<i32> = (0..all as i32).collect();
    if kind != Picks::First {
        let first = usize::from(kind == Picks::Even && all > k);
        for place in first..all {
            experts.swap(place, place + random.index(all - place));
        }
        experts.rotate_left(first);
    }
    let mut chosen = experts[..k].to_vec();
    chosen.sort_unstable();
    if kind == Picks::Some {
        let none = random.below(k as u64 + 1);
        (0..none).for_each(|_| chosen[random.index(k)] = -1);
    }
    chosen
}

fn input(exchange: &Exchange, scenario: &Scenario, random: &mut Random, rank: u32, round: u64) -> Input {
    let count = match scenario.tokens {
        Tokens::All => exchange.max_tokens,
        Tokens::Uneven if rank == 0 && round % 2 == 1 => 0,
        Tokens::Uneven => random.below(u64::from(exchange.max_tokens) + 1) as u32,
    };
    let tokens = draw_rows(random, scenario.numbers, exchange.dispatch.source(), exchange.hidden, count as usize);
    let indices: Vec<i32> = (0..count).flat_map(|_| picks(exchange, scenario.picks, random)).collect();
    // Few different weights, so that the capacity rule meets equal ones.
    let weights = indices.iter().map(|_| random.below(6) as f32 * 0.3 - 0.6).collect();
    Input { tokens, indices, weights }
}

fn words<T: Copy>(values: &[T], bits: impl Fn(T) -> u32) -> Vec<u8> {
    values.iter().flat_map(|&value| bits(value).to_le_bytes()).collect()
}

/// Rows in memory with their scales, and what they must be on each rank.
struct Results {
    what: &'static str,
    payload: Format,
    at: Everywhere,
    scales: Option<Everywhere>,
    expected: Vec<Rows>,
    /// Rows are those of experts, not of tokens.
    of_experts: bool,
}

/// What one round put into the streams, and what must come out.
pub struct Round {
    inputs: Vec<Input>,
    handles: Vec<Handle>,
    buffers: Buffers,
    indices: Everywhere,
    rows: Vec<Results>,
    /// By rank and pick, where they have come to.
    weight_gradients: (Everywhere, Vec<Vec<f32>>),
}

/// Runs a scenario and compares everything with the reference, byte for byte.
///
/// # Errors
/// The first difference, accesses that nothing orders, or what the cluster reports.
#[allow(dead_code, reason = "the kill matrix asks for more")]
pub fn run(loaded: &Loaded, scenario: Scenario, schedule: Schedule) -> Result<(), String> {
    outcome(loaded, scenario, schedule).fine()
}

/// The same, with so many CTAs at most where nobody counts them.
///
/// # Errors
/// See [`run`].
#[allow(dead_code, reason = "the kill matrix asks for more")]
pub fn run_in(loaded: &Loaded, scenario: Scenario, schedule: Schedule, room: u32) -> Result<(), String> {
    let mut world = World::new(loaded, schedule);
    world.room = room;
    outcome_of(world, scenario).fine()
}

/// The same; what the judge of memory order says is told apart.
pub fn outcome(loaded: &Loaded, scenario: Scenario, schedule: Schedule) -> Outcome {
    outcome_of(World::new(loaded, schedule), scenario)
}

fn outcome_of(mut world: World<'_>, scenario: Scenario) -> Outcome {
    let exchange = world.exchange();
    let (rounds, expected) = enqueue_all(&mut world, scenario);
    let executed = world.run().map_err(|error| error.to_string()).and_then(|()| {
        for rank in 0..exchange.ranks as usize {
            let status = world.status(rank);
            if status[0] != 0 {
                return Err(format!("rank {rank} reports {status:?}"));
            }
        }
        for (number, round) in rounds.iter().enumerate() {
            check(&mut world, round).map_err(|problem| format!("round {number}: {problem}"))?;
        }
        check_traffic(&world, &expected)
    });
    world.outcome(executed)
}

/// Puts all calls of a scenario into the streams; what each round gives, and the bytes on the links.
pub fn enqueue_all(world: &mut World<'_>, scenario: Scenario) -> (Vec<Round>, LinkBytes) {
    let mut random = Random::new(scenario.seed);
    let mut expected = LinkBytes::none(world.exchange().ranks);
    let round = |round| enqueue(world, &scenario, &mut random, round, &mut expected);
    let rounds = (0..scenario.rounds).map(round).collect();
    (rounds, expected)
}

fn enqueue(
    world: &mut World<'_>,
    scenario: &Scenario,
    random: &mut Random,
    round: u64,
    expected: &mut LinkBytes,
) -> Round {
    let exchange = world.exchange();
    let (ranks, hidden, weighted) = (exchange.ranks, exchange.hidden, exchange.weighted);
    let mut inputs: Vec<Input> = (0..ranks).map(|rank| input(exchange, scenario, random, rank, round)).collect();
    let tokens: Vec<u32> = inputs.iter().map(|input| input.tokens.count() as u32).collect();

    // What the caller passes; capacity changes the indices on the device and here.
    let given: Vec<_> = inputs.iter().map(|input| input.tokens.bytes().to_vec()).collect();
    let given = world.upload("tokens", &given);
    let indices: Vec<_> = inputs.iter().map(|input| words(&input.indices, |pick| pick as u32)).collect();
    let indices = world.upload("indices", &indices);
    let weights: Vec<_> = inputs.iter().map(|input| words(&input.weights, f32::to_bits)).collect();
    let weights = world.upload("weights", &weights);
    let buffers = world.handle();
    let call = || Passed { tokens: tokens.clone(), handle: Some(&buffers), ..Passed::default() };

    if let Some(rule) = exchange.drop {
        // At most half of what an expert gets where tokens pick evenly.
        let even = exchange.max_tokens * exchange.top_k / exchange.gate_width();
        let capacity = 1 + random.below(u64::from(even) / 2 + 1) as u32;
        let routing = Passed { capacity, ..call() }.tensor(X::Indices, &indices).tensor(X::Weights, &weights);
        world.launch(Kernel::Capacity, &routing);
        for input in &mut inputs {
            let Input { indices, weights, .. } = input;
            reference::keep_within_capacity(exchange, rule, capacity as usize, indices, weights);
        }
    }
    let (handles, sent): (Vec<Handle>, Vec<Rows>) =
        reference::dispatch(exchange, &inputs).expect("the picks are right").into_iter().unzip();
    let flow_of: Vec<&[i32]> = inputs.iter().map(|input| &input.indices[..]).collect();
    let flow = Flow::of(exchange, &flow_of);
    let mut rows = Vec::new();

    let bytes = |format: Format| format.row_bytes(hidden);
    let has_scales = exchange.dispatch.scales.is_some();
    let expert_input = |world: &mut World<'_>| {
        let input = world.everywhere("expert_input", |rank| handles[rank].rows as u64 * bytes(exchange.dispatch));
        let scales = exchange.dispatch.scale_bytes(hidden);
        let scales = has_scales.then(|| world.everywhere("scales", |rank| handles[rank].rows as u64 * scales));
        (input, scales)
    };

    // Dispatch
    let (to, scales) = expert_input(world);
    let mut calls = call()
        .tensor(X::Tokens, &given)
        .tensor(X::Indices, &indices)
        .tensor(X::Weights, &weights)
        .tensor(X::ExpertInput, &to);
    if let Some(scales) = &scales {
        calls = calls.tensor(X::ExpertInputScales, scales);
    }
    world.call(Call::Dispatch, &calls);
    *expected += &LinkBytes::of(Call::Dispatch, exchange, &flow);
    rows.push(Results {
        what: "experts' input",
        payload: exchange.dispatch,
        at: to,
        scales,
        expected: sent,
        of_experts: true,
    });

    // Combine
    let outputs: Vec<Rows> = handles
        .iter()
        .map(|handle| draw_rows(random, scenario.numbers, exchange.combine, hidden, handle.rows))
        .collect();
    let output_bytes: Vec<_> = outputs.iter().map(|rows| rows.bytes().to_vec()).collect();
    let output = world.upload("expert_output", &output_bytes);
    let combine_with = |world: &mut World<'_>, kind| {
        let to = world.everywhere("combined", |rank| u64::from(tokens[rank]) * bytes(exchange.combine));
        let calls = call().tensor(X::ExpertOutput, &output).tensor(X::Combined, &to);
        world.call(kind, &calls);
        to
    };
    let to = combine_with(world, Call::Combine);
    let result = reference::combine(exchange, &handles, &outputs, Weighting::of(exchange));
    rows.push(Results {
        what: "combined rows",
        payload: exchange.combine,
        at: to,
        scales: None,
        expected: result,
        of_experts: false,
    });
    let to = combine_with(world, Call::DispatchBackward);
    let result = reference::dispatch_backward(exchange, &handles, &outputs);
    rows.push(Results {
        what: "gradients of tokens",
        payload: exchange.combine,
        at: to,
        scales: None,
        expected: result,
        of_experts: false,
    });
    *expected += &LinkBytes::of(Call::Combine, exchange, &flow);
    *expected += &LinkBytes::of(Call::Combine, exchange, &flow);

    // Cached dispatch
    let others: Vec<Rows> = tokens
        .iter()
        .map(|&tokens| draw_rows(random, scenario.numbers, exchange.dispatch.source(), hidden, tokens as usize))
        .collect();
    let other_bytes: Vec<_> = others.iter().map(|rows| rows.bytes().to_vec()).collect();
    let other = world.upload("other tokens", &other_bytes);
    let (to, scales) = expert_input(world);
    let mut calls = call().tensor(X::Tokens, &other).tensor(X::ExpertInput, &to);
    if let Some(scales) = &scales {
        calls = calls.tensor(X::ExpertInputScales, scales);
    }
    world.call(Call::DispatchCached, &calls);
    let result = reference::dispatch_cached(exchange, &handles, &others.iter().collect::<Vec<_>>());
    rows.push(Results {
        what: "experts' input, cached",
        payload: exchange.dispatch,
        at: to,
        scales,
        expected: result,
        of_experts: true,
    });
    *expected += &LinkBytes::of(Call::DispatchCached, exchange, &flow);

    // Backward of combine
    let gradients: Vec<Rows> = tokens
        .iter()
        .map(|&tokens| draw_rows(random, scenario.numbers, exchange.combine, hidden, tokens as usize))
        .collect();
    let gradient_bytes: Vec<_> = gradients.iter().map(|rows| rows.bytes().to_vec()).collect();
    let gradient = world.upload("gradients", &gradient_bytes);
    let to = world.everywhere("output gradients", |rank| handles[rank].rows as u64 * bytes(exchange.combine));
    let to_weights = world.everywhere("weight gradients", |rank| u64::from(4 * tokens[rank] * exchange.top_k));
    let calls = call()
        .tensor(X::ExpertOutput, &output)
        .tensor(X::CombinedGradient, &gradient)
        .tensor(X::ExpertOutputGradient, &to)
        .tensor(X::Indices, &indices)
        .tensor(X::WeightGradients, &to_weights);
    world.call(Call::CombineBackward, &calls);
    let result = reference::combine_backward(exchange, &handles, &outputs, &gradients);
    let weight_gradients = if weighted {
        result.iter().map(|gradient| gradient.weights.clone().expect("weighted")).collect()
    } else {
        // Experts weigh: they say what the gradient of each row's weights is.
        let per_row = exchange.weights_per_row() as usize;
        let of_rows: Vec<Vec<f32>> =
            handles.iter().map(|handle| (0..handle.rows * per_row).map(|_| number(random)).collect()).collect();
        let given: Vec<_> = of_rows.iter().map(|gradients| words(gradients, f32::to_bits)).collect();
        let given = world.upload("row weight gradients", &given);
        world.call(
            Call::WeightsBackward,
            &call()
                .tensor(X::RowWeightGradients, &given)
                .tensor(X::Indices, &indices)
                .tensor(X::WeightGradients, &to_weights),
        );
        *expected += &LinkBytes::of(Call::WeightsBackward, exchange, &flow);
        returned(exchange, &handles, &of_rows)
    };
    let weight_gradients = (to_weights, weight_gradients);
    let of_output = result.into_iter().map(|gradient| gradient.expert_output).collect();
    rows.push(Results {
        what: "gradients of experts' output",
        payload: exchange.combine,
        at: to,
        scales: None,
        expected: of_output,
        of_experts: true,
    });
    *expected += &LinkBytes::of(Call::CombineBackward, exchange, &flow);

    world.call(Call::Barrier, &call());
    *expected += &LinkBytes::of(Call::Barrier, exchange, &flow);
    Round { inputs, handles, buffers, indices, rows, weight_gradients }
}

/// The gradient that the experts gave for each pick of each rank's tokens; 0 for a pick that was sent nowhere.
fn returned(exchange: &Exchange, handles: &[Handle], of_rows: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let (k, per_row) = (exchange.top_k as usize, exchange.weights_per_row() as usize);
    let mut all: Vec<Vec<f32>> = handles.iter().map(|handle| vec![0.0; handle.tokens * k]).collect();
    for (handle, of_rows) in handles.iter().zip(of_rows) {
        for copy in &handle.copies {
            for (pick, row) in copy.rows.iter().enumerate() {
                if let Some(row) = row {
                    let place = if per_row == 1 { 0 } else { pick };
                    all[copy.source.index()][copy.token * k + pick] = of_rows[row * per_row + place];
                }
            }
        }
    }
    all
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, rank: usize, found: &[T], expected: &[T]) -> Result<(), String> {
    if found.len() != expected.len() {
        return Err(format!("rank {rank}, {what}: {} instead of {}", found.len(), expected.len()));
    }
    match found.iter().zip(expected).position(|(found, expected)| found != expected) {
        None => Ok(()),
        Some(place) => {
            Err(format!("rank {rank}, {what}, entry {place}: {:?} instead of {:?}", found[place], expected[place]))
        }
    }
}

fn check(world: &mut World<'_>, round: &Round) -> Result<(), String> {
    for rank in 0..round.handles.len() {
        if world.exchange().drop.is_some() {
            let expected: Vec<u32> = round.inputs[rank].indices.iter().map(|&pick| pick as u32).collect();
            let found = world.words(round.indices[rank], expected.len());
            same("indices", rank, &found, &expected)?;
        }
        check_handle(world, round, rank)?;
        for Results { what, payload, at, scales, expected, of_experts } in &round.rows {
            let expected = &expected[rank];
            let whole: Vec<Range<usize>> = std::iter::once(0..expected.count()).collect();
            let written = if *of_experts { &round.handles[rank].written } else { &whole };
            let scales = scales.as_ref().map(|scales| scales[rank]);
            let found = world.rows(*payload, at[rank], scales, expected.count(), written);
            let found = found.map_err(|problem| format!("rank {rank}, {what}: {problem}"))?;
            same(what, rank, found.bytes(), expected.bytes())?;
            same(&format!("scales of {what}"), rank, found.scales(), expected.scales())?;
        }
        let (addresses, expected) = &round.weight_gradients;
        let found = world.words(addresses[rank], expected[rank].len());
        // A NaN is not rounded here either.
        let bits = |number: f32| if number.is_nan() { f32::NAN.to_bits() } else { number.to_bits() };
        let found: Vec<u32> = found.into_iter().map(|word| bits(f32::from_bits(word))).collect();
        let expected: Vec<u32> = expected[rank].iter().map(|&gradient| bits(gradient)).collect();
        same("gradients of weights", rank, &found, &expected)?;
    }
    Ok(())
}

/// Every array of a handle.
fn check_handle(world: &mut World<'_>, round: &Round, rank: usize) -> Result<(), String> {
    use Buffer as B;
    let exchange = world.exchange();
    let (ranks, k, max_tokens) = (exchange.ranks as usize, exchange.top_k as usize, exchange.max_tokens as usize);
    let (handle, buffers) = (&round.handles[rank], &round.buffers);
    let counts = |counts: &[usize]| counts.iter().map(|&count| count as u32).collect::<Vec<u32>>();
    let or_none = |place: Option<usize>| place.map_or(u32::MAX, |place| place as u32);
    let mut compare = |buffer: B, first: usize, expected: &[u32]| {
        let found = world.inspect(buffers, rank, buffer, first, expected.len());
        same(&format!("{} from {first}", buffer.name()), rank, &found, expected)
    };
    let slots: Vec<u32> = handle.slots.iter().map(|&slot| or_none(slot)).collect();
    compare(B::Slots, 0, &slots)?;
    compare(B::SendCounts, 0, &counts(&handle.send_counts))?;
    compare(B::ReceivedCounts, 0, &counts(&handle.received_counts(exchange)))?;
    compare(B::ExpertCounts, 0, &counts(&handle.expert_counts))?;
    if exchange.layout.by_expert() {
        compare(B::ExpertOffsets, 0, &counts(&handle.expert_offsets))?;
    }
    let mut slots = vec![0; ranks];
    for (number, copy) in handle.copies.iter().enumerate() {
        let source = copy.source.index();
        let place = source * max_tokens + slots[source];
        slots[source] += 1;
        let weights: Vec<u32> = copy.weights.iter().map(|weight| weight.to_bits()).collect();
        compare(B::CopyTokens, place, &[copy.token as u32])?;
        compare(B::CopyOrdinals, place, &[copy.ordinal as u32])?;
        compare(B::CopyRows, place * k, &copy.rows.iter().map(|&row| or_none(row)).collect::<Vec<u32>>())?;
        compare(B::CopyWeights, place * k, &weights)?;
        if !exchange.layout.by_expert() {
            compare(B::RowWeights, number * k, &weights)?;
        } else if !exchange.weighted {
            for (row, weight) in copy.rows.iter().zip(&weights) {
                row.map_or(Ok(()), |row| compare(B::RowWeights, row, &[*weight]))?;
            }
        }
    }
    if !exchange.layout.by_expert() {
        let picks: Vec<u32> = handle.row_picks(exchange).into_iter().map(|pick| pick as u32).collect();
        compare(B::RowPicks, 0, &picks)?;
    }
    Ok(())
}

/// Every byte that crosses a link, or goes to a rank's own symmetric memory, is one that the plan counts; nothing is read from a peer.
fn check_traffic(world: &World<'_>, expected: &LinkBytes) -> Result<(), String> {
    let ranks = world.exchange().ranks;
    let traffic = world.cluster.traffic();
    for by in 0..ranks {
        for to in 0..ranks {
            let planned = expected.bytes(moe_contract::RankId(by), moe_contract::RankId(to));
            let (found, read) = match (by == to).then(|| world.written_to_own_symmetric(by)) {
                Some(Some(own)) => (own, 0),
                Some(None) => continue,
                None => (traffic.written(RankId(by), RankId(to)), traffic.read(RankId(by), RankId(to))),
            };
            if found != planned || read != 0 {
                return Err(format!("rank {by} wrote {found} bytes to rank {to}, not {planned}, and read {read}"));
            }
        }
    }
    Ok(())
}

/// A small exchange that has a bit of everything: some experts more on some ranks, several warps and CTAs.
#[allow(dead_code, reason = "the kill matrix has its own")]
pub const fn request() -> moe_contract::Exchange {
    moe_contract::Exchange {
        ranks: 3,
        experts: 8,
        zero_experts: 1,
        top_k: 3,
        hidden: 16,
        max_tokens: 12,
        dispatch: Format::BF16,
        layout: RowLayout::expert_major(4),
        combine: Format::BF16,
        weighted: true,
        drop: None::<Drop>,
        ctas_link: 2,
        ctas_local: 3,
        threads: 64,
    }
}
