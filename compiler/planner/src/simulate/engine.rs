//! The simulation itself: chunks pass links, one event per link and chunk.
//!
//! Invariant: a link serves one chunk at a time, in the order in which heads arrive; a chunk leaves it no earlier than its
//! own tail has arrived; a sender never has more than [`Options::window`](super::Options::window) chunks of a kind on the way.

use super::chunks::Chunks;
use super::links::Links;
use super::queue::{Event, Picoseconds, Queue};
use super::record::Record;
use super::{Fault, LinkKind, Scenario};

/// What an event does to its subject. A subject is a chunk, or for [`Step::Dispatch`] and [`Step::Combine`] a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// A GPU begins to send.
    Dispatch,
    /// A chunk reaches a link on the way to the experts.
    Out(Hop),
    /// A GPU begins to send back.
    Combine,
    /// A chunk reaches a link on the way back.
    Back(Hop),
}

/// A place on the way of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hop {
    NicOut,
    SpineUp,
    SpineDown,
    NicIn,
    NvlinkOut,
    NvlinkIn,
    Arrived,
}

/// The way of a chunk, seen from its sender in dispatch.
#[derive(Clone, Copy)]
struct Route {
    source: u32,
    /// The GPU of the destination's node with the sender's local index.
    forward: u32,
    target: u32,
}

impl Route {
    fn crosses_nodes(self) -> bool {
        self.forward != self.source
    }
}

/// Chunks that a GPU still has to send in one phase, of one kind.
#[derive(Clone, Copy)]
struct Sender {
    next: u32,
    end: u32,
    on_the_way: u32,
}

/// What a link does, in one place of memory.
#[derive(Clone, Copy)]
struct Server {
    /// When it has sent everything that reached it so far.
    free: Picoseconds,
    /// Time of a chunk: dispatch, combine.
    service: [Picoseconds; 2],
    /// Chunks that it served: dispatch, combine.
    served: [u32; 2],
}

struct Engine<'a> {
    scenario: &'a Scenario,
    chunks: &'a Chunks,
    links: &'a Links,
    queue: Queue,
    servers: Vec<Server>,
    nvlink_latency: Picoseconds,
    nic_latency: Picoseconds,
    spine_latency: Picoseconds,
    /// Dispatch, combine; for each GPU its chunks to other nodes, and those inside the node. None before it begins.
    senders: [Vec<Option<[Sender; 2]>>; 2],
    /// Chunks by receiving GPU, those from other nodes first, each in the order of arrival; and where each list ends so far.
    received: Vec<u32>,
    received_end: Vec<[u32; 2]>,
    expected: Vec<u32>,
    expert_time: Vec<Picoseconds>,
    /// Of the expected chunks of each GPU.
    arrived: Vec<u32>,
    record: Record,
}

/// Chunks that arrive between two calls of a watcher.
const WATCHED: u64 = 1 << 16;

/// Runs a checked scenario. `watch` is told how many more chunks have arrived, now and then.
pub(super) fn run(scenario: &Scenario, chunks: &Chunks, links: &Links, watch: &dyn Fn(u64)) -> Record {
    let gpus = scenario.gpus();
    let mut engine = Engine::new(scenario, chunks, links);
    let mut unwatched = 0;
    for gpu in 0..gpus {
        let late = |fault: &Fault| match *fault {
            Fault::Late { gpu: who, by } if who.0 == gpu => Some(picoseconds(by.0 * 1e-6)),
            _ => None,
        };
        let start = scenario.faults.iter().filter_map(late).max().unwrap_or(0);
        engine.push(start, start, gpu, Step::Dispatch);
    }
    while let Some(event) = engine.queue.pop() {
        engine.record.events += 1;
        if matches!(event.step, Step::Out(Hop::Arrived) | Step::Back(Hop::Arrived)) {
            unwatched += 1;
            if unwatched == WATCHED {
                watch(std::mem::take(&mut unwatched));
            }
        }
        match event.step {
            Step::Dispatch => engine.begin_dispatch(event.subject, event.time),
            Step::Combine => engine.begin_combine(event.subject, event.time),
            Step::Out(hop) => engine.pass(0, hop, event.subject, event.time, event.tail),
            Step::Back(hop) => engine.pass(1, hop, event.subject, event.time, event.tail),
        }
    }
    watch(unwatched);
    engine.finish()
}

fn picoseconds(seconds: f64) -> Picoseconds {
    (seconds * 1e12).round() as Picoseconds
}

impl<'a> Engine<'a> {
    fn new(scenario: &'a Scenario, chunks: &'a Chunks, links: &'a Links) -> Self {
        let (network, demand) = (&scenario.network, &scenario.demand);
        let gpus = scenario.gpus() as usize;
        let server = |number: u32| {
            let fan_out = match links.link(number).kind() {
                LinkKind::NvlinkOut | LinkKind::NvlinkIn => demand.ranks_per_copy,
                _ => 1.0,
            };
            let service = [demand.dispatch_bytes, demand.combine_bytes]
                .map(|bytes| picoseconds(chunks.tokens * bytes.0 as f64 * fan_out / links.rate(number)));
            Server { free: 0, service, served: [0; 2] }
        };
        let servers: Vec<Server> = (0..links.count() as u32).map(server).collect();
        let latency = |time: moe_front::units::Microseconds| picoseconds(time.0 * 1e-6);

        let mut by_kind = vec![[0_u32; 2]; gpus];
        for chunk in 0..chunks.target.len() as u32 {
            let route = route(scenario, chunks, chunk);
            by_kind[route.target as usize][usize::from(!route.crosses_nodes())] += 1;
        }
        let expected: Vec<u32> = by_kind.iter().map(|kinds| kinds[0] + kinds[1]).collect();
        let mut first = 0;
        let received_end = by_kind
            .iter()
            .map(|kinds| {
                let starts = [first, first + kinds[0]];
                first += kinds[0] + kinds[1];
                starts
            })
            .collect();
        let mean = chunks.target.len() as f64 / gpus as f64;
        let usual = demand.expert_time.map_or(0.0, |time| time.0);
        let expert_time = (0..gpus).map(|gpu| {
            let factor = |fault: &Fault| match *fault {
                Fault::SlowExperts { gpu: who, factor } if who.0 as usize == gpu => Some(factor),
                _ => None,
            };
            let factor: f64 = scenario.faults.iter().filter_map(factor).product();
            picoseconds(usual * 1e-6 * factor * f64::from(expected[gpu]) / mean)
        });
        // Each GPU has a few chunks on the way, and each of those an event in about the time that it takes on a link.
        let shortest = servers.iter().map(|server| server.service[0]).min().unwrap_or(1);
        Self {
            scenario,
            chunks,
            links,
            queue: Queue::new(shortest / gpus as u64),
            servers,
            nvlink_latency: latency(network.nvlink_latency),
            nic_latency: latency(network.nic_latency),
            spine_latency: network.spine.as_ref().map_or(0, |spine| latency(spine.latency)),
            senders: [vec![None; gpus], vec![None; gpus]],
            received: vec![0; chunks.target.len()],
            received_end,
            expert_time: expert_time.collect(),
            arrived: vec![0; gpus],
            record: Record::new(gpus),
            expected,
        }
    }

    fn finish(mut self) -> Record {
        let ports = self.links.ports();
        for (number, server) in self.servers.iter().enumerate() {
            for phase in 0..2 {
                let busy = if number < ports { &mut self.record.ports } else { &mut self.record.spine };
                busy[phase].push(u64::from(server.served[phase]) * server.service[phase]);
            }
        }
        self.record
    }

    fn push(&mut self, time: Picoseconds, tail: Picoseconds, subject: u32, step: Step) {
        self.queue.push(Event { time, tail, subject, step });
    }

    fn begin_dispatch(&mut self, gpu: u32, now: Picoseconds) {
        let (first, remote) = (gpu * self.chunks.per_gpu, self.chunks.remote[gpu as usize]);
        let end = first + self.chunks.per_gpu;
        self.senders[0][gpu as usize] = Some([
            Sender { next: first, end: first + remote, on_the_way: 0 },
            Sender { next: first + remote, end, on_the_way: 0 },
        ]);
        self.record.dispatched[gpu as usize] = self.record.dispatched[gpu as usize].max(now);
        self.fill_window(0, gpu, 0, now);
        self.fill_window(0, gpu, 1, now);
        self.combine_when_complete(gpu, now);
    }

    fn begin_combine(&mut self, gpu: u32, now: Picoseconds) {
        let [remote_end, local_end] = self.received_end[gpu as usize];
        let first = local_end - self.expected[gpu as usize];
        self.senders[1][gpu as usize] = Some([
            Sender { next: first, end: remote_end, on_the_way: 0 },
            Sender { next: remote_end, end: local_end, on_the_way: 0 },
        ]);
        self.record.combine_began[gpu as usize] = now;
        self.fill_window(1, gpu, 0, now);
        self.fill_window(1, gpu, 1, now);
    }

    /// Sends chunks of a kind (0 to or from other nodes, 1 inside the node) as long as the window has room.
    fn fill_window(&mut self, phase: usize, gpu: u32, kind: usize, now: Picoseconds) {
        loop {
            let Some(senders) = &mut self.senders[phase][gpu as usize] else { return };
            let sender = &mut senders[kind];
            if sender.next == sender.end || sender.on_the_way == self.scenario.options.window {
                return;
            }
            let place = sender.next;
            sender.next += 1;
            sender.on_the_way += 1;
            let chunk = if phase == 0 { place } else { self.received[place as usize] };
            let hop = first_hop(phase, self.route(chunk));
            self.push(now, now, chunk, step(phase, hop));
        }
    }

    /// A chunk's head reaches a link at `now`, its tail at `tail`.
    fn pass(&mut self, phase: usize, hop: Hop, chunk: u32, now: Picoseconds, tail: Picoseconds) {
        let route = self.route(chunk);
        if hop == Hop::Arrived {
            return self.arrive(phase, route, chunk, now);
        }
        let server = &mut self.servers[link(self.links, phase, hop, route) as usize];
        let service = server.service[phase];
        let start = now.max(server.free);
        server.free = start + service;
        server.served[phase] += 1;
        let end = (start + service).max(tail);
        let (next, latency) = self.next(phase, hop, route);
        // A wire passes the head on at once; a GPU that forwards, or keeps, waits for the tail.
        let stored = matches!(hop, Hop::NicIn | Hop::NvlinkIn);
        let head = if stored { end } else { start + latency };
        self.push(head, end + latency, chunk, step(phase, next));
    }

    fn arrive(&mut self, phase: usize, route: Route, chunk: u32, now: Picoseconds) {
        let kind = usize::from(!route.crosses_nodes());
        let (sender, receiver) = if phase == 0 { (route.source, route.target) } else { (route.target, route.source) };
        if let Some(senders) = &mut self.senders[phase][sender as usize] {
            senders[kind].on_the_way -= 1;
        }
        self.fill_window(phase, sender, kind, now);
        if phase == 0 {
            let end = &mut self.received_end[receiver as usize][kind];
            self.received[*end as usize] = chunk;
            *end += 1;
            let dispatched = &mut self.record.dispatched[receiver as usize];
            *dispatched = now.max(*dispatched);
            self.arrived[receiver as usize] += 1;
            self.combine_when_complete(receiver, now);
            self.combine_when_complete(sender, now);
        } else {
            let combined = &mut self.record.combined[receiver as usize];
            *combined = now.max(*combined);
        }
    }

    /// Starts the experts of a GPU once it has begun itself, has all copies, and has sent all of its own.
    fn combine_when_complete(&mut self, gpu: u32, now: Picoseconds) {
        let index = gpu as usize;
        let sent = |senders: [Sender; 2]| senders.iter().all(|sender| sender.next == sender.end);
        let sent = self.senders[0][index].is_some_and(sent);
        if self.arrived[index] == self.expected[index] && sent && self.record.combine_began[index] == 0 {
            let start = (now + self.expert_time[index]).max(1);
            self.record.combine_began[index] = start;
            self.push(start, start, gpu, Step::Combine);
        }
    }

    fn route(&self, chunk: u32) -> Route {
        route(self.scenario, self.chunks, chunk)
    }

    /// Where a chunk goes next, and how long that takes.
    fn next(&self, phase: usize, hop: Hop, route: Route) -> (Hop, Picoseconds) {
        let changes_pods =
            self.scenario.network.spine.is_some() && { self.links.pod(route.source) != self.links.pod(route.forward) };
        match hop {
            Hop::NicOut if changes_pods => (Hop::SpineUp, 0),
            Hop::SpineUp => (Hop::SpineDown, self.spine_latency),
            Hop::NicOut | Hop::SpineDown => (Hop::NicIn, self.nic_latency),
            Hop::NicIn if phase == 0 && route.forward != route.target => (Hop::NvlinkOut, 0),
            Hop::NvlinkOut => (Hop::NvlinkIn, self.nvlink_latency),
            Hop::NvlinkIn if phase == 1 && route.crosses_nodes() => (Hop::NicOut, 0),
            Hop::NicIn | Hop::NvlinkIn | Hop::Arrived => (Hop::Arrived, 0),
        }
    }
}

fn route(scenario: &Scenario, chunks: &Chunks, chunk: u32) -> Route {
    let per_node = scenario.network.gpus_per_node;
    let (source, target) = (chunks.source(chunk), chunks.target[chunk as usize]);
    Route { source, forward: target - target % per_node + source % per_node, target }
}

/// The link of a hop.
fn link(links: &Links, phase: usize, hop: Hop, Route { source, forward, target }: Route) -> u32 {
    // On the way back every wire is taken in the other direction.
    let (near, far) = if phase == 0 { (source, forward) } else { (forward, source) };
    let (from, to) = if phase == 0 { (forward, target) } else { (target, forward) };
    match hop {
        Hop::NicOut => links.port(LinkKind::NicOut, near),
        Hop::SpineUp => links.spine(LinkKind::SpineUp, near),
        Hop::SpineDown => links.spine(LinkKind::SpineDown, far),
        Hop::NicIn => links.port(LinkKind::NicIn, far),
        Hop::NvlinkOut => links.port(LinkKind::NvlinkOut, from),
        Hop::NvlinkIn | Hop::Arrived => links.port(LinkKind::NvlinkIn, to),
    }
}

/// A chunk for the sender itself passes no link.
fn first_hop(phase: usize, route: Route) -> Hop {
    match (route.crosses_nodes(), route.forward != route.target) {
        (false, false) => Hop::Arrived,
        (true, false) => Hop::NicOut,
        (true, true) if phase == 0 => Hop::NicOut,
        (_, true) => Hop::NvlinkOut,
    }
}

fn step(phase: usize, hop: Hop) -> Step {
    if phase == 0 { Step::Out(hop) } else { Step::Back(hop) }
}
