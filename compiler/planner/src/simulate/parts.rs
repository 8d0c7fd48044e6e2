//! Parts of a cluster that share no link.
//!
//! Invariant: every link that a chunk of a part passes belongs to that part alone, so that the parts of a cluster, each a
//! scenario of its own, have together the outcome of the whole. A part is small enough for a cache where the whole is not.

use super::{Fault, GpuId, Scenario};

/// Some nodes of a cluster, the GPUs counted from the first of them.
pub(super) struct Part {
    /// The number of its first GPU in the cluster.
    pub first: u32,
    /// The part alone.
    pub scenario: Scenario,
}

/// The parts of a checked scenario, in the order of their GPUs.
pub(super) fn parts(scenario: &Scenario) -> Vec<Part> {
    let (nodes, step) = (scenario.network.nodes, part_nodes(scenario));
    (0..nodes).step_by(step as usize).map(|first| part(scenario, first, step.min(nodes - first))).collect()
}

/// Nodes of a part: those of a group; where groups cross pods, the fewest after which both a group and a pod end.
fn part_nodes(scenario: &Scenario) -> u32 {
    let (nodes, group) = (scenario.network.nodes, scenario.group_nodes());
    match &scenario.network.spine {
        Some(spine) if spine.is_crossed(nodes, group) => {
            least_common_multiple(group, spine.nodes_per_pod).min(u64::from(nodes)) as u32
        }
        _ => group,
    }
}

fn least_common_multiple(a: u32, b: u32) -> u64 {
    let (mut divisor, mut rest) = (a, b);
    while rest != 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    u64::from(a / divisor) * u64::from(b)
}

fn part(scenario: &Scenario, first_node: u32, nodes: u32) -> Part {
    let first = first_node * scenario.network.gpus_per_node;
    let gpus = nodes * scenario.network.gpus_per_node;
    let moved = |fault: &Fault| {
        let local = fault.gpu().0.checked_sub(first).filter(|&local| local < gpus)?;
        let mut fault = *fault;
        *fault.gpu_mut() = GpuId(local);
        Some(fault)
    };
    let mut part = scenario.clone();
    part.network.nodes = nodes;
    part.network.spine.take_if(|spine| !spine.is_crossed(scenario.network.nodes, scenario.group_nodes()));
    part.faults = scenario.faults.iter().filter_map(moved).collect();
    Part { first, scenario: part }
}

#[cfg(test)]
mod tests {
    use moe_front::units::{Bytes, BytesPerSecond, Microseconds};

    use super::*;
    use crate::simulate::demand::Spread;
    use crate::simulate::links::Links;
    use crate::simulate::record::Record;
    use crate::simulate::{Demand, Network, Options, Spine, simulate_part};

    fn scenario(group_nodes: u32, nodes_per_pod: Option<u32>, nodes: u32) -> Scenario {
        let spine = |nodes_per_pod| Spine { nodes_per_pod, oversubscription: 2.0, latency: Microseconds(2.0) };
        Scenario {
            network: Network {
                nodes,
                gpus_per_node: 4,
                nvlink: BytesPerSecond(160_000_000_000),
                nic: BytesPerSecond(50_000_000_000),
                nvlink_latency: Microseconds(1.0),
                nic_latency: Microseconds(5.0),
                spine: nodes_per_pod.map(spine),
            },
            demand: Demand {
                group_ranks: group_nodes * 4,
                tokens_per_gpu: 512,
                nodes_per_token: 2.5,
                ranks_per_copy: 1.5,
                dispatch_bytes: Bytes(7464),
                combine_bytes: Bytes(14_336),
                rank_load: (0..group_nodes * 4).map(|rank| f64::from(1 + rank % 3)).collect(),
                expert_time: Some(Microseconds(100.0)),
            },
            faults: vec![
                Fault::SlowNic { gpu: GpuId(5), rate: 0.5 },
                Fault::Late { gpu: GpuId(4 * group_nodes), by: Microseconds(300.0) },
                Fault::SlowExperts { gpu: GpuId(1), factor: 3.0 },
            ],
            options: Options { chunk_tokens: 16, ..Options::default() },
        }
    }

    #[test]
    fn a_part_ends_where_groups_and_pods_do() {
        let nodes = |group, pod, nodes| -> Vec<u32> {
            parts(&scenario(group, pod, nodes)).iter().map(|part| part.scenario.network.nodes).collect()
        };
        assert_eq!(nodes(4, None, 12), [4, 4, 4]);
        assert_eq!(nodes(4, Some(8), 16), [4, 4, 4, 4], "no group crosses a pod");
        assert_eq!(nodes(4, Some(33), 12), [4, 4, 4], "one pod");
        assert_eq!(nodes(8, Some(4), 16), [8, 8]);
        assert_eq!(nodes(4, Some(6), 24), [12, 12]);
        assert_eq!(nodes(4, Some(6), 20), [12, 8], "the last pod is smaller");
        assert_eq!(nodes(4, Some(5), 16), [16]);
    }

    /// Picosecond by picosecond: the whole cluster in one engine, and its parts each in its own.
    #[test]
    fn parts_together_and_apart_have_the_same_outcome() {
        for (group, pod, nodes, expected) in
            [(4, None, 12, 3), (4, Some(8), 16, 4), (8, Some(4), 16, 2), (4, Some(6), 24, 2)]
        {
            let scenario = scenario(group, pod, nodes);
            scenario.check().expect("the scenario makes sense");
            let (spread, links) = (Spread::new(&scenario), Links::new(&scenario).count());
            let apart = parts(&scenario);
            assert_eq!(apart.len(), expected);
            let apart = Record::joined(apart.iter().map(|part| simulate_part(part, &spread, &|_| {})));
            let together = simulate_part(&Part { first: 0, scenario }, &spread, &|_| {});
            assert_eq!(apart.events, together.events);
            assert_eq!(apart.dispatched, together.dispatched);
            assert_eq!(apart.combine_began, together.combine_began);
            assert_eq!(apart.combined, together.combined);
            for phase in 0..2 {
                assert_eq!(apart.busy(phase, links), together.busy(phase, links));
            }
        }
    }
}
