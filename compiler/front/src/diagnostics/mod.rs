//! What is wrong with a file, said to the person who wrote it.
//!
//! Invariants: every problem is a value of an enum with its data ([`LexicalProblem`] … [`DeployProblem`]) and becomes a
//! [`Diagnostic`] in one place; a [`Fix`] that is applied never leaves the problem
//! where it was; every [`Code`] has its title, level and explanation in the [`registry`]; only [`render`] makes text of it.

mod collect;
mod deploy;
mod lexical;
mod model;
mod names;
pub mod registry;
pub mod render;
mod suggest;
mod syntax;
mod types;
mod units;

pub use collect::Diagnostics;
pub use deploy::{AverageNodes, BuildProblem, DeployProblem, GroupSpan};
pub use lexical::LexicalProblem;
pub use model::ModelProblem;
pub use names::{NameProblem, WordKind};
pub use registry::{Code, explain};
pub use suggest::closest;
pub use syntax::{Form, Repair, SyntaxProblem};
pub use types::TypeProblem;
pub use units::UnitProblem;

use crate::span::Span;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is legal and as good; something of it is not there yet.
    Note,
    /// The file is legal; it may cost more than its author thinks.
    Warning,
    /// The file has no meaning, or cannot run.
    Error,
}

/// A place and what is to be said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Where.
    pub span: Span,
    /// What.
    pub text: String,
}

/// A change of the text that mends a problem.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct Fix {
    /// First byte of what is replaced.
    pub start: u32,
    /// One past its last byte.
    pub end: u32,
    /// What stands there instead.
    pub text: String,
}

/// One problem, ready to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Its stable name.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// One sentence in the user's words.
    pub title: String,
    /// Places; the first is the cause.
    pub labels: Vec<Label>,
    /// Facts that explain it.
    pub notes: Vec<String>,
    /// What to write instead.
    pub help: Option<String>,
    /// The same as a change of the text, where there is one right answer.
    pub fix: Option<Fix>,
}

impl Diagnostic {
    pub(crate) fn new(code: Code, title: impl Into<String>) -> Diagnostic {
        Diagnostic {
            code,
            severity: code.severity(),
            title: title.into(),
            labels: Vec::new(),
            notes: Vec::new(),
            help: None,
            fix: None,
        }
    }

    pub(crate) fn label(mut self, span: Span, text: impl Into<String>) -> Diagnostic {
        self.labels.push(Label { span, text: text.into() });
        self
    }

    pub(crate) fn note(mut self, text: impl Into<String>) -> Diagnostic {
        self.notes.push(text.into());
        self
    }

    pub(crate) fn help(mut self, text: impl Into<String>) -> Diagnostic {
        self.help = Some(text.into());
        self
    }

    /// Replaces `span` by `text`; nothing in an empty span is an insertion.
    pub(crate) fn fix(mut self, span: Span, text: impl Into<String>) -> Diagnostic {
        self.fix = Some(Fix { start: span.start, end: span.end, text: text.into() });
        self
    }

    /// The same for who does not need what is not there yet.
    #[must_use]
    pub fn as_note(mut self) -> Diagnostic {
        self.severity = Severity::Note;
        self
    }

    /// Where it is: the start of the cause.
    pub fn place(&self) -> Span {
        self.labels.first().map(|label| label.span).unwrap_or_default()
    }
}

/// `text` between backquotes, cut when it is long.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 40;
    if text.chars().count() <= LONGEST {
        format!("`{text}`")
    } else {
        format!("`{}…`", text.chars().take(LONGEST).collect::<String>())
    }
}

/// `words` as a choice: `` `a`, `b` or `c` ``.
pub(crate) fn any_of<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match words.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}
