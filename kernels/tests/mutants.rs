//! The account of mutants, on texts whose mutants are written out here.

#[path = "common/mutants.rs"]
mod mutants;

use moe_vgpu::Module;
use mutants::{Kind, Mutant, mutants};

/// A kernel of these instructions.
fn kernel(body: &str) -> String {
    format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 to) {{\n.reg .pred %p<4>; .reg .b32 %r<4>; .reg .b64 \
         %rd<6>;\n{body}\nret;\n}}"
    )
}

/// The mutants of an instruction: what is taken, and what is there instead. Each is a text that can be run.
fn of(instruction: &str) -> Vec<(Kind, String)> {
    let text = kernel(instruction);
    let found = mutants(&text).unwrap_or_else(|unknown| panic!("{unknown}"));
    let short = |Mutant { kind, what, text, line }: &Mutant| {
        Module::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(*line, 6, "the line after the registers");
        (*kind, what.split(" -> ").nth(1).unwrap_or(what).to_owned())
    };
    found.iter().map(short).collect()
}

fn is(instruction: &str, expected: &[(Kind, &str)]) {
    let expected: Vec<(Kind, String)> = expected.iter().map(|&(kind, what)| (kind, what.to_owned())).collect();
    assert_eq!(of(instruction), expected, "{instruction}");
}

#[test]
fn a_flag_that_is_written() {
    is(
        "@%p1 st.release.sys.global.u32 [%rd1], %r1;",
        &[
            (Kind::Order, "@%p1 st.relaxed.sys.global.u32 [%rd1], %r1;"),
            (Kind::Scope, "@%p1 st.release.gpu.global.u32 [%rd1], %r1;"),
            (Kind::Strength, "@%p1 st.global.u32 [%rd1], %r1;"),
            (Kind::Flag, "(nothing)"),
        ],
    );
    is(
        "red.release.gpu.global.add.u64 [%rd1], %rd2;",
        &[
            (Kind::Order, "red.relaxed.gpu.global.add.u64 [%rd1], %rd2;"),
            (Kind::Scope, "red.release.cluster.global.add.u64 [%rd1], %rd2;"),
            (
                Kind::Strength,
                "{ .reg .pred %in_steps_p; .reg .b64 %in_steps<3>; ld.global.b64 %in_steps0, [%rd1]; add.u64 %in_steps1, %in_steps0, %rd2; \
                 st.global.b64 [%rd1], %in_steps1; }",
            ),
            (Kind::Flag, "(nothing)"),
        ],
    );
}

#[test]
fn a_flag_that_is_waited_for() {
    is(
        "ld.acquire.cluster.shared.u32 %r1, [%r2];",
        &[
            (Kind::Order, "ld.relaxed.cluster.shared.u32 %r1, [%r2];"),
            (Kind::Scope, "ld.acquire.cta.shared.u32 %r1, [%r2];"),
            (Kind::Strength, "ld.shared.u32 %r1, [%r2];"),
            (Kind::Order, "ld.volatile.shared.u32 %r1, [%r2];"),
            (Kind::Wait, "mov.b32 %r1, -1;"),
        ],
    );
    is(
        "ld.relaxed.gpu.global.u32 %r1, [%rd1];",
        &[(Kind::Scope, "ld.relaxed.cluster.global.u32 %r1, [%rd1];"), (Kind::Strength, "ld.global.u32 %r1, [%rd1];")],
    );
}

#[test]
fn an_atomic_operation() {
    let kinds = |instruction| of(instruction).into_iter().map(|(kind, _)| kind).collect::<Vec<_>>();
    let (order, scope, strength, flag) = (Kind::Order, Kind::Scope, Kind::Strength, Kind::Flag);
    assert_eq!(kinds("atom.acq_rel.gpu.global.add.u64 %rd3, [%rd1], %rd2;"), [order, order, scope, strength, flag]);
    assert_eq!(kinds("atom.relaxed.cta.shared.cas.b32 %r1, [%r2], %r3, 1;"), [strength, flag]);
}

#[test]
fn barriers_and_fences() {
    is("bar.sync 0;", &[(Kind::Barrier, "(nothing)")]);
    is("bar.red.or.pred %p1, 0, %p2;", &[(Kind::Barrier, "mov.pred %p1, %p2;")]);
    is("bar.warp.sync -1;", &[(Kind::WarpBarrier, "(nothing)")]);
    is(
        "fence.sc.sys;",
        &[(Kind::Fence, "(nothing)"), (Kind::Order, "fence.acq_rel.sys;"), (Kind::Scope, "fence.sc.gpu;")],
    );
    is("fence.proxy.async.global;", &[(Kind::ProxyFence, "(nothing)")]);
}

#[test]
fn a_flag_in_front_of_its_barrier() {
    let text = kernel("st.global.u32 [%rd1], 1;\nbar.sync 0;\nred.release.sys.global.add.u32 [%rd2], 1;");
    let all = mutants(&text).expect("all is known");
    let early: Vec<&Mutant> = all.iter().filter(|mutant| mutant.kind == Kind::EarlyFlag).collect();
    let [early] = early[..] else { panic!("{all:?}") };
    let body: Vec<&str> = early.text.lines().skip(5).collect();
    let expected =
        ["st.global.u32 [%rd1], 1;", "", "red.release.sys.global.add.u32 [%rd2], 1;", "barrier.sync 0; ret;", "}"];
    assert_eq!(body, expected);
    Module::parse(&early.text).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn what_orders_nothing_has_no_mutants() {
    for instruction in ["ld.global.u32 %r1, [%rd1];", "st.weak.global.u32 [%rd1], %r1;", "add.u32 %r1, %r2, 1;"] {
        is(instruction, &[]);
    }
}

#[test]
fn what_is_not_known_is_an_error_with_its_line() {
    for instruction in [
        "mbarrier.pending_count.b64 %r1, %rd1;",
        "red.async.relaxed.cluster.global.add.u32 [%rd1], 1;",
        "atom.release.gpu.global.exch.b32 %r1, [%rd1], 2;",
        "bar.red.popc.u32 %r1, 0, %p1;",
        "cp.async.wait_all;",
        "add.u32 %r1, %r1, 1; bar.sync 0;",
    ] {
        let unknown = mutants(&kernel(instruction)).expect_err(instruction);
        assert_eq!((unknown.line, &unknown.instruction[..]), (6, instruction));
    }
}

#[test]
fn copies_and_what_waits_for_them() {
    is("cp.async.bulk.commit_group;", &[(Kind::CopyWait, "(nothing)")]);
    is(
        "cp.async.bulk.wait_group 1;",
        &[(Kind::CopyWait, "(nothing)"), (Kind::ReadWait, "cp.async.bulk.wait_group.read 1;")],
    );
    is("cp.async.bulk.wait_group.read 0;", &[(Kind::ReadWait, "(nothing)")]);
    is("cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r1], %r2;", &[]);
    is("mbarrier.init.shared::cta.b64 [%r1], 1;", &[]);
    is(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], %r2;",
        &[(Kind::Expect, "mbarrier.arrive.shared::cta.b64 _, [%r1];")],
    );
    is("mbarrier.arrive.shared::cta.b64 _, [%r1];", &[(Kind::Flag, "(nothing)")]);
    is("mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r1], %r2;", &[(Kind::Wait, "setp.eq.u32 %p1, 0, 0;")]);
    is("fence.mbarrier_init.release.cluster;", &[(Kind::ProxyFence, "(nothing)")]);
    is("griddepcontrol.wait;", &[(Kind::GridWait, "(nothing)")]);
    is("griddepcontrol.launch_dependents;", &[]);
}
