//! Which GPUs and which versions of PTX have an instruction: one that is newer than the module's `.target` or `.version` is refused, as the
//! assembler refuses it.
//!
//! Invariant: what is not listed here is on every GPU since `sm_70`, the oldest that runs what this crate decodes, and in PTX since 6.4.

use crate::ptx::ast::{Instruction, Module, Operand};

/// A target, such as `sm_100a`.
#[derive(Debug, Clone, Copy)]
struct Chip {
    number: u32,
    /// `a` or `f`: it also has what other chips of its generation need not have.
    letter: Option<char>,
}

/// The chips that have something which is not on all newer ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Specific {
    /// On all chips from the first on.
    No,
    /// On those with a letter behind the number.
    Lettered,
    /// On those of compute capability 10 with a letter.
    Datacenter,
    /// On those of compute capability 10 with the letter `a`.
    DatacenterAlone,
}

/// What an instruction needs.
#[derive(Debug, Clone, Copy)]
struct Needs {
    chip: u32,
    specific: Specific,
    version: (u32, u32),
}

impl Needs {
    fn at_least(&mut self, chip: u32, version: (u32, u32)) {
        self.chip = self.chip.max(chip);
        self.version = self.version.max(version);
    }

    fn lettered(&mut self, chip: u32, version: (u32, u32)) {
        self.at_least(chip, version);
        self.specific = Specific::Lettered;
    }
}

fn of_module(module: &Module) -> Option<Chip> {
    let mut names = module.targets.iter().filter_map(|name| name.strip_prefix("sm_"));
    names.find_map(|name| {
        let digits = name.trim_end_matches(|c: char| c.is_ascii_lowercase());
        digits.parse().ok().map(|number| Chip { number, letter: name[digits.len()..].chars().next() })
    })
}

/// Why a module cannot have an instruction.
pub(super) fn refusal(module: &Module, instruction: &Instruction) -> Option<String> {
    let chip = of_module(module);
    let needs = needs(instruction, chip.map_or(u32::MAX, |chip| chip.number));
    if let Some(chip) = chip {
        let here = format!("and the .target of the module is {}", module.targets.join(", "));
        if chip.number < needs.chip {
            return Some(format!("needs sm_{}, {here}", needs.chip));
        }
        match needs.specific {
            Specific::Lettered if chip.letter.is_none() => {
                return Some(format!("needs a target such as sm_{}a, {here}", needs.chip));
            }
            Specific::Datacenter if chip.letter.is_none() || !(100..110).contains(&chip.number) => {
                return Some(format!("needs sm_100a, sm_100f or sm_103a, {here}"));
            }
            Specific::DatacenterAlone if chip.letter != Some('a') || !(100..110).contains(&chip.number) => {
                return Some(format!("needs sm_100a or sm_103a, {here}"));
            }
            Specific::No | Specific::Lettered | Specific::Datacenter | Specific::DatacenterAlone => {}
        }
    }
    let (major, minor) = needs.version;
    (module.version < needs.version).then(|| {
        format!(
            "needs PTX {major}.{minor}, and the .version of the module is {}.{}",
            module.version.0, module.version.1
        )
    })
}

fn needs(instruction: &Instruction, chip: u32) -> Needs {
    let mut needs = Needs { chip: 70, specific: Specific::No, version: (6, 0) };
    let words = Words(&instruction.modifiers);
    match instruction.opcode.as_str() {
        "cvt" => conversion(&mut needs, words, chip),
        "mma" | "wmma" | "ldmatrix" | "stmatrix" | "movmatrix" => matrix(&mut needs, instruction, words),
        "mbarrier" | "fence" | "barrier" | "cp" | "redux" | "elect" | "griddepcontrol" | "setmaxnreg" => {
            synchronisation(&mut needs, instruction, words);
        }
        "ld" | "st" | "atom" | "red" | "createpolicy" | "applypriority" | "discard" | "prefetch" => {
            memory(&mut needs, &instruction.opcode, words);
        }
        _ => arithmetic(&mut needs, instruction, words),
    }
    if words.has("cluster") || words.has("shared::cluster") {
        needs.at_least(90, (7, 8));
    }
    if words.has("shared::cta") {
        needs.at_least(70, (7, 8));
    }
    if words.has("b128") {
        needs.at_least(70, (8, 3));
    }
    for operand in &instruction.operands {
        if let Operand::Name(name) = operand {
            special_register(&mut needs, name);
        }
    }
    needs
}

#[derive(Clone, Copy)]
struct Words<'i>(&'i [String]);

impl Words<'_> {
    fn has(self, word: &str) -> bool {
        self.0.iter().any(|modifier| modifier == word)
    }

    fn any(self, words: &[&str]) -> bool {
        words.iter().any(|word| self.has(word))
    }
}

const HALF: [&str; 2] = ["f16", "f16x2"];
const BRAIN: [&str; 2] = ["bf16", "bf16x2"];
const PACKED: [&str; 2] = ["u16x2", "s16x2"];

fn arithmetic(needs: &mut Needs, instruction: &Instruction, words: Words) {
    let (half, brain) = (words.any(&HALF), words.any(&BRAIN));
    let operands = instruction.operands.len();
    match instruction.opcode.as_str() {
        "add" | "sub" | "mul" | "fma" if words.has("f32x2") || words.has("f32") && (half || brain) => {
            needs.at_least(100, (8, 6));
        }
        "min" | "max" if words.has("f32") && operands == 4 => needs.at_least(100, (8, 8)),
        "min" | "max" if words.has("xorsign") => needs.at_least(86, (7, 2)),
        "min" | "max" if half || brain => needs.at_least(80, (7, 0)),
        "min" | "max" if words.has("relu") => needs.at_least(90, (8, 0)),
        "add" | "min" | "max" if words.any(&PACKED) => needs.at_least(90, (8, 0)),
        "add" | "sub" | "mul" | "set" | "setp" if brain => needs.at_least(90, (7, 8)),
        "fma" if brain || words.has("relu") => needs.at_least(80, (7, 0)),
        "abs" | "neg" if brain => needs.at_least(80, (7, 0)),
        "abs" if half => needs.at_least(70, (6, 5)),
        "tanh" | "ex2" if brain => needs.at_least(90, (7, 8)),
        "tanh" => needs.at_least(75, (7, 0)),
        "ex2" if half => needs.at_least(75, (7, 0)),
        "set" if half && words.any(&["u16", "s16", "u32", "s32"]) => needs.at_least(70, (6, 5)),
        "lop3" if operands == 6 => needs.at_least(70, (8, 2)),
        "bmsk" | "szext" => needs.at_least(70, (7, 6)),
        "bar" if words.has("cta") => needs.at_least(70, (7, 8)),
        "cvta" if words.any(&["param", "param::entry"]) => needs.at_least(70, (7, 7)),
        "mapa" | "getctarank" => needs.at_least(90, (7, 8)),
        "multimem" if words.0.iter().any(|word| word.starts_with("e4m3") || word.starts_with("e5m2")) => {
            needs.lettered(100, (8, 6));
        }
        "multimem" if words.any(&["acc::f32", "acc::f16"]) => needs.at_least(90, (8, 2)),
        "multimem" => needs.at_least(90, (8, 1)),
        "tensormap" if words.has("replace") => needs.lettered(90, (8, 3)),
        "tensormap" => needs.at_least(90, (8, 3)),
        "alloca" | "stacksave" | "stackrestore" => needs.at_least(70, (7, 3)),
        _ => {}
    }
}

fn conversion(needs: &mut Needs, words: Words, chip: u32) {
    let (eight, six_or_four) = (words.any(&["e4m3x2", "e5m2x2"]), words.any(&["e2m1x2", "e2m3x2", "e3m2x2"]));
    let to_brain = words.0.iter().position(|word| word == "bf16x2").is_some_and(|at| at + 1 < words.0.len());
    let finite = if words.has("satfinite") { (8, 1) } else { (7, 0) };
    if words.has("rs") {
        needs.at_least(100, (8, 7));
        needs.specific = Specific::DatacenterAlone;
    } else if words.has("ue8m0x2") {
        needs.lettered(100, (8, 6));
    } else if (eight || six_or_four) && words.has("bf16x2") {
        needs.lettered(100, if to_brain { (9, 2) } else { (9, 1) });
    } else if six_or_four {
        let from_half = words.0.last().is_some_and(|word| word == "f16x2");
        needs.lettered(100, if from_half { (9, 1) } else { (8, 6) });
    } else if eight {
        // The older chip got them later.
        needs.at_least(89, if chip == 89 { (8, 1) } else { (7, 8) });
    } else if words.has("pack") {
        needs.at_least(70, (6, 5));
    } else if words.has("tf32") {
        match (words.has("rna"), words.has("satfinite")) {
            (true, _) => needs.at_least(80, finite),
            (false, true) => needs.at_least(100, (8, 6)),
            (false, false) => needs.at_least(90, (7, 8)),
        }
    } else if words.any(&BRAIN) {
        match words.0.iter().rev().map(String::as_str).take(2).collect::<Vec<_>>()[..] {
            ["f32", "bf16" | "bf16x2"] => needs.at_least(80, finite),
            ["bf16", "f32"] if !words.has("ftz") => needs.at_least(80, (7, 1)),
            _ => needs.at_least(90, (7, 8)),
        }
    } else if words.has("f16x2") || words.has("relu") {
        needs.at_least(80, finite);
    } else if words.has("satfinite") {
        needs.at_least(70, finite);
    }
}

fn memory(needs: &mut Needs, opcode: &str, words: Words) {
    let vector = words.any(&["v2", "v4", "v8"]);
    match opcode {
        "ld" | "st" if words.has("v8") || words.has("v4") && words.any(&["b64", "u64", "s64", "f64"]) => {
            needs.at_least(100, (8, 8));
        }
        "st" | "red" if words.has("async") => {
            needs.at_least(90, (8, 1));
            if words.has("release") {
                needs.at_least(100, (8, 7));
            }
        }
        "st" if words.has("bulk") => needs.at_least(100, (8, 6)),
        "ld" | "st" if words.has("mmio") => needs.at_least(70, (8, 2)),
        "atom" | "red" if vector => needs.at_least(90, (8, 1)),
        "atom" | "red" if words.has("b128") => needs.at_least(90, (8, 3)),
        "atom" | "red" if words.any(&BRAIN) => needs.at_least(90, (7, 8)),
        "createpolicy" | "applypriority" | "discard" => needs.at_least(80, (7, 4)),
        _ => {}
    }
    if words.0.iter().any(|word| word.starts_with("L2::")) {
        needs.at_least(80, (7, 4));
    } else if words.0.iter().any(|word| word.starts_with("L1::")) {
        needs.at_least(70, (7, 4));
    }
}

fn synchronisation(needs: &mut Needs, instruction: &Instruction, words: Words) {
    let ordered = words.any(&["relaxed", "acquire", "release", "acq_rel"]);
    match instruction.opcode.as_str() {
        "elect" => needs.at_least(90, (8, 0)),
        "griddepcontrol" => needs.at_least(90, (7, 8)),
        "setmaxnreg" => needs.lettered(90, (8, 0)),
        "redux" if words.has("f32") => {
            needs.at_least(100, (8, 6));
            needs.specific = Specific::Datacenter;
        }
        "cp" if words.any(&["cta_group::1", "cta_group::2"]) => needs.lettered(100, (8, 6)),
        "cp" if words.has("cp_mask") => needs.at_least(100, (8, 6)),
        "cp" if words.any(&["bulk", "reduce"]) => {
            let to_shared =
                words.0.iter().find(|word| ["global", "shared::cta", "shared::cluster"].contains(&word.as_str()));
            needs.at_least(90, if to_shared.is_some_and(|word| word == "shared::cta") { (8, 6) } else { (8, 0) });
        }
        "cp" | "redux" => needs.at_least(80, (7, 0)),
        "mbarrier" => {
            needs.at_least(80, (7, 0));
            if words.any(&["expect_tx", "complete_tx"]) {
                needs.at_least(90, (8, 0));
            } else if words.has("try_wait")
                || words.has("arrive") && instruction.operands.len() == 3 && !words.has("noComplete")
            {
                needs.at_least(90, (7, 8));
            } else if words.has("parity") {
                needs.at_least(80, (7, 1));
            }
            if ordered {
                needs.at_least(80, (8, 0));
            }
        }
        "fence" if words.has("alias") => needs.at_least(70, (7, 5)),
        "fence" if words.has("tensormap::generic") => needs.at_least(90, (8, 3)),
        "fence" if words.has("async::generic") => needs.at_least(90, (8, 6)),
        "fence" if words.any(&["proxy", "mbarrier_init"]) => needs.at_least(90, (8, 0)),
        "fence" if words.any(&["acquire", "release"]) => needs.at_least(90, (8, 6)),
        "barrier" if words.has("cluster") => needs.at_least(90, if ordered { (8, 0) } else { (7, 8) }),
        "barrier" if words.has("cta") => needs.at_least(70, (7, 8)),
        _ => {}
    }
}

fn matrix(needs: &mut Needs, instruction: &Instruction, words: Words) {
    let small_float = words.any(&["e4m3", "e5m2"]);
    let shape = words.0.iter().find(|word| word.starts_with('m') && word.contains('k')).map_or("", String::as_str);
    match instruction.opcode.as_str() {
        "ldmatrix" | "stmatrix" if !words.has("b16") => needs.lettered(100, (8, 6)),
        "ldmatrix" => needs.at_least(75, (6, 5)),
        "stmatrix" => needs.at_least(90, (7, 8)),
        "movmatrix" => needs.at_least(75, (7, 8)),
        "wmma" if words.has("and") => needs.at_least(80, (7, 1)),
        "wmma" if words.any(&["bf16", "tf32", "f64"]) => needs.at_least(80, (7, 0)),
        "wmma" => {}
        _ if small_float => {
            let first = shape == "m16n8k32" && words.has("f32");
            needs.at_least(89, if first { (8, 4) } else { (8, 7) });
        }
        _ if words.has("f64") && shape != "m8n8k4" => needs.at_least(90, (7, 8)),
        _ if words.has("b1") && words.has("and") => needs.at_least(80, (7, 1)),
        _ => match shape {
            "m8n8k4" if words.has("f64") => needs.at_least(80, (7, 0)),
            "m8n8k4" => {}
            "m8n8k128" => needs.at_least(75, (7, 0)),
            "m8n8k16" | "m8n8k32" => needs.at_least(75, (6, 5)),
            "m16n8k8" if !words.any(&["bf16", "tf32"]) => needs.at_least(75, (6, 5)),
            _ => needs.at_least(80, (7, 0)),
        },
    }
}

fn special_register(needs: &mut Needs, name: &str) {
    let Some(name) = name.strip_prefix('%') else { return };
    if name.starts_with("cluster") || name.starts_with("ncluster") || name == "is_explicit_cluster" {
        needs.at_least(90, (7, 8));
    } else if name.starts_with("reserved_smem") {
        needs.at_least(80, (7, 6));
    }
}
