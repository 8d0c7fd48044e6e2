//! From bytes to a syntax tree, and back to text.
//!
//! Invariants: any bytes are read without panic, in time and memory that grow with their number; every problem is reported;
//! [`format`](format::format) keeps every comment and changes no meaning.
//!
//! The way: [`lexer`] cuts tokens, `structure` balances brackets and tells keywords from names, [`parse`] builds the [`ast`].

pub mod ast;
pub mod dump;
pub mod format;
pub mod lexer;
mod parse;
mod structure;

pub use lexer::Comment;

use crate::diagnostics::Diagnostics;

/// A file that was read.
#[derive(Debug, Default)]
pub struct Parsed {
    /// What could be read.
    pub file: ast::File,
    /// In the order of the file.
    pub comments: Vec<Comment>,
}

/// Reads a file.
pub fn parse(source: &str, diagnostics: &mut Diagnostics) -> Parsed {
    let lexed = lexer::lex(source, diagnostics);
    let tokens = structure::structure(source, &lexed, diagnostics);
    let file = tokens.map(|tokens| parse::parse(source, &tokens, diagnostics)).unwrap_or_default();
    Parsed { file, comments: lexed.comments }
}
