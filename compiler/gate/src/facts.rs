//! What is true of a gate, whatever it is given: worked out here once, for checker, planner, kernels and explanations.
//!
//! Invariant: a fact is about the numbers as they are meant, of finite logits and parameters ([`Reading::Exact`]). In f32 a score can
//! underflow to what a masked expert counts as, or a logit of −∞ can make keys of −∞: then the two tie. A fact is no bound of memory.

use crate::ir::{Gate, Input, InputId, InputKind, Masked, Op, Program, Type, ValueId};
use crate::ranges::{Ranges, Reading};

/// Facts about a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The experts of a token lie in at most so many groups (fewer if it has fewer picks), where that is less than all of them: a choice
    /// of experts within chosen groups, in which no masked expert can come before one of theirs. A masked expert that counts as a number
    /// (`fill:`) can, unless every key is above that number.
    pub group_limit: Option<u32>,
    /// Whether the choice of experts treats all of them alike. Then, of logits that are independent and distributed equally, with
    /// parameters that are equal for all experts, every set of experts is equally probable.
    pub treats_experts_alike: bool,
    /// Numbers that a model learns beside the router's matrix: parameters that all tokens share, tables aside.
    pub learned: u64,
}

impl Gate {
    /// What is true of it.
    pub fn facts(&self) -> Facts {
        let program = &self.program;
        let is_learned = |kind: InputKind| !kind.is_per_token() && !matches!(kind, InputKind::Table { .. });
        let inputs = (0..).map(InputId).zip(program.inputs());
        let learned = inputs.filter(|(_, input)| is_learned(input.kind)).map(|(id, _)| program.length_of_input(id));
        Facts {
            group_limit: group_limit(self),
            treats_experts_alike: treats_experts_alike(self),
            learned: learned.sum(),
        }
    }
}

/// The most experts that any choice of a program takes.
pub fn most_picks(program: &Program) -> u32 {
    let picks = |(id, _): (ValueId, &Op)| match program.type_of(id) {
        Type::ExpertChoice(picks) => Some(picks),
        _ => None,
    };
    program.ops().filter_map(picks).max().unwrap_or(0)
}

/// How many token ids have a row in every table; `None` if there is no table.
pub fn vocabulary(program: &Program) -> Option<u32> {
    let rows = |input: &Input| match input.kind {
        InputKind::Table { vocabulary, .. } => Some(vocabulary),
        _ => None,
    };
    program.inputs().iter().filter_map(rows).min()
}

/// Whether the sum of numbers can be 0: each of them can be.
pub fn may_vanish(program: &Program, numbers: ValueId) -> bool {
    Ranges::of(program, Reading::Exact).get(numbers).holds(0.0)
}

fn group_limit(gate: &Gate) -> Option<u32> {
    let program = &gate.program;
    let Op::ChooseExperts { by, count, within: Some((groups, masked)) } = *program.op(gate.choice) else { return None };
    let chosen = program.length(program.type_of(groups));
    let counts_as = match masked {
        Masked::Infinity => f64::NEG_INFINITY,
        Masked::Fill(number) => f64::from(number),
    };
    let are_enough = u64::from(chosen) * u64::from(program.group_size()?) >= u64::from(count);
    let are_all = chosen == program.groups()?;
    let is_limit = are_enough && !are_all && Ranges::of(program, Reading::Exact).get(by).is_above(counts_as);
    is_limit.then_some(chosen)
}

/// Groups tell experts apart, and nothing else that is the same for all of them.
fn treats_experts_alike(gate: &Gate) -> bool {
    let program = &gate.program;
    let mut decides = vec![false; program.ops().len()];
    decides[gate.choice.0 as usize] = true;
    let operations: Vec<(ValueId, &Op)> = program.ops().collect();
    operations
        .into_iter()
        .rev()
        .filter(|(id, op)| {
            let decisive = decides[id.0 as usize];
            if decisive {
                op.operands().for_each(|operand| decides[operand.0 as usize] = true);
            }
            decisive
        })
        .all(|(id, op)| {
            let is_grouped = matches!(program.type_of(id), Type::Groups | Type::GroupChoice(_));
            !is_grouped && !matches!(op, Op::GroupLargestMask { .. })
        })
}
