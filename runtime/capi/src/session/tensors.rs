//! What a call takes from the caller, and gives him.

use moe_bundle::ParameterKind;
use moe_contract::memory::WORD_BYTES;
use moe_contract::{Number, RankId, Tensor};
use moe_runtime::communicator::CallerParameter;
use moe_runtime::device::{Address, Memory};
use moe_runtime::tensor::Distributed;
use moe_runtime::{Error, GateParameters, Handle, Parameters, Routing};

use super::{GateParameter, InputView, RoutingView, Session};
use crate::failure::{Failure, Result};
use crate::view::{Part, View};

impl Session {
    /// The same tensor where the ranks have it, if all of it lies in memory of [`Session::host_memory`].
    fn in_place(&self, view: &View) -> Option<View> {
        let part = |(rank, part): (RankId, &Part)| {
            let address = self.address_of(rank, part.address, part.rows.checked_mul(view.row_bytes)?)?;
            Some(Part { address: address.0, rows: part.rows })
        };
        let parts = self.moe.ranks().zip(&view.parts).map(part).collect::<Option<Vec<Part>>>()?;
        Some(View { parts, ..view.clone() })
    }

    /// What bytes of this process are for a rank, if it has them.
    pub(super) fn address_of(&self, rank: RankId, host: u64, bytes: u64) -> Option<Address> {
        let node = self.ranks.node.as_ref()?;
        if bytes == 0 {
            return Some(Address::NULL);
        }
        node.address_of(rank, host, bytes).filter(|address| address.0.is_multiple_of(WORD_BYTES))
    }

    /// A tensor that a call reads.
    pub(super) unsafe fn input(&mut self, kind: Tensor, view: &View) -> Result<Distributed> {
        // SAFETY: as the caller promises.
        unsafe {
            match self.on_host() {
                true => {
                    let number = self.check(kind, view)?;
                    if let Some(there) = self.in_place(view) {
                        return Ok(self.moe.borrow(kind, &there.borrowed(number))?);
                    }
                    self.copied += view.total();
                    let tensor = self.moe.upload::<u8>(kind, &view.bytes())?;
                    if let Some(step) = self.step() {
                        step.taken.push((tensor.clone(), view.clone()));
                    }
                    Ok(tensor)
                }
                false => self.borrow(kind, view),
            }
        }
    }

    /// A tensor that a call writes.
    pub(super) unsafe fn output(&mut self, kind: Tensor, view: &View) -> Result<Distributed> {
        if self.on_host() {
            let number = self.check(kind, view)?;
            return match self.in_place(view) {
                // SAFETY: as the caller promises; the memory is there as long as what is in it.
                Some(there) => Ok(unsafe { self.moe.borrow(kind, &there.borrowed(number)) }?),
                None => Ok(self.moe.allocate(kind, &view.rows())?),
            };
        }
        // SAFETY: as the caller promises.
        unsafe { self.borrow(kind, view) }
    }

    unsafe fn borrow(&mut self, kind: Tensor, view: &View) -> Result<Distributed> {
        let number = self.check(kind, view)?;
        // SAFETY: as the caller promises.
        Ok(unsafe { self.moe.borrow(kind, &view.borrowed(number)) }?)
    }

    fn check(&self, kind: Tensor, view: &View) -> Result<Number> {
        let ranks: Vec<RankId> = self.moe.ranks().collect();
        view.check(kind, self.exchange(), &ranks)
    }

    /// Gives a call's results to the caller: on virtual GPUs, after they have run.
    pub(super) unsafe fn finish(&mut self, results: &[(&Distributed, &View)]) -> Result<()> {
        if !self.on_host() {
            return Ok(());
        }
        let copied = results.iter().filter(|(_, view)| self.in_place(view).is_none());
        let copied: Vec<(&Distributed, &View)> = copied.copied().collect();
        if let Some(step) = self.recorded.as_mut().and_then(|steps| steps.last_mut()) {
            step.given.extend(copied.into_iter().map(|(result, view)| (result.clone(), view.clone())));
            return Ok(());
        }
        if copied.len() < results.len() {
            self.moe.synchronise()?;
        }
        for (result, view) in copied {
            self.copied += view.total();
            let bytes: Vec<Vec<u8>> = self.moe.download(result)?;
            // SAFETY: as the caller promises.
            unsafe { view.fill(&bytes) };
        }
        Ok(())
    }

    pub(super) unsafe fn routing(&mut self, routing: RoutingView<'_>) -> Result<Routing> {
        // SAFETY: as the caller promises.
        unsafe {
            let indices = self.input(Tensor::Indices, routing.indices)?;
            let weights = self.input(Tensor::Weights, routing.weights)?;
            Ok(Routing { indices, weights })
        }
    }

    pub(super) unsafe fn expert_input(&mut self, input: InputView<'_>) -> Result<(Distributed, Option<Distributed>)> {
        // SAFETY: as the caller promises.
        unsafe {
            let rows = self.output(Tensor::ExpertInput, input.rows)?;
            let scales = input.scales.map(|scales| self.output(Tensor::ExpertInputScales, scales)).transpose()?;
            Ok((rows, scales))
        }
    }

    pub(super) unsafe fn finish_input(
        &mut self,
        handle: &Handle,
        mut rows: Distributed,
        mut scales: Option<Distributed>,
        input: InputView<'_>,
    ) -> Result<()> {
        handle.fills(std::iter::once(&mut rows).chain(&mut scales));
        // SAFETY: as the caller promises.
        unsafe {
            self.finish(&[(&rows, input.rows)])?;
            scales.iter().zip(input.scales).try_for_each(|pair| self.finish(&[pair]))
        }
    }

    pub(super) unsafe fn parameters(&mut self, given: &[GateParameter]) -> Result<GateParameters> {
        for GateParameter { name, view } in given {
            let null = view.parts.iter().any(|part| part.address == 0 && part.rows > 0);
            if null || view.row_bytes != 4 || view.rows().iter().any(|&rows| rows > isize::MAX as u64 / 4) {
                let problem = "pass contiguous float32 or int32 numbers".to_owned();
                return Err(Failure::Argument { argument: format!("parameter `{name}` of the gate"), problem });
            }
        }
        if !self.on_host() {
            let of_caller = |GateParameter { name, view }: &GateParameter| {
                let parts = view.borrowed(view.number);
                CallerParameter { name: name.clone(), parts }
            };
            let parameters: Vec<CallerParameter> = given.iter().map(of_caller).collect();
            // SAFETY: as the caller promises.
            return Ok(unsafe { self.moe.borrow_parameters(&parameters) }?);
        }
        let kinds = self.moe.manifest().gate.parameters.clone();
        let mut parameters = Parameters::none();
        for GateParameter { name, view } in given {
            let kind = kinds.iter().find(|parameter| parameter.name == *name).map(|parameter| parameter.kind);
            // SAFETY: as the caller promises.
            let of_ranks = unsafe { view.bytes() };
            self.copied += view.total();
            let first = of_ranks.first().copied().unwrap_or_default();
            parameters = match (view.number, kind) {
                (Number::I32, Some(ParameterKind::TokenId)) => {
                    let ids: Vec<Vec<i32>> = of_ranks.iter().map(|bytes| numbers(bytes, i32::from_ne_bytes)).collect();
                    parameters.token_ids(name, &ids)
                }
                // The runtime gives every rank the same numbers.
                _ if of_ranks.iter().any(|bytes| *bytes != first) => {
                    return Err(Failure::argument(
                        format!("parameter `{name}` of the gate"),
                        "it must be the same on every rank",
                    ));
                }
                (Number::I32, _) => parameters.table(name, &numbers(first, i32::from_ne_bytes)),
                (Number::Element(_) | Number::Scale(_), _) => parameters.f32(name, &numbers(first, f32::from_ne_bytes)),
            };
        }
        Ok(self.moe.upload_parameters(&parameters)?)
    }
}

/// Gives a caller what is in the memory of a virtual GPU.
///
/// # Safety
/// There is room for it.
pub(super) unsafe fn copy_out(memory: &Memory, address: u64) -> Result<()> {
    let bytes: Vec<u8> = memory.read(0..memory.bytes() as usize).map_err(Error::from)?;
    // SAFETY: as the caller promises; `bytes` is a fresh `Vec`.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
    Ok(())
}

fn numbers<T>(bytes: &[u8], number: impl Fn([u8; 4]) -> T) -> Vec<T> {
    bytes.chunks_exact(4).map(|bytes| number([bytes[0], bytes[1], bytes[2], bytes[3]])).collect()
}
