//! Every link of a cluster, numbered: four ports per GPU, then two per pod and rail.
//!
//! Invariant: [`Links::number`] and [`Links::link`] are inverses, and the rate of a link includes its faults.

use super::{Fault, GpuId, Link, LinkKind, Scenario};

/// The links of a scenario.
pub(super) struct Links {
    gpus: u32,
    per_node: u32,
    nodes_per_pod: u32,
    rates: Vec<f64>,
}

const PORTS: [LinkKind; 4] = [LinkKind::NicOut, LinkKind::NicIn, LinkKind::NvlinkOut, LinkKind::NvlinkIn];

impl Links {
    pub fn new(scenario: &Scenario) -> Self {
        let network = &scenario.network;
        let (gpus, per_node) = (scenario.gpus(), network.gpus_per_node);
        let ports = [network.nic.0, network.nic.0, network.nvlink.0, network.nvlink.0];
        let mut rates: Vec<f64> = (0..gpus).flat_map(|_| ports.map(|rate| rate as f64)).collect();
        let mut slow = |gpu: GpuId, kinds: [usize; 2], rate: f64| {
            kinds.iter().for_each(|kind| rates[gpu.0 as usize * PORTS.len() + kind] *= rate);
        };
        for fault in &scenario.faults {
            match *fault {
                Fault::SlowNic { gpu, rate } => slow(gpu, [0, 1], rate),
                Fault::SlowNvlink { gpu, rate } => slow(gpu, [2, 3], rate),
                Fault::Late { .. } | Fault::SlowExperts { .. } => {}
            }
        }
        let nodes_per_pod =
            network.spine.as_ref().map_or(network.nodes, |spine| spine.nodes_per_pod.min(network.nodes));
        if let Some(spine) = &network.spine {
            for pod in 0..network.nodes.div_ceil(nodes_per_pod) {
                let nodes = nodes_per_pod.min(network.nodes - pod * nodes_per_pod);
                let rate = f64::from(nodes) * network.nic.0 as f64 / spine.oversubscription;
                rates.extend((0..2 * per_node).map(|_| rate));
            }
        }
        Self { gpus, per_node, nodes_per_pod, rates }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.rates.len()
    }

    /// How many of them are ports of GPUs; the bundles above pods follow.
    pub fn ports(&self) -> usize {
        self.gpus as usize * PORTS.len()
    }

    /// Bytes per second.
    pub fn rate(&self, number: u32) -> f64 {
        self.rates[number as usize]
    }

    /// The pod of a GPU.
    pub fn pod(&self, gpu: u32) -> u32 {
        gpu / self.per_node / self.nodes_per_pod
    }

    /// A port of a GPU.
    pub fn port(&self, kind: LinkKind, gpu: u32) -> u32 {
        self.number(Link::Port { kind, gpu: GpuId(gpu) })
    }

    /// The bundle above the pod of a GPU, of its rail.
    pub fn spine(&self, kind: LinkKind, gpu: u32) -> u32 {
        self.number(Link::Spine { kind, pod: self.pod(gpu), rail: gpu % self.per_node })
    }

    pub fn number(&self, link: Link) -> u32 {
        match link {
            Link::Port { kind, gpu } => {
                let port = PORTS.iter().position(|&port| port == kind).unwrap_or_default();
                gpu.0 * PORTS.len() as u32 + port as u32
            }
            Link::Spine { kind, pod, rail } => {
                let down = u32::from(kind == LinkKind::SpineDown);
                self.ports() as u32 + (pod * self.per_node + rail) * 2 + down
            }
        }
    }

    pub fn link(&self, number: u32) -> Link {
        let ports = self.ports() as u32;
        if number < ports {
            let kind = PORTS[number as usize % PORTS.len()];
            return Link::Port { kind, gpu: GpuId(number / PORTS.len() as u32) };
        }
        let (bundle, down) = ((number - ports) / 2, (number - ports) % 2);
        let kind = if down == 1 { LinkKind::SpineDown } else { LinkKind::SpineUp };
        Link::Spine { kind, pod: bundle / self.per_node, rail: bundle % self.per_node }
    }
}
