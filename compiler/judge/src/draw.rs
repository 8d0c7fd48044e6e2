//! Seeded numbers for what a run is not given: the same seed gives the same numbers on every machine.

use moe_random::Random;

/// Independent streams of one seed, so that asking for one tensor does not change another.
#[derive(Clone, Copy)]
pub(crate) enum Stream {
    Logits = 1,
    Parameter = 2,
    Activations = 3,
    /// Gradients of the result.
    Gradients = 4,
    TokenIds = 5,
    /// Activations of a second dispatch with the same routing.
    Again = 6,
}

/// A source of random numbers for one tensor of one rank.
pub(crate) fn generator(seed: u64, stream: Stream, index: u32) -> Random {
    Random::stream(seed, (stream as u64) << 32 | u64::from(index))
}

/// Numbers close to the standard normal distribution.
pub(crate) fn normal(random: &mut Random, count: usize) -> Vec<f32> {
    (0..count).map(|_| random.normal()).collect()
}
