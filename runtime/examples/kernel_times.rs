//! Times gate, dispatch and combine of a bundle on GPUs, without checking the results (`moec run --device cuda` does that).
//!
//! `kernel_times BUNDLE.moeb [TOKENS [CALLS]]`: median microseconds of each kernel and of each call, all ranks together.
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moe_bundle::manifest::ParameterKind;
use moe_bundle::{Bundle, GateDescription};
use moe_contract::{Kernel, Tensor};
use moe_random::Random;
use moe_runtime::communicator::together;
use moe_runtime::{Communicator, CudaDevice, CudaOptions, Options, Parameters};

/// Calls before the first that counts.
const WARM_UP: usize = 3;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let path = arguments.get(1).ok_or("usage: kernel_times BUNDLE.moeb [TOKENS [CALLS]]")?;
    let bundle = Bundle::read(Path::new(path))?;
    let exchange = bundle.manifest().exchange;
    let number = |at: usize, default: usize| arguments.get(at).map_or(Ok(default), |text| text.parse());
    let (tokens, calls) = (number(2, exchange.max_tokens as usize)?, number(3, 30)?);
    let ranks = exchange.ranks as usize;

    let options = CudaOptions { time_launches: true, ..CudaOptions::default() };
    let device = Arc::new(CudaDevice::new(exchange.ranks, &options)?);
    let mut moe = Communicator::new(device, &bundle, Options::default())?;
    println!("{}; {tokens} tokens a rank, hidden {}", moe.device().description(), exchange.hidden);

    let gate = &bundle.manifest().gate;
    let logits = |rank| {
        let mut random = Random::stream(1, rank as u64);
        (0..tokens * gate.experts as usize).map(|_| random.normal()).collect::<Vec<f32>>()
    };
    let logits = moe.upload(Tensor::Logits, &(0..ranks).map(logits).collect::<Vec<_>>())?;
    let ones = vec![half::bf16::ONE; tokens * exchange.hidden as usize];
    let x = moe.upload(Tensor::Tokens, &vec![&ones; ranks])?;
    let parameters = moe.upload_parameters(&zeros(gate)?)?;

    let mut walls: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    let mut kernels: BTreeMap<Kernel, Vec<Duration>> = BTreeMap::new();
    let mut output = None;
    for call in 0..WARM_UP + calls {
        let mut timed = |name, start: Instant| {
            if call >= WARM_UP {
                walls.entry(name).or_default().push(start.elapsed());
            }
        };
        let start = Instant::now();
        let routing = moe.gate(&logits, &parameters)?;
        moe.synchronise()?;
        timed("gate", start);
        let start = Instant::now();
        let dispatched = moe.dispatch_counted(&x, &routing)?;
        moe.synchronise()?;
        timed("dispatch, counts read by the host", start);
        let y = match output.take() {
            Some(y) => y,
            None => {
                let received = moe.received(&dispatched.handle)?;
                let rows: Vec<Vec<u8>> = received
                    .iter()
                    .map(|received| {
                        vec![0; received.rows as usize * exchange.tensor_row_bytes(Tensor::ExpertOutput) as usize]
                    })
                    .collect();
                moe.upload(Tensor::ExpertOutput, &rows)?
            }
        };
        let start = Instant::now();
        moe.combine(&dispatched.handle, &y)?;
        moe.synchronise()?;
        timed("combine", start);
        output = Some(y);
        let times = moe.kernel_times()?;
        if call >= WARM_UP {
            for (kernel, time) in together(&times) {
                kernels.entry(kernel).or_default().push(time);
            }
        }
    }
    for (name, times) in walls {
        println!("{name:34} {:10.1} µs", median(times));
    }
    for (kernel, times) in kernels {
        println!("  {:32} {:10.1} µs", kernel.name(), median(times));
    }
    Ok(())
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

fn zeros(gate: &GateDescription) -> Outcome<Parameters> {
    let mut parameters = Parameters::none();
    for parameter in &gate.parameters {
        let count = match parameter.kind {
            ParameterKind::Scalar => 1,
            ParameterKind::Experts => gate.experts,
            ParameterKind::Groups => gate.groups,
            ParameterKind::Table { .. } | ParameterKind::TokenId => {
                return Err("gates with tables are not timed".into());
            }
        };
        parameters = parameters.f32(&parameter.name, &vec![0.0; count as usize]);
    }
    Ok(parameters)
}
