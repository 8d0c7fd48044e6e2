//! Every published instruction form, written out with plausible operands, is decoded, and to the kind of step it means.

use super::super::module;
use super::super::op::{KernelCode, Op};

const FORMS: &str = include_str!("../../../tests/data/instruction_forms.txt");

/// A published form by its number.
pub(super) fn form(index: usize) -> &'static str {
    FORMS.lines().nth(index).unwrap_or_default()
}

/// Registers of every width: `%p`, `%b` (8 bits), `%h` (16), `%r` (32), `%d` (64), `%q` (128).
const FRAME: &str = "\
.version 9.1
.target sm_90a
.address_size 64
.const .align 8 .b8 table[64];
.visible .entry kernel(.param .u64 kernel_param_0, .param .align 8 .b8 kernel_param_1[32])
{
    .local .align 16 .b8 depot[64];
    .shared .align 16 .b8 tile[64];
    .reg .pred %p<8>;
    .reg .b16 %h<16>;
    .reg .b32 %r<16>;
    .reg .b64 %d<16>;
    .reg .b128 %q<4>;
";

fn wide(modifiers: &[&str], position: usize) -> u32 {
    let sized = modifiers.iter().filter_map(|word| {
        Some(match *word {
            "b8" | "u8" | "s8" => 8,
            "b16" | "u16" | "s16" | "f16" | "bf16" | "e4m3x2" => 16,
            "b32" | "u32" | "s32" | "f32" | "bf16x2" | "f16x2" => 32,
            "b64" | "u64" | "s64" | "f64" => 64,
            "b128" => 128,
            "pred" => 1,
            _ => return None,
        })
    });
    sized.clone().nth(position).or_else(|| sized.reduce(|_, last| last)).unwrap_or(32)
}

fn reg(bits: u32, index: u32) -> String {
    match bits {
        1 => format!("%p{index}"),
        8 | 16 => format!("%h{index}"),
        32 => format!("%r{index}"),
        64 => format!("%d{index}"),
        _ => format!("%q{index}"),
    }
}

fn vector(modifiers: &[&str], bits: u32, first: u32) -> String {
    let count = if modifiers.contains(&"v4") {
        4
    } else if modifiers.contains(&"v2") {
        2
    } else {
        return reg(bits, first);
    };
    let names: Vec<String> = (first..first + count).map(|index| reg(bits, index)).collect();
    format!("{{{}}}", names.join(", "))
}

fn address(modifiers: &[&str]) -> &'static str {
    match modifiers.iter().find(|word| ["shared", "shared::cta", "local", "const", "param"].contains(word)) {
        Some(&"shared" | &"shared::cta") => "[tile+16]",
        Some(&"local") => "[depot+16]",
        Some(&"const") => "[table+16]",
        Some(_) => "[kernel_param_1+16]",
        None => "[%d9+16]",
    }
}

/// The form as an instruction.
fn instruction(form: &str) -> String {
    let words: Vec<&str> = form.split('.').collect();
    let (opcode, m) = (words[0], &words[1..]);
    let bits = wide(m, 0);
    let r = |index| reg(bits, index);
    let three = || format!("{}, {}, {}", r(1), r(2), r(3));
    let four = || format!("{}, {}, {}, {}", r(1), r(2), r(3), r(4));
    let place = address(m);
    let operands = match opcode {
        "abs" | "neg" | "not" | "mov" | "brev" | "ex2" | "lg2" | "rcp" => format!("{}, {}", r(1), r(2)),
        "popc" | "bfind" => format!("%r1, {}", r(2)),
        "shl" | "shr" => format!("{}, {}, %r3", r(1), r(2)),
        "mul" if m.contains(&"wide") => format!("{}, {}, {}", reg(bits * 2, 1), r(2), r(3)),
        "add" | "sub" | "mul" | "div" | "rem" | "min" | "max" | "and" | "or" | "xor" => three(),
        "fma" | "mad" | "prmt" => four(),
        "bfi" => format!("{}, {}, {}, %r4, %r5", r(1), r(2), r(3)),
        "selp" => format!("{}, {}, {}, %p1", r(1), r(2), r(3)),
        "setp" => format!("%p1, {}, {}", r(1), r(2)),
        "cvt" if m.contains(&"e4m3x2") => "%h1, %r1, %r2".into(),
        "cvt" => format!("{}, {}", reg(wide(m, 0), 1), reg(wide(m, 1), 2)),
        "cvta" => "%d1, %d2".into(),
        "isspacep" => "%p1, %d1".into(),
        "ld" => format!("{}, {place}", vector(m, bits, 1)),
        "st" if m.contains(&"param") => {
            let argument = format!(".param .b{bits} argument; st.param.b{bits} [argument], {};", r(1));
            return format!("{{ {argument} }}");
        }
        "st" => format!("{place}, {}", vector(m, bits, 1)),
        "atom" if m.contains(&"cas") => format!("{}, {place}, {}, {}", r(1), r(2), r(3)),
        "atom" => format!("{}, {place}, {}", r(1), r(2)),
        "red" => format!("{place}, {}", r(2)),
        "activemask" => "%r1".into(),
        "bar" if m.contains(&"warp") => "%r1".into(),
        "bar" => "0".into(),
        "barrier" => "%r1, 64".into(),
        "bra" => "done".into(),
        "call" => return "call.uni callee, ();".into(),
        "elect" => "_|%p1, -1".into(),
        "match" => format!("%r1, {}, %r2", r(3)),
        "redux" => "%r1, %r2, -1".into(),
        "shfl" => "%r1|%p1, %r2, 1, 31, -1".into(),
        "vote" if m.contains(&"ballot") => "%r1, %p1, -1".into(),
        "vote" => "%p1, !%p2, -1".into(),
        "nanosleep" => "%r1".into(),
        "cp" if m.contains(&"commit_group") => String::new(),
        "cp" if m.contains(&"wait_group") => "0".into(),
        "cp" if m.contains(&"bulk_group") => "[%d1], [%r1+64], %r2, %d3".into(),
        "cp" if m.contains(&"bulk") => "[%r1], [%d1], %r2, [tile], %d3".into(),
        "cp" if m.contains(&"mbarrier") => "[tile]".into(),
        "cp" => "[%r1], [%d1], 16".into(),
        "mbarrier" if m.contains(&"expect_tx") => "%d1, [tile], %r2".into(),
        "mbarrier" if m.contains(&"arrive") => "_, [%r1]".into(),
        "mbarrier" if m.contains(&"init") => "[%r1], 1".into(),
        "mbarrier" if m.contains(&"inval") => "[%r1]".into(),
        "mbarrier" => "%p1, [%r1], %r2, 0x989680".into(),
        "fence" | "membar" | "griddepcontrol" | "ret" | "trap" => String::new(),
        _ => panic!("no operands known for `{form}`"),
    };
    format!("{form} {operands};")
}

fn decode(body: &str) -> Result<KernelCode, String> {
    let text = format!("{FRAME}{body}\ndone:\n    ret;\n}}\n.func callee() {{ ret; }}\n");
    let mut program = module(&text).map_err(|error| error.to_string())?;
    Ok(program.kernels.remove(0))
}

#[test]
fn every_published_form_decodes() {
    let mut failures = Vec::new();
    let mut count = 0;
    for form in FORMS.lines() {
        count += 1;
        let line = instruction(form);
        match decode(&line) {
            Ok(code) => {
                let written = if form.starts_with("call") { "call.uni" } else { form };
                let steps = (0..code.steps.len()).filter(|step| code.form(*step as u32) == written);
                // `ret` is the step behind every kernel too.
                if steps.count() < 1 + usize::from(form == "ret") {
                    failures.push(format!("{line}\n  has no step"));
                }
            }
            Err(error) => failures.push(format!("{line}\n  {error}")),
        }
    }
    assert_eq!(count, 335);
    assert!(failures.is_empty(), "{} of {count} forms fail:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn a_wrong_operand_count_is_refused_for_every_form() {
    let accepted: Vec<&str> = FORMS
        .lines()
        .filter(|form| !form.starts_with("call"))
        .filter(|form| {
            let line = instruction(form).replace("; }", ", %r1, %r2, %r3; }");
            let line = line.strip_suffix(';').map_or(line.clone(), |head| {
                let comma = if head.contains(' ') && !head.ends_with(' ') { "," } else { "" };
                format!("{head}{comma} %r1, %r2, %r3;")
            });
            decode(&line).is_ok()
        })
        .collect();
    assert!(accepted.is_empty(), "accepted with three operands too many: {accepted:?}");
}

#[test]
fn memory_forms_keep_order_scope_and_width() {
    use crate::decode::op::Space;
    use crate::memory::order::{Order, Proxy, Scope};
    let first = |line: &str| decode(line).map_or_else(|e| panic!("{e}"), |mut code| code.steps.remove(0).op);
    let Op::Load(load) = first("ld.acquire.sys.L1::no_allocate.global.u32 %r1, [%d1+8];") else { panic!() };
    assert_eq!((load.order, load.scope, load.bytes, load.signed), (Order::Acquire, Scope::Sys, 4, false));
    assert_eq!((load.place.space, load.place.offset, load.proxy), (Space::Global, 8, Proxy::Generic));
    let Op::Load(load) = first("ld.global.nc.L1::no_allocate.L2::256B.v4.s32 {%r1, %r2, _, %r4}, [%d1];") else {
        panic!()
    };
    assert_eq!((load.order, load.proxy, load.registers.len()), (Order::Weak, Proxy::NonCoherent, 4));
    assert_eq!(load.registers[2], None);
    let Op::Store(store) = first("st.mmio.relaxed.sys.global.b64 [%d1], %d2;") else { panic!() };
    assert_eq!((store.order, store.scope, store.bytes), (Order::Relaxed, Scope::Sys, 8));
    let Op::Store(store) = first("st.release.gpu.global.L1::no_allocate.b32 [%d1+-4], %r2;") else { panic!() };
    assert_eq!((store.order, store.scope, store.place.offset), (Order::Release, Scope::Gpu, -4));
    let Op::Atomic(atomic) = first("atom.add.release.gpu.global.s32 %r1, [%d1], 1;") else { panic!() };
    assert_eq!((atomic.order, atomic.scope), (Order::Release, Scope::Gpu));
    let Op::Atomic(atomic) = first("atom.global.add.u32 %r1, [%d1], 1;") else { panic!() };
    assert_eq!((atomic.order, atomic.scope), (Order::Relaxed, Scope::Gpu));
    let Op::Atomic(atomic) = first("red.release.sys.global.add.u64 [%d1], %d2;") else { panic!() };
    assert_eq!((atomic.order, atomic.scope, &atomic.targets[..]), (Order::Release, Scope::Sys, &[None][..]));
}

/// NVIDIA's assembler agrees that what this test writes is PTX.
#[test]
fn every_written_form_assembles() {
    let lines: String = FORMS.lines().map(|form| format!("    {}\n", instruction(form))).collect();
    let text = format!("{FRAME}{lines}done:\n    ret;\n}}\n").replace(".visible", ".func callee() { ret; }\n.visible");
    super::assemble("forms", &text);
}
