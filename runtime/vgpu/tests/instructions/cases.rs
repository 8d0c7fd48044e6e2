//! Test files of instruction semantics. A line is `instruction | inputs | results`, such as
//! `add.u32 %r0, %r1, 1 | %r1 = 0xffffffff | %r0 = 0`. The prefix of a register is its width: `%p` predicate, `%c` 8,
//! `%h` 16, `%r` 32, `%d` 64 bits. Values: integers, `true`, `false`, `f32:1.5`, `f64:1.5`, `f16:1.5`, `bf16:1.5`.

use super::statements;

/// One line of a test file.
#[derive(Clone)]
pub struct Case {
    pub line: usize,
    pub text: String,
    pub instruction: String,
    pub inputs: Vec<(String, u64)>,
    /// Registers and the bits that they must hold.
    pub results: Vec<(String, u64)>,
}

impl Case {
    pub fn parse(file: &str) -> Vec<Case> {
        let lines = file.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
        lines.map(|(index, line)| Case::of_line(index + 1, line)).collect()
    }

    fn of_line(line: usize, text: &str) -> Case {
        // `a|b` inside an instruction has no spaces.
        let parts: Vec<&str> = text.split(" |").collect();
        let [instruction, inputs, results] = parts[..] else { panic!("line {line}: expected three parts: {text}") };
        let results = assignments(results, line);
        assert!(!results.is_empty(), "line {line}: no result: {text}");
        Case {
            line,
            text: text.to_owned(),
            instruction: instruction.trim().to_owned(),
            inputs: assignments(inputs, line),
            results,
        }
    }

    pub fn forms(&self) -> Vec<&str> {
        statements::forms(&self.instruction)
    }

    /// The case without one of its instructions.
    pub fn without(&self, nth: usize) -> Case {
        Case { instruction: statements::without(&self.instruction, nth), ..self.clone() }
    }

    /// What does not hold, given the values found for this case.
    pub fn differences(&self, found: &[u64]) -> Vec<String> {
        let pairs = self.results.iter().zip(found).filter(|((_, expected), found)| expected != *found);
        pairs
            .map(|((name, _), found)| format!("line {}: {}\n    found {name} = {found:#x}", self.line, self.text))
            .collect()
    }

    /// PTX that sets the inputs, executes the instruction and stores the results, 8 bytes each, from `[%out + offset]`.
    pub fn ptx(&self, offset: usize) -> String {
        let mut text = String::from("{\n.reg .pred %p<8>;\n.reg .b16 %h<8>;\n.reg .b32 %r<8>;\n.reg .b64 %d<8>;\n");
        text.push_str(".reg .b8 %c<8>;\n.reg .b32 %bool;\n.reg .b64 %result;\n");
        for (name, bits) in &self.inputs {
            text.push_str(&match &name[..2] {
                "%p" => format!("mov.b32 %bool, {bits};\nsetp.ne.u32 {name}, %bool, 0;\n"),
                "%c" => format!("mov.b16 %h7, {bits};\ncvt.u8.u16 {name}, %h7;\n"),
                "%h" => format!("mov.b16 {name}, {bits};\n"),
                "%r" => format!("mov.b32 {name}, {bits};\n"),
                _ => format!("mov.b64 {name}, {bits};\n"),
            });
        }
        text.push_str(&statements::terminated(&self.instruction));
        for (index, (name, _)) in self.results.iter().enumerate() {
            text.push_str(&match &name[..2] {
                "%p" => format!("selp.u64 %result, 1, 0, {name};\n"),
                "%c" => format!("cvt.u64.u8 %result, {name};\n"),
                "%h" => format!("cvt.u64.u16 %result, {name};\n"),
                "%r" => format!("cvt.u64.u32 %result, {name};\n"),
                _ => format!("mov.b64 %result, {name};\n"),
            });
            text.push_str(&format!("st.global.u64 [%out+{}], %result;\n", offset + 8 * index));
        }
        text.push_str("}\n");
        text
    }
}

/// A kernel `cases(.param .u64 out)` that runs all cases one after the other.
pub fn kernel(cases: &[Case]) -> String {
    let mut text = String::from(".version 9.2\n.target sm_100a\n.address_size 64\n");
    text.push_str(".visible .entry cases(.param .u64 out)\n{\n.reg .b64 %out;\nld.param.u64 %out, [out];\n");
    let mut offset = 0;
    for case in cases {
        text.push_str(&case.ptx(offset));
        offset += 8 * case.results.len();
    }
    text.push_str("ret;\n}\n");
    text
}

/// The values of each case, out of those of all.
pub fn by_case<'f>(cases: &[Case], mut found: &'f [u64]) -> Vec<&'f [u64]> {
    let count = cases.iter().map(|case| case.results.len()).sum::<usize>();
    assert_eq!(found.len(), count, "results");
    let mut next = |case: &Case| {
        let (own, rest) = found.split_at(case.results.len());
        found = rest;
        own
    };
    cases.iter().map(&mut next).collect()
}

/// What does not hold, given the values found, in order.
pub fn differences(cases: &[Case], found: &[u64]) -> Vec<String> {
    by_case(cases, found).iter().zip(cases).flat_map(|(found, case)| case.differences(found)).collect()
}

fn assignments(text: &str, line: usize) -> Vec<(String, u64)> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| match part.split_once('=') {
            Some((name, value)) => {
                let name = name.trim();
                (name.to_owned(), value_of(name, value.trim(), line))
            }
            None => panic!("line {line}: expected `register = value`: {part}"),
        })
        .collect()
}

fn value_of(name: &str, text: &str, line: usize) -> u64 {
    let bad = || -> u64 { panic!("line {line}: `{text}` is not a value") };
    let width = match &name[..2] {
        "%p" => 1,
        "%c" => 8,
        "%h" => 16,
        "%r" => 32,
        "%d" => 64,
        _ => panic!("line {line}: `{name}` is not a register of a test"),
    };
    let value = if let Some((kind, number)) = text.split_once(':') {
        match (kind, number.parse::<f64>()) {
            ("f32", Ok(value)) => u64::from((value as f32).to_bits()),
            ("f64", Ok(value)) => value.to_bits(),
            ("f16", Ok(value)) => u64::from(half::f16::from_f64(value).to_bits()),
            ("bf16", Ok(value)) => u64::from(half::bf16::from_f64(value).to_bits()),
            _ => bad(),
        }
    } else if let Some(digits) = text.strip_prefix("0x") {
        u64::from_str_radix(digits, 16).unwrap_or_else(|_| bad())
    } else if let Some(digits) = text.strip_prefix('-') {
        digits.parse::<u64>().unwrap_or_else(|_| bad()).wrapping_neg() & (u64::MAX >> (64 - width))
    } else {
        match text {
            "true" => 1,
            "false" => 0,
            digits => digits.parse().unwrap_or_else(|_| bad()),
        }
    };
    assert!(width == 64 || value >> width == 0, "line {line}: {text} does not fit in {name}");
    value
}
