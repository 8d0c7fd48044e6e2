//! The audit: each thing that it rejects, beside what looks alike and is sound.

use moe_kernels::audit::{Rule, audit};

/// A kernel with these statements, the first of which is on line 7.
fn kernel(statements: &str) -> String {
    format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n\n.visible .entry k(.param .u64 k_0) .reqntid 32\n{{\n{statements}\n\tret;\n}}\n"
    )
}

fn rules(text: &str) -> Vec<(usize, Rule)> {
    audit(text).into_iter().map(|finding| (finding.line, finding.rule)).collect()
}

#[test]
fn atomics_need_order_and_scope() {
    let bad = [
        "atom.global.add.u32 %r1, [%rd1], 1;",
        "atom.relaxed.global.add.u32 %r1, [%rd1], 1;",
        "atom.gpu.global.add.u32 %r1, [%rd1], 1;",
        "red.global.add.u32 [%rd1], 1;",
        "red.release.global.add.u64 [%rd1], %rd2;",
        "@%p1 red.shared.add.u32 [%r1], 1;",
        "$L__BB0_1: @!%p1 atom.shared::cta.cas.b32 %r1, [%r2], %r3, %r4;",
        "multimem.red.global.add.f32 [%rd1], %f1;",
    ];
    for statement in bad {
        assert_eq!(rules(&kernel(statement)), [(7, Rule::UnorderedAtomic)], "{statement}");
    }
    let good = [
        "atom.relaxed.gpu.global.cas.b64 %rd1, [%rd2], %rd3, %rd4;",
        "atom.acq_rel.sys.global.add.u32 %r1, [%rd1], 1;",
        "@%p1 red.release.sys.global.add.u64 [%rd1], %rd2;",
        "red.relaxed.cta.shared::cta.add.u32 [%r1], 1;",
        "multimem.red.relaxed.sys.global.add.f32 [%rd1], %f1;",
        // No access to memory at all.
        "redux.sync.max.u32 %r1, %r2, -1;",
        "mov.b32 %red, %atom;",
    ];
    for statement in good {
        assert_eq!(rules(&kernel(statement)), [], "{statement}");
    }
}

#[test]
fn loads_are_coherent() {
    for bad in [
        "ld.global.nc.b32 %r1, [%rd1];",
        "ld.global.nc.L1::no_allocate.L2::256B.v4.s32 {%r1, %r2, %r3, %r4}, [%rd1];",
        "@%p1 ld.global.nc.v2.b64 {%rd1, %rd2}, [%rd3+16];",
        "ldu.global.b32 %r1, [%rd1];",
    ] {
        assert_eq!(rules(&kernel(bad)), [(7, Rule::NonCoherentLoad)], "{bad}");
    }
    for good in ["ld.global.b32 %nc, [%rd1];", "ld.acquire.sys.global.u64 %rd1, [%rd2];", "ld.param.b64 %rd1, [k_0];"] {
        assert_eq!(rules(&kernel(good)), [], "{good}");
    }
}

#[test]
fn every_function_is_in_the_text() {
    let call = "{ // callseq 0, 0\n\t.param .b32 param0;\n\tst.param.b32 [param0], %r1;\n\t.param .b32 retval0;\n\
                \tcall.uni (retval0), __nv_expf, (param0);\n\tld.param.b32 %r2, [retval0];\n\t}";
    assert_eq!(rules(&kernel(call)), [(11, Rule::UnresolvedCall)]);
    let declared = format!(".extern .func (.param .b32 result) __nv_expf\n(\n\t.param .b32 x\n)\n;\n{}", kernel(call));
    assert_eq!(rules(&declared), [(1, Rule::UnresolvedCall), (16, Rule::UnresolvedCall)]);
    let without_body = format!(".func (.param .b32 result) __nv_expf(.param .b32 x);\n{}", kernel(call));
    assert_eq!(rules(&without_body), [(1, Rule::UnresolvedCall), (12, Rule::UnresolvedCall)]);
    let defined = format!(".func (.param .b32 result) __nv_expf(.param .b32 x)\n{{\n\tret;\n}}\n{}", kernel(call));
    assert_eq!(rules(&defined), []);
    assert_eq!(rules(&kernel("call vprintf, (%rd1, %rd2);")), [(7, Rule::UnresolvedCall)]);
    assert_eq!(rules(&kernel("call %rd1, (%rd2), prototype_0;")), [(7, Rule::UnresolvedCall)]);
}

#[test]
fn nothing_is_in_local_memory() {
    let frame = "\t.local .align 8 .b8 \t__local_depot0[16];\n\t.reg .b64 %SP;";
    assert_eq!(rules(&kernel(frame)), [(7, Rule::LocalMemory)]);
    for bad in ["st.local.b32 [%rd1], %r1;", "ld.local.v2.b32 {%r1, %r2}, [%rd1];", "cvta.to.local.u64 %rd1, %rd2;"] {
        assert_eq!(rules(&kernel(bad)), [(7, Rule::LocalMemory)], "{bad}");
    }
    for good in ["st.shared.b32 [%local], %r1;", "cvta.to.global.u64 %rd1, %rd2;"] {
        assert_eq!(rules(&kernel(good)), [], "{good}");
    }
}

#[test]
fn comments_are_no_code_and_all_findings_are_told() {
    let text = "\t// atom.global.add.u32 %r1, [%rd1], 1;\n\t/* ld.global.nc.b32\n %r1, [%rd1]; */ ret;\n\
                \tred.global.add.u32 [%rd1], 1; ld.global.nc.b32 %r1,\n\t\t[%rd1];";
    let findings = audit(&kernel(text));
    assert_eq!(
        findings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "line 10: `red.global.add.u32 [%rd1], 1`: an atomic operation must name its order and its scope",
            "line 10: `ld.global.nc.b32 %r1, [%rd1]`: a non-coherent load may miss what is written during the launch",
        ]
    );
}
