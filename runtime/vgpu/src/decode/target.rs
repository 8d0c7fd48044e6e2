//! Which GPUs have an instruction: one that is newer than the module's `.target` is refused, as the assembler refuses it.
//!
//! Invariant: what is not listed here is on every GPU since `sm_70`, the oldest that runs what this crate decodes.

use crate::ptx::ast::{Instruction, Module};

/// The number of the module's target, such as 90 of `sm_90a`.
pub(super) fn of_module(module: &Module) -> Option<u32> {
    let mut names = module.targets.iter().filter_map(|name| name.strip_prefix("sm_"));
    names.find_map(|name| name.trim_end_matches(|c: char| c.is_ascii_lowercase()).parse().ok())
}

/// The first target that has an instruction.
pub(super) fn first_with(instruction: &Instruction) -> u32 {
    let has = |word: &str| instruction.modifiers.iter().any(|modifier| modifier == word);
    let any = |words: &[&str]| words.iter().any(|word| has(word));
    let of_opcode = match instruction.opcode.as_str() {
        "elect" | "griddepcontrol" | "setmaxnreg" => 90,
        "cp" if has("cp_mask") => 100,
        "cp" if any(&["bulk", "reduce"]) => 90,
        "cp" | "redux" => 80,
        "mbarrier" if any(&["try_wait", "expect_tx", "complete_tx"]) => 90,
        "mbarrier" => 80,
        "fence" if any(&["proxy", "mbarrier_init", "acquire", "release"]) => 90,
        "st" | "red" if has("async") && has("release") => 100,
        "st" if has("bulk") => 100,
        "mapa" | "getctarank" => 90,
        "barrier" if has("cluster") => 90,
        "st" | "red" if has("async") => 90,
        "ld" | "st" if has("v8") || has("v4") && any(&["b64", "u64", "s64", "f64"]) => 100,
        "red" | "atom" if any(&["bf16", "bf16x2"]) => 90,
        "atom" if has("b128") => 90,
        "ld" | "st" if has("b128") => 70,
        "cvt" if any(&["e4m3x2", "e5m2x2"]) => 89,
        "cvt" if any(&["bf16", "bf16x2"]) => 80,
        "add" | "sub" | "mul" if any(&["bf16", "bf16x2"]) => 90,
        "fma" | "min" | "max" | "abs" | "neg" if any(&["bf16", "bf16x2"]) => 80,
        "tanh" | "ex2" if any(&["f16", "f16x2"]) => 75,
        _ => 70,
    };
    let of_scope = if has("cluster") || has("shared::cluster") { 90 } else { 70 };
    of_opcode.max(of_scope)
}
