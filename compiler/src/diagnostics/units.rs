//! Problems of numbers and units.

use super::{Code, Diagnostic, quoted};
use crate::syntax::Span;
use crate::units::Dimension;

/// A number or a unit that does not fit its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitProblem {
    /// A unit that does not exist.
    Unknown {
        /// The unit.
        span: Span,
        /// As written.
        found: String,
        /// What it probably means.
        suggestion: Option<String>,
    },
    /// A unit of another kind.
    WrongKind {
        /// The unit.
        span: Span,
        /// As written.
        found: String,
        /// What it measures.
        is: Dimension,
        /// What is measured here.
        wanted: Dimension,
    },
    /// A bare number where a unit is needed.
    Missing {
        /// The number.
        span: Span,
        /// As written.
        number: String,
        /// What is measured here.
        wanted: Dimension,
    },
    /// A unit where a bare number is needed.
    Superfluous {
        /// The unit.
        span: Span,
        /// As written.
        found: String,
        /// The setting.
        setting: &'static str,
    },
    /// A fraction where only whole numbers make sense.
    NotWhole {
        /// The number.
        span: Span,
        /// As written.
        number: String,
    },
    /// A number above what is possible.
    TooLarge {
        /// The number.
        span: Span,
        /// As written.
        number: String,
        /// The largest possible.
        most: u64,
    },
    /// Zero where at least one is needed.
    Zero {
        /// The number.
        span: Span,
        /// The setting.
        setting: &'static str,
    },
    /// A percentage where a count is needed.
    Percent {
        /// The number.
        span: Span,
        /// As written.
        number: String,
    },
}

impl From<UnitProblem> for Diagnostic {
    fn from(problem: UnitProblem) -> Diagnostic {
        match problem {
            UnitProblem::Unknown { span, found, suggestion } => {
                let help = match suggestion {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => "units are KB MB GB TB, KiB MiB GiB TiB, GB/s and Gb/s, ns us ms s, and tokens".to_owned(),
                };
                Diagnostic::new(Code::UnknownUnit, format!("{} is not a unit", quoted(&found)))
                    .label(span, "not known")
                    .help(help)
            }
            UnitProblem::WrongKind { span, found, is, wanted } => {
                let (wanted, example) = wanted.described();
                Diagnostic::new(Code::WrongUnit, format!("{wanted} is needed here"))
                    .label(span, format!("{} measures {}", quoted(&found), is.described().0))
                    .help(format!("write it like `{example}`"))
            }
            UnitProblem::Missing { span, number, wanted } => {
                let (wanted, example) = wanted.described();
                let unit = example.split_once(' ').map_or("", |(_, unit)| unit);
                Diagnostic::new(Code::MissingUnit, "this number has no unit")
                    .label(span, format!("{wanted} is needed"))
                    .help(format!("write a unit: `{number} {unit}`"))
            }
            UnitProblem::Superfluous { span, found, setting } => {
                Diagnostic::new(Code::SuperfluousUnit, format!("{} takes a number without a unit", quoted(setting)))
                    .label(span, "remove this")
                    .help(format!(
                        "{} counts things; write the number alone, without {}",
                        quoted(setting),
                        quoted(&found)
                    ))
            }
            UnitProblem::NotWhole { span, number } => {
                Diagnostic::new(Code::NotWhole, format!("{} is not a whole number", quoted(&number)))
                    .label(span, "a whole number is needed")
                    .help("write it without a fraction")
            }
            UnitProblem::TooLarge { span, number, most } => {
                Diagnostic::new(Code::TooLarge, format!("{} is too large", quoted(&number)))
                    .label(span, format!("at most {most}"))
                    .help("check the number of digits")
            }
            UnitProblem::Zero { span, setting } => {
                Diagnostic::new(Code::Zero, format!("{} must be at least 1", quoted(setting)))
                    .label(span, "zero")
                    .help(format!("write `1` or more, or remove {}", quoted(setting)))
            }
            UnitProblem::Percent { span, number } => Diagnostic::new(Code::Percent, "a count cannot be a percentage")
                .label(span, "remove the `%`")
                .help(format!("write `{}`", number.trim_end_matches('%'))),
        }
    }
}
