//! The hierarchical policy: groups of experts to nodes.
//!
//! Invariant: a group is whole on one node, and every node has equally many. A gate that keeps few groups then reaches few nodes.

use super::descend::descend;
use super::layout::{Grid, Layout};
use super::pack::pack;

/// Exchanges of groups that are tried at most for one layer: each costs a packing and a descent.
const TRIALS: usize = 128;

/// Groups and the nodes that have them.
#[derive(Clone)]
pub(super) struct Groups {
    /// Experts of a group, which are contiguous.
    size: usize,
    loads: Vec<f64>,
    /// Groups of each node.
    of_node: Vec<Vec<usize>>,
}

impl Groups {
    /// Balanced packing of the groups.
    pub fn packed(loads: &[f64], groups: usize, nodes: usize) -> Groups {
        let size = loads.len() / groups;
        let loads: Vec<f64> = loads.chunks(size).map(|group| group.iter().sum()).collect();
        let bins = pack(&loads, vec![0.0; nodes], vec![groups / nodes; nodes]);
        let mut heaviest: Vec<usize> = (0..groups).collect();
        heaviest.sort_by(|&a, &b| loads[b].total_cmp(&loads[a]));
        let mut of_node = vec![Vec::new(); nodes];
        for group in heaviest {
            of_node[bins[group]].push(group);
        }
        Groups { size, loads, of_node }
    }

    /// Experts of each node.
    pub fn parts(&self) -> Vec<Vec<usize>> {
        let experts = |&group: &usize| group * self.size..(group + 1) * self.size;
        self.of_node.iter().map(|groups| groups.iter().flat_map(experts).collect()).collect()
    }
}

/// Exchanges of a group of the node that has the fullest GPU with a lighter group of another, as long as they lower the largest load.
pub(super) fn exchange<'a>(
    grid: Grid,
    loads: &'a [f64],
    mut groups: Groups,
    mut best: Layout<'a>,
    bound: f64,
) -> Layout<'a> {
    let mut left = TRIALS;
    'improved: loop {
        let fullest = best.fullest() / grid.gpus_per_node;
        for own in 0..groups.of_node[fullest].len() {
            for node in (0..grid.nodes).filter(|&node| node != fullest) {
                for other in 0..groups.of_node[node].len() {
                    let (heavy, light) = (groups.of_node[fullest][own], groups.of_node[node][other]);
                    if groups.loads[light] >= groups.loads[heavy] {
                        continue;
                    }
                    if left == 0 || best.max_load() <= bound || best.work.is_used_up() {
                        return best;
                    }
                    left -= 1;
                    let mut trial = groups.clone();
                    trial.of_node[fullest][own] = light;
                    trial.of_node[node][other] = heavy;
                    let Some(mut layout) = Layout::packed(grid, loads, &trial.parts(), best.work) else { continue };
                    descend(&mut layout, bound);
                    if layout.max_load() < best.max_load() {
                        (best, groups) = (layout, trial);
                        continue 'improved;
                    }
                }
            }
        }
        return best;
    }
}
