//! Front end and typed specification of the `.moe` language.
//!
//! A `.moe` file says *what* a Mixture-of-Experts layer routes (`model`), *where* it may run (`cluster`) and *how* it is laid out
//! there (`deploy`); `docs/language.md` is its reference. The way through this crate, one type per stage:
//!
//! ```text
//! bytes ──syntax──▶ syntax tree ──check──▶ Spec
//!                  └── diagnostics ──┘
//! ```
//!
//! | to | call | gives |
//! |---|---|---|
//! | check a file | [`check_source`] | a [`Checked`]: the [`spec::Spec`], or errors |
//! | format it | [`format_source`] | its canonical text |
//! | see its tree | [`dump_source`] | text, `--emit ast` |
//! | see what it means | `Display` of [`spec::Spec`] | text, `--emit spec`; `Display` of [`spec::Model::gate`] is Gate IR |
//! | show problems | [`diagnostics::render::render`], [`diagnostics::render::json`] | text for people, one JSON object a line for tools |
//! | explain a code | [`explain`] | its page of `docs/errors/` |
//!
//! Invariants: whatever the bytes, nothing here panics, hangs or overflows the stack; every problem is a
//! [`diagnostics::Diagnostic`] with a stable code; a [`spec::Spec`] comes out only when there is no error, and then keeps every
//! promise of [`spec`].
//!
//! ```
//! let checked = moe_front::check_source(b"model m { hidden 64 }");
//! assert!(checked.spec.is_none());
//! let codes: Vec<&str> = checked.diagnostics.iter().map(|diagnostic| diagnostic.code.id()).collect();
//! assert_eq!(codes, ["M0208", "M0208"]); // no experts, no gate
//! ```

mod check;
pub mod diagnostics;
pub mod span;
pub mod spec;
pub mod syntax;
pub mod text;
pub mod token;
pub mod units;

use diagnostics::Diagnostics;
pub use diagnostics::explain;
use spec::Spec;

#[derive(Debug)]
pub struct Checked {
    /// What it means; nothing if it has an error.
    pub spec: Option<Spec>,
    /// What is to be said of it, in the order of the file.
    pub diagnostics: Diagnostics,
}

/// Reads and checks a file.
pub fn check_source(source: &[u8]) -> Checked {
    let mut diagnostics = Diagnostics::default();
    let text = match syntax::lexer::decode(source) {
        Ok(text) => text,
        Err(problem) => {
            diagnostics.report(problem);
            return Checked { spec: None, diagnostics };
        }
    };
    let parsed = syntax::parse(text, &mut diagnostics);
    let damaged = diagnostics.has_errors();
    let spec = check::check(&parsed.file, damaged, &mut diagnostics);
    diagnostics.sort();
    Checked { spec: spec.filter(|_| !diagnostics.has_errors()), diagnostics }
}

/// The canonical text of a file.
///
/// # Errors
/// If the file cannot be read; what it means does not matter.
pub fn format_source(source: &[u8]) -> Result<String, Diagnostics> {
    let (text, parsed) = parse_source(source)?;
    Ok(syntax::format::format(text, &parsed.file, &parsed.comments))
}

/// The syntax tree of a file as text.
///
/// # Errors
/// If the file cannot be read; what it means does not matter.
pub fn dump_source(source: &[u8]) -> Result<String, Diagnostics> {
    parse_source(source).map(|(_, parsed)| syntax::dump::dump(&parsed.file))
}

fn parse_source(source: &[u8]) -> Result<(&str, syntax::Parsed), Diagnostics> {
    let mut diagnostics = Diagnostics::default();
    let text = match syntax::lexer::decode(source) {
        Ok(text) => text,
        Err(problem) => {
            diagnostics.report(problem);
            return Err(diagnostics);
        }
    };
    let parsed = syntax::parse(text, &mut diagnostics);
    if diagnostics.has_errors() { Err(diagnostics) } else { Ok((text, parsed)) }
}
