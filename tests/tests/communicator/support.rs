//! Small layers on virtual GPUs, and what goes into them.

use std::sync::Arc;

use moe_bundle::Bundle;
use moe_contract::{Exchange, Tensor};
use moe_lower::{Choice, compile};
use moe_random::Random;
use moe_runtime::{
    Communicator, Device, Distributed, Options, Parameters, Policy, Result, Routing, VirtualDevice, VirtualOptions,
};

pub const RANKS: usize = 4;
pub const EXPERTS: usize = 8;
pub const PICKS: usize = 3;
pub const HIDDEN: usize = 256;
pub const MOST_TOKENS: usize = 8;

/// How the layers differ.
pub const LAYERS: [&str; 4] = [
    "dispatch { payload fp8_e4m3 scale f32 per 128   layout expert_major align 4 }
     combine { payload bf16   reduce f32 weighted }",
    "dispatch { payload bf16   layout rank_major }
     combine { payload bf16   reduce f32 unweighted }",
    "dispatch { payload f32   layout expert_major align 1 }
     combine { payload f32   reduce f32 unweighted }",
    "dispatch { payload fp8_e4m3 scale ue8m0 per 32   layout batched }
     combine { payload bf16   reduce f32 weighted }",
];

/// fp8 there, bf16 back, combine weighs.
pub const WEIGHTED: &str = LAYERS[0];

/// One bundle for each; built once for a test.
pub fn bundle(layer: &str) -> Bundle {
    let text = format!(
        "model small {{
            hidden {HIDDEN}
            experts {EXPERTS}
            gate(logits: f32[experts], bias: f32[experts]) {{
                let score  = sigmoid(logits)
                let chosen = top({PICKS}, experts, by: score + bias)
                weights normalize(score[chosen], eps: 1e-20)
            }}
            {layer}
        }}
        cluster node {{
            nodes 1   gpus {RANKS} per node
            gpu \"H800\" {{ target sm_90a   sms 132   memory 80 GB }}
            nvlink 160 GB/s
        }}
        deploy tiny of small on node {{ ep {RANKS}   tokens {MOST_TOKENS} per gpu   sms 2 }}"
    );
    compile(&text, &Choice::default()).unwrap_or_else(|error| panic!("{layer}: {error}")).bundle
}

pub fn device(policy: Policy, seed: u64) -> Arc<VirtualDevice> {
    let options = VirtualOptions { policy, seed, ..VirtualOptions::default() };
    Arc::new(VirtualDevice::new(RANKS as u32, &options).expect("virtual GPUs"))
}

pub fn on(device: &Arc<VirtualDevice>, bundle: &Bundle) -> Communicator {
    let device: Arc<dyn Device> = Arc::<VirtualDevice>::clone(device);
    Communicator::new(device, bundle, Options::default()).expect("a communicator")
}

pub fn communicator(bundle: &Bundle) -> Communicator {
    on(&device(Policy::RoundRobin, 0), bundle)
}

/// What goes into one call of a layer on every rank: numbers in the formats of an exchange.
#[derive(Clone)]
pub struct Input {
    pub logits: Vec<Vec<f32>>,
    pub bias: Vec<f32>,
    pub tokens: Vec<Vec<u8>>,
    pub indices: Vec<Vec<i32>>,
    pub weights: Vec<Vec<f32>>,
    /// Of the combined rows.
    pub gradients: Vec<Vec<u8>>,
}

/// Numbers from −1 to 1 in the format of a tensor.
pub fn rows(exchange: &Exchange, kind: Tensor, rows: usize, random: &mut Random) -> Vec<u8> {
    let format = if kind == Tensor::Tokens { exchange.dispatch.source() } else { exchange.combine };
    let row = |random: &mut Random| {
        let numbers: Vec<f32> = (0..HIDDEN).map(|_| 2.0 * random.unit() as f32 - 1.0).collect();
        format.store(&numbers).elements
    };
    (0..rows).flat_map(|_| row(random)).collect()
}

impl Input {
    /// Some tokens on each rank. Now and then a pick is dropped, or all of a token.
    pub fn new(exchange: &Exchange, tokens: &[usize; RANKS], seed: u64) -> Input {
        let mut random = Random::new(seed);
        let picks = |random: &mut Random| -> Vec<i32> {
            let mut picks: Vec<i32> =
                random.choose(EXPERTS as u32, PICKS as u32).into_iter().map(|expert| expert as i32).collect();
            picks.sort_unstable();
            match random.below(8) {
                0 => vec![-1; PICKS],
                1 => {
                    picks[PICKS - 1] = -1;
                    picks
                }
                _ => picks,
            }
        };
        let mut numbers = |count: usize| (0..count).map(|_| random.normal()).collect::<Vec<f32>>();
        let logits = tokens.iter().map(|tokens| numbers(tokens * EXPERTS)).collect();
        let bias = numbers(EXPERTS);
        let weights = tokens.iter().map(|tokens| numbers(tokens * PICKS)).collect();
        Input {
            logits,
            bias,
            weights,
            tokens: tokens.iter().map(|&tokens| rows(exchange, Tensor::Tokens, tokens, &mut random)).collect(),
            indices: tokens.iter().map(|&tokens| (0..tokens).flat_map(|_| picks(&mut random)).collect()).collect(),
            gradients: tokens
                .iter()
                .map(|&tokens| rows(exchange, Tensor::CombinedGradient, tokens, &mut random))
                .collect(),
        }
    }

    pub fn parameters(&self) -> Parameters {
        Parameters::none().f32("bias", &self.bias)
    }

    pub fn upload(&self, moe: &mut Communicator) -> Result<(Distributed, Routing)> {
        Ok((moe.upload(Tensor::Tokens, &self.tokens)?, moe.upload_routing(&self.indices, &self.weights)?))
    }
}

/// An output of the experts for every row that can arrive.
pub fn noise(moe: &mut Communicator, seed: u64) -> Result<Distributed> {
    let exchange = *moe.exchange();
    let most = exchange.output_rows_max() as usize;
    let of_rank = |rank| rows(&exchange, Tensor::ExpertOutput, most, &mut Random::stream(seed, rank));
    let parts: Vec<Vec<u8>> = moe.ranks().map(|rank| of_rank(rank.0.into())).collect();
    moe.upload(Tensor::ExpertOutput, &parts)
}

/// Everything that a call of each kind gives, as bytes of every rank.
pub type Results = Vec<(&'static str, Vec<Vec<u8>>)>;

pub fn assert_same(what: &str, found: &Results, expected: &Results) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for ((name, found), (_, expected)) in found.iter().zip(expected) {
        assert!(found == expected, "{what}: {name} differs");
    }
}
