//! Memory: every wrong access is an error that names instruction, lane, symbol and rank; bytes are counted exactly.

mod support;

use insta::assert_snapshot;
use moe_vgpu::{Address, Argument, Cluster, ClusterError, Config, Launch, Module, RankId, RunError};
use support::*;

/// Runs a kernel with one pointer on rank 0, one CTA of 32 threads, and renders its fault.
fn fault(cluster: &mut Cluster, pointer: Address, body: &str) -> String {
    let kernel = kernel("faulty", ".param .u64 pointer", &format!("ld.param.u64 %rd1, [pointer];\n{body}"));
    let stream = stream(cluster, 0);
    cluster.launch(stream, &kernel, Launch::linear(1, 32, vec![pointer.into()])).unwrap();
    match cluster.run() {
        Err(RunError::Fault(fault)) => fault.to_string(),
        other => panic!("no fault: {other:?}"),
    }
}

const LANE_TIMES_FOUR: &str = "
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd2, %r1, 4;
    add.u64 %rd1, %rd1, %rd2;";

#[test]
fn out_of_bounds_names_the_first_lane_beyond() {
    let mut cluster = cluster(1);
    let rows = zeroed(&mut cluster, 0, 100, "rows");
    let report = fault(&mut cluster, rows, &format!("{LANE_TIMES_FOUR} st.global.u32 [%rd1], %r1;"));
    assert_snapshot!(report, @r"
    out of bounds: byte 100 of `rows` of rank 0, which has 100 bytes
      access: 4 bytes at 0x0010000100000064
      by: rank 0, kernel `faulty`, CTA 0, warp 0, lane 25, line 15: st.global.u32
      thread: (25, 0, 0)
      schedule: round-robin, seed 0
    ");
}

#[test]
fn before_the_start_is_out_of_bounds_too() {
    let mut cluster = cluster(1);
    zeroed(&mut cluster, 0, 64, "neighbour");
    let rows = zeroed(&mut cluster, 0, 64, "rows");
    assert_snapshot!(fault(&mut cluster, rows, "ld.global.u32 %r1, [%rd1-4];"), @r"
    out of bounds: byte -4 of `rows` of rank 0, which has 64 bytes
      access: 4 bytes at 0x00100004fffffffc
      by: rank 0, kernel `faulty`, CTA 0, warp 0, lane 0, line 12: ld.global.u32
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
}

#[test]
fn use_before_initialisation_names_the_byte() {
    let mut cluster = cluster(1);
    let slots = cluster.allocate(RankId(0), 128, "slots").unwrap();
    cluster.write(slots, &[0; 70]).unwrap();
    cluster.label(slots.offset(64), 64, "slots[1]", None).unwrap();
    let report = fault(
        &mut cluster,
        slots,
        &format!("{LANE_TIMES_FOUR} ld.global.u32 %r1, [%rd1];\nsetp.eq.u32 %p1, %r1, 0; @%p1 trap;"),
    );
    assert_snapshot!(report, @r"
    use before initialisation: a condition comes from `slots[1]+6` of rank 0, which was never written, read in line 15
      by: rank 0, kernel `faulty`, CTA 0, warp 0, lane 17, line 16: trap
      thread: (17, 0, 0)
      schedule: round-robin, seed 0
    ");
}

#[test]
fn initialisation_need_not_be_checked() {
    let mut cluster = Cluster::new(Config { check_initialised: false, ..Config::default() }).unwrap();
    let memory = cluster.allocate(RankId(0), 128, "memory").unwrap();
    let kernel = kernel(
        "copy",
        ".param .u64 pointer",
        "
        ld.param.u64 %rd1, [pointer];
        ld.global.u32 %r1, [%rd1];
        st.global.u32 [%rd1+64], %r1;",
    );
    let stream = stream(&mut cluster, 0);
    cluster.launch(stream, &kernel, Launch::linear(1, 32, vec![memory.into()])).unwrap();
    cluster.run().unwrap();
}

#[test]
fn misaligned() {
    let mut cluster = cluster(1);
    let rows = zeroed(&mut cluster, 0, 1024, "rows");
    let report = fault(&mut cluster, rows, "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd1+8];");
    assert_snapshot!(report, @r"
    misaligned: the address is not a multiple of 16
      access: 16 bytes at 0x0010000100000008
      by: rank 0, kernel `faulty`, CTA 0, warp 0, lane 0, line 12: ld.global.v4.u32
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
}

#[test]
fn memory_that_is_closed_to_peers() {
    let mut cluster = cluster(2);
    let private = zeroed(&mut cluster, 1, 64, "private");
    cluster.close(private).unwrap();
    let report = fault(&mut cluster, private, "red.relaxed.sys.global.add.u32 [%rd1], 1;");
    assert_snapshot!(report, @r"
    wrong rank: rank 1 has not opened `private` to its peers
      access: 4 bytes at 0x0020000100000000
      by: rank 0, kernel `faulty`, CTA 0, warp 0, lane 0, line 12: red.relaxed.sys.global.add.u32
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
}

#[test]
fn a_rank_that_does_not_exist() {
    let mut cluster = cluster(2);
    // The address of the second rank, with the rank's number changed to 7.
    let own = zeroed(&mut cluster, 1, 64, "own");
    let report = fault(&mut cluster, Address(own.0 & !(0x3ff << 52) | 8 << 52), "ld.global.u32 %r1, [%rd1];");
    assert_snapshot!(report, @r"
    wrong rank: rank 7 does not exist, the cluster has 2 ranks
      access: 4 bytes at 0x0080000100000000
      by: rank 0, kernel `faulty`, CTA 0, warp 0, lane 0, line 12: ld.global.u32
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
}

#[test]
fn use_after_free() {
    let mut cluster = cluster(1);
    let buffer = zeroed(&mut cluster, 0, 64, "buffer");
    cluster.free(buffer).unwrap();
    assert_snapshot!(fault(&mut cluster, buffer, "ld.global.u32 %r1, [%rd1+4];"), @r"
    use after free: `buffer` of rank 0 was freed
      access: 4 bytes at 0x0010000100000004
      by: rank 0, kernel `faulty`, CTA 0, warp 0, lane 0, line 12: ld.global.u32
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
    let error = cluster.free(buffer).unwrap_err();
    assert_snapshot!(error, @"host free at 0x0010000100000000: use after free: `buffer` of rank 0 was freed");
}

#[test]
fn a_shared_address_used_as_global() {
    let mut cluster = cluster(1);
    let any = zeroed(&mut cluster, 0, 64, "any");
    let report = fault(
        &mut cluster,
        any,
        "
        .shared .align 16 .b8 tile[64];
        mov.u64 %rd2, tile;
        cvta.shared.u64 %rd3, %rd2;
        st.global.u32 [%rd3], 1;",
    );
    assert_snapshot!(report, @r"
    wrong state space: the instruction accesses .global, the address is in .shared
      access: 4 bytes at 0x4000000000100400
      by: rank 0, kernel `faulty`, CTA 0, warp 0, lane 0, line 16: st.global.u32
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
}

#[test]
fn a_global_address_used_as_shared() {
    let mut cluster = cluster(1);
    let any = zeroed(&mut cluster, 0, 64, "any");
    assert_snapshot!(fault(&mut cluster, any, "ld.shared.u32 %r1, [%rd1];"), @r"
    wrong state space: the instruction accesses .shared, the address is in .global
      access: 4 bytes at 0x0010000100000000
      by: rank 0, kernel `faulty`, CTA 0, warp 0, lane 0, line 12: ld.shared.u32
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
}

#[test]
fn shared_memory_of_another_cta() {
    let kernel = kernel(
        "leak",
        ".param .u64 pointer",
        "
        .shared .align 16 .b8 tile[64];
        ld.param.u64 %rd1, [pointer];
        mov.u64 %rd2, tile;
        cvta.shared.u64 %rd3, %rd2;
        mov.u32 %r1, %ctaid.x;
        setp.eq.u32 %p1, %r1, 1;
        @%p1 bra second;
        st.u32 [%rd3], 5;
        st.release.gpu.global.u64 [%rd1], %rd3;
        bra done;
    second:
        ld.acquire.gpu.global.u64 %rd4, [%rd1];
        setp.eq.u64 %p2, %rd4, 0;
        @%p2 bra second;
        ld.u32 %r2, [%rd4];
    done:",
    );
    let mut cluster = cluster(1);
    let pointer = zeroed(&mut cluster, 0, 8, "pointer");
    let stream = stream(&mut cluster, 0);
    cluster.launch(stream, &kernel, Launch::linear(2, 1, vec![pointer.into()])).unwrap();
    let report = cluster.run().unwrap_err().to_string();
    assert!(report.contains("another CTA's shared"), "{report}");
}

#[test]
fn uninitialised_shared_memory_names_the_variable() {
    let mut cluster = cluster(1);
    let any = zeroed(&mut cluster, 0, 64, "any");
    let report = fault(
        &mut cluster,
        any,
        "
        .shared .align 16 .b8 counts[64];
        .shared .align 16 .b8 offsets[64];
        st.shared.u32 [counts], 1;
        ld.shared.u32 %r1, [offsets+8];
        ld.global.u32 %r2, [%rd1];
        setp.eq.u32 %p1, %r1, %r2;
        @%p1 ret;",
    );
    assert_snapshot!(report, @r"
    use before initialisation: a condition comes from `offsets+8`, which was never written, read in line 16
      by: rank 0, kernel `faulty`, CTA 0, warp 0, lane 0, line 19: ret
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
}

#[test]
fn beyond_dynamic_shared_memory() {
    let kernel = kernel(
        "tile",
        "",
        "
        .extern .shared .align 16 .b8 tile[];
        mov.u32 %r1, tile;
        st.shared.u32 [%r1+256], %r1;",
    );
    let mut cluster = cluster(1);
    let stream = stream(&mut cluster, 0);
    let launch = Launch { shared: 260, ..Launch::linear(1, 32, vec![]) };
    cluster.launch(stream, &kernel, launch).unwrap();
    cluster.run().unwrap();
    cluster.launch(stream, &kernel, Launch { shared: 256, ..Launch::linear(1, 32, vec![]) }).unwrap();
    let report = cluster.run().unwrap_err().to_string();
    assert!(report.contains("out of bounds: byte 256 of dynamic shared memory, which has 256 bytes"), "{report}");
}

#[test]
fn constants_variables_and_addresses_in_them() {
    let module = Module::parse(
        ".version 8.6\n.target sm_90a\n.address_size 64
.const .align 4 .u32 table[4] = {10, 20, 30, 40};
.global .align 4 .u32 counter = 5;
.global .align 8 .u64 where_table = table;
.visible .entry read(.param .u64 out) {
    .reg .b32 %r<9>; .reg .b64 %rd<9>;
    ld.param.u64 %rd1, [out];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd2, %r1, 4;
    mov.u64 %rd3, table;
    add.u64 %rd3, %rd3, %rd2;
    ld.const.u32 %r2, [%rd3];
    add.u64 %rd4, %rd1, %rd2;
    st.global.u32 [%rd4], %r2;
    atom.relaxed.gpu.global.add.u32 %r3, [counter], 1;
    ld.global.u64 %rd5, [where_table];
    ld.u32 %r4, [%rd5+12];
    st.global.u32 [%rd1+16], %r4;
    ret;
}
.visible .entry write() {
    st.global.u32 [table], 1;
    ret;
}",
    )
    .unwrap_or_else(|error| panic!("{error}"));
    let mut cluster = cluster(1);
    let out = zeroed(&mut cluster, 0, 20, "out");
    let stream = stream(&mut cluster, 0);
    cluster.launch(stream, &module.kernel("read").unwrap(), Launch::linear(1, 4, vec![out.into()])).unwrap();
    cluster.run().unwrap();
    assert_eq!(words(&mut cluster, out, 5), [10, 20, 30, 40, 40]);
    let counter = cluster.variable(RankId(0), &module, "counter").unwrap();
    assert_eq!(words(&mut cluster, counter, 1), [9]);
    if let Some(write) = module.kernel("write") {
        cluster.launch(stream, &write, Launch::linear(1, 1, vec![])).unwrap();
        let report = cluster.run().unwrap_err().to_string();
        assert!(report.contains("write to constant memory `table` of rank 0"), "{report}");
    }
}

#[test]
fn a_struct_by_value() {
    let kernel = kernel(
        "by_value",
        ".param .align 8 .b8 options[24], .param .u64 out",
        "
        ld.param.u64 %rd1, [out];
        ld.param.u32 %r1, [options];
        ld.param.u64 %rd2, [options+8];
        ld.param.u8 %r2, [options+16];
        st.global.u32 [%rd1], %r1;
        st.global.u64 [%rd1+8], %rd2;
        st.global.u32 [%rd1+4], %r2;",
    );
    let mut cluster = cluster(1);
    let out = zeroed(&mut cluster, 0, 16, "out");
    let stream = stream(&mut cluster, 0);
    let mut options = vec![0; 24];
    options[..4].copy_from_slice(&7u32.to_le_bytes());
    options[8..16].copy_from_slice(&0x1_0000_0002u64.to_le_bytes());
    options[16] = 0xff;
    let arguments = vec![Argument::Bytes(options.clone()), out.into()];
    cluster.launch(stream, &kernel, Launch::linear(1, 1, arguments)).unwrap();
    cluster.run().unwrap();
    assert_eq!(words(&mut cluster, out, 4), [7, 0xff, 2, 1]);
    options.pop();
    let error = cluster.launch(stream, &kernel, Launch::linear(1, 1, vec![Argument::Bytes(options), out.into()]));
    assert_snapshot!(error.unwrap_err(), @"cannot launch `by_value`: parameter `options` has 24 bytes, the argument has 23");
}

#[test]
fn impossible_launches_say_why() {
    let kernel = kernel("small", ".param .u32 a", "");
    let mut cluster = cluster(1);
    let stream = stream(&mut cluster, 0);
    let mut refuse = |launch: Launch| match cluster.launch(stream, &kernel, launch) {
        Err(ClusterError::Launch { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    let one = || vec![Argument::U32(1)];
    assert_snapshot!(refuse(Launch::linear(0, 32, one())), @"grid [0, 1, 1]: x must be from 1 to 2147483647");
    assert_snapshot!(refuse(Launch::linear(1, 1025, one())), @"block [1025, 1, 1]: x must be from 1 to 1024");
    assert_snapshot!(refuse(Launch { block: [32, 32, 2], ..Launch::linear(1, 1, one()) }), @"a CTA has at most 1024 threads, not 2048");
    assert_snapshot!(refuse(Launch { shared: 300_000, ..Launch::linear(1, 1, one()) }), @"a CTA has at most 232448 bytes of shared memory, not 300000");
    assert_snapshot!(refuse(Launch::linear(1, 32, vec![])), @"it has 1 parameters, not 0");
    assert_snapshot!(refuse(Launch::linear(1, 32, vec![Argument::U64(1)])), @"parameter `a` has 4 bytes, the argument has 8");
}

#[test]
fn bytes_are_counted_per_pair_of_ranks() {
    let kernel = kernel(
        "push",
        ".param .u64 target, .param .u64 source",
        "
        ld.param.u64 %rd1, [target];
        ld.param.u64 %rd2, [source];
        mov.u32 %r1, %tid.x;
        mul.wide.u32 %rd3, %r1, 16;
        add.u64 %rd4, %rd1, %rd3;
        add.u64 %rd5, %rd2, %rd3;
        ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%rd5];
        st.global.v4.u32 [%rd4], {%r2, %r3, %r4, %r5};
        setp.lt.u32 %p1, %r1, 5;
        @%p1 st.global.u8 [%rd4], %r1;
        setp.eq.u32 %p2, %r1, 0;
        @%p2 red.release.sys.global.add.u64 [%rd1], %rd3;",
    );
    for policy in POLICIES {
        let mut cluster = scheduled(3, policy, 9);
        let (source, target) = (zeroed(&mut cluster, 1, 2048, "source"), zeroed(&mut cluster, 2, 2048, "target"));
        let stream = stream(&mut cluster, 1);
        cluster.launch(stream, &kernel, Launch::linear(1, 64, vec![target.into(), source.into()])).unwrap();
        cluster.run().unwrap();
        let traffic = cluster.traffic();
        assert_eq!(traffic.written(RankId(1), RankId(2)), 64 * 16 + 5 + 8);
        assert_eq!(traffic.read(RankId(1), RankId(2)), 0, "an atomic is one write");
        assert_eq!(traffic.read(RankId(1), RankId(1)), 64 * 16);
        assert_eq!(traffic.written(RankId(2), RankId(2)), 0);
    }
}

#[test]
fn every_lane_reads_and_writes_its_own_element() {
    // Contiguous, uniform, strided and backwards, in every width: the fast ways must do what the general one does.
    for (bytes, kind) in [(1, "u8"), (2, "u16"), (4, "u32"), (8, "u64")] {
        let register = match bytes {
            1 | 2 => "%h1",
            4 => "%r9",
            _ => "%rd9",
        };
        for (step, threads) in [(bytes, 32), (bytes, 20), (0, 32), (2 * bytes, 32), (-bytes, 32)] {
            let kernel = kernel(
                "move",
                ".param .u64 from, .param .u64 to",
                &format!(
                    "
                ld.param.u64 %rd1, [from];
                ld.param.u64 %rd2, [to];
                mov.u32 %r1, %tid.x;
                mul.wide.s32 %rd3, %r1, {step};
                mul.wide.s32 %rd4, %r1, {bytes};
                add.s64 %rd5, %rd1, %rd3;
                add.s64 %rd6, %rd2, %rd4;
                ld.global.{kind} {register}, [%rd5+1024];
                st.global.{kind} [%rd6], {register};"
                ),
            );
            let mut cluster = cluster(1);
            let (from, to) = (zeroed(&mut cluster, 0, 2048, "from"), zeroed(&mut cluster, 0, 256, "to"));
            let pattern: Vec<u8> = (0..2048u32).map(|at| (at * 7 + at / 256) as u8).collect();
            cluster.write(from, &pattern).unwrap();
            let stream = stream(&mut cluster, 0);
            cluster.launch(stream, &kernel, Launch::linear(1, threads, vec![from.into(), to.into()])).unwrap();
            cluster.run().unwrap();
            let mut found = vec![0; 256];
            cluster.read(to, &mut found).unwrap();
            let mut expected = vec![0; 256];
            for lane in 0..i64::from(threads) {
                let (at, to) = ((1024 + lane * step) as usize, (lane * bytes) as usize);
                expected[to..to + bytes as usize].copy_from_slice(&pattern[at..at + bytes as usize]);
            }
            assert_eq!(found, expected, "{kind}, step {step}, {threads} threads");
        }
    }
}

/// Whatever the policy does with a value, the access is checked before.
#[test]
fn an_access_out_of_bounds_is_told_under_every_policy() {
    let accesses = [
        "ld.global.u32 %r2, [%rd1+64];",
        "ld.acquire.sys.global.u32 %r2, [%rd1+64];",
        "st.global.u32 [%rd1+64], %r1;",
        "st.global.v4.u32 [%rd1+64], {%r1, %r1, %r1, %r1};",
        "st.release.sys.global.u32 [%rd1+64], %r1;",
        "atom.relaxed.gpu.global.add.u32 %r2, [%rd1+64], 1;",
    ];
    for access in accesses {
        let body = format!("ld.param.u64 %rd1, [data];\nmov.u32 %r1, 1;\nst.global.u32 [%rd1], %r1;\n{access}");
        let kernel = kernel("beyond", ".param .u64 data", &body);
        for policy in POLICIES {
            for seed in 0..8 {
                let mut cluster = scheduled(1, policy, seed);
                let data = zeroed(&mut cluster, 0, 64, "data");
                let stream = stream(&mut cluster, 0);
                cluster.launch(stream, &kernel, Launch::linear(1, 1, vec![data.into()])).unwrap();
                let said = cluster.run().unwrap_err().to_string();
                assert!(said.contains("`data` of rank 0"), "{access} {policy}, seed {seed}: {said}");
            }
        }
    }
}
