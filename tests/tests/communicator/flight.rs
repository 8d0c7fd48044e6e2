//! Several calls, and several communicators, that nobody waits for.

use std::sync::Arc;

use moe_contract::RankId;
use moe_runtime::{Device, Error, Policy, Result, VirtualDevice, VirtualOptions};

use crate::layer::every_call;
use crate::support::{Input, LAYERS, RANKS, WEIGHTED, assert_same, bundle, communicator, device, noise, on};

const TOKENS: [[usize; 4]; 4] = [[3, 0, 8, 1], [1, 7, 2, 0], [8, 8, 8, 8], [2, 1, 0, 5]];

/// Handles are used in another order than they were made, and dispatches lie between, before anything has run.
#[test]
fn calls_in_flight_keep_their_handles_apart() {
    let bundle = bundle(WEIGHTED);
    let inputs = {
        let exchange = *communicator(&bundle).exchange();
        [0, 1, 2].map(|call| Input::new(&exchange, &TOKENS[call], call as u64))
    };
    let alone = |(seed, input): (u64, &Input)| -> Result<Vec<Vec<u8>>> {
        let mut moe = communicator(&bundle);
        let (tokens, routing) = input.upload(&mut moe)?;
        let output = noise(&mut moe, seed)?;
        let dispatched = moe.dispatch(&tokens, &routing)?;
        let combined = moe.combine(&dispatched.handle, &output)?;
        moe.download(&combined)
    };
    let expected: Vec<_> = (0..).zip(&inputs).map(|input| alone(input).expect("alone")).collect();
    for (policy, seed) in
        [(Policy::RoundRobin, 0), (Policy::Random, 1), (Policy::Adversarial, 2), (Policy::Adversarial, 3)]
    {
        let mut moe = on(&device(policy, seed), &bundle);
        let uploaded: Vec<_> = inputs.iter().map(|input| input.upload(&mut moe).expect("uploaded")).collect();
        let outputs: Vec<_> = (0..3).map(|seed| noise(&mut moe, seed).expect("uploaded")).collect();
        let dispatch = |moe: &mut moe_runtime::Communicator, call: usize| {
            let (tokens, routing) = &uploaded[call];
            moe.dispatch(tokens, routing).expect("launched").handle
        };
        let handles: Vec<_> = (0..3).map(|call| dispatch(&mut moe, call)).collect();
        let mut combined = Vec::new();
        for call in [2, 0, 1, 0, 2, 1, 1] {
            combined.push((call, moe.combine(&handles[call], &outputs[call]).expect("launched")));
            drop(dispatch(&mut moe, (call + 1) % 3));
        }
        for (place, (call, combined)) in combined.iter().enumerate() {
            let found = moe.download::<u8>(combined).expect("they run");
            assert!(found == expected[*call], "{policy} {seed}: combine {place}, of dispatch {call}");
        }
    }
}

/// Communicators of different bundles on the same GPUs.
#[test]
fn communicators_in_flight_do_not_meet() {
    let bundles = LAYERS.map(bundle);
    let device = device(Policy::Adversarial, 6);
    let mut communicators: Vec<_> = bundles.iter().map(|bundle| on(&device, bundle)).collect();
    let mut launched = Vec::new();
    for (number, moe) in communicators.iter_mut().enumerate() {
        let input = Input::new(moe.exchange(), &TOKENS[number], number as u64);
        let (tokens, routing) = input.upload(moe).expect("uploaded");
        let output = noise(moe, 9).expect("uploaded");
        let dispatched = moe.dispatch(&tokens, &routing).expect("launched");
        launched.push((input, moe.combine(&dispatched.handle, &output).expect("launched")));
    }
    for ((moe, bundle), (input, combined)) in communicators.iter_mut().zip(&bundles).zip(launched).rev() {
        let found = moe.download::<u8>(&combined).expect("they run");
        let expected = every_call(&mut communicator(bundle), &input, 9).expect("alone");
        let expected = expected.iter().find(|(name, _)| *name == "combined rows").expect("it is there");
        assert!(found == expected.1);
    }
}

/// The caller's streams: what follows a change of streams comes after what was launched before.
#[test]
fn calls_go_into_the_streams_of_the_caller_in_order() {
    let bundle = bundle(WEIGHTED);
    let device = device(Policy::Adversarial, 2);
    let mut moe = on(&device, &bundle);
    let input = Input::new(moe.exchange(), &TOKENS[0], 1);
    let expected = every_call(&mut communicator(&bundle), &input, 9).expect("alone");
    let sets: Vec<Vec<_>> =
        (0..2).map(|_| moe.ranks().map(|rank| device.stream(rank).expect("a stream")).collect()).collect();
    for round in 0..6 {
        let (tokens, routing) = input.upload(&mut moe).expect("uploaded");
        let output = noise(&mut moe, 9).expect("uploaded");
        moe.use_streams(&sets[round % 2]).expect("streams of its ranks");
        let dispatched = moe.dispatch(&tokens, &routing).expect("launched");
        moe.use_streams(&sets[(round + 1) % 2]).expect("streams of its ranks");
        let combined = moe.combine(&dispatched.handle, &output).expect("launched");
        assert!(moe.download::<u8>(&combined).expect("they run") == expected[2].1, "round {round}");
        assert_same("between", &every_call(&mut moe, &input, 9).expect("in those streams"), &expected);
    }
    let mut mixed = sets[0].clone();
    mixed.swap(1, 2);
    let refused = moe.use_streams(&mixed).expect_err("of other ranks");
    assert_eq!(refused.to_string(), format!("stream {} is no stream of rank 1", mixed[1].0));
    let refused = moe.use_streams(&mixed[..3]).expect_err("too few");
    assert_eq!(refused.to_string(), "streams: 3 for 4 ranks, each of which needs its own");
}

/// What waits in one stream of a GPU must not keep off what it waits for in another; in one stream it comes in turn.
#[test]
fn communicators_that_could_keep_each_other_off_a_gpu_are_refused() {
    let bundle = bundle(WEIGHTED);
    // Three multiprocessors hold few CTAs, of which each rank waits with 2.
    let device = Arc::new(
        VirtualDevice::new(RANKS as u32, &VirtualOptions { sms: 3, ..VirtualOptions::default() })
            .expect("virtual GPUs"),
    );
    let mut communicators = vec![];
    let crowd = loop {
        let mut moe = on(&device, &bundle);
        match moe.barrier() {
            Ok(()) => communicators.push(moe),
            Err(Error::Crowded(crowd)) => break crowd,
            Err(error) => panic!("{error}"),
        }
        assert!(communicators.len() < 100, "nobody is refused");
    };
    let [first, ..] = crowd.waiting[..] else { panic!("nobody waits: {crowd:?}") };
    let others = crowd.waiting.len() as u64 - 1;
    assert!(others * u64::from(first.ctas) >= crowd.resident, "{crowd:?}");
    assert!((others - 1) * u64::from(first.ctas) < crowd.resident, "one fewer fits: {crowd:?}");
    let text = Error::Crowded(crowd.clone()).to_string();
    assert!(text.starts_with("too many communicators on GPU 0, which holds "), "{text}");
    for waiting in &crowd.waiting {
        let of_one = format!("rank 0 of world {} waits with {} in kernel `", waiting.world, waiting.ctas);
        assert!(text.contains(&of_one), "{of_one} is not in {text}");
    }
    communicators.iter_mut().for_each(|moe| moe.synchronise().expect("those that were accepted run"));

    // In the streams of another it is welcome.
    let streams: Vec<_> = (0..RANKS as u32).map(|rank| device.stream(RankId(rank)).expect("a stream")).collect();
    let mut more = on(&device, &bundle);
    more.use_streams(&streams).expect("streams of its ranks");
    assert!(matches!(more.barrier(), Err(Error::Crowded(_))));
    communicators[0].use_streams(&streams).expect("streams of its ranks");
    more.barrier().expect("launched");
    communicators[0].barrier().expect("launched");
    more.synchronise().expect("it runs");
    communicators[0].synchronise().expect("it runs");

    // And where another has gone there is room.
    communicators.pop();
    on(&device, &bundle).barrier().expect("launched");
}

/// A loop that never waits must not keep what it has done. 10⁵ calls are measured by `make bench`.
#[test]
fn two_thousand_layers_take_no_more_memory() {
    let bundle = bundle(LAYERS[1]);
    let mut moe = communicator(&bundle);
    let input = Input::new(moe.exchange(), &[1, 1, 1, 1], 1);
    let (tokens, routing) = input.upload(&mut moe).expect("uploaded");
    let output = noise(&mut moe, 9).expect("uploaded");
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/statm").expect("it is there");
        text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number") * 4096
    };
    let mut before = 0;
    for call in 0..2000 {
        let dispatched = moe.dispatch(&tokens, &routing).expect("launched");
        drop(moe.combine(&dispatched.handle, &output).expect("launched"));
        if call % 100 == 99 {
            moe.synchronise().expect("they run");
        }
        if call == 399 {
            before = resident();
        }
    }
    let after = resident();
    assert!(after <= before + (4 << 20), "{before} bytes become {after}");
}
