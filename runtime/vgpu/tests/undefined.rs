//! What PTX leaves undefined: each kernel that relies on it is told under every schedule, with a judge and without; mended, nothing is
//! said of it.
//!
//! The kernels of `judge/` were written for this, and ptxas accepts them.

mod support;

use insta::assert_snapshot;
use moe_vgpu::{Cluster, Config, Judge, Launch, Module, Policy, RankId, Rule, Rules, RunError, Severity, Waiver};
use support::{POLICIES, words, zeroed};

/// A kernel with some text replaced by another, which has to be there.
fn mended(text: &str, changes: &[(&str, &str)]) -> Module {
    let mut text = text.to_owned();
    for (wrong, right) in changes {
        assert!(text.contains(wrong), "{wrong}");
        text = text.replace(wrong, right);
    }
    Module::parse(&text).unwrap_or_else(|error| panic!("{error}"))
}

struct Outcome {
    error: Option<String>,
    findings: Vec<String>,
    /// The first word, unless it is undefined.
    out: Option<u32>,
}

fn under(module: &Module, threads: u32, config: Config, judged: bool) -> Outcome {
    let mut cluster = Cluster::new(Config { instruction_limit: 2_000_000, ..config }).unwrap();
    let judge = Judge::default();
    if judged {
        cluster.observe(Box::new(judge.clone()));
    }
    let out = zeroed(&mut cluster, 0, 16, "out");
    let stream = cluster.stream(RankId(0)).unwrap();
    let kernel = module.kernel("k").unwrap();
    let arguments = kernel.parameters().iter().map(|_| out.into()).collect();
    cluster.launch(stream, &kernel, Launch::linear(1, threads, arguments)).unwrap();
    let error = cluster.run().err();
    let findings = cluster.findings().iter().map(ToString::to_string).collect();
    assert_eq!(judge.found(), []);
    if error.is_none() && judged {
        assert!(matches!(cluster.run(), Ok(report) if report.launches == 0));
    }
    let error = error.map(|error| match error {
        RunError::Fault(fault) => fault.to_string(),
        other @ (RunError::Deadlock(_) | RunError::Limit(_) | RunError::Time(_)) => other.to_string(),
    });
    let mut first = [0; 4];
    let out = cluster.read(out, &mut first).ok().map(|()| u32::from_le_bytes(first));
    Outcome { error, findings, out }
}

/// The error of a run in turn. Under every other schedule, and with a judge, there is one with the same first line, or none.
fn verdict(module: &Module, threads: u32) -> Option<String> {
    let first_line =
        |error: &Option<String>| error.as_ref().and_then(|error| error.lines().next().map(ToOwned::to_owned));
    let first = under(module, threads, Config::default(), false).error;
    for policy in POLICIES {
        for (seed, judged) in (0..8).flat_map(|seed| [(seed, false), (seed, true)]) {
            let found = under(module, threads, Config { policy, seed, ..Config::default() }, judged).error;
            // Which of the lanes is blamed, and of two lines which comes first, is the schedule's.
            let (a, b) = (first_line(&first), first_line(&found));
            let same =
                a.is_some() == b.is_some() && a.as_ref().map(|text| text.len()) == b.as_ref().map(|text| text.len());
            assert!(same, "{policy}, seed {seed}: {first:?} {found:?}");
        }
    }
    first
}

#[test]
fn a_relay_of_a_flag_that_never_comes_is_a_deadlock() {
    let text = include_str!("judge/hang_that_is_no_deadlock.ptx");
    for policy in POLICIES {
        for seed in 0..8 {
            let error =
                under(&mended(text, &[]), 64, Config { policy, seed, ..Config::default() }, seed % 2 == 0).error;
            let error = error.expect("nobody writes the flag");
            assert!(
                error.contains("deadlock") && error.contains("`out` of rank 0: found 0"),
                "{policy}, {seed}: {error}"
            );
        }
    }
    // A kernel that gives up after a second of virtual time ends, and quickly.
    let timeout = [
        (
            "ld.param.u64 %a, [flag];",
            "ld.param.u64 %a, [flag]; .reg .b64 %start, %time; .reg .pred %late; mov.u64 %start, %globaltimer;",
        ),
        (
            "st.volatile.shared.u32 [s], %v;",
            "mov.u64 %time, %globaltimer; sub.u64 %time, %time, %start; setp.gt.u64 %late, %time, 1000000000; selp.u32 %v, 7, %v, %late; \
             st.volatile.shared.u32 [s], %v;",
        ),
    ];
    assert_eq!(verdict(&mended(text, &timeout), 64), None);
    let polls = [
        (
            "ld.param.u64 %a, [flag];",
            "ld.param.u64 %a, [flag]; .reg .b64 %start, %time; .reg .pred %late; mov.u64 %start, %clock64;",
        ),
        (
            "    @%q bra relay;",
            "    mov.u64 %time, %clock64; sub.u64 %time, %time, %start; setp.gt.u64 %late, %time, 1000000; @%late ret; @%q bra relay;",
        ),
        (
            "    @%q bra poll;",
            "    mov.u64 %time, %clock64; sub.u64 %time, %time, %start; setp.gt.u64 %late, %time, 9000000; @%late ret; @%q bra poll;",
        ),
    ];
    assert_eq!(verdict(&mended(text, &polls), 64), None);
}

#[test]
fn padding_may_be_copied_and_not_used() {
    let text = include_str!("judge/bulk_copy_of_padding.ptx");
    let copy = |changes: &[(&str, &str)]| {
        let module = mended(text, changes);
        for policy in POLICIES {
            for seed in 0..8 {
                let mut cluster = Cluster::new(Config { policy, seed, ..Config::default() }).unwrap();
                let out = cluster.allocate(RankId(0), 32, "out").unwrap();
                let stream = cluster.stream(RankId(0)).unwrap();
                cluster.launch(stream, &module.kernel("k").unwrap(), Launch::linear(1, 1, vec![out.into()])).unwrap();
                cluster.run().unwrap_or_else(|error| panic!("{error}"));
                assert_eq!(words(&mut cluster, out, 4), [1, 2, 3, 4]);
                let rest = cluster.read(out.offset(16), &mut [0; 16]).map_err(|error| error.to_string());
                assert!(rest.is_err_and(|error| error.contains("`out+16` of rank 0 was never written")));
            }
        }
    };
    copy(&[]);
    // The same by a thread, whose registers hold the padding meanwhile.
    let bulk = "cp.async.bulk.global.shared::cta.bulk_group [%a], [s], 32;";
    copy(&[(
        bulk,
        ".reg .b64 %x<4>; ld.shared.v2.b64 {%x0, %x1}, [s]; ld.shared.v2.b64 {%x2, %x3}, [s+16];
         st.global.v2.b64 [%a], {%x0, %x1}; st.global.v2.b64 [%a+16], {%x2, %x3};",
    )]);
    // A flag in it is used.
    let used = mended(
        text,
        &[(
            bulk,
            ".reg .b32 %x; ld.shared.b32 %x, [s+16]; .reg .pred %p; setp.ne.u32 %p, %x, 0; @%p st.global.u32 [%a], 1;",
        )],
    );
    assert_snapshot!(verdict(&used, 1).unwrap(), @r"
    use before initialisation: a condition comes from `s+16`, which was never written, read in line 12
      by: rank 0, kernel `k`, CTA 0, warp 0, lane 0, line 12: st.global.u32
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
}

/// Bits that come from memory that nobody wrote are followed through registers and memory; those beside them are not taken for one.
#[test]
fn undefined_bits_are_followed() {
    let text = include_str!("judge/bulk_copy_of_padding.ptx");
    let copy = "cp.async.bulk.global.shared::cta.bulk_group [%a], [s], 32;";
    let with = |body: &str| {
        let declared = ".reg .b64 %x<4>; .reg .b32 %y<6>; .reg .b16 %h<4>; .reg .pred %p<3>; .reg .f32 %f<3>; .local .align 8 .b8 l[16];";
        verdict(&mended(text, &[(copy, &format!("{declared} {body}"))]), 1)
    };
    // Half of what is loaded at s+12 is defined.
    let half = "ld.shared.b32 %y0, [s+12]; ld.shared.b32 %y1, [s+16]; mov.b64 %x0, {%y0, %y1};";
    for harmless in [
        "cvt.u32.u64 %y2, %x0; st.global.u32 [%a], %y2;",
        "and.b64 %x1, %x0, 0xff; st.global.u64 [%a], %x1;",
        "shl.b64 %x1, %x0, 32; st.global.u64 [%a], %x1;",
        "mov.b64 {%y2, %y3}, %x0; setp.eq.u32 %p0, %y2, 4; @%p0 st.global.u32 [%a], 1;",
        "st.local.u64 [l], %x0; ld.local.u32 %y2, [l]; add.u32 %y2, %y2, 1; st.global.u32 [%a], %y2;",
        "mul.lo.u64 %x1, %x0, 0; add.u64 %x1, %x1, 1; st.global.u64 [%a], %x1;",
        "add.u64 %x1, %x0, 1; mov.b64 %x1, 5; st.global.u64 [%a], %x1;",
        "st.shared.u64 [s+16], %x0; ld.shared.u32 %y2, [s+16]; add.u32 %y2, %y2, 1; st.global.u32 [%a], %y2;",
        "cvt.rn.f32.u32 %f0, %y1; add.f32 %f0, %f0, %f0;",
    ] {
        assert_eq!(with(&format!("{half} {harmless}")), None, "{harmless}");
    }
    for wrong in [
        "add.u64 %x1, %x0, 1; st.global.u64 [%a], %x1;",
        "setp.eq.u64 %p0, %x0, 4; @%p0 st.global.u32 [%a], 1;",
        "shr.u64 %x1, %x0, 32; cvt.u32.u64 %y2, %x1; mul.lo.u32 %y2, %y2, 3; st.global.u32 [%a], %y2;",
        "st.local.u64 [l], %x0; ld.local.u32 %y2, [l+4]; add.u32 %y2, %y2, 1; st.global.u32 [%a], %y2;",
        "st.shared.u64 [s+16], %x0; ld.shared.u32 %y2, [s+20]; add.u32 %y2, %y2, 1; st.global.u32 [%a], %y2;",
        "setp.eq.u32 %p0, %y1, 9; selp.u32 %y2, 1, 2, %p0; add.u32 %y2, %y2, 1; st.global.u32 [%a], %y2;",
        "setp.eq.u32 %p0, %y1, 9; mov.u32 %y2, 1; @%p0 mov.u32 %y2, 2; st.global.u32 [%a], %y2; add.u32 %y2, %y2, 1; st.global.u32 [%a], %y2;",
        "cvt.u64.u32 %x1, %y1; add.u64 %x1, %x1, %a; ld.global.u32 %y2, [%x1];",
        "red.relaxed.gpu.global.add.u32 [%a], %y1;",
        "cvt.rn.f32.u32 %f0, %y1; add.f32 %f0, %f0, %f0; st.global.f32 [%a], %f0;",
        "bar.sync %y1;",
        "shfl.sync.idx.b32 %y2, %y1, 0, 31, 1; add.u32 %y2, %y2, 1; st.global.u32 [%a], %y2;",
        "st.global.u32 [%a+4], %y1; ld.global.u32 %y2, [%a+4]; add.u32 %y2, %y2, 1; st.global.u32 [%a], %y2;",
        "min.s32 %y2, %y1, 5; st.global.u32 [%a], %y2;",
    ] {
        let found = with(&format!("{half} {wrong}"));
        assert!(found.as_ref().is_some_and(|found| found.contains("was never written")), "{wrong}: {found:?}");
    }
}

#[test]
fn an_address_that_leaves_its_variable() {
    let text = include_str!("judge/neighbour_in_shared_memory.ptx");
    assert_snapshot!(verdict(&mended(text, &[]), 1).unwrap(), @r"
    out of bounds: byte 16 of `a`, which has 16 bytes
      access: 4 bytes at 0x0000000000100410
      by: rank 0, kernel `k`, CTA 0, warp 0, lane 0, line 16: st.shared.u32
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
    let inside = mended(text, &[("add.u32 %i, %r, 16;", "add.u32 %i, %r, 12;")]);
    assert_eq!(verdict(&inside, 1), None);
    // Where it is accepted, the neighbour has the value.
    let known = Waiver {
        rules: vec![Rule::LeavesVariable],
        kernel: None,
        lines: None,
        symbol: Some("a".into()),
        reason: "one block".into(),
    };
    for rules in [Rules::default().waive(known), Rules::default().with(Rule::LeavesVariable, Severity::Ignored)] {
        let run = under(&mended(text, &[]), 1, Config { rules, ..Config::default() }, false);
        assert_eq!((run.error, run.out), (None, Some(9)));
    }
    // Also by a bulk copy, an atomic, a generic address, and by an index.
    for other in [
        "atom.shared.add.u32 %i, [%i], 1;",
        ".reg .b64 %g; cvta.shared.u64 %g, a; st.u32 [%g+16], 1;",
        ".reg .b64 %g; cvt.u64.u32 %g, %i; cvta.shared.u64 %g, %g; st.u32 [%g], 1;",
        "st.shared.v2.u32 [%i+-4], {1, 2};",
    ] {
        let found = verdict(&mended(text, &[("st.shared.u32 [%i], 9;", other)]), 1);
        assert!(found.as_ref().is_some_and(|found| found.contains("of `a`, which has 16 bytes")), "{other}: {found:?}");
    }
}

#[test]
fn lanes_at_different_aligned_barriers() {
    let text = include_str!("judge/divergent_aligned_barrier.ptx");
    assert_snapshot!(verdict(&mended(text, &[]), 32).unwrap(), @r"
    lanes of a warp come to barrier 0 by different instructions, in lines 16 and 13: all lanes of a warp have to execute the same one, as it is .aligned
      by: rank 0, kernel `k`, CTA 0, warp 0, lane 1, line 13: bar.sync
      thread: (1, 0, 0)
      schedule: round-robin, seed 0
    ");
    assert_eq!(verdict(&mended(text, &[("bar.sync 0;", "barrier.sync 0;")]), 32), None);
    assert_eq!(verdict(&mended(text, &[("and.b32 %t, %t, 1;", "and.b32 %t, %t, 32;")]), 64), None, "warps may differ");
}

#[test]
fn a_value_from_a_lane_that_takes_no_part() {
    let text = include_str!("judge/shuffle_from_absent_lane.ptx");
    assert_snapshot!(verdict(&mended(text, &[]), 32).unwrap(), @r"
    use of an undefined value: what is stored in device memory comes from lane 20, which takes no part in the shuffle in line 14
      by: rank 0, kernel `k`, CTA 0, warp 0, lane 0, line 16: st.global.u32
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
    assert_eq!(verdict(&mended(text, &[("%t, 20,", "%t, 2,")]), 32), None);
    // Nobody uses what it gave.
    assert_eq!(verdict(&mended(text, &[("[%a], %v;", "[%a], %t;")]), 32), None);
}

#[test]
fn a_register_that_was_never_written() {
    let text = include_str!("judge/register_never_written.ptx");
    assert_snapshot!(verdict(&mended(text, &[]), 1).unwrap(), @r"
    use of an undefined value: what is stored in device memory comes from `%v`, which was never written
      by: rank 0, kernel `k`, CTA 0, warp 0, lane 0, line 11: st.global.u32
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
    assert_eq!(verdict(&mended(text, &[("add.u32", "mov.u32 %v, 0; add.u32")]), 1), None);
    // Written and used under the same condition.
    let guarded = "setp.ne.u64 %p, %a, 0; @%p mov.u32 %v, 0; @%p add.u32 %v, %v, 1; @%p st.global.u32 [%a], %v; ret;";
    let guarded = [("add.u32", &*format!(".reg .pred %p; {guarded} add.u32"))];
    assert_eq!(verdict(&mended(text, &guarded), 1), None);
    // A predicate.
    let found = verdict(
        &mended(text, &[("add.u32 %v, %v, 1;", ".reg .pred %p; mov.u32 %v, 0; @%p mov.u32 %v, 1; @%p ret;")]),
        1,
    );
    assert!(found.as_ref().is_some_and(|found| found.contains("`%p`, which was never written")), "{found:?}");
}

/// What is spilled, or goes through shared memory or a call, is told as what it is.
#[test]
fn an_undefined_value_that_was_stored_is_told_with_its_origin() {
    let text = include_str!("judge/register_never_written.ptx");
    let through = |body: &str| {
        let declared = ".local .align 8 .b8 l[16]; .shared .align 8 .b8 m[16];";
        verdict(&mended(text, &[("add.u32 %v, %v, 1;", &format!("{declared} {body}"))]), 1)
    };
    for spilled in [
        "st.local.u32 [l], %v; ld.local.u32 %v, [l];",
        "st.shared.u32 [m+4], %v; ld.shared.u32 %v, [m+4];",
        ".reg .b64 %g; cvta.local.u64 %g, l; cvta.to.local.u64 %g, %g; st.local.u32 [%g+8], %v; ld.local.v2.u16 {%h0, %h1}, [l+8]; mov.b32 %v, {%h0, %h1};",
        "add.u32 %v, %v, 1; st.local.u32 [l], %v; ld.local.u32 %v, [l]; add.u32 %v, %v, 1;",
    ] {
        let found = through(&format!(".reg .b16 %h<2>; {spilled}")).unwrap_or_else(|| panic!("nothing of {spilled}"));
        assert!(
            found.starts_with(
                "use of an undefined value: what is stored in device memory comes from `%v`, which was never written"
            ),
            "{found}"
        );
    }
    // What is written over it is defined.
    assert_eq!(through("st.local.u32 [l], %v; st.local.u32 [l], 5; ld.local.u32 %v, [l];"), None);
    // Of a place that nobody wrote it is said as before.
    let found = through("st.local.u32 [l], %v; ld.local.u32 %v, [l+4]; add.u32 %v, %v, 1;").expect("nobody wrote it");
    assert!(found.contains("comes from local memory+4, which was never written, read in line 10"), "{found}");
    // What was computed with does not become a copy of padding by being spilled.
    let padding = "ld.shared.u32 %v, [m]; add.u32 %v, %v, 1; st.local.u32 [l], %v; ld.local.u32 %v, [l];";
    let found = through(padding).expect("it was used");
    assert!(
        found.starts_with(
            "use before initialisation: what is stored in device memory comes from `m`, which was never written"
        ),
        "{found}"
    );
    assert_eq!(through("ld.shared.u32 %v, [m]; st.local.u32 [l], %v; ld.local.u32 %v, [l];"), None);
}

#[test]
fn findings_that_are_warnings_or_accepted_are_told() {
    let text = include_str!("judge/register_never_written.ptx");
    let run = |rules: Rules| under(&mended(text, &[]), 1, Config { rules, ..Config::default() }, false);
    let warned = run(Rules::default().with(Rule::UnwrittenRegister, Severity::Warning));
    assert_eq!((warned.error, warned.out), (None, Some(1)));
    assert_snapshot!(warned.findings.join("\n"), @r"
    warning: use of an undefined value: what is stored in device memory comes from `%v`, which was never written
      by: rank 0, kernel `k`, CTA 0, warp 0, lane 0, line 11: st.global.u32
    ");
    let waiver = Waiver {
        rules: vec![],
        kernel: Some("k".into()),
        lines: Some(11..=11),
        symbol: None,
        reason: "it starts as 0 here".into(),
    };
    let accepted = run(Rules::default().waive(waiver.clone()));
    assert_eq!(accepted.error, None);
    assert_snapshot!(accepted.findings.join("\n"), @r"
    accepted (it starts as 0 here): use of an undefined value: what is stored in device memory comes from `%v`, which was never written
      by: rank 0, kernel `k`, CTA 0, warp 0, lane 0, line 11: st.global.u32
    ");
    let elsewhere = run(Rules::default().waive(Waiver { lines: Some(1..=9), ..waiver }));
    assert!(elsewhere.error.is_some());
    let ignored = run(Rules::default().with(Rule::UnwrittenRegister, Severity::Ignored));
    assert_eq!((ignored.error, ignored.findings.len()), (None, 0));
}

/// Without a judge, where the copy has not come so far.
#[test]
fn shared_memory_that_a_copy_still_uses() {
    let text = include_str!("judge/bulk_source_overwritten.ptx");
    let run = |module: &Module, rules: Rules| under(module, 1, Config { rules, ..Config::default() }, false);
    let wrong = mended(text, &[]);
    assert_snapshot!(run(&wrong, Rules::default()).error.unwrap(), @r"
    `s` is written while the copy issued in line 12 still reads it: wait for that copy first
      by: rank 0, kernel `k`, CTA 0, warp 0, lane 0, line 14: st.shared.v4.u32
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
    let again = "st.shared.v4.u32 [s], {2,2,2,2};";
    let waits = mended(text, &[(again, &format!("cp.async.bulk.wait_group.read 0; {again}"))]);
    assert_eq!(verdict(&waits, 1), None);
    assert_eq!(run(&mended(text, &[(again, ".reg .b32 %r; ld.shared.u32 %r, [s];")]), Rules::default()).error, None);
    // The target, before the copy is complete; and two copies.
    let bulk = "cp.async.bulk.global.shared::cta.bulk_group [%a],[s],16;";
    let small = |then: &str| {
        run(&mended(text, &[(bulk, "cp.async.cg.shared.global [s], [%a], 16;"), (again, then)]), Rules::default()).error
    };
    for (then, expected) in [
        ("st.shared.u32 [s+4], 1;", "`s+4` is written while the copy issued in line 12 still writes it"),
        (".reg .b32 %r; ld.shared.u32 %r, [s];", "`s` is read while"),
        ("red.shared.add.u32 [s], 1;", "`s` is written while"),
        ("cp.async.ca.shared.global [s+8], [%a], 4;", "`s+8` is written by a copy while"),
    ] {
        let found = small(then);
        assert!(found.as_ref().is_some_and(|found| found.contains(expected)), "{then}: {found:?}");
    }
    let warned = run(&wrong, Rules::default().with(Rule::CopyInFlight, Severity::Warning));
    assert_eq!((warned.error, warned.findings.len()), (None, 1));
}

/// All CTAs of a grid meet as those of a cooperative launch do, which a judge sees as order.
#[test]
fn a_grid_meets() {
    let text = include_str!("judge/grid_sync.ptx");
    let run = |changes: &[(&str, &str)], policy: Policy, seed: u64| {
        let mut cluster = Cluster::new(Config { policy, seed, ..Config::default() }).unwrap();
        let judge = Judge::default();
        cluster.observe(Box::new(judge.clone()));
        let out = zeroed(&mut cluster, 0, 128, "out");
        let stream = cluster.stream(RankId(0)).unwrap();
        let kernel = mended(text, changes).kernel("k").unwrap();
        for _ in 0..2 {
            cluster.launch_cooperative(stream, &kernel, Launch::linear(7, 64, vec![out.into()])).unwrap();
        }
        cluster.run().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(words(&mut cluster, out.offset(64), 7), [1, 2, 3, 4, 5, 6, 0]);
        judge.found()
    };
    for policy in POLICIES {
        for seed in 0..4 {
            assert_eq!(run(&[], policy, seed), []);
            assert!(!run(&[("add.release.gpu", "add.relaxed.gpu")], policy, seed).is_empty());
            assert!(!run(&[("ld.acquire.gpu", "ld.relaxed.gpu")], policy, seed).is_empty());
            assert!(!run(&[("add.release.gpu", "add.release.cta")], policy, seed).is_empty());
        }
    }
    // A launch that is not cooperative has no workspace.
    let mut cluster = support::cluster(1);
    let out = zeroed(&mut cluster, 0, 128, "out");
    let stream = support::stream(&mut cluster, 0);
    let kernel = mended(text, &[]).kernel("k").unwrap();
    let too_large = cluster.launch_cooperative(stream, &kernel, Launch::linear(5000, 64, vec![out.into()]));
    assert_snapshot!(too_large.unwrap_err(), @r"cannot launch `k`: a cooperative launch runs all of its 5000 CTAs at once, the rank holds 4224");
    cluster.launch(stream, &kernel, Launch::linear(7, 64, vec![out.into()])).unwrap();
    assert!(cluster.run().unwrap_err().to_string().contains("the address points to no memory"));
}
