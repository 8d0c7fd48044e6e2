//! Rows of one rank, as they lie in memory.

use moe_bundle::{Payload, codec};

/// A matrix `[count, hidden]` in some format, and its scales. Two are equal when all their bits are.
#[derive(Clone, Debug)]
pub struct Rows {
    payload: Payload,
    hidden: usize,
    count: usize,
    bytes: Vec<u8>,
    scales: Vec<f32>,
}

/// Memory that is not whole rows with all their scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes and {scales} scales are not whole rows of {row_bytes} bytes and {row_scales} scales")]
pub struct RowsError {
    bytes: usize,
    scales: usize,
    row_bytes: usize,
    row_scales: usize,
}

impl PartialEq for Rows {
    fn eq(&self, other: &Rows) -> bool {
        let bits = |scales: &[f32]| -> Vec<u32> { scales.iter().map(|scale| scale.to_bits()).collect() };
        (self.payload, self.hidden, self.count) == (other.payload, other.hidden, other.count)
            && self.bytes == other.bytes
            && bits(&self.scales) == bits(&other.scales)
    }
}

impl Eq for Rows {}

impl Rows {
    /// So many rows of zeros, with scales of zero.
    pub fn zeros(payload: Payload, hidden: u32, count: usize) -> Rows {
        let bytes = vec![0; count * (hidden * payload.element_bytes()) as usize];
        let scales = vec![0.0; count * payload.scales(hidden) as usize];
        Rows { payload, hidden: hidden as usize, count, bytes, scales }
    }

    /// From memory.
    ///
    /// # Errors
    /// When the bytes are not whole rows, or there are not as many scales as those rows have.
    pub fn from_memory(payload: Payload, hidden: u32, bytes: Vec<u8>, scales: Vec<f32>) -> Result<Rows, RowsError> {
        let row_bytes = hidden as usize * payload.element_bytes() as usize;
        let row_scales = payload.scales(hidden) as usize;
        let count = bytes.len().checked_div(row_bytes).unwrap_or(0);
        if bytes.len() != count * row_bytes || scales.len() != count * row_scales {
            return Err(RowsError { bytes: bytes.len(), scales: scales.len(), row_bytes, row_scales });
        }
        Ok(Rows { payload, hidden: hidden as usize, count, bytes, scales })
    }

    /// Rows of the nearest elements; for a payload with scales this quantises.
    ///
    /// # Panics
    /// When the values are not whole rows.
    pub fn from_values(payload: Payload, hidden: u32, values: &[f32]) -> Rows {
        let count = values.len() / hidden as usize;
        assert_eq!(values.len(), count * hidden as usize, "whole rows");
        let mut rows = Rows::zeros(payload, hidden, count);
        for (row, values) in values.chunks(hidden as usize).enumerate() {
            rows.set(row, values);
        }
        rows
    }

    /// Number of rows.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Their format.
    pub fn payload(&self) -> Payload {
        self.payload
    }

    /// Elements per row.
    pub fn hidden(&self) -> u32 {
        self.hidden as u32
    }

    /// As they lie in memory.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// As they lie in memory; empty for a format without scales.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// The elements of a row, without scales.
    pub fn elements(&self, row: usize) -> Vec<f32> {
        codec::elements(self.payload, self.row_bytes(row)).collect()
    }

    /// The numbers that a row stands for: elements times their scale.
    pub fn values(&self, row: usize) -> Vec<f32> {
        codec::decode_row(self.payload, self.row_bytes(row), self.row_scales(row))
    }

    /// Stores the nearest elements in a row; quantises where the format has scales.
    pub(crate) fn set(&mut self, row: usize, values: &[f32]) {
        assert_eq!(values.len(), self.hidden, "a row");
        let (mut bytes, mut scales) = (vec![], vec![]);
        codec::encode_row(self.payload, values, &mut bytes, &mut scales);
        let (of_bytes, of_scales) = self.places(row);
        self.bytes[of_bytes].copy_from_slice(&bytes);
        self.scales[of_scales].copy_from_slice(&scales);
    }

    /// Copies a row with its scales from rows of the same format.
    pub(crate) fn copy(&mut self, row: usize, from: &Rows, from_row: usize) {
        assert_eq!((self.payload, self.hidden), (from.payload, from.hidden), "rows of one format");
        let (bytes, scales) = self.places(row);
        self.bytes[bytes].copy_from_slice(from.row_bytes(from_row));
        self.scales[scales].copy_from_slice(from.row_scales(from_row));
    }

    /// A row as it lies in memory.
    pub fn row_bytes(&self, row: usize) -> &[u8] {
        &self.bytes[self.places(row).0]
    }

    /// The scales of a row; none for a format without.
    pub fn row_scales(&self, row: usize) -> &[f32] {
        &self.scales[self.places(row).1]
    }

    /// Where a row and its scales lie.
    fn places(&self, row: usize) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let bytes = self.hidden * self.payload.element_bytes() as usize;
        let scales = self.payload.scales(self.hidden as u32) as usize;
        (row * bytes..(row + 1) * bytes, row * scales..(row + 1) * scales)
    }
}
