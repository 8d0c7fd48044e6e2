//! Which CTAs may wait on a GPU at the same time.
//!
//! Invariant: a CTA that waits keeps its place until another rank has sent. While all streams of a GPU but one wait, the last one still has
//! a place for a CTA that sends: one is enough, since those finish. Of one stream only one kernel runs at a time.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use moe_contract::{Kernel, RankId};
use serde::Serialize;

use super::StreamId;

/// CTAs that wait in a stream, at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// Of which world.
    pub world: u64,
    /// Of which rank.
    pub rank: RankId,
    /// In which stream.
    pub stream: StreamId,
    /// On which GPU.
    pub gpu: u32,
    /// In the kernel that waits with most.
    pub kernel: Kernel,
    /// How many.
    pub ctas: u32,
    /// CTAs of any kernel of that world that the GPU holds at once.
    pub resident: u64,
}

/// Communicators that together could keep each other off a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Crowd {
    /// Which GPU.
    pub gpu: u32,
    /// CTAs that it holds at once.
    pub resident: u64,
    /// Who would wait there.
    pub waiting: Vec<Waiting>,
}

/// What the communicators of a device have said about themselves.
#[derive(Debug, Default)]
pub struct Occupancy(Mutex<BTreeMap<u64, Vec<Waiting>>>);

impl Occupancy {
    /// Says where a communicator will wait from now on, in place of what it said before.
    ///
    /// # Errors
    /// Who is there already, where one GPU cannot hold all of them; what was said before still holds then.
    pub fn claim(&self, communicator: u64, waiting: Vec<Waiting>) -> Result<(), Crowd> {
        let mut known = self.known();
        for &Waiting { gpu, .. } in &waiting {
            let others = known.iter().filter(|(other, _)| **other != communicator).flat_map(|(_, waiting)| waiting);
            let here = others.chain(&waiting).filter(|waiting| waiting.gpu == gpu);
            crowd(gpu, here.copied().collect()).map_or(Ok(()), Err)?;
        }
        known.insert(communicator, waiting);
        Ok(())
    }

    /// A communicator launches nothing more.
    pub fn release(&self, communicator: u64) {
        self.known().remove(&communicator);
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<u64, Vec<Waiting>>> {
        // Entries change as a whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether those who wait on a GPU are too many for it.
fn crowd(gpu: u32, waiting: Vec<Waiting>) -> Option<Crowd> {
    let mut streams: BTreeMap<StreamId, u64> = BTreeMap::new();
    for Waiting { stream, ctas, .. } in &waiting {
        let most = streams.entry(*stream).or_default();
        *most = (*most).max(u64::from(*ctas));
    }
    let all_but_one = streams.values().sum::<u64>() - streams.values().min()?;
    let resident = waiting.iter().map(|waiting| waiting.resident).min()?;
    (streams.len() > 1 && all_but_one >= resident).then_some(Crowd { gpu, resident, waiting })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(world: u64, stream: u32, gpu: u32, ctas: u32) -> Waiting {
        let kernel = Kernel::CombineReduce;
        Waiting { world, rank: RankId(gpu), stream: StreamId(stream), gpu, kernel, ctas, resident: 100 }
    }

    #[test]
    fn all_streams_of_a_gpu_but_one_may_wait_if_that_one_has_a_place() {
        let occupancy = Occupancy::default();
        occupancy.claim(1, vec![waiting(1, 1, 0, 49), waiting(1, 2, 1, 90)]).expect("alone");
        occupancy.claim(2, vec![waiting(2, 3, 0, 50)]).expect("50 wait, or 49");
        let crowd = occupancy.claim(3, vec![waiting(3, 4, 0, 50)]).expect_err("50 and 50 of 100 wait for 49");
        assert_eq!((crowd.gpu, crowd.resident), (0, 100));
        assert_eq!(crowd.waiting.iter().map(|waiting| waiting.world).collect::<Vec<_>>(), [1, 2, 3]);
        occupancy.claim(3, vec![waiting(3, 3, 0, 50)]).expect("in the stream of another it comes in turn");
        occupancy.claim(3, vec![waiting(3, 4, 1, 99)]).expect("on the other GPU 99 wait for 90");
        occupancy.release(1);
        occupancy.claim(4, vec![waiting(4, 5, 0, 50), waiting(4, 6, 2, 1)]).expect("there is room again");
    }
}
