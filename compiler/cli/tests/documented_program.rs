//! The program of `docs/runtime.md` is the example that is compiled here, and it gives what its expert function means.

mod support;

#[allow(dead_code, reason = "`main` reads the command line")]
#[path = "../../../runtime/examples/forward.rs"]
mod program;

use moe_lower::{Choice, compile};
use support::{HIDDEN, SMALL, workspace};

const PROGRAM: &str = include_str!("../../../runtime/examples/forward.rs");

#[test]
fn the_documentation_shows_the_program() {
    let page = std::fs::read_to_string(workspace().join("docs/runtime.md")).expect("the page");
    assert!(
        page.contains(&format!("```rust\n{PROGRAM}```")),
        "docs/runtime.md has runtime/examples/forward.rs as it is"
    );
    assert!(PROGRAM.lines().count() < 40, "{} lines", PROGRAM.lines().count());
}

/// All tokens are alike, so that every one gets Σ weight × id of its experts, in bf16.
#[test]
fn the_program_runs() {
    let bundle = compile(SMALL, &Choice::default()).expect("the file can be built").bundle;
    let result = program::forward(&bundle, 4).expect("all is well");
    assert_eq!(result.len(), 4);
    // By hand: sigmoid(sin(e / 3)) rises up to e = 5; groups (4, 5) and (6, 7) have the largest sums; of them 4, 5 and 6 are chosen.
    let score = |expert: u32| 1.0 / (1.0 + (-(f64::from(expert) / 3.0).sin()).exp());
    let sum: f64 = [4, 5, 6].map(score).iter().sum();
    let wanted: f64 = [4, 5, 6].map(|expert| score(expert) / sum * f64::from(expert)).iter().sum();
    for bytes in &result {
        assert_eq!(bytes.len(), 4 * HIDDEN * 2);
        let values: Vec<half::bf16> = bytemuck::allocation::pod_collect_to_vec(bytes);
        for value in values {
            assert!((value.to_f64() - wanted).abs() < 0.04, "{value} is not {wanted}");
        }
    }
}
