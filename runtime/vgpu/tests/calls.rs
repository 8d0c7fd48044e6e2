//! Calls: recursion, functions through registers, functions that are not there, and the stack.

use moe_vgpu::{Cluster, Config, Launch, Module, Policy, RankId};

const HEADER: &str = ".version 8.6\n.target sm_90a\n.address_size 64\n";

/// Runs `k(out, chosen)` with a warp, under several schedules; the words that it stores.
fn run(text: &str, words: usize) -> Result<Vec<u32>, String> {
    let module = Module::parse(text).map_err(|error| error.to_string())?;
    let name = module.kernels().next().expect("a kernel").to_owned();
    let kernel = module.kernel(&name).expect("the kernel");
    let mut first = None;
    for (policy, seed) in [(Policy::RoundRobin, 0), (Policy::Random, 1), (Policy::Adversarial, 2)] {
        let config = Config { ranks: 1, policy, seed, ..Config::default() };
        let mut cluster = Cluster::new(config).expect("a cluster of one");
        let out = cluster.allocate(RankId(0), words as u64 * 4, "out").expect("memory");
        let chosen = cluster.allocate(RankId(0), 8, "chosen").expect("memory");
        cluster.write(out, &vec![0; words * 4]).expect("memory");
        let stream = cluster.stream(RankId(0)).expect("a stream");
        cluster.launch(stream, &kernel, Launch::linear(1, 32, vec![out.into(), chosen.into()])).expect("a launch");
        cluster.run().map_err(|error| error.to_string())?;
        let mut bytes = vec![0; words * 4];
        cluster.read(out, &mut bytes).expect("results");
        let found: Vec<u32> = bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        assert_eq!(first.get_or_insert(found.clone()), &found, "{policy:?}");
    }
    Ok(first.expect("a schedule"))
}

/// A kernel whose body has the lane in `%r0` and stores `%r1` of each lane.
fn kernel(functions: &str, body: &str) -> String {
    format!(
        "{HEADER}{functions}\n.visible .entry k(.param .u64 out, .param .u64 chosen)\n{{\n.reg .pred %p<4>;\n.reg .b32 %r<8>;\n\
         .reg .b64 %d<8>;\nmov.u32 %r0, %tid.x;\n{body}\nld.param.u64 %d0, [out];\nmad.wide.u32 %d0, %r0, 4, %d0;\n\
         st.global.u32 [%d0], %r1;\nret;\n}}\n"
    )
}

fn ackermann(m: i32, n: i32) -> i32 {
    match (m, n) {
        (0, n) => n + 1,
        (m, 0) => ackermann(m - 1, 1),
        (m, n) => ackermann(m - 1, ackermann(m, n - 1)),
    }
}

/// The sum of `depth`, …, 0, which the deepest call finds in the variables of all others, and what each call makes of it.
fn chained(depth: i32) -> i32 {
    let total = (0..=depth).sum::<i32>();
    (1..=depth).fold(total, |below, own| below * 2 + own)
}

/// What clang makes of `tests/data/llvm/calls.cu`.
#[test]
fn compiled_recursion_and_function_pointers() {
    for text in [include_str!("data/llvm/calls.O0.ptx"), include_str!("data/llvm/calls.O2.ptx")] {
        let found = run(text, 128).unwrap_or_else(|error| panic!("{error}"));
        for lane in 0..32 {
            let (a, b) = (lane & 3, lane >> 3);
            let chosen = [a + b, a - b, ackermann(a, b), a + b][lane as usize & 3];
            let fibonacci = [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89][lane as usize % 12];
            let expected = [chosen, chained(lane & 7), if lane % 2 == 0 { 2 } else { 1 }, fibonacci];
            let of_lane: Vec<i32> =
                found.iter().skip(lane as usize).step_by(32).map(|word| word.cast_signed()).collect();
            assert_eq!(of_lane, expected, "lane {lane}");
        }
    }
}

/// Lanes call different functions, with different depths, and meet again.
#[test]
fn lanes_call_what_they_choose() {
    let functions = "
.func (.reg .b32 back) twice(.reg .b32 n) { add.u32 back, n, n; ret; }
.func (.reg .b32 back) down(.reg .b32 n)
{
.reg .pred %p; .reg .b32 %m;
setp.eq.u32 %p, n, 0;
mov.u32 back, 100;
@%p ret;
sub.u32 %m, n, 1;
call (%m), down, (%m);
add.u32 back, %m, n;
ret;
}
.global .align 8 .u64 table[2] = {twice, down};";
    let choose = "and.b32 %r2, %r0, 1; mov.u64 %d1, table; mad.wide.u32 %d1, %r2, 8, %d1; ld.global.u64 %d2, [%d1];";
    let listed = "meant: .calltargets twice, down;\ncall (%r1), %d2, (%r0), meant;";
    let typed = "meant: .callprototype (.reg .b32 _) _ (.reg .b32 _);\ncall (%r1), %d2, (%r0), meant;";
    for call in [listed, typed] {
        let found = run(&kernel(functions, &format!("{choose}\n{call}")), 32).unwrap_or_else(|error| panic!("{error}"));
        let expected: Vec<u32> =
            (0..32).map(|lane| if lane % 2 == 0 { 2 * lane } else { 100 + lane * (lane + 1) / 2 }).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn what_is_no_function_is_said() {
    let functions = ".func (.reg .b32 back) twice(.reg .b32 n) { add.u32 back, n, n; ret; }\n.func other() { ret; }";
    let call = "meant: .callprototype (.reg .b32 _) _ (.reg .b32 _);\ncall (%r1), %d2, (%r0), meant;";
    for (pointer, said) in [
        ("mov.u64 %d1, twice; mov.u64 %d2, 0;", "calls 0x0 through a register: no function with these parameters"),
        ("mov.u64 %d2, other;", "through a register: no function with these parameters"),
        ("ld.param.u64 %d2, [out];", "through a register: no function with these parameters"),
    ] {
        let error = run(&kernel(functions, &format!("{pointer}\n{call}")), 32).expect_err("a fault");
        assert!(error.contains(said), "{error}");
    }
}

/// A function that only another module has: the kernel runs as long as nobody gets there.
#[test]
fn a_function_that_is_not_defined_is_missed_when_it_is_called() {
    let functions = ".extern .func (.reg .b32 back) elsewhere(.reg .b32 n);";
    let body = |most: u32| format!("mov.u32 %r1, 7; setp.gt.u32 %p1, %r0, {most};\n@%p1 call (%r1), elsewhere, (%r0);");
    assert_eq!(run(&kernel(functions, &body(31)), 32), Ok(vec![7; 32]));
    let error = run(&kernel(functions, &body(4)), 32).expect_err("a fault");
    assert!(error.contains("calls `elsewhere`, which is declared and not defined in this module"), "{error}");
    assert!(error.contains("lane 5"), "{error}");
    let module = Module::parse(&kernel(functions, &body(4))).expect("a module");
    let kernel = module.kernel("k").expect("the kernel");
    assert_eq!(kernel.missing_functions(), [(12, "elsewhere".to_owned())]);
}

#[test]
fn endless_recursion_ends_in_a_sentence() {
    let functions = "
.func (.reg .b32 back) again(.reg .b32 n)
{
.reg .b32 %m;
add.u32 %m, n, 1;
call (%m), again, (%m);
mov.u32 back, %m;
ret;
}";
    let error = run(&kernel(functions, "call (%r1), again, (%r0);"), 32).expect_err("a fault");
    assert!(error.contains("calls of `again` are not over: the stack of a thread ends here"), "{error}");
}

/// What a call has not written yet is not written when it comes back, though a deeper call wrote its own.
#[test]
fn undefined_registers_are_those_of_one_call() {
    let functions = "
.func (.reg .b32 back) once(.reg .b32 n)
{
.reg .pred %p; .reg .b32 %m, %late;
setp.eq.u32 %p, n, 0;
mov.u32 back, 1;
@%p mov.u32 %late, 5;
@%p ret;
sub.u32 %m, n, 1;
call (%m), once, (%m);
add.u32 back, %m, %late;
ret;
}";
    let error = run(&kernel(functions, "call (%r1), once, (1);"), 32).expect_err("a finding");
    assert!(error.contains("`%late`, which was never written"), "{error}");
}

/// Some threads end inside a function that others return from.
#[test]
fn threads_end_inside_of_functions() {
    let functions = "
.func (.reg .b32 back) some(.reg .b32 n)
{
.reg .pred %p; .reg .b32 %m;
setp.eq.u32 %p, n, 3;
@%p exit;
setp.lt.u32 %p, n, 3;
mov.u32 back, n;
@%p ret;
sub.u32 %m, n, 4;
call (back), some, (%m);
ret;
}";
    let found = run(&kernel(functions, "call (%r1), some, (%r0);"), 32).unwrap_or_else(|error| panic!("{error}"));
    let expected: Vec<u32> = (0..32).map(|lane| if lane % 4 == 3 { 0 } else { lane % 4 }).collect();
    assert_eq!(found, expected);
}

#[test]
fn memory_of_the_stack_is_taken_and_given_back() {
    let functions = "
.func (.reg .b32 back) summed(.reg .b32 n)
{
.reg .pred %p; .reg .b32 %i, %v; .reg .b64 %start, %place, %size;
stacksave.u64 %start;
mul.wide.u32 %size, n, 4;
alloca.u64 %place, %size, 16;
mov.u32 %i, 0;
fill:
st.local.u32 [%place], %i;
add.u64 %place, %place, 4;
add.u32 %i, %i, 1;
setp.lt.u32 %p, %i, n;
@%p bra fill;
mov.u32 back, 0;
take:
sub.u64 %place, %place, 4;
ld.local.u32 %v, [%place];
add.u32 back, back, %v;
sub.u32 %i, %i, 1;
setp.ne.u32 %p, %i, 0;
@%p bra take;
stackrestore.u64 %start;
ret;
}";
    let body = "add.u32 %r2, %r0, 1; mov.u32 %r3, 0;\nmore:\ncall (%r1), summed, (%r2);\nadd.u32 %r3, %r3, 1;\n\
                setp.lt.u32 %p1, %r3, 200;\n@%p1 bra more;";
    let found = run(&kernel(functions, body), 32).unwrap_or_else(|error| panic!("{error}"));
    let expected: Vec<u32> = (0..32).map(|lane| lane * (lane + 1) / 2).collect();
    assert_eq!(found, expected);
    let error = run(&kernel(functions, "call (%r1), summed, (5000);"), 32).expect_err("a fault");
    assert!(error.contains("local memory"), "{error}");
}
