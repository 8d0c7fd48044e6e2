//! Calls that are captured once and replayed any number of times, each time with what is then in the same memory.
//!
//! Invariants: a capture has the launches of its calls on every rank of the communicator, and keeps everything that they use; all
//! communicators of a world replay what they captured together in the same order. Epochs are counted on the device, so that a replayed
//! call is a call like any other. What was captured before a recovery is refused after it.

use std::sync::Arc;

use super::launch::Passed;
use super::{Communicator, GateParameters};
use crate::buffers::HandleBuffers;
use crate::device::{Device, GraphId};
use crate::error::{Error, Result};
use crate::tensor::Distributed;
use crate::world::Owner;

/// Calls that can be replayed.
pub struct Capture {
    owner: Owner,
    graphs: Graphs,
    _kept: Kept,
}

/// One for each rank of the communicator.
struct Graphs {
    device: Arc<dyn Device>,
    ids: Vec<GraphId>,
}

impl Drop for Graphs {
    fn drop(&mut self) {
        self.ids.iter().for_each(|&graph| self.device.forget_graph(graph));
    }
}

/// What launches use.
#[derive(Default)]
pub(super) struct Kept {
    tensors: Vec<Distributed>,
    buffers: Vec<Arc<HandleBuffers>>,
    parameters: Vec<GateParameters>,
}

impl Kept {
    pub fn keep(&mut self, passed: &Passed<'_>) {
        self.tensors.extend(passed.tensors.iter().map(|&tensor| tensor.clone()));
        self.buffers.extend(passed.buffers.cloned());
        self.parameters.extend(passed.parameters.cloned());
    }
}

impl Communicator {
    /// Makes calls without launching them, and keeps them for [`Communicator::replay`]. What they return lies where each replay writes it.
    /// Calls that wait are refused meanwhile.
    ///
    /// # Errors
    /// What a call says, or when the device cannot capture.
    pub fn capture<T>(&mut self, calls: impl FnOnce(&mut Communicator) -> Result<T>) -> Result<(T, Capture)> {
        self.not_capturing("a capture in a capture")?;
        self.running()?;
        let device = Arc::clone(&self.world.device);
        let mut begun = Vec::new();
        let mut outcome = Ok(());
        for &stream in &self.streams {
            outcome = device.begin_capture(stream).map_err(Error::from);
            if outcome.is_err() {
                break;
            }
            begun.push(stream);
        }
        self.capturing = Some(Kept::default());
        let outcome = outcome.and_then(|()| calls(self));
        let kept = self.capturing.take().unwrap_or_default();
        // Whatever has begun ends, also after an error.
        let mut graphs = Graphs { device: Arc::clone(&device), ids: vec![] };
        let mut ended = Ok(());
        for stream in begun {
            match device.end_capture(stream) {
                Ok(graph) => graphs.ids.push(graph),
                Err(problem) => ended = Err(problem),
            }
        }
        let result = outcome?;
        ended?;
        let owner = self.world.owner(self.first());
        Ok((result, Capture { owner, graphs, _kept: kept }))
    }

    /// Launches captured calls again.
    ///
    /// # Errors
    /// When they are not of this communicator, or cannot be launched.
    pub fn replay(&mut self, capture: &Capture) -> Result<()> {
        self.not_capturing("replay")?;
        self.running()?;
        self.world.expect_owner("the capture", capture.owner, self.first())?;
        self.claim()?;
        for (rank, &graph) in self.ranks().zip(&capture.graphs.ids) {
            if let Err(problem) = self.world.device.replay(self.stream(rank), graph) {
                let error = Error::Replay { rank, problem };
                self.world.stop(&error);
                return Err(error);
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Capture {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Capture").field("owner", &self.owner).field("graphs", &self.graphs.ids).finish()
    }
}
