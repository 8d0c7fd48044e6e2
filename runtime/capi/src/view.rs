//! Tensors of a caller: where they are, how many rows, what those consist of. Nothing here is trusted before [`View::check`] has seen it.

use moe_contract::{Element, Exchange, Number, RankId, ScaleElement, Tensor};
use moe_runtime::device::Address;
use moe_runtime::{CallerPart, Error};

use crate::failure::{Failure, Result};

/// The part of one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it begins: in the memory of this process, or of the rank's GPU.
    pub address: u64,
    /// Rows, one behind the other.
    pub rows: u64,
}

/// A tensor: one part for each rank of a communicator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// What it consists of.
    pub number: Number,
    /// Bytes of a row.
    pub row_bytes: u64,
    /// In the order of the ranks.
    pub parts: Vec<Part>,
}

/// Whatever a tensor or a parameter can consist of.
pub const NUMBERS: [Number; 6] = [
    Number::I32,
    Number::Element(Element::F32),
    Number::Element(Element::Bf16),
    Number::Element(Element::F16),
    Number::Element(Element::E4m3),
    Number::Scale(ScaleElement::Ue8m0),
];

/// An f32 is one, be it an element or a scale; other languages have one type for both.
fn same(found: Number, expected: Number) -> bool {
    let f32 = [Number::Element(Element::F32), Number::Scale(ScaleElement::F32)];
    found == expected || (f32.contains(&found) && f32.contains(&expected))
}

impl View {
    /// Refuses a tensor of another type, width or number of ranks, and one with rows at no address.
    ///
    /// What the tensor consists of.
    ///
    /// # Errors
    /// Which of them.
    pub fn check(&self, kind: Tensor, exchange: &Exchange, ranks: &[RankId]) -> Result<Number> {
        let (what, expected) = (kind.name(), exchange.tensor_number(kind));
        let expected = expected.ok_or(Error::NoTensor { what, why: "the format of dispatch has no scales" })?;
        if self.parts.len() != ranks.len() {
            let found = self.parts.len();
            return Err(Error::Parts { what: what.into(), found, ranks: ranks.len() as u32 }.into());
        }
        if !same(self.number, expected) {
            return Err(Error::Type { what, found: self.number.name(), expected: expected.name() }.into());
        }
        let row_bytes = exchange.tensor_row_bytes(kind);
        if self.row_bytes != row_bytes {
            return Err(Error::RowWidth { what, found: self.row_bytes, expected: row_bytes }.into());
        }
        for (rank, part) in ranks.iter().zip(&self.parts) {
            if part.address == 0 && part.rows > 0 {
                return Err(Failure::argument(what, format!("{rank} has {} rows at address 0", part.rows)));
            }
            if part.rows > isize::MAX as u64 / row_bytes.max(1) {
                return Err(Failure::argument(
                    what,
                    format!("{rank} has {} rows, more than any memory holds", part.rows),
                ));
            }
        }
        Ok(expected)
    }

    /// Rows of each rank.
    pub fn rows(&self) -> Vec<u64> {
        self.parts.iter().map(|part| part.rows).collect()
    }

    /// Bytes of all ranks.
    pub(crate) fn total(&self) -> u64 {
        self.rows().iter().sum::<u64>() * self.row_bytes
    }

    /// As the runtime borrows it, the type being that of the tensor.
    pub(crate) fn borrowed(&self, number: Number) -> Vec<CallerPart> {
        let part = |part: &Part| CallerPart { address: Address(part.address), rows: part.rows, number };
        self.parts.iter().map(part).collect()
    }

    /// What is there now, in the memory of this process.
    ///
    /// # Safety
    /// Each part has so many rows at its address, which nobody writes meanwhile.
    pub(crate) unsafe fn bytes(&self) -> Vec<&[u8]> {
        let of_part = |part: &Part| match part.rows * self.row_bytes {
            0 => &[][..],
            // SAFETY: as the caller promises.
            bytes => unsafe { std::slice::from_raw_parts(part.address as *const u8, bytes as usize) },
        };
        self.parts.iter().map(of_part).collect()
    }

    /// Puts something there.
    ///
    /// # Safety
    /// Each part has so many rows at its address, which nobody reads or writes meanwhile.
    pub(crate) unsafe fn fill(&self, bytes: &[Vec<u8>]) {
        for (part, bytes) in self.parts.iter().zip(bytes) {
            let count = (part.rows * self.row_bytes).min(bytes.len() as u64) as usize;
            if count > 0 {
                // SAFETY: as the caller promises; both have so many bytes, and one is a fresh `Vec`.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), part.address as *mut u8, count) };
            }
        }
    }
}
