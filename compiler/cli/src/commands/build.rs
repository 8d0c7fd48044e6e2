//! `moec build`

use moe_compiler::dump_source;
use moe_compiler::spec::{Spec, Target};
use moe_gate::derivative::derivative;
use moe_kernels::assemble::AssembleError;
use moe_lower::{Choice, Layer, LowerError};

use crate::arguments::{Build, Stage, TargetName};
use crate::failure::Failure;
use crate::output;
use crate::source::Source;
use crate::terminal::{self, Terminal};

/// Writes a bundle, or prints a stage.
pub fn build(arguments: &Build, terminal: &Terminal) -> Result<(), Failure> {
    let source = Source::read(&arguments.file)?;
    if arguments.emit == Some(Stage::Ast) {
        return match dump_source(&source.bytes) {
            Ok(text) => terminal::print(&text),
            Err(diagnostics) => Err(Failure::File(source, diagnostics)),
        };
    }
    let spec = source.check(terminal)?;
    let choice = Choice {
        deploy: arguments.deploy.clone(),
        nodes: arguments.nodes,
        gpus_per_node: arguments.gpus_per_node,
        targets: arguments.targets.iter().map(|&name| target(name)).collect(),
        tokens: None,
    };
    let failed = |error| Failure::of_lowering(&source, error);
    let planned = || Layer::select(&spec, &choice).and_then(Layer::plan).map_err(failed);
    let kernels = || planned()?.kernels().map_err(failed);
    let images = || kernels()?.ptx().map_err(failed);
    match arguments.emit {
        Some(Stage::Ast) => Ok(()),
        Some(Stage::Spec) => terminal::print(&spec.to_string()),
        Some(Stage::Gate) => terminal::print(&gates(&spec)),
        Some(Stage::Plan) => terminal::print(&planned()?.to_string()),
        Some(Stage::Mlir) => terminal::print(&kernels()?.mlir()),
        Some(Stage::Llvm) => terminal::print(&kernels()?.llvm().map_err(failed)?),
        Some(Stage::Ptx) => terminal::print(&images()?.text()),
        Some(Stage::Sass) => terminal::print(&images()?.sass().map_err(failed)?),
        None => {
            let mut images = images()?;
            // Registers are for reports; without the assembler the bundle is as good.
            if let Err(error @ LowerError::Assemble(AssembleError::Refused { .. })) = images.assemble() {
                return Err(failed(error));
            }
            let path = arguments.output.clone().unwrap_or_else(|| arguments.file.with_extension("moeb"));
            Ok(output::write(&path, &images.bundle(&source.text()).map_err(failed)?.to_bytes())?)
        }
    }
}

fn gates(spec: &Spec) -> String {
    let mut text = String::new();
    for (_, model) in spec.models.iter() {
        text.push_str(&format!("gate of {}\n{}\n", model.name, model.gate));
        if let Some(backward) = derivative(&model.gate) {
            text.push_str(&format!("gradient of the gate of {}\n{backward}\n", model.name));
        }
    }
    text
}

fn target(name: TargetName) -> Target {
    match name {
        TargetName::Sm90a => Target::Sm90a,
        TargetName::Sm100a => Target::Sm100a,
    }
}
