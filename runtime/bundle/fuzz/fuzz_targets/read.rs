//! Any bytes are an error or a bundle that is written back as the same bytes; `cargo +nightly fuzz run read` in `runtime/bundle`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use moe_bundle::Bundle;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(bundle) = Bundle::from_bytes(bytes) {
        assert_eq!(Bundle::from_bytes(&bundle.to_bytes()).expect("a bundle that was read can be read again"), bundle);
    }
});
