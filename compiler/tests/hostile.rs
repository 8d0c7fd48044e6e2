//! Ten megabytes of anything: a diagnostic, never a crash or a hang.

use std::time::{Duration, Instant};

use moe_compiler::check_source;
use moe_compiler::diagnostics::render::{Style, json, render};

const SIZE: usize = 10_000_000;
/// Generous: the test profile is slow, and so may be the machine.
const LIMIT: Duration = Duration::from_secs(60);

fn survives(before: &str, repeated: &str, after: &str) {
    let mut source = String::with_capacity(SIZE + 100);
    source.push_str(before);
    source.push_str(&repeated.repeat(SIZE / repeated.len()));
    source.push_str(after);
    let start = Instant::now();
    let checked = check_source(source.as_bytes());
    assert!(checked.diagnostics.has_errors(), "{before:?} {repeated:?} {after:?} is no file");
    let text = render("f.moe", source.as_bytes(), &checked.diagnostics, Style::default());
    assert!(text.len() < 1_000_000, "{repeated:?} is answered at length: {} bytes", text.len());
    assert!(!json("f.moe", source.as_bytes(), &checked.diagnostics).is_empty());
    let took = start.elapsed();
    eprintln!("TIMED {took:?} {before:.10?} {repeated:?}");
    assert!(took < LIMIT, "{before:?} {repeated:?} {after:?} took {took:?}");
}

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
fn ten_megabytes_of_text() {
    for repeated in
        ["a", "a ", "1", "\"", "\0", "é", "\u{feff}", "/*", "#", ".", "\n", "// c\n", "x\n", "1.", ";", "\t"]
    {
        survives("", repeated, "");
    }
}
