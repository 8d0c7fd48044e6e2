//! `moec build`

use moe_front::dump_source;
use moe_front::spec::{Spec, Target};
use moe_gate::derivative::derivative;
use moe_kernels::assemble::AssembleError;
use moe_lower::{Choice, Kernels, Layer, LowerError};

use crate::arguments::{Build, Stage, TargetName};
use crate::failure::Failure;
use crate::files::{self, OutputPath};
use crate::memory;
use crate::scratch;
use crate::source::Source;
use crate::terminal::Terminal;

/// Writes a bundle, or prints a stage.
pub fn build(arguments: &Build, terminal: &Terminal) -> Result<(), Failure> {
    let output = match (&arguments.output, arguments.emit) {
        (Some(output), _) => output.clone(),
        (None, Some(_)) => OutputPath::standard(),
        (None, None) => OutputPath::beside(&arguments.file, "moeb")?,
    };
    match arguments.emit {
        Some(_) => files::check(&output)?,
        None => files::check_binary(&output)?,
    }
    let source = Source::read(&arguments.file)?;
    let bytes = match arguments.emit {
        Some(stage) => text(arguments, stage, source, terminal)?.into_bytes(),
        None => bundle(arguments, &source, terminal)?,
    };
    Ok(files::write(&output, &bytes)?)
}

fn bundle(arguments: &Build, source: &Source, terminal: &Terminal) -> Result<Vec<u8>, Failure> {
    let failed = |error| Failure::of_lowering(source, error);
    let (spec, _) = source.check()?.deploy(arguments.deploy.as_deref(), &arguments.warnings, terminal)?;
    let planned = Layer::select(&spec, &choice(arguments)).and_then(Layer::plan).map_err(failed)?;
    terminal.diagnostics(source, &planned.layer.notes.iter().cloned().collect());
    memory::enough_to_compile()?;
    let mut images = planned.kernels().and_then(Kernels::ptx).map_err(failed)?;
    let _temporary = scratch::Folder::new();
    // Without the assembler the bundle runs as well: the driver compiles its PTX when it is loaded.
    match images.assemble() {
        Ok(_) => {}
        Err(error @ LowerError::Assemble(AssembleError::Refused { .. })) => return Err(failed(error)),
        Err(error) => terminal.note(&format!(
            "the bundle has PTX alone, which the driver compiles, and no numbers of registers: {error}"
        )),
    }
    Ok(images.bundle(&source.text()).map_err(failed)?.to_bytes())
}

/// A stage for people.
fn text(arguments: &Build, stage: Stage, source: Source, terminal: &Terminal) -> Result<String, Failure> {
    if stage == Stage::Ast {
        return dump_source(&source.bytes).map_err(|diagnostics| Failure::File(source, diagnostics));
    }
    let failed = |error| Failure::of_lowering(&source, error);
    let checked = source.check()?;
    let spec = match stage {
        Stage::Ast | Stage::Spec | Stage::Gate => checked.whole(&arguments.warnings, terminal)?,
        Stage::Plan | Stage::Mlir | Stage::Llvm | Stage::Ptx | Stage::Sass => {
            checked.deploy(arguments.deploy.as_deref(), &arguments.warnings, terminal)?.0
        }
    };
    let planned = || Layer::select(&spec, &choice(arguments)).and_then(Layer::plan).map_err(failed);
    let kernels = || {
        let planned = planned()?;
        memory::enough_to_compile()?;
        planned.kernels().map_err(failed)
    };
    let images = || kernels()?.ptx().map_err(failed);
    let _temporary = scratch::Folder::new();
    Ok(match stage {
        Stage::Ast | Stage::Spec => spec.to_string(),
        Stage::Gate => gates(&spec),
        Stage::Plan => planned()?.to_string(),
        Stage::Mlir => kernels()?.mlir(),
        Stage::Llvm => kernels()?.llvm().map_err(failed)?,
        Stage::Ptx => images()?.text(),
        Stage::Sass => images()?.sass().map_err(failed)?,
    })
}

fn choice(arguments: &Build) -> Choice {
    Choice {
        deploy: arguments.deploy.clone(),
        nodes: arguments.nodes,
        gpus_per_node: arguments.gpus_per_node,
        targets: arguments.targets.iter().map(|&name| target(name)).collect(),
        tokens: None,
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
