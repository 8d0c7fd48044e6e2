//! The canonical text of a file.
//!
//! Invariants: the result parses to the same tree; every comment is kept; formatting the result again changes nothing.
//!
//! Settings that share a line stay together, three blanks apart; settings on lines of their own align their values; at most one
//! blank line separates two of them. A block of plain settings that stood on one line stays there while it fits.

mod outline;

use outline::{Body, Node, Shape, outline};

use super::Comment;
use super::ast::File;
use crate::span::Span;

/// Lines are kept within this many columns where they can be.
const COLUMNS: usize = 100;
const INDENT: usize = 4;

/// Writes `file`, which was read from `source`, in canonical form.
pub fn format(source: &str, file: &File, comments: &[Comment]) -> String {
    let mut printer = Printer { source, comments, next: 0, out: String::new(), last: None, indent: 0 };
    for (index, node) in outline(file).iter().enumerate() {
        printer.comments_before(node.span.start, index > 0);
        let after_comment = printer.last.is_some() && printer.blank_wanted(node.span.start);
        if index > 0 && !printer.follows_comment() || after_comment && printer.follows_comment() {
            printer.blank_line();
        }
        printer.open_block(node);
    }
    printer.comments_before(u32::MAX, true);
    printer.out
}

struct Printer<'a> {
    source: &'a str,
    comments: &'a [Comment],
    /// The first comment that is not printed yet.
    next: usize,
    out: String,
    /// Where, in the source, the last thing printed in this block ends.
    last: Option<u32>,
    indent: usize,
}

/// A line of output before its columns are aligned.
struct Row {
    head: String,
    rest: String,
    aligned: Option<Shape>,
    trailing: Option<String>,
}

impl Printer<'_> {
    fn blank_line(&mut self) {
        if !self.out.is_empty() && !self.out.ends_with("\n\n") && !self.out.ends_with("{\n") {
            self.out.push('\n');
        }
    }

    /// Whether the source leaves a line empty between the last thing printed and `start`.
    fn blank_wanted(&self, start: u32) -> bool {
        let Some(last) = self.last else { return false };
        let between = self.source.get(last as usize..start as usize).unwrap_or_default();
        between.bytes().filter(|byte| *byte == b'\n').count() >= 2
    }

    fn follows_comment(&self) -> bool {
        let line = self.out.trim_end_matches('\n').rsplit('\n').next().unwrap_or_default();
        line.trim_start().starts_with("//")
    }

    fn comment(&self, index: usize) -> Option<(Span, &str)> {
        let span = self.comments.get(index)?.span;
        Some((span, span.text(self.source).trim_end()))
    }

    fn same_line(&self, end: u32, start: u32) -> bool {
        start >= end && !self.source.get(end as usize..start as usize).unwrap_or("\n").contains('\n')
    }

    /// Prints the comments that begin before `place` on lines of their own.
    fn comments_before(&mut self, place: u32, between_items: bool) {
        let mut first = true;
        while let Some((span, text)) = self.comment(self.next)
            && span.start < place
        {
            let line = format!("{:indent$}{text}\n", "", indent = self.indent);
            let separate = first && between_items && self.indent == 0;
            if separate || self.blank_wanted(span.start) {
                self.blank_line();
            }
            self.out.push_str(&line);
            self.last = Some(span.end);
            self.next += 1;
            first = false;
        }
    }

    /// Takes the comment that stands on the same line after `end`, if there is one.
    fn take_trailing(&mut self, end: u32) -> Option<String> {
        let (span, text) = self.comment(self.next)?;
        if !self.same_line(end, span.start) {
            return None;
        }
        let text = text.to_owned();
        self.last = Some(span.end);
        self.next += 1;
        Some(text)
    }

    fn open_block(&mut self, node: &Node<'_>) {
        let Some(body) = &node.body else { return };
        self.out.push_str(&format!("{:indent$}{} ", "", node.head, indent = self.indent));
        if !node.rest.is_empty() {
            self.out.push_str(&node.rest);
            self.out.push(' ');
        }
        self.out.push('{');
        if body.nodes.is_empty() && !self.has_comment_in(body.span) {
            self.out.push('}');
        } else {
            let trailing = self.take_trailing(body.span.start + 1);
            self.push_trailing(trailing);
            self.out.push('\n');
            self.last = None;
            self.indent += INDENT;
            self.body(body);
            self.comments_before(body.span.end, false);
            self.indent -= INDENT;
            self.out.push_str(&format!("{:indent$}}}", "", indent = self.indent));
        }
        self.last = Some(node.span.end);
        let trailing = self.take_trailing(node.span.end);
        self.push_trailing(trailing);
        self.out.push('\n');
    }

    fn push_trailing(&mut self, comment: Option<String>) {
        if let Some(comment) = comment {
            self.out.push_str("  ");
            self.out.push_str(&comment);
        }
    }

    fn has_comment_in(&self, span: Span) -> bool {
        self.comment(self.next_at(span.start)).is_some_and(|(comment, _)| comment.start < span.end)
    }

    fn next_at(&self, place: u32) -> usize {
        self.comments.partition_point(|comment| comment.span.start < place)
    }

    fn body(&mut self, body: &Body<'_>) {
        let mut rows: Vec<Row> = Vec::new();
        let mut nodes = body.nodes.iter().peekable();
        while let Some(node) = nodes.next() {
            if self.comment(self.next).is_some_and(|(span, _)| span.start < node.span.start)
                || self.blank_wanted(node.span.start)
            {
                self.flush(&mut rows);
                self.comments_before(node.span.start, false);
                if self.blank_wanted(node.span.start) {
                    self.blank_line();
                }
            }
            let Some(rest) = self.one_line(node) else {
                self.flush(&mut rows);
                self.open_block(node);
                continue;
            };
            // A comment inside of a setting goes before it.
            if self.comment(self.next).is_some_and(|(span, _)| span.start < node.span.end) {
                self.flush(&mut rows);
                self.comments_before(node.span.end, false);
            }
            let mut row = Row { head: node.head.clone(), rest, aligned: Some(node.shape), trailing: None };
            let mut end = node.span.end;
            while let Some(next) = nodes.peek()
                && node.shape == Shape::Plain
                && next.shape == Shape::Plain
                && self.same_line(end, next.span.start)
                && !self.has_comment_in(next.span)
                && let Some(rest) = self.one_line(next)
                && self.indent + width(&row.head) + width(&row.rest) + width(&next.head) + width(&rest) + 5 <= COLUMNS
            {
                row.rest = format!("{}   {} {rest}", row.rest, next.head);
                row.aligned = None;
                end = next.span.end;
                nodes.next();
            }
            self.last = Some(end);
            row.trailing = self.take_trailing(end);
            rows.push(row);
        }
        self.flush(&mut rows);
    }

    /// What follows the head of a node that is printed as one row; nothing when its block needs lines of its own.
    fn one_line(&self, node: &Node<'_>) -> Option<String> {
        let Some(body) = &node.body else {
            let room = COLUMNS.saturating_sub(self.indent + width(&node.head) + 1);
            return match &node.expression {
                Some(value) if width(&node.rest) > room => Some(outline::wrapped(value, &node.rest, self.indent)),
                _ => Some(node.rest.clone()),
            };
        };
        let inline = node.shape == Shape::Plain
            && !body.nodes.is_empty()
            && body.nodes.iter().all(|inner| inner.body.is_none() && inner.shape == Shape::Plain)
            && self.same_line(body.span.start, body.span.end)
            && !self.has_comment_in(node.span);
        let settings: Vec<String> = body.nodes.iter().map(|inner| format!("{} {}", inner.head, inner.rest)).collect();
        let lead = if node.rest.is_empty() { String::new() } else { format!("{} ", node.rest) };
        let text = format!("{lead}{{ {} }}", settings.join("   "));
        (inline && self.indent + width(&node.head) + 1 + width(&text) <= COLUMNS).then_some(text)
    }

    /// Prints rows that stand together: aligned heads, then aligned comments.
    fn flush(&mut self, rows: &mut Vec<Row>) {
        let mut lines: Vec<(String, Option<String>)> = Vec::new();
        let mut start = 0;
        while start < rows.len() {
            let shape = rows[start].aligned;
            let run = rows[start..].iter().take_while(|row| row.aligned == shape).count();
            let widest = rows[start..start + run].iter().map(|row| width(&row.head)).max().unwrap_or(0);
            for row in &mut rows[start..start + run] {
                let padded = if shape.is_some() { widest } else { 0 };
                let line = format!("{:indent$}{:padded$} {}", "", row.head, row.rest, indent = self.indent);
                lines.push((line, row.trailing.take()));
            }
            start += run;
        }
        let mut index = 0;
        while index < lines.len() {
            let run = lines[index..].iter().take_while(|line| line.1.is_some()).count().max(1);
            let column = lines[index..index + run].iter().map(|line| width(last_line(&line.0))).max().unwrap_or(0);
            for (line, trailing) in &lines[index..index + run] {
                self.out.push_str(line);
                if let Some(comment) = trailing {
                    let gap = column - width(last_line(line)) + 2;
                    self.out.push_str(&format!("{:gap$}{comment}", ""));
                }
                self.out.push('\n');
            }
            index += run;
        }
        rows.clear();
    }
}

fn last_line(text: &str) -> &str {
    text.rsplit('\n').next().unwrap_or(text)
}

fn width(text: &str) -> usize {
    text.chars().count()
}
