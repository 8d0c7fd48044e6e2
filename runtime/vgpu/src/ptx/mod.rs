//! PTX text → syntax tree. Invariant: what this front end does not know is an error with its line; no text is skipped
//! except comments and debugging directives, and no text can make it panic, overflow the stack or run for long.

pub(crate) mod ast;
mod lexer;
pub(crate) mod parser;
mod types;

pub(crate) use parser::parse;
pub(crate) use types::ScalarType;

/// PTX that this crate does not accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PtxError {
    /// Line in the text, from 1.
    pub line: u32,
    pub message: String,
    /// The line as written, without indentation; empty if the text has no such line.
    pub text: String,
}

impl PtxError {
    pub(crate) fn new(line: u32, message: impl Into<String>) -> PtxError {
        PtxError { line, message: message.into(), text: String::new() }
    }

    /// Adds the line itself.
    pub(crate) fn with_source(mut self, text: &str) -> PtxError {
        const SHOWN: usize = 160;
        let index = self.line.saturating_sub(1) as usize;
        self.text = text.lines().nth(index).unwrap_or_default().trim().chars().take(SHOWN).collect();
        self
    }
}

impl std::fmt::Display for PtxError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PTX line {}: {}", self.line, self.message)?;
        if !self.text.is_empty() {
            write!(f, "\n  in: {}", self.text)?;
        }
        Ok(())
    }
}

impl std::error::Error for PtxError {}
