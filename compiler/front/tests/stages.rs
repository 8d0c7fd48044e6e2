//! What each stage makes of a file, as text: `--emit ast`, `--emit spec`, `--emit gate`.

use moe_front::{check_source, dump_source};

/// Most of the language in one file.
const SOURCE: &str = include_str!("data/everything.moe");

#[test]
fn the_tree_of_a_file() {
    insta::assert_snapshot!(dump_source(SOURCE.as_bytes()).expect("the file can be read"));
}

#[test]
fn the_specification_of_a_file() {
    let checked = check_source(SOURCE.as_bytes());
    assert!(checked.diagnostics.is_empty(), "{:?}", checked.diagnostics);
    insta::assert_snapshot!(checked.spec.expect("there is no error"));
}

#[test]
fn the_gate_of_every_example() {
    insta::glob!("../../../dsl-examples", "*.moe", |path| {
        let source = std::fs::read(path).expect("the example is there");
        let spec = check_source(&source).spec.expect("every example checks");
        let gates: Vec<String> = spec.models.iter().map(|(_, model)| model.gate.to_string()).collect();
        insta::assert_snapshot!(gates.join("\n"));
    });
}
