//! Problems of structure: what stands where it cannot stand.

use super::{Code, Diagnostic, quoted};
use crate::span::Span;
use crate::token::{Keyword, Scope};

/// What a writer probably meant by something that cannot stand where it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Another word.
    Word(&'static str),
    /// This before it: `,` between arguments.
    Before(&'static str),
    /// The colon after the name of an argument.
    Colon { argument: String, end: u32 },
    /// The usual form of this setting.
    Like(Form),
}

/// The form of a setting or declaration, by its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Of this word.
    Of(Keyword),
    /// `zero` of a deploy, which is not that of experts.
    ZeroStage,
    Unknown,
}

/// Something that the grammar cannot place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyntaxProblem {
    /// Anything that has no better name.
    Unexpected {
        span: Span,
        found: String,
        /// What could stand there.
        expected: String,
        /// What was probably meant.
        repair: Option<Repair>,
    },
    /// A word where a setting begins.
    UnknownSetting {
        span: Span,
        /// The word.
        found: String,
        /// The block it stands in.
        scope: Scope,
        suggestion: Option<String>,
    },
    /// A bracket that is never closed.
    Unclosed {
        /// The bracket.
        open: Span,
        text: String,
    },
    /// A closing bracket without an opening one.
    StrayCloser {
        /// The bracket.
        span: Span,
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
    /// A setting without its value, or without the last of them.
    MissingValue {
        /// What stands before the value.
        span: Span,
        /// What of the setting is written.
        written: String,
        /// Whether that is more than its word.
        begun: bool,
        form: Form,
        /// What its value could be.
        expected: String,
    },
    /// A number below zero.
    Negative { span: Span, setting: String, form: Form },
    /// Something that is not a name where a name is due.
    BadName { span: Span, found: String },
    /// The file ends in the middle of a declaration.
    UnexpectedEnd {
        /// The last token.
        span: Span,
        /// What could follow.
        expected: String,
    },
    /// A comma or semicolon between settings.
    Separator { span: Span, found: String },
    /// `=` or `:` between a setting and its value.
    Assignment {
        span: Span,
        found: String,
        /// How the setting is written.
        form: Form,
    },
    /// A file without a single declaration.
    Empty,
}

impl From<SyntaxProblem> for Diagnostic {
    fn from(problem: SyntaxProblem) -> Diagnostic {
        match problem {
            SyntaxProblem::Unexpected { span, found, expected, repair } => {
                let diagnostic = Diagnostic::new(Code::Unexpected, format!("{} cannot stand here", quoted(&found)))
                    .label(span, format!("expected {expected}"));
                match repair {
                    Some(Repair::Word(meant)) => diagnostic.help(format!("did you mean `{meant}`?")).fix(span, meant),
                    Some(Repair::Before(missing)) => diagnostic
                        .help(format!("is a `{missing}` missing before it?"))
                        .fix(Span::new(span.start, span.start), format!("{missing} ")),
                    Some(Repair::Colon { argument, end }) => diagnostic
                        .help(format!("write a colon after the name: `{argument}: {found}`"))
                        .fix(Span::new(end, end), ":"),
                    Some(Repair::Like(form)) => diagnostic.help(example(form)),
                    None => diagnostic.help(example(Form::Unknown)),
                }
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
            SyntaxProblem::MissingValue { span, written, begun, form, expected } => {
                let what = if begun { "is not complete" } else { "has no value" };
                Diagnostic::new(Code::MissingValue, format!("{} {what}", quoted(&written)))
                    .label(span, format!("expected {expected} after this"))
                    .help(example(form))
            }
            SyntaxProblem::Negative { span, setting, form } => {
                Diagnostic::new(Code::Negative, format!("{} cannot be below zero", quoted(&setting)))
                    .label(span, "below zero")
                    .help(example(form))
            }
            SyntaxProblem::BadName { span, found } => {
                let diagnostic = Diagnostic::new(Code::BadName, format!("{} is not a name", quoted(&found)))
                    .label(span, "a name is made of letters of the English alphabet, digits and `_`");
                match name_like(&found) {
                    Some(name) => diagnostic.help(format!("write {}", quoted(&name))).fix(span, name),
                    None => diagnostic.help("write a name that begins with a letter"),
                }
            }
            SyntaxProblem::UnexpectedEnd { span, expected } => {
                Diagnostic::new(Code::UnexpectedEnd, "the file ends in the middle of a declaration")
                    .label(span, format!("expected {expected} after this"))
                    .help("finish the declaration, or remove it")
            }
            SyntaxProblem::Separator { span, found } => {
                Diagnostic::new(Code::Separator, format!("settings are not separated by {}", quoted(&found)))
                    .label(span, "remove this")
                    .fix(span, "")
                    .help("settings follow each other on one line or on several, with nothing between them")
            }
            SyntaxProblem::Assignment { span, found, form } => {
                Diagnostic::new(Code::Assignment, format!("a setting has no {}", quoted(&found)))
                    .label(span, "remove this")
                    .fix(span, "")
                    .help(match code(form) {
                        Some(code) => format!("write the value right after the word: `{code}`"),
                        None => "write the value right after the word".to_owned(),
                    })
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
    let diagnostic = Diagnostic::new(Code::UnknownSetting, title).label(span, label).help(help);
    match suggestion {
        Some(meant) if !in_the_gate => diagnostic.fix(span, meant),
        _ => diagnostic,
    }
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

/// A name like `text`: other characters are underscores in it.
fn name_like(text: &str) -> Option<String> {
    const LONGEST: usize = 40;
    let name: String = text.chars().take(LONGEST).map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let name = name.trim_matches('_');
    let first = name.chars().next()?;
    Some(if first.is_ascii_digit() { format!("_{name}") } else { name.to_owned() })
}

/// To write a setting or a declaration as it is written.
fn example(form: Form) -> String {
    match code(form) {
        Some(code) => format!("write it like `{code}`"),
        None => "see the form of this part in the language reference, `docs/language.md`".to_owned(),
    }
}

/// How a setting or a declaration is written.
fn code(form: Form) -> Option<&'static str> {
    let keyword = match form {
        Form::Of(keyword) => keyword,
        Form::ZeroStage => return Some("zero 1"),
        Form::Unknown => return None,
    };
    Some(match keyword {
        Keyword::Model => "model NAME { … }",
        Keyword::Cluster => "cluster NAME { … }",
        Keyword::Deploy => "deploy NAME of MODEL on CLUSTER { … }",
        Keyword::Hidden => "hidden 7168",
        Keyword::Experts => "experts 256 in 8 groups",
        Keyword::Zero => "zero 512..767",
        Keyword::Shared => "shared 1",
        Keyword::MoeLayers => "moe_layers 58",
        Keyword::ExpertFfn => "expert_ffn 2048",
        Keyword::DenseLayers => "dense_layers 3",
        Keyword::DenseFfn => "dense_ffn 18432",
        Keyword::Vocab => "vocab 129280",
        Keyword::Embeddings => "embeddings tied",
        Keyword::Attention | Keyword::Grouped => "attention grouped { heads 64   key_value_heads 8   head 128 }",
        Keyword::EncoderLayers => "encoder_layers 12",
        Keyword::Streams => "streams 4",
        Keyword::Single => "attention single { heads 64   query_rank 1024   head 512 }",
        Keyword::OutputRank => "output_rank 1024",
        Keyword::OutputGroups => "output_groups 8",
        Keyword::Compress => "compress 128 in 20 layers { near 128 }",
        Keyword::Near => "near 128",
        Keyword::Pieces => "pieces 2",
        Keyword::IndexHeads => "index_heads 64",
        Keyword::IndexHead => "index_head 128",
        Keyword::Top => "top 512",
        Keyword::Latent => "attention latent { heads 128   key_value_rank 512   rope 64   nope 128   value 128 }",
        Keyword::Heads => "heads 128",
        Keyword::QueryRank => "query_rank 1536",
        Keyword::KeyValueRank => "key_value_rank 512",
        Keyword::Rope => "rope 64",
        Keyword::Nope => "nope 128",
        Keyword::Value => "value 128",
        Keyword::KeyValueHeads => "key_value_heads 8",
        Keyword::Head => "head 128",
        Keyword::Window => "window 128 in 18 layers",
        Keyword::Chunk => "chunk 8192 in 36 layers",
        Keyword::Capacity => "capacity 1.25 drop lowest",
        Keyword::Gate => "gate(logits: f32[experts]) { … }",
        Keyword::Dispatch => "dispatch { payload bf16   layout expert_major align 128 }",
        Keyword::Combine => "combine { payload bf16   reduce f32 weighted }",
        Keyword::Let => "let NAME = VALUE",
        Keyword::Weights => "weights VALUE",
        Keyword::Before => "weights VALUE before experts",
        Keyword::Payload => "payload bf16",
        Keyword::Scale => "scale f32 per 128",
        Keyword::Layout => "layout expert_major align 128",
        Keyword::Padding => "padding zero",
        Keyword::Reduce => "reduce f32 weighted",
        Keyword::Nodes => "nodes 8",
        Keyword::Gpus => "gpus 8 per node",
        Keyword::Gpu => "gpu \"H800\" { target sm_90a   sms 132   memory 80 GB }",
        Keyword::Nvlink => "nvlink 160 GB/s",
        Keyword::Rdma => "rdma 50 GB/s per gpu",
        Keyword::Latency => "latency 5 us",
        Keyword::Target => "target sm_90a",
        Keyword::Sms => "sms 20",
        Keyword::SmsLocal => "sms_local 112",
        Keyword::Memory => "memory 80 GB",
        Keyword::Ep => "ep 8",
        Keyword::Pp => "pp 8",
        Keyword::Dp => "dp 8",
        Keyword::Tp => "tp 2",
        Keyword::Tokens => "tokens 4096 per gpu",
        Keyword::Mode => "mode throughput",
        // These join the parts of another setting.
        Keyword::Of
        | Keyword::On
        | Keyword::In
        | Keyword::Groups
        | Keyword::Ungated
        | Keyword::Beside
        | Keyword::Layers
        | Keyword::Drop
        | Keyword::Per
        | Keyword::Align
        | Keyword::Node => return None,
    })
}
