//! What the groups of experts let a token reach, and how many groups would keep every one of them on one node.
//!
//! Invariant of [`finer`]: a file with the number that is advised is accepted: experts divide into it, and neither the best of a group nor the experts
//! of the chosen groups are fewer than the gate takes.

use moe_contract::Homes;
use moe_front::spec::Model;
use moe_gate::ir::{Gate, Masked, Op, Type};

/// How many groups a token may use, and of how many, if the gate limits its choice of experts to them.
pub(crate) fn group_limit(model: &Model) -> Option<(u32, u32)> {
    model.gate.facts().group_limit.zip(model.groups)
}

/// The most nodes that a token may reach.
pub(crate) fn most_nodes(model: &Model, homes: &Homes) -> u32 {
    let any = model.top_k().min(homes.topology().domains());
    match group_limit(model) {
        Some((chosen, groups)) => {
            any.min(homes.domains_of_groups(groups).iter().take(chosen as usize).sum::<u32>()).max(1)
        }
        None => any,
    }
}

/// The most nodes other than its own that a token may reach: it may start on a node without any of its experts.
pub(crate) fn most_remote_nodes(model: &Model, homes: &Homes) -> u32 {
    most_nodes(model, homes).min(homes.topology().domains() - 1)
}

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
