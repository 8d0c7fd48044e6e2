//! Every file of instruction expectations, through a cluster; and the proof that these files test every published form:
//! without the instruction, an expectation of its case fails.

#[path = "instructions/cases.rs"]
mod cases;
#[path = "instructions/lanes.rs"]
mod lanes;
#[path = "instructions/statements.rs"]
mod statements;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use lanes::Outcome;
use moe_vgpu::{
    Access, AccessKind, Argument, Cluster, Config, Event, Fence, Launch, Location, Module, Observer, Order, Policy,
    Proxy, RankId, Rule, Rules, Severity,
};

/// Register instructions: one thread's values.
const REGISTERS: [(&str, &str); 5] = [
    ("integer", include_str!("instructions/integer.txt")),
    ("bits", include_str!("instructions/bits.txt")),
    ("floating", include_str!("instructions/floating.txt")),
    ("conversion", include_str!("instructions/conversion.txt")),
    ("moves", include_str!("instructions/moves.txt")),
];

/// Instructions whose result depends on other threads, or on memory, and the threads of their CTA.
const LANES: [(&str, &str, u32); 4] = [
    ("warp", include_str!("instructions/warp.txt"), 32),
    ("memory", include_str!("instructions/memory.txt"), 32),
    ("atomic", include_str!("instructions/atomic.txt"), 32),
    ("cta", include_str!("instructions/cta.txt"), 64),
];

/// What nvcc emits for published communication kernels.
const PUBLISHED: &str = include_str!("data/instruction_forms.txt");

/// Forms that PTX allows to do nothing: without them all is as before, but for one instruction of each warp.
const HINTS: [&str; 4] = [
    "createpolicy.fractional.L2::evict_first.b64",
    "griddepcontrol.launch_dependents",
    "prefetch.L1",
    "prefetch.global.L2",
];

fn cluster(policy: Policy, seed: u64) -> Cluster {
    let config =
        Config { ranks: 1, policy, seed, instruction_limit: 100_000, rules: undefined_is_kept(), ..Config::default() };
    Cluster::new(config).expect("a cluster of one")
}

/// Cases say what is in registers that they do not write, and what lanes get from those that are not there.
fn undefined_is_kept() -> Rules {
    Rules::default().with(Rule::UnwrittenRegister, Severity::Ignored).with(Rule::AbsentLane, Severity::Ignored)
}

/// Runs register cases in one kernel.
fn run_registers(name: &str, cases: &[cases::Case]) -> Vec<u64> {
    let module = Module::parse(&cases::kernel(cases)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let kernel = module.kernel("cases").expect("the kernel of the test");
    let bytes = cases.iter().map(|case| case.results.len() * 8).sum::<usize>();
    let mut cluster = cluster(Policy::RoundRobin, 0);
    let out = cluster.allocate(RankId(0), bytes as u64, "out").expect("memory");
    let stream = cluster.stream(RankId(0)).expect("a stream");
    cluster.launch(stream, &kernel, Launch::linear(1, 32, vec![out.into()])).expect("a launch");
    cluster.run().unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut found = vec![0; bytes];
    cluster.read(out, &mut found).expect("results");
    found.as_chunks().0.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect()
}

/// Runs a case in a kernel of its own.
fn run_lanes(name: &str, case: &lanes::Case, mut cluster: Cluster, observed: bool) -> Outcome {
    let (text, lines) = case.kernel("case");
    let above = lanes::HEADER.lines().count();
    let module = Module::parse(&format!("{}{text}", lanes::HEADER));
    let module = module.unwrap_or_else(|error| panic!("{name}: line {}: {error}", case.line));
    let kernel = module.kernel("case").expect("the kernel of the test");
    let input = case.input();
    let from = cluster.allocate(RankId(0), input.len().max(8) as u64, "input").expect("memory");
    let to = cluster.allocate(RankId(0), case.output().max(8) as u64, "output").expect("memory");
    let memory = cluster.allocate(RankId(0), 256, "memory").expect("memory");
    cluster.write(from, &input).expect("input");
    cluster.write(to, &vec![0; case.output()]).expect("output");
    cluster.write(memory, &(0..=255).collect::<Vec<u8>>()).expect("input");
    let seen = Seen { lines: lines.start + above..lines.end + above, things: Arc::default() };
    if observed {
        cluster.observe(Box::new(seen.clone()));
    }
    let stream = cluster.stream(RankId(0)).expect("a stream");
    let arguments = vec![from.into(), to.into(), memory.into(), Argument::Bytes(lanes::options())];
    cluster.launch(stream, &kernel, Launch::linear(1, case.threads, arguments)).expect("a launch");
    let mut fault = cluster.run().err().map(|error| error.to_string());
    let mut found = vec![0; case.output()];
    if let Err(error) = cluster.read(to, &mut found) {
        // What was to be written was not, and is undefined there.
        assert!(error.to_string().contains("never written"), "{error}");
        fault.get_or_insert(error.to_string());
    }
    let things = seen.things.lock().expect("no panic").clone();
    Outcome {
        values: found.as_chunks().0.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect(),
        seen: observed.then_some(things),
        fault,
        instructions: cluster.instructions(),
    }
}

/// What the instructions of some lines did, each thing once.
#[derive(Clone)]
struct Seen {
    lines: Range<usize>,
    things: Arc<Mutex<BTreeSet<String>>>,
}

impl Seen {
    fn note(&self, line: u32, thing: String) {
        // The lines of a text count from one.
        if self.lines.contains(&(line as usize - 1)) {
            self.things.lock().expect("no panic").insert(thing);
        }
    }
}

fn order_name(order: Order) -> &'static str {
    match order {
        Order::Weak => "weak",
        Order::Volatile => "volatile",
        Order::Relaxed => "relaxed",
        Order::Acquire => "acquire",
        Order::Release => "release",
        Order::AcqRel => "acq_rel",
        Order::SeqCst => "sc",
    }
}

impl Observer for Seen {
    fn access(&mut self, access: &Access) {
        let kind = match access.kind {
            AccessKind::Read => "read",
            AccessKind::Write => "write",
            AccessKind::Atomic => "atomic",
        };
        let space = match access.location {
            Location::Device(_) => "global",
            Location::Shared(..) => "shared",
        };
        let mut thing = format!("{kind} {} {space} {}", access.bytes, order_name(access.order));
        if access.order != Order::Weak {
            thing += &format!(".{:?}", access.scope).to_lowercase();
        }
        thing += match access.proxy {
            Proxy::Generic => "",
            Proxy::Async => " async",
            Proxy::TensorMap => " map",
            Proxy::NonCoherent => " nc",
        };
        self.note(access.line, thing);
    }

    fn event(&mut self, event: &Event) {
        let Event::Fence { fence, scope, line, .. } = event else { return };
        let scope = format!("{scope:?}").to_lowercase();
        let thing = match fence {
            Fence::Memory(order) => format!("fence {}.{scope}", order_name(*order)),
            Fence::MbarrierInit => format!("fence mbarrier_init.{scope}"),
            Fence::ProxyAlias => "fence proxy.alias".into(),
            Fence::TensorMap { acquire } => format!("fence proxy.tensormap {acquire}"),
            Fence::ProxyAsync { global: true, shared: true } => "fence proxy.async".into(),
            Fence::ProxyAsync { global, .. } => {
                format!("fence proxy.async.{}", if *global { "global" } else { "shared" })
            }
        };
        self.note(*line, thing);
    }
}

#[test]
fn register_instructions() {
    for (name, file) in REGISTERS {
        let cases = cases::Case::parse(file);
        let differences = cases::differences(&cases, &run_registers(name, &cases));
        assert!(differences.is_empty(), "{name}: {} differ:\n{}", differences.len(), differences.join("\n"));
    }
}

/// Some lanes, and one, take other ways through the engine than a whole warp.
#[test]
fn register_instructions_of_some_lanes_leave_the_others_alone() {
    for (name, file) in REGISTERS {
        let cases = cases::Case::parse(file);
        let masked = cases.iter().flat_map(|case| {
            [0xaaaa_aaaa, 1 << 5].into_iter().filter_map(|mask| lanes::Case::of_some_lanes(case, mask))
        });
        let differences: Vec<String> = masked
            .flat_map(|case| case.differences(&run_lanes(name, &case, cluster(Policy::RoundRobin, 0), false)))
            .collect();
        assert!(differences.is_empty(), "{name}: {} differ:\n{}", differences.len(), differences.join("\n"));
    }
}

#[test]
fn instructions_on_lanes_and_memory() {
    for (name, file, threads) in LANES {
        let mut differences = Vec::new();
        for case in lanes::Case::parse(file, threads) {
            // Whole warps take other ways through the engine when nobody observes.
            for observed in [false, true] {
                let cluster = cluster(Policy::RoundRobin, 0);
                differences.extend(case.differences(&run_lanes(name, &case, cluster, observed)));
            }
            // One warp has one schedule.
            for seed in 0..if threads > 32 { 10 } else { 0 } {
                for policy in [Policy::Random, Policy::Adversarial] {
                    differences.extend(case.differences(&run_lanes(name, &case, cluster(policy, seed), true)));
                }
            }
        }
        assert!(differences.is_empty(), "{name}: {} differ:\n{}", differences.len(), differences.join("\n"));
    }
}

/// Whether other threads can see what a form does, so that its order and scope matter.
fn is_visible(form: &str) -> bool {
    let words: Vec<&str> = form.split('.').collect();
    let private = words.contains(&"local") || words.contains(&"param");
    !private && matches!(words[0], "ld" | "st" | "atom" | "red" | "fence" | "membar" | "mbarrier")
        || words.starts_with(&["cp", "async", "bulk"]) && !form.ends_with("_group")
}

/// A form that does nothing, or the wrong thing, is found by its absence: each form of the files makes a difference.
#[test]
fn without_any_form_an_expectation_fails() {
    let (mut forms, mut noticed) = (BTreeSet::new(), BTreeSet::new());
    for (name, file) in REGISTERS {
        let cases = cases::Case::parse(file);
        let most = cases.iter().map(|case| case.forms().len()).max().unwrap_or(0);
        for nth in 0..most {
            let mutants: Vec<cases::Case> = cases.iter().map(|case| case.without(nth)).collect();
            let found = run_registers(name, &mutants);
            for (case, found) in cases.iter().zip(cases::by_case(&cases, &found)) {
                let Some(form) = case.forms().get(nth).map(|form| (*form).to_owned()) else { continue };
                if !case.differences(found).is_empty() {
                    noticed.insert(form.clone());
                }
                forms.insert(form);
            }
        }
    }
    for (name, file, threads) in LANES {
        for case in lanes::Case::parse(file, threads) {
            for (nth, form) in case.forms().into_iter().enumerate() {
                forms.insert(form.to_owned());
                if noticed.contains(form) || is_visible(form) && !case.observes() {
                    continue;
                }
                let found = run_lanes(name, &case.without(nth), cluster(Policy::RoundRobin, 0), true);
                let is_shorter = || {
                    let complete = run_lanes(name, &case, cluster(Policy::RoundRobin, 0), true);
                    found.instructions + u64::from(threads / 32) == complete.instructions
                };
                if !case.differences(&found).is_empty() || HINTS.contains(&form) && is_shorter() {
                    noticed.insert(form.to_owned());
                }
            }
        }
    }
    let unnoticed: Vec<&String> = forms.difference(&noticed).collect();
    assert!(unnoticed.is_empty(), "{} of {} forms can be left out: {unnoticed:#?}", unnoticed.len(), forms.len());
    let untested: Vec<&str> = PUBLISHED.lines().filter(|form| !noticed.contains(*form)).collect();
    assert!(untested.is_empty(), "{} published forms are in no case: {untested:#?}", untested.len());
}
