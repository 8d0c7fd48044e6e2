//! One layer, forward and backward, and memory for rows that do not arrive.

use moe_contract::{ExpertId, Tensor};
use moe_runtime::{Communicator, Distributed, Handle, Result};

use crate::support::{self, HIDDEN, Input, LAYERS, Results, WEIGHTED, bundle, communicator};

/// Every call but the gate's, with an output of the experts that is given. Nothing waits before the end.
pub fn every_call(moe: &mut Communicator, input: &Input, seed: u64) -> Result<Results> {
    let (tokens, routing) = input.upload(moe)?;
    let output = support::noise(moe, seed)?;
    let gradients = moe.upload(Tensor::CombinedGradient, &input.gradients)?;
    let of_rows = (!moe.exchange().weighted).then(|| row_gradients(moe)).transpose()?;
    let dispatched = moe.dispatch(&tokens, &routing)?;
    let calls = launch(moe, &dispatched.handle, &tokens, &output, &gradients, of_rows.as_ref())?;
    let first = [("experts' input", Some(dispatched.input)), ("scales", dispatched.scales)];
    download(moe, first.into_iter().chain(calls))
}

pub type Named = (&'static str, Option<Distributed>);

/// What follows a dispatch.
pub fn launch(
    moe: &mut Communicator,
    handle: &Handle,
    tokens: &Distributed,
    output: &Distributed,
    gradients: &Distributed,
    of_rows: Option<&Distributed>,
) -> Result<Vec<Named>> {
    let combined = moe.combine(handle, output)?;
    let backward = moe.combine_backward(handle, output, gradients)?;
    let of_weights = match of_rows {
        Some(of_rows) => Some(moe.weights_backward(handle, of_rows)?),
        None => backward.weights,
    };
    let of_tokens = moe.dispatch_backward(handle, output)?;
    let (again, scales) = moe.dispatch_cached(handle, tokens)?;
    moe.barrier()?;
    Ok(vec![
        ("combined rows", Some(combined)),
        ("gradients of the experts' output", Some(backward.output)),
        ("gradients of weights", of_weights),
        ("gradients of tokens", Some(of_tokens)),
        ("experts' input again", Some(again)),
        ("scales again", scales),
    ])
}

pub fn download(moe: &mut Communicator, named: impl IntoIterator<Item = Named>) -> Result<Results> {
    let mut results = Results::new();
    for (name, tensor) in named {
        if let Some(tensor) = tensor {
            results.push((name, moe.download(&tensor)?));
        }
    }
    Ok(results)
}

pub fn row_gradients(moe: &mut Communicator) -> Result<Distributed> {
    let exchange = *moe.exchange();
    let count = exchange.output_rows_max() as usize * exchange.weights_per_row() as usize;
    let of_rank = |rank: u32| (0..count).map(|place| (place as f32 + rank as f32).sin()).collect::<Vec<f32>>();
    let parts: Vec<Vec<f32>> = moe.ranks().map(|rank| of_rank(rank.0)).collect();
    moe.upload(Tensor::RowWeightGradients, &parts)
}

/// With memory for the worst case, experts on the host met rows that had never been written.
#[test]
fn rows_that_do_not_arrive_are_zero_in_memory_for_the_worst_case() {
    for layer in LAYERS {
        let mut moe = communicator(&bundle(layer));
        let input = Input::new(moe.exchange(), &[3, 0, 8, 1], 5);
        let (tokens, routing) = input.upload(&mut moe).expect("uploaded");
        let multiply = |expert: ExpertId, input: &[f32], output: &mut [f32]| {
            output.iter_mut().zip(input).for_each(|(output, input)| *output = (1.0 + expert.0 as f32) * input);
        };
        let mut of_way = |counted: bool| {
            let dispatched =
                if counted { moe.dispatch_counted(&tokens, &routing) } else { moe.dispatch(&tokens, &routing) };
            let dispatched = dispatched.expect("dispatched");
            let rows = dispatched.input.all_rows();
            let received = moe.received(&dispatched.handle).expect("counts");
            let input: Vec<Vec<u8>> = moe.download(&dispatched.input).expect("rows that did not arrive are zero");
            let output = moe.apply_experts(&dispatched, multiply).expect("experts");
            let combined = moe.combine(&dispatched.handle, &output).expect("combined");
            (rows, received, input, moe.download::<u8>(&combined).expect("a result"))
        };
        let (counted, worst) = (of_way(true), of_way(false));
        assert_eq!(counted.1, worst.1, "{layer}");
        assert_eq!(counted.3, worst.3, "{layer}");
        for (rank, (arrived, all)) in counted.2.iter().zip(&worst.2).enumerate() {
            assert_eq!(counted.0[rank], counted.1[rank].rows, "memory for what arrives");
            // A batched layout has the same memory whatever arrives.
            let batched = layer.contains("batched");
            assert!(batched == (counted.0[rank] == worst.0[rank]), "memory for what can arrive");
            assert!(all.starts_with(arrived) && all[arrived.len()..].iter().all(|&byte| byte == 0), "{layer}");
        }
    }
}

/// The closed form of a layer whose experts copy: a token's row times the sum of its weights.
#[test]
fn a_layer_of_experts_that_copy_gives_the_row_times_the_sum_of_weights() {
    let mut moe = communicator(&bundle(WEIGHTED));
    let ones = vec![half::bf16::ONE; HIDDEN];
    let tokens = moe.upload(Tensor::Tokens, &vec![ones; support::RANKS]).expect("uploaded");
    let indices: Vec<Vec<i32>> = vec![vec![0, 3, 7]; support::RANKS];
    let weights = vec![vec![0.5f32, 1.0, 1.5]; support::RANKS];
    let routing = moe.upload_routing(&indices, &weights).expect("uploaded");
    let dispatched = moe.dispatch(&tokens, &routing).expect("dispatched");
    let output = moe.apply_experts(&dispatched, |_, input, output| output.copy_from_slice(input)).expect("experts");
    let combined = moe.combine(&dispatched.handle, &output).expect("combined");
    let three = vec![half::bf16::from_f32(3.0); HIDDEN];
    assert_eq!(moe.download::<half::bf16>(&combined).expect("a result"), vec![three; support::RANKS]);
}
