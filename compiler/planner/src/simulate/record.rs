//! What is left of a simulation.

use super::queue::Picoseconds;

/// Times of GPUs and links, in their order; index 0 of a pair is dispatch, 1 combine.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Events that were handled.
    pub events: u64,
    /// When each GPU had all copies for its experts.
    pub dispatched: Vec<Picoseconds>,
    /// When each GPU began to send back.
    pub combine_began: Vec<Picoseconds>,
    /// When each GPU had all its tokens back.
    pub combined: Vec<Picoseconds>,
    /// Time that each port of a GPU carried bytes.
    pub ports: [Vec<Picoseconds>; 2],
    /// Time that each bundle above a pod carried bytes; empty where no chunk changes pods.
    pub spine: [Vec<Picoseconds>; 2],
}

impl Record {
    /// Before anything has happened.
    pub fn new(gpus: usize) -> Self {
        let zeros = || vec![0; gpus];
        let none = || [Vec::new(), Vec::new()];
        Self { events: 0, dispatched: zeros(), combine_began: zeros(), combined: zeros(), ports: none(), spine: none() }
    }

    /// The parts of a cluster as one, in their order.
    pub fn joined(parts: impl IntoIterator<Item = Record>) -> Self {
        let mut all = Record::new(0);
        for part in parts {
            all.events += part.events;
            all.dispatched.extend(part.dispatched);
            all.combine_began.extend(part.combine_began);
            all.combined.extend(part.combined);
            for phase in 0..2 {
                all.ports[phase].extend_from_slice(&part.ports[phase]);
                all.spine[phase].extend_from_slice(&part.spine[phase]);
            }
        }
        all
    }

    /// Time that each link carried bytes in a phase, by its number.
    pub fn busy(&self, phase: usize, links: usize) -> Vec<Picoseconds> {
        let mut busy = [&self.ports[phase][..], &self.spine[phase]].concat();
        busy.resize(links, 0);
        busy
    }
}
