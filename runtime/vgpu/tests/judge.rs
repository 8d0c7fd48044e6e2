//! The judge of memory order: each kernel that is wrong is told with what it lacks, under every schedule; mended, nothing is said of it.
//!
//! The kernels of `judge/` were written for this, and ptxas accepts them; two show in small what was wrong in published kernels.

#[path = "judge/published.rs"]
mod published;
mod support;

use insta::assert_snapshot;
use moe_vgpu::{
    Address, Cluster, Config, Judge, Launch, Missing, Module, Policy, RankId, Rule, Rules, Scope, Severity,
};
use support::{POLICIES, kernel, zeroed};

/// A kernel with some text replaced by another, which has to be there.
fn mended(text: &str, changes: &[(&str, &str)]) -> Module {
    let mut text = text.to_owned();
    for (wrong, right) in changes {
        assert!(text.contains(wrong), "{wrong}");
        text = text.replace(wrong, right);
    }
    Module::parse(&text).unwrap_or_else(|error| panic!("{error}"))
}

/// What is said of a run in turn. Under every other policy and seed something is said too, or nothing.
fn judged(ranks: u32, run: impl Fn(&mut Cluster)) -> Vec<(Missing, String)> {
    judged_under(&[1, 8, 8], ranks, run)
}

/// With so many seeds of each policy.
fn judged_under(seeds: &[u64], ranks: u32, run: impl Fn(&mut Cluster)) -> Vec<(Missing, String)> {
    judged_with(&Rules::default(), seeds, ranks, run)
}

fn judged_with(rules: &Rules, seeds: &[u64], ranks: u32, run: impl Fn(&mut Cluster)) -> Vec<(Missing, String)> {
    let mut all: Option<Vec<(Missing, String)>> = None;
    for (policy, &seeds) in POLICIES.into_iter().zip(seeds) {
        for seed in 0..seeds {
            // What the executor finds by itself is left to the judge.
            let silent = Rules::default().with(Rule::CopyInFlight, Severity::Ignored);
            let mut cluster = Cluster::new(Config { ranks, policy, seed, rules: silent, ..Config::default() }).unwrap();
            let judge = Judge::new(rules.clone());
            cluster.observe(Box::new(judge.clone()));
            run(&mut cluster);
            cluster.run().unwrap_or_else(|error| panic!("{error}"));
            let found: Vec<_> = judge.found().into_iter().map(|one| (one.missing.clone(), one.to_string())).collect();
            match &all {
                None => all = Some(found),
                Some(before) => {
                    assert_eq!(before.is_empty(), found.is_empty(), "{policy}, seed {seed}: {before:?} {found:?}");
                }
            }
        }
    }
    all.unwrap_or_default()
}

fn missing(found: &[(Missing, String)]) -> Vec<&Missing> {
    found.iter().map(|(missing, _)| missing).collect()
}

fn launch(cluster: &mut Cluster, rank: u32, module: &Module, name: &str, threads: u32, arguments: &[Address]) {
    let stream = cluster.stream(RankId(rank)).unwrap();
    let arguments = arguments.iter().map(|address| (*address).into()).collect();
    cluster.launch(stream, &module.kernel(name).unwrap(), Launch::linear(1, threads, arguments)).unwrap();
}

/// Rank 0 puts, rank 1 gets.
fn put_and_get(module: &Module) -> Vec<(Missing, String)> {
    judged(2, |cluster| {
        let [data, flag, out] = ["data", "flag", "out"].map(|name| zeroed(cluster, 1, 4, name));
        launch(cluster, 1, module, "get", 1, &[data, flag, out]);
        launch(cluster, 0, module, "put", 1, &[data, flag]);
    })
}

/// One launch of `k` with memory of a rank.
fn alone(module: &Module, threads: u32) -> Vec<(Missing, String)> {
    judged(1, |cluster| {
        let out = zeroed(cluster, 0, 32, "out");
        launch(cluster, 0, module, "k", threads, &[out]);
    })
}

#[test]
fn a_relaxed_flag_between_ranks() {
    let text = include_str!("judge/relaxed_flag_between_ranks.ptx");
    let found = put_and_get(&mended(text, &[]));
    assert_snapshot!(found[0].1, @r"`data` of rank 1: rank 0, `put` (launch 1), CTA 0, warp 0, lane 0 writes it in line 10; rank 1, `get` (launch 0), CTA 0, warp 0, lane 0 reads it in line 26; the write in line 11 that tells of the first does not release it: needs .release, or a fence in front");
    assert_eq!(found.len(), 1);
    let (store, load) = ("st.relaxed.sys", "ld.relaxed.sys");
    let one = put_and_get(&mended(text, &[(store, "st.release.sys")]));
    assert!(matches!(missing(&one)[..], [Missing::Acquire { line: 23 }]), "{one:?}");
    let other = put_and_get(&mended(text, &[(load, "ld.acquire.sys")]));
    assert!(matches!(missing(&other)[..], [Missing::Release { line: 11 }]), "{other:?}");
    assert_eq!(put_and_get(&mended(text, &[(store, "st.release.sys"), (load, "ld.acquire.sys")])), []);
}

/// A fence in front of the write releases, one behind the read acquires, with its own scope.
#[test]
fn fences_release_and_acquire() {
    let text = include_str!("judge/relaxed_flag_between_ranks.ptx");
    let (store, poll) = ("st.relaxed.sys", "@%p bra w;");
    let fenced = |before: &str, behind: &str| {
        put_and_get(&mended(text, &[(store, &format!("{before} {store}")), (poll, &format!("{poll} {behind}"))]))
    };
    assert_eq!(fenced("fence.acq_rel.sys;", "fence.acq_rel.sys;"), []);
    assert_eq!(fenced("fence.sc.sys;", "membar.sys;"), []);
    let narrow = fenced("fence.acq_rel.gpu;", "fence.acq_rel.sys;");
    assert!(
        matches!(missing(&narrow)[..], [Missing::ReleaseScope { scope: Scope::Gpu, needed: Scope::Sys, .. }]),
        "{narrow:?}"
    );
    let narrow = fenced("fence.acq_rel.sys;", "fence.acq_rel.gpu;");
    assert!(
        matches!(missing(&narrow)[..], [Missing::FenceScope { scope: Scope::Gpu, needed: Scope::Sys, .. }]),
        "{narrow:?}"
    );
}

#[test]
fn a_scope_that_ends_at_the_rank() {
    let text = include_str!("judge/gpu_scope_between_ranks.ptx");
    let found = put_and_get(&mended(text, &[]));
    let all: Vec<&str> = found.iter().map(|(_, text)| text.as_str()).collect();
    assert_snapshot!(all.join("\n"), @r"
    `flag` of rank 1: rank 1, `get` (launch 0), CTA 0, warp 0, lane 0 reads it in line 23 (strong, .gpu); rank 0, `put` (launch 1), CTA 0, warp 0, lane 0 writes it in line 11 (strong, .gpu); both are strong, but one has scope .gpu and the other is on another rank: needs .sys
    `flag` of rank 1: rank 0, `put` (launch 1), CTA 0, warp 0, lane 0 writes it in line 11 (strong, .gpu); rank 1, `get` (launch 0), CTA 0, warp 0, lane 0 reads it in line 23 (strong, .gpu); both are strong, but one has scope .gpu and the other is on another rank: needs .sys
    `data` of rank 1: rank 0, `put` (launch 1), CTA 0, warp 0, lane 0 writes it in line 10; rank 1, `get` (launch 0), CTA 0, warp 0, lane 0 reads it in line 26; the release in line 11 is .gpu, the reader is on another rank: needs .sys
    ");
    let release = put_and_get(&mended(text, &[("st.release.gpu", "st.release.sys")]));
    assert!(missing(&release).iter().any(|one| matches!(one, Missing::AcquireScope { needed: Scope::Sys, .. })));
    let acquire = put_and_get(&mended(text, &[("ld.acquire.gpu", "ld.acquire.sys")]));
    assert!(missing(&acquire).iter().any(|one| matches!(one, Missing::ReleaseScope { needed: Scope::Sys, .. })));
    assert_eq!(put_and_get(&mended(text, &[(".gpu", ".sys")])), []);
}

#[test]
fn an_update_that_is_lost() {
    let text = include_str!("judge/lost_update.ptx");
    let found = alone(&mended(text, &[]), 64);
    assert_snapshot!(found[0].1, @r"`out` of rank 0: rank 0, `k` (launch 0), CTA 0, warp 0, lane 1 reads it in line 10; rank 0, `k` (launch 0), CTA 0, warp 0, lane 0 writes it in line 12; nothing orders the lanes of a warp: a bar.warp.sync has to stand between");
    let atomic = [
        ("ld.global.u32 %v,[%a];", ""),
        ("add.u32 %v,%v,1;", ""),
        ("st.global.u32 [%a],%v;", "red.relaxed.gpu.global.add.u32 [%a],1;"),
    ];
    assert_eq!(alone(&mended(text, &atomic), 64), []);
}

#[test]
fn a_copy_of_what_the_async_proxy_was_not_told_of() {
    let text = include_str!("judge/no_proxy_fence.ptx");
    let found = alone(&mended(text, &[]), 1);
    assert_snapshot!(found[0].1, @r"`s`: rank 0, `k` (launch 0), CTA 0, warp 0, lane 0 writes it in line 10; a copy of rank 0, `k` (launch 0), CTA 0, warp 0, lane 0 reads it in line 11 (async proxy); they are in order, but a fence.proxy.async.shared::cta has to stand between, as the copy is of another proxy");
    assert_eq!(missing(&found), [&Missing::ProxyFence { shared: true }]);
    let copy = "cp.async.bulk.global";
    let fence = |fence: &str| alone(&mended(text, &[(copy, &format!("{fence} {copy}"))]), 1);
    assert_eq!(fence("fence.proxy.async.shared::cta;"), []);
    assert_eq!(fence("fence.proxy.async;"), []);
    assert_eq!(missing(&fence("fence.proxy.async.global;")), [&Missing::ProxyFence { shared: true }]);
}

#[test]
fn a_non_coherent_load_of_what_a_peer_writes() {
    let text = include_str!("judge/nc_load_of_fresh_data.ptx");
    let found = put_and_get(&mended(text, &[]));
    assert_snapshot!(found[0].1, @r"`data` of rank 1: rank 0, `put` (launch 1), CTA 0, warp 0, lane 0 writes it in line 10; rank 1, `get` (launch 0), CTA 0, warp 0, lane 0 reads it in line 26 (non-coherent); ld.global.nc is only for what nobody writes from the beginning of the kernel to its end: needs an ordinary load");
    assert_eq!(missing(&found), [&Missing::Coherence]);
    assert_eq!(put_and_get(&mended(text, &[("ld.global.nc", "ld.global")])), []);
}

#[test]
fn a_source_that_is_overwritten_before_it_is_copied() {
    let text = include_str!("judge/bulk_source_overwritten.ptx");
    let found = alone(&mended(text, &[]), 1);
    assert!(!found.is_empty());
    let again = "st.shared.v4.u32 [s], {2,2,2,2};";
    let after = |wait: &str| alone(&mended(text, &[(again, &format!("{wait} {again}"))]), 1);
    assert_eq!(after("cp.async.bulk.wait_group.read 0;"), []);
    assert_eq!(after("cp.async.bulk.wait_group 0;"), []);
    // The wait leaves this group out.
    assert!(!after("cp.async.bulk.wait_group.read 1;").is_empty());
}

#[test]
fn a_launch_that_does_not_wait_for_the_one_before() {
    let text = include_str!("judge/pdl_without_wait.ptx");
    let run = |module: &Module, dependent: bool| {
        judged(1, |cluster| {
            let [x, out] = ["x", "out"].map(|name| zeroed(cluster, 0, 4, name));
            let stream = cluster.stream(RankId(0)).unwrap();
            let (a, b) = (module.kernel("a").unwrap(), module.kernel("b").unwrap());
            cluster.launch(stream, &a, Launch::linear(1, 1, vec![x.into()])).unwrap();
            let second = Launch::linear(1, 1, vec![x.into(), out.into()]);
            if dependent {
                cluster.launch_dependent(stream, &b, second).unwrap();
            } else {
                cluster.launch(stream, &b, second).unwrap();
            }
        })
    };
    let wrong = mended(text, &[]);
    let found = run(&wrong, true);
    assert_snapshot!(found[0].1, @r"`x` of rank 0: rank 0, `b` (launch 1), CTA 0, warp 0, lane 0 reads it in line 19; rank 0, `a` (launch 0), CTA 0, warp 0, lane 0 writes it in line 10; the later launch need not wait for those before it in its stream: griddepcontrol.wait has to come before its access, and before the end of launches between them");
    assert_eq!(missing(&found), [&Missing::GridWait]);
    assert_eq!(run(&wrong, false), [], "launches of a stream run one after the other");
    let right = mended(text, &[("ld.global.u32 %v,[%a];", "griddepcontrol.wait; ld.global.u32 %v,[%a];")]);
    assert_eq!(run(&right, true), []);
}

/// A kernel of one CTA; `%r1` is the thread, `%rd1` memory of 1 KiB.
fn of_cta(threads: u32, body: &str) -> Vec<(Missing, String)> {
    of_cta_under(&[1, 8, 8], threads, body)
}

fn of_cta_under(seeds: &[u64], threads: u32, body: &str) -> Vec<(Missing, String)> {
    let start =
        "ld.param.u64 %rd1, [memory]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4; add.u64 %rd2, %rd1, %rd2;";
    let kernel = kernel("cta", ".param .u64 memory", &format!("{start}\n{body}"));
    judged_under(seeds, 1, |cluster| {
        let memory = zeroed(cluster, 0, 1024, "memory");
        let stream = cluster.stream(RankId(0)).unwrap();
        cluster.launch(stream, &kernel, Launch::linear(1, threads, vec![memory.into()])).unwrap();
    })
}

/// Every thread writes its word and reads that of the opposite one.
fn swap(threads: u32, between: &str) -> Vec<(Missing, String)> {
    let last = (threads - 1) * 4;
    of_cta(
        threads,
        &format!(
            "st.global.u32 [%rd2], %r1;
             {between}
             sub.u64 %rd3, %rd1, %rd2; add.u64 %rd3, %rd3, %rd1; ld.global.u32 %r2, [%rd3+{last}];"
        ),
    )
}

#[test]
fn barriers_order_those_who_come() {
    use moe_vgpu::Apart;
    assert_eq!(missing(&swap(32, "")), [&Missing::Everything(Apart::Lanes)]);
    let warps = |found: &[(Missing, String)]| {
        !found.is_empty() && missing(found).iter().all(|one| **one == Missing::Everything(Apart::Warps))
    };
    assert!(warps(&swap(64, "")));
    assert_eq!(swap(32, "bar.warp.sync 0xffffffff;"), []);
    assert_eq!(swap(64, "bar.sync 0;"), []);
    assert!(warps(&swap(64, "bar.warp.sync 0xffffffff;")));
    // A shuffle lets lanes meet and orders nothing.
    let shuffle = "shfl.sync.idx.b32 %r5, %r1, 0, 31, 0xffffffff;";
    assert_eq!(missing(&swap(32, shuffle)), [&Missing::Everything(Apart::Lanes)]);
}

/// The first warp writes and only arrives; the second waits and reads.
#[test]
fn an_arrival_releases_and_does_not_acquire() {
    let body = |first: &str, second: &str| {
        format!(
            "setp.ge.u32 %p1, %r1, 32;
             @%p1 bra second;
             {first}
             bra done;
             second:
             {second}
             done:"
        )
    };
    let (put, get) = ("st.global.u32 [%rd2], 1;", "ld.global.u32 %r2, [%rd2+-128];");
    let (arrive, wait) = ("barrier.arrive 1, 64;", "barrier.sync 1, 64;");
    assert_eq!(of_cta(64, &body(&format!("{put} {arrive}"), &format!("{wait} {get}"))), []);
    let late = of_cta(64, &body(&format!("{arrive} {put}"), &format!("{wait} {get}")));
    assert_eq!(late.len(), 1, "what comes behind the arrival is not ordered: {late:?}");
    let (put, get) = ("st.global.u32 [%rd2], 1;", "ld.global.u32 %r2, [%rd2+128];");
    let back = of_cta(64, &body(&format!("{arrive} {get}"), &format!("{put} {wait}")));
    assert_eq!(back.len(), 1, "who only arrives hears of nothing: {back:?}");
}

/// A counter that many add to: whoever reads the last value acquires what all released, through the additions between.
#[test]
fn read_modify_writes_go_on_with_a_release() {
    let body = |red: &str| {
        format!(
            "st.global.u32 [%rd2+4], 1;
             {red} [%rd1], 1;
             setp.ne.u32 %p1, %r1, 0;
             @%p1 bra done;
             wait: ld.acquire.gpu.global.u32 %r3, [%rd1]; setp.ne.u32 %p2, %r3, 64; @%p2 bra wait;
             mov.u32 %r4, 0;
             next: ld.global.u32 %r5, [%rd1+4]; add.u64 %rd1, %rd1, 4; add.u32 %r4, %r4, 1; setp.ne.u32 %p2, %r4, 64; @%p2 bra next;
             done:"
        )
    };
    assert_eq!(of_cta(64, &body("red.release.gpu.global.add.u32")), []);
    assert_eq!(of_cta(64, &body("red.release.cta.global.add.u32")), [], "they are of one CTA");
    let relaxed = of_cta(64, &body("red.relaxed.gpu.global.add.u32"));
    assert!(matches!(missing(&relaxed)[..], [Missing::Release { .. }, ..]), "{relaxed:?}");
}

/// A compare-and-swap that fails writes nothing: it releases nothing.
#[test]
fn a_compare_and_swap_that_fails_releases_nothing() {
    let body = |expected: u32| {
        format!(
            "setp.ne.u32 %p1, %r1, 0;
             @%p1 bra other;
             st.global.u32 [%rd1+8], 1;
             atom.release.gpu.global.cas.b32 %r2, [%rd1], {expected}, 5;
             st.relaxed.gpu.global.u32 [%rd1+4], 1;
             bra done;
             other:
             wait: ld.relaxed.gpu.global.u32 %r3, [%rd1+4]; setp.ne.u32 %p2, %r3, 1; @%p2 bra wait;
             ld.acquire.gpu.global.u32 %r3, [%rd1];
             ld.global.u32 %r4, [%rd1+8];
             done:"
        )
    };
    assert_eq!(of_cta(2, &body(0)), []);
    assert_eq!(of_cta(2, &body(7)).len(), 1);
}

/// Streams of a rank are ordered by events alone.
#[test]
fn events_order_streams() {
    let write = kernel("write", ".param .u64 memory", "ld.param.u64 %rd1, [memory]; st.global.u32 [%rd1], 1;");
    let run = |ordered: bool| {
        judged(1, |cluster| {
            let memory = zeroed(cluster, 0, 4, "memory");
            let (a, b) = (cluster.stream(RankId(0)).unwrap(), cluster.stream(RankId(0)).unwrap());
            cluster.launch(a, &write, Launch::linear(1, 1, vec![memory.into()])).unwrap();
            let event = cluster.record(a).unwrap();
            if ordered {
                cluster.wait(b, event).unwrap();
            }
            cluster.launch(b, &write, Launch::linear(1, 1, vec![memory.into()])).unwrap();
        })
    };
    assert_eq!(run(true), []);
    assert_eq!(missing(&run(false)).len(), 1);
}

/// A tile comes by bulk copy, and its mbarrier tells of it; the tile is written over only when all have read it.
#[test]
fn a_tile_that_comes_by_bulk_copy() {
    let fetch_with = |fence: &str, seeds: &[u64], wait: &str, meet: &str| {
        of_cta_under(
            seeds,
            64,
            &format!(
                ".shared .align 16 .b8 tile[256];
                 .shared .align 8 .b64 full;
                 mov.u32 %r6, tile; mov.u32 %r7, full; mov.u32 %r10, 0;
                 setp.ne.u32 %p1, %r1, 0;
                 @!%p1 mbarrier.init.shared::cta.b64 [%r7], 1;
                 {fence}
                 bar.sync 0;
                 again:
                 @%p1 bra taken;
                 mbarrier.arrive.expect_tx.shared::cta.b64 %rd9, [%r7], 256;
                 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r6], [%rd1], 256, [%r7];
                 taken:
                 {wait}
                 shl.b32 %r8, %r1, 2; add.u32 %r8, %r8, %r6;
                 ld.shared.u32 %r9, [%r8];
                 {meet}
                 add.u32 %r10, %r10, 1;
                 setp.lt.u32 %p3, %r10, 2;
                 @%p3 bra again;"
            ),
        )
    };
    let fetch = |seeds: &[u64], wait: &str, meet: &str| {
        fetch_with("@!%p1 fence.mbarrier_init.release.cluster;", seeds, wait, meet)
    };
    let wait = "wait: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r7], %r10; @!%p2 bra wait;";
    assert_eq!(fetch(&[1, 8, 8], wait, "bar.sync 0;"), []);
    assert_eq!(fetch_with("@!%p1 fence.proxy.async.shared::cta;", &[1, 8, 8], wait, "bar.sync 0;"), []);
    // The copy signals through another proxy than the one that the mbarrier was made through.
    let untold = fetch_with("", &[1, 8, 8], wait, "bar.sync 0;");
    assert_eq!(missing(&untold), [&Missing::ProxyFence { shared: true }]);
    // Under other policies a warp may miss a phase, and wait for ever.
    let early = fetch(&[1], wait, "");
    assert!(!early.is_empty(), "the second copy overwrites what may be read still");
    let relaxed = "wait: mbarrier.try_wait.parity.relaxed.cta.shared::cta.b64 %p2, [%r7], %r10; @!%p2 bra wait;";
    assert!(!fetch(&[1, 8, 8], relaxed, "bar.sync 0;").is_empty(), "the test has to acquire");
}

/// What a run leaves is before what the host does, and before the next run.
#[test]
fn runs_follow_each_other() {
    let write = kernel("write", ".param .u64 memory", "ld.param.u64 %rd1, [memory]; st.global.u32 [%rd1], 1;");
    let mut cluster = Cluster::new(Config { ranks: 2, policy: Policy::Random, ..Config::default() }).unwrap();
    let judge = Judge::default();
    cluster.observe(Box::new(judge.clone()));
    let memory = zeroed(&mut cluster, 0, 4, "memory");
    for rank in [0, 1, 0] {
        let stream = cluster.stream(RankId(rank)).unwrap();
        cluster.launch(stream, &write, Launch::linear(1, 1, vec![memory.into()])).unwrap();
        cluster.run().unwrap();
        cluster.write(memory, &[0; 4]).unwrap();
    }
    assert_eq!(judge.found(), []);
    for rank in [0, 1] {
        let stream = cluster.stream(RankId(rank)).unwrap();
        cluster.launch(stream, &write, Launch::linear(1, 1, vec![memory.into()])).unwrap();
    }
    cluster.run().unwrap();
    assert_eq!(judge.found().len(), 1);
}

/// Observation order: a strong write that was read is behind whoever read it, though what came before that write is not.
#[test]
fn a_counter_that_is_cleared_by_who_has_seen_it() {
    let text = include_str!("judge/counter_cleared.ptx");
    let run = |changes: &[(&str, &str)]| {
        let module = mended(text, changes);
        judged(1, |cluster| {
            let out = zeroed(cluster, 0, 32, "out");
            let stream = cluster.stream(RankId(0)).unwrap();
            let kernel = module.kernel("k").unwrap();
            cluster.launch_cooperative(stream, &kernel, Launch::linear(2, 1, vec![out.into()])).unwrap();
        })
    };
    assert_eq!(run(&[]), []);
    let before = run(&[("// here", "ld.global.u32 %v,[%c+16];")]);
    assert!(matches!(missing(&before)[..], [Missing::Release { line: 12 }]), "{before:?}");
    let unseen = run(&[("ld.relaxed.gpu.global.u32 %v", "ld.relaxed.cta.global.u32 %v")]);
    assert!(unseen.iter().any(|(_, text)| text.contains("writes it in line 18")), "{unseen:?}");
}
