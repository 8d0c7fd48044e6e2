//! What a wrong order does: each kernel gives a wrong result under [`Policy::Weak`] and no other policy, and mended it gives none. Other
//! policies leave it to the judge to name the cause; what it says of these kernels is in `judge.rs`.

mod support;

use moe_vgpu::{Address, Cluster, Config, Launch, Module, Policy, RankId, Rule, Rules, Severity};
use support::{words, zeroed};

/// Seeds of a policy; a wrong result comes much sooner.
const SEEDS: u64 = 200;

/// What a launch gets, by name; each is zero and in the rank given.
type Memory = [(&'static str, u32)];

#[derive(Clone, Copy)]
struct Launched {
    kernel: &'static str,
    rank: u32,
    ctas: u32,
    threads: u32,
    arguments: &'static [&'static str],
}

const MEMORY: &Memory = &[("data", 1), ("flag", 1), ("out", 1), ("counter", 0)];
const GET: Launched = Launched { kernel: "get", rank: 1, ctas: 1, threads: 1, arguments: &["data", "flag", "out"] };
const PUT: Launched = Launched { kernel: "put", rank: 0, ctas: 1, threads: 1, arguments: &["data", "flag"] };

/// The first word of `out` under every seed of a policy, each once; none where that is not defined.
fn results(text: &str, policy: Policy, launches: &[Launched]) -> Vec<Option<u32>> {
    let module = Module::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut found = Vec::new();
    for seed in 0..SEEDS {
        let rules = Rules::default().with(Rule::CopyInFlight, Severity::Ignored);
        let mut cluster = Cluster::new(Config { ranks: 3, policy, seed, rules, ..Config::default() }).unwrap();
        let places: Vec<(&str, Address)> =
            MEMORY.iter().map(|(name, rank)| (*name, zeroed(&mut cluster, *rank, 256, name))).collect();
        let place = |name: &str| places.iter().find(|place| place.0 == name).expect("its name").1;
        for launch in launches {
            let stream = cluster.stream(RankId(launch.rank)).unwrap();
            let arguments = launch.arguments.iter().map(|name| place(name).into()).collect();
            let kernel = module.kernel(launch.kernel).unwrap();
            cluster.launch(stream, &kernel, Launch::linear(launch.ctas, launch.threads, arguments)).unwrap();
        }
        cluster.run().unwrap_or_else(|error| panic!("{policy}, seed {seed}: {error}"));
        let out = cluster.read(place("out"), &mut [0; 4]).is_ok().then(|| words(&mut cluster, place("out"), 1)[0]);
        if !found.contains(&out) {
            found.push(out);
        }
    }
    found.sort_unstable();
    found
}

/// The kernel gives `wrong` besides `right`, where memory is weak, and nothing but `right` otherwise or with the changes.
#[track_caller]
fn shows(text: &str, launches: &[Launched], changes: &[(&str, &str)], right: u32, wrong: Option<u32>) {
    let mut mended = text.to_owned();
    for (from, to) in changes {
        assert!(mended.contains(from), "{from}");
        mended = mended.replace(from, to);
    }
    for policy in Policy::ALL {
        let mut expected = vec![Some(right)];
        expected.extend((policy == Policy::Weak).then_some(wrong));
        expected.sort_unstable();
        assert_eq!(results(text, policy, launches), expected, "{policy}");
        assert_eq!(results(&mended, policy, launches), [Some(right)], "{policy}, mended");
    }
}

#[test]
fn a_relaxed_flag() {
    let changes = [("st.relaxed", "st.release"), ("ld.relaxed", "ld.acquire")];
    shows(include_str!("judge/relaxed_flag_between_ranks.ptx"), &[GET, PUT], &changes, 7, Some(0));
    // Either of the two alone does not do.
    for half in changes {
        let text = include_str!("judge/relaxed_flag_between_ranks.ptx").replace(half.0, half.1);
        assert_eq!(results(&text, Policy::Weak, &[GET, PUT]), [Some(0), Some(7)]);
    }
}

#[test]
fn a_scope_that_ends_at_the_rank() {
    let text = include_str!("judge/gpu_scope_between_ranks.ptx");
    shows(text, &[GET, PUT], &[("release.gpu", "release.sys"), ("acquire.gpu", "acquire.sys")], 7, Some(0));
}

#[test]
fn a_barrier_that_does_not_release() {
    let text = include_str!("judge/published/barrier_without_release.ptx");
    let put = Launched { threads: 64, ..PUT };
    shows(text, &[GET, put], &[("// here", "fence.acq_rel.sys;")], 33, Some(0));
}

#[test]
fn a_fence_that_was_made_cheaper() {
    let text = include_str!("judge/published/cheaper_fence.ptx");
    shows(text, &[GET, PUT], &[("fence.acq_rel.gpu", "fence.acq_rel.sys")], 3, Some(0));
}

#[test]
fn a_counter_that_does_not_release() {
    let text = include_str!("judge/published/counter_without_release.ptx");
    let put = Launched { ctas: 2, arguments: &["data", "counter", "flag"], ..PUT };
    shows(text, &[GET, put], &[("atom.relaxed", "atom.acq_rel")], 14, Some(7));
}

/// The second row comes into the slot before the first one has been read, as the read is late.
#[test]
fn a_slot_that_is_given_back_without_a_release() {
    let put = Launched { arguments: &["data", "flag", "counter"], ..PUT };
    let get = Launched { arguments: &["data", "flag", "counter", "out"], ..GET };
    let text = include_str!("judge/published/head_without_release.ptx");
    shows(text, &[get, put], &[("st.relaxed.sys", "st.release.sys")], 7, Some(8));
}

/// What a non-coherent load has in its cache may be from before the launch.
#[test]
fn a_non_coherent_load_of_fresh_data() {
    shows(include_str!("judge/nc_load_of_fresh_data.ptx"), &[GET, PUT], &[(".nc", "")], 7, Some(0));
}

/// A bulk store goes through another proxy than the stores before it.
#[test]
fn no_proxy_fence_before_a_bulk_store() {
    let copy = "cp.async.bulk.global";
    let mended = format!("fence.proxy.async.shared::cta; {copy}");
    let launch = Launched { kernel: "k", rank: 0, ctas: 1, threads: 1, arguments: &["out"] };
    // Nobody has written shared memory before.
    shows(include_str!("judge/no_proxy_fence.ptx"), &[launch], &[(copy, &mended)], 1, None);
}

/// The same on the way in, from global memory.
#[test]
fn no_proxy_fence_before_a_bulk_load() {
    let text = "
.version 8.6
.target sm_90a
.address_size 64
.visible .entry k(.param .u64 data, .param .u64 out) {
    .reg .b64 %a, %c; .reg .b32 %v; .reg .pred %p;
    .shared .align 16 .b8 s[16];
    .shared .align 8 .b8 full[8];
    ld.param.u64 %a,[data];
    ld.param.u64 %c,[out];
    mbarrier.init.shared.b64 [full], 1;
    st.global.v4.u32 [%a], {1,2,3,4};
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [full], 16;
    // here
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [s], [%a], 16, [full];
w:
    mbarrier.try_wait.parity.shared::cta.b64 %p, [full], 0;
    @!%p bra w;
    ld.shared.u32 %v, [s+4];
    st.global.u32 [%c], %v;
    ret;
}";
    let launch = Launched { kernel: "k", rank: 0, ctas: 1, threads: 1, arguments: &["data", "out"] };
    shows(text, &[launch], &[("// here", "fence.proxy.async.global;")], 2, Some(0));
}

/// Of a word that more threads have read than are remembered of a message, older values are forgotten, and no thread goes back to one.
#[test]
fn more_readers_of_a_word_than_are_remembered() {
    let text = "
.version 8.6
.target sm_90a
.address_size 64
.visible .entry put(.param .u64 flag) {
    .reg .b64 %a; .reg .b32 %v; .reg .pred %p;
    ld.param.u64 %a, [flag];
    mov.u32 %v, 1;
again:
    st.release.gpu.global.u32 [%a], %v;
    add.u32 %v, %v, 1;
    setp.le.u32 %p, %v, 6;
    @%p bra again;
    ret;
}
.visible .entry get(.param .u64 flag, .param .u64 out) {
    .reg .b64 %a, %b; .reg .b32 %v, %w, %t; .reg .pred %p;
    ld.param.u64 %a, [flag];
    ld.param.u64 %b, [out];
    mov.u32 %v, 0;
again:
    ld.acquire.gpu.global.u32 %w, [%a];
    setp.lt.u32 %p, %w, %v;
    @%p st.relaxed.gpu.global.u32 [%b], 1;
    mov.u32 %v, %w;
    setp.lt.u32 %p, %v, 6;
    @%p bra again;
    ret;
}";
    let module = Module::parse(text).unwrap_or_else(|error| panic!("{error}"));
    for seed in 0..20 {
        let mut cluster = Cluster::new(Config { policy: Policy::Weak, seed, ..Config::default() }).unwrap();
        let (flag, out) = (zeroed(&mut cluster, 0, 4, "flag"), zeroed(&mut cluster, 0, 4, "out"));
        for (kernel, ctas, threads, arguments) in [("put", 1, 1, vec![flag]), ("get", 4, 256, vec![flag, out])] {
            let stream = cluster.stream(RankId(0)).unwrap();
            let arguments = arguments.into_iter().map(Into::into).collect();
            cluster.launch(stream, &module.kernel(kernel).unwrap(), Launch::linear(ctas, threads, arguments)).unwrap();
        }
        cluster.run().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!((words(&mut cluster, flag, 1)[0], words(&mut cluster, out, 1)[0]), (6, 0), "seed {seed}");
    }
}
