//! Warp and CTA instructions: member masks, diverged lanes, numbered and counted barriers, functions, atomics.

mod support;

use moe_vgpu::{AccessKind, Agent, Apart, Judge, Launch, Missing, Module, Policy, RunError, ThreadId};
use support::*;

/// Runs a kernel of one CTA that writes word `tid` of `out` (in `%rd9`), and returns the words.
fn run(policy: Policy, seed: u64, threads: u32, body: &str) -> Vec<u32> {
    try_run(policy, seed, threads, body, None).unwrap_or_else(|error| panic!("{policy}, seed {seed}: {error}"))
}

/// The same for a kernel that may fail, under the eyes of a judge.
fn try_run(policy: Policy, seed: u64, threads: u32, body: &str, judge: Option<&Judge>) -> Result<Vec<u32>, RunError> {
    let text = format!(
        "ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4; add.u64 %rd9, %rd1, %rd2;\n{body}"
    );
    let kernel = kernel("warps", ".param .u64 out", &text);
    let mut cluster = scheduled(1, policy, seed);
    let out = zeroed(&mut cluster, 0, 4 * threads as usize, "out");
    if let Some(judge) = judge {
        cluster.observe(Box::new(judge.clone()));
    }
    let stream = stream(&mut cluster, 0);
    cluster.launch(stream, &kernel, Launch::linear(1, threads, vec![out.into()])).unwrap();
    cluster.run()?;
    Ok(words(&mut cluster, out, threads as usize))
}

fn under_every_policy(threads: u32, body: &str, expected: impl Fn(u32) -> u32) {
    let expected: Vec<u32> = (0..threads).map(expected).collect();
    for policy in POLICIES {
        for seed in 0..4 {
            assert_eq!(run(policy, seed, threads, body), expected, "{policy}, seed {seed}");
        }
    }
}

#[test]
fn a_butterfly_sum() {
    let mut body = String::from("add.u32 %r2, %r1, 1;\n");
    for distance in [16, 8, 4, 2, 1] {
        body += &format!("shfl.sync.bfly.b32 %r3, %r2, {distance}, 31, 0xffffffff; add.u32 %r2, %r2, %r3;\n");
    }
    under_every_policy(32, &(body + "st.global.u32 [%rd9], %r2;"), |_| 32 * 33 / 2);
}

#[test]
fn lanes_that_come_by_different_paths_meet_in_a_shuffle() {
    // Even lanes take a detour; the shuffle has one place, both paths come to it at different times.
    let body = "
        and.b32 %r2, %r1, 1;
        setp.eq.u32 %p1, %r2, 1;
        @%p1 bra meet;
        nanosleep.u32 50;
        add.u32 %r1, %r1, 100;
    meet:
        shfl.sync.idx.b32 %r3|%p2, %r1, 4, 31, 0xffffffff;
        st.global.u32 [%rd9], %r3;";
    under_every_policy(32, body, |_| 104);
}

#[test]
fn the_same_collective_at_two_places() {
    // Both halves vote with the full mask, each at its own instruction.
    let body = "
        setp.lt.u32 %p1, %r1, 16;
        setp.lt.u32 %p3, %r1, 3;
        @%p1 bra low;
        vote.sync.ballot.b32 %r2, %p3, 0xffffffff;
        st.global.u32 [%rd9], %r2;
        bra done;
    low:
        vote.sync.ballot.b32 %r3, %p3, 0xffffffff;
        add.u32 %r3, %r3, 100;
        st.global.u32 [%rd9], %r3;
    done:";
    under_every_policy(32, body, |lane| if lane < 16 { 107 } else { 7 });
}

#[test]
fn groups_with_different_masks_at_one_instruction() {
    let body = "
        shr.u32 %r2, %r1, 4;
        setp.eq.u32 %p1, %r2, 0;
        selp.b32 %r3, 0x0000ffff, 0xffff0000, %p1;
        redux.sync.add.u32 %r4, %r1, %r3;
        st.global.u32 [%rd9], %r4;";
    under_every_policy(32, body, |lane| if lane < 16 { 120 } else { 376 });
}

#[test]
fn votes_matches_and_elections() {
    let body = "
        setp.lt.u32 %p1, %r1, 20;
        vote.sync.all.pred %p2, %p1, 0xffffffff;
        vote.sync.any.pred %p3, %p1, 0xffffffff;
        selp.b32 %r2, 1, 0, %p2;
        selp.b32 %r3, 2, 0, %p3;
        and.b32 %r4, %r1, 3;
        match.any.sync.b32 %r5, %r4, 0xffffffff;
        and.b32 %r5, %r5, 0xf0;
        elect.sync %r6|%p4, 0xffffffff;
        selp.b32 %r7, 0x1000, 0, %p4;
        add.u32 %r2, %r2, %r3;
        add.u32 %r2, %r2, %r5;
        add.u32 %r2, %r2, %r7;
        st.global.u32 [%rd9], %r2;";
    under_every_policy(32, body, |lane| 2 + (0x10 << (lane & 3)) + if lane == 0 { 0x1000 } else { 0 });
}

#[test]
fn exited_lanes_are_not_waited_for() {
    let body = "
        setp.ge.u32 %p1, %r1, 10;
        @%p1 exit;
        bar.warp.sync 0xffffffff;
        bar.sync 0;
        vote.sync.ballot.b32 %r2, 1, 0xffffffff;
        st.global.u32 [%rd9], %r2;";
    under_every_policy(64, body, |thread| if thread < 10 { 0x3ff } else { 0 });
}

#[test]
fn named_barriers_hand_over_between_warps() {
    // Warp 1 produces, warp 0 consumes: arrive does not wait, sync does.
    let body = "
        .shared .align 4 .b8 tile[128];
        shl.b32 %r2, %r1, 2;
        mov.u32 %r3, tile;
        setp.lt.u32 %p1, %r1, 32;
        @%p1 bra consume;
        add.u32 %r4, %r3, %r2;
        st.shared.u32 [%r4-128], %r1;
        bar.arrive 1, 64;
        bra done;
    consume:
        bar.sync 1, 64;
        xor.b32 %r2, %r2, 124;
        add.u32 %r4, %r3, %r2;
        ld.shared.u32 %r5, [%r4];
        st.global.u32 [%rd9], %r5;
    done:";
    under_every_policy(64, body, |thread| if thread < 32 { 63 - thread } else { 0 });
}

#[test]
fn barrier_reductions() {
    let body = "
        setp.lt.u32 %p1, %r1, 70;
        barrier.red.popc.u32 %r2, 0, %p1;
        barrier.red.and.pred %p2, 0, %p1;
        barrier.red.or.pred %p3, 0, %p1;
        selp.b32 %r3, 1000, 0, %p2;
        selp.b32 %r4, 2000, 0, %p3;
        add.u32 %r2, %r2, %r3;
        add.u32 %r2, %r2, %r4;
        st.global.u32 [%rd9], %r2;";
    under_every_policy(96, body, |_| 2070);
}

#[test]
fn threads_number_in_three_dimensions() {
    let kernel = kernel(
        "numbers",
        ".param .u64 out",
        "
        ld.param.u64 %rd1, [out];
        mov.u32 %r1, %tid.x; mov.u32 %r2, %tid.y; mov.u32 %r3, %tid.z;
        mov.u32 %r4, %ntid.x; mov.u32 %r5, %ntid.y; mov.u32 %r6, %ntid.z;
        mov.u32 %r7, %ctaid.x; mov.u32 %r8, %ctaid.y; mov.u32 %r9, %ctaid.z;
        mov.u32 %r10, %nctaid.x; mov.u32 %r11, %nctaid.y;
        mad.lo.u32 %r12, %r3, %r5, %r2;
        mad.lo.u32 %r12, %r12, %r4, %r1;
        mad.lo.u32 %r13, %r9, %r11, %r8;
        mad.lo.u32 %r13, %r13, %r10, %r7;
        mul.lo.u32 %r14, %r4, %r5;
        mul.lo.u32 %r14, %r14, %r6;
        mad.lo.u32 %r15, %r13, %r14, %r12;
        mul.wide.u32 %rd2, %r15, 4;
        add.u64 %rd3, %rd1, %rd2;
        mov.u32 %r16, %laneid;
        mov.u32 %r17, %warpid;
        shl.b32 %r17, %r17, 5;
        or.b32 %r16, %r16, %r17;
        shl.b32 %r18, %r13, 16;
        or.b32 %r16, %r16, %r18;
        st.global.u32 [%rd3], %r16;",
    );
    let mut cluster = cluster(1);
    let (grid, block) = ([3, 2, 4], [5, 4, 3]);
    let threads = 60;
    let out = zeroed(&mut cluster, 0, 24 * 60 * 4, "out");
    let stream = stream(&mut cluster, 0);
    let launch = Launch { grid, block, shared: 0, cluster: None, arguments: vec![out.into()] };
    cluster.launch(stream, &kernel, launch).unwrap();
    cluster.run().unwrap();
    let expected: Vec<u32> = (0..24 * threads).map(|at| ((at / threads) << 16) | (at % threads)).collect();
    assert_eq!(words(&mut cluster, out, 24 * 60), expected);
}

#[test]
fn device_functions_called_from_diverged_lanes() {
    let module = Module::parse(
        ".version 8.6\n.target sm_90a\n.address_size 64
.func (.param .b32 result) twice_plus(.param .b32 a, .param .b32 b)
{
    .reg .b32 %r<9>; .reg .pred %p<3>;
    ld.param.b32 %r1, [a];
    ld.param.b32 %r2, [b];
    setp.gt.u32 %p1, %r1, 20;
    @%p1 bra big;
    add.u32 %r3, %r1, %r1;
    add.u32 %r3, %r3, %r2;
    st.param.b32 [result], %r3;
    ret;
big:
    st.param.b32 [result], %r1;
    ret;
}
.visible .entry call(.param .u64 out)
{
    .reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .pred %p<3>;
    .param .b32 a0; .param .b32 a1; .param .b32 r0;
    ld.param.u64 %rd1, [out];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd2, %r1, 4;
    add.u64 %rd1, %rd1, %rd2;
    and.b32 %r2, %r1, 1;
    setp.eq.u32 %p1, %r2, 1;
    st.param.b32 [a0], %r1;
    @%p1 bra odd;
    st.param.b32 [a1], 1000;
    call.uni (r0), twice_plus, (a0, a1);
    ld.param.b32 %r3, [r0];
    bra write;
odd:
    st.param.b32 [a1], 2000;
    call.uni (r0), twice_plus, (a0, a1);
    ld.param.b32 %r3, [r0];
write:
    st.global.u32 [%rd1], %r3;
    ret;
}",
    )
    .unwrap_or_else(|error| panic!("{error}"));
    for policy in POLICIES {
        let mut cluster = scheduled(1, policy, 2);
        let out = zeroed(&mut cluster, 0, 128, "out");
        let stream = stream(&mut cluster, 0);
        cluster.launch(stream, &module.kernel("call").unwrap(), Launch::linear(1, 32, vec![out.into()])).unwrap();
        cluster.run().unwrap();
        let value = |lane: u32| if lane > 20 { lane } else { 2 * lane + if lane % 2 == 1 { 2000 } else { 1000 } };
        assert_eq!(words(&mut cluster, out, 32), (0..32).map(value).collect::<Vec<_>>(), "{policy}");
    }
}

#[test]
fn a_lock_of_compare_and_swap() {
    // Every thread increments a plain word under a lock: 256 threads of two CTAs.
    let kernel = kernel(
        "lock",
        ".param .u64 lock",
        "
        ld.param.u64 %rd1, [lock];
    take:
        atom.acquire.gpu.global.cas.b32 %r1, [%rd1], 0, 1;
        setp.ne.u32 %p1, %r1, 0;
        @%p1 bra take;
        ld.volatile.global.u32 %r2, [%rd1+4];
        add.u32 %r2, %r2, 1;
        st.volatile.global.u32 [%rd1+4], %r2;
        atom.release.gpu.global.exch.b32 %r3, [%rd1], 0;",
    );
    for policy in POLICIES {
        for seed in 0..4 {
            let mut cluster = scheduled(1, policy, seed);
            let lock = zeroed(&mut cluster, 0, 8, "lock");
            let stream = stream(&mut cluster, 0);
            cluster.launch(stream, &kernel, Launch::linear(2, 128, vec![lock.into()])).unwrap();
            cluster.run().unwrap();
            assert_eq!(words(&mut cluster, lock, 2), [0, 256], "{policy}, seed {seed}");
        }
    }
}

#[test]
fn local_memory_is_of_each_thread() {
    let body = "
        .local .align 4 .b8 stack[64];
        mov.u64 %rd3, stack;
        cvta.local.u64 %rd4, %rd3;
        add.u32 %r2, %r1, 7;
        st.local.u32 [%rd3+8], %r2;
        ld.u32 %r3, [%rd4+8];
        st.global.u32 [%rd9], %r3;";
    under_every_policy(64, body, |thread| thread + 7);
}

#[test]
fn misuse_of_collectives_is_told() {
    let fault = |body: &str| {
        let kernel = kernel("misuse", "", &format!("mov.u32 %r1, %tid.x;\n{body}"));
        let mut cluster = cluster(1);
        let stream = stream(&mut cluster, 0);
        cluster.launch(stream, &kernel, Launch::linear(1, 64, vec![])).unwrap();
        cluster.run().unwrap_err().to_string()
    };
    for (body, expected) in [
        ("bar.warp.sync 0x0000ffff;", "member mask 0x0000ffff, which does not contain it"),
        ("bar.sync 16;", "barrier 16 does not exist"),
        ("and.b32 %r2, %r1, 1; bar.sync %r2;", "the barrier number differs between the lanes"),
        ("bar.sync 1, 40;", "40 threads are not a multiple of 32"),
        ("setp.lt.u32 %p1, %r1, 32; @%p1 bar.sync 1, 64; @!%p1 bar.sync 1, 96;", "barrier 1: 96 threads here, 64"),
    ] {
        let report = fault(body);
        assert!(report.contains(expected), "{body}\n{report}");
    }
}

/// Each lane hands its number to the opposite one through shared memory, twice; `barrier` stands in three places.
fn hand_over(barriers: [&str; 3]) -> String {
    let [first, second, third] = barriers;
    format!(
        ".shared .align 4 .b8 tile[128];
        shl.b32 %r2, %r1, 2;
        mov.u32 %r3, tile;
        add.u32 %r4, %r3, %r2;
        xor.b32 %r5, %r2, 124;
        add.u32 %r5, %r3, %r5;
        st.shared.u32 [%r4], %r1;
        {first}
        ld.shared.u32 %r6, [%r5];
        {second}
        st.shared.u32 [%r4], %r6;
        {third}
        ld.shared.u32 %r7, [%r5];
        mad.lo.u32 %r7, %r7, 100, %r6;
        st.global.u32 [%rd9], %r7;"
    )
}

const WARP: &str = "bar.warp.sync 0xffffffff;";
const SHUFFLE: &str = "shfl.sync.idx.b32 %r8|%p1, %r1, 0, 31, 0xffffffff;";

/// A lane gets the number of its opposite, then what the opposite got: its own number.
fn handed_over() -> Vec<u32> {
    (0..32).map(|lane| 100 * lane + 31 - lane).collect()
}

#[test]
fn lanes_that_exchange_without_a_barrier_are_caught_by_drifting_apart() {
    let fails = |policy, seed, barriers| !matches!(try_run(policy, seed, 32, &hand_over(barriers), None), Ok(words) if words == handed_over());
    for policy in [Policy::Random, Policy::Adversarial] {
        for missing in 0..3 {
            let mut barriers = [WARP; 3];
            barriers[missing] = "";
            let seeds = (0..40).filter(|&seed| fails(policy, seed, barriers)).count();
            assert!(seeds > 0, "{policy}: nothing shows that barrier {missing} is missing");
        }
        assert_eq!((0..200).find(|&seed| fails(policy, seed, [WARP; 3])), None, "{policy}");
    }
    assert!(!fails(Policy::RoundRobin, 0, [""; 3]), "lanes that are together stay together in turn");
}

/// The race is in the run whether or not its result is wrong; a shuffle in the place of a barrier lets lanes meet and orders nothing.
#[test]
fn one_schedule_shows_every_race_in_shared_memory() {
    use AccessKind::{Read, Write};
    let races = |threads, body: &str| {
        let judge = Judge::default();
        try_run(Policy::RoundRobin, 0, threads, body, Some(&judge)).expect("in turn it happens to be right");
        judge.found()
    };
    assert_eq!(races(32, &hand_over([WARP; 3])), []);
    for instead in ["", SHUFFLE] {
        for (missing, kinds) in [(0, (Write, Read)), (1, (Read, Write)), (2, (Write, Read))] {
            let mut barriers = [WARP; 3];
            barriers[missing] = instead;
            let found = races(32, &hand_over(barriers));
            assert_eq!(found.iter().map(|race| (race.first.kind, race.second.kind)).collect::<Vec<_>>(), [kinds]);
            let lane = |agent| match agent {
                Agent::Thread(ThreadId { warp: 0, lane, .. }) => lane,
                _ => panic!("{agent:?}"),
            };
            assert_eq!(lane(found[0].first.agent) + lane(found[0].second.agent), 31, "{}", found[0]);
            assert_eq!(found[0].missing, Missing::Everything(Apart::Lanes));
        }
    }
}

#[test]
fn a_barrier_of_a_warp_does_not_order_another_warp() {
    const CTA: &str = "bar.sync 0;";
    for (barrier, is_ordered) in [(CTA, true), (WARP, false)] {
        // The opposite thread is in the other warp.
        let body = hand_over([CTA, barrier, CTA]).replace("124", "252").replace("tile[128]", "tile[256]");
        let judge = Judge::default();
        try_run(Policy::RoundRobin, 0, 64, &body, Some(&judge)).expect("every byte is written before it is read");
        assert_eq!(judge.found().is_empty(), is_ordered, "{barrier} {:?}", judge.found());
    }
}
