//! Which GPU holds which experts, and which of them more than once, from how often each was picked.
//!
//! Invariants of every [`PlacementReport`]: each expert has a slot, each GPU equally many, and a layer exactly as many slots as replicas
//! were asked for; with the hierarchical policy a group is whole on one node. Layers run one after the other, so that each is placed for
//! itself, by one objective in lexicographic order:
//!
//! 1. the largest load of a GPU, which everybody waits for;
//! 2. copies of a token between nodes, by the formula in `network`;
//! 3. experts that a GPU must receive because it does not hold them in the current placement.
//!
//! The stages, one file each: `replicate` (how many copies), `groups` (groups to nodes), `pack` (copies to GPUs), `descend` (local search
//! for less load), `separate` (no expert twice on a GPU), `spread` (fewer copies between nodes), `moves` (fewer moves), and `layer`, which
//! runs them from several starts.
//! The same input gives the same placement on every machine.

mod assignment;
mod current;
mod descend;
mod error;
mod groups;
mod layer;
mod layout;
mod load;
mod moves;
mod network;
mod pack;
mod replicate;
mod result;
mod separate;
mod spread;

pub use error::PlacementError;
pub use load::{Load, LoadError};
pub use result::{Balance, LayerPlacement, Memory, PlacementReport};

use moe_contract::Launch;
use moe_contract::placement::Placement;
use moe_front::spec::Model;
use moe_front::units::Bytes;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use layer::{Task, place_layer};
use layout::{Grid, Work};
use moves::Held;

use crate::setting;
use crate::traffic::Wire;

/// The GPUs of an expert-parallel group, and what they hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// NVLink domains.
    pub nodes: u32,
    /// GPUs of each.
    pub gpus_per_node: u32,
    /// Groups of experts that the gate keeps or drops as a whole; 1 without such. Only the hierarchical policy reads it.
    pub groups: u32,
    /// Slots of all GPUs together: experts and their further copies.
    pub replicas: u32,
}

/// What is kept together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Whole groups on nodes, copies of an expert all on its node: for gates that limit groups, in training and prefill.
    Hierarchical,
    /// Any copy on any GPU: the best balance, for decoding with many GPUs.
    Global,
}

/// What to place for.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// What is kept together.
    pub policy: Policy,
    /// Experts that a token picks.
    pub top_k: u32,
    /// Bytes of a token's copy, out and back.
    pub copy_bytes: Bytes,
    /// Bytes of an expert's parameters, where they are known.
    pub expert_bytes: Option<Bytes>,
    /// What a GPU has for experts, if that is a limit.
    pub gpu_memory: Option<Bytes>,
    /// Where the experts are now.
    pub current: Option<Placement>,
    /// How far load and copies may each be above the best found, as a part of it, so that fewer experts move.
    pub slack: f64,
    /// How often the local search starts again near its best.
    pub rounds: u32,
    /// Most that the search for one layer may cost, in shares of experts that are looked at: some seconds.
    pub work: u64,
    /// Seed of those restarts.
    pub seed: u64,
}

impl Options {
    /// Of a model: a copy takes what the kernels send, an expert matrices of 16-bit numbers.
    pub fn of(model: &Model) -> Options {
        let wire = Wire::of(&model.exchange(1, 1, Launch::LEAST));
        Options {
            top_k: model.top_k(),
            copy_bytes: Bytes(wire.dispatch_copy() + wire.combine_row),
            expert_bytes: model.expert_parameters().map(|parameters| Bytes(2 * parameters)),
            ..Options::default()
        }
    }
}

impl Default for Options {
    /// DeepSeek-V3: 8 picks, hidden 7168 as FP8 with scales and a record out and as BF16 back, an expert of 3 × 7168 × 2048 FP8 parameters.
    fn default() -> Options {
        Options {
            policy: Policy::Hierarchical,
            top_k: 8,
            copy_bytes: Bytes(7168 + 56 * 4 + 72 + 2 * 7168),
            expert_bytes: Some(Bytes(3 * 7168 * 2048)),
            gpu_memory: None,
            current: None,
            slack: 0.0,
            rounds: 128,
            work: 1 << 29,
            seed: 0,
        }
    }
}

/// GPUs and experts beyond which nothing is placed: no cluster has them, and a mistyped number ends quickly.
const MOST: u64 = 1 << 12;

impl Shape {
    fn gpus(&self) -> u64 {
        u64::from(self.nodes) * u64::from(self.gpus_per_node)
    }

    fn check(&self, load: &Load, options: &Options) -> Result<Grid, PlacementError> {
        let experts = load.experts();
        setting::NODES.check(self.nodes)?;
        setting::GPUS_PER_NODE.check(self.gpus_per_node)?;
        setting::REPLICAS.check(self.replicas)?;
        setting::SLACK.check(options.slack)?;
        if let Some(bytes) = options.expert_bytes {
            setting::EXPERT_BYTES.check(bytes.0)?;
        }
        if let Some(bytes) = options.gpu_memory {
            setting::MEMORY.check(bytes.0)?;
        }
        let gpus = format!("{} nodes × {} GPUs", self.nodes, self.gpus_per_node);
        for (what, found) in [(gpus, self.gpus()), ("the experts of the load".to_owned(), u64::from(experts))] {
            if found > MOST {
                return Err(PlacementError::TooMany { what, found, most: MOST });
            }
        }
        // At most 2^12, as just checked.
        let gpus = self.gpus() as u32;
        let least = experts.div_ceil(gpus) * gpus;
        if self.replicas < experts {
            return Err(PlacementError::TooFew { replicas: self.replicas, experts, least });
        }
        if !self.replicas.is_multiple_of(gpus) {
            let below = self.replicas / gpus * gpus;
            let below = if below >= experts { format!("{below} or ") } else { String::new() };
            let above = self.replicas.div_ceil(gpus) * gpus;
            return Err(PlacementError::Uneven { replicas: self.replicas, gpus, below, above });
        }
        if options.policy == Policy::Hierarchical {
            if self.groups == 0 || !experts.is_multiple_of(self.groups) {
                return Err(PlacementError::GroupSize { experts, groups: self.groups });
            }
            if !self.groups.is_multiple_of(self.nodes) {
                return Err(PlacementError::GroupsOnNodes { groups: self.groups, nodes: self.nodes });
            }
        }
        if options.top_k == 0 || options.top_k > experts {
            return Err(PlacementError::TopK { top_k: options.top_k, experts });
        }
        let per_gpu = self.replicas / gpus;
        self.check_memory(load, options, per_gpu, least / gpus)?;
        Ok(Grid { nodes: self.nodes as usize, gpus_per_node: self.gpus_per_node as usize, per_gpu: per_gpu as usize })
    }

    fn check_memory(
        &self,
        load: &Load,
        options: &Options,
        per_gpu: u32,
        least_per_gpu: u32,
    ) -> Result<(), PlacementError> {
        let Some(available) = options.gpu_memory else { return Ok(()) };
        let expert_bytes = options.expert_bytes.ok_or(PlacementError::UnknownBytes)?;
        let slot = u128::from(expert_bytes.0) * load.layers().len() as u128;
        let needed = slot * u128::from(per_gpu);
        if needed <= u128::from(available.0) {
            return Ok(());
        }
        // `needed` is above a limit, so that a slot is not free.
        let fitting = u128::from(available.0) / slot;
        let fix = if fitting >= u128::from(least_per_gpu) {
            format!("use at most {} replicas", fitting * u128::from(self.gpus()))
        } else {
            "use more GPUs: even one copy of each expert does not fit".to_owned()
        };
        Err(PlacementError::Memory {
            layers: load.layers().len(),
            per_gpu,
            expert_bytes,
            needed: Bytes(u64::try_from(needed).unwrap_or(u64::MAX)),
            available,
            fix,
        })
    }
}

/// Places the experts of every layer.
///
/// # Errors
/// If shape, load and options do not fit each other; the message says what would.
pub fn place(load: &Load, shape: &Shape, options: &Options) -> Result<PlacementReport, PlacementError> {
    let grid = shape.check(load, options)?;
    let held: Vec<Option<Vec<Vec<usize>>>> = load
        .layers()
        .iter()
        .map(|&layer| {
            options.current.as_ref().map(|current| current::by_gpu(current, shape, layer, load.experts())).transpose()
        })
        .collect::<Result<_, _>>()?;
    let layers = (0..load.layers().len())
        .into_par_iter()
        .map(|index| {
            let loads = &load.counts()[index];
            let held = held[index].clone().map(Held::new);
            let work = Work::new(options.work);
            let task = Task { grid, shape, options, loads, held, work: &work, stream: index as u64 };
            let slots = place_layer(&task);
            LayerPlacement::describe(load.layers()[index], &task, &slots)
        })
        .collect();
    Ok(PlacementReport::new(load, shape, options, grid.per_gpu as u32, layers))
}

/// What a placement that is given does with a load, beside experts in order in equal blocks.
///
/// # Errors
/// If placement and load do not fit each other.
pub fn describe(load: &Load, placed: &Placement, options: &Options) -> Result<PlacementReport, PlacementError> {
    let shape =
        Shape { nodes: placed.nodes(), gpus_per_node: placed.gpus_per_node(), groups: 1, replicas: placed.slots() };
    let options = Options { policy: Policy::Global, current: None, ..options.clone() };
    let grid = shape.check(load, &options)?;
    let layer = |index: usize| {
        let slots = current::by_gpu(placed, &shape, load.layers()[index], load.experts())?.concat();
        let (work, loads) = (Work::new(0), &load.counts()[index]);
        let task = Task { grid, shape: &shape, options: &options, loads, held: None, work: &work, stream: 0 };
        Ok(LayerPlacement::describe(load.layers()[index], &task, &slots))
    };
    let layers = (0..load.layers().len()).map(layer).collect::<Result<_, PlacementError>>()?;
    Ok(PlacementReport::new(load, &shape, &options, placed.slots_per_gpu(), layers))
}

/// The experts in order in equal contiguous blocks, the first GPUs with one more if they do not divide: where they are before anything is
/// placed by load.
fn contiguous(experts: usize, gpus: usize) -> Vec<Vec<usize>> {
    let (each, more) = (experts / gpus, experts % gpus);
    let first = |gpu: usize| gpu * each + gpu.min(more);
    (0..gpus).map(|gpu| (first(gpu)..first(gpu + 1)).collect()).collect()
}
