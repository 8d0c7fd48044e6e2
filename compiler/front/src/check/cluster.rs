//! Checks a cluster.

use std::fmt::Display;

use super::Checker;
use super::settings::{Owner, Slot, described};
use crate::diagnostics::{DeployProblem, WordKind};
use crate::span::Span;
use crate::spec::hardware::{self, KnownGpu};
use crate::spec::{Cluster, Gpu, Link, Target, limits};
use crate::syntax::ast::{Block, ClusterSetting, Declaration, GpuSetting, Name, Quantity, RdmaShare};
use crate::units::{Bytes, BytesPerSecond, Dimension, Microseconds};

impl Checker<'_> {
    pub(super) fn cluster(&mut self, cluster: &Declaration<ClusterSetting>) -> Option<Cluster> {
        let mut nodes = Slot::new("nodes");
        let mut gpus = Slot::new("gpus");
        let mut gpu = Slot::new("gpu");
        let mut nvlink = Slot::new("nvlink");
        let mut rdma = Slot::new("rdma");
        for setting in &cluster.block.settings {
            let span = setting.span;
            match &setting.kind {
                ClusterSetting::Nodes(value) => {
                    let count = self.count(value, "nodes", 1, limits::NODES);
                    nodes.set(self, span, count);
                }
                ClusterSetting::Gpus(value) => {
                    let count = self.gpus_per_node(value);
                    gpus.set(self, span, count);
                }
                ClusterSetting::Gpu { name, block } => {
                    let value = self.gpu(span, name.as_ref(), block);
                    gpu.set(self, span, value);
                }
                ClusterSetting::Nvlink { bandwidth, latency } => {
                    let link = self.link(bandwidth, latency.as_ref(), "nvlink");
                    nvlink.set(self, span, link.map(|link| (link, bandwidth.span)));
                }
                ClusterSetting::Rdma { bandwidth, per, latency } => {
                    let link = self.link(bandwidth, latency.as_ref(), "rdma");
                    rdma.set(self, span, link.map(|link| (link, *per, bandwidth.span)));
                }
            }
        }
        let owner = Owner {
            span: cluster.name.span,
            described: described("cluster", &cluster.name),
            damaged: cluster.block.damaged,
        };
        let nodes = nodes.needed(self, &owner, "nodes 8");
        let gpus_per_node = gpus.needed(self, &owner, "gpus 8 per node");
        let gpu = gpu.needed(self, &owner, "gpu \"H800\" { target sm_90a   sms 132   memory 80 GB }");
        let nvlink = nvlink.needed(self, &owner, "nvlink 160 GB/s");
        let rdma = rdma.optional().map(|(link, per, span)| {
            let sharers = if per == RdmaShare::Node { gpus_per_node.unwrap_or(1) } else { 1 };
            (Link { bandwidth: BytesPerSecond(link.bandwidth.0 / u64::from(sharers)), ..link }, span)
        });
        if let Some((gpu, places)) = &gpu {
            self.likely(gpu, places, nvlink);
        }
        self.likely_network(nvlink, rdma);
        let (gpu, places) = gpu?;
        Some(Cluster {
            name: cluster.name.text.clone(),
            nodes: nodes?,
            gpus_per_node: gpus_per_node?,
            gpu,
            nvlink: nvlink?.0,
            rdma: rdma.map(|(link, _)| link),
            place: cluster.name.span,
            memory_place: places.memory,
        })
    }

    /// Warns of a GPU that nobody has.
    fn likely(&mut self, gpu: &Gpu, places: &GpuPlaces, nvlink: Option<(Link, Span)>) {
        let named = gpu.name.as_deref().and_then(hardware::known);
        if let Some(known) = named.filter(|known| known.architecture != gpu.target.text()) {
            let target = Target::ALL.into_iter().map(Target::text).find(|target| *target == known.architecture);
            self.report(DeployProblem::UnlikelyHardware {
                span: places.target,
                title: format!("{} {} does not run code for {}", article(known), known.name, gpu.target.text()),
                most: format!("it is {}", known.architecture),
                known: known.to_string(),
                help: match target {
                    Some(target) => format!("write `target {target}`"),
                    None => format!(
                        "there are no kernels for {}: name a GPU that there are kernels for",
                        known.architecture
                    ),
                },
                target,
            });
            return;
        }
        let most = named.copied().unwrap_or_else(|| hardware::largest(gpu.target));
        let who = named.map_or_else(|| format!("GPU of target {}", gpu.target.text()), |known| known.name.to_owned());
        let unlikely = |span: Span, stated: String, limit: String, help: String| DeployProblem::UnlikelyHardware {
            span,
            title: format!("no {who} has {stated}"),
            most: format!("at most {limit}"),
            known: most.to_string(),
            help,
            target: None,
        };
        let check = || "check the number and the name of the GPU".to_owned();
        let thousandth = |fits: bool, amount: &dyn Display| match fits {
            true => format!("check the unit: a thousandth of it is {amount}"),
            false => check(),
        };
        if gpu.sms > most.sms {
            self.report(unlikely(places.sms, format!("{} SMs", gpu.sms), most.sms.to_string(), check()));
        }
        if gpu.memory.0 > most.memory.0 {
            let stated = format!("{} of memory", gpu.memory);
            let less = Bytes(gpu.memory.0 / 1000);
            let help = thousandth(less.0 <= most.memory.0, &less);
            self.report(unlikely(places.memory, stated, most.memory.to_string(), help));
        }
        if let Some((link, span)) = nvlink
            && link.bandwidth.0 > most.nvlink.0
        {
            let stated = format!("{} of NVLink in one direction", link.bandwidth);
            let (half, less) = (BytesPerSecond(link.bandwidth.0 / 2), BytesPerSecond(link.bandwidth.0 / 1000));
            let help = match half.0 <= most.nvlink.0 {
                true => format!("data sheets add both directions: write {half} or less, as achieved"),
                false => thousandth(less.0 <= most.nvlink.0, &less),
            };
            self.report(unlikely(span, stated, most.nvlink.to_string(), help));
        }
    }

    /// Warns of a network that nobody has, or that is faster than NVLink.
    fn likely_network(&mut self, nvlink: Option<(Link, Span)>, rdma: Option<(Link, Span)>) {
        let Some((between, span)) = rdma else { return };
        let (most, source) = hardware::NETWORK;
        let bits = BytesPerSecond(between.bandwidth.0 / 8);
        if between.bandwidth.0 > most.0 {
            self.report(DeployProblem::UnlikelyHardware {
                span,
                title: format!("no network moves {} for each GPU", between.bandwidth),
                most: format!("at most {most}"),
                known: format!("the fastest network card moves {most} in one direction ({source})"),
                help: match bits.0 <= most.0 {
                    true => format!("if this counts bits, write `Gb/s`: it is {bits} then"),
                    false => "check the number and the unit".to_owned(),
                },
                target: None,
            });
        } else if let Some((inside, nvlink)) = nvlink
            && between.bandwidth.0 > inside.bandwidth.0
        {
            self.report(DeployProblem::LinksSwapped { span, nvlink });
        }
    }

    fn gpus_per_node(&mut self, quantity: &Quantity) -> Option<u32> {
        let gpus = self.count(quantity, "gpus", 1, limits::COUNT)?;
        if gpus > limits::DOMAIN {
            self.report(DeployProblem::DomainTooLarge { span: quantity.span, gpus, most: limits::DOMAIN });
            return None;
        }
        Some(gpus)
    }

    fn link(&mut self, bandwidth: &Quantity, latency: Option<&Quantity>, setting: &'static str) -> Option<Link> {
        let bandwidth = self.measure(bandwidth, setting, Dimension::Rate);
        let nanoseconds = latency.map(|latency| self.measure(latency, "latency", Dimension::Time));
        let latency = match nanoseconds {
            Some(None) => return None,
            Some(Some(nanoseconds)) => Some(Microseconds(nanoseconds as f64 / 1e3)),
            None => None,
        };
        Some(Link { bandwidth: BytesPerSecond(bandwidth?), latency })
    }

    /// The GPU, and where its numbers are said.
    fn gpu(&mut self, span: Span, name: Option<&Name>, block: &Block<GpuSetting>) -> Option<(Gpu, GpuPlaces)> {
        let mut target = Slot::new("target");
        let mut sms = Slot::new("sms");
        let mut memory = Slot::new("memory");
        for setting in &block.settings {
            match &setting.kind {
                GpuSetting::Target(word) => {
                    let targets = [Target::Sm90a, Target::Sm100a];
                    let value = self.word(word, WordKind::Target, &["sm_90a", "sm_100a"], &targets);
                    target.set(self, setting.span, value.map(|target| (target, word.span)));
                }
                GpuSetting::Sms(value) => {
                    let count = self.count(value, "sms", 1, limits::COUNT);
                    sms.set(self, setting.span, count.map(|count| (count, value.span)));
                }
                GpuSetting::Memory(value) => {
                    let bytes = self.measure(value, "memory", Dimension::Memory);
                    memory.set(self, setting.span, bytes.map(|bytes| (Bytes(bytes), value.span)));
                }
            }
        }
        let owner = Owner {
            span: name.map_or(Span::new(span.start, span.start + 3), |name| name.span),
            described: "this `gpu`".to_owned(),
            damaged: block.damaged,
        };
        let target = target.needed(self, &owner, "target sm_90a");
        let sms = sms.needed(self, &owner, "sms 132");
        let memory = memory.needed(self, &owner, "memory 80 GB");
        let name = name.map(|name| name.text.trim_matches('"').to_owned());
        let ((target, target_place), (sms, sms_place), (memory, memory_place)) = (target?, sms?, memory?);
        let places = GpuPlaces { target: target_place, sms: sms_place, memory: memory_place };
        Some((Gpu { name, target, sms, memory }, places))
    }
}

/// Where the numbers of a GPU are said.
struct GpuPlaces {
    target: Span,
    sms: Span,
    memory: Span,
}

/// `a` or `an`, as the name is spoken.
fn article(gpu: &KnownGpu) -> &'static str {
    if gpu.name.starts_with('H') { "an" } else { "a" }
}
