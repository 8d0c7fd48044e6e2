//! A file full of mistakes that people make: all are reported in one run, each in its place, as text and for tools.

use moe_front::diagnostics::render::{json, render};
use moe_front::diagnostics::{Code, Severity};
use moe_front::text::Screen;
use moe_front::{check_source, explain, format_source};

const SOURCE: &str = include_str!("data/mistakes.moe");

#[test]
fn every_mistake_of_a_file_is_reported_at_once() {
    let checked = check_source(SOURCE.as_bytes());
    assert!(checked.spec.is_none());
    insta::assert_snapshot!(render("mistakes.moe", SOURCE.as_bytes(), &checked.diagnostics, &Screen::ENDLESS));
    assert!(format_source(SOURCE.as_bytes()).is_err(), "a file that cannot be read is not formatted");
}

#[test]
fn for_tools_each_diagnostic_is_an_object_with_the_documented_keys() {
    let source = "model é {\n    hidden 64 experts 8\n    gate(logits: f32[experts]) { weights logits[top(2, experts, by: logit)] }\n}\n";
    let source = source.replace('é', "m // é\n");
    let checked = check_source(source.as_bytes());
    let lines = json("dir/m.moe", source.as_bytes(), &checked.diagnostics);
    let [line] = lines.lines().collect::<Vec<_>>()[..] else { panic!("one line: {lines}") };
    let value: serde_json::Value = serde_json::from_str(line).expect("each line is JSON");
    let start = source.find("logit)").expect("the mistake");
    assert_eq!(
        value,
        serde_json::json!({
            "file": "dir/m.moe",
            "code": "M0201",
            "severity": "error",
            "title": "`logit` is not defined",
            "labels": [{ "text": "misspelt?", "start": start, "end": start + 5, "line": 4, "column": 69 }],
            "notes": [],
            "help": "did you mean `logits`?",
            "fix": { "start": start, "end": start + 5, "text": "logits" },
        })
    );
    // The documentation names exactly these keys.
    let reference = include_str!("../../../docs/language.md");
    for key in value.as_object().expect("an object").keys() {
        assert!(reference.contains(&format!("| `{key}` |")), "{key}");
    }
    for key in value["labels"][0].as_object().expect("an object").keys() {
        assert!(reference.contains(&format!("`{key}`")), "{key}");
    }
}

#[test]
fn a_warning_leaves_a_specification() {
    let source = "model m { hidden 64 experts 8 gate(logits: f32[experts]) {
        let unused = exp(logits) let c = top(2, experts, by: logits) weights softmax(logits[c]) } }";
    let checked = check_source(source.as_bytes());
    assert!(checked.spec.is_some());
    let [warning] = checked.diagnostics.iter().collect::<Vec<_>>()[..] else { panic!("{:?}", checked.diagnostics) };
    assert_eq!((warning.code, warning.severity), (Code::UnusedValue, Severity::Warning));
}

#[test]
fn line_ends_and_a_byte_order_mark_change_nothing() {
    let example = include_str!("../../../dsl-examples/deepseek_v3.moe");
    let other = format!("\u{feff}{}", example.replace('\n', "\r\n"));
    assert!(check_source(other.as_bytes()).diagnostics.is_empty());
    assert_eq!(format_source(other.as_bytes()).ok().as_deref(), Some(example));
}

#[test]
fn a_code_is_explained_in_any_case_and_nothing_else_is() {
    assert!(explain("M0606").is_some_and(|page| page.starts_with("# M0606: a group of experts on several nodes")));
    assert_eq!(explain("m0606"), explain("M0606"));
    assert_eq!(explain("M9999"), None);
    assert_eq!(explain(""), None);
}

#[test]
fn the_picture_can_be_drawn_in_ascii_and_in_colour() {
    let source = b"model m { hiden 64 }";
    let diagnostics = check_source(source).diagnostics;
    let ascii = render("m.moe", source, &diagnostics, &Screen { ascii: true, ..Screen::ENDLESS });
    assert!(ascii.is_ascii() && ascii.contains("-> m.moe:1:11"), "{ascii}");
    let colour = render("m.moe", source, &diagnostics, &Screen { colour: true, ..Screen::ENDLESS });
    assert!(colour.contains("\u{1b}["), "{colour}");
}
