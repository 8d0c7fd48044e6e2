//! GPUs through the CUDA driver, loaded when it is asked for.
//!
//! Invariants: nothing of CUDA is touched before [`CudaDevice::new`] has found the driver; every call makes the context of its rank
//! current first, so that any thread may call. Several ranks may share a GPU, each with its own streams; their memory is then plain
//! device memory. With several GPUs, each must reach the memory of each other.

use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::sync::Mutex;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use moe_bundle::RankId;

use super::{Address, Device, DeviceError, EventId, FunctionId, Launch, Residency, StreamId, Value};

/// Dynamic shared memory that a kernel may use without asking.
const SHARED_WITHOUT_ASKING: u32 = 48 << 10;

/// Which GPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CudaOptions {
    /// At most so many GPUs; all that there are by default.
    pub gpus: Option<u32>,
}

/// One or more GPUs of this machine with ranks in contiguous blocks on them.
pub struct CudaDevice {
    gpus: Vec<Gpu>,
    /// The GPU of each rank, as a place in `gpus`.
    placement: Vec<usize>,
    objects: Mutex<Objects>,
}

struct Gpu {
    ordinal: u32,
    handle: sys::CUdevice,
    context: sys::CUcontext,
    name: String,
    capability: (i32, i32),
    multiprocessors: u64,
}

/// Driver objects that ids stand for, each with its rank.
#[derive(Default)]
struct Objects {
    modules: Vec<(RankId, sys::CUmodule)>,
    functions: Vec<(RankId, sys::CUfunction)>,
    streams: Vec<(RankId, sys::CUstream)>,
    /// Until the next [`Device::synchronise`].
    events: BTreeMap<u32, (RankId, sys::CUevent)>,
    next_event: u32,
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
    /// When there is no driver, no GPU, or GPUs that cannot reach each other.
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
        let mut device = CudaDevice { gpus: vec![], placement: vec![], objects: Mutex::default() };
        for ordinal in 0..used {
            device.gpus.push(Gpu::open(ordinal)?);
        }
        device.enable_peer_access()?;
        device.placement = (0..ranks).map(|rank| (rank * used / ranks) as usize).collect();
        Ok(device)
    }

    fn enable_peer_access(&self) -> Result<(), DeviceError> {
        for from in &self.gpus {
            for to in self.gpus.iter().filter(|to| to.ordinal != from.ordinal) {
                let mut possible = 0;
                // SAFETY: both handles come from the driver; the result is written before it is read.
                unsafe { sys::cuDeviceCanAccessPeer(&raw mut possible, from.handle, to.handle) }
                    .result()
                    .map_err(failed("ask for peer access"))?;
                if possible == 0 {
                    return Err(DeviceError::NoPeerAccess { from: from.ordinal, to: to.ordinal });
                }
                let mut atomics = 0;
                let attribute = sys::CUdevice_P2PAttribute::CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED;
                // SAFETY: as above.
                unsafe { sys::cuDeviceGetP2PAttribute(&raw mut atomics, attribute, from.handle, to.handle) }
                    .result()
                    .map_err(failed("ask for peer atomics"))?;
                if atomics == 0 {
                    return Err(DeviceError::NoPeerAtomics { from: from.ordinal, to: to.ordinal });
                }
                from.enter()?;
                // SAFETY: a retained primary context.
                match unsafe { sys::cuCtxEnablePeerAccess(to.context, 0) } {
                    sys::CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED => {}
                    other => other.result().map_err(failed("enable peer access"))?,
                }
            }
        }
        Ok(())
    }

    fn gpu(&self, rank: RankId) -> Result<&Gpu, DeviceError> {
        let place = self.placement.get(rank.index());
        place.map(|&gpu| &self.gpus[gpu]).ok_or(DeviceError::Unknown { what: "rank", id: rank.0.into() })
    }

    /// Makes the context of a rank current.
    fn enter(&self, rank: RankId) -> Result<&Gpu, DeviceError> {
        let gpu = self.gpu(rank)?;
        gpu.enter()?;
        Ok(gpu)
    }

    fn destroy_events(&self) {
        let events = std::mem::take(&mut self.objects().events);
        for (rank, event) in events.into_values() {
            if self.enter(rank).is_ok() {
                // An error while tearing down has nobody to tell.
                // SAFETY: made by the driver in the context of its rank, destroyed once.
                let _ = unsafe { result::event::destroy(event) };
            }
        }
    }

    fn objects(&self) -> std::sync::MutexGuard<'_, Objects> {
        // A poisoned table is still a table of valid ids: entries are pushed whole.
        self.objects.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn function(&self, id: FunctionId) -> Result<(RankId, sys::CUfunction), DeviceError> {
        look_up(&self.objects().functions, "function", id.0)
    }

    fn find_stream(&self, id: StreamId) -> Result<(RankId, sys::CUstream), DeviceError> {
        look_up(&self.objects().streams, "stream", id.0)
    }
}

fn look_up<T: Copy>(table: &[T], what: &'static str, id: u32) -> Result<T, DeviceError> {
    table.get(id as usize).copied().ok_or(DeviceError::Unknown { what, id: id.into() })
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

impl Gpu {
    fn open(ordinal: u32) -> Result<Gpu, DeviceError> {
        use sys::CUdevice_attribute as Attribute;
        let handle = result::device::get(ordinal as i32).map_err(failed(format!("open GPU {ordinal}")))?;
        let attribute = |attribute| {
            // SAFETY: the handle comes from the driver.
            unsafe { result::device::get_attribute(handle, attribute) }.map_err(failed("ask for an attribute"))
        };
        let capability = (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.max(0) as u64;
        let name = result::device::get_name(handle).map_err(failed("ask for the name"))?;
        // SAFETY: the handle comes from the driver; released when the device is dropped.
        let context = unsafe { result::primary_ctx::retain(handle) }.map_err(failed("make a context"))?;
        Ok(Gpu { ordinal, handle, context, name, capability, multiprocessors })
    }

    fn enter(&self) -> Result<(), DeviceError> {
        // SAFETY: a retained primary context.
        unsafe { result::ctx::set_current(self.context) }.map_err(failed("enter a context"))
    }
}

impl Device for CudaDevice {
    fn description(&self) -> String {
        let name = &self.gpus[0].name;
        format!("{} ranks on {} × {name}", self.placement.len(), self.gpus.len())
    }

    fn ranks(&self) -> u32 {
        self.placement.len() as u32
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
        self.enter(rank)?;
        // SAFETY: a context is current; the memory is read only after it was written.
        let address = unsafe { result::malloc_sync(bytes as usize) };
        address.map(Address).map_err(failed(format!("{rank}: allocate {bytes} bytes for {name}")))
    }

    fn free(&self, rank: RankId, address: Address) {
        if self.enter(rank).is_ok() {
            // Freeing waits for the device. An error here is that of an earlier launch and is reported by the next call.
            // SAFETY: the address comes from `allocate` and is freed once, by its owner.
            let _ = unsafe { result::free_sync(address.0) };
        }
    }

    fn write(&self, rank: RankId, address: Address, bytes: &[u8]) -> Result<(), DeviceError> {
        self.synchronise()?;
        self.enter(rank)?;
        // SAFETY: the address was allocated with at least so many bytes; the copy is done when the call returns.
        unsafe { result::memcpy_htod_sync(address.0, bytes) }.map_err(failed("copy to the GPU"))
    }

    fn read(&self, rank: RankId, address: Address, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.synchronise()?;
        self.enter(rank)?;
        // SAFETY: as above.
        unsafe { result::memcpy_dtoh_sync(bytes, address.0) }.map_err(failed("copy from the GPU"))
    }

    fn load(&self, rank: RankId, ptx: &str, name: &str) -> Result<FunctionId, DeviceError> {
        self.enter(rank)?;
        let not_text = |_| DeviceError::Ptx { problem: "the text has a zero byte".into() };
        let (text, entry) = (CString::new(ptx).map_err(not_text)?, CString::new(name).map_err(not_text)?);
        // SAFETY: the image is text with a zero at its end.
        let module = unsafe { result::module::load_data(text.as_ptr().cast()) };
        let module = module.map_err(|error| DeviceError::Ptx { problem: failed(name)(error).to_string() })?;
        // SAFETY: a loaded module.
        let function = unsafe { result::module::get_function(module, entry) };
        let mut objects = self.objects();
        objects.modules.push((rank, module));
        let function = function.map_err(|_| DeviceError::NoKernel { name: name.into() })?;
        objects.functions.push((rank, function));
        Ok(FunctionId(objects.functions.len() as u32 - 1))
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
        let ranks = self.placement.iter().filter(|&&other| other == place).count() as u32;
        Ok(Residency { ctas: each * gpu.multiprocessors, ranks })
    }

    fn stream(&self, rank: RankId) -> Result<StreamId, DeviceError> {
        self.enter(rank)?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking);
        let mut objects = self.objects();
        objects.streams.push((rank, stream.map_err(failed("make a stream"))?));
        Ok(StreamId(objects.streams.len() as u32 - 1))
    }

    fn launch(&self, stream: StreamId, launch: &Launch) -> Result<(), DeviceError> {
        let (rank, stream) = self.find_stream(stream)?;
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
        // SAFETY: the driver copies the arguments before it returns; their number and sizes are those of the kernel's parameters, which
        // the compiler derived from the same list.
        unsafe { result::launch_kernel(function, grid, block, launch.shared, stream, &mut pointers) }
            .map_err(failed(format!("{rank}: launch")))
    }

    fn record(&self, stream: StreamId) -> Result<EventId, DeviceError> {
        let (rank, stream) = self.find_stream(stream)?;
        self.enter(rank)?;
        let event =
            result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).map_err(failed("make an event"))?;
        let mut objects = self.objects();
        let id = objects.next_event;
        objects.next_event = id.wrapping_add(1);
        objects.events.insert(id, (rank, event));
        // SAFETY: both were made by the driver and live.
        unsafe { result::event::record(event, stream) }.map_err(failed("record an event"))?;
        Ok(EventId(id))
    }

    fn wait(&self, stream: StreamId, event: EventId) -> Result<(), DeviceError> {
        let (rank, stream) = self.find_stream(stream)?;
        let found = self.objects().events.get(&event.0).copied();
        let (_, event) = found.ok_or(DeviceError::Unknown { what: "event", id: event.0.into() })?;
        self.enter(rank)?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both were made by the driver and live.
        unsafe { result::stream::wait_event(stream, event, flags) }.map_err(failed("wait for an event"))
    }

    fn synchronise(&self) -> Result<(), DeviceError> {
        let streams = self.objects().streams.clone();
        for (rank, stream) in streams {
            self.enter(rank)?;
            // SAFETY: made by the driver, lives as long as this device.
            unsafe { result::stream::synchronize(stream) }.map_err(|error| {
                let report = failed(format!("{rank}: a kernel failed"))(error).to_string();
                DeviceError::Fault { report }
            })?;
        }
        self.destroy_events();
        Ok(())
    }

    fn abandon(&self) -> Result<(), DeviceError> {
        // Every wait has a deadline, so that launches end by themselves.
        self.synchronise()
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        self.destroy_events();
        let objects = std::mem::take(&mut *self.objects());
        // Errors while tearing down have nobody to tell.
        // SAFETY (all of these): each object was made by the driver in the context of its rank and is destroyed once.
        for (rank, stream) in objects.streams {
            if self.enter(rank).is_ok() {
                let _ = unsafe { result::stream::destroy(stream) };
            }
        }
        for (rank, module) in objects.modules {
            if self.enter(rank).is_ok() {
                let _ = unsafe { result::module::unload(module) };
            }
        }
        for gpu in &self.gpus {
            let _ = unsafe { result::primary_ctx::release(gpu.handle) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
