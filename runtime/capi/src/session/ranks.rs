//! The ranks of a bundle, or those of this process.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use moe_bundle::Bundle;
use moe_contract::Exchange;
use moe_runtime::node::{NodeDevice, NodeOptions};
use moe_runtime::{Bootstrap, CudaDevice, CudaOptions, Device, Error, Policy, VirtualDevice, VirtualOptions, World};

use crate::failure::{Failure, Result};

/// Reads a bundle.
///
/// # Errors
/// When there is none, or not of this version.
pub fn open_bundle(path: &Path) -> Result<Bundle> {
    Bundle::read(path).map_err(|problem| Failure::Bundle { path: path.into(), problem })
}

/// What the ranks of a world are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hardware {
    /// Virtual GPUs in this process; the seed chooses a schedule, 0 the plain one.
    Virtual {
        /// Of the schedule.
        seed: u64,
    },
    /// GPUs of this machine, through the CUDA driver.
    Cuda,
}

/// What the ranks of this process are, in a world whose others are in other processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Membership {
    /// Virtual GPUs of a node.
    Virtual(NodeOptions),
    /// Ranks on one GPU, by the driver's number of it.
    Cuda {
        /// Of this process.
        mine: Range<u32>,
        /// The GPU.
        gpu: u32,
    },
}

/// The ranks of a bundle that are in this process.
#[derive(Clone)]
pub struct Ranks {
    pub(super) world: Arc<World>,
    /// Where there are GPUs.
    pub(super) cuda: Option<Arc<CudaDevice>>,
    /// Where ranks are virtual GPUs of a node.
    pub(super) node: Option<Arc<NodeDevice>>,
}

impl Ranks {
    /// Makes the ranks and loads the kernels.
    ///
    /// # Errors
    /// When the bundle does not fit the hardware.
    pub fn new(bundle: &Bundle, hardware: Hardware) -> Result<Ranks> {
        let ranks = bundle.manifest().exchange.ranks;
        let (device, cuda): (Arc<dyn Device>, _) = match hardware {
            Hardware::Virtual { seed } => {
                let policy = if seed == 0 { Policy::RoundRobin } else { Policy::Random };
                let options = VirtualOptions { policy, seed, ..VirtualOptions::default() };
                (Arc::new(VirtualDevice::new(ranks, &options).map_err(Error::from)?), None)
            }
            Hardware::Cuda => {
                let device = Arc::new(CudaDevice::new(ranks, &CudaOptions::default()).map_err(Error::from)?);
                (Arc::<CudaDevice>::clone(&device), Some(device))
            }
        };
        Ok(Ranks { world: World::new(device, bundle)?, cuda, node: None })
    }

    /// The ranks of this process, of a world whose others are in other processes: all of them call this together, each with its part.
    ///
    /// # Errors
    /// Who did not come; when the bundle does not fit, or is not the same everywhere.
    pub fn join(bundle: &Bundle, bootstrap: Arc<dyn Bootstrap>, membership: &Membership) -> Result<Ranks> {
        let (device, cuda, node): (Arc<dyn Device>, _, _) = match membership {
            Membership::Virtual(node) => {
                let device = Arc::new(NodeDevice::attach(node).map_err(Error::from)?);
                (Arc::<NodeDevice>::clone(&device), None, Some(device))
            }
            Membership::Cuda { mine, gpu } => {
                let ranks = bundle.manifest().exchange.ranks;
                let device = CudaDevice::of_process(ranks, mine.clone(), *gpu, &CudaOptions::default());
                let device = Arc::new(device.map_err(Error::from)?);
                (Arc::<CudaDevice>::clone(&device), Some(device), None)
            }
        };
        Ok(Ranks { world: World::join(bootstrap, device, bundle)?, cuda, node })
    }

    /// Those of this process.
    pub fn mine(&self) -> Range<u32> {
        self.world.mine()
    }

    /// The numbers of the bundle.
    pub fn exchange(&self) -> &Exchange {
        self.world.exchange()
    }

    /// Makes all of them usable again after an error. No communicator may be in a call.
    ///
    /// # Errors
    /// When the device is lost.
    pub fn recover(&self) -> Result<()> {
        Ok(self.world.recover()?)
    }
}
