//! Seeded numbers for a run without `--input`: the same seed gives the same numbers on every machine.

use moe_random::Random;

/// Independent streams of one seed, so that asking for one tensor does not change another.
#[derive(Clone, Copy)]
pub enum Stream {
    /// Router logits.
    Logits = 1,
    /// A gate parameter.
    Parameter = 2,
    /// Activations.
    Activations = 3,
    /// Gradients of the result.
    Gradients = 4,
    /// Token ids.
    TokenIds = 5,
    /// Activations of a second dispatch with the same routing.
    Again = 6,
    /// Gradients of the weights, where combine gives none.
    WeightGradients = 7,
}

/// A source of random numbers for one tensor of one rank.
pub fn generator(seed: u64, stream: Stream, index: u32) -> Random {
    Random::stream(seed, (stream as u64) << 32 | u64::from(index))
}

/// Numbers close to the standard normal distribution.
pub fn normal(random: &mut Random, count: usize) -> Vec<f32> {
    (0..count).map(|_| random.normal()).collect()
}
