//! The communicator over the model device, against the reference: every call, several epochs, every byte.

mod model;

use std::time::Duration;

use model::world::{Noise, communicator};
use moe_bundle::{Drop, Exchange, ExpertId, LocalBuffer, Payload, RankId, RowLayout};
use moe_judge::Rows;
use moe_judge::reference::{self, Handle, Input, Weighting};
use moe_plan::Request;
use moe_plan::traffic::{Flow, Traffic};
use moe_runtime::communicator::ExpertRows;
use moe_runtime::device::Residency;
use moe_runtime::{Communicator, Error, LinkBytes, Options, Parameters, Tensor};

fn request() -> Request {
    Request {
        ranks: 3,
        experts: 7,
        zero_experts: 1,
        top_k: 3,
        hidden: 128,
        max_tokens: 5,
        dispatch: Payload::Bf16,
        layout: RowLayout::ExpertMajor { align: 4 },
        combine: Payload::Bf16,
        weighted: true,
        drop: None,
        ctas: 2,
        threads: 64,
    }
}

fn exchange(change: impl FnOnce(&mut Request)) -> Exchange {
    let mut request = request();
    change(&mut request);
    request.plan().expect("sound")
}

fn bytes(rows: &[Rows]) -> Vec<&[u8]> {
    rows.iter().map(Rows::bytes).collect()
}

/// A call, and that its traffic is the predicted one.
fn counted<T>(
    communicator: &mut Communicator,
    predicted: &Traffic,
    call: impl FnOnce(&mut Communicator) -> Result<T, Error>,
) -> T {
    let before = communicator.traffic().expect("the model counts");
    let result = call(communicator).expect("a call");
    communicator.synchronise().expect("kernels");
    let traffic = communicator.traffic().expect("the model counts").since(&before);
    let predicted = LinkBytes::new(traffic.ranks(), |writer, owner| predicted.bytes(writer, owner));
    assert_eq!(traffic, predicted);
    result
}

/// The device's handle is the reference's.
fn compare_handle(communicator: &mut Communicator, handle: &moe_runtime::Handle, expected: &Handle) {
    let exchange = communicator.exchange().clone();
    let (rank, ranks, k) = (expected.rank, exchange.ranks as usize, exchange.top_k as usize);
    let mut read = |buffer, range| communicator.inspect::<i32>(handle, rank, buffer, range).expect("readable");
    let signed = |numbers: &[usize]| -> Vec<i32> { numbers.iter().map(|&number| number as i32).collect() };
    let option = |number: &Option<usize>| number.map_or(-1, |number| number as i32);

    let slots: Vec<i32> = expected.slots.iter().map(option).collect();
    assert_eq!(read(LocalBuffer::Slots, 0..slots.len()), slots);
    assert_eq!(read(LocalBuffer::SendCounts, 0..ranks), signed(&expected.send_counts));
    let received = expected.received_counts(&exchange);
    assert_eq!(read(LocalBuffer::ReceivedCounts, 0..ranks), signed(&received));
    assert_eq!(read(LocalBuffer::ExpertCounts, 0..expected.expert_counts.len()), signed(&expected.expert_counts));
    let offsets = signed(&expected.expert_offsets);
    assert_eq!(read(LocalBuffer::ExpertOffsets, 0..offsets.len()), offsets);
    let mut copies = expected.copies.iter();
    for (source, &count) in received.iter().enumerate() {
        for slot in 0..count {
            let copy = copies.next().expect("as many copies as received");
            let at = source * exchange.max_tokens as usize + slot;
            assert_eq!(read(LocalBuffer::CopyTokens, at..at + 1), [copy.token as i32]);
            assert_eq!(read(LocalBuffer::CopyOrdinals, at..at + 1), [copy.ordinal as i32]);
            let rows: Vec<i32> = copy.rows.iter().map(option).collect();
            assert_eq!(read(LocalBuffer::CopyRows, at * k..(at + 1) * k), rows);
        }
    }
    if exchange.layout == RowLayout::RankMajor {
        let picks = expected.row_picks(&exchange);
        assert_eq!(read(LocalBuffer::RowPicks, 0..picks.len()), picks);
    }
}

/// Every call in three rounds, so that both halves are used and used again.
fn every_call_agrees(exchange: &Exchange, expert_rows: ExpertRows) {
    let options = Options { expert_rows, ..Options::default() };
    let (_, mut communicator) = communicator(exchange, options);
    let mut noise = Noise::new(7);
    for tokens in [[5, 0, 3], [1, 5, 5], [0, 0, 0]] {
        let inputs: Vec<Input> = tokens.iter().map(|&tokens| noise.input(exchange, tokens)).collect();
        let picks: Vec<&[i32]> = inputs.iter().map(|input| &input.indices[..]).collect();
        let weights: Vec<&[f32]> = inputs.iter().map(|input| &input.weights[..]).collect();
        let flow = Flow::of(exchange, &picks);
        let expected = reference::dispatch(exchange, &inputs).expect("sound picks");
        let (handles, rows): (Vec<Handle>, Vec<Rows>) = expected.into_iter().unzip();

        let routing = communicator.routing(&picks, &weights).expect("a routing");
        let sent: Vec<&[u8]> = inputs.iter().map(|input| input.tokens.bytes()).collect();
        let sent = communicator.upload::<u8>(Tensor::Tokens, &sent).expect("tokens");
        let dispatched = counted(&mut communicator, &Traffic::dispatch(exchange, &flow), |communicator| {
            communicator.dispatch(&sent, &routing)
        });
        let handle = &dispatched.handle;
        handles.iter().for_each(|expected| compare_handle(&mut communicator, handle, expected));
        if expert_rows == ExpertRows::Counted {
            assert_eq!(communicator.download::<u8>(&dispatched.input).expect("rows"), bytes(&rows));
            if let Some(scales) = &dispatched.scales {
                let expected: Vec<&[f32]> = rows.iter().map(Rows::scales).collect();
                assert_eq!(communicator.download::<f32>(scales).expect("scales"), expected);
            }
        }
        let received = communicator.received(handle).expect("counts");
        let counts: Vec<u64> = received.iter().map(|received| received.rows).collect();
        assert_eq!(counts, handles.iter().map(|handle| handle.rows as u64).collect::<Vec<_>>());

        // The rows of the worst case that did not arrive are never read; any bytes will do.
        let outputs: Vec<Rows> = handles
            .iter()
            .map(|handle| match expert_rows {
                ExpertRows::Counted => noise.rows(exchange.combine, exchange.hidden, handle.rows),
                ExpertRows::WorstCase => {
                    noise.rows(exchange.combine, exchange.hidden, exchange.output_rows_max() as usize)
                }
            })
            .collect();
        let output = communicator.upload::<u8>(Tensor::ExpertOutput, &bytes(&outputs)).expect("output");
        let way_back = Traffic::combine(exchange, &flow);
        let combined = counted(&mut communicator, &way_back, |communicator| communicator.combine(handle, &output));
        let expected = reference::combine(exchange, &handles, &outputs, Weighting::of(exchange));
        assert_eq!(communicator.download::<u8>(&combined).expect("rows"), bytes(&expected));
        let gradient =
            counted(&mut communicator, &way_back, |communicator| communicator.dispatch_backward(handle, &output));
        let expected = reference::dispatch_backward(exchange, &handles, &outputs);
        assert_eq!(communicator.download::<u8>(&gradient).expect("rows"), bytes(&expected));

        let others: Vec<Rows> =
            tokens.iter().map(|&tokens| noise.rows(exchange.dispatch.source(), exchange.hidden, tokens)).collect();
        let sent = communicator.upload::<u8>(Tensor::Tokens, &bytes(&others)).expect("tokens");
        let (input, _) = counted(&mut communicator, &Traffic::dispatch_cached(exchange, &flow), |communicator| {
            communicator.dispatch_cached(handle, &sent)
        });
        let expected = reference::dispatch_cached(exchange, &handles, &others.iter().collect::<Vec<_>>());
        if expert_rows == ExpertRows::Counted {
            assert_eq!(communicator.download::<u8>(&input).expect("rows"), bytes(&expected));
        }

        let gradients: Vec<Rows> =
            tokens.iter().map(|&tokens| noise.rows(exchange.combine, exchange.hidden, tokens)).collect();
        let given = communicator.upload::<u8>(Tensor::CombinedGradient, &bytes(&gradients)).expect("gradients");
        let backward = counted(&mut communicator, &Traffic::combine_backward(exchange, &flow), |communicator| {
            communicator.combine_backward(handle, &output, &given)
        });
        let expected = reference::combine_backward(exchange, &handles, &outputs, &gradients);
        if expert_rows == ExpertRows::Counted {
            let rows: Vec<&[u8]> = expected.iter().map(|expected| expected.expert_output.bytes()).collect();
            assert_eq!(communicator.download::<u8>(&backward.output).expect("rows"), rows);
        }
        assert_eq!(backward.weights.is_some(), exchange.weighted);
        if let Some(weights) = backward.weights {
            let expected: Vec<Vec<f32>> = expected.into_iter().filter_map(|expected| expected.weights).collect();
            assert_eq!(communicator.download::<f32>(&weights).expect("weights"), expected);
        }
        counted(&mut communicator, &Traffic::barrier(exchange), Communicator::barrier);
    }
}

#[test]
fn expert_major_bf16_weighted() {
    every_call_agrees(&exchange(|_| ()), ExpertRows::Counted);
}

#[test]
fn memory_for_the_worst_case() {
    every_call_agrees(&exchange(|_| ()), ExpertRows::WorstCase);
}

#[test]
fn fp8_out_and_f16_back_unweighted() {
    let exchange = exchange(|request| {
        (request.dispatch, request.combine) = (Payload::Fp8E4m3ScaleF32Per128, Payload::F16);
        (request.hidden, request.weighted) = (256, false);
    });
    every_call_agrees(&exchange, ExpertRows::Counted);
}

#[test]
fn rank_major_f32() {
    let exchange = exchange(|request| {
        (request.dispatch, request.combine) = (Payload::F32, Payload::F32);
        (request.layout, request.weighted) = (RowLayout::RankMajor, false);
    });
    every_call_agrees(&exchange, ExpertRows::Counted);
}

#[test]
fn more_ranks_than_experts() {
    every_call_agrees(&exchange(|request| (request.experts, request.top_k) = (2, 2)), ExpertRows::Counted);
}

/// Two ranks, rank 0 with experts 0 and 1, rank 1 with expert 2; every expert multiplies by its number + 1.
fn multiply(expert: ExpertId, input: &[f32], output: &mut [f32]) {
    output.iter_mut().zip(input).for_each(|(output, input)| *output = input * (expert.0 + 1) as f32);
}

fn two_ranks(change: impl FnOnce(&mut Request)) -> Exchange {
    exchange(|request| {
        (request.ranks, request.experts, request.zero_experts, request.top_k, request.hidden) = (2, 3, 0, 2, 4);
        (request.dispatch, request.combine) = (Payload::F32, Payload::F32);
        change(request);
    })
}

#[test]
fn from_logits_to_combined_rows() {
    for layout in [RowLayout::ExpertMajor { align: 4 }, RowLayout::RankMajor] {
        let weighted = layout != RowLayout::RankMajor;
        let exchange = two_ranks(|request| (request.layout, request.weighted) = (layout, weighted));
        let (_, mut communicator) = communicator(&exchange, Options::default());
        // The model's gate takes the two largest of logits + bias and weighs with the logits.
        let logits = [vec![0.5, 0.25, 0.125], vec![0.25, 0.5, 1.0, 2.0, 1.0, 0.5]];
        let logits = communicator.upload::<f32>(Tensor::Logits, &logits).expect("logits");
        let parameters = Parameters::none().f32("bias", &[0.0, 0.0, 0.25]);
        let routing = communicator.gate(&logits, &parameters).expect("a routing");
        assert_eq!(communicator.download::<i32>(&routing.indices).expect("picks"), [vec![0, 2], vec![1, 2, 0, 1]]);
        let tokens = communicator.upload::<f32>(Tensor::Tokens, &[vec![8.0; 4], vec![16.0; 8]]).expect("tokens");
        let dispatched = communicator.dispatch(&tokens, &routing).expect("dispatched");
        let output = communicator.apply_experts(&dispatched, multiply).expect("experts");
        let combined = communicator.combine(&dispatched.handle, &output).expect("combined");
        let combined = communicator.download::<f32>(&combined).expect("rows");
        // 0.5 × 8 + 0.125 × 24; 0.5 × 32 + 1 × 48 and 2 × 16 + 1 × 32
        assert_eq!(combined, [vec![7.0; 4], [[64.0; 4], [64.0; 4]].concat()], "{layout:?}");
        let given = communicator.upload::<f32>(Tensor::WeightGradients, &[vec![1.0, 2.0], vec![3.0; 4]]).expect("g");
        let gradient = communicator.gate_backward(&logits, &given, &parameters).expect("gradients");
        let gradient = communicator.download::<f32>(&gradient).expect("gradients");
        assert_eq!(gradient, [vec![1.0, 2.0, 0.0], vec![0.0, 3.0, 3.0, 3.0, 3.0, 0.0]]);
    }
}

#[test]
fn capacity_drops_what_is_too_much() {
    let exchange = two_ranks(|request| request.drop = Some(Drop::Position));
    let (_, mut communicator) = communicator(&exchange, Options::default());
    // 3 tokens × 2 picks ÷ 3 experts × 1 = 2 picks for each expert: the third pick of expert 0 goes.
    let logits = [[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 1.0, 2.0]].concat();
    let logits = communicator.upload::<f32>(Tensor::Logits, &[logits, vec![]]).expect("logits");
    let routing = communicator.gate(&logits, &Parameters::none().f32("bias", &[0.0; 3])).expect("a routing");
    assert_eq!(communicator.download::<i32>(&routing.indices).expect("picks"), [vec![0, 1, 0, 1, -1, 2], vec![]]);
}

#[test]
fn a_dead_rank_is_named_and_the_others_recover() {
    let exchange = exchange(|_| ());
    let options = Options { deadline: Some(Duration::from_secs(10)), ..Options::default() };
    let (device, mut communicator) = communicator(&exchange, options);
    let mut noise = Noise::new(1);
    let inputs: Vec<Input> = (0..3).map(|_| noise.input(&exchange, 2)).collect();
    let run = |communicator: &mut Communicator| {
        let picks: Vec<&[i32]> = inputs.iter().map(|input| &input.indices[..]).collect();
        let weights: Vec<&[f32]> = inputs.iter().map(|input| &input.weights[..]).collect();
        let routing = communicator.routing(&picks, &weights)?;
        let tokens: Vec<&[u8]> = inputs.iter().map(|input| input.tokens.bytes()).collect();
        let tokens = communicator.upload::<u8>(Tensor::Tokens, &tokens)?;
        communicator.dispatch(&tokens, &routing)
    };
    run(&mut communicator).expect("all alive");
    device.state().dead.insert(RankId(1));
    let error = run(&mut communicator).expect_err("rank 1 is dead");
    assert_eq!(
        error.to_string(),
        "rank 0, dispatch.arrive, waits for rank 1: has 0 of 2 after 10s; 2 other ranks wait too"
    );
    assert_eq!(run(&mut communicator).err(), Some(Error::Stopped));
    device.state().dead.clear();
    communicator.recover().expect("recovered");
    run(&mut communicator).expect("all alive again");
    device.state().dead.insert(RankId(2));
    communicator.barrier().expect("launched");
    let error = communicator.synchronise().expect_err("rank 2 is dead");
    assert_eq!(error.to_string(), "rank 2, barrier.arrive, waits for rank 2: has 0 of 1 after 10s");
}

#[test]
fn flags_have_names() {
    let exchange = exchange(|_| ());
    let (device, _communicator) = communicator(&exchange, Options::default());
    // Every rank's symmetric memory is its first allocation after its status.
    let labels: Vec<String> = (0..1u64 << 16)
        .step_by(8)
        .filter_map(|offset| device.label(moe_runtime::device::Address((1 << 48) + offset)))
        .collect();
    assert!(labels.contains(&"dispatch.arrive[rank 2]".to_string()), "{labels:?}");
    assert!(labels.contains(&"combine.arrive[rank 0]".to_string()), "{labels:?}");
}

#[test]
fn memory_is_given_back() {
    let exchange = exchange(|_| ());
    let (device, mut communicator) = communicator(&exchange, Options::default());
    let before = device.allocations();
    let mut noise = Noise::new(2);
    let inputs: Vec<Input> = (0..3).map(|_| noise.input(&exchange, 2)).collect();
    let picks: Vec<&[i32]> = inputs.iter().map(|input| &input.indices[..]).collect();
    let weights: Vec<&[f32]> = inputs.iter().map(|input| &input.weights[..]).collect();
    let routing = communicator.routing(&picks, &weights).expect("a routing");
    let tokens: Vec<&[u8]> = inputs.iter().map(|input| input.tokens.bytes()).collect();
    let tokens = communicator.upload::<u8>(Tensor::Tokens, &tokens).expect("tokens");
    drop((communicator.dispatch(&tokens, &routing).expect("dispatched"), tokens, routing));
    communicator.synchronise().expect("kernels");
    assert_eq!(device.allocations(), before);
    drop(communicator);
    assert_eq!(device.allocations(), 0);
}

#[test]
fn wrong_numbers_are_named() {
    let exchange = two_ranks(|_| ());
    let (_, mut communicator) = communicator(&exchange, Options::default());
    let bias = Parameters::none().f32("bias", &[0.0; 3]);
    let logits = [vec![0.0; 3], vec![0.0, 1.0, 2.0, 0.0, f32::NAN, 2.0]];
    let logits = communicator.upload::<f32>(Tensor::Logits, &logits).expect("logits");
    communicator.gate(&logits, &bias).expect("launched");
    let error = communicator.synchronise().expect_err("NaN");
    assert_eq!(error.to_string(), "rank 1, token 1: the logit of expert 1 is NaN");
    communicator.recover().expect("recovered");

    let tokens = communicator.upload::<f32>(Tensor::Tokens, &[vec![1.0; 4], vec![]]).expect("tokens");
    for (picks, message) in [
        ([1, 3], "rank 0, token 0: pick 1 is 3, which is not an expert"),
        ([1, 1], "rank 0, token 0: pick 1 is expert 1, which the token has picked before"),
        ([-7, 1], "rank 0, token 0: pick 0 is -7, which is not an expert"),
    ] {
        let routing = communicator.routing(&[&picks[..], &[]], &[&[1.0, 1.0][..], &[]]).expect("a routing");
        let error = communicator.dispatch(&tokens, &routing).expect_err("impossible");
        assert_eq!(error.to_string(), message);
        communicator.recover().expect("recovered");
    }
}

#[test]
fn wrong_shapes_are_refused_before_anything_runs() {
    let exchange = two_ranks(|request| request.max_tokens = 2);
    let (_, mut communicator) = communicator(&exchange, Options::default());
    let mut upload = |kind, of_rank_0: usize, of_rank_1: usize| {
        communicator.upload::<f32>(kind, &[vec![0.0; of_rank_0], vec![0.0; of_rank_1]])
    };
    assert_eq!(
        upload(Tensor::Logits, 3, 4).expect_err("4 numbers").to_string(),
        "rank 1: logits has 16 bytes, which are not rows of 12 bytes"
    );
    let (one, three) = (upload(Tensor::Logits, 3, 3).expect("one each"), upload(Tensor::Logits, 3, 9).expect("three"));
    let tokens = upload(Tensor::Tokens, 4, 8).expect("tokens");
    let output = upload(Tensor::ExpertOutput, 4, 4).expect("output");
    let bias = Parameters::none().f32("bias", &[0.0; 3]);
    let gate = |communicator: &mut Communicator, parameters: Parameters| {
        communicator.gate(&one, &parameters).expect_err("wrong").to_string()
    };
    assert_eq!(
        communicator.gate(&three, &bias).expect_err("3 tokens").to_string(),
        "rank 1: 3 tokens, but the bundle was built for at most 2 per rank and call"
    );
    assert_eq!(gate(&mut communicator, Parameters::none()), "the gate needs the parameter `bias`");
    assert_eq!(
        gate(&mut communicator, Parameters::none().f32("bias", &[0.0; 2])),
        "the gate's parameter `bias` has 2 × f32; it must have 3 × f32"
    );
    assert_eq!(
        gate(&mut communicator, bias.clone().f32("bais", &[0.0])),
        "the gate has no parameter `bais`; it has `bias`"
    );
    let routing = communicator.gate(&one, &bias).expect("a routing");
    assert_eq!(
        communicator.dispatch(&tokens, &routing).expect_err("2 tokens").to_string(),
        "rank 1: indices has 1 rows; it must have 2"
    );
    assert_eq!(
        communicator.dispatch(&one, &routing).expect_err("logits").to_string(),
        "logits were passed where tokens are needed"
    );
    let tokens = communicator.upload::<f32>(Tensor::Tokens, &[[1.0; 4], [1.0; 4]]).expect("tokens");
    let dispatched = communicator.dispatch(&tokens, &routing).expect("dispatched");
    assert_eq!(
        communicator.combine(&dispatched.handle, &output).expect_err("rows").to_string(),
        "rank 0: experts' output has 1 rows; it must have 8"
    );
    assert_eq!(
        communicator.upload::<f32>(Tensor::Tokens, &[[1.0; 4]]).expect_err("parts").to_string(),
        "tokens: 1 tensors for 2 ranks"
    );
}

#[test]
fn a_bundle_for_another_device_is_refused() {
    let two = two_ranks(|_| ());
    let bundle = model::world::bundle(&exchange(|_| ()));
    let device = std::sync::Arc::new(model::Model::new(&two));
    let error = Communicator::new(device, &bundle, Options::default()).err().expect("3 ranks");
    assert_eq!(error.to_string(), "the bundle is for 3 ranks, the device has 2");
}

#[test]
fn more_ranks_than_a_gpu_holds_are_refused() {
    let exchange = two_ranks(|request| request.ctas = 5);
    let bundle = model::world::bundle(&exchange);
    let with = |ctas| {
        let device = std::sync::Arc::new(model::Model::new(&exchange));
        device.state().residency = Some(Residency { ctas, ranks: 2 });
        Communicator::new(device, &bundle, Options::default()).map(|_| ())
    };
    assert_eq!(with(6), Ok(()), "5 wait, and one place is left for the rank that sends");
    let error = with(5).expect_err("5 CTAs wait at once");
    assert!(matches!(error, Error::Residency { per_rank: 5, ranks: 2, resident: 5, .. }), "{error:?}");
    assert!(error.to_string().starts_with("too many ranks for one GPU: kernel `"), "{error}");
}
