//! Which launches are over before others begin, as far as the host knows: bookkeeping without a GPU.
//!
//! Invariant: [`Order::precedes`] says yes only if every launch of the clock has finished, or is in the stream itself, or comes before an
//! event that the stream waits for.

use std::collections::BTreeMap;

use crate::device::{EventId, StreamId};

/// Of some streams, so many launches: the first ones of each.
pub(super) type Clock = BTreeMap<StreamId, u64>;

/// The launches of all streams.
#[derive(Debug, Default)]
pub(super) struct Order {
    launched: Clock,
    finished: Clock,
    /// Launches of other streams that what comes next in a stream waits for.
    known: BTreeMap<StreamId, Clock>,
    events: BTreeMap<EventId, Clock>,
}

fn join(clock: &mut Clock, other: &Clock) {
    for (&stream, &count) in other {
        let known = clock.entry(stream).or_default();
        *known = count.max(*known);
    }
}

impl Order {
    /// One more launch in a stream.
    pub fn launch(&mut self, stream: StreamId) {
        *self.launched.entry(stream).or_default() += 1;
    }

    /// An event behind everything that is in a stream now.
    pub fn record(&mut self, stream: StreamId, event: EventId) {
        let mut clock = self.of(stream);
        join(&mut clock, self.known.get(&stream).unwrap_or(&Clock::new()));
        self.events.insert(event, clock);
    }

    /// What comes next in a stream waits for an event.
    pub fn wait(&mut self, stream: StreamId, event: EventId) {
        if let Some(clock) = self.events.get(&event) {
            join(self.known.entry(stream).or_default(), clock);
        }
    }

    /// Everything that has been launched so far in a stream.
    pub fn of(&self, stream: StreamId) -> Clock {
        self.unfinished().filter(|&(other, _)| other == stream).collect()
    }

    /// Everything that has been launched so far.
    pub fn now(&self) -> Clock {
        self.unfinished().collect()
    }

    /// Streams with launches that may still run, and how many they have had.
    pub fn unfinished(&self) -> impl Iterator<Item = (StreamId, u64)> {
        self.launched
            .iter()
            .map(|(&stream, &count)| (stream, count))
            .filter(|&(stream, count)| !self.is_over(stream, count))
    }

    /// Those launches are over.
    pub fn finish(&mut self, clock: &Clock) {
        join(&mut self.finished, clock);
        for known in self.known.values_mut() {
            known.retain(|stream, count| self.finished.get(stream).is_none_or(|finished| finished < count));
        }
    }

    /// An event is not waited for any more.
    pub fn forget_event(&mut self, event: EventId) {
        self.events.remove(&event);
    }

    /// A stream whose launches are over takes no further ones.
    pub fn forget(&mut self, stream: StreamId) {
        self.launched.remove(&stream);
        self.finished.remove(&stream);
        self.known.remove(&stream);
    }

    /// Of a stream that is forgotten everything is.
    fn is_over(&self, stream: StreamId, count: u64) -> bool {
        !self.launched.contains_key(&stream) || self.finished.get(&stream).is_some_and(|&finished| finished >= count)
    }

    /// Whether launches are over.
    pub fn are_over(&self, clock: &Clock) -> bool {
        clock.iter().all(|(&stream, &count)| self.is_over(stream, count))
    }

    /// Whether launches are over before what comes next in a stream begins.
    pub fn precedes(&self, clock: &Clock, next: StreamId) -> bool {
        let known = self.known.get(&next);
        clock.iter().all(|(&stream, &count)| {
            let awaited = || known.and_then(|known| known.get(&stream)).is_some_and(|&known| known >= count);
            stream == next || self.is_over(stream, count) || awaited()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_orders_what_comes_after_the_wait() {
        let [a, b, c] = [0, 1, 2].map(StreamId);
        let mut order = Order::default();
        order.launch(a);
        let first = order.of(a);
        assert!(order.precedes(&first, a) && !order.precedes(&first, b));
        order.record(a, EventId(0));
        order.launch(a);
        let second = order.of(a);
        order.wait(b, EventId(0));
        assert!(order.precedes(&first, b) && !order.precedes(&second, b), "the event is before the second launch");
        order.record(b, EventId(1));
        order.wait(c, EventId(1));
        assert!(order.precedes(&first, c), "through the other stream");
        order.finish(&second);
        assert!(order.are_over(&first) && order.precedes(&second, c));
        assert_eq!(order.unfinished().count(), 0);
        order.forget(a);
        assert!(order.are_over(&second));
    }
}
