//! How fast a gate runs, for tables of benchmarks.

use std::time::{Duration, Instant};

use moe_gate::inputs::{Inputs, Tensor};
use moe_gate::ir::{Gate, InputKind};

use crate::HostGate;

/// Tokens per second.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Of the median run.
    pub median: f64,
    /// Of the fastest run: what the code does when nothing else wants the cores.
    pub best: f64,
}

/// The rate of routing a batch of seeded random logits and parameters, on a number of threads, over `runs` runs after one that does not
/// count. The time is that of [`HostGate::route_into`].
///
/// # Panics
/// If `runs` is zero, the gate cannot be compiled, reads a table, or no threads can be started.
pub fn tokens_per_second(gate: &Gate, tokens: usize, threads: usize, runs: usize) -> Rate {
    let host = HostGate::compile(gate).expect("the gate can be compiled");
    let program = &gate.program;
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut normal = || {
        // The sum of four uniform numbers is normal enough.
        let uniform = |state: &mut u64| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*state >> 40) as f32 / (1u32 << 24) as f32
        };
        (0..4).map(|_| uniform(&mut state) - 0.5).sum::<f32>() * 1.732
    };
    let rows: Vec<Vec<f32>> = program
        .inputs()
        .iter()
        .map(|input| {
            let (rows, width, scale) = match input.kind {
                InputKind::Logits => (tokens, program.experts(), 1.5),
                InputKind::ExpertParameter => (1, program.experts(), 0.01),
                InputKind::GroupParameter => (1, program.groups().unwrap_or(0), 0.01),
                InputKind::ScalarParameter => (1, 1, 1.0),
                kind => panic!("no random {kind}"),
            };
            (0..rows * width as usize).map(|_| scale * normal()).collect()
        })
        .collect();
    let inputs = Inputs::new(program, tokens, rows.iter().map(|row| Tensor::F32(row)).collect()).expect("they fit");
    let numbers = tokens * gate.top_k() as usize;
    let (mut indices, mut weights) = (vec![0; numbers], vec![0.0; numbers]);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started");
    let mut times: Vec<Duration> = pool.install(|| {
        (0..=runs)
            .map(|_| {
                let start = Instant::now();
                host.route_into(&inputs, &mut indices, &mut weights).expect("random logits are no NaN");
                start.elapsed()
            })
            .skip(1)
            .collect()
    });
    times.sort_unstable();
    let rate = |time: Duration| tokens as f64 / time.as_secs_f64();
    Rate { median: rate(times[times.len() / 2]), best: rate(times[0]) }
}
