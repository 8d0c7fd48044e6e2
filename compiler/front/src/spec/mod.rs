//! The typed specification: what a file means, resolved and checked.
//!
//! Invariants, established by `check` and relied on by every later stage:
//! * every count is at least 1 where zero has no meaning, and within [`limits`];
//! * groups divide the experts, rows of payloads are multiples of 16 bytes, blocks of scales divide them;
//! * the limits leave every count of parameters below 2^64;
//! * `zero_experts` are sorted, do not overlap, and leave experts that compute;
//! * a deploy fits its cluster: `ep` divides the GPUs and is part of a node or whole nodes.

mod arena;
mod contract;
pub mod hardware;
mod show;
mod surroundings;

pub use arena::{Arena, Handle};
use moe_contract::{Format, RowLayout};
use moe_gate::ir::Gate;
pub use surroundings::{Attention, Compression, Dense, Heads, Index, Local, Reach, Surroundings};

use crate::span::Span;
use crate::units::{Bytes, BytesPerSecond, Microseconds, Tokens};

/// What the kernels can be made for.
pub mod limits {
    use crate::units::{Bytes, BytesPerSecond};

    /// Experts of a layer.
    pub const EXPERTS: u32 = 1024;
    /// Picks of a token: one lane of a warp holds one.
    pub const TOP_K: u32 = 32;
    /// GPUs of one NVLink domain.
    pub const DOMAIN: u32 = 72;
    /// Rows to which an expert's part of the layout may be aligned.
    pub const ALIGNMENT: u32 = 1024;
    /// Elements of a row.
    pub const HIDDEN: u32 = 1 << 20;
    pub const LAYERS: u32 = 1024;
    /// Inner width of a feed-forward network.
    pub const FFN: u32 = 1 << 20;
    /// Heads of an attention.
    pub const HEADS: u32 = 4096;
    /// Width of a head, and of a compressed vector.
    pub const WIDTH: u32 = 1 << 16;
    /// Rows that a layer passes on of each token.
    pub const STREAMS: u32 = 64;
    /// Pieces of the sequence that a compressed key is made of.
    pub const PIECES: u32 = 64;
    /// Nodes of a cluster.
    pub const NODES: u32 = 1 << 20;
    /// Ranks of one kind of parallelism: the product of three kinds is below 2^64.
    pub const RANKS: u32 = 1 << 20;
    /// Memory of a GPU, far above any.
    pub const MEMORY: Bytes = Bytes(1_000_000_000_000_000);
    /// A link, far above any.
    pub const RATE: BytesPerSecond = BytesPerSecond(1_000_000_000_000_000);
    /// Latency of a hop.
    pub const NANOSECONDS: u64 = 1_000_000_000;
    /// Everything else that is counted.
    pub const COUNT: u32 = 1 << 24;
    /// Bytes that every row is a multiple of.
    pub const ROW_BYTES: u32 = 16;
}

/// A model of a [`Spec`].
pub type ModelId = Handle<Model>;
/// A cluster of a [`Spec`].
pub type ClusterId = Handle<Cluster>;
/// A deploy of a [`Spec`].
pub type DeployId = Handle<Deploy>;

/// What a file declares.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    /// What is computed.
    pub models: Arena<Model>,
    /// Where it may run.
    pub clusters: Arena<Cluster>,
    /// How it is laid out there.
    pub deploys: Arena<Deploy>,
    /// All of them, with their places from the keyword to the closing brace.
    pub declarations: Vec<(Span, Declaration)>,
}

/// One of what a file declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declaration {
    Model(ModelId),
    Cluster(ClusterId),
    Deploy(DeployId),
}

impl Spec {
    /// The deploy called `name`.
    pub fn deploy(&self, name: &str) -> Option<DeployId> {
        self.deploys.iter().find(|(_, deploy)| deploy.name == name).map(|(id, _)| id)
    }

    /// Whether what is said at a place matters to who uses one declaration: it is there, in the model or the cluster of that deploy, or
    /// in no declaration.
    pub fn concerns(&self, place: Span, used: Declaration) -> bool {
        let inside = |span: &Span| span.start <= place.start && place.start < span.end;
        match self.declarations.iter().find(|(span, _)| inside(span)) {
            None => true,
            Some((_, there)) if *there == used => true,
            Some((_, there)) => match used {
                Declaration::Deploy(deploy) => {
                    let deploy = &self.deploys[deploy];
                    *there == Declaration::Model(deploy.model) || *there == Declaration::Cluster(deploy.cluster)
                }
                Declaration::Model(_) | Declaration::Cluster(_) => false,
            },
        }
    }

    /// The model called `name`.
    pub fn model(&self, name: &str) -> Option<ModelId> {
        self.models.iter().find(|(_, model)| model.name == name).map(|(id, _)| id)
    }
}

/// An inclusive range of expert ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertRange {
    pub first: u32,
    pub last: u32,
}

impl ExpertRange {
    /// How many experts.
    pub fn count(self) -> u32 {
        self.last - self.first + 1
    }

    /// Whether `expert` is one of them.
    pub fn contains(self, expert: u32) -> bool {
        (self.first..=self.last).contains(&expert)
    }
}

/// A Mixture-of-Experts layer.
#[derive(Clone, Debug)]
pub struct Model {
    pub name: String,
    /// Elements of a token's row.
    pub hidden: u32,
    /// Routed experts, those that compute nothing included.
    pub experts: u32,
    /// Groups of equal size that the experts form.
    pub groups: Option<u32>,
    /// Experts that see every token.
    pub shared: u32,
    /// Experts that are routed and weighed but compute nothing and are never sent to.
    pub zero_experts: Vec<ExpertRange>,
    pub moe_layers: u32,
    /// Inner width of an expert.
    pub expert_ffn: Option<u32>,
    /// Whether feed-forward networks have a gate: three matrices, else two.
    pub gated: bool,
    /// What surrounds the experts, where it is said.
    pub surroundings: Option<Surroundings>,
    /// Token ids.
    pub vocab: Option<u32>,
    pub gate: Gate,
    /// From the tokens to their experts.
    pub dispatch: Dispatch,
    /// From the experts back to the tokens.
    pub combine: Combine,
    /// How many tokens an expert takes.
    pub capacity: Option<Capacity>,
    /// Where the parts were said.
    pub places: ModelPlaces,
}

impl Model {
    /// Picks of a token.
    pub fn top_k(&self) -> u32 {
        self.gate.top_k()
    }

    /// Whether an expert computes nothing.
    pub fn is_zero_expert(&self, expert: u32) -> bool {
        self.zero_experts.iter().any(|range| range.contains(expert))
    }

    /// Experts that compute, and so live on a rank.
    pub fn stored_experts(&self) -> u32 {
        self.experts - self.zero_experts.iter().map(|range| range.count()).sum::<u32>()
    }
}

/// Where the parts of a model were said, for later stages that have something to say about them.
#[derive(Clone, Copy, Debug, Default)]
pub struct ModelPlaces {
    pub name: Span,
    /// The experts that compute nothing.
    pub zero_experts: Span,
    pub dispatch_payload: Span,
    pub layout: Span,
}

/// From the tokens to their experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dispatch {
    /// What travels, whether or not there are kernels for it.
    pub payload: Format,
    /// What the experts find.
    pub layout: RowLayout,
}

/// From the experts back to the tokens. Sums are in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Combine {
    /// What travels.
    pub payload: Format,
    /// Whether the sum applies the weights.
    pub weighted: bool,
}

/// How many tokens an expert takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Capacity {
    pub limit: CapacityLimit,
    /// Which picks are dropped beyond it.
    pub drop: DropRule,
}

/// The number of tokens that an expert takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CapacityLimit {
    /// This many times the mean load.
    Factor(f32),
    Tokens(Tokens),
}

/// Which picks are dropped when an expert is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropRule {
    /// Those of the smallest weights; of equal ones, the later tokens.
    Lowest,
    /// Those of the later tokens.
    Position,
}

/// Nodes of GPUs.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub name: String,
    /// NVLink domains.
    pub nodes: u32,
    pub gpus_per_node: u32,
    pub gpu: Gpu,
    /// Inside a node, per GPU and direction.
    pub nvlink: Link,
    /// Between nodes, per GPU and direction.
    pub rdma: Option<Link>,
    pub place: Span,
    /// Where the memory of a GPU is said.
    pub memory_place: Span,
}

impl Cluster {
    pub fn gpus(&self) -> u32 {
        self.nodes * self.gpus_per_node
    }
}

#[derive(Clone, Debug)]
pub struct Gpu {
    /// Such as `H800`.
    pub name: Option<String>,
    /// What is compiled for it.
    pub target: Target,
    /// Multiprocessors.
    pub sms: u32,
    pub memory: Bytes,
}

/// What is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Hopper.
    Sm90a,
    /// Blackwell.
    Sm100a,
}

impl Target {
    pub const ALL: [Target; 2] = [Target::Sm90a, Target::Sm100a];

    /// As written in a file.
    pub fn text(self) -> &'static str {
        match self {
            Target::Sm90a => "sm_90a",
            Target::Sm100a => "sm_100a",
        }
    }
}

/// A link as one GPU sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// In one direction, as achieved.
    pub bandwidth: BytesPerSecond,
    /// Of one hop, where it is known.
    pub latency: Option<Microseconds>,
}

/// A model on a cluster.
#[derive(Clone, Debug)]
pub struct Deploy {
    pub name: String,
    /// What runs.
    pub model: ModelId,
    pub cluster: ClusterId,
    /// Ranks among which the experts are divided.
    pub ep: u32,
    /// Pipeline stages.
    pub pp: u32,
    /// Data-parallel replicas; what the cluster holds when it is not said.
    pub dp: u32,
    /// Ranks among which a layer's matrices are divided.
    pub tp: u32,
    /// The ZeRO stage, 0 to 3.
    pub zero: u8,
    /// The most tokens of a rank in one call.
    pub tokens: Tokens,
    /// What is optimised.
    pub mode: Mode,
    /// Multiprocessors for what is sent, when it is said.
    pub sms: Option<u32>,
    /// Multiprocessors for what has come, when it is said.
    pub sms_local: Option<u32>,
    pub place: Span,
}

/// What a deploy is optimised for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Many tokens.
    Throughput,
    /// Few tokens, soon.
    Latency,
}

impl Mode {
    /// As written in a file.
    pub fn text(self) -> &'static str {
        match self {
            Mode::Throughput => "throughput",
            Mode::Latency => "latency",
        }
    }
}
