//! Gradients and weights among the replicas of a parameter.
//!
//! Bytes of a GPU, for P parameters with n replicas, by ring algorithms that send (n − 1)/n of what they work on:
//! * ZeRO 0: gradients reduced and gathered; * ZeRO 1: gradients reduced, weights gathered; * ZeRO 2: gradients reduced after each
//!   micro-batch, weights gathered; * ZeRO 3: also weights gathered before forward and backward of each micro-batch.
//!
//! Replicas of other parameters fill whole nodes: a ring inside the node over NVLink first, then one across nodes with what is left for
//! each GPU. Replicas of an expert are `ep` ranks apart, so on different nodes when ep is a node or more.

use moe_front::spec::Cluster;
use moe_front::units::Microseconds;
use schemars::JsonSchema;
use serde::Serialize;

use crate::cost::memory::{OfGpu, Precision, Share};
use crate::cost::parallel::Parallel;

/// Traffic of one step and GPU.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Replicas {
    /// Bytes for routed experts.
    pub expert_bytes: f64,
    /// Bytes for everything else that leave the GPU, over either link.
    pub other_bytes: f64,
    /// Bytes of both over the network.
    pub network_bytes: f64,
    /// One after the other, nothing hidden.
    pub time: Microseconds,
}

impl Replicas {
    /// Of a plan.
    pub fn of(parallel: &Parallel, cluster: &Cluster, share: &Share, of_gpu: &OfGpu, precision: Precision) -> Replicas {
        let passes = f64::from(parallel.micro_batches);
        // Bytes of a parameter that all rings together work on.
        let per_parameter = match parallel.zero {
            0 => 2.0 * precision.gradient,
            1 => precision.gradient + precision.weight,
            2 => passes * precision.gradient + precision.weight,
            _ => passes * (precision.gradient + 2.0 * precision.weight),
        };
        let ring = |members: f64| (members - 1.0).max(0.0) / members.max(1.0);
        let local = cluster.gpus_per_node;
        let nvlink = cluster.nvlink.bandwidth.0 as f64;
        let rdma = cluster.rdma.map_or(nvlink, |link| link.bandwidth.0 as f64);

        let experts = of_gpu.expert * per_parameter * ring(f64::from(share.expert_replicas));
        let experts_cross = parallel.ep >= local;
        let inside = f64::from(share.other_replicas.min(local / parallel.tp.min(local).max(1)).max(1));
        let across = f64::from(share.other_replicas) / inside;
        let volume = of_gpu.other * per_parameter;
        let (other_inside, other_across) = (volume * ring(inside), volume / inside * ring(across));

        let network = other_across + if experts_cross { experts } else { 0.0 };
        let nvlink_bytes = other_inside + if experts_cross { 0.0 } else { experts };
        Replicas {
            expert_bytes: experts,
            other_bytes: other_inside + other_across,
            network_bytes: network,
            time: Microseconds((network / rdma + nvlink_bytes / nvlink) * 1e6),
        }
    }
}
