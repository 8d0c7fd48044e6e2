//! The queue of events.
//!
//! Invariant: [`Queue::pop`] returns events in ascending (time, order of pushing), and nothing may be pushed before the
//! event popped last. Near events wait in a ring of buckets and only the current bucket is ordered, so the cost of an
//! event hardly grows with the size of the cluster.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Picoseconds since the start.
pub(super) type Picoseconds = u64;

/// What happens to a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub time: Picoseconds,
    sequence: u64,
    /// When the tail arrives, if `time` is when the head does.
    pub tail: Picoseconds,
    /// The chunk, or the GPU.
    pub subject: u32,
    pub step: super::engine::Step,
}

impl Ord for Event {
    /// Reversed: a binary heap gives its largest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.time, other.sequence).cmp(&(self.time, self.sequence))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Buckets of the ring, a power of two.
const BUCKETS: u64 = 1 << 12;

/// Events by time.
pub(super) struct Queue {
    width: Picoseconds,
    /// Number of the current bucket since the start, not taken modulo the ring.
    current: u64,
    now: BinaryHeap<Event>,
    ring: Vec<Vec<Event>>,
    in_ring: usize,
    /// Beyond the ring.
    far: BinaryHeap<Event>,
    sequence: u64,
}

impl Queue {
    /// A queue whose buckets are `width` wide.
    pub fn new(width: Picoseconds) -> Self {
        let ring = (0..BUCKETS).map(|_| Vec::new()).collect();
        let width = width.max(1);
        Self { width, current: 0, now: BinaryHeap::new(), ring, in_ring: 0, far: BinaryHeap::new(), sequence: 0 }
    }

    /// Adds an event.
    pub fn push(&mut self, time: Picoseconds, tail: Picoseconds, subject: u32, step: super::engine::Step) {
        let event = Event { time, sequence: self.sequence, tail, subject, step };
        self.sequence += 1;
        self.put(event);
    }

    fn put(&mut self, event: Event) {
        let bucket = event.time / self.width;
        if bucket <= self.current {
            self.now.push(event);
        } else if bucket < self.current + BUCKETS {
            self.ring[(bucket % BUCKETS) as usize].push(event);
            self.in_ring += 1;
        } else {
            self.far.push(event);
        }
    }

    /// Takes the next event.
    pub fn pop(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.now.pop() {
                return Some(event);
            }
            if self.in_ring == 0 {
                self.current = self.far.peek()?.time / self.width;
            } else {
                self.current += 1;
            }
            let mut bucket = std::mem::take(&mut self.ring[(self.current % BUCKETS) as usize]);
            self.in_ring -= bucket.len();
            self.now.extend(bucket.drain(..));
            self.ring[(self.current % BUCKETS) as usize] = bucket;
            while self.far.peek().is_some_and(|event| event.time / self.width < self.current + BUCKETS) {
                let event = self.far.pop().expect("peeked just now");
                self.put(event);
            }
        }
    }
}
