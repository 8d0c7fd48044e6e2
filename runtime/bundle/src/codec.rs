//! Numbers to the bytes of a payload and back: the one account of formats on the host.
//!
//! Invariants: rounding is to nearest even; a NaN that is rounded becomes the canonical one of its format, 0x7fff in 16 bits and 0x7f in
//! E4M3; f32 is not rounded and keeps its bits. Kernels share nothing with this: they convert with instructions of the GPU.

use float8::F8E4M3;
use half::{bf16, f16};

use crate::Payload;
use crate::limits::SCALE_BLOCK;

/// The largest finite number of E4M3, to which larger ones saturate.
pub const E4M3_MAX: f32 = 448.0;

/// Scales never come from a smaller largest element than this.
pub const LEAST_AMAX: f32 = 1e-4;

/// The NaN that f32 arithmetic gives on a GPU, whatever its operands were.
pub const NAN: f32 = f32::from_bits(0x7fff_ffff);

/// What a GPU gives where the host's arithmetic gives `number`: hosts differ in the bits of a NaN.
#[inline]
pub fn canonical(number: f32) -> f32 {
    if number.is_nan() { NAN } else { number }
}

/// The numbers that the elements of a payload stand for, without scales. Bytes behind the last whole element are left out.
pub fn elements(payload: Payload, bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.chunks_exact(payload.element_bytes() as usize).map(move |bytes| match (payload, bytes) {
        (Payload::Bf16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f32(),
        (Payload::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
        (Payload::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
        (Payload::Fp8E4m3ScaleF32Per128, &[a]) => F8E4M3::from_bits(a).to_f32(),
        // `chunks_exact` gives as many bytes as an element has.
        _ => NAN,
    })
}

/// The numbers that a row stands for: elements times the scale of their block.
pub fn decode_row(payload: Payload, bytes: &[u8], scales: &[f32]) -> Vec<f32> {
    let mut values: Vec<f32> = elements(payload, bytes).collect();
    for (block, scale) in values.chunks_mut(SCALE_BLOCK as usize).zip(scales) {
        block.iter_mut().for_each(|value| *value = canonical(*value * scale));
    }
    values
}

/// Appends the nearest element; E4M3 saturates.
pub fn encode(payload: Payload, value: f32, bytes: &mut Vec<u8>) {
    match payload {
        Payload::Bf16 | Payload::F16 if value.is_nan() => bytes.extend([0xff, 0x7f]),
        Payload::Bf16 => bytes.extend(bf16::from_f32(value).to_le_bytes()),
        Payload::F16 => bytes.extend(f16::from_f32(value).to_le_bytes()),
        Payload::F32 => bytes.extend(value.to_le_bytes()),
        Payload::Fp8E4m3ScaleF32Per128 if value.is_nan() => bytes.push(0x7f),
        Payload::Fp8E4m3ScaleF32Per128 => bytes.push(F8E4M3::from_f32(value.clamp(-E4M3_MAX, E4M3_MAX)).to_bits()),
    }
}

/// Appends a row and its scales: each block of a format that has them is divided by its largest element first.
pub fn encode_row(payload: Payload, values: &[f32], bytes: &mut Vec<u8>, scales: &mut Vec<f32>) {
    if payload.scales(SCALE_BLOCK) == 0 {
        values.iter().for_each(|&value| encode(payload, value, bytes));
        return;
    }
    for block in values.chunks(SCALE_BLOCK as usize) {
        // `max` leaves a NaN out, as the instruction of a GPU does.
        let amax = block.iter().fold(LEAST_AMAX, |amax, value| amax.max(value.abs()));
        scales.push(amax / E4M3_MAX);
        let multiplier = E4M3_MAX / amax;
        block.iter().for_each(|&value| encode(payload, value * multiplier, bytes));
    }
}
