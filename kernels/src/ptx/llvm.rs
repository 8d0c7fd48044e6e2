//! LLVM IR of one kernel, and what LLVM makes of it.
//!
//! Invariant: a module is verified before passes or the code generator see it; their own checks would end the process.
//!
//! The pipeline is short on purpose. Kernels come from a builder that emits what it means: there is nothing to inline, unroll or
//! vectorise, and LLVM's standard pipeline takes four times as long for the same registers.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::Once;

use melior::ir::OperationRef;
use mlir_sys::{
    LLVMContextCreate, LLVMContextDispose, LLVMContextRef, LLVMDisposeMemoryBuffer, LLVMDisposeMessage,
    LLVMDisposeModule, LLVMGetBufferSize, LLVMGetBufferStart, LLVMMemoryBufferRef, LLVMModuleRef,
    LLVMPrintModuleToString, LLVMSetDataLayout, LLVMSetTarget, mlirTranslateModuleToLLVMIR,
};

use super::Target;

const TRIPLE: &CStr = c"nvptx64-nvidia-cuda";
const PASSES: &CStr =
    c"function(sroa,early-cse<memssa>,simplifycfg,instcombine<no-verify-fixpoint>,loop-mssa(licm),early-cse<memssa>,simplifycfg)";

/// `LLVMCodeGenLevelDefault`, `LLVMRelocDefault`, `LLVMCodeModelDefault`, `LLVMAssemblyFile`, `LLVMReturnStatusAction`.
const DEFAULT_LEVEL: c_int = 2;
const DEFAULT_RELOCATION: c_int = 0;
const DEFAULT_CODE_MODEL: c_int = 0;
const ASSEMBLY: c_int = 0;
const RETURN_STATUS: c_int = 2;

// Parts of LLVM's C interface that the bindings of MLIR leave out; signatures as in llvm-c/Target.h, TargetMachine.h, Analysis.h, Error.h,
// Core.h and Transforms/PassBuilder.h of LLVM 22.
unsafe extern "C" {
    fn LLVMInitializeNVPTXTargetInfo();
    fn LLVMInitializeNVPTXTarget();
    fn LLVMInitializeNVPTXTargetMC();
    fn LLVMInitializeNVPTXAsmPrinter();
    fn LLVMGetTargetFromTriple(triple: *const c_char, target: *mut *mut c_void, error: *mut *mut c_char) -> c_int;
    fn LLVMCreateTargetMachine(
        target: *mut c_void,
        triple: *const c_char,
        cpu: *const c_char,
        features: *const c_char,
        level: c_int,
        relocation: c_int,
        code_model: c_int,
    ) -> *mut c_void;
    fn LLVMDisposeTargetMachine(machine: *mut c_void);
    fn LLVMCreateTargetDataLayout(machine: *mut c_void) -> *mut c_void;
    fn LLVMDisposeTargetData(layout: *mut c_void);
    fn LLVMCopyStringRepOfTargetData(layout: *mut c_void) -> *mut c_char;
    fn LLVMTargetMachineEmitToMemoryBuffer(
        machine: *mut c_void,
        module: LLVMModuleRef,
        kind: c_int,
        error: *mut *mut c_char,
        buffer: *mut LLVMMemoryBufferRef,
    ) -> c_int;
    fn LLVMVerifyModule(module: LLVMModuleRef, action: c_int, error: *mut *mut c_char) -> c_int;
    fn LLVMCreatePassBuilderOptions() -> *mut c_void;
    fn LLVMDisposePassBuilderOptions(options: *mut c_void);
    fn LLVMRunPasses(
        module: LLVMModuleRef,
        passes: *const c_char,
        machine: *mut c_void,
        options: *mut c_void,
    ) -> *mut c_void;
    fn LLVMGetErrorMessage(error: *mut c_void) -> *mut c_char;
    fn LLVMDisposeErrorMessage(message: *mut c_char);
}

/// A verified module with the triple and data layout of its target.
pub(super) struct LlvmModule {
    machine: Machine,
    module: LLVMModuleRef,
    context: LLVMContextRef,
}

impl LlvmModule {
    /// From a verified `gpu.module`.
    ///
    /// # Errors
    /// What LLVM says; empty when MLIR could not translate it and has said why itself.
    pub fn of(kernels: OperationRef<'_, '_>, target: Target) -> Result<LlvmModule, String> {
        let machine = Machine::of(target)?;
        // SAFETY: the operation is valid, and its context has all translations; what fails is freed before the error is returned.
        unsafe {
            let context = LLVMContextCreate();
            let module = mlirTranslateModuleToLLVMIR(kernels.to_raw(), context);
            if module.is_null() {
                LLVMContextDispose(context);
                return Err(String::new());
            }
            LLVMSetTarget(module, TRIPLE.as_ptr());
            let layout = LLVMCreateTargetDataLayout(machine.0);
            let text = LLVMCopyStringRepOfTargetData(layout);
            LLVMSetDataLayout(module, text);
            LLVMDisposeMessage(text);
            LLVMDisposeTargetData(layout);
            let translated = LlvmModule { machine, module, context };
            let mut message = ptr::null_mut();
            let failed = LLVMVerifyModule(module, RETURN_STATUS, &raw mut message);
            let message = take_message(message);
            if failed == 0 { Ok(translated) } else { Err(message) }
        }
    }

    pub fn text(&self) -> String {
        // SAFETY: the module is alive, and the string is ours.
        unsafe { take_message(LLVMPrintModuleToString(self.module)) }
    }

    /// The PTX of the optimised module.
    ///
    /// # Errors
    /// What LLVM says.
    pub fn ptx(self) -> Result<String, String> {
        // SAFETY: module and target machine are alive; the error, the message and the buffer are ours, and each is freed once.
        unsafe {
            let options = LLVMCreatePassBuilderOptions();
            let error = LLVMRunPasses(self.module, PASSES.as_ptr(), self.machine.0, options);
            LLVMDisposePassBuilderOptions(options);
            if !error.is_null() {
                let message = LLVMGetErrorMessage(error);
                let text = CStr::from_ptr(message).to_string_lossy().into_owned();
                LLVMDisposeErrorMessage(message);
                return Err(text);
            }
            let (mut message, mut buffer) = (ptr::null_mut(), ptr::null_mut());
            let failed = LLVMTargetMachineEmitToMemoryBuffer(
                self.machine.0,
                self.module,
                ASSEMBLY,
                &raw mut message,
                &raw mut buffer,
            );
            if failed != 0 {
                return Err(take_message(message));
            }
            let bytes = std::slice::from_raw_parts(LLVMGetBufferStart(buffer).cast::<u8>(), LLVMGetBufferSize(buffer));
            let text = String::from_utf8_lossy(bytes).into_owned();
            LLVMDisposeMemoryBuffer(buffer);
            Ok(text)
        }
    }
}

impl Drop for LlvmModule {
    fn drop(&mut self) {
        // SAFETY: both are ours; a module goes before its context.
        unsafe {
            LLVMDisposeModule(self.module);
            LLVMContextDispose(self.context);
        }
    }
}

/// A target machine.
struct Machine(*mut c_void);

impl Machine {
    fn of(Target { chip, version }: Target) -> Result<Machine, String> {
        static INITIALISED: Once = Once::new();
        let text = |text: String| CString::new(text).map_err(|error| error.to_string());
        let cpu = text(chip.name().into())?;
        let features = text(format!("+ptx{}{}", version.major, version.minor))?;
        // SAFETY: strings end with 0 and outlive the calls; the target is registered first, once.
        unsafe {
            INITIALISED.call_once(|| {
                LLVMInitializeNVPTXTargetInfo();
                LLVMInitializeNVPTXTarget();
                LLVMInitializeNVPTXTargetMC();
                LLVMInitializeNVPTXAsmPrinter();
            });
            let (mut target, mut message) = (ptr::null_mut(), ptr::null_mut());
            if LLVMGetTargetFromTriple(TRIPLE.as_ptr(), &raw mut target, &raw mut message) != 0 {
                return Err(take_message(message));
            }
            let machine = LLVMCreateTargetMachine(
                target,
                TRIPLE.as_ptr(),
                cpu.as_ptr(),
                features.as_ptr(),
                DEFAULT_LEVEL,
                DEFAULT_RELOCATION,
                DEFAULT_CODE_MODEL,
            );
            if machine.is_null() { Err(format!("there is no target machine for {chip}")) } else { Ok(Machine(machine)) }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // SAFETY: it is ours.
        unsafe { LLVMDisposeTargetMachine(self.0) }
    }
}

/// A string of LLVM's as one of ours.
///
/// # Safety
/// `message` is null or a string that the caller must free.
unsafe fn take_message(message: *mut c_char) -> String {
    if message.is_null() {
        return String::new();
    }
    // SAFETY: it ends with 0, and is not used afterwards.
    unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        LLVMDisposeMessage(message);
        text
    }
}
