//! From a program to native code.
//!
//! The code runs over a batch, one token after the other, four elements of a vector at once. Vectors lie in scratch memory
//! ([`layout`]), scalars in registers, in all four lanes. Operations element by element are not computed when they are met but when
//! something needs them, so that one pass over memory does as many of them as possible. A token with a fault ends the run; which fault it is,
//! the interpreter says.

mod choose;
mod emit;
mod layout;
mod program;
mod reduce;
mod wide;

use emit::Needs;

use cranelift_codegen::ir::{AbiParam, types};
use cranelift_codegen::settings::{self, Configurable};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{Linkage, Module, default_libcall_names};
use moe_gate::ir::{Program, ValueId};

use crate::CompileError;

/// What code returns of a token.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Results {
    /// A choice, and numbers for each of its experts that must not be NaN.
    Routing {
        choice: ValueId,
        weights: ValueId,
    },
    Vector(ValueId),
}

/// Tensors of the inputs, constants, scratch memory, the two results (the second of [`Results::Routing`] only), tokens → the first token with a
/// fault, or the number of tokens.
type Entry = unsafe extern "C" fn(*const *const u8, *const u8, *mut u8, *mut u8, *mut u8, u64) -> u64;

/// A program as native code.
pub(crate) struct Code {
    entry: Entry,
    needs: Needs,
    /// Owns the memory of `entry`; `None` only while it is dropped.
    module: Option<JITModule>,
}

// SAFETY: after it has been finalized the module is only kept to be freed; the code is immutable and keeps nothing between calls.
unsafe impl Send for Code {}
// SAFETY: as above.
unsafe impl Sync for Code {}

impl Drop for Code {
    fn drop(&mut self) {
        if let Some(module) = self.module.take() {
            // SAFETY: `entry` is private and is called only through a borrow of `self`, which has ended.
            unsafe { module.free_memory() }
        }
    }
}

fn failed(error: impl std::fmt::Display) -> CompileError {
    CompileError::Generator(error.to_string())
}

impl Code {
    pub(crate) fn compile(program: &Program, results: Results) -> Result<Code, CompileError> {
        let mut flags = settings::builder();
        // See `wide`.
        flags.set("opt_level", "none").map_err(failed)?;
        flags.set("enable_verifier", if cfg!(debug_assertions) { "true" } else { "false" }).map_err(failed)?;
        let isa = cranelift_native::builder().map_err(|reason| CompileError::Machine(reason.to_owned()))?;
        let isa = isa.finish(settings::Flags::new(flags)).map_err(failed)?;
        let mut module = JITModule::new(JITBuilder::with_isa(isa, default_libcall_names()));

        let mut context = module.make_context();
        let pointer = module.target_config().pointer_type();
        if pointer != types::I64 {
            return Err(CompileError::Machine("addresses do not have 64 bits".to_owned()));
        }
        context.func.signature.params = vec![AbiParam::new(types::I64); 6];
        context.func.signature.returns.push(AbiParam::new(types::I64));
        let mut scratch = FunctionBuilderContext::new();
        let builder = FunctionBuilder::new(&mut context.func, &mut scratch);
        let needs = program::emit(builder, module.target_config(), program, results);

        let id = module.declare_function("gate", Linkage::Export, &context.func.signature).map_err(failed)?;
        module.define_function(id, &mut context).map_err(|error| failed(format!("{error:?}")))?;
        module.clear_context(&mut context);
        module.finalize_definitions().map_err(failed)?;
        // SAFETY: the function was defined with this signature, and the module that owns it is kept.
        let entry = unsafe { std::mem::transmute::<*const u8, Entry>(module.get_finalized_function(id)) };
        Ok(Code { entry, needs, module: Some(module) })
    }

    /// Memory that [`Code::run`] needs.
    pub(crate) fn scratch(&self) -> Vec<u128> {
        vec![0; self.needs.scratch_bytes.div_ceil(16)]
    }

    /// Runs over `tokens` tokens. Returns the first with a fault; the results of those before it are written.
    ///
    /// # Safety
    /// `inputs` has an address for each input of the program, each of as many numbers as it has for `tokens` tokens; the results are
    /// as large as those of `tokens` tokens (the second may be null if there is one). `scratch` is from [`Code::scratch`].
    pub(crate) unsafe fn run(
        &self,
        inputs: &[*const u8],
        scratch: &mut [u128],
        results: (*mut u8, *mut u8),
        tokens: usize,
    ) -> Option<usize> {
        assert!(scratch.len() * 16 >= self.needs.scratch_bytes, "scratch memory of this gate");
        let constants = self.needs.constants.as_ptr().cast();
        // SAFETY: the caller's promise; the code accesses nothing else.
        let end = unsafe {
            (self.entry)(inputs.as_ptr(), constants, scratch.as_mut_ptr().cast(), results.0, results.1, tokens as u64)
        };
        let end = end as usize;
        (end < tokens).then_some(end)
    }
}
