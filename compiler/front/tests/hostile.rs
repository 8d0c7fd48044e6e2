//! Ten megabytes of anything: a diagnostic, never a crash or a hang.

use std::time::{Duration, Instant};

use moe_front::check_source;
use moe_front::diagnostics::render::{json, render};
use moe_front::text::Screen;

const SIZE: usize = 10_000_000;
/// Generous: the test profile is slow, and so may be the machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Ten megabytes of `repeated` between two texts give an error, soon.
fn survives(before: &str, repeated: &str, after: &str) {
    let mut source = String::with_capacity(SIZE + 100);
    source.push_str(before);
    source.push_str(&repeated.repeat(SIZE / repeated.len()));
    source.push_str(after);
    assert!(answers(source.as_bytes(), &format!("{before} {repeated} {after}")), "{before:?} {repeated:?} {after:?}");
}

/// Whether a file has an error, which is said soon and at no great length.
fn answers(source: &[u8], what: &str) -> bool {
    let start = Instant::now();
    let checked = check_source(source);
    let text = render("f.moe", source, &checked.diagnostics, &Screen::ENDLESS);
    assert!(text.len() < 1_000_000, "{what:?} is answered at length: {} bytes", text.len());
    let lines = json("f.moe", source, &checked.diagnostics);
    assert_eq!(lines.is_empty(), checked.diagnostics.is_empty());
    let took = start.elapsed();
    assert!(took < LIMIT, "{what:?} took {took:?}");
    checked.diagnostics.has_errors()
}

/// `part` with each number from 0, until it is ten megabytes long.
fn numbered(part: impl Fn(usize) -> String) -> String {
    let mut text = String::with_capacity(SIZE + 100);
    for index in 0.. {
        if text.len() > SIZE {
            break;
        }
        text.push_str(&part(index));
    }
    text
}

const GATE: &str = "gate(logits: f32[experts]) { let c = top(1, experts, by: logits) weights logits[c] }";
const CLUSTER: &str = "cluster c { nodes 4 gpus 8 per node gpu { target sm_90a sms 132 memory 80 GB }
    nvlink 160 GB/s rdma 50 GB/s per gpu }";

#[test]
fn ten_megabytes_of_brackets() {
    for bracket in ["{", "}", "(", ")", "[", "]", "{}", "([{"] {
        survives("", bracket, "");
    }
}

#[test]
fn ten_megabytes_inside_a_gate() {
    let gate = "model m { hidden 64 experts 8 gate(logits: f32[experts]) { let a = ";
    for repeated in ["(", "-", "[", "a+", "a[", "f(", "f(x,", "let a = ", "a ", "1", "1 ", "}", "\""] {
        survives(gate, repeated, "");
    }
    survives(gate, "logits + ", "logits } }");
}

#[test]
fn ten_megabytes_of_settings() {
    for repeated in
        ["hidden 64 ", "hidden ", "hiden 64\n", "experts 8 { zero 1..2 } ", "gate ", "gate( ", "dispatch { "]
    {
        survives("model m { ", repeated, "");
    }
    survives("model m { hidden 64 experts 8 { ", "zero 1..2 ", "} }");
}

#[test]
fn ten_megabytes_of_declarations() {
    for repeated in ["model ", "model m { } ", "deploy d of m on c { } ", "cluster c { }\n", "modle m { }\n"] {
        survives("", repeated, "");
    }
}

#[test]
fn ten_megabytes_of_different_names() {
    let values = numbered(|index| format!("let a{index} = logits "));
    let unknown: String = (0..300).map(|index| format!("let z{index} = b{index} ")).collect();
    let source = format!("model m {{ hidden 64 experts 8 gate(logits: f32[experts]) {{ {values} {unknown} }} }}");
    assert!(answers(source.as_bytes(), "values"));
    let models = numbered(|index| format!("model m{index} {{ hidden 64 experts 8 {GATE} }} "));
    assert!(!answers(models.as_bytes(), "models"), "as large as it is, it is right");
    let unknown: String = (0..300).map(|index| format!("deploy d{index} of n{index} on c {{ ep 8 }} ")).collect();
    assert!(answers(format!("{models} {unknown}").as_bytes(), "models and deploys"));
}

#[test]
fn ten_megabytes_of_warnings() {
    let grouped = "gate(logits: f32[experts]) { let best = top(2, groups, by: max(group(logits)))
        let c = top(8, experts in best, by: logits) weights softmax(logits[c]) }";
    let deploys = numbered(|index| format!("deploy d{index} of m on c {{ ep 32 tokens 1 per gpu }} "));
    let model = format!("model m {{ hidden 64 experts 1024 in 4 groups {grouped} }}");
    assert!(!answers(format!("{model} {CLUSTER} {deploys}").as_bytes(), "no warnings"));
    let model = format!("model m {{ hidden 64 experts 1022 in 2 groups {grouped} }}").replace("top(2, g", "top(1, g");
    let source = format!("{model} {CLUSTER} {deploys}");
    assert!(!answers(source.as_bytes(), "warnings of groups"));
    let checked = check_source(source.as_bytes());
    assert!(checked.spec.is_some() && checked.diagnostics.left_out() > 0);
}

#[test]
fn a_gate_of_ten_megabytes_is_not_run() {
    let values = numbered(|index| format!("let a{} = a{index} + logits ", index + 1));
    let last = values.matches("let").count();
    let source = format!(
        "model m {{ hidden 64 experts 1024 in 4 groups gate(logits: f32[experts]) {{ let a0 = exp(logits) {values}
            let best = top(2, groups, by: max(group(a{last})))
            let c = top(8, experts in best, by: logits) weights softmax(logits[c]) }} }}
        cluster c {{ nodes 8 gpus 8 per node gpu {{ target sm_90a sms 132 memory 80 GB }} nvlink 160 GB/s
            rdma 50 GB/s per gpu }}
        deploy d of m on c {{ ep 64 tokens 1 per gpu }}"
    );
    assert!(!answers(source.as_bytes(), "a long gate"), "it is legal, and its groups span two nodes");
    assert_eq!(check_source(source.as_bytes()).diagnostics.warnings(), 1);
}

#[test]
fn ten_megabytes_that_are_not_utf8() {
    for byte in [0x80, 0xC0, 0xFF] {
        assert!(answers(&vec![byte; SIZE], "bytes"));
        let mut late = " ".repeat(SIZE).into_bytes();
        late.push(byte);
        assert!(answers(&late, "a byte at the end"));
    }
    assert!(answers(&vec![b' '; 20_000_000], "twenty megabytes"));
}

#[test]
fn ten_megabytes_of_text() {
    for repeated in
        ["a", "a ", "1", "\"", "\0", "é", "\u{feff}", "/*", "#", ".", "\n", "// c\n", "x\n", "1.", ";", "\t"]
    {
        survives("", repeated, "");
    }
}
