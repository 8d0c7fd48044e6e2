//! The text of one small gate, so that a change of the emitted code is seen.

use moe_gate::ir::{Gate, InputKind, Op, Program};
use moe_kernels::gate;
use moe_kernels::ptx::{Chip, Target};

/// The larger of two logits: sixteen tokens in a warp.
#[test]
fn the_larger_of_two() {
    let mut program = Program::new(2, None);
    let logits = program.declare("logits", InputKind::Logits);
    let logits = program.push(Op::Input(logits)).expect("declared");
    let choice = program.push(Op::ChooseExperts { by: logits, count: 1, within: None }).expect("possible");
    let weights = program.push(Op::Gather { of: logits, at: choice }).expect("possible");
    let gate = Gate { program, choice, weights, before_experts: false };
    let kernel = gate::device_code(&gate).expect("it fits");
    assert_eq!(kernel.grid.ctas(1000), 16, "64 tokens for each CTA of four warps");
    insta::assert_snapshot!(kernel.code.ptx(Target::of(Chip::Sm90a)).expect("it is sound"));
}
