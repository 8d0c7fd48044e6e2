//! Reading the settings of a block: each at most once, the needed ones at all, numbers with the right unit.

use super::Checker;
use crate::diagnostics::{NameProblem, UnitProblem, WordKind, closest};
use crate::span::Span;
use crate::spec::limits;
use crate::syntax::ast::{Name, Quantity};
use crate::units::{Decimal, Dimension, NotWhole, Tokens, Unit, well_formed};

/// A setting that may be given once.
pub(super) struct Slot<T> {
    setting: &'static str,
    seen: Option<Span>,
    value: Option<T>,
}

impl<T> Slot<T> {
    pub(super) fn new(setting: &'static str) -> Slot<T> {
        Slot { setting, seen: None, value: None }
    }

    /// Takes what was given; nothing stands for a value that was reported.
    pub(super) fn set(&mut self, checker: &mut Checker<'_>, span: Span, value: Option<T>) {
        match self.seen {
            Some(first) => checker.report(NameProblem::SettingTwice { span, setting: self.setting, first }),
            None => {
                self.seen = Some(span);
                self.value = value;
            }
        }
    }

    /// Where it was given.
    pub(super) fn place(&self) -> Option<Span> {
        self.seen
    }

    /// The value, if it was given and is right, to look at.
    pub(super) fn value(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// The value, if it was given and is right.
    pub(super) fn optional(self) -> Option<T> {
        self.value
    }

    /// The value, or `default` if it was not given.
    pub(super) fn or(self, default: T) -> Option<T> {
        match self.seen {
            None => Some(default),
            Some(_) => self.value,
        }
    }

    /// The value, which must be given.
    pub(super) fn needed(self, checker: &mut Checker<'_>, owner: &Owner, example: &'static str) -> Option<T> {
        self.demand(checker, owner, example);
        self.value
    }

    /// Says that it must be given, if it is not.
    pub(super) fn demand(&self, checker: &mut Checker<'_>, owner: &Owner, example: &'static str) {
        if self.seen.is_none() && !owner.damaged {
            let Owner { span, described, .. } = owner;
            checker.report(NameProblem::SettingMissing {
                span: *span,
                owner: described.clone(),
                setting: self.setting,
                example,
            });
        }
    }
}

/// The block that settings belong to.
pub(super) struct Owner {
    /// Where a missing setting is shown.
    pub(super) span: Span,
    /// ``model `m` ``
    pub(super) described: String,
    /// Whether part of the block could not be read.
    pub(super) damaged: bool,
}

/// A declaration as it is called: ``model `m` ``.
pub(super) fn described(kind: &str, name: &Name) -> String {
    if name.text.is_empty() { format!("this {kind}") } else { format!("{kind} `{}`", name.text) }
}

impl Checker<'_> {
    /// A count from `least` to `most`.
    pub(super) fn count(&mut self, quantity: &Quantity, setting: &'static str, least: u32, most: u32) -> Option<u32> {
        if let Some(unit) = &quantity.unit
            && well_formed(&quantity.number.text)
        {
            self.report(UnitProblem::Superfluous { span: unit.span, found: unit.text.clone(), setting });
        }
        let number = &quantity.number;
        self.number(&number.text, number.span, &format!("`{setting}`"), least, most)
    }

    /// A whole number from `least` to `most`; `what` is what it counts.
    pub(super) fn number(&mut self, text: &str, span: Span, what: &str, least: u32, most: u32) -> Option<u32> {
        if !well_formed(text) {
            return None; // The lexer has said so.
        }
        if text.ends_with('%') {
            self.report(UnitProblem::Percent { span, number: text.to_owned() });
            return None;
        }
        let shown = || most.to_string();
        let value = self.bounded(Decimal::read(text).whole(), (text.to_owned(), span), None, u64::from(most), shown)?;
        if value < u64::from(least) {
            self.report(UnitProblem::Zero { span, what: what.to_owned(), least: "`1` or more" });
            return None;
        }
        // `bounded` keeps it at or below `most`.
        u32::try_from(value).ok()
    }

    /// A measure in the base of its dimension: bytes, bytes per second, nanoseconds or tokens; never zero.
    pub(super) fn measure(&mut self, quantity: &Quantity, setting: &'static str, wanted: Dimension) -> Option<u64> {
        let number = quantity.number.text.clone();
        let Some(name) = &quantity.unit else {
            self.report(UnitProblem::Missing { span: quantity.span, number, wanted });
            return None;
        };
        let Some(unit) = Unit::find(&name.text) else {
            let (span, found) = (name.span, name.text.clone());
            let meant = Unit::meant(&found, wanted);
            match meant.first() {
                Some(unit) if unit.dimension != wanted => {
                    self.report(UnitProblem::WrongKind { span, found, number, is: unit.dimension, wanted });
                }
                _ => {
                    let fitting =
                        Unit::names().filter(|unit| Unit::find(unit).is_some_and(|unit| unit.dimension == wanted));
                    let suggestion = closest(&found, fitting);
                    self.report(UnitProblem::Unknown { span, found, number, meant, suggestion });
                }
            }
            return None;
        };
        if unit.dimension != wanted {
            let found = name.text.clone();
            self.report(UnitProblem::WrongKind { span: name.span, found, number, is: unit.dimension, wanted });
            return None;
        }
        if !well_formed(&number) {
            return None; // The lexer has said so.
        }
        let (most, shown) = match wanted {
            Dimension::Memory => (limits::MEMORY.0, limits::MEMORY.to_string()),
            Dimension::Rate => (limits::RATE.0, limits::RATE.to_string()),
            Dimension::Time => (limits::NANOSECONDS, "1 s".to_owned()),
            Dimension::Tokens => (u64::from(limits::COUNT), Tokens(limits::COUNT).to_string()),
        };
        let written = format!("{number} {}", name.text);
        let of = Some(wanted.base());
        let value = self.bounded(Decimal::read(&number).of(unit), (written, quantity.span), of, most, || shown)?;
        if value == 0 {
            let what = format!("`{setting}`");
            self.report(UnitProblem::Zero { span: quantity.number.span, what, least: "a number above zero" });
            return None;
        }
        Some(value)
    }

    /// A whole number that is at most `most`, as it was written at its place.
    fn bounded(
        &mut self,
        value: Result<u64, NotWhole>,
        (number, span): (String, Span),
        of: Option<&'static str>,
        most: u64,
        shown: impl FnOnce() -> String,
    ) -> Option<u64> {
        match value {
            Ok(value) if value <= most => return Some(value),
            Ok(_) | Err(NotWhole::TooLarge) => {
                self.report(UnitProblem::TooLarge { span, number, most: shown() });
            }
            Err(NotWhole::Fraction) => self.report(UnitProblem::NotWhole { span, number, of }),
        }
        None
    }

    /// One of the words that a setting knows.
    pub(super) fn word<T: Copy>(
        &mut self,
        name: &Name,
        kind: WordKind,
        known: &[&'static str],
        values: &[T],
    ) -> Option<T> {
        if let Some(index) = known.iter().position(|word| *word == name.text) {
            return values.get(index).copied();
        }
        let suggestion = closest(&name.text, known.iter().copied()).map(str::to_owned);
        self.report(NameProblem::UnknownWord {
            span: name.span,
            kind,
            found: name.text.clone(),
            known: known.to_vec(),
            suggestion,
        });
        None
    }
}
