//! The only place where diagnostics become text or JSON.
//!
//! Invariants: rendering reads the file once and then costs about as much as the lines it shows, however long they are; no line of it is wider
//! than the screen, unless a single word is.

use std::borrow::Cow;
use std::ops::Range;

use codespan_reporting::diagnostic as shown;
use codespan_reporting::files::{Error, Files};
use codespan_reporting::term::{self, Chars, Config, StylesWriter, termcolor::Ansi};

use super::{Diagnostic, Diagnostics, Fix, Severity};
use crate::span::Span;
use crate::text::{Screen, harmless, plain, sentence, width, within, wrap_coloured};

/// All diagnostics of a file as text, with a line that counts them and one that says where more is to be read.
pub fn render(name: &str, source: &[u8], diagnostics: &Diagnostics, screen: &Screen) -> String {
    let file = SourceFile::new(name, source);
    let mut text = String::new();
    for diagnostic in diagnostics {
        text.push_str(&file.render(diagnostic, screen));
        text.push('\n');
    }
    if diagnostics.left_out() > 0 {
        text.push_str(&sentence(&format!("… and more: only the first {} are shown", Diagnostics::LIMIT), screen));
    }
    for last in [summary(diagnostics), more(diagnostics)].iter().filter(|last| !last.is_empty()) {
        text.push_str(&sentence(last.trim_end(), screen));
    }
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

/// Of a line longer than this, only the part around the label is shown, however wide the screen is.
const LONGEST_LINE: usize = 400;

/// Columns of a tabulator, as the renderer shows it.
const TABULATOR: usize = 4;

/// A file with the places of its lines.
struct SourceFile<'a> {
    name: Cow<'a, str>,
    text: Cow<'a, str>,
    line_starts: Vec<usize>,
}

impl<'a> SourceFile<'a> {
    fn new(name: &'a str, source: &'a [u8]) -> SourceFile<'a> {
        // Up to the first byte that is not UTF-8, which is what a diagnostic points at, nothing moves.
        let text = harmless(String::from_utf8_lossy(source));
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        SourceFile { name: plain(name, false), text, line_starts }
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

    /// Columns between the edge of the screen and the text of a line.
    fn gutter(&self) -> usize {
        self.line_starts.len().to_string().len() + " │ ".chars().count()
    }

    fn render(&self, diagnostic: &Diagnostic, screen: &Screen) -> String {
        let ranges = || diagnostic.labels.iter().map(|label| self.range(label.span));
        let view = View::around(self, ranges(), screen.width.saturating_sub(self.gutter()).min(LONGEST_LINE));
        let shown = |text: &str| plain(text, screen.ascii).into_owned();
        let labels = diagnostic.labels.iter().enumerate().filter_map(|(index, label)| {
            let range = view.visible(self.range(label.span))?;
            let new = if index == 0 { shown::Label::primary } else { shown::Label::secondary };
            Some(new((), range).with_message(shown(&label.text)))
        });
        let notes = diagnostic.notes.iter().map(|note| shown(&format!("note: {note}")));
        let help = diagnostic.help.iter().map(|help| shown(&format!("help: {help}")));
        let severity = match diagnostic.severity {
            Severity::Error => shown::Severity::Error,
            Severity::Warning => shown::Severity::Warning,
            Severity::Note => shown::Severity::Note,
        };
        let message = shown::Diagnostic::new(severity)
            .with_code(diagnostic.code.id())
            .with_message(shown(&diagnostic.title))
            .with_labels(labels.collect())
            .with_notes(notes.chain(help).collect());
        let chars = if screen.ascii { Chars::ascii() } else { Chars::box_drawing() };
        let config = Config { chars, tab_width: TABULATOR, ..Config::default() };
        let mut out = Vec::new();
        let written = if screen.colour {
            let styles = term::Styles::default();
            term::emit_to_write_style(&mut StylesWriter::new(Ansi::new(&mut out), &styles), &config, &view, &message)
        } else {
            term::emit_to_io_write(&mut out, &config, &view, &message)
        };
        if written.is_err() {
            // Cannot happen while labels lie in the file; the problem itself must still be said.
            return sentence(&format!("{}: {}", diagnostic.code, diagnostic.title), screen);
        }
        let text = String::from_utf8_lossy(&out);
        let lines: Vec<String> = text.lines().map(|line| fitted(line.trim_end(), screen)).collect();
        format!("{}\n", lines.join("\n").trim_end())
    }
}

/// A line as it is drawn, in lines that fit: words go on below where they began.
fn fitted(line: &str, screen: &Screen) -> String {
    // What is left that is not ASCII stands in a line of the file, above carets.
    let in_ascii =
        |c: char| if c.is_ascii() { c.to_string() } else { within(c.encode_utf8(&mut [0; 4]), true).into_owned() };
    let line: Cow<'_, str> = if screen.ascii { line.chars().map(in_ascii).collect() } else { line.into() };
    let bare = without_colours(&line);
    let (before, rest) = bare.split_at(bare.find(|c: char| c != ' ' && !c.is_ascii_digit()).unwrap_or(bare.len()));
    let is_source = before.contains(|c: char| c.is_ascii_digit());
    let Some(mark) = rest.chars().next().filter(|_| !is_source && width(&bare) > screen.prose) else {
        return line.into_owned();
    };
    match mark {
        '│' | '|' => {
            let marks = |c: char| " ^~-'│|╭╰─╯".contains(c);
            let begin = width(before) + rest.chars().take_while(|&c| marks(c)).count();
            let column = if begin * 3 < screen.width * 2 { begin } else { width(before) + 4 };
            let lead = format!("{before}{mark}{}", " ".repeat(column.saturating_sub(width(before) + 1)));
            wrap_coloured(&line, screen.width, &lead)
        }
        // Where it is: a name of a file is not cut.
        '┌' => line.into_owned(),
        '-' if rest.starts_with("->") => line.into_owned(),
        '=' => wrap_coloured(&line, screen.prose, &format!("{before}  ")),
        _ => wrap_coloured(&line, screen.prose, "  "),
    }
}

fn without_colours(line: &str) -> String {
    let mut parts = line.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |bare, part| bare + part.split_once('m').map_or("", |(_, words)| words))
}

/// A file of which, where its lines are wider than the screen, only a window can be seen.
struct View<'f, 'a> {
    file: &'f SourceFile<'a>,
    /// Columns of a line that can be seen.
    columns: usize,
    /// The first byte that can be seen of lines with a label, where it is not the first of the line.
    begins: Vec<(usize, usize)>,
}

impl<'f, 'a> View<'f, 'a> {
    /// In every line with a label, its start can be seen, and all of it where there is room.
    fn around(file: &'f SourceFile<'a>, labels: impl Iterator<Item = Range<usize>>, columns: usize) -> View<'f, 'a> {
        let mut view = View { file, columns: columns.max(1), begins: Vec::new() };
        for label in labels {
            let line = file.line(label.start);
            let whole = file.line_range(line);
            let end = label.end.min(whole.end);
            let known = view.begins.iter().any(|(of, _)| *of == line);
            if known || view.end(whole.start, whole.end.min(end)) >= end {
                continue;
            }
            // As much before the label as there is room for, up to a half.
            let near = end.min(file.boundary(label.start + 4 * view.columns));
            let room = view.columns.saturating_sub(file.text[label.start..near].chars().map(cost).sum());
            let before = &file.text[whole.start..label.start];
            let mut left = room.max(view.columns / 3).min(view.columns / 2);
            let mut begin = label.start;
            for (at, c) in before.char_indices().rev() {
                let cost = cost(c);
                if cost > left {
                    break;
                }
                left -= cost;
                begin = whole.start + at;
            }
            view.begins.push((line, begin));
        }
        view
    }

    /// One past the last byte that can be seen of a line that is seen from `begin` on.
    fn end(&self, begin: usize, line_end: usize) -> usize {
        let mut left = self.columns;
        for (at, c) in self.file.text[begin..line_end].char_indices() {
            match left.checked_sub(cost(c)) {
                Some(rest) => left = rest,
                None => return begin + at,
            }
        }
        line_end
    }

    /// What can be seen of a line.
    fn window(&self, line: usize) -> Range<usize> {
        let whole = self.file.line_range(line);
        let begin = self.begins.iter().find(|(of, _)| *of == line).map_or(whole.start, |(_, begin)| *begin);
        begin..self.end(begin, whole.end)
    }

    /// The part of a range that can be seen.
    fn visible(&self, range: Range<usize>) -> Option<Range<usize>> {
        let (first, last) = (self.window(self.file.line(range.start)), self.window(self.file.line(range.end)));
        let inside = range.start >= first.start && range.start <= first.end;
        inside.then(|| range.start..range.end.clamp(range.start, last.end.max(range.start)))
    }
}

/// Columns of a character of a line.
fn cost(c: char) -> usize {
    match c {
        '\t' => TABULATOR,
        '\r' | '\n' => 0,
        c => width(c.encode_utf8(&mut [0; 4])).max(1),
    }
}

impl<'v> Files<'v> for View<'_, '_> {
    type FileId = ();
    type Name = &'v str;
    type Source = &'v str;

    fn name(&'v self, (): ()) -> Result<&'v str, Error> {
        Ok(&self.file.name)
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
        Ok(self.window(line))
    }
}

/// A diagnostic for tools.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
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
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
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
