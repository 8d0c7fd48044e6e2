//! Asynchronous copies: bulk copies with mbarriers and groups, small copies, and what happens when nobody waits for them.

mod support;

use moe_vgpu::{
    Access, AccessKind, Cluster, Config, Launch, Location, Observer, Policy, Proxy, Rule, Rules, RunError, Severity,
};
use std::sync::{Arc, Mutex};
use support::*;

/// Fetches 256 bytes with a bulk copy, waits for its mbarrier, adds 1 to each word and writes them.
const FETCH: &str = "
    .shared .align 16 .b8 tile[256];
    .shared .align 8 .b64 full;
    ld.param.u64 %rd1, [source];
    ld.param.u64 %rd2, [target];
    mov.u32 %r1, %tid.x;
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra initialised;
    mbarrier.init.shared::cta.b64 [full], 1;
    fence.mbarrier_init.release.cluster;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [full], 256;
    mov.u32 %r5, tile;
    mov.u32 %r6, full;
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r5], [%rd1], 256, [%r6];
initialised:
    bar.sync 0;
wait:
    mbarrier.try_wait.parity.shared::cta.b64 %p2, [full], 0;
    @!%p2 bra wait;
    mul.wide.u32 %rd3, %r1, 4;
    mov.u32 %r2, tile;
    shl.b32 %r3, %r1, 2;
    add.u32 %r2, %r2, %r3;
    ld.shared.u32 %r4, [%r2];
    add.u32 %r4, %r4, 1;
    add.u64 %rd4, %rd2, %rd3;
    st.global.u32 [%rd4], %r4;";

#[test]
fn a_bulk_copy_signals_its_mbarrier_when_the_bytes_are_there() {
    let kernel = kernel("fetch", ".param .u64 source, .param .u64 target", FETCH);
    for policy in POLICIES {
        for seed in 0..10 {
            let mut cluster = scheduled(1, policy, seed);
            let (source, target) = (zeroed(&mut cluster, 0, 256, "source"), zeroed(&mut cluster, 0, 256, "target"));
            let words_in: Vec<u32> = (0..64).map(|word| word * 3).collect();
            write_words(&mut cluster, source, &words_in);
            let stream = stream(&mut cluster, 0);
            cluster.launch(stream, &kernel, Launch::linear(1, 64, vec![source.into(), target.into()])).unwrap();
            cluster.run().unwrap();
            let expected: Vec<u32> = words_in.iter().map(|word| word + 1).collect();
            assert_eq!(words(&mut cluster, target, 64), expected, "{policy}, seed {seed}");
            let rank = moe_vgpu::RankId(0);
            assert_eq!(cluster.traffic().read(rank, rank), 256);
        }
    }
}

#[test]
fn without_the_wait_the_bytes_are_not_there_yet() {
    let body = FETCH.replace("@!%p2 bra wait;", "");
    let kernel = kernel("fetch", ".param .u64 source, .param .u64 target", &body);
    let mut cluster = cluster(1);
    let (source, target) = (zeroed(&mut cluster, 0, 256, "source"), zeroed(&mut cluster, 0, 256, "target"));
    let stream = stream(&mut cluster, 0);
    cluster.launch(stream, &kernel, Launch::linear(1, 64, vec![source.into(), target.into()])).unwrap();
    let report = cluster.run().unwrap_err().to_string();
    assert!(report.contains("is read while the copy issued in line 24 still writes it"), "{report}");
}

/// Pushes a tile, waits as WAIT says, overwrites the tile, and publishes a flag.
fn push(wait: &str) -> String {
    format!(
        "
    .shared .align 16 .b8 tile[64];
    ld.param.u64 %rd1, [target];
    ld.param.u64 %rd2, [flag];
    mov.u32 %r2, tile;
    mov.u32 %r3, 0;
fill:
    add.u32 %r4, %r2, %r3;
    st.shared.u32 [%r4], 7;
    add.u32 %r3, %r3, 4;
    setp.lt.u32 %p1, %r3, 64;
    @%p1 bra fill;
    fence.proxy.async.shared::cta;
    cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r2], 64;
    cp.async.bulk.commit_group;
    {wait}
    st.shared.u32 [%r2], 9;
    st.release.sys.global.u32 [%rd2], 1;
    cp.async.bulk.wait_group 0;"
    )
}

/// Reads the target as soon as the flag is up.
const TAKE: &str = "
    ld.param.u64 %rd1, [target];
    ld.param.u64 %rd2, [flag];
    ld.param.u64 %rd3, [out];
spin:
    ld.acquire.sys.global.u32 %r1, [%rd2];
    setp.eq.u32 %p1, %r1, 0;
    @%p1 bra spin;
    ld.global.u32 %r2, [%rd1];
    st.global.u32 [%rd3], %r2;";

/// What copies are doing meanwhile is no error.
fn regardless_of_copies(policy: Policy, seed: u64) -> Cluster {
    let rules = Rules::default().with(Rule::CopyInFlight, Severity::Ignored);
    Cluster::new(Config { ranks: 2, policy, seed, rules, ..Config::default() }).unwrap()
}

/// What the reader saw, over seeds: sorted, without repetition.
fn seen(wait: &str) -> Vec<u32> {
    let push = kernel("push", ".param .u64 target, .param .u64 flag", &push(wait));
    let take = kernel("take", ".param .u64 target, .param .u64 flag, .param .u64 out", TAKE);
    let mut seen = Vec::new();
    for policy in POLICIES {
        for seed in 0..40 {
            let mut cluster = regardless_of_copies(policy, seed);
            let target = zeroed(&mut cluster, 1, 64, "target");
            let (flag, out) = (zeroed(&mut cluster, 1, 4, "flag"), zeroed(&mut cluster, 1, 4, "out"));
            let (a, b) = (stream(&mut cluster, 0), stream(&mut cluster, 1));
            cluster.launch(a, &push, Launch::linear(1, 1, vec![target.into(), flag.into()])).unwrap();
            cluster.launch(b, &take, Launch::linear(1, 1, vec![target.into(), flag.into(), out.into()])).unwrap();
            cluster.run().unwrap();
            seen.extend(words(&mut cluster, out, 1));
            assert_eq!(words(&mut cluster, target, 16)[1..], [7; 15]);
        }
    }
    seen.sort_unstable();
    seen.dedup();
    seen
}

#[test]
fn wait_group_waits_for_the_writes() {
    assert_eq!(seen("cp.async.bulk.wait_group 0;"), [7]);
}

#[test]
fn wait_group_read_lets_the_source_be_reused_but_the_writes_may_be_late() {
    assert_eq!(seen("cp.async.bulk.wait_group.read 0;"), [0, 7]);
}

#[test]
fn without_a_wait_the_source_may_be_overwritten_before_it_is_read() {
    assert_eq!(seen(""), [0, 7, 9]);
}

#[test]
fn a_wait_for_all_but_the_latest_group() {
    let kernel = kernel(
        "two",
        ".param .u64 target",
        "
        .shared .align 16 .b8 tile[32];
        ld.param.u64 %rd1, [target];
        mov.u32 %r2, tile;
        st.shared.v4.u32 [%r2], {%r1, %r1, %r1, %r1};
        mov.u32 %r1, 5;
        st.shared.v4.u32 [%r2], {%r1, %r1, %r1, %r1};
        st.shared.v4.u32 [%r2+16], {%r1, %r1, %r1, %r1};
        fence.proxy.async.shared::cta;
        cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r2], 16;
        cp.async.bulk.commit_group;
        cp.async.bulk.global.shared::cta.bulk_group [%rd1+16], [%r2+16], 16;
        cp.async.bulk.commit_group;
        cp.async.bulk.wait_group 1;
        ld.global.u32 %r3, [%rd1];
        ld.global.u32 %r4, [%rd1+16];
        st.global.u32 [%rd1+32], %r3;
        st.global.u32 [%rd1+36], %r4;
        cp.async.bulk.wait_group 0;",
    );
    let mut late = 0;
    for policy in POLICIES {
        for seed in 0..40 {
            // What is not complete is read on purpose.
            let rules = Rules::default().with(Rule::CopyInFlight, Severity::Ignored);
            let mut cluster = Cluster::new(Config { policy, seed, rules, ..Config::default() }).unwrap();
            let target = zeroed(&mut cluster, 0, 64, "target");
            let stream = stream(&mut cluster, 0);
            cluster.launch(stream, &kernel, Launch::linear(1, 1, vec![target.into()])).unwrap();
            cluster.run().unwrap();
            let words = words(&mut cluster, target, 10);
            assert_eq!(words[8], 5, "{policy}, seed {seed}: the first group is complete");
            late += u32::from(words[9] == 0);
        }
    }
    assert!(late > 0, "the second one need not be");
}

#[test]
fn a_cta_must_not_end_while_a_bulk_copy_reads_its_shared_memory() {
    let body = push("").replace("st.shared.u32 [%r2], 9;", "").replace("cp.async.bulk.wait_group 0;", "");
    let kernel = kernel("push", ".param .u64 target, .param .u64 flag", &body);
    let run = |mut cluster: Cluster| {
        let (target, flag) = (zeroed(&mut cluster, 0, 64, "target"), zeroed(&mut cluster, 0, 4, "flag"));
        let stream = stream(&mut cluster, 0);
        cluster.launch(stream, &kernel, Launch::linear(1, 1, vec![target.into(), flag.into()])).unwrap();
        cluster.run().map(|_| words(&mut cluster, target, 16)[15]).map_err(|error| error.to_string())
    };
    let report = run(cluster(1)).unwrap_err();
    assert!(report.contains("the CTA ends while asynchronous copies still use its shared memory"), "{report}");
    assert_eq!(
        run(regardless_of_copies(Policy::RoundRobin, 0)),
        Ok(7),
        "where it is accepted the copy is made all the same"
    );
}

#[test]
fn bulk_copies_check_alignment_size_and_bounds() {
    let run = |body: &str| {
        let body = format!(".shared .align 16 .b8 tile[64];\nld.param.u64 %rd1, [target];\nmov.u32 %r2, tile;\n{body}");
        let kernel = kernel("push", ".param .u64 target", &body);
        let mut cluster = cluster(1);
        let target = zeroed(&mut cluster, 0, 64, "target");
        let stream = stream(&mut cluster, 0);
        cluster.launch(stream, &kernel, Launch::linear(1, 1, vec![target.into()])).unwrap();
        cluster.run().unwrap_err().to_string()
    };
    for (body, expected) in [
        ("cp.async.bulk.global.shared::cta.bulk_group [%rd1+8], [%r2], 16;", "not a multiple of 16"),
        ("cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r2], 24;", "a multiple of 16, not 24"),
        ("cp.async.bulk.global.shared::cta.bulk_group [%rd1+48], [%r2], 32;", "out of bounds: byte 48 of `target`"),
        (
            "cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r2+48], 32;",
            "out of bounds: byte 48 of `tile`, which has 64 bytes",
        ),
        (
            "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%rd1], [%r2], 32; bar.sync 0; nanosleep.u32 9; \
          cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;",
            "use before initialisation: `tile`",
        ),
        ("mbarrier.arrive.shared::cta.b64 _, [%r2];", "`tile` was never written"),
        ("st.shared.u64 [%r2], %rd1; mbarrier.arrive.shared::cta.b64 _, [%r2];", "is not an initialised mbarrier"),
    ] {
        let report = run(body);
        assert!(report.contains(expected), "{body}\n{report}");
    }
}

#[test]
fn bulk_reductions_add_to_memory() {
    let kernel = kernel(
        "reduce",
        ".param .u64 target",
        "
        .shared .align 16 .b8 tile[16];
        ld.param.u64 %rd1, [target];
        mov.u32 %r2, tile;
        mov.u32 %r1, 5;
        st.shared.v4.u32 [%r2], {%r1, %r1, %r1, %r1};
        fence.proxy.async.shared::cta;
        cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%rd1], [%r2], 16;
        cp.async.bulk.commit_group;
        cp.async.bulk.wait_group 0;",
    );
    for policy in POLICIES {
        let mut cluster = scheduled(1, policy, 4);
        let target = zeroed(&mut cluster, 0, 16, "target");
        let stream = stream(&mut cluster, 0);
        cluster.launch(stream, &kernel, Launch::linear(9, 1, vec![target.into()])).unwrap();
        cluster.run().unwrap();
        assert_eq!(words(&mut cluster, target, 4), [45; 4]);
    }
}

/// Small copies of 32 threads, waited for by group or by mbarrier.
fn small(wait: &str) -> String {
    format!(
        "
    .shared .align 16 .b8 tile[512];
    .shared .align 8 .b64 full;
    ld.param.u64 %rd1, [source];
    ld.param.u64 %rd2, [target];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd3, %r1, 16;
    add.u64 %rd4, %rd1, %rd3;
    add.u64 %rd5, %rd2, %rd3;
    mov.u32 %r2, tile;
    shl.b32 %r3, %r1, 4;
    add.u32 %r2, %r2, %r3;
    mov.u32 %r9, full;
    setp.eq.u32 %p1, %r1, 0;
    @%p1 mbarrier.init.shared::cta.b64 [%r9], 32;
    bar.warp.sync 0xffffffff;
    cp.async.ca.shared::cta.global [%r2], [%rd4], 16, 12;
    {wait}
    ld.shared.v4.u32 {{%r4, %r5, %r6, %r7}}, [%r2];
    st.global.v4.u32 [%rd5], {{%r4, %r5, %r6, %r7}};"
    )
}

#[test]
fn small_copies_by_group_and_by_mbarrier() {
    let by_group = "cp.async.commit_group; cp.async.wait_group 0;";
    let by_all = "cp.async.wait_all;";
    let by_mbarrier = "cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%r9];
        wait: mbarrier.test_wait.parity.shared::cta.b64 %p2, [%r9], 0;
        @!%p2 bra wait;";
    let by_increment = "cp.async.mbarrier.arrive.shared::cta.b64 [%r9];
        mbarrier.arrive.shared::cta.b64 %rd9, [%r9];
        wait: mbarrier.test_wait.shared::cta.b64 %p2, [%r9], %rd9;
        @!%p2 bra wait;";
    for wait in [by_group, by_all, by_mbarrier, by_increment] {
        let kernel = kernel("small", ".param .u64 source, .param .u64 target", &small(wait));
        for policy in POLICIES {
            for seed in 0..5 {
                let mut cluster = scheduled(1, policy, seed);
                let (source, target) = (zeroed(&mut cluster, 0, 512, "source"), zeroed(&mut cluster, 0, 512, "target"));
                let from: Vec<u32> = (1..=128).collect();
                write_words(&mut cluster, source, &from);
                let stream = stream(&mut cluster, 0);
                cluster.launch(stream, &kernel, Launch::linear(1, 32, vec![source.into(), target.into()])).unwrap();
                cluster.run().unwrap_or_else(|error| panic!("{wait}, {policy}, seed {seed}: {error}"));
                // 12 of 16 bytes are copied, the rest is zero.
                let expected: Vec<u32> = from.iter().map(|word| if word % 4 == 0 { 0 } else { *word }).collect();
                assert_eq!(words(&mut cluster, target, 128), expected, "{wait}, {policy}, seed {seed}");
            }
        }
    }
}

#[test]
fn an_mbarrier_that_lacks_bytes_is_a_deadlock() {
    let body = FETCH.replace("[full], 256", "[full], 272");
    let kernel = kernel("fetch", ".param .u64 source, .param .u64 target", &body);
    let mut cluster = cluster(1);
    let (source, target) = (zeroed(&mut cluster, 0, 256, "source"), zeroed(&mut cluster, 0, 256, "target"));
    let stream = stream(&mut cluster, 0);
    cluster.launch(stream, &kernel, Launch::linear(1, 64, vec![source.into(), target.into()])).unwrap();
    let Err(RunError::Deadlock(deadlock)) = cluster.run() else { panic!("a deadlock") };
    assert!(deadlock.waiting[0].reason.to_string().contains("`full`"), "{}", deadlock.waiting[0].reason);
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Access>>>);

impl Observer for Seen {
    fn access(&mut self, access: &Access) {
        self.0.lock().unwrap().push(*access);
    }
}

#[test]
fn an_observer_sees_every_access_with_its_proxy() {
    let kernel = kernel("fetch", ".param .u64 source, .param .u64 target", FETCH);
    let mut cluster = cluster(1);
    let (source, target) = (zeroed(&mut cluster, 0, 256, "source"), zeroed(&mut cluster, 0, 256, "target"));
    let seen = Seen::default();
    cluster.observe(Box::new(seen.clone()));
    let stream = stream(&mut cluster, 0);
    cluster.launch(stream, &kernel, Launch::linear(1, 64, vec![source.into(), target.into()])).unwrap();
    cluster.run().unwrap();
    let seen = seen.0.lock().unwrap();
    let bulk: Vec<&Access> = seen.iter().filter(|access| access.proxy == Proxy::Async).collect();
    assert_eq!(
        bulk.iter().map(|access| (access.kind, access.bytes)).collect::<Vec<_>>(),
        [(AccessKind::Read, 256), (AccessKind::Write, 256)]
    );
    assert_eq!(bulk[0].location, Location::Device(source));
    let stores = seen.iter().filter(|access| {
        matches!(access.location, Location::Device(_)) && access.kind == AccessKind::Write && access.bytes == 4
    });
    let mut lanes: Vec<u32> = stores.map(|access| access.thread.warp * 32 + access.thread.lane).collect();
    lanes.sort_unstable();
    assert_eq!(lanes, (0..64).collect::<Vec<u32>>());
}

/// Sends a tile and waits only until its source may be used again, which is all that a kernel has to wait for before it ends.
const SEND: &str = "
    .shared .align 16 .b8 tile[16];
    ld.param.u64 %rd1, [target];
    mov.u32 %r2, tile;
    st.shared.v4.u32 [%r2], {7, 7, 7, 7};
    fence.proxy.async.shared::cta;
    cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r2], 16;
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group.read 0;";

#[test]
fn the_next_kernel_of_the_stream_sees_what_a_bulk_copy_wrote() {
    let send = kernel("send", ".param .u64 target", SEND);
    let copy = kernel(
        "copy",
        ".param .u64 target",
        "
        ld.param.u64 %rd1, [target];
        ld.global.u32 %r1, [%rd1];
        st.global.u32 [%rd1+16], %r1;",
    );
    for policy in POLICIES {
        for seed in 0..40 {
            let mut cluster = scheduled(1, policy, seed);
            let target = zeroed(&mut cluster, 0, 32, "target");
            let stream = stream(&mut cluster, 0);
            cluster.launch(stream, &send, Launch::linear(1, 1, vec![target.into()])).unwrap();
            cluster.launch(stream, &copy, Launch::linear(1, 1, vec![target.into()])).unwrap();
            cluster.run().unwrap();
            assert_eq!(words(&mut cluster, target, 5)[4], 7, "{policy}, seed {seed}");
        }
    }
}

/// What a bulk copy reads and writes in global memory is left alone until somebody has waited for it, also without a judge.
#[test]
fn nobody_touches_global_memory_that_a_copy_uses() {
    let parameters = ".param .u64 x, .param .u64 y";
    let body = |between: &str, behind: &str| {
        format!(
            ".shared .align 16 .b8 tile[64];\nld.param.u64 %rd1, [x];\nld.param.u64 %rd2, [y];\nmov.u32 %r1, tile;\nmov.u32 %r2, 7;\n\
             st.shared.v4.u32 [tile], {{%r2, %r2, %r2, %r2}};\nfence.proxy.async;\n\
             cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r1], 16;\ncp.async.bulk.commit_group;\n{between}\n\
             cp.async.bulk.wait_group 0;\n{behind}"
        )
    };
    let run = |body: &str| -> Vec<Option<String>> {
        let kernel = kernel("k", parameters, body);
        let run = |(policy, seed)| {
            let mut cluster = scheduled(2, policy, seed);
            let (x, y) = (zeroed(&mut cluster, 1, 64, "x"), zeroed(&mut cluster, 0, 64, "y"));
            let stream = stream(&mut cluster, 0);
            cluster.launch(stream, &kernel, Launch::linear(1, 1, vec![x.into(), y.into()])).unwrap();
            cluster.run().err().map(|error| error.to_string())
        };
        POLICIES.into_iter().flat_map(|policy| (0..6).map(move |seed| (policy, seed))).map(run).collect()
    };
    let access = "ld.global.u32 %r3, [%rd1+4];\nst.global.u32 [%rd2], %r3;";
    assert!(run(&body("", access)).iter().all(Option::is_none), "behind the wait");
    assert!(
        run(&body("ld.global.u32 %r3, [%rd1+16];\nst.global.u32 [%rd2], %r3;", access)).iter().all(Option::is_none),
        "beside it"
    );
    for (between, does) in [
        ("ld.global.u32 %r3, [%rd1+4];", "read"),
        ("st.global.u32 [%rd1+12], %r2;", "written"),
        ("red.relaxed.gpu.global.add.u32 [%rd1], 1;", "written"),
        ("cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r1], 16;", "written by a copy"),
    ] {
        let found = run(&body(between, access));
        let text =
            format!("of rank 1 is {does} while the copy issued in line 18 still writes it: wait for that copy first");
        let told = found.iter().flatten().filter(|error| error.contains(&text)).count();
        assert!(found[0].is_some() && told > found.len() / 2, "{between}: {found:#?}");
    }
    // The source of a copy into shared memory.
    let load = ".shared .align 16 .b8 tile[64];\n.shared .align 8 .b64 gate;\nld.param.u64 %rd1, [x];\nmov.u32 %r1, tile;\nmov.u32 %r2, gate;\n\
                mbarrier.init.shared::cta.b64 [%r2], 1;\nmbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], 16;\n\
                cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd1], 16, [%r2];\n\
                st.global.u32 [%rd1+8], 1;\nwait:\nmbarrier.try_wait.parity.shared::cta.b64 %p1, [%r2], 0;\n@!%p1 bra wait;";
    let found = run(load);
    assert!(
        found[0].as_ref().is_some_and(
            |error| error.contains("`x+8` of rank 1 is written while the copy issued in line 18 still reads it")
        ),
        "{found:#?}"
    );
    // A reduction and an atomic do not disturb each other.
    let sums = body("", "").replace(
        "cp.async.bulk.global.shared::cta.bulk_group [",
        "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [",
    );
    let sums = sums.replace(
        "cp.async.bulk.commit_group;",
        "cp.async.bulk.commit_group;\nred.relaxed.gpu.global.add.u32 [%rd1], 1;",
    );
    assert!(run(&sums).iter().all(Option::is_none));
}
