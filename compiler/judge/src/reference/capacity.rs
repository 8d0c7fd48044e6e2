//! Capacity: which picks are dropped when an expert has too many from one rank.

use moe_contract::{Drop, Exchange};

/// Marks the picks that an expert cannot keep with −1; weights stay as they are. Zero experts are limited too.
pub fn keep_within_capacity(exchange: &Exchange, rule: Drop, capacity: usize, indices: &mut [i32], weights: &[f32]) {
    for expert in 0..(exchange.experts + exchange.zero_experts) as i32 {
        // A token picks an expert once, so that places in ascending order are tokens in ascending order.
        let mut places: Vec<usize> = (0..indices.len()).filter(|&place| indices[place] == expert).collect();
        if rule == Drop::Lowest {
            // Stable: among equal weights the earlier token stays in front.
            places.sort_by(|&a, &b| weights[b].partial_cmp(&weights[a]).unwrap_or(std::cmp::Ordering::Equal));
        }
        for &dropped in places.iter().skip(capacity) {
            indices[dropped] = -1;
        }
    }
}
