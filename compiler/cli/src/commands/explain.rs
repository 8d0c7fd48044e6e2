//! `moec explain`

use moe_compiler::diagnostics::{Code, closest};

use crate::arguments::Explain;
use crate::failure::Failure;
use crate::terminal;

/// Prints the page of a code.
pub fn explain(arguments: &Explain) -> Result<(), Failure> {
    let code = &arguments.code;
    match Code::find(code) {
        Some(code) => terminal::print(code.explanation()),
        None => {
            let known = Code::ALL.iter().map(|code| code.id());
            let hint = match closest(&code.to_ascii_uppercase(), known) {
                Some(near) => format!("; did you mean {near}?"),
                None => "; codes look like M0301".into(),
            };
            Err(Failure::Message(format!("there is no diagnostic `{code}`{hint}")))
        }
    }
}
