//! The host's side of a virtual cluster: memory, modules, streams, runs.
//!
//! Invariants: launches only run inside [`Cluster::run`]; a call that returns an error has changed nothing; after a
//! failed run every call of `run` gives the same error until [`Cluster::abandon`].

use crate::config::Config;
use crate::decode::op::{MOST_IN_CLUSTER, SHARED_BASE};
use crate::engine::print::Printed;
use crate::engine::report::{Finding, Report, RunError};
use crate::engine::{Command, Machine, Request};
use crate::error::ClusterError;
use crate::ids::{EventId, LaunchId, RankId, StreamId};
use crate::launch::Launch;
use crate::memory::address::MAX_RANKS;
use crate::memory::{Address, Lent, MemoryFault, Traffic};
use crate::module::{Kernel, Module};
use crate::observer::{AccessKind, Event, Observer};
use crate::ptx::ast::ClusterLimits;

const MAX_SMS: u32 = 1024;
/// What a kernel may ask for in all, static and dynamic, on the GPUs that this cluster imitates.
const MAX_SHARED: u32 = 227 * 1024;
const MAX_THREADS: u64 = 1024;
const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];
const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];

/// A cluster of virtual GPUs that can reach each other's memory.
pub struct Cluster {
    machine: Machine,
}

impl Cluster {
    /// Makes a cluster.
    ///
    /// # Errors
    /// When a number of the configuration is out of range.
    pub fn new(config: Config) -> Result<Cluster, ClusterError> {
        for (what, most, found) in [("ranks", MAX_RANKS, config.ranks), ("SMs per rank", MAX_SMS, config.sms)] {
            if !(1..=most).contains(&found) {
                return Err(ClusterError::Shape { what, least: 1, most, found });
            }
        }
        Ok(Cluster { machine: Machine::new(config) })
    }

    /// As it was made.
    pub fn config(&self) -> &Config {
        &self.machine.config
    }

    fn check(&self, rank: RankId) -> Result<(), ClusterError> {
        let ranks = self.machine.config.ranks;
        if rank.0 < ranks { Ok(()) } else { Err(ClusterError::NoRank { rank, ranks }) }
    }

    /// Allocates memory of a rank, aligned to 64 KiB; not initialised. Kernels of every rank can access it. The name
    /// occurs in reports.
    ///
    /// # Errors
    /// When the rank does not exist or the cluster cannot name so much memory.
    pub fn allocate(&mut self, rank: RankId, bytes: u64, name: &str) -> Result<Address, ClusterError> {
        self.check(rank)?;
        let made = self.machine.memory.allocate(rank, bytes, name, false);
        let made = made.map_err(|reason| ClusterError::Allocation { name: name.to_owned(), reason })?;
        self.machine.tell_name(made, bytes, name);
        Ok(made)
    }

    /// As [`Cluster::allocate`], over memory that somebody else has too. All of it counts as initialised: nobody tells when others write there.
    ///
    /// # Errors
    /// As there.
    pub fn allocate_over(&mut self, rank: RankId, memory: Lent, name: &str) -> Result<Address, ClusterError> {
        self.check(rank)?;
        let bytes = memory.bytes();
        let made = self.machine.memory.allocate_over(rank, memory, name);
        let made = made.map_err(|reason| ClusterError::Allocation { name: name.to_owned(), reason })?;
        self.machine.tell_name(made, bytes, name);
        Ok(made)
    }

    /// Makes an address that stands for the first `bytes` of parts in the memory of several ranks at once, for `multimem` instructions.
    /// What these combine is combined in the order of the parts.
    ///
    /// # Errors
    /// When a part is not inside an allocation, does not begin at a multiple of 16 bytes, or is on the rank of another one.
    pub fn multicast(&mut self, parts: &[Address], bytes: u64, name: &str) -> Result<Address, ClusterError> {
        let made = self.machine.memory.multicast(parts, bytes, name);
        made.map_err(|reason| ClusterError::Allocation { name: name.to_owned(), reason })
    }

    /// Closes an allocation to the kernels of other ranks: their accesses are errors from now on.
    ///
    /// # Errors
    /// When the address is not in an allocation.
    pub fn close(&mut self, address: Address) -> Result<(), ClusterError> {
        self.host("close", address, 0, |allocation, _| allocation.private = true)
    }

    /// Gives a part of an allocation a name for reports, and says which rank's kernels write it. Of several names of one
    /// place, reports use that of the smallest part.
    ///
    /// # Errors
    /// When the range is not inside an allocation.
    pub fn label(
        &mut self,
        address: Address,
        bytes: u64,
        name: &str,
        writer: Option<RankId>,
    ) -> Result<(), ClusterError> {
        self.host("label", address, bytes, |allocation, offset| {
            allocation.name_range(offset, offset + bytes, name, writer);
        })?;
        self.machine.tell_name(address, bytes, name);
        Ok(())
    }

    fn host(
        &mut self,
        doing: &'static str,
        address: Address,
        bytes: u64,
        change: impl FnOnce(&mut crate::memory::Allocation, u64),
    ) -> Result<(), ClusterError> {
        let fail = |fault| ClusterError::Memory { doing, address, fault };
        let (rank, allocation, offset) = self.machine.memory.locate(None, address.0, bytes, true).map_err(fail)?;
        match self.machine.memory.allocation_mut(rank, allocation) {
            Some(found) => change(found, offset),
            None => return Err(fail(MemoryFault::NotAnAddress)),
        }
        Ok(())
    }

    /// Frees an allocation; kernels and copies that use it afterwards are errors.
    ///
    /// # Errors
    /// When the address is not the start of an allocation.
    pub fn free(&mut self, address: Address) -> Result<(), ClusterError> {
        let freed = self.machine.memory.free(address);
        freed.map_err(|fault| ClusterError::Memory { doing: "free", address, fault })?;
        self.machine.observers.tell(|| Event::Freed { address });
        Ok(())
    }

    /// Frees an allocation when everything that is in a stream now has finished: what comes later in the stream must not use it, as
    /// after [`Cluster::free`].
    ///
    /// # Errors
    /// When the stream does not exist, or the address is not the start of an allocation that nobody has freed.
    pub fn free_after(&mut self, stream: StreamId, address: Address) -> Result<(), ClusterError> {
        self.check_stream(stream)?;
        let leaving = self.machine.memory.leave(address);
        leaving.map_err(|fault| ClusterError::Memory { doing: "free", address, fault })?;
        self.machine.push(stream, Command::Free(address));
        Ok(())
    }

    /// Copies to device memory, at once: launches that are queued see it.
    ///
    /// # Errors
    /// When the range is not inside an allocation.
    pub fn write(&mut self, address: Address, bytes: &[u8]) -> Result<(), ClusterError> {
        let target = self.machine.memory.write_device(None, address.0, bytes.len() as u64);
        target.map_err(|fault| ClusterError::Memory { doing: "write", address, fault })?.copy_from_slice(bytes);
        self.tell_host(address, bytes.len(), AccessKind::Write);
        Ok(())
    }

    /// Copies from device memory, at once: queued launches have not run yet.
    ///
    /// # Errors
    /// When the range is not inside an allocation, or (if the configuration checks that) was never written.
    pub fn read(&mut self, address: Address, bytes: &mut [u8]) -> Result<(), ClusterError> {
        let source = self.machine.memory.read_device(None, address.0, bytes.len() as u64);
        bytes.copy_from_slice(source.map_err(|fault| ClusterError::Memory { doing: "read", address, fault })?);
        self.tell_host(address, bytes.len(), AccessKind::Read);
        Ok(())
    }

    fn tell_host(&mut self, address: Address, bytes: usize, kind: AccessKind) {
        self.machine.observers.tell(|| Event::Host { address, bytes: bytes as u64, kind });
    }

    /// Places the variables of a module in the memory of a rank. The first launch does it if nobody did. They are there as long as
    /// somebody has the module or a kernel of it.
    ///
    /// # Errors
    /// When the rank does not exist or the cluster cannot name so much memory.
    pub fn load(&mut self, rank: RankId, module: &Module) -> Result<(), ClusterError> {
        self.check(rank)?;
        self.machine.load_module(rank, module).map(|_| ())
    }

    /// Address of a module variable on a rank where the module is loaded.
    pub fn variable(&self, rank: RankId, module: &Module, name: &str) -> Option<Address> {
        self.machine.variable(rank, module, name)
    }

    /// Makes a stream.
    ///
    /// # Errors
    /// When the rank does not exist.
    pub fn stream(&mut self, rank: RankId) -> Result<StreamId, ClusterError> {
        self.check(rank)?;
        self.machine.add_stream(rank).ok_or(ClusterError::Streams)
    }

    /// Closes a stream: it takes no further commands, and is gone when what is in it has finished.
    ///
    /// # Errors
    /// When the stream does not exist.
    pub fn close_stream(&mut self, stream: StreamId) -> Result<(), ClusterError> {
        self.check_stream(stream)?;
        self.machine.close_stream(stream);
        Ok(())
    }

    /// The rank of a stream that has not been closed.
    pub fn rank_of(&self, stream: StreamId) -> Option<RankId> {
        self.machine.rank_of(stream)
    }

    fn check_stream(&self, stream: StreamId) -> Result<RankId, ClusterError> {
        self.machine.rank_of(stream).ok_or(ClusterError::NoSuch { what: "stream", number: stream.0.into() })
    }

    /// Puts a launch into a stream.
    ///
    /// # Errors
    /// When shape, shared memory or arguments are not what the kernel can have.
    pub fn launch(&mut self, stream: StreamId, kernel: &Kernel, launch: Launch) -> Result<LaunchId, ClusterError> {
        self.queue(stream, kernel, launch, Manner::Plain)
    }

    /// As [`Cluster::launch`], of a launch that may begin before the end of the one before it in its stream (programmatic dependent
    /// launch): as soon as all CTAs of that one have executed `griddepcontrol.launch_dependents`, or ended. What it wrote is there after
    /// `griddepcontrol.wait`; what is read before that is a race, which a [`crate::Judge`] tells.
    ///
    /// # Errors
    /// As [`Cluster::launch`].
    pub fn launch_dependent(
        &mut self,
        stream: StreamId,
        kernel: &Kernel,
        launch: Launch,
    ) -> Result<LaunchId, ClusterError> {
        self.queue(stream, kernel, launch, Manner::Dependent)
    }

    /// As [`Cluster::launch`], of a launch all of whose CTAs run at once and may wait for each other. They find 8 zeroed bytes of memory
    /// for that at the address in `%envreg1` (high half) and `%envreg2`, as `cooperative_groups::this_grid().sync()` uses them.
    ///
    /// # Errors
    /// As [`Cluster::launch`], and when the rank cannot hold all CTAs at once.
    pub fn launch_cooperative(
        &mut self,
        stream: StreamId,
        kernel: &Kernel,
        launch: Launch,
    ) -> Result<LaunchId, ClusterError> {
        self.queue(stream, kernel, launch, Manner::Cooperative)
    }

    fn queue(
        &mut self,
        stream: StreamId,
        kernel: &Kernel,
        launch: Launch,
        manner: Manner,
    ) -> Result<LaunchId, ClusterError> {
        let rank = self.check_stream(stream)?;
        let fail = |reason| ClusterError::Launch { kernel: kernel.name().to_owned(), reason };
        let (code, [x, y, z]) = (kernel.code(), launch.block);
        for (what, found, most) in [("grid", launch.grid, MAX_GRID), ("block", launch.block, MAX_BLOCK)] {
            for axis in 0..3 {
                if !(1..=most[axis]).contains(&found[axis]) {
                    let name = ["x", "y", "z"][axis];
                    let reason = format!("{what} {found:?}: {name} must be from 1 to {}", most[axis]);
                    return Err(fail(reason));
                }
            }
        }
        if launch.grid.iter().map(|extent| u64::from(*extent)).product::<u64>() > u64::from(u32::MAX >> 1) {
            return Err(fail(format!("grid {:?} has more than 2^31 CTAs", launch.grid)));
        }
        let threads = u64::from(x) * u64::from(y) * u64::from(z);
        if threads > MAX_THREADS {
            return Err(fail(format!("a CTA has at most {MAX_THREADS} threads, not {threads}")));
        }
        if let Some(required) = code.required_threads
            && required != launch.block
        {
            return Err(fail(format!("its .reqntid is {required:?}, not {:?}", launch.block)));
        }
        if let Some(most) = code.max_threads
            && threads > u64::from(most)
        {
            return Err(fail(format!("its .maxntid allows {most} threads, not {threads}")));
        }
        let shared = u64::from(kernel.static_shared()) + u64::from(launch.shared);
        if shared > u64::from(MAX_SHARED) {
            return Err(fail(format!("a CTA has at most {MAX_SHARED} bytes of shared memory, not {shared}")));
        }
        let parameters = launch.parameter_block(kernel)?.into();
        let (cluster, explicit_cluster) = clusters(code.clusters, launch.grid, launch.cluster).map_err(fail)?;
        let ctas = launch.grid.iter().map(|extent| u64::from(*extent)).product::<u64>();
        let resident = self.residency(kernel, threads as u32, launch.shared);
        let of_cluster = cluster.iter().product::<u32>();
        if u64::from(of_cluster) > resident {
            return Err(fail(format!("the {of_cluster} CTAs of a cluster run at once, the rank holds {resident}")));
        }
        if manner == Manner::Cooperative && ctas > resident {
            let reason = format!("a cooperative launch runs all of its {ctas} CTAs at once, the rank holds {resident}");
            return Err(fail(reason));
        }
        self.machine.load_module(rank, &kernel.module)?;
        let workspace = match manner {
            Manner::Cooperative => {
                let made = self.allocate(rank, 8, "workspace of a cooperative launch")?;
                self.write(made, &[0; 8])?;
                Some(made)
            }
            Manner::Plain | Manner::Dependent => None,
        };
        let dependent = manner == Manner::Dependent;
        let (id, Launch { grid, block, shared, .. }) = (self.machine.next_launch(), launch);
        let request = Request {
            id,
            kernel: kernel.clone(),
            grid,
            block,
            shared,
            parameters,
            dependent,
            cluster,
            explicit_cluster,
            workspace,
        };
        self.machine.push(stream, Command::Launch(Box::new(request)));
        Ok(id)
    }

    /// Marks the point in a stream after everything that is in it now.
    ///
    /// # Errors
    /// When the stream does not exist.
    pub fn record(&mut self, stream: StreamId) -> Result<EventId, ClusterError> {
        self.check_stream(stream)?;
        let event = self.machine.add_event();
        self.machine.push(stream, Command::Record(event));
        Ok(event)
    }

    /// Makes what follows in a stream wait for an event, of any rank.
    ///
    /// # Errors
    /// When the stream or the event does not exist.
    pub fn wait(&mut self, stream: StreamId, event: EventId) -> Result<(), ClusterError> {
        self.check_stream(stream)?;
        if !self.machine.has_event(event) {
            return Err(ClusterError::NoSuch { what: "event", number: event.0 });
        }
        self.machine.push(stream, Command::Wait(event));
        Ok(())
    }

    /// How many CTAs of a kernel a rank holds at once, by threads, shared memory and CTAs per SM. Registers do not count:
    /// only the assembler knows them.
    pub fn residency(&self, kernel: &Kernel, threads: u32, shared: u32) -> u64 {
        let total = kernel.code().dynamic_shared_offset().saturating_add(shared).max(SHARED_BASE);
        u64::from(self.machine.config.sms) * u64::from(crate::engine::ctas_per_sm(threads, total))
    }

    /// Runs until every stream is empty.
    ///
    /// # Errors
    /// The first thing that goes wrong in a kernel, or a deadlock.
    pub fn run(&mut self) -> Result<Report, RunError> {
        self.machine.run(false)
    }

    /// Gives up runs that have not ended at this time of the host's clock, with [`RunError::Time`].
    pub fn stop_at(&mut self, deadline: std::time::Instant) {
        self.machine.deadline = Some(deadline);
    }

    /// Runs whatever can run now. What waits for a write is left waiting, and goes on in the next run: this is no deadlock, and no time
    /// passes for deadlines. For programs that queue without end and never wait, or in which several threads queue.
    ///
    /// # Errors
    /// The first thing that goes wrong in a kernel.
    pub fn advance(&mut self) -> Result<Report, RunError> {
        self.machine.run(true)
    }

    /// Whether everything that was put into a stream has finished.
    pub fn is_idle(&self, stream: StreamId) -> bool {
        self.machine.is_idle(stream)
    }

    /// The first launch that has not finished; none if all have.
    pub fn oldest_launch(&self) -> Option<LaunchId> {
        self.machine.oldest_launch()
    }

    /// Gives up everything that is queued or has not finished, and forgets the error of the last run. Memory stays.
    pub fn abandon(&mut self) {
        self.machine.abandon();
    }

    /// Bytes moved so far, by rank pair.
    pub fn traffic(&self) -> &Traffic {
        &self.machine.memory.traffic
    }

    /// Warp instructions executed so far.
    pub fn instructions(&self) -> u64 {
        self.machine.instructions
    }

    /// Virtual time in nanoseconds: what `%globaltimer` reads.
    pub fn nanoseconds(&self) -> u64 {
        self.machine.time
    }

    /// Warnings and accepted findings so far, in the order in which they were found.
    pub fn findings(&self) -> &[Finding] {
        &self.machine.findings
    }

    /// What kernels have printed so far (`vprintf`), in the order in which they did; the first 10 000 texts.
    pub fn printed(&self) -> &[Printed] {
        &self.machine.printed
    }

    /// Shows every further access and ordering event to an observer, beside those that there are.
    pub fn observe(&mut self, observer: Box<dyn Observer + Send>) {
        self.machine.observe(observer);
    }
}

/// CTAs of a cluster along each axis, and whether the launch or the kernel says it.
fn clusters(limits: ClusterLimits, grid: [u32; 3], given: Option<[u32; 3]>) -> Result<([u32; 3], bool), String> {
    if let (Some(required), Some(given)) = (limits.required, given)
        && required != given
    {
        return Err(format!("its .reqnctapercluster is {required:?}, not {given:?}"));
    }
    let said = given.or(limits.required);
    if limits.explicit && said.is_none() {
        return Err("it is .explicitcluster, so that the launch has to say how large clusters are".into());
    }
    let cluster = said.unwrap_or([1; 3]);
    let size = cluster.iter().map(|extent| u64::from(*extent)).product::<u64>();
    if !(1..=u64::from(MOST_IN_CLUSTER)).contains(&size) {
        return Err(format!("cluster {cluster:?}: a cluster has from 1 to {MOST_IN_CLUSTER} CTAs, not {size}"));
    }
    if let Some(most) = limits.most.filter(|most| size > u64::from(*most)) {
        return Err(format!("its .maxclusterrank allows {most} CTAs in a cluster, not {size}"));
    }
    if (0..3).any(|axis| !grid[axis].is_multiple_of(cluster[axis])) {
        return Err(format!("grid {grid:?} is not a multiple of cluster {cluster:?}"));
    }
    Ok((cluster, said.is_some()))
}

/// How a launch begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Plain,
    /// Before the one in front of it has ended.
    Dependent,
    /// With all of its CTAs.
    Cooperative,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("config", &self.machine.config).finish_non_exhaustive()
    }
}
