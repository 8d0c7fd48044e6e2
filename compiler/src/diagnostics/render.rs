//! The only place where diagnostics become text or JSON.
//!
//! Invariant: rendering reads the file once and then costs about as much as the lines it shows, however long they are.

use std::borrow::Cow;
use std::ops::Range;

use codespan_reporting::diagnostic as shown;
use codespan_reporting::files::{Error, Files};
use codespan_reporting::term::{self, Chars, Config, StylesWriter, termcolor::Ansi};

use super::{Diagnostic, Diagnostics, Fix, Severity};
use crate::syntax::Span;

/// How to render.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Whether to use terminal colours.
    pub colour: bool,
    /// Whether to draw with ASCII only.
    pub ascii: bool,
}

/// All diagnostics of a file as text, with a line that counts them and one that says where more is to be read.
pub fn render(name: &str, source: &[u8], diagnostics: &Diagnostics, style: Style) -> String {
    let file = SourceFile::new(name, source);
    let mut text = String::new();
    for diagnostic in diagnostics {
        text.push_str(&file.render(diagnostic, style));
        text.push('\n');
    }
    if diagnostics.left_out() > 0 {
        text.push_str(&format!("… and more: only the first {} are shown\n", Diagnostics::LIMIT));
    }
    text.push_str(&summary(diagnostics));
    text.push_str(&more(diagnostics));
    text
}

/// Where more is to be read of these codes; empty when there are none.
fn more(diagnostics: &Diagnostics) -> String {
    let mut codes: Vec<&str> = Vec::new();
    for diagnostic in diagnostics {
        let id = diagnostic.code.id();
        if !codes.contains(&id) {
            codes.push(id);
        }
    }
    match codes[..] {
        [] => String::new(),
        [code] => format!("`moec explain {code}` explains it, with a repaired example\n"),
        [first, ref rest @ ..] => {
            let (shown, left_out) = rest.split_at(rest.len().min(5));
            let more = if left_out.is_empty() { "" } else { ", …" };
            format!(
                "`moec explain {first}` explains the first, with a repaired example; the others are {}{more}\n",
                shown.join(", ")
            )
        }
    }
}

/// For example `2 errors, 1 warning`; empty when there is nothing.
pub fn summary(diagnostics: &Diagnostics) -> String {
    let count = |number: usize, what: &str| match number {
        0 => None,
        1 => Some(format!("1 {what}")),
        many => Some(format!("{many} {what}s")),
    };
    let parts: Vec<String> = [count(diagnostics.errors(), "error"), count(diagnostics.warnings(), "warning")]
        .into_iter()
        .flatten()
        .collect();
    if parts.is_empty() { String::new() } else { format!("{}\n", parts.join(", ")) }
}

/// Of a line longer than this, only the part around the label is shown.
const LONGEST_LINE: usize = 400;

/// A file with the places of its lines.
struct SourceFile<'a> {
    name: &'a str,
    text: Cow<'a, str>,
    line_starts: Vec<usize>,
}

impl<'a> SourceFile<'a> {
    fn new(name: &'a str, source: &'a [u8]) -> SourceFile<'a> {
        // Up to the first byte that is not UTF-8, which is what a diagnostic points at, nothing moves.
        let text = String::from_utf8_lossy(source);
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        SourceFile { name, text, line_starts }
    }

    /// The index of the line that holds a place.
    fn line(&self, place: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= place) - 1
    }

    fn line_range(&self, line: usize) -> Range<usize> {
        let end = self.line_starts.get(line + 1).copied().unwrap_or(self.text.len());
        self.line_starts[line]..end
    }

    /// The nearest character boundary at or below `place`.
    fn boundary(&self, place: usize) -> usize {
        self.text.floor_char_boundary(place.min(self.text.len()))
    }

    fn column(&self, line: usize, place: usize) -> usize {
        self.text[self.line_starts[line]..place].chars().count() + 1
    }

    fn range(&self, span: Span) -> Range<usize> {
        self.boundary(span.start as usize)..self.boundary(span.end as usize)
    }

    fn render(&self, diagnostic: &Diagnostic, style: Style) -> String {
        let view = View::around(self, self.range(diagnostic.place()));
        let labels = diagnostic.labels.iter().enumerate().filter_map(|(index, label)| {
            let range = view.visible(self.range(label.span))?;
            let new = if index == 0 { shown::Label::primary } else { shown::Label::secondary };
            Some(new((), range).with_message(&label.text))
        });
        let notes = diagnostic.notes.iter().map(|note| format!("note: {note}"));
        let help = diagnostic.help.iter().map(|help| format!("help: {help}"));
        let severity = match diagnostic.severity {
            Severity::Error => shown::Severity::Error,
            Severity::Warning => shown::Severity::Warning,
            Severity::Note => shown::Severity::Note,
        };
        let message = shown::Diagnostic::new(severity)
            .with_code(diagnostic.code.id())
            .with_message(&diagnostic.title)
            .with_labels(labels.collect())
            .with_notes(notes.chain(help).collect());
        let chars = if style.ascii { Chars::ascii() } else { Chars::box_drawing() };
        let config = Config { chars, ..Config::default() };
        let mut out = Vec::new();
        let written = if style.colour {
            let styles = term::Styles::default();
            term::emit_to_write_style(&mut StylesWriter::new(Ansi::new(&mut out), &styles), &config, &view, &message)
        } else {
            term::emit_to_io_write(&mut out, &config, &view, &message)
        };
        if written.is_err() {
            // Cannot happen while labels lie in the file; the problem itself must still be said.
            return format!("{}: {}\n", diagnostic.code, diagnostic.title);
        }
        let text = String::from_utf8_lossy(&out);
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        format!("{}\n", lines.join("\n").trim_end())
    }
}

/// A file of which, where its lines are very long, only a window can be seen.
struct View<'f, 'a> {
    file: &'f SourceFile<'a>,
    window: Option<Range<usize>>,
}

impl<'f, 'a> View<'f, 'a> {
    fn around(file: &'f SourceFile<'a>, cause: Range<usize>) -> View<'f, 'a> {
        let line = file.line_range(file.line(cause.start));
        let window = (line.len() > LONGEST_LINE).then(|| {
            let start = file.boundary(cause.start.saturating_sub(LONGEST_LINE / 2)).max(line.start);
            let end = file.boundary(cause.start + LONGEST_LINE / 2).min(line.end);
            start..end
        });
        View { file, window }
    }

    /// The part of a range that can be seen.
    fn visible(&self, range: Range<usize>) -> Option<Range<usize>> {
        if let Some(window) = &self.window {
            let inside = range.start >= window.start && range.start <= window.end;
            return inside.then(|| range.start..range.end.min(window.end));
        }
        let long = |place| self.file.line_range(self.file.line(place)).len() > LONGEST_LINE;
        (!long(range.start) && !long(range.end)).then_some(range)
    }
}

impl<'v> Files<'v> for View<'_, '_> {
    type FileId = ();
    type Name = &'v str;
    type Source = &'v str;

    fn name(&'v self, (): ()) -> Result<&'v str, Error> {
        Ok(self.file.name)
    }

    fn source(&'v self, (): ()) -> Result<&'v str, Error> {
        Ok(&self.file.text)
    }

    fn line_index(&'v self, (): (), place: usize) -> Result<usize, Error> {
        Ok(self.file.line(place))
    }

    fn column_number(&'v self, (): (), line: usize, place: usize) -> Result<usize, Error> {
        Ok(self.file.column(line, place))
    }

    fn line_range(&'v self, (): (), line: usize) -> Result<Range<usize>, Error> {
        if line >= self.file.line_starts.len() {
            return Err(Error::LineTooLarge { given: line, max: self.file.line_starts.len() - 1 });
        }
        let range = self.file.line_range(line);
        Ok(match &self.window {
            Some(window) if range.start <= window.start && window.end <= range.end => window.clone(),
            _ => range,
        })
    }
}

/// A diagnostic for tools.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Message<'a> {
    /// The file.
    pub file: &'a str,
    /// Such as `M0301`.
    pub code: &'static str,
    /// `error`, `warning` or `note`.
    pub severity: Severity,
    /// One sentence.
    pub title: &'a str,
    /// Places; the first is the cause.
    pub labels: Vec<Place<'a>>,
    /// Facts that explain it.
    pub notes: &'a [String],
    /// What to write instead.
    pub help: Option<&'a str>,
    /// The same as a change of the text, where there is one right answer.
    pub fix: Option<&'a Fix>,
}

/// A labelled place for tools. Lines and columns count from 1, columns in characters; offsets are bytes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Place<'a> {
    /// What is said of it.
    pub text: &'a str,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
    /// Line of the first byte.
    pub line: usize,
    /// Column of the first byte.
    pub column: usize,
}

/// All diagnostics of a file for tools.
pub fn messages<'a>(file: &'a str, source: &[u8], diagnostics: &'a Diagnostics) -> Vec<Message<'a>> {
    let source = SourceFile::new(file, source);
    let place = |span: Span, text| {
        let start = source.range(span).start;
        let line = source.line(start);
        Place { text, start: span.start, end: span.end, line: line + 1, column: source.column(line, start) }
    };
    let message = |diagnostic: &'a Diagnostic| Message {
        file,
        code: diagnostic.code.id(),
        severity: diagnostic.severity,
        title: &diagnostic.title,
        labels: diagnostic.labels.iter().map(|label| place(label.span, label.text.as_str())).collect(),
        notes: &diagnostic.notes,
        help: diagnostic.help.as_deref(),
        fix: diagnostic.fix.as_ref(),
    };
    diagnostics.iter().map(message).collect()
}

/// All diagnostics of a file as JSON, one object a line.
pub fn json(file: &str, source: &[u8], diagnostics: &Diagnostics) -> String {
    let mut text = String::new();
    for message in messages(file, source, diagnostics) {
        // A message is strings and numbers: it always has a JSON form.
        text.push_str(&serde_json::to_string(&message).unwrap_or_default());
        text.push('\n');
    }
    text
}
