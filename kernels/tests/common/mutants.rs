//! Every way in which a PTX text can be made to order less, one instruction at a time. The one account of mutation.
//!
//! Invariants:
//! * a mutant differs from its text in what one instruction orders, and computes what the text computes wherever the order does not matter;
//! * what an instruction orders is known of all of them: one that is neither in [`ORDERS_NOTHING`] nor understood here is an error with its
//!   line, so that nothing is left out in silence.
//!
//! Shuffles, votes and the like exchange registers and order no memory, so that they are no mutants. Neither are plain loads and stores:
//! what they carry is data.
#![allow(dead_code, reason = "each test uses a part of this")]

use std::fmt;

/// What is taken from an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Its order is one less.
    Order,
    /// Its scope is one narrower.
    Scope,
    /// A strong access is weak; an atomic one is a load and a store.
    Strength,
    /// It is not written.
    Flag,
    /// It is written before the barrier that the data wait for.
    EarlyFlag,
    /// A look at a flag finds that all have arrived.
    Wait,
    /// A barrier of the CTA is gone; where it votes, each thread has its own vote.
    Barrier,
    /// A barrier of the warp is gone.
    WarpBarrier,
    /// A fence is gone.
    Fence,
    /// A fence between proxies is gone.
    ProxyFence,
    /// A phase does not wait for the bytes of a copy.
    Expect,
    /// A wait for copies is gone, or what makes a group of them.
    CopyWait,
    /// A wait for copies waits until their sources have been read, or not even that.
    ReadWait,
    /// A wait for the launch before is gone.
    GridWait,
}

impl Kind {
    pub const ALL: [Kind; 14] = [
        Kind::Order,
        Kind::Scope,
        Kind::Strength,
        Kind::Flag,
        Kind::EarlyFlag,
        Kind::Wait,
        Kind::Barrier,
        Kind::WarpBarrier,
        Kind::Fence,
        Kind::ProxyFence,
        Kind::Expect,
        Kind::CopyWait,
        Kind::ReadWait,
        Kind::GridWait,
    ];

    /// As the head of a column.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Order => "order",
            Kind::Scope => "scope",
            Kind::Strength => "strength",
            Kind::Flag => "flag",
            Kind::EarlyFlag => "early flag",
            Kind::Wait => "wait",
            Kind::Barrier => "barrier",
            Kind::WarpBarrier => "warp barrier",
            Kind::Fence => "fence",
            Kind::ProxyFence => "proxy fence",
            Kind::Expect => "expect",
            Kind::CopyWait => "copy wait",
            Kind::ReadWait => "read wait",
            Kind::GridWait => "grid wait",
        }
    }
}

/// A text that orders less than the one it was made of.
#[derive(Clone, Debug)]
pub struct Mutant {
    pub kind: Kind,
    /// Line of the instruction, from 1.
    pub line: usize,
    /// What it was and what it is.
    pub what: String,
    pub text: String,
}

/// An instruction of which it is not known how to weaken it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// From 1.
    pub line: usize,
    pub instruction: String,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: `{}`: does this order anything, and how is it weakened?", self.line, self.instruction)
    }
}

/// Names of instructions that order no accesses, whatever follows the name.
const ORDERS_NOTHING: &str = "abs add and bfe bfi bra brev clz copysign createpolicy cvt cvta div elect ex2 fma lg2 mad match max min mov mul nanosleep neg not \
                              or popc prmt rcp redux rem ret selp setp shf shfl shl shr sqrt sub testp vote xor";

/// Scopes, each with the next narrower one.
const NARROWER: [(&str, &str); 3] = [("sys", "gpu"), ("gpu", "cluster"), ("cluster", "cta")];

/// One instruction of a text.
struct Instruction<'t> {
    guard: &'t str,
    parts: Vec<&'t str>,
    operands: Vec<&'t str>,
}

impl<'t> Instruction<'t> {
    /// Of a line; `None` for labels, directives, braces and comments.
    fn of(line: &'t str) -> Option<Instruction<'t>> {
        let code = line.split("//").next().unwrap_or_default().trim();
        let (code, rest) = code.split_once(';')?;
        if code.is_empty() || code.starts_with('.') {
            return None;
        }
        let (guard, code) = match code.strip_prefix('@') {
            Some(_) => code.split_once(char::is_whitespace)?,
            None => ("", code),
        };
        let (opcode, operands) = code.trim().split_once(char::is_whitespace).unwrap_or((code.trim(), ""));
        // Two instructions in a line would be half looked at: the name of such a one is known to nobody.
        let parts = if rest.trim().is_empty() { opcode.split('.').collect() } else { vec![line] };
        let operands = operands.split(',').map(str::trim).filter(|operand| !operand.is_empty()).collect();
        Some(Instruction { guard, parts, operands })
    }

    fn has(&self, part: &str) -> bool {
        self.parts.contains(&part)
    }

    fn order(&self) -> Option<&'t str> {
        let orders = ["relaxed", "acquire", "release", "acq_rel", "sc", "volatile", "mmio"];
        self.parts.iter().copied().find(|part| orders.contains(part))
    }

    fn scope(&self) -> Option<(&'t str, &'static str)> {
        let narrower = |part: &&'t str| Some((*part, NARROWER.iter().find(|(scope, _)| scope == part)?.1));
        self.parts.iter().find_map(narrower)
    }

    /// It, with other parts of its name.
    fn renamed(&self, part: impl Fn(&'t str) -> Option<&'t str>) -> String {
        let parts: Vec<&str> = self.parts.iter().filter_map(|&found| part(found)).collect();
        self.guarded(&[&parts.join("."), &self.operands.join(", ")])
    }

    /// An instruction under the same guard.
    fn guarded(&self, words: &[&str]) -> String {
        let words: Vec<&str> =
            std::iter::once(&self.guard).chain(words).filter(|word| !word.is_empty()).copied().collect();
        words.join(" ") + ";"
    }

    fn with(&self, from: &str, to: &'t str) -> String {
        self.renamed(|part| Some(if part == from { to } else { part }))
    }

    /// The access without order and scope.
    fn weak(&self) -> String {
        let strong = |part: &str| Some(part) == self.order() || Some(part) == self.scope_name();
        self.renamed(|part| (!strong(part)).then_some(part))
    }

    fn scope_name(&self) -> Option<&'t str> {
        self.parts.iter().copied().find(|part| ["sys", "gpu", "cluster", "cta"].contains(part))
    }

    fn space(&self) -> &'t str {
        self.parts.iter().copied().find(|part| ["global", "shared"].contains(part)).unwrap_or("global")
    }

    /// An atomic operation as a load, what it computes, and a store.
    fn in_steps(&self) -> Option<String> {
        let (space, ty) = (self.space(), self.parts.last()?);
        let bits = &ty[1..];
        let declare = format!(".reg .pred %in_steps_p; .reg .b{bits} %in_steps<3>;");
        let load = |to: &str, at: &str| self.guarded(&[&format!("ld.{space}.b{bits} {to}, {at}")]);
        let store = |at: &str, value: &str| self.guarded(&[&format!("st.{space}.b{bits} {at}, {value}")]);
        let add = |to: &str, value: &str| self.guarded(&[&format!("add.{ty} {to}, %in_steps0, {value}")]);
        let give = |to: &str| self.guarded(&[&format!("mov.b{bits} {to}, %in_steps0")]);
        let steps = match (self.parts[0], self.has("add"), self.has("cas"), &self.operands[..]) {
            ("red", true, false, [at, value]) => {
                [load("%in_steps0", at), add("%in_steps1", value), store(at, "%in_steps1")].join(" ")
            }
            ("atom", true, false, [to, at, value]) => {
                [load("%in_steps0", at), add("%in_steps1", value), store(at, "%in_steps1"), give(to)].join(" ")
            }
            ("atom", false, true, [to, at, expected, value]) if self.guard.is_empty() => {
                let compare = format!("setp.eq.b{bits} %in_steps_p, %in_steps0, {expected};");
                let store = format!("@%in_steps_p {}", store(at, value));
                [load("%in_steps0", at), compare, store, give(to)].join(" ")
            }
            _ => return None,
        };
        Some(format!("{{ {declare} {steps} }}"))
    }

    /// The atomic operation as a strong load, which leaves the word as it is.
    fn without_write(&self) -> Option<String> {
        let bits = &self.parts.last()?[1..];
        match (self.parts[0], &self.operands[..]) {
            ("red" | "st", _) => Some(String::new()),
            ("atom", [to, at, ..]) => {
                let (scope, space) = (self.scope_name()?, self.space());
                Some(self.guarded(&[&format!("ld.relaxed.{scope}.{space}.b{bits} {to}, {at}")]))
            }
            _ => None,
        }
    }

    /// Every replacement of it, with what is taken.
    fn weaker(&self) -> Option<Vec<(Kind, String)>> {
        let mut weaker = Vec::new();
        let (name, order) = (self.parts[0], self.order());
        match name {
            // What others finish later, or read elsewhere.
            "ld" | "st" | "atom" | "red" if self.has("async") || self.has("nc") => return None,
            _ if ORDERS_NOTHING.split_whitespace().any(|known| known == name) => {}
            "ld" | "st" => match order {
                None if self.has("weak") || self.scope_name().is_none() => {}
                None | Some("mmio") => return None,
                Some("volatile") => weaker.push((Kind::Strength, self.weak())),
                Some(order) => {
                    self.one_order_less(order, &mut weaker)?;
                    weaker.push((Kind::Strength, self.weak()));
                    match (name, order) {
                        ("ld", "acquire") => {
                            let scope = self.scope_name()?;
                            let volatile = self.renamed(|part| {
                                (part != scope).then_some(if part == order { "volatile" } else { part })
                            });
                            weaker.push((Kind::Order, volatile));
                            let (to, bits) = (self.operands[0], &self.parts.last()?[1..]);
                            weaker.push((Kind::Wait, self.guarded(&[&format!("mov.b{bits} {to}, -1")])));
                        }
                        ("st", _) => weaker.push((Kind::Flag, self.without_write()?)),
                        _ => {}
                    }
                }
            },
            "atom" | "red" => {
                self.one_order_less(order?, &mut weaker)?;
                weaker.push((Kind::Strength, self.in_steps()?));
                weaker.push((Kind::Flag, self.without_write()?));
            }
            // Copies order nothing: what waits for them does, and what lets them wait.
            "cp" if self.has("bulk") && self.has("commit_group") => weaker.push((Kind::CopyWait, String::new())),
            "cp" if self.has("bulk") && self.has("wait_group") => {
                if self.has("read") {
                    weaker.push((Kind::ReadWait, String::new()));
                } else {
                    weaker.push((Kind::CopyWait, String::new()));
                    weaker.push((Kind::ReadWait, format!("cp.async.bulk.wait_group.read {};", self.operands.first()?)));
                }
            }
            "cp" if self.has("bulk") && !self.has("prefetch") => {}
            "mbarrier" if self.has("init") || self.has("inval") => {}
            "mbarrier" if self.has("arrive") => {
                if self.has("expect_tx") {
                    let arrive = self.parts.iter().filter(|part| **part != "expect_tx").copied();
                    let arrive = arrive.collect::<Vec<_>>().join(".");
                    weaker.push((Kind::Expect, self.guarded(&[&arrive, &self.operands[..2].join(", ")])));
                } else {
                    weaker.push((Kind::Flag, String::new()));
                }
            }
            "mbarrier" if self.has("try_wait") => {
                weaker.push((Kind::Wait, self.guarded(&[&format!("setp.eq.u32 {}, 0, 0", self.operands[0])])));
            }
            "griddepcontrol" if self.has("wait") => weaker.push((Kind::GridWait, String::new())),
            "griddepcontrol" => {}
            "fence" if self.has("proxy") || self.has("mbarrier_init") => weaker.push((Kind::ProxyFence, String::new())),
            "fence" | "membar" => {
                weaker.push((Kind::Fence, String::new()));
                if order == Some("sc") {
                    weaker.push((Kind::Order, self.with("sc", "acq_rel")));
                }
                if let Some((scope, narrower)) = self.scope() {
                    weaker.push((Kind::Scope, self.with(scope, narrower)));
                }
            }
            "bar" if self.has("warp") => weaker.push((Kind::WarpBarrier, String::new())),
            "bar" | "barrier" if self.has("sync") || self.has("arrive") => weaker.push((Kind::Barrier, String::new())),
            "bar" | "barrier" if self.has("red") && self.has("pred") => {
                let (to, from) = (self.operands[0], self.operands.last()?);
                weaker.push((Kind::Barrier, self.guarded(&[&format!("mov.pred {to}, {from}")])));
            }
            _ => return None,
        }
        Some(weaker)
    }

    /// One order less, and one scope less.
    fn one_order_less(&self, order: &str, weaker: &mut Vec<(Kind, String)>) -> Option<()> {
        let less: &[&str] = match order {
            "relaxed" => &[],
            "acquire" | "release" => &["relaxed"],
            "acq_rel" => &["acquire", "release"],
            _ => return None,
        };
        weaker.extend(less.iter().map(|less| (Kind::Order, self.with(order, less))));
        if let Some((scope, narrower)) = self.scope() {
            weaker.push((Kind::Scope, self.with(scope, narrower)));
        }
        Some(())
    }

    /// Whether it tells others of what was written before.
    fn is_flag(&self) -> bool {
        matches!(self.parts[0], "red" | "st") && self.has("release")
    }

    fn is_cta_barrier(&self) -> bool {
        matches!(self.parts[0], "bar" | "barrier") && !self.has("warp")
    }
}

/// All mutants of a text, in the order of its lines.
///
/// # Errors
/// The first instruction that is not known.
pub fn mutants(text: &str) -> Result<Vec<Mutant>, Unknown> {
    let lines: Vec<&str> = text.lines().collect();
    let replaced = |at: usize, by: &str| {
        let lines = lines.iter().enumerate().map(|(number, line)| if number == at { by } else { line });
        lines.collect::<Vec<_>>().join("\n")
    };
    let mut mutants = Vec::new();
    let mut barrier: Option<usize> = None;
    for (at, &line) in lines.iter().enumerate() {
        let Some(instruction) = Instruction::of(line) else { continue };
        let number = at + 1;
        let unknown = || Unknown { line: number, instruction: line.trim().into() };
        for (kind, by) in instruction.weaker().ok_or_else(unknown)? {
            let shown = if by.is_empty() { "(nothing)" } else { by.trim() };
            let what = format!("{} -> {shown}", line.trim());
            mutants.push(Mutant { kind, line: number, what, text: replaced(at, &by) });
        }
        if instruction.is_cta_barrier() {
            barrier = Some(at);
        } else if instruction.is_flag()
            && let Some(barrier) = barrier.take()
        {
            let what = format!("{} before line {}, {}", line.trim(), barrier + 1, lines[barrier].trim());
            mutants.push(Mutant { kind: Kind::EarlyFlag, line: number, what, text: barrier_last(&lines, barrier) });
        }
    }
    Ok(mutants)
}

/// The barrier as the last that every thread does.
fn barrier_last(lines: &[&str], barrier: usize) -> String {
    let mut edited: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    if let Some(Instruction { operands, parts, .. }) = Instruction::of(lines[barrier])
        && parts.contains(&"red")
    {
        edited[barrier] = format!("mov.pred {}, {};", operands[0], operands[operands.len() - 1]);
    } else {
        edited[barrier].clear();
    }
    for line in &mut edited {
        if line.trim() == "ret;" {
            *line = "barrier.sync 0; ret;".into();
        }
    }
    edited.join("\n")
}
