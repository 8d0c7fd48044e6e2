//! How many groups would keep every group of experts on one node.
//!
//! Invariant: a file with the number that is advised is accepted: experts divide into it, and neither the best of a group nor the experts
//! of the chosen groups are fewer than the gate takes.

use moe_compiler::spec::Model;
use moe_contract::Homes;
use moe_gate::ir::{Gate, Masked, Op, Type};

/// The fewest groups, more than there are, each of which lies on one node.
pub(crate) fn finer(model: &Model, homes: &Homes) -> Option<u32> {
    let suits = |groups: &u32| {
        model.experts.is_multiple_of(*groups)
            && homes.domains_of_groups(*groups).first() == Some(&1)
            && has_enough(&model.gate, model.experts / groups)
    };
    (model.groups? + 1..=model.experts).find(suits)
}

/// Whether groups of so many experts have as many as the gate takes of them.
fn has_enough(gate: &Gate, size: u32) -> bool {
    gate.program.ops().all(|(_, op)| match *op {
        Op::GroupReduce { top: Some(best), .. } => best <= size,
        Op::ChooseExperts { count, within: Some((choice, Masked::Infinity)), .. } => {
            matches!(gate.program.type_of(choice), Type::GroupChoice(chosen) if count <= chosen * size)
        }
        _ => true,
    })
}
