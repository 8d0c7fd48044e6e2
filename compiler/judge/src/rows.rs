//! Rows of one rank, as they lie in memory.

use std::ops::Range;

use moe_contract::Format;
use moe_contract::codec::Stored;

/// A matrix `[count, hidden]` in some format, and its scales. Two are equal when all their bits are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    format: Format,
    hidden: u32,
    count: usize,
    bytes: Vec<u8>,
    scales: Vec<u8>,
}

/// Memory that is not whole rows with all their scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes and {scales} bytes of scales are not whole rows of {row_bytes} and {row_scales} bytes")]
pub struct RowsError {
    bytes: usize,
    scales: usize,
    row_bytes: usize,
    row_scales: usize,
}

impl Rows {
    /// So many rows of zeros, with scales of zero.
    pub fn zeros(format: Format, hidden: u32, count: usize) -> Rows {
        let bytes = vec![0; count * format.row_bytes(hidden) as usize];
        let scales = vec![0; count * format.scale_bytes(hidden) as usize];
        Rows { format, hidden, count, bytes, scales }
    }

    /// From memory.
    ///
    /// # Errors
    /// When the bytes are not whole rows, or there are not as many scales as those rows have.
    pub fn from_memory(format: Format, hidden: u32, bytes: Vec<u8>, scales: Vec<u8>) -> Result<Rows, RowsError> {
        let (row_bytes, row_scales) = (format.row_bytes(hidden) as usize, format.scale_bytes(hidden) as usize);
        let count = bytes.len().checked_div(row_bytes).unwrap_or(0);
        if bytes.len() != count * row_bytes || scales.len() != count * row_scales {
            return Err(RowsError { bytes: bytes.len(), scales: scales.len(), row_bytes, row_scales });
        }
        Ok(Rows { format, hidden, count, bytes, scales })
    }

    /// Rows of the nearest elements; for a format with scales this quantises.
    ///
    /// # Panics
    /// When the values are not whole rows.
    pub fn from_values(format: Format, hidden: u32, values: &[f32]) -> Rows {
        let count = values.len() / hidden as usize;
        assert_eq!(values.len(), count * hidden as usize, "whole rows");
        let mut rows = Rows::zeros(format, hidden, count);
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
    pub fn format(&self) -> Format {
        self.format
    }

    /// Elements per row.
    pub fn hidden(&self) -> u32 {
        self.hidden
    }

    /// As they lie in memory.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// As they lie in memory; empty for a format without scales.
    pub fn scales(&self) -> &[u8] {
        &self.scales
    }

    /// The elements of a row, without scales.
    pub fn elements(&self, row: usize) -> Vec<f32> {
        self.format.elements(self.row_bytes(row))
    }

    /// The numbers that a row stands for: elements times their scale.
    pub fn values(&self, row: usize) -> Vec<f32> {
        self.format.values(self.row_bytes(row), self.row_scales(row))
    }

    /// Stores the nearest elements in a row; quantises where the format has scales.
    pub(crate) fn set(&mut self, row: usize, values: &[f32]) {
        assert_eq!(values.len(), self.hidden as usize, "a row");
        let Stored { elements, scales } = self.format.store(values);
        let (of_bytes, of_scales) = self.places(row);
        self.bytes[of_bytes].copy_from_slice(&elements);
        self.scales[of_scales].copy_from_slice(&scales);
    }

    /// Copies a row with its scales from rows of the same format.
    pub(crate) fn copy(&mut self, row: usize, from: &Rows, from_row: usize) {
        assert_eq!((self.format, self.hidden), (from.format, from.hidden), "rows of one format");
        let (bytes, scales) = self.places(row);
        self.bytes[bytes].copy_from_slice(from.row_bytes(from_row));
        self.scales[scales].copy_from_slice(from.row_scales(from_row));
    }

    /// A row as it lies in memory.
    pub fn row_bytes(&self, row: usize) -> &[u8] {
        &self.bytes[self.places(row).0]
    }

    /// The scales of a row; none for a format without.
    pub fn row_scales(&self, row: usize) -> &[u8] {
        &self.scales[self.places(row).1]
    }

    /// Where a row and its scales lie.
    fn places(&self, row: usize) -> (Range<usize>, Range<usize>) {
        let [bytes, scales] = [self.format.row_bytes(self.hidden), self.format.scale_bytes(self.hidden)];
        let place = |bytes: u64| row * bytes as usize..(row + 1) * bytes as usize;
        (place(bytes), place(scales))
    }
}
