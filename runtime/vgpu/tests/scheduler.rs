//! Progress and order: diverged lanes, CTAs and ranks that wait for each other, streams and events, seeds.

mod support;

use moe_vgpu::{Argument, Cluster, Launch, Policy};
use support::*;

/// Lane 0 spins until lane 31 of the same warp has set a flag: a reconvergence stack would hang here.
const SPIN_INSIDE_A_WARP: &str = "
    ld.param.u64 %rd1, [flag];
    mov.u32 %r1, %tid.x;
    setp.eq.u32 %p1, %r1, 0;
    @!%p1 bra others;
spin:
    ld.acquire.gpu.global.u32 %r2, [%rd1];
    setp.eq.u32 %p2, %r2, 0;
    @%p2 bra spin;
    st.global.u32 [%rd1+4], 7;
    bra done;
others:
    setp.eq.u32 %p3, %r1, 31;
    @!%p3 bra done;
    st.release.gpu.global.u32 [%rd1], 1;
done:";

#[test]
fn a_lane_can_wait_for_another_lane_of_its_warp() {
    let kernel = kernel("spin", ".param .u64 flag", SPIN_INSIDE_A_WARP);
    for policy in POLICIES {
        let mut cluster = scheduled(1, policy, 3);
        let flag = zeroed(&mut cluster, 0, 8, "flag");
        let stream = stream(&mut cluster, 0);
        cluster.launch(stream, &kernel, Launch::linear(1, 32, vec![flag.into()])).unwrap();
        cluster.run().unwrap();
        assert_eq!(words(&mut cluster, flag, 2), [1, 7], "{policy}");
    }
}

/// CTA 0 waits for CTA 1: data, then a flag with release and acquire.
const HAND_OVER: &str = "
    ld.param.u64 %rd1, [memory];
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %tid.x;
    mul.wide.u32 %rd2, %r2, 4;
    add.u64 %rd3, %rd1, %rd2;
    setp.eq.u32 %p1, %r1, 1;
    @%p1 bra produce;
    setp.ne.u32 %p2, %r2, 0;
    @%p2 bra arrived;
spin:
    ld.acquire.gpu.global.u32 %r3, [%rd1];
    setp.lt.u32 %p3, %r3, 1;
    @%p3 bra spin;
arrived:
    bar.sync 0;
    ld.global.u32 %r4, [%rd3+128];
    add.u32 %r4, %r4, 1;
    st.global.u32 [%rd3+512], %r4;
    bra done;
produce:
    st.global.u32 [%rd3+128], %r2;
    bar.sync 0;
    setp.ne.u32 %p2, %r2, 0;
    @%p2 bra done;
    red.release.gpu.global.add.u32 [%rd1], 1;
done:";

#[test]
fn a_cta_can_wait_for_another_one() {
    let kernel = kernel("hand_over", ".param .u64 memory", HAND_OVER);
    for policy in POLICIES {
        for seed in 0..10 {
            let mut cluster = scheduled(1, policy, seed);
            let memory = zeroed(&mut cluster, 0, 1024, "memory");
            let stream = stream(&mut cluster, 0);
            cluster.launch(stream, &kernel, Launch::linear(2, 96, vec![memory.into()])).unwrap();
            cluster.run().unwrap();
            let expected: Vec<u32> = (1..=96).collect();
            assert_eq!(words(&mut cluster, memory.offset(512), 96), expected, "{policy}, seed {seed}");
        }
    }
}

/// Every rank adds 1 to a flag of every rank, waits until its own has all, then writes what it found there.
const ALL_TO_ALL: &str = "
    ld.param.u64 %rd1, [peers];
    ld.param.u32 %r1, [ranks];
    ld.param.u64 %rd4, [own];
    mov.u32 %r2, %tid.x;
    setp.ge.u32 %p1, %r2, %r1;
    @%p1 bra sent;
    mul.wide.u32 %rd2, %r2, 8;
    add.u64 %rd2, %rd1, %rd2;
    ld.global.u64 %rd3, [%rd2];
    red.release.sys.global.add.u32 [%rd3], 1;
sent:
    setp.ne.u32 %p2, %r2, 0;
    @%p2 bra done;
spin:
    ld.acquire.sys.global.u32 %r3, [%rd4];
    setp.lt.u32 %p3, %r3, %r1;
    @%p3 bra spin;
    st.global.u32 [%rd4+4], %r3;
done:";

fn all_to_all(cluster: &mut Cluster, ranks: u32) -> Vec<u32> {
    let kernel = kernel("all_to_all", ".param .u64 peers, .param .u32 ranks, .param .u64 own", ALL_TO_ALL);
    let flags: Vec<_> = (0..ranks).map(|rank| zeroed(cluster, rank, 8, "flag")).collect();
    for rank in 0..ranks {
        let peers = zeroed(cluster, rank, 8 * ranks as usize, "peers");
        let bytes: Vec<u8> = flags.iter().flat_map(|flag| flag.0.to_le_bytes()).collect();
        cluster.write(peers, &bytes).unwrap();
        let stream = stream(cluster, rank);
        let arguments = vec![peers.into(), ranks.into(), flags[rank as usize].into()];
        cluster.launch(stream, &kernel, Launch::linear(1, 64, arguments)).unwrap();
    }
    cluster.run().unwrap();
    flags.iter().map(|flag| words(cluster, *flag, 2)[1]).collect()
}

#[test]
fn eight_ranks_wait_for_each_other() {
    for policy in POLICIES {
        for seed in 0..5 {
            let mut cluster = scheduled(8, policy, seed);
            assert_eq!(all_to_all(&mut cluster, 8), [8; 8], "{policy}, seed {seed}");
            for writer in 0..8 {
                for owner in 0..8 {
                    let traffic = cluster.traffic();
                    let own = if writer == owner { 4 } else { 0 };
                    let written = traffic.written(moe_vgpu::RankId(writer), moe_vgpu::RankId(owner));
                    assert_eq!(written, 4 + own, "one add, and one store at home");
                }
            }
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |policy, seed| {
        let mut cluster = scheduled(4, policy, seed);
        all_to_all(&mut cluster, 4);
        (cluster.instructions(), cluster.nanoseconds())
    };
    for policy in POLICIES {
        assert_eq!(run(policy, 11), run(policy, 11));
    }
    let different = (0..20).map(|seed| run(Policy::Random, seed)).collect::<std::collections::HashSet<_>>();
    assert!(different.len() > 1, "seeds change the interleaving");
}

/// Multiplies a word by 3 and adds an argument: not commutative, so the order shows.
const TIMES_THREE: &str = "
    ld.param.u64 %rd1, [word];
    ld.param.u32 %r1, [addend];
    ld.global.u32 %r2, [%rd1];
    mad.lo.u32 %r2, %r2, 3, %r1;
    st.global.u32 [%rd1], %r2;";

#[test]
fn launches_of_a_stream_run_in_order_and_events_order_streams() {
    let kernel = kernel("times_three", ".param .u64 word, .param .u32 addend", TIMES_THREE);
    for policy in POLICIES {
        for seed in 0..5 {
            let mut cluster = scheduled(2, policy, seed);
            let word = zeroed(&mut cluster, 0, 4, "word");
            let (first, second) = (stream(&mut cluster, 0), stream(&mut cluster, 1));
            let launch = |addend: u32| Launch::linear(1, 1, vec![word.into(), Argument::U32(addend)]);
            cluster.launch(first, &kernel, launch(1)).unwrap();
            cluster.launch(first, &kernel, launch(2)).unwrap();
            let event = cluster.record(first).unwrap();
            cluster.wait(second, event).unwrap();
            cluster.launch(second, &kernel, launch(5)).unwrap();
            let report = cluster.run().unwrap();
            assert_eq!(report.launches, 3);
            assert_eq!(words(&mut cluster, word, 1), [(3 + 2) * 3 + 5], "{policy}, seed {seed}");
        }
    }
}

/// `.align` after `.ptr` is that of what the pointer points to: the parameter itself stays aligned to its 8 bytes.
#[test]
fn a_pointer_parameter_is_aligned_whatever_it_points_to() {
    let kernel = kernel("aligned", ".param .u32 count, .param .u64 .ptr .global .align 1 out", "    ret;");
    let offsets: Vec<u32> = kernel.parameters().iter().map(|parameter| parameter.offset).collect();
    assert_eq!(offsets, [0, 8]);
}

#[test]
fn a_write_is_never_missed_by_a_loop_that_is_about_to_wait() {
    // A waiter that needs many instructions per round, and a writer that comes at every possible moment.
    let wait = kernel(
        "wait",
        ".param .u64 flag",
        "
        ld.param.u64 %rd1, [flag];
    again:
        ld.acquire.sys.global.u32 %r1, [%rd1];
        ld.acquire.sys.global.u32 %r2, [%rd1+4];
        mul.lo.u32 %r3, %r1, 7;
        mul.lo.u32 %r4, %r2, 7;
        add.u32 %r5, %r3, %r4;
        xor.b32 %r6, %r5, %r3;
        setp.lt.u32 %p1, %r5, 14;
        @%p1 bra again;",
    );
    let write = kernel(
        "write",
        ".param .u64 flag, .param .u32 delay",
        "
        ld.param.u64 %rd1, [flag];
        ld.param.u32 %r1, [delay];
    count:
        add.u32 %r1, %r1, -1;
        setp.ne.u32 %p1, %r1, 0;
        @%p1 bra count;
        st.release.sys.global.u32 [%rd1], 1;
        nanosleep.u32 1;
        st.release.sys.global.u32 [%rd1+4], 1;",
    );
    for policy in POLICIES {
        for seed in 0..400 {
            let mut cluster = scheduled(2, policy, seed);
            let flag = zeroed(&mut cluster, 0, 8, "flag");
            let (a, b) = (stream(&mut cluster, 0), stream(&mut cluster, 1));
            cluster.launch(a, &wait, Launch::linear(1, 1, vec![flag.into()])).unwrap();
            let delay = Argument::U32(1 + seed as u32 % 100);
            cluster.launch(b, &write, Launch::linear(1, 1, vec![flag.into(), delay])).unwrap();
            cluster.run().unwrap_or_else(|error| panic!("{policy}, seed {seed}: {error}"));
        }
    }
}

/// Warps that a barrier lets go come first, but not for ever.
#[test]
fn a_cta_that_meets_at_barriers_does_not_starve_another() {
    let body = "
        ld.param.u64 %rd1, [flag]; mov.u32 %r1, %ctaid.x; setp.ne.u32 %p1, %r1, 0; @%p1 bra SET;
        AGAIN: bar.sync 0;
        ld.relaxed.gpu.global.u32 %r2, [%rd1];
        setp.eq.u32 %p2, %r2, 0;
        bar.red.or.pred %p3, 0, %p2;
        @%p3 bra AGAIN;
        ret;
        SET: st.relaxed.gpu.global.u32 [%rd1], 1;";
    let mut cluster = cluster(1);
    let flag = zeroed(&mut cluster, 0, 4, "flag");
    let stream = stream(&mut cluster, 0);
    let kernel = kernel("starve", ".param .u64 flag", body);
    cluster.launch(stream, &kernel, Launch::linear(2, 256, vec![flag.into()])).unwrap();
    assert!(cluster.run().unwrap().instructions < 10_000);
}
