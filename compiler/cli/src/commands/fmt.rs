//! `moec fmt`

use moe_front::format_source;

use crate::arguments::Fmt;
use crate::failure::Failure;
use crate::files;
use crate::source::Source;
use crate::terminal::{self, Terminal};

/// Formats every file that can be read; the others are reported, and their failure is that of the command.
pub fn fmt(arguments: &Fmt, terminal: &Terminal) -> Result<(), Failure> {
    let mut result = Ok(());
    for path in &arguments.files {
        let formatted = Source::read(path).and_then(|source| match format_source(&source.bytes) {
            Ok(text) if *source.bytes == *text.as_bytes() && (arguments.check || !path.is_standard()) => Ok(()),
            Ok(_) if arguments.check => {
                terminal::print(&format!("{}\n", source.name))?;
                Err(Failure::Message(format!("{} is not in the canonical format: run `moec fmt`", source.name)))
            }
            Ok(text) => Ok(files::rewrite(path, text.as_bytes())?),
            Err(diagnostics) => Err(Failure::File(source, diagnostics)),
        });
        if let Err(failure) = formatted {
            terminal.fail(&failure);
            result = Err(Failure::Said);
        }
    }
    result
}
