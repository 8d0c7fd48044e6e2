//! Registers share rows, and diverged lanes meet again: programs made at random, against a few lines of Rust that know neither
//! rows nor warps. A register that nobody has written is zero here.

mod support;

use std::fmt::Write;

use moe_random::Random;
use moe_vgpu::{Cluster, Config, Launch, Policy, Rule, Rules, Severity};
use support::*;

const WORDS: usize = 14;
const LONGS: usize = 6;
const HALVES: usize = 6;
const THREADS: u32 = 64;

#[derive(Debug)]
enum Statement {
    /// `d = a op b`, for all threads or for those whose word has a bit.
    Word { operation: usize, d: usize, a: usize, b: usize, guard: Option<(usize, usize)> },
    /// `long d = long a * 3 + word b`
    Widen { d: usize, a: usize, b: usize },
    /// `word d = upper half of long a`
    Narrow { d: usize, a: usize },
    /// `half d = half a + lower half of word b`
    Halve { d: usize, a: usize, b: usize },
    /// `word d = half a`
    Double { d: usize, a: usize },
    /// By a bit of a word.
    If { a: usize, bit: usize, yes: Vec<Statement>, no: Vec<Statement> },
    /// As often as the low bits of a word say.
    Repeat { a: usize, body: Vec<Statement> },
}

fn statements(random: &mut Random, depth: u32) -> Vec<Statement> {
    let count = 2 + random.index(6);
    let (word, long) = (|random: &mut Random| random.index(WORDS), |random: &mut Random| random.index(LONGS));
    (0..count)
        .map(|_| match random.index(if depth == 0 { 10 } else { 13 }) {
            0..=5 => {
                let guard = (random.index(4) == 0).then(|| (word(random), random.index(5)));
                let (operation, d) = (random.index(3), word(random));
                Statement::Word { operation, d, a: word(random), b: word(random), guard }
            }
            6 => Statement::Widen { d: long(random), a: long(random), b: word(random) },
            7 => Statement::Narrow { d: word(random), a: long(random) },
            8 => Statement::Halve { d: random.index(HALVES), a: random.index(HALVES), b: word(random) },
            9 => Statement::Double { d: word(random), a: random.index(HALVES) },
            10 | 11 => {
                let (a, bit) = (word(random), random.index(5));
                Statement::If { a, bit, yes: statements(random, depth - 1), no: statements(random, depth - 1) }
            }
            _ => Statement::Repeat { a: word(random), body: statements(random, depth - 1) },
        })
        .collect()
}

struct State {
    words: [u32; WORDS],
    longs: [u64; LONGS],
    halves: [u16; HALVES],
}

fn run(state: &mut State, program: &[Statement]) {
    for statement in program {
        match statement {
            Statement::Word { operation, d, a, b, guard } => {
                let (a, b) = (state.words[*a], state.words[*b]);
                if guard.is_none_or(|(word, bit)| state.words[word] >> bit & 1 == 1) {
                    state.words[*d] = [a.wrapping_add(b), a ^ b, a.wrapping_mul(b)][*operation];
                }
            }
            Statement::Widen { d, a, b } => {
                state.longs[*d] = state.longs[*a].wrapping_mul(3).wrapping_add(state.words[*b].into());
            }
            Statement::Narrow { d, a } => state.words[*d] = (state.longs[*a] >> 32) as u32,
            Statement::Halve { d, a, b } => state.halves[*d] = state.halves[*a].wrapping_add(state.words[*b] as u16),
            Statement::Double { d, a } => state.words[*d] = state.halves[*a].into(),
            Statement::If { a, bit, yes, no } => {
                run(state, if state.words[*a] >> bit & 1 == 1 { yes } else { no });
            }
            Statement::Repeat { a, body } => (0..state.words[*a] & 3).for_each(|_| run(state, body)),
        }
    }
}

/// PTX with the last block of a loop before its head, as LLVM writes it.
fn emit(text: &mut String, label: &mut u32, program: &[Statement]) {
    for statement in program {
        *label += 1;
        let n = *label;
        let written = match statement {
            Statement::Word { operation, d, a, b, guard } => {
                let name = ["add.u32", "xor.b32", "mul.lo.u32"][*operation];
                let test = guard.map_or(String::new(), |(word, bit)| {
                    format!("and.b32 %t{n}, %w{word}, {}; setp.ne.u32 %c{n}, %t{n}, 0; @%c{n} ", 1 << bit)
                });
                writeln!(text, "{test}{name} %w{d}, %w{a}, %w{b};")
            }
            Statement::Widen { d, a, b } => {
                writeln!(text, "cvt.u64.u32 %u{n}, %w{b}; mad.lo.u64 %l{d}, %l{a}, 3, %u{n};")
            }
            Statement::Narrow { d, a } => writeln!(text, "mov.b64 {{_, %w{d}}}, %l{a};"),
            Statement::Halve { d, a, b } => {
                writeln!(text, "cvt.u16.u32 %v{n}, %w{b}; add.u16 %g{d}, %g{a}, %v{n};")
            }
            Statement::Double { d, a } => writeln!(text, "cvt.u32.u16 %w{d}, %g{a};"),
            Statement::If { a, bit, yes, no } => {
                writeln!(text, "and.b32 %t{n}, %w{a}, {}; setp.eq.u32 %c{n}, %t{n}, 0; @%c{n} bra NO{n};", 1 << bit)
                    .unwrap();
                emit(text, label, yes);
                writeln!(text, "bra END{n};\nNO{n}:").unwrap();
                emit(text, label, no);
                writeln!(text, "END{n}:")
            }
            Statement::Repeat { a, body } => {
                writeln!(text, "and.b32 %t{n}, %w{a}, 3; bra HEAD{n};\nNEXT{n}: sub.u32 %t{n}, %t{n}, 1;").unwrap();
                writeln!(text, "HEAD{n}: setp.eq.u32 %c{n}, %t{n}, 0; @%c{n} bra END{n};").unwrap();
                emit(text, label, body);
                writeln!(text, "bra NEXT{n};\nEND{n}:")
            }
        };
        written.unwrap();
    }
}

/// Registers that were never written are 0 here.
fn tolerant(policy: Policy, seed: u64) -> Cluster {
    let rules = Rules::default().with(Rule::UnwrittenRegister, Severity::Ignored);
    Cluster::new(Config { policy, seed, rules, ..Config::default() }).unwrap()
}

#[test]
fn programs_made_at_random() {
    for seed in 0..60 {
        let program = statements(&mut Random::new(seed), 3);
        let mut body = String::new();
        emit(&mut body, &mut 0, &program);
        for word in 0..WORDS {
            writeln!(body, "mad.lo.u32 %s, %s, 31, %w{word};").unwrap();
        }
        for long in 0..LONGS {
            writeln!(body, "cvt.u32.u64 %t0, %l{long}; mad.lo.u32 %s, %s, 31, %t0;").unwrap();
        }
        let text = format!(
            ".reg .pred %c<9999>; .reg .b32 %w<{WORDS}>; .reg .b32 %t<9999>; .reg .b32 %s; .reg .b64 %l<{LONGS}>;\n\
             .reg .b64 %u<9999>; .reg .b16 %g<{HALVES}>; .reg .b16 %v<9999>; mov.u32 %w0, %tid.x; mul.lo.u32 %w1, %w0, 0x9e3779b1; shr.u32 %w2, %w1, 16;\n\
             cvt.u64.u32 %l0, %w1; mul.lo.u64 %l0, %l0, 0x9e3779b97f4a7c15;\n\
             {body}\nld.param.u64 %rd1, [out]; mul.wide.u32 %rd2, %w9, 0; mov.u32 %r1, %tid.x;\n\
             mul.wide.u32 %rd2, %r1, 4; add.u64 %rd1, %rd1, %rd2; st.global.u32 [%rd1], %s;"
        );
        let kernel = kernel("random", ".param .u64 out", &text);
        let expected: Vec<u32> = (0..THREADS).map(|thread| result(thread, &program)).collect();
        for policy in [Policy::RoundRobin, Policy::Random] {
            let mut cluster = tolerant(policy, seed);
            let out = zeroed(&mut cluster, 0, 4 * THREADS as usize, "out");
            let stream = stream(&mut cluster, 0);
            cluster.launch(stream, &kernel, Launch::linear(1, THREADS, vec![out.into()])).unwrap();
            cluster.run().unwrap_or_else(|error| panic!("{policy}, program {seed}: {error}"));
            let found = words(&mut cluster, out, THREADS as usize);
            assert_eq!(found, expected, "{policy}, program {seed}:\n{text}");
        }
    }
}

fn result(thread: u32, program: &[Statement]) -> u32 {
    let mut state = State { words: [0; WORDS], longs: [0; LONGS], halves: [0; HALVES] };
    state.words[0] = thread;
    state.words[1] = thread.wrapping_mul(0x9e37_79b1);
    state.words[2] = state.words[1] >> 16;
    state.longs[0] = u64::from(state.words[1]).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    run(&mut state, program);
    let longs = state.longs.iter().map(|long| *long as u32);
    state.words.iter().copied().chain(longs).fold(0, |sum: u32, word| sum.wrapping_mul(31).wrapping_add(word))
}

/// Eight lanes leave the body of a loop early. Its last block stands before its head.
#[test]
fn lanes_that_diverged_in_a_loop_meet_at_its_head() {
    let body = "
        mov.u32 %r1, %tid.x; mov.u32 %r2, 0; setp.gt.u32 %p1, %r1, 23; bra HEAD;
        NEXT: add.u32 %r2, %r2, 1;
        HEAD: setp.eq.u32 %p2, %r2, 10; @%p2 bra END;
        @%p1 bra NEXT;
        xor.b32 %r3, %r3, %r2;
        bra NEXT;
        END:";
    let mut cluster = cluster(1);
    let stream = stream(&mut cluster, 0);
    cluster.launch(stream, &kernel("meet", "", body), Launch::linear(1, 32, vec![])).unwrap();
    // Four before the loop; six in each of ten rounds; two at its end, and the return.
    assert_eq!(cluster.run().unwrap().instructions, 4 + 10 * 6 + 2 + 1);
}

/// A warp gets the registers of one that has exited; what is left in them is not seen.
#[test]
fn registers_that_nobody_wrote_are_zero_in_every_warp() {
    let body = "
        ld.param.u64 %rd1, [out]; mov.u32 %r1, %ctaid.x; mul.wide.u32 %rd2, %r1, 4; add.u64 %rd1, %rd1, %rd2;
        setp.eq.u32 %p1, %r1, 1000;
        @%p1 mov.u32 %r2, 7;
        add.u32 %r2, %r2, 1;
        st.global.u32 [%rd1], %r2;";
    let mut cluster = tolerant(Policy::RoundRobin, 0);
    let out = zeroed(&mut cluster, 0, 400, "out");
    let stream = stream(&mut cluster, 0);
    let kernel = kernel("zero", ".param .u64 out", body);
    cluster.launch(stream, &kernel, Launch::linear(100, 1, vec![out.into()])).unwrap();
    cluster.run().unwrap();
    assert_eq!(words(&mut cluster, out, 100), [1; 100]);
}
