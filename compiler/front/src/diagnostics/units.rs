//! Problems of numbers and units.

use super::{Code, Diagnostic, any_of, quoted};
use crate::span::Span;
use crate::units::{Decimal, Dimension, Unit};

/// A number or a unit that does not fit its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitProblem {
    /// A unit that does not exist.
    Unknown {
        /// The unit.
        span: Span,
        found: String,
        /// The number before it.
        number: String,
        /// What it may mean.
        meant: Vec<Unit>,
        /// What it was probably misspelt from.
        suggestion: Option<&'static str>,
    },
    /// A unit of another kind.
    WrongKind {
        /// The unit.
        span: Span,
        found: String,
        /// The number before it.
        number: String,
        /// What it measures.
        is: Dimension,
        /// What is measured here.
        wanted: Dimension,
    },
    /// A bare number where a unit is needed.
    Missing {
        span: Span,
        number: String,
        /// What is measured here.
        wanted: Dimension,
    },
    /// A unit where a bare number is needed.
    Superfluous {
        /// The unit.
        span: Span,
        found: String,
        setting: &'static str,
    },
    /// A fraction where only whole numbers make sense.
    NotWhole {
        span: Span,
        number: String,
        /// What it counts, if that is not things.
        of: Option<&'static str>,
    },
    /// A number above what is possible.
    TooLarge { span: Span, number: String, most: String },
    /// Zero where at least one is needed.
    Zero {
        span: Span,
        /// What cannot be zero.
        what: String,
        least: &'static str,
    },
    /// A percentage where a count is needed.
    Percent { span: Span, number: String },
}

impl From<UnitProblem> for Diagnostic {
    fn from(problem: UnitProblem) -> Diagnostic {
        match problem {
            UnitProblem::Unknown { span, found, number, meant, suggestion } => {
                let diagnostic = Diagnostic::new(Code::UnknownUnit, format!("{} is not a unit here", quoted(&found)));
                match (&meant[..], suggestion) {
                    ([unit], _) => diagnostic
                        .label(span, "another spelling is used")
                        .help(format!("write {}", amount(&number, *unit)))
                        .fix(span, unit.text()),
                    ([], Some(suggestion)) => diagnostic
                        .label(span, "misspelt?")
                        .help(format!("did you mean `{suggestion}`?"))
                        .fix(span, suggestion),
                    ([], None) => diagnostic.label(span, "not known").help(
                        "units are KB MB GB TB, KiB MiB GiB TiB, GB/s (bytes) and Gb/s (bits), ns us ms s, and tokens",
                    ),
                    (units, _) => {
                        let all: Vec<String> = units.iter().map(|unit| amount(&number, *unit)).collect();
                        diagnostic.label(span, "bits or bytes?").help(format!("write {}", all.join(", or ")))
                    }
                }
            }
            UnitProblem::WrongKind { span, found, number, is, wanted } => {
                let (described, example) = wanted.described();
                let diagnostic = Diagnostic::new(Code::WrongUnit, format!("{described} is needed here"))
                    .label(span, format!("{} measures {}", quoted(&found), is.described().0));
                // Of data, the same unit with or without `/s` is what was meant.
                let other = match wanted {
                    Dimension::Rate => format!("{found}/s"),
                    _ => found.trim_end_matches("/s").to_owned(),
                };
                match Unit::find(&other).filter(|unit| unit.dimension == wanted) {
                    Some(unit) => diagnostic.help(format!("write `{number} {}`", unit.text())).fix(span, unit.text()),
                    None => diagnostic.help(format!("write it like `{example}`")),
                }
            }
            UnitProblem::Missing { span, number, wanted } => {
                let (described, example) = wanted.described();
                let unit = example.split_once(' ').map_or("", |(_, unit)| unit);
                Diagnostic::new(Code::MissingUnit, "this number has no unit")
                    .label(span, format!("{described} is needed"))
                    .help(format!("write a unit: `{number} {unit}`"))
            }
            UnitProblem::Superfluous { span, found, setting } => {
                Diagnostic::new(Code::SuperfluousUnit, format!("{} takes a number without a unit", quoted(setting)))
                    .label(span, "remove this")
                    .help(format!("write the number alone, without {}", quoted(&found)))
                    .fix(span, "")
            }
            UnitProblem::NotWhole { span, number, of } => {
                let of_what = of.map_or(String::new(), |of| format!(" of {of}"));
                Diagnostic::new(Code::NotWhole, format!("{} is not a whole number{of_what}", quoted(&number)))
                    .label(span, "a whole number is needed")
                    .help(format!("write a whole number{of_what}"))
            }
            UnitProblem::TooLarge { span, number, most } => {
                Diagnostic::new(Code::TooLarge, format!("{} is too large", quoted(&number)))
                    .label(span, format!("at most {most}"))
                    .help("check the number of digits, and the unit if it has one")
            }
            UnitProblem::Zero { span, what, least } => Diagnostic::new(Code::Zero, format!("{what} cannot be zero"))
                .label(span, "zero")
                .help(format!("write {least}")),
            UnitProblem::Percent { span, number } => {
                let bare = number.trim_end_matches('%');
                Diagnostic::new(Code::Percent, "a count cannot be a percentage")
                    .label(span, "remove the `%`")
                    .help(format!("write `{bare}`"))
                    .fix(span, bare)
            }
        }
    }
}

/// A number with its unit, and the same in bytes where it counts bits.
fn amount(number: &str, unit: Unit) -> String {
    let written = any_of([format!("{number} {}", unit.text()).as_str()]);
    match Decimal::read(number).in_bytes(unit).filter(|_| unit.is_bits()) {
        Some(bytes) => format!("{written}, which is `{bytes}`"),
        None => written,
    }
}
