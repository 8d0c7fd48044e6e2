//! The measured figures as a table: `make bench`. Medians; nothing here passes or fails by time.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use moe_contract::Tensor;
use moe_front::check_source;
use moe_front::spec::Target;
use moe_front::units::{Bytes, BytesPerSecond, Microseconds};
use moe_lower::{Choice, Timings, compile, compile_spec};
use moe_planner::simulate::{self, Demand, Network, Scenario, Spine, simulate};
use moe_planner::{Logits, Sample};
use moe_runtime::{Communicator, Device, Options, VirtualDevice, VirtualOptions};
use moe_tests::{GateInput, example, root};
use moe_vgpu::Judge;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// A figure: what it is, how it is measured, what it should be.
type Figure = (&'static str, fn() -> Outcome<String>, &'static str);

fn main() -> ExitCode {
    // `cargo bench -- WORD` measures the figures that have the word in their name.
    let word = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN).set_header(["figure", "measured", "target"]);
    let figures: [Figure; 11] = [
        ("deepseek_v3.moe: text to PTX, all kernels, one target", text_to_ptx, "< 150 ms"),
        ("host gate, DeepSeek-V3, 4096 tokens, 2 threads", host_gate, ">= 3 M tokens/s"),
        ("virtual GPU, our dispatch kernels, one core", || dispatch_rate(None), ">= 50 M warp instructions/s"),
        ("the same with the judge", || dispatch_rate(Some(Judge::default())), ">= 10 M warp instructions/s"),
        ("100 000 dispatches and combines, 4 virtual GPUs, smallest shapes", long_run, "constant memory"),
        ("moec run, 8 ranks x 128 tokens x 7168, run phase", run_phase, "< 10 s"),
        ("ptxas, DeepSeek-V3, both targets", registers, "0 spills, 0 stack"),
        ("moec plan of one deploy, cold process", plan_one, "< 1 s"),
        ("moec plan --search", plan_search, ">= 1000 plans in < 10 s"),
        ("planner sampling, drawing included, DeepSeek-V3, 2 threads", sampling, ">= 3 M tokens/s"),
        ("simulation, 2048 GPUs x 4096 tokens", simulation, "< 10 s"),
    ];
    let mut failed = false;
    for (figure, measure, target) in figures.into_iter().filter(|(figure, ..)| figure.contains(&word)) {
        eprintln!("measuring: {figure}");
        let shown = measure().unwrap_or_else(|error| {
            failed = true;
            format!("failed: {error}")
        });
        table.add_row([figure, &shown, target]);
    }
    println!("{table}");
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn one_node() -> Choice {
    Choice { deploy: Some("one_node".into()), targets: vec![Target::Sm90a], ..Choice::default() }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn text_to_ptx() -> Outcome<String> {
    let text = example("deepseek_v3");
    let mut times = Vec::new();
    let mut kernels = 0;
    let first = Instant::now();
    kernels += compile(&text, &one_node())?.bundle.manifest().kernels.len();
    let first = first.elapsed();
    for _ in 0..21 {
        let start = Instant::now();
        compile(&text, &one_node())?;
        times.push(start.elapsed());
    }
    Ok(format!("{} ({kernels} kernels; first in the process {})", milliseconds(median(times)), milliseconds(first)))
}

fn host_gate() -> Outcome<String> {
    let spec = check_source(example("deepseek_v3").as_bytes()).spec.ok_or("the example is wrong")?;
    let model = spec.model("deepseek_v3").ok_or("no model")?;
    let rate = moe_host::bench::tokens_per_second(&spec.models[model].gate, 4096, 2, 201);
    Ok(format!("{:.2} M tokens/s (best run {:.2} M)", rate.median * 1e-6, rate.best * 1e-6))
}

/// Layout, send, count and place of one dispatch with all its warps, on the one thread that the virtual GPUs have.
fn dispatch_rate(judge: Option<Judge>) -> Outcome<String> {
    let text = example("deepseek_v3");
    let compiled = compile(&text, &one_node())?;
    let spec = check_source(text.as_bytes()).spec.ok_or("the example is wrong")?;
    let gate = &spec.models[spec.model("deepseek_v3").ok_or("no model")?].gate;
    let tokens = [128; 8];
    let input = GateInput::seeded(&gate.program, &tokens, 1);
    let device = Arc::new(VirtualDevice::new(8, &VirtualOptions::default())?);
    judge.iter().for_each(|judge| device.observe(Box::new(judge.clone())));
    let shared: Arc<dyn Device> = Arc::<VirtualDevice>::clone(&device);
    let mut moe = Communicator::new(shared, &compiled.bundle, Options::default())?;
    let logits = moe.upload(Tensor::Logits, input.logits())?;
    let parameters = moe.upload_parameters(&input.parameters(&gate.program))?;
    let routing = moe.gate(&logits, &parameters)?;
    let rows = moe.upload(Tensor::Tokens, &vec![vec![half::bf16::ONE; 128 * 7168]; 8])?;
    let mut rates = Vec::new();
    for _ in 0..7 {
        moe.synchronise()?;
        let before = device.work();
        moe.dispatch_counted(&rows, &routing)?;
        moe.synchronise()?;
        let after = device.work();
        let seconds = after.executing.checked_sub(before.executing).unwrap().as_secs_f64();
        rates.push((after.instructions - before.instructions) as f64 / seconds);
    }
    rates.sort_by(f64::total_cmp);
    if judge.is_some_and(|judge| !judge.found().is_empty()) {
        return Err("the judge found something".into());
    }
    Ok(format!("{:.1} M warp instructions/s", rates[rates.len() / 2] * 1e-6))
}

/// A training loop's calls, and the memory of the process after a tenth of them and after all.
fn long_run() -> Outcome<String> {
    const CALLS: u32 = 100_000;
    let text = "model small { hidden 8 experts 4 gate(logits: f32[experts]) { let chosen = top(1, experts, by: logits)
          weights softmax(logits)[chosen] }
        dispatch { payload bf16 layout expert_major } combine { payload bf16 reduce f32 weighted } }
        cluster node { nodes 1 gpus 4 per node gpu \"H800\" { target sm_90a sms 132 memory 80 GB } nvlink 160 GB/s }
        deploy tiny of small on node { ep 4 tokens 1 per gpu sms 1 }";
    let bundle = compile(text, &Choice::default())?.bundle;
    let device: Arc<dyn Device> = Arc::new(VirtualDevice::new(4, &VirtualOptions::default())?);
    let mut moe = Communicator::new(device, &bundle, Options::default())?;
    let rows = moe.upload(Tensor::Tokens, &vec![vec![half::bf16::ONE; 8]; 4])?;
    let routing = moe.upload_routing(&[[1], [2], [3], [0]], &[[1.0f32]; 4])?;
    let most = bundle.manifest().exchange.output_rows_max() as usize * 8;
    let output = moe.upload(Tensor::ExpertOutput, &vec![vec![half::bf16::ONE; most]; 4])?;
    let resident = || -> Outcome<u64> {
        let pages = std::fs::read_to_string("/proc/self/statm")?;
        Ok(pages.split(' ').nth(1).ok_or("no number")?.parse::<u64>()? * 4096)
    };
    let (start, mut before) = (Instant::now(), 0);
    for call in 0..CALLS {
        let dispatched = moe.dispatch(&rows, &routing)?;
        moe.combine(&dispatched.handle, &output)?;
        if call == CALLS / 10 {
            before = resident()?;
        }
    }
    moe.synchronise()?;
    let [before, after] = [before, resident()?].map(|bytes| bytes as f64 / 1e6);
    Ok(format!("{before:.1} MB after {}, {after:.1} MB after all, {:.0} s", CALLS / 10, start.elapsed().as_secs_f64()))
}

/// The tool, built beside this benchmark: `cargo build --release -p moec`.
fn tool() -> Outcome<PathBuf> {
    let here = std::env::current_exe()?;
    let tool = here.parent().and_then(|deps| deps.parent()).ok_or("no build folder")?.join("moec");
    if tool.exists() { Ok(tool) } else { Err("moec is not built: run `make bench`".into()) }
}

fn moec(arguments: &[&str]) -> Outcome<(Vec<u8>, Duration)> {
    let start = Instant::now();
    let output = Command::new(tool()?).current_dir(root()).args(arguments).output()?;
    let time = start.elapsed();
    if output.status.success() {
        Ok((output.stdout, time))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned().into())
    }
}

fn run_phase() -> Outcome<String> {
    let arguments = ["run", "dsl-examples/deepseek_v3.moe", "--deploy", "one_node", "--format", "json"];
    let mut seconds = Vec::new();
    let mut forward = Vec::new();
    for _ in 0..3 {
        let report: serde_json::Value = serde_json::from_slice(&moec(&arguments)?.0)?;
        seconds.push(Duration::from_secs_f64(report["seconds"]["run"].as_f64().ok_or("no time in the report")?));
        let arguments = [&arguments[..], &["--forward-only"]].concat();
        let report: serde_json::Value = serde_json::from_slice(&moec(&arguments)?.0)?;
        forward.push(Duration::from_secs_f64(report["seconds"]["run"].as_f64().ok_or("no time in the report")?));
    }
    let [all, forward] = [seconds, forward].map(|times| median(times).as_secs_f64());
    Ok(format!("{forward:.1} s forward, {all:.1} s with backward and cached dispatch; verified"))
}

fn registers() -> Outcome<String> {
    let spec = check_source(example("deepseek_v3").as_bytes()).spec.ok_or("the example is wrong")?;
    let choice = Choice { targets: vec![Target::Sm90a, Target::Sm100a], ..one_node() };
    let used = compile_spec(&spec, &choice, &mut Timings::default())?.assemble()?;
    let spills: u32 = used.iter().map(|used| used.usage.spill_stores + used.usage.spill_loads).sum();
    let stack: u32 = used.iter().map(|used| used.usage.stack_frame).sum();
    let list = used.iter().filter(|used| used.target == Target::Sm90a);
    let list: Vec<String> = list.map(|used| format!("{} {}", used.kernel.name(), used.usage.registers)).collect();
    Ok(format!("{spills} bytes spilled, {stack} bytes of stack; registers: {}", list.join(", ")))
}

fn plan_one() -> Outcome<String> {
    let times =
        (0..5).map(|_| moec(&["plan", "dsl-examples/deepseek_v3.moe", "--deploy", "pretrain"]).map(|(_, time)| time));
    Ok(milliseconds(median(times.collect::<Outcome<_>>()?)))
}

fn plan_search() -> Outcome<String> {
    let (stdout, time) =
        moec(&["plan", "dsl-examples/deepseek_v3.moe", "--deploy", "pretrain", "--search", "--format", "json"])?;
    let report: serde_json::Value = serde_json::from_slice(&stdout)?;
    let plans = report["search"]["tried"].as_u64().ok_or("no number of plans in the report")?;
    Ok(format!("{plans} plans in {:.1} s", time.as_secs_f64()))
}

/// 256 experts, top-8 of 4 groups: random logits, and the gate as native code.
fn sampling() -> Outcome<String> {
    let spec = check_source(example("deepseek_v3").as_bytes()).spec.ok_or("the example is wrong")?;
    let gate = &spec.models[spec.model("deepseek_v3").ok_or("no model")?].gate;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build()?;
    let mut rates = Vec::new();
    for seed in 0..41 {
        let start = Instant::now();
        let sample = pool.install(|| Sample::of(gate, &Logits::Independent, 1 << 17, seed))?;
        rates.push(sample.tokens() as f64 / start.elapsed().as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    let best = rates[rates.len() - 1];
    Ok(format!("{:.2} M tokens/s (best run {:.2} M)", rates[rates.len() / 2] * 1e-6, best * 1e-6))
}

/// Groups that share no link, and for the last one pods of 17 nodes whose spine joins them all.
fn simulation() -> Outcome<String> {
    let scenario = |nodes, spine| Scenario {
        network: Network {
            nodes,
            gpus_per_node: 8,
            nvlink: BytesPerSecond(160_000_000_000),
            nic: BytesPerSecond(50_000_000_000),
            nvlink_latency: Microseconds(1.0),
            nic_latency: Microseconds(5.0),
            spine,
        },
        demand: Demand {
            group_ranks: 64,
            tokens_per_gpu: 4096,
            nodes_per_token: 3.97,
            ranks_per_copy: 1.5,
            dispatch_bytes: Bytes(7464),
            combine_bytes: Bytes(14_336),
            rank_load: Vec::new(),
            expert_time: Some(Microseconds(500.0)),
        },
        faults: Vec::new(),
        options: simulate::Options::default(),
    };
    let joined = Spine { nodes_per_pod: 17, oversubscription: 2.0, latency: Microseconds(1.0) };
    let mut shown = Vec::new();
    for (nodes, spine) in [(32, None), (128, None), (256, None), (512, None), (2048, None), (2048, Some(joined))] {
        let what = if spine.is_some() { " joined by a spine" } else { "" };
        let scenario = scenario(nodes, spine);
        let mut times = Vec::new();
        for _ in 0..3 {
            let start = Instant::now();
            simulate(&scenario)?;
            times.push(start.elapsed());
        }
        shown.push(format!("{} GPUs{what} {:.2} s", scenario.gpus(), median(times).as_secs_f64()));
    }
    Ok(shown.join(", "))
}
