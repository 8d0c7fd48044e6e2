//! The flow graph of a kernel, of one thread: basic blocks and the blocks that follow them.
//!
//! Invariant: every step is in exactly one block, blocks are in the order of their steps, and control enters a block only at
//! its first step and leaves it only after its last.

use std::ops::Range;

use super::op::{KernelCode, NO_GUARD, Op, Step};

pub(super) struct Block {
    pub steps: Range<usize>,
    /// Blocks by number.
    pub successors: Vec<u32>,
}

/// The blocks of a kernel whose branch targets are steps. A device function returns to behind every call.
pub(super) fn blocks(code: &KernelCode) -> Vec<Block> {
    let steps = &code.steps;
    let mut starts = vec![false; steps.len() + 1];
    starts[0] = true;
    for (at, step) in steps.iter().enumerate() {
        let targets = targets(step, &code.return_sites);
        if leaves(&step.op) {
            targets.for_each(|target| starts[target as usize] = true);
            starts[at + 1] = true;
        }
    }
    let mut of_step = vec![0; steps.len() + 1];
    let mut blocks: Vec<Block> = Vec::new();
    for at in 0..steps.len() {
        if starts[at] {
            blocks.push(Block { steps: at..at, successors: Vec::new() });
        }
        let number = blocks.len() - 1;
        blocks[number].steps.end = at + 1;
        of_step[at] = number as u32;
    }
    for block in &mut blocks {
        let last = block.steps.end - 1;
        let step = &steps[last];
        block.successors.extend(targets(step, &code.return_sites).map(|target| of_step[target as usize]));
        if block.steps.end < steps.len() && (step.guard != NO_GUARD || falls_through(&step.op)) {
            block.successors.push(of_step[last + 1]);
        }
        block.successors.sort_unstable();
        block.successors.dedup();
    }
    blocks
}

/// Whether control may go anywhere but to the next step.
fn leaves(op: &Op) -> bool {
    matches!(op, Op::Branch { .. } | Op::BranchIndexed { .. }) || !falls_through(op)
}

fn falls_through(op: &Op) -> bool {
    !matches!(
        op,
        Op::Branch { .. }
            | Op::BranchIndexed { .. }
            | Op::Call { .. }
            | Op::Return { .. }
            | Op::NoFunction(_)
            | Op::Exit
            | Op::Trap
    )
}

fn targets<'s>(step: &'s Step, return_sites: &'s [u32]) -> impl Iterator<Item = u32> + 's {
    let list: &[u32] = match &step.op {
        Op::Branch { target } | Op::Call { target, .. } => std::slice::from_ref(target),
        Op::BranchIndexed { targets, .. } => targets,
        Op::Return { .. } => return_sites,
        _ => &[],
    };
    list.iter().copied()
}
