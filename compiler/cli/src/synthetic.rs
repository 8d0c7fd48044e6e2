//! Seeded input for a run without `--input`: the same seed gives the same tensors on every machine.

use half::{bf16, f16};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// Independent streams of one seed, so that asking for one tensor does not change another.
#[derive(Clone, Copy)]
pub enum Stream {
    /// Router logits.
    Logits = 1,
    /// A gate parameter.
    Parameter = 2,
    /// Activations.
    Activations = 3,
    /// Gradients.
    Gradients = 4,
    /// Token ids.
    TokenIds = 5,
}

/// A source of random numbers for one tensor of one rank.
pub fn generator(seed: u64, stream: Stream, index: u32) -> ChaCha8Rng {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream((stream as u64) << 32 | u64::from(index));
    generator
}

/// Standard normal numbers.
pub fn normal(generator: &mut ChaCha8Rng, count: usize) -> Vec<f32> {
    StandardNormal.sample_iter(generator).take(count).collect()
}

/// Numbers rounded to a row format, as bytes.
pub fn bf16_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect()
}

/// Numbers rounded to a row format, as bytes.
pub fn f16_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect()
}
