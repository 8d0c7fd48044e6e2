//! One layer: several starts, and the best of what they lead to.
//!
//! Invariant: the result is at most the greedy placement (water filling and balanced packing, as EPLB does it) in the lexicographic order
//! of largest load, copies between nodes and moves, because that placement is one of the candidates and no stage that follows makes it
//! worse. The three terms are decided one after the other: what the best start reaches in load is the limit under which copies are saved;
//! what is reached there, with the slack that the options give, limits the search for fewer moves.

use moe_random::Random;

use super::descend::{TOLERANCE, descend, search};
use super::groups::{self, Groups};
use super::layout::{Grid, Layout, Work};
use super::moves::{Held, Limits, relabel, settle};
use super::network::Network;
use super::pack::pack;
use super::replicate::{extra_copies, smallest_share};
use super::separate::{doubled, separate};
use super::spread::spread;
use super::{Options, Policy, Shape};

/// What is known of a layer before it is placed.
pub(super) struct Task<'a> {
    pub grid: Grid,
    pub shape: &'a Shape,
    pub options: &'a Options,
    pub loads: &'a [f64],
    pub held: Option<Held>,
    /// What the search may still cost.
    pub work: &'a Work,
    /// Stream of random numbers.
    pub stream: u64,
}

/// What no placement can be below in its largest load: the mean; the smallest share that some copy must have; and, where groups are whole on
/// nodes, the mean of the node that has the heaviest group, beside the lightest ones.
pub(super) fn bound(task: &Task) -> f64 {
    let Task { grid, loads, .. } = task;
    let mean = loads.iter().sum::<f64>() / grid.gpus() as f64;
    let mut bound = mean.max(smallest_share(loads, grid.slots() - loads.len()));
    if task.confined() {
        let groups = task.shape.groups as usize;
        let mut sums: Vec<f64> = loads.chunks(loads.len() / groups).map(|group| group.iter().sum()).collect();
        sums.sort_by(f64::total_cmp);
        let beside = groups / grid.nodes - 1;
        let node = sums[..beside].iter().sum::<f64>() + sums[groups - 1];
        bound = bound.max(node / grid.gpus_per_node as f64);
    }
    bound
}

impl Task<'_> {
    /// Whether experts must stay with their group.
    fn confined(&self) -> bool {
        self.options.policy == Policy::Hierarchical && self.grid.nodes > 1
    }
}

/// Experts by slot.
pub(super) fn place_layer(task: &Task) -> Vec<usize> {
    let Task { grid, options, loads, held, .. } = task;
    let mut random = Random::stream(options.seed, task.stream);
    let (bound, confined) = (bound(task), task.confined());
    let groups = confined.then(|| Groups::packed(loads, task.shape.groups as usize, grid.nodes));
    let parts = groups.as_ref().map_or_else(|| vec![(0..loads.len()).collect()], Groups::parts);
    // The shape was checked: every part has slots for its experts.
    let Some(greedy) = Layout::packed(*grid, loads, &parts, task.work) else { return Vec::new() };

    let mut searched = greedy.clone();
    descend(&mut searched, bound);
    if let Some(groups) = groups {
        searched = groups::exchange(*grid, loads, groups, searched, bound);
    }
    searched = search(searched, bound, options.rounds, &mut random);
    let near = held.as_ref().and_then(|held| grown(task, held, confined));
    let mut candidates = vec![greedy, searched];
    if let Some(near) = &near {
        let mut improved = near.clone();
        descend(&mut improved, bound);
        candidates.push(improved);
    }

    let best_load = candidates.iter().map(Layout::max_load).fold(f64::INFINITY, f64::min);
    let load = best_load + TOLERANCE * bound;
    let greedy_stays = candidates[0].max_load() <= load;
    candidates.retain(|candidate| candidate.max_load() <= load);
    // Not the greedy one: it stays what the result is compared with.
    candidates.iter_mut().skip(usize::from(greedy_stays)).for_each(|candidate| separate(candidate, load));
    let mut copies: Vec<f64> = candidates
        .iter_mut()
        .map(|candidate| spread(candidate, loads, options.top_k, load, 0.0, &mut random))
        .collect();
    let best_copies = copies.iter().copied().fold(f64::INFINITY, f64::min);
    let loose = 1.0 + options.slack;
    let limits = Limits { load: load * loose, copies: best_copies * loose, top_k: options.top_k };
    // From where the experts are now, no further than the limits ask.
    if let Some(mut near) = near {
        descend(&mut near, limits.load);
        if near.max_load() <= limits.load {
            separate(&mut near, limits.load);
            copies.push(spread(&mut near, loads, options.top_k, limits.load, limits.copies, &mut random));
            candidates.push(near);
        }
    }

    // Second copies on a GPU decide last.
    let mut best: Option<((usize, usize), Vec<usize>)> = None;
    for (candidate, copies) in candidates.into_iter().zip(copies) {
        if copies > limits.copies * (1.0 + TOLERANCE) {
            continue;
        }
        let (moves, chosen) = match held {
            Some(held) => homed(task, candidate, held, limits),
            None => (0, candidate),
        };
        let cost = (moves, doubled(&chosen).count());
        if best.as_ref().is_none_or(|(least, _)| cost < *least) {
            best = Some((cost, chosen.slots().to_vec()));
        }
    }
    let mut slots = best.map(|(_, slots)| slots).unwrap_or_default();
    for gpu in 0..grid.gpus() {
        slots[grid.slots_of_gpu(gpu)].sort_unstable();
    }
    slots
}

/// Renamed and exchanged until no fewer experts move.
fn homed<'a>(task: &Task<'a>, layout: Layout<'a>, held: &Held, limits: Limits) -> (usize, Layout<'a>) {
    let mut fewest = (held.moves(task.grid, layout.slots()), layout);
    loop {
        let slots = relabel(task.grid, fewest.1.slots(), held);
        let Some(mut renamed) = Layout::new(task.grid, fewest.1.confined, task.loads, slots, task.work) else {
            return fewest;
        };
        settle(&mut renamed, task.loads, held, limits);
        let moves = held.moves(task.grid, renamed.slots());
        if moves >= fewest.0 {
            return fewest;
        }
        fewest = (moves, renamed);
        if task.work.is_used_up() {
            return fewest;
        }
    }
}

/// The current placement, its free slots filled with further copies; none if it has too many slots, or tears a group that must be whole.
fn grown<'a>(task: &Task<'a>, held: &Held, confined: bool) -> Option<Layout<'a>> {
    let Task { grid, loads, .. } = task;
    let mut by_gpu = held.by_gpu().to_vec();
    let room = grid.per_gpu.checked_sub(by_gpu[0].len())?;
    let nodes = if confined { grid.nodes } else { 1 };
    let gpus = grid.gpus() / nodes;
    let mut homes: Vec<Option<usize>> = vec![None; loads.len()];
    for (node, gpus_of_node) in by_gpu.chunks_mut(gpus).enumerate() {
        let mut copies = vec![0; loads.len()];
        for &expert in gpus_of_node.iter().flatten() {
            copies[expert] += 1;
            if *homes[expert].get_or_insert(node) != node {
                return None;
            }
        }
        let experts: Vec<usize> = (0..loads.len()).filter(|&expert| copies[expert] > 0).collect();
        let here: Vec<f64> = experts.iter().map(|&expert| loads[expert]).collect();
        let extra = extra_copies(&here, experts.iter().map(|&expert| copies[expert]).collect(), gpus * room);
        extra.iter().for_each(|&index| copies[experts[index]] += 1);
        let share = |expert: usize| loads[expert] / copies[expert] as f64;
        let weights: Vec<f64> = extra.iter().map(|&index| share(experts[index])).collect();
        let filled = gpus_of_node.iter().map(|gpu| gpu.iter().map(|&expert| share(expert)).sum()).collect();
        for (gpu, &index) in pack(&weights, filled, vec![room; gpus]).into_iter().zip(&extra) {
            gpus_of_node[gpu].push(experts[index]);
        }
    }
    if confined {
        // Whole groups, and equally many of them on each node.
        let size = loads.len() / task.shape.groups as usize;
        let torn = homes.chunks(size).any(|group| group.iter().any(|home| *home != group[0]));
        let mut groups_of = vec![0; grid.nodes];
        homes.iter().step_by(size).flatten().for_each(|&node| groups_of[node] += 1);
        if torn || groups_of.iter().any(|&groups| groups != groups_of[0]) {
            return None;
        }
    }
    Layout::new(*grid, confined, loads, by_gpu.concat(), task.work)
}

/// Copies of a token between nodes when each GPU holds these experts.
pub(super) fn copies_between_nodes(by_gpu: &[Vec<usize>], nodes: usize, top_k: u32, loads: &[f64]) -> f64 {
    let mut at = vec![vec![0; nodes]; loads.len()];
    for (gpu, experts) in by_gpu.iter().enumerate() {
        experts.iter().for_each(|&expert| at[expert][gpu * nodes / by_gpu.len()] += 1);
    }
    let mut network = Network::new(nodes, top_k, loads);
    at.iter().enumerate().for_each(|(expert, copies)| network.add(expert, copies, 1.0));
    network.copies()
}

/// The load of each GPU that holds these experts.
pub(super) fn gpu_loads(by_gpu: &[Vec<usize>], loads: &[f64]) -> Vec<f64> {
    let mut copies = vec![0_usize; loads.len()];
    by_gpu.iter().flatten().for_each(|&expert| copies[expert] += 1);
    let share = |&expert: &usize| loads[expert] / copies[expert] as f64;
    by_gpu.iter().map(|experts| experts.iter().map(share).sum()).collect()
}
