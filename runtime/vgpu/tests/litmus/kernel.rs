//! A shape as a kernel, and its runs.
//!
//! Every thread of a shape is lane 0 of a warp. What its registers hold is written down at its end and in front of each barrier, as a barrier
//! may never let it go. A run of which no thread comes to its end has no outcome.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use moe_vgpu::{Cluster, Config, Judge, Kernel, Launch, Module, Policy, RankId, RunError};

use super::shape::{Shape, Term};

/// Bytes from one variable to the next.
const APART: usize = 64;
/// What stands where nothing has been written down.
const NOTHING: u32 = u32::MAX;

pub struct Built<'s> {
    shape: &'s Shape,
    kernel: Kernel,
    ranks: u32,
    ctas: u32,
    warps: u32,
    variables: Vec<String>,
    /// Of each thread.
    registers: Vec<Vec<String>>,
    offsets: Vec<usize>,
}

fn is_register(word: &str) -> bool {
    word.strip_prefix('r').is_some_and(|number| number.parse::<u32>().is_ok())
}

/// Where the variable of an access is among its operands.
fn variable_of(words: &[String]) -> Option<usize> {
    match words[0].split('.').next()? {
        "st" | "red" => Some(1),
        "ld" | "atom" => Some(2),
        _ => None,
    }
}

impl<'s> Built<'s> {
    pub fn new(shape: &'s Shape) -> Built<'s> {
        let mut variables: BTreeSet<String> =
            shape.initial.keys().filter(|name| !name.contains(':')).cloned().collect();
        let mut registers = Vec::new();
        for thread in &shape.threads {
            let accesses = thread.code.iter().filter_map(|words| Some(words[variable_of(words)?].clone()));
            variables.extend(accesses);
            let of_thread: BTreeSet<String> =
                thread.code.iter().flatten().filter(|word| is_register(word)).cloned().collect();
            registers.push(of_thread.into_iter().collect::<Vec<_>>());
        }
        let variables: Vec<String> = variables.into_iter().collect();
        let most = |of: fn(&super::shape::Thread) -> u32| shape.threads.iter().map(of).max().unwrap_or(0) + 1;
        let mut beside = BTreeMap::new();
        let warps: Vec<u32> = shape
            .threads
            .iter()
            .map(|thread| {
                let next = beside.entry((thread.rank, thread.cta)).or_insert(0);
                *next += 1;
                *next - 1
            })
            .collect();
        let offsets: Vec<usize> = registers
            .iter()
            .scan(0, |next, of| {
                *next += of.len();
                Some(*next - of.len())
            })
            .collect();
        let count: usize = registers.iter().map(Vec::len).sum();
        let mut text = String::from(
            ".version 8.6\n.target sm_90a\n.address_size 64\n\
             .visible .entry litmus(.param .u64 memory, .param .u64 out, .param .u32 rank)\n{\n\
             .reg .pred %p<4>;\n.reg .b32 %t<4>;\n.reg .b64 %m<2>;\n.reg .b32 %r<64>;\n\
             mov.u32 %t0, %laneid;\nsetp.ne.u32 %p0, %t0, 0;\n@%p0 bra END;\n\
             ld.param.u64 %m0, [memory];\nld.param.u64 %m1, [out];\nld.param.u32 %t0, [rank];\n\
             mov.u32 %t1, %ctaid.x;\nmad.lo.u32 %t0, %t0, 64, %t1;\n\
             mov.u32 %t1, %tid.x;\nshr.u32 %t1, %t1, 5;\nmad.lo.u32 %t0, %t0, 64, %t1;\n",
        );
        for (at, (thread, warp)) in shape.threads.iter().zip(&warps).enumerate() {
            let place = (thread.rank * 64 + thread.cta) * 64 + warp;
            writeln!(text, "setp.eq.u32 %p1, %t0, {place};\n@%p1 bra T{at};").unwrap();
        }
        writeln!(text, "bra END;").unwrap();
        for (at, thread) in shape.threads.iter().enumerate() {
            writeln!(text, "T{at}:").unwrap();
            for register in &registers[at] {
                let value = shape.initial.get(&format!("{at}:{register}")).copied().unwrap_or(0);
                writeln!(text, "mov.u32 %{register}, {value};").unwrap();
            }
            let note = |done: &[Vec<String>]| -> String {
                let all = done.len() == thread.code.len();
                let is_set = |register: &&String| all || done.iter().any(|words| words.get(1) == Some(register));
                (offsets[at]..)
                    .zip(&registers[at])
                    .filter(|(_, register)| is_set(register))
                    .map(|(place, register)| format!("st.weak.global.u32 [%m1+{}], %{register};\n", place * 4))
                    .collect()
            };
            for (number, words) in thread.code.iter().enumerate() {
                if words[0].starts_with("bar.") {
                    text.push_str(&note(&thread.code[..number]));
                }
                writeln!(text, "{}", statement(words, at, &variables)).unwrap();
            }
            writeln!(text, "{}", note(&thread.code)).unwrap();
            writeln!(text, "mov.u32 %t0, 1;\nst.weak.global.u32 [%m1+{}], %t0;\nbra END;", (count + at) * 4).unwrap();
        }
        text.push_str("END:\nret;\n}\n");
        let module = Module::parse(&text).unwrap_or_else(|error| panic!("{}: {error}\n{text}", shape.name));
        let kernel = module.kernel("litmus").expect("its name");
        let (ranks, ctas) = (most(|thread| thread.rank), most(|thread| thread.cta));
        let warps = warps.iter().max().unwrap_or(&0) + 1;
        Built { shape, kernel, ranks, ctas, warps, variables, registers, offsets }
    }

    /// Whether a run has the outcome.
    pub fn run(&self, policy: Policy, seed: u64, judge: Option<&Judge>) -> bool {
        let config =
            Config { ranks: self.ranks, sms: 4, policy, seed, instruction_limit: 100_000, ..Config::default() };
        let mut cluster = Cluster::new(config).unwrap();
        let memory = cluster.allocate(RankId(0), (self.variables.len() * APART).max(4) as u64, "memory").unwrap();
        let count: usize = self.registers.iter().map(Vec::len).sum();
        let noted = count + self.shape.threads.len();
        let out = cluster.allocate(RankId(0), (noted * 4) as u64, "out").unwrap();
        for (at, name) in self.variables.iter().enumerate() {
            let place = memory.offset((at * APART) as u64);
            cluster.write(place, &self.shape.initial.get(name).copied().unwrap_or(0).to_le_bytes()).unwrap();
            cluster.label(place, 4, name, None).unwrap();
        }
        cluster.write(out, &NOTHING.to_le_bytes().repeat(noted)).unwrap();
        if let Some(judge) = judge {
            cluster.observe(Box::new(judge.clone()));
        }
        for rank in 0..self.ranks {
            let stream = cluster.stream(RankId(rank)).unwrap();
            let arguments = vec![memory.into(), out.into(), rank.into()];
            cluster.launch(stream, &self.kernel, Launch::linear(self.ctas, self.warps * 32, arguments)).unwrap();
        }
        match cluster.run() {
            // A shape may hang; what its threads have read until then is an outcome.
            Ok(_) | Err(RunError::Deadlock(_) | RunError::Limit(_)) => {}
            Err(error) => panic!("{}: {error}", self.shape.name),
        }
        let mut bytes = vec![0; noted * 4];
        cluster.read(out, &mut bytes).unwrap();
        let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        let registers: Vec<u32> = bytes.chunks_exact(4).map(word).collect();
        if registers[count..].iter().all(|ended| *ended == NOTHING) {
            return false;
        }
        let held: BTreeMap<&str, u32> = (0..)
            .zip(&self.variables)
            .map(|(at, name)| {
                let mut bytes = [0; 4];
                cluster.read(memory.offset(at * APART as u64), &mut bytes).unwrap();
                (name.as_str(), word(&bytes))
            })
            .collect();
        let value = |term: &Term| match term {
            Term::Number(number) => Some(*number),
            Term::Variable(name) => Some(held.get(name.as_str()).copied().unwrap_or(0)),
            Term::Register(thread, name) => match self.registers[*thread].iter().position(|other| other == name) {
                Some(at) => Some(registers[self.offsets[*thread] + at]).filter(|value| *value != NOTHING),
                // Not even a thread that never sets it has another value than it began with.
                None => Some(self.shape.initial.get(&format!("{thread}:{name}")).copied().unwrap_or(0)),
            },
        };
        self.shape.outcome.holds(&value).unwrap_or(false)
    }
}

fn statement(words: &[String], thread: usize, variables: &[String]) -> String {
    let operand = |at: usize| if is_register(&words[at]) { format!("%{}", words[at]) } else { words[at].clone() };
    let place = |at: usize| {
        let found = variables.iter().position(|name| *name == words[at]).expect("a variable");
        format!("[%m0+{}]", found * APART)
    };
    let label = |at: usize| format!("T{thread}_{}", words[at].trim_end_matches(':'));
    let parts: Vec<&str> = words[0].split('.').collect();
    match parts[0] {
        "ld" => format!("{}.global.u32 {}, {};", words[0], operand(1), place(2)),
        "st" => format!("{}.global.u32 {}, {};", words[0], place(1), operand(2)),
        "atom" | "red" => {
            let (operation, strength) = parts.split_last().expect("an operation");
            let kind = if matches!(*operation, "exch" | "cas") { "b32" } else { "u32" };
            let mut operands = if parts[0] == "atom" { vec![operand(1), place(2)] } else { vec![place(1)] };
            operands.extend((operands.len() + 1..words.len()).map(operand));
            format!("{}.global.{operation}.{kind} {};", strength.join("."), operands.join(", "))
        }
        "fence" | "membar" => format!("{};", words[0]),
        "bar" => {
            let threads: u32 = words[2].parse().expect("a number of threads");
            let name = if parts[1] == "sync" { "barrier.sync" } else { "barrier.arrive" };
            format!("{name} {}, {};", operand(1), threads * 32)
        }
        "mov" => format!("mov.u32 {}, {};", operand(1), operand(2)),
        "add" => format!("add.u32 {}, {}, {};", operand(1), operand(2), operand(3)),
        "beq" | "bne" => {
            let comparison = if parts[0] == "beq" { "eq" } else { "ne" };
            format!("setp.{comparison}.u32 %p2, {}, {};\n@%p2 bra {};", operand(1), operand(2), label(3))
        }
        "goto" => format!("bra {};", label(1)),
        name if name.ends_with(':') => format!("{}:", label(0)),
        other => panic!("no statement: {other}"),
    }
}
