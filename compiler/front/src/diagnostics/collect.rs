//! The diagnostics of one file.

use super::{Diagnostic, Severity};

/// What was found. About [`Diagnostics::LIMIT`] are kept, among them an error if there is one; the rest is counted.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
    errors: usize,
    left_out: usize,
}

impl Diagnostics {
    /// How many are kept: nobody reads more, and a hostile file could ask for millions.
    pub const LIMIT: usize = 200;

    /// Adds a problem.
    pub fn report(&mut self, problem: impl Into<Diagnostic>) {
        if self.is_full() {
            self.left_out += 1;
            return;
        }
        let diagnostic = problem.into();
        self.errors += usize::from(diagnostic.severity == Severity::Error);
        if self.list.len() < Diagnostics::LIMIT || self.errors == 1 {
            self.list.push(diagnostic);
        } else {
            self.left_out += 1;
        }
    }

    /// Whether nobody would read more: then reading the rest of the file is not worth the time either.
    pub fn is_full(&self) -> bool {
        self.list.len() >= Diagnostics::LIMIT && self.errors > 0
    }

    /// Whether a further warning would not be kept: then it is not worth much time to find it.
    pub(crate) fn is_long(&self) -> bool {
        self.list.len() >= Diagnostics::LIMIT
    }

    /// Sorts by place.
    pub(crate) fn sort(&mut self) {
        self.list.sort_by_key(Diagnostic::place);
    }

    /// Those that are kept.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.list.iter()
    }

    /// Whether any is an error.
    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// How many are errors, of those that are kept.
    pub fn errors(&self) -> usize {
        self.list.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count()
    }

    /// How many are warnings, of those that are kept.
    pub fn warnings(&self) -> usize {
        self.list.iter().filter(|diagnostic| diagnostic.severity == Severity::Warning).count()
    }

    /// At least so many were found beyond [`Diagnostics::LIMIT`]; a file with errors is not read further then.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

impl FromIterator<Diagnostic> for Diagnostics {
    fn from_iter<I: IntoIterator<Item = Diagnostic>>(found: I) -> Diagnostics {
        let mut diagnostics = Diagnostics::default();
        found.into_iter().for_each(|diagnostic| diagnostics.report(diagnostic));
        diagnostics
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
