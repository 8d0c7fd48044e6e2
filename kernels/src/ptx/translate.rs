//! The way of a kernel: MLIR text → verified module → LLVM IR → PTX.

use std::cell::RefCell;
use std::rc::Rc;

use melior::Context;
use melior::diagnostic::DiagnosticHandlerId;
use melior::ir::{BlockLike, Module};

use super::llvm::LlvmModule;
use super::{PtxError, Target};
use crate::context::Lease;
use crate::device::DeviceCode;

/// The module of a kernel, as MLIR text.
pub(super) fn module(code: &DeviceCode, Target { chip, version }: Target) -> String {
    format!(
        "module attributes {{gpu.container_module}} {{\n\
         gpu.module @{name} [#nvvm.target<chip = \"{chip}\", features = \"+ptx{major}{minor}\">] {{\n{body}\n}}\n}}\n",
        name = code.name(),
        major = version.major,
        minor = version.minor,
        body = code.body(),
    )
}

pub(super) fn ptx(code: &DeviceCode, target: Target) -> Result<String, PtxError> {
    let refused = |messages| PtxError::Refused { kernel: code.name().into(), stage: "translation to PTX", messages };
    translate(code, target)?.ptx().map_err(refused)
}

pub(super) fn llvm(code: &DeviceCode, target: Target) -> Result<String, PtxError> {
    Ok(translate(code, target)?.text())
}

fn translate(code: &DeviceCode, target: Target) -> Result<LlvmModule, PtxError> {
    let lease = Lease::take();
    let messages = Messages::of(lease.context());
    let refused = |stage, more: String| {
        let messages =
            messages.texts.borrow().iter().cloned().chain((!more.is_empty()).then_some(more)).collect::<Vec<_>>();
        PtxError::Refused { kernel: code.name().into(), stage, messages: messages.join("; ") }
    };
    let unverified = || refused("verification", String::new());
    // Parsing verifies.
    let module = Module::parse(lease.context(), &module(code, target)).ok_or_else(unverified)?;
    let kernels = module.body().first_operation().ok_or_else(unverified)?;
    LlvmModule::of(kernels, target).map_err(|more| refused("translation to LLVM IR", more))
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
}

impl Drop for Messages {
    fn drop(&mut self) {
        if let Some(handler) = self.handler.take() {
            self.context.detach_diagnostic_handler(handler);
        }
    }
}
