//! Reading the settings of a block: each at most once, the needed ones at all, numbers with the right unit.

use super::Checker;
use crate::diagnostics::{NameProblem, UnitProblem, WordKind, closest};
use crate::syntax::Span;
use crate::syntax::ast::{Name, Quantity};
use crate::units::{Decimal, Dimension, NotWhole, Unit, well_formed};

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

impl Checker<'_> {
    /// A count from `least` to `most`.
    pub(super) fn count(&mut self, quantity: &Quantity, setting: &'static str, least: u32, most: u32) -> Option<u32> {
        let number = &quantity.number;
        if !well_formed(&number.text) {
            return None; // The lexer has said so.
        }
        if let Some(unit) = &quantity.unit {
            self.report(UnitProblem::Superfluous { span: unit.span, found: unit.text.clone(), setting });
        }
        if number.text.ends_with('%') {
            self.report(UnitProblem::Percent { span: number.span, number: number.text.clone() });
            return None;
        }
        let value = self.whole(Decimal::read(&number.text).whole(), quantity, u64::from(most))?;
        if value < u64::from(least) {
            self.report(UnitProblem::Zero { span: number.span, setting });
            return None;
        }
        // `whole` keeps it at or below `most`.
        u32::try_from(value).ok()
    }

    /// A measure in the base of its dimension: bytes, bytes per second, nanoseconds or tokens; never zero.
    pub(super) fn measure(&mut self, quantity: &Quantity, setting: &'static str, wanted: Dimension) -> Option<u64> {
        let Some(name) = &quantity.unit else {
            let number = quantity.number.text.clone();
            self.report(UnitProblem::Missing { span: quantity.span, number, wanted });
            return None;
        };
        let Some(unit) = Unit::find(&name.text) else {
            let fitting = Unit::names().filter(|unit| Unit::find(unit).is_some_and(|unit| unit.dimension == wanted));
            let suggestion = closest(&name.text, fitting).or_else(|| closest(&name.text, Unit::names()));
            let suggestion = suggestion.map(str::to_owned);
            self.report(UnitProblem::Unknown { span: name.span, found: name.text.clone(), suggestion });
            return None;
        };
        if unit.dimension != wanted {
            let found = name.text.clone();
            self.report(UnitProblem::WrongKind { span: name.span, found, is: unit.dimension, wanted });
            return None;
        }
        if !well_formed(&quantity.number.text) {
            return None; // The lexer has said so.
        }
        let value = self.whole(Decimal::read(&quantity.number.text).of(unit), quantity, u64::MAX)?;
        if value == 0 {
            self.report(UnitProblem::Zero { span: quantity.number.span, setting });
            return None;
        }
        Some(value)
    }

    fn whole(&mut self, value: Result<u64, NotWhole>, quantity: &Quantity, most: u64) -> Option<u64> {
        let (span, number) = (quantity.number.span, quantity.number.text.clone());
        match value {
            Ok(value) if value <= most => return Some(value),
            Ok(_) | Err(NotWhole::TooLarge) => self.report(UnitProblem::TooLarge { span, number, most }),
            Err(NotWhole::Fraction) => self.report(UnitProblem::NotWhole { span, number }),
        }
        None
    }

    /// One of the words that a setting knows.
    pub(super) fn word<T: Copy>(
        &mut self,
        name: &Name,
        kind: WordKind,
        known: &'static [&'static str],
        values: &[T],
    ) -> Option<T> {
        if let Some(index) = known.iter().position(|word| *word == name.text) {
            return values.get(index).copied();
        }
        let suggestion = closest(&name.text, known.iter().copied()).map(str::to_owned);
        self.report(NameProblem::UnknownWord { span: name.span, kind, found: name.text.clone(), known, suggestion });
        None
    }
}
