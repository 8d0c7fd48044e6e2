//! Every page of `docs/errors/` tells the truth: its failing example gives exactly its code, its repaired one gives nothing.
//! The snapshots show what the user sees.

use std::cell::RefCell;
use std::path::Path;

use moe_decide::not_built;
use moe_front::diagnostics::render::render;
use moe_front::diagnostics::{Code, Diagnostics};
use moe_front::text::Screen;
use moe_front::{check_source, format_source};

/// A code block of a page: the words after its fence, and its text.
struct Example {
    info: Vec<String>,
    text: String,
}

impl Example {
    fn is(&self, word: &str) -> bool {
        self.info.iter().any(|other| other == word)
    }

    fn bytes(&self) -> Vec<u8> {
        if self.is("escaped") { unescaped(&self.text) } else { self.text.clone().into_bytes() }
    }

    fn diagnostics(&self) -> Diagnostics {
        let checked = check_source(&self.bytes());
        let mut diagnostics = checked.diagnostics;
        if self.is("build") {
            let spec = checked.spec.expect("what cannot be built is legal");
            not_built(&spec).into_iter().for_each(|problem| diagnostics.report(problem));
        }
        diagnostics
    }
}

/// `\xNN` is a byte, `\{text}{n}` is n times the text.
fn unescaped(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at + 1..];
        if let Some(hexadecimal) = rest.strip_prefix('x') {
            out.push(u8::from_str_radix(&hexadecimal[..2], 16).expect("two digits"));
            rest = &hexadecimal[2..];
        } else {
            let (repeated, more) = rest[1..].split_once("}{").expect("a text and a count");
            let (count, more) = more.split_once('}').expect("a count");
            out.extend(repeated.repeat(count.parse().expect("a number")).into_bytes());
            rest = more;
        }
    }
    out.extend_from_slice(rest.as_bytes());
    out
}

fn examples(page: &str) -> Vec<Example> {
    let mut found = Vec::new();
    let mut rest = page;
    while let Some((_, after)) = rest.split_once("```moe") {
        let (info, after) = after.split_once('\n').expect("a fence ends its line");
        let (text, after) = after.split_once("```").expect("a block ends");
        found.push(Example { info: info.split_whitespace().map(str::to_owned).collect(), text: text.to_owned() });
        rest = after;
    }
    found
}

fn page_of(path: &Path) -> (Code, Vec<Example>) {
    let id = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
    let code = Code::find(id).expect("each page belongs to a code");
    let page = std::fs::read_to_string(path).expect("the page is there");
    assert_eq!(page, code.explanation(), "`moec explain` shows the page");
    assert!(page.starts_with(&format!("# {id}: {}\n", code.title())), "{id} has its title");
    (code, examples(&page))
}

#[test]
fn failing_examples_give_exactly_their_code() {
    let wrong = RefCell::new(String::new());
    insta::glob!("../../../docs/errors", "*.md", |path| {
        let (code, examples) = page_of(path);
        let failing = examples.iter().find(|example| example.is("fails")).expect("a failing example");
        let diagnostics = failing.diagnostics();
        let shown = render("example.moe", &failing.bytes(), &diagnostics, &Screen::ENDLESS);
        let codes: Vec<Code> = diagnostics.iter().map(|diagnostic| diagnostic.code).collect();
        if codes.is_empty() || codes.iter().any(|other| *other != code) {
            wrong.borrow_mut().push_str(&format!("{code} gives\n{shown}"));
        }
        for diagnostic in &diagnostics {
            assert!(!diagnostic.labels.is_empty(), "{code} points at a place");
            assert!(diagnostic.help.is_some(), "{code} says what to write instead");
        }
        insta::assert_snapshot!(format!("{}\n{shown}", failing.text));
    });
    assert!(wrong.borrow().is_empty(), "{}", wrong.borrow());
}

#[test]
fn repaired_examples_give_nothing() {
    let wrong = RefCell::new(String::new());
    insta::glob!("../../../docs/errors", "*.md", |path| {
        let (code, examples) = page_of(path);
        let repaired: Vec<&Example> = examples.iter().filter(|example| !example.is("fails")).collect();
        assert_eq!(repaired.len(), 1, "{code} has one repaired example");
        let bytes = repaired[0].bytes();
        let diagnostics = repaired[0].diagnostics();
        let shown = render("example.moe", &bytes, &diagnostics, &Screen::ENDLESS);
        let formatted = format_source(&bytes).unwrap_or_default();
        if !diagnostics.is_empty() || formatted.as_bytes() != bytes {
            wrong.borrow_mut().push_str(&format!("the repaired example of {code} gives\n{shown}{formatted}"));
        }
    });
    assert!(wrong.borrow().is_empty(), "{}", wrong.borrow());
}

#[test]
fn every_code_has_a_page_and_the_registry_is_sorted() {
    let ids: Vec<&str> = Code::ALL.iter().map(|code| code.id()).collect();
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(ids, sorted);
    assert!(ids.len() >= 60);
    for code in Code::ALL {
        assert_eq!(examples(code.explanation()).len(), 2, "{code} has a failing and a repaired example");
    }
}
