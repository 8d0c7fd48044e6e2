//! One file through every back end: interpreter, native code and the PTX of its bundle on eight virtual GPUs; and what the planner
//! says of the links against what the virtual GPUs count.

use std::sync::Arc;

use moe_contract::{Call, Flow, Launch, RankId, Tensor};
use moe_front::check_source;
use moe_front::spec::Model;
use moe_gate::interpret::{self, Routing};
use moe_host::HostGate;
use moe_lower::{Choice, compile};
use moe_planner::traffic;
use moe_runtime::{Communicator, Device, LinkBytes, Options, VirtualDevice, VirtualOptions};
use moe_tests::{GateInput, examples};

/// Tokens of each rank: different, one with none.
const TOKENS: [usize; 8] = [5, 0, 7, 1, 6, 7, 2, 3];

#[test]
fn every_example_routes_alike_on_every_back_end_and_moves_the_predicted_bytes() {
    let examples = examples();
    assert!(examples.len() >= 15, "the examples of the language");
    for (name, text) in examples {
        let choice = Choice { deploy: Some("one_node".into()), tokens: Some(7), ..Choice::default() };
        let compiled = compile(&text, &choice).unwrap_or_else(|error| panic!("{name}: {error}"));
        let spec = check_source(text.as_bytes()).spec.expect("it was just compiled");
        let deploy = &spec.deploys[spec.deploy("one_node").expect("it was just compiled")];
        let model = &spec.models[deploy.model];
        let gate = &model.gate;

        let input = GateInput::seeded(&gate.program, &TOKENS, 11);
        let exchange = compiled.bundle.manifest().exchange;
        let device: Arc<dyn Device> =
            Arc::new(VirtualDevice::new(exchange.ranks, &VirtualOptions::default()).expect("eight virtual GPUs"));
        let mut moe = Communicator::new(Arc::clone(&device), &compiled.bundle, Options::default()).expect("it loads");
        let logits = moe.upload(Tensor::Logits, input.logits()).expect("logits of every rank");
        let parameters = moe.upload_parameters(&input.parameters(&gate.program)).expect("those of the gate");
        let routing = moe.gate(&logits, &parameters).expect("the gate is launched");
        let indices: Vec<Vec<i32>> = moe.download(&routing.indices).expect("the gate runs");
        let weights: Vec<Vec<f32>> = moe.download(&routing.weights).expect("the gate runs");

        let host = HostGate::compile(gate).expect("native code");
        for rank in 0..TOKENS.len() {
            let inputs = input.of_rank(&gate.program, rank).expect("made for this gate");
            let reference = interpret::route(gate, &inputs).expect("no NaN");
            assert_same(
                &format!("{name}, rank {rank}, native code"),
                &reference,
                &host.route(&inputs).expect("no NaN"),
            );
            if model.capacity.is_none() {
                let device = Routing { indices: indices[rank].clone(), weights: weights[rank].clone() };
                assert_same(&format!("{name}, rank {rank}, PTX"), &reference, &device);
            }
        }

        let before = moe.traffic().expect("virtual GPUs count");
        let width = exchange.hidden as usize * exchange.dispatch.source().element.bytes() as usize;
        let rows: Vec<Vec<u8>> = TOKENS.iter().map(|&tokens| vec![0; tokens * width]).collect();
        let rows = moe.upload(Tensor::Tokens, &rows).expect("rows of every rank");
        moe.dispatch_counted(&rows, &routing).expect("it is launched");
        moe.synchronise().expect("dispatch runs");
        let counted = moe.traffic().expect("virtual GPUs count").since(&before);
        assert_predicted(&name, model, exchange.ctas_link, &indices, &counted);
    }
}

fn assert_same(what: &str, expected: &Routing, found: &Routing) {
    assert_eq!(expected.indices, found.indices, "{what}: chosen experts");
    let bits = |weights: &[f32]| weights.iter().map(|weight| weight.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&expected.weights), bits(&found.weights), "{what}: weights");
}

/// The planner's exact count of a dispatch, from the model and the routing alone, on every link. A rank's own memory is no link.
fn assert_predicted(name: &str, model: &Model, ctas_link: u32, indices: &[Vec<i32>], counted: &LinkBytes) {
    let homes = traffic::contiguous(model, 8, 8).expect("one node");
    let picks: Vec<&[i32]> = indices.iter().map(Vec::as_slice).collect();
    let exchange = model.exchange(8, 1, Launch { ctas_link, ..Launch::LEAST });
    let predicted = LinkBytes::of(Call::Dispatch, &exchange, &Flow::to(&homes, model.top_k(), &picks));
    for from in (0..8).map(RankId) {
        for to in (0..8).map(RankId).filter(|&to| to != from) {
            assert_eq!(predicted.bytes(from, to), counted.bytes(from, to), "{name}: bytes from {from} to {to}");
        }
    }
}
