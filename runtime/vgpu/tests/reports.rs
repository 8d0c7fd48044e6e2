//! What reports say for people who wrote CUDA: lines of their source, names as they wrote them, what kernels print.

mod support;

use insta::assert_snapshot;
use moe_vgpu::{Judge, Launch, Module};
use support::*;

/// A kernel as nvcc writes one; `BODY` is in line 33 of the source.
const TEXT: &str = r#"
.version 8.6
.target sm_90a
.address_size 64
.file 1 "/home/somebody/exchange.cu"
.extern .func (.param .b32 r) vprintf (.param .b64 f, .param .b64 a);
.extern .func __assertfail (.param .b64 m, .param .b64 f, .param .b32 l, .param .b64 n, .param .b64 s);
.global .align 1 .b8 format[17] = {114, 97, 110, 107, 32, 37, 100, 58, 32, 37, 46, 50, 102, 32, 37, 115, 0};
.global .align 1 .b8 word[4] = {97, 98, 99, 0};
.visible .entry _ZN2ep4sendILi8EEEvPi(.param .u64 x)
{
    .reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .pred %p<3>; .reg .f64 %d<2>;
    .local .align 8 .b8 depot[24];
    .loc 1 30 5
    ld.param.u64 %rd1, [x];
    mov.u32 %r1, %tid.x;
    sub.s32 %r2, %r1, 7;
    .loc 1 31 9
    st.local.u32 [depot], %r2;
    mov.f64 %d1, 0d3FF8000000000000;
    st.local.f64 [depot+8], %d1;
    mov.u64 %rd2, word;
    st.local.u64 [depot+16], %rd2;
    mov.u64 %rd3, depot;
    cvta.local.u64 %rd3, %rd3;
    mov.u64 %rd4, format;
    {
    .param .b64 f; .param .b64 a; .param .b32 r;
    st.param.b64 [f], %rd4;
    st.param.b64 [a], %rd3;
    call (r), vprintf, (f, a);
    ld.param.b32 %r3, [r];
    }
    st.global.u32 [%rd1+8], %r3;
    .loc 1 33 2
BODY
    ret;
}
"#;

fn run(body: &str, judge: Option<&Judge>) -> (moe_vgpu::Cluster, Option<String>) {
    let module = Module::parse(&TEXT.replace("BODY", body)).unwrap_or_else(|error| panic!("{error}"));
    let mut cluster = cluster(1);
    if let Some(judge) = judge {
        cluster.observe(Box::new(judge.clone()));
    }
    let x = zeroed(&mut cluster, 0, 16, "x");
    let stream = stream(&mut cluster, 0);
    let kernel = module.kernel("_ZN2ep4sendILi8EEEvPi").unwrap();
    cluster.launch(stream, &kernel, Launch::linear(1, 2, vec![x.into()])).unwrap();
    let error = cluster.run().err().map(|error| error.to_string());
    (cluster, error)
}

#[test]
fn what_kernels_print_says_who_printed_it() {
    let (cluster, error) = run("", None);
    assert_eq!(error, None);
    let printed: Vec<String> = cluster.printed().iter().map(ToString::to_string).collect();
    assert_snapshot!(printed.join("\n"), @r"
    rank 0, kernel `ep::send<8>`, CTA (0, 0, 0), thread (0, 0, 0): rank -7: 1.50 abc
    rank 0, kernel `ep::send<8>`, CTA (0, 0, 0), thread (1, 0, 0): rank -6: 1.50 abc
    ");
}

#[test]
fn a_wrong_access_is_in_a_line_of_the_source() {
    assert_snapshot!(run("st.global.u32 [%rd1+64], %r1;", None).1.unwrap(), @r"
    out of bounds: byte 64 of `x` of rank 0, which has 16 bytes
      access: 4 bytes at 0x0010000100000040
      by: rank 0, kernel `ep::send<8>`, CTA 0, warp 0, lane 0, line 36 (exchange.cu:33): st.global.u32
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
}

#[test]
fn a_race_is_in_lines_of_the_source() {
    let judge = Judge::default();
    run("st.global.u32 [%rd1], %r1;\n.loc 1 34 1\nld.global.u32 %r4, [%rd1];", Some(&judge));
    let found: Vec<String> = judge.found().iter().map(ToString::to_string).collect();
    assert_snapshot!(found.join("\n"), @r"
    `x+8` of rank 0: rank 0, `ep::send<8>` (launch 0), CTA 0, warp 0, lane 0 writes it in line 34 (exchange.cu:31); rank 0, `ep::send<8>` (launch 0), CTA 0, warp 0, lane 1 writes it in line 34 (exchange.cu:31); nothing orders the lanes of a warp: a bar.warp.sync has to stand between
    `x` of rank 0: rank 0, `ep::send<8>` (launch 0), CTA 0, warp 0, lane 0 writes it in line 36 (exchange.cu:33); rank 0, `ep::send<8>` (launch 0), CTA 0, warp 0, lane 1 writes it in line 36 (exchange.cu:33); nothing orders the lanes of a warp: a bar.warp.sync has to stand between
    `x` of rank 0: rank 0, `ep::send<8>` (launch 0), CTA 0, warp 0, lane 1 writes it in line 36 (exchange.cu:33); rank 0, `ep::send<8>` (launch 0), CTA 0, warp 0, lane 0 reads it in line 38 (exchange.cu:34); nothing orders the lanes of a warp: a bar.warp.sync has to stand between
    ");
}

#[test]
fn a_failed_assertion_says_whose_it_is() {
    let body = "
    setp.eq.u32 %p1, %r1, 1;
    @!%p1 bra holds;
    {
    .param .b64 m; .param .b64 f; .param .b32 l; .param .b64 n; .param .b64 s;
    st.param.b64 [m], %rd2; st.param.b64 [f], %rd2; st.param.b32 [l], 33; st.param.b64 [n], %rd2; st.param.b64 [s], 1;
    call __assertfail, (m, f, l, n, s);
    }
holds:";
    assert_snapshot!(run(body, None).1.unwrap(), @r"
    assertion failed: abc (abc:33, in abc)
      by: rank 0, kernel `ep::send<8>`, CTA 0, warp 0, lane 1, line 42 (exchange.cu:33): call
      thread: (1, 0, 0)
      schedule: round-robin, seed 0
    ");
}

#[test]
fn an_mbarrier_is_told_in_words() {
    let body = "
    .shared .align 8 .b64 full;
    mov.u32 %r5, full;
    setp.ne.u32 %p1, %r1, 0;
    @%p1 ret;
    mbarrier.init.shared::cta.b64 [%r5], 2;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r5], 256;
wait:
    mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r5], 0;
    @!%p2 bra wait;";
    assert_snapshot!(run(body, None).1.unwrap(), @r"
    deadlock: everything waits, and nothing is under way that could end it
      rank 0, kernel `ep::send<8>`, CTA 0, warp 0, lane 0, line 44 (exchange.cu:33): mbarrier.try_wait.parity.shared::cta.b64
        polls the mbarrier `full`: its phase of parity 0 is not complete, 1 of 2 arrivals are missing, and 256 bytes
      schedule: round-robin, seed 0
    ");
}

#[test]
fn a_signed_comparison_is_told_in_signed_numbers() {
    let body = "
    st.global.u32 [%rd1], -3;
wait:
    ld.acquire.gpu.global.u32 %r6, [%rd1];
    setp.lt.s32 %p1, %r6, -2;
    @%p1 bra wait;";
    assert_snapshot!(run(body, None).1.unwrap(), @r"
    deadlock: everything waits, and nothing is under way that could end it
      rank 0, kernel `ep::send<8>`, CTA 0, warp 0, lanes 0-1, line 39 (exchange.cu:33): ld.acquire.gpu.global.u32
        polls `x` of rank 0: found -3, setp.lt.s32 with -2
      schedule: round-robin, seed 0
    ");
}
