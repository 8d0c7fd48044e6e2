//! The canonical text of any file that can be read has the same tree and the same comments, and is its own canonical text;
//! `cargo +nightly fuzz run format` in `compiler`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use moe_front::diagnostics::Diagnostics;
use moe_front::{dump_source, format_source, syntax};

/// The text of every comment of a file that can be read.
fn comments(source: &str) -> Vec<&str> {
    let parsed = syntax::parse(source, &mut Diagnostics::default());
    parsed.comments.iter().map(|comment| comment.span.text(source).trim_end()).collect()
}

fuzz_target!(|bytes: &[u8]| {
    let (Ok(source), Ok(once)) = (std::str::from_utf8(bytes), format_source(bytes)) else { return };
    assert_eq!(dump_source(bytes).ok(), dump_source(once.as_bytes()).ok());
    assert_eq!(comments(source), comments(&once));
    assert_eq!(format_source(once.as_bytes()).ok(), Some(once));
});
