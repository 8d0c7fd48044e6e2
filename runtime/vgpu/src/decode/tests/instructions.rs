//! The files in `tests/instructions`, without the engine. What they expect was worked out from the PTX ISA by hand, or with
//! arithmetic of the `half` crate.

#[path = "../../../tests/instructions/cases.rs"]
mod cases;

use super::evaluate::stores;
use crate::decode::module;

fn check(name: &str, file: &str) {
    let cases = cases::Case::parse(file);
    let text = cases::kernel(&cases);
    let program = module(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
    let found = stores(&program.kernels[0]);
    let differences = cases::differences(&cases, &found);
    assert!(differences.is_empty(), "{name}: {} differ:\n{}", differences.len(), differences.join("\n"));
    super::assemble(name, &text);
}

#[test]
fn integer() {
    check("integer", include_str!("../../../tests/instructions/integer.txt"));
}

#[test]
fn bits() {
    check("bits", include_str!("../../../tests/instructions/bits.txt"));
}

#[test]
fn floating() {
    check("floating", include_str!("../../../tests/instructions/floating.txt"));
}

#[test]
fn conversion() {
    check("conversion", include_str!("../../../tests/instructions/conversion.txt"));
}

#[test]
fn moves() {
    check("moves", include_str!("../../../tests/instructions/moves.txt"));
}
