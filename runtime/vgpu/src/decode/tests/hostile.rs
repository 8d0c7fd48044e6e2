//! No text makes the front end panic, overflow the stack or run for long, and every error names a line of the text.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::{module, supported};

const HEAD: &str = ".version 8.6\n.target sm_90a\n.address_size 64\n";

/// Generous, since a test machine may be loaded tenfold: these inputs take at most a few seconds, a quadratic algorithm hours.
const LIMIT: Duration = Duration::from_secs(120);

fn check(text: &str) -> Result<(), String> {
    match module(text) {
        Ok(_) => Ok(()),
        Err(error) => {
            let lines = text.split('\n').count();
            assert!(error.line >= 1 && error.line as usize <= lines, "line {} of {lines}: {error}", error.line);
            assert!(!error.message.is_empty());
            Err(error.message)
        }
    }
}

/// A text of about 10 MB that repeats a piece, which may depend on a counter.
fn large(piece: impl Fn(usize) -> String) -> String {
    let mut text = String::new();
    let mut index = 0;
    while text.len() < 10_000_000 {
        text.push_str(&piece(index));
        index += 1;
    }
    text
}

fn quick(name: &str, text: &str) -> Result<(), String> {
    let start = Instant::now();
    let result = check(text);
    assert!(start.elapsed() < LIMIT, "{name}: {:?}", start.elapsed());
    result
}

#[test]
fn deep_nesting_is_an_error() {
    let many = |open: &str| open.repeat(1_000_000);
    let kernel = |body: String| format!("{HEAD}.entry k() {{ {body}");
    assert_eq!(quick("blocks", &kernel(many("{"))).unwrap_err(), "blocks are nested too deeply");
    let operand = kernel(format!("mov.u32 {}", many("{")));
    assert_eq!(quick("operands", &operand).unwrap_err(), "this operand is nested too deeply");
    let signs = kernel(format!("mov.u32 a, {}", many("-")));
    assert_eq!(quick("signs", &signs).unwrap_err(), "this operand is nested too deeply");
    let initial = format!("{HEAD}.global .u32 a[] = {}", many("{"));
    assert_eq!(quick("initialiser", &initial).unwrap_err(), "this initialiser is nested too deeply");
    assert_eq!(quick("tokens", &kernel("{".repeat(10_000_000))).unwrap_err(), "the module is too large");
}

#[test]
fn large_texts_are_quick() {
    let frame = |body: &str| format!("{HEAD}.entry k()\n{{\n.reg .b32 %r<9999999>;\n{body}\nret;\n}}\n");
    assert!(quick("spaces", &large(|_| " ".into())).is_err());
    assert!(quick("one comment", &format!("/*{}", large(|_| "*".into()))).is_err());
    assert!(quick("one word", &large(|_| "a".into())).is_err());
    assert!(quick("one number", &format!("{HEAD}{}", large(|_| "7".into()))).is_err());
    assert!(quick("one string", &format!("{HEAD}.pragma \"{}", large(|_| "x".into()))).is_err());
    assert!(quick("digits of a name", &frame(&format!("mov.u32 %r{}, 1;", large(|_| "9".into())))).is_err());
    assert!(quick("one modifier", &frame(&format!("mov{} a, b;", large(|_| ".u32".into())))).is_err());
    assert_eq!(quick("instructions", &frame(&large(|n| format!("add.u32 %r{}, %r1, {n};\n", n % 100)))), Ok(()));
    let registers = large(|n| format!("mov.u64 %d{n}, 1;\n"));
    let registers = quick("registers", &frame(&format!(".reg .b64 %d<9999999>;\n{registers}")));
    assert_eq!(registers.unwrap_err(), "`mov.u64`: this kernel uses too many registers");
    assert_eq!(quick("labels", &frame(&large(|n| format!("L{n}: bra L{n};\n")))), Ok(()));
    assert!(quick("families", &frame(&large(|n| format!(".reg .b32 %a{n}x<9>;\n")))).is_ok());
    assert!(quick("kernels", &format!("{HEAD}{}", large(|n| format!(".entry k{n}() {{ ret; }}\n")))).is_ok());
    let variables = large(|n| format!(".global .u32 v{n};\n"));
    assert!(quick("variables", &format!("{HEAD}{variables}")).is_ok());
    let half = &variables[..5_000_000];
    let kernels = large(|n| format!(".entry k{n}() {{ ret; }}\n"));
    let both = format!("{HEAD}{}\n{kernels}", &half[..half.rfind('\n').unwrap_or(0)]);
    assert!(quick("variables and kernels", &both).is_ok());
}

#[test]
fn a_function_called_by_many_kernels_does_not_multiply() {
    let body = "add.u32 %r1, %r1, 1;\n".repeat(100_000);
    let function = format!(".func f()\n{{\n.reg .b32 %r<2>;\n{body}ret;\n}}\n");
    let kernels: String = (0..50_000).map(|n| format!(".entry k{n}() {{ call f, (); ret; }}\n")).collect();
    let result = quick("kernels that call", &format!("{HEAD}{function}{kernels}"));
    assert_eq!(result.unwrap_err(), "the module has too many instructions");
}

/// Fragments that PTX is made of, so that random sequences get past the first token.
fn fragment() -> impl Strategy<Value = String> {
    let fixed = prop::sample::select(vec![
        ".version 8.6",
        ".target sm_90a",
        ".address_size 64",
        ".entry",
        ".func",
        ".reg",
        ".param",
        ".global",
        ".const",
        ".shared",
        ".local",
        ".align",
        ".extern",
        ".visible",
        ".u32",
        ".b64",
        ".pred",
        ".f32",
        ".v4",
        ".branchtargets",
        ".loc 1 2 3",
        ".section",
        ".pragma",
        "\"text\"",
        "k",
        "%r1",
        "%r",
        "%p1",
        "<4>",
        "(",
        ")",
        "{",
        "}",
        "[",
        "]",
        ",",
        ";",
        ":",
        "@",
        "@!",
        "!",
        "|",
        "=",
        "+",
        "-",
        "_",
        "0",
        "1",
        "4294967296",
        "18446744073709551615",
        "0f3F800000",
        "0d3FF0000000000000",
        "1.5",
        "ld",
        "st",
        "add",
        "setp.eq",
        "mov",
        "bra",
        "call",
        "brx.idx",
        "cvt.rn",
        "atom.add",
        "shfl.sync.idx.b32",
        "cp.async.bulk",
        "mbarrier.init",
        "ret",
        "%tid.x",
        "%clock64",
        "//",
        "/*",
        "*/",
        "\n",
    ]);
    prop_oneof![8 => fixed.prop_map(str::to_owned), 1 => "[ -~]{0,6}", 1 => any::<char>().prop_map(String::from)]
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let text = String::from_utf8_lossy(&bytes);
        let _ = check(&text);
        let _ = check(&format!("{HEAD}.entry k() {{ {text}"));
    }

    #[test]
    fn any_fragments(parts in prop::collection::vec(fragment(), 0..60)) {
        let text = parts.join(" ");
        let _ = check(&text);
        let _ = check(&format!("{HEAD}{text}"));
        let _ = check(&format!("{HEAD}.entry k(.param .u64 a) {{ .reg .b32 %r<4>; .reg .pred %p<2>; {text} }}"));
    }

    /// A published form with arbitrary operands: accepted or refused, never more.
    #[test]
    fn any_operands(form in 0usize..335, parts in prop::collection::vec(fragment(), 0..8)) {
        let form = super::forms::form(form);
        let declarations = ".reg .b16 %h<4>; .reg .b32 %r<4>; .reg .b64 %d<4>; .reg .pred %p<4>;";
        let _ = check(&format!("{HEAD}.entry k(.param .u64 a) {{ {declarations} {form} {}; ret; }}", parts.join(" ")));
    }

    /// Whatever stands in a body, with its braces, comments and strings closed, the functions around it are there.
    #[test]
    fn any_fragments_in_a_body_leave_the_others_alone(parts in prop::collection::vec(fragment(), 0..40)) {
        let body = parts.join(" ");
        let ends = ["{", "}", "\"", "/*", ".entry", ".func"];
        prop_assume!(!ends.iter().any(|end| body.contains(end)));
        let kernel = |name: &str, body: &str| format!(".visible .entry {name}() {{ {body} }}\n");
        let others = [kernel("before", "ret;"), kernel("after", "{ ret; } ret;"), kernel("last", "ret;")];
        let text = format!("{HEAD}{}.visible .entry any() {{ .reg .b32 %r<4>; {body}\n }}\n{}{}", others[0], others[1], others[2]);
        let (program, refused) = supported(&text, &[]).unwrap_or_else(|error| panic!("{error}"));
        let names: Vec<&str> = program.kernels.iter().map(|kernel| kernel.name.as_str()).collect();
        let kept: Vec<&str> = names.iter().copied().filter(|name| *name != "any").collect();
        prop_assert_eq!(kept, ["before", "after", "last"]);
        prop_assert_eq!(refused.len() + names.len(), 4);
    }

    /// Open and closed braces anywhere: an error names a line of the text.
    #[test]
    fn any_braces_in_bodies(parts in prop::collection::vec(prop_oneof![fragment(), Just("{".to_owned()), Just("}".to_owned())], 0..40)) {
        let body = parts.join(" ");
        let text = format!("{HEAD}.visible .entry a() {{ {body}\n }}\n.visible .entry b() {{ ret; }}\n");
        let lines = text.split('\n').count();
        let inside = |line: u32| line >= 1 && line as usize <= lines;
        match supported(&text, &[]) {
            Ok((_, refused)) => prop_assert!(refused.iter().all(|one| inside(one.error.line))),
            Err(error) => prop_assert!(inside(error.line)),
        }
    }
}
