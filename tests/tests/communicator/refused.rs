//! Every call with a wrong shape, type, owner or order: an error before anything is launched.

use std::sync::Arc;

use moe_contract::Tensor;
use moe_runtime::communicator::CombineGradient;
use moe_runtime::{Communicator, Distributed, Error, Parameters, Policy, Result, VirtualDevice};

use crate::support::{EXPERTS, HIDDEN, Input, LAYERS, PICKS, RANKS, WEIGHTED, bundle, communicator, device, noise, on};

const TOKENS: [usize; 4] = [3, 0, 8, 1];

/// Runs whatever was launched: nothing.
fn assert_nothing_launched(device: &Arc<VirtualDevice>, moe: &mut Communicator, before: u64, what: &str) {
    moe.synchronise().unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(device.work().instructions, before, "{what} launched something");
}

fn refused<T>(what: &str, result: Result<T>) -> String {
    match result {
        Ok(_) => panic!("{what} was accepted"),
        Err(error) => error.to_string(),
    }
}

fn of(moe: &mut Communicator, kind: Tensor, rows: [usize; RANKS]) -> Distributed {
    let row = moe.exchange().tensor_row_bytes(kind) as usize;
    moe.upload::<u8>(kind, &rows.map(|rows| vec![0; rows * row])).expect("uploaded")
}

#[test]
fn every_call_refuses_what_is_not_for_it() {
    let virtual_device = device(Policy::RoundRobin, 0);
    let mut moe = on(&virtual_device, &bundle(WEIGHTED));
    let exchange = *moe.exchange();
    let input = Input::new(&exchange, &TOKENS, 5);
    let (tokens, routing) = input.upload(&mut moe).expect("uploaded");
    let dispatched = moe.dispatch(&tokens, &routing).expect("launched");
    let handle = dispatched.handle.clone();
    let output = noise(&mut moe, 1).expect("uploaded");
    let gradients = moe.upload(Tensor::CombinedGradient, &input.gradients).expect("uploaded");
    let logits = moe.upload(Tensor::Logits, &input.logits).expect("uploaded");
    let bias = moe.upload_parameters(&input.parameters()).expect("uploaded");
    let mut fewer = |kind| of(&mut moe, kind, [3, 0, 7, 1]);
    let (fewer_tokens, fewer_gradients, fewer_weights) =
        (fewer(Tensor::Tokens), fewer(Tensor::CombinedGradient), fewer(Tensor::WeightGradients));
    let few_rows = of(&mut moe, Tensor::ExpertOutput, [1, 1, 1, 1]);
    let many = of(&mut moe, Tensor::Tokens, [9, 1, 1, 1]);
    let many_logits = of(&mut moe, Tensor::Logits, [1, 1, 9, 1]);
    let few_inputs = of(&mut moe, Tensor::ExpertInput, [4, 4, 4, 4]);
    moe.synchronise().expect("they run");
    let before = virtual_device.work().instructions;

    let nine = "9 tokens, but the bundle was built for at most 8 per rank and call";
    let mut cases: Vec<(&str, String, String)> = Vec::new();
    let mut case = |what: &'static str, found: String, expected: &str| cases.push((what, found, expected.into()));
    case("gate", refused("gate", moe.gate(&tokens, &bias)), "tokens were passed where logits are needed");
    case("gate of many", refused("gate", moe.gate(&many_logits, &bias)), &format!("rank 2: {nine}"));
    case(
        "gate_backward",
        refused("gate_backward", moe.gate_backward(&logits, &fewer_weights, &bias)),
        "rank 2: gradients of weights has 7 rows; it must have 8",
    );
    case(
        "dispatch of logits",
        refused("dispatch", moe.dispatch(&logits, &routing)),
        "logits were passed where tokens are needed",
    );
    case("dispatch of many", refused("dispatch", moe.dispatch(&many, &routing)), &format!("rank 0: {nine}"));
    case(
        "dispatch of fewer",
        refused("dispatch", moe.dispatch(&fewer_tokens, &routing)),
        "rank 2: indices has 8 rows; it must have 7",
    );
    case(
        "dispatch_counted of fewer",
        refused("dispatch_counted", moe.dispatch_counted(&fewer_tokens, &routing)),
        "rank 2: indices has 8 rows; it must have 7",
    );
    case(
        "dispatch_into of few",
        refused("dispatch_into", moe.dispatch_into(&tokens, &routing, &few_inputs, None)),
        &format!("rank 0: experts' input has 4 rows; it must have {}", exchange.output_rows_max()),
    );
    case(
        "dispatch_into without scales",
        refused("dispatch_into", moe.dispatch_into(&tokens, &routing, &dispatched.input, None)),
        "the experts' input has scales in this bundle, and needs a tensor for them",
    );
    case(
        "dispatch_cached",
        refused("dispatch_cached", moe.dispatch_cached(&handle, &fewer_tokens)),
        "rank 2: tokens has 7 rows; it must have 8",
    );
    let rows = format!("rank 0: experts' output has 1 rows; it must have {}", exchange.output_rows_max());
    case("combine", refused("combine", moe.combine(&handle, &few_rows)), &rows);
    case(
        "combine of tokens",
        refused("combine", moe.combine(&handle, &tokens)),
        "tokens were passed where experts' output are needed",
    );
    case(
        "combine_into",
        refused("combine_into", moe.combine_into(&handle, &output, &gradients)),
        "gradients of combined rows were passed where combined rows are needed",
    );
    case("dispatch_backward", refused("dispatch_backward", moe.dispatch_backward(&handle, &few_rows)), &rows);
    case(
        "combine_backward",
        refused("combine_backward", moe.combine_backward(&handle, &output, &fewer_gradients)),
        "rank 2: gradients of combined rows has 7 rows; it must have 8",
    );
    let of_output = of(&mut moe, Tensor::ExpertOutputGradient, [exchange.output_rows_max() as usize; RANKS]);
    let without = CombineGradient { output: of_output, weights: None };
    case(
        "combine_backward_into",
        refused("combine_backward_into", moe.combine_backward_into(&handle, &output, &gradients, &without)),
        "combine_backward without gradients of weights is not possible: combine weighs, and gives them",
    );
    case(
        "weights_backward",
        refused("weights_backward", moe.weights_backward(&handle, &output)),
        "weights_backward is not possible: combine weighs, and combine_backward gives the gradients of the weights",
    );
    case(
        "upload of f32",
        refused("upload", moe.upload(Tensor::Tokens, &vec![vec![0.0f32; HIDDEN]; RANKS])),
        "tokens of f32 were passed, and this bundle has them in bf16",
    );
    case(
        "download as f32",
        refused("download", moe.download::<f32>(&tokens)),
        "tokens of f32 were passed, and this bundle has them in bf16",
    );
    case(
        "upload of half a row",
        refused("upload", moe.upload(Tensor::Tokens, &vec![vec![0u8; 100]; RANKS])),
        "rank 0: tokens has 100 bytes, which are not rows of 512 bytes",
    );
    case(
        "upload for three ranks",
        refused("upload", moe.upload(Tensor::Indices, &vec![vec![0i32; PICKS]; 3])),
        "indices: 3 for 4 ranks, each of which needs its own",
    );
    case(
        "upload_into of fewer",
        refused("upload_into", moe.upload_into(&tokens, &vec![vec![0u8; 512]; RANKS])),
        "rank 0: tokens has 3 rows; it must have 1",
    );
    case(
        "parameters of another length",
        refused("upload_parameters", moe.upload_parameters(&Parameters::none().f32("bias", &[0.0; EXPERTS - 1]))),
        "the gate's parameter `bias` has 7 × f32; it must have 8 × f32",
    );
    case(
        "no parameters",
        refused("upload_parameters", moe.upload_parameters(&Parameters::none())),
        "the gate needs the parameter `bias`",
    );
    case(
        "unknown parameters",
        refused("upload_parameters", moe.upload_parameters(&input.parameters().f32("scale", &[1.0]))),
        "the gate has no parameter `scale`; it has `bias`",
    );
    case(
        "integers as a bias",
        refused("upload_parameters", moe.upload_parameters(&Parameters::none().table("bias", &[0; EXPERTS]))),
        "the gate's parameter `bias` has 8 × i32; it must have 8 × f32",
    );
    for (what, found, expected) in &cases {
        assert_eq!(found, expected, "{what}");
    }
    assert_nothing_launched(&virtual_device, &mut moe, before, "something of these");
}

/// On a bundle without scales their rows have no bytes, and dividing by that was a panic.
#[test]
fn scales_of_a_format_without_are_refused() {
    let mut moe = communicator(&bundle(LAYERS[1]));
    let error = moe.upload(Tensor::ExpertInputScales, &vec![vec![0u8; 4]; RANKS]).expect_err("there are none");
    assert_eq!(error.to_string(), "this bundle has no scales of experts' input: the format of dispatch has no scales");
}

/// Handles and tensors of elsewhere were taken, and kernels then read what nobody had written.
#[test]
fn what_belongs_elsewhere_is_refused() {
    let virtual_device = device(Policy::RoundRobin, 0);
    let bundle_here = bundle(WEIGHTED);
    let mut here = on(&virtual_device, &bundle_here);
    let mut twin = on(&virtual_device, &bundle_here);
    let mut other_shape = on(&virtual_device, &bundle(LAYERS[2]));
    let mut elsewhere = communicator(&bundle_here);
    let input = Input::new(here.exchange(), &TOKENS, 5);
    let made = |moe: &mut Communicator| {
        let (tokens, routing) = input.upload(moe).expect("uploaded");
        let dispatched = moe.dispatch(&tokens, &routing).expect("launched");
        let output = noise(moe, 1).expect("uploaded");
        (tokens, routing, dispatched.handle, output)
    };
    let (tokens, routing, handle, output) = made(&mut here);
    let (_, _, twins, _) = made(&mut twin);
    let (far_tokens, _, far_handle, far_output) = made(&mut elsewhere);
    here.synchronise().expect("they run");
    let before = virtual_device.work().instructions;

    let another = "the handle cannot be used here: it is of another communicator";
    assert_eq!(refused("its handle", here.combine(&twins, &output)), another);
    assert_eq!(refused("its handle", here.dispatch_cached(&far_handle, &tokens)), another);
    assert_eq!(refused("its handle", other_shape.combine(&handle, &output)), another);
    assert_eq!(refused("its handle", here.received(&twins)), another);
    assert_eq!(
        refused("its output", here.combine(&handle, &far_output)),
        "experts' output cannot be used here: it is on another device"
    );
    assert_eq!(
        refused("its tokens", here.dispatch(&far_tokens, &routing)),
        "tokens cannot be used here: it is on another device"
    );
    assert_eq!(
        refused("its tokens", here.download::<u8>(&far_tokens)),
        "tokens cannot be used here: it is on another device"
    );
    assert_eq!(
        refused("other rows", other_shape.dispatch(&tokens, &routing)),
        "tokens of bf16 were passed, and this bundle has them in f32"
    );
    let far_bias = elsewhere.upload_parameters(&input.parameters()).expect("uploaded");
    let logits = here.upload(Tensor::Logits, &input.logits).expect("uploaded");
    assert_eq!(
        refused("its bias", here.gate(&logits, &far_bias)),
        "gate parameters cannot be used here: they are on another device"
    );
    assert_nothing_launched(&virtual_device, &mut here, before, "something of these");

    // A tensor of another communicator of the same GPUs, of the same shape, is memory like any other.
    twin.dispatch(&tokens, &routing).expect("launched");
    twin.synchronise().expect("they run");
}

/// After a recovery the arrays of a handle may be half written.
#[test]
fn handles_from_before_a_recovery_are_refused() {
    let mut moe = communicator(&bundle(WEIGHTED));
    let input = Input::new(moe.exchange(), &TOKENS, 5);
    let (tokens, routing) = input.upload(&mut moe).expect("uploaded");
    let handle = moe.dispatch(&tokens, &routing).expect("launched").handle;
    let output = noise(&mut moe, 1).expect("uploaded");
    let combined = moe.combine(&handle, &output).expect("launched");
    let expected: Vec<Vec<u8>> = moe.download(&combined).expect("a result");

    let mut twice = input.clone();
    twice.indices[0] = vec![3; 3 * PICKS];
    let (_, wrong) = twice.upload(&mut moe).expect("uploaded");
    moe.dispatch(&tokens, &wrong).expect("launched");
    let error = moe.synchronise().expect_err("picked twice");
    assert_eq!(error.to_string(), "rank 0, token 0: pick 1 is expert 3, which the token has picked before");
    let stopped = moe.dispatch(&tokens, &routing).expect_err("stopped");
    assert_eq!(stopped, Error::Stopped { cause: Box::new(error) });
    assert_eq!(
        stopped.to_string(),
        "the communicator stopped after an error; `recover` makes it usable again. The error was: rank 0, token 0: pick 1 is expert 3, \
         which the token has picked before"
    );
    moe.recover().expect("usable again");
    assert_eq!(
        refused("the old handle", moe.combine(&handle, &output)),
        "the handle cannot be used here: it is from before the communicator recovered from an error"
    );
    let handle = moe.dispatch(&tokens, &routing).expect("launched").handle;
    let combined = moe.combine(&handle, &output).expect("launched");
    assert!(moe.download::<u8>(&combined).expect("a result") == expected);
}
