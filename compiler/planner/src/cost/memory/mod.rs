//! What lies in the memory of a GPU, by kind.
//!
//! Invariant: the numbers are of the GPU that has most: ⌈layers / stages⌉ layers, the larger of the two ends of the pipeline.
//!
//! # What is counted
//! * Experts: ⌈experts / ep⌉ of each layer of the stage. With dp × tp / ep replicas of each, ZeRO shards over those.
//! * Other parameters: divided by tp, replicated dp times, sharded over those by ZeRO. Embedding or output projection on one end.
//! * [`Precision`] says bytes per parameter. ZeRO 1 shards master weights and moments, 2 gradients too, 3 weights too
//!   (Rajbhandari et al. 2020, arXiv:1910.02054).
//! * A schedule with two copies of the parameters (DualPipe) holds weights and gradients twice.
//! * Activations of the micro-batches in flight: see [`Recompute`].
//! * Communication: the receive regions of [`moe_bundle::SymmetricLayout`], worst case, in the two halves that every bundle has; across nodes
//!   also what a rail receives.
//!
//! # What is kept for the backward pass
//! [`Recompute`] says how much; [`Choice`] which of them was chosen, and what each would need.

mod choice;
mod surroundings;

use moe_contract::{Call, Exchange, Per, Topology};
use moe_front::spec::Model;
use moe_front::units::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use choice::{Choice, Need};
pub use surroundings::{Parameters, score_operations};

use super::parallel::Parallel;

/// Bytes of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Precision {
    /// Of the weights that are multiplied with.
    pub weight: f64,
    /// Of the gradient that is accumulated.
    pub gradient: f64,
    /// Of the master weight.
    pub master: f64,
    /// Of both moments together.
    pub moments: f64,
}

impl Precision {
    /// bf16 weights, f32 gradients and master weights, bf16 moments (DeepSeek-V3 report, section 3.3, arXiv:2412.19437).
    pub const DEEPSEEK_V3: Precision = Precision { weight: 2.0, gradient: 4.0, master: 4.0, moments: 4.0 };
}

/// What is computed again in the backward pass instead of being kept. Of each token and layer:
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Recompute {
    /// Nothing. Kept is what the two below keep, and in bf16 the inputs of both norms, queries, keys and values where they are compressed, and
    /// the experts' output, one row per pick; in the dispatch format the experts' inner layer after its activation.
    None,
    /// Norms, activation functions, what is compressed (latent attention's up-projections) and the experts' output. Kept are the inputs of
    /// matrix multiplications in the dispatch format (of attention, of the experts before and after dispatch, one row per pick, and the
    /// experts' inner layer before its activation), and in bf16 what goes into and comes out of the scores. Its time is not counted: it
    /// is small beside that of the matrix multiplications.
    Selective,
    /// Everything: only the input of a layer is kept in bf16, and one layer's worth of the above. Costs one more forward pass.
    Full,
}

impl Recompute {
    /// From what keeps most to what keeps least.
    pub const ALL: [Recompute; 3] = [Recompute::None, Recompute::Selective, Recompute::Full];

    /// For reports.
    pub fn name(self) -> &'static str {
        match self {
            Recompute::None => "none",
            Recompute::Selective => "selective",
            Recompute::Full => "full",
        }
    }

    /// Forward passes that the backward pass repeats.
    pub fn passes(self) -> f64 {
        if self == Recompute::Full { 1.0 } else { 0.0 }
    }
}

/// The kinds of memory, in the order of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Weights of routed experts.
    ExpertWeights,
    /// Weights of everything else.
    OtherWeights,
    /// Gradients of routed experts.
    ExpertGradients,
    /// Gradients of everything else.
    OtherGradients,
    /// Master weights and moments of routed experts.
    ExpertOptimizer,
    /// Master weights and moments of everything else.
    OtherOptimizer,
    /// Of micro-batches in flight.
    Activations,
    /// What a communicator holds: symmetric memory, its arrays, and those of one handle.
    Communication,
}

impl Kind {
    /// For reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::ExpertWeights => "expert weights",
            Kind::OtherWeights => "other weights",
            Kind::ExpertGradients => "expert gradients",
            Kind::OtherGradients => "other gradients",
            Kind::ExpertOptimizer => "expert optimizer",
            Kind::OtherOptimizer => "other optimizer",
            Kind::Activations => "activations",
            Kind::Communication => "communication",
        }
    }
}

/// How experts and everything else are divided.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Share {
    /// Experts of a layer, on the GPU that has most.
    pub experts_per_layer: u32,
    /// Copies of each expert in the cluster: what ZeRO shards over.
    pub expert_replicas: u32,
    /// Copies of everything else.
    pub other_replicas: u32,
}

impl Share {
    /// Of a plan that puts so many experts of a layer on the fullest GPU.
    pub fn of(parallel: &Parallel, experts_per_layer: u32) -> Share {
        let replicas = u64::from(parallel.dp) * u64::from(parallel.tp) / u64::from(parallel.ep.max(1));
        Share {
            experts_per_layer,
            expert_replicas: u32::try_from(replicas).unwrap_or(u32::MAX).max(1),
            other_replicas: parallel.dp.max(1),
        }
    }
}

/// Parameters of one GPU.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct OfGpu {
    /// Of routed experts, on the GPU that has most.
    pub expert: f64,
    /// Of everything else, on the GPU that has most.
    pub other: f64,
    /// Of routed experts, on average.
    pub expert_mean: f64,
}

impl OfGpu {
    /// Of a plan.
    pub fn of(parameters: &Parameters, parallel: &Parallel, share: &Share) -> OfGpu {
        let pp = parallel.pp.max(1);
        let moe_layers = f64::from(parameters.moe_layers.div_ceil(pp));
        let layers = f64::from(parameters.layers().div_ceil(pp));
        let dense = (layers - moe_layers).max(0.0);
        let ends = if pp > 1 { 0.5 } else { 1.0 };
        let other = moe_layers * parameters.gate_and_shared_layer as f64
            + layers * parameters.attention_layer()
            + dense * parameters.dense_layer as f64
            + ends * parameters.embeddings as f64;
        OfGpu {
            expert: moe_layers * f64::from(share.experts_per_layer) * parameters.expert as f64,
            other: other / f64::from(parallel.tp.max(1)),
            expert_mean: parameters.routed() as f64 / f64::from(pp) / f64::from(parallel.ep.max(1)),
        }
    }
}

/// Bytes of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Part {
    /// Of what.
    pub kind: Kind,
    /// How many.
    pub bytes: Bytes,
}

/// The memory of the GPU that has most.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Memory {
    /// Bytes of each kind, in the order of [`Kind`].
    pub parts: Vec<Part>,
    /// What the GPU has.
    pub capacity: Bytes,
}

impl Memory {
    /// Of a plan.
    pub fn of(plan: &Inputs<'_>) -> Memory {
        let Inputs { parallel, share, of_gpu, precision, .. } = *plan;
        let copies = f64::from(parallel.schedule.parameter_copies());
        let shard =
            |from: u8, replicas: u32| if parallel.zero >= from { 1.0 / f64::from(replicas.max(1)) } else { 1.0 };
        let of = |parameters: f64, replicas: u32| {
            [
                parameters * precision.weight * copies * shard(3, replicas),
                parameters * precision.gradient * copies * shard(2, replicas),
                parameters * (precision.master + precision.moments) * shard(1, replicas),
            ]
        };
        let expert = of(of_gpu.expert, share.expert_replicas);
        let other = of(of_gpu.other, share.other_replicas);
        let bytes = |value: f64| Bytes(value.round() as u64);
        let communication = communication(plan.exchange, plan.topology);
        let parts = vec![
            (Kind::ExpertWeights, bytes(expert[0])),
            (Kind::OtherWeights, bytes(other[0])),
            (Kind::ExpertGradients, bytes(expert[1])),
            (Kind::OtherGradients, bytes(other[1])),
            (Kind::ExpertOptimizer, bytes(expert[2])),
            (Kind::OtherOptimizer, bytes(other[2])),
            (Kind::Activations, bytes(activations(plan))),
            (Kind::Communication, communication),
        ];
        let parts = parts.into_iter().map(|(kind, bytes)| Part { kind, bytes }).collect();
        Memory { parts, capacity: plan.capacity }
    }

    /// All kinds together.
    pub fn total(&self) -> Bytes {
        Bytes(self.parts.iter().map(|part| part.bytes.0).sum())
    }

    /// Whether it fits.
    pub fn fits(&self) -> bool {
        self.total().0 <= self.capacity.0
    }

    /// The largest kind.
    pub fn largest(&self) -> Part {
        self.parts
            .iter()
            .copied()
            .fold(self.parts[0], |most, next| if next.bytes.0 > most.bytes.0 { next } else { most })
    }
}

/// What decides the memory of a plan.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// What is computed.
    pub model: &'a Model,
    /// How it is laid out.
    pub parallel: &'a Parallel,
    /// How experts and everything else are divided.
    pub share: &'a Share,
    /// Parameters of a GPU.
    pub of_gpu: &'a OfGpu,
    /// All parameters.
    pub parameters: &'a Parameters,
    /// Bytes of a parameter.
    pub precision: Precision,
    /// What is kept; nothing in decoding.
    pub recompute: Option<Recompute>,
    /// What the kernels are specialised to.
    pub exchange: &'a Exchange,
    /// Ranks and nodes.
    pub topology: Topology,
    /// Of the GPU.
    pub capacity: Bytes,
}

fn activations(plan: &Inputs<'_>) -> f64 {
    let Inputs { model, parallel, parameters, exchange, .. } = *plan;
    const BF16: f64 = 2.0;
    let h = f64::from(model.hidden);
    let around = model.surroundings.as_ref();
    let all_layers = parameters.layers();
    let attention = around.map_or(0.0, |around| surroundings::kept_elements(around, model.hidden, all_layers));
    let streams = around.map_or(1.0, |around| f64::from(around.streams));
    let picks = f64::from(parameters.picks);
    // Bytes of an element in the dispatch format, scales included.
    let element = Call::DispatchCached.bytes_per(Per::CopySent, exchange) as f64 / h;
    // Columns of the matrices before the activation, and after it.
    let before = |ffn: u32| f64::from(ffn) * if model.gated { 2.0 } else { 1.0 };
    let expert = model.expert_ffn.unwrap_or(0);
    let beside =
        around.and_then(|around| around.dense).filter(|dense| dense.beside_experts).map_or(0, |dense| dense.ffn);
    let networks = |columns: &dyn Fn(u32) -> f64| (picks + f64::from(model.shared)) * columns(expert) + columns(beside);
    let selective = element * (2.0 * h + picks * h + networks(&before)) + BF16 * attention;
    let up_projected = around.map_or(0.0, |around| {
        surroundings::attentions(around, all_layers)
            * f64::from(surroundings::up_projected_elements(around.attention.heads))
    });
    let all =
        selective + element * networks(&|ffn| f64::from(ffn)) + BF16 * ((1.0 + streams) * h + up_projected + picks * h);
    let layers = f64::from(parameters.layers().div_ceil(parallel.pp.max(1)));
    let in_flight = parallel.schedule.in_flight(parallel.pp, parallel.micro_batches);
    let tokens = f64::from(parallel.tokens) / f64::from(parallel.tp.max(1));
    match plan.recompute {
        Some(Recompute::None) => tokens * layers * in_flight * all,
        Some(Recompute::Selective) => tokens * layers * in_flight * selective,
        Some(Recompute::Full) => tokens * (layers * in_flight * BF16 * streams * h + selective),
        // One layer's worth.
        None => tokens * selective,
    }
}

/// What the communicator of a rank holds: symmetric memory, in the worst case that every token of every rank comes here, what a rank of
/// several nodes hands on, the arrays that exist once, and those of one handle.
pub fn communication(exchange: &Exchange, topology: Topology) -> Bytes {
    let sizes = exchange.sizes();
    Bytes(sizes.symmetric + exchange.forwarding_bytes(topology) + sizes.fixed + sizes.handle)
}
