//! Test files of instructions on a whole CTA. As in `cases.rs`, but a value is a list over the threads: `7` (all
//! threads), `lane`, `lane*3+1`, or items `a`, `a..b` (inclusive, also downwards) and `a*n` (repeated), one for each
//! thread. A line that ends in `;`, and one that the next line continues with ` |`, are parts of one case.
//!
//! The instructions may use `%mem`, the address of 256 bytes with the values 0 to 255, `tile` and its address
//! `%shared`, 256 bytes of shared memory with the same values, `%own` and `%mine`, the places of 8 bytes of each lane
//! in them, `%word`, the place of 4 bytes of each thread in the tile, the constants `table` (16 bytes from 240 up),
//! the parameter `options` (16 bytes from 120 up) and the function `combined`.
//!
//! A fourth part says what an observer sees of these instructions, each thing once, in any order: `read 4 global
//! acquire.sys`, `fence release.gpu`. Or it is the fault that ends the run: `fault trap`.

use std::collections::BTreeSet;

use super::{cases, statements};

/// Module-level text that the cases share.
pub const HEADER: &str = "\
.version 9.2
.target sm_100a
.address_size 64
.const .align 8 .b8 table[16] = {240, 241, 242, 243, 244, 245, 246, 247, 248, 249, 250, 251, 252, 253, 254, 255};
.func (.param .b32 back) combined(.param .b32 given, .param .b64 more)
{
.reg .b32 %r<4>;
.reg .b64 %d<2>;
ld.param.b32 %r1, [given];
ld.param.b64 %d1, [more];
cvt.u32.u64 %r2, %d1;
mad.lo.u32 %r3, %r1, 3, %r2;
st.param.b32 [back], %r3;
ret;
}
";

/// Value of the parameter `options`.
pub fn options() -> Vec<u8> {
    (120..136).collect()
}

/// What a run gave.
#[derive(Default)]
pub struct Outcome {
    /// Results, by register and thread.
    pub values: Vec<u64>,
    /// What an observer saw, if there was one.
    pub seen: Option<BTreeSet<String>>,
    pub fault: Option<String>,
    /// Warp instructions.
    pub instructions: u64,
}

#[derive(Clone)]
pub struct Case {
    pub line: usize,
    pub threads: u32,
    text: String,
    instructions: String,
    inputs: Vec<(String, Vec<u64>)>,
    results: Vec<(String, Vec<u64>)>,
    seen: BTreeSet<String>,
    fault: Option<String>,
}

impl Case {
    pub fn parse(file: &str, threads: u32) -> Vec<Case> {
        let mut out: Vec<Case> = Vec::new();
        let mut pending = String::new();
        for (index, line) in file.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            pending.push_str(line);
            let next = file.lines().nth(index + 1).unwrap_or_default();
            if line.ends_with(';') || next.starts_with(" |") {
                pending.push('\n');
            } else {
                out.push(Case::of_text(index + 1, threads, &std::mem::take(&mut pending)));
            }
        }
        assert!(pending.is_empty(), "the last case has no end: {pending}");
        out
    }

    fn of_text(line: usize, threads: u32, text: &str) -> Case {
        let parts: Vec<&str> = text.split(" |").map(str::trim).collect();
        let (instructions, inputs, results, observed) = match parts[..] {
            [instructions, inputs, results] => (instructions, inputs, results, ""),
            [instructions, inputs, results, observed] => (instructions, inputs, results, observed),
            _ => panic!("line {line}: expected three or four parts: {text}"),
        };
        let observed = observed.split(',').map(str::trim).filter(|part| !part.is_empty());
        let (faults, seen): (Vec<&str>, Vec<&str>) = observed.partition(|part| part.starts_with("fault "));
        let case = Case {
            line,
            threads,
            text: text.into(),
            instructions: instructions.into(),
            inputs: assignments(inputs, threads),
            results: assignments(results, threads),
            seen: seen.into_iter().map(str::to_owned).collect(),
            fault: faults.first().map(|fault| fault["fault ".len()..].to_owned()),
        };
        assert!(!case.results.is_empty() || case.fault.is_some(), "line {line}: nothing is expected");
        case
    }

    /// A register case that only some lanes of a warp execute; in the others each result keeps another value than is
    /// expected. None for a case with registers of 8 bits, which memory cannot fill.
    pub fn of_some_lanes(case: &cases::Case, mask: u32) -> Option<Case> {
        let in_all = |name: &str, bits: u64| (name.to_owned(), vec![bits; 32]);
        let mut inputs: Vec<_> = case.inputs.iter().map(|(name, bits)| in_all(name, *bits)).collect();
        let mut results = Vec::new();
        for (name, expected) in &case.results {
            let kept = match case.inputs.iter().find(|(input, _)| input == name) {
                Some((_, bits)) => *bits,
                None => !expected & mask_of(name),
            };
            if case.inputs.iter().all(|(input, _)| input != name) {
                inputs.push(in_all(name, kept));
            }
            let value = |lane: u32| if mask >> lane & 1 == 1 { *expected } else { kept };
            results.push((name.clone(), (0..32).map(value).collect()));
        }
        let eight_bits = inputs.iter().any(|(name, _)| name.starts_with("%c"));
        let instructions = format!(
            ".reg .pred %others; mov.u32 %bits, %laneid; shr.u32 %bits, {mask}, %bits; and.b32 %bits, %bits, 1; \
             setp.eq.u32 %others, %bits, 0; @%others bra meet; {}; meet: bar.warp.sync -1",
            case.instruction
        );
        let text = format!("{} on lanes {mask:#x}", case.text);
        let (line, threads, seen, fault) = (case.line, 32, BTreeSet::new(), None);
        (!eight_bits).then_some(Case { line, threads, text, instructions, inputs, results, seen, fault })
    }

    /// Whether the case says what an observer sees.
    pub fn observes(&self) -> bool {
        !self.seen.is_empty() || self.fault.is_some()
    }

    pub fn forms(&self) -> Vec<&str> {
        statements::forms(&self.instructions)
    }

    /// The case without one of its instructions.
    pub fn without(&self, nth: usize) -> Case {
        Case { instructions: statements::without(&self.instructions, nth), ..self.clone() }
    }

    pub fn input(&self) -> Vec<u8> {
        self.inputs.iter().flat_map(|(_, values)| values.iter().flat_map(|value| value.to_le_bytes())).collect()
    }

    /// Bytes of the results.
    pub fn output(&self) -> usize {
        self.results.len() * 8 * self.threads as usize
    }

    /// The kernel, and in which of its lines the instructions of the case stand.
    pub fn kernel(&self, name: &str) -> (String, std::ops::Range<usize>) {
        let mut text = format!(
            ".visible .entry {name}(.param .u64 input, .param .u64 output, .param .u64 memory, \
             .param .align 16 .b8 options[16])\n"
        );
        text.push_str(
            "{\n.reg .pred %p<8>;\n.reg .b16 %h<8>;\n.reg .b32 %r<8>;\n.reg .b64 %d<8>;\n.reg .b128 %q<4>;\n\
             .reg .b32 %bits;\n.reg .b64 %in, %out, %mem, %own, %shared, %mine, %word, %value;\n\
             .shared .align 16 .b8 tile[256];\n\
             ld.param.u64 %in, [input];\nld.param.u64 %out, [output];\nld.param.u64 %mem, [memory];\n\
             mov.u32 %bits, %tid.x;\nmul.wide.u32 %value, %bits, 8;\nadd.u64 %in, %in, %value;\n\
             add.u64 %out, %out, %value;\nmov.u64 %shared, tile;\nmul.wide.u32 %value, %bits, 4;\n\
             add.u64 %word, %shared, %value;\nmov.u32 %bits, %laneid;\nmul.wide.u32 %value, %bits, 8;\n\
             add.u64 %own, %mem, %value;\nadd.u64 %mine, %shared, %value;\n\
             ld.global.u64 %value, [%own];\nst.shared.u64 [%mine], %value;\nbar.sync 0;\n",
        );
        let stride = 8 * self.threads as usize;
        for (index, (name, _)) in self.inputs.iter().enumerate() {
            text.push_str(&format!("ld.global.u64 %value, [%in+{}];\n", stride * index));
            text.push_str(&match &name[..2] {
                "%p" => format!("setp.ne.u64 {name}, %value, 0;\n"),
                "%h" => format!("cvt.u16.u64 {name}, %value;\n"),
                "%r" => format!("cvt.u32.u64 {name}, %value;\n"),
                _ => format!("mov.b64 {name}, %value;\n"),
            });
        }
        let first = text.lines().count();
        text.push_str(&statements::terminated(&self.instructions));
        let lines = first..text.lines().count();
        for (index, (name, _)) in self.results.iter().enumerate() {
            text.push_str(&match &name[..2] {
                "%p" => format!("selp.u64 %value, 1, 0, {name};\n"),
                "%h" => format!("cvt.u64.u16 %value, {name};\n"),
                "%r" => format!("cvt.u64.u32 %value, {name};\n"),
                _ => format!("mov.b64 %value, {name};\n"),
            });
            text.push_str(&format!("st.global.u64 [%out+{}], %value;\n", stride * index));
        }
        text.push_str("ret;\n}\n");
        (text, lines)
    }

    /// What is not as expected.
    pub fn differences(&self, found: &Outcome) -> Vec<String> {
        let mut out = Vec::new();
        let mut differ = |what: String| out.push(format!("line {}: {}\n    {what}", self.line, self.text));
        match (&self.fault, &found.fault) {
            (None, None) => {}
            (Some(expected), Some(fault)) if fault.contains(expected) => return out,
            (_, fault) => differ(format!("fault {}", fault.as_deref().unwrap_or("is missing"))),
        }
        for ((name, expected), found) in self.results.iter().zip(found.values.chunks(self.threads as usize)) {
            if let Some(lane) = (0..found.len()).find(|lane| expected[*lane] != found[*lane]) {
                differ(format!("thread {lane} found {name} = {:#x}, not {:#x}", found[lane], expected[lane]));
            }
        }
        if let Some(seen) = found.seen.as_ref().filter(|seen| self.observes() && **seen != self.seen) {
            differ(format!("seen: {}", seen.iter().cloned().collect::<Vec<String>>().join(", ")));
        }
        out
    }
}

/// The bits of a register.
fn mask_of(name: &str) -> u64 {
    match name.trim_start().get(..2) {
        Some("%p") => 1,
        Some("%h") => 0xffff,
        Some("%r") => 0xffff_ffff,
        _ => u64::MAX,
    }
}

fn assignments(text: &str, threads: u32) -> Vec<(String, Vec<u64>)> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let Some((name, value)) = part.split_once('=') else { panic!("expected `register = value`: {part}") };
            let values = list(value.trim(), threads as usize).into_iter().map(|value| value & mask_of(name)).collect();
            (name.trim().to_owned(), values)
        })
        .collect()
}

fn number(text: &str) -> u64 {
    let parsed = match (text.strip_prefix("0x"), text.strip_prefix('-')) {
        (Some(digits), _) => u64::from_str_radix(digits, 16),
        (_, Some(digits)) => digits.parse::<u64>().map(u64::wrapping_neg),
        _ => text.parse(),
    };
    parsed.unwrap_or_else(|_| panic!("`{text}` is not a number"))
}

fn list(text: &str, threads: usize) -> Vec<u64> {
    if let Some(rest) = text.strip_prefix("lane") {
        let (factor, start) = rest.split_once('+').unwrap_or((rest, "0"));
        let (factor, start) = (factor.strip_prefix('*').map_or(1, number), number(start));
        return (0..threads as u64).map(|lane| lane.wrapping_mul(factor).wrapping_add(start)).collect();
    }
    let mut out = Vec::new();
    for item in text.split_whitespace() {
        if let Some((from, to)) = item.split_once("..") {
            let (from, to) = (number(from), number(to));
            if from <= to { out.extend(from..=to) } else { out.extend((to..=from).rev()) }
        } else if let Some((value, count)) = item.split_once('*') {
            out.extend(std::iter::repeat_n(number(value), number(count) as usize));
        } else {
            out.push(number(item));
        }
    }
    if let [value] = out[..] {
        out = vec![value; threads];
    }
    assert_eq!(out.len(), threads, "`{text}` has {} values", out.len());
    out
}
