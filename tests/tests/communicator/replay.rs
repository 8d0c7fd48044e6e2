//! Captured calls, replayed with other contents in the same memory.

use std::collections::BTreeSet;

use moe_contract::Tensor;
use moe_runtime::{Communicator, Error, Policy};

use crate::layer::{download, every_call, launch, row_gradients};
use crate::support::{Input, LAYERS, WEIGHTED, assert_same, bundle, communicator, device, noise, on};

const TOKENS: [usize; 4] = [5, 0, 8, 2];

/// Every call of a layer is captured once; then each replay, with other tokens, weights and routing, gives the bits of fresh calls on other
/// GPUs, whatever the schedule.
#[test]
fn replays_with_changed_routing_equal_fresh_calls_under_adversarial_schedules() {
    for (number, layer) in LAYERS.into_iter().enumerate() {
        let bundle = bundle(layer);
        let schedules =
            [(Policy::RoundRobin, 0), (Policy::Random, 3), (Policy::Adversarial, 4), (Policy::Adversarial, 5)];
        for (policy, seed) in schedules {
            let mut moe = on(&device(policy, seed), &bundle);
            let exchange = *moe.exchange();
            let first = Input::new(&exchange, &TOKENS, 1);
            let (tokens, routing) = first.upload(&mut moe).expect("uploaded");
            let output = noise(&mut moe, 9).expect("uploaded");
            let gradients = moe.upload(Tensor::CombinedGradient, &first.gradients).expect("uploaded");
            let of_rows = (!exchange.weighted).then(|| row_gradients(&mut moe).expect("uploaded"));
            let (results, capture) = moe
                .capture(|moe| {
                    let dispatched = moe.dispatch(&tokens, &routing)?;
                    let calls = launch(moe, &dispatched.handle, &tokens, &output, &gradients, of_rows.as_ref())?;
                    let first = [("experts' input", Some(dispatched.input)), ("scales", dispatched.scales)];
                    Ok(first.into_iter().chain(calls).collect::<Vec<_>>())
                })
                .expect("captured");
            for replay in 0..4 {
                let input = Input::new(&exchange, &TOKENS, 10 * number as u64 + replay);
                moe.upload_into(&tokens, &input.tokens).expect("replaced");
                moe.upload_into(&routing.indices, &input.indices).expect("replaced");
                moe.upload_into(&routing.weights, &input.weights).expect("replaced");
                moe.upload_into(&gradients, &input.gradients).expect("replaced");
                // Twice: what counts is in the memory, not in how often it was replayed.
                moe.replay(&capture).expect("launched");
                moe.replay(&capture).expect("launched");
                let found = download(&mut moe, results.clone()).expect("they run");
                let expected = every_call(&mut communicator(&bundle), &input, 9).expect("fresh calls");
                assert_same(&format!("{layer}, {policy} {seed}, replay {replay}"), &found, &expected);
            }
        }
    }
}

/// Replays and other calls are calls of the same count.
#[test]
fn replays_and_fresh_calls_mix() {
    let bundle = bundle(WEIGHTED);
    let mut moe = on(&device(Policy::Adversarial, 8), &bundle);
    let exchange = *moe.exchange();
    let (captured, fresh) = (Input::new(&exchange, &TOKENS, 1), Input::new(&exchange, &[1, 7, 0, 3], 2));
    let (tokens, routing) = captured.upload(&mut moe).expect("uploaded");
    let output = noise(&mut moe, 9).expect("uploaded");
    let (combined, capture) = moe
        .capture(|moe| {
            let dispatched = moe.dispatch(&tokens, &routing)?;
            moe.combine(&dispatched.handle, &output)
        })
        .expect("captured");
    let alone = |input: &Input| every_call(&mut communicator(&bundle), input, 9).expect("fresh calls");
    let (expected, expected_fresh) = (alone(&captured), alone(&fresh));
    for call in 0..5 {
        moe.replay(&capture).expect("launched");
        let found = every_call(&mut moe, &fresh, 9).expect("between replays");
        assert_same(&format!("call {call}"), &found, &expected_fresh);
        moe.replay(&capture).expect("launched");
        let found = moe.download::<u8>(&combined).expect("a result");
        assert!(found == expected[2].1, "call {call}: {}", expected[2].0);
    }
}

/// The gate's parameters stay on the device: a replay reads what is there.
#[test]
fn a_captured_gate_reads_parameters_that_are_on_the_device() {
    let bundle = bundle(WEIGHTED);
    let mut moe = communicator(&bundle);
    let input = Input::new(moe.exchange(), &TOKENS, 1);
    let logits = moe.upload(Tensor::Logits, &input.logits).expect("uploaded");
    let bias = moe.upload_parameters(&input.parameters()).expect("uploaded");
    let (routing, capture) = moe.capture(|moe| moe.gate(&logits, &bias)).expect("captured");
    for seed in 0..3 {
        let other = Input::new(moe.exchange(), &TOKENS, 100 + seed);
        moe.upload_into(&logits, &other.logits).expect("replaced");
        moe.replay(&capture).expect("launched");
        let indices: Vec<Vec<i32>> = moe.download(&routing.indices).expect("they run");
        let mut fresh = communicator(&bundle);
        let other_logits = fresh.upload(Tensor::Logits, &other.logits).expect("uploaded");
        let same_bias = fresh.upload_parameters(&input.parameters()).expect("uploaded");
        let expected = fresh.gate(&other_logits, &same_bias).expect("launched");
        assert_eq!(indices, fresh.download::<i32>(&expected.indices).expect("they run"), "seed {seed}");
    }
}

/// A layer from its logits to its result, each time with others: every replay gives the bits of the calls of another communicator.
#[test]
fn a_layer_replayed_a_thousand_times_gives_the_bits_of_a_thousand_calls() {
    let bundle = bundle(WEIGHTED);
    let mut moe = on(&device(Policy::Adversarial, 12), &bundle);
    let mut fresh = communicator(&bundle);
    let exchange = *moe.exchange();
    let first = Input::new(&exchange, &TOKENS, 0);
    let place = |moe: &mut Communicator| {
        let logits = moe.upload(Tensor::Logits, &first.logits).expect("uploaded");
        let tokens = moe.upload(Tensor::Tokens, &first.tokens).expect("uploaded");
        (
            logits,
            tokens,
            moe.upload_parameters(&first.parameters()).expect("uploaded"),
            noise(moe, 9).expect("uploaded"),
        )
    };
    let (logits, tokens, bias, output) = place(&mut moe);
    let (fresh_logits, fresh_tokens, fresh_bias, fresh_output) = place(&mut fresh);
    let ((routing, combined), capture) = moe
        .capture(|moe| {
            let routing = moe.gate(&logits, &bias)?;
            let dispatched = moe.dispatch(&tokens, &routing)?;
            let combined = moe.combine(&dispatched.handle, &output)?;
            Ok((routing, combined))
        })
        .expect("captured");
    let mut picks = BTreeSet::new();
    for replay in 0..1000 {
        let input = Input::new(&exchange, &TOKENS, replay);
        moe.upload_into(&logits, &input.logits).expect("replaced");
        moe.upload_into(&tokens, &input.tokens).expect("replaced");
        moe.replay(&capture).expect("launched");
        fresh.upload_into(&fresh_logits, &input.logits).expect("replaced");
        fresh.upload_into(&fresh_tokens, &input.tokens).expect("replaced");
        let fresh_routing = fresh.gate(&fresh_logits, &fresh_bias).expect("launched");
        let dispatched = fresh.dispatch(&fresh_tokens, &fresh_routing).expect("launched");
        let expected = fresh.combine(&dispatched.handle, &fresh_output).expect("launched");
        let indices: Vec<Vec<i32>> = moe.download(&routing.indices).expect("they run");
        assert_eq!(indices, fresh.download::<i32>(&fresh_routing.indices).expect("they run"), "replay {replay}");
        let found = moe.download::<u8>(&combined).expect("they run");
        assert!(found == fresh.download::<u8>(&expected).expect("they run"), "replay {replay}");
        picks.insert(indices);
    }
    assert_eq!(picks.len(), 1000, "every replay has a routing of its own");
}

#[test]
fn a_capture_has_only_what_is_launched_and_belongs_to_its_communicator() {
    let bundle = bundle(WEIGHTED);
    let mut moe = communicator(&bundle);
    let input = Input::new(moe.exchange(), &TOKENS, 1);
    let (tokens, routing) = input.upload(&mut moe).expect("uploaded");
    let refused = moe.capture(|moe| moe.dispatch_counted(&tokens, &routing)).expect_err("it waits");
    assert_eq!(
        refused.to_string(),
        "dispatch_counted is not possible: calls are being captured, and a capture only has what is launched"
    );
    let refused = moe.capture(|moe| moe.capture(|_| Ok(())).map(|_| ())).expect_err("once is enough");
    assert!(matches!(refused, Error::NotPossible { .. }), "{refused}");
    let (_, capture) = moe.capture(|moe| moe.dispatch(&tokens, &routing)).expect("usable after a refusal");
    moe.replay(&capture).expect("launched");
    moe.synchronise().expect("it runs");

    let refused = communicator(&bundle).replay(&capture).expect_err("of another");
    assert_eq!(refused.to_string(), "the capture cannot be used here: it is of another communicator");
    moe.recover().expect("recovered");
    let refused = moe.replay(&capture).expect_err("of before");
    assert_eq!(
        refused.to_string(),
        "the capture cannot be used here: it is from before the communicator recovered from an error"
    );
}

/// Where the layout says how many rows there are, `dispatch_counted` has nothing to wait for.
#[test]
fn rows_of_a_fixed_number_are_not_counted() {
    let mut batched = communicator(&bundle(LAYERS[3]));
    let input = Input::new(batched.exchange(), &TOKENS, 1);
    let (tokens, routing) = input.upload(&mut batched).expect("uploaded");
    let (dispatched, capture) = batched.capture(|moe| moe.dispatch_counted(&tokens, &routing)).expect("captured");
    batched.replay(&capture).expect("launched");
    let found = batched.download::<u8>(&dispatched.input).expect("it runs");
    let dispatched = batched.dispatch(&tokens, &routing).expect("launched");
    assert!(found == batched.download::<u8>(&dispatched.input).expect("it runs"));
}
