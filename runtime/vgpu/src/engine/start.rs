//! From a launch to running warps: variables, register templates, places on SMs.
//!
//! Invariant: the sum of what the CTAs on an SM need never exceeds what an SM has.

use super::barrier::Barriers;
use super::copies::LaneCopies;
use super::file::RegisterFile;
use super::flight::Flights;
use super::probe::Probe;
use super::stored::Stored;
use super::warp::{Split, SplitState, Warp};
use super::{Cta, LaunchState, Machine, Request, Sm};
use crate::config::Policy;
use crate::decode::op::{Constant, KernelCode, MOST_NUMBERED, Program, SHARED_BASE, Special, TRUE, VARIABLE_SHIFT};
use crate::error::ClusterError;
use crate::ids::{LaunchId, RankId, StreamId, ThreadId};
use crate::memory::address::OWNER_MASK;
use crate::memory::segment::Segment;
use crate::memory::{Address, Memory};
use crate::names::demangled;
use crate::observer::{Began, Event};
use crate::ptx::ast::VariableSpace;
use crate::rules::{Found, Rule, Rules, Severity, Verdict};
use std::sync::Arc;

/// An SM of compute capability 9.0 and 10.0. Shared memory includes the kilobyte that the system takes per CTA.
pub(super) const EMPTY_SM: Sm = Sm { threads: 2048, shared: 228 * 1024, ctas: 32 };

/// How many CTAs with so many threads and so much shared memory (counted from address 0) an SM holds.
pub(crate) fn ctas_per_sm(threads: u32, shared: u32) -> u32 {
    let by_threads = EMPTY_SM.threads / threads.clamp(1, EMPTY_SM.threads).next_multiple_of(32);
    let by_shared = EMPTY_SM.shared / shared.max(1);
    by_threads.min(by_shared).min(EMPTY_SM.ctas)
}

impl Sm {
    fn take(&mut self, threads: u32, shared: u32) {
        self.threads -= threads;
        self.shared -= shared;
        self.ctas -= 1;
    }

    fn give_back(&mut self, threads: u32, shared: u32) {
        self.threads += threads;
        self.shared += shared;
        self.ctas += 1;
    }
}

/// The emptiest SM with room, as hardware spreads CTAs; among equals the first.
fn emptiest(sms: &[Sm], threads: u32, shared: u32) -> Option<usize> {
    let mut best: Option<usize> = None;
    for (index, sm) in sms.iter().enumerate() {
        let fits = sm.threads >= threads && sm.shared >= shared && sm.ctas > 0;
        if fits && best.is_none_or(|best| sm.threads > sms[best].threads) {
            best = Some(index);
            if sm.threads == EMPTY_SM.threads {
                break;
            }
        }
    }
    best
}

impl KernelCode {
    /// Where dynamic shared memory starts.
    pub(crate) fn dynamic_shared_offset(&self) -> u32 {
        self.shared_static.next_multiple_of(self.dynamic_align.max(1))
    }
}

/// Allocates and fills the variables of a module. Shared variables have no address here.
pub(super) fn place_variables(
    memory: &mut Memory,
    rank: RankId,
    program: &Program,
) -> Result<Vec<Address>, ClusterError> {
    let mut addresses = Vec::with_capacity(program.variables.len());
    for variable in &program.variables {
        if !matches!(variable.space, VariableSpace::Global | VariableSpace::Const) {
            addresses.push(Address(0));
            continue;
        }
        let made = memory.allocate(rank, variable.bytes, &demangled(&variable.name), false);
        addresses.push(made.map_err(|reason| ClusterError::Allocation { name: variable.name.clone(), reason })?);
    }
    for (variable, address) in program.variables.iter().zip(&addresses) {
        if address.0 == 0 {
            continue;
        }
        let fail = |fault| ClusterError::Memory { doing: "initialise", address: *address, fault };
        let bytes = memory.write_device(None, address.0, variable.bytes).map_err(fail)?;
        bytes[..variable.initial.len()].copy_from_slice(&variable.initial);
        for relocation in &variable.relocations {
            let value = addresses[relocation.target as usize].0.wrapping_add_signed(relocation.offset);
            let at = relocation.at as usize;
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        if variable.space == VariableSpace::Const {
            memory.make_read_only(*address);
        }
    }
    Ok(addresses)
}

/// Where the variables of a CTA's shared memory begin and end, by the number that addresses have; number 0 has all of it.
fn variables(code: &KernelCode, shared: u32, rules: &Rules) -> Arc<[(u32, u32)]> {
    let all = (SHARED_BASE, shared);
    let looked_for = |name: &str| {
        let found = Found { sites: &[(&code.name, 0)], symbol: Some(name) };
        rules.verdict(Rule::LeavesVariable, &found) == Verdict::Is(Severity::Error)
    };
    let bounds = |name: &str, start: u32, end: u32| if looked_for(name) { (start, end) } else { all };
    let named = code.shared_symbols.iter().take(MOST_NUMBERED);
    let named = named.map(|(name, start, bytes)| bounds(name, *start, start + bytes));
    let dynamic = bounds("dynamic shared memory", code.dynamic_shared_offset(), shared);
    std::iter::once(all).chain(named).chain([dynamic]).collect()
}

impl Machine {
    /// Begins a launch, which runs in its stream from now on.
    pub(super) fn begin(&mut self, stream: StreamId, rank: RankId, request: Request) {
        let Request {
            id,
            kernel,
            grid,
            block,
            shared: dynamic_shared,
            parameters,
            dependent,
            cluster,
            explicit_cluster,
            workspace,
        } = request;
        // The variables were placed when the launch was queued, and stay as long as the kernel is there.
        let globals = self.load_module(rank, &kernel.module).map(<[Address]>::to_vec).unwrap_or_default();
        let code = kernel.code();
        let dynamic = code.dynamic_shared_offset();
        let shared = dynamic + dynamic_shared;
        let mut template = RegisterFile::of_launch(code.initial_bytes);
        for &(reg, constant) in &code.constants {
            let value: u128 = match constant {
                Constant::Bits(bits) => bits,
                Constant::Global(variable, offset) => {
                    u128::from(globals[variable as usize].0.wrapping_add_signed(offset))
                }
                Constant::DynamicShared(offset) => {
                    let start = code.dynamic_number() << VARIABLE_SHIFT | dynamic;
                    u128::from(u64::from(start).wrapping_add_signed(offset))
                }
                Constant::Special(special) => match special {
                    Special::Ntid(axis) => block[axis as usize].into(),
                    Special::Nctaid(axis) => grid[axis as usize].into(),
                    Special::ClusterCount(axis) => (grid[axis as usize] / cluster[axis as usize]).into(),
                    Special::ClusterExtent(axis) => cluster[axis as usize].into(),
                    Special::ClusterSize => cluster.iter().product::<u32>().into(),
                    Special::ExplicitCluster => explicit_cluster.into(),
                    Special::WarpCount => 64,
                    Special::SmCount => self.config.sms.into(),
                    Special::GridId => id.0.into(),
                    Special::DynamicShared => dynamic_shared.into(),
                    Special::TotalShared => (shared - SHARED_BASE).into(),
                    Special::WorkspaceHigh => (workspace.map_or(0, |address| address.0) >> 32).into(),
                    Special::WorkspaceLow => u128::from(workspace.map_or(0, |address| address.0) as u32),
                    Special::LaneId => {
                        template.fill(reg, u128::from);
                        continue;
                    }
                    Special::LaneMaskEq => {
                        template.fill(reg, |lane| 1 << lane);
                        continue;
                    }
                    Special::LaneMaskLt => {
                        template.fill(reg, |lane| (1 << lane) - 1);
                        continue;
                    }
                    Special::LaneMaskLe => {
                        template.fill(reg, |lane| (2 << lane) - 1);
                        continue;
                    }
                    Special::LaneMaskGt => {
                        template.fill(reg, |lane| 0xffff_ffff & !((2 << lane) - 1));
                        continue;
                    }
                    Special::LaneMaskGe => {
                        template.fill(reg, |lane| 0xffff_ffff & !((1 << lane) - 1));
                        continue;
                    }
                    Special::Tid(_)
                    | Special::Ctaid(_)
                    | Special::ClusterId(_)
                    | Special::CtaInCluster(_)
                    | Special::CtaRank
                    | Special::WarpId
                    | Special::SmId => continue,
                },
                Constant::SharedWindow | Constant::LocalWindow => continue,
            };
            template.fill(reg, |_| value);
        }
        self.observers.tell(|| {
            let began = Began {
                launch: id,
                rank,
                stream,
                kernel: code.name.clone(),
                sources: code.source_of_lines(),
                grid,
                cluster,
                threads: block.iter().product(),
                shared: code.shared_symbols.clone(),
                dynamic_shared: dynamic,
                dependent,
            };
            Event::LaunchBegins(Box::new(began))
        });
        let variables = variables(code, shared, &self.config.rules);
        let slot = self.free_launches.pop().unwrap_or(self.launches.len() as u32);
        if slot as usize == self.launches.len() {
            self.launches.push(None);
        }
        let prerequisite = self.enter_stream(stream, slot);
        self.launches[slot as usize] = Some(LaunchState {
            id,
            kernel,
            rank: rank.0,
            stream,
            grid,
            block,
            cluster,
            shared,
            parameters,
            template,
            workspace,
            variables,
            ctas: grid.iter().product(),
            started: 0,
            finished: 0,
            prerequisite,
            triggered: 0,
            holds_dependents: None,
            transfers: 0,
        });
        self.gpus[rank.0 as usize].queue.push_back(slot);
        self.start_ctas(rank.0);
    }

    /// Starts CTAs of a rank, in order, as long as there is room: those of a cluster together.
    pub(super) fn start_ctas(&mut self, rank: u32) {
        let mut position = 0;
        while let Some(&launch) = self.gpus[rank as usize].queue.get(position) {
            let Some(state) = &self.launches[launch as usize] else {
                position += 1;
                continue;
            };
            let (threads, shared) = (state.threads().next_multiple_of(32), state.shared);
            let size = state.cluster_size();
            let mut remaining = state.ctas - state.started;
            while remaining > 0 {
                let sms = &mut self.gpus[rank as usize].sms;
                let mut places = Vec::with_capacity(size as usize);
                for _ in 0..size {
                    let Some(index) = emptiest(sms, threads, shared) else { break };
                    sms[index].take(threads, shared);
                    places.push(index as u32);
                }
                if places.len() < size as usize {
                    places.iter().for_each(|sm| sms[*sm as usize].give_back(threads, shared));
                    break;
                }
                self.start_cluster(launch, &places);
                remaining -= size;
            }
            if remaining == 0 {
                self.gpus[rank as usize].queue.remove(position);
            } else {
                // A later launch may still fit beside it.
                position += 1;
            }
        }
    }

    /// Starts the next cluster of a launch, a CTA on each of these SMs.
    fn start_cluster(&mut self, launch: u32, sms: &[u32]) {
        let Some(state) = &self.launches[launch as usize] else { return };
        let number = state.started / state.cluster_size();
        let indices: Vec<u32> = (0..).zip(sms).map(|(rank, _)| state.index_in_cluster(number, rank)).collect();
        let slot = self.new_cluster(sms.len(), state.threads().div_ceil(32));
        for ((rank, &sm), index) in (0..).zip(sms).zip(indices) {
            self.start_cta(launch, index, sm, (slot, rank));
        }
    }

    fn start_cta(&mut self, launch: u32, index: u32, sm: u32, (cluster, cluster_rank): (u32, u32)) {
        let Some(state) = &mut self.launches[launch as usize] else { return };
        state.started += 1;
        let state = &*state;
        let serial = self.cta_serial;
        self.cta_serial += 1;
        let threads = state.threads();
        let count = threads.div_ceil(32);
        let cta_slot = self.free_ctas.pop().unwrap_or(self.ctas.len() as u32);
        let hold = match self.config.policy {
            Policy::Adversarial if self.random.below(8) == 0 => self.turns + self.random.below(20_000),
            _ => 0,
        };
        let mut warps = Vec::with_capacity(count as usize);
        for number in 0..count {
            let slot = self.free_warps.pop().unwrap_or(self.warps.len() as u32);
            let mut warp = make_warp(self.spare.pop(), state, number, index, sm, serial);
            warp.slot = slot;
            warp.launch = launch;
            warp.launch_id = state.id;
            warp.cta = cta_slot;
            warp.held_until = hold;
            if self.config.check_initialised && !state.kernel.code().unwritten.is_empty() {
                warp.nothing_written(state.kernel.code());
            }
            warp.queued = true;
            if slot as usize == self.warps.len() {
                self.warps.push(None);
            }
            self.warps[slot as usize] = Some(warp);
            self.ready.push_back(slot);
            warps.push(slot);
        }
        let cta = Box::new(Cta {
            launch,
            rank: state.rank,
            sm,
            index,
            cluster,
            cluster_rank,
            shared: Segment::new(state.shared as usize),
            stored: Stored::default(),
            variables: Arc::clone(&state.variables),
            barriers: Barriers::new(count),
            groups: Vec::new(),
            warps,
            running: count,
            copies_pending: 0,
            triggered: false,
            flights: Flights::default(),
        });
        if cta_slot as usize == self.ctas.len() {
            self.ctas.push(None);
        }
        self.ctas[cta_slot as usize] = Some(cta);
        if let Some(cluster) = &mut self.clusters[cluster as usize] {
            cluster.ctas[cluster_rank as usize] = Some(cta_slot);
        }
        let thread = ThreadId { rank: RankId(state.rank), launch: state.id, cta: index, warp: 0, lane: 0 };
        self.observers.tell(|| Event::CtaStart { thread });
    }

    /// A warp has no lanes left.
    pub(super) fn finish_warp(&mut self, mut warp: Box<Warp>) {
        let cta_slot = warp.cta;
        self.warps[warp.slot as usize] = None;
        self.free_warps.push(warp.slot);
        warp.copies = None;
        if let Some(armed) = warp.probe.armed.take() {
            self.forget_watches(armed.ticket, &armed.reads);
        }
        self.take_file(&mut warp);
        self.spare.push(warp);
        let Some(cta) = &mut self.ctas[cta_slot as usize] else { return };
        cta.running -= 1;
        if cta.running > 0 {
            return;
        }
        let (launch, rank, sm) = (cta.launch, cta.rank, cta.sm);
        let (cluster, cluster_rank, index) = (cta.cluster, cta.cluster_rank, cta.index);
        let triggered = cta.triggered;
        // Who waits for a write to its shared memory reads again, which is an error now.
        self.memory.woken.extend(cta.shared.waiters.drain(..).map(|waiter| waiter.ticket));
        self.ctas[cta_slot as usize] = None;
        self.leave_cluster(cluster, cluster_rank);
        self.free_ctas.push(cta_slot);
        self.finished_ctas += 1;
        let Some(state) = &mut self.launches[launch as usize] else { return };
        let thread = ThreadId { rank: RankId(rank), launch: state.id, cta: index, warp: 0, lane: 0 };
        self.observers.tell(|| Event::CtaEnd { thread });
        self.gpus[rank as usize].sms[sm as usize].give_back(state.threads().next_multiple_of(32), state.shared);
        state.finished += 1;
        if !triggered {
            self.count_trigger(launch);
        }
        self.finish_launch(launch);
        self.start_ctas(rank);
    }

    /// Ends a launch if nothing of it is left: neither a CTA nor an asynchronous copy, as what comes next in the stream sees what
    /// they wrote.
    pub(super) fn finish_launch(&mut self, slot: u32) {
        let done = |state: &LaunchState| state.finished == state.ctas && state.transfers == 0;
        let Some(state) = self.launches[slot as usize].take_if(|state| done(state)) else { return };
        self.free_launches.push(slot);
        if let Some(workspace) = state.workspace {
            // A kernel cannot free it.
            let _ = self.memory.free(workspace);
            self.observers.tell(|| Event::Freed { address: workspace });
        }
        self.finished_launches += 1;
        self.observers.tell(|| Event::LaunchComplete { rank: RankId(state.rank), launch: state.id });
        self.leave_stream(state.stream, slot, state.id);
        self.pump();
    }
}

/// A warp at its first instruction, in the memory of a finished one if there is one.
fn make_warp(
    spare: Option<Box<Warp>>,
    state: &LaunchState,
    number: u32,
    index: u32,
    sm: u32,
    serial: u64,
) -> Box<Warp> {
    let code = state.kernel.code();
    let threads = state.threads();
    let lanes = (threads - number * 32).min(32);
    let existing = if lanes == 32 { u32::MAX } else { (1 << lanes) - 1 };
    let mut warp = spare.unwrap_or_else(|| {
        Box::new(Warp {
            slot: 0,
            kernel: state.kernel.clone(),
            rank: 0,
            launch: 0,
            launch_id: LaunchId(0),
            cta: 0,
            cta_index: 0,
            number: 0,
            existing: 0,
            live: 0,
            splits: Vec::with_capacity(4),
            turns: 0,
            queued: false,
            held_until: 0,
            sm: 0,
            file: RegisterFile::default(),
            predicates: Vec::new(),
            undefined: None,
            stacks: None,
            local: Segment::default(),
            stored: Stored::default(),
            local_bytes: 0,
            parameters: Arc::clone(&state.parameters),
            effects: 0,
            arrivals: 0,
            group: 0,
            narrower: 0,
            probe: Box::<Probe>::default(),
            copies: None::<Box<[LaneCopies; 32]>>,
            late: Vec::new(),
            yields: false,
            serial: 0,
        })
    });
    warp.kernel = state.kernel.clone();
    warp.rank = state.rank;
    warp.cta_index = index;
    warp.number = number;
    warp.existing = existing;
    warp.live = existing;
    warp.splits.clear();
    warp.splits.push(Split { pc: 0, mask: existing, state: SplitState::Ready });
    warp.turns = 0;
    warp.sm = sm;
    warp.predicates.clear();
    warp.predicates.resize(code.predicates as usize, 0);
    warp.predicates[TRUE as usize] = u32::MAX;
    warp.undefined = None;
    warp.stacks = None;
    warp.late.clear();
    warp.yields = false;
    warp.local = Segment::new(code.local_bytes as usize * 32);
    warp.stored.clear();
    warp.local_bytes = code.local_bytes;
    warp.parameters = Arc::clone(&state.parameters);
    (warp.effects, warp.arrivals, warp.group, warp.narrower) = (0, 0, 0, 0);
    warp.probe.clear();
    warp.serial = serial << 6 | u64::from(number);
    warp
}

/// Owners in generic addresses: numbers that do not come again for 2^18 CTAs.
fn shared_owner(serial: u64) -> u64 {
    serial & u64::from(OWNER_MASK)
}

fn local_owner(serial: u64, thread: u32) -> u64 {
    (serial << 10 | u64::from(thread)) & u64::from(OWNER_MASK)
}

impl Warp {
    pub(super) fn shared_owner(&self) -> u32 {
        shared_owner(self.serial >> 6) as u32
    }

    pub(super) fn local_owner(&self, lane: u32) -> u32 {
        local_owner(self.serial >> 6, self.number * 32 + lane) as u32
    }
}
