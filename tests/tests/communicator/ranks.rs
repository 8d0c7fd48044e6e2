//! A communicator for each rank of a world, in one thread and in several.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moe_contract::{RankId, Tensor};
use moe_runtime::{Communicator, Device, Error, Options, Policy, Result, World};

use crate::support::{Input, RANKS, WEIGHTED, bundle, communicator, device};

const TOKENS: [usize; 4] = [3, 0, 8, 1];

fn world(policy: Policy, seed: u64) -> Arc<World> {
    let device: Arc<dyn Device> = device(policy, seed);
    World::new(device, &bundle(WEIGHTED)).expect("a world")
}

fn of_rank(world: &Arc<World>, rank: usize, deadline: Duration) -> Communicator {
    let rank = rank as u32;
    let options = Options { deadline: Some(deadline) };
    Communicator::of_ranks(world, rank..rank + 1, options).expect("one rank")
}

/// The part of a rank.
fn part(input: &Input, rank: usize) -> Input {
    let Input { logits, bias, tokens, indices, weights, gradients } = input.clone();
    Input {
        logits: vec![logits[rank].clone()],
        bias,
        tokens: vec![tokens[rank].clone()],
        indices: vec![indices[rank].clone()],
        weights: vec![weights[rank].clone()],
        gradients: vec![gradients[rank].clone()],
    }
}

/// Waits in the middle, as a trainer does that reads the counts.
fn layer(moe: &mut Communicator, input: &Input) -> Result<Vec<Vec<u8>>> {
    let logits = moe.upload(Tensor::Logits, &input.logits)?;
    let bias = moe.upload_parameters(&input.parameters())?;
    let routing = moe.gate(&logits, &bias)?;
    let tokens = moe.upload(Tensor::Tokens, &input.tokens)?;
    let dispatched = moe.dispatch_counted(&tokens, &routing)?;
    let output = moe.apply_experts(&dispatched, |expert, input, output| {
        output.iter_mut().zip(input).for_each(|(output, input)| *output = expert.0 as f32 * input);
    })?;
    let combined = moe.combine(&dispatched.handle, &output)?;
    moe.barrier()?;
    moe.download(&combined)
}

#[test]
fn communicators_of_one_rank_each_give_what_one_of_all_ranks_gives() {
    let mut all = communicator(&bundle(WEIGHTED));
    let input = Input::new(all.exchange(), &TOKENS, 5);
    let expected = layer(&mut all, &input).expect("all ranks");
    for (policy, seed) in [(Policy::RoundRobin, 0), (Policy::Random, 1), (Policy::Adversarial, 2)] {
        let world = world(policy, seed);
        let (world, input) = (&world, &input);
        let found: Vec<Vec<Vec<u8>>> = std::thread::scope(|scope| {
            let start = |rank| {
                scope.spawn(move || -> Result<Vec<Vec<u8>>> {
                    let mut moe = of_rank(world, rank, Duration::from_secs(60));
                    let mut result = vec![];
                    for _ in 0..3 {
                        result = layer(&mut moe, &part(input, rank))?;
                    }
                    Ok(result)
                })
            };
            let threads: Vec<_> = (0..RANKS).map(start).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic").expect("a result")).collect()
        });
        assert!(found.concat() == expected, "{policy} {seed}");
    }
}

#[test]
fn communicators_of_a_world_take_turns_in_one_thread() {
    let world = world(Policy::Random, 7);
    let mut communicators = [
        Communicator::of_ranks(&world, 0..1, Options::default()).expect("one rank"),
        Communicator::of_ranks(&world, 1..4, Options::default()).expect("three ranks"),
    ];
    let input = Input::new(world.exchange(), &TOKENS, 5);
    let parts = [0..1, 1..4].map(|ranks| {
        let Input { tokens, indices, weights, .. } = input.clone();
        (tokens[ranks.clone()].to_vec(), indices[ranks.clone()].to_vec(), weights[ranks].to_vec())
    });
    let mut dispatched = Vec::new();
    for (moe, (tokens, indices, weights)) in communicators.iter_mut().zip(&parts) {
        let tokens = moe.upload(Tensor::Tokens, tokens).expect("uploaded");
        let routing = moe.upload_routing(indices, weights).expect("uploaded");
        dispatched.push(moe.dispatch(&tokens, &routing).expect("launched"));
    }
    let mut received = Vec::new();
    for (moe, dispatched) in communicators.iter_mut().zip(&dispatched) {
        received.extend(moe.received(&dispatched.handle).expect("they run"));
    }
    let mut all = communicator(&bundle(WEIGHTED));
    let (tokens, routing) = input.upload(&mut all).expect("uploaded");
    let dispatched = all.dispatch(&tokens, &routing).expect("launched");
    assert_eq!(received, all.received(&dispatched.handle).expect("they run"));
}

#[test]
fn a_rank_is_of_one_communicator_at_a_time() {
    let world = world(Policy::RoundRobin, 0);
    let make = |ranks| Communicator::of_ranks(&world, ranks, Options::default());
    let first = make(0..2).expect("free");
    assert_eq!(make(1..3).map(|_| ()), Err(Error::RankTaken { rank: RankId(1) }));
    assert_eq!(make(3..5).map(|_| ()), Err(Error::NoSuchRanks { first: 3, end: 5, ranks: 4 }));
    assert_eq!(make(2..2).map(|_| ()), Err(Error::NoSuchRanks { first: 2, end: 2, ranks: 4 }));
    let mut second = make(2..4).expect("free");
    let refused = second.recover().expect_err("not alone");
    assert!(matches!(refused, Error::NotPossible { .. }), "{refused}");
    drop(first);
    make(0..2).expect("free again");
}

/// A rank whose process makes no call: the others say so when their deadline is over, and all of them stop.
#[test]
fn a_rank_that_makes_no_call_is_named_by_all_others() {
    let world = world(Policy::RoundRobin, 0);
    let input = Input::new(world.exchange(), &TOKENS, 5);
    let (world, input) = (&world, &input);
    let mut idle = of_rank(world, 2, Duration::from_millis(300));
    let start = Instant::now();
    let errors: Vec<Error> = std::thread::scope(|scope| {
        let start = |rank| {
            scope.spawn(move || {
                layer(&mut of_rank(world, rank, Duration::from_millis(300)), &part(input, rank)).expect_err("no rank 2")
            })
        };
        let threads: Vec<_> = [0, 1, 3].map(start).into_iter().collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert!(start.elapsed() < Duration::from_secs(20));
    for error in errors {
        assert!(error.to_string().contains("waits for rank 2: has 0 of 2"), "{error}");
    }
    let refused = idle.barrier().expect_err("stopped too");
    assert!(matches!(refused, Error::Stopped { .. }), "{refused}");
    world.recover().expect("usable again");
    idle.synchronise().expect("nothing is wrong any more");
}
