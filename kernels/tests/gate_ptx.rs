//! The text of one gate of each family, so that a change of the emitted code is seen: several tokens in a warp, one token with several
//! experts on a lane, groups on lanes of their own, a table, and the gradient.

use moe_gate::derivative::derivative;
use moe_gate::ir::{Gate, InputKind, Op, Program};
use moe_kernels::gate::{self, GateKernel};
use moe_kernels::ptx::{Chip, Target};

mod common;

fn ptx(kernel: &GateKernel) -> String {
    kernel.code.ptx(Target::of(Chip::Sm90a)).expect("it is sound")
}

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
    insta::assert_snapshot!(ptx(&kernel));
}

/// The largest of 96 logits, three on each lane.
fn largest_of_many() -> Gate {
    let mut program = Program::new(96, None);
    let logits = program.declare("logits", InputKind::Logits);
    let logits = program.push(Op::Input(logits)).expect("declared");
    let choice = program.push(Op::ChooseExperts { by: logits, count: 2, within: None }).expect("possible");
    let weights = program.push(Op::Gather { of: logits, at: choice }).expect("possible");
    Gate { program, choice, weights, before_experts: false }
}

#[test]
fn many_experts() {
    insta::assert_snapshot!(ptx(&gate::device_code(&largest_of_many()).expect("it fits")));
}

#[test]
fn the_gradient_of_many_experts() {
    let backward = derivative(&largest_of_many()).expect("it has logits");
    insta::assert_snapshot!(ptx(&gate::backward_device_code(&backward).expect("it fits")));
}

#[test]
fn experts_in_groups() {
    let gate = common::group_limited(16, Some(4), 2);
    insta::assert_snapshot!(ptx(&gate::device_code(&gate).expect("it fits")));
}

#[test]
fn experts_of_a_table() {
    let mut program = Program::new(4, None);
    let logits = program.declare("logits", InputKind::Logits);
    let table = program.declare("table", InputKind::Table { vocabulary: 100, k: 2 });
    let token = program.declare("token_id", InputKind::TokenId);
    let logits = program.push(Op::Input(logits)).expect("declared");
    let choice = program.push(Op::LookUp { table, token }).expect("possible");
    let weights = program.push(Op::Gather { of: logits, at: choice }).expect("possible");
    let gate = Gate { program, choice, weights, before_experts: false };
    insta::assert_snapshot!(ptx(&gate::device_code(&gate).expect("it fits")));
}
