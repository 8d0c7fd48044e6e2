//! What the gate kernels of every example take, from the real assembler. `cargo test -p moe-kernels --test gate_usage -- --nocapture` prints it.

use moe_gate::derivative::derivative;
use moe_gate::ir::{Gate, InputKind, Op, Program};
use moe_kernels::assemble::assemble;
use moe_kernels::audit::audit;
use moe_kernels::gate::{self, GateKernel, GateLimit};
use moe_kernels::ptx::{Chip, Target};

mod common;

fn take(name: &str, kind: &str, kernel: &GateKernel) {
    for chip in Chip::ALL {
        let ptx = kernel.code.ptx(Target::of(chip)).unwrap_or_else(|error| panic!("{name} {kind}: {error}"));
        let findings: Vec<String> = audit(&ptx).iter().map(ToString::to_string).collect();
        assert!(findings.is_empty(), "{name} {kind} for {chip}: {findings:#?}");
        let assembled = assemble(&ptx, chip).unwrap_or_else(|error| panic!("{name} {kind} for {chip}: {error}"));
        let usage = assembled.usage;
        let sass = assembled.sass().unwrap_or_else(|error| panic!("{name} {kind} for {chip}: {error}"));
        let instructions =
            sass.lines().filter(|line| line.trim_start().starts_with("/*") && line.contains(';')).count();
        println!("{name:22} {kind:8} {chip:8} {:3} registers, {instructions:4} instructions", usage.registers);
        assert!(usage.stays_in_registers(), "{name} {kind} for {chip}: {usage:?}");
        // Static shared memory of a CTA is at most 48 KiB.
        assert!(usage.shared <= 48 << 10, "{name} {kind} for {chip}: {usage:?}");
    }
}

fn take_both(name: &str, gate: &Gate) {
    take(name, "forward", &gate::device_code(gate).unwrap_or_else(|error| panic!("{name}: {error}")));
    if let Some(backward) = derivative(gate) {
        let kernel = gate::backward_device_code(&backward).unwrap_or_else(|error| panic!("{name}: {error}"));
        take(name, "backward", &kernel);
    }
}

#[test]
fn every_example_stays_in_registers() {
    let gates = common::examples();
    assert!(gates.len() >= 15, "examples are missing");
    for (name, gate) in gates {
        take_both(&name, &gate);
    }
}

/// The most experts, and groups whose sizes force odd layouts: lanes that are not full, and up to 62 experts on a lane.
#[test]
fn large_and_odd_gates_stay_in_registers() {
    for (experts, groups, top_k) in [
        (1024, None, 32),
        (1024, Some(32), 8),
        (1023, Some(3), 8),
        (1023, Some(11), 32),
        (1023, Some(33), 32),
        (1021, Some(1), 8),
        (1020, Some(17), 8),
        (1000, Some(8), 9),
        (960, Some(8), 8),
        (60, Some(4), 4),
        (5, None, 2),
    ] {
        take_both(&format!("{experts} in {groups:?}"), &common::group_limited(experts, groups, top_k));
    }
}

#[test]
fn what_a_kernel_cannot_hold_is_told() {
    let gate = |experts, picks, logits: &[&str]| {
        let mut program = Program::new(experts, None);
        let inputs: Vec<_> = logits.iter().map(|name| program.declare(*name, InputKind::Logits)).collect();
        let logits = program.push(Op::Input(inputs[0])).expect("declared");
        let choice = program.push(Op::ChooseExperts { by: logits, count: picks, within: None }).expect("possible");
        let weights = program.push(Op::Gather { of: logits, at: choice }).expect("possible");
        gate::device_code(&Gate { program, choice, weights, before_experts: false }).map(|_| ())
    };
    assert_eq!(gate(1024, 32, &["logits"]), Ok(()));
    assert_eq!(gate(1025, 32, &["logits"]), Err(GateLimit::Experts { experts: 1025 }));
    assert_eq!(gate(64, 33, &["logits"]), Err(GateLimit::Picks { picks: 33 }));
    let second = GateLimit::SecondLogits { first: "logits".into(), second: "more".into() };
    assert_eq!(gate(64, 8, &["logits", "more"]), Err(second.clone()));
    assert_eq!(second.to_string(), "`more` are logits beside `logits`; a kernel takes one row of logits per token");
}
