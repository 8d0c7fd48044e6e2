//! Numbers of the host that a tensor can be filled with.

use moe_contract::{Element, Number, ScaleElement, Tensor};

use crate::error::{Error, Result};

/// A number of the host, or a byte of any.
pub trait HostNumber: bytemuck::Pod {
    /// What it can be on the device. None for a byte, which stands for a part of whatever a tensor consists of.
    const NUMBERS: Option<&'static [Number]>;
}

impl HostNumber for u8 {
    const NUMBERS: Option<&'static [Number]> = None;
}

impl HostNumber for i32 {
    const NUMBERS: Option<&'static [Number]> = Some(&[Number::I32]);
}

impl HostNumber for f32 {
    const NUMBERS: Option<&'static [Number]> = Some(&[Number::Element(Element::F32), Number::Scale(ScaleElement::F32)]);
}

impl HostNumber for half::bf16 {
    const NUMBERS: Option<&'static [Number]> = Some(&[Number::Element(Element::Bf16)]);
}

impl HostNumber for half::f16 {
    const NUMBERS: Option<&'static [Number]> = Some(&[Number::Element(Element::F16)]);
}

/// Refuses numbers of another type than a tensor has.
pub(crate) fn expect<T: HostNumber>(kind: Tensor, number: Number) -> Result<()> {
    match T::NUMBERS {
        Some(numbers) if !numbers.contains(&number) => {
            let found = numbers.first().map_or("nothing", |number| number.name());
            Err(Error::Type { what: kind.name(), found, expected: number.name() })
        }
        Some(_) | None => Ok(()),
    }
}
