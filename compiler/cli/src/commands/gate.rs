//! `moec gate`

use std::sync::Arc;

use moe_bundle::Bundle;
use moe_contract::{Kernel, RankId, Tensor};
use moe_front::spec::{ModelId, Spec, Target};
use moe_gate::derivative::{WEIGHT_GRADIENT, derivative};
use moe_gate::inputs::Inputs;
use moe_gate::interpret::{self, GateError, Routing};
use moe_gate::ir::Gate;
use moe_host::{HostBackward, HostGate, RunError};
use moe_judge::{Given, limit_capacity};
use moe_lower::{Layer, Planned};
use moe_runtime::{Communicator, CudaDevice, CudaOptions, Device, Options, VirtualDevice, VirtualOptions};
use safetensors::Dtype;

use crate::arguments::{Backend, Gate as Arguments};
use crate::failure::Failure;
use crate::files;
use crate::given::{self, gate_from_file, runtime_parameters};
use crate::gpus;
use crate::memory;
use crate::source::Source;
use crate::tensors::{self, Dim, TensorFile};
use crate::terminal::Terminal;

/// What a gate gives for a file.
struct Results {
    routing: Routing,
    /// Of the logits, where gradients of the weights were given.
    gradient: Option<Vec<f32>>,
}

/// Runs a gate over a file.
pub fn gate(arguments: &Arguments, terminal: &Terminal) -> Result<(), Failure> {
    files::check_binary(&arguments.output)?;
    let source = Source::read(&arguments.file)?;
    let choose = |spec: &_| find(spec, arguments.model.as_deref(), &source);
    let (spec, id) = source.check()?.model(&arguments.warnings, terminal, choose)?;
    let model = &spec.models[id];
    let file = TensorFile::open(&arguments.input)?;
    // The virtual GPUs run any; elsewhere it does not matter.
    let target = match arguments.on {
        Backend::Cuda => gpus::target()?.unwrap_or(Target::Sm90a),
        Backend::Reference | Backend::Host | Backend::Virtual => Target::Sm90a,
    };
    let planned = |tokens: usize| {
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        Layer::gate_alone(model, tokens, target).plan().map_err(|error| Failure::of_lowering(&source, error))
    };
    let given = gate_from_file(&file, &planned(1)?.gate, 1)?;
    let (tokens, k) = (given.tokens[0], model.top_k() as usize);
    let weight_gradients = file
        .contains(WEIGHT_GRADIENT)
        .then(|| file.finite(WEIGHT_GRADIENT, &[Dim::Exactly("tokens", tokens), Dim::Exactly("picks", k)]))
        .transpose()?;
    let planned = planned(tokens)?;
    let results = match arguments.on {
        Backend::Reference => on_host(&planned, &given, &file.name(), weight_gradients.as_deref(), &Interpreter)?,
        Backend::Host => on_host(&planned, &given, &file.name(), weight_gradients.as_deref(), &Native)?,
        Backend::Virtual => {
            let device = Arc::new(VirtualDevice::new(1, &VirtualOptions::default())?);
            on_device(device, &source, planned, &given, &file.name(), weight_gradients.as_deref())?
        }
        Backend::Cuda => {
            let device = Arc::new(CudaDevice::new(1, &CudaOptions { gpus: Some(1), ..CudaOptions::default() })?);
            on_device(device, &source, planned, &given, &file.name(), weight_gradients.as_deref())?
        }
    };
    let Results { routing, gradient } = &results;
    let mut tensors: Vec<(&str, Dtype, Vec<usize>, &[u8])> = vec![
        ("indices", Dtype::I32, vec![tokens, k], bytemuck::cast_slice(&routing.indices)),
        ("weights", Dtype::F32, vec![tokens, k], bytemuck::cast_slice(&routing.weights)),
    ];
    if let Some(gradient) = gradient {
        tensors.push(("grad_logits", Dtype::F32, vec![tokens, model.experts as usize], bytemuck::cast_slice(gradient)));
    }
    tensors::write(&arguments.output, &tensors)?;
    Ok(())
}

fn find(spec: &Spec, name: Option<&str>, source: &Source) -> Result<ModelId, Failure> {
    let known: Vec<String> = spec.models.iter().map(|(_, model)| format!("`{}`", model.name)).collect();
    let known = known.join(", ");
    let mut models = spec.models.iter().map(|(id, _)| id);
    let problem = match (name, models.next(), models.next()) {
        (_, None, _) => "the file has no model".into(),
        (Some(name), ..) => match spec.model(name) {
            Some(id) => return Ok(id),
            None => format!("the file has no model `{name}`; it has {known}"),
        },
        (None, Some(only), None) => return Ok(only),
        (None, Some(_), Some(_)) => format!("the file has several models: choose one with `--model`, {known}"),
    };
    Err(Failure::Message(format!("{}: {problem}", source.name)))
}

/// An execution of gates on the host.
trait HostExecution {
    fn route(&self, gate: &Gate, inputs: &Inputs) -> Result<Routing, HostError>;
    fn differentiate(
        &self,
        gate: &Gate,
        given: &Given,
        weight_gradients: &[f32],
    ) -> Result<Option<Vec<f32>>, HostError>;
}

/// What can go wrong on the host.
enum HostError {
    Token(GateError),
    Other(Failure),
}

impl From<GateError> for HostError {
    fn from(error: GateError) -> HostError {
        HostError::Token(error)
    }
}

impl From<RunError> for HostError {
    fn from(error: RunError) -> HostError {
        match error {
            RunError::Gate(error) => HostError::Token(error),
            other => HostError::Other(Failure::Message(other.to_string())),
        }
    }
}

impl From<moe_host::CompileError> for HostError {
    fn from(error: moe_host::CompileError) -> HostError {
        HostError::Other(error.into())
    }
}

impl From<Failure> for HostError {
    fn from(failure: Failure) -> HostError {
        HostError::Other(failure)
    }
}

/// The meaning.
struct Interpreter;

impl HostExecution for Interpreter {
    fn route(&self, gate: &Gate, inputs: &Inputs) -> Result<Routing, HostError> {
        Ok(interpret::route(gate, inputs)?)
    }

    fn differentiate(
        &self,
        gate: &Gate,
        given: &Given,
        weight_gradients: &[f32],
    ) -> Result<Option<Vec<f32>>, HostError> {
        let Some(backward) = derivative(gate) else { return Ok(None) };
        let inputs = given.inputs(&backward.program, RankId(0), weight_gradients).map_err(Failure::from)?;
        Ok(Some(interpret::differentiate(&backward, &inputs)?))
    }
}

/// Native code.
struct Native;

impl HostExecution for Native {
    fn route(&self, gate: &Gate, inputs: &Inputs) -> Result<Routing, HostError> {
        Ok(HostGate::compile(gate)?.route(inputs)?)
    }

    fn differentiate(
        &self,
        gate: &Gate,
        given: &Given,
        weight_gradients: &[f32],
    ) -> Result<Option<Vec<f32>>, HostError> {
        let Some(backward) = derivative(gate) else { return Ok(None) };
        let inputs = given.inputs(&backward.program, RankId(0), weight_gradients).map_err(Failure::from)?;
        Ok(Some(HostBackward::compile(&backward)?.differentiate(&inputs)?))
    }
}

fn on_host(
    planned: &Planned,
    given: &Given,
    file: &str,
    weight_gradients: Option<&[f32]>,
    execution: &dyn HostExecution,
) -> Result<Results, Failure> {
    let failed = |error| match error {
        HostError::Token(error) => Failure::Message(format!("{file}: {error}")),
        HostError::Other(failure) => failure,
    };
    let gate = &planned.layer.gate;
    let inputs = given.inputs(&gate.program, RankId(0), &[])?;
    let mut routing = execution.route(gate, &inputs).map_err(failed)?;
    let tokens = u32::try_from(given.tokens[0]).unwrap_or(u32::MAX);
    let capacity = planned.layer.capacity.map(|capacity| capacity.picks(tokens, &planned.gate));
    limit_capacity(&planned.exchange, capacity, &mut routing);
    let gradient = match weight_gradients {
        Some(gradients) => execution.differentiate(gate, given, gradients).map_err(failed)?,
        None => None,
    };
    Ok(Results { routing, gradient })
}

fn on_device(
    device: Arc<dyn Device>,
    source: &Source,
    planned: Planned,
    given: &Given,
    file: &str,
    weight_gradients: Option<&[f32]>,
) -> Result<Results, Failure> {
    memory::enough_to_compile()?;
    let bundle: Bundle = planned
        .gate_kernels()
        .and_then(moe_lower::Kernels::ptx)
        .and_then(|images| images.bundle(&source.text()))
        .map_err(|error| Failure::of_lowering(source, error))?;
    let mut communicator = Communicator::new(device, &bundle, Options::default())?;
    let run = |communicator: &mut Communicator| {
        let parameters = communicator.upload_parameters(&runtime_parameters(given))?;
        let logits = communicator.upload(Tensor::Logits, &given.logits)?;
        let routing = communicator.gate(&logits, &parameters)?;
        let indices: Vec<Vec<i32>> = communicator.download(&routing.indices)?;
        let weights: Vec<Vec<f32>> = communicator.download(&routing.weights)?;
        let gradient = match weight_gradients {
            Some(gradients) if communicator.has(Kernel::GateBackward) => {
                let gradients = communicator.upload(Tensor::WeightGradients, &[gradients])?;
                let gradients = communicator.gate_backward(&logits, &gradients, &parameters)?;
                Some(communicator.download::<f32>(&gradients)?.concat())
            }
            _ => None,
        };
        Ok(Results { routing: Routing { indices: indices.concat(), weights: weights.concat() }, gradient })
    };
    run(&mut communicator).map_err(|error| given::failure(error, given, Some(file)))
}
