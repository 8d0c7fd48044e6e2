//! A `.moe` file.

use std::path::Path;
use std::sync::Arc;

use moe_compiler::check_source;
use moe_compiler::spec::Spec;

use crate::failure::Failure;
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
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Source, Failure> {
        let name = path.display().to_string();
        match std::fs::read(path) {
            Ok(bytes) => Ok(Source { name, bytes: bytes.into() }),
            Err(error) => Err(Failure::Message(format!("cannot read {name}: {error}"))),
        }
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
