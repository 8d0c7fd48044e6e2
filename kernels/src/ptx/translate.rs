//! The pipeline: MLIR text → verified module → `gpu-module-to-binary` → text.

use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::rc::Rc;

use melior::Context;
use melior::diagnostic::DiagnosticHandlerId;
use melior::ir::attribute::{ArrayAttribute, Attribute};
use melior::ir::operation::OperationLike;
use melior::ir::{AttributeLike, BlockLike, Module};
use melior::pass::PassManager;
use melior::utility::parse_pass_pipeline;

use super::{Lease, PtxError, Target};
use crate::device::DeviceCode;

const DATA_LAYOUT: &CStr = c"e-p6:32:32-i64:64-i128:128-i256:256-v16:16-v32:32-n16:32:64";
const TRIPLE: &CStr = c"nvptx64-nvidia-cuda";

/// The module of a kernel, as MLIR text.
pub(super) fn module(code: &DeviceCode, Target { chip, version }: Target) -> String {
    format!(
        "module attributes {{gpu.container_module}} {{\n\
         gpu.module @{name} [#nvvm.target<chip = \"{chip}\", features = \"+ptx{major}{minor}\", O = 3>] {{\n{body}\n}}\n}}\n",
        name = code.name(),
        major = version.major,
        minor = version.minor,
        body = code.body(),
    )
}

pub(super) fn ptx(code: &DeviceCode, target: Target) -> Result<String, PtxError> {
    let lease = Lease::take();
    let messages = Messages::of(lease.context());
    let refused = |stage| PtxError::Refused { kernel: code.name().into(), stage, messages: messages.text() };
    let text = module(code, target);
    let mut module = Module::parse(lease.context(), &text).ok_or_else(|| refused("verification"))?;
    let manager = PassManager::new(lease.context());
    parse_pass_pipeline(manager.as_operation_pass_manager(), "builtin.module(gpu-module-to-binary{format=isa})")
        .map_err(|_| refused("setting up the pipeline"))?;
    manager.run(&mut module).map_err(|_| refused("translation to PTX"))?;
    let binary = module.body().first_operation().ok_or_else(|| refused("translation to PTX"))?;
    let objects = binary.attribute("objects").ok().and_then(|objects| ArrayAttribute::try_from(objects).ok());
    let object = objects.and_then(|objects| objects.element(0).ok()).ok_or_else(|| refused("translation to PTX"))?;
    Ok(object_text(object))
}

/// The string in a `#gpu.object`, without the byte 0 that ends it.
fn object_text(object: Attribute<'_>) -> String {
    // SAFETY: `gpu-module-to-binary` makes `gpu.binary` operations, whose objects are object attributes; the string lives as long
    // as the context.
    let bytes = unsafe {
        let text = mlir_sys::mlirGPUObjectAttrGetObject(object.to_raw());
        std::slice::from_raw_parts(text.data.cast::<u8>(), text.length)
    };
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

pub(super) fn llvm(code: &DeviceCode, target: Target) -> Result<String, PtxError> {
    let lease = Lease::take();
    let messages = Messages::of(lease.context());
    let refused = |stage| PtxError::Refused { kernel: code.name().into(), stage, messages: messages.text() };
    let text = module(code, target);
    let module = Module::parse(lease.context(), &text).ok_or_else(|| refused("verification"))?;
    let kernels = module.body().first_operation().ok_or_else(|| refused("verification"))?;
    let name = CString::new(code.name()).map_err(|_| refused("naming the module"))?;
    // SAFETY: the operation is a verified `gpu.module` of a context with all translations; the LLVM context outlives its module,
    // and the message is freed after it has been copied.
    unsafe {
        let context = mlir_sys::LLVMContextCreate();
        let translated = mlir_sys::mlirTranslateModuleToLLVMIR(kernels.to_raw(), context);
        let text = (!translated.is_null()).then(|| {
            mlir_sys::LLVMSetModuleIdentifier(translated, name.as_ptr(), name.as_bytes().len());
            mlir_sys::LLVMSetTarget(translated, TRIPLE.as_ptr());
            mlir_sys::LLVMSetDataLayout(translated, DATA_LAYOUT.as_ptr());
            let message = mlir_sys::LLVMPrintModuleToString(translated);
            let text = CStr::from_ptr(message).to_string_lossy().into_owned();
            mlir_sys::LLVMDisposeMessage(message);
            mlir_sys::LLVMDisposeModule(translated);
            text
        });
        mlir_sys::LLVMContextDispose(context);
        text.ok_or_else(|| refused("translation to LLVM IR"))
    }
}

/// What MLIR says about a context while this lives.
struct Messages {
    context: &'static Context,
    handler: Option<DiagnosticHandlerId>,
    texts: Rc<RefCell<Vec<String>>>,
}

impl Messages {
    fn of(context: &'static Context) -> Messages {
        let texts = Rc::new(RefCell::new(Vec::new()));
        let kept = Rc::clone(&texts);
        let handler = context.attach_diagnostic_handler(move |diagnostic| {
            kept.borrow_mut().push(diagnostic.to_string());
            true
        });
        Messages { context, handler: Some(handler), texts }
    }

    fn text(&self) -> String {
        self.texts.borrow().join("; ")
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        if let Some(handler) = self.handler.take() {
            self.context.detach_diagnostic_handler(handler);
        }
    }
}
