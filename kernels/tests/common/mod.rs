//! Gates for the tests of the gate kernels.
#![allow(dead_code, reason = "each test uses a part of this")]

use std::path::{Path, PathBuf};

use moe_gate::ir::{Binary, Gate, InputKind, Masked, Op, Program, Reduction, Unary};

/// The files of a folder of the repository with an ending, sorted.
pub fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    let entries = std::fs::read_dir(folder).expect("the folder is there");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    paths.sort();
    paths
}

/// The gates of a `.moe` file, through the front end.
pub fn gates(path: &Path) -> Vec<(String, Gate)> {
    let checked = moe_front::check_source(&std::fs::read(path).expect("the file is there"));
    let spec = checked.spec.unwrap_or_else(|| panic!("{} has an error", path.display()));
    spec.models.iter().map(|(_, model)| (model.name.clone(), model.gate.clone())).collect()
}

/// The gates of all examples.
pub fn examples() -> Vec<(String, Gate)> {
    files("dsl-examples", "moe").iter().flat_map(|path| gates(path)).collect()
}

/// The gate of DeepSeek-V3 in another size: half of the groups, or the only one, by their two best.
pub fn group_limited(experts: u32, groups: Option<u32>, top_k: u32) -> Gate {
    let mut program = Program::new(experts, groups);
    let logits = program.declare("logits", InputKind::Logits);
    let bias = program.declare("bias", InputKind::ExpertParameter);
    let mut push = |op| program.push(op).expect("well-formed");
    let (logits, bias) = (push(Op::Input(logits)), push(Op::Input(bias)));
    let score = push(Op::Unary(Unary::Sigmoid, logits));
    let by = push(Op::Binary(Binary::Add, score, bias));
    let within = groups.map(|groups| {
        let best = push(Op::GroupReduce { of: by, top: Some(2), reduction: Reduction::Sum });
        (push(Op::ChooseGroups { by: best, count: (groups / 2).max(1) }), Masked::Infinity)
    });
    let choice = push(Op::ChooseExperts { by, count: top_k, within });
    let chosen = push(Op::Gather { of: score, at: choice });
    let sum = push(Op::Reduce(Reduction::Sum, chosen));
    let weights = push(Op::Binary(Binary::Divide, chosen, sum));
    Gate { program, choice, weights, before_experts: false }
}
