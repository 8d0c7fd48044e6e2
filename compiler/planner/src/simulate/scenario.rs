//! What is simulated, as plain typed values.
//!
//! Invariant: after [`Scenario::check`] every number is within its [`setting`](crate::setting), every GPU that a fault names exists, and the
//! number of chunks fits a `u32`.

use std::fmt;

use moe_front::units::{Bytes, BytesPerSecond, Microseconds};
use schemars::JsonSchema;
use serde::Serialize;
use thiserror::Error;

use crate::setting::{self, OutOfRange};

/// The number of a GPU in the cluster: `node × gpus per node + local index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
pub struct GpuId(pub u32);

/// The number of a node, one NVLink domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
pub struct NodeId(pub u32);

/// The links of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Network {
    /// Nodes.
    pub nodes: u32,
    /// GPUs of a node, each with its own NIC; the NICs with one local index form a rail.
    pub gpus_per_node: u32,
    /// Rate of a GPU's NVLink, per direction.
    pub nvlink: BytesPerSecond,
    /// Rate of a NIC, per direction.
    pub nic: BytesPerSecond,
    /// From a GPU to another GPU of its node.
    pub nvlink_latency: Microseconds,
    /// From a NIC to another NIC of its rail.
    pub nic_latency: Microseconds,
    /// What joins the pods; none if every rail is one switch without oversubscription.
    pub spine: Option<Spine>,
}

/// The upper level of a rail: pods of nodes joined by links that may carry less than their NICs together.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Spine {
    /// Nodes below one leaf switch of each rail.
    pub nodes_per_pod: u32,
    /// Rate of a pod's NICs of one rail over the rate of its uplinks; 1 is non-blocking.
    pub oversubscription: f64,
    /// Added to the latency of a NIC for a chunk that changes pods.
    pub latency: Microseconds,
}

impl Spine {
    /// Whether a group of so many nodes, of so many in all, lies in more than one pod.
    pub(super) fn is_crossed(&self, nodes: u32, group: u32) -> bool {
        self.nodes_per_pod < nodes && !self.nodes_per_pod.is_multiple_of(group)
    }
}

/// How many copies go where.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Demand {
    /// Ranks of an expert-parallel group, whole nodes; the cluster holds as many groups as fit.
    pub group_ranks: u32,
    /// Tokens of each GPU.
    pub tokens_per_gpu: u32,
    /// Distinct nodes that a token goes to on average, its own included where it is picked.
    pub nodes_per_token: f64,
    /// Distinct ranks of a node that a copy reaches on average, at least one.
    pub ranks_per_copy: f64,
    /// Bytes of a copy on the way to the experts.
    pub dispatch_bytes: Bytes,
    /// Bytes of a copy on the way back.
    pub combine_bytes: Bytes,
    /// Relative load of each rank of a group; empty for an even one.
    pub rank_load: Vec<f64>,
    /// Time of the experts between dispatch and combine on a GPU with average load. Where it is not known, combine begins at once, and nothing
    /// is said of both together.
    pub expert_time: Option<Microseconds>,
}

/// Something that is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    /// A NIC, both directions, that reaches only a fraction of its rate.
    SlowNic {
        /// Whose.
        gpu: GpuId,
        /// Fraction of the rate, above 0 and at most 1.
        rate: f64,
    },
    /// An NVLink port, both directions, that reaches only a fraction of its rate.
    SlowNvlink {
        /// Whose.
        gpu: GpuId,
        /// Fraction of the rate, above 0 and at most 1.
        rate: f64,
    },
    /// A GPU that enters dispatch late.
    Late {
        /// Which.
        gpu: GpuId,
        /// By how much.
        by: Microseconds,
    },
    /// A GPU whose experts take longer.
    SlowExperts {
        /// Which.
        gpu: GpuId,
        /// Time over the usual time, at least 1.
        factor: f64,
    },
}

impl Fault {
    /// The GPU that it befalls.
    #[must_use]
    pub fn gpu(mut self) -> GpuId {
        *self.gpu_mut()
    }

    pub(super) fn gpu_mut(&mut self) -> &mut GpuId {
        match self {
            Fault::SlowNic { gpu, .. }
            | Fault::SlowNvlink { gpu, .. }
            | Fault::Late { gpu, .. }
            | Fault::SlowExperts { gpu, .. } => gpu,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::SlowNic { gpu, rate } => write!(f, "NIC of GPU {} at ×{rate} of its rate", gpu.0),
            Fault::SlowNvlink { gpu, rate } => write!(f, "NVLink of GPU {} at ×{rate} of its rate", gpu.0),
            Fault::Late { gpu, by } => write!(f, "GPU {} is {} µs late", gpu.0, by.0),
            Fault::SlowExperts { gpu, factor } => write!(f, "experts of GPU {} ×{factor} as long", gpu.0),
        }
    }
}

/// In which order a sender takes its chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// As tokens come: at random.
    Shuffled,
    /// Each sender starts with itself and goes round: no two senders of a rail meet under an even load.
    Rotated,
}

/// How finely and how.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Options {
    /// Tokens of a chunk.
    pub chunk_tokens: u32,
    /// Most chunks of one sender on the way, per kind of link.
    pub window: u32,
    /// Order of sending.
    pub order: Order,
    /// Seed of every random choice.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { chunk_tokens: 64, window: 16, order: Order::Shuffled, seed: 1 }
    }
}

/// Everything that decides an outcome.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Scenario {
    /// The links.
    pub network: Network,
    /// The copies.
    pub demand: Demand,
    /// What is wrong with the cluster.
    pub faults: Vec<Fault>,
    /// Granularity, order and seed.
    pub options: Options,
}

/// A link by what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LinkKind {
    /// From a NIC into the network.
    NicOut,
    /// From the network into a NIC.
    NicIn,
    /// From a GPU into NVLink.
    NvlinkOut,
    /// From NVLink into a GPU.
    NvlinkIn,
    /// From the leaf switch of a pod and rail up.
    SpineUp,
    /// Down to the leaf switch of a pod and rail.
    SpineDown,
}

impl LinkKind {
    /// All.
    pub const ALL: [LinkKind; 6] = [
        LinkKind::NicOut,
        LinkKind::NicIn,
        LinkKind::NvlinkOut,
        LinkKind::NvlinkIn,
        LinkKind::SpineUp,
        LinkKind::SpineDown,
    ];

    /// For reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            LinkKind::NicOut => "NIC out",
            LinkKind::NicIn => "NIC in",
            LinkKind::NvlinkOut => "NVLink out",
            LinkKind::NvlinkIn => "NVLink in",
            LinkKind::SpineUp => "spine up",
            LinkKind::SpineDown => "spine down",
        }
    }
}

/// One link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(tag = "link", rename_all = "snake_case")]
pub enum Link {
    /// A port of a GPU or of its NIC.
    Port {
        /// Which of its four ports.
        kind: LinkKind,
        /// Whose.
        gpu: GpuId,
    },
    /// A bundle of uplinks or downlinks.
    Spine {
        /// Up or down.
        kind: LinkKind,
        /// The pod, counted from 0.
        pod: u32,
        /// The rail, the local index of its NICs.
        rail: u32,
    },
}

impl Link {
    /// The link that carries the same wire's bytes in the other direction.
    #[must_use]
    pub fn reverse(self) -> Link {
        let kind = match self.kind() {
            LinkKind::NicOut => LinkKind::NicIn,
            LinkKind::NicIn => LinkKind::NicOut,
            LinkKind::NvlinkOut => LinkKind::NvlinkIn,
            LinkKind::NvlinkIn => LinkKind::NvlinkOut,
            LinkKind::SpineUp => LinkKind::SpineDown,
            LinkKind::SpineDown => LinkKind::SpineUp,
        };
        match self {
            Link::Port { gpu, .. } => Link::Port { kind, gpu },
            Link::Spine { pod, rail, .. } => Link::Spine { kind, pod, rail },
        }
    }

    /// What it is.
    #[must_use]
    pub fn kind(self) -> LinkKind {
        match self {
            Self::Port { kind, .. } | Self::Spine { kind, .. } => kind,
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Link::Port { kind, gpu } => write!(f, "{} of GPU {}", kind.name(), gpu.0),
            Link::Spine { kind, pod, rail } => write!(f, "{} of pod {pod}, rail {rail}", kind.name()),
        }
    }
}

/// What makes a scenario impossible, and what to write instead.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ScenarioError {
    /// A number outside of its setting.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// A link without a rate, or rows without bytes.
    #[error("{what} is 0; give at least 1")]
    Zero {
        /// Which.
        what: &'static str,
    },
    /// Ranks that a copy reaches.
    #[error("ranks_per_copy is {ranks}; give a number from 1 to the {most} GPUs of a node")]
    RanksPerCopy {
        /// What was given.
        ranks: f64,
        /// GPUs of a node.
        most: u32,
    },
    /// Groups do not consist of whole nodes.
    #[error(
        "a group of {ranks} ranks is not a whole number of nodes of {gpus_per_node} GPUs; round it, or for a group \
         inside a node describe each group as a node of its own"
    )]
    PartialNode {
        /// Ranks of a group.
        ranks: u32,
        /// GPUs of a node.
        gpus_per_node: u32,
    },
    /// The cluster is not a whole number of groups.
    #[error(
        "{gpus} GPUs are not a whole number of groups of {ranks} ranks; use a multiple of {ranks}, or another group"
    )]
    PartialGroup {
        /// GPUs of the cluster.
        gpus: u64,
        /// Ranks of a group.
        ranks: u32,
    },
    /// The load names another number of ranks.
    #[error(
        "rank_load has {given} values; give one for each of the {ranks} ranks of a group, or none for an even load"
    )]
    LoadShape {
        /// Values given.
        given: usize,
        /// Ranks of a group.
        ranks: u32,
    },
    /// A rank's load is no weight.
    #[error("rank_load[{rank}] is {value}; give a finite number of at least 0, and not all of them 0")]
    LoadValue {
        /// Which.
        rank: usize,
        /// What was given.
        value: f64,
    },
    /// More nodes per token than the group has, or fewer than one pick needs.
    #[error("a token goes to {nodes} nodes of a group of {available}; give a number above 0 and at most {available}")]
    NodesPerToken {
        /// What was given.
        nodes: f64,
        /// Nodes of a group with any load.
        available: u32,
    },
    /// A factor of nothing.
    #[error(
        "{fault}, and how long they take is not known: write `expert_ffn` in the model, or give the time of the experts"
    )]
    UnknownExperts {
        /// Which fault.
        fault: Fault,
    },
    /// A fault names a GPU that is not there.
    #[error("{fault}: there is no such GPU, the cluster has GPUs 0 to {last}")]
    NoSuchGpu {
        /// Which fault.
        fault: Fault,
        /// The last GPU.
        last: u64,
    },
    /// Longer than times are counted.
    #[error(
        "the busiest link, {link}, carries bytes for {seconds:.0} s in one call, and at most {most} s are simulated; give its rate as it \
         can be achieved, or fewer tokens"
    )]
    TooLong {
        /// Which link.
        link: Link,
        /// How long it takes.
        seconds: f64,
        /// How long it may.
        most: f64,
    },
    /// Too fine.
    #[error("{chunks} chunks are more than {limit}; raise chunk_tokens to at least {suggestion}")]
    TooManyChunks {
        /// How many there would be.
        chunks: f64,
        /// How many may be.
        limit: u32,
        /// A size that fits.
        suggestion: u64,
    },
}

/// Most chunks of a simulation: minutes on two cores, and their numbers fit a `u32`.
const CHUNK_LIMIT: u32 = 200_000_000;

impl Scenario {
    /// GPUs of the cluster.
    #[must_use]
    pub fn gpus(&self) -> u32 {
        self.network.nodes * self.network.gpus_per_node
    }

    /// Nodes of an expert-parallel group.
    #[must_use]
    pub fn group_nodes(&self) -> u32 {
        self.demand.group_ranks / self.network.gpus_per_node
    }

    /// Chunks of each sender.
    pub(super) fn chunks_per_gpu(&self) -> u32 {
        let copies = f64::from(self.demand.tokens_per_gpu) * self.demand.nodes_per_token;
        (copies / f64::from(self.options.chunk_tokens)).ceil().max(1.0) as u32
    }

    /// Chunks of all senders.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        u64::from(self.gpus()) * u64::from(self.chunks_per_gpu())
    }

    /// Checks everything that the simulation relies on.
    ///
    /// # Errors
    /// The first value that is impossible.
    pub fn check(&self) -> Result<(), ScenarioError> {
        let (network, demand, options) = (&self.network, &self.demand, &self.options);
        setting::NODES_PER_POD.check(network.nodes)?;
        setting::GPUS.check(u64::from(network.nodes) * u64::from(network.gpus_per_node))?;
        setting::EP.check(demand.group_ranks)?;
        setting::TOKENS.check(demand.tokens_per_gpu)?;
        setting::CHUNK_TOKENS.check(options.chunk_tokens)?;
        setting::WINDOW.check(options.window)?;
        setting::NVLINK_LATENCY.check(network.nvlink_latency.0)?;
        setting::NIC_LATENCY.check(network.nic_latency.0)?;
        setting::EXPERT_TIME.check(demand.expert_time.map_or(0.0, |time| time.0))?;
        for (what, value) in [
            ("nvlink", network.nvlink.0),
            ("nic", network.nic.0),
            ("dispatch_bytes", demand.dispatch_bytes.0),
            ("combine_bytes", demand.combine_bytes.0),
        ] {
            if value == 0 {
                return Err(ScenarioError::Zero { what });
            }
        }
        if let Some(spine) = &network.spine {
            setting::NODES_PER_POD.check(spine.nodes_per_pod)?;
            setting::OVERSUBSCRIPTION.check(spine.oversubscription)?;
            setting::SPINE_LATENCY.check(spine.latency.0)?;
        }
        if demand.group_ranks % network.gpus_per_node != 0 {
            return Err(ScenarioError::PartialNode { ranks: demand.group_ranks, gpus_per_node: network.gpus_per_node });
        }
        let gpus = u64::from(network.nodes) * u64::from(network.gpus_per_node);
        if !gpus.is_multiple_of(u64::from(demand.group_ranks)) {
            return Err(ScenarioError::PartialGroup { gpus, ranks: demand.group_ranks });
        }
        self.check_load()?;
        let (ranks, most) = (demand.ranks_per_copy, network.gpus_per_node);
        if !(ranks >= 1.0 && ranks <= f64::from(most)) {
            return Err(ScenarioError::RanksPerCopy { ranks, most });
        }
        for fault in &self.faults {
            check_fault(fault, gpus)?;
            if demand.expert_time.is_none() && matches!(fault, Fault::SlowExperts { .. }) {
                return Err(ScenarioError::UnknownExperts { fault: *fault });
            }
        }
        let copies = f64::from(demand.tokens_per_gpu) * demand.nodes_per_token * gpus as f64;
        let chunks = copies / f64::from(options.chunk_tokens) + gpus as f64;
        if chunks > f64::from(CHUNK_LIMIT) {
            let suggestion = (copies / f64::from(CHUNK_LIMIT) * 2.0).ceil() as u64;
            return Err(ScenarioError::TooManyChunks { chunks: chunks.ceil(), limit: CHUNK_LIMIT, suggestion });
        }
        Ok(())
    }

    fn check_load(&self) -> Result<(), ScenarioError> {
        let demand = &self.demand;
        if !demand.rank_load.is_empty() && demand.rank_load.len() != demand.group_ranks as usize {
            return Err(ScenarioError::LoadShape { given: demand.rank_load.len(), ranks: demand.group_ranks });
        }
        for (rank, &value) in demand.rank_load.iter().enumerate() {
            if !value.is_finite() || value < 0.0 {
                return Err(ScenarioError::LoadValue { rank, value });
            }
        }
        let loaded = if demand.rank_load.is_empty() {
            self.group_nodes()
        } else {
            let nodes = demand.rank_load.chunks(self.network.gpus_per_node as usize);
            nodes.filter(|node| node.iter().any(|&load| load > 0.0)).count() as u32
        };
        if loaded == 0 {
            return Err(ScenarioError::LoadValue { rank: 0, value: 0.0 });
        }
        let nodes = demand.nodes_per_token;
        if !(nodes > 0.0 && nodes <= f64::from(loaded)) {
            return Err(ScenarioError::NodesPerToken { nodes, available: loaded });
        }
        Ok(())
    }
}

fn check_fault(fault: &Fault, gpus: u64) -> Result<(), ScenarioError> {
    match *fault {
        Fault::SlowNic { rate, .. } | Fault::SlowNvlink { rate, .. } => setting::SLOW_LINK.check(rate)?,
        Fault::Late { by, .. } => setting::LATE.check(by.0)?,
        Fault::SlowExperts { factor, .. } => setting::SLOW_EXPERTS.check(factor)?,
    }
    if u64::from(fault.gpu().0) >= gpus {
        return Err(ScenarioError::NoSuchGpu { fault: *fault, last: gpus - 1 });
    }
    Ok(())
}
