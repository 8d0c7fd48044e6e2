//! Which functions call which: what may be called through a register, and which calls may come back to their caller.
//!
//! Invariant: a call that is not recursive here never reaches the function that makes it, whatever the registers hold.

use std::collections::{HashMap, HashSet};

use crate::ptx::ast::{Function, Initial, Module, Operand, Statement, VariableSpace};

/// An address that no memory has: that of the function with a number.
pub(super) fn address(function: usize) -> u64 {
    const CODE: u64 = 7 << 60;
    CODE | (function as u64 + 1) << 4
}

/// The calls of a module, by number of function.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// Functions whose address is taken.
    pub taken: Vec<usize>,
    /// Functions that may call each other, directly or not, have the same number.
    group: Vec<usize>,
    /// Functions that may come back to themselves.
    recursive: Vec<bool>,
    /// Functions with a frame on the stack: they take memory from it, or their variables are at another place in each of their calls.
    framed: Vec<bool>,
    /// Whether there are such functions.
    pub any_frame: bool,
}

/// What a body says.
#[derive(Default)]
struct Said {
    calls: HashSet<usize>,
    taken: HashSet<usize>,
    indirect: bool,
    allocates: bool,
}

impl Calls {
    pub fn of(module: &Module, functions: &HashMap<&str, usize>) -> Calls {
        let mut said: Vec<Said> = module.functions.iter().map(|_| Said::default()).collect();
        let mut taken: HashSet<usize> = HashSet::new();
        for (said, function) in said.iter_mut().zip(&module.functions) {
            if let Some(body) = &function.body {
                look(body, functions, said);
            }
            taken.extend(&said.taken);
        }
        for value in module.variables.iter().flat_map(|variable| &variable.initial) {
            if let Initial::Symbol(name, _) = value {
                taken.extend(functions.get(name.as_str()));
            }
        }
        let mut taken: Vec<usize> = taken.into_iter().collect();
        taken.sort_unstable();
        // A call through a register goes by way of one more number, behind those of the functions.
        let any = said.len();
        let of_one = |said: &Said| said.calls.iter().copied().chain(said.indirect.then_some(any)).collect();
        let mut edges: Vec<Vec<usize>> = said.iter().map(of_one).collect();
        edges.push(taken.clone());
        let group = groups(&edges);
        let recursive: Vec<bool> =
            edges.iter().enumerate().map(|(from, to)| to.iter().any(|to| group[*to] == group[from])).collect();
        let has_variables = |function: &Function| function.body.as_ref().is_some_and(|body| frame_bytes(body).0 > 0);
        let framed: Vec<bool> = said
            .iter()
            .zip(&recursive)
            .zip(&module.functions)
            .map(|((said, recursive), function)| said.allocates || *recursive && has_variables(function))
            .collect();
        let any_frame = framed.contains(&true);
        Calls { taken, group, recursive, framed, any_frame }
    }

    /// Whether a call may come back to its caller before it returns.
    pub fn comes_back(&self, caller: usize, callee: usize) -> bool {
        self.group.get(caller) == self.group.get(callee) && self.is_recursive(caller)
    }

    pub fn is_recursive(&self, function: usize) -> bool {
        self.recursive.get(function).copied().unwrap_or(false)
    }

    pub fn has_frame(&self, function: usize) -> bool {
        self.framed.get(function).copied().unwrap_or(false)
    }
}

/// Bytes and alignment of the variables of a body, in their order.
pub(super) fn frame_bytes(body: &[Statement]) -> (u64, u64) {
    body.iter().fold((0, 16), |(bytes, align), statement| match statement {
        Statement::Variable(variable) if variable.space == VariableSpace::Local => {
            let own = u64::from(variable.align.max(1));
            (bytes.next_multiple_of(own).saturating_add(variable.bytes), align.max(own))
        }
        Statement::Block(inner) => {
            let (more, own) = frame_bytes(inner);
            (bytes.next_multiple_of(own).saturating_add(more), align.max(own))
        }
        _ => (bytes, align),
    })
}

fn look(body: &[Statement], functions: &HashMap<&str, usize>, said: &mut Said) {
    let named = |operand: Option<&Operand>| match operand {
        Some(Operand::Name(name)) => functions.get(name.as_str()).copied(),
        _ => None,
    };
    for statement in body {
        match statement {
            Statement::Block(inner) => look(inner, functions, said),
            Statement::BranchTargets(_, names, _) => {
                let listed = names.iter().filter_map(|name| functions.get(name.as_str()));
                said.taken.extend(listed);
            }
            Statement::Instruction(instruction) => match instruction.opcode.as_str() {
                "call" => {
                    let callee = instruction.operands.iter().find(|operand| matches!(operand, Operand::Name(_)));
                    match named(callee) {
                        Some(function) => _ = said.calls.insert(function),
                        None => said.indirect = true,
                    }
                }
                "mov" => said.taken.extend(named(instruction.operands.get(1))),
                "alloca" | "stackrestore" => said.allocates = true,
                _ => {}
            },
            _ => {}
        }
    }
}

/// A number for each function, the same for those that reach each other.
fn groups(edges: &[Vec<usize>]) -> Vec<usize> {
    // Kosaraju: in the order in which a first search leaves them, latest first, against the edges.
    let mut left = Vec::new();
    let mut seen = vec![false; edges.len()];
    for start in 0..edges.len() {
        search(start, edges, &mut seen, |function| left.push(function));
    }
    let mut against: Vec<Vec<usize>> = vec![Vec::new(); edges.len()];
    for (from, to) in edges.iter().enumerate() {
        to.iter().for_each(|to| against[*to].push(from));
    }
    let mut group = vec![0; edges.len()];
    let mut seen = vec![false; edges.len()];
    for start in left.into_iter().rev() {
        search(start, &against, &mut seen, |function| group[function] = start);
    }
    group
}

/// Depth first from a function, as far as nobody has been; says each as it is left.
fn search(start: usize, edges: &[Vec<usize>], seen: &mut [bool], mut left: impl FnMut(usize)) {
    if std::mem::replace(&mut seen[start], true) {
        return;
    }
    let mut path = vec![(start, 0)];
    while let Some((function, at)) = path.pop() {
        match edges[function].get(at) {
            None => left(function),
            Some(&next) => {
                path.push((function, at + 1));
                if !std::mem::replace(&mut seen[next], true) {
                    path.push((next, 0));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::groups;

    #[test]
    fn functions_that_reach_each_other_are_one_group() {
        let group = groups(&[vec![1], vec![2, 3], vec![1], vec![4], vec![4], vec![0]]);
        assert_eq!(group[1], group[2]);
        let others = [0, 1, 3, 4, 5].map(|function| group[function]);
        assert!((0..5).all(|a| (0..a).all(|b| others[a] != others[b])), "{others:?}");
    }
}
