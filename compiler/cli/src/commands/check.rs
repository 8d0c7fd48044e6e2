//! `moec check`

use moe_decide::not_built;
use moe_front::check_source;

use crate::arguments::Check;
use crate::failure::Failure;
use crate::source::Source;
use crate::terminal::Terminal;

/// Says what is to be said of a file.
pub fn check(arguments: &Check, terminal: &Terminal) -> Result<(), Failure> {
    let source = Source::read(&arguments.file)?;
    let mut checked = check_source(&source.bytes);
    let not_built = checked.spec.as_ref().map(not_built).unwrap_or_default();
    not_built.into_iter().for_each(|problem| checked.diagnostics.report(problem.as_note()));
    terminal.diagnostics(&source, &checked.diagnostics);
    if checked.diagnostics.has_errors() {
        return Err(Failure::Said);
    }
    arguments.warnings.denied(&source.name, &checked.diagnostics)
}
