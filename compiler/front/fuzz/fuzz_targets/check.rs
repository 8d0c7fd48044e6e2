//! Any bytes are a specification or an error, shown as text and as JSON; `cargo +nightly fuzz run check` in `compiler`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use moe_front::check_source;
use moe_front::diagnostics::render::{json, render};
use moe_front::text::Screen;

fuzz_target!(|bytes: &[u8]| {
    let checked = check_source(bytes);
    assert_eq!(checked.spec.is_none(), checked.diagnostics.has_errors());
    let text = render("fuzz.moe", bytes, &checked.diagnostics, &Screen::ENDLESS);
    assert_eq!(text.is_empty(), checked.diagnostics.is_empty());
    let lines = json("fuzz.moe", bytes, &checked.diagnostics);
    assert_eq!(lines.lines().count(), checked.diagnostics.iter().count());
});
