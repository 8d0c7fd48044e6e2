//! All stages in a row.

use moe_bundle::Bundle;
use moe_decide::Choice;
use moe_front::check_source;
use moe_front::spec::Spec;

use crate::error::LowerError;
use crate::images::Images;
use crate::layer::Layer;
use crate::stage::{Stage, Timings};

/// A file that became kernels.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// What the runtime loads.
    pub bundle: Bundle,
    /// How long it took.
    pub timings: Timings,
}

/// From text to a bundle.
///
/// # Errors
/// When the file is wrong, or cannot be built.
pub fn compile(source: &str, choice: &Choice) -> Result<Compiled, LowerError> {
    let mut timings = Timings::default();
    let checked = timings.measure(Stage::Check, || check_source(source.as_bytes()));
    let spec = checked.spec.ok_or(LowerError::File(checked.diagnostics))?;
    let images = compile_spec(&spec, choice, &mut timings)?;
    Ok(Compiled { bundle: images.bundle(source)?, timings })
}

/// From a checked file to PTX; notes the time of each stage.
///
/// # Errors
/// When the file cannot be built.
pub fn compile_spec(spec: &Spec, choice: &Choice, timings: &mut Timings) -> Result<Images, LowerError> {
    let planned = timings.measure(Stage::Plan, || Layer::select(spec, choice).and_then(Layer::plan))?;
    let kernels = timings.measure(Stage::Kernels, || planned.kernels())?;
    timings.measure(Stage::Ptx, || kernels.ptx())
}
