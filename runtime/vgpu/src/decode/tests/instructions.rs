//! The files in `tests/instructions`, without the engine. What they expect was worked out from the PTX ISA by hand, or with
//! arithmetic of the `half` crate. NVIDIA's assembler takes all of them.

#[path = "../../../tests/instructions/cases.rs"]
#[allow(dead_code, reason = "what the tests with an engine need too")]
mod cases;
#[path = "../../../tests/instructions/lanes.rs"]
#[allow(dead_code, reason = "what the tests with an engine need too")]
mod lanes;
#[path = "../../../tests/instructions/statements.rs"]
#[allow(dead_code, reason = "what the tests with an engine need too")]
mod statements;

use super::evaluate::stores;
use crate::decode::module;
use crate::semantics::wide::tests::with_both;

fn check(name: &str, file: &str) {
    let cases = cases::Case::parse(file);
    let text = cases::kernel(&cases);
    let found = with_both(|| {
        let program = module(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        stores(&program.kernels[0])
    });
    for found in found {
        let differences = cases::differences(&cases, &found);
        assert!(differences.is_empty(), "{name}: {} differ:\n{}", differences.len(), differences.join("\n"));
    }
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

#[test]
fn instructions_on_lanes_and_memory_assemble() {
    for (name, file, threads) in [
        ("warp", include_str!("../../../tests/instructions/warp.txt"), 32),
        ("memory", include_str!("../../../tests/instructions/memory.txt"), 32),
        ("atomic", include_str!("../../../tests/instructions/atomic.txt"), 32),
        ("cta", include_str!("../../../tests/instructions/cta.txt"), 64),
    ] {
        let cases = lanes::Case::parse(file, threads);
        let kernels: String = cases.iter().map(|case| case.kernel(&format!("line{}", case.line)).0).collect();
        super::assemble(name, &format!("{}{kernels}", lanes::HEADER));
    }
}
