//! Any text is either a module or an error with a line that the text has, and so is what is refused of a module. `cargo +nightly fuzz run
//! parse` in `runtime/vgpu`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let inside = |line: u32| line >= 1 && line as usize <= text.split('\n').count();
    let whole = moe_vgpu::Module::parse(&text);
    if let Err(error) = &whole {
        assert!(inside(error.line));
    }
    match moe_vgpu::Module::parse_supported(&text) {
        Ok((_, refused)) => {
            assert!(refused.iter().all(|refused| inside(refused.error.line)));
            assert_eq!(refused.is_empty(), whole.is_ok());
        }
        Err(error) => assert!(inside(error.line) && whole.is_err()),
    }
});
