//! Which instructions, modifiers and types there are, on which GPU and since which version of PTX, as NVIDIA's assembler has it.

use std::collections::{BTreeMap, BTreeSet};

use super::super::supported;

/// Instructions of every family, one a line. Those that no chip has are to be refused everywhere.
const FORMS: &str = include_str!("targets.txt");

const CHIPS: [&str; 13] = [
    "sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "sm_100", "sm_100a", "sm_100f", "sm_103a", "sm_110a",
    "sm_120", "sm_121a",
];
const VERSIONS: [&str; 22] = [
    "6.4", "6.5", "7.0", "7.1", "7.2", "7.3", "7.4", "7.5", "7.6", "7.7", "7.8", "8.0", "8.1", "8.2", "8.3", "8.4",
    "8.6", "8.7", "8.8", "9.0", "9.1", "9.2",
];

const REGISTERS: &str = "\
.reg .pred %p<4>;
.reg .b8 %b<4>;
.reg .b16 %h<12>;
.reg .b32 %r<40>;
.reg .b32 %f<12>;
.reg .b64 %d<16>;
.reg .b64 %g<8>;
";
/// Registers of 128 bits are newer than others.
const WIDE: &str = ".reg .b128 %q<4>;\n";

fn header(chip: &str, version: &str) -> String {
    format!(".version {version}\n.target {chip}\n.address_size 64\n")
}

fn forms() -> Vec<&'static str> {
    FORMS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

fn registers(form: &str) -> String {
    format!("{REGISTERS}{}", if form.contains("%q") { WIDE } else { "" })
}

/// The forms that we refuse, each in a kernel of its own. Not too many kernels are in one module: what is said of a line is looked up from
/// the beginning.
fn refused_here(forms: &[&str], chip: &str, version: &str) -> BTreeSet<usize> {
    let numbered: Vec<(usize, &&str)> = forms.iter().enumerate().collect();
    let kernel = |(number, form): &(usize, &&str)| {
        format!(".visible .entry k{number}(.param .u64 out)\n{{\n{}{form}\nret;\n}}\n", registers(form))
    };
    let of_some = |forms: &[(usize, &&str)]| -> Vec<usize> {
        let kernels: String = forms.iter().map(kernel).collect();
        let module = supported(&format!("{}{kernels}", header(chip, version)), &[]);
        let (_, refused) = module.unwrap_or_else(|error| panic!("{error}"));
        refused.iter().map(|refused| refused.kernel[1..].parse().expect("the number of a form")).collect()
    };
    numbered.chunks(50).flat_map(of_some).collect()
}

/// The forms that the assembler refuses; none if it does not know the chip in this version. It does not say everything at once: what it has
/// refused is left out of the next attempt.
fn refused_there(forms: &[&str], chip: &str, version: &str) -> Option<BTreeSet<usize>> {
    let mut refused = BTreeSet::new();
    loop {
        let left: Vec<usize> = (0..forms.len()).filter(|form| !refused.contains(form)).collect();
        let block = |form: usize| {
            let wide = if forms[form].contains("%q") { WIDE.trim_end() } else { "" };
            format!("{{ {wide} {} }}\n", forms[form])
        };
        let body: String = left.iter().map(|form| block(*form)).collect();
        let start = format!("{}.visible .entry k(.param .u64 out)\n{{\n{REGISTERS}", header(chip, version));
        let (success, said) = super::assembler("targets", &format!("{start}{body}ret;\n}}\n"), chip);
        if success {
            return Some(refused);
        }
        let (above, before, mut elsewhere) = (start.lines().count(), refused.len(), false);
        for line in said.lines() {
            let Some((file, rest)) = line.split_once(", line ") else { continue };
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let number: usize = rest[..digits].parse().expect("a line");
            match number.checked_sub(above + 1).and_then(|at| left.get(at)) {
                // Some forms stand for functions of its own, which do not always suit.
                _ if file.contains("<builtin>") => {}
                Some(form) => _ = refused.insert(*form),
                None => elsewhere = true,
            }
        }
        if refused.len() > before {
            continue;
        }
        let stumbles = said.contains("<builtin>") || said.contains("Internal compiler error");
        assert!(elsewhere || stumbles, "{chip}, {version}: {said}");
        if !stumbles {
            return None;
        }
        if let [form] = left[..] {
            // What it has accepted before it gives up is a form that it has.
            refused.extend(said.contains("<builtin>").then_some(form));
            return Some(refused);
        }
        for half in left.chunks(left.len().div_ceil(2)) {
            let some: Vec<&str> = half.iter().map(|form| forms[*form]).collect();
            refused.extend(refused_there(&some, chip, version)?.into_iter().map(|at| half[at]));
        }
        return Some(refused);
    }
}

#[test]
fn every_form_is_refused_before_the_chip_and_the_version_that_have_it() {
    let forms = forms();
    let (mut differ, mut compared) = (BTreeMap::<String, Vec<String>>::new(), 0);
    for chip in CHIPS {
        for version in VERSIONS {
            if refused_there(&[], chip, version).is_none() {
                continue;
            }
            let Some(there) = refused_there(&forms, chip, version) else { continue };
            let here = refused_here(&forms, chip, version);
            compared += forms.len();
            for form in there.symmetric_difference(&here) {
                let who = if here.contains(form) { "only here" } else { "only by ptxas" };
                differ.entry(format!("{}, refused {who}", forms[*form])).or_default().push(format!("{chip} {version}"));
            }
        }
    }
    let differ: Vec<String> = differ
        .into_iter()
        .map(|(form, places)| {
            format!("{form} in {} places: {}", places.len(), places[..places.len().min(4)].join(", "))
        })
        .collect();
    assert!(differ.is_empty(), "{} of {} forms differ:\n{}", differ.len(), forms.len(), differ.join("\n"));
    assert!(compared > 10_000, "{compared}");
}

/// What to combine: opcode, operands, and the forms of registers by type.
#[test]
fn floating_point_takes_the_modifiers_that_the_assembler_takes() {
    const OPCODES: [(&str, usize); 20] = [
        ("add", 2),
        ("sub", 2),
        ("mul", 2),
        ("fma", 3),
        ("mad", 3),
        ("div", 2),
        ("rcp", 1),
        ("sqrt", 1),
        ("rsqrt", 1),
        ("sin", 1),
        ("cos", 1),
        ("lg2", 1),
        ("ex2", 1),
        ("tanh", 1),
        ("abs", 1),
        ("neg", 1),
        ("min", 2),
        ("max", 2),
        ("max", 3),
        ("copysign", 2),
    ];
    const TYPES: [(&str, &str); 7] = [
        ("f32", "%f"),
        ("f64", "%g"),
        ("f16", "%h"),
        ("bf16", "%h"),
        ("f16x2", "%r"),
        ("bf16x2", "%r"),
        ("f32x2", "%d"),
    ];
    const MODES: [&str; 7] = ["", ".rn", ".rz", ".rm", ".rp", ".approx", ".full"];
    const FLAGS: [&str; 6] = [".ftz", ".sat", ".NaN", ".xorsign", ".abs", ".relu"];
    let mut forms = Vec::new();
    for (opcode, count) in OPCODES {
        for (element, register) in TYPES {
            for mode in MODES {
                for flags in 0..1u32 << FLAGS.len() {
                    let flags: String =
                        (0..FLAGS.len()).filter(|at| flags >> at & 1 == 1).map(|at| FLAGS[at]).collect();
                    let operands: Vec<String> = (0..=count).map(|at| format!("{register}{at}")).collect();
                    forms.push(format!("{opcode}{mode}{flags}.{element} {};", operands.join(", ")));
                }
            }
        }
    }
    let differ: Vec<String> = differences(&forms)
        .into_iter()
        // The assembler takes a word there that PTX does not have and that changes nothing.
        .filter(|form| !form.starts_with("rcp.r") || !form.contains("ftz.f64"))
        .collect();
    assert!(differ.is_empty(), "{} differ; refused only\n{}", differ.len(), differ[..differ.len().min(200)].join("\n"));
}

#[test]
fn conversions_take_the_modifiers_that_the_assembler_takes() {
    const TYPES: [(&str, &str); 21] = [
        ("f32", "%f"),
        ("f64", "%g"),
        ("f16", "%h"),
        ("bf16", "%h"),
        ("f16x2", "%r"),
        ("bf16x2", "%r"),
        ("tf32", "%r"),
        ("e4m3x2", "%h"),
        ("e5m2x2", "%h"),
        ("e2m1x2", "%b"),
        ("e2m3x2", "%h"),
        ("e3m2x2", "%h"),
        ("ue8m0x2", "%h"),
        ("u8", "%r"),
        ("s8", "%r"),
        ("u16", "%h"),
        ("s16", "%h"),
        ("u32", "%r"),
        ("s32", "%r"),
        ("u64", "%d"),
        ("s64", "%d"),
    ];
    const MODES: [&str; 10] = ["", ".rn", ".rz", ".rm", ".rp", ".rna", ".rni", ".rzi", ".rmi", ".rpi"];
    const FLAGS: [&str; 4] = [".ftz", ".sat", ".satfinite", ".relu"];
    let mut forms = Vec::new();
    for (to, target) in TYPES {
        for (from, source) in TYPES {
            let two = to.ends_with("x2") && from == "f32";
            let operands = if two { format!("{source}1, {source}2") } else { format!("{source}1") };
            for mode in MODES {
                for flags in 0..1u32 << FLAGS.len() {
                    let flags: String =
                        (0..FLAGS.len()).filter(|at| flags >> at & 1 == 1).map(|at| FLAGS[at]).collect();
                    forms.push(format!("cvt{mode}{flags}.{to}.{from} {target}0, {operands};"));
                }
            }
        }
    }
    let differ = differences(&forms);
    assert!(differ.is_empty(), "{} differ; refused only\n{}", differ.len(), differ[..differ.len().min(200)].join("\n"));
}

/// Every shape with every type, and as many registers as each would have.
#[test]
fn matrices_of_wmma_are_those_that_the_assembler_takes() {
    const SHAPES: [(&str, usize, usize, usize); 7] = [
        ("m16n16k16", 16, 16, 16),
        ("m32n8k16", 32, 8, 16),
        ("m8n32k16", 8, 32, 16),
        ("m16n16k8", 16, 16, 8),
        ("m8n8k4", 8, 8, 4),
        ("m8n8k32", 8, 8, 32),
        ("m8n8k128", 8, 8, 128),
    ];
    const TYPES: [(&str, usize); 11] = [
        ("f16", 16),
        ("bf16", 16),
        ("tf32", 32),
        ("f32", 32),
        ("f64", 64),
        ("s8", 8),
        ("u8", 8),
        ("s4", 4),
        ("u4", 4),
        ("b1", 1),
        ("s32", 32),
    ];
    let list = |(name, bits): (&str, usize), elements: usize, first: usize, factor: bool| {
        let register = if bits == 64 { "%g" } else { "%r" };
        let count = match name {
            "f16" if factor => 8,
            "f64" => elements / 32,
            _ => elements * bits / 1024,
        };
        let names: Vec<String> = (0..count.clamp(1, 8))
            .map(|at| format!("{register}{}", (first + at) % if bits == 64 { 8 } else { 40 }))
            .collect();
        format!("{{{}}}", names.join(", "))
    };
    let (mut loads, mut products) = (Vec::new(), Vec::new());
    for (shape, rows, columns, depth) in SHAPES {
        for layout in ["row", "col"] {
            for element in TYPES {
                for (matrix, elements) in [("a", rows * depth), ("b", columns * depth), ("c", rows * columns)] {
                    let registers = list(element, elements, 0, matrix != "c");
                    loads.push(format!(
                        "wmma.load.{matrix}.sync.aligned.{layout}.{shape}.{} {registers}, [%d9], %r20;",
                        element.0
                    ));
                }
                let registers = list(element, rows * columns, 0, false);
                loads.push(format!(
                    "wmma.store.d.sync.aligned.{layout}.{shape}.shared.{} [%r20], {registers};",
                    element.0
                ));
                let other = TYPES.into_iter().filter(|other| element.0 == other.0 || element.1 == 8 && other.1 == 8);
                for (second, third) in other.flat_map(|other| ["row", "col"].map(|layout| (other, layout))) {
                    for (d, c, name) in
                        [(3, 3, "f32"), (0, 0, "f16"), (10, 10, "s32"), (4, 4, "f64"), (0, 3, ""), (3, 0, "")]
                    {
                        for end in ["", ".satfinite", ".rn", ".rp"] {
                            let (d, c) = (TYPES[d], TYPES[c]);
                            let factors =
                                if element.0 == "f16" { String::new() } else { format!(".{}.{}", element.0, second.0) };
                            if name.is_empty() && element.0 != "f16" {
                                continue;
                            }
                            let operands = [
                                list(d, rows * columns, 0, false),
                                list(element, rows * depth, 8, true),
                                list(second, columns * depth, 16, true),
                                list(c, rows * columns, 24, false),
                            ];
                            let operation = if element.0 == "b1" { ".xor.popc" } else { "" };
                            products.push(format!(
                                "wmma.mma{operation}.sync.aligned.{layout}.{third}.{shape}.{}{factors}.{}{end} {};",
                                d.0,
                                c.0,
                                operands.join(", ")
                            ));
                        }
                    }
                }
            }
        }
    }
    let differ: Vec<String> = [loads, products]
        .iter()
        .flat_map(|forms| forms.chunks(500).flat_map(differences).collect::<Vec<_>>())
        // The assembler also takes shapes of f64 that PTX does not have, and sums of f32 that are of no product.
        .filter(|form| !form.contains("f64") || form.contains("m8n8k4"))
        .filter(|form| {
            form.contains(".mma.") || !(form.contains(".f32 ") && form.contains("m8n8") && !form.contains("k4."))
        })
        .collect();
    assert!(differ.is_empty(), "{} differ; refused only\n{}", differ.len(), differ[..differ.len().min(100)].join("\n"));
}

#[test]
fn video_instructions_on_parts_are_those_that_the_assembler_takes() {
    const OPERANDS: [&str; 9] = [
        "%r0, %r1, %r2, %r3",
        "%r0, %r1, %r2",
        "%r0, %r1.b7654, %r2.b0123, %r3",
        "%r0.b20, %r1, %r2, %r3",
        "%r0.b02, %r1, %r2, %r3",
        "%r0, %r1.b765, %r2, %r3",
        "%r0, %r1.h30, %r2.h12, %r3",
        "%r0.h1, %r1, %r2, %r3",
        "%r0.h2, %r1, %r2, %r3.h10",
    ];
    let mut forms = Vec::new();
    for name in ["vadd", "vsub", "vavrg", "vabsdiff", "vmin", "vmax", "vset"] {
        for parts in ["2", "4"] {
            for types in ["u32.u32.u32", "s32.u32.s32", "u32.s32.s32", "s32.s32", "u32.s32"] {
                for end in ["", ".sat", ".add", ".sat.add", ".lt", ".ne.add", ".ge.sat"] {
                    forms.extend(OPERANDS.map(|operands| format!("{name}{parts}.{types}{end} {operands};")));
                }
            }
        }
    }
    let differ = differences(&forms);
    assert!(differ.is_empty(), "{} differ; refused only\n{}", differ.len(), differ[..differ.len().min(100)].join("\n"));
}

/// What is refused by one side only.
fn differences(forms: &[String]) -> Vec<String> {
    let of_some = |forms: &[String]| {
        let forms: Vec<&str> = forms.iter().map(String::as_str).collect();
        let there = refused_there(&forms, "sm_100a", "9.2").expect("a chip that the assembler knows");
        let here = refused_here(&forms, "sm_100a", "9.2");
        let of = |form: &usize| format!("{}, {}", forms[*form], if here.contains(form) { "here" } else { "by ptxas" });
        there.symmetric_difference(&here).map(of).collect::<Vec<_>>()
    };
    forms.chunks(4000).flat_map(of_some).collect()
}
