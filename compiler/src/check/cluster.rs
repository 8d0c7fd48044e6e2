//! Checks a cluster.

use super::Checker;
use super::settings::{Owner, Slot};
use crate::diagnostics::{DeployProblem, WordKind};
use crate::spec::{Cluster, Gpu, Link, Target, limits};
use crate::syntax::Span;
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
                    let count = self.count(value, "nodes", 1, 1 << 20);
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
                    nvlink.set(self, span, link);
                }
                ClusterSetting::Rdma { bandwidth, per, latency } => {
                    let link = self.link(bandwidth, latency.as_ref(), "rdma");
                    rdma.set(self, span, link.map(|link| (link, *per)));
                }
            }
        }
        let owner = Owner {
            span: cluster.name.span,
            described: format!("cluster `{}`", cluster.name.text),
            damaged: cluster.block.damaged,
        };
        let places = (nvlink.place(), rdma.place());
        let nodes = nodes.needed(self, &owner, "nodes 8");
        let gpus_per_node = gpus.needed(self, &owner, "gpus 8 per node");
        let gpu = gpu.needed(self, &owner, "gpu \"H800\" { target sm_90a   sms 132   memory 80 GB }");
        let nvlink = nvlink.needed(self, &owner, "nvlink 160 GB/s");
        let rdma = match (rdma.optional(), gpus_per_node) {
            (Some((link, RdmaShare::Node)), Some(gpus)) => {
                Some(Link { bandwidth: BytesPerSecond(link.bandwidth.0 / u64::from(gpus)), ..link })
            }
            (rdma, _) => rdma.map(|(link, _)| link),
        };
        if let (Some(inside), Some(between), (Some(nvlink), Some(span))) = (nvlink, rdma, places)
            && between.bandwidth.0 > inside.bandwidth.0
        {
            self.report(DeployProblem::LinksSwapped { span, nvlink });
        }
        let (gpu, memory_place) = gpu?;
        Some(Cluster {
            name: cluster.name.text.clone(),
            nodes: nodes?,
            gpus_per_node: gpus_per_node?,
            gpu,
            nvlink: nvlink?,
            rdma,
            place: cluster.name.span,
            memory_place,
        })
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

    /// The GPU, and where its memory is said.
    fn gpu(&mut self, span: Span, name: Option<&Name>, block: &Block<GpuSetting>) -> Option<(Gpu, Span)> {
        let mut target = Slot::new("target");
        let mut sms = Slot::new("sms");
        let mut memory = Slot::new("memory");
        for setting in &block.settings {
            match &setting.kind {
                GpuSetting::Target(word) => {
                    let targets = [Target::Sm90a, Target::Sm100a];
                    let value = self.word(word, WordKind::Target, &["sm_90a", "sm_100a"], &targets);
                    target.set(self, setting.span, value);
                }
                GpuSetting::Sms(value) => {
                    let count = self.count(value, "sms", 1, limits::COUNT);
                    sms.set(self, setting.span, count);
                }
                GpuSetting::Memory(value) => {
                    let bytes = self.measure(value, "memory", Dimension::Memory);
                    memory.set(self, setting.span, bytes);
                }
            }
        }
        let owner = Owner {
            span: name.map_or(Span::new(span.start, span.start + 3), |name| name.span),
            described: "this `gpu`".to_owned(),
            damaged: block.damaged,
        };
        let memory_place = memory.place().unwrap_or(span);
        let target = target.needed(self, &owner, "target sm_90a");
        let sms = sms.needed(self, &owner, "sms 132");
        let memory = memory.needed(self, &owner, "memory 80 GB");
        let name = name.map(|name| name.text.trim_matches('"').to_owned());
        Some((Gpu { name, target: target?, sms: sms?, memory: Bytes(memory?) }, memory_place))
    }
}
