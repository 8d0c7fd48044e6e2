//! Times of launches, from events before and after each.
//!
//! Invariant: times of one GPU are from one beginning, so that launches of its ranks can be compared; those of different GPUs cannot.

use std::time::Duration;

use cudarc::driver::result;
use cudarc::driver::sys;

use super::failed;
use crate::device::{DeviceError, FunctionId, LaunchTime};

/// Measures the launches of one GPU.
#[derive(Default)]
pub(super) struct Stopwatch {
    beginning: Option<sys::CUevent>,
    running: Vec<(FunctionId, sys::CUevent, sys::CUevent)>,
}

impl Stopwatch {
    /// Calls `launch` between two events. The context of the stream must be current.
    pub fn around(
        &mut self,
        function: FunctionId,
        stream: sys::CUstream,
        launch: impl FnOnce() -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        if self.beginning.is_none() {
            self.beginning = Some(mark(stream)?);
        }
        let start = mark(stream)?;
        match launch().and_then(|()| mark(stream)) {
            Ok(end) => self.running.push((function, start, end)),
            Err(error) => {
                destroy(start);
                return Err(error);
            }
        }
        Ok(())
    }

    /// The times of all launches since the last call, which have finished. The context of the GPU must be current.
    pub fn read(&mut self, gpu: u32) -> Result<Vec<LaunchTime>, DeviceError> {
        let Some(beginning) = self.beginning else { return Ok(vec![]) };
        let running = std::mem::take(&mut self.running);
        let times = running.into_iter().map(|(function, start, end)| {
            let time = LaunchTime { function, gpu, start: since(beginning, start)?, end: since(beginning, end)? };
            destroy(start);
            destroy(end);
            Ok(time)
        });
        times.collect()
    }

    /// Forgets everything. The context must be current.
    pub fn clear(&mut self) {
        for (_, start, end) in std::mem::take(&mut self.running) {
            destroy(start);
            destroy(end);
        }
        self.beginning.take().into_iter().for_each(destroy);
    }
}

fn mark(stream: sys::CUstream) -> Result<sys::CUevent, DeviceError> {
    let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(failed("make an event"))?;
    // SAFETY: both were made by the driver and live.
    unsafe { result::event::record(event, stream) }.map_err(failed("record an event"))?;
    Ok(event)
}

fn since(beginning: sys::CUevent, event: sys::CUevent) -> Result<Duration, DeviceError> {
    // SAFETY: both were recorded by `mark` and have happened.
    let milliseconds = unsafe { result::event::elapsed(beginning, event) }.map_err(failed("read a time"))?;
    Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3))
}

fn destroy(event: sys::CUevent) {
    // An error while tearing down has nobody to tell.
    // SAFETY: made by `mark`, destroyed once.
    let _ = unsafe { result::event::destroy(event) };
}
