//! One GPU: its context, and what it must be able to do for others.

use std::ffi::CString;

use cudarc::driver::result;
use cudarc::driver::sys;

use super::failed;
use crate::device::DeviceError;

/// A GPU with its primary context.
pub(super) struct Gpu {
    pub ordinal: u32,
    handle: sys::CUdevice,
    context: sys::CUcontext,
    pub name: String,
    pub capability: (i32, i32),
    pub multiprocessors: u64,
}

impl Gpu {
    pub fn open(ordinal: u32) -> Result<Gpu, DeviceError> {
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
        // SAFETY: the handle comes from the driver; released when the GPU is dropped.
        let context = unsafe { result::primary_ctx::retain(handle) }.map_err(failed("make a context"))?;
        Ok(Gpu { ordinal, handle, context, name, capability, multiprocessors })
    }

    /// Makes its context current.
    pub fn enter(&self) -> Result<(), DeviceError> {
        // SAFETY: a retained primary context.
        unsafe { result::ctx::set_current(self.context) }.map_err(failed("enter a context"))
    }

    /// Whether it has something; a driver that does not know what is asked has not got it.
    pub fn has(&self, attribute: sys::CUdevice_attribute) -> bool {
        // SAFETY: the handle comes from the driver.
        unsafe { result::device::get_attribute(self.handle, attribute) }.is_ok_and(|found| found != 0)
    }

    /// By which every process knows it.
    pub fn identity(&self) -> Result<String, DeviceError> {
        identity(self.handle)
    }

    /// Whether kernels of this GPU can write to, and add to, the memory of another one of this machine, which this process need not have opened.
    pub fn can_reach_identity(&self, other: &str) -> Result<bool, DeviceError> {
        if self.identity()? == other {
            return Ok(true);
        }
        let count = result::device::get_count().map_err(failed("count GPUs"))?;
        for ordinal in 0..count {
            let handle = result::device::get(ordinal).map_err(failed(format!("open GPU {ordinal}")))?;
            if identity(handle)? == other {
                self.can_reach(handle, ordinal as u32)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn can_reach(&self, to: sys::CUdevice, ordinal: u32) -> Result<(), DeviceError> {
        let mut possible = 0;
        // SAFETY: both handles come from the driver; the result is written before it is read.
        unsafe { sys::cuDeviceCanAccessPeer(&raw mut possible, self.handle, to) }
            .result()
            .map_err(failed("ask for peer access"))?;
        if possible == 0 {
            return Err(DeviceError::NoPeerAccess { from: self.ordinal, to: ordinal });
        }
        let mut atomics = 0;
        let attribute = sys::CUdevice_P2PAttribute::CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED;
        // SAFETY: as above.
        unsafe { sys::cuDeviceGetP2PAttribute(&raw mut atomics, attribute, self.handle, to) }
            .result()
            .map_err(failed("ask for peer atomics"))?;
        if atomics == 0 {
            return Err(DeviceError::NoPeerAtomics { from: self.ordinal, to: ordinal });
        }
        Ok(())
    }

    /// Lets kernels of this GPU write to, and add to, the memory of another.
    pub fn reach(&self, to: &Gpu) -> Result<(), DeviceError> {
        self.can_reach(to.handle, to.ordinal)?;
        self.enter()?;
        // SAFETY: a retained primary context.
        match unsafe { sys::cuCtxEnablePeerAccess(to.context, 0) } {
            sys::CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED => Ok(()),
            other => other.result().map_err(failed("enable peer access")),
        }
    }

    /// Loads machine code, or compiles the PTX where there is none or the driver is older than it. The error has what the driver's assembler says.
    pub fn load(&self, cubin: Option<&[u8]>, ptx: &str) -> Result<sys::CUmodule, DeviceError> {
        self.enter()?;
        cubin.and_then(|cubin| self.take(cubin)).map_or_else(|| self.compile(ptx), Ok)
    }

    /// Nothing if the driver does not take it.
    fn take(&self, cubin: &[u8]) -> Option<sys::CUmodule> {
        let mut module = std::ptr::null_mut();
        // SAFETY: the image is a whole ELF file, whose header and hash were checked when its bundle was read; the context is current.
        unsafe { sys::cuModuleLoadData(&raw mut module, cubin.as_ptr().cast()) }.result().ok()?;
        Some(module)
    }

    fn compile(&self, ptx: &str) -> Result<sys::CUmodule, DeviceError> {
        const LOG_BYTES: usize = 4096;
        let text = CString::new(ptx).map_err(|_| DeviceError::Ptx { problem: "the text has a zero byte".into() })?;
        let mut log = vec![0u8; LOG_BYTES];
        let mut options =
            [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        let mut values = [log.as_mut_ptr().cast(), LOG_BYTES as *mut std::ffi::c_void];
        let mut module = std::ptr::null_mut();
        // SAFETY: the image is text with a zero at its end; the log has as many bytes as the options say and outlives the call.
        let status = unsafe {
            sys::cuModuleLoadDataEx(
                &raw mut module,
                text.as_ptr().cast(),
                options.len() as u32,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        status.result().map(|()| module).map_err(|error| {
            let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
            let log = String::from_utf8_lossy(&log[..end]);
            DeviceError::Ptx { problem: format!("{}\n{}", failed("compile")(error), log.trim_end()) }
        })
    }
}

fn identity(handle: sys::CUdevice) -> Result<String, DeviceError> {
    let uuid = result::device::get_uuid(handle).map_err(failed("ask for the identity of a GPU"))?;
    Ok(uuid.bytes.iter().map(|&byte| format!("{:02x}", byte as u8)).collect())
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // An error while tearing down has nobody to tell.
        // SAFETY: retained once by `open`.
        let _ = unsafe { result::primary_ctx::release(self.handle) };
    }
}
