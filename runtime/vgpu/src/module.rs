//! PTX that is ready to run. Parsing is strict: what this crate does not know is an error with its line.

use std::sync::Arc;

use crate::decode::op::{KernelCode, Parameter, Program};
use crate::ptx::PtxError;

/// A PTX module: parsed and decoded once, launched many times, on any cluster.
#[derive(Clone)]
pub struct Module {
    pub(crate) program: Arc<Program>,
}

impl Module {
    /// Parses and decodes PTX text.
    ///
    /// # Errors
    /// The first construct or instruction that is not PTX as this crate knows it, with its line.
    pub fn parse(ptx: &str) -> Result<Module, PtxError> {
        Ok(Module { program: Arc::new(crate::decode::module(ptx)?) })
    }

    /// The kernel (`.entry`) with this name.
    pub fn kernel(&self, name: &str) -> Option<Kernel> {
        let index = self.program.kernels.iter().position(|kernel| kernel.name == name)?;
        Some(Kernel { module: self.clone(), index })
    }

    /// Names of all kernels, in the order of the text.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.program.kernels.iter().map(|kernel| kernel.name.as_str())
    }
}

impl std::fmt::Debug for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.kernels()).finish()
    }
}

/// A kernel of a module.
#[derive(Clone)]
pub struct Kernel {
    pub(crate) module: Module,
    pub(crate) index: usize,
}

impl Kernel {
    pub(crate) fn code(&self) -> &KernelCode {
        &self.module.program.kernels[self.index]
    }

    /// Name in the PTX.
    pub fn name(&self) -> &str {
        &self.code().name
    }

    /// Parameters in order.
    pub fn parameters(&self) -> &[Parameter] {
        &self.code().parameters
    }

    /// Shared memory in bytes that the kernel declares itself.
    pub fn static_shared(&self) -> u32 {
        self.code().shared_static - crate::decode::op::SHARED_BASE
    }
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Kernel").field(&self.name()).finish()
    }
}
