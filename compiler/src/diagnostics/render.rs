//! The only place where diagnostics become text or JSON.
//!
//! Invariant: rendering costs about as much as the lines it shows, whatever the size of the file.

use ariadne::{CharSet, Color, Config, IndexType, Report, ReportKind, Source};

use super::{Diagnostic, Diagnostics, Severity};
use crate::syntax::Span;

/// How to render.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Whether to use terminal colours.
    pub colour: bool,
    /// Whether to draw with ASCII only.
    pub ascii: bool,
}

/// All diagnostics of a file as text, with a last line that counts them.
pub fn render(name: &str, source: &[u8], diagnostics: &Diagnostics, style: Style) -> String {
    let source = String::from_utf8_lossy(source);
    let mut text = String::new();
    for diagnostic in diagnostics {
        text.push_str(&render_one(name, &source, diagnostic, style));
        text.push('\n');
    }
    if diagnostics.left_out() > 0 {
        text.push_str(&format!("… and {} more\n", diagnostics.left_out()));
    }
    text.push_str(&summary(diagnostics));
    text
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

/// One diagnostic as text.
pub fn render_one(name: &str, source: &str, diagnostic: &Diagnostic, style: Style) -> String {
    let excerpt = Excerpt::around(source, diagnostic);
    let (kind, colour) = match diagnostic.severity {
        Severity::Error => (ReportKind::Error, Color::Red),
        Severity::Warning => (ReportKind::Warning, Color::Yellow),
    };
    let config = Config::new()
        .with_color(style.colour)
        .with_index_type(IndexType::Byte)
        .with_char_set(if style.ascii { CharSet::Ascii } else { CharSet::Unicode });
    let place = excerpt.inside(diagnostic.place());
    let mut report = Report::build(kind, (name, place))
        .with_config(config)
        .with_code(diagnostic.code)
        .with_message(&diagnostic.title);
    for (index, label) in diagnostic.labels.iter().enumerate() {
        let colour = if index == 0 { colour } else { Color::Blue };
        let span = (name, excerpt.inside(label.span));
        report.add_label(ariadne::Label::new(span).with_message(&label.text).with_color(colour));
    }
    for note in &diagnostic.notes {
        report.add_note(note);
    }
    if let Some(help) = &diagnostic.help {
        report.add_help(help);
    }
    let cached = Source::from(excerpt.text.as_str()).with_display_line_offset(excerpt.lines_before);
    let mut out = Vec::new();
    // Writing to memory cannot fail; an empty report would still name the problem below.
    if report.finish().write((name, cached), &mut out).is_err() {
        return format!("{}: {}\n", diagnostic.code, diagnostic.title);
    }
    let text = String::from_utf8_lossy(&out);
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    format!("{}\n", lines.join("\n"))
}

/// The part of a file that a diagnostic speaks of.
struct Excerpt {
    text: String,
    /// Where it begins in the file.
    start: usize,
    lines_before: usize,
}

/// Lines longer than this are cut around the label.
const LONGEST_LINE: usize = 400;
/// Further labels are shown with all lines between while the whole is not longer than this.
const LONGEST_EXCERPT: usize = 20_000;

impl Excerpt {
    fn around(source: &str, diagnostic: &Diagnostic) -> Excerpt {
        let place = diagnostic.place();
        let all = diagnostic.labels.iter().fold(place, |all, label| all.to(label.span));
        let wanted =
            if (all.end - all.start) as usize <= LONGEST_EXCERPT { all } else { Span::new(place.start, place.start) };
        let first = boundary(source, wanted.start as usize);
        let last = boundary(source, wanted.end as usize);
        let mut start = source[..first].rfind('\n').map_or(0, |at| at + 1);
        let mut end = source[last..].find('\n').map_or(source.len(), |at| last + at);
        if first - start > LONGEST_LINE {
            start = boundary(source, first - LONGEST_LINE / 2);
        }
        if end - last > LONGEST_LINE {
            end = boundary(source, last + LONGEST_LINE / 2);
        }
        let lines_before = source[..start].bytes().filter(|byte| *byte == b'\n').count();
        Excerpt { text: source[start..end].to_owned(), start, lines_before }
    }

    /// A span of the file as a range of the excerpt; one outside is shown at its edge.
    fn inside(&self, span: Span) -> std::ops::Range<usize> {
        let within = |place: u32| boundary(&self.text, (place as usize).saturating_sub(self.start));
        within(span.start)..within(span.end)
    }
}

/// The nearest character boundary at or below `place`.
fn boundary(text: &str, place: usize) -> usize {
    text.floor_char_boundary(place.min(text.len()))
}

/// A diagnostic for tools.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Message<'a> {
    /// The file.
    pub file: &'a str,
    /// Such as `M0301`.
    pub code: &'static str,
    /// `error` or `warning`.
    pub severity: Severity,
    /// One sentence.
    pub title: &'a str,
    /// Places; the first is the cause.
    pub labels: Vec<Place<'a>>,
    /// Facts that explain it.
    pub notes: &'a [String],
    /// What to write instead.
    pub help: Option<&'a str>,
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
    let source = String::from_utf8_lossy(source);
    let starts: Vec<usize> = std::iter::once(0).chain(source.match_indices('\n').map(|(at, _)| at + 1)).collect();
    let place = |span: Span, text| {
        let start = boundary(&source, span.start as usize);
        let line = starts.partition_point(|line| *line <= start);
        let column = source[starts[line - 1]..start].chars().count() + 1;
        Place { text, start: span.start, end: span.end, line, column }
    };
    let message = |diagnostic: &'a Diagnostic| Message {
        file,
        code: diagnostic.code.id(),
        severity: diagnostic.severity,
        title: &diagnostic.title,
        labels: diagnostic.labels.iter().map(|label| place(label.span, label.text.as_str())).collect(),
        notes: &diagnostic.notes,
        help: diagnostic.help.as_deref(),
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
