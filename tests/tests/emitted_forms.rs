//! Whatever instruction the kernels of the examples use, the virtual GPU's own tests execute it against an expectation.

use std::collections::BTreeSet;

use moe_front::check_source;
use moe_front::spec::Target;
use moe_lower::{Choice, Timings, compile_spec};
use moe_tests::{examples, root};

#[path = "../../runtime/vgpu/tests/instructions/statements.rs"]
#[allow(dead_code, reason = "shared with the tests of the virtual GPU")]
mod statements;

fn forms(ptx: &str) -> BTreeSet<String> {
    let text: Vec<&str> = ptx.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    statements::forms(&text.join("\n")).into_iter().map(str::to_owned).collect()
}

/// The forms in the virtual GPU's files of cases; its test `without_any_form_an_expectation_fails` holds them to account.
fn tested() -> BTreeSet<String> {
    let files = std::fs::read_dir(root().join("runtime/vgpu/tests/instructions")).expect("the files of cases");
    let paths = files.map(|file| file.expect("the folder can be read").path());
    let texts = paths.filter(|path| path.extension().is_some_and(|extension| extension == "txt"));
    let texts: Vec<String> = texts.map(|path| std::fs::read_to_string(path).expect("cases are text")).collect();
    let lines = texts.iter().flat_map(|text| text.lines().filter(|line| !line.starts_with('#')));
    lines.flat_map(|line| forms(line.split(" |").next().unwrap_or_default())).collect()
}

#[test]
fn the_virtual_gpu_tests_every_instruction_of_the_examples() {
    let tested = tested();
    let mut emitted = BTreeSet::new();
    for (_, text) in examples() {
        let spec = check_source(text.as_bytes()).spec.expect("examples are right");
        let choice = Choice {
            deploy: Some("one_node".into()),
            targets: vec![Target::Sm90a, Target::Sm100a],
            ..Choice::default()
        };
        let images = compile_spec(&spec, &choice, &mut Timings::default()).expect("examples compile");
        emitted.extend(forms(&images.text()));
    }
    let missing: Vec<&String> = emitted.difference(&tested).collect();
    assert!(missing.is_empty(), "add cases to runtime/vgpu/tests/instructions: {missing:#?}");
    assert!(emitted.len() > 80, "{} forms", emitted.len());
}
