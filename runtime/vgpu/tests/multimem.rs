//! `multimem`: what it does to the copies on every rank against sums that are counted out, and what is said of accesses that are wrong.

mod support;

use insta::assert_snapshot;
use moe_vgpu::{Address, Cluster, Config, Judge, Launch, Missing, Module, Policy, RankId, Scope};
use support::{POLICIES, stream, words, write_words, zeroed};

const RANKS: u32 = 3;

fn text(body: &str) -> String {
    format!(
        ".version 8.6\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 all, .param .u64 out)\n{{\n.reg .pred %p<4>;\n\
         .reg .b16 %h<9>;\n.reg .b32 %r<10>;\n.reg .b64 %d<6>, %all, %out;\n.reg .f32 %f<6>;\nld.param.u64 %all, [all];\n\
         ld.param.u64 %out, [out];\n{body}\nret;\n}}\n"
    )
}

struct Copies {
    cluster: Cluster,
    parts: Vec<Address>,
    all: Address,
    out: Address,
    judge: Judge,
}

/// A buffer of 64 bytes on each rank, with these words.
fn copies(contents: [[u32; 4]; 3], policy: Policy, seed: u64) -> Copies {
    let mut cluster =
        Cluster::new(Config { ranks: RANKS, policy, seed, instruction_limit: 1_000_000, ..Config::default() }).unwrap();
    let judge = Judge::default();
    cluster.observe(Box::new(judge.clone()));
    let parts: Vec<Address> = (0..RANKS).map(|rank| zeroed(&mut cluster, rank, 64, "part")).collect();
    for (part, content) in parts.iter().zip(contents) {
        write_words(&mut cluster, *part, &content);
    }
    let all = cluster.multicast(&parts, 64, "all").unwrap();
    let out = zeroed(&mut cluster, 1, 64, "out");
    Copies { cluster, parts, all, out, judge }
}

/// Words of `out`, and of each copy, after a kernel has run on rank 1.
fn run(body: &str, contents: [[u32; 4]; 3]) -> (Vec<u32>, Vec<Vec<u32>>) {
    let Copies { mut cluster, parts, all, out, judge } = copies(contents, Policy::RoundRobin, 0);
    let stream = stream(&mut cluster, 1);
    let module = Module::parse(&text(body)).unwrap_or_else(|error| panic!("{error}"));
    cluster.launch(stream, &module.kernel("k").unwrap(), Launch::linear(1, 1, vec![all.into(), out.into()])).unwrap();
    cluster.run().unwrap_or_else(|error| panic!("{error}"));
    assert!(judge.found().is_empty(), "{:?}", judge.found());
    let copies = parts.iter().map(|part| words(&mut cluster, *part, 4)).collect();
    (words(&mut cluster, out, 4), copies)
}

fn error(body: &str) -> String {
    let Copies { mut cluster, all, out, .. } = copies([[0; 4]; 3], Policy::RoundRobin, 0);
    let stream = stream(&mut cluster, 1);
    let module = Module::parse(&text(body)).unwrap_or_else(|error| panic!("{error}"));
    cluster.launch(stream, &module.kernel("k").unwrap(), Launch::linear(1, 1, vec![all.into(), out.into()])).unwrap();
    cluster.run().unwrap_err().to_string()
}

#[test]
fn loads_combine_the_copies_of_all_ranks() {
    let load = |operation: &str, registers: &str, store: &str, contents: [[u32; 4]; 3]| {
        run(
            &format!("multimem.ld_reduce.{operation} {registers}, [%all];\nst.global.{store} [%out], {registers};"),
            contents,
        )
        .0
    };
    let integers = [[5, 0x8000_0000, 1, 0], [7, 3, u32::MAX, 0], [u32::MAX, 9, 4, 0]];
    assert_eq!(load("relaxed.sys.global.add.u32", "%r1", "u32", integers)[0], 11);
    assert_eq!(load("min.u32", "%r1", "u32", integers)[0], 5);
    assert_eq!(load("acquire.gpu.min.s32", "%r1", "u32", integers)[0], u32::MAX);
    assert_eq!(load("weak.global.max.u32", "%r1", "u32", integers)[0], u32::MAX);
    assert_eq!(load("xor.b32", "%r1", "u32", integers)[0], 5 ^ 7 ^ u32::MAX);
    let wide = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let sum = wide(5, 0x8000_0000).wrapping_add(wide(7, 3)).wrapping_add(wide(u32::MAX, 9));
    assert_eq!(load("add.u64", "%d1", "u64", integers)[..2], [sum as u32, (sum >> 32) as u32]);
    assert_eq!(load("max.s64", "%d1", "u64", integers)[..2], [u32::MAX, 9]);
    let floats = [[1.5f32, -2.0, 0.25, 8.0], [2.5, 1.0, 0.5, -1.0], [4.0, 0.5, -0.75, 100.0]];
    let sums = load(
        "relaxed.sys.global.add.v4.f32",
        "{%f1, %f2, %f3, %f4}",
        "v4.f32",
        floats.map(|row| row.map(f32::to_bits)),
    );
    assert_eq!(sums, [8.0f32, -0.5, 0.0, 107.0].map(f32::to_bits));
    // 2048 + 1 + 1 in f16: each step loses its one, both together do not.
    let pair = |low: f32, high: f32| {
        u32::from(half::f16::from_f32(low).to_bits()) | u32::from(half::f16::from_f32(high).to_bits()) << 16
    };
    let halves = [pair(2048.0, 1.0), pair(1.0, -3.0), pair(1.0, 0.5)].map(|word| [word; 4]);
    let registers = "{%r1, %r2, %r3, %r4}";
    assert_eq!(load("relaxed.sys.add.v4.f16x2", registers, "v4.u32", halves), [pair(2048.0, -1.5); 4]);
    assert_eq!(load("relaxed.sys.add.acc::f32.v4.f16x2", registers, "v4.u32", halves), [pair(2050.0, -1.5); 4]);
    assert_eq!(load("max.f16x2", "%r1", "u32", halves)[0], pair(2048.0, 1.0));
    assert_eq!(load("min.v2.f16", "{%h1, %h2}", "v2.u16", halves)[0], pair(1.0, -3.0));
    let brain = |low: f32, high: f32| {
        u32::from(half::bf16::from_f32(low).to_bits()) | u32::from(half::bf16::from_f32(high).to_bits()) << 16
    };
    let brains = [brain(256.0, 1.0), brain(1.0, 2.0), brain(1.0, 4.0)].map(|word| [word; 4]);
    assert_eq!(load("add.bf16x2", "%r1", "u32", brains)[0], brain(256.0, 7.0));
    assert_eq!(load("add.acc::f32.bf16x2", "%r1", "u32", brains)[0], brain(258.0, 7.0));
}

/// Sums of floats of 8 bits are rounded to them at the end; in f16 a step may lose what single precision keeps.
#[test]
fn floats_of_8_bits_are_combined() {
    let load = |operation: &str, registers: &str, store: &str, contents: [[u32; 4]; 3]| {
        let body =
            format!("multimem.ld_reduce.{operation} {registers}, [%all];\nst.global.{store} [%out], {registers};");
        let text = text(&body)
            .replace("8.6", "8.8")
            .replace("sm_90", "sm_100a")
            .replace(".b16 %h<9>", ".b16 %h<9>;\n.reg .b8 %b<9>");
        let Copies { mut cluster, all, out, .. } = copies(contents, Policy::RoundRobin, 0);
        let stream = stream(&mut cluster, 1);
        let module = Module::parse(&text).unwrap_or_else(|error| panic!("{error}"));
        cluster
            .launch(stream, &module.kernel("k").unwrap(), Launch::linear(1, 1, vec![all.into(), out.into()]))
            .unwrap();
        cluster.run().unwrap_or_else(|error| panic!("{error}"));
        words(&mut cluster, out, 4)
    };
    // e4m3: 1 is 0x38, 2 is 0x40, 4 is 0x48, -1 is 0xb8, 448 is 0x7e, NaN is 0x7f.
    let rows = [[0x7eb8_3840, 0, 0x3838_3838, 0], [0x4038_3838, 0, 0x3838_3838, 0], [0x4038_3838, 0, 0x4040_4040, 0]];
    assert_eq!(load("add.e4m3x4", "%r1", "u32", rows)[0], 0x7e38_4448);
    assert_eq!(load("relaxed.sys.global.min.e4m3x4", "%r1", "u32", rows)[0], 0x40b8_3838);
    assert_eq!(load("max.v2.e4m3x2", "{%h1, %h2}", "v2.u16", rows)[0], 0x7e38_3840);
    assert_eq!(load("add.v4.e4m3", "{%b1, %b2, %b3, %b4}", "v4.u8", rows)[0], 0x7e38_4448);
    assert_eq!(load("add.v4.e4m3x4", "{%r1, %r2, %r3, %r4}", "v4.u32", rows), [0x7e38_4448, 0, 0x4848_4848, 0]);
    // A NaN is not the least; it stays in sums.
    let with_nan = [[0x38, 0, 0, 0], [0x7f, 0, 0, 0], [0x40, 0, 0, 0]];
    assert_eq!(load("min.e4m3x4", "%r1", "u32", with_nan)[0], 0x38);
    assert_eq!(load("add.e4m3x4", "%r1", "u32", with_nan)[0], 0x7f);
    // e5m2: 40960 is 0x79, which twice is beyond f16 and not beyond f32; -40960 is 0xf9.
    let large = [[0x79, 0, 0, 0], [0x79, 0, 0, 0], [0xf9, 0, 0, 0]];
    assert_eq!(load("add.e5m2x4", "%r1", "u32", large)[0], 0x79);
    assert_eq!(load("add.acc::f16.e5m2x4", "%r1", "u32", large)[0], 0x7b);
}

#[test]
fn stores_and_reductions_reach_the_copies_of_all_ranks() {
    let contents = [[1, 2, 3, 4], [10, 20, 30, 40], [100, 200, 300, 400]];
    let (_, stored) = run("mov.u64 %d1, 0x700000005;\nmultimem.st.release.sys.global.u64 [%all+8], %d1;", contents);
    assert_eq!(stored, [[1, 2, 5, 7], [10, 20, 5, 7], [100, 200, 5, 7]]);
    let (_, added) = run("mov.u32 %r1, 6;\nmultimem.red.relaxed.sys.global.add.u32 [%all+4], %r1;", contents);
    assert_eq!(added, [[1, 8, 3, 4], [10, 26, 30, 40], [100, 206, 300, 400]]);
    let (_, least) = run("mov.u32 %r1, 15;\nmultimem.red.min.s32 [%all], %r1;", contents);
    assert_eq!(least, [[1, 2, 3, 4], [10, 20, 30, 40], [15, 200, 300, 400]]);
    let floats = contents.map(|row| row.map(|word| (word as f32).to_bits()));
    let body = "mov.f32 %f1, 0f3F000000;\nmov.f32 %f2, 0f40000000;\nmultimem.red.release.gpu.global.add.v4.f32 [%all], {%f1, %f2, %f1, %f2};";
    let expected =
        contents.map(|[a, b, c, d]| [a as f32 + 0.5, b as f32 + 2.0, c as f32 + 0.5, d as f32 + 2.0].map(f32::to_bits));
    assert_eq!(run(body, floats).1, expected);
}

#[test]
fn what_is_no_multicast_access_is_told() {
    assert_snapshot!(error("multimem.ld_reduce.add.u32 %r1, [%out];"), @r"
    this is no multicast address
      access: 4 bytes at 0x0020000500000000
      by: rank 1, kernel `k`, CTA 0, warp 0, lane 0, line 13: multimem.ld_reduce.add.u32
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
    assert_snapshot!(error("ld.global.u32 %r1, [%all];"), @r"
    a multicast address is for multimem instructions alone
      access: 4 bytes at 0x3ff0000100000000
      by: rank 1, kernel `k`, CTA 0, warp 0, lane 0, line 13: ld.global.u32
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
    assert_snapshot!(error("multimem.ld_reduce.add.u32 %r1, [%all+64];"), @r"
    out of bounds: byte 64 of `all`, which has 64 bytes
      access: 4 bytes at 0x3ff0000100000040
      by: rank 1, kernel `k`, CTA 0, warp 0, lane 0, line 13: multimem.ld_reduce.add.u32
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
    assert_snapshot!(error("mov.u64 %d1, 0;\nmultimem.st.u64 [%all+4], %d1;"), @r"
    misaligned: the address is not a multiple of 8
      access: 8 bytes at 0x3ff0000100000004
      by: rank 1, kernel `k`, CTA 0, warp 0, lane 0, line 14: multimem.st.u64
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
    assert_snapshot!(error("multimem.st.u32 [%all], %r1;"), @r"
    use of an undefined value: an operand of a multimem comes from `%r1`, which was never written
      by: rank 1, kernel `k`, CTA 0, warp 0, lane 0, line 13: multimem.st.u32
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
    let mut made = copies([[0; 4]; 3], Policy::RoundRobin, 0);
    let parts = [made.parts[0], made.parts[0].offset(16)];
    assert_snapshot!(made.cluster.multicast(&parts, 16, "twice").unwrap_err(), @"cannot allocate `twice`: two parts are in the memory of rank 0");
    assert_snapshot!(made.cluster.multicast(&made.parts, 80, "large").unwrap_err(), @"cannot allocate `large`: out of bounds: byte 0 of `part` of rank 0, which has 64 bytes");
}

#[test]
fn forms_that_ptxas_refuses_are_refused() {
    for body in [
        "multimem.ld_reduce.add.s64 %d1, [%all];",
        "multimem.ld_reduce.and.u32 %r1, [%all];",
        "multimem.ld_reduce.min.f32 %f1, [%all];",
        "multimem.ld_reduce.add.f16 %h1, [%all];",
        "multimem.ld_reduce.add.acc::f32.f32 %f1, [%all];",
        "multimem.ld_reduce.min.acc::f32.f16x2 %r1, [%all];",
        "multimem.ld_reduce.add.v2.u32 {%r1, %r2}, [%all];",
        "multimem.ld_reduce.relaxed.add.u32 %r1, [%all];",
        "multimem.red.min.f16x2 [%all], %r1;",
        "multimem.red.add.noftz.f16x2 [%all], %r1;",
        "multimem.red.acquire.sys.add.u32 [%all], %r1;",
        "multimem.st.f16 [%all], %h1;",
        "multimem.st.v2.b32 [%all], {%r1, %r2};",
        "multimem.st.add.u32 [%all], %r1;",
    ] {
        assert!(Module::parse(&text(body)).is_err(), "{body}");
    }
}

/// Each rank adds to a counter on all ranks, and waits at its own copy for all: then what the others have written is there.
const BARRIER: &str = "\
mov.u32 %r9, %r0;
st.global.u32 [%out], 5;
mov.u32 %r1, 1;
multimem.red.release.sys.global.add.u32 [%all], %r1;
wait:
ld.acquire.sys.global.u32 %r2, [%d1];
setp.lt.u32 %p1, %r2, 3;
@%p1 bra wait;
ld.global.u32 %r3, [%d2];
st.global.u32 [%out+4], %r3;";

fn barrier(body: &str, policy: Policy, seed: u64) -> (Vec<(Missing, String)>, bool) {
    let text = text(body)
        .replace(
            ".param .u64 all, .param .u64 out",
            ".param .u64 all, .param .u64 out, .param .u64 own, .param .u64 next",
        )
        .replace("mov.u32 %r9, %r0;", "ld.param.u64 %d1, [own];\nld.param.u64 %d2, [next];");
    let module = Module::parse(&text).unwrap_or_else(|error| panic!("{error}"));
    let Copies { mut cluster, parts, all, judge, .. } = copies([[0; 4]; 3], policy, seed);
    let rows: Vec<Address> = (0..RANKS).map(|rank| zeroed(&mut cluster, rank, 64, "row")).collect();
    for rank in 0..RANKS as usize {
        let stream = cluster.stream(RankId(rank as u32)).unwrap();
        let arguments = vec![all.into(), rows[rank].into(), parts[rank].into(), rows[(rank + 1) % 3].into()];
        cluster.launch(stream, &module.kernel("k").unwrap(), Launch::linear(1, 1, arguments)).unwrap();
    }
    let ended = cluster.run();
    let right = ended.is_ok() && rows.iter().all(|row| words(&mut cluster, *row, 2) == [5, 5]);
    (judge.found().into_iter().map(|one| (one.missing.clone(), one.to_string())).collect(), right)
}

#[test]
fn a_barrier_of_all_ranks_is_judged() {
    for policy in POLICIES {
        for seed in 0..6 {
            let (found, right) = barrier(BARRIER, policy, seed);
            assert!(found.is_empty() && right, "{policy}, seed {seed}: {found:#?}");
            let (found, _) = barrier(&BARRIER.replace("red.release.sys", "red.release.gpu"), policy, seed);
            assert!(
                found.iter().any(|(missing, _)| matches!(missing, Missing::ReleaseScope { needed: Scope::Sys, .. })),
                "{found:#?}"
            );
            let (found, _) = barrier(&BARRIER.replace("red.release.sys", "red.relaxed.sys"), policy, seed);
            assert!(found.iter().any(|(missing, _)| matches!(missing, Missing::Release { .. })), "{found:#?}");
        }
    }
}
