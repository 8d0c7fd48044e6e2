//! Tensors: the communicator's own, and those of the caller; to and from the host.

use std::ops::Range;
use std::sync::Arc;

use moe_contract::{Buffer, RankId, Tensor};

use super::check::whole_rows;
use super::handle::Received;
use super::{Communicator, Handle, Routing};
use crate::buffers::HandleBuffers;
use crate::device::Memory;
use crate::element::{self, HostNumber};
use crate::error::{Error, Result};
use crate::tensor::{CallerPart, Distributed, Part, Shape};

impl Communicator {
    /// Copies a tensor to the device: for each rank its elements, row by row. Waits for the device.
    ///
    /// # Errors
    /// When there is not one part per rank, the type is not the tensor's, or a part is not whole rows.
    pub fn upload<T: HostNumber>(&mut self, kind: Tensor, parts: &[impl AsRef<[T]>]) -> Result<Distributed> {
        let rows = self.rows_of(kind, parts)?;
        self.synchronise()?;
        let tensor = self.allocate(kind, &rows)?;
        write(&tensor, parts)?;
        Ok(tensor)
    }

    /// Replaces what is in a tensor, for example before calls on it are replayed. Waits for the device.
    ///
    /// # Errors
    /// As [`Communicator::upload`], or when the tensor has other rows.
    pub fn upload_into<T: HostNumber>(&mut self, tensor: &Distributed, parts: &[impl AsRef<[T]>]) -> Result<()> {
        let kind = tensor.kind();
        self.expect(tensor, kind)?;
        tensor.expect_rows(&self.rows_of(kind, parts)?)?;
        self.synchronise()?;
        write(tensor, parts)
    }

    /// Copies a tensor from the device, after everything that was launched before. Rows for which there was room and that did not arrive
    /// are zero.
    ///
    /// # Errors
    /// When the tensor is not of this communicator or of another type, or a kernel failed.
    pub fn download<T: HostNumber>(&mut self, tensor: &Distributed) -> Result<Vec<Vec<T>>> {
        self.expect(tensor, tensor.kind())?;
        element::expect::<T>(tensor.kind(), tensor.number())?;
        self.synchronise()?;
        let written: Vec<Vec<Range<u64>>> = match &tensor.arrivals {
            None => tensor.all_rows().into_iter().map(|rows| std::iter::once(0..rows).collect()).collect(),
            Some(buffers) => self.received_now(buffers)?.into_iter().map(|received| received.written).collect(),
        };
        let elements = |rows: u64| (rows * tensor.shape.row_bytes) as usize / size_of::<T>();
        let read = |(part, written): (&Part, Vec<Range<u64>>)| {
            let mut values = vec![T::zeroed(); elements(part.rows)];
            for rows in written {
                let place = elements(rows.start)..elements(rows.end);
                part.memory.read_into(place.start, &mut values[place])?;
            }
            Ok(values)
        };
        tensor.parts.iter().zip(written).map(read).collect()
    }

    /// A tensor that the caller has, one part for each rank. Nothing is copied, and nothing is freed.
    ///
    /// # Errors
    /// When there is not one part per rank, or a part has another type or is not aligned.
    ///
    /// # Safety
    /// Each address is that of so many rows in the memory of its rank, and they are there until every call that was given the tensor
    /// has finished, and every capture of one has been dropped.
    pub unsafe fn borrow(&self, kind: Tensor, parts: &[CallerPart]) -> Result<Distributed> {
        self.expect_parts(kind.name(), parts.len())?;
        let number = self.number(kind)?;
        let row_bytes = self.exchange().tensor_row_bytes(kind);
        let mut borrowed = Vec::new();
        for (rank, part) in self.ranks().zip(parts) {
            if part.number != number {
                return Err(Error::Type { what: kind.name(), found: part.number.name(), expected: number.name() });
            }
            if !part.address.0.is_multiple_of(moe_contract::memory::WORD_BYTES) {
                return Err(Error::Alignment { rank, what: kind.name(), address: part.address.0 });
            }
            let memory = Memory::of_another(&self.world.device, rank, part.address, part.rows * row_bytes);
            borrowed.push(Part { memory, rows: part.rows });
        }
        self.tensor(kind, borrowed)
    }

    /// A routing that does not come from the gate: for each rank `[tokens, top_k]`, ascending, −1 for none. Waits for the device.
    ///
    /// # Errors
    /// When shapes do not fit. Impossible picks are found by dispatch.
    pub fn upload_routing(&mut self, indices: &[impl AsRef<[i32]>], weights: &[impl AsRef<[f32]>]) -> Result<Routing> {
        let indices = self.upload(Tensor::Indices, indices)?;
        let weights = self.upload(Tensor::Weights, weights)?;
        weights.expect_rows(&self.expect_tokens(&indices, Tensor::Indices)?)?;
        Ok(Routing { indices, weights })
    }

    /// What every rank received in a dispatch. Waits for the device.
    ///
    /// # Errors
    /// When the handle is not of this communicator, or a kernel failed.
    pub fn received(&mut self, handle: &Handle) -> Result<Vec<Received>> {
        self.expect_handle(handle)?;
        self.synchronise()?;
        self.received_now(&handle.0.buffers)
    }

    pub(super) fn received_now(&self, buffers: &HandleBuffers) -> Result<Vec<Received>> {
        let exchange = self.exchange();
        let (ranks, local) = (exchange.ranks as usize, exchange.local_experts_max() as usize);
        let of_rank = |rank| {
            let copies = buffers.read(rank, Buffer::ReceivedCounts, 0..ranks)?;
            let counts = buffers.read(rank, Buffer::ExpertCounts, 0..local)?;
            Ok(Received::new(exchange, copies, counts))
        };
        self.ranks().map(of_rank).collect()
    }

    /// Elements of an array of a handle on a rank, for whoever wants to check them. Waits for the device.
    ///
    /// # Errors
    /// When the handle is not of this communicator, a kernel failed, or they were never written.
    ///
    /// # Panics
    /// When the array is shorter.
    pub fn inspect<T: bytemuck::Pod>(
        &mut self,
        handle: &Handle,
        rank: RankId,
        buffer: Buffer,
        elements: Range<usize>,
    ) -> Result<Vec<T>> {
        self.expect_handle(handle)?;
        self.synchronise()?;
        handle.0.buffers.read(rank, buffer, elements)
    }

    /// Memory for some rows on each rank, not initialised, which the launches of the rank's stream use first.
    ///
    /// # Errors
    /// When there is not one number per rank, this bundle has no such tensor, or there is not enough memory.
    pub fn allocate(&self, kind: Tensor, rows: &[u64]) -> Result<Distributed> {
        self.expect_parts(kind.name(), rows.len())?;
        let row_bytes = self.exchange().tensor_row_bytes(kind);
        let parts = self
            .ranks()
            .zip(rows)
            .map(|(rank, &rows)| Ok(Part { memory: self.memory(rank, rows * row_bytes, kind.name())?, rows }));
        let parts = parts.collect::<Result<_>>()?;
        self.tensor(kind, parts)
    }

    fn tensor(&self, kind: Tensor, parts: Vec<Part>) -> Result<Distributed> {
        let shape = Shape {
            device: Arc::clone(&self.world.device),
            kind,
            number: self.number(kind)?,
            row_bytes: self.exchange().tensor_row_bytes(kind),
            first: self.first(),
        };
        Ok(Distributed { shape, parts: parts.into(), arrivals: None })
    }

    /// Memory of a rank, from whoever gives it.
    pub(super) fn memory(&self, rank: RankId, bytes: u64, name: &str) -> Result<Memory> {
        let (device, stream) = (&self.world.device, self.stream(rank));
        let memory = match &self.allocator {
            Some(allocator) => Memory::from_allocator(device, allocator, stream, rank, bytes, name),
            None => Memory::of_rank(device, stream, rank, bytes, name),
        };
        Ok(memory?)
    }

    /// Rows of what is to be uploaded, which must be whole, of the right type, and for each rank.
    fn rows_of<T: HostNumber>(&self, kind: Tensor, parts: &[impl AsRef<[T]>]) -> Result<Vec<u64>> {
        element::expect::<T>(kind, self.number(kind)?)?;
        self.expect_parts(kind.name(), parts.len())?;
        let sizes = parts.iter().map(|part| size_of_val(part.as_ref()) as u64);
        self.ranks().zip(sizes).map(|(rank, bytes)| whole_rows(rank, kind, bytes, self.exchange())).collect()
    }

    pub(super) fn expect_parts(&self, what: &str, found: usize) -> Result<()> {
        let ranks = self.ranks.len() as u32;
        if found == ranks as usize { Ok(()) } else { Err(Error::Parts { what: what.into(), found, ranks }) }
    }
}

fn write<T: HostNumber>(tensor: &Distributed, parts: &[impl AsRef<[T]>]) -> Result<()> {
    for (part, data) in tensor.parts.iter().zip(parts) {
        part.memory.write(bytemuck::cast_slice(data.as_ref()))?;
    }
    Ok(())
}
