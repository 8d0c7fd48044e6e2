//! Loads to try, and what a placement is worth, computed from its slots by nothing of the crate.

use moe_planner::placement::{LayerPlacement, Load, Options, PlacementReport, Policy, Shape, place};
use moe_random::Random;

pub fn of<T: Copy>(random: &mut Random, choices: &[T]) -> T {
    choices[random.index(choices.len())]
}

/// Uniform counts, or Zipf with an exponent of 0.5 to 1.5 over experts in random order.
pub fn loads(random: &mut Random, experts: usize) -> Vec<f64> {
    if random.below(2) == 0 {
        return (0..experts).map(|_| random.below(1000) as f64).collect();
    }
    let exponent = 0.5 + random.unit();
    let mut loads: Vec<f64> = (1..=experts).map(|rank| (1e4 / (rank as f64).powf(exponent)).round()).collect();
    random.shuffle(&mut loads);
    loads
}

/// A shape that both policies accept.
pub fn shape(random: &mut Random) -> (Shape, usize) {
    let nodes = of(random, &[1, 2, 3, 4, 8]);
    let gpus_per_node = of(random, &[1, 2, 4, 8]);
    let groups = nodes * of(random, &[1, 2, 4]);
    let gpus = nodes * gpus_per_node;
    let mut size = 1 + random.index(8);
    while groups * size < gpus {
        size += 1;
    }
    let experts = groups * size;
    let per_gpu = experts.div_ceil(gpus) + random.index(3);
    let shape = Shape {
        nodes: nodes as u32,
        gpus_per_node: gpus_per_node as u32,
        groups: groups as u32,
        replicas: (gpus * per_gpu) as u32,
    };
    (shape, experts)
}

pub fn placed(loads: &[Vec<f64>], shape: &Shape, options: &Options) -> PlacementReport {
    let load = Load::new(loads.to_vec()).expect("the counts are counts");
    place(&load, shape, options).expect("the shape fits")
}

pub fn by_gpu(placement: &PlacementReport, layer: &LayerPlacement) -> Vec<Vec<usize>> {
    let experts: Vec<usize> = layer.experts_by_slot.iter().map(|expert| expert.0 as usize).collect();
    experts.chunks(placement.slots_per_gpu as usize).map(<[usize]>::to_vec).collect()
}

pub fn max_load(gpus: &[Vec<usize>], loads: &[f64]) -> f64 {
    let copies = |expert: usize| gpus.iter().flatten().filter(|&&other| other == expert).count() as f64;
    gpus.iter().map(|gpu| gpu.iter().map(|&expert| loads[expert] / copies(expert)).sum()).fold(0.0, f64::max)
}

/// Experts that GPUs must receive.
pub fn moves(gpus: &[Vec<usize>], current: &[Vec<usize>]) -> usize {
    let mut moves = 0;
    for (wanted, held) in gpus.iter().zip(current) {
        let mut held = held.clone();
        for expert in wanted {
            match held.iter().position(|other| other == expert) {
                Some(index) => {
                    held.swap_remove(index);
                }
                None => moves += 1,
            }
        }
    }
    moves
}

/// Picks of a token of node s that are served on node n, for each s, n and expert, by the rule that the module states.
pub fn served(gpus: &[Vec<usize>], nodes: usize, expert: usize) -> Vec<Vec<f64>> {
    let even = 1.0 / nodes as f64;
    let per_node = gpus.len() / nodes;
    let copies: Vec<f64> = gpus
        .chunks(per_node)
        .map(|node| node.iter().flatten().filter(|&&other| other == expert).count() as f64)
        .collect();
    let all: f64 = copies.iter().sum();
    let home: Vec<f64> = copies.iter().map(|&r| even.min(r / all)).collect();
    let room: f64 = copies.iter().zip(&home).map(|(&r, &home)| r / all - home).sum();
    (0..nodes)
        .map(|from| {
            let away = 1.0 - home[from] * nodes as f64;
            (0..nodes)
                .map(|to| match () {
                    () if from == to => home[from] * nodes as f64,
                    () if room < 1e-12 => 0.0,
                    () => away * (copies[to] / all - home[to]) / room,
                })
                .collect()
        })
        .collect()
}

pub fn copies_between_nodes(gpus: &[Vec<usize>], nodes: usize, top_k: u32, loads: &[f64]) -> f64 {
    let total: f64 = loads.iter().sum();
    let mut part = vec![vec![0.0; nodes]; nodes];
    for (expert, load) in loads.iter().enumerate() {
        let served = served(gpus, nodes, expert);
        for from in 0..nodes {
            for to in 0..nodes {
                part[from][to] += load / total * served[from][to];
            }
        }
    }
    let mut copies = 0.0;
    for (from, parts) in part.iter().enumerate() {
        for (_, part) in parts.iter().enumerate().filter(|&(to, _)| to != from) {
            copies += 1.0 - (1.0 - part).max(0.0).powi(top_k as i32);
        }
    }
    copies / nodes as f64
}

pub const POLICIES: [Policy; 2] = [Policy::Hierarchical, Policy::Global];
