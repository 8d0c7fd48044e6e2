//! Every file in `dsl-examples/` means something, without a single warning, and is in canonical form.
//! `MOE_BLESS=1 cargo test` rewrites files that are not.

use moe_compiler::diagnostics::render::{Style, render};
use moe_compiler::{check_source, format_source};

#[test]
fn examples_check_without_a_warning() {
    insta::glob!("../../dsl-examples", "*.moe", |path| {
        let source = std::fs::read(path).expect("the example is there");
        let checked = check_source(&source);
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        let shown = render(name, &source, &checked.diagnostics, Style::default());
        assert!(checked.diagnostics.is_empty(), "{shown}");
        let spec = checked.spec.expect("no error, so there is a specification");
        let deploy = spec.deploy("one_node").expect("every example has a deploy on one node");
        assert_eq!(spec.deploys[deploy].tokens.0, 128);
        assert_eq!(spec.clusters[spec.deploys[deploy].cluster].gpus(), 8);
    });
}

#[test]
fn gates_of_the_golden_vectors_check_without_a_warning() {
    insta::glob!("../../tests/data/gates", "*.moe", |path| {
        let source = std::fs::read(path).expect("the file is there");
        let checked = check_source(&source);
        let shown = render("gate.moe", &source, &checked.diagnostics, Style::default());
        assert!(checked.diagnostics.is_empty(), "{}\n{shown}", path.display());
        let spec = checked.spec.expect("no error, so there is a specification");
        let name = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
        assert!(spec.model(name).is_some(), "the model is called as its file");
        canonical(path);
    });
}

#[test]
fn examples_are_in_canonical_form() {
    insta::glob!("../../dsl-examples", "*.moe", |path| {
        canonical(path);
    });
}

/// A file is in canonical form, or becomes so.
fn canonical(path: &std::path::Path) {
    let source = std::fs::read_to_string(path).expect("the file is there");
    let formatted = format_source(source.as_bytes()).expect("the file can be read");
    if std::env::var_os("MOE_BLESS").is_some() {
        std::fs::write(path, &formatted).expect("the file can be written");
        return;
    }
    assert!(formatted == source, "{} should be written as\n{formatted}", path.display());
}
