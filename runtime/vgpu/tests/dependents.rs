//! Programmatic dependent launches: they overlap the launch before them, and `griddepcontrol.wait` is the only thing that orders them.

mod support;

use std::sync::{Arc, Mutex};

use moe_vgpu::{
    Access, Address, Cluster, Config, Judge, Launch, LaunchId, Missing, Module, Observer, Policy, RankId, RunError,
};
use support::{POLICIES, zeroed};

/// `first` lets the next one begin and then takes its time to write 5 to each word; `hasty` and `patient` copy the words, `idle` waits or
/// not and does nothing else.
const KERNELS: &str = "
.version 8.6
.target sm_90a
.address_size 64
.visible .entry first(.param .u64 words, .param .u64 scratch) {
    .reg .b64 %a, %b, %c;
    .reg .b32 %t, %i;
    .reg .pred %p;
    ld.param.u64 %a, [words];
    ld.param.u64 %b, [scratch];
    mov.u32 %t, %ctaid.x;
    mul.wide.u32 %c, %t, 4;
    add.u64 %a, %a, %c;
    add.u64 %b, %b, %c;
    griddepcontrol.launch_dependents;
    mov.u32 %i, 0;
again:
    st.global.u32 [%b], %i;
    add.u32 %i, %i, 1;
    setp.lt.u32 %p, %i, 300;
    @%p bra again;
    st.global.u32 [%a], 5;
    ret;
}
.visible .entry copy(.param .u64 words, .param .u64 out) {
    .reg .b64 %a, %b, %c;
    .reg .b32 %t, %v;
    ld.param.u64 %a, [words];
    ld.param.u64 %b, [out];
    mov.u32 %t, %ctaid.x;
    mul.wide.u32 %c, %t, 4;
    add.u64 %a, %a, %c;
    add.u64 %b, %b, %c;
    st.global.u32 [%b], 1;
    griddepcontrol.wait;
    ld.global.u32 %v, [%a];
    st.global.u32 [%b], %v;
    ret;
}
.visible .entry between() {
    griddepcontrol.launch_dependents;
    griddepcontrol.wait;
    ret;
}
.visible .entry asks(.param .u64 flag) {
    .reg .b64 %a;
    .reg .b32 %v, %t;
    .reg .pred %p;
    ld.param.u64 %a, [flag];
    griddepcontrol.launch_dependents;
again:
    ld.relaxed.gpu.global.u32 %v, [%a];
    setp.eq.u32 %p, %v, 0;
    @%p bra again;
    ret;
}
.visible .entry answers(.param .u64 flag) {
    .reg .b64 %a;
    ld.param.u64 %a, [flag];
    st.relaxed.gpu.global.u32 [%a], 1;
    griddepcontrol.wait;
    ret;
}";

const CTAS: u32 = 3;

fn module(changes: &[(&str, &str)]) -> Module {
    let mut text = KERNELS.to_owned();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    Module::parse(&text).unwrap_or_else(|error| panic!("{error}"))
}

/// A cluster of one rank, and every launch in one stream.
struct Stage {
    cluster: Cluster,
    judge: Judge,
    words: Address,
    scratch: Address,
    out: Address,
    stream: moe_vgpu::StreamId,
}

impl Stage {
    fn new(policy: Policy, seed: u64) -> Stage {
        let mut cluster = Cluster::new(Config { policy, seed, sms: 2, ..Config::default() }).unwrap();
        let [words, scratch, out] = ["words", "scratch", "out"].map(|name| zeroed(&mut cluster, 0, 64, name));
        let stream = cluster.stream(RankId(0)).unwrap();
        let judge = Judge::default();
        cluster.observe(Box::new(judge.clone()));
        Stage { cluster, judge, words, scratch, out, stream }
    }

    fn launch(&mut self, module: &Module, name: &str, arguments: &[Address], dependent: bool) -> LaunchId {
        let kernel = module.kernel(name).unwrap();
        let launch = Launch::linear(CTAS, 1, arguments.iter().map(|address| (*address).into()).collect());
        if dependent {
            self.cluster.launch_dependent(self.stream, &kernel, launch).unwrap()
        } else {
            self.cluster.launch(self.stream, &kernel, launch).unwrap()
        }
    }

    fn first_and_copy(&mut self, module: &Module, dependent: bool) -> (LaunchId, LaunchId) {
        let first = self.launch(module, "first", &[self.words, self.scratch], false);
        (first, self.launch(module, "copy", &[self.words, self.out], dependent))
    }

    fn run(&mut self) -> Result<Vec<u32>, RunError> {
        self.cluster.run()?;
        let mut bytes = [0; 4 * CTAS as usize];
        self.cluster.read(self.out, &mut bytes).unwrap();
        Ok(bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect())
    }

    fn only_lacks_a_wait(&self) -> bool {
        let found = self.found();
        !found.is_empty() && found.iter().all(|missing| *missing == Missing::GridWait)
    }

    fn found(&self) -> Vec<Missing> {
        self.judge.found().into_iter().map(|conflict| conflict.missing).collect()
    }
}

fn schedules() -> impl Iterator<Item = (Policy, u64)> {
    POLICIES.into_iter().flat_map(|policy| (0..12).map(move |seed| (policy, seed)))
}

/// Launches in the order of their accesses.
#[derive(Clone, Default)]
struct Order(Arc<Mutex<Vec<LaunchId>>>);

impl Observer for Order {
    fn access(&mut self, access: &Access) {
        self.0.lock().unwrap().push(access.thread.launch);
    }
}

#[test]
fn what_is_read_behind_the_wait_is_there() {
    let right = module(&[]);
    for (policy, seed) in schedules() {
        for dependent in [false, true] {
            let mut stage = Stage::new(policy, seed);
            stage.first_and_copy(&right, dependent);
            assert_eq!(stage.run().unwrap(), [5; CTAS as usize], "{policy}, seed {seed}");
            assert_eq!(stage.found(), [], "{policy}, seed {seed}");
        }
    }
}

#[test]
fn what_is_read_before_the_wait_is_a_race_and_may_be_old() {
    let early = module(&[(
        "    griddepcontrol.wait;\n    ld.global.u32 %v, [%a];",
        "ld.global.u32 %v, [%a];griddepcontrol.wait;",
    )]);
    let never = module(&[("    griddepcontrol.wait;\n    ld.global.u32 %v, [%a];", "ld.global.u32 %v, [%a];")]);
    for wrong in [early, never] {
        let mut old = 0;
        for (policy, seed) in schedules() {
            let mut stage = Stage::new(policy, seed);
            stage.first_and_copy(&wrong, true);
            old += u32::from(stage.run().unwrap() != [5; CTAS as usize]);
            assert!(stage.only_lacks_a_wait(), "{policy}, seed {seed}");
            // In a launch that is not dependent nothing is wrong with it.
            let mut stage = Stage::new(policy, seed);
            stage.first_and_copy(&wrong, false);
            assert_eq!(stage.run().unwrap(), [5; CTAS as usize], "{policy}, seed {seed}");
            assert_eq!(stage.found(), []);
        }
        assert!(old > 0, "no schedule has read what was there before");
    }
}

#[test]
fn what_the_dependent_writes_early_is_a_race_with_what_the_one_before_does_later() {
    // `copy` writes where `first` does.
    for (policy, seed) in schedules() {
        let right = module(&[]);
        let mut stage = Stage::new(policy, seed);
        stage.launch(&right, "first", &[stage.words, stage.scratch], false);
        stage.launch(&right, "copy", &[stage.out, stage.words], true);
        stage.run().unwrap();
        assert!(stage.only_lacks_a_wait(), "{policy}, seed {seed}");
    }
}

#[test]
fn both_grids_run_at_once_and_only_with_the_attribute() {
    let right = module(&[]);
    let mut overlaps = [0; 4];
    for (number, policy) in POLICIES.into_iter().enumerate() {
        for seed in 0..12 {
            for dependent in [false, true] {
                let mut stage = Stage::new(policy, seed);
                let order = Order::default();
                stage.cluster.observe(Box::new(order.clone()));
                let (first, copy) = stage.first_and_copy(&right, dependent);
                stage.run().unwrap();
                let order = order.0.lock().unwrap();
                let begun = order.iter().position(|launch| *launch == copy).unwrap();
                let over = order.iter().rposition(|launch| *launch == first).unwrap();
                assert!(dependent || over < begun);
                overlaps[number] += u32::from(begun < over);
            }
        }
    }
    // Not always: it is a permission, which hardware need not use.
    assert!(overlaps.iter().all(|count| *count > 0) && overlaps[1..].iter().any(|count| *count < 12), "{overlaps:?}");
}

#[test]
fn a_launch_begins_when_every_cta_before_it_has_let_it() {
    // Only one of the CTAs lets it, and all of them wait for what it does.
    let some = module(&[(
        "    griddepcontrol.launch_dependents;\nagain:\n    ld.relaxed",
        "    mov.u32 %t, %ctaid.x; setp.eq.u32 %p, %t, 0; @%p griddepcontrol.launch_dependents;\nagain:\n    ld.relaxed",
    )]);
    let all = module(&[]);
    let mut answered = 0;
    for (policy, seed) in schedules() {
        let run = |module: &Module| {
            let mut stage = Stage::new(policy, seed);
            let flag = stage.words;
            stage.launch(module, "asks", &[flag], false);
            stage.launch(module, "answers", &[flag], true);
            stage.run().map(|_| stage.found())
        };
        assert!(matches!(run(&some), Err(RunError::Deadlock(_))), "{policy}, seed {seed}");
        // Whoever relies on the overlap relies on what nobody promises: there are schedules without it.
        match run(&all) {
            Ok(found) => {
                assert_eq!(found, []);
                answered += 1;
            }
            Err(error) => assert!(policy != Policy::RoundRobin && matches!(error, RunError::Deadlock(_)), "{error}"),
        }
    }
    assert!((13..48).contains(&answered), "{answered}");
}

#[test]
fn a_wait_that_never_ends_says_for_whom() {
    let right = module(&[("    st.relaxed.gpu.global.u32 [%a], 1;", "")]);
    let mut stage = Stage::new(Policy::RoundRobin, 0);
    let flag = stage.words;
    stage.launch(&right, "asks", &[flag], false);
    stage.launch(&right, "answers", &[flag], true);
    let report = stage.run().unwrap_err().to_string();
    assert!(report.contains("waits for the end of `asks` (launch 0), which is before it in its stream"), "{report}");
}

/// The wait of a launch covers the one before it, and what that one has waited for: nothing else.
#[test]
fn a_launch_that_ends_without_having_waited_breaks_the_chain() {
    let (whole, broken) = (
        module(&[]),
        module(&[("    griddepcontrol.launch_dependents;\n    griddepcontrol.wait;\n    ret;", "    ret;")]),
    );
    let mut old = 0;
    for (policy, seed) in schedules() {
        let run = |module: &Module, dependent: bool| {
            let mut stage = Stage::new(policy, seed);
            stage.launch(module, "first", &[stage.words, stage.scratch], false);
            stage.launch(module, "between", &[], true);
            stage.launch(module, "copy", &[stage.words, stage.out], dependent);
            (stage.run().unwrap(), stage.found())
        };
        assert_eq!(run(&whole, true), (vec![5; CTAS as usize], vec![]), "{policy}, seed {seed}");
        // A launch that is not dependent stands behind all of its stream.
        assert_eq!(run(&broken, false), (vec![5; CTAS as usize], vec![]), "{policy}, seed {seed}");
        let (read, found) = run(&broken, true);
        assert!(
            !found.is_empty() && found.iter().all(|missing| *missing == Missing::GridWait),
            "{policy}, seed {seed}"
        );
        old += u32::from(read != [5; CTAS as usize]);
    }
    assert!(old > 0, "no schedule has read what was there before");
}

#[test]
fn events_and_freed_memory_stand_behind_everything() {
    let right = module(&[]);
    for (policy, seed) in schedules() {
        let mut stage = Stage::new(policy, seed);
        stage.first_and_copy(&right, true);
        let reached = stage.cluster.record(stage.stream).unwrap();
        let other = stage.cluster.stream(RankId(0)).unwrap();
        stage.cluster.wait(other, reached).unwrap();
        let copy = right.kernel("copy").unwrap();
        let (out, scratch) = (stage.out, stage.scratch);
        stage.cluster.launch(other, &copy, Launch::linear(CTAS, 1, vec![out.into(), scratch.into()])).unwrap();
        let words = stage.words;
        stage.cluster.free_after(stage.stream, words).unwrap();
        assert_eq!(stage.run().unwrap(), [5; CTAS as usize], "{policy}, seed {seed}");
        assert_eq!(stage.found(), [], "{policy}, seed {seed}");
    }
}
