//! Problems of structure: what stands where it cannot stand.

use super::{Code, Diagnostic, quoted};
use crate::syntax::Span;
use crate::syntax::token::{Keyword, Scope};

/// What a writer probably meant by something that cannot stand where it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Another word.
    Word(&'static str),
    /// This before it: `,` between arguments.
    Before(&'static str),
    /// The colon after the name of an argument.
    Colon(String),
    /// The usual form of this setting.
    Form(&'static str),
}

/// Something that the grammar cannot place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyntaxProblem {
    /// Anything that has no better name.
    Unexpected {
        /// Where.
        span: Span,
        /// What stands there.
        found: String,
        /// What could stand there.
        expected: String,
        /// What was probably meant.
        repair: Option<Repair>,
    },
    /// A word where a setting begins.
    UnknownSetting {
        /// Where.
        span: Span,
        /// The word.
        found: String,
        /// The block it stands in.
        scope: Scope,
        /// What it probably means.
        suggestion: Option<String>,
    },
    /// A bracket that is never closed.
    Unclosed {
        /// The bracket.
        open: Span,
        /// As written.
        text: String,
    },
    /// A closing bracket without an opening one.
    StrayCloser {
        /// The bracket.
        span: Span,
        /// As written.
        text: String,
    },
    /// Brackets nest too deeply.
    TooDeep {
        /// The bracket that is too deep.
        span: Span,
        /// How deep they may be.
        limit: usize,
    },
    /// An expression has too many operators in a row.
    LongExpression {
        /// The expression.
        span: Span,
        /// How deep it may be.
        limit: u16,
    },
    /// A setting without its value.
    MissingValue {
        /// The setting.
        span: Span,
        /// Its word.
        setting: String,
        /// What its value could be.
        expected: String,
    },
    /// The file ends in the middle of a declaration.
    UnexpectedEnd {
        /// The last token.
        span: Span,
        /// What could follow.
        expected: String,
    },
    /// A comma or semicolon between settings.
    Separator {
        /// Where.
        span: Span,
        /// As written.
        found: String,
    },
    /// `=` or `:` between a setting and its value.
    Assignment {
        /// Where.
        span: Span,
        /// As written.
        found: String,
        /// The setting.
        setting: String,
    },
    /// A file without a single declaration.
    Empty,
}

impl From<SyntaxProblem> for Diagnostic {
    fn from(problem: SyntaxProblem) -> Diagnostic {
        match problem {
            SyntaxProblem::Unexpected { span, found, expected, repair } => {
                Diagnostic::new(Code::Unexpected, format!("{} cannot stand here", quoted(&found)))
                    .label(span, format!("expected {expected}"))
                    .help(match repair {
                        Some(Repair::Word(meant)) => format!("did you mean `{meant}`?"),
                        Some(Repair::Before(missing)) => format!("is a `{missing}` missing before it?"),
                        Some(Repair::Colon(argument)) => format!("write a colon after the name: `{argument}: {found}`"),
                        Some(Repair::Form(setting)) => match form(setting) {
                            Some(form) => format!("write it like `{form}`"),
                            None => format!("write it like {}", example(setting)),
                        },
                        None => "see the form of this part in the language reference, `docs/language.md`".to_owned(),
                    })
            }
            SyntaxProblem::UnknownSetting { span, found, scope, suggestion } => {
                unknown_setting(span, &found, scope, suggestion)
            }
            SyntaxProblem::Unclosed { open, text } => {
                Diagnostic::new(Code::Unclosed, format!("{} is never closed", quoted(&text)))
                    .label(open, "opened here")
                    .help(format!("write the {} that belongs to it", closer(&text)))
            }
            SyntaxProblem::StrayCloser { span, text } => {
                Diagnostic::new(Code::StrayCloser, format!("{} closes nothing", quoted(&text)))
                    .label(span, "no open bracket of this kind")
                    .help("remove it, or write the bracket that opens it")
            }
            SyntaxProblem::TooDeep { span, limit } => {
                Diagnostic::new(Code::TooDeep, format!("brackets nest more than {limit} deep"))
                    .label(span, "the file is read up to here")
                    .help("name parts of the expression with `let`")
            }
            SyntaxProblem::LongExpression { span, limit } => Diagnostic::new(
                Code::LongExpression,
                format!("an expression has more than {limit} operations in a row"),
            )
            .label(span, "too long")
            .help("name parts of it with `let`"),
            SyntaxProblem::MissingValue { span, setting, expected } => {
                Diagnostic::new(Code::MissingValue, format!("{} has no value", quoted(&setting)))
                    .label(span, format!("expected {expected} after this"))
                    .help(format!("write {expected}, for example {}", example(&setting)))
            }
            SyntaxProblem::UnexpectedEnd { span, expected } => {
                Diagnostic::new(Code::UnexpectedEnd, "the file ends in the middle of a declaration")
                    .label(span, format!("expected {expected} after this"))
                    .help("finish the declaration, or remove it")
            }
            SyntaxProblem::Separator { span, found } => {
                Diagnostic::new(Code::Separator, format!("settings are not separated by {}", quoted(&found)))
                    .label(span, "remove this")
                    .help("settings follow each other on one line or on several, with nothing between them")
            }
            SyntaxProblem::Assignment { span, found, setting } => {
                Diagnostic::new(Code::Assignment, format!("a setting has no {}", quoted(&found)))
                    .label(span, "remove this")
                    .help(format!("write the value right after the word: {}", example(&setting)))
            }
            SyntaxProblem::Empty => Diagnostic::new(Code::Empty, "the file declares nothing")
                .label(Span::default(), "no `model`, `cluster` or `deploy`")
                .help("begin with `model NAME { … }`"),
        }
    }
}

fn unknown_setting(span: Span, found: &str, scope: Scope, suggestion: Option<String>) -> Diagnostic {
    let title = match scope {
        Scope::Gate => format!("{} does not begin a statement of a gate", quoted(found)),
        Scope::File => format!("{} is not a declaration", quoted(found)),
        _ => format!("{} is not a setting of {}", quoted(found), scope.described()),
    };
    let elsewhere = Keyword::ALL
        .iter()
        .find(|keyword| keyword.text() == found)
        .and_then(|keyword| keyword.scopes().iter().find(|other| **other != scope));
    let all = match scope {
        Scope::Gate => "a gate is made of `let NAME = …` and ends with `weights …`".to_owned(),
        Scope::File => "a file is made of `model`, `cluster` and `deploy`".to_owned(),
        _ => format!("{} can hold {}", scope.described(), settings_of(scope)),
    };
    let in_the_gate = scope == Scope::Model && matches!(found, "top_k" | "topk" | "num_experts_per_tok");
    let help = match (&suggestion, elsewhere) {
        _ if in_the_gate => "the gate says how many experts a token goes to: `top(8, experts, by: score)`".to_owned(),
        (Some(meant), _) => format!("did you mean `{meant}`?"),
        (None, Some(other)) if *other != Scope::Gate => format!("{} belongs in {}", quoted(found), other.described()),
        (None, _) => all,
    };
    let label = if suggestion.is_some() { "misspelt?" } else { "not known here" };
    Diagnostic::new(Code::UnknownSetting, title).label(span, label).help(help)
}

/// The words that begin a setting of a kind of block.
fn settings_of(scope: Scope) -> String {
    let begins = |keyword: &&Keyword| {
        let inside = keyword.joins()
            || matches!(keyword, Keyword::Scale | Keyword::Latency)
            || scope == Scope::Deploy && **keyword == Keyword::Gpu;
        keyword.scopes().contains(&scope) && !inside
    };
    super::any_of(Keyword::ALL.iter().filter(begins).map(|keyword| keyword.text())).replace(" or ", " and ")
}

fn closer(opener: &str) -> &'static str {
    match opener {
        "{" => "`}`",
        "(" => "`)`",
        _ => "`]`",
    }
}

/// The form of a part that is more than a word and its value.
fn form(part: &str) -> Option<&'static str> {
    match part {
        "model" => Some("model NAME { … }"),
        "cluster" => Some("cluster NAME { … }"),
        "deploy" => Some("deploy NAME of MODEL on CLUSTER { … }"),
        "zero" => Some("zero 512..767"),
        "gate" => Some("gate(logits: f32[experts]) { … }"),
        "dispatch" => Some("dispatch { payload bf16   layout expert_major align 128 }"),
        "combine" => Some("combine { payload bf16   reduce f32 weighted }"),
        "gpu" => Some("gpu \"H800\" { target sm_90a   sms 132   memory 80 GB }"),
        "let" => Some("let NAME = VALUE"),
        "weights" => Some("weights VALUE"),
        "before" => Some("weights VALUE before experts"),
        "scale" => Some("scale f32 per 128"),
        "latency" => Some("latency 5 us"),
        "attention" => Some("attention grouped { heads 64   key_value_heads 8   head 128 }"),
        "window" => Some("window 128 in 18 layers"),
        "chunk" => Some("chunk 8192 in 36 layers"),
        _ => None,
    }
}

fn example(setting: &str) -> String {
    let example = match setting {
        "hidden" => "hidden 7168",
        "experts" => "experts 256 in 8 groups",
        "shared" => "shared 1",
        "moe_layers" => "moe_layers 58",
        "expert_ffn" => "expert_ffn 2048",
        "dense_layers" => "dense_layers 3",
        "dense_ffn" => "dense_ffn 18432",
        "vocab" => "vocab 129280",
        "embeddings" => "embeddings tied",
        "heads" => "heads 128",
        "query_rank" => "query_rank 1536",
        "key_value_rank" => "key_value_rank 512",
        "rope" => "rope 64",
        "nope" => "nope 128",
        "value" => "value 128",
        "head" => "head 128",
        "capacity" => "capacity 1.25 drop lowest",
        "payload" => "payload bf16",
        "layout" => "layout expert_major align 128",
        "reduce" => "reduce f32 weighted",
        "nodes" => "nodes 8",
        "gpus" => "gpus 8 per node",
        "nvlink" => "nvlink 160 GB/s",
        "rdma" => "rdma 50 GB/s per gpu",
        "target" => "target sm_90a",
        "memory" => "memory 80 GB",
        "tokens" => "tokens 4096 per gpu",
        "mode" => "mode throughput",
        "sms" => "sms 20",
        other => return format!("`{other} 8`"),
    };
    format!("`{example}`")
}
