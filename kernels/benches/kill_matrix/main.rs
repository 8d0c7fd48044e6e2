//! The judge is judged: `make judge` takes every order, scope, flag, wait, barrier and fence from every kernel that is emitted, one at a
//! time, and says who notices. Exits with 1 where nobody does.
//!
//! `--all` tries each kernel that differs in more than numbers and arithmetic; without it one of those that order the same.
//! `--json FILE` and `--page FILE` write the matrix, the second between two marks of a page; a WORD tries the kernels with it in their name.

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/common/gate_trials.rs"]
mod gate_trials;
#[path = "../../tests/common/host.rs"]
mod host;
#[path = "../../tests/common/mutants.rs"]
mod mutants;
#[path = "../../../compiler/gate/tests/common/programs.rs"]
#[allow(dead_code)]
mod programs;
#[path = "../../tests/common/run.rs"]
mod run;
#[path = "../../tests/exchange/scenario.rs"]
mod scenario;
mod shapes;
mod table;
#[path = "../../tests/exchange/trials.rs"]
mod trials;
#[path = "../../tests/common/virtual_gpu.rs"]
mod virtual_gpu;
#[path = "../../tests/exchange/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use gate_trials::Subject;
use mutants::{Mutant, mutants};
use rayon::prelude::*;
use run::{Outcome, Schedule};
use shapes::{Class, Likeness};
use table::{Matrix, Tried};
use world::Loaded;

/// Under which a mutant may show what is wrong with it.
fn schedules() -> [Schedule; 3] {
    [Schedule::adversarial(1), Schedule::random(1), Schedule::IN_TURN]
}

/// What is said of a kernel, by those who notice.
#[derive(Debug, Default, PartialEq)]
struct Noticed {
    executor: Option<String>,
    judge: Option<moe_vgpu::Conflict>,
    exploration: Option<String>,
}

impl Noticed {
    /// The trials go on until all have noticed, or all schedules are over.
    fn of(trials: &[&dyn Fn(Schedule) -> Outcome]) -> Noticed {
        let mut noticed = Noticed::default();
        for (schedule, trial) in
            schedules().into_iter().flat_map(|schedule| trials.iter().map(move |trial| (schedule, trial)))
        {
            if noticed.executor.is_none() || noticed.judge.is_none() {
                let schedule = if noticed.judge.is_none() { schedule.judged() } else { schedule };
                let Outcome { executed, conflict } = trial(schedule);
                noticed.executor = noticed.executor.or(executed.err());
                noticed.judge = noticed.judge.or(conflict);
            }
        }
        let weak = (0..EXPLORED).map(Schedule::weak);
        let mut explored = weak.flat_map(|schedule| trials.iter().map(move |trial| trial(schedule).executed.err()));
        noticed.exploration = explored.find_map(|problem| problem);
        noticed
    }
}

/// Seeds under which memory is as weak as PTX allows.
const EXPLORED: u64 = 3;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let file = |option: &str| arguments.iter().position(|known| known == option).map(|at| arguments[at + 1].clone());
    let (json, page) = (file("--json"), file("--page"));
    let word =
        arguments.iter().find(|known| !known.starts_with("--") && ![&json, &page].contains(&&Some((*known).clone())));
    let word = word.cloned().unwrap_or_default();
    let all = arguments.iter().any(|argument| argument == "--all");
    let likeness = if all { Likeness::Skeleton } else { Likeness::Orders };
    let start = Instant::now();
    let mut matrix = Matrix::default();
    exchanges(&word, likeness, &mut matrix);
    gates(&word, likeness, &mut matrix);
    println!("\n{matrix}\n{} s", start.elapsed().as_secs());
    if let Some(path) = json {
        std::fs::write(&path, matrix.json()).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    if let Some(path) = page {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        std::fs::write(&path, table::renewed(&text, &matrix)).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    if matrix.survivors().next().is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Says how far it is, one line for each kernel.
fn progress(done: &AtomicUsize, all: usize, name: &str, tried: &[Tried]) {
    let survivors = tried.iter().filter(|tried| tried.survives()).count();
    println!(
        "[{}/{all}] {name}: {} mutants, {survivors} survive",
        done.fetch_add(1, Ordering::Relaxed) + 1,
        tried.len()
    );
    for tried in tried.iter().filter(|tried| tried.survives()) {
        println!("    {}, line {}: {}", tried.kind.name(), tried.line, tried.what);
    }
}

fn exchanges(word: &str, likeness: Likeness, matrix: &mut Matrix) {
    let classes = shapes::classes(likeness, |kernel| kernel.name().contains(word));
    let kernels: usize = classes.iter().map(|class| class.of.len()).sum();
    let mut loaded: Vec<Loaded> = Vec::new();
    for Class { exchange, .. } in &classes {
        if loaded.iter().all(|known| known.exchange != *exchange) {
            loaded.push(Loaded::new(exchange));
        }
    }
    println!("{kernels} kernels of exchanges, {} that differ, in {} exchanges", classes.len(), loaded.len());
    matrix.same(kernels, classes.len());
    let (done, all) = (AtomicUsize::new(0), classes.len());
    let tried = classes.par_iter().flat_map(|class| {
        let loaded = loaded.iter().find(|loaded| loaded.exchange == class.exchange).expect("each has been loaded");
        let tried = of_exchange(class, loaded);
        progress(&done, all, &format!("{} of {}", class.kernel.name(), class.of.join("; ")), &tried);
        tried
    });
    matrix.add(tried.collect());
}

fn of_exchange(class: &Class, loaded: &Loaded) -> Vec<Tried> {
    let kernel = class.kernel;
    let name = kernel.name();
    let trials = trials::trials(kernel, loaded);
    let noticed_of = |loaded: &Loaded| {
        let trials: Vec<Box<dyn Fn(Schedule) -> Outcome>> = trials
            .iter()
            .map(|&trial| Box::new(move |schedule| trial(loaded, kernel, schedule)) as Box<dyn Fn(Schedule) -> Outcome>)
            .collect();
        Noticed::of(&trials.iter().map(AsRef::as_ref).collect::<Vec<_>>())
    };
    let wrong = noticed_of(loaded);
    assert!(wrong == Noticed::default(), "{name} of {:?}: {wrong:?}", class.of);
    let mutants = mutants(&class.text).unwrap_or_else(|unknown| panic!("{name}, {unknown}"));
    let tried = |Mutant { kind, line, what, text }: Mutant| {
        let mutated = loaded.with(kernel, &text).unwrap_or_else(|error| panic!("{name}, {what}: {error}"));
        let Noticed { executor, judge, exploration } = noticed_of(&mutated);
        Tried { kernel: name, of: class.of[0].clone(), kind, line, what, executor, judge, exploration }
    };
    mutants.into_par_iter().map(tried).collect()
}

fn gates(word: &str, likeness: Likeness, matrix: &mut Matrix) {
    let examples = common::examples().into_iter();
    let odd = [(5, None, 2), (16, Some(4), 3), (60, Some(4), 4), (96, Some(3), 3), (185, Some(5), 8), (1024, None, 32)];
    let odd = odd.map(|(experts, groups, top_k)| {
        (format!("{experts} experts in {groups:?}"), common::group_limited(experts, groups, top_k))
    });
    let gates: Vec<_> =
        examples.chain(odd).map(|(name, gate)| (name, gate_trials::derivative_of(&gate), gate)).collect();
    let mut classes: BTreeMap<(&str, String), (Subject<'_>, Vec<&str>)> = BTreeMap::new();
    let mut kernels = 0;
    for (name, derivative, gate) in &gates {
        for (kernel, subject) in
            [("gate", gate_trials::forward(gate)), ("gate_backward", gate_trials::backward(derivative))]
        {
            kernels += 1;
            let key = (kernel, likeness.key(&subject.kernel.ptx));
            classes.entry(key).or_insert_with(|| (subject, vec![])).1.push(name);
        }
    }
    println!("{kernels} kernels of gates, {} that differ", classes.len());
    matrix.same(kernels, classes.len());
    classes.retain(|(kernel, _), _| kernel.contains(word));
    let (done, all) = (AtomicUsize::new(0), classes.len());
    let classes: Vec<_> = classes.iter().collect();
    let tried = classes.into_par_iter().flat_map(|((kernel, _), (subject, of))| {
        let tried = of_gate(kernel, of[0], subject);
        progress(&done, all, &format!("{kernel} of {}", of.join("; ")), &tried);
        tried
    });
    matrix.add(tried.collect());
}

fn of_gate(kernel: &'static str, of: &str, subject: &Subject<'_>) -> Vec<Tried> {
    let noticed_of = |kernel: &virtual_gpu::Virtual<'_>| {
        let trials: Vec<Box<dyn Fn(Schedule) -> Outcome>> = gate_trials::TRIALS
            .iter()
            .map(|&trial| {
                Box::new(move |schedule| trial(subject, kernel, schedule)) as Box<dyn Fn(Schedule) -> Outcome>
            })
            .collect();
        Noticed::of(&trials.iter().map(AsRef::as_ref).collect::<Vec<_>>())
    };
    let wrong = noticed_of(&subject.kernel);
    assert!(wrong == Noticed::default(), "{kernel} of {of}: {wrong:?}");
    let mutants = mutants(&subject.kernel.ptx).unwrap_or_else(|unknown| panic!("{kernel} of {of}, {unknown}"));
    let tried = |Mutant { kind, line, what, text }: Mutant| {
        let Noticed { executor, judge, exploration } = noticed_of(&subject.kernel.with(text));
        Tried { kernel, of: of.to_owned(), kind, line, what, executor, judge, exploration }
    };
    mutants.into_par_iter().map(tried).collect()
}
