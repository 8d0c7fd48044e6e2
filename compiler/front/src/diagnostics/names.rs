//! Problems of names: unknown, missing, given twice.

use super::{Code, Diagnostic, any_of, quoted};
use crate::span::Span;

/// The kinds of word that a setting chooses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordKind {
    /// `payload …`
    Payload,
    /// `scale …`
    Scale,
    /// `layout …`
    Layout,
    /// `padding …`
    Padding,
    /// `reduce … weighted`
    Accumulate,
    /// `reduce f32 …`
    Weighting,
    /// `drop …`
    Drop,
    /// `embeddings …`
    Embeddings,
    /// `target …`
    Target,
    /// `mode …`
    Mode,
}

impl WordKind {
    fn code(self) -> Code {
        match self {
            WordKind::Payload => Code::UnknownPayload,
            WordKind::Scale => Code::UnknownScale,
            WordKind::Layout => Code::UnknownLayout,
            WordKind::Padding => Code::UnknownPadding,
            WordKind::Accumulate => Code::UnknownAccumulate,
            WordKind::Weighting => Code::UnknownWeighting,
            WordKind::Drop => Code::UnknownDrop,
            WordKind::Embeddings => Code::UnknownEmbeddings,
            WordKind::Target => Code::UnknownTarget,
            WordKind::Mode => Code::UnknownMode,
        }
    }

    fn described(self) -> &'static str {
        match self {
            WordKind::Payload => "a payload format",
            WordKind::Scale => "a format of scales",
            WordKind::Layout => "a layout",
            WordKind::Padding => "what rows of padding hold",
            WordKind::Accumulate => "a format to sum in",
            WordKind::Weighting => "a way to reduce",
            WordKind::Drop => "a rule for dropping",
            WordKind::Embeddings => "a kind of embeddings",
            WordKind::Target => "a target",
            WordKind::Mode => "a mode",
        }
    }
}

/// A name that is unknown, missing, or given twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameProblem {
    /// A value of a gate.
    UnknownValue {
        span: Span,
        found: String,
        suggestion: Option<String>,
    },
    /// A function of a gate.
    UnknownFunction {
        span: Span,
        found: String,
        suggestion: Option<String>,
        /// Every function.
        known: Vec<&'static str>,
    },
    /// A name of a gate that is already taken.
    DefinedTwice {
        span: Span,
        name: String,
        /// The first definition.
        first: Span,
    },
    /// The model of a deploy.
    UnknownModel {
        span: Span,
        found: String,
        suggestion: Option<String>,
    },
    /// The cluster of a deploy.
    UnknownCluster {
        span: Span,
        found: String,
        suggestion: Option<String>,
    },
    /// Two declarations with one name.
    DeclaredTwice {
        span: Span,
        /// `model`, `cluster` or `deploy`.
        kind: &'static str,
        name: String,
        /// The first declaration.
        first: Span,
    },
    SettingTwice {
        span: Span,
        setting: &'static str,
        first: Span,
    },
    SettingMissing {
        /// The block, or its name.
        span: Span,
        /// Where it is missing: ``model `m` ``.
        owner: String,
        setting: &'static str,
        example: &'static str,
    },
    /// An argument that the function does not take.
    UnknownArgument {
        span: Span,
        function: String,
        found: String,
        takes: &'static [&'static str],
        suggestion: Option<String>,
    },
    /// An argument that the function needs.
    ArgumentMissing {
        span: Span,
        function: &'static str,
        argument: &'static str,
        example: &'static str,
    },
    /// An argument that is given twice, or excludes another.
    ArgumentTwice {
        span: Span,
        /// The argument.
        found: String,
        first: Span,
    },
    /// A word that its setting does not know.
    UnknownWord {
        span: Span,
        /// What it should be.
        kind: WordKind,
        found: String,
        known: Vec<&'static str>,
        suggestion: Option<String>,
    },
    /// A `let` that nothing reads.
    UnusedValue {
        span: Span,
        name: String,
    },
    /// A parameter that nothing reads.
    UnusedParameter {
        span: Span,
        name: String,
    },
    /// A name that the language uses itself.
    Reserved {
        span: Span,
        name: String,
    },
    /// The element type of a parameter.
    UnknownType {
        span: Span,
        found: String,
        suggestion: Option<String>,
    },
    /// A dimension of a parameter.
    UnknownDimension {
        span: Span,
        found: String,
        suggestion: Option<String>,
    },
}

impl From<NameProblem> for Diagnostic {
    fn from(problem: NameProblem) -> Diagnostic {
        match problem {
            NameProblem::UnknownValue { span, found, suggestion } => {
                let fallback = "define it before with `let`, or declare it as a parameter of the gate";
                unknown(Code::UnknownValue, span, format!("{} is not defined", quoted(&found)), suggestion, fallback)
            }
            NameProblem::UnknownFunction { span, found, suggestion, known } => {
                let title = format!("{} is not a function", quoted(&found));
                unknown(Code::UnknownFunction, span, title, suggestion, &format!("functions are {}", known.join(", ")))
            }
            NameProblem::DefinedTwice { span, name, first } => {
                Diagnostic::new(Code::DefinedTwice, format!("{} is defined twice", quoted(&name)))
                    .label(span, "again here")
                    .label(first, "first here")
                    .help("give one of them another name")
            }
            NameProblem::UnknownModel { span, found, suggestion } => {
                let title = format!("there is no model {}", quoted(&found));
                unknown(Code::UnknownModel, span, title, suggestion, "declare it in this file with `model NAME { … }`")
            }
            NameProblem::UnknownCluster { span, found, suggestion } => {
                let title = format!("there is no cluster {}", quoted(&found));
                unknown(
                    Code::UnknownCluster,
                    span,
                    title,
                    suggestion,
                    "declare it in this file with `cluster NAME { … }`",
                )
            }
            NameProblem::DeclaredTwice { span, kind, name, first } => {
                Diagnostic::new(Code::DeclaredTwice, format!("two {kind}s are called {}", quoted(&name)))
                    .label(span, "again here")
                    .label(first, "first here")
                    .help(format!("give one {kind} another name"))
            }
            NameProblem::SettingTwice { span, setting, first } => {
                Diagnostic::new(Code::SettingTwice, format!("{} is given twice", quoted(setting)))
                    .label(span, "again here")
                    .label(first, "first here")
                    .help("keep one of them")
            }
            NameProblem::SettingMissing { span, owner, setting, example } => {
                Diagnostic::new(Code::SettingMissing, format!("{owner} does not say {}", quoted(setting)))
                    .label(span, format!("{} is missing", quoted(setting)))
                    .help(format!("add a line such as `{example}`"))
            }
            NameProblem::UnknownArgument { span, function, found, takes, suggestion } => {
                let title = format!("{} has no argument {}", quoted(&function), quoted(&found));
                let fallback = match takes {
                    [] => format!("{} takes no named arguments", quoted(&function)),
                    takes => format!("{} takes {}", quoted(&function), any_of(takes.iter().copied())),
                };
                unknown(Code::UnknownArgument, span, title, suggestion, &fallback)
            }
            NameProblem::ArgumentMissing { span, function, argument, example } => Diagnostic::new(
                Code::ArgumentMissing,
                format!("{} needs {}", quoted(function), quoted(&format!("{argument}:"))),
            )
            .label(span, format!("`{argument}:` is missing"))
            .help(format!("write it like `{example}`")),
            NameProblem::ArgumentTwice { span, found, first } => {
                Diagnostic::new(Code::ArgumentTwice, format!("{} is one argument too many", quoted(&found)))
                    .label(span, "this one")
                    .label(first, "this one is already there")
                    .help("keep one of them")
            }
            NameProblem::UnknownWord { span, kind, found, known, suggestion } => {
                let title = format!("{} is not {}", quoted(&found), kind.described());
                let fallback = format!("write {}", any_of(known.iter().copied()));
                unknown(kind.code(), span, title, suggestion, &fallback)
            }
            NameProblem::UnusedValue { span, name } => {
                Diagnostic::new(Code::UnusedValue, format!("{} is never used", quoted(&name)))
                    .label(span, "defined here")
                    .help("remove the line, or use the value")
            }
            NameProblem::UnusedParameter { span, name } => {
                Diagnostic::new(Code::UnusedParameter, format!("the gate never reads {}", quoted(&name)))
                    .label(span, "every caller must pass it for nothing")
                    .help("remove the parameter, or use it")
            }
            NameProblem::Reserved { span, name } => {
                Diagnostic::new(Code::Reserved, format!("{} is a word of the language", quoted(&name)))
                    .label(span, "cannot be a name in a gate")
                    .help("choose another name")
            }
            NameProblem::UnknownType { span, found, suggestion } => {
                let title = format!("{} is not a type of a parameter", quoted(&found));
                unknown(Code::UnknownType, span, title, suggestion, "parameters hold `f32` or `i32`")
            }
            NameProblem::UnknownDimension { span, found, suggestion } => {
                let title = format!("{} is not a dimension", quoted(&found));
                let fallback = "dimensions are `experts`, `groups`, `vocab` and whole numbers";
                unknown(Code::UnknownDimension, span, title, suggestion, fallback)
            }
        }
    }
}

fn unknown(code: Code, span: Span, title: String, suggestion: Option<String>, fallback: &str) -> Diagnostic {
    let diagnostic = Diagnostic::new(code, title);
    match suggestion {
        Some(meant) => diagnostic.label(span, "misspelt?").help(format!("did you mean `{meant}`?")).fix(span, meant),
        None => diagnostic.label(span, "not known").help(fallback),
    }
}
