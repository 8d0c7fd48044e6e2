//! The published baseline, EPLB, written anew from the description of its algorithm, to compare with.
//!
//! Hierarchical: groups are packed to nodes, heaviest first, each to the lightest node that still takes one; within a node every extra copy
//! goes to the expert with the largest load per copy; copies are packed to the GPUs of the node like groups to nodes. Global: the same
//! with one group and one node. Shares no code with what is tested.

/// Experts by GPU.
pub type Gpus = Vec<Vec<usize>>;

pub fn global(loads: &[f64], gpus: usize, per_gpu: usize) -> Gpus {
    let everything: Vec<usize> = (0..loads.len()).collect();
    node(loads, &everything, gpus, per_gpu)
}

pub fn hierarchical(loads: &[f64], groups: usize, nodes: usize, gpus_per_node: usize, per_gpu: usize) -> Gpus {
    let size = loads.len() / groups;
    let group_loads: Vec<f64> = (0..groups).map(|group| loads[group * size..][..size].iter().sum()).collect();
    let mut gpus = Vec::new();
    for groups in balanced(&group_loads, nodes) {
        let experts: Vec<usize> = groups.iter().flat_map(|group| group * size..(group + 1) * size).collect();
        gpus.extend(node(loads, &experts, gpus_per_node, per_gpu));
    }
    gpus
}

fn node(loads: &[f64], experts: &[usize], gpus: usize, per_gpu: usize) -> Gpus {
    let mut physical: Vec<usize> = experts.to_vec();
    let copies = |physical: &[usize], expert: usize| physical.iter().filter(|&&other| other == expert).count() as f64;
    while physical.len() < gpus * per_gpu {
        let mut hottest = (f64::NEG_INFINITY, 0);
        for &expert in experts {
            let share = loads[expert] / copies(&physical, expert);
            if share > hottest.0 {
                hottest = (share, expert);
            }
        }
        physical.push(hottest.1);
    }
    let shares: Vec<f64> = physical.iter().map(|&expert| loads[expert] / copies(&physical, expert)).collect();
    balanced(&shares, gpus).into_iter().map(|bin| bin.into_iter().map(|index| physical[index]).collect()).collect()
}

/// Indices of each bin, in the order in which they were put there.
fn balanced(weights: &[f64], bins: usize) -> Vec<Vec<usize>> {
    let each = weights.len() / bins;
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|&a, &b| weights[b].partial_cmp(&weights[a]).expect("weights are numbers"));
    let mut content = vec![Vec::new(); bins];
    for index in order {
        let weight = |bin: &Vec<usize>| bin.iter().map(|&index: &usize| weights[index]).sum::<f64>();
        let open = content.iter_mut().filter(|bin| bin.len() < each);
        let lightest = open.min_by(|a, b| weight(a).partial_cmp(&weight(b)).expect("weights are numbers"));
        lightest.expect("the bins hold all").push(index);
    }
    content
}
