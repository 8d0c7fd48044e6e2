//! Memory of a GPU that other processes map too: made by the driver's calls for virtual memory, handed on as open files.
//!
//! Invariant: a mapping is of whole steps, the same on every GPU, so that who maps it needs to know its bytes alone. The driver keeps the memory
//! for as long as any process has it mapped or its file open.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use cudarc::driver::sys;

use super::failed;
use super::gpu::Gpu;
use crate::device::DeviceError;

/// What sizes are rounded up to.
const STEP: u64 = 2 << 20;

const FILE: sys::CUmemAllocationHandleType = sys::CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;

/// Memory that this process has mapped.
#[derive(Debug)]
pub(super) struct Mapping {
    pub address: u64,
    size: usize,
}

fn properties(gpu: &Gpu) -> sys::CUmemAllocationProp {
    // SAFETY: a structure of C for which zero is a value of every member that is not set below.
    let mut properties: sys::CUmemAllocationProp = unsafe { std::mem::zeroed() };
    properties.type_ = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.requestedHandleTypes = FILE;
    properties.location = location(gpu);
    properties
}

fn location(gpu: &Gpu) -> sys::CUmemLocation {
    sys::CUmemLocation { type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE, id: gpu.ordinal as i32 }
}

/// Refuses a GPU or driver that cannot share memory so.
pub(super) fn expect(gpu: &Gpu) -> Result<(), DeviceError> {
    use sys::CUdevice_attribute as Attribute;
    for (attribute, what) in [
        (Attribute::CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, "management of virtual memory"),
        (Attribute::CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED, "memory that is a file"),
    ] {
        if !gpu.has(attribute) {
            return Err(DeviceError::NoSharedMemory { gpu: gpu.ordinal, what: what.into() });
        }
    }
    let (properties, mut granularity) = (properties(gpu), 0);
    let option = sys::CUmemAllocationGranularity_flags::CU_MEM_ALLOC_GRANULARITY_MINIMUM;
    // SAFETY: the result is written before it is read.
    unsafe { sys::cuMemGetAllocationGranularity(&raw mut granularity, &raw const properties, option) }
        .result()
        .map_err(failed("ask for the granularity of memory"))?;
    if granularity == 0 || !STEP.is_multiple_of(granularity as u64) {
        let what = format!("memory in steps of {STEP} bytes: its steps have {granularity}");
        return Err(DeviceError::NoSharedMemory { gpu: gpu.ordinal, what });
    }
    Ok(())
}

/// New memory, and the file of which others map it. Makes the GPU's context current.
pub(super) fn allocate(gpu: &Gpu, bytes: u64) -> Result<(Mapping, OwnedFd), DeviceError> {
    gpu.enter()?;
    let size = bytes.next_multiple_of(STEP) as usize;
    let (properties, mut handle) = (properties(gpu), 0);
    // SAFETY: the handle is written before it is read.
    unsafe { sys::cuMemCreate(&raw mut handle, size, &raw const properties, 0) }
        .result()
        .map_err(failed(format!("allocate {bytes} bytes of shared memory")))?;
    let mut file = -1;
    // SAFETY: the handle was made above; a file descriptor has the size of an int.
    let exported = unsafe { sys::cuMemExportToShareableHandle((&raw mut file).cast(), handle, FILE, 0) }.result();
    let made = exported.map_err(failed("export memory")).and_then(|()| {
        // SAFETY: the driver has opened it for this process, which alone has it.
        let file = unsafe { OwnedFd::from_raw_fd(file) };
        Ok((map(gpu, handle, size)?, file))
    });
    release(handle);
    made
}

/// Memory that another process has exported. Makes the GPU's context current.
pub(super) fn import(gpu: &Gpu, file: &OwnedFd, bytes: u64) -> Result<Mapping, DeviceError> {
    gpu.enter()?;
    let mut handle = 0;
    let descriptor = file.as_raw_fd() as usize as *mut std::ffi::c_void;
    // SAFETY: an open file; the handle is written before it is read.
    unsafe { sys::cuMemImportFromShareableHandle(&raw mut handle, descriptor, FILE) }
        .result()
        .map_err(failed("import memory of another process"))?;
    let mapped = map(gpu, handle, bytes.next_multiple_of(STEP) as usize);
    release(handle);
    mapped
}

/// What is mapped, or a file, keeps the memory.
fn release(handle: sys::CUmemGenericAllocationHandle) {
    // An error while tearing down has nobody to tell.
    // SAFETY: made by the driver, released once.
    let _ = unsafe { sys::cuMemRelease(handle) }.result();
}

fn map(gpu: &Gpu, handle: sys::CUmemGenericAllocationHandle, size: usize) -> Result<Mapping, DeviceError> {
    let mut address = 0;
    // SAFETY: the address is written before it is read.
    unsafe { sys::cuMemAddressReserve(&raw mut address, size, 0, 0, 0) }
        .result()
        .map_err(failed("reserve addresses"))?;
    // SAFETY: reserved above, of the size of the memory.
    let mapped = unsafe { sys::cuMemMap(address, size, 0, handle, 0) }.result();
    if let Err(error) = mapped {
        // SAFETY: reserved above, and nothing is mapped there.
        let _ = unsafe { sys::cuMemAddressFree(address, size) }.result();
        return Err(failed("map memory")(error));
    }
    let mapping = Mapping { address, size };
    let access = sys::CUmemAccessDesc {
        location: location(gpu),
        flags: sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
    };
    // SAFETY: mapped above.
    match unsafe { sys::cuMemSetAccess(address, size, &raw const access, 1) }.result() {
        Ok(()) => Ok(mapping),
        Err(error) => {
            unmap(mapping);
            Err(failed(format!("let GPU {} reach shared memory", gpu.ordinal))(error))
        }
    }
}

/// Nothing uses it any more.
#[expect(clippy::needless_pass_by_value, reason = "it is gone after this")]
pub(super) fn unmap(mapping: Mapping) {
    let Mapping { address, size } = mapping;
    // Errors while tearing down have nobody to tell.
    // SAFETY: mapped by `map`, unmapped once.
    let _ = unsafe { sys::cuMemUnmap(address, size) }.result();
    // SAFETY: reserved by `map`, freed once.
    let _ = unsafe { sys::cuMemAddressFree(address, size) }.result();
}
