//! `moec run`

use std::sync::Arc;
use std::time::Instant;

use moe_bundle::file::MAGIC;
use moe_bundle::{Bundle, Manifest};
use moe_contract::{LinkBytes, RankId};
use moe_front::check_source;
use moe_front::spec::Spec;
use moe_gate::ir::Gate;
use moe_judge::Given;
use moe_lower::{Choice, KernelUsage, Layer, LowerError, Stage, Timings, compile_spec};
use moe_runtime::{Communicator, CudaDevice, CudaOptions, Device, Options, Policy, VirtualDevice, VirtualOptions};
use moe_vgpu::Judge;
use safetensors::Dtype;

use crate::arguments::{DeviceName, ReportFormat, Run, Schedule};
use crate::failure::Failure;
use crate::files::{self, OutputPath, Wanted};
use crate::given::{dtype, from_file, gate_from_file};
use crate::gpus;
use crate::memory;
use crate::picture;
use crate::progress::Progress;
use crate::report::{
    CompiledReport, KernelReport, LinkReport, ReceivedReport, Report, Seconds, StageReport, WorkReport,
};
use crate::scratch;
use crate::source::Source;
use crate::tensors::{self, TensorFile};
use crate::terminal::{self, Terminal};
use crate::verify::{Verified, verify};

/// Steps of a run with gradients.
const STEPS: u64 = 13;
/// Steps of one without.
const FORWARD_STEPS: u64 = 8;

/// What is run.
struct Program {
    bundle: Bundle,
    gate: Gate,
    /// How it was compiled, if it was.
    compiled: Option<(Timings, Result<Vec<KernelUsage>, LowerError>)>,
}

/// Runs every call on every rank and compares every result with the reference.
pub fn run(arguments: &Run, terminal: &Terminal) -> Result<(), Failure> {
    let start = Instant::now();
    let progress = Progress::new(terminal, if arguments.forward_only { FORWARD_STEPS } else { STEPS });
    progress.say("compiling");
    [&arguments.output, &arguments.picture].into_iter().flatten().try_for_each(files::check)?;
    let source = Source::read_as(&arguments.file, Wanted::Program)?;
    let input = arguments.input.as_ref().map(TensorFile::open).transpose()?;
    let program = if source.bytes.starts_with(&MAGIC) {
        load(arguments, &source)?
    } else {
        compile(arguments, &source, input.as_ref(), terminal)?
    };

    let run_start = Instant::now();
    progress.say("input");
    let manifest = program.bundle.manifest();
    // Before anything large is made up: it says when memory is short.
    let Opened { device, virtual_gpus } = open(arguments, manifest)?;
    let judge = match (&virtual_gpus, arguments.judge) {
        (_, false) => None,
        (Some(device), true) => {
            let judge = Judge::default();
            device.observe(Box::new(judge.clone()));
            Some(judge)
        }
        (None, true) => {
            return Err(Failure::Message("`--judge` judges what virtual GPUs do: leave out `--device cuda`".into()));
        }
    };
    let mut given = match &input {
        Some(file) => from_file(file, manifest)?,
        None => Given::synthetic(manifest, tokens(arguments, manifest)?, arguments.seed),
    };
    if !arguments.forward_only {
        given = given.with_backward(manifest, arguments.seed);
    }
    let mut communicator = Communicator::new(Arc::clone(&device), &program.bundle, Options::default())?;
    let file = input.as_ref().map(TensorFile::name);
    let verified = verify(&mut communicator, &program.gate, &given, arguments.repeat, &progress)
        .map_err(|error| error.failure(&given, file.as_deref()))?;

    let seconds = Seconds {
        device: verified.run.seconds,
        reference: verified.reference_seconds,
        run: run_start.elapsed().as_secs_f64(),
        total: start.elapsed().as_secs_f64(),
    };
    let work = virtual_gpus.map(|device| device.work());
    let work = work.map(|work| WorkReport { instructions: work.instructions, nanoseconds: work.nanoseconds });
    let mut report = report(arguments, &program, device.description(), &given, &verified, work, seconds);
    report.memory_order = judge.map(|judge| judge.found().iter().map(ToString::to_string).collect());
    drop(progress);
    if let Some(path) = &arguments.picture {
        files::write(path, picture::of_run(&report, &verified).as_bytes())?;
    }
    if let Some(path) = &arguments.output {
        write_results(path, manifest, &given, &verified)?;
    }
    match arguments.format {
        ReportFormat::Table => terminal.show(&report.page())?,
        ReportFormat::Json => terminal::print(&report.json())?,
    }
    match (report.verified, report.memory_order.as_ref().map_or(0, Vec::len)) {
        (false, _) => Err(Failure::Message("the run differs from the reference".into())),
        (true, 0) => Ok(()),
        (true, found) => Err(Failure::Message(format!("{found} accesses that nothing orders"))),
    }
}

/// Loads a bundle; the meaning of its gate is in the source that it carries.
fn load(arguments: &Run, source: &Source) -> Result<Program, Failure> {
    let wrong = |problem: String| Failure::Message(format!("{}: {problem}", source.name));
    let bundle = Bundle::from_bytes(&source.bytes).map_err(|error| wrong(error.to_string()))?;
    let manifest = bundle.manifest();
    if arguments.nodes.is_some_and(|nodes| nodes != 1)
        || arguments.gpus_per_node.is_some_and(|gpus| gpus != manifest.exchange.ranks)
    {
        return Err(wrong(format!(
            "the bundle is built for 1 node of {} GPUs: leave out `--nodes` and `--gpus-per-node`, or build it again for others",
            manifest.exchange.ranks
        )));
    }
    if arguments.deploy.is_some() && arguments.deploy != manifest.deploy {
        let built = manifest.deploy.as_deref().unwrap_or("none");
        return Err(wrong(format!("the bundle is built for deploy `{built}`; build it again for another")));
    }
    let spec = check_source(manifest.source.as_bytes()).spec;
    let model = spec.as_ref().and_then(|spec| Some(&spec.models[spec.model(&manifest.model)?]));
    let model = model.ok_or_else(|| {
        wrong("the source in the bundle does not have its model, so that nothing can be checked: build it again".into())
    })?;
    let same = model.gate.top_k() == manifest.gate.top_k && model.experts == manifest.gate.experts;
    if !same {
        return Err(wrong("the source in the bundle has another gate than its manifest: build it again".into()));
    }
    let gate = model.gate.clone();
    Ok(Program { bundle, gate, compiled: None })
}

fn compile(
    arguments: &Run,
    source: &Source,
    input: Option<&TensorFile>,
    terminal: &Terminal,
) -> Result<Program, Failure> {
    let mut timings = Timings::default();
    let failed = |error| Failure::of_lowering(source, error);
    let checked = timings.measure(Stage::Check, || source.check())?;
    let (spec, _) = checked.deploy(arguments.deploy.as_deref(), &arguments.warnings, terminal)?;
    let mut choice = Choice {
        deploy: arguments.deploy.clone(),
        nodes: arguments.nodes,
        gpus_per_node: arguments.gpus_per_node,
        tokens: arguments.tokens,
        targets: match arguments.device {
            DeviceName::Virtual => vec![],
            DeviceName::Cuda => gpus::target()?.into_iter().collect(),
        },
    };
    if let Some(file) = input {
        choice.tokens = Some(tokens_of_file(&spec, &choice, file).map_err(failed)??);
    }
    memory::enough_to_compile()?;
    let mut images = compile_spec(&spec, &choice, &mut timings).map_err(failed)?;
    terminal.diagnostics(source, &images.planned.layer.notes.iter().cloned().collect());
    let _temporary = scratch::Folder::new();
    let usage = timings.measure(Stage::Assemble, || images.assemble());
    let bundle = images.bundle(&source.text()).map_err(failed)?;
    let gate = images.planned.layer.gate;
    Ok(Program { bundle, gate, compiled: Some((timings, usage)) })
}

/// Tokens of the fullest rank when a file is split over the ranks.
fn tokens_of_file(spec: &Spec, choice: &Choice, file: &TensorFile) -> Result<Result<u32, Failure>, LowerError> {
    let planned = Layer::select(spec, choice)?.plan()?;
    let given = gate_from_file(file, &planned.gate, planned.exchange.ranks);
    Ok(given.map(|given| given.tokens.iter().max().map_or(0, |&most| u32::try_from(most).unwrap_or(u32::MAX))))
}

fn tokens(arguments: &Run, manifest: &Manifest) -> Result<u32, Failure> {
    let most = manifest.exchange.max_tokens;
    match arguments.tokens {
        Some(tokens) if tokens > most => Err(Failure::Message(format!(
            "{} tokens per rank, but {} is built for at most {most} per rank and call: ask for fewer, or build it again",
            tokens, arguments.file
        ))),
        Some(tokens) => Ok(tokens),
        None => Ok(most),
    }
}

/// Where a run takes place.
struct Opened {
    device: Arc<dyn Device>,
    /// The same one, if it is virtual.
    virtual_gpus: Option<Arc<VirtualDevice>>,
}

fn open(arguments: &Run, manifest: &Manifest) -> Result<Opened, Failure> {
    let ranks = manifest.exchange.ranks;
    match arguments.device {
        DeviceName::Cuda => {
            let options = CudaOptions { time_launches: true, ..CudaOptions::default() };
            Ok(Opened { device: Arc::new(CudaDevice::new(ranks, &options)?), virtual_gpus: None })
        }
        DeviceName::Virtual => {
            memory::enough_for(manifest)?;
            let policy = match arguments.schedule {
                Schedule::RoundRobin => Policy::RoundRobin,
                Schedule::Random => Policy::Random,
                Schedule::Adversarial => Policy::Adversarial,
                Schedule::Weak => Policy::Weak,
            };
            let options = VirtualOptions { policy, seed: arguments.seed, ..VirtualOptions::default() };
            let device = Arc::new(VirtualDevice::new(ranks, &options)?);
            Ok(Opened { device: Arc::<VirtualDevice>::clone(&device), virtual_gpus: Some(device) })
        }
    }
}

fn report(
    arguments: &Run,
    program: &Program,
    device: String,
    given: &Given,
    verified: &Verified,
    work: Option<WorkReport>,
    seconds: Seconds,
) -> Report {
    let manifest = program.bundle.manifest();
    let (produced, expected) = (&verified.run.produced, &verified.expected);
    let mut tokens_per_expert = vec![0; manifest.gate.experts as usize];
    for &pick in produced.indices.iter().flatten() {
        if let Some(count) = usize::try_from(pick).ok().and_then(|pick| tokens_per_expert.get_mut(pick)) {
            *count += 1;
        }
    }
    let received = verified.run.received.iter().zip(&expected.handles).map(|(received, handle)| {
        let rows: usize =
            handle.copies.iter().flat_map(|copy| &copy.rows).flatten().collect::<std::collections::BTreeSet<_>>().len();
        ReceivedReport {
            copies: received.copies.iter().copied().map(u64::from).sum(),
            rows: received.rows,
            padding: received.rows.saturating_sub(rows as u64),
        }
    });
    let usage = program.compiled.as_ref().and_then(|(_, usage)| usage.as_ref().ok());
    let kernels = manifest.kernels.iter().map(|entry| {
        let used = usage.and_then(|usage| {
            usage.iter().find(|used| used.kernel == entry.kernel && used.target.text() == entry.target)
        });
        KernelReport {
            name: entry.kernel.name(),
            target: entry.target.clone(),
            threads: entry.block,
            registers: entry.registers,
            spilled_bytes: used.map(|used| used.usage.spill_stores + used.usage.spill_loads),
            microseconds: verified.times.of(entry.kernel),
            ptx_bytes: entry.ptx_bytes,
        }
    });
    let compiled = program.compiled.as_ref().map(|(timings, usage)| CompiledReport {
        stages: timings
            .stages()
            .iter()
            .map(|(stage, time)| StageReport { stage: stage.name(), milliseconds: time.as_secs_f64() * 1e3 })
            .collect(),
        text_to_ptx_milliseconds: timings.text_to_ptx().as_secs_f64() * 1e3,
        assembler: usage.as_ref().err().map(ToString::to_string),
    });
    let links = produced.traffic.iter().map(|(call, bytes)| LinkReport {
        phase: call.name(),
        bytes: matrix(bytes),
        total: bytes.crossing(),
    });
    Report {
        model: manifest.model.clone(),
        deploy: manifest.deploy.clone(),
        device,
        seed: arguments.seed,
        repeat: arguments.repeat,
        tokens: given.tokens.clone(),
        max_tokens: manifest.exchange.max_tokens,
        compiled,
        assembler: manifest.assembler.clone(),
        kernels: kernels.collect(),
        tokens_per_expert,
        received: received.collect(),
        links: links.collect(),
        work,
        seconds,
        memory_order: None,
        verified: verified.verdict.holds(),
        checks: verified.verdict.checks.clone(),
        remarks: verified.verdict.remarks.iter().map(ToString::to_string).collect(),
    }
}

fn matrix(bytes: &LinkBytes) -> Vec<Vec<u64>> {
    let ranks = || (0..bytes.ranks()).map(RankId);
    ranks().map(|from| ranks().map(|to| bytes.bytes(from, to)).collect()).collect()
}

fn write_results(path: &OutputPath, manifest: &Manifest, given: &Given, verified: &Verified) -> Result<(), Failure> {
    let exchange = &manifest.exchange;
    let (tokens, k): (usize, usize) = (given.tokens.iter().sum(), exchange.top_k as usize);
    let indices: Vec<i32> = verified.run.produced.indices.concat();
    let weights: Vec<f32> = verified.run.produced.weights.concat();
    let combined: Vec<u8> = verified.run.produced.combined.iter().flat_map(moe_judge::Rows::bytes).copied().collect();
    tensors::write(
        path,
        &[
            ("indices", Dtype::I32, vec![tokens, k], bytemuck::cast_slice(&indices)),
            ("weights", Dtype::F32, vec![tokens, k], bytemuck::cast_slice(&weights)),
            ("y", dtype(exchange.combine), vec![tokens, exchange.hidden as usize], &combined),
        ],
    )?;
    Ok(())
}
