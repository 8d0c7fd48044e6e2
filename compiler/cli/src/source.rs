//! A `.moe` file.

use std::sync::Arc;

use moe_compiler::check_source;
use moe_compiler::spec::Spec;

use crate::failure::Failure;
use crate::files::{InputPath, Wanted};
use crate::terminal::Terminal;

/// A file that was read.
#[derive(Clone, Debug)]
pub struct Source {
    /// As the user calls it.
    pub name: String,
    /// What is in it.
    pub bytes: Arc<[u8]>,
}

impl Source {
    /// Reads a `.moe` file.
    pub fn read(path: &InputPath) -> Result<Source, Failure> {
        Source::read_as(path, Wanted::Moe)
    }

    /// Reads a file.
    pub fn read_as(path: &InputPath, wanted: Wanted) -> Result<Source, Failure> {
        Ok(Source { name: path.to_string(), bytes: path.read(wanted)?.into() })
    }

    /// As text; a file that was checked is text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// Its meaning. Warnings are said; errors are the failure.
    pub fn check(&self, terminal: &Terminal) -> Result<Spec, Failure> {
        let checked = check_source(&self.bytes);
        match checked.spec {
            Some(spec) => {
                terminal.diagnostics(self, &checked.diagnostics);
                Ok(spec)
            }
            None => Err(Failure::File(self.clone(), checked.diagnostics)),
        }
    }
}
