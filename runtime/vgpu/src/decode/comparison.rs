//! What a loaded value is compared with, for the report of a loop that polls it: the first `setp` behind the load that uses
//! its register, or a copy of it.

use super::op::{Comparison, KernelCode, Op, PREDICATE_FLAG, Reg};

const LOOK_AHEAD: usize = 24;

/// The comparisons of all loads of a kernel, by load. `uses` and `defines` are the operands of its steps.
pub(super) fn comparisons(code: &KernelCode, uses: &[Box<[u32]>], defines: &[Box<[u32]>]) -> Vec<Comparison> {
    (0..code.steps.len()).filter_map(|load| comparison(code, uses, defines, load)).collect()
}

fn comparison(code: &KernelCode, uses: &[Box<[u32]>], defines: &[Box<[u32]>], load: usize) -> Option<Comparison> {
    let (Op::Load(_) | Op::Atomic(_)) = &code.steps[load].op else { return None };
    let mut carriers: Vec<u32> = defines[load].to_vec();
    let first = load + 1;
    for step in first..(first + LOOK_AHEAD).min(code.steps.len()) {
        if !uses[step].iter().any(|used| carriers.contains(used)) {
            continue;
        }
        let form = code.form(step as u32);
        if form.starts_with("setp") {
            let row = *uses[step].iter().find(|used| **used & PREDICATE_FLAG == 0 && !carriers.contains(used))?;
            let other = Reg { row, bytes: if form.ends_with("64") { 8 } else { 4 } };
            return Some(Comparison { load: load as u32, step: step as u32, other });
        }
        if form.starts_with("mov") || form.starts_with("cvt") {
            carriers.extend(defines[step].iter());
        }
    }
    None
}
