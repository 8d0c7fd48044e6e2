//! Freed memory of a GPU, kept for the next allocation: asking the driver costs more than most kernels take.
//!
//! Invariants:
//! * what was freed serves again only for launches that begin after every launch that may use it is over: at once in the stream whose
//!   launches alone used it, and in streams that wait for that one; elsewhere when those launches are known to have finished;
//! * sizes are rounded up by at most an eighth, so that tensors whose rows vary from call to call find what their last call left.

use std::collections::BTreeMap;

use super::order::{Clock, Order};
use crate::device::StreamId;

/// Memory of one GPU.
#[derive(Default)]
pub(super) struct Pool {
    /// Sizes by address.
    used: BTreeMap<u64, u64>,
    /// By size: what was freed, and the launches that may still use it.
    free: BTreeMap<u64, Vec<(Clock, u64)>>,
}

/// The driver aligns and sizes in such steps anyway.
const LEAST: u64 = 512;

/// So many bytes or up to an eighth more.
fn rounded(bytes: u64) -> u64 {
    let step = (bytes.next_power_of_two() / 16).max(LEAST);
    bytes.next_multiple_of(step)
}

impl Pool {
    /// Memory that was freed, if it can serve launches of a stream, those that follow; or of all streams if none is named.
    pub fn reuse(&mut self, bytes: u64, stream: Option<StreamId>, order: &Order) -> Option<u64> {
        let size = rounded(bytes);
        let blocks = self.free.get_mut(&size)?;
        let serves = |(clock, _): &(Clock, u64)| match stream {
            Some(stream) => order.precedes(clock, stream),
            None => order.are_over(clock),
        };
        let found = blocks.iter().rposition(serves)?;
        let (_, address) = blocks.swap_remove(found);
        self.used.insert(address, size);
        Some(address)
    }

    /// What `ask` gives for a size. If that fails, everything that no launch uses goes back and it is asked again.
    pub fn grow<E>(
        &mut self,
        bytes: u64,
        order: &Order,
        mut ask: impl FnMut(u64) -> Result<u64, E>,
        give_back: impl FnMut(u64),
    ) -> Result<u64, E> {
        let size = rounded(bytes);
        let address = match ask(size) {
            Ok(address) => address,
            Err(_) => {
                self.release(order, give_back);
                ask(size)?
            }
        };
        self.used.insert(address, size);
        Ok(address)
    }

    /// Keeps memory for later, which those launches may still use. Unknown addresses are ignored.
    pub fn free(&mut self, address: u64, after: Clock) {
        if let Some(size) = self.used.remove(&address) {
            self.free.entry(size).or_default().push((after, address));
        }
    }

    /// Gives back what is free and no launch uses.
    pub fn release(&mut self, order: &Order, mut give_back: impl FnMut(u64)) {
        for blocks in self.free.values_mut() {
            for (_, address) in blocks.extract_if(.., |(clock, _)| order.are_over(clock)) {
                give_back(address);
            }
        }
        self.free.retain(|_, blocks| !blocks.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::EventId;

    const A: StreamId = StreamId(0);
    const B: StreamId = StreamId(1);

    /// Addresses 1, 2, … as they are asked for.
    #[derive(Default)]
    struct World {
        pool: Pool,
        order: Order,
        asked: u64,
        bytes: u64,
    }

    impl World {
        fn allocate(&mut self, bytes: u64, stream: Option<StreamId>) -> u64 {
            if let Some(address) = self.pool.reuse(bytes, stream, &self.order) {
                return address;
            }
            let ask = |size| {
                self.asked += 1;
                self.bytes += size;
                Ok::<u64, ()>(self.asked)
            };
            self.pool.grow(bytes, &self.order, ask, |_| panic!("nothing is given back")).expect("there is more")
        }

        fn free_in(&mut self, stream: StreamId, address: u64) {
            let clock = self.order.of(stream);
            self.pool.free(address, clock);
        }
    }

    #[test]
    fn memory_of_a_stream_serves_it_again_at_once() {
        let mut world = World::default();
        assert_eq!(world.allocate(10_000, Some(A)), 1);
        world.order.launch(A);
        world.free_in(A, 1);
        assert_eq!(world.allocate(10_000, Some(B)), 2, "the launch may still use the first");
        assert_eq!(world.allocate(10_000, None), 3, "as above");
        assert_eq!(world.allocate(10_001, Some(A)), 1, "nearly the same size, after the launch");
        world.order.launch(A);
        world.free_in(A, 1);
        world.order.record(A, EventId(0));
        world.order.wait(B, EventId(0));
        assert_eq!(world.allocate(10_000, Some(B)), 1, "the other stream waits for the launch");
    }

    #[test]
    fn memory_that_any_stream_may_use_rests_until_everything_has_finished() {
        let mut world = World::default();
        assert_eq!(world.allocate(10_000, None), 1);
        world.order.launch(A);
        world.order.launch(B);
        let now = world.order.now();
        world.pool.free(1, now.clone());
        world.order.finish(&world.order.of(A));
        assert_eq!(world.allocate(10_000, Some(A)), 2, "a launch of the other stream may still use the first");
        world.order.finish(&now);
        assert_eq!(world.allocate(10_000, None), 1);
        assert_eq!(world.allocate(20_000, None), 3);
    }

    /// Dispatches that nobody waits for: each has its memory until the next one has been launched.
    #[test]
    fn fifty_eight_dispatches_ask_for_the_memory_of_two() {
        const WORST_CASE: u64 = 92 << 20;
        let mut world = World::default();
        let mut last = None;
        for _ in 0..58 {
            let memory = world.allocate(WORST_CASE, Some(A));
            world.order.launch(A);
            if let Some(last) = last.replace(memory) {
                world.free_in(A, last);
            }
        }
        assert!(world.bytes <= 2 * (WORST_CASE + WORST_CASE / 8), "{}", world.bytes);
    }

    #[test]
    fn without_memory_left_what_is_free_goes_back_first() {
        let mut world = World::default();
        let (kept, running) = (world.allocate(1 << 20, Some(A)), world.allocate(1 << 20, Some(A)));
        world.free_in(A, kept);
        world.order.launch(A);
        world.free_in(A, running);
        let (mut asked, mut returned) = (0, vec![]);
        let full = |_| {
            asked += 1;
            if asked == 1 { Err("full") } else { Ok(8) }
        };
        let World { pool, order, .. } = &mut world;
        assert_eq!(pool.grow(2 << 20, order, full, |address| returned.push(address)), Ok(8));
        assert_eq!(returned, [kept], "a launch uses the other one");
        assert_eq!(pool.grow(2 << 20, order, |_| Err::<u64, _>("full"), |_| ()), Err("full"));
    }

    #[test]
    fn sizes_grow_by_an_eighth_at_most() {
        for bytes in [1, 511, 513, 4096, 100_000, 7 << 20, (7 << 20) + 1, u64::from(u32::MAX)] {
            let size = rounded(bytes);
            assert!(size >= bytes && (size - bytes <= bytes / 8 || size - bytes < LEAST), "{bytes} to {size}");
        }
    }

    /// A launch of the model: what it uses, and the launches that are over before it begins.
    struct Launch {
        stream: StreamId,
        uses: Vec<u64>,
        after: Vec<usize>,
        over: bool,
    }

    /// Whether one launch is over before another one begins: by the steps of the model, one after the other.
    fn before(launches: &[Launch], first: usize, second: usize) -> bool {
        let mut found: Vec<usize> = launches[second].after.clone();
        let mut at = 0;
        while let Some(&launch) = found.get(at) {
            let new: Vec<usize> =
                launches[launch].after.iter().copied().filter(|other| !found.contains(other)).collect();
            found.extend(new);
            at += 1;
        }
        found.contains(&first)
    }

    /// Streams that launch, record, wait, free and ask in any order: no two launches that could run together have the same memory for
    /// different tensors.
    #[test]
    fn no_launch_meets_memory_that_another_one_still_uses() {
        for seed in 0..300_u64 {
            let mut number = seed;
            let mut draw = |below: u64| {
                number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (number >> 33) % below
            };
            let mut world = World::default();
            let mut launches: Vec<Launch> = Vec::new();
            // What the next launch of each stream comes after, and what an event is behind.
            let mut ends: [Vec<usize>; 3] = Default::default();
            let mut events: Vec<Vec<usize>> = Vec::new();
            // Live tensors: address, stream, and earlier launches that had the address.
            let mut live: Vec<(u64, StreamId, Vec<usize>)> = Vec::new();
            let mut users: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
            let mut reused = 0;
            for _ in 0..120 {
                let stream = StreamId(draw(3) as u32);
                let end = &mut ends[stream.0 as usize];
                match draw(6) {
                    0 | 1 => {
                        let asked = world.asked;
                        let address = world.allocate(1000 * (1 + draw(2)), Some(stream));
                        reused += u32::from(world.asked == asked);
                        live.push((address, stream, users.get(&address).cloned().unwrap_or_default()));
                    }
                    2 => {
                        let mine: Vec<_> = live.iter().filter(|tensor| tensor.1 == stream && draw(2) == 0).collect();
                        let this = launches.len();
                        launches.push(Launch {
                            stream,
                            uses: mine.iter().map(|tensor| tensor.0).collect(),
                            after: end.clone(),
                            over: false,
                        });
                        *end = vec![this];
                        world.order.launch(stream);
                        for (address, _, earlier) in mine {
                            for &earlier in earlier {
                                let ordered = launches[earlier].over || before(&launches, earlier, this);
                                assert!(ordered, "seed {seed}: {address} in launches {earlier} and {this}");
                            }
                        }
                        for address in &launches[this].uses {
                            users.entry(*address).or_default().push(this);
                        }
                    }
                    3 => {
                        if let Some(at) = live.iter().position(|tensor| tensor.1 == stream) {
                            let (address, ..) = live.swap_remove(at);
                            world.free_in(stream, address);
                        }
                    }
                    4 => {
                        if draw(2) == 0 || events.is_empty() {
                            world.order.record(stream, EventId(events.len() as u64));
                            events.push(end.clone());
                        } else {
                            let event = draw(events.len() as u64);
                            world.order.wait(stream, EventId(event));
                            end.extend(&events[event as usize]);
                        }
                    }
                    _ => {
                        // A stream has come to its end, and with it all that it waited for.
                        let mut over = end.clone();
                        while let Some(launch) = over.pop() {
                            launches[launch].over = true;
                            over.extend(&launches[launch].after);
                        }
                        let mut clock = Clock::new();
                        for (at, launch) in launches.iter().enumerate().filter(|(_, launch)| launch.over) {
                            let count = launches[..=at].iter().filter(|other| other.stream == launch.stream).count();
                            clock.insert(launch.stream, count as u64);
                        }
                        world.order.finish(&clock);
                    }
                }
            }
            assert!(reused > 0 || world.asked < 12, "seed {seed}: memory serves again");
        }
    }
}
