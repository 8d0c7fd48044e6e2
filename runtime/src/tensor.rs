//! Tensors of a communicator: one on every rank, with the same row and any number of rows.

use std::ops::Range;
use std::sync::Arc;

use moe_contract::{Exchange, RankId, Tensor};

use crate::device::{Address, Device, Memory, StreamId};
use crate::error::{Error, Result};

/// A tensor on every rank. Cloning shares the memory.
#[derive(Clone, Debug)]
pub struct Distributed {
    kind: Tensor,
    row_bytes: u64,
    parts: Arc<[Part]>,
}

#[derive(Debug)]
struct Part {
    memory: Memory,
    rows: u64,
}

impl Distributed {
    /// Which tensor it is.
    pub fn kind(&self) -> Tensor {
        self.kind
    }

    /// Rows on a rank.
    pub fn rows(&self, rank: RankId) -> u64 {
        self.parts[rank.index()].rows
    }

    /// Where it is on a rank; null without rows.
    pub fn address(&self, rank: RankId) -> Address {
        self.parts[rank.index()].memory.address()
    }

    /// Memory for some rows on each rank, not initialised, which the launches of these streams use first.
    pub(crate) fn allocate(
        device: &Arc<dyn Device>,
        streams: &[StreamId],
        exchange: &Exchange,
        kind: Tensor,
        rows: &[u64],
    ) -> Result<Distributed> {
        let row_bytes = exchange.tensor_row_bytes(kind);
        let parts = (0..).map(RankId).zip(streams).zip(rows).map(|((rank, &stream), &rows)| {
            let memory = Memory::of_rank(device, stream, rank, rows * row_bytes, kind.name())?;
            Ok(Part { memory, rows })
        });
        Ok(Distributed { kind, row_bytes, parts: parts.collect::<Result<_>>()? })
    }

    /// Copies to every rank.
    pub(crate) fn upload<T: bytemuck::Pod>(
        device: &Arc<dyn Device>,
        streams: &[StreamId],
        exchange: &Exchange,
        kind: Tensor,
        parts: &[impl AsRef<[T]>],
    ) -> Result<Distributed> {
        if parts.len() != exchange.ranks as usize {
            return Err(Error::Parts { what: kind.name().into(), found: parts.len(), ranks: exchange.ranks });
        }
        let row = exchange.tensor_row_bytes(kind);
        let mut rows = Vec::new();
        for (rank, part) in (0..).map(RankId).zip(parts) {
            let found = size_of_val(part.as_ref()) as u64;
            if !found.is_multiple_of(row) {
                return Err(Error::RowBytes { rank, what: kind.name().into(), found, row });
            }
            rows.push(found / row);
        }
        let tensor = Distributed::allocate(device, streams, exchange, kind, &rows)?;
        for (part, data) in tensor.parts.iter().zip(parts) {
            part.memory.write(bytemuck::cast_slice(data.as_ref()))?;
        }
        Ok(tensor)
    }

    /// Copies from every rank.
    pub(crate) fn download<T: bytemuck::Pod>(&self) -> Result<Vec<Vec<T>>> {
        let count = |part: &Part| (part.rows * self.row_bytes) as usize / size_of::<T>();
        self.parts.iter().map(|part| Ok(part.memory.read(0..count(part))?)).collect()
    }

    /// Copies some rows from every rank; the others are zeros.
    pub(crate) fn download_rows<T: bytemuck::Pod>(&self, rows: &[&[Range<u64>]]) -> Result<Vec<Vec<T>>> {
        let elements = |rows: u64| (rows * self.row_bytes) as usize / size_of::<T>();
        let of_rank = |(part, rows): (&Part, &&[Range<u64>])| {
            let mut all = vec![T::zeroed(); elements(part.rows)];
            for rows in *rows {
                let place = elements(rows.start)..elements(rows.end);
                all[place.clone()].copy_from_slice(&part.memory.read(place)?);
            }
            Ok(all)
        };
        self.parts.iter().zip(rows).map(of_rank).collect()
    }

    /// Refuses a tensor of another kind.
    pub(crate) fn expect(&self, kind: Tensor) -> Result<()> {
        let (found, expected) = (self.kind.name(), kind.name());
        if self.kind == kind { Ok(()) } else { Err(Error::WrongTensor { found, expected }) }
    }

    /// Refuses other numbers of rows.
    pub(crate) fn expect_rows(&self, rows: &[u64]) -> Result<()> {
        for ((rank, part), &expected) in (0..).map(RankId).zip(self.parts.iter()).zip(rows) {
            if part.rows != expected {
                return Err(Error::Rows { rank, what: self.kind.name().into(), found: part.rows, expected });
            }
        }
        Ok(())
    }

    /// Rows on every rank.
    pub(crate) fn all_rows(&self) -> Vec<u64> {
        self.parts.iter().map(|part| part.rows).collect()
    }
}
