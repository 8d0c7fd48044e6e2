//! Test files of instructions on a whole warp. As in `cases.rs`, but a value is a list over the lanes: `7` (all lanes),
//! `lane`, `lane*3`, or items `a`, `a..b` (inclusive, also downwards) and `a*n` (repeated) that make 32 values.
//! The instruction may use `%mem`, the address of 256 bytes with the values 0 to 255, and `tile`, 256 bytes of shared memory
//! with the same values.

pub struct Case {
    pub line: usize,
    pub text: String,
    instruction: String,
    inputs: Vec<(String, Vec<u64>)>,
    pub results: Vec<(String, Vec<u64>)>,
}

impl Case {
    pub fn parse(file: &str) -> Vec<Case> {
        let lines = file.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
        lines
            .map(|(index, text)| {
                let parts: Vec<&str> = text.split(" |").collect();
                let [instruction, inputs, results] = parts[..] else { panic!("line {}: {text}", index + 1) };
                let results = assignments(results);
                assert!(!results.is_empty(), "line {}: no result", index + 1);
                Case {
                    line: index + 1,
                    text: text.into(),
                    instruction: instruction.trim().into(),
                    inputs: assignments(inputs),
                    results,
                }
            })
            .collect()
    }

    pub fn input(&self) -> Vec<u8> {
        self.inputs.iter().flat_map(|(_, values)| values.iter().flat_map(|value| value.to_le_bytes())).collect()
    }

    pub fn kernel(&self) -> String {
        let mut text = String::from(
            ".version 8.6\n.target sm_90a\n.address_size 64\n\
             .visible .entry case(.param .u64 input, .param .u64 output, .param .u64 memory)\n{\n\
             .reg .pred %p<8>;\n.reg .b16 %h<8>;\n.reg .b32 %r<8>;\n.reg .b64 %d<8>;\n.reg .b128 %q<4>;\n\
             .reg .b32 %bits;\n.reg .b64 %in, %out, %mem, %place, %shared, %value;\n.reg .pred %last;\n\
             .shared .align 16 .b8 tile[256];\n\
             ld.param.u64 %in, [input];\nld.param.u64 %out, [output];\nld.param.u64 %mem, [memory];\n\
             mov.u32 %bits, %tid.x;\nmul.wide.u32 %place, %bits, 8;\nadd.u64 %in, %in, %place;\n\
             add.u64 %out, %out, %place;\nadd.u64 %value, %mem, %place;\nld.global.u64 %value, [%value];\n\
             mov.u64 %shared, tile;\nadd.u64 %place, %shared, %place;\nst.shared.u64 [%place], %value;\n\
             bar.warp.sync -1;\n",
        );
        for (index, (name, _)) in self.inputs.iter().enumerate() {
            text.push_str(&format!("ld.global.u64 %value, [%in+{}];\n", 256 * index));
            text.push_str(&match &name[..2] {
                "%p" => format!("setp.ne.u64 {name}, %value, 0;\n"),
                "%h" => format!("cvt.u16.u64 {name}, %value;\n"),
                "%r" => format!("cvt.u32.u64 {name}, %value;\n"),
                _ => format!("mov.b64 {name}, %value;\n"),
            });
        }
        text.push_str(&format!("{};\n", self.instruction));
        for (index, (name, _)) in self.results.iter().enumerate() {
            text.push_str(&match &name[..2] {
                "%p" => format!("selp.u64 %value, 1, 0, {name};\n"),
                "%h" => format!("cvt.u64.u16 %value, {name};\n"),
                "%r" => format!("cvt.u64.u32 %value, {name};\n"),
                _ => format!("mov.b64 %value, {name};\n"),
            });
            text.push_str(&format!("st.global.u64 [%out+{}], %value;\n", 256 * index));
        }
        text.push_str("ret;\n}\n");
        text
    }

    pub fn differences(&self, found: &[u64]) -> Vec<String> {
        let mut out = Vec::new();
        for ((name, expected), found) in self.results.iter().zip(found.chunks(32)) {
            if let Some(lane) = (0..32).find(|lane| expected[*lane] != found[*lane]) {
                let (line, text) = (self.line, &self.text);
                out.push(format!("line {line}: {text}\n    lane {lane} found {name} = {:#x}", found[lane]));
            }
        }
        out
    }
}

fn assignments(text: &str) -> Vec<(String, Vec<u64>)> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let Some((name, value)) = part.split_once('=') else { panic!("expected `register = value`: {part}") };
            let mask = match &name[..2] {
                "%p" => 1,
                "%h" => 0xffff,
                "%r" => 0xffff_ffff,
                _ => u64::MAX,
            };
            let values = list(value.trim()).into_iter().map(|value| value & mask).collect();
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

fn list(text: &str) -> Vec<u64> {
    if let Some(rest) = text.strip_prefix("lane") {
        let factor = rest.strip_prefix('*').map_or(1, number);
        return (0..32).map(|lane| lane * factor).collect();
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
        out = vec![value; 32];
    }
    assert_eq!(out.len(), 32, "`{text}` has {} values", out.len());
    out
}
