//! The GPUs of this machine.

use moe_front::spec::Target;
use moe_runtime::{CudaDevice, CudaOptions, Device, DeviceError};

/// What they run, whatever a file's cluster has; none if they run nothing that there is.
pub fn target() -> Result<Option<Target>, DeviceError> {
    let device = CudaDevice::new(1, &CudaOptions::default())?;
    let known = Target::ALL.map(Target::text);
    let chosen = device.choose_target(&known);
    Ok(Target::ALL.into_iter().find(|target| Some(target.text()) == chosen))
}
