//! Problems of bytes and tokens.

use super::{Code, Diagnostic, quoted};
use crate::span::MAX_FILE_BYTES;
use crate::span::Span;

/// Something that is not a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LexicalProblem {
    /// More bytes than are read.
    FileTooLarge {
        /// Size of the file.
        bytes: usize,
    },
    NotUtf8 {
        /// The first byte that is wrong.
        at: u32,
        byte: u8,
        /// Whether the file begins like UTF-16.
        looks_like_utf16: bool,
    },
    /// A zero byte.
    NulByte { span: Span },
    /// A character that the language does not use.
    ForeignCharacter {
        span: Span,
        /// The characters.
        found: String,
    },
    /// A string that does not end on its line.
    OpenString {
        /// From the quote to the end of the line.
        span: Span,
    },
    /// A number that cannot be read.
    MalformedNumber {
        span: Span,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// `/* … */`
    BlockComment { span: Span },
}

impl From<LexicalProblem> for Diagnostic {
    fn from(problem: LexicalProblem) -> Diagnostic {
        match problem {
            LexicalProblem::FileTooLarge { bytes } => {
                Diagnostic::new(Code::FileTooLarge, format!("the file has {bytes} bytes"))
                    .label(Span::default(), format!("more than the {MAX_FILE_BYTES} bytes that are read"))
                    .help("check that this is a `.moe` file; the largest real one has a few kilobytes")
            }
            LexicalProblem::NotUtf8 { at, byte, looks_like_utf16 } => {
                Diagnostic::new(Code::NotUtf8, "the file is not UTF-8 text")
                    .label(Span::new(at, at), format!("byte {byte:#04x} at offset {at} is not UTF-8"))
                    .help(if looks_like_utf16 {
                        "the file looks like UTF-16: save it as UTF-8"
                    } else {
                        "save the file as UTF-8, or check that it is a `.moe` file"
                    })
            }
            LexicalProblem::NulByte { span } => Diagnostic::new(Code::NulByte, "the file has a zero byte")
                .label(span, "here")
                .fix(span, "")
                .help("remove it; is this a binary file?"),
            LexicalProblem::ForeignCharacter { span, found } => {
                let help = match found.chars().next() {
                    Some('“' | '”' | '‘' | '’' | '\'') => "write straight double quotes: \"H800\"",
                    Some('×') => "write `*` to multiply",
                    Some('−' | '–' | '—') => "write `-`, the plain minus sign",
                    Some('÷') => "write `/` to divide",
                    Some('#') => "a comment begins with `//`",
                    Some('^') => "there is no power; multiply",
                    Some('µ' | 'μ') => "write `us` for microseconds",
                    _ => "remove it; text that is not part of the language goes after `//`",
                };
                let diagnostic =
                    Diagnostic::new(Code::ForeignCharacter, format!("{} has no meaning here", quoted(&found)))
                        .label(span, "not part of the language")
                        .help(help);
                match found.as_str() {
                    "×" => diagnostic.fix(span, "*"),
                    "−" | "–" | "—" => diagnostic.fix(span, "-"),
                    "÷" => diagnostic.fix(span, "/"),
                    "“" | "”" => diagnostic.fix(span, "\""),
                    _ => diagnostic,
                }
            }
            LexicalProblem::OpenString { span } => Diagnostic::new(Code::OpenString, "a text in quotes does not end")
                .label(span, "no closing `\"` on this line")
                .fix(Span::new(span.end, span.end), "\"")
                .help("write the closing `\"`"),
            LexicalProblem::MalformedNumber { span, why } => {
                Diagnostic::new(Code::MalformedNumber, "this is not a number")
                    .label(span, why)
                    .help("numbers look like `7168`, `1_000_000`, `2.5`, `1e-20` and `25%`")
            }
            LexicalProblem::BlockComment { span } => {
                Diagnostic::new(Code::BlockComment, "`/* … */` is not a comment here")
                    .label(span, "skipped")
                    .help("begin every line of a comment with `//`")
            }
        }
    }
}
