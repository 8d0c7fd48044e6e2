//! Device code to PTX text, in this process.
//!
//! Invariants:
//! * a module is verified before it reaches LLVM, whose own errors would end the process;
//! * the text depends on the device code and the [`Target`] only: no file, no environment, no other kernel;
//! * any number of threads may translate at the same time; none shares an MLIR context with another.

mod error;
mod llvm;
mod translate;

pub use error::PtxError;

use std::fmt;
use std::str::FromStr;

use crate::device::DeviceCode;

/// A GPU architecture that kernels are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Chip {
    /// Hopper.
    Sm90a,
    /// Blackwell, data centre.
    Sm100a,
}

impl Chip {
    pub const ALL: [Chip; 2] = [Chip::Sm90a, Chip::Sm100a];

    /// As `ptxas -arch` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Chip::Sm90a => "sm_90a",
            Chip::Sm100a => "sm_100a",
        }
    }
}

impl fmt::Display for Chip {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Chip {
    type Err = PtxError;

    fn from_str(name: &str) -> Result<Chip, PtxError> {
        let found = Chip::ALL.into_iter().find(|chip| chip.name() == name);
        found.ok_or_else(|| PtxError::UnknownChip { name: name.into() })
    }
}

/// The language version of the text. A driver refuses text newer than itself, so that this is as low as the instructions allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PtxVersion {
    /// 8 of 8.6.
    pub major: u32,
    /// 6 of 8.6.
    pub minor: u32,
}

impl PtxVersion {
    /// The first one that knows both chips.
    pub const LOWEST: PtxVersion = PtxVersion { major: 8, minor: 6 };
}

impl fmt::Display for PtxVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

/// What text is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The architecture.
    pub chip: Chip,
    /// The language version.
    pub version: PtxVersion,
}

impl Target {
    /// A chip with the lowest version.
    pub fn of(chip: Chip) -> Target {
        Target { chip, version: PtxVersion::LOWEST }
    }
}

impl DeviceCode {
    /// Its PTX. About ten milliseconds.
    ///
    /// # Errors
    /// When MLIR or LLVM refuses it, which is a bug of the kernel or of the builder.
    pub fn ptx(&self, target: Target) -> Result<String, PtxError> {
        translate::ptx(self, target)
    }

    /// Its module as MLIR text.
    pub fn mlir(&self, target: Target) -> String {
        translate::module(self, target)
    }

    /// The LLVM IR before LLVM optimises it.
    ///
    /// # Errors
    /// When MLIR refuses it, which is a bug of the kernel or of the builder.
    pub fn llvm(&self, target: Target) -> Result<String, PtxError> {
        translate::llvm(self, target)
    }
}

/// The PTX of many kernels, on all cores, in their order.
///
/// # Errors
/// That of the first kernel that has one.
pub fn all(kernels: &[DeviceCode], target: Target) -> Result<Vec<String>, PtxError> {
    use rayon::prelude::*;
    kernels.par_iter().map(|code| code.ptx(target)).collect()
}
