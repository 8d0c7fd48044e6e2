//! `moec init`

use crate::arguments::Init;
use crate::failure::Failure;
use crate::{files, terminal};

/// Writes a small file to start from; what is there already is never touched.
pub fn init(arguments: &Init) -> Result<(), Failure> {
    let text = include_str!("layer.moe");
    files::create(&arguments.file, text.as_bytes())?;
    if arguments.file.is_standard() {
        return Ok(());
    }
    let file = &arguments.file;
    terminal::print(&format!("wrote {file}; next: moec check {file}, moec run {file}\n"))
}
