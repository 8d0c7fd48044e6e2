//! Rows of one rank, as they lie in memory.

use moe_bundle::Payload;
use moe_bundle::limits::SCALE_BLOCK;

use super::element::{E4M3_MAX, decode, encode};

/// Scales never come from a smaller largest element than this.
const LEAST_AMAX: f32 = 1e-4;

/// A matrix `[count, hidden]` in some format, and its scales.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    payload: Payload,
    hidden: usize,
    count: usize,
    bytes: Vec<u8>,
    scales: Vec<f32>,
}

impl Rows {
    /// So many rows of zeros, with scales of zero.
    pub fn zeros(payload: Payload, hidden: u32, count: usize) -> Rows {
        let bytes = vec![0; count * (hidden * payload.element_bytes()) as usize];
        let scales = vec![0.0; count * payload.scales(hidden) as usize];
        Rows { payload, hidden: hidden as usize, count, bytes, scales }
    }

    /// From memory.
    ///
    /// # Panics
    /// When the bytes are not whole rows, or there are not as many scales as those rows have.
    pub fn from_memory(payload: Payload, hidden: u32, bytes: Vec<u8>, scales: Vec<f32>) -> Rows {
        let row = (hidden * payload.element_bytes()) as usize;
        let count = bytes.len() / row;
        assert_eq!(bytes.len(), count * row, "whole rows");
        assert_eq!(scales.len(), count * payload.scales(hidden) as usize, "scales of all rows");
        Rows { payload, hidden: hidden as usize, count, bytes, scales }
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
        let element = self.payload.element_bytes() as usize;
        self.row_bytes(row).chunks(element).map(|bytes| decode(self.payload, bytes)).collect()
    }

    /// The numbers that a row stands for: elements times their scale.
    pub fn values(&self, row: usize) -> Vec<f32> {
        let mut values = self.elements(row);
        for (block, scale) in values.chunks_mut(SCALE_BLOCK as usize).zip(self.row_scales(row)) {
            block.iter_mut().for_each(|value| *value *= scale);
        }
        values
    }

    /// Stores the nearest elements in a row; quantises where the format has scales.
    pub(super) fn set(&mut self, row: usize, values: &[f32]) {
        assert_eq!(values.len(), self.hidden, "a row");
        let (payload, per_row) = (self.payload, self.payload.scales(self.hidden as u32) as usize);
        let mut stored = Vec::with_capacity(self.row_bytes(row).len());
        if per_row == 0 {
            values.iter().for_each(|&value| encode(payload, value, &mut stored));
        } else {
            for (block, values) in values.chunks(SCALE_BLOCK as usize).enumerate() {
                let amax = values.iter().fold(LEAST_AMAX, |amax, value| amax.max(value.abs()));
                self.scales[row * per_row + block] = amax / E4M3_MAX;
                let multiplier = E4M3_MAX / amax;
                values.iter().for_each(|&value| encode(payload, value * multiplier, &mut stored));
            }
        }
        self.row_bytes_mut(row).copy_from_slice(&stored);
    }

    /// Copies a row with its scales from rows of the same format.
    pub(super) fn copy(&mut self, row: usize, from: &Rows, from_row: usize) {
        assert_eq!((self.payload, self.hidden), (from.payload, from.hidden), "rows of one format");
        self.row_bytes_mut(row).copy_from_slice(from.row_bytes(from_row));
        let per_row = self.payload.scales(self.hidden as u32) as usize;
        self.scales[row * per_row..(row + 1) * per_row].copy_from_slice(from.row_scales(from_row));
    }

    fn row_bytes(&self, row: usize) -> &[u8] {
        let bytes = self.hidden * self.payload.element_bytes() as usize;
        &self.bytes[row * bytes..(row + 1) * bytes]
    }

    fn row_bytes_mut(&mut self, row: usize) -> &mut [u8] {
        let bytes = self.hidden * self.payload.element_bytes() as usize;
        &mut self.bytes[row * bytes..(row + 1) * bytes]
    }

    fn row_scales(&self, row: usize) -> &[f32] {
        let per_row = self.payload.scales(self.hidden as u32) as usize;
        &self.scales[row * per_row..(row + 1) * per_row]
    }
}
