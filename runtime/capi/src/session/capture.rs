//! Calls that are kept in place of being made, and made later.

use std::sync::Arc;

use moe_runtime::device::Memory;
use moe_runtime::tensor::Distributed;
use moe_runtime::{Capture, Communicator, Error};

use super::Session;
use super::tensors::copy_out;
use crate::failure::{Failure, Result};
use crate::view::View;

/// Calls that were captured, with what they take of the caller and give him.
#[derive(Debug)]
pub struct Recording(Vec<Step>);

/// A call of a capture.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) taken: Vec<(Distributed, View)>,
    /// Arrays of a handle of the caller.
    pub(super) handle: Vec<(Arc<Memory>, u64)>,
    pub(super) fills_handle: bool,
    /// None until it has been launched.
    pub(super) capture: Option<Capture>,
    pub(super) given: Vec<(Distributed, View)>,
}

impl Session {
    /// From now on keeps calls for [`Session::replay`] in place of making them. Where tensors lie in the memory of this process, a replay takes
    /// what is there then; parameters of the gate stay as they are now.
    ///
    /// # Errors
    /// When there is a capture.
    pub fn begin_capture(&mut self) -> Result<()> {
        if self.recorded.is_some() {
            return Err(Failure::argument("communicator", "it is capturing: end that capture first"));
        }
        self.recorded = Some(vec![]);
        Ok(())
    }

    /// The calls since [`Session::begin_capture`].
    ///
    /// # Errors
    /// When there is no capture.
    pub fn end_capture(&mut self) -> Result<Recording> {
        self.forget_refused();
        let recorded = self.recorded.take();
        Ok(Recording(recorded.ok_or_else(|| Failure::argument("communicator", "it is not capturing"))?))
    }

    /// A call was refused: nothing of it is kept.
    pub fn forget_refused(&mut self) {
        if let Some(steps) = &mut self.recorded {
            steps.retain(|step| step.capture.is_some());
        }
    }

    /// Makes captured calls, with what is now in their tensors.
    ///
    /// # Errors
    /// When they are not of this communicator, or what a kernel refuses.
    ///
    /// # Safety
    /// See [`Session`], of every tensor of the captured calls, whose memory is still there.
    pub unsafe fn replay(&mut self, recording: &Recording) -> Result<()> {
        if self.recorded.is_some() {
            return Err(Failure::argument("communicator", "it is capturing, and a capture has no replay in it"));
        }
        for Step { taken, handle, fills_handle, capture, given } in &recording.0 {
            for (tensor, view) in taken {
                // SAFETY: as the caller promises, here and below.
                self.moe.upload_into::<u8>(tensor, &unsafe { view.bytes() })?;
            }
            for (memory, address) in handle {
                // SAFETY: as above.
                let there = unsafe { std::slice::from_raw_parts(*address as *const u8, memory.bytes() as usize) };
                memory.write(there).map_err(Error::from)?;
            }
            if let Some(capture) = capture {
                self.moe.replay(capture)?;
            }
            for (tensor, view) in given {
                // SAFETY: as above.
                unsafe { self.finish(&[(tensor, view)]) }?;
            }
            if self.on_host() && given.is_empty() {
                self.moe.synchronise()?;
            }
            if *fills_handle {
                for (memory, address) in handle {
                    // SAFETY: as above.
                    unsafe { copy_out(memory, *address) }?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn launch<T>(&mut self, call: impl FnOnce(&mut Communicator) -> moe_runtime::Result<T>) -> Result<T> {
        if self.recorded.is_none() {
            return Ok(call(&mut self.moe)?);
        }
        let (result, capture) = self.moe.capture(call)?;
        if let Some(step) = self.step() {
            step.capture = Some(capture);
        }
        Ok(result)
    }

    /// Of a capture, the call that has not been launched.
    pub(super) fn step(&mut self) -> Option<&mut Step> {
        let steps = self.recorded.as_mut()?;
        if steps.last().is_none_or(|step| step.capture.is_some()) {
            steps.push(Step::default());
        }
        steps.last_mut()
    }
}
