//! `moec check`

use moe_compiler::check_source;

use crate::arguments::Check;
use crate::failure::Failure;
use crate::source::Source;
use crate::terminal::Terminal;

/// Says what is to be said of a file.
pub fn check(arguments: &Check, terminal: &Terminal) -> Result<(), Failure> {
    let source = Source::read(&arguments.file)?;
    let checked = check_source(&source.bytes);
    terminal.diagnostics(&source, &checked.diagnostics);
    if checked.diagnostics.has_errors() {
        return Err(Failure::Said);
    }
    arguments.warnings.denied(&source.name, &checked.diagnostics)
}
