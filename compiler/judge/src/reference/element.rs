//! One element of a row: from f32 to its format, to nearest even, and back. A NaN becomes the canonical one of PTX.

use float8::F8E4M3;
use half::{bf16, f16};
use moe_bundle::Payload;

/// The largest finite number of E4M3, to which larger ones saturate.
pub const E4M3_MAX: f32 = 448.0;

/// The f32 that some bytes stand for, without their scale.
///
/// # Panics
/// When there are not as many bytes as the format has.
pub fn decode(payload: Payload, bytes: &[u8]) -> f32 {
    assert_eq!(bytes.len(), payload.element_bytes() as usize, "bytes of one element");
    match payload {
        Payload::Bf16 => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
        Payload::F16 => f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
        Payload::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        Payload::Fp8E4m3ScaleF32Per128 => F8E4M3::from_bits(bytes[0]).to_f32(),
    }
}

/// Appends the bytes of the nearest element, ties to even; E4M3 saturates.
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
