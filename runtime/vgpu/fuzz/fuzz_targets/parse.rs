//! Any text is either a module or an error with a line that the text has. `cargo +nightly fuzz run parse` in
//! `runtime/vgpu`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    if let Err(error) = moe_vgpu::Module::parse(&text) {
        assert!(error.line >= 1 && error.line as usize <= text.split('\n').count());
    }
});
