//! PTX that is ready to run. Parsing is strict: what this crate does not know is an error with its line.

use std::sync::Arc;

use crate::decode::Refused;
use crate::decode::op::{KernelCode, Parameter, Program};
use crate::decode::stubs::Stub;
use crate::names::demangled;
use crate::ptx::PtxError;
use crate::ptx::ast::VariableSpace;

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

    /// As [`Module::parse`], of the kernels that this crate knows every instruction of; an instruction that it does not know concerns only
    /// the kernels that have it, which are told with the reason.
    ///
    /// # Errors
    /// What is wrong with the module itself.
    pub fn parse_supported(ptx: &str) -> Result<(Module, Vec<Refused>), PtxError> {
        Module::parse_with(ptx, &[])
    }

    /// As [`Module::parse_supported`]; stubs stand in the place of functions that the module declares and does not define.
    ///
    /// # Errors
    /// What is wrong with the module itself.
    pub fn parse_with(ptx: &str, stubs: &[Stub]) -> Result<(Module, Vec<Refused>), PtxError> {
        let (program, refused) = crate::decode::supported(ptx, stubs)?;
        Ok((Module { program: Arc::new(program) }, refused))
    }

    /// The kernel (`.entry`) with this name, as the PTX or as its source calls it.
    pub fn kernel(&self, name: &str) -> Option<Kernel> {
        let kernels = &self.program.kernels;
        let index = kernels.iter().position(|kernel| kernel.name == name);
        let index = index.or_else(|| kernels.iter().position(|kernel| demangled(&kernel.name) == name))?;
        Some(Kernel { module: self.clone(), index })
    }

    /// Bytes of a variable in global or constant memory.
    pub(crate) fn variable_bytes(&self, name: &str) -> Option<u64> {
        let device = |space| matches!(space, VariableSpace::Global | VariableSpace::Const);
        let named = |other: &str| other == name || demangled(other) == name;
        let mut variables = self.program.variables.iter();
        variables.find(|variable| device(variable.space) && named(&variable.name)).map(|variable| variable.bytes)
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

    /// Functions that the kernel calls and the module only declares, with the lines of the calls. To reach such a call ends the run.
    pub fn missing_functions(&self) -> &[(u32, String)] {
        &self.code().missing
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
