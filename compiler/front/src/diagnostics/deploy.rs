//! Problems of a deploy on its cluster.

use super::{Code, Diagnostic, any_of, quoted};
use crate::span::Span;
use crate::spec::Mode;
use crate::units::Bytes;

/// A deploy that cannot run, or costs more than it seems.
#[derive(Clone, Debug, PartialEq)]
pub enum DeployProblem {
    /// Ranks with different numbers of experts.
    UnevenExperts {
        /// `ep`.
        span: Span,
        /// Experts that are stored.
        experts: u32,
        ranks: u32,
        /// The largest smaller number of ranks that share them evenly, and fits otherwise.
        better: u32,
    },
    /// Ranks without any expert.
    IdleRanks {
        /// `ep`.
        span: Span,
        /// Experts that are stored.
        experts: u32,
        ranks: u32,
        /// The largest smaller number that fits.
        better: u32,
    },
    /// More ranks than GPUs.
    TooFewGpus {
        /// `ep`.
        span: Span,
        ranks: u32,
        /// GPUs of the cluster.
        gpus: u32,
        cluster: Span,
        /// The largest smaller number that fits.
        better: u32,
    },
    /// Ranks that do not divide the GPUs.
    GpusLeftOver {
        /// `ep`.
        span: Span,
        ranks: u32,
        /// GPUs of the cluster.
        gpus: u32,
        /// The largest smaller number that fits.
        better: u32,
    },
    /// Expert-parallel groups that begin in the middle of a node.
    PartOfNode {
        /// `ep`.
        span: Span,
        ranks: u32,
        gpus_per_node: u32,
        /// The largest smaller number that fits.
        better: u32,
    },
    /// A group of experts that spans nodes.
    GroupSpansNodes(GroupSpan),
    /// Buffers beyond the memory of a GPU.
    Memory {
        /// `tokens`.
        span: Span,
        /// What is needed, largest first.
        parts: Vec<(&'static str, Bytes)>,
        /// What a GPU has.
        memory: Bytes,
        memory_span: Span,
        /// The largest number of tokens that fits, if any does.
        tokens: Option<u32>,
    },
    /// ZeRO on experts with one replica.
    ZeroShardsNothing {
        /// `zero`.
        span: Span,
        /// `ep`.
        ranks: u32,
        /// `dp` × `tp`.
        data_parallel: u32,
    },
    /// More GPUs in a node than one NVLink domain has.
    DomainTooLarge {
        /// `gpus`.
        span: Span,
        /// GPUs of a node.
        gpus: u32,
        most: u32,
    },
    /// `pp` × `dp` × `tp` is not the number of GPUs.
    WorldSize {
        /// The deploy.
        span: Span,
        /// How the product is made up.
        product: String,
        /// GPUs that it needs.
        needed: u64,
        /// GPUs of the cluster.
        gpus: u32,
        cluster: Span,
    },
    /// Ranks that do not divide `dp` × `tp`.
    ReplicasNotWhole {
        /// `ep`.
        span: Span,
        ranks: u32,
        /// `dp` × `tp`.
        data_parallel: u64,
        /// The GPUs of the cluster and `pp`, when `dp` was made of them.
        derived: Option<(u32, u32)>,
        /// The largest smaller number that fits.
        better: u32,
    },
    /// A ZeRO stage that does not exist.
    ZeroStage {
        /// `zero`.
        span: Span,
        stage: u32,
    },
    /// More multiprocessors than the GPU has.
    TooManySms {
        /// `sms`.
        span: Span,
        sms: u32,
        /// Of the GPU.
        available: u32,
    },
    /// All multiprocessors.
    AllSms {
        /// `sms`.
        span: Span,
        /// Of the GPU.
        available: u32,
    },
    /// Several nodes without a network.
    NoRdma {
        /// `ep`.
        span: Span,
        /// Nodes of an expert-parallel group.
        nodes: u32,
        cluster: Span,
    },
    /// More pipeline stages than layers.
    TooManyStages {
        /// `pp`.
        span: Span,
        stages: u32,
        layers: u32,
        /// The most stages that fit.
        better: u32,
    },
    /// Latency mode with many tokens.
    LatencyTokens {
        /// `tokens`.
        span: Span,
        tokens: u32,
        /// Above this, throughput mode is faster.
        most: u32,
    },
    /// Hardware that nobody has.
    UnlikelyHardware {
        /// The number, or the target.
        span: Span,
        /// What is stated, and of what: `no H800 has 80 TB of memory`.
        title: String,
        most: String,
        /// What is known, with its source.
        known: String,
        help: String,
        /// The target to write instead.
        target: Option<&'static str>,
    },
    /// Network faster than NVLink.
    LinksSwapped {
        /// `rdma`.
        span: Span,
        /// `nvlink`.
        nvlink: Span,
    },
}

/// How many nodes a token reaches when groups of experts span nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupSpan {
    /// `ep`.
    pub span: Span,
    pub ranks: u32,
    /// Nodes that a group spans at most.
    pub nodes_per_group: u32,
    /// Groups that a token may use.
    pub chosen: u32,
    /// Nodes that a token may reach.
    pub reached: u32,
    /// Nodes it would reach with a group on each node.
    pub ideal: u32,
    /// Copies of a token over RDMA on average, where that could be measured.
    pub average: Option<AverageNodes>,
    /// Ranks with which each group lies on one node, if there are such.
    pub better: Option<u32>,
}

/// Nodes, other than its own, that a random token is sent to on average.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AverageNodes {
    /// As deployed.
    pub reached: f64,
    /// With a group on each node.
    pub ideal: f64,
    /// How many random tokens were routed to measure it.
    pub tokens: u32,
}

impl From<DeployProblem> for Diagnostic {
    fn from(problem: DeployProblem) -> Diagnostic {
        match problem {
            DeployProblem::UnevenExperts { span, experts, ranks, better } => {
                let (least, more) = (experts / ranks, experts % ranks);
                let mean = f64::from(experts) / f64::from(ranks);
                Diagnostic::new(Code::UnevenExperts, format!("{experts} experts do not divide among {ranks} ranks"))
                    .label(span, format!("ranks 0 to {} hold {} experts, the others {least}", more - 1, least + 1))
                    .note(format!(
                        "with balanced experts the fullest rank does ×{:.2} of the mean work, and all wait for it",
                        f64::from(least + 1) / mean
                    ))
                    .help(format!("use an `ep` that divides {experts}, such as `ep {better}`"))
                    .fix(span, format!("ep {better}"))
            }
            DeployProblem::IdleRanks { span, experts, ranks, better } => {
                Diagnostic::new(Code::IdleRanks, format!("{ranks} ranks share {experts} experts"))
                    .label(span, format!("ranks {experts} to {} hold none", ranks - 1))
                    .help(format!("use at most {experts}, such as `ep {better}`"))
                    .fix(span, format!("ep {better}"))
            }
            DeployProblem::TooFewGpus { span, ranks, gpus, cluster, better } => {
                Diagnostic::new(Code::TooFewGpus, format!("{ranks} ranks need {ranks} GPUs, the cluster has {gpus}"))
                    .label(span, "one GPU per rank")
                    .label(cluster, format!("{gpus} GPUs"))
                    .help(format!("use at most {gpus}, such as `ep {better}`, or a larger cluster"))
                    .fix(span, format!("ep {better}"))
            }
            DeployProblem::GpusLeftOver { span, ranks, gpus, better } => {
                Diagnostic::new(Code::GpusLeftOver, format!("groups of {ranks} ranks do not fill {gpus} GPUs"))
                    .label(span, format!("leaves {} GPUs over", gpus % ranks))
                    .help(format!("use an `ep` that divides {gpus}, such as `ep {better}`"))
                    .fix(span, format!("ep {better}"))
            }
            DeployProblem::PartOfNode { span, ranks, gpus_per_node, better } => {
                Diagnostic::new(Code::PartOfNode, format!("{ranks} ranks are not whole nodes of {gpus_per_node} GPUs"))
                    .label(span, "a group would begin in the middle of a node")
                    .help(format!(
                        "use an `ep` that divides {gpus_per_node}, or a multiple of it, such as `ep {better}`"
                    ))
                    .fix(span, format!("ep {better}"))
            }
            DeployProblem::GroupSpansNodes(group) => group_spans_nodes(&group),
            DeployProblem::Memory { span, parts, memory, memory_span, tokens } => {
                let needed = Bytes(parts.iter().fold(0_u64, |sum, part| sum.saturating_add(part.1.0)));
                let list: Vec<String> = parts.iter().map(|(what, bytes)| format!("{what} {bytes}")).collect();
                Diagnostic::new(
                    Code::Memory,
                    format!("communication buffers need {needed} on each GPU, which has {memory}"),
                )
                .label(span, format!("{} too much", Bytes(needed.0.saturating_sub(memory.0))))
                .label(memory_span, "the memory of a GPU")
                .note(list.join(", "))
                .help(match tokens {
                    Some(tokens) => format!("lower `tokens` to {tokens} or less"),
                    None => "not even one token fits: lower `hidden` or `ep`, or state more memory".to_owned(),
                })
            }
            DeployProblem::ZeroShardsNothing { span, ranks, data_parallel } => Diagnostic::new(
                Code::ZeroShardsNothing,
                "ZeRO shards nothing of the experts here",
            )
            .label(span, "experts have a single replica")
            .note(format!(
                "dp × tp is {data_parallel} and ep is {ranks}: {data_parallel} / {ranks} = 1 replica of each expert"
            ))
            .help("lower `ep` for more replicas, or expect ZeRO to shard only what is not an expert"),
            DeployProblem::DomainTooLarge { span, gpus, most } => {
                Diagnostic::new(Code::DomainTooLarge, format!("no NVLink domain has {gpus} GPUs"))
                    .label(span, format!("at most {most}"))
                    .help("a node is one NVLink domain; describe the others as further nodes")
            }
            DeployProblem::WorldSize { span, product, needed, gpus, cluster } => {
                Diagnostic::new(Code::WorldSize, format!("the plan uses {needed} GPUs, the cluster has {gpus}"))
                    .label(span, product)
                    .label(cluster, format!("{gpus} GPUs"))
                    .note("a cluster of one expert-parallel group is enough to build and run its kernels")
                    .help("make the product of `pp`, `dp` and `tp` the number of GPUs, or describe the whole cluster")
            }
            DeployProblem::ReplicasNotWhole { span, ranks, data_parallel, derived, better } => {
                let diagnostic = Diagnostic::new(
                    Code::ReplicasNotWhole,
                    format!("{ranks} ranks do not divide dp × tp = {data_parallel}"),
                )
                .label(span, "experts would have a fraction of a replica")
                .fix(span, format!("ep {better}"))
                .help(format!(
                    "an expert-parallel group is made of data-parallel ranks: use an `ep` that divides `dp` × `tp`, such as `ep {better}`"
                ));
                match derived {
                    Some((gpus, pp)) => diagnostic
                        .note(format!("`dp` is not given: {gpus} GPUs and pp {pp} leave dp × tp = {data_parallel}")),
                    None => diagnostic,
                }
            }
            DeployProblem::ZeroStage { span, stage } => {
                Diagnostic::new(Code::ZeroStage, format!("there is no ZeRO stage {stage}"))
                    .label(span, "0, 1, 2 or 3")
                    .help("0 shards nothing, 1 optimizer states, 2 gradients too, 3 parameters too")
            }
            DeployProblem::TooManySms { span, sms, available } => {
                Diagnostic::new(Code::TooManySms, format!("{sms} SMs are asked for, the GPU has {available}"))
                    .label(span, format!("at most {available}"))
                    .help("sending needs few, 20 is common; what places and reduces needs no more than there are")
            }
            DeployProblem::AllSms { span, available } => {
                Diagnostic::new(Code::AllSms, format!("communication takes all {available} SMs"))
                    .label(span, "none is left to compute meanwhile")
                    .help("communication needs few: 20 is common")
            }
            DeployProblem::NoRdma { span, nodes, cluster } => {
                Diagnostic::new(Code::NoRdma, format!("{nodes} nodes, but the cluster has no network"))
                    .label(span, format!("an expert-parallel group spans {nodes} nodes"))
                    .label(cluster, "no `rdma`")
                    .help("add `rdma 50 GB/s per gpu` to the cluster, or lower `ep` to one node")
            }
            DeployProblem::TooManyStages { span, stages, layers, better } => {
                Diagnostic::new(Code::TooManyStages, format!("{stages} pipeline stages share {layers} MoE layers"))
                    .label(span, "some stages have none")
                    .help(format!("use at most {layers}, such as `pp {better}`"))
                    .fix(span, format!("pp {better}"))
            }
            DeployProblem::LatencyTokens { span, tokens, most } => {
                Diagnostic::new(Code::LatencyTokens, format!("latency mode sends {tokens} tokens one pick at a time"))
                    .label(span, format!("above {most} it is slower than throughput mode"))
                    .help("write `mode throughput`, or lower `tokens`")
            }
            DeployProblem::UnlikelyHardware { span, title, most, known, help, target } => {
                let diagnostic =
                    Diagnostic::new(Code::UnlikelyHardware, title).label(span, most).note(known).help(help);
                match target {
                    Some(target) => diagnostic.fix(span, target),
                    None => diagnostic,
                }
            }
            DeployProblem::LinksSwapped { span, nvlink } => {
                Diagnostic::new(Code::LinksSwapped, "the network is stated to be faster than NVLink")
                    .label(span, "per GPU, between nodes")
                    .label(nvlink, "per GPU, inside a node")
                    .help("check the units: a 400 Gb/s card moves 50 GB/s")
            }
        }
    }
}

fn group_spans_nodes(group: &GroupSpan) -> Diagnostic {
    let GroupSpan { span, ranks, nodes_per_group, chosen, reached, ideal, average, better } = group;
    let title = format!("with ep {ranks} a group of experts spans {nodes_per_group} nodes");
    let diagnostic = Diagnostic::new(Code::GroupSpansNodes, title).label(
        *span,
        format!("the gate limits a token to {chosen} groups, but it may cross to {reached} nodes instead of {ideal}"),
    );
    let worst = format!(
        "at worst a token crosses to {reached} nodes instead of {ideal}: ×{}",
        two_digits(f64::from(*reached) / f64::from(*ideal))
    );
    let with = better.map_or(String::new(), |better| format!(" with `ep {better}`"));
    let diagnostic = match average {
        Some(AverageNodes { reached, ideal, tokens }) => diagnostic
            .note(format!(
                "on average a token is sent to {reached:.2} other nodes instead of {ideal:.2}{with}: RDMA traffic grows by ×{:.1}; {worst}",
                reached / ideal
            ))
            .note(format!(
                "the average is that of {tokens} random tokens (independent logits, no bias) through this gate"
            )),
        None => diagnostic.note(worst),
    };
    match better {
        Some(better) => {
            diagnostic.help(format!("`ep {better}` puts each group on one node")).fix(*span, format!("ep {better}"))
        }
        None => diagnostic.help("choose `ep` and the number of groups so that a group fits on one node"),
    }
}

fn two_digits(value: f64) -> String {
    format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A legal model that this version cannot build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildProblem {
    /// A payload or a layout without kernels.
    Rows {
        span: Span,
        /// Which of the two.
        what: &'static str,
        written: String,
        /// Those with kernels.
        known: Vec<&'static str>,
    },
    /// Experts that compute nothing before some that compute: kernels expect them last.
    ZeroExperts {
        /// The experts that compute nothing.
        span: Span,
        /// An expert that computes nothing.
        zero: u32,
        /// A later one that computes.
        computes: u32,
    },
    /// Ranks on several nodes.
    Nodes {
        /// The deploy.
        span: Span,
        ranks: u32,
        /// The nodes that they fill.
        nodes: u32,
        /// Ranks of one node.
        per_node: u32,
        /// What would go from node to node.
        mode: Mode,
    },
    /// Latency mode on one node, which has no kernels of its own.
    Latency {
        /// The deploy.
        span: Span,
    },
    /// A number that kernels cannot be made for.
    Limit {
        /// The deploy.
        span: Span,
        /// Which, in words.
        limit: String,
    },
}

impl BuildProblem {
    /// Whether every deploy of a model has it.
    pub fn is_of_model(&self) -> bool {
        match self {
            BuildProblem::Rows { .. } | BuildProblem::ZeroExperts { .. } => true,
            BuildProblem::Nodes { .. } | BuildProblem::Latency { .. } | BuildProblem::Limit { .. } => false,
        }
    }
}

impl From<BuildProblem> for Diagnostic {
    fn from(problem: BuildProblem) -> Diagnostic {
        match problem {
            BuildProblem::Rows { span, what, written, known } => Diagnostic::new(
                Code::RowsNotBuilt,
                format!("there are no kernels for {what} {} yet", quoted(&written)),
            )
            .label(span, "checked, but not built")
            .help(format!("build with {}", any_of(known))),
            BuildProblem::ZeroExperts { span, zero, computes } => Diagnostic::new(
                Code::ZeroExpertsNotBuilt,
                "there are no kernels yet for experts that compute nothing among others",
            )
            .label(span, format!("expert {zero} computes nothing, and the later expert {computes} does"))
            .help("give the experts that compute nothing the highest ids, as in `experts 768 { zero 512..767 }`"),
            BuildProblem::Nodes { span, ranks, nodes, per_node, mode } => Diagnostic::new(
                Code::NodesNotBuilt,
                format!("there are no kernels for {nodes} nodes yet"),
            )
            .label(span, format!("its {ranks} ranks fill {nodes} nodes of {per_node} GPUs"))
            .note(format!(
                "what is there: any number of ranks in one node; what is not: {} over RDMA",
                match mode {
                    Mode::Throughput => "one copy of a token to each of its nodes",
                    Mode::Latency => "a message for each pick",
                }
            ))
            .help(format!(
                "pass `--nodes 1` to give the experts to the {per_node} GPUs of one node, or build a deploy with `ep {per_node}` or less"
            )),
            BuildProblem::Latency { span } => Diagnostic::new(
                Code::LatencyNotBuilt,
                "latency mode has no kernels of its own yet, and takes those of throughput mode",
            )
            .label(span, "one copy of a token to each of its ranks, instead of a message for each pick")
            .help("nothing has to change; `mode throughput` says what is built"),
            BuildProblem::Limit { span, limit } => Diagnostic::new(
                Code::LimitNotBuilt,
                "there are no kernels for numbers as large as those of this deploy",
            )
            .label(span, limit)
            .help("lower `tokens`, or give the ranks fewer rows with fewer picks or a smaller `align`"),
        }
    }
}
