//! How rows of a payload are stored, as data: an element, and perhaps scales that blocks of elements share.
//!
//! Invariants: here alone a format has its name, which is what the language knows of it; one that kernels use is among [`Format::KNOWN`],
//! its elements are whole bytes, and a block of a scale is whole 16-byte chunks of elements. [`Format::PLANNED`] are only planned with: they
//! have sizes, and no meaning yet.
//!
//! # Scales
//! A block of elements x with largest magnitude *amax* (NaN left out) is stored as scale and elements, in f32 arithmetic, each
//! operation correctly rounded to nearest even. a = max(amax, [`LEAST_AMAX`]), m = [`Element::largest`].
//! * [`ScaleElement::F32`]: scale = a / m; element = saturate(x × (m / a)).
//! * [`ScaleElement::Ue8m0`] (the power-of-two scales of the OCP Microscaling formats): the smallest power of two 2^e that is at least
//!   a / m, stored as the byte e + 127, 255 where a is infinite; element = saturate(x × 2^−e), x × 0 where a is infinite. Rounded up,
//!   so that no element of a block without infinity saturates: an f32 above m × 2^k divided by m is above 2^k, rounded too. Of fp8, what
//!   is above 248 × 2^120 is nearest to 2^128, which a reader in f32 has as infinity.
//!
//! A reader multiplies: value = element × scale. A NaN is stored as one, and its block keeps its other numbers. An infinity takes its
//! block with it: a is infinite, elements are zeros with the sign of x, and NaN for the infinity itself, and a reader has NaN for all.

use serde::{Deserialize, Serialize};

/// The least magnitude that a block is scaled by, so that a block of zeros has a scale.
pub const LEAST_AMAX: f32 = 1e-4;

/// One number of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Element {
    /// bfloat16
    Bf16,
    /// IEEE binary16
    F16,
    /// IEEE binary32
    F32,
    /// OCP fp8 E4M3
    E4m3,
    /// OCP fp4 E2M1, two in a byte: planned with, no format with kernels has it
    E2m1,
}

impl Element {
    /// As the language spells it.
    pub fn name(self) -> &'static str {
        match self {
            Element::Bf16 => "bf16",
            Element::F16 => "f16",
            Element::F32 => "f32",
            Element::E4m3 => "fp8_e4m3",
            Element::E2m1 => "fp4_e2m1",
        }
    }

    /// Its size in bits.
    pub fn bits(self) -> u32 {
        match self {
            Element::Bf16 | Element::F16 => 16,
            Element::F32 => 32,
            Element::E4m3 => 8,
            Element::E2m1 => 4,
        }
    }

    /// Its size, if it shares no byte with another.
    pub fn bytes(self) -> u32 {
        self.bits() / 8
    }

    /// The largest finite number.
    pub fn largest(self) -> f32 {
        match self {
            Element::Bf16 => 3.389_531_4e38,
            Element::F16 => 65_504.0,
            Element::F32 => f32::MAX,
            Element::E4m3 => 448.0,
            Element::E2m1 => 6.0,
        }
    }
}

/// How the scale of a block is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleElement {
    /// IEEE binary32
    F32,
    /// A power of two, its exponent plus 127 in a byte.
    Ue8m0,
    /// OCP fp8 E4M3: planned with, no format with kernels has it
    E4m3,
}

impl ScaleElement {
    /// As the language spells it.
    pub fn name(self) -> &'static str {
        match self {
            ScaleElement::F32 => "f32",
            ScaleElement::Ue8m0 => "ue8m0",
            ScaleElement::E4m3 => "fp8_e4m3",
        }
    }

    /// Its size.
    pub fn bytes(self) -> u32 {
        match self {
            ScaleElement::F32 => 4,
            ScaleElement::Ue8m0 | ScaleElement::E4m3 => 1,
        }
    }
}

/// Scales of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scales {
    /// What a stored scale is.
    pub element: ScaleElement,
    /// Elements that share one.
    pub block: u32,
}

/// How a row is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Format {
    /// What a row consists of.
    pub element: Element,
    /// What its blocks are multiplied with.
    pub scales: Option<Scales>,
}

/// A format and what the language calls it.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// As in a `.moe` file, behind `payload`.
    pub name: &'static str,
    /// Of the elements.
    pub format: Format,
}

impl Format {
    /// `bf16`
    pub const BF16: Format = Format { element: Element::Bf16, scales: None };
    /// `f16`
    pub const F16: Format = Format { element: Element::F16, scales: None };
    /// `f32`
    pub const F32: Format = Format { element: Element::F32, scales: None };
    /// `fp8_e4m3 scale f32 per 128`
    pub const FP8_F32_128: Format = Format::fp8(ScaleElement::F32, 128);

    /// `fp8_e4m3 scale ue8m0 per 128`
    pub const FP8_UE8M0_128: Format = Format::fp8(ScaleElement::Ue8m0, 128);
    /// `fp8_e4m3 scale ue8m0 per 32`: MXFP8
    pub const MXFP8: Format = Format::fp8(ScaleElement::Ue8m0, 32);
    /// `fp4_e2m1 scale e4m3 per 16`: NVFP4, without kernels
    pub const NVFP4: Format =
        Format { element: Element::E2m1, scales: Some(Scales { element: ScaleElement::E4m3, block: 16 }) };

    /// Every format that kernels are made for. What a row costs, and how it is converted, follows from the data.
    pub const KNOWN: &[Named] = &[
        Named { name: "bf16", format: Format::BF16 },
        Named { name: "f16", format: Format::F16 },
        Named { name: "f32", format: Format::F32 },
        Named { name: "fp8_e4m3 scale f32 per 128", format: Format::FP8_F32_128 },
        Named { name: "fp8_e4m3 scale ue8m0 per 128", format: Format::FP8_UE8M0_128 },
        Named { name: "fp8_e4m3 scale ue8m0 per 32", format: Format::MXFP8 },
    ];

    const fn fp8(element: ScaleElement, block: u32) -> Format {
        Format { element: Element::E4m3, scales: Some(Scales { element, block }) }
    }

    /// Every format of the language for which there are no kernels.
    pub const PLANNED: &[Named] = &[Named { name: "fp4_e2m1 scale e4m3 per 16", format: Format::NVFP4 }];

    /// Every format of the language.
    pub fn spoken() -> impl Iterator<Item = Named> {
        Format::KNOWN.iter().chain(Format::PLANNED).copied()
    }

    /// What the language calls it; `None` for one that it cannot say.
    pub fn name(self) -> Option<&'static str> {
        Format::spoken().find(|spoken| spoken.format == self).map(|spoken| spoken.name)
    }

    /// Whether kernels are made for it.
    pub fn has_kernels(self) -> bool {
        Format::KNOWN.iter().any(|known| known.format == self)
    }

    /// Bytes of a row of `hidden` elements, without its scales.
    pub fn row_bytes(self, hidden: u32) -> u64 {
        u64::from(hidden) * u64::from(self.element.bits()) / 8
    }

    /// Scales of a row.
    pub fn scales_per_row(self, hidden: u32) -> u32 {
        self.scales.map_or(0, |scales| hidden / scales.block)
    }

    /// Bytes of the scales of a row.
    pub fn scale_bytes(self, hidden: u32) -> u64 {
        self.scales.map_or(0, |scales| u64::from(hidden / scales.block) * u64::from(scales.element.bytes()))
    }

    /// The format of the rows that the caller passes to dispatch: formats with scales are made from bf16.
    pub fn source(self) -> Format {
        if self.scales.is_some() { Format::BF16 } else { self }
    }
}
