//! What LLVM 22 emits. `tests/data/llvm/breadth.cu` touches much of the NVPTX back end; its PTX is made with
//! `clang-22 -x cuda --cuda-device-only --cuda-gpu-arch=sm_90a -nocudainc -nocudalib -O$n -S -Xclang -target-feature
//! -Xclang +ptx86`.

use super::super::module;
use crate::decode::op::{Op, Relocation, SystemFunction};

#[test]
fn optimised_and_plain_code_decodes() {
    for (name, text) in [
        ("O0", include_str!("../../../tests/data/llvm/breadth.O0.ptx")),
        ("O2", include_str!("../../../tests/data/llvm/breadth.O2.ptx")),
    ] {
        let program = module(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let names: Vec<&str> = program.kernels.iter().map(|kernel| kernel.name.as_str()).collect();
        assert_eq!(names, ["k1", "k2", "k3", "k4"], "{name}");
        let k1 = &program.kernels[0];
        let parameters: Vec<(u32, u32)> = k1.parameters.iter().map(|p| (p.offset, p.bytes)).collect();
        assert_eq!(parameters, [(0, 32), (32, 8), (40, 4)], "{name}: a struct by value, a pointer, a number");
        let variable = |name: &str| program.variables.iter().position(|variable| variable.name == name);
        let table = variable("table").expect("table");
        let bytes: Vec<u8> = (1..=8u32).flat_map(u32::to_le_bytes).collect();
        let mut initial = program.variables[table].initial.clone();
        initial.resize(program.variables[table].bytes as usize, 0);
        assert_eq!(initial, bytes);
        let pointers = variable("pointers").expect("pointers");
        let relocation = |at, offset| Relocation { at, target: table as u32, offset };
        assert_eq!(program.variables[pointers].relocations, [relocation(0, 0), relocation(8, 12)]);
        assert_eq!(program.kernels[1].shared_static - crate::decode::op::SHARED_BASE, 1024, "{name}");
    }
}

/// Debugging directives, `vprintf`, and a kernel that traps.
#[test]
fn code_with_debug_information_decodes() {
    let text = include_str!("../../../tests/data/llvm/debug.O2.ptx");
    assert!(text.contains(".loc") && text.contains(".section") && text.contains("vprintf"));
    let program = module(text).unwrap_or_else(|error| panic!("{error}"));
    let kernel = &program.kernels[0];
    let count = |wanted: fn(&Op) -> bool| kernel.steps.iter().filter(|step| wanted(&step.op)).count();
    assert_eq!(count(|op| matches!(op, Op::System(call) if call.function == SystemFunction::Print)), 1);
    assert_eq!(count(|op| matches!(op, Op::Trap)), 1);
}
