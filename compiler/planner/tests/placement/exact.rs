//! Exact solutions of small cases, by branch and bound over all numbers of copies and all packings.

/// The smallest possible largest load of a GPU, any copy on any GPU.
pub fn global(loads: &[f64], gpus: usize, per_gpu: usize) -> f64 {
    let mut best = f64::INFINITY;
    let mut copies = vec![1; loads.len()];
    count(loads, &mut copies, 0, gpus * per_gpu - loads.len(), gpus, per_gpu, &mut best);
    best
}

/// The same when whole groups must be on nodes.
pub fn hierarchical(loads: &[f64], groups: usize, nodes: usize, gpus_per_node: usize, per_gpu: usize) -> f64 {
    let mut best = f64::INFINITY;
    let mut homes = vec![0; groups];
    assign(&mut homes, 0, nodes, &mut |homes| {
        let mut most: f64 = 0.0;
        for node in 0..nodes {
            let size = loads.len() / groups;
            let here: Vec<f64> = (0..loads.len()).filter(|e| homes[e / size] == node).map(|e| loads[e]).collect();
            most = most.max(global(&here, gpus_per_node, per_gpu));
        }
        best = best.min(most);
    });
    best
}

fn assign(homes: &mut Vec<usize>, group: usize, nodes: usize, visit: &mut impl FnMut(&[usize])) {
    if group == homes.len() {
        visit(homes);
        return;
    }
    for node in 0..nodes {
        if homes[..group].iter().filter(|&&home| home == node).count() < homes.len() / nodes {
            homes[group] = node;
            assign(homes, group + 1, nodes, visit);
        }
    }
}

/// All numbers of copies: `extra` more for the experts from `expert` on.
fn count(
    loads: &[f64],
    copies: &mut Vec<usize>,
    expert: usize,
    extra: usize,
    gpus: usize,
    per_gpu: usize,
    best: &mut f64,
) {
    if expert + 1 == loads.len() {
        copies[expert] = 1 + extra;
        let mut shares: Vec<f64> =
            (0..loads.len()).flat_map(|e| vec![loads[e] / copies[e] as f64; copies[e]]).collect();
        shares.sort_by(|a, b| b.total_cmp(a));
        pack(&shares, &mut vec![(0.0, per_gpu); gpus], best);
        return;
    }
    for more in 0..=extra {
        copies[expert] = 1 + more;
        count(loads, copies, expert + 1, extra - more, gpus, per_gpu, best);
    }
}

/// All packings of the shares; a GPU is its load and room.
fn pack(shares: &[f64], gpus: &mut Vec<(f64, usize)>, best: &mut f64) {
    let Some((&share, rest)) = shares.split_first() else {
        *best = best.min(gpus.iter().map(|gpu| gpu.0).fold(0.0, f64::max));
        return;
    };
    for gpu in 0..gpus.len() {
        let (load, room) = gpus[gpu];
        // GPUs that look alike lead to packings that are alike.
        if room == 0 || load + share >= *best || gpus[..gpu].contains(&(load, room)) {
            continue;
        }
        gpus[gpu] = (load + share, room - 1);
        pack(rest, gpus, best);
        gpus[gpu] = (load, room);
    }
}
