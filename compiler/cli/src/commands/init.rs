//! `moec init`

use moe_front::text::Page;

use crate::arguments::Init;
use crate::failure::Failure;
use crate::files;
use crate::terminal::Terminal;

/// Writes a small file to start from; what is there already is never touched.
pub fn init(arguments: &Init, terminal: &Terminal) -> Result<(), Failure> {
    let text = include_str!("layer.moe");
    files::create(&arguments.file, text.as_bytes())?;
    if arguments.file.is_standard() {
        return Ok(());
    }
    let file = &arguments.file;
    let mut page = Page::default();
    page.line(format!("wrote {file}; next: moec check {file}, moec run {file}"));
    terminal.show(&page)
}
