//! Waiting for what never comes: found exactly, told exactly; and deadlines in virtual time.

mod support;

use insta::assert_snapshot;
use moe_vgpu::{Config, Launch, Policy, RankId, RunError, WaitReason};
use support::*;

/// Thread 0 of each CTA waits until a counter has reached the number given.
const WAIT_FOR: &str = "
    ld.param.u64 %rd1, [flag];
    ld.param.u64 %rd2, [expected];
    mov.u32 %r1, %tid.x;
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra arrived;
spin:
    ld.acquire.sys.global.u64 %rd3, [%rd1];
    setp.lt.u64 %p2, %rd3, %rd2;
    @%p2 bra spin;
arrived:
    bar.sync 0;";

#[test]
fn a_flag_that_nobody_writes() {
    let kernel = kernel("dispatch_receive", ".param .u64 flag, .param .u64 expected", WAIT_FOR);
    let mut cluster = cluster(8);
    let memory = zeroed(&mut cluster, 3, 64, "symmetric memory");
    cluster.label(memory.offset(40), 8, "dispatch.arrive[5]", Some(RankId(5))).unwrap();
    cluster.write(memory.offset(40), &2u64.to_le_bytes()).unwrap();
    let stream = stream(&mut cluster, 3);
    cluster.launch(stream, &kernel, Launch::linear(2, 64, vec![memory.offset(40).into(), 4u64.into()])).unwrap();
    let error = cluster.run().unwrap_err();
    assert_snapshot!(error, @r"
    deadlock: everything waits, and nothing is under way that could end it
      rank 3, kernel `dispatch_receive`, CTA 0, warp 0, lane 0, line 18: ld.acquire.sys.global.u64
        polls `dispatch.arrive[5]` of rank 3: found 2, setp.lt.u64 with 4; to be written by rank 5
        so do other groups of lanes of this launch: 1
      rank 3, kernel `dispatch_receive`, CTA 0, warp 0, lanes 1-31, line 22: bar.sync
        waits at barrier 0: 63 of 64 threads have arrived
        so do other groups of lanes of this launch: 3
      schedule: round-robin, seed 0
    ");
    assert_eq!(cluster.run().unwrap_err(), error, "the error stays");
    cluster.abandon();
    assert_eq!(cluster.run().unwrap().launches, 0, "until everything is given up");
    let RunError::Deadlock(deadlock) = error else { panic!("a deadlock") };
    let WaitReason::Memory(places) = &deadlock.waiting[0].reason else { panic!("waits for memory") };
    assert_eq!((places[0].found, places[0].writer), (2, Some(RankId(5))));
    assert_eq!(places[0].compared, Some(("setp.lt.u64".to_owned(), 4)));
}

#[test]
fn a_deadlock_is_found_under_every_schedule() {
    let kernel = kernel("dispatch_receive", ".param .u64 flag, .param .u64 expected", WAIT_FOR);
    for policy in POLICIES {
        for seed in 0..5 {
            let mut cluster = scheduled(2, policy, seed);
            let flag = zeroed(&mut cluster, 0, 8, "flag");
            let stream = stream(&mut cluster, 0);
            cluster.launch(stream, &kernel, Launch::linear(4, 64, vec![flag.into(), 1u64.into()])).unwrap();
            assert!(matches!(cluster.run(), Err(RunError::Deadlock(_))), "{policy}, seed {seed}");
        }
    }
}

/// Every CTA adds 1 and waits until all of the grid have: only right if all are resident at once.
const GRID_BARRIER: &str = "
    ld.param.u64 %rd1, [counter];
    mov.u32 %r1, %tid.x;
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra done;
    mov.u32 %r2, %nctaid.x;
    red.release.gpu.global.add.u32 [%rd1], 1;
spin:
    ld.acquire.gpu.global.u32 %r3, [%rd1];
    setp.lt.u32 %p2, %r3, %r2;
    @%p2 bra spin;
done:
    bar.sync 0;";

#[test]
fn a_grid_larger_than_residency_that_assumes_co_residency() {
    let kernel = kernel("grid_barrier", ".param .u64 counter", GRID_BARRIER);
    let mut cluster = moe_vgpu::Cluster::new(Config { sms: 2, ..Config::default() }).unwrap();
    assert_eq!(cluster.residency(&kernel, 1024, 0), 4);
    let counter = zeroed(&mut cluster, 0, 4, "counter");
    let stream = stream(&mut cluster, 0);
    cluster.launch(stream, &kernel, Launch::linear(4, 1024, vec![counter.into()])).unwrap();
    cluster.run().unwrap();
    cluster.write(counter, &[0; 4]).unwrap();
    cluster.launch(stream, &kernel, Launch::linear(5, 1024, vec![counter.into()])).unwrap();
    assert_snapshot!(cluster.run().unwrap_err(), @r"
    deadlock: everything waits, and nothing is under way that could end it
      rank 0, kernel `grid_barrier`, CTA 0, warp 0, lane 0, line 19: ld.acquire.gpu.global.u32
        polls `counter` of rank 0: found 4, setp.lt.u32 with 5
        so do other groups of lanes of this launch: 3
      rank 0, kernel `grid_barrier`, CTA 0, warp 0, lanes 1-31, line 23: bar.sync
        waits at barrier 0: 1023 of 1024 threads have arrived
        so do other groups of lanes of this launch: 127
      rank 0, kernel `grid_barrier`: 1 of 5 CTAs wait for a place on an SM; they start when others finish
      schedule: round-robin, seed 0
    ");
}

#[test]
fn more_ctas_than_fit_run_one_after_the_other() {
    let kernel = kernel(
        "count",
        ".param .u64 counter",
        "
        ld.param.u64 %rd1, [counter];
        red.relaxed.gpu.global.add.u32 [%rd1], 1;",
    );
    let mut cluster = moe_vgpu::Cluster::new(Config { sms: 2, ..Config::default() }).unwrap();
    let counter = zeroed(&mut cluster, 0, 4, "counter");
    let stream = stream(&mut cluster, 0);
    cluster.launch(stream, &kernel, Launch::linear(1000, 512, vec![counter.into()])).unwrap();
    assert_eq!(cluster.run().unwrap().ctas, 1000);
    assert_eq!(words(&mut cluster, counter, 1), [512_000]);
}

#[test]
fn a_barrier_that_some_threads_do_not_reach() {
    let kernel = kernel(
        "half",
        "",
        "
        mov.u32 %r1, %tid.x;
        setp.lt.u32 %p1, %r1, 40;
        @%p1 bar.sync 3, 96;",
    );
    let mut cluster = cluster(1);
    let stream = stream(&mut cluster, 0);
    cluster.launch(stream, &kernel, Launch::linear(1, 96, vec![])).unwrap();
    assert_snapshot!(cluster.run().unwrap_err(), @r"
    deadlock: everything waits, and nothing is under way that could end it
      rank 0, kernel `half`, CTA 0, warp 0, lanes 0-31, line 14: bar.sync
        waits at barrier 3: 64 of 96 threads have arrived
        so do other groups of lanes of this launch: 1
      schedule: round-robin, seed 0
    ");
}

#[test]
fn lanes_that_wait_for_a_lane_of_their_warp() {
    let kernel = kernel(
        "members",
        ".param .u64 flag",
        "
        ld.param.u64 %rd1, [flag];
        mov.u32 %r1, %tid.x;
        setp.eq.u32 %p1, %r1, 5;
        @%p1 bra spin;
        bar.warp.sync 0xff;
        bra done;
    spin:
        ld.volatile.global.u32 %r2, [%rd1];
        setp.eq.u32 %p2, %r2, 0;
        @%p2 bra spin;
    done:",
    );
    let mut cluster = cluster(1);
    let flag = zeroed(&mut cluster, 0, 4, "flag");
    let stream = stream(&mut cluster, 0);
    cluster.launch(stream, &kernel, Launch::linear(1, 8, vec![flag.into()])).unwrap();
    assert_snapshot!(cluster.run().unwrap_err(), @r"
    deadlock: everything waits, and nothing is under way that could end it
      rank 0, kernel `members`, CTA 0, warp 0, lane 5, line 19: ld.volatile.global.u32
        polls `flag` of rank 0: found 0, setp.eq.u32 with 0
      rank 0, kernel `members`, CTA 0, warp 0, lanes 0-4, 6-7, line 16: bar.warp.sync
        waits for lanes 5 of its warp, lanes 0-4, 6-7 are there
      schedule: round-robin, seed 0
    ");
}

#[test]
fn an_event_that_is_reached_at_once_holds_nobody() {
    let kernel = kernel("nothing", "", "");
    let mut cluster = cluster(2);
    let (a, b) = (stream(&mut cluster, 0), stream(&mut cluster, 1));
    let early = cluster.record(a).unwrap();
    cluster.wait(b, early).unwrap();
    cluster.launch(b, &kernel, Launch::linear(1, 1, vec![])).unwrap();
    assert_eq!(cluster.run().unwrap().launches, 1);
}

/// Polls a list of flags round after round, as long as one is missing: a loop in a loop.
const POLL_ALL: &str = "
    ld.param.u64 %rd1, [flags];
round:
    mov.u32 %r1, 0;
    mov.u32 %r3, 0;
    mov.u64 %rd2, %rd1;
next:
    ld.acquire.sys.global.u32 %r2, [%rd2];
    add.u32 %r3, %r3, %r2;
    add.u64 %rd2, %rd2, 4;
    add.u32 %r1, %r1, 1;
    setp.lt.u32 %p1, %r1, 20;
    @%p1 bra next;
    nanosleep.u32 100;
    setp.lt.u32 %p2, %r3, 20;
    @%p2 bra round;";

#[test]
fn nested_polling_loops_with_sleep_are_waits_too() {
    let kernel = kernel("poll_all", ".param .u64 flags", POLL_ALL);
    let mut cluster = cluster(1);
    let flags = zeroed(&mut cluster, 0, 80, "flags");
    let mut values = vec![1; 20];
    write_words(&mut cluster, flags, &values);
    let stream = stream(&mut cluster, 0);
    cluster.launch(stream, &kernel, Launch::linear(1, 1, vec![flags.into()])).unwrap();
    cluster.run().unwrap();
    values[7] = 0;
    write_words(&mut cluster, flags, &values);
    cluster.launch(stream, &kernel, Launch::linear(1, 1, vec![flags.into()])).unwrap();
    let Err(RunError::Deadlock(deadlock)) = cluster.run() else { panic!("a deadlock") };
    let WaitReason::Memory(places) = &deadlock.waiting[0].reason else { panic!("waits for memory") };
    assert_eq!(places.len(), 20, "it polls all of them");
}

#[test]
fn a_loop_that_reads_nothing_and_changes_nothing() {
    let kernel = kernel(
        "idle",
        "",
        "
    again:
        bra again;",
    );
    let mut cluster = cluster(1);
    let stream = stream(&mut cluster, 0);
    cluster.launch(stream, &kernel, Launch::linear(1, 32, vec![])).unwrap();
    let error = cluster.run().unwrap_err();
    assert!(error.to_string().contains("never ends"), "{error}");
}

#[test]
fn a_loop_that_counts_for_ever_ends_at_the_limit() {
    let kernel = kernel(
        "count",
        ".param .u64 word",
        "
        ld.param.u64 %rd1, [word];
        mov.u32 %r1, 0;
    again:
        add.u32 %r1, %r1, 1;
        st.global.u32 [%rd1], %r1;
        bra again;",
    );
    let mut cluster = moe_vgpu::Cluster::new(Config { instruction_limit: 100_000, ..Config::default() }).unwrap();
    let word = zeroed(&mut cluster, 0, 4, "word");
    let stream = stream(&mut cluster, 0);
    cluster.launch(stream, &kernel, Launch::linear(1, 32, vec![word.into()])).unwrap();
    let error = cluster.run().unwrap_err();
    assert_snapshot!(error, @r"
    no end after 100000 warp instructions, the most that a run may take
      still running: rank 0, kernel `count`: 0 of 1 CTAs have finished
      rank 0, kernel `count`, CTA 0, warp 0, lanes 0-31, line 17: bra
        goes on
      schedule: round-robin, seed 0
    ");
    let RunError::Limit(limit) = error else { panic!("the limit") };
    assert_eq!((limit.instructions, limit.running.len()), (100_000, 1));
}

/// Waits for a flag, at most `deadline` nanoseconds (0: for ever); writes 1 when it came, 2 when time was up, and the time.
const DEADLINE: &str = "
    ld.param.u64 %rd1, [flag];
    ld.param.u64 %rd2, [deadline];
    ld.param.u64 %rd3, [result];
    mov.u64 %rd4, %globaltimer;
spin:
    ld.acquire.sys.global.u32 %r1, [%rd1];
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra came;
    mov.u64 %rd5, %globaltimer;
    sub.u64 %rd6, %rd5, %rd4;
    setp.eq.u64 %p2, %rd2, 0;
    @%p2 bra spin;
    setp.le.u64 %p3, %rd6, %rd2;
    @%p3 bra spin;
    mov.u32 %r2, 2;
    bra write;
came:
    mov.u32 %r2, 1;
write:
    st.global.u32 [%rd3], %r2;";

const PARAMETERS: &str = ".param .u64 flag, .param .u64 deadline, .param .u64 result";

#[test]
fn a_deadline_passes_in_virtual_time_and_without_waiting() {
    let kernel = kernel("deadline", PARAMETERS, DEADLINE);
    for policy in POLICIES {
        let mut cluster = scheduled(1, policy, 1);
        let (flag, result) = (zeroed(&mut cluster, 0, 4, "flag"), zeroed(&mut cluster, 0, 4, "result"));
        let stream = stream(&mut cluster, 0);
        let ten_seconds = 10_000_000_000u64;
        let arguments = vec![flag.into(), ten_seconds.into(), result.into()];
        cluster.launch(stream, &kernel, Launch::linear(1, 1, arguments)).unwrap();
        let report = cluster.run().unwrap();
        assert_eq!(words(&mut cluster, result, 1), [2], "{policy}");
        assert!(report.nanoseconds > ten_seconds, "{policy}: {} ns", report.nanoseconds);
        assert!(report.nanoseconds < 10 * ten_seconds, "{policy}: {} ns", report.nanoseconds);
        assert!(report.instructions < 100_000, "{policy}: waiting costs next to nothing");
    }
}

#[test]
fn without_a_deadline_the_same_wait_is_a_deadlock() {
    let kernel = kernel("deadline", PARAMETERS, DEADLINE);
    let mut cluster = cluster(1);
    let (flag, result) = (zeroed(&mut cluster, 0, 4, "flag"), zeroed(&mut cluster, 0, 4, "result"));
    let stream = stream(&mut cluster, 0);
    cluster.launch(stream, &kernel, Launch::linear(1, 1, vec![flag.into(), 0u64.into(), result.into()])).unwrap();
    assert!(matches!(cluster.run(), Err(RunError::Deadlock(_))));
}

#[test]
fn a_flag_that_comes_late_but_in_time_is_no_timeout() {
    let wait = kernel("deadline", PARAMETERS, DEADLINE);
    let late = kernel(
        "late",
        ".param .u64 flag",
        "
        ld.param.u64 %rd1, [flag];
        nanosleep.u32 900000;
        st.release.sys.global.u32 [%rd1], 1;",
    );
    for policy in POLICIES {
        for seed in 0..5 {
            let mut cluster = scheduled(2, policy, seed);
            let (flag, result) = (zeroed(&mut cluster, 0, 4, "flag"), zeroed(&mut cluster, 0, 4, "result"));
            let (a, b) = (stream(&mut cluster, 0), stream(&mut cluster, 1));
            let arguments = vec![flag.into(), 1_000_000u64.into(), result.into()];
            cluster.launch(a, &wait, Launch::linear(1, 1, arguments)).unwrap();
            cluster.launch(b, &late, Launch::linear(1, 1, vec![flag.into()])).unwrap();
            cluster.run().unwrap();
            assert_eq!(words(&mut cluster, result, 1), [1], "{policy}, seed {seed}");
        }
    }
}

#[test]
fn an_error_says_how_to_repeat_it() {
    let kernel = kernel("trap", "", "trap;");
    let mut cluster = scheduled(1, Policy::Random, 77);
    let stream = stream(&mut cluster, 0);
    cluster.launch(stream, &kernel, Launch::linear(1, 1, vec![])).unwrap();
    let error = cluster.run().unwrap_err().to_string();
    assert!(error.contains("random, seed 77"), "{error}");
}

/// Warp 0 stores what it reads of a flag in shared memory, round after round, and warp 1 polls that.
const RELAY: &str = "
    .shared .align 4 .b32 relayed;
    ld.param.u64 %rd1, [flag];
    mov.u32 %r1, %tid.x;
    setp.eq.u32 %p1, %r1, 0;
    @%p1 st.volatile.shared.u32 [relayed], 0;
    bar.sync 0;
    setp.ge.u32 %p2, %r1, 32;
    @%p2 bra poll;
relay:
    ld.acquire.sys.global.u32 %r2, [%rd1];
    st.volatile.shared.u32 [relayed], %r2;
    setp.eq.u32 %p3, %r2, 0;
    @%p3 bra relay;
    bra done;
poll:
    ld.volatile.shared.u32 %r2, [relayed];
    setp.eq.u32 %p3, %r2, 0;
    @%p3 bra poll;
done:";

/// Thread 0 reads the flag, a barrier gives it to the others, and all of them look at it and meet again.
const POLL_TOGETHER: &str = "
    .shared .align 4 .b32 relayed;
    ld.param.u64 %rd1, [flag];
    mov.u32 %r1, %tid.x;
again:
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra meet;
    ld.acquire.sys.global.u32 %r2, [%rd1];
    st.shared.u32 [relayed], %r2;
meet:
    bar.sync 0;
    ld.shared.u32 %r3, [relayed];
    bar.sync 0;
    setp.eq.u32 %p2, %r3, 0;
    @%p2 bra again;";

/// Every thread looks, and a barrier tells whether any has seen it.
const POLL_BY_VOTE: &str = "
    ld.param.u64 %rd1, [flag];
again:
    ld.acquire.sys.global.u32 %r2, [%rd1];
    setp.ne.u32 %p1, %r2, 0;
    bar.red.or.pred %p2, 0, %p1;
    @!%p2 bra again;";

/// Two warps poll with a barrier of their own inside one of all; the third one only comes to that.
const POLL_IN_PARTS: &str = "
    ld.param.u64 %rd1, [flag];
    mov.u32 %r1, %tid.x;
again:
    mov.u32 %r2, 0;
    setp.ge.u32 %p1, %r1, 64;
    @%p1 bra meet;
    ld.acquire.sys.global.u32 %r2, [%rd1];
    bar.sync 1, 64;
meet:
    setp.ne.u32 %p3, %r2, 0;
    bar.red.or.pred %p2, 0, %p3;
    @!%p2 bra again;";

/// As the one with a vote, and after a second gives up and writes 7.
const POLL_TOGETHER_IN_TIME: &str = "
    ld.param.u64 %rd1, [flag];
    mov.u64 %rd2, %globaltimer;
again:
    ld.acquire.sys.global.u32 %r2, [%rd1];
    setp.ne.u32 %p1, %r2, 0;
    bar.red.or.pred %p2, 0, %p1;
    @%p2 bra done;
    mov.u64 %rd3, %globaltimer;
    sub.u64 %rd3, %rd3, %rd2;
    setp.gt.u64 %p3, %rd3, 1000000000;
    bar.red.or.pred %p4, 0, %p3;
    @!%p4 bra again;
    st.global.u32 [%rd1], 7;
done:";

const WAITING_TOGETHER: [(&str, &str); 4] = [
    ("relay", RELAY),
    ("poll_together", POLL_TOGETHER),
    ("poll_by_vote", POLL_BY_VOTE),
    ("poll_in_parts", POLL_IN_PARTS),
];

/// A cluster that gives up early: what is found, is found long before.
fn brief(policy: Policy, seed: u64) -> moe_vgpu::Cluster {
    let config = Config { ranks: 2, policy, seed, instruction_limit: 2_000_000, ..Config::default() };
    moe_vgpu::Cluster::new(config).unwrap()
}

#[test]
fn warps_that_wait_together_or_store_what_is_there_are_found() {
    for (name, body) in WAITING_TOGETHER {
        let kernel = kernel(name, ".param .u64 flag", body);
        for policy in POLICIES {
            for seed in 0..8 {
                let mut cluster = brief(policy, seed);
                let flag = zeroed(&mut cluster, 0, 4, "flag");
                cluster.label(flag, 4, "arrived", Some(RankId(1))).unwrap();
                let stream = stream(&mut cluster, 0);
                cluster.launch(stream, &kernel, Launch::linear(2, 96, vec![flag.into()])).unwrap();
                let error = cluster.run().unwrap_err();
                assert!(matches!(error, RunError::Deadlock(_)), "{name}, {policy}, seed {seed}: {error}");
                let report = error.to_string();
                assert!(
                    report.contains("polls `arrived` of rank 0: found 0"),
                    "{name}, {policy}, seed {seed}: {report}"
                );
                assert!(report.contains("to be written by rank 1"), "{report}");
            }
        }
    }
}

#[test]
fn warps_that_wait_together_go_on_when_the_flag_comes() {
    let late = kernel(
        "late",
        ".param .u64 flag",
        "
        ld.param.u64 %rd1, [flag];
        mov.u32 %r1, 30000;
    count:
        add.u32 %r1, %r1, -1;
        setp.ne.u32 %p1, %r1, 0;
        @%p1 bra count;
        nanosleep.u32 500000;
        st.release.sys.global.u32 [%rd1], 1;",
    );
    for (name, body) in WAITING_TOGETHER {
        let kernel = kernel(name, ".param .u64 flag", body);
        for policy in POLICIES {
            for seed in 0..8 {
                let mut cluster = brief(policy, seed);
                let flag = zeroed(&mut cluster, 0, 4, "flag");
                let (a, b) = (stream(&mut cluster, 0), stream(&mut cluster, 1));
                cluster.launch(a, &kernel, Launch::linear(3, 96, vec![flag.into()])).unwrap();
                cluster.launch(b, &late, Launch::linear(1, 1, vec![flag.into()])).unwrap();
                cluster.run().unwrap_or_else(|error| panic!("{name}, {policy}, seed {seed}: {error}"));
            }
        }
    }
}

#[test]
fn a_deadline_of_warps_that_wait_together_passes_in_virtual_time() {
    let kernel = kernel("in_time", ".param .u64 flag", POLL_TOGETHER_IN_TIME);
    for policy in POLICIES {
        for seed in 0..8 {
            let mut cluster = brief(policy, seed);
            let flag = zeroed(&mut cluster, 0, 4, "flag");
            let stream = stream(&mut cluster, 0);
            cluster.launch(stream, &kernel, Launch::linear(1, 64, vec![flag.into()])).unwrap();
            let report = cluster.run().unwrap_or_else(|error| panic!("{policy}, seed {seed}: {error}"));
            assert_eq!(words(&mut cluster, flag, 1), [7], "{policy}, seed {seed}");
            assert!(report.nanoseconds > 1_000_000_000, "{} ns", report.nanoseconds);
        }
    }
}

/// One warp counts meetings with the others, which only look, and writes what they wait for after a thousand.
#[test]
fn a_warp_that_counts_meetings_is_not_taken_for_one_that_waits() {
    let body = "
        ld.param.u64 %rd1, [flag];
        mov.u32 %r1, %tid.x;
        setp.lt.u32 %p1, %r1, 32;
        mov.u32 %r4, 0;
    again:
        MEET
        @!%p1 bra look;
        add.u32 %r4, %r4, 1;
        setp.ne.u32 %p2, %r4, 1000;
        @%p2 bra look;
        st.release.sys.global.u32 [%rd1], 1;
    look:
        ld.acquire.sys.global.u32 %r2, [%rd1];
        setp.eq.u32 %p3, %r2, 0;
        bar.red.and.pred %p4, 1, %p3;
        @%p4 bra again;";
    let arrive = "@%p1 bar.arrive 2, 64; @!%p1 bar.sync 2, 64;";
    for meet in ["bar.sync 0;", arrive] {
        let kernel = kernel("count", ".param .u64 flag", &body.replace("MEET", meet));
        for policy in POLICIES {
            let mut cluster = brief(policy, 5);
            let flag = zeroed(&mut cluster, 0, 4, "flag");
            let stream = stream(&mut cluster, 0);
            cluster.launch(stream, &kernel, Launch::linear(1, 64, vec![flag.into()])).unwrap();
            cluster.run().unwrap_or_else(|error| panic!("{meet}, {policy}: {error}"));
        }
    }
}

/// Thread 0 of the first CTA of a cluster reads the flag, and all look at it in its shared memory; then they meet again.
const POLL_IN_CLUSTER: &str = "
    .shared .align 4 .b32 relayed;
    ld.param.u64 %rd1, [flag];
    mov.u32 %r1, %tid.x;
    mov.u32 %r4, %cluster_ctarank;
    or.b32 %r4, %r1, %r4;
    mov.u32 %r5, relayed;
    mapa.shared::cluster.u32 %r6, %r5, 0;
again:
    setp.ne.u32 %p1, %r4, 0;
    @%p1 bra meet;
    ld.acquire.sys.global.u32 %r2, [%rd1];
    st.shared.u32 [relayed], %r2;
meet:
    ARRIVE
    WAIT
    ld.shared::cluster.u32 %r3, [%r6];
    ARRIVE
    WAIT
    setp.eq.u32 %p2, %r3, 0;
    @%p2 bra again;";

/// The same: with the barriers of whole warps or of lanes, with a barrier of each CTA in between, and with something between arrival and
/// wait.
fn polls_in_cluster() -> [(&'static str, String); 4] {
    let with = |arrive: &str, wait: &str| POLL_IN_CLUSTER.replace("ARRIVE", arrive).replace("WAIT", wait);
    let (arrive, wait) = ("barrier.cluster.arrive.aligned;", "barrier.cluster.wait.aligned;");
    [
        ("of_warps", with(arrive, wait)),
        ("of_lanes", with("barrier.cluster.arrive;", "barrier.cluster.wait;")),
        ("with_parts", with(&format!("bar.sync 0; {arrive}"), &format!("{wait} bar.sync 0;"))),
        ("apart", with(&format!("{arrive} add.u32 %r7, %r3, 1;"), wait)),
    ]
}

#[test]
fn clusters_that_wait_together_are_found() {
    for (name, body) in polls_in_cluster() {
        let body = body.replace("ld.param.u64 %rd1, [flag];", "ld.param.u64 %rd1, [flag]; mov.u32 %r3, 0;");
        let kernel = kernel(name, ".param .u64 flag", &body);
        for policy in POLICIES {
            // Where lanes are drawn one by one, those that have something to do before they wait are elsewhere at each meeting.
            if name == "apart" && policy != Policy::RoundRobin {
                continue;
            }
            for seed in 0..4 {
                let mut cluster = brief(policy, seed);
                let flag = zeroed(&mut cluster, 0, 4, "flag");
                cluster.label(flag, 4, "arrived", Some(RankId(1))).unwrap();
                let stream = stream(&mut cluster, 0);
                let launch = Launch { cluster: Some([2, 1, 1]), ..Launch::linear(4, 64, vec![flag.into()]) };
                cluster.launch(stream, &kernel, launch).unwrap();
                let error = cluster.run().unwrap_err();
                assert!(matches!(error, RunError::Deadlock(_)), "{name}, {policy}, seed {seed}: {error}");
                let report = error.to_string();
                assert!(
                    report.contains("polls `arrived` of rank 0: found 0"),
                    "{name}, {policy}, seed {seed}: {report}"
                );
                assert!(report.contains("to be written by rank 1"), "{report}");
            }
        }
    }
}

#[test]
fn clusters_that_wait_together_go_on_when_the_flag_comes() {
    let late = kernel(
        "late",
        ".param .u64 flag",
        "
        ld.param.u64 %rd1, [flag];
        mov.u32 %r1, 30000;
    count:
        add.u32 %r1, %r1, -1;
        setp.ne.u32 %p1, %r1, 0;
        @%p1 bra count;
        nanosleep.u32 500000;
        st.release.sys.global.u32 [%rd1], 1;",
    );
    for (name, body) in polls_in_cluster() {
        let body = body.replace("ld.param.u64 %rd1, [flag];", "ld.param.u64 %rd1, [flag]; mov.u32 %r3, 0;");
        let kernel = kernel(name, ".param .u64 flag", &body);
        for policy in POLICIES {
            // Where lanes are drawn one by one, those that have something to do before they wait are elsewhere at each meeting.
            if name == "apart" && policy != Policy::RoundRobin {
                continue;
            }
            for seed in 0..4 {
                let mut cluster = brief(policy, seed);
                let flag = zeroed(&mut cluster, 0, 4, "flag");
                let (a, b) = (stream(&mut cluster, 0), stream(&mut cluster, 1));
                let launch = Launch { cluster: Some([2, 1, 1]), ..Launch::linear(4, 64, vec![flag.into()]) };
                cluster.launch(a, &kernel, launch).unwrap();
                cluster.launch(b, &late, Launch::linear(1, 1, vec![flag.into()])).unwrap();
                cluster.run().unwrap_or_else(|error| panic!("{name}, {policy}, seed {seed}: {error}"));
            }
        }
    }
}

/// One CTA counts the meetings of its cluster and writes what the other waits for after a thousand.
#[test]
fn a_cta_that_counts_meetings_is_not_taken_for_one_that_waits() {
    let body = "
        ld.param.u64 %rd1, [flag];
        mov.u32 %r1, %cluster_ctarank;
        setp.eq.u32 %p1, %r1, 1;
        mov.u32 %r4, 0;
    again:
        @!%p1 bra look;
        add.u32 %r4, %r4, 1;
        setp.ne.u32 %p2, %r4, 1000;
        @%p2 bra look;
        st.release.sys.global.u32 [%rd1], 1;
    look:
        barrier.cluster.arrive.aligned;
        barrier.cluster.wait.aligned;
        ld.acquire.sys.global.u32 %r2, [%rd1];
        barrier.cluster.arrive.aligned;
        barrier.cluster.wait.aligned;
        setp.eq.u32 %p3, %r2, 0;
        @%p3 bra again;";
    let kernel = kernel("count", ".param .u64 flag", body);
    for policy in POLICIES {
        let mut cluster = brief(policy, 5);
        let flag = zeroed(&mut cluster, 0, 4, "flag");
        let stream = stream(&mut cluster, 0);
        let launch = Launch { cluster: Some([2, 1, 1]), ..Launch::linear(2, 32, vec![flag.into()]) };
        cluster.launch(stream, &kernel, launch).unwrap();
        cluster.run().unwrap_or_else(|error| panic!("{policy}: {error}"));
    }
}
