//! How many experts must be brought to a GPU that does not hold them yet.
//!
//! Invariant: nothing here changes the largest load beyond its limit or adds copies between nodes. GPUs of a node are alike and so are
//! nodes, so that which is which is free: [`relabel`] chooses it best. [`settle`] then exchanges experts back to where they are.

use super::assignment::assign;
use super::descend::TOLERANCE;
use super::layout::{Change, Grid, Layout};
use super::network::Network;

/// Experts that each GPU holds now, in ascending order.
#[derive(Clone, Debug)]
pub(super) struct Held(Vec<Vec<usize>>);

impl Held {
    pub fn new(mut by_gpu: Vec<Vec<usize>>) -> Held {
        by_gpu.iter_mut().for_each(|experts| experts.sort_unstable());
        Held(by_gpu)
    }

    pub fn by_gpu(&self) -> &[Vec<usize>] {
        &self.0
    }

    /// Experts that a GPU must receive to hold these.
    fn missing(&self, gpu: usize, experts: &[usize]) -> usize {
        let mut wanted = experts.to_vec();
        wanted.sort_unstable();
        let mut held = self.0[gpu].iter().peekable();
        let mut missing = 0;
        for expert in wanted {
            while held.next_if(|&&other| other < expert).is_some() {}
            if held.next_if(|&&other| other == expert).is_none() {
                missing += 1;
            }
        }
        missing
    }

    /// Of all GPUs.
    pub fn moves(&self, grid: Grid, slots: &[usize]) -> usize {
        (0..grid.gpus()).map(|gpu| self.missing(gpu, &slots[grid.slots_of_gpu(gpu)])).sum()
    }
}

/// The same layout with GPUs within nodes, and nodes, renamed so that the fewest experts move.
pub(super) fn relabel(grid: Grid, slots: &[usize], held: &Held) -> Vec<usize> {
    let per_node = grid.gpus_per_node;
    // What a node costs in the place of another, and which of its GPUs go where.
    let mut costs = vec![vec![0; grid.nodes]; grid.nodes];
    let mut inside = vec![vec![Vec::new(); grid.nodes]; grid.nodes];
    for node in 0..grid.nodes {
        for place in 0..grid.nodes {
            let cost = |gpu: usize, at: usize| {
                held.missing(place * per_node + at, &slots[grid.slots_of_gpu(node * per_node + gpu)]) as i64
            };
            let matrix: Vec<Vec<i64>> =
                (0..per_node).map(|gpu| (0..per_node).map(|at| cost(gpu, at)).collect()).collect();
            let places = assign(&matrix);
            costs[node][place] = places.iter().enumerate().map(|(gpu, &at)| matrix[gpu][at]).sum();
            inside[node][place] = places;
        }
    }
    let mut renamed = vec![0; slots.len()];
    for (node, place) in assign(&costs).into_iter().enumerate() {
        for (gpu, &at) in inside[node][place].iter().enumerate() {
            let (from, to) = (node * per_node + gpu, place * per_node + at);
            renamed[grid.slots_of_gpu(to)].copy_from_slice(&slots[grid.slots_of_gpu(from)]);
        }
    }
    renamed
}

/// What [`settle`] must keep.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub load: f64,
    pub copies: f64,
    pub top_k: u32,
}

/// Exchanges that bring experts back to GPUs that hold them, as long as there are any that keep the limits.
pub(super) fn settle(layout: &mut Layout, loads: &[f64], held: &Held, limits: Limits) {
    while !layout.work.is_used_up() {
        let change = (0..layout.grid.gpus()).find_map(|gpu| homeward(layout, loads, held, gpu, limits));
        match change {
            Some(change) => layout.apply(change),
            None => return,
        }
    }
}

/// An exchange after which fewer experts move, one of them to this GPU that holds it.
fn homeward(layout: &Layout, loads: &[f64], held: &Held, gpu: usize, limits: Limits) -> Option<Change> {
    let grid = layout.grid;
    let here = |gpu: usize| &layout.slots()[grid.slots_of_gpu(gpu)];
    let scope = layout.scope(gpu);
    for &expert in held.0[gpu].iter().filter(|expert| !here(gpu).contains(expert)) {
        for &from in layout.copies(expert).iter().filter(|slot| scope.contains(slot)) {
            for to in grid.slots_of_gpu(gpu) {
                let change = Change::Exchange(from, to);
                if layout.work.is_used_up() {
                    return None;
                }
                if !layout.allows(change) || layout.after(change, f64::INFINITY).is_none_or(|most| most > limits.load) {
                    continue;
                }
                let there = grid.gpu(from);
                layout.work.spend(4 * grid.per_gpu);
                let exchanged = |gpu: usize, slot: usize, expert: usize| {
                    let mut experts = here(gpu).to_vec();
                    experts[slot - grid.slots_of_gpu(gpu).start] = expert;
                    held.missing(gpu, &experts)
                };
                let before = held.missing(gpu, here(gpu)) + held.missing(there, here(there));
                let after = exchanged(gpu, to, expert) + exchanged(there, from, layout.slots()[to]);
                if after >= before {
                    continue;
                }
                // Inside a node nothing changes for the network.
                if grid.node(from) == grid.node(to) {
                    return Some(change);
                }
                layout.work.spend(layout.slots().len() + layout.experts() * grid.nodes);
                let mut trial = layout.clone();
                trial.apply(change);
                if Network::of(&trial, limits.top_k, loads).copies() <= limits.copies * (1.0 + TOLERANCE) {
                    return Some(change);
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use moe_random::Random;

    use super::*;

    /// Nodes and their GPUs in another order: renaming finds the way back.
    #[test]
    fn what_was_only_renamed_does_not_move() {
        let mut random = Random::stream(1, 0);
        let grid = Grid { nodes: 4, gpus_per_node: 8, per_gpu: 3 };
        for _ in 0..20 {
            let mut slots: Vec<usize> = (0..grid.slots()).map(|slot| slot % 70).collect();
            random.shuffle(&mut slots);
            let held = Held::new(slots.chunks(3).map(<[usize]>::to_vec).collect());
            let mut nodes: Vec<Vec<&[usize]>> = slots.chunks(24).map(|node| node.chunks(3).collect()).collect();
            random.shuffle(&mut nodes);
            nodes.iter_mut().for_each(|gpus| random.shuffle(gpus));
            let renamed = nodes.concat().concat();
            assert!(held.moves(grid, &renamed) > 0);
            assert_eq!(held.moves(grid, &relabel(grid, &renamed, &held)), 0);
        }
    }
}
