//! Clusters of CTAs: where their CTAs are, what they do to each other's shared memory, and what is said when they do it wrong. Each right
//! kernel gives the same result under every policy and many seeds, and the judge says nothing; its wrong twins are told by what they lack.

mod support;

use insta::assert_snapshot;
use moe_vgpu::{Address, Cluster, Config, Judge, Launch, Missing, Module, Policy, Scope};
use support::{POLICIES, stream, words, zeroed};

/// A kernel of CTAs in clusters, whose parameter `out` is in `%out`. Variables: an mbarrier `gate` and 1024 bytes `tile`. `%rank`, `%size`
/// and `%t` (the thread) are read; the address of `tile` is in `%tile`, that of `gate` in `%gate`.
fn text(body: &str) -> String {
    format!(
        ".version 8.7\n.target sm_100a\n.address_size 64\n.visible .entry k(.param .u64 out)\n{{\n.reg .pred %p<10>;\n.reg .b16 %h<10>;\n\
         .reg .b32 %r<40>, %rank, %size, %t, %tile, %gate;\n.reg .b64 %d<40>, %out;\n.shared .align 128 .b8 tile[1024];\n\
         .shared .align 8 .b64 gate;\nld.param.u64 %out, [out];\nmov.u32 %rank, %cluster_ctarank;\nmov.u32 %size, %cluster_nctarank;\n\
         mov.u32 %t, %tid.x;\nmov.u32 %tile, tile;\nmov.u32 %gate, gate;\n{body}\nret;\n}}\n"
    )
}

const SYNC: &str = "barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;\n";

fn launched(text: &str, ctas: u32, threads: u32, policy: Policy, seed: u64) -> (Cluster, Address, Judge) {
    let module = Module::parse(text).unwrap_or_else(|error| panic!("{error}"));
    let config = Config { sms: 8, policy, seed, instruction_limit: 5_000_000, ..Config::default() };
    let mut cluster = Cluster::new(config).unwrap();
    let judge = Judge::default();
    cluster.observe(Box::new(judge.clone()));
    let out = zeroed(&mut cluster, 0, 4096, "out");
    let stream = stream(&mut cluster, 0);
    let launch = Launch { cluster: Some([ctas, 1, 1]), ..Launch::linear(2 * ctas, threads, vec![out.into()]) };
    cluster.launch(stream, &module.kernel("k").unwrap(), launch).unwrap();
    (cluster, out, judge)
}

fn schedules() -> impl Iterator<Item = (Policy, u64)> {
    POLICIES
        .into_iter()
        .flat_map(|policy| (0..if policy == Policy::RoundRobin { 1 } else { 12 }).map(move |seed| (policy, seed)))
}

/// The first words of `out` after two clusters have run, under every schedule the same, with nothing to say.
fn right(body: &str, ctas: u32, threads: u32, count: usize) -> Vec<u32> {
    let mut all: Option<Vec<u32>> = None;
    for (policy, seed) in schedules() {
        let (mut cluster, out, judge) = launched(&text(body), ctas, threads, policy, seed);
        cluster.run().unwrap_or_else(|error| panic!("{error}"));
        let found: Vec<String> = judge.found().iter().map(ToString::to_string).collect();
        assert!(found.is_empty(), "{policy}, seed {seed}: {found:#?}");
        let result = words(&mut cluster, out, count);
        assert_eq!(all.get_or_insert(result.clone()), &result, "{policy}, seed {seed}");
    }
    all.unwrap_or_default()
}

/// What the judge says of the first run of which it says something; under every schedule it does, or the run ends with an error.
fn judged(body: &str, ctas: u32, threads: u32) -> Vec<(Missing, String)> {
    let mut first = None;
    for (policy, seed) in schedules() {
        let (mut cluster, _, judge) = launched(&text(body), ctas, threads, policy, seed);
        let ended = cluster.run();
        let found: Vec<_> = judge.found().into_iter().map(|one| (one.missing.clone(), one.to_string())).collect();
        assert!(ended.is_err() || !found.is_empty(), "{policy}, seed {seed}");
        if !found.is_empty() {
            first.get_or_insert(found);
        }
    }
    first.unwrap_or_default()
}

/// The error of a run in turn.
fn error(body: &str, ctas: u32, threads: u32) -> String {
    let (mut cluster, ..) = launched(&text(body), ctas, threads, Policy::RoundRobin, 0);
    cluster.run().unwrap_err().to_string()
}

/// A text with another in the place of one that is there.
fn changed(text: &str, wrong: &str, right: &str) -> String {
    assert!(text.contains(wrong), "{wrong}");
    text.replacen(wrong, right, 1)
}

#[test]
fn every_cta_knows_its_place() {
    const REGISTERS: [&str; 14] = [
        "%ctaid.x",
        "%ctaid.y",
        "%clusterid.x",
        "%clusterid.y",
        "%clusterid.z",
        "%nclusterid.x",
        "%nclusterid.y",
        "%nclusterid.z",
        "%cluster_ctaid.x",
        "%cluster_ctaid.y",
        "%cluster_nctaid.x",
        "%cluster_nctaid.y",
        "%cluster_ctarank",
        "%cluster_nctarank",
    ];
    let mut body = String::from(
        ".reg .pred %p<2>;\n.reg .b32 %r<8>;\n.reg .b64 %d<4>;\nld.param.u64 %d0, [out];\nmov.u32 %r0, %ctaid.y;\nmov.u32 %r1, %nctaid.x;\n\
         mov.u32 %r2, %ctaid.x;\nmad.lo.u32 %r3, %r0, %r1, %r2;\nmul.wide.u32 %d1, %r3, 64;\nadd.u64 %d0, %d0, %d1;\n",
    );
    for (index, register) in REGISTERS.iter().enumerate() {
        body.push_str(&format!("mov.u32 %r4, {register};\nst.global.u32 [%d0+{}], %r4;\n", 4 * index));
    }
    body.push_str(
        "mov.pred %p0, %is_explicit_cluster;\nselp.u32 %r5, 1, 0, %p0;\nst.global.u32 [%d0+56], %r5;\nret;\n",
    );
    let text = format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 out) .reqnctapercluster 2, 3, 1\n{{\n{body}}}\n"
    );
    let module = Module::parse(&text).unwrap();
    let mut cluster = support::cluster(1);
    let out = zeroed(&mut cluster, 0, 24 * 64, "out");
    let stream = stream(&mut cluster, 0);
    let launch = Launch { grid: [4, 6, 1], ..Launch::linear(1, 1, vec![out.into()]) };
    cluster.launch(stream, &module.kernel("k").unwrap(), launch).unwrap();
    cluster.run().unwrap();
    let found = words(&mut cluster, out, 24 * 16);
    for y in 0..6 {
        for x in 0..4 {
            let at = (y * 4 + x) as usize * 16;
            let expected = [x, y, x / 2, y / 3, 0, 2, 2, 1, x % 2, y % 3, 2, 3, y % 3 * 2 + x % 2, 6, 1];
            assert_eq!(found[at..at + 15], expected, "CTA ({x}, {y})");
        }
    }
}

/// Each thread puts a word into the tile of the next CTA, and reads what came.
const RING: &str = "\
barrier.cluster.arrive.relaxed.aligned;
barrier.cluster.wait.aligned;
add.u32 %r1, %rank, 1;
rem.u32 %r1, %r1, %size;
mapa.shared::cluster.u32 %r2, %tile, %r1;
shl.b32 %r3, %t, 2;
add.u32 %r2, %r2, %r3;
mad.lo.u32 %r4, %rank, 100, %t;
st.shared::cluster.u32 [%r2], %r4;
barrier.cluster.arrive.release.aligned;
barrier.cluster.wait.acquire.aligned;
add.u32 %r5, %tile, %r3;
ld.shared.u32 %r6, [%r5];
mov.u32 %r7, %ctaid.x;
mad.lo.u32 %r8, %r7, 64, %t;
mul.wide.u32 %d1, %r8, 4;
add.u64 %d1, %out, %d1;
st.global.u32 [%d1], %r6;";

#[test]
fn words_go_round_a_cluster() {
    let found = right(RING, 4, 64, 512);
    let expected: Vec<u32> = (0..8).flat_map(|cta| (0..64).map(move |t| (cta + 3) % 4 * 100 + t)).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_ring_that_is_wrong_is_told() {
    // An arrival that does not release.
    let relaxed = changed(RING, "arrive.release", "arrive.relaxed");
    let found = judged(&relaxed, 4, 64);
    assert_eq!(found[0].0, Missing::Everything(moe_vgpu::Apart::Cluster));
    assert_snapshot!(found[0].1, @"`tile` of CTA 3: rank 0, `k` (launch 0), CTA 2, warp 0, lane 0 writes it in line 26; rank 0, `k` (launch 0), CTA 3, warp 0, lane 0 reads it in line 30; nothing orders them: a barrier.cluster has to stand between, or a release of scope .cluster or wider, and an acquire of what it writes");
    // Nobody says that the next CTA has started.
    let early = changed(RING, "barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;\n", "");
    let found = judged(&early, 4, 64);
    assert_eq!(found[0].0, Missing::CtaStart);
    assert_snapshot!(found[0].1, @"`tile` of CTA 1: CTA 1 of rank 0, `k` (launch 0), starts; rank 0, `k` (launch 0), CTA 0, warp 0, lane 0 writes it in line 24; the CTA may not have started: a barrier.cluster has to come before the access, or another message from its threads");
    // A wait that is missing, and an arrival.
    assert_snapshot!(error(&changed(RING, "barrier.cluster.wait.acquire.aligned;", "barrier.cluster.arrive.aligned;"), 4, 64), @r"
    a thread arrives at the barrier of its cluster again before it has waited
      by: rank 0, kernel `k`, CTA 3, warp 1, lane 0, line 28: barrier.cluster.arrive.aligned
      thread: (32, 0, 0)
      schedule: round-robin, seed 0
    ");
    assert_snapshot!(error(&changed(RING, "barrier.cluster.arrive.release.aligned;", ""), 4, 64), @r"
    a thread waits at the barrier of its cluster and has not arrived there
      by: rank 0, kernel `k`, CTA 3, warp 1, lane 0, line 28: barrier.cluster.wait.acquire.aligned
      thread: (32, 0, 0)
      schedule: round-robin, seed 0
    ");
    // One CTA that does not come.
    let absent = changed(
        RING,
        "barrier.cluster.arrive.release.aligned;",
        "setp.eq.u32 %p1, %rank, 2;\n@%p1 bar.sync 1, 128;\nbarrier.cluster.arrive.release.aligned;",
    );
    assert_snapshot!(error(&absent, 4, 64), @r"
    deadlock: everything waits, and nothing is under way that could end it
      rank 0, kernel `k`, CTA 0, warp 0, lanes 0-31, line 30: barrier.cluster.wait.acquire.aligned
        waits at the barrier of its cluster: 192 of 256 threads have arrived, not all of CTA 2
        so do other groups of lanes of this launch: 5
      rank 0, kernel `k`, CTA 2, warp 0, lanes 0-31, line 28: bar.sync
        waits at barrier 1: 64 of 128 threads have arrived
        so do other groups of lanes of this launch: 3
      rank 0, kernel `k`, CTA 4, warp 0, lanes 0-31, line 30: barrier.cluster.wait.acquire.aligned
        waits at the barrier of its cluster: 192 of 256 threads have arrived, not all of CTA 6
        so do other groups of lanes of this launch: 5
      schedule: round-robin, seed 0
    ");
    // Lanes of a warp apart.
    let apart = changed(
        RING,
        "barrier.cluster.arrive.release.aligned;",
        "setp.lt.u32 %p1, %t, 16;\n@%p1 barrier.cluster.arrive.aligned;\n@!%p1 barrier.cluster.arrive.aligned;",
    );
    assert_snapshot!(error(&apart, 4, 64), @r"
    lanes of a warp come to the barrier of their cluster by different instructions, in lines 28 and 29: all lanes of a warp have to execute the same one, as it is .aligned
      by: rank 0, kernel `k`, CTA 0, warp 0, lane 16, line 29: barrier.cluster.arrive.aligned
      thread: (16, 0, 0)
      schedule: round-robin, seed 0
    ");
}

/// All read the word of the last CTA, which may end only when they have.
const BROADCAST: &str = "\
st.shared.u32 [tile], %rank;
barrier.cluster.arrive.aligned;
barrier.cluster.wait.aligned;
sub.u32 %r1, %size, 1;
mapa.shared::cluster.u32 %r2, %tile, %r1;
ld.shared::cluster.u32 %r3, [%r2];
barrier.cluster.arrive.aligned;
barrier.cluster.wait.aligned;
mov.u32 %r7, %ctaid.x;
mul.wide.u32 %d1, %r7, 4;
add.u64 %d1, %out, %d1;
st.global.u32 [%d1], %r3;";

#[test]
fn a_cta_outlives_those_who_read_its_memory() {
    assert_eq!(right(BROADCAST, 4, 1, 8), [3; 8]);
    let at = BROADCAST.rfind("barrier.cluster.arrive").unwrap();
    let short = format!(
        "{}{}",
        &BROADCAST[..at],
        &BROADCAST[at..].replace("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;\n", "")
    );
    let found = judged(&short, 4, 1);
    assert_eq!(found[0].0, Missing::CtaEnd);
    assert_snapshot!(found[0].1, @"`tile` of CTA 7: rank 0, `k` (launch 0), CTA 6, warp 0, lane 0 reads it in line 23; CTA 7 of rank 0, `k` (launch 0), ends; the CTA may end before: between the access and its end a barrier.cluster has to stand, or another message to its threads");
    let errors: Vec<String> = schedules()
        .filter_map(|(policy, seed)| launched(&text(&short), 4, 1, policy, seed).0.run().err())
        .map(|error| error.to_string())
        .collect();
    assert!(errors.iter().any(|error| error.contains("CTA 3 of the cluster has ended")), "{errors:?}");
    // A rank that the cluster does not have.
    assert_snapshot!(error(&changed(BROADCAST, "sub.u32 %r1, %size, 1;", "mov.u32 %r1, %size;"), 4, 1), @r"
    there is no CTA 4 in a cluster of 4, counted from 0
      access: 4 bytes at 0x0000000050100400
      by: rank 0, kernel `k`, CTA 3, warp 0, lane 0, line 23: ld.shared::cluster.u32
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
    // The address of another CTA where one of the own has to stand.
    assert_snapshot!(error(&changed(BROADCAST, "ld.shared::cluster.u32 %r3", "ld.shared.u32 %r3"), 4, 1), @r"
    wrong state space: the instruction accesses .shared::cta, the address is in .shared::cluster
      access: 4 bytes at 0x000000004c100400
      by: rank 0, kernel `k`, CTA 0, warp 0, lane 0, line 23: ld.shared.u32
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
    // Beyond the variable there.
    assert_snapshot!(error(&changed(BROADCAST, "ld.shared::cluster.u32 %r3, [%r2]", "ld.shared::cluster.u32 %r3, [%r2+1024]"), 4, 1), @r"
    out of bounds: byte 1024 of `tile`, which has 1024 bytes
      access: 4 bytes at 0x000000004c100800
      by: rank 0, kernel `k`, CTA 3, warp 0, lane 0, line 23: ld.shared::cluster.u32
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
}

/// Generic addresses of other CTAs: made by `mapa`, handed over as they are, asked where they are.
const GENERIC: &str = "\
mov.u32 %r20, 0;
st.shared.u32 [tile+4], %r20;
cvta.shared.u64 %d1, %d30;
barrier.cluster.arrive.aligned;
barrier.cluster.wait.aligned;
xor.b32 %r1, %rank, 1;
mapa.u64 %d2, %d1, %r1;
getctarank.u64 %r2, %d2;
isspacep.shared::cta %p1, %d2;
isspacep.shared::cluster %p2, %d2;
isspacep.shared::cta %p3, %d1;
isspacep.global %p4, %d2;
selp.u32 %r3, 1, 0, %p1;
selp.u32 %r4, 2, 0, %p2;
selp.u32 %r5, 4, 0, %p3;
selp.u32 %r6, 8, 0, %p4;
or.b32 %r3, %r3, %r4;
or.b32 %r3, %r3, %r5;
or.b32 %r3, %r3, %r6;
mad.lo.u32 %r3, %r2, 16, %r3;
atom.relaxed.cluster.add.u32 %r9, [%d2+4], %r3;
st.u64 [%d2+16], %d1;
barrier.cluster.arrive.aligned;
barrier.cluster.wait.aligned;
ld.shared.u64 %d3, [tile+16];
getctarank.u64 %r10, %d3;
cvta.to.shared::cluster.u64 %d4, %d3;
ld.shared::cluster.u32 %r11, [%d4+4];
ld.u32 %r12, [%d3+4];
ld.shared.u32 %r13, [tile+4];
barrier.cluster.arrive.aligned;
barrier.cluster.wait.aligned;
mov.u32 %r7, %ctaid.x;
mul.wide.u32 %d5, %r7, 16;
add.u64 %d5, %out, %d5;
st.global.v4.u32 [%d5], {%r10, %r11, %r12, %r13};";

#[test]
fn generic_addresses_reach_other_ctas() {
    let body = changed(GENERIC, "cvta.shared.u64", "mov.u64 %d30, tile;\ncvta.shared.u64");
    let found = right(&body, 2, 1, 16);
    // In the cluster but not of the CTA, while the own one is; and the rank of the other.
    let told = |other: u32| other * 16 + 2 + 4;
    let of = |rank: u32| [1 - rank, told(1 - rank), told(1 - rank), told(rank)];
    // What is added to a tile comes from the other CTA, which asked about this one.
    let expected: Vec<u32> = [0, 1, 0, 1]
        .into_iter()
        .flat_map(|rank| {
            let [other, ..] = of(rank);
            [other, told(other), told(other), told(rank)]
        })
        .collect();
    assert_eq!(found, expected);
}

/// Every thread of the cluster arrives at the mbarrier of CTA 0, which then reads all tiles.
const GATHER: &str = "\
setp.eq.u32 %p1, %t, 0;
setp.eq.u32 %p2, %rank, 0;
and.pred %p3, %p1, %p2;
shl.b32 %r1, %size, 5;
@%p3 mbarrier.init.shared::cta.b64 [%gate], %r1;
@%p3 fence.mbarrier_init.release.cluster;
barrier.cluster.arrive.relaxed.aligned;
barrier.cluster.wait.aligned;
shl.b32 %r3, %t, 2;
add.u32 %r3, %r3, %tile;
add.u32 %r4, %t, %rank;
st.shared.u32 [%r3], %r4;
mapa.shared::cluster.u32 %r2, %gate, 0;
mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r2];
@!%p2 bra done;
wait:
mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p4, [%gate], 0;
@!%p4 bra wait;
mov.u32 %r5, 0;
mov.u32 %r6, 0;
more:
mapa.shared::cluster.u32 %r7, %r3, %r6;
ld.shared::cluster.u32 %r8, [%r7];
add.u32 %r5, %r5, %r8;
add.u32 %r6, %r6, 1;
setp.lt.u32 %p5, %r6, %size;
@%p5 bra more;
mov.u32 %r9, %clusterid.x;
mad.lo.u32 %r9, %r9, 32, %t;
mul.wide.u32 %d1, %r9, 4;
add.u64 %d1, %out, %d1;
st.global.u32 [%d1], %r5;
done:
barrier.cluster.arrive.aligned;
barrier.cluster.wait.aligned;";

#[test]
fn an_mbarrier_gathers_a_cluster() {
    let expected: Vec<u32> = (0..2).flat_map(|_| (0..32).map(|t| 3 * t + 3)).collect();
    assert_eq!(right(GATHER, 3, 32, 64), expected);
    let narrow = judged(&changed(GATHER, "arrive.release.cluster.shared", "arrive.release.cta.shared"), 3, 32);
    assert!(
        matches!(narrow[0].0, Missing::ReleaseScope { scope: Scope::Cta, needed: Scope::Cluster, .. }),
        "{narrow:#?}"
    );
    assert_snapshot!(narrow[0].1, @"`tile` of CTA 1: rank 0, `k` (launch 0), CTA 1, warp 0, lane 0 writes it in line 29; rank 0, `k` (launch 0), CTA 0, warp 0, lane 0 reads it in line 40; the release in line 31 is .cta, the reader is in the same cluster: needs .cluster");
    let narrow = judged(&changed(GATHER, "acquire.cluster.shared::cta", "acquire.cta.shared::cta"), 3, 32);
    assert!(matches!(narrow[0].0, Missing::AcquireScope { scope: Scope::Cta, needed: Scope::Cluster, .. }));
    let relaxed = judged(&changed(GATHER, "arrive.release.cluster.shared", "arrive.relaxed.cluster.shared"), 3, 32);
    assert_eq!(relaxed[0].0, Missing::Everything(moe_vgpu::Apart::Cluster));
    // The initialisation is not told to the others.
    let untold = judged(&changed(GATHER, "@%p3 fence.mbarrier_init.release.cluster;\n", ""), 3, 32);
    assert!(untold[0].1.contains("`gate` of CTA 0"), "{}", untold[0].1);
    // An arrival that never comes.
    let few = error(&changed(GATHER, "shl.b32 %r1, %size, 5;", "mov.u32 %r1, 97;"), 3, 32);
    assert_snapshot!(few, @r"
    deadlock: everything waits, and nothing is under way that could end it
      rank 0, kernel `k`, CTA 0, warp 0, lanes 0-31, line 34: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64
        polls the mbarrier `gate`: its phase of parity 0 is not complete, 1 of 97 arrivals are missing
        so do other groups of lanes of this launch: 1
      rank 0, kernel `k`, CTA 1, warp 0, lanes 0-31, line 52: barrier.cluster.wait.aligned
        waits at the barrier of its cluster: 64 of 96 threads have arrived, not all of CTA 0
        so do other groups of lanes of this launch: 1
      rank 0, kernel `k`, CTA 4, warp 0, lanes 0-31, line 52: barrier.cluster.wait.aligned
        waits at the barrier of its cluster: 64 of 96 threads have arrived, not all of CTA 3
        so do other groups of lanes of this launch: 1
      schedule: round-robin, seed 0
    ");
}

/// One copy from global memory lands in every CTA of a mask, and tells the mbarrier of each.
const MULTICAST: &str = "\
setp.eq.u32 %p1, %t, 0;
@%p1 mbarrier.init.shared::cta.b64 [%gate], 1;
@%p1 fence.mbarrier_init.release.cluster;
@%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%gate], 64;
barrier.cluster.arrive.aligned;
barrier.cluster.wait.aligned;
setp.eq.u32 %p2, %rank, 1;
and.pred %p2, %p2, %p1;
mov.u16 %h1, 15;
add.u64 %d1, %out, 2048;
@%p2 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%tile], [%d1], 64, [%gate], %h1;
wait:
mbarrier.try_wait.parity.shared::cta.b64 %p4, [%gate], 0;
@!%p4 bra wait;
shl.b32 %r3, %t, 2;
add.u32 %r4, %r3, %tile;
ld.shared.u32 %r5, [%r4];
mov.u32 %r6, %ctaid.x;
add.u32 %r5, %r5, %r6;
mad.lo.u32 %r7, %r6, 16, %t;
mul.wide.u32 %d2, %r7, 4;
add.u64 %d2, %out, %d2;
st.global.u32 [%d2], %r5;";

#[test]
fn a_copy_lands_in_every_cta_of_its_mask() {
    let expected: Vec<u32> = (0..8).flat_map(|cta| [cta; 16]).collect();
    assert_eq!(right(MULTICAST, 4, 16, 128), expected);
    // CTA 3 is left out, and waits.
    assert_snapshot!(error(&changed(MULTICAST, "mov.u16 %h1, 15;", "mov.u16 %h1, 7;"), 4, 16), @r"
    deadlock: everything waits, and nothing is under way that could end it
      rank 0, kernel `k`, CTA 3, warp 0, lanes 0-15, line 30: mbarrier.try_wait.parity.shared::cta.b64
        polls the mbarrier `gate`: its phase of parity 0 is not complete, 0 of 1 arrivals are missing, and 64 bytes
        so do other groups of lanes of this launch: 1
      schedule: round-robin, seed 0
    ");
    assert_snapshot!(error(&changed(MULTICAST, "mov.u16 %h1, 15;", "mov.u16 %h1, 31;"), 4, 16), @r"
    the mask of CTAs is 0x001f: there is no CTA 4 in a cluster of 4, counted from 0
      by: rank 0, kernel `k`, CTA 1, warp 0, lane 0, line 28: cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
    // What lands is read before it is waited for.
    assert_snapshot!(error(&changed(MULTICAST, "@!%p4 bra wait;\n", ""), 4, 16), @r"
    use before initialisation: what is stored in device memory comes from `tile`, which was never written, read in line 33
      by: rank 0, kernel `k`, CTA 3, warp 0, lane 0, line 39: st.global.u32
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
}

/// A tile goes to the next CTA, as a copy, as words, and as sums; each tells the mbarrier there.
fn pushed(push: &str, bytes: u32) -> String {
    format!(
        "\
setp.eq.u32 %p1, %t, 0;
@%p1 mbarrier.init.shared::cta.b64 [%gate], 1;
@%p1 fence.mbarrier_init.release.cluster;
@%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%gate], {bytes};
shl.b32 %r3, %t, 2;
add.u32 %r4, %tile, %r3;
mad.lo.u32 %r5, %rank, 16, %t;
st.shared.u32 [%r4], %r5;
st.shared.u32 [%r4+512], 7;
fence.proxy.async.shared::cta;
bar.sync 0;
{SYNC}
xor.b32 %r6, %rank, 1;
mapa.shared::cluster.u32 %r7, %tile, %r6;
mapa.shared::cluster.u32 %r8, %gate, %r6;
add.u32 %r9, %r7, %r3;
{push}
wait:
mbarrier.try_wait.parity.shared::cta.b64 %p4, [%gate], 0;
@!%p4 bra wait;
ld.shared.u32 %r10, [%r4+512];
mov.u32 %r11, %ctaid.x;
mad.lo.u32 %r12, %r11, 16, %t;
mul.wide.u32 %d2, %r12, 4;
add.u64 %d2, %out, %d2;
st.global.u32 [%d2], %r10;
{SYNC}"
    )
}

#[test]
fn tiles_are_pushed_to_another_cta() {
    let from_other = |change: fn(u32) -> u32| -> Vec<u32> {
        (0..4).flat_map(|cta| (0..16).map(move |t| change((1 - cta % 2) * 16 + t))).collect()
    };
    let copy =
        "@%p1 cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r7+512], [%tile], 64, [%r8];";
    assert_eq!(right(&pushed(copy, 64), 2, 16, 64), from_other(|value| value));
    let words = "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.u32 [%r9+512], %r5, [%r8];";
    assert_eq!(right(&pushed(words, 64), 2, 16, 64), from_other(|value| value));
    let sums = "red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%r9+512], %r5, [%r8];";
    assert_eq!(right(&pushed(sums, 64), 2, 16, 64), from_other(|value| value + 7));
    let reduction = "@%p1 cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.max.u32 [%r7+512], [%tile], 64, [%r8];";
    assert_eq!(right(&pushed(reduction, 64), 2, 16, 64), from_other(|value| value.max(7)));
    // Four words of each fourth thread.
    let vectors = "and.b32 %r20, %t, 3;\nsetp.eq.u32 %p5, %r20, 0;\nadd.u32 %r21, %r5, 1;\nadd.u32 %r22, %r5, 2;\nadd.u32 %r23, %r5, 3;\n\
                   @%p5 st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%r9+512], {%r5, %r21, %r22, %r23}, [%r8];";
    assert_eq!(right(&pushed(vectors, 64), 2, 16, 64), from_other(|value| value));

    // The mbarrier of the sender is told instead of that of the receiver.
    assert_snapshot!(error(&pushed(&words.replace("[%r8]", "[%gate]"), 64), 2, 16), @r"
    the mbarrier is not in the shared memory of the CTA that gets the data
      by: rank 0, kernel `k`, CTA 1, warp 0, lane 0, line 36: st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.u32
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
    // The sender overwrites what the copy still reads, and nobody has waited for it.
    let early = pushed(&format!("{copy}\nst.shared.u32 [%r4], 0;"), 64);
    assert_snapshot!(error(&early, 2, 16), @r"
    `tile` is written while the copy issued in line 36 still reads it: wait for that copy first
      by: rank 0, kernel `k`, CTA 1, warp 0, lane 0, line 37: st.shared.u32
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
    // Without the proxy fence the copy may see what was there before.
    let unfenced = judged(&changed(&pushed(copy, 64), "fence.proxy.async.shared::cta;\n", ""), 2, 16);
    assert_eq!(unfenced[0].0, Missing::ProxyFence { shared: true });
    // The last barrier is missing: a CTA may end while words come.
    let at = pushed(words, 64).rfind("barrier.cluster.arrive").unwrap();
    let unready = changed(
        &pushed(words, 64)[..at],
        "wait:\nmbarrier.try_wait.parity.shared::cta.b64 %p4, [%gate], 0;\n@!%p4 bra wait;\n",
        "",
    );
    assert!(error(&unready, 2, 16).contains("of the cluster has ended"), "{}", error(&unready, 2, 16));
}

#[test]
fn shared_memory_is_filled_and_masked_bytes_are_copied() {
    let body = "\
mov.u32 %r1, -1;
st.shared.v4.u32 [tile], {%r1, %r1, %r1, %r1};
st.shared.v4.u32 [tile+16], {%r1, %r1, %r1, %r1};
mov.u64 %d1, 16;
mov.u64 %d3, tile;
cvta.shared.u64 %d2, %d3;
st.bulk.weak [%d2+8], %d1, 0;
fence.proxy.async.shared::cta;
mov.u32 %r7, %ctaid.x;
mul.wide.u32 %d5, %r7, 32;
add.u64 %d5, %out, %d5;
mov.u16 %h1, 0x0ff3;
cp.async.bulk.global.shared::cta.bulk_group.cp_mask [%d5], [%tile], 32, %h1;
cp.async.bulk.commit_group;
cp.async.bulk.wait_group 0;";
    let one = [0x0000_ffff, u32::MAX, 0, 0, 0, 0, u32::MAX, 0];
    assert_eq!(right(body, 1, 1, 16), one.repeat(2));
    assert_snapshot!(error(&changed(body, "mov.u64 %d1, 16;", "mov.u64 %d1, 12;"), 1, 1), @r"
    the size of a fill is a multiple of 8, not 12
      by: rank 0, kernel `k`, CTA 0, warp 0, lane 0, line 24: st.bulk.weak
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
}

/// A word in global memory is released by an asynchronous store, to threads that acquire it.
#[test]
fn asynchronous_stores_release_to_global_memory() {
    let body = "\
setp.ne.u32 %p1, %rank, 0;
mov.u32 %r9, %clusterid.x;
mul.wide.u32 %d2, %r9, 16;
add.u64 %d3, %out, %d2;
@%p1 bra take;
st.global.u32 [%d3+8], 42;
st.async.mmio.release.sys.global.u32 [%d3], 1;
bra done;
take:
ld.acquire.gpu.global.u32 %r1, [%d3];
setp.eq.u32 %p2, %r1, 0;
@%p2 bra take;
ld.global.u32 %r2, [%d3+8];
st.global.u32 [%d3+4], %r2;
done:";
    assert_eq!(right(body, 2, 1, 7), [1, 42, 42, 0, 1, 42, 42]);
    let sum = changed(body, "st.async.mmio.release.sys.global.u32", "red.async.release.gpu.global.add.u32");
    assert_eq!(right(&sum, 2, 1, 7), [1, 42, 42, 0, 1, 42, 42]);
}

#[test]
fn launches_that_cannot_be_are_refused() {
    let refused = |limits: &str, grid: [u32; 3], given: Option<[u32; 3]>| {
        let text = format!(".version 8.6\n.target sm_90a\n.address_size 64\n.visible .entry k() {limits} {{ ret; }}\n");
        let module = Module::parse(&text).unwrap();
        let mut cluster = Cluster::new(Config { sms: 1, ..Config::default() }).unwrap();
        let stream = stream(&mut cluster, 0);
        let launch = Launch { grid, cluster: given, block: [1024, 1, 1], ..Launch::linear(1, 1, vec![]) };
        cluster.launch(stream, &module.kernel("k").unwrap(), launch).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(refused("", [4, 1, 1], Some([2, 1, 1])), Ok(()));
    assert_eq!(refused(".reqnctapercluster 2", [4, 1, 1], None), Ok(()));
    assert_snapshot!(refused("", [4, 1, 1], Some([3, 1, 1])).unwrap_err(), @"cannot launch `k`: grid [4, 1, 1] is not a multiple of cluster [3, 1, 1]");
    assert_snapshot!(refused("", [32, 1, 1], Some([32, 1, 1])).unwrap_err(), @"cannot launch `k`: cluster [32, 1, 1]: a cluster has from 1 to 16 CTAs, not 32");
    assert_snapshot!(refused("", [4, 1, 1], Some([4, 1, 1])).unwrap_err(), @"cannot launch `k`: the 4 CTAs of a cluster run at once, the rank holds 2");
    assert_snapshot!(refused(".reqnctapercluster 2", [4, 1, 1], Some([1, 1, 1])).unwrap_err(), @"cannot launch `k`: its .reqnctapercluster is [2, 1, 1], not [1, 1, 1]");
    assert_snapshot!(refused(".explicitcluster", [4, 1, 1], None).unwrap_err(), @"cannot launch `k`: it is .explicitcluster, so that the launch has to say how large clusters are");
    assert_snapshot!(refused(".maxclusterrank 1", [4, 1, 1], Some([2, 1, 1])).unwrap_err(), @"cannot launch `k`: its .maxclusterrank allows 1 CTAs in a cluster, not 2");
}
