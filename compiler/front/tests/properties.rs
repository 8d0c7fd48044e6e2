//! What holds for every file, tried on generated ones.

use std::sync::LazyLock;

use moe_front::diagnostics::render::{json, render};
use moe_front::span::Span;
use moe_front::syntax::ast::{
    Argument, AttentionSetting, Block, Declaration, Expression, ExpressionKind, File, Gate, Item, ModelSetting, Name,
    Number, Operator, Parameter, Quantity, Setting, Statement,
};
use moe_front::syntax::{dump::dump, format::format};
use moe_front::text::Screen;
use moe_front::token::Keyword;
use moe_front::{check_source, dump_source, format_source};
use proptest::prelude::*;

/// Every example of the repository.
static EXAMPLES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../dsl-examples");
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read_to_string(path).expect("an example")).collect()
});

/// Words and symbols that the language knows, and some that it does not.
const PIECES: &[&str] = &[
    "model",
    "cluster",
    "deploy",
    "of",
    "on",
    "m",
    "hidden",
    "experts",
    "in",
    "groups",
    "zero",
    "shared",
    "vocab",
    "attention",
    "latent",
    "single",
    "compress",
    "near",
    "pieces",
    "encoder_layers",
    "streams",
    "grouped",
    "heads",
    "key_value_rank",
    "window",
    "layers",
    "dense_ffn",
    "beside",
    "ungated",
    "embeddings",
    "tied",
    "capacity",
    "drop",
    "lowest",
    "gate",
    "dispatch",
    "combine",
    "let",
    "weights",
    "before",
    "payload",
    "bf16",
    "fp8_e4m3",
    "scale",
    "per",
    "layout",
    "align",
    "padding",
    "reduce",
    "f32",
    "weighted",
    "nodes",
    "gpus",
    "node",
    "gpu",
    "nvlink",
    "rdma",
    "latency",
    "target",
    "sm_90a",
    "sms",
    "sms_local",
    "memory",
    "ep",
    "pp",
    "tokens",
    "mode",
    "logits",
    "top",
    "sum",
    "by",
    "softmax",
    "normalize",
    "eps",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    ",",
    ":",
    ";",
    "=",
    "+",
    "-",
    "*",
    "/",
    "..",
    ".",
    "0",
    "7",
    "256",
    "1e-20",
    "2.5",
    "25%",
    "1_",
    "GB",
    "GB/s",
    "us",
    "\"H800\"",
    "\"",
    "// c\n",
    "/*",
    "*/",
    "\n",
    "\n\n",
    "é",
    "×",
    "\0",
    "\u{feff}",
];

/// Nothing may panic, whatever the bytes.
fn survives(source: &[u8]) {
    let checked = check_source(source);
    let text = render("f.moe", source, &checked.diagnostics, &Screen::ENDLESS);
    let lines = json("f.moe", source, &checked.diagnostics);
    assert_eq!(checked.diagnostics.has_errors(), checked.spec.is_none());
    assert_eq!(checked.diagnostics.is_empty(), text.is_empty());
    assert_eq!(checked.diagnostics.iter().count(), lines.lines().count());
}

/// Formatting keeps the tree and the comments, and is stable.
fn formats_well(source: &[u8]) {
    let Ok(once) = format_source(source) else { return };
    let before = dump_source(source).expect("it was read before");
    let after = dump_source(once.as_bytes()).expect("canonical text can be read");
    assert_eq!(before, after, "the tree of\n{once}");
    let twice = format_source(once.as_bytes()).expect("canonical text can be formatted");
    assert_eq!(once, twice, "formatting again changes nothing");
    assert_eq!(comments(&String::from_utf8_lossy(source)), comments(&once), "comments of\n{once}");
}

/// The comments of a file without strings that hold slashes.
fn comments(source: &str) -> Vec<String> {
    source.lines().filter_map(|line| line.find("//").map(|at| line[at..].trim_end().to_owned())).collect()
}

fn soup() -> impl Strategy<Value = String> {
    prop::collection::vec((prop::sample::select(PIECES), prop::sample::select(&[" ", "", "\n"][..])), 0..120)
        .prop_map(|pieces| pieces.into_iter().flat_map(|(piece, blank)| [piece, blank]).collect())
}

/// An example with a few places changed.
fn damaged() -> impl Strategy<Value = String> {
    let edit = (any::<prop::sample::Index>(), 0..12_usize, prop::sample::select(PIECES));
    (0..EXAMPLES.len(), prop::collection::vec(edit, 1..5)).prop_map(|(example, edits)| {
        let mut text: Vec<char> = EXAMPLES[example].chars().collect();
        for (at, removed, piece) in edits {
            let at = at.index(text.len());
            let end = (at + removed).min(text.len());
            text.splice(at..end, piece.chars());
        }
        text.into_iter().collect()
    })
}

/// An example with comments, blanks and line breaks at places where they change nothing.
fn ruffled() -> impl Strategy<Value = String> {
    let blanks =
        prop::sample::select(&[" ", "   ", "\n", "\n\n\n", " // note\n", "\n    // note\n\n", "\r\n", "\t"][..]);
    (0..EXAMPLES.len(), prop::collection::vec(blanks, 400)).prop_map(|(example, blanks)| {
        let mut blanks = blanks.into_iter().cycle();
        let mut text = String::new();
        for line in EXAMPLES[example].lines() {
            let (code, comment) = line.find("//").map_or((line, ""), |at| line.split_at(at));
            for (index, word) in code.split_whitespace().enumerate() {
                // A unit stays on the line of its number.
                let unit = word.chars().all(|c| c.is_ascii_alphabetic() || c == '/')
                    && text.ends_with(|c: char| c.is_ascii_digit());
                let blank = if unit || index == 0 { " " } else { blanks.next().unwrap_or(" ") };
                text.push_str(blank);
                text.push_str(word);
            }
            text.push_str("  ");
            text.push_str(comment);
            text.push('\n');
        }
        text
    })
}

fn name() -> impl Strategy<Value = Name> {
    prop::sample::select(&["score", "logits", "experts", "hidden", "top", "sum", "model", "scale", "x1", "_a"][..])
        .prop_map(|text| Name { text: text.to_owned(), span: Span::default() })
}

fn number() -> impl Strategy<Value = Number> {
    prop::sample::select(&["0", "7", "1_000", "2.5", "1e-20", "25%", "0.5E+3"][..])
        .prop_map(|text| Number { text: text.to_owned(), span: Span::default() })
}

fn node(kind: ExpressionKind) -> Expression {
    Expression::new(kind, Span::default()).expect("generated expressions are not deep")
}

fn expression() -> impl Strategy<Value = Expression> {
    let leaf = prop_oneof![
        number().prop_map(|number| node(ExpressionKind::Number(number))),
        name().prop_map(|name| node(ExpressionKind::Name(name))),
    ];
    leaf.prop_recursive(6, 60, 4, |inner| {
        let boxed = || inner.clone().prop_map(Box::new);
        let operators = &[Operator::Add, Operator::Subtract, Operator::Multiply, Operator::Divide][..];
        let argument = (prop::option::of(name()), inner.clone(), prop::option::of(inner.clone()))
            .prop_map(|(label, value, within)| Argument { label, value, within, span: Span::default() });
        prop_oneof![
            boxed().prop_map(|value| node(ExpressionKind::Negate(value))),
            (boxed(), prop::sample::select(operators), boxed())
                .prop_map(|(left, operator, right)| node(ExpressionKind::Binary { left, operator, right })),
            (name(), prop::collection::vec(argument, 0..4))
                .prop_map(|(function, arguments)| node(ExpressionKind::Call { function, arguments })),
            (boxed(), boxed()).prop_map(|(base, index)| node(ExpressionKind::Index { base, index })),
        ]
    })
}

fn block<S>(kinds: Vec<S>) -> Block<S> {
    let settings = kinds.into_iter().map(|kind| Setting { span: Span::default(), kind }).collect();
    Block { span: Span::default(), settings, damaged: false }
}

fn statement() -> impl Strategy<Value = Statement> {
    prop_oneof![
        (name(), expression()).prop_map(|(name, value)| Statement::Let { name, value }),
        (expression(), any::<bool>()).prop_map(|(value, before_experts)| Statement::Weights { value, before_experts }),
    ]
}

fn setting() -> impl Strategy<Value = ModelSetting> {
    let quantity = || number().prop_map(|number| Quantity { number, unit: None, span: Span::default() });
    let parameter = (name(), name(), prop::collection::vec(name(), 0..3))
        .prop_map(|(name, element, dimensions)| Parameter { name, element, dimensions, span: Span::default() });
    let gate = (prop::collection::vec(parameter, 0..3), prop::collection::vec(statement(), 0..5));
    prop_oneof![
        quantity().prop_map(ModelSetting::Hidden),
        quantity().prop_map(ModelSetting::Shared),
        (quantity(), prop::option::of(quantity())).prop_map(|(count, groups)| ModelSetting::Experts {
            count,
            groups,
            zero: None
        }),
        quantity().prop_map(ModelSetting::EncoderLayers),
        quantity().prop_map(ModelSetting::Streams),
        attention(),
        gate.prop_map(|(parameters, body)| ModelSetting::Gate(Gate { parameters, body: block(body), damaged: false })),
    ]
}

/// An attention with compressed layers.
fn attention() -> impl Strategy<Value = ModelSetting> {
    let quantity = || number().prop_map(|number| Quantity { number, unit: None, span: Span::default() });
    let plain = |name: Keyword, value: Quantity| AttentionSetting { name, value, layers: None, block: None };
    let inner = (prop::sample::select(&[Keyword::Near, Keyword::Pieces, Keyword::Top][..]), quantity())
        .prop_map(move |(name, value)| plain(name, value));
    let inner = prop::option::of(prop::collection::vec(inner, 0..3).prop_map(block));
    let setting = prop_oneof![
        (prop::sample::select(&[Keyword::Heads, Keyword::Head, Keyword::OutputRank][..]), quantity())
            .prop_map(move |(name, value)| plain(name, value)),
        (quantity(), quantity(), inner).prop_map(|(value, layers, block)| AttentionSetting {
            name: Keyword::Compress,
            value,
            layers: Some(layers),
            block
        }),
    ];
    prop::collection::vec(setting, 0..4)
        .prop_map(|settings| ModelSetting::Attention { kind: Keyword::Single, block: block(settings) })
}

fn file() -> impl Strategy<Value = File> {
    let model = (name(), prop::collection::vec(setting(), 0..5))
        .prop_map(|(name, settings)| Item::Model(Declaration { span: Span::default(), name, block: block(settings) }));
    prop::collection::vec(model, 0..3).prop_map(|items| File { items })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_survived(source in prop::collection::vec(any::<u8>(), 0..600)) {
        survives(&source);
        formats_well(&source);
    }

    #[test]
    fn any_words_are_survived(source in soup()) {
        survives(source.as_bytes());
    }

    #[test]
    fn damaged_examples_are_survived(source in damaged()) {
        survives(source.as_bytes());
        // A quote may have made a comment part of a string; comments are compared in the other properties.
        if let Ok(once) = format_source(source.as_bytes()) {
            prop_assert_eq!(dump_source(source.as_bytes()).ok(), dump_source(once.as_bytes()).ok());
            prop_assert_eq!(format_source(once.as_bytes()).ok(), Some(once));
        }
    }

    #[test]
    fn layout_never_changes_meaning(source in ruffled()) {
        prop_assert!(format_source(source.as_bytes()).is_ok(), "{}", source);
        formats_well(source.as_bytes());
        prop_assert!(check_source(source.as_bytes()).diagnostics.is_empty());
    }

    #[test]
    fn any_tree_is_read_back_as_it_was(file in file()) {
        let text = format("", &file, &[]);
        let read = dump_source(text.as_bytes());
        prop_assert_eq!(read.ok(), Some(dump(&file)), "{}", text);
        formats_well(text.as_bytes());
    }
}
