//! What single instructions mean, by an oracle that shares nothing with the virtual GPU: ptxas folds an instruction whose operands it knows, and
//! the machine code stores its answer.
//!
//! Every form of `forms.txt` over seeded operands. What ptxas does not fold is not compared.

mod operands;
mod sass;

use std::fmt::Write;

use moe_kernels::assemble::assemble;
use moe_kernels::ptx::Chip;
use moe_random::Random;
use moe_vgpu::{Cluster, Config, Launch, Module, RankId};
use operands::Kind;
use rayon::iter::ParallelIterator;
use rayon::slice::ParallelSlice;

/// Operands for each form.
const CASES: usize = 64;
/// Forms that share a kernel: starting ptxas takes longer than what it does, and in a long kernel it folds less.
const TOGETHER: usize = 2;
/// Bytes of a result, whatever its width.
const PLACE: usize = 8;

struct Form {
    line: usize,
    kinds: Vec<Kind>,
    result: Result,
    instructions: String,
}

#[derive(Clone, Copy)]
enum Result {
    Word,
    Half,
    Double,
}

fn forms() -> Vec<Form> {
    let lines = include_str!("forms.txt").lines().enumerate().filter(|(_, line)| !line.starts_with('#'));
    lines.map(|(at, line)| form(at + 1, line).unwrap_or_else(|| panic!("line {}: {line}", at + 1))).collect()
}

fn form(line: usize, text: &str) -> Option<Form> {
    let (shape, instructions) = text.split_once(": ")?;
    let (kinds, result) = shape.split_once(" > ")?;
    let result = match result {
        "d" => Result::Word,
        "h" => Result::Half,
        "D" => Result::Double,
        _ => return None,
    };
    let kinds = kinds.split(' ').map(Kind::named).collect::<Option<_>>()?;
    Some(Form { line, kinds, result, instructions: instructions.to_owned() })
}

impl Form {
    fn cases(&self) -> Vec<Vec<u64>> {
        let mut random = Random::stream(17, self.line as u64);
        (0..CASES).map(|_| self.kinds.iter().map(|kind| kind.draw(&mut random)).collect()).collect()
    }

    /// Instructions that store the result of a case at a place.
    fn text(&self, values: &[u64], at: usize) -> String {
        let mut body = String::new();
        for (place, (kind, value)) in self.kinds.iter().zip(values).enumerate() {
            let (word, double) = (["%a", "%b", "%c", "%e"][place], ["%A", "%B", "%C", "%E"][place]);
            let _ = match kind.is_double() {
                true => writeln!(body, "mov.b64 {double}, 0x{value:016x};"),
                false => writeln!(body, "mov.b32 {word}, 0x{value:08x};"),
            };
        }
        let store = match self.result {
            Result::Word => format!("st.global.b32 [%o+{at}], %d;"),
            Result::Half => format!("st.global.b16 [%o+{at}], %h;"),
            Result::Double => {
                format!("mov.b64 {{%d, %t}}, %D;\nst.global.b32 [%o+{at}], %d;\nst.global.b32 [%o+{}], %t;", at + 4)
            }
        };
        body + &self.instructions + "\n" + &store + "\n"
    }

    /// 32-bit words of a result, and their bits that count.
    fn words(&self) -> &'static [(usize, u32)] {
        match self.result {
            Result::Word => &[(0, u32::MAX)],
            Result::Half => &[(0, 0xffff)],
            Result::Double => &[(0, u32::MAX), (4, u32::MAX)],
        }
    }
}

/// A kernel that stores the results of some forms, one form behind the other.
fn kernel(forms: &[Form]) -> String {
    let of_form = |(number, form): (usize, &Form)| -> String {
        let at = |case: usize| (number * CASES + case) * PLACE;
        form.cases().iter().enumerate().map(|(case, values)| form.text(values, at(case))).collect()
    };
    let body: String = forms.iter().enumerate().map(of_form).collect();
    format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 out)\n{{\n.reg .pred %p;\n.reg .b16 %h;\n\
         .reg .b32 %a, %b, %c, %e, %d, %t;\n.reg .b64 %A, %B, %C, %E, %D, %o;\nld.param.u64 %o, [out];\n{body}ret;\n}}\n"
    )
}

fn executed(text: &str, bytes: usize) -> Vec<u8> {
    let module = Module::parse(text).unwrap_or_else(|error| panic!("{error}"));
    let kernel = module.kernel("k").expect("the kernel");
    let mut cluster = Cluster::new(Config { ranks: 1, ..Config::default() }).expect("a cluster of one");
    let out = cluster.allocate(RankId(0), bytes as u64, "out").expect("memory");
    cluster.write(out, &vec![0; bytes]).expect("memory");
    let stream = cluster.stream(RankId(0)).expect("a stream");
    cluster.launch(stream, &kernel, Launch::linear(1, 1, vec![out.into()])).expect("a launch");
    cluster.run().unwrap_or_else(|error| panic!("{error}"));
    let mut found = vec![0; bytes];
    cluster.read(out, &mut found).expect("results");
    found
}

/// For each of some forms: how many results were compared, and what differs.
fn compare(forms: &[Form]) -> Vec<(usize, Vec<String>)> {
    let text = kernel(forms);
    let found = executed(&text, forms.len() * CASES * PLACE);
    let assembled = assemble(&text, Chip::Sm90a).and_then(|assembled| assembled.sass());
    let stored = sass::stored(&assembled.unwrap_or_else(|problem| panic!("{problem}")));
    let of_form = |(number, form): (usize, &Form)| {
        let (mut compared, mut wrong) = (0, Vec::new());
        for (case, values) in form.cases().iter().enumerate() {
            for (word, mask) in form.words() {
                let at = (number * CASES + case) * PLACE + word;
                let Some(&folded) = stored.get(&at) else { continue };
                let ours = u32::from_le_bytes(found[at..at + 4].try_into().expect("four bytes"));
                compared += 1;
                if ours & mask != folded & mask {
                    let given: Vec<String> = values.iter().map(|value| format!("{value:08x}")).collect();
                    wrong.push(format!(
                        "{} of {}: {ours:08x}, by ptxas {folded:08x}",
                        form.instructions,
                        given.join(" ")
                    ));
                }
            }
        }
        (compared, wrong)
    };
    forms.iter().enumerate().map(of_form).collect()
}

/// The same, and once more alone what was not folded beside others.
fn compare_each(forms: &[Form]) -> Vec<(usize, Vec<String>)> {
    let together = compare(forms).into_iter().zip(forms.chunks(1));
    together.map(|(found, alone)| if found.0 == 0 { compare(alone).remove(0) } else { found }).collect()
}

#[test]
fn every_result_that_ptxas_folds_is_that_of_the_virtual_gpu() {
    let forms = forms();
    let outcomes: Vec<(usize, Vec<String>)> = forms.par_chunks(TOGETHER).flat_map(compare_each).collect();
    let compared: usize = outcomes.iter().map(|(compared, _)| compared).sum();
    let folded = outcomes.iter().filter(|(compared, _)| *compared > 0).count();
    let wrong: Vec<&str> = outcomes.iter().flat_map(|(_, wrong)| wrong.iter().take(3)).map(String::as_str).collect();
    let never: Vec<&str> =
        forms.iter().zip(&outcomes).filter(|(_, of)| of.0 == 0).map(|(form, _)| form.instructions.as_str()).collect();
    println!("{compared} results in {folded} of {} forms", forms.len());
    assert!(wrong.is_empty(), "{} differ:\n{}\nnever folded:\n{}", wrong.len(), wrong.join("\n"), never.join("\n"));
    assert!(never.is_empty(), "these forms test nothing:\n{}", never.join("\n"));
    assert!(compared >= 10_000, "{compared} results");
}
