//! A placement and what it costs, as JSON that the runtime and later placements read.
//!
//! Invariant: every number that describes a placement is computed from its slots alone, after the search and by other code than it.

use moe_contract::ExpertId;
use moe_contract::placement::{FORMAT, VERSION};
use moe_front::units::Bytes;
use schemars::JsonSchema;
use serde::Serialize;

use super::layer::{Task, bound, copies_between_nodes, gpu_loads};
use super::{Load, Options, Policy, Shape, contiguous};

/// The experts of all layers in their slots.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct PlacementReport {
    /// Always `moe-placement`.
    #[schemars(extend("const" = FORMAT))]
    pub format: &'static str,
    /// Of this form; other forms get other numbers.
    #[schemars(extend("const" = VERSION))]
    pub version: u32,
    /// What is kept together.
    pub policy: Policy,
    /// NVLink domains.
    pub nodes: u32,
    /// GPUs of each.
    pub gpus_per_node: u32,
    /// Slots of each in every layer.
    pub slots_per_gpu: u32,
    /// Experts of each layer.
    pub experts: u32,
    /// Slots of all GPUs together.
    pub replicas: u32,
    /// What it takes of each GPU; none where the size of an expert is not known.
    pub memory: Option<Memory>,
    /// In the order of the load.
    pub layers: Vec<LayerPlacement>,
}

/// Bytes of expert parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Memory {
    /// Of one expert.
    pub expert_bytes: u64,
    /// Of all slots of a GPU in all layers.
    pub per_gpu: u64,
    /// Those of them that hold further copies, on average.
    pub redundant_per_gpu: u64,
    /// Experts that GPUs receive, all together; 0 if the current placement is not known.
    pub moved: u64,
}

/// How load is spread over GPUs.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Balance {
    /// Picks that each GPU serves.
    pub gpu_load: Vec<f64>,
    /// The largest of them.
    pub max: f64,
    /// Their mean.
    pub mean: f64,
    /// Largest over mean: 1 is perfect.
    pub max_over_mean: f64,
    /// Copies of a token that cross to another node, on average.
    pub copies_between_nodes: f64,
    /// Bytes between nodes, out and back, of all tokens that were counted.
    pub bytes_between_nodes: f64,
}

/// One layer.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct LayerPlacement {
    /// By the name that the load gives it.
    pub layer: u32,
    /// The expert of each slot: slot s is on GPU s / `slots_per_gpu`, and GPU g on node g / `gpus_per_node`.
    #[schemars(with = "Vec<u32>")]
    pub experts_by_slot: Vec<ExpertId>,
    /// How many slots each expert has.
    pub replicas: Vec<u32>,
    /// Experts that GPUs receive; none if the current placement is not known.
    pub moves: Option<u32>,
    /// No placement has a smaller largest load.
    pub bound: f64,
    /// In the current placement; experts in order in equal blocks if that is not known.
    pub before: Balance,
    /// In this one.
    pub after: Balance,
}

impl Balance {
    fn of(task: &Task, by_gpu: &[Vec<usize>]) -> Balance {
        let gpu_load = gpu_loads(by_gpu, task.loads);
        let max = gpu_load.iter().copied().fold(0.0, f64::max);
        let picks: f64 = task.loads.iter().sum();
        let mean = picks / gpu_load.len() as f64;
        let top_k = task.options.top_k;
        let copies = copies_between_nodes(by_gpu, task.grid.nodes, top_k, task.loads);
        let bytes = copies * picks / f64::from(top_k) * task.options.copy_bytes.0 as f64;
        let max_over_mean = if mean > 0.0 { max / mean } else { 1.0 };
        Balance { gpu_load, max, mean, max_over_mean, copies_between_nodes: copies, bytes_between_nodes: bytes }
    }
}

impl LayerPlacement {
    pub(super) fn describe(layer: u32, task: &Task, slots: &[usize]) -> LayerPlacement {
        let mut replicas = vec![0; task.loads.len()];
        slots.iter().for_each(|&expert| replicas[expert] += 1);
        let by_gpu: Vec<Vec<usize>> = slots.chunks(task.grid.per_gpu).map(<[usize]>::to_vec).collect();
        let before = match &task.held {
            Some(held) => Balance::of(task, held.by_gpu()),
            None => Balance::of(task, &contiguous(task.loads.len(), task.grid.gpus())),
        };
        LayerPlacement {
            layer,
            experts_by_slot: slots.iter().map(|&expert| ExpertId(expert as u32)).collect(),
            replicas,
            moves: task.held.as_ref().map(|held| held.moves(task.grid, slots) as u32),
            bound: bound(task),
            before,
            after: Balance::of(task, &by_gpu),
        }
    }
}

impl PlacementReport {
    pub(super) fn new(
        load: &Load,
        shape: &Shape,
        options: &Options,
        slots_per_gpu: u32,
        layers: Vec<LayerPlacement>,
    ) -> PlacementReport {
        let count = layers.len() as u64;
        let moves: u64 = layers.iter().filter_map(|layer| layer.moves).map(u64::from).sum();
        let extra = u64::from(shape.replicas - load.experts()) * count;
        let gpus = u64::from(shape.replicas / slots_per_gpu);
        // At most 2^40 bytes, and far fewer than 2^24 experts.
        let of = |expert: u64, experts: u64| expert.saturating_mul(experts);
        PlacementReport {
            format: FORMAT,
            version: VERSION,
            policy: options.policy,
            nodes: shape.nodes,
            gpus_per_node: shape.gpus_per_node,
            slots_per_gpu,
            experts: load.experts(),
            replicas: shape.replicas,
            memory: options.expert_bytes.map(|Bytes(expert)| Memory {
                expert_bytes: expert,
                per_gpu: of(expert, u64::from(slots_per_gpu) * count),
                redundant_per_gpu: of(expert, extra) / gpus,
                moved: of(expert, moves),
            }),
            layers,
        }
    }

    /// The layer that was balanced worst before.
    pub fn worst_before(&self) -> Option<&LayerPlacement> {
        self.layers.iter().max_by(|a, b| a.before.max_over_mean.total_cmp(&b.before.max_over_mean))
    }

    /// The JSON form.
    pub fn to_json(&self) -> String {
        // Numbers are finite, and keys are strings: nothing in it can fail.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}
