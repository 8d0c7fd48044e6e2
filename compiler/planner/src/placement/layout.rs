//! The experts of one layer in their slots, and the load of every GPU that follows.
//!
//! Invariants: every GPU has equally many slots and none is empty; every expert has a copy; all copies of an expert carry the same share
//! of its load; when experts are confined to nodes, a change moves no copy to a node that has none of its expert.

use std::cell::Cell;

use super::pack::pack;
use super::replicate::extra_copies;

/// What the search for one layer may still cost, in shares of experts that are looked at. When nothing is left, every search stays with what it
/// has, so that a mistyped number of GPUs ends too.
#[derive(Debug)]
pub(super) struct Work(Cell<u64>);

impl Work {
    pub fn new(units: u64) -> Work {
        Work(Cell::new(units))
    }

    pub fn spend(&self, units: usize) {
        self.0.set(self.0.get().saturating_sub(units as u64));
    }

    pub fn is_used_up(&self) -> bool {
        self.0.get() == 0
    }
}

/// Slots of a layer: those of a GPU are contiguous, and so are the GPUs of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    pub nodes: usize,
    pub gpus_per_node: usize,
    pub per_gpu: usize,
}

impl Grid {
    pub fn gpus(self) -> usize {
        self.nodes * self.gpus_per_node
    }

    pub fn slots(self) -> usize {
        self.gpus() * self.per_gpu
    }

    pub fn gpu(self, slot: usize) -> usize {
        slot / self.per_gpu
    }

    pub fn node(self, slot: usize) -> usize {
        slot / self.per_gpu / self.gpus_per_node
    }

    pub fn slots_of_gpu(self, gpu: usize) -> std::ops::Range<usize> {
        gpu * self.per_gpu..(gpu + 1) * self.per_gpu
    }

    pub fn slots_of_node(self, node: usize) -> std::ops::Range<usize> {
        let slots = self.gpus_per_node * self.per_gpu;
        node * slots..(node + 1) * slots
    }
}

/// A step of a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Change {
    /// Two slots of different GPUs exchange their experts.
    Exchange(usize, usize),
    /// A slot gives up its expert, of which there are other copies, for one more copy of another expert.
    Recopy(usize, usize),
}

#[derive(Clone, Debug)]
pub(super) struct Layout<'a> {
    pub grid: Grid,
    /// Whether every expert stays on its node.
    pub confined: bool,
    /// Of this layer.
    pub work: &'a Work,
    loads: &'a [f64],
    slots: Vec<usize>,
    /// Slots of each expert.
    copies: Vec<Vec<usize>>,
    gpu_load: Vec<f64>,
}

impl<'a> Layout<'a> {
    /// Of the experts by slot; none if an expert has no slot.
    pub fn new(grid: Grid, confined: bool, loads: &'a [f64], slots: Vec<usize>, work: &'a Work) -> Option<Self> {
        let mut copies = vec![Vec::new(); loads.len()];
        for (slot, &expert) in slots.iter().enumerate() {
            copies[expert].push(slot);
        }
        if copies.iter().any(Vec::is_empty) {
            return None;
        }
        let mut layout = Self { grid, confined, work, loads, slots, copies, gpu_load: vec![0.0; grid.gpus()] };
        for gpu in 0..grid.gpus() {
            layout.gpu_load[gpu] = layout.load_of(gpu);
        }
        Some(layout)
    }

    /// Water filling, then balanced packing: of all experts over all GPUs, or of the experts of each node over its GPUs.
    pub fn packed(grid: Grid, loads: &'a [f64], parts: &[Vec<usize>], work: &'a Work) -> Option<Self> {
        work.spend(grid.slots() * (grid.gpus() + loads.len()) / parts.len());
        let gpus = grid.gpus() / parts.len();
        let mut slots = Vec::with_capacity(grid.slots());
        for experts in parts {
            let loads_here: Vec<f64> = experts.iter().map(|&expert| loads[expert]).collect();
            let extra = (gpus * grid.per_gpu).checked_sub(experts.len())?;
            let mut things: Vec<usize> = (0..experts.len()).collect();
            things.extend(extra_copies(&loads_here, vec![1; experts.len()], extra));
            let mut copies = vec![0; experts.len()];
            things.iter().for_each(|&thing| copies[thing] += 1);
            let shares: Vec<f64> = things.iter().map(|&thing| loads_here[thing] / f64::from(copies[thing])).collect();
            let bins = pack(&shares, vec![0.0; gpus], vec![grid.per_gpu; gpus]);
            let mut order: Vec<usize> = (0..things.len()).collect();
            order.sort_by(|&a, &b| bins[a].cmp(&bins[b]).then(shares[b].total_cmp(&shares[a])));
            slots.extend(order.into_iter().map(|index| experts[things[index]]));
        }
        // Parts that are nodes are what confines.
        Layout::new(grid, parts.len() > 1, loads, slots, work)
    }

    pub fn slots(&self) -> &[usize] {
        &self.slots
    }

    pub fn experts(&self) -> usize {
        self.loads.len()
    }

    /// Slots that hold the expert.
    pub fn copies(&self, expert: usize) -> &[usize] {
        &self.copies[expert]
    }

    pub fn gpu_load(&self) -> &[f64] {
        &self.gpu_load
    }

    pub fn holds(&self, gpu: usize, expert: usize) -> bool {
        self.slots[self.grid.slots_of_gpu(gpu)].contains(&expert)
    }

    /// The fullest GPU, the first of several.
    pub fn fullest(&self) -> usize {
        let mut fullest = 0;
        for gpu in 1..self.gpu_load.len() {
            if self.gpu_load[gpu] > self.gpu_load[fullest] {
                fullest = gpu;
            }
        }
        fullest
    }

    pub fn max_load(&self) -> f64 {
        self.gpu_load[self.fullest()]
    }

    /// Slots with which one of this GPU may exchange.
    pub fn scope(&self, gpu: usize) -> std::ops::Range<usize> {
        if self.confined { self.grid.slots_of_node(gpu / self.grid.gpus_per_node) } else { 0..self.slots.len() }
    }

    pub fn share(&self, expert: usize) -> f64 {
        self.loads[expert] / self.copies[expert].len() as f64
    }

    fn load_of(&self, gpu: usize) -> f64 {
        self.slots[self.grid.slots_of_gpu(gpu)].iter().map(|&expert| self.share(expert)).sum()
    }

    /// Whether the change is one at all, and keeps the invariants.
    pub fn allows(&self, change: Change) -> bool {
        match change {
            Change::Exchange(a, b) => {
                self.slots[a] != self.slots[b]
                    && self.grid.gpu(a) != self.grid.gpu(b)
                    && !(self.confined && self.grid.node(a) != self.grid.node(b))
            }
            Change::Recopy(slot, expert) => {
                let old = self.slots[slot];
                let nodes = || self.grid.node(self.copies[expert][0]) == self.grid.node(slot);
                old != expert && self.copies[old].len() > 1 && (!self.confined || nodes())
            }
        }
    }

    /// The largest load, after an allowed change, of the GPUs that it touches; none if that is not below `limit`.
    pub fn after(&self, change: Change, limit: f64) -> Option<f64> {
        match change {
            Change::Exchange(a, b) => {
                self.work.spend(2);
                let (gpu_a, gpu_b) = (self.grid.gpu(a), self.grid.gpu(b));
                let moved = self.share(self.slots[a]) - self.share(self.slots[b]);
                let most = (self.gpu_load[gpu_a] - moved).max(self.gpu_load[gpu_b] + moved);
                (most < limit).then_some(most)
            }
            Change::Recopy(slot, new) => {
                let old = self.slots[slot];
                let old_share = self.loads[old] / (self.copies[old].len() - 1) as f64;
                let new_share = self.loads[new] / (self.copies[new].len() + 1) as f64;
                let load = |gpu: usize| -> f64 {
                    self.work.spend(self.grid.per_gpu);
                    let share = |other: usize| match self.slots[other] {
                        _ if other == slot => new_share,
                        expert if expert == old => old_share,
                        expert if expert == new => new_share,
                        expert => self.share(expert),
                    };
                    self.grid.slots_of_gpu(gpu).map(share).sum()
                };
                let mut most = load(self.grid.gpu(slot));
                for &other in self.copies[old].iter().chain(&self.copies[new]) {
                    if most >= limit {
                        return None;
                    }
                    most = most.max(load(self.grid.gpu(other)));
                }
                (most < limit).then_some(most)
            }
        }
    }

    /// Makes an allowed change.
    pub fn apply(&mut self, change: Change) {
        self.work.spend(self.grid.per_gpu);
        match change {
            Change::Exchange(a, b) => {
                let (expert_a, expert_b) = (self.slots[a], self.slots[b]);
                self.replace(a, expert_b);
                self.replace(b, expert_a);
                for slot in [a, b] {
                    let gpu = self.grid.gpu(slot);
                    self.gpu_load[gpu] = self.load_of(gpu);
                }
            }
            Change::Recopy(slot, new) => {
                let old = self.slots[slot];
                self.replace(slot, new);
                for expert in [old, new] {
                    for index in 0..self.copies[expert].len() {
                        let gpu = self.grid.gpu(self.copies[expert][index]);
                        self.gpu_load[gpu] = self.load_of(gpu);
                    }
                }
                // The slot's own GPU is among those of the new expert.
            }
        }
    }

    fn replace(&mut self, slot: usize, expert: usize) {
        self.copies[self.slots[slot]].retain(|&other| other != slot);
        self.slots[slot] = expert;
        self.copies[expert].push(slot);
    }
}
