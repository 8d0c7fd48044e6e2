//! Blocks whose head is wrong: the head is reported, and everything inside too.

use moe_front::check_source;
use moe_front::diagnostics::render::render;
use moe_front::text::Screen;

/// A wrong head, the right one, and what makes a file of it; `#` is the head.
const CASES: &[(&str, &str, &str)] = &[
    ("model deepseek-v3", "model deepseek_v3", "# { hiden 64 }"),
    ("model 5x", "model x5", "# { hiden 64 }"),
    ("model \"small\"", "model small", "# { hiden 64 }"),
    ("model modèle", "model modele", "# { hiden 64 }"),
    ("model my model", "model my_model", "# { hiden 64 }"),
    ("model", "model m", "# { hiden 64 }"),
    ("cluster gpu.pod", "cluster gpu_pod", "# { nodse 4 }"),
    ("cluster", "cluster c", "# { nodse 4 }"),
    ("deploy d off m on c", "deploy d of m on c", "# { epp 8 }"),
    ("deploy d of m", "deploy d of m on c", "# { epp 8 }"),
    ("deploy m on c", "deploy d of m on c", "# { epp 8 }"),
    ("deploy d of big-m on c", "deploy d of big_m on c", "# { epp 8 }"),
    (
        "gate(logits f32[experts])",
        "gate(logits: f32[experts])",
        "model m { hidden 64 experts 8 # { let x = softmx(logits) } }",
    ),
    ("gate", "gate(logits: f32[experts])", "model m { hidden 64 experts 8 # { let x = softmx(logits) } }"),
    (
        "gate(logits: f32[experts]) fast",
        "gate(logits: f32[experts])",
        "model m { hidden 64 experts 8 # { let x = softmx(logits) weights softmax(x) } }",
    ),
    ("gpu H800", "gpu \"H800\"", "cluster c { # { targt sm_90a } nodse 4 }"),
    ("dispatch fp8", "dispatch", "model m { # { payload fp9 } }"),
    ("combine bf16", "combine", "model m { # { payload fp9 } }"),
    ("experts 8 in groups", "experts 8 in 2 groups", "model m { # { zeroo 1..2 } shard 1 }"),
    ("attention latent 8", "attention latent", "model m { # { heads -8 } }"),
    ("attention grouped 8", "attention grouped", "model m { # { heads 8.5 } }"),
    ("attention single 8", "attention single", "model m { # { heads 8.5 } }"),
    (
        "compress 4 in layers",
        "compress 4 in 2 layers",
        "model m { hidden 64 experts 8 attention single { # { naer 8 } } }",
    ),
    ("attention latnt", "attention latent", "model m { # { heads 8.5 } }"),
];

#[test]
fn a_wrong_head_hides_nothing_of_its_block() {
    let mut all = String::new();
    for (wrong, right, file) in CASES {
        let codes = |head: &str| {
            let source = file.replace('#', head);
            let checked = check_source(source.as_bytes());
            let inside = source.find(head).expect("the head") + head.len();
            let inside = checked.diagnostics.iter().filter(|found| found.place().start as usize >= inside);
            let inside: Vec<&str> = inside.map(|found| found.code.id()).collect();
            (inside.join(" "), checked.diagnostics.errors(), source, checked.diagnostics)
        };
        let (expected, without, ..) = codes(right);
        let (found, with, source, diagnostics) = codes(wrong);
        let shown = render("f.moe", source.as_bytes(), &diagnostics, &Screen::ENDLESS);
        // What the right head would not say: that a setting is missing, where a part of the file could not be read.
        let must: Vec<&str> = expected.split(' ').filter(|code| *code != "M0208").collect();
        for code in must {
            assert!(found.contains(code), "{wrong}: {code} is hidden\n{shown}");
        }
        assert!(
            with > 0
                && without > 0
                && diagnostics.iter().any(|problem| (problem.place().start as usize) < source.len())
        );
        all.push_str(&shown);
        all.push('\n');
    }
    insta::assert_snapshot!(all);
}

/// Whoever has begun an attention of one kind is shown that kind.
#[test]
fn each_kind_of_attention_is_answered_with_its_own_form() {
    for kind in ["latent", "grouped", "single"] {
        let source = format!("model m {{ attention {kind} 8 {{ }} }}");
        let checked = check_source(source.as_bytes());
        let found = checked.diagnostics.iter().find(|found| found.code.id() == "M0101").expect("`8` cannot stand here");
        let help = found.help.as_deref().expect("a form");
        assert!(help.starts_with(&format!("write it like `attention {kind} {{ heads ")), "{help}");
    }
}

/// A name that a file cannot have is one error, wherever it is used; two of them are not one name.
#[test]
fn names_that_cannot_be_read_are_not_the_same_name() {
    let gate = "gate(logits: f32[experts]) { weights logits[top(2, experts, by: logits)] }";
    let source = format!("model a-1 {{ hidden 64 experts 8 {gate} }} model a-2 {{ hidden 64 experts 8 {gate} }}");
    let checked = check_source(source.as_bytes());
    let codes: Vec<&str> = checked.diagnostics.iter().map(|found| found.code.id()).collect();
    assert_eq!(codes, ["M0112", "M0112"], "{:?}", checked.diagnostics);
}
