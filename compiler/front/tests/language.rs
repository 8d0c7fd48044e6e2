//! The language reference cannot lie: every example of `docs/language.md` is compiled, and everything the language knows is in it.

use std::collections::BTreeSet;

use moe_front::diagnostics::render::render;
use moe_front::span::MAX_FILE_BYTES;
use moe_front::spec::limits;
use moe_front::syntax::ast;
use moe_front::text::Screen;
use moe_front::token::Keyword;
use moe_front::units::Unit;
use moe_front::{check_source, format_source};
use moe_gate::ir::{Binary, Unary};

const REFERENCE: &str = include_str!("../../../docs/language.md");

const GATE: &str = "gate(logits: f32[experts]) {
    let chosen = top(2, experts, by: logits)
    weights softmax(logits[chosen])
}";
const SIZES: &str = "hidden 1024 experts 64 in 8 groups vocab 1000";
const PARAMETERS: &str = "logits: f32[experts], bias: f32[experts], group_bias: f32[groups], temperature: f32,
    table: i32[vocab, 4], token_id: i32";
const CLUSTER_SETTINGS: [&str; 5] = [
    "nodes 4",
    "gpus 8 per node",
    "gpu { target sm_90a sms 132 memory 80 GB }",
    "nvlink 160 GB/s",
    "rdma 50 GB/s per gpu",
];

/// An example: its kind (a fragment of what, or a whole file), the code that it fails with, and its text.
struct Example {
    kind: String,
    fails: Option<String>,
    text: String,
}

fn examples() -> Vec<Example> {
    let mut found = Vec::new();
    let mut lines = REFERENCE.lines();
    while let Some(line) = lines.next() {
        let Some(fence) = line.strip_prefix("```moe") else { continue };
        let words: Vec<&str> = fence.split_whitespace().collect();
        let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        let (kind, fails) = match words[..] {
            [] => ("file", None),
            [kind] => (kind, None),
            [kind, "fails", code] => (kind, Some(code.to_owned())),
            _ => panic!("no form of an example: {line}"),
        };
        found.push(Example { kind: kind.to_owned(), fails, text: format!("{}\n", text.join("\n")) });
    }
    found
}

impl Example {
    /// Whether a line of the fragment begins with `word`.
    fn gives(&self, word: &str) -> bool {
        self.text.lines().any(|line| line.split([' ', '(']).next() == Some(word))
    }

    /// The example as a whole file.
    fn file(&self) -> String {
        let text = &self.text;
        let cluster = |settings: &str| format!("cluster c {{ {settings} }}");
        match self.kind.as_str() {
            "file" => text.clone(),
            "gate" => {
                let result = "weights logits[top(2, experts, by: logits)]";
                let end = if self.gives("weights") { "" } else { result };
                format!("model m {{ {SIZES} gate({PARAMETERS}) {{ {text} {end} }} }}")
            }
            "model" => format!("model m {{ {text} {} }}", if self.gives("gate") { "" } else { GATE }),
            "cluster" => {
                let rest =
                    CLUSTER_SETTINGS.iter().filter(|setting| !self.gives(setting.split(' ').next().unwrap_or("")));
                let rest: Vec<&str> = rest.copied().collect();
                cluster(&format!("{} {text}", rest.join(" ")))
            }
            "deploy" => {
                let model = format!("model m {{ {SIZES} moe_layers 4 {GATE} }}");
                format!("{model} {} deploy d of m on c {{ {text} }}", cluster(&CLUSTER_SETTINGS.join(" ")))
            }
            kind => panic!("no kind of example: {kind}"),
        }
    }
}

#[test]
fn every_example_does_what_the_reference_says() {
    let examples = examples();
    assert!(examples.len() > 40);
    for example in &examples {
        let file = example.file();
        let checked = check_source(file.as_bytes());
        let shown = render("example.moe", file.as_bytes(), &checked.diagnostics, &Screen::ENDLESS);
        // In a fragment of a gate, much is not used.
        let unused = ["M0220", "M0221"];
        let codes = checked.diagnostics.iter().map(|diagnostic| diagnostic.code.id());
        let codes: BTreeSet<&str> = codes.filter(|code| example.kind != "gate" || !unused.contains(code)).collect();
        let expected: BTreeSet<&str> = example.fails.as_deref().into_iter().collect();
        assert_eq!(codes, expected, "{}\n{shown}", example.text);
        if example.kind == "file" {
            assert_eq!(format_source(file.as_bytes()).ok().as_ref(), Some(&file), "in canonical form");
        }
    }
}

/// Whether `word` stands in the reference between backquotes, alone or with others.
fn mentioned(word: &str) -> bool {
    let code = REFERENCE.split('`').skip(1).step_by(2);
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '/');
    code.flat_map(|text| text.split(move |c| !is_part(c))).any(|part| part == word)
}

#[test]
fn everything_the_language_knows_is_in_the_reference() {
    let calls = Unary::ALL.iter().filter(|function| function.is_call()).map(|function| function.text());
    let pairs = Binary::ALL.iter().filter(|function| function.is_call()).map(|function| function.text());
    let forms = ["softmax", "sum", "max", "mean", "top", "group", "normalize"];
    let functions: Vec<&str> = calls.chain(pairs).chain(forms).collect();
    let arguments = ["by", "fill", "eps", "floor"];
    let words = [
        "bf16",
        "f16",
        "f32",
        "fp8_e4m3",
        "fp4_e2m1",
        "ue8m0",
        "e4m3",
        "rank_major",
        "expert_major",
        "batched",
        "weighted",
        "unweighted",
        "lowest",
        "position",
        "throughput",
        "latency",
        "sm_90a",
        "sm_100a",
        "tied",
        "separate",
    ];
    let keywords = Keyword::ALL.iter().map(|keyword| keyword.text());
    let all = keywords.chain(Unit::names()).chain(functions).chain(arguments).chain(words);
    let missing: Vec<&str> = all.filter(|word| !mentioned(word)).collect();
    assert!(missing.is_empty(), "not in docs/language.md: {missing:?}");
}

#[test]
fn the_limits_of_the_reference_are_the_limits() {
    let rows = [
        ("experts of a model", u64::from(limits::EXPERTS)),
        ("picks of a token", u64::from(limits::TOP_K)),
        ("elements of a row", u64::from(limits::HIDDEN)),
        ("shared experts of a layer", u64::from(limits::EXPERTS)),
        ("layers of a kind", u64::from(limits::LAYERS)),
        ("inner width of a network", u64::from(limits::FFN)),
        ("heads of an attention", u64::from(limits::HEADS)),
        ("nodes of a cluster", u64::from(limits::NODES)),
        ("ranks of `ep`, `pp`, `dp` or `tp`", u64::from(limits::RANKS)),
        ("width of a head, or of a compressed vector", u64::from(limits::WIDTH)),
        ("GPUs of a node", u64::from(limits::DOMAIN)),
        ("rows of an alignment", u64::from(limits::ALIGNMENT)),
        ("any other count", u64::from(limits::COUNT)),
        ("bytes of a file", MAX_FILE_BYTES as u64),
        ("operations of an expression in a row", u64::from(ast::MAX_EXPRESSION_DEPTH)),
    ];
    for (name, limit) in rows {
        assert!(REFERENCE.contains(&format!("| {name} | {limit} |\n")), "{name}: {limit}");
    }
}
