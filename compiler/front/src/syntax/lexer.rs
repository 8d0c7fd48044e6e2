//! From bytes to tokens.
//!
//! Invariant: whatever the bytes, every token has a span inside the source, and everything that is not a token has been reported.

use logos::Logos;

use crate::diagnostics::{Diagnostics, LexicalProblem};
use crate::span::{MAX_FILE_BYTES, Span};
use crate::token::Token;
use crate::units::well_formed;

/// A `//` comment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comment {
    /// From the slashes to the end of the line.
    pub span: Span,
}

/// A file cut into tokens.
#[derive(Debug, Default)]
pub struct Lexed {
    /// Everything but blanks and comments.
    pub tokens: Vec<(Token, Span)>,
    /// In the order of the file.
    pub comments: Vec<Comment>,
}

/// The text of a file.
///
/// # Errors
/// If the file is too large or not UTF-8.
pub fn decode(bytes: &[u8]) -> Result<&str, LexicalProblem> {
    if bytes.len() > MAX_FILE_BYTES {
        return Err(LexicalProblem::FileTooLarge { bytes: bytes.len() });
    }
    std::str::from_utf8(bytes).map_err(|error| LexicalProblem::NotUtf8 {
        at: error.valid_up_to() as u32,
        byte: bytes[error.valid_up_to()],
        looks_like_utf16: bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]),
    })
}

/// Cuts `source` into tokens and reports what is not one, until nobody would read more problems.
pub fn lex(source: &str, diagnostics: &mut Diagnostics) -> Lexed {
    let mut lexed = Lexed::default();
    let mut foreign: Option<Span> = None;
    // A byte-order mark says nothing in UTF-8, and some editors write one.
    let skipped = if source.starts_with('\u{FEFF}') { 3 } else { 0 };
    let mut lexer = Token::lexer(source);
    lexer.bump(skipped);
    while let Some(token) = lexer.next() {
        if diagnostics.is_full() {
            return lexed;
        }
        let range = lexer.span();
        let span = Span::new(range.start as u32, range.end as u32);
        let Ok(token) = token else {
            foreign = match foreign {
                Some(run) if run.end == span.start => Some(run.to(span)),
                other => {
                    report_foreign(other, source, &mut lexed, diagnostics);
                    Some(span)
                }
            };
            continue;
        };
        report_foreign(foreign.take(), source, &mut lexed, diagnostics);
        match token {
            Token::Comment => lexed.comments.push(Comment { span }),
            Token::BlockComment => {
                let end = source[range.end..].find("*/").map_or(range.end, |at| range.end + at + 2);
                lexer.bump(end - range.end);
                let span = Span::new(span.start, end as u32);
                diagnostics.report(LexicalProblem::BlockComment { span });
            }
            Token::OpenText => {
                diagnostics.report(LexicalProblem::OpenString { span });
                lexed.tokens.push((Token::Text, span));
            }
            Token::Dot => {
                let touches_number =
                    lexed.tokens.last().is_some_and(|(last, at)| *last == Token::Number && at.end == span.start)
                        || source[range.end..].starts_with(|c: char| c.is_ascii_digit());
                if touches_number {
                    diagnostics
                        .report(LexicalProblem::MalformedNumber { span, why: "a digit is missing beside the dot" });
                } else {
                    diagnostics.report(LexicalProblem::ForeignCharacter { span, found: ".".into() });
                }
            }
            Token::Number => {
                // A letter right after a number begins its unit, but `0x40` is no number with a unit.
                let tail = match source[range.end..].strip_prefix(['x', 'b', 'o']) {
                    Some(rest) if lexer.slice() == "0" => {
                        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                        1 + end.unwrap_or(rest.len())
                    }
                    _ => 0,
                };
                lexer.bump(tail);
                let span = Span::new(span.start, span.end + tail as u32);
                if let Some(why) = malformed(span.text(source)) {
                    diagnostics.report(LexicalProblem::MalformedNumber { span, why });
                }
                lexed.tokens.push((Token::Number, span));
            }
            token => lexed.tokens.push((token, span)),
        }
    }
    report_foreign(foreign, source, &mut lexed, diagnostics);
    lexed
}

/// The rule that a number breaks, if it breaks one.
fn malformed(number: &str) -> Option<&'static str> {
    if well_formed(number) {
        None
    } else if number.starts_with(['0']) && number[1..].starts_with(['x', 'b', 'o']) {
        Some("numbers are decimal")
    } else {
        Some("an underscore stands between two digits")
    }
}

/// Reports a run of foreign characters; one that looks like an operator is read as that operator.
fn report_foreign(run: Option<Span>, source: &str, lexed: &mut Lexed, diagnostics: &mut Diagnostics) {
    let Some(span) = run else { return };
    let text = span.text(source);
    match text {
        "×" => lexed.tokens.push((Token::Star, span)),
        "−" | "–" | "—" => lexed.tokens.push((Token::Minus, span)),
        "÷" => lexed.tokens.push((Token::Slash, span)),
        _ => {}
    }
    if text.contains('\0') {
        diagnostics.report(LexicalProblem::NulByte { span });
    } else {
        let found = text.chars().take(8).collect();
        diagnostics.report(LexicalProblem::ForeignCharacter { span, found });
    }
}
