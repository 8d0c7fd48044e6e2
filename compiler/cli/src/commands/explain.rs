//! `moec explain`

use moe_front::diagnostics::{Code, closest};
use moe_front::text::Page;

use crate::arguments::Explain;
use crate::failure::Failure;
use crate::terminal::Terminal;

/// Prints the page of a code.
pub fn explain(arguments: &Explain, terminal: &Terminal) -> Result<(), Failure> {
    let code = &arguments.code;
    match Code::find(code) {
        Some(code) => terminal.show(&page(code.explanation())),
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

/// Markdown: what is between fences is code, and as it is.
fn page(text: &str) -> Page {
    let (mut page, mut is_code) = (Page::default(), false);
    for line in text.lines() {
        let is_fence = line.starts_with("```");
        if is_fence || is_code {
            page.verbatim(line);
        } else {
            page.paragraph(line);
        }
        is_code ^= is_fence;
    }
    page
}
