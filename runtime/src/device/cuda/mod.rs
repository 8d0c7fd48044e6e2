//! GPUs through the CUDA driver, loaded when it is asked for: all ranks in this process, or those of this process on one GPU.
//!
//! Invariants: nothing of CUDA is touched before [`CudaDevice::new`] has found the driver; every call makes the context of its rank
//! current first, so that any thread may call. Several ranks may share a GPU, each with its own streams; their memory is then plain
//! device memory. With several GPUs, each must reach the memory of each other.
//!
//! A kernel that waits for another rank must never meet a driver that waits for that kernel. Hence a module is compiled once for each GPU
//! (or not at all, where its bundle has machine code) and made resident when it is loaded, not at its first launch (the driver's lazy loading may
//! wait for what runs).

mod gpu;
mod order;
mod patience;
mod pool;
mod stopwatch;
mod vmm;

use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::ops::Range;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use moe_bundle::Digest;
use moe_contract::RankId;

use super::{
    Address, Device, DeviceError, EventId, FunctionId, GraphId, Launch, LaunchTime, Occupancy, Residency, StreamId,
    Value,
};
use crate::device::share::{Share, Ticket};
use gpu::Gpu;
use order::{Clock, Order};
use pool::Pool;
use stopwatch::Stopwatch;
use vmm::Mapping;

/// Dynamic shared memory that a kernel may use without asking.
const SHARED_WITHOUT_ASKING: u32 = 48 << 10;

/// How long another process may take to hand over its memory.
const ANSWER: Duration = Duration::from_secs(20);

/// For what is under way when another process ends.
const GRACE: Duration = Duration::from_millis(250);

/// Which GPUs, and what is measured on them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaOptions {
    /// At most so many GPUs; all that there are by default.
    pub gpus: Option<u32>,
    /// Whether every launch is timed, for [`Device::take_launch_times`].
    pub time_launches: bool,
    /// How long [`Device::abandon`] waits for kernels to end; a minute by default. Longer than their deadlines, or they have no chance.
    pub patience: Duration,
}

impl Default for CudaOptions {
    fn default() -> Self {
        CudaOptions { gpus: None, time_launches: false, patience: Duration::from_secs(60) }
    }
}

/// One or more GPUs of this machine with ranks in contiguous blocks on them.
pub struct CudaDevice {
    gpus: Vec<Gpu>,
    /// The GPU of each rank, as a place in `gpus`; of ranks of other processes it means nothing.
    placement: Vec<usize>,
    mine: Range<u32>,
    /// With other processes.
    share: Option<Share>,
    time_launches: bool,
    patience: Duration,
    objects: Mutex<Objects>,
    occupancy: Occupancy,
}

/// Driver objects that ids stand for, each with its rank.
#[derive(Default)]
struct Objects {
    /// Each text is compiled once for each GPU, however many of its ranks load it. By place in `gpus`.
    modules: BTreeMap<(usize, [u8; 32]), sys::CUmodule>,
    functions: Vec<(RankId, sys::CUfunction)>,
    streams: BTreeMap<StreamId, Stream>,
    next_stream: u32,
    /// Until the next [`Device::synchronise`] of the stream.
    events: BTreeMap<EventId, Event>,
    next_event: u64,
    graphs: BTreeMap<GraphId, Graph>,
    next_graph: u64,
    /// By place in `gpus`.
    stopwatches: BTreeMap<usize, Stopwatch>,
    /// By place in `gpus`.
    pools: BTreeMap<usize, Pool>,
    /// What other processes can map, and what this one has mapped of theirs, by address.
    shared: BTreeMap<u64, Shared>,
    /// What of it is not needed any more, after these launches.
    retired: Vec<(Clock, Shared)>,
    order: Order,
}

/// Memory of several processes.
struct Shared {
    rank: RankId,
    mapping: Mapping,
    /// Of memory that this process made.
    ticket: Option<Ticket>,
}

impl Objects {
    fn add_stream(&mut self, rank: RankId, handle: sys::CUstream, of_caller: bool) -> StreamId {
        let id = StreamId(self.next_stream);
        self.next_stream += 1;
        self.streams.insert(id, Stream { rank, handle, closed: false, of_caller, captured: false });
        id
    }

    /// A stream of the caller, under the id that it had before if it was here: callers change between a few streams as often as they like.
    fn adopt(&mut self, rank: RankId, handle: sys::CUstream) -> StreamId {
        let same = |stream: &Stream| stream.of_caller && (stream.rank, stream.handle) == (rank, handle);
        match self.streams.iter_mut().find(|(_, stream)| same(stream)) {
            Some((&id, stream)) => {
                stream.closed = false;
                id
            }
            None => self.add_stream(rank, handle, true),
        }
    }

    /// In a stream of the caller there may be launches since the last one of ours, which use what is about to be freed.
    fn expect_launches_of_caller(&mut self) {
        let of_caller = self.streams.iter().filter(|(_, stream)| stream.of_caller && !stream.closed);
        of_caller.for_each(|(&id, _)| self.order.launch(id));
    }
}

#[derive(Clone, Copy)]
struct Stream {
    rank: RankId,
    handle: sys::CUstream,
    /// Takes nothing more, and is destroyed when everything in it is known to have finished.
    closed: bool,
    /// The caller made it and launches in it too.
    of_caller: bool,
    /// By [`Device::begin_capture`]: what is launched is captured, and the driver must not be asked how far it is.
    captured: bool,
}

impl Stream {
    /// Whether what is launched in it is captured, by us or by the caller, in whose graph it then is.
    fn is_captured(self) -> Result<bool, DeviceError> {
        if self.captured || !self.of_caller {
            return Ok(self.captured);
        }
        let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        // SAFETY: the caller keeps the stream until it is closed here; this is one of the calls that a capture allows.
        let asked = unsafe { sys::cuStreamIsCapturing(self.handle, &raw mut status) };
        asked.result().map_err(failed("ask whether a stream is being captured"))?;
        Ok(status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
    }
}

#[derive(Clone, Copy)]
struct Event {
    rank: RankId,
    stream: StreamId,
    handle: sys::CUevent,
}

#[derive(Clone, Copy)]
struct Graph {
    rank: RankId,
    handle: sys::CUgraphExec,
}

// SAFETY: contexts, modules, functions, streams and events of the driver API may be used from any thread; the tables are behind a mutex.
unsafe impl Send for CudaDevice {}
// SAFETY: as above.
unsafe impl Sync for CudaDevice {}

fn failed(doing: impl Into<String>) -> impl FnOnce(DriverError) -> DeviceError {
    let doing = doing.into();
    move |error| {
        let text = error.error_string().ok().and_then(|text| text.to_str().ok()).unwrap_or("unknown error");
        DeviceError::Driver { doing, problem: format!("{text} ({:?})", error.0) }
    }
}

impl CudaDevice {
    /// Finds the driver and the GPUs and places ranks on them.
    ///
    /// # Errors
    /// When there is no driver, no GPU, GPUs that cannot reach each other, or too many ranks on one.
    ///
    /// # Panics
    /// When there are no ranks.
    pub fn new(ranks: u32, options: &CudaOptions) -> Result<CudaDevice, DeviceError> {
        assert!(ranks > 0, "a device has ranks");
        // SAFETY: loads the driver's library and nothing else.
        if !unsafe { sys::is_culib_present() } {
            return Err(DeviceError::NoDriver);
        }
        result::init().map_err(failed("start"))?;
        let found = result::device::get_count().map_err(failed("count GPUs"))?.max(0) as u32;
        let used = found.min(options.gpus.unwrap_or(found)).min(ranks);
        if used == 0 {
            return Err(DeviceError::NoGpu);
        }
        let gpus = (0..used).map(Gpu::open).collect::<Result<Vec<_>, _>>()?;
        for from in &gpus {
            gpus.iter().filter(|to| to.ordinal != from.ordinal).try_for_each(|to| from.reach(to))?;
        }
        let placement: Vec<usize> = (0..ranks).map(|rank| (rank * used / ranks) as usize).collect();
        CudaDevice::with(gpus, placement, 0..ranks, None, options)
    }

    /// The ranks of this process, on one GPU; those of other processes are on any GPU of this machine that this one reaches, or on the same,
    /// where they take turns. `gpu` is the driver's number of it.
    ///
    /// # Errors
    /// When there is no driver or no such GPU, or it cannot share memory with other processes.
    pub fn of_process(
        ranks: u32,
        mine: Range<u32>,
        gpu: u32,
        options: &CudaOptions,
    ) -> Result<CudaDevice, DeviceError> {
        if mine.is_empty() || mine.end > ranks {
            let problem = format!("no ranks {mine:?} among {ranks}");
            return Err(DeviceError::Sharing { ranks: vec![], process: std::process::id(), problem });
        }
        // SAFETY: loads the driver's library and nothing else.
        if !unsafe { sys::is_culib_present() } {
            return Err(DeviceError::NoDriver);
        }
        result::init().map_err(failed("start"))?;
        let gpu = Gpu::open(gpu)?;
        vmm::expect(&gpu)?;
        let share = Share::open(mine.clone(), ANSWER)?;
        CudaDevice::with(vec![gpu], vec![0; ranks as usize], mine, Some(share), options)
    }

    fn with(
        gpus: Vec<Gpu>,
        placement: Vec<usize>,
        mine: Range<u32>,
        share: Option<Share>,
        options: &CudaOptions,
    ) -> Result<CudaDevice, DeviceError> {
        let here = &placement[mine.start as usize..mine.end as usize];
        let most = gpus.iter().enumerate().map(|(gpu, _)| here.iter().filter(|&&place| place == gpu).count()).max();
        enough_queues(most.unwrap_or(0), std::env::var("CUDA_DEVICE_MAX_CONNECTIONS").ok().as_deref())?;
        let CudaOptions { time_launches, patience, .. } = *options;
        Ok(CudaDevice {
            gpus,
            placement,
            mine,
            share,
            time_launches,
            patience,
            objects: Mutex::default(),
            occupancy: Occupancy::default(),
        })
    }

    fn gpu(&self, rank: RankId) -> Result<&Gpu, DeviceError> {
        let place = self.placement.get(rank.index());
        place.map(|&gpu| &self.gpus[gpu]).ok_or(DeviceError::Unknown { what: "rank".into(), id: rank.0.into() })
    }

    /// Makes the context of a rank current.
    fn enter(&self, rank: RankId) -> Result<&Gpu, DeviceError> {
        let gpu = self.gpu(rank)?;
        gpu.enter()?;
        Ok(gpu)
    }

    /// The driver keeps what is waited for.
    fn destroy_events(&self, those: impl Fn(EventId, &Event) -> bool) {
        let events: Vec<(EventId, Event)> = {
            let Objects { events, order, .. } = &mut *self.objects();
            let gone: Vec<_> = events.extract_if(.., |&id, event| those(id, event)).collect();
            gone.iter().for_each(|(id, _)| order.forget_event(*id));
            gone
        };
        for (_, Event { rank, handle, .. }) in events {
            if self.enter(rank).is_ok() {
                // An error while tearing down has nobody to tell.
                // SAFETY: made by the driver in the context of its rank, destroyed once.
                let _ = unsafe { result::event::destroy(handle) };
            }
        }
    }

    /// Takes a stream of the caller for launches of a rank; [`Device::close_stream`] gives it back. While the caller captures it, launches
    /// become part of the caller's graph, which may be launched any number of times.
    ///
    /// # Errors
    /// When there is no such rank.
    ///
    /// # Safety
    /// The handle is a `CUstream` (or `cudaStream_t`) of the GPU of that rank, and lives until what is launched in it has finished and it
    /// has been closed here.
    pub unsafe fn adopt_stream(&self, rank: RankId, handle: *mut c_void) -> Result<StreamId, DeviceError> {
        self.gpu(rank)?;
        Ok(self.objects().adopt(rank, handle.cast()))
    }

    /// Those that can be waited for: not those that are being captured, nor those that the caller may have destroyed.
    fn all_streams(&self) -> Vec<StreamId> {
        let objects = self.objects();
        let gone = |id, stream: &Stream| stream.of_caller && stream.closed && objects.order.of(id).is_empty();
        let there = |id, stream: &Stream| !gone(id, stream) && matches!(stream.is_captured(), Ok(false));
        objects.streams.iter().filter(|(id, stream)| there(**id, stream)).map(|(&id, _)| id).collect()
    }

    fn set_captured(&self, id: StreamId, captured: bool) {
        if let Some(stream) = self.objects().streams.get_mut(&id) {
            stream.captured = captured;
        }
    }

    fn objects(&self) -> std::sync::MutexGuard<'_, Objects> {
        // A poisoned table is still a table of valid ids: entries are pushed whole.
        self.objects.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn function(&self, id: FunctionId) -> Result<(RankId, sys::CUfunction), DeviceError> {
        let unknown = DeviceError::Unknown { what: "function".into(), id: id.0.into() };
        self.objects().functions.get(id.0 as usize).copied().ok_or(unknown)
    }

    fn find_stream(&self, id: StreamId) -> Result<(RankId, sys::CUstream), DeviceError> {
        let objects = self.objects();
        let stream = objects.streams.get(&id).filter(|stream| !stream.closed);
        let unknown = DeviceError::Unknown { what: "stream".into(), id: id.0.into() };
        stream.map(|stream| (stream.rank, stream.handle)).ok_or(unknown)
    }

    /// Asks which streams have come to their end, without waiting. The ranks of the others.
    fn look(&self, objects: &mut Objects) -> Result<Vec<RankId>, DeviceError> {
        let mut running = Vec::new();
        for (id, count) in objects.order.unfinished().collect::<Vec<_>>() {
            let Some(&stream) = objects.streams.get(&id) else { continue };
            let Stream { rank, handle, .. } = stream;
            self.enter(rank)?;
            if stream.is_captured()? {
                continue;
            }
            // SAFETY: made by the driver and not destroyed, as it is in the table.
            match unsafe { sys::cuStreamQuery(handle) } {
                sys::CUresult::CUDA_ERROR_NOT_READY => running.push(rank),
                status => {
                    status.result().map_err(|error| kernel_failed(rank, error))?;
                    objects.order.finish(&[(id, count)].into());
                }
            }
        }
        running.sort_unstable();
        running.dedup();
        Ok(running)
    }

    fn take(&self, stream: Option<StreamId>, rank: RankId, bytes: u64, name: &str) -> Result<Address, DeviceError> {
        self.enter(rank)?;
        let objects = &mut *self.objects();
        let place = self.placement[rank.index()];
        let pool = objects.pools.entry(place).or_default();
        if let Some(address) = pool.reuse(bytes, stream, &objects.order) {
            return Ok(Address(address));
        }
        // Perhaps more has finished than is known. What went wrong in a launch is for those to hear who wait for it.
        let _ = self.look(objects);
        self.enter(rank)?;
        let pool = objects.pools.entry(place).or_default();
        if let Some(address) = pool.reuse(bytes, stream, &objects.order) {
            return Ok(Address(address));
        }
        // SAFETY: a context is current; the memory is read only after it was written.
        let ask = |size| unsafe { result::malloc_sync(size as usize) };
        let address = pool.grow(bytes, &objects.order, ask, give_back);
        address.map(Address).map_err(failed(format!("{rank}: allocate {bytes} bytes for {name}")))
    }

    /// Destroys the streams that have been closed and are known to be empty.
    fn destroy_closed(&self) {
        let closed: Vec<(StreamId, Stream)> = {
            let Objects { streams, order, .. } = &mut *self.objects();
            let over = |id: &StreamId, stream: &mut Stream| stream.closed && order.of(*id).is_empty();
            let closed: Vec<(StreamId, Stream)> = streams.extract_if(.., over).collect();
            for (id, _) in &closed {
                order.forget(*id);
            }
            closed
        };
        for (_, Stream { rank, handle, of_caller, .. }) in closed {
            if !of_caller && self.enter(rank).is_ok() {
                // An error while tearing down has nobody to tell.
                // SAFETY: made by the driver in the context of its rank, destroyed once.
                let _ = unsafe { result::stream::destroy(handle) };
            }
        }
    }

    /// Waits for the end of a stream, or until a process has ended that what is there may wait for.
    fn wait_for(&self, share: &Share, rank: RankId, stream: sys::CUstream) -> Result<(), DeviceError> {
        const LONGEST: Duration = Duration::from_micros(500);
        let mut pause = Duration::from_micros(10);
        let mut ended: Option<(DeviceError, Instant)> = None;
        loop {
            // SAFETY: made by the driver; it is destroyed only when it has nothing unfinished.
            match unsafe { sys::cuStreamQuery(stream) } {
                sys::CUresult::CUDA_ERROR_NOT_READY => {}
                status => return status.result().map_err(|error| kernel_failed(rank, error)),
            }
            match &ended {
                Some((gone, since)) if since.elapsed() >= GRACE => return Err(gone.clone()),
                Some(_) => {}
                None => ended = share.gone().map(|gone| (gone, Instant::now())),
            }
            std::thread::sleep(pause);
            pause = (2 * pause).min(LONGEST);
        }
    }

    /// Whether memory is shared, which is then unmapped after all launches so far.
    fn retire(&self, address: Address) -> bool {
        let mut objects = self.objects();
        let Some(shared) = objects.shared.remove(&address.0) else { return false };
        objects.expect_launches_of_caller();
        let now = objects.order.now();
        if let (Some(share), Some(ticket)) = (&self.share, &shared.ticket) {
            share.withdraw(ticket);
        }
        objects.retired.push((now, shared));
        drop(objects);
        self.unmap_retired();
        true
    }

    /// Unmaps what no launch uses any more.
    fn unmap_retired(&self) {
        let over: Vec<Shared> = {
            let Objects { retired, order, .. } = &mut *self.objects();
            retired.extract_if(.., |(clock, _)| order.are_over(clock)).map(|(_, shared)| shared).collect()
        };
        for Shared { rank, mapping, .. } in over {
            if self.enter(rank).is_ok() {
                vmm::unmap(mapping);
            }
        }
    }

    /// A module is known by its PTX, of which the machine code is made.
    fn load_module(
        &self,
        rank: RankId,
        cubin: Option<&[u8]>,
        ptx: &str,
        name: &str,
    ) -> Result<FunctionId, DeviceError> {
        let gpu = self.enter(rank)?;
        let no_kernel = || DeviceError::NoKernel { name: name.into() };
        let entry = CString::new(name).map_err(|_| no_kernel())?;
        let mut objects = self.objects();
        let key = (self.placement[rank.index()], Digest::of(ptx.as_bytes()).0);
        let module = match objects.modules.get(&key) {
            Some(&module) => module,
            None => *objects.modules.entry(key).or_insert(gpu.load(cubin, ptx)?),
        };
        // SAFETY: a loaded module.
        let function = unsafe { result::module::get_function(module, entry) }.map_err(|_| no_kernel())?;
        // SAFETY: a function of a loaded module.
        unsafe { sys::cuFuncLoad(function) }.result().map_err(failed("load a kernel"))?;
        // A module gives the same function for the same name.
        let known = objects.functions.iter().position(|known| *known == (rank, function));
        let place = known.unwrap_or(objects.functions.len());
        if known.is_none() {
            objects.functions.push((rank, function));
        }
        Ok(FunctionId(place as u32))
    }
}

fn kernel_failed(rank: RankId, error: DriverError) -> DeviceError {
    DeviceError::Fault { report: failed(format!("{rank}: a kernel failed"))(error).to_string() }
}

/// Each rank has a stream, and kernels of one rank wait for those of another. `setting` is the environment's.
fn enough_queues(ranks: usize, setting: Option<&str>) -> Result<(), DeviceError> {
    /// Without a setting, and at most.
    const QUEUES: (usize, usize) = (8, 32);
    let queues = setting.and_then(|text| text.trim().parse().ok()).unwrap_or(QUEUES.0).min(QUEUES.1);
    if ranks > queues { Err(DeviceError::Queues { ranks, queues }) } else { Ok(()) }
}

fn no_ticket(error: &serde_json::Error) -> DeviceError {
    DeviceError::Driver { doing: "read what another process exported".into(), problem: error.to_string() }
}

/// In the current context, to the driver. An error here is that of an earlier launch, which the next call reports.
fn give_back(address: u64) {
    // SAFETY: the address comes from the driver and nothing uses it any more.
    let _ = unsafe { result::free_sync(address) };
}

/// As `launch_kernel`, of a launch that may begin before the end of the one before it in its stream.
///
/// # Safety
/// As for `cuLaunchKernel`: number and sizes of the arguments are those of the kernel's parameters.
unsafe fn launch_dependent(
    function: sys::CUfunction,
    (grid_x, grid_y, grid_z): (u32, u32, u32),
    (block_x, block_y, block_z): (u32, u32, u32),
    shared: u32,
    stream: sys::CUstream,
    arguments: &mut [*mut c_void],
) -> Result<(), result::DriverError> {
    let mut attribute = sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        pad: [0; 4],
        value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
    };
    let configuration = sys::CUlaunchConfig {
        gridDimX: grid_x,
        gridDimY: grid_y,
        gridDimZ: grid_z,
        blockDimX: block_x,
        blockDimY: block_y,
        blockDimZ: block_z,
        sharedMemBytes: shared,
        hStream: stream,
        attrs: &raw mut attribute,
        numAttrs: 1,
    };
    // SAFETY: configuration and attribute live until the driver returns, which copies them and the arguments.
    unsafe { sys::cuLaunchKernelEx(&raw const configuration, function, arguments.as_mut_ptr(), std::ptr::null_mut()) }
        .result()
}

/// In the current context. Without this a kernel gets no more than [`SHARED_WITHOUT_ASKING`].
fn ask_for_shared(function: sys::CUfunction, bytes: u32) -> Result<(), DeviceError> {
    if bytes <= SHARED_WITHOUT_ASKING {
        return Ok(());
    }
    let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    // SAFETY: a function of a loaded module.
    unsafe { result::function::set_function_attribute(function, attribute, bytes as i32) }
        .map_err(failed("ask for shared memory"))
}

impl Device for CudaDevice {
    fn description(&self) -> String {
        let name = &self.gpus[0].name;
        let Range { start, end } = self.mine;
        match &self.share {
            None => format!("{} ranks on {} × {name}", self.placement.len(), self.gpus.len()),
            Some(_) => format!("ranks {start} to {} of {} on {name}", i64::from(end) - 1, self.placement.len()),
        }
    }

    fn ranks(&self) -> u32 {
        self.placement.len() as u32
    }

    fn mine(&self) -> Range<u32> {
        self.mine.clone()
    }

    fn choose_target<'t>(&self, targets: &[&'t str]) -> Option<&'t str> {
        let number = |target: &str| target.strip_prefix("sm_")?.parse::<i32>().ok();
        // An architecture-specific target (`a`) runs on that very architecture; a plain one on later ones too.
        let runs = |target: &str, gpu: &Gpu| {
            let capability = gpu.capability.0 * 10 + gpu.capability.1;
            target == format!("sm_{capability}a") || number(target).is_some_and(|sm| sm <= capability)
        };
        let everywhere = targets.iter().copied().filter(|target| self.gpus.iter().all(|gpu| runs(target, gpu)));
        everywhere.max_by_key(|target| number(target).unwrap_or(i32::MAX))
    }

    fn allocate(&self, rank: RankId, bytes: u64, name: &str) -> Result<Address, DeviceError> {
        self.take(None, rank, bytes, name)
    }

    fn allocate_shared(&self, rank: RankId, bytes: u64, name: &str) -> Result<Address, DeviceError> {
        let Some(share) = &self.share else { return self.allocate(rank, bytes, name) };
        let gpu = self.enter(rank)?;
        let (mapping, file) = vmm::allocate(gpu, bytes)?;
        let ticket = Some(share.offer(file, bytes, &gpu.identity()?));
        let address = mapping.address;
        self.objects().shared.insert(address, Shared { rank, mapping, ticket });
        Ok(Address(address))
    }

    fn export(&self, _rank: RankId, address: Address) -> Result<Vec<u8>, DeviceError> {
        let objects = self.objects();
        let ticket = objects.shared.get(&address.0).and_then(|shared| shared.ticket.as_ref());
        let unknown = DeviceError::Unknown { what: "shared memory".into(), id: address.0 };
        serde_json::to_vec(ticket.ok_or(unknown)?).map_err(|error| no_ticket(&error))
    }

    fn import(&self, rank: RankId, exported: &[u8], bytes: u64) -> Result<Address, DeviceError> {
        let ticket: Ticket = serde_json::from_slice(exported).map_err(|error| no_ticket(&error))?;
        let gpu = self.enter(rank)?;
        if !gpu.can_reach_identity(&ticket.place)? {
            return Err(ticket
                .refused("its GPU is not visible to this process: give all processes the same CUDA_VISIBLE_DEVICES"));
        }
        let share =
            self.share.as_ref().ok_or_else(|| ticket.refused("this process has no part in a world of several"))?;
        let mapping = vmm::import(gpu, &share.take(&ticket, bytes)?, bytes)?;
        let address = mapping.address;
        self.objects().shared.insert(address, Shared { rank, mapping, ticket: None });
        Ok(Address(address))
    }

    fn close_import(&self, _rank: RankId, address: Address) {
        self.retire(address);
    }

    fn free(&self, rank: RankId, address: Address) {
        if self.retire(address) {
            return;
        }
        if let (Some(place), mut objects) = (self.placement.get(rank.index()), self.objects()) {
            objects.expect_launches_of_caller();
            let now = objects.order.now();
            objects.pools.entry(*place).or_default().free(address.0, now);
        }
    }

    fn allocate_in(&self, stream: StreamId, rank: RankId, bytes: u64, name: &str) -> Result<Address, DeviceError> {
        self.find_stream(stream)?;
        self.take(Some(stream), rank, bytes, name)
    }

    fn free_of_rank(&self, rank: RankId, address: Address) {
        if let (Some(place), mut objects) = (self.placement.get(rank.index()), self.objects()) {
            objects.expect_launches_of_caller();
            let mut after = objects.order.now();
            after.retain(|id, _| objects.streams.get(id).is_none_or(|stream| stream.rank == rank));
            objects.pools.entry(*place).or_default().free(address.0, after);
        }
    }

    fn free_in(&self, stream: StreamId, rank: RankId, address: Address) {
        if let (Some(place), mut objects) = (self.placement.get(rank.index()), self.objects()) {
            objects.expect_launches_of_caller();
            let after = objects.order.of(stream);
            objects.pools.entry(*place).or_default().free(address.0, after);
        }
    }

    fn write(&self, rank: RankId, address: Address, bytes: &[u8]) -> Result<(), DeviceError> {
        self.enter(rank)?;
        // SAFETY: the address was allocated with at least so many bytes; the driver has read them when the call returns.
        unsafe { result::memcpy_htod_sync(address.0, bytes) }.map_err(failed("copy to the GPU"))?;
        // It may still be writing them, from memory of its own, which streams that do not block on the default one would not wait for.
        // SAFETY: the default stream of the current context.
        unsafe { result::stream::synchronize(std::ptr::null_mut()) }.map_err(failed("copy to the GPU"))
    }

    fn read(&self, rank: RankId, address: Address, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.enter(rank)?;
        // SAFETY: as above.
        unsafe { result::memcpy_dtoh_sync(bytes, address.0) }.map_err(failed("copy from the GPU"))
    }

    fn load(&self, rank: RankId, ptx: &str, name: &str) -> Result<FunctionId, DeviceError> {
        self.load_module(rank, None, ptx, name)
    }

    fn load_assembled(&self, rank: RankId, cubin: &[u8], ptx: &str, name: &str) -> Result<FunctionId, DeviceError> {
        self.load_module(rank, Some(cubin), ptx, name)
    }

    fn residency(&self, function: FunctionId, block: u32, shared: u32) -> Result<Residency, DeviceError> {
        let (rank, function) = self.function(function)?;
        let gpu = self.enter(rank)?;
        ask_for_shared(function, shared)?;
        // SAFETY: a function of a loaded module.
        let each =
            unsafe { result::occupancy::max_active_block_per_multiprocessor(function, block as i32, shared as usize) };
        let each = each.map_err(failed("ask for the occupancy"))?.max(0) as u64;
        let place = self.placement[rank.index()];
        // Kernels of another process are not there at the same time: processes take turns on a GPU.
        let mine = &self.placement[self.mine.start as usize..self.mine.end as usize];
        let ranks = mine.iter().filter(|&&other| other == place).count() as u32;
        Ok(Residency { gpu: place as u32, ctas: each * gpu.multiprocessors, ranks })
    }

    fn occupancy(&self) -> Option<&Occupancy> {
        Some(&self.occupancy)
    }

    fn stream(&self, rank: RankId) -> Result<StreamId, DeviceError> {
        self.enter(rank)?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking);
        let handle = stream.map_err(failed("make a stream"))?;
        Ok(self.objects().add_stream(rank, handle, false))
    }

    fn rank_of(&self, stream: StreamId) -> Option<RankId> {
        self.find_stream(stream).ok().map(|(rank, _)| rank)
    }

    fn close_stream(&self, stream: StreamId) {
        if let Some(stream) = self.objects().streams.get_mut(&stream) {
            stream.closed = true;
        }
    }

    fn launch(&self, stream: StreamId, launch: &Launch) -> Result<(), DeviceError> {
        let (id, (rank, stream)) = (stream, self.find_stream(stream)?);
        let (_, function) = self.function(launch.function)?;
        self.enter(rank)?;
        ask_for_shared(function, launch.shared)?;
        // Little-endian: the low half of an 8-byte cell is the 4-byte argument.
        let mut cells: Vec<u64> = launch
            .arguments
            .iter()
            .map(|argument| match *argument {
                Value::U32(number) => u64::from(number),
                Value::U64(number) => number,
                Value::Pointer(address) => address.0,
            })
            .collect();
        let mut pointers: Vec<*mut c_void> = cells.iter_mut().map(|cell| std::ptr::from_mut(cell).cast()).collect();
        let (grid, block) = ((launch.grid, 1, 1), (launch.block, 1, 1));
        let mut start = || {
            // SAFETY: the driver copies the arguments before it returns; their number and sizes are those of the kernel's parameters,
            // which the compiler derived from the same list.
            let started = unsafe {
                if launch.programmatic {
                    launch_dependent(function, grid, block, launch.shared, stream, &mut pointers)
                } else {
                    result::launch_kernel(function, grid, block, launch.shared, stream, &mut pointers)
                }
            };
            started.map_err(failed(format!("{rank}: launch")))
        };
        let mut objects = self.objects();
        if objects.streams.get(&id).map_or(Ok(false), |stream| stream.is_captured())? {
            return start();
        }
        if self.time_launches {
            let place = self.placement[rank.index()];
            objects.stopwatches.entry(place).or_default().around(launch.function, stream, start)?;
        } else {
            start()?;
        }
        objects.order.launch(id);
        Ok(())
    }

    fn record(&self, stream: StreamId) -> Result<EventId, DeviceError> {
        let (id, (rank, stream)) = (stream, self.find_stream(stream)?);
        self.enter(rank)?;
        let event =
            result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).map_err(failed("make an event"))?;
        let mut objects = self.objects();
        let known = EventId(objects.next_event);
        objects.next_event += 1;
        objects.events.insert(known, Event { rank, stream: id, handle: event });
        // SAFETY: both were made by the driver and live.
        unsafe { result::event::record(event, stream) }.map_err(failed("record an event"))?;
        objects.order.record(id, known);
        Ok(known)
    }

    fn wait(&self, stream: StreamId, event: EventId) -> Result<(), DeviceError> {
        let (rank, handle) = self.find_stream(stream)?;
        let mut objects = self.objects();
        let found = objects.events.get(&event).copied();
        let recorded = found.ok_or(DeviceError::Unknown { what: "event".into(), id: event.0 })?.handle;
        self.enter(rank)?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both were made by the driver and live.
        unsafe { result::stream::wait_event(handle, recorded, flags) }.map_err(failed("wait for an event"))?;
        objects.order.wait(stream, event);
        Ok(())
    }

    fn follow(&self, stream: StreamId, before: StreamId) -> Result<(), DeviceError> {
        let captured = |id| self.objects().streams.get(&id).map_or(Ok(false), |stream| stream.is_captured());
        // A graph has the order that its launches have: nothing outside it can be waited for inside.
        if captured(stream)? != captured(before)? {
            return Ok(());
        }
        let event = self.record(before)?;
        let waits = self.wait(stream, event);
        self.destroy_events(|id, _| id == event);
        waits
    }

    fn begin_capture(&self, stream: StreamId) -> Result<(), DeviceError> {
        let (rank, handle) = self.find_stream(stream)?;
        self.enter(rank)?;
        // Relaxed, as memory is asked for meanwhile: nothing that is asked depends on what is captured.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: made by the driver and lives.
        unsafe { sys::cuStreamBeginCapture_v2(handle, mode) }.result().map_err(failed("begin a capture"))?;
        self.set_captured(stream, true);
        Ok(())
    }

    fn end_capture(&self, stream: StreamId) -> Result<GraphId, DeviceError> {
        let (rank, handle) = self.find_stream(stream)?;
        self.enter(rank)?;
        self.set_captured(stream, false);
        let (mut graph, mut launchable) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: made by the driver and lives; the graph is written before it is read.
        unsafe { sys::cuStreamEndCapture(handle, &raw mut graph) }.result().map_err(failed("end a capture"))?;
        // SAFETY: a graph of the driver, which is copied and then destroyed once.
        let made = unsafe { sys::cuGraphInstantiateWithFlags(&raw mut launchable, graph, 0) }.result();
        // An error while tearing down has nobody to tell.
        // SAFETY: as above.
        let _ = unsafe { sys::cuGraphDestroy(graph) };
        made.map_err(failed("make a graph"))?;
        let mut objects = self.objects();
        let id = GraphId(objects.next_graph);
        objects.next_graph += 1;
        objects.graphs.insert(id, Graph { rank, handle: launchable });
        Ok(id)
    }

    fn replay(&self, stream: StreamId, graph: GraphId) -> Result<(), DeviceError> {
        let (rank, handle) = self.find_stream(stream)?;
        let mut objects = self.objects();
        let found = objects.graphs.get(&graph).copied();
        let Graph { rank: of_graph, handle: launchable } =
            found.ok_or(DeviceError::Unknown { what: "graph".into(), id: graph.0 })?;
        if of_graph != rank {
            let problem = format!("a graph of {of_graph} in a stream of {rank}");
            return Err(DeviceError::Driver { doing: "replay".into(), problem });
        }
        self.enter(rank)?;
        // SAFETY: both were made by the driver and live.
        unsafe { sys::cuGraphLaunch(launchable, handle) }.result().map_err(failed(format!("{rank}: replay")))?;
        objects.order.launch(stream);
        Ok(())
    }

    fn forget_graph(&self, graph: GraphId) {
        let found = self.objects().graphs.remove(&graph);
        if let Some(Graph { rank, handle }) = found
            && self.enter(rank).is_ok()
        {
            // An error while tearing down has nobody to tell; the driver keeps what runs.
            // SAFETY: made by the driver, destroyed once.
            let _ = unsafe { sys::cuGraphExecDestroy(handle) };
        }
    }

    fn synchronise(&self, streams: &[StreamId], _patience: Duration) -> Result<(), DeviceError> {
        let (handles, launched) = {
            let objects = self.objects();
            let asked = |(id, _): &(StreamId, u64)| streams.contains(id);
            let launched: Vec<(StreamId, u64)> = objects.order.unfinished().filter(asked).collect();
            // What the caller launched in a stream of his own is not counted here.
            let handles = streams.iter().filter_map(|id| objects.streams.get(id).copied());
            (handles.collect::<Vec<_>>(), launched)
        };
        for stream in handles {
            let Stream { rank, handle, .. } = stream;
            self.enter(rank)?;
            if stream.is_captured()? {
                let problem = "a stream of the caller is being captured: wait after the capture has ended";
                return Err(DeviceError::Refused { problem: problem.into() });
            }
            match &self.share {
                Some(share) => self.wait_for(share, rank, handle)?,
                None => {
                    // SAFETY: made by the driver; it is destroyed only when it has nothing unfinished.
                    unsafe { result::stream::synchronize(handle) }.map_err(|error| kernel_failed(rank, error))?;
                }
            }
        }
        self.objects().order.finish(&launched.into_iter().collect());
        self.destroy_events(|_, event| streams.contains(&event.stream));
        self.destroy_closed();
        self.unmap_retired();
        Ok(())
    }

    fn take_launch_times(&self) -> Result<Vec<LaunchTime>, DeviceError> {
        self.synchronise(&self.all_streams(), Duration::ZERO)?;
        let mut times = Vec::new();
        for (&place, stopwatch) in &mut self.objects().stopwatches {
            self.gpus[place].enter()?;
            times.extend(stopwatch.read(self.gpus[place].ordinal)?);
        }
        Ok(times)
    }

    fn abandon(&self) -> Result<(), DeviceError> {
        patience::wait(self.patience, || self.look(&mut self.objects()))?;
        self.synchronise(&self.all_streams(), Duration::ZERO)
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        let waited = self.abandon();
        if matches!(waited, Err(DeviceError::StillRunning { .. })) {
            // What a kernel still uses must stay, and the driver would wait for it for ever.
            self.gpus.drain(..).for_each(std::mem::forget);
            return;
        }
        self.destroy_events(|_, _| true);
        let mut objects = std::mem::take(&mut *self.objects());
        // After a failure nobody knows what still runs: the context takes its memory along.
        if waited.is_ok() {
            let shared = std::mem::take(&mut objects.shared).into_values();
            for Shared { rank, mapping, .. } in shared.chain(objects.retired.drain(..).map(|(_, shared)| shared)) {
                if self.enter(rank).is_ok() {
                    vmm::unmap(mapping);
                }
            }
        }
        // Errors while tearing down have nobody to tell.
        for Graph { rank, handle } in objects.graphs.into_values() {
            if self.enter(rank).is_ok() {
                // SAFETY: made by the driver in the context of its rank, and destroyed once.
                let _ = unsafe { sys::cuGraphExecDestroy(handle) };
            }
        }
        for Stream { rank, handle, of_caller, .. } in objects.streams.into_values() {
            if !of_caller && self.enter(rank).is_ok() {
                // SAFETY: as above.
                let _ = unsafe { result::stream::destroy(handle) };
            }
        }
        for ((place, _), module) in objects.modules {
            if self.gpus[place].enter().is_ok() {
                // SAFETY: as above.
                let _ = unsafe { result::module::unload(module) };
            }
        }
        for (place, mut stopwatch) in objects.stopwatches {
            if self.gpus[place].enter().is_ok() {
                stopwatch.clear();
            }
        }
        for (place, mut pool) in objects.pools {
            // After a failure nobody knows what still runs: the context takes its memory along.
            if waited.is_ok() && self.gpus[place].enter().is_ok() {
                pool.release(&objects.order, give_back);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_of_a_gpu_do_not_share_a_queue() {
        assert_eq!(enough_queues(8, None), Ok(()));
        assert_eq!(enough_queues(16, Some("32")), Ok(()));
        assert_eq!(enough_queues(40, Some("64")), Err(DeviceError::Queues { ranks: 40, queues: 32 }));
        assert_eq!(
            enough_queues(16, None).map_err(|error| error.to_string()),
            Err("16 ranks on one GPU need as many hardware queues, and the driver makes 8: set CUDA_DEVICE_MAX_CONNECTIONS=16 in the \
                 environment (at most 32), or use fewer ranks or more GPUs"
                .into())
        );
    }

    #[test]
    fn a_stream_of_the_caller_has_one_id_however_often_it_comes_back() {
        let mut objects = Objects::default();
        let [one, other] = [8_usize, 16].map(std::ptr::without_provenance_mut);
        let first = objects.adopt(RankId(0), one);
        let second = objects.adopt(RankId(0), other);
        assert_ne!(first, second);
        for _ in 0..1000 {
            objects.streams.get_mut(&first).expect("it is known").closed = true;
            assert_eq!(objects.adopt(RankId(0), one), first);
            assert_eq!(objects.adopt(RankId(0), other), second);
        }
        assert_eq!(objects.streams.len(), 2);
        assert!(!objects.streams[&first].closed);
        // The default stream is that of each rank's own GPU.
        assert_ne!(objects.adopt(RankId(1), one), first);
    }

    /// With a driver this opens the GPUs; without one it must say so, and not panic in a symbol that is not there.
    #[test]
    fn a_missing_driver_is_an_error_that_says_what_to_do() {
        match CudaDevice::new(2, &CudaOptions::default()) {
            Ok(device) => assert_eq!(device.ranks(), 2),
            Err(error @ DeviceError::NoDriver) => assert_eq!(
                error.to_string(),
                "no CUDA driver: libcuda.so was not found. Install the NVIDIA driver, or use the virtual device, which needs none"
            ),
            Err(
                DeviceError::NoGpu
                | DeviceError::Driver { .. }
                | DeviceError::NoPeerAccess { .. }
                | DeviceError::NoPeerAtomics { .. },
            ) => {}
            Err(other) => panic!("{other}"),
        }
    }
}
