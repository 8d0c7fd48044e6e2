//! A bundle for the model, and inputs for it.

use std::sync::Arc;

use moe_bundle::manifest::{Parameter, ParameterKind};
use moe_bundle::{Bundle, Capacity, Exchange, GateDescription, Grid, Kernel, KernelImage, Manifest, Payload};
use moe_judge::Rows;
use moe_judge::reference::Input;
use moe_random::Random;
use moe_runtime::{Communicator, Options};

use super::Model;

/// Every kernel, for the model. The gate has a bias.
pub fn bundle(exchange: &Exchange) -> Bundle {
    let width = exchange.experts + exchange.zero_experts;
    let manifest = Manifest {
        compiler: "none".into(),
        model: "test".into(),
        deploy: None,
        source: String::new(),
        exchange: exchange.clone(),
        gate: GateDescription {
            logits: "logits".into(),
            parameters: vec![Parameter { name: "bias".into(), kind: ParameterKind::Experts }],
            experts: width,
            groups: 1,
            top_k: exchange.top_k,
            before_experts: false,
        },
        capacity: exchange.drop.map(|_| Capacity::Factor(1.0)),
        kernels: vec![],
    };
    let image = |kernel: Kernel| KernelImage {
        kernel,
        target: "model".into(),
        block: 64,
        grid: Grid::of(kernel, exchange).unwrap_or(Grid::PerTokens(4)),
        shared: 0,
        registers: None,
        ptx: kernel.name().into(),
    };
    Bundle::new(manifest, &Kernel::ALL.map(image)).expect("sound")
}

/// A communicator on a model of its own.
pub fn communicator(exchange: &Exchange, options: Options) -> (Arc<Model>, Communicator) {
    let device = Arc::new(Model::new(exchange));
    let communicator = Communicator::new(device.clone(), &bundle(exchange), options).expect("a communicator");
    (device, communicator)
}

/// Numbers that look random and are the same in every run.
pub struct Noise(Random);

impl Noise {
    pub fn new(seed: u64) -> Noise {
        Noise(Random::new(seed))
    }

    /// From −4 to 4.
    pub fn number(&mut self) -> f32 {
        (self.0.below(1 << 16) as f32 - 32_768.0) / 8192.0
    }

    pub fn rows(&mut self, payload: Payload, hidden: u32, count: usize) -> Rows {
        let values: Vec<f32> = (0..count * hidden as usize).map(|_| self.number()).collect();
        Rows::from_values(payload, hidden, &values)
    }

    /// Tokens with picks: fewer than top_k now and then, zero experts among them.
    pub fn input(&mut self, exchange: &Exchange, tokens: usize) -> Input {
        let (k, width) = (exchange.top_k as usize, u64::from(exchange.experts + exchange.zero_experts));
        let mut indices = Vec::new();
        for _ in 0..tokens {
            let wanted = self.0.index(k + 1);
            let mut picks: Vec<i32> = Vec::new();
            while picks.len() < wanted {
                let pick = self.0.below(width) as i32;
                if !picks.contains(&pick) {
                    picks.push(pick);
                }
            }
            picks.sort_unstable();
            picks.resize(k, -1);
            indices.extend(picks);
        }
        let weights = (0..tokens * k).map(|_| self.number()).collect();
        let tokens = self.rows(exchange.dispatch.source(), exchange.hidden, tokens);
        Input { tokens, indices, weights }
    }
}
