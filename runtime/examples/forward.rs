//! The program of `docs/runtime.md`: loads a bundle and runs one layer, gate to result, on virtual GPUs.
use std::{path::Path, sync::Arc};

use moe_bundle::Bundle;
use moe_contract::{ExpertId, Tensor};
use moe_runtime::{Communicator, Device, Options, Parameters, Result, VirtualDevice, VirtualOptions};

/// An expert of your own: here each multiplies by its id.
fn expert(id: ExpertId, input: &[f32], output: &mut [f32]) {
    output.iter_mut().zip(input).for_each(|(output, input)| *output = id.0 as f32 * input);
}

/// The result of the layer on every rank, `[tokens, hidden]` in the combine payload: every token gets the same logits and activations.
pub(crate) fn forward(bundle: &Bundle, tokens: usize) -> Result<Vec<Vec<u8>>> {
    let (exchange, gate) = (&bundle.manifest().exchange, &bundle.manifest().gate);
    let ranks = exchange.ranks as usize;
    let device: Arc<dyn Device> = Arc::new(VirtualDevice::new(exchange.ranks, &VirtualOptions::default())?);
    let mut moe = Communicator::new(device, bundle, Options::default())?;

    let logits: Vec<f32> = (0..gate.experts).map(|expert| (expert as f32 / 3.0).sin()).collect();
    let logits = moe.upload(Tensor::Logits, &vec![logits.repeat(tokens); ranks])?;
    let ones = exchange.tensor_row_bytes(Tensor::Tokens) as usize * tokens / 2;
    let x = moe.upload(Tensor::Tokens, &vec![vec![half::bf16::ONE; ones]; ranks])?;
    let bias = Parameters::none().f32("bias", &vec![0.0; gate.experts as usize]);
    let bias = moe.upload_parameters(&bias)?;

    let routing = moe.gate(&logits, &bias)?;
    let dispatched = moe.dispatch(&x, &routing)?;
    let output = moe.apply_experts(&dispatched, expert)?;
    let y = moe.combine(&dispatched.handle, &output)?;
    moe.download(&y)
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: forward BUNDLE.moeb")?;
    let y = forward(&Bundle::read(Path::new(&path))?, 4)?;
    println!("{} ranks, {} bytes each", y.len(), y[0].len());
    Ok(())
}
