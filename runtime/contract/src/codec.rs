//! Rows in memory from numbers and back, on the host: what [`crate::format`] says in plain Rust.
//!
//! Invariants: rounding is to nearest even; a NaN that is rounded becomes the canonical one of its format, 0x7fff in 16 bits and 0x7f in E4M3;
//! f32 is not rounded and keeps its bits. Kernels share nothing with this: they convert with instructions of the GPU.

use float8::F8E4M3;
use half::{bf16, f16};

use crate::format::{Element, Format, LEAST_AMAX, ScaleElement, Scales};

/// The NaN that f32 arithmetic gives on a GPU, whatever its operands were.
pub const NAN: f32 = f32::from_bits(0x7fff_ffff);

/// What a GPU gives where the host's arithmetic gives `number`: hosts differ in the bits of a NaN.
#[inline]
pub fn canonical(number: f32) -> f32 {
    if number.is_nan() { NAN } else { number }
}

/// Why no row of some formats is ever read or written: an exchange is checked before.
const PLANNED: &str = "a format that is only planned with is refused by the limits of an exchange";

/// A row as it lies in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Row after row, as the format stores it.
    pub elements: Vec<u8>,
    /// Scales; empty for a format without.
    pub scales: Vec<u8>,
}

impl Element {
    /// The number that some bytes stand for, without a scale.
    ///
    /// # Panics
    /// When there are not as many bytes as an element has.
    pub fn decode(self, bytes: &[u8]) -> f32 {
        assert_eq!(bytes.len(), self.bytes() as usize, "bytes of one element");
        match self {
            Element::Bf16 => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
            Element::F16 => f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
            Element::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            Element::E4m3 => F8E4M3::from_bits(bytes[0]).to_f32(),
            Element::E2m1 => unreachable!("{PLANNED}"),
        }
    }

    /// Appends the nearest element, ties to even; E4M3 saturates.
    pub fn encode(self, value: f32, bytes: &mut Vec<u8>) {
        match self {
            Element::Bf16 | Element::F16 if value.is_nan() => bytes.extend([0xff, 0x7f]),
            Element::Bf16 => bytes.extend(bf16::from_f32(value).to_le_bytes()),
            Element::F16 => bytes.extend(f16::from_f32(value).to_le_bytes()),
            Element::F32 => bytes.extend(value.to_le_bytes()),
            Element::E4m3 if value.is_nan() => bytes.push(0x7f),
            Element::E4m3 => {
                let most = self.largest();
                bytes.push(F8E4M3::from_f32(value.clamp(-most, most)).to_bits());
            }
            Element::E2m1 => unreachable!("{PLANNED}"),
        }
    }
}

impl ScaleElement {
    /// The number that some bytes stand for.
    ///
    /// # Panics
    /// When there are not as many bytes as a scale has.
    pub fn decode(self, bytes: &[u8]) -> f32 {
        assert_eq!(bytes.len(), self.bytes() as usize, "bytes of one scale");
        match self {
            ScaleElement::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            ScaleElement::Ue8m0 => match bytes[0] {
                255 => NAN,
                exponent => 2f32.powi(i32::from(exponent) - 127),
            },
            ScaleElement::E4m3 => unreachable!("{PLANNED}"),
        }
    }

    /// Appends the scale of a block with a largest magnitude; gives what its elements are multiplied with.
    fn encode(self, amax: f32, element: Element, bytes: &mut Vec<u8>) -> f32 {
        let (amax, largest) = (amax.max(LEAST_AMAX), element.largest());
        match self {
            ScaleElement::F32 => {
                bytes.extend((amax / largest).to_le_bytes());
                largest / amax
            }
            ScaleElement::Ue8m0 if amax.is_infinite() => {
                bytes.push(255);
                0.0
            }
            ScaleElement::Ue8m0 => {
                // At least 1e-4 / 448 and at most f32::MAX / 448: the exponent is far from the ends.
                let scale = amax / largest;
                let exponent = (-126..127).find(|&exponent| 2f32.powi(exponent) >= scale).unwrap_or(127);
                bytes.push((exponent + 127) as u8);
                2f32.powi(-exponent)
            }
            ScaleElement::E4m3 => unreachable!("{PLANNED}"),
        }
    }
}

impl Format {
    /// The nearest elements of some numbers; quantises where the format has scales.
    pub fn store(self, values: &[f32]) -> Stored {
        let mut stored = Stored::default();
        match self.scales {
            None => values.iter().for_each(|&value| self.element.encode(value, &mut stored.elements)),
            Some(Scales { element: scale, block }) => {
                for values in values.chunks(block as usize) {
                    // `max` leaves a NaN out, as the instruction of a GPU does.
                    let amax = values.iter().fold(0.0_f32, |amax, value| amax.max(value.abs()));
                    let multiplier = scale.encode(amax, self.element, &mut stored.scales);
                    values.iter().for_each(|&value| self.element.encode(value * multiplier, &mut stored.elements));
                }
            }
        }
        stored
    }

    /// The elements of a row, without scales.
    pub fn elements(self, elements: &[u8]) -> Vec<f32> {
        elements.chunks(self.element.bytes() as usize).map(|bytes| self.element.decode(bytes)).collect()
    }

    /// The numbers that a row stands for: elements times their scale.
    pub fn values(self, elements: &[u8], scales: &[u8]) -> Vec<f32> {
        let mut values = self.elements(elements);
        if let Some(Scales { element: scale, block }) = self.scales {
            let scales = scales.chunks(scale.bytes() as usize).map(|bytes| scale.decode(bytes));
            for (block, scale) in values.chunks_mut(block as usize).zip(scales) {
                block.iter_mut().for_each(|value| *value = canonical(*value * scale));
            }
        }
        values
    }
}
